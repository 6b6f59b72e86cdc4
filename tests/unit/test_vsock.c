/* virtio/vsock.c: stream sockets between a driver that keeps the rules, or does not, and socketpairs. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_vsock.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/virtio_driver.h"
#include "virtio/vsock.h"
#include "vmm/util/err.h"
#include "vmm/util/loop.h"

enum {
	RX = 0,
	TX = 1,
	EVENT = 2,
	QUEUE_SIZE = 64,
	HEADER = sizeof(struct virtio_vsock_hdr),
	RX_BYTES = 1024, /* of a buffer for the device's packets */
	DATA_MAX = 60000,
	HOST_PORT = 1000, /* the only one that is listened to */
	GUEST_PORT = 2000,
	BOTH = VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND,
	HOSTS_MAX = 1100,
	BUFFER_LIMIT = 64 << 10,
};

struct packet {
	struct virtio_vsock_hdr h;
	uint8_t data[RX_BYTES];
};

static struct driver g;
static struct loop loop;
static int host[HOSTS_MAX]; /* our ends of accepted connections */
static unsigned hosts;
static uint64_t rx_gpa[QUEUE_SIZE], tx_gpa;
static uint32_t guest_buf_alloc, guest_fwd_count;
static struct packet p;

static int make_pair(void)
{
	int fd[2];
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd), 0);
	host[hosts++] = fd[0];
	return fd[1];
}

static int accept_guest(void *context, uint32_t port)
{
	cr_assert_eq(context, &g);
	return port == HOST_PORT ? make_pair() : -ECONNREFUSED;
}

/* Gives the device `count` buffers. */
static void give_buffers(unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		uint64_t gpa = driver_alloc(&g, RX_BYTES);
		rx_gpa[driver_add(&g, RX, &(struct driver_buffer){gpa, RX_BYTES, true}, 1)] = gpa;
	}
	driver_kick(&g, RX);
}

static void begin_with(unsigned buffers)
{
	struct virtio_device *d;
	struct err e;
	driver_create(&g);
	cr_assert_eq(loop_create(&loop), 0);
	cr_assert_eq(vsock_create(&g.mem, &loop, accept_guest, &g, &d, &e), 0);
	driver_attach(&g, d);
	driver_start(&g, 0, QUEUE_SIZE);
	tx_gpa = driver_alloc(&g, HEADER + DATA_MAX);
	guest_buf_alloc = 1 << 20;
	give_buffers(buffers);
}

static void begin(void)
{
	begin_with(32);
}

static void end(void)
{
	driver_destroy(&g);
	loop_destroy(&loop);
	for (unsigned i = 0; i < hosts; i++)
		close(host[i]);
}

TestSuite(vsock, .init = begin, .fini = end);

/* Lets the loop's thread do all that there is to do. */
static void run(void)
{
	for (unsigned i = 0; i < 10000 && loop_step(&loop, 0) > 0; i++)
		;
}

/* Puts a packet into the TX queue; its descriptor says `chain_bytes` of data. */
static void put_packet(const struct virtio_vsock_hdr *h, const void *data, uint32_t chain_bytes)
{
	memcpy(driver_at(&g, tx_gpa, HEADER), h, HEADER);
	if (data)
		memcpy(driver_at(&g, tx_gpa + HEADER, chain_bytes), data, chain_bytes);
	driver_add(&g, TX, &(struct driver_buffer){tx_gpa, HEADER + chain_bytes, false}, 1);
}

static void send_raw(const struct virtio_vsock_hdr *h, const void *data, uint32_t chain_bytes)
{
	uint32_t head, len;
	put_packet(h, data, chain_bytes);
	driver_kick(&g, TX);
	cr_assert(driver_take_used(&g, TX, &head, &len));
	cr_assert_eq(len, 0);
	run();
}

static struct virtio_vsock_hdr header(uint16_t op, uint32_t guest_port, uint32_t host_port)
{
	return (struct virtio_vsock_hdr){
	    .src_cid = VSOCK_GUEST_CID,
	    .dst_cid = VSOCK_HOST_CID,
	    .src_port = guest_port,
	    .dst_port = host_port,
	    .type = VIRTIO_VSOCK_TYPE_STREAM,
	    .op = op,
	    .buf_alloc = guest_buf_alloc,
	    .fwd_cnt = guest_fwd_count,
	};
}

