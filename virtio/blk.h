/* virtio-blk (virtio 1.2, section 5.2). */
#ifndef CAPLOCK_VIRTIO_BLK_H
#define CAPLOCK_VIRTIO_BLK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct mem;
struct virtio_device;

/* Where a disk's bytes are. Raw always: content is never interpreted. */
struct blk_backing {
	int fd;                /* the device owns it */
	uint64_t offset_bytes; /* of the disk inside the file */
	uint64_t len_bytes;    /* of the disk; a trailing part of a sector is not reachable */
	bool readonly;
	char serial[20 + 1];   /* what GET_ID tells; NUL-terminated */
};

int blk_create(const struct mem *mem, const struct blk_backing *backing, struct virtio_device **out, struct err *e);

#endif
