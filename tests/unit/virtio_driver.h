/*
 * A small virtio driver for tests: it does to a device what a guest does, through its registers and real rings in real
 * guest memory. Where a rule is to be broken, the parts are there to break it: descriptors and indexes can be written
 * raw.
 */
#ifndef CAPLOCK_TESTS_VIRTIO_DRIVER_H
#define CAPLOCK_TESTS_VIRTIO_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/device.h"
#include "vmm/machine/mem.h"

enum {
	DRIVER_MEMORY_BYTES = 4 << 20,
	DRIVER_BUFFERS_GPA = 0x10000, /* memory below is for the rings */

	DESC_NEXT = 1,
	DESC_WRITE = 2,
	DESC_INDIRECT = 4,
};

struct driver_queue {
	uint16_t size;
	uint64_t desc_gpa, avail_gpa, used_gpa;
	uint16_t next_desc; /* descriptors are used one after the other; tests know when to start over */
	uint16_t avail_index;
	uint16_t used_index; /* up to which used entries were taken */
};

struct driver {
	struct mem mem;
	struct virtio_device *device;
	int irq_fd;
	uint64_t next_buffer_gpa;
	struct driver_queue q[VIRTIO_QUEUES_MAX];
};

struct driver_buffer {
	uint64_t gpa;
	uint32_t len_bytes;
	bool write; /* by the device */
};

/* A device that does nothing but note what its transport asks of it. */
struct dummy_device {
	struct virtio_device device;
	unsigned starts, notifies, resets;
	unsigned last_queue;
	uint8_t config[8];
};

void driver_create(struct driver *g);
void driver_destroy(struct driver *g);
void driver_attach(struct driver *g, struct virtio_device *d);
void dummy_init(struct dummy_device *dummy, const struct mem *mem);

uint32_t driver_read(struct driver *g, uint64_t offset);
void driver_write(struct driver *g, uint64_t offset, uint32_t value);
uint64_t driver_offered(struct driver *g);
bool driver_negotiate(struct driver *g, uint64_t features);
void driver_place_queue(struct driver *g, unsigned queue, uint16_t size);
bool driver_enable_queue(struct driver *g, unsigned queue);
void driver_ok(struct driver *g);
void driver_start(struct driver *g, uint64_t features, uint16_t size);

uint64_t driver_alloc(struct driver *g, uint64_t len_bytes);
void *driver_at(struct driver *g, uint64_t gpa, uint64_t len_bytes);
void driver_desc(struct driver *g, unsigned queue, uint16_t index, uint64_t gpa, uint32_t len, uint16_t flags,
		 uint16_t next);
void driver_publish(struct driver *g, unsigned queue, uint16_t head);
void driver_set_avail(struct driver *g, unsigned queue, uint16_t index);
uint16_t driver_add(struct driver *g, unsigned queue, const struct driver_buffer *buffers, unsigned count);
void driver_kick(struct driver *g, unsigned queue);
bool driver_take_used(struct driver *g, unsigned queue, uint32_t *head, uint32_t *len);
void driver_ask_irq(struct driver *g, unsigned queue);
bool driver_take_irq(struct driver *g);

#endif
