/*
 * A disk under any requests. Input: backing, features, then requests: header, shapes of the buffers, data. Whatever the
 * guest says, bytes of the file outside the disk stay what they are, and a read-only one altogether.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/virtio_driver.c"
#include "virtio/blk.h"

enum {
	OFFSET = 1024, /* of the disk in its file */
	DISK_BYTES = 16 << 10,
	FILE_BYTES = OFFSET + DISK_BYTES + 1024,
	DATA_GPA = DRIVER_BUFFERS_GPA,
	HEADER_BYTES = 16,
	REQUESTS_MAX = 64,
	BUFFERS_MAX = 6,
};

static int file_fd = -1;
static uint8_t bytes[FILE_BYTES], now[FILE_BYTES];

static bool same(size_t from, size_t len)
{
	return memcmp(bytes + from, now + from, len) == 0;
}

static void check_file(bool readonly)
{
	assert(pread(file_fd, now, FILE_BYTES, 0) == FILE_BYTES);
	assert(same(0, OFFSET) && same(OFFSET + DISK_BYTES, FILE_BYTES - OFFSET - DISK_BYTES));
	assert(!readonly || same(0, FILE_BYTES));
}

static const uint8_t *take(const uint8_t **data, size_t *size, size_t n)
{
	static const uint8_t nothing[64];
	if (*size < n) {
		*size = 0;
		return nothing;
	}
	const uint8_t *p = *data;
	*data += n;
	*size -= n;
	return p;
}

/* One chain: the first buffer begins with the header; 3 bytes for each buffer: where, how long, which way and flags. */
static void request(struct driver *g, const uint8_t **data, size_t *size)
{
	struct driver_buffer buffers[BUFFERS_MAX];
	const uint8_t *shape = take(data, size, 1);
	unsigned count = 1 + *shape % BUFFERS_MAX;
	memcpy(driver_at(g, DATA_GPA, HEADER_BYTES), take(data, size, HEADER_BYTES), HEADER_BYTES);
	bool write = false;
	for (unsigned i = 0; i < count; i++) {
		const uint8_t *b = take(data, size, 3);
		uint32_t len = b[2] & 0x40 ? (b[1] + 1u) * 512 : b[2] & 0x20 ? 16u * b[1] + 16 : b[1] + 1u;
		write = (b[2] & 0x80) || write;
		buffers[i] = (struct driver_buffer){DATA_GPA + (i ? 64 + 16ull * b[0] : 0), len, write};
	}
	if (*shape & 0x80) /* raw: the shape is what it is */
		buffers[count - 1].gpa += 1ull << (*shape >> 2 & 31);
	driver_add(g, 0, buffers, count);
	if (*shape & 0x40)
		memcpy(driver_at(g, DATA_GPA + 64, 48), take(data, size, 48), 48);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct driver g;
	struct virtio_device *d;
	struct err e;
	uint32_t head, len;
	if (size < 2)
		return 0;
	if (file_fd < 0) {
		file_fd = memfd_create("disk", MFD_CLOEXEC);
		for (size_t i = 0; i < sizeof bytes; i++)
			bytes[i] = (uint8_t)(i * 31 + 1);
	}
	assert(pwrite(file_fd, bytes, sizeof bytes, 0) == sizeof bytes);
	struct blk_backing backing = {.fd = dup(file_fd),
				      .offset_bytes = OFFSET,
				      .len_bytes = DISK_BYTES,
				      .readonly = data[0] & 1,
				      .serial = "fuzz"};
	driver_create(&g);
	assert(blk_create(&g.mem, &backing, &d, &e) == 0);
	driver_attach(&g, d);
	const uint64_t features = data[1] & 1 ? 1ull << VIRTIO_RING_F_EVENT_IDX : 0;
	driver_start(&g, features, 16);
	data += 2;
	size -= 2;
	for (unsigned i = 0; size && i < REQUESTS_MAX; i++) {
		request(&g, &data, &size);
		if (i % 3 != 2)
			driver_kick(&g, 0);
		while (driver_take_used(&g, 0, &head, &len))
			;
		if (d->status & VIRTIO_STATUS_NEEDS_RESET)
			driver_start(&g, features, 16);
		assert(!(d->status & VIRTIO_STATUS_DRIVER_OK) || d->vq[0].broken || d->vq[0].in_flight == 0);
	}
	check_file(backing.readonly);
	driver_destroy(&g);
	return 0;
}
