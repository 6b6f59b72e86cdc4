/*
 * TCP towards the guest (RFC 9293), terminated here: each flow is a socket on the other side.
 *
 * Theory of operation
 * -------------------
 * States of a flow:
 *
 *      DIALING       the guest's SYN is here, the gate is asked for a socket; nothing was answered yet
 *      SYN_RECEIVED  the socket is connected, our SYN-ACK is on its way
 *      OPEN          until both sides have sent FIN and have it acknowledged; each side may close first
 *      TIME_WAIT     we closed first, and both are done: only to answer a FIN that comes again
 *
 * From the guest: data in order goes from the ring to the socket at once; what that does not take is kept, and the window
 * says how much may come. What is not in order is dropped and asked for again: the link loses nothing, so only a guest
 * that wants to be slow is. Data that is kept counts against one budget of all flows, beyond which it is dropped
 * unacknowledged.
 *
 * To the guest: data is read from the socket only when all that was read before is sent, up to one large segment, and
 * kept until it is acknowledged, for a guest may drop what it was given. There is no congestion to control; a timer sends
 * again from the first unacknowledged byte.
 *
 * What a flow says is looked at where the policy allowed it for TLS and HTTP only (inspect.c): data is then kept until it
 * may pass. A flow without a socket is answered here: DNS over TCP, and requests that get a page that says why they are
 * denied. So is the rest of a flow whose request was denied.
 *
 * Everything a flow owes the guest is state (owes_ack, fin...), never a queue of packets. Flows that may have something to
 * send are in a queue and take turns; when the guest has no buffer left, the queue waits for its next notification.
 *
 * Invariants: kept data and segments of one flow are bounded by KEPT_MAX_BYTES and SEND_MAX_BYTES, flows by FLOWS_MAX; the
 * guest's bytes reach the socket once and in order, or the flow ends by RST on both sides.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "virtio/net/inspect.h"
#include "virtio/net/link.h"
#include "virtio/net/net_priv.h"
#include "virtio/net/report.h"
#include "vmm/util/buf.h"
#include "vmm/util/io.h"

enum {
	FLOWS_MAX = 4096,
	HASH_BUCKETS = 4096,
	HEAD_BYTES = 20,
	SYN_OPTIONS_BYTES = 8,

	KEPT_MAX_BYTES = 1 << 20, /* from the guest, of one flow: the window */
	BUDGET_BYTES = 64 << 20,  /* of all flows */
	SEND_MAX_BYTES = 1 << 20, /* to the guest, of one flow: unacknowledged */
	SEGMENT_MAX_BYTES = GSO_MAX_BYTES - 40 - HEAD_BYTES,
	WINDOW_SHIFT = 5, /* our window scale */
	TURN_SEGMENTS = 8,

	MSS_DEFAULT_V4 = 536,
	MSS_DEFAULT_V6 = 1220,
	MSS_MIN = 64,
	RTO_FIRST_MS = 250,
	RTO_MAX_MS = 10000,
	RETRIES_MAX = 12,
	TIME_WAIT_MS = 1000,
	LOCAL_MAX_MS = 30000, /* of a flow that is answered here */
	LOCAL_SEND_MAX_BYTES = 64 << 10,
	PAGE_MAX_BYTES = 2048,
	PORT_HTTP = 80,
	DUPLICATE_ACKS = 3,

	FIN = 1,
	SYN = 2,
	RST = 4,
	PSH = 8,
	ACK = 16,
};

enum state {
	DIALING,
	SYN_RECEIVED,
	OPEN,
	TIME_WAIT,
};

/* Who answers a flow. */
enum service {
	SERVICE_SERVER, /* the socket */
	SERVICE_DNS,
	SERVICE_PAGE, /* a denial, in HTTP */
	SERVICE_DONE, /* nobody any more: what the guest still says is dropped */
};

/* Data from the socket, until the guest has acknowledged all of it. */
struct segment {
	struct segment *next;
	uint32_t seq;
	uint32_t bytes;
	uint8_t data[];
};

struct flow {
	struct net *net;
	struct flow *hash_next;
	struct flow *turn_next;
	bool in_turn;
	uint32_t slot, generation;
	enum state state;
	struct ip_addr guest, remote;
	uint16_t guest_port, remote_port;
	struct name_entry *name; /* NULL: the guest has only the address */
	enum service service;
	uint64_t expires_ms; /* of a flow that is answered here; 0: it does not */
	struct loop_source source; /* fd -1: none (yet) */
	bool readable, writable;

	/* To the guest. */
	struct segment *first, **last, *cursor; /* cursor: has snd_nxt; NULL: all is sent */
	uint32_t snd_una, snd_nxt, snd_max, snd_end; /* end: of what was read */
	uint32_t snd_wnd;
	uint8_t snd_shift;
	bool scales; /* the guest knows window scales */
	uint16_t mss;
	unsigned duplicate_acks, retries;
	bool host_ended, fin_sent, fin_acked;
	bool owes_syn_ack, owes_ack, owes_rst;
	uint64_t deadline_ms; /* 0: none */

	/* From the guest. */
	uint32_t rcv_nxt, rcv_edge; /* edge: of the window that we told */
	struct buf kept;
	struct inspect inspect;
	size_t passed; /* of what is kept: it may go to the socket, while the flow is looked at */
	bool guest_ended, guest_ended_first, shut;

	uint64_t from_guest_bytes, to_guest_bytes, start_ms;
};

