/* UDP flows that a rule allows, and what becomes of the others. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/net_peer.h"
#include "virtio/net/link.h"
#include "virtio/net/udp_flow.h"
#include "vmm/util/io.h"

static const struct ip_addr guest_v6 = {LINK_GUEST_V6};
static const struct ip_addr server_v6 = {{0x20, 0x01, 0x0d, 0xb8, [15] = 7}};

static struct peer peer;
static struct peer_frame got;
static struct ip_addr guest, server;

static void start(bool v6)
{
	peer_create(&peer, &(struct peer_config){.allow = {"udp:192.0.2.7:5000", "udp:[2001:db8::7]:5000", "tcp:192.0.2.7:5001"}});
	guest = v6 ? guest_v6 : addr_v4(LINK_GUEST_V4);
	server = v6 ? server_v6 : addr_v4(0xc0000207);
}

static void send_datagram(uint16_t from_port, uint16_t to_port, const void *data, size_t bytes)
{
	static uint8_t d[65535], frame[PEER_FRAME_MAX_BYTES];
	set16(d, from_port);
	set16(d + 2, to_port);
	set16(d + 4, (unsigned)(8 + bytes));
	set16(d + 6, 0);
	memcpy(d + 8, data, bytes);
	set16(d + 6, peer_checksum(IP_UDP, &guest, &server, d, 8 + bytes));
	peer_send(&peer, NULL, frame, peer_ip(frame, IP_UDP, &guest, &server, d, 8 + bytes));
	peer_run(&peer);
}

/* The next frame is this datagram from the server's port 5000. */
static void expect_datagram(uint16_t to_port, const char *data)
{
	struct ip_addr from, to;
	uint8_t proto;
	size_t at, bytes;
	cr_assert(peer_receive(&peer, &got), "nothing came");
	cr_assert(peer_ip_parse(&got, &proto, &from, &to, &at, &bytes) && proto == IP_UDP, "protocol %u", proto);
	cr_assert(addr_equal(&from, &server) && addr_equal(&to, &guest));
	cr_assert(get16(got.data + at) == 5000 && get16(got.data + at + 2) == to_port && get16(got.data + at + 4) == bytes);
	cr_assert(bytes == 8 + strlen(data) && memcmp(got.data + at + 8, data, strlen(data)) == 0);
}

/* The next frame says that nobody is at the port. */
static void expect_unreachable(uint16_t from_port, uint16_t to_port)
{
	struct ip_addr from, to;
	uint8_t proto;
	size_t at, bytes;
	bool v4 = addr_is_v4(&guest);
	cr_assert(peer_receive(&peer, &got), "nothing came");
	cr_assert(peer_ip_parse(&got, &proto, &from, &to, &at, &bytes));
	cr_assert(proto == (v4 ? IP_ICMP : IP_ICMPV6) && addr_equal(&from, &server) && addr_equal(&to, &guest));
	const uint8_t *m = got.data + at, *h = m + 8, *u = h + (v4 ? 20 : 40);
	cr_assert(m[0] == (v4 ? 3 : 1) && m[1] == (v4 ? 3 : 4) && bytes == 16 + (v4 ? 20u : 40u));
	if (v4)
		cr_assert(h[0] == 0x45 && h[9] == IP_UDP && get32(h + 12) == addr_to_v4(&guest) && get32(h + 16) == addr_to_v4(&server));
	else
		cr_assert(h[6] == IP_UDP && memcmp(h + 8, &guest, 16) == 0 && memcmp(h + 24, &server, 16) == 0);
	cr_assert(get16(u) == from_port && get16(u + 2) == to_port);
}

static void expect_nothing(void)
{
	if (peer_receive(&peer, &got))
		cr_assert_fail("%zu bytes came", got.bytes);
}

/* Two connected UDP sockets: the flow's and the server's. */
static void udp_pair(int fd[2])
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof a;
	for (int i = 0; i < 2; i++) {
		fd[i] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		a.sin_port = 0;
		cr_assert(bind(fd[i], (struct sockaddr *)&a, sizeof a) == 0);
	}
	for (int i = 0; i < 2; i++) {
		cr_assert(getsockname(fd[i], (struct sockaddr *)&a, &len) == 0);
		cr_assert(connect(fd[!i], (struct sockaddr *)&a, sizeof a) == 0);
	}
}

