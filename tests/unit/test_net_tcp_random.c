/*
 * TCP towards the guest against a model of a guest's TCP and a server, over a link that loses, doubles and reorders in both
 * directions, with windows of any size, and every order of closing. The claim: each side gets the other's bytes once and in
 * order, all of them before it is told of an end, whoever closes when; and nothing is left over.
 *
 * Random, but the same each time: a failure names its seed. Time passes when nothing else happens.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/tcp_guest.h"
#include "vmm/util/io.h"

enum {
	ROUNDS_MAX = 100000,
	HELD_MAX = 8,
	CHUNK_MAX_BYTES = 65536,
	SERVER_SEED = 1000003,
	QUIET_ROUNDS = 3,
};

/* How a connection goes. */
struct story {
	unsigned loss, doubling, reordering; /* of 1000 segments, each way */
	uint32_t window_bytes;               /* of the guest, at most */
	bool shrinks;                        /* it takes back what it promised */
	bool scales, v6, published;
	int socket_bytes;                    /* of the socket's buffers; 0: usual */
	uint32_t guest_bytes, server_bytes;  /* that each sends, at most */
	bool guest_resets, server_resets;    /* somewhere in the middle */
	uint64_t features;
	uint32_t rx_bytes;
	uint16_t rx_buffers;
};

/* A segment on its way from the guest; its data is a part of the stream. */
struct on_its_way {
	uint8_t flags;
	uint32_t seq, bytes;
};

struct model {
	const struct story *story;
	uint64_t seed, random;
	struct peer peer;
	struct tcp_guest t;
	uint32_t start, server_start; /* sequence numbers of the first bytes */
	uint32_t sent_max;
	uint32_t out_bytes, in_bytes; /* guest: that it will send; that it got */
	uint32_t unread, capacity;
	bool guest_closes, fin_seen, reset_seen, guest_has_reset;
	unsigned duplicate_acks;
	uint32_t server_out, server_sent, server_got;
	bool server_closed, server_eof, server_has_reset, server_reset_seen;
	uint32_t server_closes_after, guest_closes_after; /* bytes got */
	struct on_its_way held[HELD_MAX];
	unsigned held_count;
	bool moved;
	unsigned waits;
};

static uint32_t below(struct model *m, uint32_t limit)
{
	m->random ^= m->random << 13;
	m->random ^= m->random >> 7;
	m->random ^= m->random << 17;
	return limit ? (uint32_t)(m->random >> 11) % limit : 0;
}

static bool chance(struct model *m, unsigned of_1000)
{
	return below(m, 1000) < of_1000;
}

/* ---- The guest sends ---- */

static void transmit(struct model *m, const struct on_its_way *w)
{
	static uint8_t data[CHUNK_MAX_BYTES];
	stream_fill(m->seed, w->seq - m->start, data, w->bytes);
	guest_segment(&m->t, w->flags, w->seq, data, w->bytes);
}

/* Over the link: lost, twice, or after what comes next. */
static void put(struct model *m, uint8_t flags, uint32_t seq, uint32_t bytes)
{
	struct on_its_way w = {flags, seq, bytes};
	if (chance(m, m->story->loss))
		return;
	if (m->held_count < HELD_MAX && chance(m, m->story->reordering)) {
		m->held[m->held_count++] = w;
		return;
	}
	transmit(m, &w);
	if (chance(m, m->story->doubling))
		transmit(m, &w);
	while (m->held_count && below(m, 2))
		transmit(m, &m->held[--m->held_count]);
}

static void acknowledge(struct model *m)
{
	put(m, ACK, m->t.nxt, 0);
}

