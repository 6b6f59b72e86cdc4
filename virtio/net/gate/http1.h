/* HTTP/1.1 at the gate (RFC 9110, RFC 9112): a connection's bytes to messages and back, of guests and of servers. */
#ifndef CAPLOCK_GATE_HTTP1_H
#define CAPLOCK_GATE_HTTP1_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio/net/gate/http.h"
#include "vmm/util/buf.h"

/* ---- Reading: http1.c ---- */

enum http1_role {
	HTTP1_REQUESTS,
	HTTP1_RESPONSES,
};

enum http1_state {
	HTTP1_START, /* a head's first line is next */
	HTTP1_FIELDS,
	HTTP1_BODY,       /* `left` bytes of it */
	HTTP1_UNTIL_EOF,  /* the body has no other end */
	HTTP1_CHUNK_SIZE, /* its line */
	HTTP1_CHUNK,      /* `left` bytes of it */
	HTTP1_CHUNK_END,  /* its CR LF */
	HTTP1_TRAILERS,
	HTTP1_ENDED, /* which is to be said yet */
	HTTP1_OVER,  /* what follows is no message */
};

/* What a head's fields have said so far that counts when all of them are known. */
struct http1_seen {
	bool is_1_0, has_length, chunked, expects;
	bool has_upgrade, websocket; /* the Upgrade field, and what it was about */
	bool option_upgrade;
	struct http_fields options; /* what else Connection named; without values */
};

/* A connection's reader. http1_in_init() to start; http1_in_free() to end. All is its own but `trailers`, for who wants them. */
struct http1_in {
	enum http1_role role;
	enum http1_state state;
	uint64_t left;
	size_t scanned; /* of a line that is not whole */
	size_t taken;   /* of a head, or a trailer, with its line ends */
	struct http_head head;
	struct http1_seen seen;
	bool close; /* nothing follows the message that has begun */
	struct http_fields trailers; /* of the message that ended last */
	bool asked, asked_head, asked_upgrade; /* for a response; one without a body; one that may be 101 */
};

enum http1_event {
	HTTP1_MORE, /* all was taken that can be: more is needed */
	HTTP1_HEAD, /* `head` */
	HTTP1_DATA, /* `data`, a piece of the body */
	HTTP1_END,  /* the message's, which `trailers` of the reader belong to */
	HTTP1_BAD,  /* `status` and `reason`; nothing can follow */
};

/* What was found. */
struct http1_found {
	struct http_head head; /* the caller's from then on */
	bool is_1_0;         /* it is of HTTP/1.0: a response to it may be neither chunked nor an interim one */
	const uint8_t *data; /* within what was given */
	size_t len_bytes;
	unsigned status;    /* that says so to a guest */
	const char *reason; /* static */
};

void http1_in_init(struct http1_in *in, enum http1_role role);
void http1_in_free(struct http1_in *in);
void http1_in_ask(struct http1_in *in, const struct http_head *request);
enum http1_event http1_next(struct http1_in *in, const uint8_t *data, size_t len_bytes, size_t *taken, struct http1_found *found);
enum http1_event http1_eof(struct http1_in *in, struct http1_found *found);

/* ---- Writing: http1_write.c ---- */

/* How a message says where its body ends. */
enum http1_body {
	HTTP1_NO_BODY,
	HTTP1_LENGTH, /* the head's length_bytes, declared; of an answer to HEAD, and of 304, without a body */
	HTTP1_CHUNKED,
	HTTP1_UNTIL_CLOSE, /* a response, to HTTP/1.0 */
};

enum http1_body http1_body_of(const struct http_head *h, bool to_1_0);
int http1_put_head(struct buf *out, const struct http_head *h, enum http1_body how, bool close);
int http1_put_data(struct buf *out, enum http1_body how, const void *data, size_t len_bytes);
int http1_put_end(struct buf *out, enum http1_body how, const struct http_fields *trailers);

#endif
