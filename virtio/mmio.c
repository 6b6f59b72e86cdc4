/*
 * The virtio-mmio transport, version 2 (virtio 1.2, section 4.2.2).
 *
 * Theory of operation
 * -------------------
 * Purpose: a device's registers. Pure state and calls of the device's ops; which thread reads or writes does not
 * matter.
 *
 * Trust boundary: a guest reads and writes any register, in any order, of any width, from several vCPUs at a time.
 *
 * States (section 3.1): reset -> ACKNOWLEDGE -> DRIVER -> features -> FEATURES_OK -> queues -> DRIVER_OK, and from
 * everywhere NEEDS_RESET, FAILED and back to reset. Bits of the status are only added, by writing 0 all are cleared.
 * What does not fit the state is ignored and counted.
 *
 * Invariants: the driver's features do not change after FEATURES_OK, the queues not after they are ready; a device runs
 * (start) only with both; reset waits for the device's lock, so afterwards nothing of it touches guest memory.
 */
#include <linux/virtio_mmio.h>
#include <string.h>

#include "virtio/device.h"

enum {
	MAGIC = 0x74726976, /* "virt" */
	TRANSPORT_VERSION = 2,
	VENDOR_ID = 0x4b4c5043, /* "CPLK" */
	REGISTER_BYTES = 4,
	STATUS_MASK = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK |
		      VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_FAILED,
};

static void ignore(struct virtio_device *d)
{
	atomic_fetch_add(&d->count.bad_registers, 1);
}

/* The selected queue, or NULL. */
static struct virtqueue *selected(struct virtio_device *d)
{
	return d->queue_sel < d->ops->queue_count ? &d->vq[d->queue_sel] : NULL;
}

/* ---- Reading ---- */

static uint32_t read_register(struct virtio_device *d, uint64_t offset)
{
	struct virtqueue *vq = selected(d);
	switch (offset) {
	case VIRTIO_MMIO_MAGIC_VALUE:
		return MAGIC;
	case VIRTIO_MMIO_VERSION:
		return TRANSPORT_VERSION;
	case VIRTIO_MMIO_DEVICE_ID:
		return d->ops->device_id;
	case VIRTIO_MMIO_VENDOR_ID:
		return VENDOR_ID;
	case VIRTIO_MMIO_DEVICE_FEATURES:
		return d->device_features_sel < 2 ? (uint32_t)(d->features >> (32 * d->device_features_sel)) : 0;
	case VIRTIO_MMIO_QUEUE_NUM_MAX:
		return vq ? VQ_SIZE_MAX : 0;
	case VIRTIO_MMIO_QUEUE_READY:
		return vq && vq->ready;
	case VIRTIO_MMIO_STATUS:
		return d->status;
	case VIRTIO_MMIO_CONFIG_GENERATION:
		return d->config_generation;
	case VIRTIO_MMIO_SHM_LEN_LOW: /* no such region: a length of -1 (section 4.2.2.1) */
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH:
		return UINT32_MAX;
	default:
		ignore(d);
		return 0;
	}
}

/* Reads `len_bytes` (1, 2 or 4) at `offset` into the device's page. What is not a register reads as 0. */
uint32_t mmio_read(struct virtio_device *d, uint64_t offset, unsigned len_bytes)
{
	uint32_t value = 0;
	if (offset == VIRTIO_MMIO_INTERRUPT_STATUS && len_bytes == REGISTER_BYTES)
		return atomic_load(&d->isr);
	pthread_mutex_lock(&d->lock);
	if (offset >= VIRTIO_MMIO_CONFIG && len_bytes <= sizeof value)
		d->ops->config_read(d, (uint32_t)(offset - VIRTIO_MMIO_CONFIG), &value, len_bytes);
	else if (len_bytes == REGISTER_BYTES)
		value = read_register(d, offset);
	else
		ignore(d);
	pthread_mutex_unlock(&d->lock);
	return value;
}

/* ---- Writing ---- */

static void reset(struct virtio_device *d)
{
	d->ops->reset(d);
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
		vq_reset(&d->vq[i]);
	d->status = 0;
	d->driver_features = 0;
	d->device_features_sel = d->driver_features_sel = d->queue_sel = 0;
	atomic_store(&d->isr, 0);
}

/* Whether the features that the driver chose are some of those offered, with the one that makes it modern. */
static bool features_ok(const struct virtio_device *d)
{
	return !(d->driver_features & ~d->features) && d->driver_features & 1ull << VIRTIO_F_VERSION_1;
}

/* Whether each status bit in `value` comes with, DRIVER_OK after, the one before it (section 3.1.1). */
static bool in_order(const struct virtio_device *d, uint32_t value)
{
	return (!(value & VIRTIO_STATUS_DRIVER) || value & VIRTIO_STATUS_ACKNOWLEDGE) &&
	       (!(value & VIRTIO_STATUS_FEATURES_OK) || value & VIRTIO_STATUS_DRIVER) &&
	       (!(value & VIRTIO_STATUS_DRIVER_OK) || d->status & VIRTIO_STATUS_FEATURES_OK);
}

