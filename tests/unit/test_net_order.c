/* The supervisor's orders, and the records that it gets: what becomes of flows that are open, or wait. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "tests/unit/tcp_guest.h"
#include "virtio/net/link.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"

static const struct peer_config usual = {.allow = {"tcp:192.0.2.7:5000", "udp:192.0.2.7:5000"}};

static struct peer peer;
static struct tcp_guest guest;

static void start(const struct peer_config *c)
{
	peer_create(&peer, c);
	peer.net->config.record_all = true;
	guest_init(&guest, &peer, false, 40000, 5000);
	if (c->ask)
		guest.to = addr_v4(0x2d210207); /* 45.33.2.7: others are never asked about */
}

static void end(void)
{
	guest_end(&guest);
	peer_destroy(&peer);
}

static void change(enum policy_op op, const char *rule)
{
	struct net_order order = {.id = 1, .op = ORDER_POLICY, .change.op = (uint8_t)op};
	strcpy(order.change.rule, rule);
	peer_order(&peer, &order, -1);
	peer_run(&peer);
}

static void answer(enum order_answer word)
{
	struct net_order order = {.op = ORDER_ANSWER, .answer = (uint8_t)word, .target = {.addr = guest.to, .port = guest.to_port}};
	peer_order(&peer, &order, -1);
	peer_run(&peer);
}

static void expect_record(enum record_kind kind, enum record_verdict verdict, const char *reason)
{
	struct net_record r;
	cr_assert(peer_record_take(&peer, &r), "no record");
	cr_assert(r.kind == kind, "kind %u: %s", r.kind, r.reason);
	cr_assert_str_eq(r.reason, reason);
	cr_assert_eq(r.verdict, verdict);
}

static void expect_no_record(void)
{
	struct net_record r;
	if (peer_record_take(&peer, &r))
		cr_assert_fail("kind %u verdict %u: %s", r.kind, r.verdict, r.reason);
}

/* What the server reads next: the length, or -1 with errno. */
static ssize_t server_read(void *to, size_t bytes)
{
	struct pollfd p = {.fd = guest.server, .events = POLLIN};
	cr_assert_eq(poll(&p, 1, 10000), 1, "nothing came to the server");
	return recv(guest.server, to, bytes, 0);
}

static void expect_server_reset(void)
{
	char c;
	cr_assert(server_read(&c, 1) < 0 && errno == ECONNRESET);
}

/* A rule that is taken back ends the flow for the server at once, whether or not the guest can be told. */
Test(net_order, revoked_flow_says_nothing_more)
{
	struct peer_config c = usual;
	struct tcp_seen s;
	c.rx_buffers = 1;
	start(&c);
	peer.hold_buffers = true;
	guest_connect(&guest, 0);
	expect_record(RECORD_FLOW, VERDICT_ALLOW, "");
	change(POLICY_REMOVE_ALLOW, "tcp:192.0.2.7:5000");
	expect_record(RECORD_FLOW, VERDICT_DENY, "the rule was taken back");
	expect_record(RECORD_DONE, 0, "");
	guest_send(&guest, ACK, "secret", 6);
	expect_server_reset();
	change(POLICY_ADD_DENY, "192.0.2.7");
	expect_record(RECORD_DONE, 0, "");
	peer_give_buffer(&peer, 0);
	driver_kick(&peer.g, PEER_RX);
	peer_run(&peer);
	guest_expect(&guest, &s, RST | ACK);
	expect_record(RECORD_CLOSE, VERDICT_ALLOW, "the rule was taken back");
	expect_no_record();
	end();
}

/* What is over for both sides is not denied. */
Test(net_order, revoked_rule_of_a_flow_in_time_wait)
{
	struct tcp_seen s;
	start(&usual);
	guest_connect(&guest, 0);
	io_close(&guest.server);
	peer_run(&peer);
	guest_expect(&guest, &s, FIN | ACK);
	guest.rcv_nxt++;
	guest_send(&guest, FIN | ACK, NULL, 0);
	guest_expect(&guest, &s, ACK);
	change(POLICY_REMOVE_ALLOW, "tcp:192.0.2.7:5000");
	expect_record(RECORD_FLOW, VERDICT_ALLOW, "");
	expect_record(RECORD_CLOSE, VERDICT_ALLOW, "");
	expect_record(RECORD_DONE, 0, "");
	expect_no_record();
	guest_expect_none(&guest);
	end();
}