static void send_op(uint16_t op)
{
	struct virtio_vsock_hdr h = header(op, GUEST_PORT, HOST_PORT);
	send_raw(&h, NULL, 0);
}

static void send_shutdown(uint32_t flags)
{
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_SHUTDOWN, GUEST_PORT, HOST_PORT);
	h.flags = flags;
	send_raw(&h, NULL, 0);
}

static void send_data(const void *data, uint32_t len)
{
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_RW, GUEST_PORT, HOST_PORT);
	h.len = len;
	send_raw(&h, data, len);
}

/* Takes the device's next packet into `p`, its buffer given back. Returns its operation, 0 where there is none. */
static unsigned take(void)
{
	uint32_t head, len;
	run();
	if (!driver_take_used(&g, RX, &head, &len))
		return 0;
	cr_assert(len >= HEADER && len <= RX_BYTES);
	uint64_t gpa = rx_gpa[head];
	memcpy(&p, driver_at(&g, gpa, len), len);
	cr_assert_eq(p.h.len, len - HEADER);
	cr_assert_eq(p.h.src_cid, VSOCK_HOST_CID);
	cr_assert_eq(p.h.dst_cid, VSOCK_GUEST_CID);
	rx_gpa[driver_add(&g, RX, &(struct driver_buffer){gpa, RX_BYTES, true}, 1)] = gpa;
	driver_kick(&g, RX);
	return p.h.op;
}

static void expect_op(unsigned op)
{
	cr_assert_eq(take(), op, "operation %u instead of %u", p.h.op, op);
	cr_expect_eq(p.h.dst_port, GUEST_PORT);
}

static void expect_nothing(void)
{
	cr_assert_eq(take(), 0, "operation %u instead of none", p.h.op);
}

/* The guest connects to HOST_PORT. Returns the number of the host's end. */
static unsigned guest_connects(void)
{
	unsigned at = hosts;
	send_op(VIRTIO_VSOCK_OP_REQUEST);
	expect_op(VIRTIO_VSOCK_OP_RESPONSE);
	cr_expect_eq(p.h.src_port, HOST_PORT);
	cr_expect_gt(p.h.buf_alloc, 0);
	cr_assert_eq(hosts, at + 1);
	return at;
}

static void expect_host_reads(unsigned at, const char *text)
{
	char got[100] = {0};
	run();
	cr_assert_eq(read(host[at], got, sizeof got - 1), (ssize_t)strlen(text));
	cr_expect_str_eq(got, text);
}

static void expect_host_end(unsigned at)
{
	char c;
	run();
	cr_expect_eq(read(host[at], &c, 1), 0);
}

static void host_writes(unsigned at, const void *data, size_t len)
{
	cr_assert_eq(write(host[at], data, len), (ssize_t)len);
}

static uint64_t bad_requests(void)
{
	return atomic_load(&g.device->count.bad_requests);
}

/* ---- What connections are for ---- */

Test(vsock, tells_the_guests_address)
{
	cr_expect_eq(mmio_read(g.device, 0x100, 4), VSOCK_GUEST_CID);
	cr_expect_eq(mmio_read(g.device, 0x104, 4), 0);
	cr_expect_eq(mmio_read(g.device, 0x106, 4), 0);
}

Test(vsock, guest_connects_and_data_goes_both_ways)
{
	unsigned at = guest_connects();
	send_data("hello", 5);
	expect_host_reads(at, "hello");
	host_writes(at, "good day", 8);
	expect_op(VIRTIO_VSOCK_OP_RW);
	cr_expect_eq(p.h.len, 8);
	cr_expect_eq(memcmp(p.data, "good day", 8), 0);
	cr_expect_eq(p.h.fwd_cnt, 5);
	cr_expect(driver_take_irq(&g));
	expect_nothing();
	cr_expect_eq(bad_requests(), 0);
}

Test(vsock, host_connects_and_data_goes_both_ways)
{
	cr_assert_eq(vsock_connect(g.device, make_pair(), GUEST_PORT), 0);
	host_writes(0, "early", 5);
	expect_op(VIRTIO_VSOCK_OP_REQUEST);
	uint32_t port = p.h.src_port;
	expect_nothing();
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_RESPONSE, GUEST_PORT, port);
	send_raw(&h, NULL, 0);
	expect_op(VIRTIO_VSOCK_OP_RW);
	cr_expect_eq(memcmp(p.data, "early", 5), 0);
	h.op = VIRTIO_VSOCK_OP_RW;
	h.len = 3;
	send_raw(&h, "yes", 3);
	expect_host_reads(0, "yes");
}

