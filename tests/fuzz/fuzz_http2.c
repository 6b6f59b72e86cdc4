/*
 * A guest's bytes, or a server's, to the gate's HTTP/2 and the library under it; the exchanges and the connection are made here.
 * What is understood as a message can be written as HTTP/1.1, and reads as that one message there. Exchanges are asked for nothing
 * after their end, and all of them end.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/http1.h"
#include "virtio/net/gate/intercept_priv.h"
#include "virtio/net/gate/upstream.h"

enum {
	SERVER = 1,    /* the bytes are a server's */
	GREET = 2,     /* what every connection begins with comes before them */
	SLOW = 4,      /* nobody takes anything at once */
	AT_ONCE = 8,   /* responses come as soon as requests */
	NO_BODY = 16,  /* of ours */
	RESETS = 32,   /* exchanges break off */
	NARROW = 64,   /* the connection takes little */
	EXCHANGES = 5, /* that a server gets */
	NARROW_BYTES = 20000,
};

struct exchange {
	struct exchange *next;
	const struct client_ops *client;
	const struct upstream_ops *upstream;
	void *context;
	struct http_head request, response;
	bool over;      /* cancelled, or all has come */
	bool responded; /* to the guest; the server has */
	bool said_all;  /* and its end, too */
	bool asked;     /* exchange_request(), or the head is with the server */
};

struct conn {
	const struct conn_ops *ops;
	void *context;
	struct buf out;
	bool woken, finished, full;
};

static unsigned how;
static struct exchange *all;
static struct conn conn;
static struct flow_gate flow;
static struct upstream upstream;
static struct server server;
static bool lost, busy; /* busy: nghttp2 is on the stack */

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* ---- The connection ---- */

void conn_own(struct conn *c, const struct conn_ops *ops, void *context)
{
	c->ops = ops;
	c->context = context;
}

void conn_write(struct conn *c, const void *data, size_t len_bytes)
{
	must(busy && buf_add(&c->out, data, len_bytes) == 0);
}

void conn_written(struct conn *c, int rc)
{
	(void)rc;
	c->woken = true;
}

size_t conn_room(struct conn *c)
{
	size_t max = how & NARROW ? NARROW_BYTES : CONN_QUEUE_MAX_BYTES;
	c->full |= c->out.len >= max;
	return c->out.len < max ? max - c->out.len : 0;
}

void conn_finish(struct conn *c, bool clean)
{
	must(clean);
	c->finished = true;
}

void flow_end(struct flow_gate *f)
{
	must(!f->dead);
	f->dead = true;
	client2_end(f->http2);
}

void upstream_lost(struct upstream *u, const char *reason)
{
	struct upstream2 *h = u->http2;
	must(!lost && reason);
	lost = true;
	u->http2 = NULL;
	upstream2_free(h, reason);
}

void upstream_changed(struct upstream *u)
{
	(void)upstream2_has_room(u);
}

/* ---- Messages ---- */

/* A head as HTTP/1.1 reads as that head. */
static void check_head(const struct http_head *h, const struct http_head *request)
{
	struct buf out = {0};
	struct http1_in in;
	struct http1_found found;
	size_t taken;
	http1_in_init(&in, h->method ? HTTP1_REQUESTS : HTTP1_RESPONSES);
	if (request)
		http1_in_ask(&in, request);
	must(http1_put_head(&out, h, http1_body_of(h, false), false) == 0);
	must(http1_next(&in, out.data, out.len, &taken, &found) == HTTP1_HEAD && taken == out.len);
	must(found.head.fields.count == h->fields.count && found.head.status == h->status && !found.head.upgrade);
	must(!h->method || (strcmp(found.head.method, h->method) == 0 && strcmp(found.head.path, h->path) == 0 &&
			    strcmp(found.head.authority, h->authority) == 0));
	http_head_free(&found.head);
	http1_in_free(&in);
	buf_free(&out);
}

static void check_trailers(const struct http_fields *f)
{
	struct buf out = {0};
	must(http1_put_end(&out, HTTP1_CHUNKED, f) == 0);
	buf_free(&out);
}

