/* TCP towards the guest, segment by segment. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/tcp_guest.h"
#include "vmm/util/io.h"

static const struct peer_config usual = {.allow = {"tcp:192.0.2.7:5000", "tcp:[2001:db8::7]:5000"}};

static struct peer peer;
static struct tcp_guest guest;

static void start(bool v6)
{
	peer_create(&peer, &usual);
	guest_init(&guest, &peer, v6, 40000, 5000);
}

static void end(void)
{
	guest_end(&guest);
	peer_destroy(&peer);
}

/* Waits until the server's end has something (its kernel's loopback is not always at once); then reads. */
static ssize_t server_read(void *to, size_t bytes)
{
	struct pollfd p = {.fd = guest.server, .events = POLLIN};
	cr_assert_eq(poll(&p, 1, 10000), 1, "nothing came to the server");
	return recv(guest.server, to, bytes, 0);
}

static void expect_server(const char *text)
{
	char got[256] = "";
	size_t bytes = 0;
	do {
		ssize_t n = server_read(got + bytes, sizeof got - 1 - bytes);
		cr_assert(n >= 0, "%s", strerror(errno));
		cr_assert(n > 0 || bytes == strlen(text), "the end after \"%s\"", got);
		bytes += (size_t)n;
	} while (bytes < strlen(text));
	cr_assert_str_eq(got, text);
}

static void server_write(const void *data, size_t bytes)
{
	cr_assert_eq(send(guest.server, data, bytes, MSG_NOSIGNAL), (ssize_t)bytes);
	peer_run_soon(&peer);
}

/* No flow is left, and nothing that one had. */
static void expect_no_flow(void)
{
	cr_assert_eq(peer.net->tcp->free_slots, FLOWS_MAX);
	cr_assert_eq(peer.net->tcp->kept_bytes, 0);
	cr_assert_null(peer.net->tcp->turn_first);
}

Test(net_tcp, handshake_and_data_both_ways)
{
	for (int v6 = 0; v6 < 2; v6++) {
		struct tcp_seen s;
		start(v6);
		guest.scales = true;
		guest.shift = 7;
		guest_connect(&guest, 0);
		cr_assert_eq(guest.peer_shift, 5);
		guest_send(&guest, ACK | PSH, "hello", 5);
		guest_expect(&guest, &s, ACK);
		cr_assert_eq(s.ack, guest.nxt);
		expect_server("hello");
		server_write("world!", 6);
		guest_expect(&guest, &s, ACK);
		cr_assert(s.bytes == 6 && memcmp(s.data, "world!", 6) == 0);
		cr_assert_eq(s.seq, guest.rcv_nxt);
		guest_expect_none(&guest);
		end();
	}
}

Test(net_tcp, syn_options)
{
	static const struct {
		uint16_t mss;
		bool scales;
		unsigned mtu;
		bool v6;
		uint16_t told, used;
	} row[] = {
		{1460, true, 1500, false, 1460, 1460}, {1440, true, 1500, true, 1440, 1440},
		{0, false, 1500, false, 1460, 536},    {0, false, 1500, true, 1440, 1220},
		{9000, true, 1500, false, 1460, 1460}, {1460, true, 1280, true, 1220, 1220},
		{1, true, 1500, false, 1460, 64},      {8960, true, 9000, false, 8960, 8960},
		{65480, true, 65520, false, 65480, 65480},
	};
	for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
		struct peer_config c = usual;
		struct tcp_seen s;
		c.mtu = row[i].mtu;
		peer_create(&peer, &c);
		guest_init(&guest, &peer, row[i].v6, 40000, 5000);
		guest.mss = row[i].mss;
		guest.scales = row[i].scales;
		guest_dial(&guest, 0);
		guest_expect(&guest, &s, SYN | ACK);
		cr_assert_eq(s.mss, row[i].told, "row %zu: %u", i, s.mss);
		cr_assert_eq(s.shift >= 0, row[i].scales, "row %zu", i);
		cr_assert_eq(peer.net->tcp->turn_first, NULL);
		for (uint32_t k = 0; k < FLOWS_MAX; k++)
			if (peer.net->tcp->slot[k])
				cr_assert_eq(peer.net->tcp->slot[k]->mss, row[i].used, "row %zu", i);
		end();
	}
}

