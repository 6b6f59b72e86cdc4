/*
 * Theory of operation
 * -------------------
 * HTTP/2 is nghttp2's: frames, HPACK, flow control. A session is told what there is to say at any time, also from inside of its own
 * callbacks. It is asked for frames in one place only, http2_fill(), which the connection calls when it is about to send: so nghttp2
 * calls nobody from inside of what an exchange asks for, and streams share the connection by their windows.
 *
 *      exchange -> data() -> http2_out -> (nghttp2: windows) -> conn -> TLS
 *      exchange <- request_data() <- (nghttp2: windows) <- conn <- TLS
 *
 * Bounds: what waits to be sent is limited for each stream, and more so when all of a connection's together are much: but each
 * may always have a little, so that streams that nobody reads do not stop the others. What comes is limited by the windows, which
 * grow as the exchange takes it. What the peer makes nghttp2 say (acknowledgements, resets) is limited by its queue.
 *
 * Wiping: nghttp2 copies heads, which may have secrets. Its memory is cleared when it is freed.
 */
#include "virtio/net/gate/http2.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/exchange.h"
#include "virtio/net/gate/http_text.h"

enum {
	STUCK_MAX = 32, /* streams of which nothing is taken, before others are not heard any more: the connection's window */
	STREAM_HELD_BYTES = 128 << 10, /* that wait on a stream */
	STREAM_LEAST_BYTES = BODY_PIECE_BYTES, /* where the connection has many that do */
	CONN_HELD_BYTES = 1 << 20,
	ACKS_MAX = 100,   /* that the peer makes us say, and does not read */
	QUEUE_MAX = 2000, /* frames that wait to be sent */
	HEAD_BLOCK_BYTES = HTTP_FIELDS_MAX_BYTES + (64 << 10), /* as it may be written, without compression */
};

/* ---- Memory ---- */

static void *take_memory(size_t size, void *context)
{
	(void)context;
	return malloc(size);
}

static void wipe_memory(void *p, void *context)
{
	(void)context;
	if (p)
		explicit_bzero(p, malloc_usable_size(p));
	free(p);
}

static void *take_zeroed(size_t count, size_t size, void *context)
{
	(void)context;
	return calloc(count, size);
}

static void *resize_memory(void *p, size_t size, void *context)
{
	void *larger = malloc(size);
	size_t had = p ? malloc_usable_size(p) : 0;
	if (!larger)
		return NULL;
	if (had)
		memcpy(larger, p, had < size ? had : size);
	wipe_memory(p, context);
	return larger;
}

/* ---- Sessions ---- */

/* Writes a frame of DATA. */
static int send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head, size_t len_bytes, nghttp2_data_source *source,
		     void *context)
{
	enum { FRAME_HEAD_BYTES = 9 };
	struct http2_out *o = source->ptr;
	(void)session;
	(void)frame; /* it has no padding */
	(void)context;
	if (conn_room(o->http2->conn) == 0)
		return NGHTTP2_ERR_WOULDBLOCK;
	conn_write(o->http2->conn, head, FRAME_HEAD_BYTES);
	conn_write(o->http2->conn, o->data.data + o->sent, len_bytes);
	o->sent += len_bytes;
	o->http2->held_bytes -= len_bytes;
	if (o->sent == o->data.len)
		o->sent = o->data.len = 0;
	return 0;
}

static nghttp2_option *make_options(bool server)
{
	nghttp2_option *option;
	if (nghttp2_option_new(&option))
		return NULL;
	nghttp2_option_set_no_auto_window_update(option, 1);
	nghttp2_option_set_no_closed_streams(option, 1);
	nghttp2_option_set_max_outbound_ack(option, ACKS_MAX);
	nghttp2_option_set_max_send_header_block_length(option, HEAD_BLOCK_BYTES);
	if (!server) /* http2_head.c cuts them off */
		nghttp2_option_set_no_rfc9113_leading_and_trailing_ws_validation(option, 1);
	return option;
}

static int say_settings(struct http2 *h, bool server, uint32_t window_bytes)
{
	nghttp2_settings_entry all[] = {
		{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window_bytes},
		{NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HTTP_FIELDS_MAX_BYTES + HTTP_FIELDS_MAX * 32},
		{server ? NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS : NGHTTP2_SETTINGS_ENABLE_PUSH, server ? HTTP2_STREAMS_MAX : 0},
	};
	int rc = nghttp2_submit_settings(h->session, NGHTTP2_FLAG_NONE, all, sizeof all / sizeof all[0]);
	return rc ? rc : nghttp2_session_set_local_window_size(h->session, NGHTTP2_FLAG_NONE, 0, STUCK_MAX * (int32_t)window_bytes);
}

/*
 * Begins HTTP/2 on a connection, and consumes `callbacks` (NULL: there was no memory for them). A stream may be sent window_bytes
 * before anything of it is taken. Returns 0 or -ENOMEM.
 */
