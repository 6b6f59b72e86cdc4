/*
 * HTTP/2 with a server (http2.c has the theory of operation): each exchange is a stream, which lives as long as the exchange wants it,
 * and until nghttp2 says that it is closed.
 *
 * A server that refuses a stream (REFUSED_STREAM, or GOAWAY with a lower number) has not looked at it: the exchange is repeated where
 * it can be, and where the server has answered something before on this connection: or else both might repeat for ever.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/http2.h"
#include "virtio/net/gate/http2_head.h"
#include "virtio/net/gate/upstream.h"

enum {
	WINDOW_BYTES = 512 << 10, /* servers are far away */
	REPEATS_MAX = 100,      /* of what this connection has refused */
};

struct upstream2 {
	struct http2 h;
	struct upstream *upstream;
	struct stream *streams;
	unsigned count, repeats;
	bool changed; /* there are streams less than before */
};

struct stream {
	struct upstream2 *connection;
	struct stream *next;
	struct exchange *exchange; /* NULL: over */
	struct http2_in in;
	struct http2_out out; /* its id is 0 until there is a request */
	size_t owed_bytes;    /* that came and were not taken */
	unsigned interim;
	bool to_head;   /* the method is HEAD */
	bool responded; /* the head that counts has come */
	bool refused;   /* the server has not seen the request */
	bool failed;    /* the request cannot be sent */
};

static const struct upstream_ops upstream_ops;

/* ---- Streams ---- */

static struct stream *stream_of(nghttp2_session *session, int32_t id)
{
	return nghttp2_session_get_stream_user_data(session, id);
}

static void stream_free(struct stream *s)
{
	struct stream **at = &s->connection->streams;
	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	s->connection->count--;
	s->connection->changed = true;
	http2_in_free(&s->in);
	http2_out_free(&s->out);
	free(s);
}

/* Lets the server send more of the body, as far as the exchange has taken it. */
static void take(struct stream *s)
{
	if (!s->exchange || exchange_wants_response(s->exchange))
		http2_consume(&s->connection->h, s->out.id, &s->owed_bytes);
}

/* The exchange will get no more of this stream: it is repeated, or has failed. */
static void lose(struct stream *s, bool may_repeat, const char *reason)
{
	struct exchange *x = s->exchange;
	s->exchange = NULL;
	if (!x)
		return;
	if (may_repeat && s->connection->upstream->used && !s->responded && exchange_can_repeat(x))
		exchange_repeat(x);
	else
		exchange_response_lost(x, reason);
}

/* What the server says is no response. */
static void refuse(struct stream *s, const char *reason)
{
	http2_reset(&s->connection->h, s->out.id, NGHTTP2_PROTOCOL_ERROR);
	lose(s, false, reason);
}

/* ---- From the server ---- */

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
	struct stream *s = stream_of(session, frame->hd.stream_id);
	(void)context;
	if (s)
		http2_in_start(&s->in, s->responded ? HTTP2_TRAILERS : HTTP2_RESPONSE, false);
	return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_bytes, const uint8_t *value,
		     size_t value_bytes, uint8_t flags, void *context)
{
	struct stream *s = stream_of(session, frame->hd.stream_id);
	(void)flags;
	(void)context;
	if (s)
		http2_in_field(&s->in, (const char *)name, name_bytes, (const char *)value, value_bytes);
	return 0;
}

static void take_head(struct stream *s)
{
	struct http_head *head = &s->in.head;
	s->responded = head->status >= 200;
	if (!s->responded && ++s->interim > HTTP2_INTERIM_MAX) {
		refuse(s, "the server does not come to its response");
		return;
	}
	head->has_body &= !s->to_head;
	*exchange_response_head(s->exchange) = *head;
	*head = (struct http_head){0};
	exchange_response(s->exchange);
}

static void take_end(struct stream *s)
{
	struct exchange *x = s->exchange;
	struct http_fields trailers = s->in.head.fields; /* a head's were taken over */
	s->in.head.fields = (struct http_fields){0};
	s->exchange = NULL;
	s->connection->upstream->used = true;
	exchange_response_end(x, &trailers);
}