Test(net_tcp, denied_is_refused_at_once)
{
	struct tcp_seen s;
	struct gate_request r;
	start(false);
	guest.to_port = 22;
	guest_syn(&guest);
	guest_expect(&guest, &s, RST | ACK);
	cr_assert_eq(s.ack, guest.nxt);
	cr_assert(!peer_gate_take(&peer, &r));
	cr_assert_eq(peer.net->count.denied, 1);
	expect_no_flow();
	end();
}

Test(net_tcp, what_the_gate_refuses_is_refused)
{
	static const int error[] = {EPERM, ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH};
	for (size_t i = 0; i < 4; i++) {
		struct gate_request r;
		struct tcp_seen s;
		start(false);
		guest_syn(&guest);
		cr_assert(peer_gate_take(&peer, &r));
		guest_expect_none(&guest);
		guest_segment(&guest, SYN, guest.una, NULL, 0); /* again: it is being seen to */
		guest_expect_none(&guest);
		cr_assert(!peer_gate_take(&peer, &r));
		peer_gate_reply(&peer, r.id, -1, error[i]);
		guest_expect(&guest, &s, RST | ACK);
		cr_assert_eq(s.ack, guest.nxt);
		expect_no_flow();
		peer_gate_reply(&peer, r.id, -1, 0); /* an answer to nothing */
		guest_expect_none(&guest);
		end();
	}
}

Test(net_tcp, gate_that_dies_refuses_what_waits_and_what_comes)
{
	struct tcp_guest second;
	struct tcp_seen s;
	start(false);
	guest_connect(&guest, 0);
	guest_init(&second, &peer, false, 40001, 5000);
	guest_syn(&second);
	io_close(&peer.gate);
	peer_run(&peer);
	guest_expect(&second, &s, RST | ACK);
	guest_init(&second, &peer, false, 40002, 5000);
	guest_syn(&second);
	guest_expect(&second, &s, RST | ACK);
	guest_send(&guest, ACK, "still", 5); /* what is connected stays so */
	guest_expect(&guest, &s, ACK);
	expect_server("still");
	end();
}

Test(net_tcp, guest_closes_first)
{
	struct tcp_seen s;
	start(false);
	guest_connect(&guest, 0);
	guest_send(&guest, ACK | FIN, "bye", 3);
	guest_expect(&guest, &s, ACK);
	cr_assert_eq(s.ack, guest.nxt);
	expect_server("bye");
	expect_server("");
	server_write("late", 4); /* the other half is open */
	guest_expect(&guest, &s, ACK);
	cr_assert(s.bytes == 4);
	guest.rcv_nxt += 4;
	guest_send(&guest, ACK, NULL, 0);
	io_close(&guest.server);
	peer_run_soon(&peer);
	guest_expect(&guest, &s, FIN | ACK);
	guest.rcv_nxt++;
	guest_send(&guest, ACK, NULL, 0);
	guest_expect_none(&guest);
	expect_no_flow();
	end();
}

Test(net_tcp, server_closes_first)
{
	struct tcp_seen s;
	start(false);
	guest_connect(&guest, 0);
	server_write("bye", 3);
	shutdown(guest.server, SHUT_WR);
	peer_run_soon(&peer);
	guest_expect(&guest, &s, ACK);
	guest.rcv_nxt += 3;
	guest_expect(&guest, &s, FIN | ACK);
	cr_assert_eq(s.seq, guest.rcv_nxt);
	guest.rcv_nxt++;
	guest_send(&guest, ACK, NULL, 0);
	guest_send(&guest, ACK, "late", 4);
	guest_expect(&guest, &s, ACK);
	expect_server("late");
	guest_send(&guest, ACK | FIN, NULL, 0);
	guest_expect(&guest, &s, ACK);
	cr_assert_eq(s.ack, guest.nxt);
	expect_server("");
	guest_segment(&guest, ACK | FIN, guest.nxt - 1, NULL, 0); /* our acknowledgment was lost */
	guest_expect(&guest, &s, ACK);
	cr_assert_eq(s.ack, guest.nxt);
	cr_assert(peer_pass_time(&peer));
	expect_no_flow();
	end();
}

Test(net_tcp, both_close_at_once)
{
	struct tcp_seen s;
	start(false);
	guest_connect(&guest, 0);
	shutdown(guest.server, SHUT_WR);
	guest_send(&guest, ACK | FIN, NULL, 0); /* before it has seen the FIN */
	guest_expect(&guest, &s, FIN | ACK);
	cr_assert_eq(s.ack, guest.nxt);
	guest.rcv_nxt++;
	guest_send(&guest, ACK, NULL, 0);
	expect_server("");
	guest_expect_none(&guest);
	while (peer_pass_time(&peer))
		;
	expect_no_flow();
	end();
}

