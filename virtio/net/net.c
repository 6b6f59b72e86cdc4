/*
 * virtio-net (virtio 1.2, section 5.1), whose other end is not a network but a policy.
 *
 * Theory of operation
 * -------------------
 * Purpose: frames of the guest end here. ARP, neighbour discovery, DHCP and echo are answered on the spot (eth.c, icmp.c,
 * dhcp.c), names get made-up addresses (udp.c, dns.c, names.c), TCP is terminated (tcp.c), and each of its flows becomes a
 * socket that the gate, another process, has connected, if the policy allows it (policy.c, in both processes).
 *
 * Trust boundary: everything in a frame is the guest's. Headers are copied once into struct frame and checked there; data
 * goes from the ring to a socket unread, but for what inspect.c must see. What is wrong is dropped and counted. Nothing
 * is sent that the guest did not leave a buffer for.
 *
 * Interrupts cost the guest much more than frames: the device has one for both rings, raised when there is nothing more to do
 * or 64 KiB were pushed. That segments of TCP were taken is told with what answers them, within NET_PATIENCE_MS.
 *
 * Threads: all of it runs on the machine's network loop with the device's lock held; vCPUs only come in through the
 * registers. A reset of the device forgets the rings and nothing else: as with a real card, connections outlive it.
 */
#include "virtio/net/net.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "virtio/net/link.h"
#include "virtio/net/net_priv.h"
#include "virtio/net/udp_flow.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"

enum {
	QUEUE_RX = 0, /* to the guest */
	QUEUE_TX = 1,
	VNET_BYTES = sizeof(struct virtio_net_hdr_v1),
	BUFFER_BYTES = 1514,
	SIGNAL_BYTES = 64 << 10,
	TURN_FRAMES = 256, /* before other sources of the loop have their turn */
};

static const uint64_t offered = 1ull << VIRTIO_NET_F_CSUM | 1ull << VIRTIO_NET_F_GUEST_CSUM | 1ull << VIRTIO_NET_F_HOST_TSO4 |
				1ull << VIRTIO_NET_F_HOST_TSO6 | 1ull << VIRTIO_NET_F_GUEST_TSO4 |
				1ull << VIRTIO_NET_F_GUEST_TSO6 | 1ull << VIRTIO_NET_F_MRG_RXBUF | 1ull << VIRTIO_NET_F_MAC |
				1ull << VIRTIO_NET_F_MTU | 1ull << VIRTIO_NET_F_STATUS;

static struct net *net_of(struct virtio_device *d)
{
	return (struct net *)d;
}

/* Whether the driver has set the device up and not broken it. */
bool net_running(const struct net *n)
{
	return n->device.status & VIRTIO_STATUS_DRIVER_OK && !(n->device.status & VIRTIO_STATUS_NEEDS_RESET);
}

/* Whether the driver has taken feature VIRTIO_NET_F_*. */
bool net_offers(const struct net *n, unsigned feature)
{
	return n->device.driver_features >> feature & 1;
}

static void config_read(struct virtio_device *d, uint32_t offset, void *to, uint32_t len_bytes)
{
	const struct net *n = net_of(d);
	if (offset < sizeof n->space) {
		size_t left = sizeof n->space - offset;
		memcpy(to, (const uint8_t *)&n->space + offset, left < len_bytes ? left : len_bytes);
	}
}

/* ---- Interrupts ---- */

/* Interrupts the guest for what it has not heard of yet. */
static void signal_guest(struct net *n)
{
	n->unsignalled_bytes = 0;
	n->rx_pushed = false;
	tcp_signalled(n);
	virtio_signal_all(&n->device);
}

/* Something was pushed. The guest hears of it when we have nothing more to do, or when that is much: it can begin then. */
static void pushed(struct net *n, size_t bytes)
{
	n->unsignalled_bytes += bytes;
	if (n->unsignalled_bytes >= SIGNAL_BYTES)
		signal_guest(n);
}

/* Ends whatever was begun: flows send, and the guest hears of it. With the device's lock held. */
void net_flush(struct net *n)
{
	tcp_flush(n);
	signal_guest(n);
}

/* ---- To the guest ---- */

/* How large a frame may become so that a part of the ring takes it, whose buffers are as drivers make them. */
uint32_t net_frame_max_bytes(const struct net *n)
{
	return net_offers(n, VIRTIO_NET_F_MRG_RXBUF) ? n->device.vq[QUEUE_RX].size / 2u * BUFFER_BYTES : UINT16_MAX;
}

/* Writes a frame into the guest's buffers, with chains taken from the ring as they are needed. */
struct rx_writer {
	struct net *net;
	uint16_t head[VQ_SIZE_MAX];
	uint32_t filled[VQ_SIZE_MAX];
	uint16_t chains;
	size_t chain_at;     /* within the chain at hand */
	uint8_t *buffers_at; /* where the number of chains belongs */
};

