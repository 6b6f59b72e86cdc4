/* Segments to the guest. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "virtio/net/flow.h"

enum {
	SYN_OPTIONS_BYTES = 8,
	SEGMENT_MAX_BYTES = GSO_MAX_BYTES - 40 - TCP_HEAD_BYTES,
	WINDOW_SHIFT = 5, /* our window scale */
	TURN_SEGMENTS = 8,
	RTO_FIRST_MS = 250,
	RTO_MAX_MS = 10000,
	UNANSWERED_MAX = 12,
	TIME_WAIT_MS = 1000,
	SLOW_ANSWERS = 2, /* so many prompt ones make it likely that the next comes at once, too */
};

static unsigned rto_ms(const struct flow *f)
{
	unsigned ms = (unsigned)RTO_FIRST_MS << (f->retries < 8 ? f->retries : 8);
	return ms < RTO_MAX_MS ? ms : RTO_MAX_MS;
}

/* Sends again what is not acknowledged in time, unless that is seen to. */
void tcp_await_ack(struct flow *f)
{
	if (!f->deadline_ms)
		flow_set_deadline(f, rto_ms(f));
}

/*
 * The guest has sent data, or its end. While the server answers each little bit of it at once, the acknowledgment goes with
 * the next answer: that is a frame and an interrupt less for every exchange. But a guest that sends more without an answer
 * may be waiting for the acknowledgment.
 */
void tcp_owe_ack(struct flow *f, size_t data_bytes)
{
	if (data_bytes && (f->asked_for_answer || data_bytes >= f->mss))
		f->slow_answers = SLOW_ANSWERS;
	f->asked_for_answer = true;
	if ((f->slow_answers && !f->guest_ended) || f->kept.len || f->host_ended)
		f->owes_ack = true;
	else if (!f->late_ack_ms)
		flow_ack_within(f, NET_PATIENCE_MS);
}

/* The answer did not come in time. */
void tcp_ack_is_late(struct flow *f)
{
	f->late_ack_ms = 0;
	f->slow_answers = SLOW_ANSWERS;
	f->owes_ack = true;
	flow_join_turn(f);
}

static uint32_t window(const struct flow *f)
{
	uint32_t edge = f->rcv_nxt + (uint32_t)tcp_kept_room(f);
	return after(edge, f->rcv_edge) ? edge - f->rcv_nxt : f->rcv_edge - f->rcv_nxt; /* what was promised stays so */
}

/* Sends a segment of the flow: `flags` beside ACK, data from snd_nxt on. Returns what ip_send() does. */
static int send_segment(struct flow *f, uint8_t flags, const void *data, size_t data_bytes)
{
	uint8_t head[TCP_HEAD_BYTES + SYN_OPTIONS_BYTES] = {0};
	bool syn = flags & SYN;
	struct segment_out s = {
		.from = f->remote,
		.to = f->guest,
		.proto = IP_TCP,
		.head = head,
		.head_bytes = TCP_HEAD_BYTES + (syn ? SYN_OPTIONS_BYTES : 0),
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
	head[13] = f->state == CALLING ? flags : flags | ACK;
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
		f->late_ack_ms = 0;
		if (after(f->rcv_nxt + (told << shift), f->rcv_edge))
			f->rcv_edge = f->rcv_nxt + (told << shift);
	}
	return rc;
}

/* Answers a segment that belongs to no flow (RFC 9293, 3.10.7.1). */
void tcp_send_reset(struct net *n, const struct packet *p, const struct tcp_header *h, size_t data_bytes)
{
	uint8_t head[TCP_HEAD_BYTES] = {0};
	struct segment_out s = {.from = p->to, .to = p->from, .proto = IP_TCP, .head = head, .head_bytes = sizeof head};
	set16(head, h->to_port);
	set16(head + 2, h->from_port);
	if (h->flags & ACK)
		set32(head + 4, h->ack);
	else
		set32(head + 8, h->seq + (uint32_t)data_bytes + (h->flags & SYN ? 1 : 0) + (h->flags & FIN ? 1 : 0));
	head[12] = TCP_HEAD_BYTES / 4 << 4;
	head[13] = h->flags & ACK ? RST : RST | ACK;
	if (ip_send(n, &s))
		n->count.unsent++;
}

static uint32_t segment_max(const struct flow *f)
{
	bool v4 = addr_is_v4(&f->guest);
	if (!net_offers(f->net, v4 ? VIRTIO_NET_F_GUEST_TSO4 : VIRTIO_NET_F_GUEST_TSO6))
		return f->mss;
	uint32_t fits = net_frame_max_bytes(f->net) - ETH_HEAD_BYTES - 60;
	uint32_t max = fits < SEGMENT_MAX_BYTES ? fits : SEGMENT_MAX_BYTES;
	return max < f->mss ? f->mss : max / f->mss * f->mss;
}

/* Queues a segment with `bytes` of data for the guest; it is the flow's from now on. */
void tcp_add_segment(struct flow *f, struct segment *s, size_t bytes)
{
	*s = (struct segment){.seq = f->snd_end, .bytes = (uint32_t)bytes};
	*f->last = s;
	f->last = &s->next;
	if (!f->cursor)
		f->cursor = s;
	f->snd_end += (uint32_t)bytes;
	f->to_guest_bytes += bytes;
	f->net->tcp->unacked_bytes += bytes;
}