static void write_status(struct virtio_device *d, uint32_t value)
{
	uint32_t added = value & ~d->status;
	if (value == 0) {
		reset(d);
		return;
	}
	bool unknown = value & ~(uint32_t)(STATUS_MASK | VIRTIO_STATUS_NEEDS_RESET);
	bool taken_back = d->status & ~value & STATUS_MASK;
	if (unknown || taken_back || !in_order(d, value)) {
		ignore(d);
		return;
	}
	if (added & VIRTIO_STATUS_FEATURES_OK && !features_ok(d)) {
		ignore(d);
		added &= ~(uint32_t)VIRTIO_STATUS_FEATURES_OK;
	}
	d->status |= added & STATUS_MASK;
	if (added & VIRTIO_STATUS_DRIVER_OK && !(d->status & VIRTIO_STATUS_NEEDS_RESET))
		d->ops->start(d);
}

static void write_features(struct virtio_device *d, uint32_t value)
{
	if (d->status & VIRTIO_STATUS_FEATURES_OK || !(d->status & VIRTIO_STATUS_DRIVER)) {
		ignore(d);
	} else if (d->driver_features_sel < 2) {
		unsigned shift = 32 * d->driver_features_sel;
		d->driver_features = (d->driver_features & ~(0xffffffffull << shift)) | (uint64_t)value << shift;
	} else if (value) {
		ignore(d); /* there are no such features; FEATURES_OK would have to fail, and the driver would not know
			      why */
	}
}

static void set_half(gpa_t *gpa, bool high, uint32_t value)
{
	gpa->addr = high ? (gpa->addr & 0xffffffff) | (uint64_t)value << 32 : (gpa->addr & ~0xffffffffull) | value;
}

static void write_queue(struct virtio_device *d, struct virtqueue *vq, uint64_t offset, uint32_t value)
{
	switch (offset) {
	case VIRTIO_MMIO_QUEUE_NUM:
		if (value == 0 || value > VQ_SIZE_MAX)
			ignore(d);
		else
			vq->size = (uint16_t)value;
		break;
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		set_half(&vq->desc, offset == VIRTIO_MMIO_QUEUE_DESC_HIGH, value);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		set_half(&vq->avail, offset == VIRTIO_MMIO_QUEUE_AVAIL_HIGH, value);
		break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		set_half(&vq->used, offset == VIRTIO_MMIO_QUEUE_USED_HIGH, value);
		break;
	default: /* VIRTIO_MMIO_QUEUE_READY */
		if (value != 1 || vq_enable(vq, d->driver_features >> VIRTIO_RING_F_EVENT_IDX & 1,
					    d->driver_features >> VIRTIO_RING_F_INDIRECT_DESC & 1))
			ignore(d);
		break;
	}
}

/* Queue registers may be written after features are agreed and before the queue is ready (section 4.2.3.2). */
static bool may_write_queue(const struct virtio_device *d, const struct virtqueue *vq)
{
	return vq && !vq->ready && d->status & VIRTIO_STATUS_FEATURES_OK && !(d->status & VIRTIO_STATUS_DRIVER_OK);
}

static void write_register(struct virtio_device *d, uint64_t offset, uint32_t value)
{
	switch (offset) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		d->device_features_sel = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		d->driver_features_sel = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		write_features(d, value);
		break;
	case VIRTIO_MMIO_QUEUE_SEL:
		d->queue_sel = value;
		break;
	case VIRTIO_MMIO_STATUS:
		write_status(d, value);
		break;
	case VIRTIO_MMIO_QUEUE_NUM:
	case VIRTIO_MMIO_QUEUE_READY:
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
	case VIRTIO_MMIO_QUEUE_USED_LOW:
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		/* Given back before it is used; a running device may hold a chain of it, and lets go of that by reset.
		 */
		if (offset == VIRTIO_MMIO_QUEUE_READY && value == 0 && selected(d) &&
		    !(d->status & VIRTIO_STATUS_DRIVER_OK))
			vq_reset(selected(d));
		else if (may_write_queue(d, selected(d)))
			write_queue(d, selected(d), offset, value);
		else
			ignore(d);
		break;
	default:
		ignore(d); /* QUEUE_NOTIFY does not come here: KVM turns it into an eventfd. No device has writable
			      configuration. */
		break;
	}
}

/* Writes `len_bytes` of `value` at `offset` into the device's page. What is not a register is ignored. */
void mmio_write(struct virtio_device *d, uint64_t offset, unsigned len_bytes, uint32_t value)
{
	if (offset == VIRTIO_MMIO_INTERRUPT_ACK && len_bytes == REGISTER_BYTES) {
		atomic_fetch_and(&d->isr, ~value);
		return;
	}
	pthread_mutex_lock(&d->lock);
	if (len_bytes == REGISTER_BYTES)
		write_register(d, offset, value);
	else
		ignore(d);
	pthread_mutex_unlock(&d->lock);
}
