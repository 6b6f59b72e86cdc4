/*
 * The gate.
 *
 * Theory of operation
 * -------------------
 * Purpose: opens flows. A request of the vmm names a host and a port; the gate decides by its own copy of the policy,
 * resolves the name, drops every address that the policy does not allow, and connects to one of the rest: exactly the
 * address that was checked. The connected socket goes to the vmm, and the gate has nothing more to do with the flow.
 *
 * Trust boundary: requests come from the process that parses the guest's bytes, so they are checked as if the guest had
 * written them. The gate sees no frame and no byte of a plain flow.
 *
 * Connecting: addresses in the resolver's order, the next one when the last has failed or HEAD_START_MS has passed (RFC
 * 8305). A request that cannot be started gets an error at once.
 *
 * Nothing blocks. While the vmm does not read its replies (answers.c), no request of its is read. Requests are read a few at
 * a time, and after the supervisor's orders, so that a rule that is taken back is not overtaken.
 *
 * Limits: GATE_DIALS_MAX flows are being opened at once, and to one target no more than there are places left for others. A
 * name has GATE_LIMIT_MS to resolve, and then its addresses have as long to answer.
 *
 * Life: it ends with the vmm's end of the socket. When it dies first, the vmm denies every new flow.
 */
#include "virtio/net/gate/gate.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "virtio/net/gate/answers.h"
#include "virtio/net/gate/grants.h"
#include "virtio/net/gate/proto.h"
#include "virtio/net/gate/resolve.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/loop.h"

enum {
	HEAD_START_MS = 250, /* of an address over the next */
	ATTEMPTS_MAX = 4,    /* of a dial at once: descriptors */
	REQUESTS_MAX = 32,   /* that are read before other things have their turn */
};

static const char NO_RESOLVER[] = "no resolver answers";

struct gate;
struct dial;

struct attempt {
	struct loop_source source; /* fd -1: none */
	struct dial *dial;
	struct ip_addr addr;
	bool own; /* it is one of this host's */
};

/* A flow that is being opened. */
struct dial {
	struct gate *gate;
	struct dial *next;
	struct gate_request request;
	struct policy_request wanted;
	struct question *question; /* to the resolver; NULL: none, or it has answered */
	struct attempt attempt[RESOLVE_MAX];
	unsigned count, started;
	uint64_t next_ms, end_ms; /* when to try the next address; to give up on the name, or then on all addresses */
	int error;                /* of the last attempt */
	bool granted;             /* by the user: no rule need allow it (grants.c) */
};

struct gate {
	struct gate_config *config;
	struct loop loop;
	struct loop_source vmm, supervisor;
	unsigned unanswered; /* orders of the supervisor */
	struct answers answers;
	struct grants grants;
	struct resolver *resolver;
	struct dial *dials;
	unsigned dial_count;
	bool ended;
};

static uint64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- Addresses ---- */