/* Takes one chain more. Returns 0, -EAGAIN where the driver will notify us of more, or -EPROTO. */
static int next_chain(struct rx_writer *w)
{
	struct net *n = w->net;
	struct virtqueue *vq = &n->device.vq[QUEUE_RX];
	if (w->chains && (!net_offers(n, VIRTIO_NET_F_MRG_RXBUF) || w->chains == VQ_SIZE_MAX))
		return -EPROTO; /* a buffer must take a whole frame (5.1.6.3.1) */
	int rc = vq_pop(vq, &n->rx);
	if (rc == 0 && vq_want_notify(vq))
		rc = vq_pop(vq, &n->rx);
	if (rc <= 0)
		return rc ? rc : -EAGAIN;
	w->head[w->chains] = n->rx.head;
	w->filled[w->chains++] = 0;
	w->chain_at = 0;
	return n->rx.in_bytes ? 0 : -EPROTO;
}

static int write_rx(struct rx_writer *w, const void *data, size_t len_bytes)
{
	const uint8_t *from = data;
	while (len_bytes) {
		if (w->chains == 0 || w->chain_at == w->net->rx.in_bytes) {
			int rc = next_chain(w);
			if (rc)
				return rc;
		}
		size_t done = vq_copy_in(&w->net->rx, w->chain_at, from, len_bytes);
		w->chain_at += done;
		w->filled[w->chains - 1] += (uint32_t)done;
		from += done;
		len_bytes -= done;
	}
	return 0;
}

/* The vnet header goes into the first buffer whole, so that the number of buffers can be put there afterwards. */
static int write_vnet(struct rx_writer *w, const struct virtio_net_hdr_v1 *vnet)
{
	int rc = next_chain(w);
	if (rc)
		return rc;
	const struct iovec *first = &w->net->rx.iov[w->net->rx.out_count];
	if (w->net->rx.in_count == 0 || first->iov_len < VNET_BYTES)
		return -EPROTO;
	w->buffers_at = (uint8_t *)first->iov_base + offsetof(struct virtio_net_hdr_v1, num_buffers);
	return write_rx(w, vnet, VNET_BYTES);
}

/*
 * Sends a frame: headers, then data. Returns 0, -EAGAIN where the guest has no room for it now (then nothing is used, and
 * n->rx_starved is set), or -EPROTO where it broke the ring.
 */
int net_send_frame(struct net *n, const void *head, size_t head_bytes, const void *data, size_t data_bytes,
		   const struct virtio_net_hdr_v1 *vnet)
{
	struct virtqueue *vq = &n->device.vq[QUEUE_RX];
	struct rx_writer w VQ_UNINITIALIZED;
	w.net = n;
	w.chains = 0;
	int rc = net_running(n) ? write_vnet(&w, vnet) : -EAGAIN;
	rc = rc ? rc : write_rx(&w, head, head_bytes);
	rc = rc ? rc : write_rx(&w, data, data_bytes);
	if (rc == -EAGAIN) {
		vq_unpop(vq, w.chains);
		n->rx_starved = true;
		return rc;
	}
	if (rc) {
		vq->broken = true;
		virtio_needs_reset(&n->device);
		return rc;
	}
	memcpy(w.buffers_at, &w.chains, sizeof w.chains);
	for (uint16_t i = 0; i < w.chains; i++)
		vq_push(vq, w.head[i], w.filled[i]);
	n->count.frames_out++;
	n->rx_pushed = true;
	pushed(n, head_bytes + data_bytes);
	return 0;
}

/* ---- From the guest ---- */

/*
 * Whether the vnet header agrees with its frame (5.1.6.2). There is no wire behind us, so that it says nothing that we need;
 * but a driver that lies about this is not to be believed in anything else. Flags that are unknown are ignored, as they must
 * be; hdr_len is a hint, which Linux makes as long as its linear buffer.
 */
static bool vnet_makes_sense(const struct frame *f)
{
	const struct virtio_net_hdr_v1 *v = &f->vnet;
	unsigned type = v->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;
	if (v->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM && (size_t)v->csum_start + v->csum_offset + sizeof(uint16_t) > f->bytes)
		return false;
	if (type == VIRTIO_NET_HDR_GSO_NONE)
		return true;
	return (type == VIRTIO_NET_HDR_GSO_TCPV4 || type == VIRTIO_NET_HDR_GSO_TCPV6) && v->gso_size && v->gso_size <= f->bytes &&
	       v->hdr_len <= f->bytes;
}

