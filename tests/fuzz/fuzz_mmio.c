/*
 * The registers under any accesses. Input: 6 bytes each: what (read, write, notify, give back a chain), offset, width,
 * value. Rings that get enabled are popped as a device would.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/virtio_driver.c"

enum { ACCESS_BYTES = 6 };

static void invariants(const struct virtio_device *d)
{
	uint32_t s = d->status;
	assert(!(s & VIRTIO_STATUS_DRIVER_OK) || s & VIRTIO_STATUS_FEATURES_OK);
	assert(!(s & VIRTIO_STATUS_FEATURES_OK) || s & VIRTIO_STATUS_DRIVER);
	assert(!(s & VIRTIO_STATUS_FEATURES_OK) || d->driver_features & 1ull << VIRTIO_F_VERSION_1);
	assert(!(s & VIRTIO_STATUS_FEATURES_OK) || !(d->driver_features & ~d->features));
	for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
		assert(!d->vq[i].ready || (s & VIRTIO_STATUS_FEATURES_OK && d->vq[i].size));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct driver g;
	static struct dummy_device dummy;
	static struct vq_chain chain;
	if (!g.mem.count)
		driver_create(&g);
	dummy_init(&dummy, &g.mem);
	driver_attach(&g, &dummy.device);
	memset(driver_at(&g, 0, 0x10000), 0, 0x10000);
	for (; size >= ACCESS_BYTES; data += ACCESS_BYTES, size -= ACCESS_BYTES) {
		uint64_t offset = data[1] | (uint64_t)(data[0] >> 4) << 8;
		uint32_t value = data[2] | (uint32_t)data[3] << 8 | (uint32_t)data[4] << 16 | (uint32_t)data[5] << 24;
		unsigned len = (data[0] & 4 ? 1u << (data[5] & 1) : 4);
		struct virtqueue *vq = &dummy.device.vq[data[2] % VIRTIO_QUEUES_MAX];
		switch (data[0] & 3) {
		case 0:
			mmio_read(&dummy.device, offset, len);
			break;
		case 3:
			virtio_notify(&dummy.device, data[2]);
			memset(driver_at(&g, value % 0xff00, 4), data[1], 4);
			if (vq_pop(vq, &chain) > 0) {
				vq_push(vq, chain.head, 0);
				virtio_signal(&dummy.device, data[2] % VIRTIO_QUEUES_MAX);
			} else if (vq->broken) {
				virtio_needs_reset(&dummy.device);
			}
			break;
		default:
			mmio_write(&dummy.device, offset, len, value);
			break;
		}
		invariants(&dummy.device);
	}
	pthread_mutex_destroy(&dummy.device.lock);
	return 0;
}