static void guest_sends(struct model *m)
{
	for (unsigned i = 0; i < 8 && !m->reset_seen && !m->guest_has_reset; i++) {
		uint32_t at = m->t.nxt - m->start, room = after(m->t.edge, m->t.nxt) ? m->t.edge - m->t.nxt : 0;
		uint32_t bytes = at < m->out_bytes ? m->out_bytes - at : 0;
		uint32_t max = below(m, 3) ? GUEST_MSS : below(m, 4) ? 40 : SEGMENT_DATA_MAX_BYTES;
		bytes = bytes > max ? 1 + below(m, max) : bytes;
		bytes = bytes > room ? room : bytes;
		bool fin = m->guest_closes && at + bytes == m->out_bytes;
		if (bytes == 0 && !fin)
			return;
		uint32_t seq = m->t.nxt, early = 0;
		if (bytes && at && chance(m, 50)) /* overlaps what was sent before */
			early = below(m, at < 2000 ? at : 2000);
		if (early + bytes > SEGMENT_DATA_MAX_BYTES)
			early = 0;
		m->t.nxt += bytes + fin;
		if (after(m->t.nxt, m->sent_max))
			m->sent_max = m->t.nxt;
		put(m, (uint8_t)(ACK | (below(m, 2) ? PSH : 0) | (fin ? FIN : 0)), seq - early, bytes + early);
		m->moved = true;
	}
}

/* ---- The guest receives ---- */

static void tell_window(struct model *m)
{
	uint32_t room = m->capacity > m->unread ? m->capacity - m->unread : 0;
	if (m->story->shrinks && chance(m, 200))
		room = below(m, room + 1);
	m->t.window_bytes = room;
}

static void guest_takes(struct model *m, const struct tcp_seen *s)
{
	uint32_t at = s->seq - m->server_start;
	if (s->flags & RST) { /* where all is said, it only means that the flow is forgotten */
		m->reset_seen = true;
		cr_assert(m->server_has_reset || m->guest_has_reset || (m->fin_seen && (m->server_eof || m->t.una - m->start == m->out_bytes + 1)),
			  "seed %lu: reset by nobody", m->seed);
		return;
	}
	if (s->ack == m->t.una && s->bytes == 0 && m->t.nxt != m->t.una && ++m->duplicate_acks == 3)
		m->t.nxt = m->t.una;
	else if (s->ack != m->t.una)
		m->duplicate_acks = 0;
	if (after(m->t.una, m->t.nxt))
		m->t.nxt = m->t.una;
	cr_assert(m->t.una - m->start <= m->out_bytes + 1, "seed %lu: too much is acknowledged", m->seed);
	if (s->bytes == 0 && !(s->flags & FIN)) {
		if (s->seq != m->t.rcv_nxt) /* a probe */
			acknowledge(m);
		return;
	}
	if (s->bytes)
		cr_assert(at + s->bytes <= m->server_out && stream_is(m->seed + SERVER_SEED, at, s->data, s->bytes),
			  "seed %lu: wrong data at %u", m->seed, at);
	if (!after(s->seq, m->t.rcv_nxt) && after(s->seq + (uint32_t)s->bytes + 1, m->t.rcv_nxt)) {
		uint32_t bytes = s->seq + (uint32_t)s->bytes - m->t.rcv_nxt, room = m->capacity > m->unread ? m->capacity - m->unread : 0;
		bool fits = bytes <= room;
		bytes = fits ? bytes : room;
		m->t.rcv_nxt += bytes;
		m->unread += bytes;
		m->in_bytes += bytes;
		if (s->flags & FIN && fits && !m->fin_seen) {
			cr_assert_eq(m->in_bytes, m->server_sent, "seed %lu: an end too early", m->seed);
			cr_assert(m->server_closed, "seed %lu: an end that nobody meant", m->seed);
			m->fin_seen = true;
			m->t.rcv_nxt++;
		}
	}
	tell_window(m);
	acknowledge(m);
}

