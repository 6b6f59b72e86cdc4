/*
 * Stream sockets under any packets and any behaviour of the host's ends. Input: steps of an operation byte and what it
 * takes: packets with a header near a valid one, buffers, resets, and reads, writes and closing at the host's ends.
 */
#include <assert.h>
#include <errno.h>
#include <linux/virtio_vsock.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/virtio_driver.c"
#include "virtio/vsock.h"
#include "vmm/util/io.h"
#include "vmm/util/loop.h"

enum {
	RX = 0,
	TX = 1,
	QUEUE_SIZE = 16,
	HEADER = sizeof(struct virtio_vsock_hdr),
	TX_GPA = DRIVER_BUFFERS_GPA,
	RX_GPA = DRIVER_BUFFERS_GPA + 0x20000,
	RX_BYTES = 512,
	HOSTS_MAX = 8,
	PORTS = 4,
	STEPS_MAX = 400,
	LOOP_STEPS_MAX = 1000,
};

static int host[HOSTS_MAX];
static uint32_t host_ports[HOSTS_MAX]; /* that the device chose, as its packets told */
static unsigned told;

static int accept_guest(void *context, uint32_t port)
{
	int fd[2];
	(void)context;
	for (unsigned i = 0; i < HOSTS_MAX; i++) {
		if (host[i] >= 0 || port >= PORTS ||
		    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd))
			continue;
		int small = 4096;
		setsockopt(fd[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
		host[i] = fd[0];
		return fd[1];
	}
	return -ECONNREFUSED;
}

static void host_step(unsigned what, int *fd, uint8_t arg)
{
	static uint8_t sink[8192];
	if (*fd < 0)
		return;
	switch (what) {
	case 0:
		(void)!read(*fd, sink, 1 + 32u * arg);
		break;
	case 1:
		(void)!send(*fd, sink, 1 + 32u * arg, MSG_NOSIGNAL | MSG_DONTWAIT);
		break;
	case 2:
		shutdown(*fd, arg % 3);
		break;
	default:
		io_close(fd);
		break;
	}
}

/* A packet: 8 bytes say what differs from a valid one. */
static void send_packet(struct driver *g, const uint8_t *b)
{
	struct virtio_vsock_hdr h = {
	    .src_cid = VSOCK_GUEST_CID ^ (b[0] == 0xff),
	    .dst_cid = VSOCK_HOST_CID ^ (b[0] == 0xfe),
	    .src_port = b[1] % PORTS,
	    .dst_port = b[1] & 0x80 ? host_ports[b[2] % HOSTS_MAX] : b[2] % PORTS,
	    .type = VIRTIO_VSOCK_TYPE_STREAM ^ (b[0] == 0xfd),
	    .op = b[0] % 9,
	    .flags = b[3] % 5,
	    .buf_alloc = b[6] == 0xff ? UINT32_MAX : b[6] * 64u,
	    .fwd_cnt = b[7] == 0xff ? UINT32_MAX : b[7] * 64u,
	};
	uint32_t payload = h.op == VIRTIO_VSOCK_OP_RW ? b[4] * 260u : b[4] == 0xff;
	h.len = b[5] == 0xff ? UINT32_MAX : b[5] == 0xfe ? payload + 1 : payload;
	uint32_t total = HEADER + payload, cut = 1u + b[3] % (total - 1u);
	memcpy(driver_at(g, TX_GPA, HEADER), &h, HEADER);
	if (b[5] == 0xfd)
		total = cut; /* maybe not even a header */
	if (b[5] & 1 && cut < total)
		driver_add(g, TX, (struct driver_buffer[]){{TX_GPA, cut, false}, {TX_GPA + cut, total - cut, false}},
			   2);
	else
		driver_add(g, TX, &(struct driver_buffer){TX_GPA, total, b[5] == 0xfc}, 1);
	driver_kick(g, TX);
}

static void take_used(struct driver *g)
{
	uint32_t head, len;
	while (driver_take_used(g, TX, &head, &len))
		assert(len == 0);
	while (driver_take_used(g, RX, &head, &len)) {
		struct virtio_vsock_hdr h;
		assert(len >= HEADER && len <= RX_BYTES);
		memcpy(&h, driver_at(g, RX_GPA + (uint64_t)RX_BYTES * head, HEADER), HEADER);
		assert(h.dst_cid == VSOCK_GUEST_CID && h.src_cid == VSOCK_HOST_CID && h.len == len - HEADER);
		if (h.src_port >= PORTS)
			host_ports[told++ % HOSTS_MAX] = h.src_port;
	}
}

static void give_buffer(struct driver *g, uint8_t arg)
{
	struct driver_queue *q = &g->q[RX];
	uint16_t out = (uint16_t)(q->avail_index - q->used_index);
	if (out >= QUEUE_SIZE && arg != 0xff)
		return;
	uint64_t gpa = RX_GPA + (uint64_t)RX_BYTES * (q->next_desc % QUEUE_SIZE);
	driver_add(g, RX, &(struct driver_buffer){gpa, arg == 0xfe ? HEADER : RX_BYTES, true}, 1);
	driver_kick(g, RX);
}

static void run(struct loop *loop)
{
	unsigned steps = 0;
	while (loop_step(loop, 0) > 0)
		assert(++steps < LOOP_STEPS_MAX); /* it must come to rest while nothing happens outside */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct driver g;
	struct loop loop;
	struct virtio_device *d;
	struct err e;
	if (size < 1)
		return 0;
	for (unsigned i = 0; i < HOSTS_MAX; i++)
		host[i] = -1;
	memset(host_ports, 0, sizeof host_ports);
	told = 0;
	driver_create(&g);
	assert(loop_create(&loop) == 0);
	assert(vsock_create(&g.mem, &loop, accept_guest, NULL, &d, &e) == 0);
	driver_attach(&g, d);
	const uint64_t features = data[0] & 1 ? 1ull << VIRTIO_RING_F_EVENT_IDX : 0;
	driver_start(&g, features, QUEUE_SIZE);
	for (size_t i = 1, step = 0; i + 2 <= size && step < STEPS_MAX; i += 2, step++) {
		uint8_t op = data[i], arg = data[i + 1];
		switch (op % 8) {
		case 0:
		case 1:
			if (i + 10 <= size)
				send_packet(&g, data + i + 1);
			i += 7;
			break;
		case 2:
		case 3:
			for (unsigned k = 0; k <= op >> 5; k++)
				give_buffer(&g, arg);
			break;
		case 4:
		case 5:
			host_step(op >> 3 & 3, &host[op >> 5], arg);
			break;
		case 6: {
			int fd = accept_guest(NULL, 0);
			if (fd >= 0)
				vsock_connect(d, fd, arg % PORTS);
			break;
		}
		default:
			if (arg > 0xf0)
				driver_start(&g, features, QUEUE_SIZE);
			break;
		}
		if (op & 0x10)
			run(&loop);
		take_used(&g);
		if (d->status & VIRTIO_STATUS_NEEDS_RESET)
			driver_start(&g, features, QUEUE_SIZE);
	}
	run(&loop);
	driver_destroy(&g);
	loop_destroy(&loop);
	for (unsigned i = 0; i < HOSTS_MAX; i++)
		io_close(&host[i]);
	return 0;
}