/* Whether the address is one of this host's: then the way to it begins there. */
static bool is_own(const struct ip_addr *a)
{
	struct sockaddr_storage to, from;
	socklen_t bytes = addr_socket(a, 9, &to), from_bytes = sizeof from;
	int fd = socket(to.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool own = false;
	if (fd >= 0 && connect(fd, (struct sockaddr *)&to, bytes) == 0 &&
	    getsockname(fd, (struct sockaddr *)&from, &from_bytes) == 0 && from.ss_family == to.ss_family)
		own = addr_is_v4(a) ? ((struct sockaddr_in *)&from)->sin_addr.s_addr == ((struct sockaddr_in *)&to)->sin_addr.s_addr
				    : memcmp(&((struct sockaddr_in6 *)&from)->sin6_addr, a->byte, 16) == 0;
	io_close(&fd);
	return own;
}

/* ---- Answers ---- */

/* Answers a request, with `fd` (-1: none), which is closed when it is sent. */
static void answer(struct gate *g, const struct gate_request *request, int fd, const struct attempt *a, int error,
		   const char *reason)
{
	struct gate_reply reply = {.id = request->id, .error = error};
	if (a) {
		reply.addr = a->addr;
		reply.own = a->own;
	}
	if (reason)
		snprintf(reply.reason, sizeof reply.reason, "%s", reason);
	g->ended |= answers_send(&g->answers, &reply, fd) < 0;
	loop_change(&g->loop, &g->vmm, g->answers.first ? EPOLLOUT : EPOLLIN);
}

static void attempt_end(struct attempt *a)
{
	if (a->source.fd < 0)
		return;
	loop_remove(&a->dial->gate->loop, &a->source);
	io_close(&a->source.fd);
}

static void dial_destroy(struct dial *d)
{
	struct gate *g = d->gate;
	struct dial **at = &g->dials;
	while (*at != d)
		at = &(*at)->next;
	*at = d->next;
	g->dial_count--;
	resolver_forget(d->question);
	for (unsigned i = 0; i < d->started; i++)
		attempt_end(&d->attempt[i]);
	free(d);
}

static void dial_fail(struct dial *d, int error, const char *reason)
{
	answer(d->gate, &d->request, -1, NULL, error, reason);
	dial_destroy(d);
}

static void set_limit(struct dial *d)
{
	unsigned limit_ms = d->gate->config->limit_ms;
	d->end_ms = now_ms() + (limit_ms ? limit_ms : GATE_LIMIT_MS);
}

static void dial_time_out(struct dial *d)
{
	dial_fail(d, ETIMEDOUT, d->question ? NO_RESOLVER : NULL);
}

/* ---- Connecting ---- */

static void start_next(struct dial *d);

/* Ends the attempt that has waited longest where there are as many as may be. */
static void make_room(struct dial *d)
{
	struct attempt *oldest = NULL;
	unsigned under_way = 0;
	for (unsigned i = d->started; i-- > 0;)
		if (d->attempt[i].source.fd >= 0) {
			oldest = &d->attempt[i];
			under_way++;
		}
	if (under_way == ATTEMPTS_MAX)
		attempt_end(oldest);
}

static void connected(struct dial *d, struct attempt *a)
{
	static const int on = 1;
	if (d->wanted.proto == NET_TCP)
		setsockopt(a->source.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* the guest has waited, if it wants that */
	int fd = a->source.fd;
	loop_remove(&d->gate->loop, &a->source);
	a->source.fd = -1;
	answer(d->gate, &d->request, fd, a, 0, NULL);
	dial_destroy(d);
}

static void attempt_ready(void *context, uint32_t events)
{
	(void)events;
	struct attempt *a = context;
	struct dial *d = a->dial;
	int error = 0;
	socklen_t bytes = sizeof error;
	if (getsockopt(a->source.fd, SOL_SOCKET, SO_ERROR, &error, &bytes))
		error = errno;
	if (error == 0) {
		connected(d, a);
		return;
	}
	d->error = error;
	attempt_end(a);
	start_next(d);
}

static int start(struct attempt *a)
{
	struct dial *d = a->dial;
	struct sockaddr_storage to;
	socklen_t bytes = addr_socket(&a->addr, d->wanted.port, &to);
	int type = d->wanted.proto == NET_TCP ? SOCK_STREAM : SOCK_DGRAM;
	a->source = (struct loop_source){
		.fd = socket(to.ss_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), .ready = attempt_ready, .context = a};
	if (a->source.fd < 0)
		return -errno;
	if (connect(a->source.fd, (struct sockaddr *)&to, bytes) && errno != EINPROGRESS)
		return -errno;
	return loop_add(&d->gate->loop, &a->source, EPOLLOUT);
}

/* Tries the next address that there is. Where none is left and none is under way, the dial has failed; it is gone then. */
static void start_next(struct dial *d)
{
	while (d->started < d->count) {
		make_room(d);
		struct attempt *a = &d->attempt[d->started++];
		int rc = start(a);
		if (rc == 0) {
			d->next_ms = now_ms() + HEAD_START_MS;
			return;
		}
		d->error = -rc;
		io_close(&a->source.fd);
	}
	d->next_ms = 0;
	for (unsigned i = 0; i < d->started; i++)
		if (d->attempt[i].source.fd >= 0)
			return;
	dial_fail(d, d->error, NULL);
}

/* The addresses of the name are known: those that the policy allows are dialled. */
static void resolved(void *context, const struct ip_addr *addr, unsigned count, int error)
{
	struct dial *d = context;
	struct policy_decision denied = {.verdict = POLICY_DENY};
	d->question = NULL;
	set_limit(d);
	for (unsigned i = 0; i < count && d->count < RESOLVE_MAX; i++) {
		bool own = is_own(&addr[i]);
		struct policy_decision decision = policy_decide_address(&d->gate->config->policy, &d->wanted, &addr[i], own);
		if (decision.verdict == POLICY_DENY && !(d->granted && grants_reach(&decision, &addr[i], own))) {
			denied = decision;
			continue;
		}
		d->attempt[d->count++] = (struct attempt){.source.fd = -1, .dial = d, .addr = addr[i], .own = own};
	}
	if (d->count)
		start_next(d);
	else if (count)
		dial_fail(d, EPERM, denied.reason);
	else
		dial_fail(d, error, error == ETIMEDOUT ? NO_RESOLVER : NULL);
}

/* Where a name is that no resolver is asked for. Returns how many addresses there are. */
static unsigned known_addresses(const struct dial *d, struct ip_addr out[RESOLVE_MAX])
{
	static const struct ip_addr loopback_v6 = {{[15] = 1}};
	unsigned count = 0;
	if (!d->wanted.name) {
		out[count++] = d->wanted.addr;
	} else if (strcmp(d->wanted.name, POLICY_HOST_NAME) == 0) {
		out[count++] = addr_v4(INADDR_LOOPBACK);
		out[count++] = loopback_v6;
	} else {
		size_t from = 0;
		while (count < RESOLVE_MAX && policy_pinned(&d->gate->config->policy, d->wanted.name, &from, &out[count]))
			count++;
	}
	return count;
}

static void start_dial(struct dial *d)
{
	struct gate *g = d->gate;
	struct ip_addr known[RESOLVE_MAX];
	unsigned count = known_addresses(d, known);
	int rc = 0;
	if (count == 0 && !g->resolver) /* not before a name is to be resolved */
		rc = resolver_create(&g->loop, g->config->dns_servers, &g->resolver);
	if (count)
		resolved(d, known, count, 0);
	else if (rc)
		dial_fail(d, -rc, NULL);
	else
		resolver_ask(g->resolver, d->wanted.name, resolved, d, &d->question);
}

/* ---- Requests ---- */

/*
 * Whether one more flow may be opened: a target has at most as many under way as there are places left for others, so that
 * one that does not answer does not keep the rest from being reached.
 */
static bool has_place(const struct gate *g, const struct gate_request *r)
{
	unsigned same = 0;
	for (const struct dial *d = g->dials; d; d = d->next)
		same += gate_same_target(&d->request, r);
	return same < GATE_DIALS_MAX - g->dial_count;
}

static void take_request(struct gate *g, struct gate_request *r)
{
	if (!gate_request_valid(r)) {
		answer(g, r, -1, NULL, EINVAL, NULL);
		return;
	}
	struct dial *d = has_place(g, r) ? calloc(1, sizeof *d) : NULL;
	if (!d) {
		answer(g, r, -1, NULL, EAGAIN, NULL);
		return;
	}
	d->gate = g;
	d->next = g->dials;
	g->dials = d;
	g->dial_count++;
	d->request = *r;
	d->wanted = (struct policy_request){
		.proto = r->proto, .name = r->name[0] ? d->request.name : NULL, .addr = r->addr, .port = r->port};
	set_limit(d);
	struct policy_decision decision = policy_decide(&g->config->policy, &d->wanted);
	d->granted = grants_take(&g->grants, r, &decision, now_ms());
	if (decision.verdict == POLICY_DENY && !d->granted)
		dial_fail(d, EPERM, decision.reason);
	else
		start_dial(d);
}

static void take_order(struct gate *g, const struct gate_order *order)
{
	struct err e;
	if (order->op == GATE_POLICY)
		policy_apply(&g->config->policy, &order->change, &e); /* it was checked before it was sent */
	else if (order->op == GATE_GRANT)
		grants_add(&g->grants, &order->grant, order->flows, now_ms());
	g->unanswered++;
}

/* The supervisor is trusted; its end is ours. */
static void supervisor_ready(void *context, uint32_t events)
{
	(void)events;
	struct gate *g = context;
	struct gate_order order;
	ssize_t n;
	while ((n = recv(g->supervisor.fd, &order, sizeof order, MSG_DONTWAIT)) == sizeof order)
		take_order(g, &order);
	g->ended |= n >= 0 || (errno != EAGAIN && errno != EINTR);
	while (g->unanswered && send(g->supervisor.fd, &(char){0}, 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1)
		g->unanswered--;
	loop_change(&g->loop, &g->supervisor, EPOLLIN | (g->unanswered ? EPOLLOUT : 0u));
}

static void take_requests(struct gate *g)
{
	struct gate_request r;
	for (unsigned i = 0; i < REQUESTS_MAX && !g->answers.first && !g->ended; i++) {
		ssize_t n = recv(g->vmm.fd, &r, sizeof r, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n == sizeof r)
			take_request(g, &r);
		else
			g->ended = true;
	}
}

static void vmm_ready(void *context, uint32_t events)
{
	(void)events;
	struct gate *g = context;
	supervisor_ready(g, 0);
	g->ended |= answers_flush(&g->answers) < 0;
	loop_change(&g->loop, &g->vmm, g->answers.first ? EPOLLOUT : EPOLLIN);
	take_requests(g);
}

/* ---- Time ---- */

/* Does what is due. Returns how long until something is next; -1: nothing waits. */
static int tick(struct gate *g)
{
	uint64_t now = now_ms(), next = UINT64_MAX;
	resolver_tick(g->resolver);
	for (struct dial *d = g->dials, *following; d; d = following) {
		following = d->next;
		if (d->end_ms <= now) {
			dial_time_out(d);
			continue;
		}
		uint64_t due = d->next_ms && d->started < d->count && d->next_ms < d->end_ms ? d->next_ms : d->end_ms;
		if (due <= now) {
			start_next(d);
			due = now + 1;
		}
		next = due < next ? due : next;
	}
	int resolver_ms = resolver_timeout_ms(g->resolver);
	int ms = next == UINT64_MAX ? -1 : (int)(next - now);
	return resolver_ms >= 0 && (ms < 0 || resolver_ms < ms) ? resolver_ms : ms;
}

/* Runs the gate, in a process of its own, until the vmm is gone. */
void gate_run(struct gate_config *c)
{
	struct gate g = {.config = c, .answers.fd = c->vmm_fd};
	g.vmm = (struct loop_source){.fd = c->vmm_fd, .ready = vmm_ready, .context = &g};
	g.supervisor = (struct loop_source){.fd = c->supervisor_fd, .ready = supervisor_ready, .context = &g};
	if (loop_create(&g.loop) || loop_add(&g.loop, &g.vmm, EPOLLIN) || loop_add(&g.loop, &g.supervisor, EPOLLIN))
		return;
	if (c->confine)
		c->confine();
	while (!g.ended && loop_step(&g.loop, tick(&g)) >= 0)
		;
	answers_free(&g.answers);
}