struct tcp {
	struct flow *bucket[HASH_BUCKETS];
	struct flow *slot[FLOWS_MAX];
	uint32_t free_slot[FLOWS_MAX];
	uint32_t free_slots, generation;
	struct flow *turn_first, **turn_last;
	struct loop_source timer;
	uint64_t timer_ms; /* when it is set to; 0: not */
	size_t kept_bytes;
	uint64_t secret;
};

struct header {
	uint16_t from_port, to_port;
	uint32_t seq, ack;
	uint16_t window;
	uint8_t flags;
	size_t head_bytes;
};

static bool after(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) > 0;
}

static uint64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- The table ---- */

static uint32_t hash(const struct tcp *t, const struct ip_addr *guest, uint16_t guest_port, const struct ip_addr *remote,
		     uint16_t remote_port)
{
	uint64_t part[4], h = t->secret ^ ((uint64_t)guest_port << 16 | remote_port);
	memcpy(part, guest, 16);
	memcpy(part + 2, remote, 16);
	for (int i = 0; i < 4; i++) {
		h = (h ^ part[i]) * 0x9e3779b97f4a7c15u;
		h ^= h >> 29;
	}
	return (uint32_t)(h >> 20) % HASH_BUCKETS;
}

static struct flow **find(struct tcp *t, const struct packet *p, uint16_t guest_port, uint16_t remote_port)
{
	struct flow **at = &t->bucket[hash(t, &p->from, guest_port, &p->to, remote_port)];
	for (; *at; at = &(*at)->hash_next)
		if ((*at)->guest_port == guest_port && (*at)->remote_port == remote_port && addr_equal(&(*at)->guest, &p->from) &&
		    addr_equal(&(*at)->remote, &p->to))
			break;
	return at;
}

static void join_turn(struct flow *f)
{
	struct tcp *t = f->net->tcp;
	if (f->in_turn)
		return;
	f->in_turn = true;
	f->turn_next = NULL;
	*t->turn_last = f;
	t->turn_last = &f->turn_next;
}

static void leave_turn(struct flow *f)
{
	struct tcp *t = f->net->tcp;
	if (!f->in_turn)
		return;
	struct flow **at = &t->turn_first;
	while (*at != f)
		at = &(*at)->turn_next;
	*at = f->turn_next;
	if (!*at)
		t->turn_last = at;
	f->in_turn = false;
}

