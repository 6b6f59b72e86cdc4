/*
 * UDP flows that a rule allows: udp:HOST:PORT.
 *
 * Theory of operation
 * -------------------
 * Purpose: datagrams from one port of the guest to one port of a server, and back, through a connected socket that the gate
 * has made. The socket only takes datagrams from the address that was allowed.
 *
 * States: asked (the gate was; the first datagrams are kept) -> open. A flow ends when it was idle for IDLE_MS, when its
 * place is needed and it is the one that was used least lately, when its rule is revoked, or when the gate refuses it.
 *
 * UDP may lose datagrams, so that nothing waits: what the socket does not take at once, what comes for a guest whose ring is
 * full beyond what the socket's buffer holds, and what is larger than the MTU is dropped and counted. What is denied,
 * refused or answered by nobody gets an ICMP port-unreachable message, so that the guest's program knows at once.
 *
 * Limits: UDP_FLOWS_MAX flows, WAITING_MAX_BYTES of each while the gate is asked. Nothing is allocated before the first.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "virtio/net/flow.h"
#include "virtio/net/gate/proto.h"
#include "virtio/net/udp_flow.h"
#include "vmm/util/io.h"

enum {
	BUCKETS = 1024,
	IDLE_MS = 180000,
	WAITING_MAX_BYTES = 16384,
	DATAGRAM_MAX_BYTES = 65535,
	TURN_DATAGRAMS = 64,
};

struct udp_flow {
	struct net *net;
	struct udp_flow *hash_next, *newer, *older;
	uint32_t slot, generation;
	struct ip_addr guest, remote;
	uint16_t guest_port, remote_port;
	struct name_entry *name; /* NULL: the guest has only the address */
	struct loop_source source; /* fd -1: the gate is asked */
	struct buf kept;           /* datagrams, each with its 16-bit length before it */
	uint64_t used_ms, start_ms;
	struct ip_addr dialled;
	bool dialled_own;
	bool paused; /* the socket is not watched until the guest has buffers */
	uint64_t from_guest_bytes, to_guest_bytes;
};

struct udp {
	struct udp_flow *bucket[BUCKETS];
	struct udp_flow *slot[UDP_FLOWS_MAX];
	uint32_t generation, next_slot, count;
	uint64_t secret;
	struct udp_flow *newest, *oldest;
	struct loop_source timer;
	bool paused; /* some flows are */
};

/* ---- The table ---- */

static struct udp_flow **find(struct udp *u, const struct packet *p, uint16_t guest_port, uint16_t remote_port)
{
	struct udp_flow **at = &u->bucket[flow_hash(u->secret, &p->from, guest_port, &p->to, remote_port) % BUCKETS];
	for (; *at; at = &(*at)->hash_next)
		if ((*at)->guest_port == guest_port && (*at)->remote_port == remote_port && addr_equal(&(*at)->guest, &p->from) &&
		    addr_equal(&(*at)->remote, &p->to))
			break;
	return at;
}

static void take_out(struct udp *u, struct udp_flow *f)
{
	*(f->newer ? &f->newer->older : &u->newest) = f->older;
	*(f->older ? &f->older->newer : &u->oldest) = f->newer;
}

static void put_first(struct udp *u, struct udp_flow *f)
{
	f->newer = NULL;
	f->older = u->newest;
	*(u->newest ? &u->newest->newer : &u->oldest) = f;
	u->newest = f;
}

static void used(struct udp_flow *f)
{
	struct udp *u = f->net->udp;
	f->used_ms = flow_now_ms();
	if (u->newest == f)
		return;
	take_out(u, f);
	put_first(u, f);
}

static struct policy_request request_of(const struct udp_flow *f)
{
	return (struct policy_request){
		.proto = NET_UDP, .name = f->name ? f->name->name : NULL, .addr = f->remote, .port = f->remote_port};
}

