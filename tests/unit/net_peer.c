#include "tests/unit/net_peer.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "virtio/net/flow.h"
#include "virtio/net/link.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"

enum {
	VNET = sizeof(struct virtio_net_hdr_v1),
	TX_SLOT_BYTES = VNET + PEER_FRAME_MAX_BYTES + 7,
	RX_AREA_BYTES = 1 << 20,
	LOOP_STEPS_MAX = 100000,
};

static const uint8_t guest_mac[6] = LINK_GUEST_MAC;
static const uint8_t host_mac[6] = LINK_HOST_MAC;

/* ---- Life ---- */

/* Makes a device and a driver that has started it. */
void peer_create(struct peer *p, const struct peer_config *c)
{
	int fd[2], control[2];
	struct err e;
	struct virtio_device *d;
	*p = (struct peer){.rx_bytes = c->rx_bytes ? c->rx_bytes : 4096};
	cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd) == 0);
	cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) == 0);
	p->gate = fd[0];
	p->control = control[0];
	struct net_config config = {.mtu = c->mtu ? c->mtu : 1500, .gate_fd = fd[1], .control_fd = control[1]};
	config.policy.ask = c->ask;
	for (unsigned i = 0; c->allow[i]; i++)
		cr_assert(policy_add_allow(&config.policy, c->allow[i], &e) == 0, "%s", e.text);
	driver_create(&p->g);
	cr_assert(loop_create(&p->loop) == 0);
	cr_assert(net_create(&p->g.mem, &p->loop, &config, &d, &e) == 0, "%s", e.text);
	p->net = (struct net *)d;
	driver_attach(&p->g, d);
	loop_remove(&p->loop, &p->net->tcp->timer); /* time passes when the test says so */
	driver_start(&p->g, c->features ? c->features : PEER_OFFLOADS, PEER_QUEUE);
	p->tx_gpa = driver_alloc(&p->g, (uint64_t)TX_SLOT_BYTES * PEER_TX_SLOTS);
	p->rx_gpa = driver_alloc(&p->g, RX_AREA_BYTES);
	unsigned buffers = c->rx_buffers ? c->rx_buffers : RX_AREA_BYTES / p->rx_bytes;
	for (uint16_t i = 0; i < buffers && i < PEER_QUEUE; i++)
		peer_give_buffer(p, i);
	driver_kick(&p->g, PEER_RX);
	peer_run(p);
}

void peer_destroy(struct peer *p)
{
	driver_destroy(&p->g);
	loop_destroy(&p->loop);
	io_close(&p->gate);
	io_close(&p->control);
}

/* Lets the device have receive buffer `index`. */
void peer_give_buffer(struct peer *p, uint16_t index)
{
	driver_desc(&p->g, PEER_RX, index, p->rx_gpa + (uint64_t)index * p->rx_bytes, p->rx_bytes, DESC_WRITE, 0);
	driver_publish(&p->g, PEER_RX, index);
}

/* ---- Frames ---- */

/* Makes a frame available, in two buffers as Linux does, without telling the device. */
void peer_queue(struct peer *p, const struct virtio_net_hdr_v1 *vnet, const void *frame, size_t bytes)
{
	static const struct virtio_net_hdr_v1 none;
	uint64_t gpa = p->tx_gpa + (uint64_t)(p->tx_next++ % PEER_TX_SLOTS) * TX_SLOT_BYTES;
	memcpy(driver_at(&p->g, gpa, VNET), vnet ? vnet : &none, VNET);
	memcpy(driver_at(&p->g, gpa + VNET, bytes), frame, bytes);
	uint32_t first = VNET + (bytes > 60 ? 54 : (uint32_t)bytes);
	struct driver_buffer b[2] = {{gpa, first, false}, {gpa + first, VNET + (uint32_t)bytes - first, false}};
	driver_add(&p->g, PEER_TX, b, b[1].len_bytes ? 2 : 1);
}

/* Sends a frame, and sees it taken. `vnet` NULL: it is as it should be on a wire. */
void peer_send(struct peer *p, const struct virtio_net_hdr_v1 *vnet, const void *frame, size_t bytes)
{
	uint32_t head, len;
	peer_queue(p, vnet, frame, bytes);
	driver_kick(&p->g, PEER_TX);
	while (driver_take_used(&p->g, PEER_TX, &head, &len))
		cr_assert_eq(len, 0);
}

