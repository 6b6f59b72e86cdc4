/* The link that the guest finds: what is answered here, and what is dropped and counted. */
#include <criterion/criterion.h>
#include <linux/if_ether.h>
#include <string.h>

#include "tests/unit/net_peer.h"
#include "virtio/net/link.h"

static const uint8_t guest_mac[6] = LINK_GUEST_MAC;
static const uint8_t host_mac[6] = LINK_HOST_MAC;
static const struct ip_addr guest_v6 = {LINK_GUEST_V6};
static const struct ip_addr host_v6 = {LINK_HOST_V6};
static const struct ip_addr host_local_v6 = {{0xfe, 0x80, [8] = 0x00, 0xca, 0xb1, 0xff, 0xfe, 0x0c, 0x00, 0x01}};
static const struct ip_addr guest_local_v6 = {{0xfe, 0x80, [15] = 2}};
static const struct ip_addr all_routers_v6 = {{0xff, 0x02, [15] = 2}};
static const struct ip_addr far_v6 = {{0x20, 0x01, 0x0d, 0xb8, [15] = 9}};

static struct peer peer;
static struct peer_frame got;
static uint8_t frame[PEER_FRAME_MAX_BYTES];

static void start(void)
{
	peer_create(&peer, &(struct peer_config){.allow = {"tcp:192.0.2.7:5000"}});
}

static void end(void)
{
	struct gate_request r;
	cr_assert(!peer_gate_take(&peer, &r), "the gate was asked");
	peer_destroy(&peer);
}

/* Sends an IP packet; its transport checksum, where it has one, is the caller's. */
static void send_ip(uint8_t proto, const struct ip_addr *from, const struct ip_addr *to, const void *data, size_t bytes)
{
	peer_send(&peer, NULL, frame, peer_ip(frame, proto, from, to, data, bytes));
	peer_run(&peer);
}

static struct ip_addr host_v4(void)
{
	return addr_v4(LINK_HOST_V4);
}

static struct ip_addr our_v4(void)
{
	return addr_v4(LINK_GUEST_V4);
}

static void expect_nothing(const char *what)
{
	if (peer_receive(&peer, &got))
		cr_assert_fail("%s: an answer of %zu bytes", what, got.bytes);
}

/* ---- ARP ---- */

static void ask_arp(uint16_t op, uint32_t sender, uint32_t target)
{
	uint8_t f[14 + 28] = {0};
	memset(f, 0xff, 6);
	memcpy(f + 6, guest_mac, 6);
	set16(f + 12, ETH_P_ARP);
	memcpy(f + 14, (uint8_t[]){0, 1, 8, 0, 6, 4}, 6);
	set16(f + 20, op);
	memcpy(f + 22, guest_mac, 6);
	set32(f + 28, sender);
	set32(f + 38, target);
	peer_send(&peer, NULL, f, sizeof f);
}

Test(net_link, arp)
{
	static const uint32_t answered[] = {LINK_HOST_V4, 0xc6130003u, 0xc0000207u};
	start();
	for (size_t i = 0; i < 3; i++) {
		ask_arp(1, LINK_GUEST_V4, answered[i]);
		cr_assert(peer_receive(&peer, &got));
		cr_assert_eq(got.bytes, 42);
		const uint8_t *a = got.data + 14;
		cr_assert(get16(a + 6) == 2 && memcmp(a + 8, host_mac, 6) == 0 && get32(a + 14) == answered[i]);
		cr_assert(memcmp(a + 18, guest_mac, 6) == 0 && get32(a + 24) == LINK_GUEST_V4);
	}
	ask_arp(1, 0, LINK_GUEST_V4); /* is my address free? */
	ask_arp(1, 5, 5);             /* this is my address */
	ask_arp(2, LINK_GUEST_V4, LINK_HOST_V4);
	expect_nothing("ARP");
	end();
}

/* ---- Echo ---- */

