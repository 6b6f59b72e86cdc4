/*
 * virtio-vsock (virtio 1.2, section 5.10): stream sockets between the guest and descriptors of the host.
 *
 * Theory of operation
 * -------------------
 * Purpose: every connection of the guest is a stream socket of the supervisor's, and the other way round. The device
 * moves bytes between the two and knows nothing of what they mean.
 *
 * Trust boundary: packets are the guest's. A header is copied once and checked; data that exceeds the credit we gave
 * ends its connection. The guest cannot make us hold more than BUFFER_BYTES per connection, CONNECTIONS_MAX connections
 * and REPLIES_MAX replies to packets of none.
 *
 * Threads: all of it runs on the machine's main loop with the device's lock held, except start and reset, which a vCPU
 * calls while the loop may be on its way into a connection: they only wake the loop, reset after it has disowned the
 * connections, for the loop to bury.
 *
 * To the guest: what a connection owes the guest is a set of bits (OWE_*), never a queue of packets, so it is bounded
 * and a guest that gives us no buffers only stops itself. Connections that owe something, or have data and credit, are
 * in a queue and take turns. Data is read from the socket straight into the guest's buffers. From the guest: data goes
 * straight to the socket; what that does not take is kept, and credit is given back as it drains.
 *
 * Closing: either side may stop sending (SHUTDOWN, end of file). A connection ends by RST: the guest's; or ours, when
 * both directions are shut and drained, or the socket fails. A guest that does not wait for that, as Linux does after 8
 * s, forgets the connection; it lingers here until a slow socket has taken what the guest sent.
 */
#include "virtio/vsock.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_vsock.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "virtio/device.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/loop.h"

enum {
	QUEUE_RX = 0, /* to the guest */
	QUEUE_TX = 1,
	QUEUE_EVENT = 2,
	BUFFER_BYTES = 64 << 10, /* of data from the guest that a socket did not take yet: the credit we give */
	CONNECTIONS_MAX = 1024,
	REPLIES_MAX = 64,
	TURN_PACKETS = 256,    /* each way, before the loop's other sources have their turn */
	PORTS_FIRST = 1 << 16, /* of the host, for connections that it makes */
	HEADER_BYTES = sizeof(struct virtio_vsock_hdr),

	OWE_REQUEST = 1 << 0,
	OWE_RESPONSE = 1 << 1,
	OWE_SHUTDOWN = 1 << 2,
	OWE_CREDIT = 1 << 3,
	OWE_RST = 1 << 4, /* and then the connection is over */
};

struct connection {
	struct vsock *vsock;
	struct connection *next; /* of all */
	struct connection *turn,
	    **turn_from; /* in the queue of those that have something for the guest; turn_from: is in it */
	struct loop_source source;
	bool watched;
	bool disowned;  /* by a reset: the loop buries it */
	bool lingering; /* the guest has forgotten it; the socket still gets what was kept */
	bool established;
	bool readable;            /* the socket has data or its end */
	bool ended;               /* the socket's data has ended */
	bool guest_sends_no_more; /* SHUTDOWN of the guest */
	bool guest_takes_no_more;
	unsigned owes;
	uint32_t guest_port, host_port;
	uint32_t guest_buf_alloc, guest_fwd_cnt, sent_bytes;        /* to the guest */
	uint32_t received_bytes, drained_bytes, drained_bytes_told; /* from the guest */
	uint8_t *kept;                                              /* BUFFER_BYTES; allocated when first needed */
	size_t kept_bytes;
};

/* A reset for a connection that does not exist. */
struct reply {
	uint32_t guest_port, host_port;
};

struct vsock {
	struct virtio_device device; /* first: the ops cast */
	struct loop *loop;
	vsock_accept_fn accept;
	void *accept_context;
	struct connection *connections, *disowned;
	unsigned count;
	struct connection *turn_first, **turn_last;
	struct reply reply[REPLIES_MAX];
	unsigned replies;
	uint32_t next_port;
	struct loop_source wake; /* there are disowned connections, or more packets than one turn takes */
	struct vq_chain chain;   /* from the guest, at hand */
	struct vq_chain rx;      /* to be filled for the guest */
	bool rx_held;            /* it was taken and is not used yet */
};