Test(vsock, guest_refuses_the_host)
{
	cr_assert_eq(vsock_connect(g.device, make_pair(), GUEST_PORT), 0);
	expect_op(VIRTIO_VSOCK_OP_REQUEST);
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_RST, GUEST_PORT, p.h.src_port);
	send_raw(&h, NULL, 0);
	expect_host_end(0);
	expect_nothing();
}

Test(vsock, several_connections_of_the_host_are_told_apart)
{
	cr_assert_eq(vsock_connect(g.device, make_pair(), GUEST_PORT), 0);
	expect_op(VIRTIO_VSOCK_OP_REQUEST);
	uint32_t first = p.h.src_port;
	cr_assert_eq(vsock_connect(g.device, make_pair(), GUEST_PORT), 0);
	expect_op(VIRTIO_VSOCK_OP_REQUEST);
	cr_expect_neq(p.h.src_port, first);
}

Test(vsock, port_that_nobody_listens_to_is_refused)
{
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, HOST_PORT + 1);
	send_raw(&h, NULL, 0);
	expect_op(VIRTIO_VSOCK_OP_RST);
	cr_expect_eq(p.h.src_port, HOST_PORT + 1);
	expect_nothing();
}

Test(vsock, data_in_several_buffers_of_the_guest)
{
	unsigned at = guest_connects();
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_RW, GUEST_PORT, HOST_PORT);
	h.len = 5;
	memcpy(driver_at(&g, tx_gpa, HEADER), &h, HEADER);
	memcpy(driver_at(&g, tx_gpa + HEADER, 5), "12345", 5);
	driver_add(&g, TX,
		   (struct driver_buffer[]){{tx_gpa, 30, false}, {tx_gpa + 30, 16, false}, {tx_gpa + 46, 3, false}}, 3);
	driver_kick(&g, TX);
	expect_host_reads(at, "12345");
}

/* ---- Closing ---- */

Test(vsock, host_closes_one_direction)
{
	unsigned at = guest_connects();
	host_writes(at, "last", 4);
	cr_assert_eq(shutdown(host[at], SHUT_WR), 0);
	expect_op(VIRTIO_VSOCK_OP_RW);
	expect_op(VIRTIO_VSOCK_OP_SHUTDOWN);
	cr_expect_eq(p.h.flags, VIRTIO_VSOCK_SHUTDOWN_SEND);
	expect_nothing();
	send_data("still", 5);
	expect_host_reads(at, "still");
}

Test(vsock, host_goes_away)
{
	unsigned at = guest_connects();
	host_writes(at, "last", 4);
	close(host[at]);
	host[at] = -1;
	unsigned data = 0, ends = 0;
	for (unsigned op; (op = take());) {
		data += op == VIRTIO_VSOCK_OP_RW;
		ends |= op == VIRTIO_VSOCK_OP_SHUTDOWN && p.h.flags & VIRTIO_VSOCK_SHUTDOWN_SEND;
	}
	cr_expect_eq(data, 1, "what it wrote arrives");
	cr_expect(ends);
	send_shutdown(BOTH);
	expect_op(VIRTIO_VSOCK_OP_RST);
	expect_nothing();
	guest_connects();
}

Test(vsock, guest_closes_one_direction)
{
	unsigned at = guest_connects();
	send_data("last", 4);
	send_shutdown(VIRTIO_VSOCK_SHUTDOWN_SEND);
	expect_host_reads(at, "last");
	expect_host_end(at);
	host_writes(at, "still", 5);
	expect_op(VIRTIO_VSOCK_OP_RW);
	cr_expect_eq(p.h.len, 5);
	send_shutdown(VIRTIO_VSOCK_SHUTDOWN_RCV);
	expect_op(VIRTIO_VSOCK_OP_RST);
	cr_expect_eq(bad_requests(), 0);
}