Test(net_link, echo_is_answered_by_the_gateway_alone)
{
	const struct {
		uint8_t proto, type, reply;
		struct ip_addr from, to;
		bool answered;
	} row[] = {
		{IP_ICMP, 8, 0, our_v4(), host_v4(), true},
		{IP_ICMP, 8, 0, our_v4(), addr_v4(0x08080808), false},
		{IP_ICMP, 0, 0, our_v4(), host_v4(), false},
		{IP_ICMP, 13, 0, our_v4(), host_v4(), false},
		{IP_ICMPV6, 128, 129, guest_v6, host_v6, true},
		{IP_ICMPV6, 128, 129, guest_v6, host_local_v6, true},
		{IP_ICMPV6, 128, 129, guest_v6, far_v6, false},
		{IP_ICMPV6, 143, 0, guest_v6, host_v6, false},
		{IP_ICMP, 8, 0, addr_v4(0xc6130009), host_v4(), true}, /* another address of the link's */
		{IP_ICMP, 8, 0, addr_v4(0x0a000001), host_v4(), false},
		{IP_ICMPV6, 8, 0, our_v4(), host_v4(), false}, /* the other family's */
		{IP_ICMP, 128, 0, guest_v6, host_v6, false},
	};
	start();
	for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
		uint8_t m[64] = {row[i].type, 0, 0, 0, 1, 2, 0, 3}, proto;
		struct ip_addr from, to;
		size_t at, bytes;
		memset(m + 8, (int)i, sizeof m - 8);
		set16(m + 2, peer_checksum(row[i].proto, &row[i].from, &row[i].to, m, sizeof m));
		uint64_t before = peer.net->count.unsupported;
		send_ip(row[i].proto, &row[i].from, &row[i].to, m, sizeof m);
		cr_assert_eq(peer_receive(&peer, &got), row[i].answered, "row %zu", i);
		cr_assert_eq(peer.net->count.unsupported - before, !row[i].answered, "row %zu", i);
		if (!row[i].answered)
			continue;
		cr_assert(peer_ip_parse(&got, &proto, &from, &to, &at, &bytes));
		cr_assert(proto == row[i].proto && addr_equal(&from, &row[i].to) && addr_equal(&to, &row[i].from));
		cr_assert(bytes == sizeof m && got.data[at] == row[i].reply && memcmp(got.data + at + 4, m + 4, sizeof m - 4) == 0);
	}
	end();
}

/* ---- Neighbour discovery ---- */

static void solicit(const struct ip_addr *from, const struct ip_addr *to, const struct ip_addr *target)
{
	uint8_t m[24] = {135};
	memcpy(m + 8, target->byte, 16);
	set16(m + 2, peer_checksum(IP_ICMPV6, from, to, m, sizeof m));
	send_ip(IP_ICMPV6, from, to, m, sizeof m);
}

Test(net_link, neighbours_are_us)
{
	struct ip_addr from, to, none = {{0}};
	uint8_t proto;
	size_t at, bytes;
	start();
	solicit(&guest_v6, &host_v6, &host_v6);
	cr_assert(peer_receive(&peer, &got) && peer_ip_parse(&got, &proto, &from, &to, &at, &bytes));
	const uint8_t *m = got.data + at;
	cr_assert(bytes == 32 && m[0] == 136 && m[4] == 0xe0 && memcmp(m + 8, host_v6.byte, 16) == 0);
	cr_assert(m[24] == 2 && m[25] == 1 && memcmp(m + 26, host_mac, 6) == 0);
	cr_assert_eq(got.data[14 + 7], 255, "hop limit");
	cr_assert(addr_equal(&from, &host_v6) && addr_equal(&to, &guest_v6));
	solicit(&guest_v6, &host_v6, &far_v6);
	cr_assert(peer_receive(&peer, &got));
	solicit(&none, &all_routers_v6, &guest_v6); /* is my address free? */
	expect_nothing("own address");
	solicit(&none, &all_routers_v6, &host_v6); /* is ours? */
	cr_assert(peer_receive(&peer, &got) && peer_ip_parse(&got, &proto, &from, &to, &at, &bytes));
	cr_assert_eq(to.byte[0], 0xff);
	end();
}

