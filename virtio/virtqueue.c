/*
 * Split virtqueues (virtio 1.2, section 2.7): the only code that walks rings.
 *
 * Theory of operation
 * -------------------
 * Purpose: turns what a driver put into a ring into a struct vq_chain, whose iovecs point into guest memory, and gives
 * chains back.
 *
 * Trust boundary: rings and descriptors are written by the guest, also while we read them. Every field is loaded once;
 * the loaded value is checked and used. Ring addresses are checked when the queue is enabled and cannot change after
 * that; guest memory does not move, so that they stay valid. What a chain's buffers contain is the device's concern: it
 * copies a header once, too.
 *
 * States: disabled (!ready) -> enabled -> broken. A ring that breaks a rule is broken until the device is reset,
 * because after a bad descriptor nothing else that it says can be relied on.
 *
 * Limits: a chain has at most VQ_IOV_MAX buffers, a direct one at most as many as the queue has descriptors, so loops
 * end. At most `size` chains are in flight.
 *
 * Notifications race with their suppression on both sides. Each side publishes first and reads the other's wish after a
 * full barrier: vq_push() and vq_should_signal() here, vq_want_notify() and the look at the avail index after it.
 */
#include "virtio/virtqueue.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum {
	DESC_BYTES = 16,
	DESC_F_NEXT = 1,
	DESC_F_WRITE = 2,
	DESC_F_INDIRECT = 4,

	RING_FLAGS = 0, /* of both rings: le16 flags, le16 index, entries, le16 event */
	RING_INDEX = 2,
	RING_ENTRIES = 4,
	RING_EXTRA_BYTES = 6,
	AVAIL_ENTRY_BYTES = 2,
	USED_ENTRY_BYTES = 8,

	AVAIL_F_NO_INTERRUPT = 1,
	USED_F_NO_NOTIFY = 1,
};

/* A descriptor as it is in memory. x86-64 only, so little-endian is the CPU's order. */
struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};
_Static_assert(sizeof(struct desc) == DESC_BYTES, "layout of virtio 1.2, 2.7.5");

/* A table of descriptors: the queue's or an indirect one. */
struct table {
	const uint8_t *host;
	uint32_t count;
	bool indirect;
};

struct range {
	uint64_t start, len;
};

static uint64_t avail_bytes(const struct virtqueue *vq)
{
	return RING_EXTRA_BYTES + (uint64_t)AVAIL_ENTRY_BYTES * vq->size;
}

static uint64_t used_bytes(const struct virtqueue *vq)
{
	return RING_EXTRA_BYTES + (uint64_t)USED_ENTRY_BYTES * vq->size;
}

static uint16_t *avail_at(const struct virtqueue *vq, uint64_t offset)
{
	return (uint16_t *)((uint8_t *)mem_at(vq->mem, vq->avail, avail_bytes(vq)) + offset);
}

static uint16_t *used_at(const struct virtqueue *vq, uint64_t offset)
{
	return (uint16_t *)((uint8_t *)mem_at(vq->mem, vq->used, used_bytes(vq)) + offset);
}

static uint16_t *used_event(const struct virtqueue *vq)
{
	return avail_at(vq, RING_ENTRIES + (uint64_t)AVAIL_ENTRY_BYTES * vq->size);
}

static uint16_t *avail_event(const struct virtqueue *vq)
{
	return used_at(vq, RING_ENTRIES + (uint64_t)USED_ENTRY_BYTES * vq->size);
}