Test(vsock, guest_closes_both_directions)
{
	unsigned at = guest_connects();
	send_data("last", 4);
	send_shutdown(BOTH);
	expect_op(VIRTIO_VSOCK_OP_RST);
	expect_host_reads(at, "last");
	expect_host_end(at);
	send_op(VIRTIO_VSOCK_OP_RST);
	expect_nothing();
	guest_connects();
}

/* Sends until the host's socket is full and `keep_bytes` wait in the device. Returns the bytes sent. */
static uint32_t fill(unsigned at, uint32_t keep_bytes)
{
	static uint8_t data[DATA_MAX];
	int small = 4096;
	uint32_t sent = 0, credit;
	setsockopt(host[at], SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
	for (unsigned i = 0; i < 1000; i++) {
		/* What waits is what was sent and not handed on; a credit request tells. */
		send_op(VIRTIO_VSOCK_OP_CREDIT_REQUEST);
		do
			cr_assert_eq(take(), VIRTIO_VSOCK_OP_CREDIT_UPDATE);
		while (p.h.fwd_cnt > sent);
		if (sent - p.h.fwd_cnt >= keep_bytes)
			break;
		credit = p.h.buf_alloc - (sent - p.h.fwd_cnt);
		uint32_t len = credit < 1000 ? credit : 1000;
		for (uint32_t k = 0; k < len; k++)
			data[k] = (uint8_t)((sent + k) * 13);
		send_data(data, len);
		sent += len;
	}
	return sent;
}

/* Reads all that the host gets and checks it against what fill() sent. Returns the bytes. */
static uint32_t drain(unsigned at)
{
	uint32_t got = 0;
	uint8_t data[1000];
	for (ssize_t n; run(), (n = read(host[at], data, sizeof data)) > 0; got += (uint32_t)n)
		for (ssize_t i = 0; i < n; i++)
			cr_assert_eq(data[i], (uint8_t)((got + i) * 13));
	return got;
}

Test(vsock, what_the_host_does_not_take_waits)
{
	unsigned at = guest_connects();
	uint32_t sent = fill(at, 30000);
	cr_expect_eq(drain(at), sent);
	cr_expect_eq(bad_requests(), 0);
}

Test(vsock, what_waits_reaches_a_slow_host_also_after_the_guest_closed)
{
	unsigned at = guest_connects();
	uint32_t sent = fill(at, 30000);
	send_shutdown(BOTH);
	while (take())
		;
	/* A Linux guest that has waited 8 s for the answer sends this. */
	send_op(VIRTIO_VSOCK_OP_RST);
	cr_expect_eq(drain(at), sent);
	expect_host_end(at);
	while (take())
		cr_expect_eq(p.h.op, VIRTIO_VSOCK_OP_RST);
	guest_connects();
}

Test(vsock, host_that_stops_reading_ends_the_connection)
{
	unsigned at = guest_connects();
	cr_assert_eq(shutdown(host[at], SHUT_RD), 0);
	run();
	send_data("x", 1);
	bool told = false;
	while (take())
		told |= p.h.op == VIRTIO_VSOCK_OP_RST ||
			(p.h.op == VIRTIO_VSOCK_OP_SHUTDOWN && p.h.flags & VIRTIO_VSOCK_SHUTDOWN_RCV);
	cr_expect(told);
}

/* ---- Credit ---- */

Test(vsock, guest_gets_no_more_than_it_has_room_for)
{
	static uint8_t data[3000];
	guest_buf_alloc = 1500;
	unsigned at = guest_connects();
	host_writes(at, data, sizeof data);
	uint32_t got = 0;
	for (unsigned op; (op = take());)
		got += op == VIRTIO_VSOCK_OP_RW ? p.h.len : 0;
	cr_expect_eq(got, 1500);
	guest_fwd_count = 700;
	send_op(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	for (unsigned op; (op = take());)
		got += op == VIRTIO_VSOCK_OP_RW ? p.h.len : 0;
	cr_expect_eq(got, 2200);
	guest_fwd_count = 2200;
	send_op(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	for (unsigned op; (op = take());)
		got += op == VIRTIO_VSOCK_OP_RW ? p.h.len : 0;
	cr_expect_eq(got, 3000);
}

Test(vsock, guest_is_told_of_room_before_it_runs_out)
{
	static uint8_t data[DATA_MAX];
	unsigned at = guest_connects();
	uint32_t sent = 0, known_fwd = 0, room = p.h.buf_alloc;
	for (unsigned i = 0; i < 1000; i++) {
		uint32_t len = room - (sent - known_fwd) < 4000 ? room - (sent - known_fwd) : 4000;
		cr_assert_gt(len, 0, "stuck after %u bytes", sent);
		send_data(data, len);
		sent += len;
		for (uint8_t sink[4096]; run(), read(host[at], sink, sizeof sink) > 0;)
			;
		while (take())
			known_fwd = p.h.fwd_cnt;
	}
	cr_expect_eq(bad_requests(), 0);
}

Test(vsock, credit_requests_are_answered)
{
	guest_connects();
	send_op(VIRTIO_VSOCK_OP_CREDIT_REQUEST);
	expect_op(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	expect_nothing();
}

Test(vsock, connections_take_turns)
{
	static uint8_t data[100000];
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT + 1, HOST_PORT);
	unsigned a = guest_connects();
	send_raw(&h, NULL, 0);
	cr_assert_eq(take(), VIRTIO_VSOCK_OP_RESPONSE);
	host_writes(a, data, sizeof data);
	host_writes(a + 1, data, sizeof data);
	unsigned got[2] = {0};
	for (unsigned i = 0; i < 100; i++) {
		cr_assert_eq(take(), VIRTIO_VSOCK_OP_RW);
		got[p.h.dst_port - GUEST_PORT]++;
	}
	/* The first one may have had the 32 buffers that were there already to itself. */
	cr_expect(got[0] >= 34 && got[1] >= 34, "%u and %u", got[0], got[1]);
}

/* ---- A guest that breaks the rules ---- */

/* The packet must be refused with RST, and a new connection must be possible. */
static void expect_refused(struct virtio_vsock_hdr h, uint32_t chain_bytes)
{
	uint64_t before = bad_requests();
	send_raw(&h, NULL, chain_bytes);
	expect_op(VIRTIO_VSOCK_OP_RST);
	expect_nothing();
	cr_expect_gt(bad_requests(), before, "counted");
	h = header(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT + 7, HOST_PORT);
	send_raw(&h, NULL, 0);
	cr_expect_eq(take(), VIRTIO_VSOCK_OP_RESPONSE);
}

static struct virtio_vsock_hdr data_header(uint32_t len)
{
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_RW, GUEST_PORT, HOST_PORT);
	h.len = len;
	return h;
}

Test(vsock, case_16_length_beyond_the_packet)
{
	unsigned at = guest_connects();
	expect_refused(data_header(101), 100);
	expect_host_end(at);
}

Test(vsock, case_16_length_of_4_gib)
{
	guest_connects();
	expect_refused(data_header(UINT32_MAX), 100);
}

Test(vsock, case_16_request_from_another_address)
{
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, HOST_PORT);
	h.src_cid = VSOCK_GUEST_CID + 1;
	expect_refused(h, 0);
	cr_expect_eq(hosts, 1);
}

Test(vsock, case_16_request_to_another_address)
{
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, HOST_PORT);
	h.dst_cid = VSOCK_GUEST_CID;
	expect_refused(h, 0);
	cr_expect_eq(hosts, 1);
}

