/*
 * An end of HTTP/2 over TLS, for tests: a client or a server that does what it is told, and writes down what comes:
 *
 *      1 head :status=200 name=value
 *      1 data text
 *      1 end
 *      1 reset 8
 *      goaway 11
 *      gone
 *
 * A head is given as "name=value|name=value"; trailers, too. All peers run while one of them waits.
 */
#ifndef CAPLOCK_TESTS_HTTP2_PEER_H
#define CAPLOCK_TESTS_HTTP2_PEER_H

#include <nghttp2/nghttp2.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/util/buf.h"

enum { HTTP2_PEER_STREAMS = 640 };

struct http2_peer {
	struct http2_peer *next;
	SSL *ssl;
	int fd;
	nghttp2_session *session;
	struct buf log, out;
	size_t received_bytes, sent_bytes; /* of all bodies */
	uint32_t sum;                      /* of the bytes received */
	bool quiet; /* bodies are not written down */
	bool hold;  /* of what comes nothing is taken: windows stay as they are */
	bool gone;
	unsigned pings, pongs;
	struct http2_peer_body {
		struct buf data;
		char trailers[256];
		bool ended, deferred, has_trailers;
	} body[HTTP2_PEER_STREAMS]; /* of stream 2i + 1 */
};

void http2_peer_start(struct http2_peer *p, SSL *ssl, int fd, bool server);
void http2_peer_end(struct http2_peer *p);
void http2_peer_run(bool wait);
void http2_peer_until(struct http2_peer *p, const char *text);
void http2_peer_settle(struct http2_peer *p);
const char *http2_peer_log(struct http2_peer *p);
void http2_peer_take(struct http2_peer *p, int32_t id, size_t bytes);

int32_t http2_peer_ask(struct http2_peer *p, const char *head, bool has_body);
void http2_peer_respond(struct http2_peer *p, int32_t id, const char *head, bool has_body);
void http2_peer_data(struct http2_peer *p, int32_t id, const char *data, size_t bytes);
void http2_peer_finish(struct http2_peer *p, int32_t id, const char *trailers);

#endif
