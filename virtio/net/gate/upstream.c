/*
 * Theory of operation
 * -------------------
 * Purpose: gives each exchange a connection to its server: one that is idle, one more stream of HTTP/2, or a new one. What a
 * server's certificate says is checked against the name that the policy allowed, by OpenSSL.
 *
 *      want -> (spare socket | dial) -> TLS -> ready -> carries exchanges, one at a time or, in HTTP/2, many -> idle -> closed
 *
 * The first connection of a flow is dialled before the guest gets the flow (gate.c), so that it sees at once whether the host can be
 * reached: that socket waits as a spare until TLS on the guest's side says what the guest speaks. upstream_expect() starts TLS with the
 * server then, beside the guest's.
 *
 * HTTP/2 is offered to the server only where the guest speaks it, too.
 *
 * A server may close an idle connection just when a request is on its way. Where nothing of an answer has come and nothing is
 * lost by it (exchange_can_repeat()), the request is sent once more on another connection.
 *
 * Limits: about IDLE_MAX idle connections and SPARES_MAX spare sockets, each for IDLE_MS; a guest's flows bound the others, and the dialer bounds dials.
 */
#include "virtio/net/gate/upstream.h"

#include <errno.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "virtio/net/gate/clock.h"
#include "virtio/net/gate/grants.h"
#include "virtio/net/gate/trust.h"
#include "virtio/net/record.h"
#include "vmm/util/io.h"

enum {
	IDLE_MS = 30000,
	IDLE_MAX = 64,     /* connections, of all servers */
	SPARES_MAX = 256,  /* sockets that nobody uses yet */
	SERVERS_MAX = 256, /* that are remembered */
};

/* An exchange that waits for a connection. */
struct want {
	struct want *next;
	struct server *server;
	struct exchange *exchange;
	bool http2;   /* the guest speaks it */
	bool granted; /* by the user */
	struct want **out;
};

/* A socket to a server that nobody has used yet. */
struct spare {
	struct spare *next;
	char name[NAME_BYTES];
	uint16_t port;
	struct dial_result at;
	uint64_t since_ms;
};

static const struct conn_ops conn_ops;
static const struct upstream_ops http1_ops;

static void serve(struct server *s);

/* ---- Servers ---- */

static void server_free(struct server *s)
{
	SSL_SESSION_free(s->session);
	free(s);
}

/* Forgets one that nobody uses, where there are many. */
static void make_room(struct intercept *i)
{
	for (struct server **at = &i->servers; *at && i->server_count >= SERVERS_MAX; at = &(*at)->next) {
		struct server *s = *at;
		if (s->conns || s->wants)
			continue;
		*at = s->next;
		server_free(s);
		i->server_count--;
		if (!*at)
			return;
	}
}

static struct server *find(struct intercept *i, const char *name, uint16_t port, bool tls)
{
	struct server *s = i->servers;
	while (s && (s->port != port || s->tls != tls || strcmp(s->name, name)))
		s = s->next;
	return s;
}

static struct server *find_or_make(struct intercept *i, const struct flow_gate *f)
{
	struct server *s = find(i, f->name, f->port, f->tls);
	if (s)
		return s;
	make_room(i);
	s = calloc(1, sizeof *s);
	if (!s)
		return NULL;
	*s = (struct server){.all = i, .next = i->servers, .port = f->port, .tls = f->tls};
	snprintf(s->name, sizeof s->name, "%s", f->name);
	i->servers = s;
	i->server_count++;
	return s;
}

/* ---- Connections ---- */

static void leave_idle(struct upstream *u)
{
	u->server->all->idle_count -= u->idle;
	u->idle = false;
}

/* Nothing is carried from now on. */
static void join_idle(struct upstream *u)
{
	struct intercept *i = u->server->all;
	u->idle_ms = clock_ms();
	u->idle = true;
	i->idle_count++;
	i->check_ms = i->check_ms ? i->check_ms : u->idle_ms + IDLE_MS;
}

/* Closes a connection. Whoever is just being called for it may still look at it: it is freed when the loop comes round. */
static void destroy(struct upstream *u)
{
	if (u->dead)
		return;
	u->dead = true;
	leave_idle(u);
	struct upstream **at = &u->server->conns;
	while (*at && *at != u)
		at = &(*at)->next;
	if (*at)
		*at = u->next;
	dial_cancel(u->dial);
	conn_destroy(u->conn);
	u->next = u->server->all->dead_upstreams;
	u->server->all->dead_upstreams = u;
}