Test(vsock, case_16_type_other_than_stream)
{
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, HOST_PORT);
	h.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
	expect_refused(h, 0);
	cr_expect_eq(hosts, 1);
}

Test(vsock, case_16_data_without_a_connection)
{
	expect_refused(data_header(10), 10);
}

Test(vsock, case_16_unknown_operation)
{
	guest_connects();
	expect_refused(header(77, GUEST_PORT, HOST_PORT), 0);
}

Test(vsock, case_16_second_request)
{
	guest_connects();
	expect_refused(header(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, HOST_PORT), 0);
}

Test(vsock, case_16_response_that_was_not_asked_for)
{
	guest_connects();
	expect_refused(header(VIRTIO_VSOCK_OP_RESPONSE, GUEST_PORT, HOST_PORT), 0);
}

Test(vsock, case_16_data_before_the_response)
{
	cr_assert_eq(vsock_connect(g.device, make_pair(), GUEST_PORT), 0);
	expect_op(VIRTIO_VSOCK_OP_REQUEST);
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_RW, GUEST_PORT, p.h.src_port);
	h.len = 10;
	expect_refused(h, 10);
	expect_host_end(0);
}

Test(vsock, case_16_data_after_the_end)
{
	guest_connects();
	send_shutdown(VIRTIO_VSOCK_SHUTDOWN_SEND);
	expect_refused(data_header(10), 10);
}