Test(net_link, router_advertisement)
{
	struct ip_addr from, to;
	uint8_t proto, m[8] = {133};
	size_t at, bytes;
	start();
	set16(m + 2, peer_checksum(IP_ICMPV6, &guest_local_v6, &all_routers_v6, m, sizeof m));
	send_ip(IP_ICMPV6, &guest_local_v6, &all_routers_v6, m, sizeof m);
	cr_assert(peer_receive(&peer, &got) && peer_ip_parse(&got, &proto, &from, &to, &at, &bytes));
	const uint8_t *a = got.data + at;
	cr_assert(a[0] == 134 && bytes == 64 && addr_equal(&from, &host_local_v6) && addr_equal(&to, &guest_local_v6));
	cr_assert_eq(a[5], 0, "managed");
	cr_assert_eq(a[16], 1);
	cr_assert(a[24] == 5 && get32(a + 28) == 1500);
	cr_assert(a[32] == 3 && a[34] == 64 && memcmp(a + 48, host_v6.byte, 8) == 0);
	end();
}

/* ---- DHCP ---- */

static bool ask_dhcp(uint8_t type, uint32_t wanted, uint8_t answer[600])
{
	uint8_t u[8 + 256] = {0}, *m = u + 8, *o = m + 240, proto;
	struct ip_addr any = addr_v4(0), all = addr_v4(UINT32_MAX), from, to;
	size_t at, bytes;
	set16(u, 68);
	set16(u + 2, 67);
	set16(u + 4, sizeof u);
	m[0] = m[1] = 1;
	m[2] = 6;
	set32(m + 4, 0xfeedbeef);
	memcpy(m + 28, guest_mac, 6);
	memcpy(m + 236, (uint8_t[]){99, 130, 83, 99, 53, 1, type}, 7);
	o += 3;
	if (wanted) {
		o[0] = 50;
		o[1] = 4;
		set32(o + 2, wanted);
		o += 6;
	}
	*o = 255;
	set16(u + 6, peer_checksum(IP_UDP, &any, &all, u, sizeof u));
	send_ip(IP_UDP, &any, &all, u, sizeof u);
	if (!peer_receive(&peer, &got))
		return false;
	cr_assert(peer_ip_parse(&got, &proto, &from, &to, &at, &bytes));
	cr_assert(proto == IP_UDP && addr_to_v4(&from) == LINK_HOST_V4);
	cr_assert(get16(got.data + at) == 67 && get16(got.data + at + 2) == 68 && get16(got.data + at + 4) == bytes);
	cr_assert(bytes - 8 <= 600);
	memset(answer, 0, 600);
	memcpy(answer, got.data + at + 8, bytes - 8);
	cr_assert_eq(get32(answer + 4), 0xfeedbeef);
	return true;
}

static const uint8_t *option(const uint8_t *m, uint8_t code)
{
	for (const uint8_t *o = m + 240; *o != 255; o += 2 + o[1])
		if (*o == code)
			return o + 2;
	return (const uint8_t *)"";
}

Test(net_link, dhcp)
{
	uint8_t a[600];
	start();
	cr_assert(ask_dhcp(1, 0, a));
	cr_assert(option(a, 53)[0] == 2 && get32(a + 16) == LINK_GUEST_V4);
	cr_assert(get32(option(a, 3)) == LINK_HOST_V4 && get32(option(a, 6)) == LINK_HOST_V4 && get32(option(a, 1)) == LINK_V4_MASK);
	cr_assert_eq(get16(option(a, 26)), 1500);
	cr_assert(ask_dhcp(3, LINK_GUEST_V4, a));
	cr_assert_eq(option(a, 53)[0], 5);
	cr_assert(ask_dhcp(3, 0x0a000005, a));
	cr_assert(option(a, 53)[0] == 6 && get32(a + 16) == 0);
	cr_assert(!ask_dhcp(7, 0, a)); /* a release */
	end();
}