/* The response is complete: the server has no use for the rest of the request. */
static void drop_request(nghttp2_session *session, struct stream *s)
{
	if (!nghttp2_session_get_stream_local_close(session, s->out.id))
		http2_reset(&s->connection->h, s->out.id, NGHTTP2_NO_ERROR);
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
	struct stream *s = stream_of(session, frame->hd.stream_id);
	bool end_stream = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
	(void)context;
	if (!s || (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA))
		return 0;
	if (frame->hd.type == NGHTTP2_HEADERS && s->exchange) {
		if (!http2_in_end(&s->in, end_stream))
			refuse(s, s->in.reason);
		else if (!s->responded)
			take_head(s);
	}
	if (end_stream && s->exchange)
		take_end(s);
	if (end_stream)
		drop_request(session, s);
	return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len_bytes, void *context)
{
	struct stream *s = stream_of(session, id);
	(void)flags;
	(void)context;
	if (!s)
		return NGHTTP2_ERR_CALLBACK_FAILURE; /* never: there is no DATA without HEADERS */
	s->owed_bytes += len_bytes;
	if (s->exchange)
		exchange_response_data(s->exchange, data, len_bytes);
	take(s);
	return 0;
}

/* A request that GOAWAY was faster than, among what is not sent. */
static int on_not_sent(nghttp2_session *session, const nghttp2_frame *frame, int error, void *context)
{
	struct stream *s = frame->hd.type == NGHTTP2_HEADERS ? stream_of(session, frame->hd.stream_id) : NULL;
	(void)context;
	if (s)
		s->refused |= error == NGHTTP2_ERR_START_STREAM_NOT_ALLOWED;
	return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t error, void *context)
{
	struct upstream2 *c = context;
	struct stream *s = stream_of(session, id);
	if (!s)
		return 0;
	http2_consume(&c->h, id, &s->owed_bytes);
	bool refused = s->refused || error == NGHTTP2_REFUSED_STREAM;
	lose(s, refused && c->repeats++ < REPEATS_MAX, refused ? "the server refused the request" : "the server reset the stream");
	stream_free(s);
	return 0;
}

