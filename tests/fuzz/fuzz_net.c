/*
 * The network device under any frames, any answers of the gate and any behaviour of servers. Input: steps of an operation
 * byte and what it takes: frames byte by byte, TCP segments and UDP datagrams near valid ones, receive buffers, replies of
 * the gate, reads, writes and closing at the servers' ends, and time.
 */
#include <assert.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/virtio_net.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/virtio_driver.c"
#include "virtio/net/flow.h"
#include "virtio/net/gate/proto.h"
#include "virtio/net/link.h"
#include "vmm/util/io.h"

enum {
	RX = 0,
	TX = 1,
	QUEUE_SIZE = 64,
	VNET = sizeof(struct virtio_net_hdr_v1),
	TX_GPA = DRIVER_BUFFERS_GPA,
	TX_BYTES = 0x20000,
	RX_GPA = TX_GPA + TX_BYTES,
	RX_BYTES = 2048,
	SERVERS_MAX = 8,
	GUESTS = 4, /* ports of the guest's */
	STEPS_MAX = 300,
	LOOP_STEPS_MAX = 20000,
};

/* What one of the guest's ports knows of its flow. */
struct end {
	uint32_t nxt, rcv_nxt;
};

static struct driver g;
static struct loop loop;
static struct net *net;
static int gate, server[SERVERS_MAX];
static unsigned next_server;
static struct end ends[GUESTS];

/* ---- Frames ---- */

static void put_frame(const uint8_t *vnet, const uint8_t *frame, size_t bytes, uint8_t cut)
{
	memset(driver_at(&g, TX_GPA, VNET), 0, VNET);
	if (vnet)
		memcpy(driver_at(&g, TX_GPA, VNET), vnet, VNET);
	if (bytes)
		memcpy(driver_at(&g, TX_GPA + VNET, bytes), frame, bytes);
	uint32_t total = (uint32_t)(VNET + bytes), first = cut < total ? cut : total;
	if (first && first < total)
		driver_add(&g, TX, (struct driver_buffer[]){{TX_GPA, first, false}, {TX_GPA + first, total - first, false}}, 2);
	else
		driver_add(&g, TX, &(struct driver_buffer){TX_GPA, total, false}, 1);
	driver_kick(&g, TX);
}

/* An IP header around `bytes` of payload that are at `h` + 20 or 40 already. Returns the frame's length. */
static size_t put_ip(uint8_t *frame, bool v6, uint8_t proto, uint8_t host, size_t bytes)
{
	static const uint8_t guest_v6[16] = LINK_GUEST_V6, us[6] = LINK_HOST_MAC;
	uint8_t *h = frame + 14;
	memcpy(frame, us, 6);
	set16(frame + 12, v6 ? ETH_P_IPV6 : ETH_P_IP);
	memset(h, 0, v6 ? 40 : 20);
	if (v6) {
		h[0] = 0x60;
		set16(h + 4, (unsigned)bytes);
		h[6] = proto;
		memcpy(h + 8, guest_v6, 16);
		memcpy(h + 24, (uint8_t[16]){0x20, 1, 0xd, 0xb8, [15] = host}, 16);
		return 54 + bytes;
	}
	h[0] = 0x45;
	set16(h + 2, (unsigned)(20 + bytes));
	h[9] = proto;
	set32(h + 12, LINK_GUEST_V4);
	set32(h + 16, host == 255 ? LINK_HOST_V4 : 0xc0000200u | host);
	return 34 + bytes;
}