static void guest_receives(struct model *m)
{
	struct tcp_seen s;
	while (guest_next(&m->t, &s)) {
		m->moved = true;
		if (chance(m, m->story->loss))
			continue;
		struct tcp_seen copy = s;
		guest_takes(m, &s);
		if (chance(m, m->story->doubling) && !m->reset_seen)
			guest_takes(m, &copy);
	}
	if (m->unread && below(m, 3) == 0) {
		bool shut = m->t.window_bytes < GUEST_MSS;
		m->unread -= 1 + below(m, m->unread);
		tell_window(m);
		if (shut && !m->guest_has_reset && !m->reset_seen)
			acknowledge(m);
		m->moved = true;
	}
	if (m->in_bytes >= m->guest_closes_after && !m->guest_closes) {
		m->guest_closes = true;
		m->moved = true;
	}
}

/* ---- The server ---- */

static void server_receives(struct model *m)
{
	static uint8_t data[CHUNK_MAX_BYTES];
	while (m->t.server >= 0 && !m->server_eof && below(m, 4)) {
		ssize_t n = recv(m->t.server, data, 1 + below(m, sizeof data), MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN)
			return;
		m->moved = true;
		if (n < 0) {
			m->server_reset_seen = m->server_eof = true;
			return;
		}
		if (n == 0) {
			cr_assert(m->guest_closes && m->server_got == m->out_bytes, "seed %lu: the server's end at %u of %u", m->seed,
				  m->server_got, m->out_bytes);
			m->server_eof = true;
			return;
		}
		cr_assert(m->server_got + (uint32_t)n <= m->out_bytes && stream_is(m->seed, m->server_got, data, (size_t)n),
			  "seed %lu: wrong data at the server, %u", m->seed, m->server_got);
		m->server_got += (uint32_t)n;
	}
}

static void server_sends(struct model *m)
{
	static uint8_t data[CHUNK_MAX_BYTES];
	while (m->t.server >= 0 && m->server_sent < m->server_out && below(m, 4)) {
		uint32_t bytes = m->server_out - m->server_sent, max = below(m, 3) ? 500 : sizeof data;
		bytes = bytes > max ? 1 + below(m, max) : bytes;
		stream_fill(m->seed + SERVER_SEED, m->server_sent, data, bytes);
		ssize_t n = send(m->t.server, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN)
			m->server_reset_seen = m->server_eof = true;
		if (n <= 0)
			return;
		m->server_sent += (uint32_t)n;
		m->moved = true;
	}
	if (m->t.server >= 0 && m->server_sent == m->server_out && !m->server_closed && m->server_got >= m->server_closes_after) {
		m->server_closed = m->moved = true;
		shutdown(m->t.server, SHUT_WR);
	}
	if (m->server_closed && m->server_eof)
		io_close(&m->t.server);
}

/* ---- Both ---- */