/* The gate was asked for a UDP flow, and has one. Returns the server's end. */
static int dial(void)
{
	struct gate_request r;
	int fd[2];
	cr_assert(peer_gate_take(&peer, &r), "the gate was not asked");
	cr_assert(r.proto == NET_UDP && r.port == 5000 && addr_equal(&r.addr, &server));
	udp_pair(fd);
	peer_gate_reply(&peer, r.id, fd[0], 0);
	return fd[1];
}

static void expect_server(int fd, const char *data)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char text[2000] = "";
	cr_assert_eq(poll(&p, 1, 10000), 1, "nothing came to the server");
	cr_assert_eq(recv(fd, text, sizeof text - 1, 0), (ssize_t)strlen(data));
	cr_assert_str_eq(text, data);
}

static void say(int fd, const char *data)
{
	struct pollfd p = {.fd = peer.loop.epoll_fd, .events = POLLIN};
	cr_assert_eq(send(fd, data, strlen(data), 0), (ssize_t)strlen(data));
	cr_assert_eq(poll(&p, 1, 10000), 1);
	peer_run(&peer);
}

Test(net_udp, datagrams_both_ways)
{
	for (int v6 = 0; v6 < 2; v6++) {
		start(v6);
		send_datagram(4000, 5000, "one", 3);
		send_datagram(4000, 5000, "", 0); /* they wait for the gate */
		send_datagram(4000, 5000, "three", 5);
		int fd = dial();
		expect_server(fd, "one");
		expect_server(fd, "");
		expect_server(fd, "three");
		send_datagram(4000, 5000, "four", 4);
		expect_server(fd, "four");
		say(fd, "answer");
		expect_datagram(4000, "answer");
		say(fd, "another");
		expect_datagram(4000, "another");
		send_datagram(4001, 5000, "other port", 10);
		int other = dial();
		expect_server(other, "other port");
		expect_nothing();
		close(fd);
		close(other);
		peer_destroy(&peer);
	}
}

/* Case 28: QUIC, mDNS and whatever else no rule names: the guest is told at once. Groups get no answer. */
Test(net_udp, case_28_datagrams_without_a_rule_are_refused_at_once)
{
	static const uint16_t port[] = {443, 5353, 123, 5001, 853};
	struct gate_request r;
	for (int v6 = 0; v6 < 2; v6++) {
		start(v6);
		for (size_t i = 0; i < 5; i++) {
			send_datagram(4000, port[i], "x", 1);
			expect_unreachable(4000, port[i]);
			cr_assert_eq(peer.net->count.denied, i + 1);
		}
		server = v6 ? (struct ip_addr){{0xff, 2, [15] = 0xfb}} : addr_v4(0xe00000fb);
		send_datagram(5353, 5353, "x", 1);
		server = addr_v4(UINT32_MAX);
		guest = addr_v4(LINK_GUEST_V4);
		send_datagram(4000, 137, "x", 1);
		cr_assert_eq(peer.net->count.denied, 7);
		expect_nothing();
		cr_assert(!peer_gate_take(&peer, &r));
		cr_assert_null(peer.net->udp);
		peer_destroy(&peer);
	}
}

Test(net_udp, what_the_gate_refuses_is_refused)
{
	struct gate_request r;
	start(false);
	send_datagram(4000, 5000, "x", 1);
	cr_assert(peer_gate_take(&peer, &r));
	peer_gate_reply(&peer, r.id, -1, EPERM);
	expect_unreachable(4000, 5000);
	cr_assert_eq(peer.net->count.denied, 1);
	send_datagram(4000, 5000, "x", 1);
	cr_assert(peer_gate_take(&peer, &r));
	io_close(&peer.gate);
	peer_run(&peer);
	expect_unreachable(4000, 5000);
	send_datagram(4000, 5000, "x", 1);
	expect_unreachable(4000, 5000);
	peer_destroy(&peer);
}

