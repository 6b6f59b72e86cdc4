/*
 * The gate.
 *
 * Theory of operation
 * -------------------
 * Purpose: opens flows. A request of the vmm names a host and a port; the gate decides by its own copy of the policy, and
 * connects (dial.c). The connected socket goes to the vmm, and the gate has nothing more to do with the flow. A flow that is to
 * be read (policy_intercepts()) stays here: the interceptor keeps the connected socket, and the vmm gets one end of a socket pair.
 *
 * Trust boundary: requests come from the process that parses the guest's bytes, so they are checked as if the guest had
 * written them. The gate sees no frame, and no byte of a plain flow.
 *
 * Nothing blocks. While the vmm does not read its replies (answers.c), no request of its is read. Requests are read a few at
 * a time, and after the supervisor's orders, so that a rule that is taken back is not overtaken.
 *
 * Life: it ends with the vmm's end of the socket. When it dies first, the vmm denies every new flow.
 */
#include "virtio/net/gate/gate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "virtio/net/gate/answers.h"
#include "virtio/net/gate/clock.h"
#include "virtio/net/gate/dial.h"
#include "virtio/net/gate/grants.h"
#include "virtio/net/gate/interceptor.h"
#include "virtio/net/gate/proto.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/loop.h"
#include "vmm/util/passfd.h"

enum { REQUESTS_MAX = 32 }; /* that are read before other things have their turn */

struct gate {
	struct gate_config *config;
	struct loop loop;
	struct loop_source vmm, supervisor;
	unsigned unanswered; /* orders of the supervisor */
	struct answers answers;
	struct grants grants;
	struct dialer dialer;
	struct opening *openings;
	struct gate_services services; /* for the interceptor */
	struct intercept *intercept;   /* NULL: there is none */
	bool ended;
};

/* A flow that is being opened for the vmm. */
struct opening {
	struct gate *gate;
	struct opening *next;
	struct gate_request request;
	struct dial *dial;
	bool intercepted;
};

/* ---- Answers ---- */

/* Answers a request, with `fd` (-1: none), which is closed when it is sent. */
static void answer(struct gate *g, struct gate_reply *reply, const char *reason, int fd)
{
	if (reason)
		snprintf(reply->reason, sizeof reply->reason, "%s", reason);
	g->ended |= answers_send(&g->answers, reply, fd) < 0;
	loop_change(&g->loop, &g->vmm, g->answers.first ? EPOLLOUT : EPOLLIN);
}

static void refuse(struct gate *g, const struct gate_request *r, int error, const char *reason)
{
	answer(g, &(struct gate_reply){.id = r->id, .error = error}, reason, -1);
}

/* Gives the vmm its end of a flow that the interceptor reads, on the connection `r`, or on one that it has. */
static void hand_over(struct gate *g, const struct gate_request *request, const struct dial_result *r)
{
	struct gate_reply reply = {.id = request->id, .addr = r->addr, .own = r->own};
	int guest_fd = -1;
	reply.error = -g->config->interceptor->open(g->intercept, request, r, &guest_fd);
	answer(g, &reply, NULL, guest_fd);
}

/* ---- Requests ---- */

static void opening_destroy(struct opening *o)
{
	struct opening **at = &o->gate->openings;
	while (*at != o)
		at = &(*at)->next;
	*at = o->next;
	dial_cancel(o->dial);
	free(o);
}

static void dialled(void *context, const struct dial_result *r)
{
	struct opening *o = context;
	if (r->fd >= 0 && o->intercepted)
		hand_over(o->gate, &o->request, r);
	else
		answer(o->gate, &(struct gate_reply){.id = o->request.id, .error = r->error, .addr = r->addr, .own = r->own}, r->reason,
		       r->fd);
	opening_destroy(o);
}

static void open_flow(struct gate *g, const struct gate_request *r, bool granted, bool intercepted)
{
	struct dial_result kept = {.fd = -1};
	if (intercepted && !g->intercept) {
		refuse(g, r, EPERM, "nothing can read this host's requests");
		return;
	}
	if (intercepted && g->config->interceptor->has_connection(g->intercept, r, &kept)) {
		kept.granted = granted;
		hand_over(g, r, &kept);
		return;
	}
	struct opening *o = calloc(1, sizeof *o);
	if (!o) {
		refuse(g, r, ENOMEM, NULL);
		return;
	}
	*o = (struct opening){.gate = g, .next = g->openings, .request = *r, .intercepted = intercepted};
	g->openings = o;
	dial_start(&g->dialer, r, granted, dialled, o, &o->dial);
}

