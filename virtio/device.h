/* What a virtio device is to its transport (virtio-mmio) and to the machine. */
#ifndef CAPLOCK_VIRTIO_DEVICE_H
#define CAPLOCK_VIRTIO_DEVICE_H

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "virtio/virtqueue.h"
#include "vmm/machine/mem.h"

struct virtio_device;

enum {
	VIRTIO_QUEUES_MAX = 4,

	/* Device status (virtio 1.2, section 2.1). */
	VIRTIO_STATUS_ACKNOWLEDGE = 1,
	VIRTIO_STATUS_DRIVER = 2,
	VIRTIO_STATUS_DRIVER_OK = 4,
	VIRTIO_STATUS_FEATURES_OK = 8,
	VIRTIO_STATUS_NEEDS_RESET = 64,
	VIRTIO_STATUS_FAILED = 128,

	/* Interrupt status (section 4.2.2). */
	VIRTIO_ISR_USED = 1,
	VIRTIO_ISR_CONFIG = 2,
};

/* All are called with the device's lock held. */
struct virtio_ops {
	const char *name;
	uint32_t device_id;   /* virtio 1.2, section 5 */
	unsigned queue_count; /* at most VIRTIO_QUEUES_MAX */
	/* Fills `to` with `len_bytes` of device configuration from `offset`; bytes beyond its end are left as 0. */
	void (*config_read)(struct virtio_device *d, uint32_t offset, void *to, uint32_t len_bytes);
	/* The driver is ready: queues are enabled, d->driver_features is final. */
	void (*start)(struct virtio_device *d);
	/* The driver added chains to a queue (or may have). */
	void (*notify)(struct virtio_device *d, unsigned queue);
	/* Forgets all driver state. When it returns, nothing of the device touches guest memory any more. */
	void (*reset)(struct virtio_device *d);
	/* Frees the device. The machine has stopped. */
	void (*destroy)(struct virtio_device *d);
};

/* What guests did wrong, and what it cost; only ever counted up. */
struct virtio_counters {
	atomic_uint_fast64_t ring_errors;   /* broken rings: DEVICE_NEEDS_RESET */
	atomic_uint_fast64_t bad_requests;  /* requests refused or malformed */
	atomic_uint_fast64_t bad_registers; /* register accesses ignored */
	atomic_uint_fast64_t notifications; /* queue notifications handled */
	atomic_uint_fast64_t signals;       /* interrupts raised */
};

/* The part that every device begins with. */
struct virtio_device {
	const struct virtio_ops *ops;
	const struct mem *mem;
	pthread_mutex_t lock;
	uint64_t features; /* offered; VERSION_1, EVENT_IDX and INDIRECT_DESC are added by virtio_init() */
	struct virtqueue vq[VIRTIO_QUEUES_MAX];
	struct virtio_counters count;

	/* Transport state, virtio/mmio.c. */
	uint64_t driver_features;
	uint32_t status;
	uint32_t device_features_sel, driver_features_sel, queue_sel;
	uint32_t config_generation;
	atomic_uint isr; /* outside the lock: an interrupt handler must not wait for a device */
	int irq_fd;      /* eventfd that KVM turns into the interrupt; not owned */
};

void virtio_init(struct virtio_device *d, const struct virtio_ops *ops, const struct mem *mem, uint64_t features);
void virtio_notify(struct virtio_device *d, unsigned queue);
void virtio_signal(struct virtio_device *d, unsigned queue);
void virtio_signal_all(struct virtio_device *d);
void virtio_config_changed(struct virtio_device *d);
void virtio_needs_reset(struct virtio_device *d);

/* virtio-mmio registers (section 4.2.2): pure state, no I/O besides the device's ops. */
uint32_t mmio_read(struct virtio_device *d, uint64_t offset, unsigned len_bytes);
void mmio_write(struct virtio_device *d, uint64_t offset, unsigned len_bytes, uint32_t value);

#endif
