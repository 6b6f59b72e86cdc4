/*
 * HTTP/1.1 with the guest: one exchange at a time. The next request on the connection waits, unread, until the response before it
 * is sent (pipelining).
 *
 * A request that cannot be understood is answered, and the connection is closed; so it is where a response is complete before its
 * request is.
 */
#include <errno.h>
#include <stdlib.h>

#include "virtio/net/gate/http1.h"
#include "virtio/net/gate/intercept_priv.h"

struct client1 {
	struct flow_gate *flow;
	struct http1_in in;
	struct exchange *exchange; /* NULL: none */
	enum http1_body body;      /* of the response */
	bool has_body;             /* there may be one: what is said of it may be for HEAD */
	bool is_1_0;
	bool request_done;
	bool close;  /* after the response */
	bool tunnel; /* WebSocket: bytes */
};

static const struct client_ops client_ops;

/* ---- From the guest ---- */

static struct exchange *begin(struct client1 *c)
{
	struct exchange *x = exchange_create(c->flow, &client_ops, c, false);
	c->exchange = x;
	c->request_done = false;
	if (!x)
		flow_end(c->flow);
	return x;
}

static void take_head(struct client1 *c, struct http1_found *found)
{
	struct exchange *x = begin(c);
	if (!x) {
		http_head_free(&found->head);
		return;
	}
	c->is_1_0 = found->is_1_0;
	c->close = c->in.close;
	*exchange_request_head(x) = found->head;
	exchange_request(x);
}

static void take_end(struct client1 *c)
{
	struct http_fields trailers = c->in.trailers;
	c->in.trailers = (struct http_fields){0};
	c->request_done = true;
	exchange_request_end(c->exchange, &trailers);
}

/* What the guest says is no HTTP. */
static void take_bad(struct client1 *c, const struct http1_found *found)
{
	struct exchange *x = c->exchange ? NULL : begin(c);
	c->close = true;
	if (x)
		exchange_refuse(x, found->status, found->reason);
	else
		flow_end(c->flow);
}

/* Whether the exchange is to go on before more can be read. */
static bool must_wait(const struct client1 *c)
{
	if (!c->exchange)
		return false;
	if (c->request_done && !c->tunnel)
		return true;
	return c->in.state != HTTP1_ENDED && !exchange_wants_data(c->exchange);
}

static size_t data(void *context, const uint8_t *bytes, size_t len_bytes)
{
	struct client1 *c = context;
	size_t done = 0;
	while (!c->flow->dead && (done < len_bytes || c->in.state == HTTP1_ENDED)) {
		struct http1_found found = {0};
		size_t taken = 0;
		if (must_wait(c)) {
			conn_pause(c->flow->conn, true);
			return done;
		}
		if (c->tunnel) {
			exchange_request_data(c->exchange, bytes + done, len_bytes - done);
			return len_bytes;
		}
		enum http1_event event = http1_next(&c->in, bytes + done, len_bytes - done, &taken, &found);
		done += taken;
		if (event == HTTP1_MORE)
			return done;
		if (event == HTTP1_HEAD)
			take_head(c, &found);
		else if (event == HTTP1_BAD) {
			take_bad(c, &found);
			return len_bytes;
		} else if (event == HTTP1_END && c->exchange)
			take_end(c);
		else if (event == HTTP1_DATA && c->exchange)
			exchange_request_data(c->exchange, found.data, found.len_bytes);
	}
	return done;
}

static void ended(void *context, bool clean)
{
	(void)clean;
	struct client1 *c = context;
	if (c->tunnel && c->exchange)
		exchange_request_end(c->exchange, NULL);
	else if (c->exchange && c->request_done)
		c->close = true; /* it may still listen */
	else
		flow_end(c->flow);
}

static void drained(void *context)
{
	struct client1 *c = context;
	if (c->exchange)
		exchange_client_drained(c->exchange);
}

static void failed(void *context, const char *reason)
{
	(void)reason;
	struct client1 *c = context;
	flow_end(c->flow);
}

static const struct conn_ops conn_ops = {.data = data, .ended = ended, .drained = drained, .failed = failed};

/* ---- To the guest ---- */

static void put_head(void *context, const struct http_head *response)
{
	struct client1 *c = context;
	bool interim = response->status < 200 && response->status != 101;
	if (interim && c->is_1_0)
		return;
	enum http1_body how = http1_body_of(response, c->is_1_0);
	if (!interim) {
		c->body = how;
		c->has_body = response->has_body;
		c->tunnel = response->status == 101;
		c->close |= how == HTTP1_UNTIL_CLOSE || response->close;
	}
	int rc = http1_put_head(conn_out(c->flow->conn), response, how, c->close && !interim && !c->tunnel);
	conn_written(c->flow->conn, rc);
}

static void put_data(void *context, const uint8_t *bytes, size_t len_bytes)
{
	struct client1 *c = context;
	struct buf *out = conn_out(c->flow->conn);
	if (c->tunnel || c->has_body)
		conn_written(c->flow->conn, c->tunnel ? buf_add(out, bytes, len_bytes) : http1_put_data(out, c->body, bytes, len_bytes));
}

static void put_end(void *context, const struct http_fields *trailers)
{
	struct client1 *c = context;
	struct exchange *x = c->exchange;
	if (!c->tunnel)
		conn_written(c->flow->conn, http1_put_end(conn_out(c->flow->conn), c->body, trailers));
	c->exchange = NULL;
	exchange_cancel(x);
	bool whole = c->request_done || c->in.state == HTTP1_ENDED;
	if (!whole || c->close || c->tunnel) {
		conn_finish(c->flow->conn, true);
		c->flow->conn = NULL; /* it ends by itself */
		flow_end(c->flow);
		return;
	}
	conn_pause(c->flow->conn, false);
}

static void reset(void *context, const char *reason)
{
	(void)reason;
	struct client1 *c = context;
	conn_finish(c->flow->conn, false); /* this is not the end of the response */
	c->flow->conn = NULL;              /* it ends by itself */
	flow_end(c->flow);
}

static size_t room(void *context)
{
	struct client1 *c = context;
	return conn_room(c->flow->conn);
}

static void resume(void *context)
{
	struct client1 *c = context;
	conn_pause(c->flow->conn, false);
}

static const struct client_ops client_ops = {
	.head = put_head, .data = put_data, .end = put_end, .reset = reset, .room = room, .resume = resume};

/* ---- Life ---- */

/* Speaks HTTP/1.1 on the flow's connection from now on. Returns 0 or -ENOMEM. */
int client1_start(struct flow_gate *f)
{
	struct client1 *c = calloc(1, sizeof *c);
	if (!c)
		return -ENOMEM;
	c->flow = f;
	http1_in_init(&c->in, HTTP1_REQUESTS);
	f->http1 = c;
	conn_own(f->conn, &conn_ops, c);
	return 0;
}

/* Ends what it carries. Accepts NULL. */
void client1_end(struct client1 *c)
{
	struct exchange *x = c ? c->exchange : NULL;
	if (!x)
		return;
	c->exchange = NULL;
	exchange_cancel(x);
}

/* Accepts NULL. */
void client1_free(struct client1 *c)
{
	if (!c)
		return;
	http1_in_free(&c->in);
	free(c);
}