int http2_create(struct http2 *h, struct conn *conn, nghttp2_session_callbacks *callbacks, bool server, uint32_t window_bytes,
		 void *user_data)
{
	nghttp2_mem memory = {NULL, take_memory, wipe_memory, take_zeroed, resize_memory};
	nghttp2_option *option = callbacks ? make_options(server) : NULL;
	int rc = -1;
	*h = (struct http2){.conn = conn};
	if (option) {
		nghttp2_session_callbacks_set_send_data_callback(callbacks, send_data);
		rc = server ? nghttp2_session_server_new3(&h->session, callbacks, user_data, option, &memory)
			    : nghttp2_session_client_new3(&h->session, callbacks, user_data, option, &memory);
	}
	nghttp2_option_del(option);
	nghttp2_session_callbacks_del(callbacks);
	rc = rc ? rc : say_settings(h, server, window_bytes);
	if (rc) {
		http2_destroy(h);
		return -ENOMEM;
	}
	conn_written(conn, 0);
	return 0;
}

/* Frees the session; no callback is called. */
void http2_destroy(struct http2 *h)
{
	nghttp2_session_del(h->session);
	h->session = NULL;
}

/* Takes what was received; what is to be said to it is said by http2_fill(). Returns 0, or -1: the connection has to end at once. */
int http2_receive(struct http2 *h, const uint8_t *data, size_t len_bytes)
{
	ssize_t n = nghttp2_session_mem_recv(h->session, data, len_bytes);
	return n < 0 || h->broken || nghttp2_session_get_outbound_queue_size(h->session) > QUEUE_MAX ? -1 : 0;
}

/* Writes what is to be said, while there is room. Returns 0, 1: all is said, and nothing can follow; or -1, as http2_receive(). */
int http2_fill(struct http2 *h)
{
	const uint8_t *data;
	ssize_t n = 0;
	while (conn_room(h->conn) && (n = nghttp2_session_mem_send(h->session, &data)) > 0)
		conn_write(h->conn, data, (size_t)n);
	if (n < 0 || h->broken)
		return -1;
	return nghttp2_session_want_read(h->session) || nghttp2_session_want_write(h->session) ? 0 : 1;
}

/* There is something to say, or less to wait for. */
void http2_wake(struct http2 *h)
{
	conn_written(h->conn, 0);
}

/* Ends a stream, both ways. */
void http2_reset(struct http2 *h, int32_t id, uint32_t error)
{
	h->broken |= nghttp2_submit_rst_stream(h->session, NGHTTP2_FLAG_NONE, id, error) != 0;
	http2_wake(h);
}

/* Lets the peer send as much more as was taken of the stream's data; also of one that is closed, for the others. */
void http2_consume(struct http2 *h, int32_t id, size_t *owed_bytes)
{
	if (*owed_bytes == 0)
		return;
	h->broken |= nghttp2_session_consume(h->session, id, *owed_bytes) != 0;
	*owed_bytes = 0;
	http2_wake(h);
}

/* ---- Heads, as they are written ---- */

/* nghttp2 copies the texts, and has the names in lower case. */
static void put(struct http2_nv *nv, const char *name, const char *value)
{
	nv->item[nv->count++] = (nghttp2_nv){.name = (uint8_t *)(uintptr_t)name,
					     .value = (uint8_t *)(uintptr_t)value,
					     .namelen = strlen(name),
					     .valuelen = strlen(value)};
}

/* Adds fields, without those that are written anew; hooks may have made them what cannot be sent. */
static int put_fields(struct http2_nv *nv, const struct http_fields *f, bool trailers)
{
	for (size_t i = 0; i < f->count; i++) {
		const char *name = f->item[i].name, *value = f->item[i].value;
		size_t bytes = strlen(name);
		if (!http_is_token(name, bytes) || !http_is_value(value, strlen(value)))
			return -EINVAL;
		if (trailers ? http_may_trail(name, bytes) : http_name_kind(name, bytes) == HTTP_NAME_ORDINARY)
			put(nv, name, value);
	}
	return 0;
}

static int put_request(struct http2_nv *nv, const struct http_head *h, const char *scheme)
{
	size_t host_bytes;
	unsigned port;
	if (!http_is_token(h->method, strlen(h->method)) || !h->authority || !h->path ||
	    !http_parse_authority(h->authority, strlen(h->authority), &host_bytes, &port) ||
	    !(http_is_path(h->path, strlen(h->path)) || strcmp(h->path, "*") == 0))
		return -EINVAL;
	put(nv, ":method", h->method);
	put(nv, ":scheme", scheme);
	put(nv, ":authority", h->authority);
	put(nv, ":path", h->path);
	if (h->trailers)
		put(nv, "te", "trailers");
	if (h->expects_continue)
		put(nv, "expect", "100-continue");
	return 0;
}

static int put_status(struct http2_nv *nv, const struct http_head *h)
{
	if (h->status < 100 || h->status > 599 || h->status == 101)
		return -EINVAL;
	snprintf(nv->number, sizeof nv->number, "%u", h->status);
	put(nv, ":status", nv->number);
	return 0;
}