static struct exchange *make(void)
{
	struct exchange *x = calloc(1, sizeof *x);
	must(x);
	x->next = all;
	all = x;
	return x;
}

static void fill_fields(struct http_fields *f)
{
	must(http_add(f, "X-Field", 7, "value", 5) == 0);
}

/* Reads what may be read. */
static void look_at(const uint8_t *data, size_t len_bytes)
{
	static uint8_t copy[1 << 20];
	must(len_bytes <= sizeof copy);
	memcpy(copy, data, len_bytes);
}

/* ---- Exchanges, for the guest's side ---- */

static void respond(struct exchange *x)
{
	static const uint8_t body[40000] = "body";
	struct http_fields trailers = {0};
	if (x->over || x->said_all)
		return;
	if (!x->responded) {
		x->responded = true;
		x->response = (struct http_head){.status = 103, .length_bytes = HTTP_LENGTH_UNKNOWN};
		x->client->head(x->context, &x->response);
		x->response.status = 200;
		x->response.has_body = !(how & NO_BODY);
		fill_fields(&x->response.fields);
		x->client->head(x->context, &x->response);
	} else if (how & RESETS) {
		x->said_all = true;
		x->client->reset(x->context, "reset");
		return;
	}
	size_t room = x->client->room(x->context);
	if (room < sizeof body)
		return;
	x->client->data(x->context, body, x->response.has_body ? sizeof body : 0);
	if (how & SLOW && x->client->room(x->context))
		return;
	x->said_all = true;
	fill_fields(&trailers);
	x->client->end(x->context, &trailers);
	http_fields_free(&trailers);
}

struct exchange *exchange_create(struct flow_gate *f, const struct client_ops *ops, void *context, bool http2)
{
	struct exchange *x = make();
	must(f == &flow && http2);
	x->client = ops;
	x->context = context;
	return x;
}

struct http_head *exchange_request_head(struct exchange *x)
{
	return &x->request;
}

void exchange_request(struct exchange *x)
{
	must(!x->over && !x->asked);
	x->asked = true;
	check_head(&x->request, NULL);
	if (how & AT_ONCE)
		respond(x);
}

void exchange_refuse(struct exchange *x, unsigned status, const char *reason)
{
	must(!x->over && !x->asked && status >= 400 && reason);
	x->asked = true;
	respond(x);
}

void exchange_request_data(struct exchange *x, const uint8_t *data, size_t len_bytes)
{
	must(!x->over && x->asked);
	look_at(data, len_bytes);
}

void exchange_request_end(struct exchange *x, struct http_fields *trailers)
{
	must(!x->over && x->asked);
	check_trailers(trailers);
	http_fields_free(trailers);
	respond(x);
}

bool exchange_wants_data(const struct exchange *x)
{
	must(!x->over);
	return !(how & SLOW);
}

void exchange_client_drained(struct exchange *x)
{
	must(!x->over);
	respond(x);
}

void exchange_cancel(struct exchange *x)
{
	must(!x->over);
	x->over = true;
}

/* ---- Exchanges, for the server's side ---- */

void exchange_upstream_ready(struct exchange *x, const struct upstream_ops *ops, void *context)
{
	static const uint8_t body[40000] = "body";
	x->upstream = ops;
	x->context = context;
	x->asked = true;
	ops->head(context, &x->request);
	if (!x->request.has_body)
		return;
	ops->data(context, body, sizeof body);
	if (!(how & SLOW))
		ops->end(context, NULL);
}

void exchange_upstream_failed(struct exchange *x, unsigned status, const char *reason)
{
	(void)x;
	(void)status;
	(void)reason;
	abort(); /* there is memory */
}

struct http_head *exchange_response_head(struct exchange *x)
{
	must(!x->over);
	http_head_free(&x->response);
	return &x->response;
}

void exchange_response(struct exchange *x)
{
	must(!x->over && !x->responded);
	check_head(&x->response, &x->request);
	x->responded = x->response.status >= 200;
	if (x->responded && how & RESETS) {
		x->over = true;
		x->upstream->cancel(x->context);
	}
}