/* 10 bytes say what the segment is: whose, flags, sequence numbers near the right ones, window, data. */
static void send_segment(const uint8_t *b)
{
	static uint8_t frame[70000];
	static const uint16_t port[4] = {5000, 80, 443, 53};
	bool v6 = b[0] & 0x10;
	struct end *e = &ends[b[0] % GUESTS];
	uint8_t *t = frame + (v6 ? 54 : 34);
	size_t data_bytes = b[5] * (b[6] & 1 ? 250u : 1u), head = 20 + (b[6] >> 4 & 7) * 4u;
	memset(t, 0, head);
	set16(t, 1000u + b[0] % GUESTS);
	set16(t + 2, port[b[0] >> 2 & 3]);
	set32(t + 4, e->nxt + (uint32_t)(int32_t)(int8_t)b[2] * (b[6] & 2 ? 4096 : 1));
	set32(t + 8, e->rcv_nxt + (uint32_t)(int32_t)(int8_t)b[3] * (b[6] & 4 ? 4096 : 1));
	t[12] = (uint8_t)(head / 4 << 4);
	t[13] = b[1] & 0x3f;
	set16(t + 14, b[4] * 257u);
	for (size_t i = 20; i < head; i++)
		t[i] = b[i % 10];
	memset(t + head, b[7], data_bytes);
	if (port[b[0] >> 2 & 3] == 80)
		memcpy(t + head, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", data_bytes < 27 ? data_bytes : 27);
	size_t bytes = put_ip(frame, v6, IP_TCP, b[8] & 1 ? 9 : 7, head + data_bytes);
	if (b[2] == 0)
		e->nxt += (uint32_t)data_bytes + (b[1] & (SYN | FIN) ? 1 : 0);
	put_frame(NULL, frame, bytes, b[9]);
}

static void send_datagram(const uint8_t *b)
{
	static uint8_t frame[70000];
	static const uint16_t port[4] = {5000, 53, 67, 9};
	bool v6 = b[0] & 0x10;
	uint8_t *u = frame + (v6 ? 54 : 34);
	size_t bytes = 8 + b[1] * (b[2] & 1 ? 200u : 1u);
	memset(u, b[3], bytes);
	set16(u, b[0] & 3);
	set16(u + 2, port[b[0] >> 2 & 3]);
	set16(u + 4, (unsigned)bytes + (b[2] & 2 ? b[4] : 0));
	put_frame(NULL, frame, put_ip(frame, v6, b[2] & 4 ? b[5] : IP_UDP, b[2] & 8 ? b[5] : 7, bytes), b[4]);
}

static void take_used(void)
{
	uint32_t head, len;
	while (driver_take_used(&g, TX, &head, &len))
		assert(len == 0);
	while (driver_take_used(&g, RX, &head, &len)) {
		const uint8_t *f = driver_at(&g, RX_GPA + (uint64_t)RX_BYTES * head, RX_BYTES);
		assert(len <= RX_BYTES);
		f += VNET;
		bool v4 = get16(f + 12) == ETH_P_IP, v6 = get16(f + 12) == ETH_P_IPV6;
		if (len < VNET + 74 || (!v4 && !v6) || f[v4 ? 23 : 20] != IP_TCP)
			continue;
		const uint8_t *t = f + (v4 ? 34 : 54);
		struct end *e = &ends[(get16(t + 2) - 1000u) % GUESTS];
		e->rcv_nxt = get32(t + 4) + (t[13] & (SYN | FIN) ? 1 : 0);
		if (!(t[13] & SYN))
			e->nxt = get32(t + 8);
	}
}

static void give_buffers(unsigned count)
{
	struct driver_queue *q = &g.q[RX];
	for (unsigned i = 0; i < count && (uint16_t)(q->avail_index - q->used_index) < QUEUE_SIZE; i++) {
		uint64_t gpa = RX_GPA + (uint64_t)RX_BYTES * (q->next_desc % QUEUE_SIZE);
		driver_add(&g, RX, &(struct driver_buffer){gpa, RX_BYTES, true}, 1);
	}
	driver_kick(&g, RX);
}

/* ---- The other side ---- */

static void gate_step(uint8_t how)
{
	struct gate_request r;
	struct gate_reply reply = {.error = 0};
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {&reply, sizeof reply};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	int pair[2] = {-1, -1};
	if (how == 0xff) {
		io_close(&gate);
		return;
	}
	if (gate < 0 || recv(gate, &r, sizeof r, MSG_DONTWAIT) != sizeof r)
		return;
	reply.id = how & 0x40 ? r.id ^ how : r.id;
	reply.error = how & 0x20 ? how & 0x1f : 0;
	memset(reply.reason, 'r', sizeof reply.reason);
	if (!(how & 0x10) && socketpair(AF_UNIX, (r.proto ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0) {
		int small = 4096, fd = pair[1];
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
		m.msg_control = &control;
		m.msg_controllen = sizeof control;
		control.head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
	}
	sendmsg(gate, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	io_close(&pair[1]);
	int *place = &server[next_server++ % SERVERS_MAX];
	io_close(place);
	*place = pair[0];
}

static void server_step(unsigned what, int *fd, uint8_t arg)
{
	static uint8_t sink[65536];
	if (*fd < 0)
		return;
	if (what == 0)
		(void)!read(*fd, sink, 1 + 250u * arg);
	else if (what == 1)
		(void)!send(*fd, sink, 1 + 250u * arg, MSG_NOSIGNAL | MSG_DONTWAIT);
	else if (what == 2)
		shutdown(*fd, arg % 3);
	else
		io_close(fd);
}

static void run(void)
{
	unsigned steps = 0;
	while (loop_step(&loop, 0) > 0)
		assert(++steps < LOOP_STEPS_MAX); /* it must come to rest while nothing happens outside */
}

/* Every deadline that there is has passed. */
static void pass_time(void)
{
	for (uint32_t i = 0; i < FLOWS_MAX; i++) {
		struct flow *f = net->tcp->slot[i];
		if (f && f->deadline_ms)
			f->deadline_ms = 1;
		if (f && f->late_ack_ms)
			f->late_ack_ms = 1;
		if (f && f->expires_ms)
			f->expires_ms = 1;
	}
	net->tcp->timer.ready(net->tcp->timer.context, EPOLLIN);
}

/* ---- All of it ---- */

static void start(uint8_t kind)
{
	uint64_t features = 1ull << VIRTIO_NET_F_MRG_RXBUF | 1ull << VIRTIO_NET_F_GUEST_CSUM;
	features |= kind & 1 ? 1ull << VIRTIO_RING_F_EVENT_IDX : 0;
	features |= kind & 2 ? 1ull << VIRTIO_NET_F_GUEST_TSO4 | 1ull << VIRTIO_NET_F_GUEST_TSO6 : 0;
	driver_start(&g, features, QUEUE_SIZE);
	run();
}

static void set_up(uint8_t kind)
{
	int fd[2];
	struct err e;
	struct virtio_device *d;
	for (unsigned i = 0; i < SERVERS_MAX; i++)
		server[i] = -1;
	memset(ends, 0, sizeof ends);
	next_server = 0;
	assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd) == 0);
	gate = fd[0];
	struct net_config config = {.mtu = 1500, .gate_fd = fd[1], .control_fd = -1};
	assert(policy_add_allow(&config.policy, "tcp:192.0.2.7:5000", &e) == 0);
	assert(policy_add_allow(&config.policy, "tcp:[2001:db8::7]:5000", &e) == 0);
	assert(policy_add_allow(&config.policy, "udp:192.0.2.7:5000", &e) == 0);
	assert(policy_add_allow(&config.policy, "192.0.2.7", &e) == 0);
	assert(policy_add_allow(&config.policy, "*.test", &e) == 0);
	driver_create(&g);
	assert(loop_create(&loop) == 0);
	assert(net_create(&g.mem, &loop, &config, &d, &e) == 0);
	net = (struct net *)d;
	driver_attach(&g, d);
	loop_remove(&loop, &net->tcp->timer); /* time is an operation */
	start(kind);
}

static size_t step(const uint8_t *data, size_t size)
{
	static uint8_t frame[4096];
	uint8_t op = data[0], arg = data[1];
	size_t used = 2;
	switch (op % 8) {
	case 0: {
		size_t bytes = arg < size - 2 ? arg : size - 2;
		memcpy(frame, data + 2, bytes);
		put_frame(op & 0x40 ? data : NULL, frame, bytes, op);
		used += bytes;
		break;
	}
	case 1:
	case 2:
		if (size >= 11)
			send_segment(data + 1);
		used = 11;
		break;
	case 3:
		if (size >= 7)
			send_datagram(data + 1);
		used = 7;
		break;
	case 4:
		give_buffers(1 + arg % QUEUE_SIZE);
		break;
	case 5:
		gate_step(arg);
		break;
	case 6:
		server_step(op >> 3 & 3, &server[op >> 5], arg);
		break;
	default:
		if (arg > 0xf8)
			start(arg);
		else
			pass_time();
		break;
	}
	if (op & 0x10)
		run();
	return used;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1 + VNET)
		return 0;
	set_up(data[0]);
	for (size_t at = 1, steps = 0; at + VNET <= size && steps < STEPS_MAX; steps++) {
		at += step(data + at, size - at);
		take_used();
		if (net->device.status & VIRTIO_STATUS_NEEDS_RESET)
			start(data[0]);
		assert(net->tcp->kept_bytes <= BUDGET_BYTES);
	}
	run();
	driver_destroy(&g);
	loop_destroy(&loop);
	io_close(&gate);
	for (unsigned i = 0; i < SERVERS_MAX; i++)
		io_close(&server[i]);
	return 0;
}