static struct vsock *vsock_of(struct virtio_device *d)
{
	return (struct vsock *)d;
}

static bool running(const struct vsock *v)
{
	return v->device.status & VIRTIO_STATUS_DRIVER_OK && !(v->device.status & VIRTIO_STATUS_NEEDS_RESET);
}

/* ---- Connections ---- */

static struct connection *find(struct vsock *v, uint32_t guest_port, uint32_t host_port)
{
	for (struct connection *c = v->connections; c; c = c->next)
		if (!c->lingering && c->guest_port == guest_port && c->host_port == host_port)
			return c;
	return NULL;
}

static void join_queue(struct connection *c)
{
	struct vsock *v = c->vsock;
	if (c->turn_from)
		return;
	c->turn = NULL;
	c->turn_from = v->turn_last;
	*v->turn_last = c;
	v->turn_last = &c->turn;
}

static void leave_queue(struct connection *c)
{
	if (!c->turn_from)
		return;
	*c->turn_from = c->turn;
	if (c->turn)
		c->turn->turn_from = c->turn_from;
	else
		c->vsock->turn_last = c->turn_from;
	c->turn_from = NULL;
}

static void owe(struct connection *c, unsigned what)
{
	if (c->lingering)
		return; /* the guest does not know it any more */
	c->owes |= what;
	join_queue(c);
}

static void count_bad(struct vsock *v)
{
	atomic_fetch_add(&v->device.count.bad_requests, 1);
}

/* The guest broke a rule. */
static void refuse(struct connection *c)
{
	count_bad(c->vsock);
	owe(c, OWE_RST);
}

/* Bytes that the guest can take. */
static uint32_t credit(const struct connection *c)
{
	uint32_t in_flight = c->sent_bytes - c->guest_fwd_cnt;
	return in_flight < c->guest_buf_alloc ? c->guest_buf_alloc - in_flight : 0;
}

/* Whether data of the socket could be sent, if there were some. */
static bool may_read(const struct connection *c)
{
	return c->established && !c->ended && !c->guest_takes_no_more && !(c->owes & OWE_RST) && credit(c) > 0;
}

/* Watches the socket for what can be handled now, and for nothing else: epoll reports a hang-up for ever. */
static void watch(struct connection *c)
{
	uint32_t events = 0;
	if (may_read(c) && !c->readable)
		events |= EPOLLIN;
	if (c->kept_bytes)
		events |= EPOLLOUT;
	if (!events && c->watched)
		loop_remove(c->vsock->loop, &c->source);
	else if (events && c->watched)
		loop_change(c->vsock->loop, &c->source, events);
	else if (events && loop_add(c->vsock->loop, &c->source, events)) {
		owe(c, OWE_RST); /* we cannot serve it */
		events = 0;
	}
	c->watched = events != 0;
}

/* Ends a connection. On the loop's thread. */
static void bury(struct connection *c)
{
	if (c->watched)
		loop_remove(c->vsock->loop, &c->source);
	close(c->source.fd);
	free(c->kept);
	free(c);
}

static void forget(struct connection *c)
{
	struct vsock *v = c->vsock;
	struct connection **at = &v->connections;
	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	v->count--;
	leave_queue(c);
	bury(c);
}

/* The guest has ended a connection. */
static void end(struct connection *c)
{
	if (c->kept_bytes == 0) {
		forget(c);
		return;
	}
	leave_queue(c);
	c->lingering = c->guest_takes_no_more = true;
	c->owes = 0;
}

static void socket_ready(void *context, uint32_t events);

/* Adds a connection, which then owns fd. Returns NULL, with fd closed, where there are too many or memory is short. */
static struct connection *add(struct vsock *v, int fd, uint32_t guest_port, uint32_t host_port)
{
	struct connection *c = v->count < CONNECTIONS_MAX ? calloc(1, sizeof *c) : NULL;
	if (!c) {
		close(fd);
		return NULL;
	}
	c->vsock = v;
	c->source = (struct loop_source){.fd = fd, .ready = socket_ready, .context = c};
	c->guest_port = guest_port;
	c->host_port = host_port;
	c->next = v->connections;
	v->connections = c;
	v->count++;
	return c;
}

