/* What both sides of the gate have of HTTP/2: a session of nghttp2 on a connection, and what waits to be sent on its streams. */
#ifndef CAPLOCK_GATE_HTTP2_H
#define CAPLOCK_GATE_HTTP2_H

#include <nghttp2/nghttp2.h>

#include "virtio/net/gate/conn.h"
#include "virtio/net/gate/http.h"

enum {
	HTTP2_STREAMS_MAX = 100,          /* at once, of a connection */
	HTTP2_INTERIM_MAX = 16,           /* responses of 1xx, before the one that counts */
};

/* A session. */
struct http2 {
	nghttp2_session *session;
	struct conn *conn;
	size_t held_bytes; /* that wait on all its streams */
	bool broken;       /* there was no memory for what is to be said: the connection has to end */
};

/* A head, or trailers, as nghttp2 takes them. The texts are those of what it was made of; free() `item` to end. */
struct http2_nv {
	nghttp2_nv *item;
	size_t count;
	char number[4], length[24];
};

/* What waits to be sent on a stream. Zero-initialise it but for `http2`; http2_out_free() to end. */
struct http2_out {
	struct http2 *http2;
	int32_t id;
	struct buf data;
	size_t sent; /* of `data` */
	struct http_fields trailers;
	bool ended;    /* nothing is added any more */
	bool deferred; /* nghttp2 waits for more */
	bool full;     /* whoever adds waits for room */
};

int http2_create(struct http2 *h, struct conn *conn, nghttp2_session_callbacks *callbacks, bool server, uint32_t window_bytes,
		 void *user_data);
int http2_receive(struct http2 *h, const uint8_t *data, size_t len_bytes);
int http2_fill(struct http2 *h);
void http2_wake(struct http2 *h);
void http2_reset(struct http2 *h, int32_t id, uint32_t error);
void http2_consume(struct http2 *h, int32_t id, size_t *owed_bytes);
void http2_destroy(struct http2 *h);

int http2_nv_head(struct http2_nv *nv, const struct http_head *h, const char *scheme);
int http2_nv_trailers(struct http2_nv *nv, const struct http_fields *f);

nghttp2_data_provider http2_out_provider(struct http2_out *o);
void http2_out_add(struct http2_out *o, const uint8_t *data, size_t len_bytes);
void http2_out_end(struct http2_out *o, const struct http_fields *trailers);
size_t http2_out_room(struct http2_out *o);
bool http2_out_is_drained(struct http2_out *o);
void http2_out_free(struct http2_out *o);

#endif