static void check_frame(const struct peer *p, const struct peer_frame *f)
{
	struct ip_addr from, to;
	uint8_t proto;
	size_t at, bytes;
	cr_assert(memcmp(f->data, guest_mac, 6) == 0 && memcmp(f->data + 6, host_mac, 6) == 0);
	if (get16(f->data + 12) == ETH_P_ARP)
		return;
	cr_assert(peer_ip_parse(f, &proto, &from, &to, &at, &bytes), "not an IP packet");
	cr_assert(f->bytes == at + bytes, "%zu, %zu", f->bytes, at + bytes);
	if (f->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
		cr_assert(net_offers(p->net, VIRTIO_NET_F_GUEST_CSUM));
		cr_assert_eq(f->vnet.csum_start, at);
		cr_assert_eq(f->vnet.csum_offset, proto == IP_TCP ? 16 : 6);
		uint8_t copy[2] = {0};
		uint16_t pseudo = (uint16_t)~peer_checksum(proto, &from, &to, copy, 0);
		uint32_t sum = pseudo + (uint32_t)(bytes & 0xffff); /* the length is part of it */
		cr_assert_eq(get16(f->data + at + f->vnet.csum_offset), sum_fold(sum));
	} else {
		cr_assert_eq(peer_checksum(proto, &from, &to, f->data + at, bytes), 0, "checksum of protocol %u", proto);
	}
	if (f->vnet.gso_type) {
		bool v4 = addr_is_v4(&from);
		cr_assert(net_offers(p->net, v4 ? VIRTIO_NET_F_GUEST_TSO4 : VIRTIO_NET_F_GUEST_TSO6));
		cr_assert_eq(f->vnet.gso_type, v4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6);
		cr_assert_eq(f->vnet.hdr_len, at + (size_t)(f->data[at + 12] >> 4) * 4);
		cr_assert(f->vnet.gso_size && f->bytes - f->vnet.hdr_len > f->vnet.gso_size);
		cr_assert(at - 14 + (f->vnet.hdr_len - at) + f->vnet.gso_size <= p->net->config.mtu);
	} else {
		cr_assert(f->bytes <= 14 + p->net->config.mtu, "a packet of %zu bytes", f->bytes - 14);
	}
}

/* Takes the next frame that the device sent. Returns false where there is none. */
bool peer_receive(struct peer *p, struct peer_frame *f)
{
	uint32_t head, len;
	uint16_t left = 1;
	f->bytes = 0;
	for (uint16_t n = 0; n < left; n++) {
		bool there = driver_take_used(&p->g, PEER_RX, &head, &len);
		if (n == 0 && !there)
			return false;
		cr_assert(there && len <= p->rx_bytes && len > 0);
		const uint8_t *at = driver_at(&p->g, p->rx_gpa + (uint64_t)head * p->rx_bytes, len);
		if (n == 0) {
			cr_assert(len > VNET);
			memcpy(&f->vnet, at, VNET);
			left = f->vnet.num_buffers;
			at += VNET;
			len -= VNET;
		}
		cr_assert(f->bytes + len <= sizeof f->data);
		memcpy(f->data + f->bytes, at, len);
		f->bytes += len;
		if (!p->hold_buffers)
			peer_give_buffer(p, (uint16_t)head);
	}
	driver_kick(&p->g, PEER_RX);
	check_frame(p, f);
	return true;
}

/* Lets the device do what it has to do now. */
void peer_run(struct peer *p)
{
	unsigned steps = 0;
	while (loop_step(&p->loop, 0) > 0)
		cr_assert(++steps < LOOP_STEPS_MAX, "the device does not come to rest");
}

/* The same where something has happened outside, of which the kernel may not have told yet. */
void peer_run_soon(struct peer *p)
{
	struct pollfd f = {.fd = p->loop.epoll_fd, .events = POLLIN};
	poll(&f, 1, 1000);
	peer_run(p);
}

static void sooner(uint64_t *at_ms, uint64_t by_ms)
{
	if (*at_ms)
		*at_ms = *at_ms > by_ms ? *at_ms - by_ms : 1;
}

/* Lets time pass until the next deadline of a flow, or of the device. Returns false where there is none. */
bool peer_pass_time(struct peer *p)
{
	struct tcp *t = p->net->tcp;
	uint64_t now = flow_now_ms(), next = 0;
	for (uint32_t i = 0; i < FLOWS_MAX; i++) {
		uint64_t due = t->slot[i] ? flow_due_ms(t->slot[i]) : 0;
		if (due && (!next || due < next))
			next = due;
	}
	if (!next)
		next = t->signal_ms;
	if (!next)
		return false;
	uint64_t by_ms = next > now ? next - now : 0;
	sooner(&t->signal_ms, by_ms);
	for (uint32_t i = 0; i < FLOWS_MAX; i++) {
		if (t->slot[i]) {
			sooner(&t->slot[i]->deadline_ms, by_ms);
			sooner(&t->slot[i]->expires_ms, by_ms);
			sooner(&t->slot[i]->late_ack_ms, by_ms);
		}
	}
	t->timer.ready(t->timer.context, EPOLLIN);
	peer_run(p);
	return true;
}

/* ---- The gate ---- */

/* Takes a request of the device's. Returns false where there is none. */
bool peer_gate_take(struct peer *p, struct gate_request *r)
{
	return recv(p->gate, r, sizeof *r, MSG_DONTWAIT) == sizeof *r;
}

/* Sends a message with `fd`, which is closed here, unless it is -1. */
static void send_message(int to, void *message, size_t bytes, int fd)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {0};
	struct iovec iov = {message, bytes};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	if (fd >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof control;
		control.head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
	}
	cr_assert_eq(sendmsg(to, &m, MSG_NOSIGNAL), (ssize_t)bytes);
	io_close(&fd);
}