/* ---- From the guest ---- */

/* The guest has stopped sending and we have written all: tell the socket; and end the connection, if nothing comes
 * back. */
static void check_ends(struct connection *c)
{
	if (c->kept_bytes || c->owes & OWE_RST)
		return;
	if (c->guest_sends_no_more)
		shutdown(c->source.fd, SHUT_WR);
	if (c->guest_sends_no_more && c->guest_takes_no_more)
		owe(c, OWE_RST);
}

static void drained(struct connection *c, size_t bytes)
{
	c->drained_bytes += (uint32_t)bytes;
	if (c->drained_bytes - c->drained_bytes_told >= BUFFER_BYTES / 2)
		owe(c, OWE_CREDIT);
}

static ssize_t send_to_socket(int fd, struct iovec *iov, size_t count)
{
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = count};
	ssize_t n;
	do
		n = sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? 0 : n;
}

/* Writes what was kept. */
static void flush(struct connection *c)
{
	struct iovec iov = {c->kept, c->kept_bytes};
	ssize_t n = c->kept_bytes ? send_to_socket(c->source.fd, &iov, 1) : 0;
	if (n < 0) {
		c->kept_bytes = 0;
		owe(c, OWE_RST);
		return;
	}
	memmove(c->kept, c->kept + n, c->kept_bytes - (size_t)n);
	c->kept_bytes -= (size_t)n;
	drained(c, (size_t)n);
	check_ends(c);
}

/* Keeps the data of the chain at hand from `offset` on. */
static bool keep(struct connection *c, size_t offset, size_t bytes)
{
	if (!c->kept)
		c->kept = malloc(BUFFER_BYTES);
	if (!c->kept)
		return false;
	vq_copy_out(&c->vsock->chain, offset, c->kept + c->kept_bytes, bytes);
	c->kept_bytes += bytes;
	return true;
}

/* The `bytes` of data behind the header of the chain at hand, as an iov in the chain's own. Returns how many parts. */
static unsigned data_of_chain(struct vq_chain *chain, size_t bytes, struct iovec **out)
{
	struct iovec *iov = chain->iov;
	unsigned count = chain->out_count;
	size_t skip = HEADER_BYTES;
	while (skip >= iov->iov_len && count) {
		skip -= iov->iov_len;
		iov++;
		count--;
	}
	if (!count)
		return 0;
	iov->iov_base = (uint8_t *)iov->iov_base + skip;
	iov->iov_len -= skip;
	unsigned used = 0;
	for (; used < count && bytes; used++) {
		if (iov[used].iov_len > bytes)
			iov[used].iov_len = bytes;
		bytes -= iov[used].iov_len;
	}
	*out = iov;
	return used;
}

/* Data of the guest, all of it within its credit. */
static void receive(struct connection *c, uint32_t bytes)
{
	struct vsock *v = c->vsock;
	if (!c->established || c->guest_sends_no_more ||
	    bytes > BUFFER_BYTES - (c->received_bytes - c->drained_bytes)) {
		refuse(c);
		return;
	}
	c->received_bytes += bytes;
	size_t done = 0;
	if (c->kept_bytes == 0) {
		/* Copied out before the iov is cut to the data: what is not sent is found by its offset in the chain.
		 */
		struct vq_chain *chain = &v->chain;
		struct iovec saved[VQ_IOV_MAX], *iov = NULL;
		memcpy(saved, chain->iov, chain->out_count * sizeof saved[0]);
		unsigned count = data_of_chain(chain, bytes, &iov);
		ssize_t n = count ? send_to_socket(c->source.fd, iov, count) : 0;
		memcpy(chain->iov, saved, chain->out_count * sizeof saved[0]);
		if (n < 0) {
			owe(c, OWE_RST);
			return;
		}
		done = (size_t)n;
		drained(c, done);
	}
	if (done < bytes && !keep(c, HEADER_BYTES + done, bytes - done))
		owe(c, OWE_RST);
}

