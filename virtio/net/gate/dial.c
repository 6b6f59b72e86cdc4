/*
 * Theory of operation
 * -------------------
 * A dial resolves the name, drops every address that the policy does not allow, and connects to one of the rest: exactly the
 * address that was checked. Addresses are tried in the resolver's order, the next one when the last has failed or HEAD_START_MS
 * has passed (RFC 8305).
 *
 * Nothing blocks. A dial that cannot be started fails at once.
 *
 * Limits: DIALS_MAX are under way at once, and to one target no more than there are places left for others. A name has limit_ms
 * to resolve, and then its addresses have as long to answer.
 */
#include "virtio/net/gate/dial.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "virtio/net/gate/clock.h"
#include "virtio/net/gate/gate.h"
#include "virtio/net/gate/grants.h"
#include "virtio/net/gate/resolve.h"
#include "vmm/util/io.h"
#include "vmm/util/loop.h"

enum {
	HEAD_START_MS = 250, /* of an address over the next */
	ATTEMPTS_MAX = 4,    /* of a dial at once: descriptors */
};

static const char NO_RESOLVER[] = "no resolver answers";

struct attempt {
	struct loop_source source; /* fd -1: none */
	struct dial *dial;
	struct ip_addr addr;
	bool own; /* it is one of this host's */
};

/* A connection that is being made. */
struct dial {
	struct dialer *dialer;
	struct dial *next;
	struct gate_request target;
	struct policy_request wanted;
	dial_fn done;
	void *context;
	struct dial **out;         /* the caller's pointer to this; NULL when it is gone */
	struct question *question; /* to the resolver; NULL: none, or it has answered */
	struct attempt attempt[RESOLVE_MAX];
	unsigned count, started;
	uint64_t next_ms, end_ms; /* when to try the next address; to give up on the name, or then on all addresses */
	int error;                /* of the last attempt */
	bool granted;             /* by the user: no rule need allow it (grants.c) */
};

/* ---- Addresses ---- */

/* Whether the address is one of this host's: then the way to it begins there. Returns 0, or -errno where that cannot be asked. */
static int find_own(const struct ip_addr *a, bool *own)
{
	struct sockaddr_storage to, from;
	socklen_t bytes = addr_socket(a, 9, &to), from_bytes = sizeof from;
	int fd = socket(to.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	*own = false;
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&to, bytes) == 0 &&
	    getsockname(fd, (struct sockaddr *)&from, &from_bytes) == 0 && from.ss_family == to.ss_family)
		*own = addr_is_v4(a) ? ((struct sockaddr_in *)&from)->sin_addr.s_addr == ((struct sockaddr_in *)&to)->sin_addr.s_addr
				     : memcmp(&((struct sockaddr_in6 *)&from)->sin6_addr, a->byte, 16) == 0;
	io_close(&fd);
	return 0;
}

/* ---- Ends ---- */

static void attempt_end(struct attempt *a)
{
	if (a->source.fd < 0)
		return;
	loop_remove(a->dial->dialer->loop, &a->source);
	io_close(&a->source.fd);
}

static void destroy(struct dial *d)
{
	struct dialer *all = d->dialer;
	struct dial **at = &all->dials;
	while (*at != d)
		at = &(*at)->next;
	*at = d->next;
	all->count--;
	resolver_forget(d->question);
	for (unsigned i = 0; i < d->started; i++)
		attempt_end(&d->attempt[i]);
	*d->out = NULL;
	free(d);
}

/* The dial is over, and gone; then its owner is told. */
static void end(struct dial *d, const struct dial_result *r)
{
	dial_fn done = d->done;
	void *context = d->context;
	destroy(d);
	done(context, r);
}

static void fail(struct dial *d, int error, const char *reason)
{
	end(d, &(struct dial_result){.fd = -1, .error = error, .reason = reason});
}

static void set_limit(struct dial *d)
{
	unsigned limit_ms = d->dialer->limit_ms;
	d->end_ms = clock_ms() + (limit_ms ? limit_ms : GATE_LIMIT_MS);
}

static void time_out(struct dial *d)
{
	fail(d, ETIMEDOUT, d->question ? NO_RESOLVER : NULL);
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
	struct dial_result r = {.fd = a->source.fd, .addr = a->addr, .own = a->own, .granted = d->granted};
	loop_remove(d->dialer->loop, &a->source);
	a->source.fd = -1;
	end(d, &r);
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
	return loop_add(d->dialer->loop, &a->source, EPOLLOUT);
}

/* Tries the next address that there is. Where none is left and none is under way, the dial has failed; it is gone then. */
static void start_next(struct dial *d)
{
	while (d->started < d->count) {
		make_room(d);
		struct attempt *a = &d->attempt[d->started++];
		int rc = start(a);
		if (rc == 0) {
			d->next_ms = clock_ms() + HEAD_START_MS;
			return;
		}
		d->error = -rc;
		io_close(&a->source.fd);
	}
	d->next_ms = 0;
	for (unsigned i = 0; i < d->started; i++)
		if (d->attempt[i].source.fd >= 0)
			return;
	fail(d, d->error, NULL);
}