/* ---- What is dropped ---- */

struct counted {
	uint64_t malformed, fragments, unsupported, denied;
};

static struct counted counts(void)
{
	const struct net_counters *c = &peer.net->count;
	return (struct counted){c->malformed, c->fragments, c->unsupported, c->denied};
}

static void expect_counted(const struct counted *before, size_t of, const char *what)
{
	struct counted now = counts();
	const uint64_t *a = (const uint64_t *)before, *b = (const uint64_t *)&now;
	for (size_t i = 0; i < 4; i++)
		cr_assert_eq(b[i] - a[i], i == of / sizeof(uint64_t), "%s: counter %zu", what, i);
	expect_nothing(what);
}

/* A SYN that would be answered by RST. */
static size_t plain_syn(bool v6)
{
	uint8_t s[20] = {0x40, 0, 0, 22, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff};
	struct ip_addr from = v6 ? guest_v6 : our_v4(), to = v6 ? far_v6 : addr_v4(0xc0000207);
	set16(s + 16, peer_checksum(IP_TCP, &from, &to, s, sizeof s));
	return peer_ip(frame, IP_TCP, &from, &to, s, sizeof s);
}

Test(net_link, case_19_lying_lengths_are_dropped_and_counted)
{
	static const struct {
		const char *what;
		bool v6;
		size_t bytes; /* of the frame; 0: all */
		size_t at[2];
		uint8_t value[2];
		size_t counter;
	} row[] = {
		{"a frame without a whole header", false, 13, {0}, {0}, 0},
		{"an IPv4 header that is cut", false, 33, {0}, {0}, 0},
		{"an IPv6 header that is cut", true, 53, {0}, {0}, 0},
		{"version 6 in an IPv4 frame", false, 0, {14}, {0x65}, 0},
		{"version 4 in an IPv6 frame", true, 0, {14}, {0x40}, 0},
		{"an IPv4 header of 16 bytes", false, 0, {14}, {0x44}, 0},
		{"an IPv4 header of 60 bytes in a packet of 40", false, 0, {14}, {0x4f}, 0},
		{"more than the frame has", false, 0, {17}, {41}, 0},
		{"64 KiB", false, 0, {16, 17}, {0xff, 0xff}, 0},
		{"less than the header", false, 0, {17}, {19}, 0},
		{"no room for TCP", false, 0, {17}, {27}, 0},
		{"half a TCP header", false, 0, {17}, {39}, 0},
		{"a payload beyond the frame", true, 0, {19}, {21}, 0},
		{"no payload", true, 0, {19}, {0}, 0},
		{"a TCP header of 16 bytes", false, 0, {46}, {0x40}, 0},
		{"a TCP header beyond the packet", false, 0, {46}, {0x60}, 0},
		{"a TCP header beyond the packet", true, 0, {66}, {0xf0}, 0},
		{"a UDP length of 7", false, 0, {23, 39}, {IP_UDP, 7}, 0},
		{"a UDP length beyond the packet", false, 0, {23, 39}, {IP_UDP, 21}, 0},
		{"more fragments", false, 0, {20}, {0x20}, 8},
		{"a later fragment", false, 0, {21}, {1}, 8},
		{"a late fragment", false, 0, {20, 21}, {0x1f, 0xff}, 8},
	};
	start();
	for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
		size_t bytes = plain_syn(row[i].v6);
		for (unsigned k = 0; k < 2; k++)
			if (row[i].at[k])
				frame[row[i].at[k]] = row[i].value[k];
		struct counted before = counts();
		peer_send(&peer, NULL, frame, row[i].bytes ? row[i].bytes : bytes);
		expect_counted(&before, row[i].counter, row[i].what);
	}
	end();
}

