/*
 * TCP towards the guest (RFC 9293), terminated here: each flow is a socket on the other side.
 *
 * Theory of operation
 * -------------------
 * States of a flow:
 *
 *      DIALING       the guest's SYN is here, the user or the gate is asked; nothing was answered yet
 *      CALLING       the host wants to reach a port of the guest's, our SYN is on its way
 *      SYN_RECEIVED  the socket is connected, our SYN-ACK is on its way
 *      OPEN          until both sides have sent FIN and have it acknowledged; each side may close first
 *      TIME_WAIT     we closed first, and both are done: only to answer a FIN that comes again
 *
 * From the guest: data in order goes from the ring to the socket at once; what that does not take is kept, and the window
 * says how much may come. What is not in order is dropped, counted and asked for again: the link loses nothing, so only a
 * guest that wants to be slow is. Data that is kept counts against one budget of all flows, beyond which it is dropped
 * unacknowledged. An acknowledgment waits a little for data to go with it where the server answers at once (tcp_owe_ack()).
 *
 * To the guest: data is read from the socket only when all that was read before is sent, up to one large segment, and
 * kept until it is acknowledged, for a guest may drop what it was given. There is no congestion to control; a timer, or the
 * third acknowledgment of the same, sends again from the first unacknowledged byte. A window that is shut is asked for by
 * probes, as long as the guest answers. Kept data of all flows has a budget: beyond it flows get a packet at a time.
 *
 * A server that takes no more (deaf) may have said something before: that still goes to the guest, and then RST.
 *
 * What a flow says is looked at where the policy allowed it for TLS and HTTP only (inspect.c): data is then kept until it
 * may pass. A flow without a socket is answered here: DNS over TCP, and requests that get a page that says why they are
 * denied. So is the rest of a flow whose request was denied.
 *
 * Everything a flow owes the guest is state (owes_ack, fin...), never a queue of packets. Flows that may have something to
 * send are in a queue and take turns; when the guest has no buffer left, the queue waits for its next notification.
 *
 * Files: tcp.c takes the guest's segments apart; tcp_out.c sends; tcp_socket.c has the flow's socket; tcp_open.c how the
 * guest's flows are opened, and by whose leave; tcp_publish.c those that the host opens; tcp_local.c what is answered here and
 * what a flow says; flow.c the table of flows, their clocks and ends.
 *
 * Invariants: kept data and segments of one flow are bounded by KEPT_MAX_BYTES and SEND_MAX_BYTES, flows by FLOWS_MAX; the
 * guest's bytes reach the socket once and in order, or the flow ends by RST on both sides.
 */
#include <stdlib.h>
#include <sys/random.h>

#include "virtio/net/flow.h"

enum {
	MSS_DEFAULT_V4 = 536,
	MSS_DEFAULT_V6 = 1220,
	MSS_MIN = 64,
	DUPLICATE_ACKS = 3,
};

static bool parse(struct net *n, const struct packet *p, struct tcp_header *h)
{
	const uint8_t *b = p->frame->head + p->offset;
	if (p->bytes < TCP_HEAD_BYTES || p->offset + TCP_HEAD_BYTES > p->frame->head_bytes)
		goto malformed;
	h->from_port = get16(b);
	h->to_port = get16(b + 2);
	h->seq = get32(b + 4);
	h->ack = get32(b + 8);
	h->head_bytes = (size_t)(b[12] >> 4) * 4;
	h->flags = b[13] & (FIN | SYN | RST | PSH | ACK); /* urgent data is data (RFC 6093) */
	h->window = get16(b + 14);
	if (h->head_bytes >= TCP_HEAD_BYTES && h->head_bytes <= p->bytes && p->offset + h->head_bytes <= p->frame->head_bytes)
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
	return getrandom(&seq, sizeof seq, GRND_NONBLOCK) == sizeof seq ? seq : (uint32_t)flow_now_ms() << 8;
}

/* Chooses where our sequence numbers begin. */
void tcp_start_sequence(struct flow *f)
{
	f->snd_una = initial_sequence();
	f->snd_nxt = f->snd_max = f->snd_end = f->snd_una + 1; /* after our SYN */
	f->recover = f->snd_una;
}

/* Takes what a SYN of the guest's says of it. */
void tcp_take_syn(struct flow *f, const struct packet *p, const struct tcp_header *h)
{
	f->snd_wnd = h->window;
	f->snd_wl1 = h->seq;
	f->rcv_nxt = f->rcv_edge = h->seq + 1;
	parse_options(f, p->frame->head + p->offset + TCP_HEAD_BYTES, h->head_bytes - TCP_HEAD_BYTES);
}