/* Frees what was destroyed. */
void upstream_free_dead(struct intercept *i)
{
	while (i->dead_upstreams) {
		struct upstream *u = i->dead_upstreams;
		i->dead_upstreams = u->next;
		http1_in_free(&u->in);
		free(u);
	}
}

/*
 * Whether the server has a connection that will do without another's being made: one that is not ready yet, or one of HTTP/2, which
 * ends streams. What one of HTTP/1.1 carries may go on for ever (events, a WebSocket).
 */
static bool may_wait(const struct want *w)
{
	for (const struct upstream *u = w->server->conns; u; u = u->next)
		if (!u->ready || (u->http2 && w->http2 && !u->stale && upstream2_is_open(u)))
			return true;
	return false;
}

/* Tells those that wait for a connection in vain that there is none. */
static void fail_wants(struct server *s, unsigned status, const char *reason)
{
	for (struct want *w = s->wants, *next; w; w = next) {
		struct exchange *x = w->exchange;
		next = w->next;
		if (may_wait(w))
			continue;
		upstream_forget(w);
		exchange_upstream_failed(x, status, reason);
		next = s->wants; /* whatever has happened */
	}
}

/* A connection could not be made. Those that wait fail with it, where no other comes. */
static void connect_failed(struct upstream *u, unsigned status, const char *reason)
{
	struct server *s = u->server;
	char text[160];
	snprintf(text, sizeof text, "%s", reason); /* it may be the connection's */
	destroy(u);
	fail_wants(s, status, text);
}

/* See upstream.h. */
void upstream_lost(struct upstream *u, const char *reason)
{
	struct server *s = u->server;
	struct exchange *x = u->exchange;
	struct upstream2 *h = u->http2;
	bool repeat = x && u->used && !u->responded && exchange_can_repeat(x);
	u->exchange = NULL;
	u->http2 = NULL;
	destroy(u);
	serve(s);
	if (h)
		upstream2_free(h, reason);
	if (repeat)
		exchange_repeat(x);
	else if (x)
		exchange_response_lost(x, reason);
}

static void carry(struct upstream *u, struct exchange *x)
{
	leave_idle(u);
	if (u->http2) {
		upstream2_carry(u, x);
		return;
	}
	u->exchange = x;
	u->request_ended = u->responded = false;
	exchange_upstream_ready(x, &http1_ops, u);
}

/* A connection has become ready. */
static void opened(void *context)
{
	struct upstream *u = context;
	struct server *s = u->server;
	const uint8_t *protocol = NULL;
	unsigned bytes = 0;
	SSL *ssl = conn_tls(u->conn);
	if (ssl)
		SSL_get0_alpn_selected(ssl, &protocol, &bytes);
	bool http2 = bytes == 2 && memcmp(protocol, "h2", 2) == 0;
	u->ready = true;
	join_idle(u);
	http1_in_init(&u->in, HTTP1_RESPONSES);
	if (http2 && upstream2_start(u)) {
		connect_failed(u, 502, "out of memory");
		return;
	}
	s->no_http2 |= !http2 && u->http2_offered;
	serve(s);
}

static void start_tls(struct upstream *u, bool http2);

/* There is a socket, of which TLS is the next thing. */
static void connected(struct upstream *u, const struct dial_result *r, bool http2)
{
	u->addr = r->addr;
	u->own = r->own;
	u->granted = r->granted;
	u->conn = conn_create(&u->server->all->conns, r->fd, &conn_ops, u);
	if (!u->conn)
		connect_failed(u, 502, "out of memory");
	else if (u->server->tls)
		start_tls(u, http2);
	else
		opened(u);
}

/* ---- TLS with servers ---- */

/* Keeps the newest session, to resume. */
static int keep_session(SSL *ssl, SSL_SESSION *session)
{
	struct upstream *u = SSL_get_app_data(ssl);
	SSL_SESSION_free(u->server->session);
	u->server->session = session;
	return 1;
}