/* Answers it: with `fd`, which is passed on and closed here, or an errno. */
void peer_gate_reply(struct peer *p, uint64_t id, int fd, int error)
{
	struct gate_reply reply = {.id = id, .error = error, .reason = "the test says so"};
	send_message(p->gate, &reply, sizeof reply, fd);
	peer_run(p);
}

/* ---- The supervisor ---- */

/* Gives an order, with `fd`, which is passed on and closed here, or -1. It is carried out by the next peer_run(). */
void peer_order(struct peer *p, const struct net_order *order, int fd)
{
	struct net_order copy = *order;
	send_message(p->control, &copy, sizeof copy, fd);
}

/* Takes a record of the device's. Returns false where there is none. */
bool peer_record_take(struct peer *p, struct net_record *r)
{
	return recv(p->control, r, sizeof *r, MSG_DONTWAIT) == sizeof *r;
}

/* ---- Sockets ---- */

/* Two connected, non-blocking TCP sockets on the loopback. Small buffers where `buffer_bytes` is not 0. */
void peer_tcp_pair(int fd[2], int buffer_bytes)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof a;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (buffer_bytes) {
		setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof buffer_bytes);
		setsockopt(listener, SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof buffer_bytes);
		setsockopt(fd[0], SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof buffer_bytes);
		setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof buffer_bytes);
	}
	cr_assert(bind(listener, (struct sockaddr *)&a, sizeof a) == 0 && listen(listener, 1) == 0);
	cr_assert(getsockname(listener, (struct sockaddr *)&a, &len) == 0);
	cr_assert(connect(fd[0], (struct sockaddr *)&a, sizeof a) == 0);
	fd[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	cr_assert(fd[1] >= 0 && fcntl(fd[0], F_SETFL, O_NONBLOCK) == 0);
	close(listener);
}

/* ---- IP ---- */

/* The Internet checksum of a transport segment with its pseudo header; 0 over one that has its own. */
uint16_t peer_checksum(uint8_t proto, const struct ip_addr *from, const struct ip_addr *to, const uint8_t *data, size_t bytes)
{
	uint64_t sum = 0;
	if (proto != IP_ICMP) {
		for (unsigned i = addr_is_v4(from) ? 12 : 0; i < 16; i += 2)
			sum += (uint64_t)get16(from->byte + i) + get16(to->byte + i);
		sum += proto + bytes;
	}
	for (size_t i = 0; i < bytes; i += 2)
		sum += i + 1 < bytes ? get16(data + i) : (unsigned)data[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/* Writes an Ethernet frame with an IP packet. Returns its length. */
size_t peer_ip(uint8_t *frame, uint8_t proto, const struct ip_addr *from, const struct ip_addr *to, const void *data, size_t bytes)
{
	bool v4 = addr_is_v4(from);
	size_t head = v4 ? 20 : 40;
	uint8_t *h = frame + 14;
	memcpy(frame, host_mac, 6);
	memcpy(frame + 6, guest_mac, 6);
	set16(frame + 12, v4 ? ETH_P_IP : ETH_P_IPV6);
	memset(h, 0, head);
	if (v4) {
		h[0] = 0x45;
		set16(h + 2, (unsigned)(head + bytes));
		h[8] = 64;
		h[9] = proto;
		memcpy(h + 12, from->byte + 12, 4);
		memcpy(h + 16, to->byte + 12, 4);
		set16(h + 10, peer_checksum(IP_ICMP, from, to, h, 20));
	} else {
		h[0] = 0x60;
		set16(h + 4, (unsigned)bytes);
		h[6] = proto;
		h[7] = 255;
		memcpy(h + 8, from->byte, 16);
		memcpy(h + 24, to->byte, 16);
	}
	memcpy(h + head, data, bytes);
	return 14 + head + bytes;
}

/* Takes a packet apart: its payload begins `at` in the frame. Returns false where it is none. */
bool peer_ip_parse(const struct peer_frame *f, uint8_t *proto, struct ip_addr *from, struct ip_addr *to, size_t *at, size_t *bytes)
{
	const uint8_t *h = f->data + 14;
	if (get16(f->data + 12) == ETH_P_IP) {
		cr_assert(f->bytes >= 34 && h[0] == 0x45 && peer_checksum(IP_ICMP, NULL, NULL, h, 20) == 0);
		*proto = h[9];
		*from = addr_v4(get32(h + 12));
		*to = addr_v4(get32(h + 16));
		*at = 34;
		*bytes = get16(h + 2) - 20u;
		return true;
	}
	if (get16(f->data + 12) != ETH_P_IPV6)
		return false;
	cr_assert(f->bytes >= 54 && h[0] >> 4 == 6);
	*proto = h[6];
	memcpy(from->byte, h + 8, 16);
	memcpy(to->byte, h + 24, 16);
	*at = 54;
	*bytes = get16(h + 4);
	return true;
}