/* How much to read from the socket now: beyond the budget a packet at a time, so that each flow goes on. */
static uint32_t read_max(const struct flow *f)
{
	uint32_t unacked = f->snd_end - f->snd_una;
	if (f->net->tcp->unacked_bytes >= BUDGET_BYTES)
		return unacked ? 0 : f->mss;
	return unacked < SEND_MAX_BYTES ? segment_max(f) : 0;
}

/* Reads one segment from the socket. Returns whether there is something new to send. */
static bool read_segment(struct flow *f)
{
	uint32_t max = f->readable && !f->host_ended && f->source.fd >= 0 ? read_max(f) : 0;
	if (max == 0)
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
		if (n < 0 || f->deaf)
			flow_owe_reset(f, "reset by the server");
		return true;
	}
	f->readable = (uint32_t)n == max || f->hung_up; /* a new event says when there is more */
	struct segment *smaller = (uint32_t)n < max ? realloc(s, sizeof *s + (size_t)n) : s;
	tcp_add_segment(f, smaller ? smaller : s, (size_t)n);
	if (f->inspect.kind != INSPECT_OFF) {
		inspect_server(&f->inspect, f->cursor->data, (size_t)n);
		local_look(f);
		tcp_to_socket(f);
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
	if (bytes > room)
		bytes = room;
	if (bytes > max) /* a retransmission, after the features changed */
		bytes = max;
	if (bytes == 0) {
		tcp_await_ack(f);
		return 0;
	}
	int rc = send_segment(f, PSH, s->data + offset, bytes);
	if (rc)
		return rc;
	if (f->asked_for_answer && f->slow_answers)
		f->slow_answers--;
	f->asked_for_answer = false;
	f->snd_nxt += bytes;
	if (offset + bytes == s->bytes)
		f->cursor = s->next;
	if (after(f->snd_nxt, f->snd_max))
		f->snd_max = f->snd_nxt;
	tcp_await_ack(f);
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
	tcp_await_ack(f);
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
		flow_set_deadline(f, rto_ms(f));
	return rc;
}

/*
 * Asks for the guest's window (3.8.6.1). A segment without data from before what it has acknowledged is out of its window,
 * so that it must answer, and nothing is in flight.
 */
static int send_probe(struct flow *f)
{
	uint32_t nxt = f->snd_nxt;
	f->snd_nxt = f->snd_una - 1;
	int rc = send_segment(f, 0, NULL, 0);
	f->snd_nxt = nxt;
	f->owes_probe = rc != 0;
	tcp_await_ack(f);
	return rc ? rc : 1;
}

/* Calls the guest (tcp_publish.c). */
static int send_syn(struct flow *f)
{
	f->snd_nxt = f->snd_una;
	int rc = send_segment(f, SYN, NULL, 0);
	f->snd_nxt = f->snd_max;
	f->owes_syn = rc != 0;
	if (rc == 0)
		flow_set_deadline(f, rto_ms(f));
	return rc;
}

/* One step of what a flow has to send. Returns 1 where there may be more, 0 where not, or as ip_send(). */
static int step(struct flow *f)
{
	if (f->owes_rst)
		return 0;
	if (f->owes_syn)
		return send_syn(f);
	if (f->owes_syn_ack)
		return send_syn_ack(f);
	if (f->owes_probe)
		return send_probe(f);
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
		flow_destroy(f, NULL);
		return;
	}
	flow_close_socket(f, false);
	f->expires_ms = 0;
	flow_record_end(f, NULL);
	f->state = TIME_WAIT;
	flow_set_deadline(f, TIME_WAIT_MS);
}

/* Refuses a flow whose SYN was not answered yet. */
void tcp_refuse(struct flow *f)
{
	f->snd_nxt = 0;
	send_segment(f, RST, NULL, 0);
	flow_destroy(f, "refused");
}

/* Sends again from the first byte that is not acknowledged. */
void tcp_go_back(struct flow *f)
{
	f->recover = f->snd_max;
	f->snd_nxt = f->snd_una;
	f->cursor = f->first;
	if (f->fin_sent && !f->fin_acked)
		f->fin_sent = false; /* and the FIN with it */
	flow_join_turn(f);
}

/* The guest has not acknowledged in time, or TIME_WAIT is over. The flow may be gone afterwards. */
void tcp_deadline_passed(struct flow *f)
{
	f->deadline_ms = 0;
	if (f->state == TIME_WAIT) {
		flow_destroy(f, NULL);
		return;
	}
	f->retries++;
	if (f->state == CALLING && tcp_call_elsewhere(f))
		return;
	if (++f->unanswered > UNANSWERED_MAX)
		flow_owe_reset(f, "the guest does not answer");
	else if (f->state == CALLING)
		f->owes_syn = true;
	else if (f->state == SYN_RECEIVED)
		f->owes_syn_ack = true;
	else if (f->snd_wnd == 0)
		f->owes_probe = true;
	else
		tcp_go_back(f);
	flow_join_turn(f);
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
		flow_destroy(f, f->end_reason);
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
		flow_join_turn(f);
	return 0;
}

/* Lets flows send, one after the other, as long as the guest has buffers. */
void tcp_flush(struct net *n)
{
	struct tcp *t = n->tcp;
	while (t->turn_first && !n->rx_starved) {
		struct flow *f = t->turn_first;
		flow_leave_turn(f);
		if (take_turn(f) == -EAGAIN) {
			/* First again when there is room. */
			flow_leave_turn(f);
			f->in_turn = true;
			f->turn_next = t->turn_first;
			if (!t->turn_first)
				t->turn_last = &f->turn_next;
			t->turn_first = f;
			return;
		}
	}
}