static int make_room(struct http2_nv *nv, const struct http_fields *f)
{
	enum { OTHERS = 8 };
	*nv = (struct http2_nv){.item = malloc((f->count + OTHERS) * sizeof *nv->item)};
	return nv->item ? 0 : -ENOMEM;
}

/* Makes a head, of a request with its scheme, or of a response. Returns 0, -ENOMEM, or -EINVAL: it cannot be sent. */
int http2_nv_head(struct http2_nv *nv, const struct http_head *h, const char *scheme)
{
	int rc = make_room(nv, &h->fields);
	if (rc == 0)
		rc = h->method ? put_request(nv, h, scheme) : put_status(nv, h);
	rc = rc ? rc : put_fields(nv, &h->fields, false);
	if (rc == 0 && h->length_bytes != HTTP_LENGTH_UNKNOWN && (h->method || (h->status >= 200 && h->status != 204))) {
		snprintf(nv->length, sizeof nv->length, "%lld", (long long)h->length_bytes);
		put(nv, "content-length", nv->length);
	}
	return rc;
}

/* Makes trailers. Returns as http2_nv_head(). */
int http2_nv_trailers(struct http2_nv *nv, const struct http_fields *f)
{
	int rc = make_room(nv, f);
	return rc ? rc : put_fields(nv, f, true);
}

/* ---- Bodies, as they are sent ---- */

static int say_trailers(struct http2_out *o)
{
	struct http2_nv nv;
	int rc = http2_nv_trailers(&nv, &o->trailers);
	rc = rc ? rc : nghttp2_submit_trailer(o->http2->session, o->id, nv.item, nv.count);
	free(nv.item);
	return rc;
}

/* Tells nghttp2 how much there is; send_data() follows for it. */
static ssize_t read_data(nghttp2_session *session, int32_t id, uint8_t *to, size_t max_bytes, uint32_t *flags, nghttp2_data_source *source,
			 void *context)
{
	struct http2_out *o = source->ptr;
	size_t waiting = o->data.len - o->sent, bytes = waiting < max_bytes ? waiting : max_bytes;
	(void)session;
	(void)id;
	(void)to;
	(void)context;
	if (bytes)
		*flags |= NGHTTP2_DATA_FLAG_NO_COPY;
	if (bytes == waiting && o->ended) {
		*flags |= NGHTTP2_DATA_FLAG_EOF;
		if (o->trailers.count) {
			*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
			if (say_trailers(o))
				return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* resets the stream */
		}
	} else if (!bytes) {
		o->deferred = true;
		return NGHTTP2_ERR_DEFERRED;
	}
	return (ssize_t)bytes;
}

/* What gives nghttp2 the stream's body. */
nghttp2_data_provider http2_out_provider(struct http2_out *o)
{
	return (nghttp2_data_provider){.source.ptr = o, .read_callback = read_data};
}

static void go_on(struct http2_out *o)
{
	if (o->deferred)
		(void)!nghttp2_session_resume_data(o->http2->session, o->id);
	o->deferred = false;
	http2_wake(o->http2);
}

/* Sends a copy of a piece of the body, in time. */
void http2_out_add(struct http2_out *o, const uint8_t *data, size_t len_bytes)
{
	if (o->sent > o->data.len / 2) {
		buf_consume(&o->data, o->sent);
		o->sent = 0;
	}
	if (buf_add(&o->data, data, len_bytes)) {
		o->http2->broken = true;
		http2_wake(o->http2);
		return;
	}
	o->http2->held_bytes += len_bytes;
	go_on(o);
}

/* The body is complete; NULL: without trailers. */
void http2_out_end(struct http2_out *o, const struct http_fields *trailers)
{
	for (size_t i = 0; trailers && i < trailers->count; i++) {
		const struct http_field *f = &trailers->item[i];
		o->http2->broken |= http_add(&o->trailers, f->name, strlen(f->name), f->value, strlen(f->value)) != 0;
	}
	o->ended = true;
	go_on(o);
}

/* How much should be added now at most. */
size_t http2_out_room(struct http2_out *o)
{
	size_t max = o->http2->held_bytes < CONN_HELD_BYTES ? STREAM_HELD_BYTES : STREAM_LEAST_BYTES;
	size_t waiting = o->data.len - o->sent;
	o->full |= waiting >= max;
	return waiting < max ? max - waiting : 0;
}

/* Whether there is room again where there was none: says so once. */
bool http2_out_is_drained(struct http2_out *o)
{
	if (!o->full || o->ended)
		return false;
	o->full = false;
	o->full = http2_out_room(o) < BODY_PIECE_BYTES;
	return !o->full;
}

/* Frees what waits. */
void http2_out_free(struct http2_out *o)
{
	o->http2->held_bytes -= o->data.len - o->sent;
	if (o->data.cap)
		explicit_bzero(o->data.data, o->data.cap);
	buf_free(&o->data);
	http_fields_free(&o->trailers);
}
