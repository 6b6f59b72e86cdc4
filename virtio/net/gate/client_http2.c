/*
 * HTTP/2 with the guest (http2.c has the theory of operation): each stream is an exchange, which lives as long as the stream. A stream
 * ends with both its sides, when either resets it, or when the response is complete before the request is: then nobody wants
 * the rest.
 *
 * Guests that begin streams only to reset them cost the server as much as them (CVE-2023-44487): a connection may do so
 * RESETS_MAX times in RESETS_MS.
 */
#include <errno.h>
#include <stdlib.h>

#include "virtio/net/gate/clock.h"
#include "virtio/net/gate/http2.h"
#include "virtio/net/gate/http2_head.h"
#include "virtio/net/gate/intercept_priv.h"

enum {
	WINDOW_BYTES = 256 << 10,
	RESETS_MAX = 500,
	RESETS_MS = 10000,
	INTERIM_WAIT_MAX = 2 * HTTP2_STREAMS_MAX, /* frames, that wait where a response of 1xx is not added to them */
};

struct client2 {
	struct http2 h;
	struct flow_gate *flow;
	struct stream *streams;
	unsigned resets;         /* since then: */
	uint64_t resets_from_ms;
};

struct stream {
	struct client2 *client;
	struct stream *next;
	struct exchange *exchange; /* NULL: not yet, or over */
	struct http2_in in;
	struct http2_out out;
	size_t owed_bytes; /* that came and were not taken */
	bool has_body;     /* of the response */
	bool over;         /* the exchange wants nothing more */
	bool reset;        /* by us */
};

static const struct client_ops client_ops;

/* ---- Streams ---- */

static struct stream *stream_of(nghttp2_session *session, int32_t id)
{
	return nghttp2_session_get_stream_user_data(session, id);
}

static struct stream *begin(struct client2 *c, int32_t id)
{
	struct stream *s = calloc(1, sizeof *s);
	if (!s)
		return NULL;
	*s = (struct stream){.client = c, .next = c->streams, .out = {.http2 = &c->h, .id = id}};
	http2_in_start(&s->in, HTTP2_REQUEST, c->flow->tls);
	c->streams = s;
	nghttp2_session_set_stream_user_data(c->h.session, id, s);
	return s;
}

static void stream_free(struct stream *s)
{
	struct stream **at = &s->client->streams;
	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	if (s->exchange)
		exchange_cancel(s->exchange);
	http2_in_free(&s->in);
	http2_out_free(&s->out);
	free(s);
}

static void reset_stream(struct stream *s, uint32_t error)
{
	s->over = s->reset = true;
	http2_reset(&s->client->h, s->out.id, error);
}

/* Lets the guest send more of the body, as far as the exchange has taken it. */
static void take(struct stream *s)
{
	if (s->over || (s->exchange && exchange_wants_data(s->exchange)))
		http2_consume(&s->client->h, s->out.id, &s->owed_bytes);
}

/* ---- From the guest ---- */

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
	struct stream *s = stream_of(session, frame->hd.stream_id);
	if (frame->headers.cat == NGHTTP2_HCAT_REQUEST)
		return begin(context, frame->hd.stream_id) ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	if (s)
		http2_in_start(&s->in, HTTP2_TRAILERS, false);
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