/* Ends a flow; `reason` is for the record (NULL: it was idle). */
static void destroy(struct udp_flow *f, const char *reason)
{
	struct flow_summary s = {.request = request_of(f), .addr = f->dialled, .start_ms = f->start_ms,
				 .from_guest_bytes = f->from_guest_bytes, .to_guest_bytes = f->to_guest_bytes};
	if (f->source.fd >= 0)
		record_close(f->net, &s, reason);
	struct udp *u = f->net->udp;
	struct udp_flow **at = &u->bucket[flow_hash(u->secret, &f->guest, f->guest_port, &f->remote, f->remote_port) % BUCKETS];
	while (*at != f)
		at = &(*at)->hash_next;
	*at = f->hash_next;
	take_out(u, f);
	if (f->source.fd >= 0)
		loop_remove(f->net->loop, &f->source);
	io_close(&f->source.fd);
	buf_free(&f->kept);
	if (f->name)
		f->name->flows--;
	u->slot[f->slot] = NULL;
	u->count--;
	free(f);
}

static void set_timer(struct udp *u)
{
	uint64_t at_ms = u->oldest ? u->oldest->used_ms + IDLE_MS : 0;
	struct itimerspec when = {.it_value = {(time_t)(at_ms / 1000), (long)(at_ms % 1000) * 1000000}};
	timerfd_settime(u->timer.fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static void timer_ready(void *context, uint32_t events)
{
	(void)events;
	struct net *n = context;
	uint64_t expirations, now = flow_now_ms();
	pthread_mutex_lock(&n->device.lock);
	(void)!read(n->udp->timer.fd, &expirations, sizeof expirations);
	while (n->udp->oldest && n->udp->oldest->used_ms + IDLE_MS <= now)
		destroy(n->udp->oldest, NULL);
	set_timer(n->udp);
	pthread_mutex_unlock(&n->device.lock);
}

/* Makes n->udp where there is none. Returns 0 or -errno. */
static int prepare(struct net *n)
{
	if (n->udp)
		return 0;
	struct udp *u = calloc(1, sizeof *u);
	if (!u)
		return -ENOMEM;
	u->secret = flow_secret();
	u->timer = (struct loop_source){
		.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), .ready = timer_ready, .context = n};
	int rc = u->timer.fd < 0 ? -errno : loop_add(n->loop, &u->timer, EPOLLIN);
	if (rc) {
		io_close(&u->timer.fd);
		free(u);
		return rc;
	}
	n->udp = u;
	return 0;
}

static struct udp_flow *create(struct net *n, const struct packet *p, uint16_t guest_port, uint16_t remote_port)
{
	struct udp *u = n->udp;
	if (u->count == UDP_FLOWS_MAX)
		destroy(u->oldest, "too many flows");
	struct udp_flow *f = calloc(1, sizeof *f), **at = find(u, p, guest_port, remote_port);
	if (!f)
		return NULL;
	while (u->slot[u->next_slot % UDP_FLOWS_MAX])
		u->next_slot++;
	*f = (struct udp_flow){
		.net = n,
		.slot = u->next_slot % UDP_FLOWS_MAX,
		.generation = ++u->generation,
		.guest = p->from,
		.remote = p->to,
		.guest_port = guest_port,
		.remote_port = remote_port,
		.name = names_find(&n->names, &p->to),
		.source.fd = -1,
		.used_ms = flow_now_ms(),
		.start_ms = flow_now_ms(),
	};
	if (f->name)
		f->name->flows++;
	u->slot[f->slot] = f;
	*at = f;
	put_first(u, f);
	if (u->count++ == 0)
		set_timer(u);
	n->count.flows++;
	return f;
}

/* ---- From the guest ---- */

static void unreachable(struct udp_flow *f)
{
	icmp_port_unreachable(f->net, &f->guest, f->guest_port, &f->remote, f->remote_port);
}

/* Sends a datagram; where an error of an earlier one is in the way, once more. */
static void to_server(struct udp_flow *f, struct iovec *iov, unsigned count)
{
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = count};
	for (int i = 0; i < 2; i++) {
		ssize_t sent = sendmsg(f->source.fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
		f->from_guest_bytes += sent > 0 ? (size_t)sent : 0;
		if (sent >= 0)
			return;
		if (errno == EAGAIN || errno == EMSGSIZE)
			break;
		unreachable(f);
	}
	f->net->count.unsent++;
}

static void keep(struct udp_flow *f, const struct packet *p, size_t offset, size_t bytes)
{
	uint16_t length = (uint16_t)bytes;
	size_t before = f->kept.len;
	if (before + sizeof length + bytes > WAITING_MAX_BYTES || buf_add(&f->kept, &length, sizeof length) ||
	    buf_reserve(&f->kept, bytes)) {
		f->kept.len = before;
		f->net->count.unsent++;
		return;
	}
	f->kept.len += packet_copy(p, offset, f->kept.data + f->kept.len, bytes);
}

static void deny(struct net *n, const struct packet *p, const struct policy_request *r, uint16_t guest_port, const char *reason)
{
	record_flow(n, r, VERDICT_DENY, NULL, reason);
	icmp_port_unreachable(n, &p->from, guest_port, &p->to, r->port);
}

/* The first datagram of a flow: the policy decides, then the gate is asked. Returns NULL where there is no flow. */
static struct udp_flow *open_flow(struct net *n, const struct packet *p, uint16_t guest_port, uint16_t remote_port)
{
	const struct name_entry *name = names_find(&n->names, &p->to);
	struct policy_request r = {.proto = NET_UDP, .name = name ? name->name : NULL, .addr = p->to, .port = remote_port};
	struct policy_decision d = policy_decide(&n->config.policy, &r);
	if (d.verdict == POLICY_DENY) {
		deny(n, p, &r, guest_port, d.reason);
		return NULL;
	}
	struct udp_flow *f = prepare(n) ? NULL : create(n, p, guest_port, remote_port);
	if (!f || gate_ask(n, UDP_FLOW_ID | (uint64_t)f->generation << 32 | f->slot, &r)) {
		icmp_port_unreachable(n, &p->from, guest_port, &p->to, remote_port);
		if (f)
			destroy(f, NULL);
		return NULL;
	}
	return f;
}

/* A datagram of the guest's to a server: `bytes` of data from `offset` of the packet's payload on. */
void udp_flow_input(struct net *n, const struct packet *p, uint16_t guest_port, uint16_t remote_port, size_t offset, size_t bytes)
{
	struct udp_flow *f = n->udp ? *find(n->udp, p, guest_port, remote_port) : NULL;
	if (!f)
		f = open_flow(n, p, guest_port, remote_port);
	if (!f)
		return;
	used(f);
	if (f->source.fd < 0) {
		keep(f, p, offset, bytes);
		return;
	}
	struct iovec iov[VQ_IOV_MAX] VQ_UNINITIALIZED;
	const struct vq_chain *c = p->frame->chain;
	to_server(f, iov, vq_slice(c->iov, c->out_count, sizeof p->frame->vnet + p->offset + offset, bytes, iov));
}

/* ---- To the guest ---- */

/* Takes one datagram from the socket. Returns false where there is none now. */
static bool from_server(struct udp_flow *f)
{
	static uint8_t data[DATAGRAM_MAX_BYTES]; /* one thread runs this */
	struct net *n = f->net;
	ssize_t bytes = recv(f->source.fd, data, sizeof data, MSG_DONTWAIT);
	if (bytes < 0) {
		if (errno != EAGAIN && errno != EINTR)
			unreachable(f); /* and the error is taken */
		return errno == EINTR;
	}
	used(f);
	f->to_guest_bytes += (size_t)bytes;
	size_t max = n->config.mtu - (addr_is_v4(&f->guest) ? 28 : 48);
	if ((size_t)bytes > max)
		n->count.oversized++;
	else if (udp_reply(n, &f->remote, f->remote_port, &f->guest, f->guest_port, data, (size_t)bytes))
		n->count.unsent++;
	return true;
}

static void socket_ready(void *context, uint32_t events)
{
	(void)events;
	struct udp_flow *f = context;
	struct net *n = f->net;
	pthread_mutex_lock(&n->device.lock);
	for (unsigned i = 0; i < TURN_DATAGRAMS && !n->rx_starved && from_server(f); i++)
		;
	if (n->rx_starved) {
		loop_remove(n->loop, &f->source); /* an error would be reported whatever is watched */
		n->udp->paused = f->paused = true;
	}
	net_flush(n);
	pthread_mutex_unlock(&n->device.lock);
}

/* The guest has buffers again. */
void udp_flush(struct net *n)
{
	if (!n->udp || !n->udp->paused)
		return;
	n->udp->paused = false;
	for (struct udp_flow *f = n->udp->newest, *next; f; f = next) {
		next = f->older;
		if (f->paused && loop_add(n->loop, &f->source, EPOLLIN))
			destroy(f, "out of descriptors");
		else
			f->paused = false;
	}
}

/* ---- The gate, the policy ---- */

/*
 * The gate's answer for flow `id`: `fd`, a connected socket that becomes the flow's, or -1 and a positive errno, with the
 * reason where that is EPERM. With the device's lock held.
 */
void udp_opened(struct net *n, const struct gate_reply *reply, int fd)
{
	uint32_t slot = (uint32_t)(reply->id & ~UDP_FLOW_ID);
	struct udp_flow *f = n->udp && slot < UDP_FLOWS_MAX ? n->udp->slot[slot] : NULL;
	if (!f || (UDP_FLOW_ID | (uint64_t)f->generation << 32 | slot) != reply->id || f->source.fd >= 0) {
		io_close(&fd);
		return;
	}
	f->source = (struct loop_source){.fd = fd, .ready = socket_ready, .context = f};
	struct policy_request r = request_of(f);
	if (reply->error || fd < 0 || loop_add(n->loop, &f->source, EPOLLIN)) {
		bool denied = reply->error == EPERM;
		record_flow(n, &r, denied ? VERDICT_DENY : VERDICT_FAILED, NULL, record_error(reply));
		unreachable(f);
		io_close(&f->source.fd);
		destroy(f, NULL);
		return;
	}
	f->dialled = reply->addr;
	f->dialled_own = reply->own;
	record_flow(n, &r, VERDICT_ALLOW, &f->dialled, NULL);
	for (size_t at = 0; at < f->kept.len;) {
		uint16_t bytes;
		memcpy(&bytes, f->kept.data + at, sizeof bytes);
		to_server(f, &(struct iovec){f->kept.data + at + sizeof bytes, bytes}, 1);
		at += sizeof bytes + bytes;
	}
	buf_free(&f->kept);
}

/* There is no gate any more: what waits for it is refused. With the device's lock held. */
void udp_gate_lost(struct net *n)
{
	for (struct udp_flow *f = n->udp ? n->udp->newest : NULL, *next; f; f = next) {
		next = f->older;
		if (f->source.fd < 0) {
			unreachable(f);
			destroy(f, NULL);
		}
	}
}

/* The rules have changed: flows that they do not allow any more end. With the device's lock held. */
void udp_policy_changed(struct net *n)
{
	for (struct udp_flow *f = n->udp ? n->udp->newest : NULL, *next; f; f = next) {
		struct policy_request r = request_of(f);
		next = f->older;
		bool open = f->source.fd >= 0, allowed = policy_decide(&n->config.policy, &r).verdict != POLICY_DENY;
		if (allowed && open)
			allowed = policy_decide_address(&n->config.policy, &r, &f->dialled, f->dialled_own).verdict != POLICY_DENY;
		if (!allowed) {
			record_flow(n, &r, VERDICT_DENY, open ? &f->dialled : NULL, "the rule was taken back");
			unreachable(f);
			destroy(f, "the rule was taken back");
		}
	}
}

/* Frees n->udp, all flows with it. */
void udp_destroy(struct net *n)
{
	if (!n->udp)
		return;
	while (n->udp->oldest)
		destroy(n->udp->oldest, "the sandbox ended");
	loop_remove(n->loop, &n->udp->timer);
	io_close(&n->udp->timer.fd);
	free(n->udp);
	n->udp = NULL;
}
