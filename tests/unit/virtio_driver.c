#include "tests/unit/virtio_driver.h"

#include <assert.h>
#include <linux/virtio_mmio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/util/err.h"

/* ---- Device without function ---- */

static struct dummy_device *dummy_of(struct virtio_device *d)
{
	return (struct dummy_device *)d;
}

static void dummy_config_read(struct virtio_device *d, uint32_t offset, void *to, uint32_t len_bytes)
{
	for (uint32_t i = 0; i < len_bytes && offset + i < sizeof dummy_of(d)->config; i++)
		((uint8_t *)to)[i] = dummy_of(d)->config[offset + i];
}

static void dummy_start(struct virtio_device *d)
{
	dummy_of(d)->starts++;
}

static void dummy_notify(struct virtio_device *d, unsigned queue)
{
	dummy_of(d)->notifies++;
	dummy_of(d)->last_queue = queue;
}

static void dummy_reset(struct virtio_device *d)
{
	dummy_of(d)->resets++;
}

static void dummy_destroy(struct virtio_device *d)
{
	(void)d;
}

static const struct virtio_ops dummy_ops = {
    .name = "dummy",
    .device_id = 42,
    .queue_count = 2,
    .config_read = dummy_config_read,
    .start = dummy_start,
    .notify = dummy_notify,
    .reset = dummy_reset,
    .destroy = dummy_destroy,
};

/* Makes a dummy with two queues, one feature of its own (bit 3) and the configuration 1, 2, ... 8. */
void dummy_init(struct dummy_device *dummy, const struct mem *mem)
{
	*dummy = (struct dummy_device){.config = {1, 2, 3, 4, 5, 6, 7, 8}};
	virtio_init(&dummy->device, &dummy_ops, mem, 1 << 3);
}

/* ---- Guest ---- */

/* Makes guest memory; a device is attached later. */
void driver_create(struct driver *g)
{
	struct err e;
	*g = (struct driver){.irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .next_buffer_gpa = DRIVER_BUFFERS_GPA};
	int rc = mem_create(&g->mem, DRIVER_MEMORY_BYTES, &e);
	assert(rc == 0 && g->irq_fd >= 0);
	(void)rc;
}

/* Gives memory back, after the device that was attached. */
void driver_destroy(struct driver *g)
{
	if (g->device)
		g->device->ops->destroy(g->device);
	close(g->irq_fd);
	mem_destroy(&g->mem);
}

/* Plugs a device in: its interrupts come here. The driver destroys it. */
void driver_attach(struct driver *g, struct virtio_device *d)
{
	g->device = d;
	d->irq_fd = g->irq_fd;
}

/* ---- Registers ---- */

uint32_t driver_read(struct driver *g, uint64_t offset)
{
	return mmio_read(g->device, offset, 4);
}

void driver_write(struct driver *g, uint64_t offset, uint32_t value)
{
	mmio_write(g->device, offset, 4, value);
}