Test(vsock, case_16_reset_is_not_answered)
{
	send_op(VIRTIO_VSOCK_OP_RST);
	expect_nothing();
}

Test(vsock, case_16_packet_without_a_whole_header)
{
	uint32_t head, len;
	driver_add(&g, TX, &(struct driver_buffer){tx_gpa, HEADER - 1, false}, 1);
	driver_add(&g, TX, &(struct driver_buffer){tx_gpa, HEADER, true}, 1);
	driver_kick(&g, TX);
	cr_expect(driver_take_used(&g, TX, &head, &len));
	cr_expect(driver_take_used(&g, TX, &head, &len));
	cr_expect_eq(bad_requests(), 2);
	expect_nothing();
	guest_connects();
}

Test(vsock, case_17_credit_that_was_not_given)
{
	static uint8_t data[DATA_MAX];
	unsigned at = guest_connects();
	uint32_t room = p.h.buf_alloc, sent = fill(at, room / 2);
	for (unsigned i = 0; i < 100 && !(take() == VIRTIO_VSOCK_OP_RST); i++, sent += sizeof data)
		send_data(data, sizeof data);
	cr_expect_eq(p.h.op, VIRTIO_VSOCK_OP_RST);
	cr_expect_gt(bad_requests(), 0);
}

Test(vsock, case_17_no_more_than_64_kib_wait_per_connection)
{
	guest_connects();
	cr_expect_leq(p.h.buf_alloc, BUFFER_LIMIT);
}

Test(vsock, case_17_lies_about_credit_hurt_nobody_else)
{
	static uint8_t data[3000];
	unsigned at = guest_connects();
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT + 1, HOST_PORT);
	send_raw(&h, NULL, 0);
	cr_assert_eq(take(), VIRTIO_VSOCK_OP_RESPONSE);
	static const uint32_t lies[][2] = {{0, 0}, {0, UINT32_MAX}, {UINT32_MAX, 0x80000000}, {UINT32_MAX, 1}};
	for (unsigned i = 0; i < 4; i++) {
		guest_buf_alloc = lies[i][0];
		guest_fwd_count = lies[i][1];
		send_op(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
		(void)!send(host[at], data, sizeof data, MSG_NOSIGNAL);
		while (take())
			;
	}
	host_writes(at + 1, "fine", 4);
	cr_expect_eq(take(), VIRTIO_VSOCK_OP_RW);
	cr_expect_eq(p.h.dst_port, GUEST_PORT + 1);
}

Test(vsock, case_17_ten_thousand_half_opens)
{
	unsigned accepted = 0, refused = 0;
	for (uint32_t i = 0; i < 10000; i++) {
		struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_REQUEST, i, HOST_PORT);
		send_raw(&h, NULL, 0);
		while (take()) {
			accepted += p.h.op == VIRTIO_VSOCK_OP_RESPONSE;
			refused += p.h.op == VIRTIO_VSOCK_OP_RST;
		}
	}
	cr_expect_eq(accepted, 1024);
	cr_expect_eq(refused, 10000 - 1024);
	cr_expect_eq(hosts, 1024);
	int fd = dup(host[0]);
	cr_expect_lt(vsock_connect(g.device, fd, GUEST_PORT), 0);
	cr_expect_eq(fcntl(fd, F_GETFD), -1, "the descriptor is the device's also then");
}

Test(vsock, case_17_refusals_that_are_not_taken_are_dropped)
{
	driver_destroy(&g);
	loop_destroy(&loop);
	begin_with(0);
	for (unsigned i = 0; i < 1000; i++) {
		struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_RW, i, HOST_PORT);
		send_raw(&h, NULL, 0);
	}
	give_buffers(QUEUE_SIZE);
	unsigned replies = 0;
	while (take())
		replies++;
	cr_expect_eq(replies, 64);
}

