/* Heads and trailers of HTTP/2 (RFC 9113, section 8), field by field as HPACK gives them, to the form that the gate has for them. */
#ifndef CAPLOCK_GATE_HTTP2_HEAD_H
#define CAPLOCK_GATE_HTTP2_HEAD_H

#include "virtio/net/gate/http.h"
#include "vmm/util/buf.h"

enum http2_kind {
	HTTP2_REQUEST,
	HTTP2_RESPONSE,
	HTTP2_TRAILERS,
};

/* What is being read. http2_in_start() to start, also anew; http2_in_free() to end. */
struct http2_in {
	enum http2_kind kind;
	struct http_head head; /* of trailers: their fields. The caller takes it over, and leaves an empty one */
	char *host;            /* the field, where there is one */
	struct buf cookie;     /* its pieces together */
	size_t bytes;          /* of all names and values */
	bool https;            /* that is what the scheme is to be; or http */
	bool scheme_seen, fields_seen;
	unsigned wrong;        /* status that says so to a guest; 0: nothing is wrong */
	const char *reason;
};

void http2_in_start(struct http2_in *in, enum http2_kind kind, bool https);
void http2_in_field(struct http2_in *in, const char *name, size_t name_bytes, const char *value, size_t value_bytes);
bool http2_in_end(struct http2_in *in, bool end_stream);
void http2_in_free(struct http2_in *in);

#endif
