/* What all virtio devices share, whatever their transport. */
#include "virtio/device.h"

#include <unistd.h>

/*
 * Initialises the common part of a device: `ops` and `mem` outlive it; `features` are its own, beside those that every
 * device of ours offers.
 */
void virtio_init(struct virtio_device *d, const struct virtio_ops *ops, const struct mem *mem, uint64_t features)
{
	*d = (struct virtio_device){.ops = ops, .mem = mem, .irq_fd = -1};
	d->features = features | 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_EVENT_IDX |
		      1ull << VIRTIO_RING_F_INDIRECT_DESC;
	pthread_mutex_init(&d->lock, NULL);
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
		d->vq[i].mem = mem;
}

/* Raises the interrupt for `reason` (VIRTIO_ISR_*). */
static void raise_irq(struct virtio_device *d, unsigned reason)
{
	uint64_t one = 1;
	atomic_fetch_or(&d->isr, reason);
	atomic_fetch_add(&d->count.signals, 1);
	(void)!write(d->irq_fd, &one, sizeof one);
}

/* The guest notified queue `queue` (or may have). Takes the lock; from any thread. */
void virtio_notify(struct virtio_device *d, unsigned queue)
{
	pthread_mutex_lock(&d->lock);
	atomic_fetch_add(&d->count.notifications, 1);
	if (d->status & VIRTIO_STATUS_DRIVER_OK && !(d->status & VIRTIO_STATUS_NEEDS_RESET) &&
	    queue < d->ops->queue_count && d->vq[queue].ready)
		d->ops->notify(d, queue);
	pthread_mutex_unlock(&d->lock);
}

/* Interrupts the driver for queue `queue`, unless it does not want that now. With the lock held. */
void virtio_signal(struct virtio_device *d, unsigned queue)
{
	if (vq_should_signal(&d->vq[queue]))
		raise_irq(d, VIRTIO_ISR_USED);
}

/* The same for all queues at once: they have one interrupt. With the lock held. */
void virtio_signal_all(struct virtio_device *d)
{
	bool wanted = false;
	for (unsigned i = 0; i < d->ops->queue_count; i++)
		wanted |= vq_should_signal(&d->vq[i]);
	if (wanted)
		raise_irq(d, VIRTIO_ISR_USED);
}

/* Tells the driver that the configuration changed (section 2.5). With the lock held. */
void virtio_config_changed(struct virtio_device *d)
{
	d->config_generation++;
	if (d->status & VIRTIO_STATUS_DRIVER_OK)
		raise_irq(d, VIRTIO_ISR_CONFIG);
}

/* The driver broke the rules: nothing goes on until it resets the device (section 2.1.2). With the lock held. */
void virtio_needs_reset(struct virtio_device *d)
{
	if (d->status & VIRTIO_STATUS_NEEDS_RESET)
		return;
	atomic_fetch_add(&d->count.ring_errors, 1);
	d->status |= VIRTIO_STATUS_NEEDS_RESET;
	if (d->status & VIRTIO_STATUS_DRIVER_OK)
		raise_irq(d, VIRTIO_ISR_CONFIG);
}