static void take_request(struct gate *g, const struct gate_request *r)
{
	if (!gate_request_valid(r)) {
		refuse(g, r, EINVAL, NULL);
		return;
	}
	struct policy_request wanted = {.proto = r->proto, .name = r->name[0] ? r->name : NULL, .addr = r->addr, .port = r->port};
	struct policy_decision decision = policy_decide(&g->config->policy, &wanted);
	bool granted = grants_take(&g->grants, r, &decision, clock_ms());
	enum policy_verdict verdict = granted ? policy_once(&wanted) : decision.verdict;
	if (verdict == POLICY_DENY)
		refuse(g, r, EPERM, decision.reason);
	else
		open_flow(g, r, granted, verdict == POLICY_ALLOW && policy_intercepts(&g->config->policy, &wanted));
}

/* ---- The supervisor ---- */

static void take_order(struct gate *g, const struct gate_order *order, int fd)
{
	struct err e;
	if (order->op == GATE_CONNECTED) {
		if (g->intercept)
			g->config->interceptor->connected(g->intercept, order->callback, fd);
		else
			io_close(&fd);
		return;
	}
	io_close(&fd);
	if (order->op == GATE_POLICY) {
		policy_apply(&g->config->policy, &order->change, &e); /* it was checked before it was sent */
		if (g->intercept)
			g->config->interceptor->policy_changed(g->intercept);
	} else if (order->op == GATE_GRANT) {
		grants_add(&g->grants, &order->grant, order->flows, clock_ms());
	}
	g->unanswered++;
}

/* Takes one order. Returns false where there is none now; the supervisor is trusted, and its end is ours. */
static bool receive_order(struct gate *g)
{
	struct gate_order order;
	int fd = -1;
	ssize_t n = passfd_recv(g->supervisor.fd, &order, sizeof order, &fd);
	if (n == sizeof order) {
		take_order(g, &order, fd);
		return true;
	}
	g->ended |= n >= 0 || (n != -EAGAIN && n != -EINTR);
	return false;
}

static void supervisor_ready(void *context, uint32_t events)
{
	(void)events;
	struct gate *g = context;
	static const uint8_t done = GATE_DONE;
	while (receive_order(g))
		;
	while (g->unanswered && send(g->supervisor.fd, &done, sizeof done, MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof done)
		g->unanswered--;
	loop_change(&g->loop, &g->supervisor, EPOLLIN | (g->unanswered ? EPOLLOUT : 0u));
}

/* Tells the supervisor something that must not be lost: where it is behind, the gate waits for it, as the device does. */
static void tell(void *context, const void *message, size_t len_bytes)
{
	struct gate *g = context;
	g->ended |= send(g->supervisor.fd, message, len_bytes, MSG_NOSIGNAL) < 0 && errno != EINTR;
}

/* ---- The vmm ---- */

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

/* ---- Life ---- */

/* Has the interceptor, where there is one, set itself up. Returns false where it cannot. */
static bool start_interceptor(struct gate *g)
{
	const struct gate_interceptor *i = g->config->interceptor;
	g->services = (struct gate_services){.loop = &g->loop, .config = g->config, .dialer = &g->dialer, .tell = tell, .context = g};
	return !i || i->create(&g->services, &g->intercept) == 0;
}

/* Does what is due. Returns how long until something is next, in milliseconds; -1: nothing waits. */
static int tick(struct gate *g)
{
	int dials_ms = dialer_tick(&g->dialer);
	uint64_t started = g->dialer.started;
	int intercept_ms = g->intercept ? g->config->interceptor->tick(g->intercept) : -1;
	if (g->dialer.started != started)
		return 0; /* there are dials that dials_ms does not know: this is done once more, after the events */
	return intercept_ms >= 0 && (dials_ms < 0 || intercept_ms < dials_ms) ? intercept_ms : dials_ms;
}

/* Runs the gate, in a process of its own, until the vmm is gone. */
void gate_run(struct gate_config *c)
{
	struct gate g = {.config = c, .answers.fd = c->vmm_fd};
	g.dialer = (struct dialer){.loop = &g.loop, .policy = &c->policy, .dns_servers = c->dns_servers, .limit_ms = c->limit_ms};
	g.vmm = (struct loop_source){.fd = c->vmm_fd, .ready = vmm_ready, .context = &g};
	g.supervisor = (struct loop_source){.fd = c->supervisor_fd, .ready = supervisor_ready, .context = &g};
	if (loop_create(&g.loop) || loop_add(&g.loop, &g.vmm, EPOLLIN) || loop_add(&g.loop, &g.supervisor, EPOLLIN) ||
	    !start_interceptor(&g))
		return;
	if (c->confine)
		c->confine();
	while (!g.ended && loop_step(&g.loop, tick(&g)) >= 0)
		;
	while (g.openings)
		opening_destroy(g.openings);
	if (g.intercept)
		c->interceptor->destroy(g.intercept);
	answers_free(&g.answers);
}