static void reply_reset(struct vsock *v, const struct virtio_vsock_hdr *h)
{
	count_bad(v);
	if (le16toh(h->op) != VIRTIO_VSOCK_OP_RST && v->replies < REPLIES_MAX)
		v->reply[v->replies++] = (struct reply){le32toh(h->src_port), le32toh(h->dst_port)};
}

/* The guest asks for a connection. */
static void accept_request(struct vsock *v, const struct virtio_vsock_hdr *h)
{
	uint32_t guest_port = le32toh(h->src_port), host_port = le32toh(h->dst_port);
	int fd = v->count < CONNECTIONS_MAX ? v->accept(v->accept_context, host_port) : -ECONNREFUSED;
	struct connection *c = fd >= 0 ? add(v, fd, guest_port, host_port) : NULL;
	if (!c) {
		reply_reset(v, h);
		return;
	}
	c->guest_buf_alloc = le32toh(h->buf_alloc);
	c->guest_fwd_cnt = le32toh(h->fwd_cnt);
	c->established = true;
	owe(c, OWE_RESPONSE);
	watch(c);
}

static void shut(struct connection *c, uint32_t flags)
{
	if (flags & VIRTIO_VSOCK_SHUTDOWN_SEND)
		c->guest_sends_no_more = true;
	if (flags & VIRTIO_VSOCK_SHUTDOWN_RCV)
		c->guest_takes_no_more = true;
	check_ends(c);
}

/* A packet for a connection that exists. */
static void handle_packet(struct connection *c, const struct virtio_vsock_hdr *h, uint32_t data_bytes)
{
	if (le16toh(h->op) == VIRTIO_VSOCK_OP_RST) {
		end(c);
		return;
	}
	if (c->owes & OWE_RST)
		return; /* which is the answer to this, too */
	c->guest_buf_alloc = le32toh(h->buf_alloc);
	c->guest_fwd_cnt = le32toh(h->fwd_cnt);
	if (c->sent_bytes - c->guest_fwd_cnt > INT32_MAX) { /* it took more than was sent */
		refuse(c);
		return;
	}
	switch (le16toh(h->op)) {
	case VIRTIO_VSOCK_OP_RESPONSE:
		if (c->established || c->owes & OWE_REQUEST)
			refuse(c);
		else
			c->established = true;
		break;
	case VIRTIO_VSOCK_OP_SHUTDOWN:
		shut(c, le32toh(h->flags));
		break;
	case VIRTIO_VSOCK_OP_RW:
		receive(c, data_bytes);
		break;
	case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
		break;
	case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
		owe(c, OWE_CREDIT);
		break;
	default: /* also a second REQUEST */
		refuse(c);
		break;
	}
	if (c->readable && may_read(c))
		join_queue(c);
	watch(c);
}

/* Handles the chain at hand. */
static void handle_chain(struct vsock *v)
{
	struct virtio_vsock_hdr h;
	bool ok = vq_copy_out(&v->chain, 0, &h, HEADER_BYTES) == HEADER_BYTES;
	uint32_t bytes = ok ? le32toh(h.len) : 0;
	if (!ok) {
		count_bad(v);
		return;
	}
	bool addressed = le64toh(h.src_cid) == VSOCK_GUEST_CID && le64toh(h.dst_cid) == VSOCK_HOST_CID &&
			 le16toh(h.type) == VIRTIO_VSOCK_TYPE_STREAM;
	bool sized = bytes == v->chain.out_bytes - HEADER_BYTES && (bytes == 0 || le16toh(h.op) == VIRTIO_VSOCK_OP_RW);
	struct connection *c = addressed ? find(v, le32toh(h.src_port), le32toh(h.dst_port)) : NULL;
	if (c && sized)
		handle_packet(c, &h, bytes);
	else if (c)
		refuse(c);
	else if (addressed && sized && le16toh(h.op) == VIRTIO_VSOCK_OP_REQUEST)
		accept_request(v, &h);
	else
		reply_reset(v, &h);
}

static void wake(struct vsock *v)
{
	uint64_t one = 1;
	(void)!write(v->wake.fd, &one, sizeof one);
}

