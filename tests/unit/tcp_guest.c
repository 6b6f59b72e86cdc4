#include "tests/unit/tcp_guest.h"

#include <criterion/criterion.h>
#include <linux/if_ether.h>
#include <string.h>

#include "virtio/net/link.h"
#include "vmm/util/io.h"

static const struct ip_addr guest_v6 = {LINK_GUEST_V6};
static const struct ip_addr server_v6 = {{0x20, 0x01, 0x0d, 0xb8, [15] = 7}};

/* A connection from the guest to a server at 192.0.2.7 or 2001:db8::7. */
void guest_init(struct tcp_guest *t, struct peer *p, bool v6, uint16_t from_port, uint16_t to_port)
{
	*t = (struct tcp_guest){
		.peer = p,
		.from = v6 ? guest_v6 : addr_v4(LINK_GUEST_V4),
		.to = v6 ? server_v6 : addr_v4(0xc0000207),
		.from_port = from_port,
		.to_port = to_port,
		.una = 0xfffff000u + from_port,
		.nxt = 0xfffff000u + from_port,
		.peer_shift = -1,
		.mss = v6 ? GUEST_MSS - 20 : GUEST_MSS,
		.window_bytes = 65535,
		.server = -1,
	};
}

void guest_end(struct tcp_guest *t)
{
	io_close(&t->server);
}

/* Sends one segment; the acknowledgment and the window are as in `t`. Large ones as segments to be cut, as Linux does. */
void guest_segment(struct tcp_guest *t, uint8_t flags, uint32_t seq, const void *data, size_t bytes)
{
	static uint8_t segment[60 + SEGMENT_DATA_MAX_BYTES], frame[PEER_FRAME_MAX_BYTES];
	bool v4 = addr_is_v4(&t->from);
	size_t head = 20;
	memset(segment, 0, 60);
	if (flags & SYN && t->mss) {
		segment[head] = 2;
		segment[head + 1] = 4;
		set16(segment + head + 2, t->mss);
		head += 4;
	}
	if (flags & SYN && t->scales) {
		memcpy(segment + head, (uint8_t[]){1, 3, 3, (uint8_t)t->shift}, 4);
		head += 4;
	}
	uint32_t window = flags & SYN || !t->scales ? t->window_bytes : t->window_bytes >> t->shift;
	set16(segment, t->from_port);
	set16(segment + 2, t->to_port);
	set32(segment + 4, seq);
	set32(segment + 8, flags & ACK ? t->rcv_nxt : 0);
	segment[12] = (uint8_t)(head / 4 << 4);
	segment[13] = flags;
	set16(segment + 14, window > 65535 ? 65535 : window);
	if (bytes)
		memcpy(segment + head, data, bytes);
	set16(segment + 16, peer_checksum(IP_TCP, &t->from, &t->to, segment, head + bytes));
	struct virtio_net_hdr_v1 vnet = {.num_buffers = 0};
	if (bytes > GUEST_MSS) {
		vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		vnet.gso_type = v4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
		vnet.gso_size = GUEST_MSS;
		vnet.csum_start = v4 ? 34 : 54;
		vnet.csum_offset = 16;
		vnet.hdr_len = (uint16_t)(vnet.csum_start + head);
	}
	peer_send(t->peer, &vnet, frame, peer_ip(frame, IP_TCP, &t->from, &t->to, segment, head + bytes));
	peer_run(t->peer);
}

/* Sends what comes next in the sequence. */
void guest_send(struct tcp_guest *t, uint8_t flags, const void *data, size_t bytes)
{
	uint32_t seq = t->nxt;
	t->nxt += (uint32_t)bytes + (flags & SYN ? 1 : 0) + (flags & FIN ? 1 : 0);
	guest_segment(t, flags, seq, data, bytes);
}

void guest_syn(struct tcp_guest *t)
{
	guest_send(t, SYN, NULL, 0);
}

static void parse_options(struct tcp_seen *s, const uint8_t *o, size_t bytes)
{
	for (size_t at = 0; at < bytes && o[at];) {
		if (o[at] == 1) {
			at++;
			continue;
		}
		cr_assert(at + 2 <= bytes && o[at + 1] >= 2 && at + o[at + 1] <= bytes);
		if (o[at] == 2)
			s->mss = get16(o + at + 2);
		if (o[at] == 3)
			s->shift = o[at + 2];
		at += o[at + 1];
	}
}

/* Takes a frame of the device's apart. Returns false where it is not TCP. */
bool guest_parse(const struct peer_frame *f, struct tcp_seen *s)
{
	uint8_t proto;
	size_t at, bytes;
	*s = (struct tcp_seen){.shift = -1};
	if (!peer_ip_parse(f, &proto, &s->from, &s->to, &at, &bytes) || proto != IP_TCP)
		return false;
	const uint8_t *h = f->data + at;
	size_t head = (size_t)(h[12] >> 4) * 4;
	cr_assert(bytes >= 20 && head >= 20 && head <= bytes);
	s->from_port = get16(h);
	s->to_port = get16(h + 2);
	s->seq = get32(h + 4);
	s->ack = get32(h + 8);
	s->flags = h[13];
	s->window = get16(h + 14);
	s->data = h + head;
	s->bytes = bytes - head;
	if (s->flags & SYN)
		parse_options(s, h + 20, head - 20);
	return true;
}