/* An IPv4 address is none of IPv6's, though we write it as one. */
Test(net_link, v4_mapped_addresses_are_dropped_and_counted)
{
	static const uint8_t mapped[16] = {[10] = 0xff, 0xff, 192, 0, 2, 7};
	start();
	for (size_t at = 22; at <= 38; at += 16) {
		size_t bytes = plain_syn(true);
		struct counted before = counts();
		memcpy(frame + at, mapped, sizeof mapped);
		peer_send(&peer, NULL, frame, bytes);
		expect_counted(&before, offsetof(struct counted, malformed), at == 22 ? "from one" : "to one");
	}
	end();
}

/* A vnet header that contradicts its frame (of 54 bytes here) drops it; one that only says more than it needs to does not. */
Test(net_link, case_19_bad_vnet_headers_are_dropped_and_counted)
{
	enum { CSUM = VIRTIO_NET_HDR_F_NEEDS_CSUM, TCPV4 = VIRTIO_NET_HDR_GSO_TCPV4, TCPV6 = VIRTIO_NET_HDR_GSO_TCPV6 };
	static const struct {
		const char *what;
		struct virtio_net_hdr_v1 vnet;
		bool good;
	} row[] = {
		{"nonsense", {0xff, 0xff, 0xffff, 0xffff, {{0xffff, 0xffff}}, 0xffff}, false},
		{"a checksum beyond the frame", {.flags = CSUM, .csum_start = 34, .csum_offset = 19}, false},
		{"a checksum far beyond", {.flags = CSUM, .csum_start = 65535, .csum_offset = 65535}, false},
		{"a kind of segments that was not offered", {.gso_type = VIRTIO_NET_HDR_GSO_UDP, .gso_size = 1}, false},
		{"segments of no size", {.gso_type = TCPV4, .gso_size = 0}, false},
		{"segments larger than the frame", {.gso_type = TCPV6, .gso_size = 55}, false},
		{"headers larger than the frame", {.gso_type = TCPV4, .gso_size = 10, .hdr_len = 55}, false},
		{"a checksum at the frame's end", {.flags = CSUM, .csum_start = 34, .csum_offset = 18}, true},
		{"a checksum that nobody needs", {.csum_start = 65535, .csum_offset = 65535}, true},
		{"sizes that nobody needs", {.gso_size = 65535, .hdr_len = 65535}, true},
		{"segments with ECN", {.gso_type = TCPV4 | VIRTIO_NET_HDR_GSO_ECN, .gso_size = 10, .hdr_len = 54}, true},
		{"flags of the future", {.flags = 0xfe}, true},
		{"a number of buffers", {.num_buffers = 0xffff}, true},
	};
	start();
	for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
		size_t bytes = plain_syn(false);
		struct counted before = counts();
		peer_send(&peer, &row[i].vnet, frame, bytes);
		cr_assert_eq(peer.net->count.malformed - before.malformed, !row[i].good, "%s", row[i].what);
		cr_assert_eq(peer_receive(&peer, &got), row[i].good, "%s", row[i].what);
		if (row[i].good)
			cr_assert_eq(got.data[34 + 13], 0x14, "%s: not RST", row[i].what);
	}
	end();
}

Test(net_link, case_28_what_no_rule_speaks_of_is_dropped_and_counted)
{
	static const struct {
		const char *what;
		uint8_t proto;
		bool v6;
	} row[] = {
		{"IPv6 hop-by-hop options", 0, true}, {"an IPv6 routing header", 43, true}, {"an IPv6 fragment", 44, true},
		{"IPv6 destination options", 60, true}, {"IPv6 mobility", 135, true}, {"ESP", 50, true}, {"AH", 51, true},
		{"SCTP", 132, true}, {"GRE", 47, true}, {"IPv4 in IPv6", 4, true}, {"nothing", 59, true},
		{"SCTP", 132, false}, {"GRE", 47, false}, {"IGMP", 2, false}, {"IPv6 in IPv4", 41, false}, {"IP in IP", 4, false},
		{"ESP", 50, false}, {"UDP-Lite", 136, false}, {"DCCP", 33, false}, {"raw", 255, false},
	};
	uint8_t data[64] = {IP_TCP, 0};
	start();
	for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
		struct ip_addr from = row[i].v6 ? guest_v6 : our_v4(), to = row[i].v6 ? far_v6 : addr_v4(0xc0000207);
		struct counted before = counts();
		send_ip(row[i].proto, &from, &to, data, sizeof data);
		expect_counted(&before, offsetof(struct counted, unsupported), row[i].what);
	}
	end();
}