Test(net_tcp, guest_resets)
{
	start(false);
	guest_connect(&guest, 0);
	guest_segment(&guest, RST, guest.nxt + (4u << 20), NULL, 0); /* outside the window: it counts for nothing */
	cr_assert_eq(peer.net->tcp->free_slots, FLOWS_MAX - 1);
	guest_segment(&guest, RST, guest.nxt, NULL, 0);
	expect_no_flow();
	guest_expect_none(&guest);
	char c;
	cr_assert(server_read(&c, 1) < 0 && errno == ECONNRESET);
	end();
}

Test(net_tcp, guest_resets_while_the_gate_dials)
{
	struct gate_request r;
	int fd[2];
	start(false);
	guest_syn(&guest);
	cr_assert(peer_gate_take(&peer, &r));
	guest_segment(&guest, RST | ACK, guest.nxt, NULL, 0);
	expect_no_flow();
	peer_tcp_pair(fd, 0);
	guest.server = fd[0];
	peer_gate_reply(&peer, r.id, fd[1], 0);
	guest_expect_none(&guest);
	expect_server("");
	end();
}

static void server_resets(void)
{
	static const struct linger at_once = {.l_onoff = 1};
	setsockopt(guest.server, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
	io_close(&guest.server);
	peer_run_soon(&peer);
}

Test(net_tcp, server_resets)
{
	struct tcp_seen s;
	start(false);
	guest_connect(&guest, 0);
	server_resets();
	guest_expect(&guest, &s, RST | ACK);
	cr_assert_eq(s.seq, guest.rcv_nxt);
	expect_no_flow();
	end();
}

/* A reset after the server's end of data is a reset all the same. */
Test(net_tcp, server_resets_after_it_has_closed)
{
	struct tcp_seen s;
	start(false);
	guest_connect(&guest, 0);
	shutdown(guest.server, SHUT_WR);
	peer_run_soon(&peer);
	guest_expect(&guest, &s, FIN | ACK);
	guest.rcv_nxt++;
	guest_send(&guest, ACK, NULL, 0);
	server_resets();
	guest_expect(&guest, &s, RST | ACK);
	expect_no_flow();
	end();
}

/* What the server said before it went away with unread data is for the guest. */
Test(net_tcp, data_before_a_reset_is_not_lost)
{
	struct tcp_seen s;
	start(false);
	guest_connect(&guest, 0);
	cr_assert_eq(send(guest.server, "answer", 6, 0), 6);
	server_resets();
	guest_expect(&guest, &s, ACK);
	cr_assert(s.bytes == 6 && memcmp(s.data, "answer", 6) == 0);
	guest_expect(&guest, &s, RST | ACK);
	expect_no_flow();
	end();
}

/* The same where we notice by a write that fails. */
Test(net_tcp, data_before_a_failed_write_is_not_lost)
{
	struct tcp_seen s;
	start(false);
	guest_connect(&guest, 0);
	guest.window_bytes = 0;
	guest_send(&guest, ACK, NULL, 0);
	server_write("answer", 6);
	server_resets();
	guest_send(&guest, ACK, "question", 8);
	while (guest_next(&guest, &s))
		cr_assert(!(s.flags & RST) && s.bytes == 0);
	guest.window_bytes = 65535;
	guest_send(&guest, ACK, NULL, 0);
	guest_expect(&guest, &s, ACK);
	cr_assert(s.bytes == 6 && memcmp(s.data, "answer", 6) == 0);
	guest_expect(&guest, &s, RST | ACK);
	expect_no_flow();
	end();
}

Test(net_tcp, lost_data_is_asked_for_again)
{
	struct tcp_seen s;
	start(false);
	guest_connect(&guest, 0);
	guest_segment(&guest, ACK, guest.nxt + 3, "def", 3);
	guest_expect(&guest, &s, ACK);
	cr_assert_eq(s.ack, guest.nxt);
	cr_assert_eq(peer.net->count.reordered, 1);
	guest_send(&guest, ACK, "abc", 3);
	guest_expect(&guest, &s, ACK);
	guest_segment(&guest, ACK, s.ack - 2, "bcdef", 5); /* overlaps */
	guest_expect(&guest, &s, ACK);
	cr_assert_eq(s.ack, guest.nxt + 3);
	guest_segment(&guest, ACK, guest.nxt - 3, "abcdef", 6); /* all of it is old */
	guest_expect(&guest, &s, ACK);
	cr_assert_eq(s.ack, guest.nxt + 3);
	expect_server("abcdef");
	end();
}

Test(net_tcp, segments_that_are_wrong_change_nothing)
{
	struct tcp_seen s;
	start(false);
	guest_connect(&guest, 0);
	guest_segment(&guest, ACK, guest.nxt + (2u << 20), "far", 3); /* beyond the window */
	guest_expect(&guest, &s, ACK);
	cr_assert_eq(s.ack, guest.nxt);
	guest.rcv_nxt += 1000; /* acknowledges what was never sent */
	guest_segment(&guest, ACK, guest.nxt, "x", 1);
	guest.rcv_nxt -= 1000;
	guest_expect(&guest, &s, ACK);
	cr_assert_eq(s.ack, guest.nxt);
	guest_segment(&guest, SYN, guest.nxt, NULL, 0); /* RFC 5961, section 4: a challenge */
	guest_expect(&guest, &s, ACK);
	cr_assert_eq(s.ack, guest.nxt);
	guest_segment(&guest, SYN | FIN, guest.nxt, NULL, 0);
	guest_expect(&guest, &s, ACK);
	guest_segment(&guest, PSH, guest.nxt, "no ack", 6);
	guest_segment(&guest, 0, guest.nxt, "nothing", 7);
	guest_expect_none(&guest);
	guest_send(&guest, ACK, "fine", 4);
	guest_expect(&guest, &s, ACK);
	expect_server("fine");
	end();
}

Test(net_tcp, segments_without_a_flow_are_reset)
{
	struct tcp_seen s;
	start(false);
	guest.rcv_nxt = 77;
	guest_segment(&guest, ACK, 5, "x", 1);
	guest_expect(&guest, &s, RST);
	cr_assert_eq(s.seq, 77);
	guest_segment(&guest, FIN, 5, "x", 1);
	guest_expect(&guest, &s, RST | ACK);
	cr_assert_eq(s.ack, 7);
	guest_segment(&guest, SYN | ACK, 5, NULL, 0);
	guest_expect(&guest, &s, RST);
	guest_segment(&guest, RST, 5, NULL, 0);
	guest_segment(&guest, SYN | RST, 5, NULL, 0);
	guest_expect_none(&guest);
	expect_no_flow();
	end();
}

Test(net_tcp, case_19_urgent_data_is_data)
{
	struct tcp_seen s;
	start(false);
	guest_connect(&guest, 0);
	guest_send(&guest, ACK | 32, "urgent", 6);
	guest_expect(&guest, &s, ACK);
	cr_assert_eq(s.ack, guest.nxt);
	expect_server("urgent");
	end();
}

Test(net_tcp, syn_with_data_and_a_syn_again)
{
	struct tcp_seen s;
	start(false);
	struct gate_request r;
	int fd[2];
	guest_segment(&guest, SYN, guest.nxt, "early", 5);
	guest.nxt++;
	cr_assert(peer_gate_take(&peer, &r));
	peer_tcp_pair(fd, 0);
	guest.server = fd[0];
	peer_gate_reply(&peer, r.id, fd[1], 0);
	guest_expect(&guest, &s, SYN | ACK);
	cr_assert_eq(s.ack, guest.nxt); /* the data was not taken */
	guest_segment(&guest, SYN, guest.nxt - 1, NULL, 0);
	uint32_t seq = s.seq;
	guest_expect(&guest, &s, SYN | ACK);
	cr_assert_eq(s.seq, seq);
	cr_assert(peer_pass_time(&peer)); /* ours was lost */
	guest_expect(&guest, &s, SYN | ACK);
	guest_send(&guest, ACK, "early", 5);
	guest_expect(&guest, &s, ACK);
	expect_server("early");
	end();
}

Test(net_tcp, keepalive_probes_are_answered)
{
	struct tcp_seen s;
	start(false);
	guest_connect(&guest, 0);
	guest_send(&guest, ACK, "a", 1);
	guest_expect(&guest, &s, ACK);
	guest_segment(&guest, ACK, guest.nxt - 1, NULL, 0);
	guest_expect(&guest, &s, ACK);
	cr_assert_eq(s.ack, guest.nxt);
	guest_segment(&guest, ACK, guest.nxt - 1, "?", 1); /* with a byte of garbage (RFC 9293, 3.8.4) */
	guest_expect(&guest, &s, ACK);
	cr_assert_eq(s.ack, guest.nxt);
	expect_server("a");
	end();
}

/* A guest that does not read for long is asked now and then, and never given up on. */
Test(net_tcp, closed_window_is_probed_as_long_as_it_takes)
{
	struct tcp_seen s;
	unsigned probes = 0;
	start(false);
	guest_connect(&guest, 0);
	guest.window_bytes = 4;
	guest_send(&guest, ACK, NULL, 0);
	server_write("0123456789", 10);
	guest_expect(&guest, &s, ACK);
	cr_assert_eq(s.bytes, 4);
	guest.rcv_nxt += 4;
	guest.window_bytes = 0;
	guest_send(&guest, ACK, NULL, 0);
	for (int i = 0; i < 100; i++) {
		cr_assert(peer_pass_time(&peer), "it waits for ever");
		while (guest_next(&guest, &s)) {
			cr_assert(!(s.flags & RST), "given up after %u probes", probes);
			cr_assert(s.bytes <= 1);
			probes++;
			guest_send(&guest, ACK, NULL, 0);
		}
	}
	cr_assert(probes >= 50);
	guest.window_bytes = 3;
	guest_send(&guest, ACK, NULL, 0);
	guest_expect(&guest, &s, ACK);
	cr_assert(s.seq == guest.rcv_nxt && s.bytes == 3 && memcmp(s.data, "456", 3) == 0);
	guest.rcv_nxt += 3;
	guest.window_bytes = 1000;
	guest_send(&guest, ACK, NULL, 0);
	guest_expect(&guest, &s, ACK);
	cr_assert(s.bytes == 3 && memcmp(s.data, "789", 3) == 0);
	end();
}

/* A FIN that came while the guest had no window may have been dropped: it comes again at once when there is room. */
Test(net_tcp, fin_comes_again_when_the_window_opens)
{
	struct tcp_seen s;
	start(false);
	guest_connect(&guest, 0);
	guest.window_bytes = 4;
	guest_send(&guest, ACK, NULL, 0);
	server_write("full", 4);
	guest_expect(&guest, &s, ACK);
	guest.rcv_nxt += 4;
	guest.window_bytes = 0;
	guest_send(&guest, ACK, NULL, 0);
	io_close(&guest.server);
	peer_run(&peer);
	guest_expect(&guest, &s, FIN | ACK);
	guest.window_bytes = 1000;
	guest_send(&guest, ACK, NULL, 0);
	guest_expect(&guest, &s, FIN | ACK);
	cr_assert_eq(s.seq, guest.rcv_nxt);
	guest.rcv_nxt++;
	guest_send(&guest, ACK, NULL, 0);
	guest_expect_none(&guest);
	end();
}

/* A guest that says nothing any more is given up on. */
Test(net_tcp, silent_guest_is_given_up)
{
	struct tcp_seen s;
	start(false);
	guest_connect(&guest, 0);
	server_write("0123456789", 10);
	bool reset = false;
	for (int i = 0; i < 100 && !reset; i++) {
		while (guest_next(&guest, &s))
			reset = s.flags & RST;
		if (!reset)
			cr_assert(peer_pass_time(&peer));
	}
	cr_assert(reset);
	expect_no_flow();
	end();
}

/* What the server does not read the guest may only send up to the window. */
Test(net_tcp, server_that_does_not_read_closes_the_window)
{
	static uint8_t data[32768];
	struct tcp_seen s;
	uint64_t sent = 0, got = 0;
	start(false);
	guest.scales = true;
	guest_connect(&guest, 4096);
	while (guest.edge - guest.nxt >= sizeof data) {
		stream_fill(1, sent, data, sizeof data);
		guest_send(&guest, ACK, data, sizeof data);
		sent += sizeof data;
		while (guest_next(&guest, &s))
			cr_assert(!(s.flags & RST));
		cr_assert(sent < 4 << 20, "there is no end to it");
	}
	cr_assert(peer.net->tcp->kept_bytes <= KEPT_MAX_BYTES);
	guest_send(&guest, ACK, data, guest.edge - guest.nxt);
	cr_assert(peer.net->tcp->kept_bytes <= KEPT_MAX_BYTES);
	while (guest_next(&guest, &s))
		;
	guest_segment(&guest, ACK, guest.nxt, "beyond", 6); /* a probe */
	guest_expect(&guest, &s, ACK);
	cr_assert_eq(s.ack, guest.nxt);
	while (got < sent) {
		ssize_t n = server_read(data, sizeof data);
		cr_assert(n > 0);
		size_t known = got + (size_t)n > sent ? sent - got : (size_t)n;
		cr_assert(stream_is(1, got, data, known));
		got += (uint64_t)n;
		peer_run(&peer);
	}
	bool opened = false;
	while (guest_next(&guest, &s))
		opened = true;
	cr_assert(opened && guest.edge - guest.nxt >= KEPT_MAX_BYTES / 2, "nobody said that there is room again");
	end();
}

static void exchange(bool acknowledged_at_once)
{
	struct tcp_seen s;
	guest_send(&guest, ACK | PSH, "ask", 3);
	if (acknowledged_at_once) {
		guest_expect(&guest, &s, ACK);
		cr_assert(s.bytes == 0 && s.ack == guest.nxt);
	}
	guest_expect_none(&guest);
	expect_server("ask");
	server_write("answer", 6);
	guest_expect(&guest, &s, ACK);
	cr_assert(s.bytes == 6 && s.ack == guest.nxt);
	guest.rcv_nxt += 6;
}

/* Where answers come at once, acknowledgments go with them; where not, they go alone. */
Test(net_tcp, acknowledgments_go_with_prompt_answers)
{
	struct tcp_seen s;
	start(false);
	guest_connect(&guest, 0);
	exchange(false);
	exchange(false);
	guest_send(&guest, ACK, "half", 4);
	guest_expect_none(&guest);
	guest_send(&guest, ACK, "half", 4); /* it may wait for our word */
	guest_expect(&guest, &s, ACK);
	cr_assert_eq(s.ack, guest.nxt);
	expect_server("halfhalf");
	server_write("answer", 6);
	guest_expect(&guest, &s, ACK);
	guest.rcv_nxt += 6;
	exchange(true);
	exchange(false);
	guest_send(&guest, ACK, "slow", 4);
	guest_expect_none(&guest);
	guest_expect(&guest, &s, ACK); /* as time passes */
	cr_assert_eq(s.ack, guest.nxt);
	expect_server("slow");
	server_write("answer", 6);
	guest_expect(&guest, &s, ACK);
	guest.rcv_nxt += 6;
	exchange(true);
	guest_send(&guest, ACK | FIN, NULL, 0); /* the server's end may come at once */
	guest_expect_none(&guest);
	io_close(&guest.server);
	peer_run_soon(&peer);
	guest_expect(&guest, &s, FIN | ACK);
	cr_assert_eq(s.ack, guest.nxt);
	end();
}

/* Both rings have one interrupt: an exchange is one, and what the guest does not want to hear of is none. */
Test(net_tcp, interrupts_are_one_for_both_rings)
{
	struct peer_config c = usual;
	struct tcp_seen s;
	c.features = PEER_OFFLOADS | 1ull << VIRTIO_RING_F_EVENT_IDX;
	peer_create(&peer, &c);
	guest_init(&guest, &peer, false, 40000, 5000);
	guest_connect(&guest, 0);
	driver_ask_irq(&peer.g, PEER_RX);
	driver_ask_irq(&peer.g, PEER_TX);
	while (driver_take_irq(&peer.g))
		;
	uint64_t before = peer.net->device.count.signals;
	guest_send(&guest, ACK | PSH, "ask", 3); /* it waits for the answer alone */
	cr_assert_eq(peer.net->device.count.signals - before, 0);
	server_write("answer", 6);
	cr_assert_eq(peer.net->device.count.signals - before, 1);
	server_write("answer", 6); /* nobody asked for another */
	cr_assert_eq(peer.net->device.count.signals - before, 1);
	driver_ask_irq(&peer.g, PEER_TX);
	guest_send(&guest, ACK, NULL, 0);
	cr_assert_eq(peer.net->device.count.signals - before, 1);
	while (peer.net->tcp->signal_ms)
		cr_assert(peer_pass_time(&peer)); /* but it is not forgotten */
	cr_assert_eq(peer.net->device.count.signals - before, 2);
	while (guest_next(&guest, &s))
		;
	end();
}

/* Servers that read nothing, as many as the budget is for: others go on. */
Test(net_tcp, servers_that_do_not_read_starve_nobody)
{
	enum { STUCK = BUDGET_BYTES / KEPT_MAX_BYTES + 6 };
	static uint8_t data[SEGMENT_DATA_MAX_BYTES];
	static const uint8_t query[] = "\0\x18\0\1\1\0\0\1\0\0\0\0\0\0\1a\4test\0\0\1\0\1";
	struct tcp_seen s;
	int server[STUCK];
	start(false);
	for (unsigned i = 0; i < STUCK; i++) {
		guest_init(&guest, &peer, false, (uint16_t)(1000 + i), 5000);
		guest.scales = guest.has_others = true;
		guest_connect(&guest, 4096);
		server[i] = guest.server;
		for (uint32_t bytes; (bytes = guest.edge - guest.nxt) > 0;) {
			guest_send(&guest, ACK, data, bytes < sizeof data ? bytes : sizeof data);
			while (guest_next(&guest, &s))
				;
		}
	}
	cr_assert(peer.net->tcp->kept_bytes >= BUDGET_BYTES - KEPT_MAX_BYTES, "%zu", peer.net->tcp->kept_bytes);
	cr_assert(peer.net->tcp->kept_bytes <= BUDGET_BYTES + KEPT_MAX_BYTES + STUCK * KEPT_MIN_BYTES);
	guest_init(&guest, &peer, false, 500, DNS_PORT);
	guest.has_others = true;
	guest_syn(&guest);
	guest_expect(&guest, &s, SYN | ACK);
	guest_send(&guest, ACK | PSH, query, sizeof query - 1);
	guest_expect(&guest, &s, ACK);
	cr_assert(s.bytes > 12 && s.ack == guest.nxt);
	for (unsigned i = 0; i < STUCK; i++)
		close(server[i]);
	guest.server = -1;
	end();
}

/* Three acknowledgments of the same bring what follows it at once, and only once. */
Test(net_tcp, fast_retransmission)
{
	static uint8_t data[5 * GUEST_MSS];
	struct tcp_seen s;
	start(false);
	guest_connect(&guest, 0);
	server_write(data, sizeof data);
	while (guest_next(&guest, &s))
		;
	for (int i = 0; i < 3; i++) {
		guest_expect_none(&guest);
		guest_send(&guest, ACK, NULL, 0);
	}
	guest_expect(&guest, &s, ACK);
	cr_assert(s.seq == guest.rcv_nxt && s.bytes == sizeof data);
	for (int i = 0; i < 8; i++)
		guest_send(&guest, ACK, NULL, 0); /* what the others that were on their way bring forth */
	guest_expect_none(&guest);
	end();
}

Test(net_tcp, flood_of_syns_beyond_the_table)
{
	struct gate_request r;
	struct tcp_seen s;
	unsigned resets = 0;
	start(false);
	for (unsigned i = 0; i < FLOWS_MAX + 10; i++) {
		guest_init(&guest, &peer, false, (uint16_t)(1000 + i), 5000);
		guest_syn(&guest);
		while (guest_next(&guest, &s))
			resets += s.flags == (RST | ACK);
		while (peer_gate_take(&peer, &r))
			;
	}
	cr_assert_eq(resets, 10);
	cr_assert_eq(peer.net->count.over_limit, 10);
	end();
}

/* However many SYNs come at a time: the gate is asked for each when it can take it. */
Test(net_tcp, gate_that_is_slow_to_read_is_asked_all_the_same)
{
	struct gate_request r;
	struct tcp_seen s;
	unsigned asked = 0;
	start(false);
	for (unsigned i = 0; i < 2000; i++) {
		guest_init(&guest, &peer, false, (uint16_t)(1000 + i), 5000);
		guest_syn(&guest);
	}
	guest_expect_none(&guest);
	for (bool more = true; more; peer_run(&peer))
		for (more = false; peer_gate_take(&peer, &r); more = true)
			asked++;
	cr_assert_eq(asked, 2000);
	while (guest_next(&guest, &s))
		cr_assert_fail("refused");
	end();
}

/* What has ended does not keep others from starting. */
Test(net_tcp, table_full_of_time_wait_takes_new_flows)
{
	struct tcp_seen s;
	start(false);
	for (unsigned i = 0; i < FLOWS_MAX + 5; i++) {
		guest_init(&guest, &peer, false, (uint16_t)(1000 + i), 5000);
		guest_connect(&guest, 0);
		io_close(&guest.server);
		peer_run_soon(&peer);
		guest_expect(&guest, &s, FIN | ACK);
		guest.rcv_nxt++;
		guest_send(&guest, FIN | ACK, NULL, 0);
		guest_expect(&guest, &s, ACK);
	}
	cr_assert_eq(peer.net->count.over_limit, 0);
	end();
}

/* Closes a flow's connection from the server's side, so that it is in TIME_WAIT. */
static void let_it_wait(uint16_t port)
{
	struct tcp_seen s;
	guest_init(&guest, &peer, false, port, 5000);
	guest_connect(&guest, 0);
	io_close(&guest.server);
	peer_run(&peer);
	guest_expect(&guest, &s, FIN | ACK);
	guest.rcv_nxt++;
	guest_send(&guest, FIN | ACK, NULL, 0);
	guest_expect(&guest, &s, ACK);
}

static uint32_t bucket_of(uint16_t port)
{
	guest_init(&guest, &peer, false, port, 5000);
	return flow_hash(peer.net->tcp->secret, &guest.from, port, &guest.to, 5000) % HASH_BUCKETS;
}

/* The flow that makes room may have been where the new one belongs. */
Test(net_tcp, table_full_of_time_wait_takes_a_flow_of_the_same_bucket)
{
	struct tcp_seen s;
	uint16_t first = 1000, port = first;
	start(false);
	uint32_t bucket = bucket_of(first);
	let_it_wait(first);
	while (peer.net->tcp->free_slots)
		if (bucket_of(++port) != bucket)
			let_it_wait(port);
	while (bucket_of(++port) != bucket)
		;
	guest_init(&guest, &peer, false, port, 5000);
	guest_connect(&guest, 0);
	guest_send(&guest, ACK, "found", 5);
	guest_expect(&guest, &s, ACK);
	expect_server("found");
	end();
}

Test(net_tcp, port_is_used_again_in_time_wait)
{
	struct tcp_seen s;
	start(false);
	guest_connect(&guest, 0);
	io_close(&guest.server);
	peer_run_soon(&peer);
	guest_expect(&guest, &s, FIN | ACK);
	guest.rcv_nxt++;
	guest_send(&guest, FIN | ACK, NULL, 0);
	guest_expect(&guest, &s, ACK);
	guest.nxt += 100000;
	guest_connect(&guest, 0);
	guest_send(&guest, ACK, "again", 5);
	guest_expect(&guest, &s, ACK);
	expect_server("again");
	end();
}

/* A guest that never acknowledges and servers that never stop: what is held for it is bounded. */
Test(net_tcp, case_14_guest_that_takes_nothing_holds_no_memory)
{
	static uint8_t data[65536];
	enum { FLOWS = 80 };
	struct tcp_seen s;
	int server[FLOWS];
	uint64_t sent = 0;
	start(false);
	for (unsigned i = 0; i < FLOWS; i++) {
		guest_init(&guest, &peer, false, (uint16_t)(1000 + i), 5000);
		guest.scales = true;
		guest.shift = 14;
		guest.window_bytes = 65535u << 14;
		guest_connect(&guest, 0);
		server[i] = guest.server;
	}
	for (unsigned round = 0; round < 25; round++) {
		for (unsigned i = 0; i < FLOWS; i++) {
			ssize_t n = send(server[i], data, sizeof data, MSG_DONTWAIT);
			sent += n > 0 ? (uint64_t)n : 0;
		}
		peer_run(&peer);
		struct peer_frame *f = malloc(sizeof *f);
		while (peer_receive(&peer, f))
			;
		free(f);
	}
	(void)s;
	cr_assert(sent > 80 << 20);
	cr_assert(peer.net->tcp->unacked_bytes <= BUDGET_BYTES + FLOWS * 65536u);
	uint64_t held = 0;
	for (uint32_t i = 0; i < FLOWS_MAX; i++)
		for (struct segment *k = peer.net->tcp->slot[i] ? peer.net->tcp->slot[i]->first : NULL; k; k = k->next)
			held += k->bytes;
	cr_assert_eq(held, peer.net->tcp->unacked_bytes);
	for (unsigned i = 0; i < FLOWS; i++)
		close(server[i]);
	guest.server = -1;
	end();
}