Test(net_udp, server_that_is_not_there)
{
	start(true);
	send_datagram(4000, 5000, "x", 1);
	int fd = dial();
	close(fd);
	struct pollfd p = {.fd = peer.loop.epoll_fd, .events = POLLIN};
	send_datagram(4000, 5000, "y", 1);
	poll(&p, 1, 100); /* unless it was there at once */
	peer_run(&peer);
	expect_unreachable(4000, 5000);
	peer_destroy(&peer);
}

/* What is larger than the guest's MTU takes fragments, which we do not do: it is dropped and counted. */
Test(net_udp, large_datagrams)
{
	static char data[3000];
	memset(data, 'x', sizeof data);
	for (int v6 = 0; v6 < 2; v6++) {
		start(v6);
		send_datagram(4000, 5000, "x", 1);
		int fd = dial();
		size_t max = v6 ? 1452 : 1472;
		data[max] = 0;
		say(fd, data);
		expect_datagram(4000, data);
		data[max] = 'x';
		data[max + 1] = 0;
		say(fd, data);
		expect_nothing();
		cr_assert_eq(peer.net->count.oversized, 1);
		data[max + 1] = 'x';
		close(fd);
		peer_destroy(&peer);
	}
}

/* There are only so many flows: the one that was used least lately makes room. */
Test(net_udp, flows_are_bounded)
{
	struct gate_request r;
	start(false);
	send_datagram(999, 5000, "kept", 4);
	int fd = dial();
	for (unsigned i = 0; i < 3 * UDP_FLOWS_MAX; i++) {
		send_datagram((uint16_t)(1000 + i), 5000, "x", 1);
		while (peer_gate_take(&peer, &r))
			;
		if (i % 500 == 0)
			send_datagram(999, 5000, "again", 5);
	}
	say(fd, "alive");
	expect_datagram(999, "alive");
	close(fd);
	peer_destroy(&peer);
}

/* A guest that gives no buffers: datagrams stay in the socket, and are there when it does. */
Test(net_udp, case_14_guest_without_buffers)
{
	start(false);
	send_datagram(4000, 5000, "x", 1);
	int fd = dial();
	peer.hold_buffers = true;
	for (unsigned i = 0; i < PEER_QUEUE; i++)
		say(fd, "many");
	for (unsigned i = PEER_QUEUE; i < 300; i++) {
		cr_assert_eq(send(fd, "many", 4, 0), 4);
		peer_run(&peer);
	}
	unsigned arrived = 0;
	while (peer_receive(&peer, &got))
		arrived++;
	cr_assert_eq(arrived, PEER_QUEUE);
	peer.hold_buffers = false;
	for (uint16_t i = 0; i < PEER_QUEUE; i++)
		peer_give_buffer(&peer, i);
	driver_kick(&peer.g, PEER_RX);
	peer_run(&peer);
	while (peer_receive(&peer, &got))
		arrived++;
	cr_assert(arrived >= 299, "%u", arrived); /* one was in our hands */
	close(fd);
	peer_destroy(&peer);
}

/* A flow that waits for buffers is left alone, whatever happens to its socket. */
Test(net_udp, error_while_the_guest_has_no_buffers)
{
	start(false);
	send_datagram(4000, 5000, "x", 1);
	int fd = dial();
	peer.hold_buffers = true;
	for (unsigned i = 0; i < PEER_QUEUE; i++)
		say(fd, "many");
	say(fd, "one more");
	close(fd);
	send_datagram(4000, 5000, "to nobody", 9); /* the socket has an error now */
	while (peer_receive(&peer, &got))
		;
	peer.hold_buffers = false;
	for (uint16_t i = 0; i < PEER_QUEUE; i++)
		peer_give_buffer(&peer, i);
	driver_kick(&peer.g, PEER_RX);
	peer_run(&peer);
	expect_unreachable(4000, 5000);
	peer_destroy(&peer);
}

Test(net_udp, revoked_flows_end)
{
	start(false);
	send_datagram(4000, 5000, "x", 1);
	int fd = dial();
	expect_server(fd, "x");
	peer.net->config.policy.allow_count = 0;
	udp_policy_changed(peer.net);
	expect_unreachable(4000, 5000);
	send_datagram(4000, 5000, "y", 1);
	expect_unreachable(4000, 5000);
	close(fd);
	peer_destroy(&peer);
}