static bool is_for(const struct tcp_guest *t, const struct tcp_seen *s)
{
	return s->from_port == t->to_port && s->to_port == t->from_port && addr_equal(&s->from, &t->to);
}

/* Takes the next segment for this connection. Returns false where there is none. */
bool guest_next(struct tcp_guest *t, struct tcp_seen *s)
{
	static struct peer_frame frame;
	do {
		if (!peer_receive(t->peer, &frame))
			return false;
		cr_assert(guest_parse(&frame, s));
		cr_assert(is_for(t, s) || t->has_others, "a segment for port %u", s->to_port);
	} while (!is_for(t, s));
	if (s->flags & SYN) {
		t->rcv_nxt = s->seq + 1;
		t->peer_shift = s->shift;
	}
	if (s->flags & ACK && !(s->flags & RST)) {
		unsigned shift = s->flags & SYN || t->peer_shift < 0 || !t->scales ? 0 : (unsigned)t->peer_shift;
		t->edge = s->ack + ((uint32_t)s->window << shift);
		if (after(s->ack, t->una))
			t->una = s->ack;
	}
	return true;
}

static bool ack_is_due(const struct tcp_guest *t)
{
	for (uint32_t i = 0; i < FLOWS_MAX; i++)
		if (t->peer->net->tcp->slot[i] && t->peer->net->tcp->slot[i]->late_ack_ms)
			return true;
	return false;
}

/* The next segment is one with these flags (PSH aside). An acknowledgment may wait for data to go with it. */
void guest_expect(struct tcp_guest *t, struct tcp_seen *s, uint8_t flags)
{
	bool came = guest_next(t, s);
	while (!came && flags == ACK && ack_is_due(t) && peer_pass_time(t->peer))
		came = guest_next(t, s);
	if (!came) {
		peer_run_soon(t->peer);
		came = guest_next(t, s);
	}
	cr_assert(came, "nothing came");
	cr_assert_eq(s->flags & ~PSH, flags, "flags %x, not %x", s->flags, flags);
}

void guest_expect_none(struct tcp_guest *t)
{
	struct tcp_seen s;
	if (guest_next(t, &s))
		cr_assert_fail("flags %x seq %u ack %u, %zu bytes", s.flags, s.seq, s.ack, s.bytes);
}

/* Sends a SYN, and the gate has a connection: t->server is its other end. */
void guest_dial(struct tcp_guest *t, int buffer_bytes)
{
	struct gate_request r;
	int fd[2];
	guest_syn(t);
	cr_assert(peer_gate_take(t->peer, &r), "the gate was not asked");
	cr_assert_eq(r.port, t->to_port);
	cr_assert(addr_equal(&r.addr, &t->to));
	peer_tcp_pair(fd, buffer_bytes);
	t->server = fd[0];
	peer_gate_reply(t->peer, r.id, fd[1], 0);
}

/* Opens the connection. */
void guest_connect(struct tcp_guest *t, int buffer_bytes)
{
	struct tcp_seen s;
	guest_dial(t, buffer_bytes);
	guest_expect(t, &s, SYN | ACK);
	cr_assert_eq(s.ack, t->nxt);
	guest_send(t, ACK, NULL, 0);
}

/* The host connects to the guest's port t->from_port, which is published: t->server is the host's end. */
void guest_serve(struct tcp_guest *t, int buffer_bytes)
{
	static struct peer_frame frame;
	struct tcp_seen s;
	int fd[2];
	peer_tcp_pair(fd, buffer_bytes);
	t->server = fd[0];
	tcp_publish(t->peer->net, fd[1], t->from_port);
	net_flush(t->peer->net);
	cr_assert(peer_receive(t->peer, &frame) && guest_parse(&frame, &s), "the guest is not called");
	cr_assert(s.flags == SYN && s.ack == 0 && s.to_port == t->from_port && s.mss && s.shift >= 0);
	t->from = s.to;
	t->to = s.from;
	t->to_port = s.from_port;
	t->rcv_nxt = s.seq + 1;
	t->peer_shift = s.shift;
	t->edge = t->nxt + 1 + s.window;
	guest_send(t, SYN | ACK, NULL, 0);
	guest_expect(t, &s, ACK);
	cr_assert_eq(s.ack, t->nxt);
}

/* ---- A stream that every byte of can be told from its neighbours ---- */

static uint8_t stream_at(uint64_t seed, uint64_t offset)
{
	uint64_t x = (offset >> 3) * 0x9e3779b97f4a7c15u ^ seed;
	x = (x ^ x >> 31) * 0xbf58476d1ce4e5b9u;
	return (uint8_t)((x ^ x >> 29) >> (offset & 7) * 8);
}

void stream_fill(uint64_t seed, uint64_t offset, uint8_t *to, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		to[i] = stream_at(seed, offset + i);
}

bool stream_is(uint64_t seed, uint64_t offset, const uint8_t *data, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (data[i] != stream_at(seed, offset + i))
			return false;
	return true;
}