Test(vsock, case_17_packets_that_must_arrive_wait_for_buffers)
{
	driver_destroy(&g);
	loop_destroy(&loop);
	begin_with(0);
	send_op(VIRTIO_VSOCK_OP_REQUEST);
	host_writes(0, "data", 4);
	cr_assert_eq(shutdown(host[0], SHUT_WR), 0);
	for (unsigned i = 0; i < 100; i++)
		send_op(VIRTIO_VSOCK_OP_CREDIT_REQUEST);
	give_buffers(QUEUE_SIZE);
	expect_op(VIRTIO_VSOCK_OP_RESPONSE);
	unsigned data = 0, ends = 0, others = 0;
	while (take())
		*(p.h.op == VIRTIO_VSOCK_OP_RW ? &data : p.h.op == VIRTIO_VSOCK_OP_SHUTDOWN ? &ends : &others) += 1;
	cr_expect_eq(data, 1);
	cr_expect_eq(ends, 1);
	cr_expect_leq(others, 1);
}

/* ---- Rings, resets ---- */

Test(vsock, case_05_buffer_that_no_packet_fits)
{
	driver_destroy(&g);
	loop_destroy(&loop);
	begin_with(0);
	driver_add(&g, RX, &(struct driver_buffer){driver_alloc(&g, HEADER), HEADER, true}, 1);
	send_op(VIRTIO_VSOCK_OP_REQUEST);
	cr_expect(g.device->status & VIRTIO_STATUS_NEEDS_RESET);
	cr_expect_eq(atomic_load(&g.device->count.ring_errors), 1);
}

Test(vsock, case_01_broken_ring_needs_a_reset)
{
	unsigned at = guest_connects();
	driver_publish(&g, TX, QUEUE_SIZE);
	driver_kick(&g, TX);
	cr_expect(g.device->status & VIRTIO_STATUS_NEEDS_RESET);
	driver_start(&g, 0, QUEUE_SIZE);
	expect_host_end(at);
	give_buffers(8);
	guest_connects();
}

Test(vsock, case_11_reset_ends_connections)
{
	unsigned a = guest_connects();
	cr_assert_eq(vsock_connect(g.device, make_pair(), GUEST_PORT), 0);
	expect_op(VIRTIO_VSOCK_OP_REQUEST);
	fill(a, 1000);
	host_writes(a, "data", 4);
	driver_write(&g, 0x70, 0);
	(void)!send(host[a + 1], "data", 4, MSG_NOSIGNAL);
	drain(a);
	expect_host_end(a);
	char c;
	ssize_t n = read(host[a + 1], &c, 1);
	cr_expect(n == 0 || (n < 0 && errno == ECONNRESET));
	driver_start(&g, 0, QUEUE_SIZE);
	give_buffers(8);
	expect_nothing();
	guest_connects();
}

Test(vsock, case_11_start_does_not_touch_connections_on_a_vcpus_thread)
{
	/* The loop's thread may be on its way into a connection at that time. */
	cr_assert(driver_negotiate(&g, 1ull << VIRTIO_F_VERSION_1));
	for (unsigned i = 0; i < 3; i++) {
		driver_place_queue(&g, i, QUEUE_SIZE);
		cr_assert(driver_enable_queue(&g, i));
	}
	struct virtio_vsock_hdr h = header(VIRTIO_VSOCK_OP_REQUEST, GUEST_PORT, HOST_PORT);
	put_packet(&h, NULL, 0);
	driver_ok(&g);
	cr_expect_eq(hosts, 0);
	driver_kick(&g, TX);
	cr_expect_eq(hosts, 1);
}

Test(vsock, events_are_left_alone)
{
	uint32_t head, len;
	driver_add(&g, EVENT, &(struct driver_buffer){driver_alloc(&g, 8), 8, true}, 1);
	driver_kick(&g, EVENT);
	run();
	cr_expect_not(driver_take_used(&g, EVENT, &head, &len));
	guest_connects();
}

Test(vsock, guest_that_floods_does_not_keep_the_loop)
{
	/* Every packet makes a reply, every reply a free buffer: the loop's thread must come back all the same. */
	unsigned at = guest_connects();
	int flags = fcntl(host[at], F_GETFL);
	cr_assert_eq(fcntl(host[at], F_SETFL, flags | O_NONBLOCK), 0);
	static uint8_t data[4096];
	for (unsigned i = 0; i < 200; i++) {
		(void)!write(host[at], data, sizeof data);
		loop_step(&loop, 0);
		take();
	}
	cr_expect_eq(bad_requests(), 0);
}