/* Makes the flow that a SYN opens. Returns NULL where there can be no more: the guest has its RST then. */
struct flow *tcp_accept(struct net *n, const struct packet *p, const struct tcp_header *h)
{
	struct flow *f = flow_create(n, p, h->from_port, h->to_port);
	if (!f) {
		n->count.over_limit++;
		tcp_send_reset(n, p, h, 0);
		return NULL;
	}
	tcp_start_sequence(f);
	tcp_take_syn(f, p, h);
	return f;
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
	while (f->first && !after(f->first->seq + f->first->bytes, ack))
		flow_drop_first(f);
	while (f->cursor && !after(f->cursor->seq + f->cursor->bytes, f->snd_nxt))
		f->cursor = f->cursor->next;
	if (f->host_ended && ack == f->snd_end + 1) /* also where the FIN was about to be sent again */
		f->fin_sent = f->fin_acked = true;
	f->deadline_ms = 0;
	if (ack != f->snd_max)
		tcp_await_ack(f);
}

/* The acknowledgment and window of a segment. Returns whether the rest of it counts. */
static bool take_ack(struct flow *f, const struct tcp_header *h, size_t data_bytes)
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
	bool opens = f->snd_wnd == 0 && window;
	f->unanswered = 0;
	if (!after(f->snd_wl1, h->seq)) { /* not one that was overtaken */
		f->snd_wnd = window;
		f->snd_wl1 = h->seq;
	}
	if (after(h->ack, f->snd_una))
		acknowledge(f, h->ack);
	else if (duplicate && after(f->snd_una + 1, f->recover) && ++f->duplicate_acks == DUPLICATE_ACKS)
		tcp_go_back(f);
	if (opens && f->fin_sent && !f->fin_acked)
		tcp_go_back(f); /* a FIN may be dropped where there is no window */
	return true;
}

/* The data of a segment, and its FIN. */
static void take_payload(struct flow *f, const struct packet *p, const struct tcp_header *h, size_t data_bytes)
{
	uint32_t seq = h->seq, skip = 0;
	bool fin = h->flags & FIN;
	if (data_bytes == 0 && !fin) {
		if (seq != f->rcv_nxt) /* a keepalive, or a probe */
			f->owes_ack = true;
		return;
	}
	if (seq != f->rcv_nxt || f->guest_ended || (f->late_ack_ms && data_bytes))
		f->owes_ack = true;
	if (after(seq, f->rcv_nxt))
		f->net->count.reordered++;
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
	size_t taken = bytes ? tcp_take_data(f, p, h->head_bytes + skip, bytes) : 0;
	f->rcv_nxt += (uint32_t)taken;
	f->from_guest_bytes += taken;
	if (taken < data_bytes - skip)
		f->owes_ack = true;
	if (fin && taken == bytes) {
		f->rcv_nxt++;
		f->guest_ended = true;
		f->guest_ended_first = !f->fin_sent;
	}
	local_look(f);
	tcp_to_socket(f);
	tcp_owe_ack(f, data_bytes);
}

/* A segment for a flow that exists. */
static void segment_input(struct flow *f, const struct packet *p, const struct tcp_header *h)
{
	size_t data_bytes = p->bytes - h->head_bytes;
	if (f->state == CALLING) {
		tcp_called(f, p, h);
		return;
	}
	if (h->flags & RST) {
		if (f->state == DIALING || h->seq - f->rcv_nxt <= f->rcv_edge - f->rcv_nxt)
			flow_destroy(f, "reset by the guest");
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
			local_answer_dns(f);
	}
	flow_join_turn(f);
}

/* A TCP segment of the guest's. */
void tcp_input(struct net *n, const struct packet *p)
{
	struct tcp_header h;
	if (!parse(n, p, &h))
		return;
	n->patient = true; /* it waits for our answer, if for anything */
	struct flow **at = flow_find(n->tcp, p, h.from_port, h.to_port);
	bool opens = (h.flags & (SYN | ACK | RST)) == SYN;
	if (*at && (*at)->state == TIME_WAIT && opens && after(h.seq, (*at)->rcv_nxt)) {
		flow_destroy(*at, NULL);
		at = flow_find(n->tcp, p, h.from_port, h.to_port);
	}
	if (*at)
		segment_input(*at, p, &h);
	else if (opens)
		tcp_open(n, p, &h);
	else if (!(h.flags & RST))
		tcp_send_reset(n, p, &h, p->bytes - h.head_bytes);
}