static void pump_from_guest(struct vsock *v)
{
	struct virtqueue *vq = &v->device.vq[QUEUE_TX];
	unsigned left = TURN_PACKETS;
	do {
		vq_no_notify(vq);
		for (; left && vq_pop(vq, &v->chain) > 0; left--) {
			handle_chain(v);
			vq_push(vq, v->chain.head, 0);
		}
	} while (left && vq_want_notify(vq));
	if (!left)
		wake(v);
	virtio_signal(&v->device, QUEUE_TX);
}

/* ---- To the guest ---- */

static struct virtio_vsock_hdr header(uint32_t guest_port, uint32_t host_port, uint16_t op)
{
	return (struct virtio_vsock_hdr){
	    .src_cid = htole64(VSOCK_HOST_CID),
	    .dst_cid = htole64(VSOCK_GUEST_CID),
	    .src_port = htole32(host_port),
	    .dst_port = htole32(guest_port),
	    .type = htole16(VIRTIO_VSOCK_TYPE_STREAM),
	    .op = htole16(op),
	};
}

static struct virtio_vsock_hdr header_of(struct connection *c, uint16_t op)
{
	struct virtio_vsock_hdr h = header(c->guest_port, c->host_port, op);
	h.buf_alloc = htole32(BUFFER_BYTES);
	h.fwd_cnt = htole32(c->drained_bytes);
	c->drained_bytes_told = c->drained_bytes;
	c->owes &= ~(unsigned)OWE_CREDIT; /* every packet tells */
	return h;
}

/* Puts a packet without data into the chain at hand. */
static void put(struct vsock *v, const struct virtio_vsock_hdr *h)
{
	vq_copy_in(&v->rx, 0, h, HEADER_BYTES);
	vq_push(&v->device.vq[QUEUE_RX], v->rx.head, HEADER_BYTES);
}

/* Reads from the socket into the chain at hand. Returns whether the chain was used. */
static bool put_data(struct connection *c)
{
	struct vsock *v = c->vsock;
	struct iovec iov[VQ_IOV_MAX];
	size_t room = credit(c), skip = HEADER_BYTES;
	int count = 0;
	for (unsigned i = 0; i < v->rx.in_count && room; i++) {
		struct iovec part = v->rx.iov[v->rx.out_count + i];
		size_t cut = skip < part.iov_len ? skip : part.iov_len;
		skip -= cut;
		part.iov_base = (uint8_t *)part.iov_base + cut;
		part.iov_len = part.iov_len - cut < room ? part.iov_len - cut : room;
		room -= part.iov_len;
		if (part.iov_len)
			iov[count++] = part;
	}
	ssize_t n;
	do
		n = readv(c->source.fd, iov, count);
	while (n < 0 && errno == EINTR);
	if (n > 0) {
		c->sent_bytes += (uint32_t)n;
		struct virtio_vsock_hdr h = header_of(c, VIRTIO_VSOCK_OP_RW);
		h.len = htole32((uint32_t)n);
		vq_copy_in(&v->rx, 0, &h, HEADER_BYTES);
		vq_push(&v->device.vq[QUEUE_RX], v->rx.head, (uint32_t)(HEADER_BYTES + n));
		return true;
	}
	c->readable = false;
	if (n == 0) {
		c->ended = true;
		c->owes |= OWE_SHUTDOWN;
	} else if (errno != EAGAIN && errno != EWOULDBLOCK) {
		c->owes |= OWE_RST;
	}
	return false;
}

/* The next of a connection's debts, as the operation that pays it. */
static uint16_t next_op(const struct connection *c)
{
	return c->owes & OWE_RST        ? VIRTIO_VSOCK_OP_RST
	       : c->owes & OWE_REQUEST  ? VIRTIO_VSOCK_OP_REQUEST
	       : c->owes & OWE_RESPONSE ? VIRTIO_VSOCK_OP_RESPONSE
	       : c->owes & OWE_SHUTDOWN ? VIRTIO_VSOCK_OP_SHUTDOWN
					: VIRTIO_VSOCK_OP_CREDIT_UPDATE;
}