static nghttp2_session_callbacks *make_callbacks(void)
{
	nghttp2_session_callbacks *all;
	if (nghttp2_session_callbacks_new(&all))
		return NULL;
	nghttp2_session_callbacks_set_on_begin_headers_callback(all, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback(all, on_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(all, on_frame);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(all, on_data);
	nghttp2_session_callbacks_set_on_frame_not_send_callback(all, on_not_sent);
	nghttp2_session_callbacks_set_on_stream_close_callback(all, on_close);
	return all;
}

/* ---- To the server ---- */

static void put_head(void *context, const struct http_head *request)
{
	struct stream *s = context;
	struct http2 *h = &s->connection->h;
	nghttp2_data_provider body = http2_out_provider(&s->out);
	struct http2_nv nv;
	int rc = http2_nv_head(&nv, request, s->connection->upstream->server->tls ? "https" : "http");
	if (rc == 0)
		rc = nghttp2_submit_request(h->session, NULL, nv.item, nv.count, request->has_body ? &body : NULL, s);
	free(nv.item);
	s->to_head = strcmp(request->method, "HEAD") == 0;
	s->failed = rc < 0;
	s->out.id = rc < 0 ? 0 : rc;
	http2_wake(h); /* also to say that it has failed */
}

static void put_data(void *context, const uint8_t *data, size_t len_bytes)
{
	struct stream *s = context;
	if (!s->failed)
		http2_out_add(&s->out, data, len_bytes);
}

static void put_end(void *context, const struct http_fields *trailers)
{
	struct stream *s = context;
	if (!s->failed)
		http2_out_end(&s->out, trailers);
}

static void cancel(void *context)
{
	struct stream *s = context;
	struct upstream2 *c = s->connection;
	s->exchange = NULL;
	if (s->out.id)
		http2_reset(&c->h, s->out.id, NGHTTP2_CANCEL);
	else
		stream_free(s);
	http2_wake(&c->h);
}

static size_t room(void *context)
{
	struct stream *s = context;
	return http2_out_room(&s->out);
}

static void resume(void *context)
{
	take(context);
}

static const struct upstream_ops upstream_ops = {
	.head = put_head, .data = put_data, .end = put_end, .cancel = cancel, .room = room, .resume = resume};

/* ---- The connection ---- */

static size_t data(void *context, const uint8_t *bytes, size_t len_bytes)
{
	struct upstream2 *c = context;
	if (http2_receive(&c->h, bytes, len_bytes))
		upstream_lost(c->upstream, "the server does not speak HTTP/2 as it should");
	return len_bytes;
}

static void ended(void *context, bool clean)
{
	struct upstream2 *c = context;
	(void)clean;
	upstream_lost(c->upstream, "the server closed the connection");
}

static void failed(void *context, const char *reason)
{
	struct upstream2 *c = context;
	upstream_lost(c->upstream, reason);
}

/* Tells exchanges whose request could not be sent. */
static void drop_failed(struct upstream2 *c)
{
	for (struct stream *s = c->streams, *next; s; s = next) {
		next = s->next;
		if (!s->failed)
			continue;
		lose(s, false, "the request cannot be sent");
		stream_free(s);
		next = c->streams; /* whatever has happened */
	}
}

static void fill(void *context)
{
	struct upstream2 *c = context;
	int rc = http2_fill(&c->h);
	if (rc) {
		upstream_lost(c->upstream, rc > 0 ? "the server closed the connection" : "out of memory");
		return;
	}
	drop_failed(c);
	for (struct stream *s = c->streams; s; s = s->next)
		if (s->exchange && http2_out_is_drained(&s->out))
			exchange_upstream_drained(s->exchange);
	if (!c->changed)
		return;
	c->changed = false;
	upstream_changed(c->upstream);
}

static void drained(void *context)
{
	struct upstream2 *c = context;
	http2_wake(&c->h);
}

static const struct conn_ops conn_ops = {.data = data, .ended = ended, .drained = drained, .fill = fill, .failed = failed};

/* ---- For upstream.c ---- */

/* Speaks HTTP/2 on the connection from now on. Returns 0 or -ENOMEM. */
int upstream2_start(struct upstream *u)
{
	struct upstream2 *c = calloc(1, sizeof *c);
	if (!c)
		return -ENOMEM;
	c->upstream = u;
	if (http2_create(&c->h, u->conn, make_callbacks(), false, WINDOW_BYTES, c)) {
		free(c);
		return -ENOMEM;
	}
	u->http2 = c;
	conn_own(u->conn, &conn_ops, c);
	return 0;
}

/* See upstream.h. */
bool upstream2_is_open(const struct upstream *u)
{
	return nghttp2_session_check_request_allowed(u->http2->h.session);
}

/* See upstream.h. */
bool upstream2_has_room(const struct upstream *u)
{
	const struct upstream2 *c = u->http2;
	uint32_t max = nghttp2_session_get_remote_settings(c->h.session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
	return upstream2_is_open(u) && c->count < HTTP2_STREAMS_MAX && c->count < max;
}

/* See upstream.h. */
bool upstream2_is_idle(const struct upstream *u)
{
	return !u->http2->streams;
}

/* See upstream.h. */
void upstream2_carry(struct upstream *u, struct exchange *x)
{
	struct upstream2 *c = u->http2;
	struct stream *s = calloc(1, sizeof *s);
	if (!s) {
		exchange_upstream_failed(x, 502, "out of memory");
		return;
	}
	*s = (struct stream){.connection = c, .next = c->streams, .exchange = x, .out = {.http2 = &c->h}};
	c->streams = s;
	c->count++;
	exchange_upstream_ready(x, &upstream_ops, s);
}

/* See upstream.h. */
void upstream2_free(struct upstream2 *c, const char *reason)
{
	while (c->streams) {
		struct stream *s = c->streams;
		lose(s, true, reason);
		stream_free(s);
	}
	http2_destroy(&c->h);
	free(c);
}