Test(net_link, frames_that_are_not_ours_or_no_ip_are_dropped_and_counted)
{
	static const uint16_t type[] = {0x8100, 0x88cc, 0x8863, 0x0026, 0};
	start();
	for (size_t i = 0; i < 5; i++) {
		size_t bytes = plain_syn(false);
		set16(frame + 12, type[i]);
		struct counted before = counts();
		peer_send(&peer, NULL, frame, bytes);
		expect_counted(&before, offsetof(struct counted, unsupported), "ethertype");
	}
	size_t bytes = plain_syn(false);
	frame[5] ^= 1;
	struct counted before = counts();
	peer_send(&peer, NULL, frame, bytes);
	expect_counted(&before, offsetof(struct counted, unsupported), "another station");
	bytes = plain_syn(false);
	set32(frame + 26, 0x08080808);
	before = counts();
	peer_send(&peer, NULL, frame, bytes);
	expect_counted(&before, offsetof(struct counted, unsupported), "another's address");
	end();
}

/* A frame larger than any packet, and one smaller than its own vnet header. */
Test(net_link, case_19_frames_of_impossible_sizes)
{
	start();
	uint64_t before = peer.net->count.malformed;
	uint64_t gpa = driver_alloc(&peer.g, 80000);
	driver_add(&peer.g, PEER_TX, &(struct driver_buffer){gpa, 80000, false}, 1);
	driver_add(&peer.g, PEER_TX, &(struct driver_buffer){gpa, 5, false}, 1);
	driver_add(&peer.g, PEER_TX, &(struct driver_buffer){gpa, 100, true}, 1);
	driver_kick(&peer.g, PEER_TX);
	cr_assert_eq(peer.net->count.malformed - before, 3);
	end();
}

/* Case 13: a storm of notifications without anything to see is that and nothing more. */
Test(net_link, case_13_storm_of_notifications)
{
	start();
	for (unsigned i = 0; i < 100000; i++) {
		driver_kick(&peer.g, PEER_TX);
		driver_kick(&peer.g, PEER_RX);
	}
	ask_arp(1, LINK_GUEST_V4, LINK_HOST_V4);
	cr_assert(peer_receive(&peer, &got));
	expect_nothing("the storm");
	end();
}

/* Case 14: whoever gives no receive buffers gets no answers, and nothing waits for them that grows. */
Test(net_link, case_14_ring_that_is_not_filled)
{
	peer_create(&peer, &(struct peer_config){.rx_buffers = 1});
	peer.hold_buffers = true;
	for (unsigned i = 0; i < 10000; i++)
		ask_arp(1, LINK_GUEST_V4, LINK_HOST_V4);
	for (unsigned i = 0; i < 10000; i++)
		peer_send(&peer, NULL, frame, plain_syn(i & 1));
	cr_assert_eq(peer.net->count.unsent, 19999);
	cr_assert(peer_receive(&peer, &got));
	expect_nothing("it was given no buffer");
	peer.hold_buffers = false;
	peer_give_buffer(&peer, 0);
	driver_kick(&peer.g, PEER_RX);
	ask_arp(1, LINK_GUEST_V4, LINK_HOST_V4);
	cr_assert(peer_receive(&peer, &got));
	end();
}