/* Pays one debt of a connection with the chain at hand. Returns whether the connection is still there. */
static bool pay(struct connection *c)
{
	uint16_t op = next_op(c);
	struct virtio_vsock_hdr h = header_of(c, op);
	if (op == VIRTIO_VSOCK_OP_SHUTDOWN)
		h.flags = htole32(VIRTIO_VSOCK_SHUTDOWN_SEND);
	put(c->vsock, &h);
	if (op == VIRTIO_VSOCK_OP_RST) {
		forget(c);
		return false;
	}
	c->owes &= ~(unsigned)(op == VIRTIO_VSOCK_OP_REQUEST    ? OWE_REQUEST
			       : op == VIRTIO_VSOCK_OP_RESPONSE ? OWE_RESPONSE
			       : op == VIRTIO_VSOCK_OP_SHUTDOWN ? OWE_SHUTDOWN
								: OWE_CREDIT);
	return true;
}

/* The turn of connection `c`: one packet, in the chain at hand. Returns whether the chain was used. */
static bool serve(struct connection *c)
{
	bool used = false;
	leave_queue(c);
	if (!c->owes && c->readable && may_read(c))
		used = put_data(c);
	if (!used && c->owes) {
		used = true;
		if (!pay(c))
			return true;
	}
	if (c->owes || (c->readable && may_read(c)))
		join_queue(c);
	watch(c);
	return used;
}

/* Whether the chain at hand can take a packet. */
static bool chain_fits(const struct vq_chain *chain)
{
	return chain->in_bytes > HEADER_BYTES;
}

/* Uses the guest's buffers as long as there are some and something to put into them. */
static void pump_to_guest(struct vsock *v)
{
	struct virtqueue *vq = &v->device.vq[QUEUE_RX];
	for (unsigned left = TURN_PACKETS; v->replies || v->turn_first; left--) {
		if (!left) {
			wake(v);
			break;
		}
		if (!v->rx_held && vq_pop(vq, &v->rx) <= 0) {
			if (vq_want_notify(vq))
				continue;
			break;
		}
		v->rx_held = true;
		if (!chain_fits(&v->rx)) {
			vq->broken = true;
			break;
		}
		if (v->replies) {
			struct reply r = v->reply[--v->replies];
			struct virtio_vsock_hdr h = header(r.guest_port, r.host_port, VIRTIO_VSOCK_OP_RST);
			put(v, &h);
			v->rx_held = false;
		} else if (serve(v->turn_first)) {
			v->rx_held = false;
		}
	}
	virtio_signal(&v->device, QUEUE_RX);
}

/* After any work: what it made, what the guest gets of it, and whether the rings are still whole. */
static void settle(struct vsock *v)
{
	if (running(v))
		pump_to_guest(v);
	for (unsigned i = 0; i < 3; i++)
		if (v->device.vq[i].broken)
			virtio_needs_reset(&v->device);
}

static void socket_ready(void *context, uint32_t events)
{
	struct connection *c = context;
	struct vsock *v = c->vsock;
	pthread_mutex_lock(&v->device.lock);
	if (!c->disowned) {
		if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && may_read(c)) {
			c->readable = true;
			join_queue(c);
		}
		if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR) && c->kept_bytes)
			flush(c);
		if (c->lingering && !c->kept_bytes)
			forget(c);
		else
			watch(c);
		settle(v);
	}
	pthread_mutex_unlock(&v->device.lock);
}

/* ---- The device ---- */

static void notify(struct virtio_device *d, unsigned queue)
{
	struct vsock *v = vsock_of(d);
	if (queue == QUEUE_TX)
		pump_from_guest(v);
	settle(v);
}

/* What the driver has put into its queues already is the loop's to handle. */
static void start(struct virtio_device *d)
{
	wake(vsock_of(d));
}

static void config_read(struct virtio_device *d, uint32_t offset, void *to, uint32_t len_bytes)
{
	(void)d;
	const struct virtio_vsock_config config = {.guest_cid = htole64(VSOCK_GUEST_CID)};
	if (offset < sizeof config) {
		size_t n = sizeof config - offset;
		memcpy(to, (const uint8_t *)&config + offset, n < len_bytes ? n : len_bytes);
	}
}