/* The addresses of the name are known: those that the policy allows are dialled. */
static void resolved(void *context, const struct ip_addr *addr, unsigned count, int error)
{
	struct dial *d = context;
	struct policy_decision denied = {.verdict = POLICY_DENY};
	d->question = NULL;
	set_limit(d);
	for (unsigned i = 0; i < count && d->count < RESOLVE_MAX; i++) {
		bool own;
		int rc = find_own(&addr[i], &own);
		if (rc) {
			error = -rc;
			continue;
		}
		struct policy_decision decision = policy_decide_address(d->dialer->policy, &d->wanted, &addr[i], own);
		if (decision.verdict == POLICY_DENY && !(d->granted && grants_reach(&decision, &addr[i], own))) {
			denied = decision;
			continue;
		}
		d->attempt[d->count++] = (struct attempt){.source.fd = -1, .dial = d, .addr = addr[i], .own = own};
	}
	if (d->count)
		start_next(d);
	else if (denied.reason)
		fail(d, EPERM, denied.reason);
	else
		fail(d, error, error == ETIMEDOUT ? NO_RESOLVER : NULL);
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
		while (count < RESOLVE_MAX && policy_pinned(d->dialer->policy, d->wanted.name, &from, &out[count]))
			count++;
	}
	return count;
}

static void begin(struct dial *d)
{
	struct dialer *all = d->dialer;
	struct ip_addr known[RESOLVE_MAX];
	unsigned count = known_addresses(d, known);
	int rc = 0;
	if (count == 0 && !all->resolver) /* not before a name is to be resolved */
		rc = resolver_create(all->loop, all->dns_servers, &all->resolver);
	if (count)
		resolved(d, known, count, 0);
	else if (rc)
		fail(d, -rc, NULL);
	else
		resolver_ask(all->resolver, d->wanted.name, resolved, d, &d->question);
}

/*
 * Whether one more flow may be opened: a target has at most as many under way as there are places left for others, so that
 * one that does not answer does not keep the rest from being reached.
 */
static bool has_place(const struct dialer *all, const struct gate_request *r)
{
	unsigned same = 0;
	for (const struct dial *d = all->dials; d; d = d->next)
		same += gate_same_target(&d->target, r);
	return same < DIALS_MAX - all->count;
}

/*
 * Connects to `target`, which the policy allows, or, where `granted` is true, the user does. `done` is told how that ends, perhaps
 * before this returns. *out is the dial meanwhile, for dial_cancel(), and NULL when `done` is called.
 */
void dial_start(struct dialer *all, const struct gate_request *target, bool granted, dial_fn done, void *context, struct dial **out)
{
	struct dial *d = has_place(all, target) ? calloc(1, sizeof *d) : NULL;
	*out = d;
	if (!d) {
		done(context, &(struct dial_result){.fd = -1, .error = EAGAIN});
		return;
	}
	d->dialer = all;
	d->next = all->dials;
	all->dials = d;
	all->count++;
	all->started++;
	d->target = *target;
	d->wanted = (struct policy_request){
		.proto = target->proto, .name = target->name[0] ? d->target.name : NULL, .addr = target->addr, .port = target->port};
	d->granted = granted;
	d->done = done;
	d->context = context;
	d->out = out;
	set_limit(d);
	begin(d);
}

/* Ends a dial without a word. Accepts NULL. */
void dial_cancel(struct dial *d)
{
	if (d)
		destroy(d);
}

/* ---- Time ---- */

/* Does what is due. Returns how long until something is next, in milliseconds; -1: nothing waits. */
int dialer_tick(struct dialer *all)
{
	uint64_t now = clock_ms(), next = UINT64_MAX;
	resolver_tick(all->resolver);
	for (struct dial *d = all->dials; d;) {
		uint64_t due = d->next_ms && d->started < d->count && d->next_ms < d->end_ms ? d->next_ms : d->end_ms;
		if (due > now) {
			next = due < next ? due : next;
			d = d->next;
			continue;
		}
		if (d->end_ms <= now)
			time_out(d);
		else
			start_next(d);
		next = UINT64_MAX;
		d = all->dials; /* whoever was told of an end may have ended others */
	}
	int resolver_ms = resolver_timeout_ms(all->resolver);
	int ms = next == UINT64_MAX ? -1 : (int)(next - now);
	return resolver_ms >= 0 && (ms < 0 || resolver_ms < ms) ? resolver_ms : ms;
}

/* Ends every dial without a word. */
void dialer_destroy(struct dialer *all)
{
	while (all->dials)
		destroy(all->dials);
}