/* The user's word is for all flows that wait for the same, unless a rule says otherwise by then. */
Test(net_order, answers)
{
	static const struct {
		enum order_answer answer;
		const char *deny; /* a rule that came meanwhile */
		bool open;
		const char *reason;
	} row[] = {
		{ANSWER_ONCE, NULL, true, ""},
		{ANSWER_ONCE, "45.33.2.7", false, "a rule denies this address"},
		{ANSWER_DENY, NULL, false, "the user denied it"},
	};
	for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
		struct tcp_guest second;
		struct gate_request r;
		struct tcp_seen s;
		start(&(struct peer_config){.ask = true});
		guest_init(&second, &peer, false, 40001, 5000);
		second.to = guest.to;
		guest_syn(&guest);
		guest_syn(&second);
		expect_record(RECORD_ASK, 0, "");
		expect_no_record();
		if (row[i].deny) {
			change(POLICY_ADD_DENY, row[i].deny);
			expect_record(RECORD_DONE, 0, "");
		}
		answer(row[i].answer);
		for (int k = 0; k < 2; k++) {
			cr_assert_eq(peer_gate_take(&peer, &r), row[i].open, "row %zu", i);
			if (!row[i].open) {
				guest_expect(k ? &second : &guest, &s, RST | ACK);
				expect_record(RECORD_FLOW, VERDICT_DENY, row[i].reason);
			}
		}
		end();
	}
}

Test(net_order, flow_that_the_guest_gives_up)
{
	static const struct peer_config ask = {.ask = true};
	for (int waits = 0; waits < 2; waits++) {
		start(waits ? &ask : &usual);
		guest_syn(&guest);
		guest_segment(&guest, RST | ACK, guest.nxt, NULL, 0);
		if (waits)
			expect_record(RECORD_ASK, 0, "");
		expect_record(RECORD_FLOW, VERDICT_FAILED, "reset by the guest");
		expect_no_record();
		end();
	}
}

/* Nothing comes after the totals, whatever the guest and the supervisor still want. */
Test(net_order, nothing_counts_after_the_end)
{
	struct tcp_guest late;
	struct gate_request r;
	start(&usual);
	guest_connect(&guest, 0);
	guest_init(&late, &peer, false, 40001, 5000);
	guest_syn(&late);
	cr_assert(peer_gate_take(&peer, &r));
	peer_order(&peer, &(struct net_order){.op = ORDER_END}, -1);
	peer_run(&peer);
	expect_record(RECORD_FLOW, VERDICT_ALLOW, "");
	expect_record(RECORD_CLOSE, VERDICT_ALLOW, "the sandbox ended");
	expect_record(RECORD_FLOW, VERDICT_FAILED, "the sandbox ended");
	expect_record(RECORD_TOTALS, 0, "");
	guest_init(&late, &peer, false, 40002, 5000);
	guest_syn(&late);
	late.to_port = 22;
	guest_syn(&late);
	change(POLICY_ADD_DENY, "192.0.2.7");
	cr_assert(!peer_gate_take(&peer, &r));
	expect_no_record();
	guest_expect_none(&late);
	end();
}

/* What the socket has taken, the guest takes for sent. */
Test(net_order, data_arrives_after_the_end)
{
	struct tcp_seen s;
	char got[64] = "";
	start(&usual);
	guest_connect(&guest, 0);
	guest_send(&guest, ACK, "last words", 10);
	guest_expect(&guest, &s, ACK);
	peer_order(&peer, &(struct net_order){.op = ORDER_END}, -1);
	peer_run(&peer);
	cr_assert_eq(server_read(got, sizeof got), 10, "%s", strerror(errno));
	cr_assert_str_eq(got, "last words");
	cr_assert_eq(server_read(got, sizeof got), 0);
	end();
}