/* The features that the device offers. */
uint64_t driver_offered(struct driver *g)
{
	driver_write(g, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
	uint64_t features = driver_read(g, VIRTIO_MMIO_DEVICE_FEATURES);
	driver_write(g, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	return features | (uint64_t)driver_read(g, VIRTIO_MMIO_DEVICE_FEATURES) << 32;
}

/* Resets the device and goes up to FEATURES_OK. Returns whether the device agreed. */
bool driver_negotiate(struct driver *g, uint64_t features)
{
	driver_write(g, VIRTIO_MMIO_STATUS, 0);
	driver_write(g, VIRTIO_MMIO_STATUS, VIRTIO_STATUS_ACKNOWLEDGE);
	driver_write(g, VIRTIO_MMIO_STATUS, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
	driver_write(g, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	driver_write(g, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
	driver_write(g, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	driver_write(g, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
	driver_write(g, VIRTIO_MMIO_STATUS, driver_read(g, VIRTIO_MMIO_STATUS) | VIRTIO_STATUS_FEATURES_OK);
	return driver_read(g, VIRTIO_MMIO_STATUS) & VIRTIO_STATUS_FEATURES_OK;
}

static void write_gpa(struct driver *g, uint64_t low, uint64_t high, uint64_t gpa)
{
	driver_write(g, low, (uint32_t)gpa);
	driver_write(g, high, (uint32_t)(gpa >> 32));
}

/* Chooses where a queue's rings are, cleared, without telling the device. */
void driver_place_queue(struct driver *g, unsigned queue, uint16_t size)
{
	uint64_t base = queue * 0x4000ull;
	g->q[queue] = (struct driver_queue){
	    .size = size, .desc_gpa = base, .avail_gpa = base + 0x2000, .used_gpa = base + 0x3000};
	memset(driver_at(g, base, 0x4000), 0, 0x4000);
}

/* Tells the device where a queue is. Returns whether it agreed. */
bool driver_enable_queue(struct driver *g, unsigned queue)
{
	const struct driver_queue *q = &g->q[queue];
	driver_write(g, VIRTIO_MMIO_QUEUE_SEL, queue);
	driver_write(g, VIRTIO_MMIO_QUEUE_NUM, q->size);
	write_gpa(g, VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_DESC_HIGH, q->desc_gpa);
	write_gpa(g, VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, q->avail_gpa);
	write_gpa(g, VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_QUEUE_USED_HIGH, q->used_gpa);
	driver_write(g, VIRTIO_MMIO_QUEUE_READY, 1);
	return driver_read(g, VIRTIO_MMIO_QUEUE_READY) == 1;
}

void driver_ok(struct driver *g)
{
	driver_write(g, VIRTIO_MMIO_STATUS, driver_read(g, VIRTIO_MMIO_STATUS) | VIRTIO_STATUS_DRIVER_OK);
}

/* Brings the device up: `features` beside VERSION_1, all queues with `size` entries. */
void driver_start(struct driver *g, uint64_t features, uint16_t size)
{
	bool ok = driver_negotiate(g, features | 1ull << VIRTIO_F_VERSION_1);
	for (unsigned i = 0; i < g->device->ops->queue_count; i++) {
		driver_place_queue(g, i, size);
		ok = ok && driver_enable_queue(g, i);
	}
	driver_ok(g);
	assert(ok && driver_read(g, VIRTIO_MMIO_STATUS) & VIRTIO_STATUS_DRIVER_OK);
	(void)ok;
}

/* ---- Rings ---- */

/* Takes a piece of guest memory, cleared, 16-byte aligned; all of it is given back with the driver. */
uint64_t driver_alloc(struct driver *g, uint64_t len_bytes)
{
	uint64_t gpa = g->next_buffer_gpa;
	g->next_buffer_gpa += (len_bytes + 15) & ~15ull;
	memset(driver_at(g, gpa, len_bytes), 0, len_bytes);
	return gpa;
}

/* Guest memory as the driver's CPU sees it. */
void *driver_at(struct driver *g, uint64_t gpa, uint64_t len_bytes)
{
	void *p = mem_at(&g->mem, GPA(gpa), len_bytes);
	assert(p);
	return p;
}

static void put16(struct driver *g, uint64_t gpa, uint16_t value)
{
	__atomic_store_n((uint16_t *)driver_at(g, gpa, 2), value, __ATOMIC_RELEASE);
}

void driver_desc(struct driver *g, unsigned queue, uint16_t index, uint64_t gpa, uint32_t len, uint16_t flags,
		 uint16_t next)
{
	uint8_t *p = driver_at(g, g->q[queue].desc_gpa + 16ull * index, 16);
	memcpy(p, &gpa, 8);
	memcpy(p + 8, &len, 4);
	memcpy(p + 12, &flags, 2);
	memcpy(p + 14, &next, 2);
}

/* Sets the avail index to whatever. */
void driver_set_avail(struct driver *g, unsigned queue, uint16_t index)
{
	g->q[queue].avail_index = index;
	put16(g, g->q[queue].avail_gpa + 2, index);
}

/* Makes the chain that starts at descriptor `head` available. */
void driver_publish(struct driver *g, unsigned queue, uint16_t head)
{
	struct driver_queue *q = &g->q[queue];
	put16(g, q->avail_gpa + 4 + 2ull * (q->avail_index % q->size), head);
	driver_set_avail(g, queue, (uint16_t)(q->avail_index + 1));
}

/* Makes a chain of buffers available, in descriptors after those of the chain before. Returns its head. */
uint16_t driver_add(struct driver *g, unsigned queue, const struct driver_buffer *buffers, unsigned count)
{
	struct driver_queue *q = &g->q[queue];
	uint16_t head = q->next_desc % q->size;
	for (unsigned i = 0; i < count; i++) {
		uint16_t at = q->next_desc % q->size;
		q->next_desc = (uint16_t)((at + 1) % q->size);
		uint16_t flags = (uint16_t)((buffers[i].write ? DESC_WRITE : 0) | (i + 1 < count ? DESC_NEXT : 0));
		driver_desc(g, queue, at, buffers[i].gpa, buffers[i].len_bytes, flags, q->next_desc);
	}
	driver_publish(g, queue, head);
	return head;
}

/* Notifies the device, as KVM's eventfd does. */
void driver_kick(struct driver *g, unsigned queue)
{
	virtio_notify(g->device, queue);
}

/* Takes the next used chain. Returns false when there is none. */
bool driver_take_used(struct driver *g, unsigned queue, uint32_t *head, uint32_t *len)
{
	struct driver_queue *q = &g->q[queue];
	uint16_t index = __atomic_load_n((uint16_t *)driver_at(g, q->used_gpa + 2, 2), __ATOMIC_ACQUIRE);
	if (index == q->used_index)
		return false;
	const uint8_t *p = driver_at(g, q->used_gpa + 4 + 8ull * (q->used_index++ % q->size), 8);
	memcpy(head, p, 4);
	memcpy(len, p + 4, 4);
	return true;
}

/* Asks for an interrupt at the next used chain (EVENT_IDX), as a driver does that goes to sleep. */
void driver_ask_irq(struct driver *g, unsigned queue)
{
	const struct driver_queue *q = &g->q[queue];
	uint16_t used = __atomic_load_n((uint16_t *)driver_at(g, q->used_gpa + 2, 2), __ATOMIC_ACQUIRE);
	put16(g, q->avail_gpa + 4 + 2ull * q->size, used);
}

/* Whether there was an interrupt since this was last asked. */
bool driver_take_irq(struct driver *g)
{
	uint64_t count;
	return read(g->irq_fd, &count, sizeof count) == sizeof count;
}