static void someone_resets(struct model *m)
{
	static const struct linger at_once = {.l_onoff = 1};
	if (m->story->guest_resets && !m->guest_has_reset && m->in_bytes + m->server_got > (m->server_out + m->out_bytes) / 2) {
		m->guest_has_reset = true;
		guest_segment(&m->t, RST | ACK, m->sent_max, NULL, 0);
	}
	if (m->story->server_resets && m->t.server >= 0 && m->in_bytes + m->server_got > (m->server_out + m->out_bytes) / 2) {
		m->server_has_reset = true;
		setsockopt(m->t.server, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
		io_close(&m->t.server);
	}
}

static bool done(const struct model *m)
{
	if (m->guest_has_reset)
		return m->server_reset_seen || m->t.server < 0;
	if (m->server_has_reset)
		return m->reset_seen;
	return m->fin_seen && m->server_eof && m->server_closed && (m->t.una - m->start == m->out_bytes + 1 || m->reset_seen);
}

/* The kernel's loopback has timers of its own, where buffers are small. */
static void wait_for_sockets(struct model *m)
{
	struct pollfd p[2] = {{.fd = m->peer.loop.epoll_fd, .events = POLLIN}, {.fd = m->t.server, .events = POLLIN}};
	poll(p, 2, m->waits > 20 ? 20 : 0);
}

/* Nothing happens: time passes for both, and the guest sends again what was not acknowledged. */
static void time_passes(struct model *m)
{
	while (m->held_count)
		transmit(m, &m->held[--m->held_count]);
	wait_for_sockets(m);
	if (++m->waits % 3 == 0 || m->reset_seen || m->guest_has_reset) {
		peer_pass_time(&m->peer);
		return;
	}
	m->t.nxt = m->t.una;
	m->duplicate_acks = 0;
	uint32_t at = m->t.una - m->start;
	if (at < m->out_bytes && !after(m->t.edge, m->t.una))
		put(m, ACK, m->t.una, 1); /* a probe */
	else if (at <= m->out_bytes)
		guest_sends(m);
	else
		acknowledge(m);
}

static void connect_model(struct model *m)
{
	guest_init(&m->t, &m->peer, m->story->v6, (uint16_t)(1000 + m->seed % 60000), 5000);
	m->t.scales = m->story->scales;
	m->t.shift = m->story->scales ? below(m, 8) : 0;
	m->t.una = m->t.nxt = (uint32_t)m->random; /* anywhere, often about to wrap */
	if (below(m, 2))
		m->t.una = m->t.nxt = 0u - below(m, 50000);
	m->capacity = (1u << m->t.shift) + m->story->window_bytes / 20 + below(m, m->story->window_bytes);
	tell_window(m);
	if (m->story->published)
		guest_serve(&m->t, m->story->socket_bytes);
	else
		guest_connect(&m->t, m->story->socket_bytes);
	m->start = m->sent_max = m->t.nxt;
	m->server_start = m->t.rcv_nxt;
	m->out_bytes = below(m, m->story->guest_bytes);
	m->server_out = below(m, m->story->server_bytes);
	m->guest_closes_after = below(m, 2) ? 0 : below(m, m->server_out + 1);
	m->server_closes_after = below(m, 2) ? 0 : below(m, m->out_bytes + 1);
}

static void expect_nothing_left(struct model *m)
{
	struct tcp *t = m->peer.net->tcp;
	struct tcp_seen s;
	for (int i = 0; i < 100 && t->free_slots != FLOWS_MAX; i++) {
		peer_pass_time(&m->peer);
		while (guest_next(&m->t, &s))
			if (!(s.flags & RST) && (s.bytes || s.flags & FIN || s.seq != m->t.rcv_nxt)) {
				m->t.nxt = m->t.una;
				guest_segment(&m->t, ACK, m->t.nxt, NULL, 0);
			}
	}
	cr_assert_eq(t->free_slots, FLOWS_MAX, "seed %lu: a flow is left", m->seed);
	cr_assert_eq(t->kept_bytes, 0, "seed %lu", m->seed);
	cr_assert_eq(t->unacked_bytes, 0, "seed %lu", m->seed);
	cr_assert_eq(m->peer.net->count.malformed, 0);
}

static void tell(const struct story *story, uint64_t seed)
{
	static struct model model;
	struct model *m = &model;
	struct peer_config c = {.allow = {"tcp:192.0.2.7:5000", "tcp:[2001:db8::7]:5000"},
				.features = story->features,
				.rx_bytes = story->rx_bytes,
				.rx_buffers = story->rx_buffers};
	*m = (struct model){.story = story, .seed = seed, .random = seed * 0x9e3779b97f4a7c15u + 1};
	peer_create(&m->peer, &c);
	connect_model(m);
	unsigned quiet = 0;
	for (unsigned round = 0; !done(m); round++) {
		cr_assert(round < ROUNDS_MAX, "seed %lu: no end: guest got %u of %u, server %u of %u%s%s%s%s", seed, m->in_bytes,
			  m->server_out, m->server_got, m->out_bytes, m->fin_seen ? ", guest has FIN" : "",
			  m->server_eof ? ", server has EOF" : "", m->server_closed ? ", server closed" : "",
			  m->guest_closes ? ", guest closes" : "");
		m->moved = false;
		guest_receives(m);
		guest_sends(m);
		server_sends(m);
		server_receives(m);
		someone_resets(m);
		peer_run(&m->peer);
		cr_assert(!m->server_reset_seen || m->guest_has_reset, "seed %lu: reset by nobody", seed);
		quiet = m->moved ? 0 : quiet + 1;
		m->waits = m->moved ? 0 : m->waits;
		if (quiet > QUIET_ROUNDS)
			time_passes(m);
	}
	if (!story->guest_resets && !story->server_resets)
		cr_assert(m->in_bytes == m->server_out && m->server_got == m->out_bytes, "seed %lu", seed);
	expect_nothing_left(m);
	guest_end(&m->t);
	peer_destroy(&m->peer);
}

static void tell_many(const struct story *story, uint64_t first, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		tell(story, first + i);
}

Test(net_tcp_random, a_link_that_loses_nothing)
{
	tell_many(&(struct story){.window_bytes = 200000, .scales = true, .guest_bytes = 400000, .server_bytes = 400000}, 1, 30);
}

Test(net_tcp_random, a_link_that_loses_doubles_and_reorders)
{
	tell_many(&(struct story){.loss = 50, .doubling = 50, .reordering = 50, .window_bytes = 200000, .scales = true,
				  .guest_bytes = 200000, .server_bytes = 200000}, 100, 30);
}

Test(net_tcp_random, a_terrible_link)
{
	tell_many(&(struct story){.loss = 300, .doubling = 100, .reordering = 300, .window_bytes = 60000, .v6 = true,
				  .guest_bytes = 60000, .server_bytes = 60000}, 200, 30);
}

Test(net_tcp_random, small_windows_and_slow_readers)
{
	tell_many(&(struct story){.loss = 10, .window_bytes = 3000, .socket_bytes = 4096, .guest_bytes = 100000, .server_bytes = 50000},
		  300, 30);
}

Test(net_tcp_random, windows_of_a_few_bytes)
{
	tell_many(&(struct story){.loss = 10, .window_bytes = 20, .guest_bytes = 5000, .server_bytes = 1000}, 400, 30);
}

Test(net_tcp_random, windows_that_shrink)
{
	tell_many(&(struct story){.loss = 20, .reordering = 20, .window_bytes = 100000, .shrinks = true, .scales = true,
				  .guest_bytes = 100000, .server_bytes = 200000}, 500, 30);
}

Test(net_tcp_random, little_data_and_every_order_of_closing)
{
	tell_many(&(struct story){.loss = 150, .doubling = 100, .reordering = 150, .window_bytes = 60000, .guest_bytes = 300,
				  .server_bytes = 300}, 600, 400);
}

Test(net_tcp_random, a_connection_to_a_published_port)
{
	tell_many(&(struct story){.loss = 50, .doubling = 50, .reordering = 50, .window_bytes = 100000, .published = true, .scales = true,
				  .guest_bytes = 100000, .server_bytes = 100000}, 6000, 30);
}

Test(net_tcp_random, the_guest_resets)
{
	tell_many(&(struct story){.loss = 20, .window_bytes = 100000, .guest_bytes = 100000, .server_bytes = 100000,
				  .guest_resets = true}, 2000, 30);
}

Test(net_tcp_random, the_server_resets)
{
	tell_many(&(struct story){.loss = 20, .window_bytes = 100000, .guest_bytes = 100000, .server_bytes = 100000,
				  .server_resets = true}, 3000, 30);
}

Test(net_tcp_random, a_driver_without_offloads_and_few_buffers)
{
	tell_many(&(struct story){.loss = 20, .window_bytes = 60000, .guest_bytes = 60000, .server_bytes = 60000,
				  .features = 1ull << VIRTIO_NET_F_MAC, .rx_bytes = 1526, .rx_buffers = 3}, 4000, 20);
}

Test(net_tcp_random, a_driver_with_a_ring_of_small_buffers)
{
	tell_many(&(struct story){.loss = 20, .window_bytes = 200000, .scales = true, .guest_bytes = 100000, .server_bytes = 300000,
				  .rx_bytes = 1526, .rx_buffers = 60}, 5000, 20);
}