/* The sockets' other ends see an end of file at once; the rest is done on the loop's thread. */
static void reset(struct virtio_device *d)
{
	struct vsock *v = vsock_of(d);
	for (struct connection *c; (c = v->connections);) {
		v->connections = c->next;
		c->disowned = true;
		c->turn_from = NULL;
		shutdown(c->source.fd, SHUT_RDWR);
		c->next = v->disowned;
		v->disowned = c;
	}
	v->count = 0;
	v->replies = 0;
	v->rx_held = false;
	v->turn_first = NULL;
	v->turn_last = &v->turn_first;
	if (v->disowned)
		wake(v);
}

static void bury_disowned(struct vsock *v)
{
	for (struct connection *c; (c = v->disowned);) {
		v->disowned = c->next;
		bury(c);
	}
}

/* Start, reset, or a turn that ended before the work did. */
static void woken(void *context, uint32_t events)
{
	(void)events;
	struct vsock *v = context;
	uint64_t count;
	(void)!read(v->wake.fd, &count, sizeof count);
	pthread_mutex_lock(&v->device.lock);
	bury_disowned(v);
	if (running(v)) {
		pump_from_guest(v);
		settle(v);
	}
	pthread_mutex_unlock(&v->device.lock);
}

static void destroy(struct virtio_device *d)
{
	struct vsock *v = vsock_of(d);
	reset(d);
	bury_disowned(v);
	loop_remove(v->loop, &v->wake);
	io_close(&v->wake.fd);
	free(v);
}

static const struct virtio_ops ops = {
    .name = "virtio-vsock",
    .device_id = VIRTIO_ID_VSOCK,
    .queue_count = 3,
    .config_read = config_read,
    .start = start,
    .notify = notify,
    .reset = reset,
    .destroy = destroy,
};

/*
 * Makes the device. `accept` is called with `context` for the guest's connections. `loop` is that of the thread which
 * later runs it, and outlives the device. Returns 0 with *out, which ops->destroy ends, or -errno.
 */
int vsock_create(const struct mem *mem, struct loop *loop, vsock_accept_fn accept, void *context,
		 struct virtio_device **out, struct err *e)
{
	struct vsock *v = calloc(1, sizeof *v);
	if (!v)
		return err_sys(e, -ENOMEM, "vsock device");
	virtio_init(&v->device, &ops, mem, 0);
	v->loop = loop;
	v->accept = accept;
	v->accept_context = context;
	v->turn_last = &v->turn_first;
	v->next_port = PORTS_FIRST;
	v->wake = (struct loop_source){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = woken, .context = v};
	int rc = v->wake.fd < 0 ? -errno : loop_add(loop, &v->wake, EPOLLIN);
	if (rc) {
		io_close(&v->wake.fd);
		free(v);
		return err_sys(e, rc, "vsock device");
	}
	*out = &v->device;
	return 0;
}

/*
 * Connects `fd`, a non-blocking stream socket which the device then owns, to `guest_port`: what is written to its other
 * end arrives there; where nobody listens, the other end sees an end of file. On the loop's thread. Returns 0; or
 * -ENOTCONN where the guest has no driver, -ENFILE where there are too many connections, with fd closed.
 */
int vsock_connect(struct virtio_device *d, int fd, uint32_t guest_port)
{
	struct vsock *v = vsock_of(d);
	int rc = 0;
	pthread_mutex_lock(&d->lock);
	if (!(d->status & VIRTIO_STATUS_DRIVER_OK)) {
		close(fd);
		rc = -ENOTCONN;
	} else {
		uint32_t port;
		do {
			port = v->next_port++;
			if (v->next_port < PORTS_FIRST)
				v->next_port = PORTS_FIRST;
		} while (find(v, guest_port, port));
		struct connection *c = add(v, fd, guest_port, port);
		if (c)
			owe(c, OWE_REQUEST);
		else
			rc = -ENFILE;
		settle(v);
	}
	pthread_mutex_unlock(&d->lock);
	return rc;
}