static void frame_arrived(struct net *n)
{
	struct frame f = {.chain = &n->tx};
	if (n->ended)
		return;
	if (n->tx.out_bytes < VNET_BYTES + ETH_HEAD_BYTES || n->tx.out_bytes - VNET_BYTES > ETH_HEAD_BYTES + GSO_MAX_BYTES) {
		n->count.malformed++;
		return;
	}
	vq_copy_out(&n->tx, 0, &f.vnet, VNET_BYTES);
	f.bytes = n->tx.out_bytes - VNET_BYTES;
	if (!vnet_makes_sense(&f)) {
		n->count.malformed++;
		return;
	}
	f.head_bytes = vq_copy_out(&n->tx, VNET_BYTES, f.head, sizeof f.head);
	n->count.frames_in++;
	eth_input(n, &f);
}

static void from_guest(struct net *n)
{
	struct virtqueue *vq = &n->device.vq[QUEUE_TX];
	int rc;
	unsigned frames = 0;
	bool patient = true;
	do {
		vq_no_notify(vq);
		while (frames < TURN_FRAMES && (rc = vq_pop(vq, &n->tx)) > 0) {
			n->patient = false;
			frame_arrived(n);
			patient &= n->patient;
			vq_push(vq, n->tx.head, 0);
			pushed(n, n->tx.out_bytes);
			frames++;
		}
	} while (frames < TURN_FRAMES && vq_want_notify(vq));
	if (vq->broken)
		virtio_needs_reset(&n->device);
	else if (frames == TURN_FRAMES)
		(void)!write(n->wake.fd, &(uint64_t){1}, sizeof(uint64_t));
	tcp_flush(n);
	if (patient && frames && !n->rx_pushed)
		tcp_signal_within(n, NET_PATIENCE_MS);
	else
		signal_guest(n);
}

static void notify(struct virtio_device *d, unsigned queue)
{
	struct net *n = net_of(d);
	if (queue == QUEUE_TX) {
		from_guest(n);
	} else if (n->rx_starved) {
		n->rx_starved = false;
		vq_no_notify(&n->device.vq[QUEUE_RX]);
		udp_flush(n);
		net_flush(n);
	}
}

/* There is more from the guest than one turn takes, or the driver has just started. */
static void woken(void *context, uint32_t events)
{
	(void)events;
	struct net *n = context;
	uint64_t count;
	(void)!read(n->wake.fd, &count, sizeof count);
	pthread_mutex_lock(&n->device.lock);
	if (net_running(n)) {
		n->rx_starved = false;
		vq_no_notify(&n->device.vq[QUEUE_RX]);
		udp_flush(n);
		from_guest(n);
	}
	pthread_mutex_unlock(&n->device.lock);
}

/* A vCPU's thread: what waits is the loop's. */
static void start(struct virtio_device *d)
{
	(void)!write(net_of(d)->wake.fd, &(uint64_t){1}, sizeof(uint64_t));
}

static void reset(struct virtio_device *d)
{
	net_of(d)->rx_starved = false;
}

static void destroy(struct virtio_device *d)
{
	struct net *n = net_of(d);
	tcp_destroy(n);
	udp_destroy(n);
	gate_client_destroy(n);
	names_free(&n->names);
	policy_free(&n->config.policy);
	loop_remove(n->loop, &n->wake);
	io_close(&n->wake.fd);
	io_close(&n->config.gate_fd);
	order_destroy(n);
	io_close(&n->config.control_fd);
	free(n);
}

static const struct virtio_ops ops = {
	.name = "virtio-net",
	.device_id = VIRTIO_ID_NET,
	.queue_count = 2,
	.config_read = config_read,
	.start = start,
	.notify = notify,
	.reset = reset,
	.destroy = destroy,
};

/*
 * Makes the network device of a sandbox. `loop` is the one that it runs on. The descriptors and the policy of `config` are
 * the device's, also on failure. Returns 0 with *out, which ops->destroy ends, or -errno.
 */
int net_create(const struct mem *mem, struct loop *loop, const struct net_config *config, struct virtio_device **out,
	       struct err *e)
{
	static const uint8_t mac[6] = LINK_GUEST_MAC;
	struct net *n = calloc(1, sizeof *n);
	if (!n)
		return err_sys(e, -ENOMEM, "network device");
	virtio_init(&n->device, &ops, mem, offered);
	n->loop = loop;
	n->config = *config;
	n->space = (struct virtio_net_config){.status = VIRTIO_NET_S_LINK_UP, .max_virtqueue_pairs = 1, .mtu = (uint16_t)config->mtu};
	memcpy(n->space.mac, mac, sizeof mac);
	n->gate.fd = n->control.fd = -1;
	n->wake = (struct loop_source){.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = woken, .context = n};
	int rc = n->wake.fd < 0 ? -errno : loop_add(loop, &n->wake, EPOLLIN);
	rc = rc ? rc : tcp_create(n);
	rc = rc ? rc : gate_client_create(n);
	rc = rc ? rc : order_create(n);
	if (rc) {
		destroy(&n->device);
		return err_sys(e, rc, "network device");
	}
	*out = &n->device;
	return 0;
}