/* Loads a field that the driver writes; what the driver wrote before it is seen after it. */
static uint16_t load(const uint16_t *p)
{
	return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

/* Stores a field that the driver reads; what was written before it is seen first. */
static void store(uint16_t *p, uint16_t value)
{
	__atomic_store_n(p, value, __ATOMIC_RELEASE);
}

static bool ranges_overlap(const struct range *a, const struct range *b)
{
	return a->start < b->start + b->len && b->start < a->start + a->len;
}

/*
 * Enables a queue with the size and addresses that the driver has set. Returns 0, or -EINVAL with nothing changed when
 * the size is not a power of 2 up to VQ_SIZE_MAX, or a part is misaligned, not wholly in guest memory or overlaps
 * another.
 */
int vq_enable(struct virtqueue *vq, bool event_idx, bool indirect)
{
	if (vq->size == 0 || vq->size > VQ_SIZE_MAX || (vq->size & (vq->size - 1)))
		return -EINVAL;
	const struct range part[3] = {
	    {vq->desc.addr, (uint64_t)DESC_BYTES * vq->size},
	    {vq->avail.addr, avail_bytes(vq)},
	    {vq->used.addr, used_bytes(vq)},
	};
	static const uint64_t align_bytes[3] = {16, 2, 4};
	for (unsigned i = 0; i < 3; i++) {
		if (part[i].start % align_bytes[i] || !mem_at(vq->mem, GPA(part[i].start), part[i].len))
			return -EINVAL;
		for (unsigned j = 0; j < i; j++)
			if (ranges_overlap(&part[i], &part[j]))
				return -EINVAL;
	}
	vq->event_idx = event_idx;
	vq->indirect = indirect;
	vq->broken = false;
	vq->next_avail = vq->next_used = vq->last_signal = vq->in_flight = 0;
	vq->ready = true;
	return 0;
}

/* Forgets everything that the driver has set; the queue is disabled. */
void vq_reset(struct virtqueue *vq)
{
	*vq = (struct virtqueue){.mem = vq->mem};
}

static int vq_break(struct virtqueue *vq)
{
	vq->broken = true;
	return -EPROTO;
}

/* Adds one buffer to a chain. Returns 0 or -EPROTO. */
static int add_buffer(const struct virtqueue *vq, struct vq_chain *c, const struct desc *d)
{
	unsigned n = (unsigned)c->out_count + c->in_count;
	void *host = mem_at(vq->mem, GPA(d->addr), d->len);
	bool write = d->flags & DESC_F_WRITE;
	if (!host || n == VQ_IOV_MAX || (!write && c->in_count))
		return -EPROTO;
	c->iov[n] = (struct iovec){host, d->len};
	if (write) {
		c->in_count++;
		c->in_bytes += d->len;
	} else {
		c->out_count++;
		c->out_bytes += d->len;
	}
	return 0;
}

/* Goes from the descriptor that refers to an indirect table to that table (2.7.5.3). Returns 0 or -EPROTO. */
static int enter_indirect(const struct virtqueue *vq, struct table *t, const struct desc *d)
{
	if (!vq->indirect || t->indirect || (d->flags & DESC_F_NEXT) || d->len == 0 || d->len % DESC_BYTES ||
	    d->len / DESC_BYTES > VQ_IOV_MAX)
		return -EPROTO;
	const void *host = mem_at(vq->mem, GPA(d->addr), d->len);
	if (!host)
		return -EPROTO;
	*t = (struct table){.host = host, .count = d->len / DESC_BYTES, .indirect = true};
	return 0;
}

/* Fills a chain from the descriptor `head` on. Returns 0 or -EPROTO. */
static int walk(const struct virtqueue *vq, struct vq_chain *c, uint16_t head)
{
	struct table t = {.host = mem_at(vq->mem, vq->desc, (uint64_t)DESC_BYTES * vq->size), .count = vq->size};
	uint32_t index = head, seen = 0;
	for (;;) {
		struct desc d;
		if (index >= t.count || seen++ == t.count)
			return -EPROTO;
		memcpy(&d, t.host + (size_t)index * DESC_BYTES, sizeof d);
		/* The copy is what is checked: the compiler must not load from the guest's table again. */
		__asm__ volatile("" : "+m"(d));
		int rc;
		if (d.flags & DESC_F_INDIRECT) {
			rc = enter_indirect(vq, &t, &d);
			index = seen = 0;
		} else {
			rc = add_buffer(vq, c, &d);
			if (rc == 0 && !(d.flags & DESC_F_NEXT))
				return 0;
			index = d.next;
		}
		if (rc)
			return rc;
	}
}

/*
 * Takes the next chain that the driver made available. Returns 1 with `chain` filled, 0 when there is none or the queue
 * is not enabled, or -EPROTO when the ring is broken; the caller then calls virtio_needs_reset().
 */
int vq_pop(struct virtqueue *vq, struct vq_chain *chain)
{
	if (vq->broken)
		return -EPROTO;
	if (!vq->ready)
		return 0;
	uint16_t pending = load(avail_at(vq, RING_INDEX)) - vq->next_avail;
	if (pending == 0)
		return 0;
	if (pending > vq->size || vq->in_flight == vq->size)
		return vq_break(vq);
	uint16_t slot = vq->next_avail & (vq->size - 1);
	uint16_t head = load(avail_at(vq, RING_ENTRIES + (uint64_t)AVAIL_ENTRY_BYTES * slot));
	chain->head = head;
	chain->out_count = chain->in_count = 0;
	chain->out_bytes = chain->in_bytes = 0;
	if (walk(vq, chain, head))
		return vq_break(vq);
	vq->next_avail++;
	vq->in_flight++;
	return 1;
}

/* Takes back the last `count` vq_pop(): those chains, none of which was given back, come again. */
void vq_unpop(struct virtqueue *vq, uint16_t count)
{
	assert(count <= vq->in_flight);
	vq->next_avail -= count;
	vq->in_flight -= count;
}

/* Gives a chain back, `written_bytes` of its writable buffers filled. The driver sees it; it may have to be signalled.
 */
void vq_push(struct virtqueue *vq, uint16_t head, uint32_t written_bytes)
{
	assert(vq->ready && vq->in_flight > 0);
	uint16_t slot = vq->next_used & (vq->size - 1);
	const uint32_t entry[2] = {head, written_bytes};
	memcpy(used_at(vq, RING_ENTRIES + (uint64_t)USED_ENTRY_BYTES * slot), entry, sizeof entry);
	vq->in_flight--;
	vq->next_used++;
	store(used_at(vq, RING_INDEX), vq->next_used);
}

/*
 * Whether the driver wants an interrupt for what was pushed since this was last asked (2.7.7.2, 2.7.10). The caller
 * must then send one, and must ask at least once for every 65535 chains.
 */
bool vq_should_signal(struct virtqueue *vq)
{
	uint16_t before = vq->last_signal;
	vq->last_signal = vq->next_used;
	if (!vq->ready || vq->next_used == before)
		return false;
	/* The used index must be visible before the driver's wish is read: the driver does the same in reverse. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!vq->event_idx)
		return !(load(avail_at(vq, RING_FLAGS)) & AVAIL_F_NO_INTERRUPT);
	uint16_t event = load(used_event(vq));
	return (uint16_t)(vq->next_used - event - 1) < (uint16_t)(vq->next_used - before);
}

/*
 * Asks the driver for a notification of the next chain. Returns true when one is there already, for which no
 * notification may come: the caller then goes on with vq_pop().
 */
bool vq_want_notify(struct virtqueue *vq)
{
	if (!vq->ready || vq->broken)
		return false;
	if (vq->event_idx)
		store(avail_event(vq), vq->next_avail);
	else
		store(used_at(vq, RING_FLAGS), 0);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return load(avail_at(vq, RING_INDEX)) != vq->next_avail;
}

/* Tells the driver that notifications are not needed until vq_want_notify(). Some may come all the same. */
void vq_no_notify(struct virtqueue *vq)
{
	/* With EVENT_IDX there is nothing to do: avail_event stays behind, so that no index crosses it. */
	if (vq->ready && !vq->broken && !vq->event_idx)
		store(used_at(vq, RING_FLAGS), USED_F_NO_NOTIFY);
}

/*
 * Selects `len_bytes` from `offset` of the buffers from[0 .. count), or what there is of them, into to[0 ..
 * VQ_IOV_MAX). Returns the number of buffers in `to`.
 */
unsigned vq_slice(const struct iovec *from, unsigned count, uint64_t offset, uint64_t len_bytes, struct iovec *to)
{
	unsigned n = 0;
	for (unsigned i = 0; i < count && len_bytes; i++) {
		if (offset >= from[i].iov_len) {
			offset -= from[i].iov_len;
			continue;
		}
		uint64_t part = from[i].iov_len - offset;
		if (part > len_bytes)
			part = len_bytes;
		to[n++] = (struct iovec){(uint8_t *)from[i].iov_base + offset, part};
		len_bytes -= part;
		offset = 0;
	}
	return n;
}

/* Copies between `data` and the bytes from `offset` on of iov[0 .. count). Returns how many there were. */
static size_t copy(const struct iovec *iov, unsigned count, size_t offset, uint8_t *data, size_t len_bytes, bool to_iov)
{
	size_t done = 0;
	for (unsigned i = 0; i < count && done < len_bytes; i++) {
		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		size_t part = iov[i].iov_len - offset;
		if (part > len_bytes - done)
			part = len_bytes - done;
		uint8_t *at = (uint8_t *)iov[i].iov_base + offset;
		memcpy(to_iov ? at : data + done, to_iov ? data + done : at, part);
		done += part;
		offset = 0;
	}
	return done;
}

/* Copies from the readable buffers, from their byte `offset` on. Returns how much there was to copy. */
size_t vq_copy_out(const struct vq_chain *chain, size_t offset, void *to, size_t len_bytes)
{
	return copy(chain->iov, chain->out_count, offset, to, len_bytes, false);
}

/* Copies to the writable buffers, from their byte `offset` on. Returns how much there was room for. */
size_t vq_copy_in(const struct vq_chain *chain, size_t offset, const void *from, size_t len_bytes)
{
	return copy(chain->iov + chain->out_count, chain->in_count, offset, (uint8_t *)from, len_bytes, true);
}
