#include "tests/unit/http2_peer.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	WAIT_MS = 20000,
	FIELDS_MAX = 400,
};

static struct http2_peer *peers; /* that run */

static struct http2_peer_body *body_of(struct http2_peer *p, int32_t id)
{
	cr_assert(id > 0 && id / 2 < HTTP2_PEER_STREAMS);
	return &p->body[id / 2];
}

/* ---- What comes ---- */

static int on_begin(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
	struct http2_peer *p = context;
	(void)session;
	buf_addf(&p->log, "\n%d head", frame->hd.stream_id);
	return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_bytes, const uint8_t *value,
		     size_t value_bytes, uint8_t flags, void *context)
{
	struct http2_peer *p = context;
	(void)session;
	(void)frame;
	(void)flags;
	buf_addf(&p->log, " %.*s=%.*s", (int)name_bytes, name, (int)value_bytes, value);
	return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t bytes, void *context)
{
	struct http2_peer *p = context;
	(void)session;
	(void)flags;
	p->received_bytes += bytes;
	for (size_t i = 0; i < bytes; i++)
		p->sum = p->sum * 31 + data[i];
	if (!p->quiet)
		buf_addf(&p->log, "\n%d data %.*s", id, (int)bytes, data);
	if (!p->hold)
		nghttp2_session_consume(session, id, bytes);
	return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
	struct http2_peer *p = context;
	(void)session;
	if (frame->hd.type == NGHTTP2_RST_STREAM)
		buf_addf(&p->log, "\n%d reset %u", frame->hd.stream_id, frame->rst_stream.error_code);
	else if (frame->hd.type == NGHTTP2_PING)
		p->pongs += frame->hd.flags & NGHTTP2_FLAG_ACK;
	else if (frame->hd.type == NGHTTP2_GOAWAY)
		buf_addf(&p->log, "\ngoaway %u", frame->goaway.error_code);
	else if ((frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) && frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
		buf_addf(&p->log, "\n%d end", frame->hd.stream_id);
	return 0;
}

static int on_sent(nghttp2_session *session, const nghttp2_frame *frame, void *context)
{
	struct http2_peer *p = context;
	(void)session;
	if (frame->hd.type == NGHTTP2_DATA)
		p->sent_bytes += frame->hd.length;
	return 0;
}

/* What has been written down. */
const char *http2_peer_log(struct http2_peer *p)
{
	return p->log.len ? (const char *)p->log.data : "";
}

/* Takes what was held, so that more may come. */
void http2_peer_take(struct http2_peer *p, int32_t id, size_t bytes)
{
	cr_assert_eq(nghttp2_session_consume(p->session, id, bytes), 0);
}

/* ---- Life ---- */

/* Speaks HTTP/2 over TLS that is established; both stay the caller's. */
void http2_peer_start(struct http2_peer *p, SSL *ssl, int fd, bool server)
{
	nghttp2_session_callbacks *all;
	nghttp2_option *option;
	*p = (struct http2_peer){.next = peers, .ssl = ssl, .fd = fd};
	peers = p;
	fcntl(fd, F_SETFL, O_NONBLOCK);
	SSL_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	nghttp2_option_new(&option);
	nghttp2_option_set_no_auto_window_update(option, 1);
	nghttp2_session_callbacks_new(&all);
	nghttp2_session_callbacks_set_on_begin_headers_callback(all, on_begin);
	nghttp2_session_callbacks_set_on_header_callback(all, on_header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(all, on_data);
	nghttp2_session_callbacks_set_on_frame_recv_callback(all, on_frame);
	nghttp2_session_callbacks_set_on_frame_send_callback(all, on_sent);
	if (server)
		nghttp2_session_server_new2(&p->session, all, p, option);
	else
		nghttp2_session_client_new2(&p->session, all, p, option);
	nghttp2_session_callbacks_del(all);
	nghttp2_option_del(option);
	cr_assert_eq(nghttp2_submit_settings(p->session, NGHTTP2_FLAG_NONE, NULL, 0), 0);
}

/* Says nothing more. */
void http2_peer_end(struct http2_peer *p)
{
	struct http2_peer **at = &peers;
	while (*at != p)
		at = &(*at)->next;
	*at = p->next;
	nghttp2_session_del(p->session);
	for (size_t i = 0; i < HTTP2_PEER_STREAMS; i++)
		buf_free(&p->body[i].data);
	buf_free(&p->log);
	buf_free(&p->out);
}

static void receive(struct http2_peer *p)
{
	uint8_t data[16384];
	int n = 0;
	while (!p->gone && (n = SSL_read(p->ssl, data, sizeof data)) > 0)
		cr_assert_eq(nghttp2_session_mem_recv(p->session, data, (size_t)n), n);
	if (p->gone || SSL_get_error(p->ssl, n) == SSL_ERROR_WANT_READ)
		return;
	p->gone = true;
	buf_addf(&p->log, "\ngone");
}

static void send_all(struct http2_peer *p)
{
	const uint8_t *data;
	ssize_t bytes = 1;
	while (!p->gone && bytes > 0) {
		int n = p->out.len ? SSL_write(p->ssl, p->out.data, (int)p->out.len) : 0;
		buf_consume(&p->out, n > 0 ? (size_t)n : 0);
		if (p->out.len) /* it will be more, later */
			return;
		bytes = nghttp2_session_mem_send(p->session, &data);
		cr_assert_eq(buf_add(&p->out, data, bytes > 0 ? (size_t)bytes : 0), 0);
	}
}

static void wait_for_any(void)
{
	struct pollfd fds[8];
	nfds_t count = 0;
	for (struct http2_peer *p = peers; p && count < 8; p = p->next)
		fds[count++] = (struct pollfd){.fd = p->gone ? -1 : p->fd, .events = (short)(POLLIN | (p->out.len ? POLLOUT : 0))};
	if (poll(fds, count, WAIT_MS) == 0)
		cr_assert_fail("nothing came; the logs are:%s\nand:%s", http2_peer_log(peers), peers->next ? http2_peer_log(peers->next) : "");
}

/* Every peer receives and sends what it can; `wait`: when there is something, after the last time. */
void http2_peer_run(bool wait)
{
	if (wait)
		wait_for_any();
	for (struct http2_peer *p = peers; p; p = p->next) {
		receive(p);
		send_all(p);
	}
}

/* Waits until that is in its log. */
void http2_peer_until(struct http2_peer *p, const char *text)
{
	http2_peer_run(false);
	while (!strstr(http2_peer_log(p), text)) {
		cr_assert(!p->gone, "no \"%s\" in:%s", text, http2_peer_log(p));
		http2_peer_run(true);
	}
}

/* Waits until the gate has taken all that was sent. */
void http2_peer_settle(struct http2_peer *p)
{
	nghttp2_submit_ping(p->session, NGHTTP2_FLAG_NONE, NULL);
	p->pings++;
	http2_peer_run(false);
	while (p->pongs < p->pings && !p->gone)
		http2_peer_run(true);
}

/* ---- What is said ---- */

/* Takes "name=value|name=value" apart; the texts stay where they are. */
static size_t split(const char *text, nghttp2_nv *out)
{
	size_t count = 0;
	while (*text) {
		size_t bytes = strcspn(text, "|");
		const char *equals = memchr(text, '=', bytes);
		cr_assert(equals && count < FIELDS_MAX, "%s", text);
		out[count++] = (nghttp2_nv){.name = (uint8_t *)(uintptr_t)text,
					    .namelen = (size_t)(equals - text),
					    .value = (uint8_t *)(uintptr_t)(equals + 1),
					    .valuelen = bytes - (size_t)(equals + 1 - text)};
		text += bytes + (text[bytes] != 0);
	}
	return count;
}

static ssize_t read_body(nghttp2_session *session, int32_t id, uint8_t *to, size_t max_bytes, uint32_t *flags, nghttp2_data_source *source,
			 void *context)
{
	struct http2_peer_body *b = source->ptr;
	nghttp2_nv fields[FIELDS_MAX];
	(void)context;
	size_t bytes = b->data.len < max_bytes ? b->data.len : max_bytes;
	if (!bytes && !b->ended) {
		b->deferred = true;
		return NGHTTP2_ERR_DEFERRED;
	}
	if (bytes)
		memcpy(to, b->data.data, bytes);
	buf_consume(&b->data, bytes);
	if (b->data.len || !b->ended)
		return (ssize_t)bytes;
	*flags |= NGHTTP2_DATA_FLAG_EOF;
	if (b->has_trailers) {
		*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
		nghttp2_submit_trailer(session, id, fields, split(b->trailers, fields));
	}
	return (ssize_t)bytes;
}

/* Sends a request. Returns its stream. */
int32_t http2_peer_ask(struct http2_peer *p, const char *head, bool has_body)
{
	nghttp2_nv fields[FIELDS_MAX];
	int32_t id = (int32_t)nghttp2_session_get_next_stream_id(p->session);
	nghttp2_data_provider body = {.source.ptr = body_of(p, id), .read_callback = read_body};
	cr_assert_eq(nghttp2_submit_request(p->session, NULL, fields, split(head, fields), has_body ? &body : NULL, NULL), id);
	return id;
}

/* Sends a response; one of 1xx is followed by another. */
void http2_peer_respond(struct http2_peer *p, int32_t id, const char *head, bool has_body)
{
	nghttp2_nv fields[FIELDS_MAX];
	nghttp2_data_provider body = {.source.ptr = body_of(p, id), .read_callback = read_body};
	size_t count = split(head, fields);
	if (strncmp(head, ":status=1", 9) == 0)
		cr_assert_eq(nghttp2_submit_headers(p->session, NGHTTP2_FLAG_NONE, id, NULL, fields, count, NULL), 0);
	else
		cr_assert_eq(nghttp2_submit_response(p->session, id, fields, count, has_body ? &body : NULL), 0);
}

static void go_on(struct http2_peer *p, int32_t id)
{
	if (body_of(p, id)->deferred)
		nghttp2_session_resume_data(p->session, id);
	body_of(p, id)->deferred = false;
}

/* Sends a piece of the body. */
void http2_peer_data(struct http2_peer *p, int32_t id, const char *data, size_t bytes)
{
	cr_assert_eq(buf_add(&body_of(p, id)->data, data, bytes), 0);
	go_on(p, id);
}

/* The body is complete; trailers or NULL. */
void http2_peer_finish(struct http2_peer *p, int32_t id, const char *trailers)
{
	struct http2_peer_body *b = body_of(p, id);
	b->ended = true;
	b->has_trailers = trailers;
	snprintf(b->trailers, sizeof b->trailers, "%s", trailers ? trailers : "");
	go_on(p, id);
}