/* But where some of it is still here, the server must not take what it has for all. */
Test(net_order, data_that_is_kept_is_not_lost_silently)
{
	static uint8_t data[SEGMENT_DATA_MAX_BYTES];
	struct tcp_seen s;
	start(&usual);
	guest.scales = true;
	guest_connect(&guest, 4096);
	while (peer.net->tcp->kept_bytes == 0) {
		guest_send(&guest, ACK, data, sizeof data);
		while (guest_next(&guest, &s))
			;
	}
	peer_order(&peer, &(struct net_order){.op = ORDER_END}, -1);
	peer_run(&peer);
	ssize_t n;
	while ((n = server_read(data, sizeof data)) > 0)
		;
	cr_assert(n < 0 && errno == ECONNRESET);
	end();
}

static void send_datagram(void)
{
	static uint8_t frame[PEER_FRAME_MAX_BYTES];
	uint8_t d[9] = {0x10, 0, 0, 0, 0, 9, 0, 0, 'x'};
	set16(d + 2, 5000);
	set16(d + 6, peer_checksum(IP_UDP, &guest.from, &guest.to, d, sizeof d));
	peer_send(&peer, NULL, frame, peer_ip(frame, IP_UDP, &guest.from, &guest.to, d, sizeof d));
	peer_run(&peer);
}

/* The flows' clock may have struck when the order comes: what it belonged to is gone by then. */
Test(net_order, clock_that_strikes_at_the_end)
{
	start(&usual);
	send_datagram();
	int timer_fd = -1;
	for (int fd = 3; fd < 1024; fd++) { /* the one timer but that of TCP, which this loop does not watch */
		struct itimerspec t;
		if (fd != peer.net->tcp->timer.fd && timerfd_gettime(fd, &t) == 0)
			timer_fd = fd;
	}
	cr_assert(timer_fd >= 0);
	peer_order(&peer, &(struct net_order){.op = ORDER_END}, -1);
	cr_assert_eq(timerfd_settime(timer_fd, 0, &(struct itimerspec){.it_value.tv_nsec = 1}, NULL), 0);
	struct pollfd p = {.fd = timer_fd, .events = POLLIN};
	cr_assert_eq(poll(&p, 1, 10000), 1);
	peer_run(&peer);
	cr_assert_null(peer.net->udp);
	end();
}

/* The device's call comes: from now on `guest` is whom it calls. */
static void expect_call(const struct ip_addr *to)
{
	static struct peer_frame frame;
	struct tcp_seen s;
	cr_assert(peer_receive(&peer, &frame), "no call");
	cr_assert(guest_parse(&frame, &s));
	cr_assert_eq(s.flags, SYN);
	cr_assert(addr_equal(&s.to, to) && s.to_port == 8080);
	guest.from = s.to;
	guest.to = s.from;
	guest.from_port = s.to_port;
	guest.to_port = s.from_port;
	guest.rcv_nxt = s.seq + 1;
}

/* A published port is looked for at the guest's places: where it is refused, and where nobody answers. */
Test(net_order, published_port_that_nobody_serves)
{
	static const struct ip_addr guest_v6 = {LINK_GUEST_V6};
	const struct ip_addr loopback = addr_v4(INADDR_LOOPBACK), guest_v4 = addr_v4(LINK_GUEST_V4);
	int fd[2];
	start(&usual);
	peer_tcp_pair(fd, 0);
	guest.server = fd[0];
	peer_order(&peer, &(struct net_order){.op = ORDER_PUBLISH, .target.port = 8080}, fd[1]);
	peer_run(&peer);
	for (unsigned calls = 0; calls < 4; calls++) {
		expect_call(&loopback);
		cr_assert(peer_pass_time(&peer));
	}
	expect_call(&guest_v4);
	guest_segment(&guest, RST | ACK, 0, NULL, 0);
	expect_call(&guest_v6);
	guest_segment(&guest, RST | ACK, 0, NULL, 0);
	expect_server_reset();
	end();
}