void exchange_response_data(struct exchange *x, const uint8_t *data, size_t len_bytes)
{
	must(!x->over && x->responded);
	look_at(data, len_bytes);
}

void exchange_response_end(struct exchange *x, struct http_fields *trailers)
{
	must(!x->over && x->responded);
	x->over = true;
	check_trailers(trailers);
	http_fields_free(trailers);
}

void exchange_response_lost(struct exchange *x, const char *reason)
{
	must(!x->over && reason);
	x->over = true;
}

bool exchange_wants_response(const struct exchange *x)
{
	return x->over || !(how & SLOW);
}

void exchange_upstream_drained(struct exchange *x)
{
	must(!x->over);
}

bool exchange_can_repeat(const struct exchange *x)
{
	return !x->responded && !x->request.has_body;
}

void exchange_repeat(struct exchange *x)
{
	must(!x->over && !x->responded);
	x->over = true;
}

/* ---- The run ---- */

static bool is_open(void)
{
	return how & SERVER ? !lost : !flow.dead;
}

/* What the loop does between two events. */
static void turn(void)
{
	for (unsigned i = 0; i < 4 && is_open() && conn.woken; i++) {
		conn.woken = false;
		busy = true;
		conn.ops->fill(conn.context);
		busy = false;
		conn.out.len = 0;
		if (conn.full && is_open())
			conn.ops->drained(conn.context);
		conn.full = false;
	}
	for (struct exchange *x = all; x && is_open(); x = x->next) {
		if (x->over || !x->asked)
			continue;
		if (how & SERVER)
			x->upstream->resume(x->context);
		else
			x->client->resume(x->context);
	}
}

static void give(const uint8_t *data, size_t size, size_t step)
{
	for (size_t at = 0; at < size && is_open(); at += step) {
		size_t n = size - at < step ? size - at : step;
		uint8_t *exact = malloc(n);
		must(exact);
		memcpy(exact, data + at, n);
		conn.woken = true; /* it looks after every event */
		must(conn.ops->data(conn.context, exact, n) == n);
		free(exact);
		turn();
	}
}

static void start_server(void)
{
	upstream = (struct upstream){.server = &server, .conn = &conn, .used = true};
	server.tls = true;
	must(upstream2_start(&upstream) == 0);
	for (unsigned i = 0; i < EXCHANGES; i++) {
		struct exchange *x = make();
		bool body = i % 2 && !(how & NO_BODY);
		x->request = (struct http_head){.method = strdup(i == 2 ? "HEAD" : body ? "POST" : "GET"),
						.authority = strdup("host.test"),
						.path = strdup("/"),
						.has_body = body,
						.length_bytes = HTTP_LENGTH_UNKNOWN};
		fill_fields(&x->request.fields);
		upstream2_carry(&upstream, x);
	}
	turn();
}

static void finish(void)
{
	if (how & SERVER && !lost)
		upstream_lost(&upstream, "the end");
	if (!(how & SERVER)) {
		if (!flow.dead)
			flow_end(&flow);
		client2_free(flow.http2);
	}
	while (all) {
		struct exchange *x = all;
		all = x->next;
		must(x->over);
		http_head_free(&x->request);
		http_head_free(&x->response);
		free(x);
	}
	buf_free(&conn.out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char magic[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
	static const uint8_t settings[] = {0, 0, 0, 4, 0, 0, 0, 0, 0};
	if (size < 2)
		return 0;
	how = data[0];
	size_t step = data[1] % 64u ? data[1] : size;
	conn = (struct conn){0};
	flow = (struct flow_gate){.conn = &conn, .tls = true};
	lost = false;
	if (how & SERVER)
		start_server();
	else
		must(client2_start(&flow) == 0);
	if (how & GREET && !(how & SERVER))
		give((const uint8_t *)magic, sizeof magic - 1, sizeof magic);
	if (how & GREET)
		give(settings, sizeof settings, sizeof settings);
	give(data + 2, size - 2, step);
	finish();
	return 0;
}