/* nghttp2 would drop the field alone. */
static int on_invalid_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_bytes,
			     const uint8_t *value, size_t value_bytes, uint8_t flags, void *context)
{
	(void)session;
	(void)frame;
	(void)name;
	(void)name_bytes;
	(void)value;
	(void)value_bytes;
	(void)flags;
	(void)context;
	return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static void take_head(struct stream *s, bool end_stream)
{
	struct exchange *x = exchange_create(s->client->flow, &client_ops, s, true);
	s->exchange = x;
	if (!x) {
		reset_stream(s, NGHTTP2_INTERNAL_ERROR);
		return;
	}
	if (!http2_in_end(&s->in, end_stream)) {
		exchange_refuse(x, s->in.wrong, s->in.reason);
		return;
	}
	*exchange_request_head(x) = s->in.head;
	s->in.head = (struct http_head){0};
	exchange_request(x);
}

static void take_end(struct stream *s)
{
	struct http_fields trailers = s->in.head.fields; /* a head's were taken over */
	s->in.head.fields = (struct http_fields){0};
	exchange_request_end(s->exchange, &trailers);
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
	struct stream *s = stream_of(session, frame->hd.stream_id);
	bool end_stream = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
	(void)context;
	if (!s || s->over || (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA))
		return 0;
	if (frame->hd.type == NGHTTP2_HEADERS && !s->exchange)
		take_head(s, end_stream);
	else if (frame->hd.type == NGHTTP2_HEADERS && !http2_in_end(&s->in, end_stream))
		reset_stream(s, NGHTTP2_PROTOCOL_ERROR);
	if (end_stream && !s->over)
		take_end(s);
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
	if (!s->over && s->exchange)
		exchange_request_data(s->exchange, data, len_bytes);
	take(s);
	return 0;
}

/* The response is sent: what the guest still has to say is not wanted. */
static int on_sent(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
	bool ends = (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) && frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
	struct stream *s = ends ? stream_of(session, frame->hd.stream_id) : NULL;
	(void)context;
	if (s && !nghttp2_session_get_stream_remote_close(session, frame->hd.stream_id))
		reset_stream(s, NGHTTP2_NO_ERROR);
	return 0;
}

static bool is_calm(struct client2 *c)
{
	uint64_t now_ms = clock_ms();
	if (now_ms - c->resets_from_ms > RESETS_MS) {
		c->resets_from_ms = now_ms;
		c->resets = 0;
	}
	return ++c->resets <= RESETS_MAX;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t error, void *context)
{
	struct client2 *c = context;
	struct stream *s = stream_of(session, id);
	if (!s)
		return 0;
	bool early = error != NGHTTP2_NO_ERROR || !s->over; /* whatever the guest calls it */
	if (early && !s->reset && !is_calm(c))
		c->h.broken |= nghttp2_session_terminate_session(session, NGHTTP2_ENHANCE_YOUR_CALM) != 0;
	http2_consume(&c->h, id, &s->owed_bytes);
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
	nghttp2_session_callbacks_set_on_invalid_header_callback(all, on_invalid_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(all, on_frame);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(all, on_data);
	nghttp2_session_callbacks_set_on_frame_send_callback(all, on_sent);
	nghttp2_session_callbacks_set_on_stream_close_callback(all, on_close);
	return all;
}

/* ---- To the guest ---- */

static void put_head(void *context, const struct http_head *response)
{
	struct stream *s = context;
	struct http2 *h = &s->client->h;
	bool interim = response->status < 200;
	struct http2_nv nv;
	if (s->over || (interim && nghttp2_session_get_outbound_queue_size(h->session) > INTERIM_WAIT_MAX))
		return;
	int rc = http2_nv_head(&nv, response, NULL);
	if (rc == 0 && interim) {
		rc = nghttp2_submit_headers(h->session, NGHTTP2_FLAG_NONE, s->out.id, NULL, nv.item, nv.count, NULL);
	} else if (rc == 0) {
		nghttp2_data_provider body = http2_out_provider(&s->out);
		s->has_body = response->has_body;
		rc = nghttp2_submit_response(h->session, s->out.id, nv.item, nv.count, s->has_body ? &body : NULL);
	}
	free(nv.item);
	if (rc)
		reset_stream(s, NGHTTP2_INTERNAL_ERROR);
	http2_wake(h);
}

static void put_data(void *context, const uint8_t *data, size_t len_bytes)
{
	struct stream *s = context;
	if (!s->over && s->has_body)
		http2_out_add(&s->out, data, len_bytes);
}

static void put_end(void *context, const struct http_fields *trailers)
{
	struct stream *s = context;
	if (s->over)
		return;
	s->over = true;
	take(s);
	if (s->has_body)
		http2_out_end(&s->out, trailers);
}

static void reset(void *context, const char *reason)
{
	struct stream *s = context;
	(void)reason;
	reset_stream(s, NGHTTP2_INTERNAL_ERROR);
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

static const struct client_ops client_ops = {
	.head = put_head, .data = put_data, .end = put_end, .reset = reset, .room = room, .resume = resume};

/* ---- The connection ---- */

static size_t data(void *context, const uint8_t *bytes, size_t len_bytes)
{
	struct client2 *c = context;
	if (http2_receive(&c->h, bytes, len_bytes))
		flow_end(c->flow);
	return len_bytes;
}

static void ended(void *context, bool clean)
{
	struct client2 *c = context;
	(void)clean;
	flow_end(c->flow);
}

static void failed(void *context, const char *reason)
{
	struct client2 *c = context;
	(void)reason;
	flow_end(c->flow);
}

static void fill(void *context)
{
	struct client2 *c = context;
	int rc = http2_fill(&c->h);
	for (struct stream *s = c->streams; s && rc == 0; s = s->next)
		if (s->exchange && !s->over && http2_out_is_drained(&s->out))
			exchange_client_drained(s->exchange);
	if (rc == 0)
		return;
	if (rc > 0) {
		conn_finish(c->flow->conn, true);
		c->flow->conn = NULL; /* it ends by itself */
	}
	flow_end(c->flow);
}

static void drained(void *context)
{
	struct client2 *c = context;
	http2_wake(&c->h);
}

static const struct conn_ops conn_ops = {.data = data, .ended = ended, .drained = drained, .fill = fill, .failed = failed};

/* ---- Life ---- */

/* Speaks HTTP/2 on the flow's connection from now on. Returns 0 or -ENOMEM. */
int client2_start(struct flow_gate *f)
{
	struct client2 *c = calloc(1, sizeof *c);
	if (!c)
		return -ENOMEM;
	c->flow = f;
	if (http2_create(&c->h, f->conn, make_callbacks(), true, WINDOW_BYTES, c)) {
		free(c);
		return -ENOMEM;
	}
	f->http2 = c;
	conn_own(f->conn, &conn_ops, c);
	return 0;
}

/* Ends what it carries. Accepts NULL. */
void client2_end(struct client2 *c)
{
	for (struct stream *s = c ? c->streams : NULL; s; s = s->next) {
		struct exchange *x = s->exchange;
		s->exchange = NULL;
		s->over = true;
		if (x)
			exchange_cancel(x);
	}
}

/* Frees it; what it carries has ended. Accepts NULL. */
void client2_free(struct client2 *c)
{
	if (!c)
		return;
	while (c->streams)
		stream_free(c->streams);
	http2_destroy(&c->h);
	free(c);
}