static SSL_CTX *server_context(struct intercept *i)
{
	if (i->server_tls)
		return i->server_tls;
	SSL_CTX *c = SSL_CTX_new(TLS_client_method());
	if (!c)
		return NULL;
	SSL_CTX_set_min_proto_version(c, TLS1_2_VERSION);
	SSL_CTX_set_verify(c, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(c, keep_session);
	trust_load(c, i->services.config->upstream_ca_fd); /* what is wrong with the file was said before */
	i->services.config->upstream_ca_fd = -1;
	i->server_tls = c;
	return c;
}

static void start_tls(struct upstream *u, bool http2)
{
	static const uint8_t both[] = "\x02h2\x08http/1.1";
	struct server *s = u->server;
	SSL_CTX *context = server_context(s->all);
	SSL *ssl = context ? SSL_new(context) : NULL;
	unsigned skip = http2 ? 0 : 3;
	if (!ssl || SSL_set_tlsext_host_name(ssl, s->name) != 1 || SSL_set1_host(ssl, s->name) != 1 ||
	    SSL_set_alpn_protos(ssl, both + skip, sizeof both - 1 - skip)) {
		SSL_free(ssl);
		connect_failed(u, 502, "out of memory");
		return;
	}
	u->http2_offered = http2;
	SSL_set_app_data(ssl, u);
	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	if (s->session)
		SSL_set_session(ssl, s->session);
	SSL_set_connect_state(ssl);
	conn_start_tls(u->conn, ssl);
}

/* ---- Making connections ---- */

static void dialled(void *context, const struct dial_result *r)
{
	struct upstream *u = context;
	if (r->fd >= 0) {
		connected(u, r, u->server->wants ? u->server->wants->http2 && !u->server->no_http2 : false);
		return;
	}
	struct gate_reply reply = {.error = r->error};
	snprintf(reply.reason, sizeof reply.reason, "%s", r->reason ? r->reason : "");
	connect_failed(u, r->error == ETIMEDOUT ? 504 : r->error == EPERM ? 403 : 502, record_error(&reply));
}

static bool take_spare(struct intercept *i, const char *name, uint16_t port, struct dial_result *r)
{
	for (struct spare **at = &i->spares; *at; at = &(*at)->next) {
		struct spare *s = *at;
		if (s->port != port || strcmp(s->name, name))
			continue;
		*r = s->at;
		*at = s->next;
		free(s);
		return true;
	}
	return false;
}

/* Makes one connection more, for the first of those that wait. */
static void connect_one(struct server *s, bool http2)
{
	struct upstream *u = calloc(1, sizeof *u);
	if (!u) {
		fail_wants(s, 502, "out of memory");
		return;
	}
	*u = (struct upstream){.server = s, .next = s->conns};
	s->conns = u;
	struct dial_result r;
	if (take_spare(s->all, s->name, s->port, &r)) {
		connected(u, &r, http2);
		return;
	}
	struct gate_request target = {.port = s->port, .proto = NET_TCP};
	snprintf(target.name, sizeof target.name, "%s", s->name);
	struct policy_request wanted = {.proto = NET_TCP, .name = target.name, .port = s->port};
	struct policy_decision d = policy_decide(&s->all->services.config->policy, &wanted);
	bool granted = s->wants->granted && !d.rule;
	if (d.verdict == POLICY_DENY && !granted)
		connect_failed(u, 403, d.reason);
	else
		dial_start(s->all->services.dialer, &target, granted, dialled, u, &u->dial);
}

/*
 * A connection that can carry one exchange more, of a guest that speaks HTTP/2 or not. Where both sides can, HTTP/2 stays HTTP/2: gRPC
 * is more than a translation of it.
 */
static struct upstream *find_ready(struct server *s, bool http2)
{
	bool http1 = !http2 || !s->tls || s->no_http2;
	for (struct upstream *u = s->conns; u; u = u->next) {
		if (!u->ready || u->stale || u->exchange)
			continue;
		if (u->http2 ? http2 && upstream2_has_room(u) : http1 && conn_is_open(u->conn))
			return u;
	}
	return NULL;
}

static unsigned count_coming(const struct server *s)
{
	unsigned count = 0;
	for (const struct upstream *u = s->conns; u; u = u->next)
		count += !u->ready;
	return count;
}

/* How many connections those that wait need: one, as long as it may turn out to be one for all of them. */
static unsigned count_needed(const struct server *s)
{
	unsigned count = 0, maybe_shared = 0;
	for (const struct want *w = s->wants; w; w = w->next) {
		bool shared = w->http2 && s->tls && !s->no_http2;
		count += !shared;
		maybe_shared |= shared;
	}
	return count + maybe_shared;
}

/* Gives connections to those that wait, and makes more where they are not enough. */
static void serve(struct server *s)
{
	for (struct want *w = s->wants, *next; w; w = next) {
		struct upstream *u = find_ready(s, w->http2);
		next = w->next;
		if (!u)
			continue;
		struct exchange *x = w->exchange;
		upstream_forget(w);
		carry(u, x);
		next = s->wants; /* whatever has happened */
	}
	for (unsigned more = count_needed(s), coming = count_coming(s); s->wants && coming < more; coming++)
		connect_one(s, s->wants->http2 && !s->no_http2);
}

/*
 * Streams of a connection of HTTP/2 have ended: it may carry more now. Where it carries none, it waits as one of HTTP/1.1 does, and
 * may be destroyed for it.
 */
void upstream_changed(struct upstream *u)
{
	struct server *s = u->server;
	if (upstream2_is_idle(u) && !u->idle) {
		join_idle(u);
		if (u->stale || s->all->idle_count > IDLE_MAX)
			upstream_lost(u, "idle");
	}
	serve(s);
}

/* ---- For exchanges ---- */

/*
 * Asks for a connection to the server of `f`; exchange_upstream_ready() or exchange_upstream_failed() follow, perhaps before this
 * returns. *out stands for it meanwhile.
 */
void upstream_get(struct intercept *i, struct exchange *x, const struct flow_gate *f, bool http2, struct want **out)
{
	struct server *s = find_or_make(i, f);
	struct want *w = s ? calloc(1, sizeof *w) : NULL;
	*out = w;
	if (!w) {
		exchange_upstream_failed(x, 502, "out of memory");
		return;
	}
	*w = (struct want){.server = s, .exchange = x, .http2 = http2, .granted = f->granted, .out = out};
	struct want **at = &s->wants;
	while (*at)
		at = &(*at)->next;
	*at = w;
	serve(s);
}

/* Asks no more. Accepts NULL. */
void upstream_forget(struct want *w)
{
	if (!w)
		return;
	struct want **at = &w->server->wants;
	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	*w->out = NULL;
	free(w);
}

/* The guest begins TLS on a flow: there will be an exchange. */
void upstream_expect(struct intercept *i, const struct flow_gate *f, bool http2)
{
	struct server *s = find_or_make(i, f);
	if (!s || s->wants || count_coming(s) || find_ready(s, http2))
		return;
	struct upstream *u = calloc(1, sizeof *u);
	struct dial_result r;
	if (!u || !take_spare(i, f->name, f->port, &r)) {
		free(u);
		return;
	}
	*u = (struct upstream){.server = s, .next = s->conns};
	s->conns = u;
	connected(u, &r, http2 && !s->no_http2);
}

static void drop_spare(struct spare **at)
{
	struct spare *s = *at;
	*at = s->next;
	io_close(&s->at.fd);
	free(s);
}

/* Closes the oldest where there are many: a guest may begin flows and use none. */
static void limit_spares(struct intercept *i)
{
	struct spare **at = &i->spares;
	for (unsigned count = 0; *at && count < SPARES_MAX; count++)
		at = &(*at)->next;
	while (*at)
		drop_spare(at);
}

/* A socket that was connected for a flow; it is ours from now on. */
void upstream_add_spare(struct intercept *i, const char *name, uint16_t port, const struct dial_result *r)
{
	struct spare *s = calloc(1, sizeof *s);
	if (!s) {
		int fd = r->fd;
		io_close(&fd);
		return;
	}
	*s = (struct spare){.next = i->spares, .port = port, .at = *r, .since_ms = clock_ms()};
	snprintf(s->name, sizeof s->name, "%s", name);
	i->spares = s;
	limit_spares(i);
	i->check_ms = i->check_ms ? i->check_ms : s->since_ms + IDLE_MS;
}

/* Whether there is an unused connection to the server: then *where has its address. */
bool upstream_reaches(struct intercept *i, const char *name, uint16_t port, struct dial_result *where)
{
	for (struct server *s = i->servers; s; s = s->next) {
		if (s->port != port || strcmp(s->name, name))
			continue;
		for (struct upstream *u = s->conns; u; u = u->next) {
			if (!u->ready || u->stale || u->exchange || (u->http2 ? !upstream2_has_room(u) : !conn_is_open(u->conn)))
				continue;
			*where = (struct dial_result){.fd = -1, .addr = u->addr, .own = u->own};
			return true;
		}
	}
	return false;
}

/* ---- HTTP/1.1 ---- */

/* The request and the response have passed: the connection carries the next, or is closed. */
static void finish(struct upstream *u, bool keep)
{
	u->exchange = NULL;
	u->used = true;
	join_idle(u);
	if (!keep || u->stale || !u->request_ended || u->tunnel || u->server->all->idle_count > IDLE_MAX)
		destroy(u);
	else
		conn_pause(u->conn, false);
}

static void response_ended(struct upstream *u)
{
	struct exchange *x = u->exchange;
	struct server *s = u->server;
	struct http_fields trailers = u->in.trailers;
	u->in.trailers = (struct http_fields){0};
	finish(u, !u->in.close && conn_is_open(u->conn));
	serve(s);
	exchange_response_end(x, &trailers);
}

static void take_head(struct upstream *u, struct http_head *head)
{
	struct exchange *x = u->exchange;
	*exchange_response_head(x) = *head;
	u->responded |= head->status >= 200 || head->status == 101;
	u->tunnel = head->status == 101;
	exchange_response(x);
}

/* Takes what the server says. Returns how much of it. */
static size_t data(void *context, const uint8_t *bytes, size_t len_bytes)
{
	struct upstream *u = context;
	size_t done = 0;
	while (done < len_bytes || u->in.state == HTTP1_ENDED) {
		struct exchange *x = u->exchange;
		struct http1_found found;
		size_t taken = 0;
		if (!x) { /* nobody has asked */
			upstream_lost(u, "the server sent more than its response");
			return len_bytes;
		}
		if (!exchange_wants_response(x)) {
			conn_pause(u->conn, true);
			return done;
		}
		if (u->tunnel) {
			exchange_response_data(x, bytes + done, len_bytes - done);
			return len_bytes;
		}
		enum http1_event event = http1_next(&u->in, bytes + done, len_bytes - done, &taken, &found);
		done += taken;
		switch (event) {
		case HTTP1_MORE:
			return done;
		case HTTP1_HEAD:
			take_head(u, &found.head);
			break;
		case HTTP1_DATA:
			exchange_response_data(x, found.data, found.len_bytes);
			break;
		case HTTP1_END:
			response_ended(u);
			return done; /* what follows is nobody's yet: it comes again */
		case HTTP1_BAD:
			upstream_lost(u, found.reason);
			return len_bytes;
		}
		if (u->dead)
			return len_bytes;
	}
	return done;
}

static void ended(void *context, bool clean)
{
	struct upstream *u = context;
	struct http1_found found;
	if (!u->ready || !u->exchange) {
		upstream_lost(u, "the server closed the connection");
		return;
	}
	if (u->tunnel) {
		struct exchange *x = u->exchange;
		finish(u, false);
		exchange_response_end(x, NULL);
	} else if (clean && http1_eof(&u->in, &found) == HTTP1_END) {
		response_ended(u);
	} else {
		upstream_lost(u, "the server closed the connection before its response was complete");
	}
}

static void drained(void *context)
{
	struct upstream *u = context;
	if (u->exchange)
		exchange_upstream_drained(u->exchange);
}

static void failed(void *context, const char *reason)
{
	struct upstream *u = context;
	if (u->ready)
		upstream_lost(u, reason);
	else
		connect_failed(u, 502, reason);
}

static const struct conn_ops conn_ops = {.opened = opened, .data = data, .ended = ended, .drained = drained, .failed = failed};

static void put_head(void *context, const struct http_head *request)
{
	struct upstream *u = context;
	u->body = http1_body_of(request, false);
	http1_in_ask(&u->in, request);
	conn_written(u->conn, http1_put_head(conn_out(u->conn), request, u->body, false));
}

static void put_data(void *context, const uint8_t *bytes, size_t len_bytes)
{
	struct upstream *u = context;
	struct buf *out = conn_out(u->conn);
	conn_written(u->conn, u->tunnel ? buf_add(out, bytes, len_bytes) : http1_put_data(out, u->body, bytes, len_bytes));
}

static void put_end(void *context, const struct http_fields *trailers)
{
	struct upstream *u = context;
	u->request_ended = true;
	if (!u->tunnel)
		conn_written(u->conn, http1_put_end(conn_out(u->conn), u->body, trailers));
}

static void cancel(void *context)
{
	struct upstream *u = context;
	struct server *s = u->server;
	u->exchange = NULL;
	destroy(u);
	serve(s);
}

static size_t room(void *context)
{
	struct upstream *u = context;
	return conn_room(u->conn);
}

static void resume(void *context)
{
	struct upstream *u = context;
	conn_pause(u->conn, false);
}

static const struct upstream_ops http1_ops = {
	.head = put_head, .data = put_data, .end = put_end, .cancel = cancel, .room = room, .resume = resume};

/* ---- Time, and the end ---- */

static bool is_idle(const struct upstream *u)
{
	return u->ready && !u->exchange && (!u->http2 || upstream2_is_idle(u));
}

/* Whether a connection goes where it may not go any more. */
static bool is_denied(const struct upstream *u)
{
	struct policy_request wanted = {.proto = NET_TCP, .name = u->server->name, .port = u->server->port};
	struct policy_decision d = policy_decide_address(&u->server->all->services.config->policy, &wanted, &u->addr, u->own);
	return d.verdict == POLICY_DENY && !(u->granted && grants_reach(&d, &u->addr, u->own));
}

/* A connection of before the rules changed that is to end now, or NULL. */
static struct upstream *find_stale(const struct server *s)
{
	for (struct upstream *u = s->conns; u; u = u->next)
		if (u->stale && (!u->ready || is_idle(u) || is_denied(u)))
			return u;
	return NULL;
}

/* Rules have changed: connections that carry something, and still may, go on until it is done. The others are closed. */
void upstream_policy_changed(struct intercept *i)
{
	struct upstream *u;
	while (i->spares)
		drop_spare(&i->spares);
	for (struct server *s = i->servers; s; s = s->next)
		for (u = s->conns; u; u = u->next)
			u->stale = true;
	for (struct server *s = i->servers; s; s = s->next)
		while ((u = find_stale(s)))
			upstream_lost(u, "the rules have changed");
}

/* The time of the next that will have been idle for too long; what is over is closed. */
static void sweep_spares(struct intercept *i, uint64_t now, uint64_t *next_ms)
{
	for (struct spare **at = &i->spares; *at;) {
		uint64_t end_ms = (*at)->since_ms + IDLE_MS;
		if (end_ms <= now) {
			drop_spare(at);
			continue;
		}
		*next_ms = end_ms < *next_ms ? end_ms : *next_ms;
		at = &(*at)->next;
	}
}

static void sweep_server(struct server *s, uint64_t now, uint64_t *next_ms)
{
	for (struct upstream *u = s->conns, *next; u; u = next) {
		next = u->next;
		if (!is_idle(u))
			continue;
		uint64_t end_ms = u->idle_ms + IDLE_MS;
		if (end_ms <= now)
			upstream_lost(u, "idle");
		else
			*next_ms = end_ms < *next_ms ? end_ms : *next_ms;
	}
}

/* Closes what has been idle for long. Returns how long until the next, in milliseconds; -1: none. */
int upstream_tick(struct intercept *i)
{
	uint64_t now = i->check_ms ? clock_ms() : 0, next_ms = UINT64_MAX;
	if (!i->check_ms)
		return -1;
	if (now >= i->check_ms) {
		sweep_spares(i, now, &next_ms);
		for (struct server *s = i->servers; s; s = s->next)
			sweep_server(s, now, &next_ms);
		i->check_ms = next_ms == UINT64_MAX ? 0 : next_ms;
	}
	return i->check_ms ? (int)(i->check_ms - now) : -1;
}

/* Closes everything. No exchange may be left. */
void upstream_free_all(struct intercept *i)
{
	while (i->spares)
		drop_spare(&i->spares);
	while (i->servers) {
		struct server *s = i->servers;
		while (s->conns) {
			struct upstream2 *h = s->conns->http2;
			s->conns->http2 = NULL;
			destroy(s->conns);
			if (h)
				upstream2_free(h, "the gate ends");
		}
		i->servers = s->next;
		server_free(s);
	}
	upstream_free_dead(i);
	SSL_CTX_free(i->server_tls);
}