static void set_timer(struct tcp *t, uint64_t at_ms)
{
	struct itimerspec when = {.it_value = {(time_t)(at_ms / 1000), (long)(at_ms % 1000) * 1000000}};
	t->timer_ms = at_ms;
	timerfd_settime(t->timer.fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Sets the flow's deadline; the timer only where that is earlier than what it is set to. */
static void set_deadline(struct flow *f, unsigned after_ms)
{
	struct tcp *t = f->net->tcp;
	f->deadline_ms = now_ms() + after_ms;
	if (t->timer_ms == 0 || f->deadline_ms < t->timer_ms)
		set_timer(t, f->deadline_ms);
}

static unsigned rto_ms(const struct flow *f)
{
	unsigned ms = (unsigned)RTO_FIRST_MS << (f->retries < 8 ? f->retries : 8);
	return ms < RTO_MAX_MS ? ms : RTO_MAX_MS;
}

static void close_socket(struct flow *f, bool reset)
{
	if (f->source.fd < 0)
		return;
	if (reset) {
		static const struct linger at_once = {.l_onoff = 1};
		setsockopt(f->source.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
	}
	loop_remove(f->net->loop, &f->source);
	io_close(&f->source.fd);
}

static void drop_kept(struct flow *f)
{
	f->net->tcp->kept_bytes -= f->kept.len;
	buf_free(&f->kept);
}

static void drop_segments(struct flow *f)
{
	while (f->first) {
		struct segment *s = f->first;
		f->first = s->next;
		free(s);
	}
	f->last = &f->first;
	f->cursor = NULL;
}

/* Ends a flow here; `reason` is for the record (NULL: it ended as it should). */
static void destroy(struct flow *f, const char *reason)
{
	struct tcp *t = f->net->tcp;
	struct flow **at = &t->bucket[hash(t, &f->guest, f->guest_port, &f->remote, f->remote_port)];
	while (*at != f)
		at = &(*at)->hash_next;
	*at = f->hash_next;
	leave_turn(f);
	close_socket(f, reason != NULL);
	drop_kept(f);
	drop_segments(f);
	if (f->name)
		f->name->flows--;
	t->slot[f->slot] = NULL;
	t->free_slot[t->free_slots++] = f->slot;
	free(f);
}

/* ---- To the guest ---- */

static uint32_t window(const struct flow *f)
{
	size_t room = f->net->tcp->kept_bytes < BUDGET_BYTES && f->kept.len < KEPT_MAX_BYTES ? KEPT_MAX_BYTES - f->kept.len : 0;
	uint32_t edge = f->rcv_nxt + (uint32_t)room;
	return after(edge, f->rcv_edge) ? edge - f->rcv_nxt : f->rcv_edge - f->rcv_nxt; /* what was promised stays so */
}

/* Sends a segment of the flow: `flags` beside ACK, data from snd_nxt on. Returns what ip_send() does. */
static int send_segment(struct flow *f, uint8_t flags, const void *data, size_t data_bytes)
{
	uint8_t head[HEAD_BYTES + SYN_OPTIONS_BYTES] = {0};
	bool syn = flags & SYN;
	struct segment_out s = {
		.from = f->remote,
		.to = f->guest,
		.proto = IP_TCP,
		.head = head,
		.head_bytes = HEAD_BYTES + (syn ? SYN_OPTIONS_BYTES : 0),
		.data = data,
		.data_bytes = data_bytes,
		.gso_bytes = data_bytes > f->mss ? f->mss : 0,
	};
	uint32_t room = window(f);
	unsigned shift = syn || !f->scales ? 0 : WINDOW_SHIFT;
	uint32_t told = room >> shift > UINT16_MAX ? UINT16_MAX : room >> shift;
	set16(head, f->remote_port);
	set16(head + 2, f->guest_port);
	set32(head + 4, f->snd_nxt);
	set32(head + 8, f->rcv_nxt);
	head[12] = (uint8_t)(s.head_bytes / 4 << 4);
	head[13] = flags | ACK;
	set16(head + 14, told);
	if (syn) {
		bool v4 = addr_is_v4(&f->guest);
		static const uint8_t scale[4] = {1, 3, 3, WINDOW_SHIFT}; /* after a NOP */
		head[20] = 2;
		head[21] = 4;
		set16(head + 22, f->net->config.mtu - (v4 ? 40 : 60));
		if (f->scales)
			memcpy(head + 24, scale, sizeof scale); /* otherwise zeroes: the end of the options */
	}
	int rc = ip_send(f->net, &s);
	if (rc == 0) {
		f->owes_ack = false;
		f->rcv_edge = f->rcv_nxt + (told << shift);
	}
	return rc;
}

/* Answers a segment that belongs to no flow (RFC 9293, 3.10.7.1). */
static void send_reset(struct net *n, const struct packet *p, const struct header *h, size_t data_bytes)
{
	uint8_t head[HEAD_BYTES] = {0};
	struct segment_out s = {.from = p->to, .to = p->from, .proto = IP_TCP, .head = head, .head_bytes = sizeof head};
	set16(head, h->to_port);
	set16(head + 2, h->from_port);
	if (h->flags & ACK)
		set32(head + 4, h->ack);
	else
		set32(head + 8, h->seq + (uint32_t)data_bytes + (h->flags & SYN ? 1 : 0) + (h->flags & FIN ? 1 : 0));
	head[12] = HEAD_BYTES / 4 << 4;
	head[13] = h->flags & ACK ? RST : RST | ACK;
	if (ip_send(n, &s))
		n->count.unsent++;
}

static uint32_t segment_max(const struct flow *f)
{
	bool v4 = addr_is_v4(&f->guest);
	if (!net_offers(f->net, v4 ? VIRTIO_NET_F_GUEST_TSO4 : VIRTIO_NET_F_GUEST_TSO6))
		return f->mss;
	return SEGMENT_MAX_BYTES / f->mss * f->mss;
}

static void look(struct flow *f);
static void to_socket(struct flow *f);

static void add_segment(struct flow *f, struct segment *s, size_t bytes)
{
	*s = (struct segment){.seq = f->snd_end, .bytes = (uint32_t)bytes};
	*f->last = s;
	f->last = &s->next;
	if (!f->cursor)
		f->cursor = s;
	f->snd_end += (uint32_t)bytes;
	f->to_guest_bytes += bytes;
}

/* Reads one segment from the socket. Returns whether there is something new to send. */
static bool read_segment(struct flow *f)
{
	uint32_t unacked = f->snd_end - f->snd_una, max = segment_max(f);
	if (!f->readable || f->host_ended || f->source.fd < 0 || unacked >= SEND_MAX_BYTES)
		return false;
	struct segment *s = malloc(sizeof *s + max);
	if (!s)
		return false;
	ssize_t n = recv(f->source.fd, s->data, max, MSG_DONTWAIT);
	if (n <= 0) {
		int error = n ? errno : 0;
		free(s);
		if (n < 0 && (error == EAGAIN || error == EINTR)) {
			f->readable = error == EINTR;
			return false;
		}
		f->host_ended = n == 0;
		f->owes_rst = n < 0;
		return true;
	}
	struct segment *smaller = (uint32_t)n < max ? realloc(s, sizeof *s + (size_t)n) : s;
	add_segment(f, smaller ? smaller : s, (size_t)n);
	if (f->inspect.kind != INSPECT_OFF) {
		inspect_server(&f->inspect, f->cursor->data, (size_t)n);
		look(f);
		to_socket(f);
	}
	return true;
}

/* Sends what the guest's window takes of the segment at the cursor. Returns 1, 0 where that is nothing, or as ip_send(). */
static int send_data(struct flow *f)
{
	struct segment *s = f->cursor;
	uint32_t in_flight = f->snd_nxt - f->snd_una, max = segment_max(f);
	uint32_t room = f->snd_wnd > in_flight ? f->snd_wnd - in_flight : 0;
	uint32_t offset = f->snd_nxt - s->seq, bytes = s->bytes - offset;
	if (room == 0 && in_flight == 0 && f->retries)
		room = 1; /* a probe of a window that is shut (3.8.6.1) */
	if (bytes > room)
		bytes = room;
	if (bytes > max) /* a retransmission, after the features changed */
		bytes = max;
	if (bytes == 0) {
		if (!f->deadline_ms)
			set_deadline(f, rto_ms(f));
		return 0;
	}
	int rc = send_segment(f, PSH, s->data + offset, bytes);
	if (rc)
		return rc;
	f->snd_nxt += bytes;
	if (offset + bytes == s->bytes)
		f->cursor = s->next;
	if (after(f->snd_nxt, f->snd_max))
		f->snd_max = f->snd_nxt;
	if (!f->deadline_ms)
		set_deadline(f, rto_ms(f));
	return 1;
}

static int send_fin(struct flow *f)
{
	int rc = send_segment(f, FIN, NULL, 0);
	if (rc)
		return rc;
	f->fin_sent = true;
	f->snd_nxt++;
	f->snd_max = f->snd_nxt;
	if (!f->deadline_ms)
		set_deadline(f, rto_ms(f));
	return 1;
}

static int send_syn_ack(struct flow *f)
{
	uint32_t nxt = f->snd_nxt;
	f->snd_nxt = f->snd_una;
	int rc = send_segment(f, SYN, NULL, 0);
	f->snd_nxt = nxt;
	f->owes_syn_ack = rc != 0;
	if (rc == 0)
		set_deadline(f, rto_ms(f));
	return rc;
}

/* One step of what a flow has to send. Returns 1 where there may be more, 0 where not, or as ip_send(). */
static int step(struct flow *f)
{
	if (f->owes_rst)
		return 0;
	if (f->owes_syn_ack)
		return send_syn_ack(f);
	if (f->state == OPEN && (f->cursor || read_segment(f))) {
		if (f->owes_rst)
			return 0;
		if (f->cursor)
			return send_data(f);
	}
	if (f->state == OPEN && f->host_ended && !f->fin_sent && !f->cursor)
		return send_fin(f);
	return 0;
}

/* Both sides have ended and know it. */
static bool finished(const struct flow *f)
{
	return f->fin_acked && f->guest_ended && f->shut && f->state == OPEN;
}

/* The flow is over; where we closed first, the guest may still need its FIN acknowledged again. */
static void end_flow(struct flow *f)
{
	if (f->guest_ended_first) {
		destroy(f, NULL);
		return;
	}
	close_socket(f, false);
	f->expires_ms = 0;
	f->state = TIME_WAIT;
	set_deadline(f, TIME_WAIT_MS);
}

/* A flow's turn. Returns 0, or what ip_send() returned. The flow may be gone afterwards. */
static int take_turn(struct flow *f)
{
	int rc = 1;
	for (unsigned i = 0; rc == 1 && i < TURN_SEGMENTS; i++)
		rc = step(f);
	if (f->owes_rst) {
		rc = send_segment(f, RST, NULL, 0);
		if (rc == -EAGAIN)
			return rc;
		destroy(f, "reset by the server");
		return 0;
	}
	if (rc >= 0 && f->owes_ack) {
		int sent = send_segment(f, 0, NULL, 0);
		rc = sent ? sent : rc;
	}
	if (rc < 0)
		return rc;
	if (finished(f)) {
		end_flow(f);
		return 0;
	}
	if (rc == 1)
		join_turn(f);
	return 0;
}

/* Lets flows send, one after the other, as long as the guest has buffers. */
void tcp_flush(struct net *n)
{
	struct tcp *t = n->tcp;
	while (t->turn_first && !n->rx_starved) {
		struct flow *f = t->turn_first;
		leave_turn(f);
		if (take_turn(f) == -EAGAIN) {
			/* First again when there is room. */
			leave_turn(f);
			f->in_turn = true;
			f->turn_next = t->turn_first;
			if (!t->turn_first)
				t->turn_last = &f->turn_next;
			t->turn_first = f;
			return;
		}
	}
}

/* ---- Flows that are answered here ---- */

/* Queues data of our own for the guest. */
static void say(struct flow *f, const void *data, size_t bytes)
{
	struct segment *s = malloc(sizeof *s + bytes);
	if (!s) {
		f->owes_rst = true;
		return;
	}
	memcpy(s->data, data, bytes);
	add_segment(f, s, bytes);
}

static void expire_after(struct flow *f, unsigned after_ms)
{
	struct tcp *t = f->net->tcp;
	f->expires_ms = now_ms() + after_ms;
	if (t->timer_ms == 0 || f->expires_ms < t->timer_ms)
		set_timer(t, f->expires_ms);
}

/* The server has no part in the flow any more: we close it, and drop what comes. */
static void finish_here(struct flow *f)
{
	close_socket(f, true);
	drop_kept(f);
	f->inspect.kind = INSPECT_OFF;
	f->passed = 0;
	f->service = SERVICE_DONE;
	f->host_ended = f->shut = true;
	expire_after(f, LOCAL_MAX_MS);
	join_turn(f);
}

/* Answers a request with what is wrong with it, and the option that would allow it. */
static void say_page(struct flow *f, unsigned status, const char *reason)
{
	char page[PAGE_MAX_BYTES], text[PAGE_MAX_BYTES - 512], address[ADDR_TEXT_BYTES], port[16] = "";
	const char *host = f->name ? f->name->name : addr_text(&f->remote, address);
	const char *title = status == 403 ? "Forbidden" : status == 405 ? "Method Not Allowed" : status == 421 ? "Misdirected Request"
			    : status == 431 ? "Request Header Fields Too Large" : "Bad Request";
	bool v6 = !f->name && !addr_is_v4(&f->remote);
	if (f->remote_port != PORT_HTTP)
		snprintf(port, sizeof port, ":%u", f->remote_port);
	int n = snprintf(text, sizeof text, "caplock denied this request to %s%s: %s.\n", host, port, reason);
	if (status == 403)
		snprintf(text + n, sizeof text - (size_t)n, "To allow this host, start the sandbox with --allow-host %s%s%s%s\n",
			 v6 && port[0] ? "[" : "", host, v6 && port[0] ? "]" : "", port);
	else
		snprintf(text + n, sizeof text - (size_t)n, "The sandbox may say in HTTP to this host what is for this host. To let it say "
			 "anything: --allow-host tcp:%s:%u\n", host, f->remote_port);
	n = snprintf(page, sizeof page, "HTTP/1.1 %u %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
		     status, title, strlen(text), text);
	say(f, page, (size_t)n);
}

/* DNS over TCP: each message has its length before it (RFC 1035, section 4.2.2). */
static void answer_dns(struct flow *f)
{
	uint8_t answer[2 + DNS_ANSWER_MAX_BYTES];
	size_t done = 0, bytes = 0;
	while (f->kept.len - done >= 2 && f->snd_end - f->snd_una < LOCAL_SEND_MAX_BYTES) {
		const uint8_t *at = f->kept.data + done;
		bytes = get16(at);
		if (f->kept.len - done - 2 < bytes)
			break;
		size_t n = resolver_answer(f->net, at + 2, bytes, answer + 2);
		done += 2 + bytes;
		if (n == 0)
			continue;
		set16(answer, (unsigned)n);
		say(f, answer, 2 + n);
	}
	f->net->tcp->kept_bytes -= done;
	buf_consume(&f->kept, done);
	if (f->guest_ended && f->snd_end - f->snd_una < LOCAL_SEND_MAX_BYTES)
		finish_here(f);
	join_turn(f);
}

/* ---- What a flow says ---- */

/* Ends a flow for what it said: with a page where the server is not in the middle of saying something else. */
static void deny_flow(struct flow *f, const struct inspect_denial *d)
{
	struct policy_request r = {
		.proto = NET_TCP, .name = f->name ? f->name->name : NULL, .addr = f->remote, .port = f->remote_port};
	if (f->service == SERVICE_SERVER) { /* of others it was said before */
		f->net->count.denied++;
		report_denied(f->net, &r, d->reason);
	}
	if (d->status && !f->first && !f->host_ended)
		say_page(f, d->status, d->reason);
	else
		f->owes_rst = true;
	finish_here(f);
}

/* Decides about what is kept and was not looked at yet. */
static void look(struct flow *f)
{
	struct inspect_denial d;
	if (f->inspect.kind == INSPECT_OFF)
		return;
	f->passed += inspect_guest(&f->inspect, f->name ? f->name->name : "", f->kept.data + f->passed, f->kept.len - f->passed, &d);
	if (d.reason)
		deny_flow(f, &d);
	else if (f->guest_ended && (f->service == SERVICE_PAGE || (f->inspect.kind != INSPECT_OFF && f->passed < f->kept.len)))
		f->owes_rst = true; /* the rest will not come */
	join_turn(f);
}

/* ---- To the socket ---- */

/* Passes on what is kept, then the guest's end. */
static void to_socket(struct flow *f)
{
	size_t done = 0, may = f->inspect.kind == INSPECT_OFF ? f->kept.len : f->passed;
	if (f->source.fd < 0)
		return;
	while (f->writable && done < may) {
		ssize_t n = send(f->source.fd, f->kept.data + done, may - done, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n >= 0) {
			done += (size_t)n;
		} else if (errno == EAGAIN) {
			f->writable = false;
		} else if (errno != EINTR) {
			f->owes_rst = true;
			f->writable = false;
		}
	}
	if (done) {
		f->net->tcp->kept_bytes -= done;
		f->passed -= f->inspect.kind == INSPECT_OFF ? f->passed : done;
		buf_consume(&f->kept, done);
		if (f->kept.len == 0)
			buf_free(&f->kept);
		/* Told once there is half of it: not for each byte. */
		if (f->rcv_edge - f->rcv_nxt < KEPT_MAX_BYTES / 2)
			f->owes_ack = true;
	}
	if (f->guest_ended && f->kept.len == 0 && !f->shut) {
		shutdown(f->source.fd, SHUT_WR);
		f->shut = true;
	}
	join_turn(f);
}

static int keep(struct flow *f, const struct iovec *iov, unsigned count)
{
	size_t before = f->kept.len;
	int rc = 0;
	for (unsigned i = 0; i < count && rc == 0; i++)
		rc = buf_add(&f->kept, iov[i].iov_base, iov[i].iov_len);
	if (rc)
		f->kept.len = before;
	f->net->tcp->kept_bytes += f->kept.len - before;
	return rc;
}

/* Takes `bytes` of data in order. Returns how much was taken: it is acknowledged, the rest comes again. */
static size_t take_data(struct flow *f, const struct packet *p, size_t offset, size_t bytes)
{
	struct iovec iov[VQ_IOV_MAX], rest[VQ_IOV_MAX];
	const struct vq_chain *c = p->frame->chain;
	unsigned count = vq_slice(c->iov, c->out_count, sizeof p->frame->vnet + p->offset + offset, bytes, iov);
	size_t done = 0;
	bool plain = f->service == SERVICE_SERVER && f->inspect.kind == INSPECT_OFF;
	if (f->service == SERVICE_DONE)
		return bytes;
	if (plain && f->writable && f->kept.len == 0) {
		struct msghdr m = {.msg_iov = iov, .msg_iovlen = count};
		ssize_t n = sendmsg(f->source.fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN && errno != EINTR) {
			f->owes_rst = true;
			return bytes;
		}
		done = n < 0 ? 0 : (size_t)n;
		f->writable = done == bytes;
	}
	if (done == bytes)
		return bytes;
	if (f->kept.len + bytes - done > KEPT_MAX_BYTES || f->net->tcp->kept_bytes + bytes - done > BUDGET_BYTES)
		return done;
	count = vq_slice(iov, count, done, bytes - done, rest);
	return keep(f, rest, count) ? done : bytes;
}

/* ---- From the guest ---- */

static bool parse(struct net *n, const struct packet *p, struct header *h)
{
	const uint8_t *b = p->frame->head + p->offset;
	if (p->bytes < HEAD_BYTES || p->offset + HEAD_BYTES > p->frame->head_bytes)
		goto malformed;
	h->from_port = get16(b);
	h->to_port = get16(b + 2);
	h->seq = get32(b + 4);
	h->ack = get32(b + 8);
	h->head_bytes = (size_t)(b[12] >> 4) * 4;
	h->flags = b[13] & (FIN | SYN | RST | PSH | ACK); /* urgent data is data (RFC 6093) */
	h->window = get16(b + 14);
	if (h->head_bytes >= HEAD_BYTES && h->head_bytes <= p->bytes && p->offset + h->head_bytes <= p->frame->head_bytes)
		return true;
malformed:
	n->count.malformed++;
	return false;
}

/* MSS and window scale of a SYN; other options are not for us. */
static void parse_options(struct flow *f, const uint8_t *o, size_t bytes)
{
	bool v4 = addr_is_v4(&f->guest);
	unsigned max = f->net->config.mtu - (v4 ? 40 : 60);
	f->mss = v4 ? MSS_DEFAULT_V4 : MSS_DEFAULT_V6;
	for (size_t at = 0; at < bytes && o[at] != 0;) {
		if (o[at] == 1) {
			at++;
			continue;
		}
		if (at + 2 > bytes || o[at + 1] < 2 || at + o[at + 1] > bytes)
			break;
		if (o[at] == 2 && o[at + 1] == 4)
			f->mss = get16(o + at + 2);
		if (o[at] == 3 && o[at + 1] == 3) {
			f->scales = true;
			f->snd_shift = o[at + 2] < 14 ? o[at + 2] : 14;
		}
		at += o[at + 1];
	}
	if (f->mss < MSS_MIN)
		f->mss = MSS_MIN;
	if (f->mss > max)
		f->mss = (uint16_t)max;
}

static uint32_t initial_sequence(void)
{
	uint32_t seq;
	return getrandom(&seq, sizeof seq, GRND_NONBLOCK) == sizeof seq ? seq : (uint32_t)now_ms() << 8;
}

static struct flow *create(struct net *n, struct flow **at, const struct packet *p, const struct header *h)
{
	struct tcp *t = n->tcp;
	struct flow *f = t->free_slots ? calloc(1, sizeof *f) : NULL;
	if (!f)
		return NULL;
	f->net = n;
	f->slot = t->free_slot[--t->free_slots];
	f->generation = ++t->generation;
	t->slot[f->slot] = f;
	f->guest = p->from;
	f->remote = p->to;
	f->guest_port = h->from_port;
	f->remote_port = h->to_port;
	f->name = names_find(&n->names, &p->to);
	if (f->name)
		f->name->flows++;
	f->source.fd = -1;
	f->last = &f->first;
	f->snd_una = initial_sequence();
	f->snd_nxt = f->snd_max = f->snd_end = f->snd_una + 1; /* after our SYN */
	f->snd_wnd = h->window;
	f->rcv_nxt = f->rcv_edge = h->seq + 1;
	f->start_ms = now_ms();
	parse_options(f, p->frame->head + p->offset + HEAD_BYTES, h->head_bytes - HEAD_BYTES);
	*at = f;
	n->count.flows++;
	return f;
}

/* A flow that we answer ourselves: DNS wherever it is asked for, a page for HTTP that is denied. */
static void open_here(struct net *n, struct flow **at, const struct packet *p, const struct header *h, const char *reason)
{
	struct flow *f = create(n, at, p, h);
	if (!f) {
		n->count.over_limit++;
		send_reset(n, p, h, 0);
		return;
	}
	f->service = h->to_port == DNS_PORT ? SERVICE_DNS : SERVICE_PAGE;
	f->inspect = (struct inspect){.kind = f->service == SERVICE_PAGE ? INSPECT_HTTP : INSPECT_OFF, .refuse = reason};
	f->state = SYN_RECEIVED;
	f->owes_syn_ack = true;
	expire_after(f, LOCAL_MAX_MS);
	join_turn(f);
}

/* The guest wants a flow: the policy decides, then the gate is asked. */
static void connect_flow(struct net *n, struct flow **at, const struct packet *p, const struct header *h)
{
	if (h->to_port == DNS_PORT) {
		open_here(n, at, p, h, NULL);
		return;
	}
	const struct name_entry *name = names_find(&n->names, &p->to);
	struct policy_request r = {.proto = NET_TCP, .name = name ? name->name : NULL, .addr = p->to, .port = h->to_port};
	struct policy_decision d = policy_decide(&n->config.policy, &r);
	if (d.verdict == POLICY_DENY) {
		n->count.denied++;
		report_denied(n, &r, d.reason);
		if (h->to_port == PORT_HTTP)
			open_here(n, at, p, h, d.reason);
		else
			send_reset(n, p, h, 0);
		return;
	}
	struct flow *f = create(n, at, p, h);
	if (!f) {
		n->count.over_limit++;
		send_reset(n, p, h, 0);
		return;
	}
	if (d.verdict == POLICY_ALLOW)
		inspect_start(&f->inspect, f->remote_port);
	if (gate_ask(n, (uint64_t)f->generation << 32 | f->slot, &r)) {
		destroy(f, "the gate is gone");
		send_reset(n, p, h, 0);
	}
}

/* Frees what the guest has now acknowledged. */
static void acknowledge(struct flow *f, uint32_t ack)
{
	f->snd_una = ack;
	f->duplicate_acks = f->retries = 0;
	if (after(ack, f->snd_nxt)) { /* what is being sent again had arrived */
		f->snd_nxt = ack;
		f->cursor = f->first;
	}
	while (f->first && !after(f->first->seq + f->first->bytes, ack)) {
		struct segment *s = f->first;
		f->first = s->next;
		if (f->cursor == s)
			f->cursor = s->next;
		free(s);
	}
	if (!f->first)
		f->last = &f->first;
	while (f->cursor && !after(f->cursor->seq + f->cursor->bytes, f->snd_nxt))
		f->cursor = f->cursor->next;
	if (f->host_ended && ack == f->snd_end + 1) /* also where the FIN was about to be sent again */
		f->fin_sent = f->fin_acked = true;
	f->deadline_ms = 0;
	if (ack != f->snd_max)
		set_deadline(f, rto_ms(f));
}

/* Sends again from the first byte that is not acknowledged. */
static void go_back(struct flow *f)
{
	f->snd_nxt = f->snd_una;
	f->cursor = f->first;
	if (f->fin_sent && !f->fin_acked)
		f->fin_sent = false; /* and the FIN with it */
	join_turn(f);
}

/* The acknowledgment and window of a segment. Returns whether the rest of it counts. */
static bool take_ack(struct flow *f, const struct header *h, size_t data_bytes)
{
	uint32_t window = (uint32_t)h->window << f->snd_shift;
	if (after(h->ack, f->snd_max) || after(f->snd_una, h->ack)) {
		f->owes_ack = after(h->ack, f->snd_max);
		return !f->owes_ack; /* an old one is no news, but its data may be */
	}
	if (f->state == SYN_RECEIVED) {
		if (h->ack != f->snd_max)
			return false;
		f->state = OPEN;
		f->readable = f->writable = true;
	}
	bool duplicate = h->ack == f->snd_una && f->snd_max != f->snd_una && data_bytes == 0 && window == f->snd_wnd &&
			 !(h->flags & FIN);
	f->snd_wnd = window;
	if (after(h->ack, f->snd_una))
		acknowledge(f, h->ack);
	else if (duplicate && ++f->duplicate_acks == DUPLICATE_ACKS)
		go_back(f);
	return true;
}

/* The data of a segment, and its FIN. */
static void take_payload(struct flow *f, const struct packet *p, const struct header *h, size_t data_bytes)
{
	uint32_t seq = h->seq, skip = 0;
	bool fin = h->flags & FIN;
	if (data_bytes == 0 && !fin) {
		if (seq != f->rcv_nxt) /* a keepalive, or a probe */
			f->owes_ack = true;
		return;
	}
	f->owes_ack = true;
	if (after(seq, f->rcv_nxt) || f->guest_ended)
		return;
	if (after(f->rcv_nxt, seq))
		skip = f->rcv_nxt - seq;
	if (skip > data_bytes || (skip == data_bytes && !fin))
		return;
	size_t bytes = data_bytes - skip;
	uint32_t room = f->rcv_edge - f->rcv_nxt;
	if (bytes > room) {
		bytes = room;
		fin = false;
	}
	size_t taken = bytes ? take_data(f, p, h->head_bytes + skip, bytes) : 0;
	f->rcv_nxt += (uint32_t)taken;
	f->from_guest_bytes += taken;
	if (fin && taken == bytes) {
		f->rcv_nxt++;
		f->guest_ended = true;
		f->guest_ended_first = !f->fin_sent;
	}
	look(f);
	to_socket(f);
}

/* A segment for a flow that exists. */
static void flow_input(struct flow *f, const struct packet *p, const struct header *h)
{
	size_t data_bytes = p->bytes - h->head_bytes;
	if (h->flags & RST) {
		uint32_t offset = h->seq - f->rcv_nxt;
		if (f->state == DIALING || offset == 0 || offset < f->rcv_edge - f->rcv_nxt)
			destroy(f, "reset by the guest");
		return;
	}
	if (f->state == DIALING)
		return; /* its SYN again: it is being seen to */
	if (h->flags & SYN) {
		f->owes_syn_ack = f->state == SYN_RECEIVED;
		f->owes_ack = !f->owes_syn_ack;
	} else if (f->state == TIME_WAIT) {
		f->owes_ack = data_bytes || h->flags & FIN;
	} else if (h->flags & ACK) {
		if (take_ack(f, h, data_bytes) && f->state == OPEN)
			take_payload(f, p, h, data_bytes);
		if (f->service == SERVICE_DNS)
			answer_dns(f);
	}
	join_turn(f);
}

/* A TCP segment of the guest's. */
void tcp_input(struct net *n, const struct packet *p)
{
	struct header h;
	if (!parse(n, p, &h))
		return;
	struct flow **at = find(n->tcp, p, h.from_port, h.to_port);
	bool opens = (h.flags & (SYN | ACK | RST)) == SYN;
	if (*at && (*at)->state == TIME_WAIT && opens && after(h.seq, (*at)->rcv_nxt)) {
		destroy(*at, NULL);
		at = find(n->tcp, p, h.from_port, h.to_port);
	}
	if (*at)
		flow_input(*at, p, &h);
	else if (opens)
		connect_flow(n, at, p, &h);
	else if (!(h.flags & RST))
		send_reset(n, p, &h, p->bytes - h.head_bytes);
}

/* ---- From the socket, the gate, the clock ---- */

static void socket_ready(void *context, uint32_t events)
{
	struct flow *f = context;
	struct net *n = f->net;
	pthread_mutex_lock(&n->device.lock);
	f->readable |= (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0;
	if (events & EPOLLOUT && f->state == OPEN) {
		f->writable = true;
		to_socket(f);
	}
	join_turn(f);
	tcp_flush(n);
	pthread_mutex_unlock(&n->device.lock);
}

/* Refuses a flow whose SYN was not answered yet. */
static void refuse(struct flow *f)
{
	f->snd_nxt = 0;
	send_segment(f, RST, NULL, 0);
	destroy(f, "refused");
}

/*
 * The gate's answer for flow `id`: `fd`, a connected socket that becomes the flow's, or -1 and a positive errno, with the
 * reason where that is EPERM. With the device's lock held.
 */
void tcp_opened(struct net *n, uint64_t id, int fd, int error, const char *reason)
{
	uint32_t slot = (uint32_t)id;
	struct flow *f = slot < FLOWS_MAX ? n->tcp->slot[slot] : NULL;
	if (!f || f->generation != id >> 32 || f->state != DIALING) {
		io_close(&fd);
		return;
	}
	if (error || fd < 0) {
		struct policy_request r = {
			.proto = NET_TCP, .name = f->name ? f->name->name : NULL, .addr = f->remote, .port = f->remote_port};
		if (error == EPERM) {
			n->count.denied++;
			report_denied(n, &r, reason);
		}
		io_close(&fd);
		refuse(f);
		return;
	}
	f->source = (struct loop_source){.fd = fd, .ready = socket_ready, .context = f};
	if (loop_add(n->loop, &f->source, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)) {
		io_close(&f->source.fd);
		refuse(f);
		return;
	}
	f->state = SYN_RECEIVED;
	f->owes_syn_ack = true;
	join_turn(f);
}

/* There is no gate any more: what waits for it is refused. With the device's lock held. */
void tcp_gate_lost(struct net *n)
{
	for (uint32_t i = 0; i < FLOWS_MAX; i++)
		if (n->tcp->slot[i] && n->tcp->slot[i]->state == DIALING)
			refuse(n->tcp->slot[i]);
}

static void deadline_passed(struct flow *f)
{
	f->deadline_ms = 0;
	if (f->state == TIME_WAIT) {
		destroy(f, NULL);
		return;
	}
	if (++f->retries > RETRIES_MAX) {
		f->owes_rst = true;
		join_turn(f);
		return;
	}
	if (f->state == SYN_RECEIVED) {
		f->owes_syn_ack = true;
		join_turn(f);
	} else {
		go_back(f);
	}
}

static void timer_ready(void *context, uint32_t events)
{
	(void)events;
	struct net *n = context;
	struct tcp *t = n->tcp;
	uint64_t expirations, now = now_ms(), next = 0;
	(void)!read(t->timer.fd, &expirations, sizeof expirations);
	pthread_mutex_lock(&n->device.lock);
	t->timer_ms = 0;
	for (uint32_t i = 0; i < FLOWS_MAX; i++) {
		struct flow *f = t->slot[i];
		if (f && f->expires_ms && f->expires_ms <= now) {
			f->expires_ms = 0;
			f->owes_rst = true;
			join_turn(f);
		} else if (f && f->deadline_ms && f->deadline_ms <= now) {
			deadline_passed(f);
		}
	}
	tcp_flush(n);
	for (uint32_t i = 0; i < FLOWS_MAX; i++) {
		const struct flow *f = t->slot[i];
		if (f && f->deadline_ms && (next == 0 || f->deadline_ms < next))
			next = f->deadline_ms;
		if (f && f->expires_ms && (next == 0 || f->expires_ms < next))
			next = f->expires_ms;
	}
	if (next)
		set_timer(t, next);
	pthread_mutex_unlock(&n->device.lock);
}

/* ---- Life ---- */

/* Makes n->tcp. Returns 0 or -errno. */
int tcp_create(struct net *n)
{
	struct tcp *t = calloc(1, sizeof *t);
	if (!t)
		return -ENOMEM;
	n->tcp = t;
	t->turn_last = &t->turn_first;
	t->timer = (struct loop_source){
		.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), .ready = timer_ready, .context = n};
	if (t->timer.fd < 0)
		return -errno;
	for (uint32_t i = 0; i < FLOWS_MAX; i++)
		t->free_slot[t->free_slots++] = FLOWS_MAX - 1 - i;
	if (getrandom(&t->secret, sizeof t->secret, GRND_NONBLOCK) != sizeof t->secret)
		t->secret = now_ms();
	return loop_add(n->loop, &t->timer, EPOLLIN);
}

/* Frees n->tcp, all flows with it. */
void tcp_destroy(struct net *n)
{
	struct tcp *t = n->tcp;
	if (!t)
		return;
	for (uint32_t i = 0; i < FLOWS_MAX; i++)
		if (t->slot[i])
			destroy(t->slot[i], "the sandbox ended");
	io_close(&t->timer.fd);
	free(t);
	n->tcp = NULL;
}
