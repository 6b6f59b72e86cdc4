/*
 * virtio-blk (virtio 1.2, section 5.2).
 *
 * Theory of operation
 * -------------------
 * Purpose: a disk whose bytes are in a file, or in a part of one. Raw always: content is never interpreted.
 *
 * Trust boundary: a request is a chain of the guest: 16 bytes of header to read, data, one byte of status to write. The
 * header is copied once. Data goes between the host's file and guest memory without a copy of ours; that the guest
 * changes it meanwhile is its own affair. Sectors are checked against the size that the disk had when it was created.
 *
 * Threads: notify runs on the machine's disk thread and may wait for the host's disk, with the device's lock held; a
 * reset waits for it. One request is done at a time: the guest's page cache and the host's make more of them pointless
 * here.
 *
 * What is malformed but has a status byte gets an error; a chain without one breaks the queue (DEVICE_NEEDS_RESET).
 */
#include "virtio/blk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "virtio/device.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"

enum {
	SECTOR_SHIFT = 9,
	SECTOR_BYTES = 1 << SECTOR_SHIFT,
	BLOCK_BYTES = 4096,
	QUEUE = 0,
	OPTIMAL_BYTES = 256 << 10,          /* Linux reads ahead twice as much */
	DATA_SEGMENTS_MAX = VQ_IOV_MAX - 2, /* without header and status */
	RANGES_MAX = 16,                    /* of one discard or write-zeroes request */
	RANGE_SECTORS_MAX = 1 << 22,
	REQUEST_BYTES_MAX = 1 << 30, /* of data: the used length has 32 bits, and no request holds the disk for ever */
	ID_BYTES = VIRTIO_BLK_ID_BYTES,
};

struct blk {
	struct virtio_device device; /* first: the ops cast */
	struct blk_backing backing;
	uint64_t sectors;
	struct virtio_blk_config config;
	struct vq_chain chain; /* the request at hand */
};

static struct blk *blk_of(struct virtio_device *d)
{
	return (struct blk *)d;
}

static void config_read(struct virtio_device *d, uint32_t offset, void *to, uint32_t len_bytes)
{
	const struct blk *b = blk_of(d);
	if (offset < sizeof b->config) {
		size_t n = sizeof b->config - offset;
		memcpy(to, (const uint8_t *)&b->config + offset, n < len_bytes ? n : len_bytes);
	}
}

/* Whether `count` sectors from `sector` on are on the disk. */
static bool on_disk(const struct blk *b, uint64_t sector, uint64_t count)
{
	return sector <= b->sectors && count <= b->sectors - sector;
}

/* ---- Data ---- */

/* Whether `bytes` from `sector` on are whole sectors of the disk, and no more than one request may have. */
static bool valid_extent(const struct blk *b, uint64_t sector, uint64_t bytes)
{
	return bytes % SECTOR_BYTES == 0 && bytes <= REQUEST_BYTES_MAX && on_disk(b, sector, bytes >> SECTOR_SHIFT);
}

/* All of iov, which is used up, from or to the file at `offset`, however often the kernel stops in between. */
static int transfer(int fd, struct iovec *iov, unsigned count, uint64_t offset, bool write)
{
	while (count) {
		ssize_t n =
		    write ? pwritev(fd, iov, (int)count, (off_t)offset) : preadv(fd, iov, (int)count, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO; /* the file is shorter than it was */
		offset += (uint64_t)n;
		count = vq_slice(iov, count, (uint64_t)n, UINT64_MAX, iov);
	}
	return 0;
}

static uint8_t do_read(struct blk *b, uint64_t sector, uint32_t *written)
{
	struct iovec data[VQ_IOV_MAX];
	uint64_t bytes = b->chain.in_bytes - 1; /* without the status */
	if (!valid_extent(b, sector, bytes))
		return VIRTIO_BLK_S_IOERR;
	unsigned count = vq_slice(b->chain.iov + b->chain.out_count, b->chain.in_count, 0, bytes, data);
	uint64_t offset = b->backing.offset_bytes + (sector << SECTOR_SHIFT);
	if (transfer(b->backing.fd, data, count, offset, false))
		return VIRTIO_BLK_S_IOERR;
	*written = (uint32_t)bytes;
	return VIRTIO_BLK_S_OK;
}

static uint8_t do_write(struct blk *b, uint64_t sector)
{
	struct iovec data[VQ_IOV_MAX];
	uint64_t bytes = b->chain.out_bytes - sizeof(struct virtio_blk_outhdr);
	if (b->backing.readonly || !valid_extent(b, sector, bytes))
		return VIRTIO_BLK_S_IOERR;
	unsigned count = vq_slice(b->chain.iov, b->chain.out_count, sizeof(struct virtio_blk_outhdr), bytes, data);
	uint64_t offset = b->backing.offset_bytes + (sector << SECTOR_SHIFT);
	return transfer(b->backing.fd, data, count, offset, true) ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
}

static uint8_t do_flush(struct blk *b)
{
	return !b->backing.readonly && fdatasync(b->backing.fd) ? VIRTIO_BLK_S_IOERR
										      : VIRTIO_BLK_S_OK;
}

static uint8_t do_get_id(struct blk *b, uint32_t *written)
{
	char id[ID_BYTES] = {0};
	if (b->chain.in_bytes < ID_BYTES + 1)
		return VIRTIO_BLK_S_IOERR;
	memcpy(id, b->backing.serial, strnlen(b->backing.serial, ID_BYTES));
	*written = (uint32_t)vq_copy_in(&b->chain, 0, id, ID_BYTES);
	return VIRTIO_BLK_S_OK;
}

/* ---- Discard and write zeroes ---- */

/* Zeroes on a file system that cannot make them by itself. */
static int write_zeroes(int fd, uint64_t offset, uint64_t len_bytes)
{
	static const uint8_t zeroes[64 << 10];
	while (len_bytes) {
		size_t n = len_bytes < sizeof zeroes ? (size_t)len_bytes : sizeof zeroes;
		struct iovec iov = {(void *)(uintptr_t)zeroes, n};
		int rc = transfer(fd, &iov, 1, offset, true);
		if (rc)
			return rc;
		offset += n;
		len_bytes -= n;
	}
	return 0;
}

/* fallocate() of a part of the file, whose size stays. Returns 0 or -errno. */
static int allocate(const struct blk *b, int mode, uint64_t offset, uint64_t len_bytes)
{
	return fallocate(b->backing.fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len_bytes) ? -errno : 0;
}

/* One range of a discard or write-zeroes request. A hole reads as zeroes, so that it serves both. */
static int clear_range(const struct blk *b, uint32_t type, const struct virtio_blk_discard_write_zeroes *r)
{
	uint64_t offset = b->backing.offset_bytes + (r->sector << SECTOR_SHIFT);
	uint64_t len_bytes = (uint64_t)r->num_sectors << SECTOR_SHIFT;
	int rc = -EOPNOTSUPP;
	if (len_bytes == 0)
		return 0;
	if (type == VIRTIO_BLK_T_WRITE_ZEROES && !(r->flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP))
		rc = allocate(b, FALLOC_FL_ZERO_RANGE, offset, len_bytes);
	if (rc == -EOPNOTSUPP)
		rc = allocate(b, FALLOC_FL_PUNCH_HOLE, offset, len_bytes);
	if (rc != -EOPNOTSUPP)
		return rc;
	return type == VIRTIO_BLK_T_DISCARD ? 0 /* a hint */ : write_zeroes(b->backing.fd, offset, len_bytes);
}

/* All ranges are checked before the first is cleared. */
static uint8_t do_clear(struct blk *b, uint32_t type)
{
	struct virtio_blk_discard_write_zeroes range[RANGES_MAX];
	uint64_t bytes = b->chain.out_bytes - sizeof(struct virtio_blk_outhdr);
	uint64_t count = bytes / sizeof range[0];
	uint32_t allowed = type == VIRTIO_BLK_T_WRITE_ZEROES ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
	if (b->backing.readonly || bytes % sizeof range[0] || count == 0 || count > RANGES_MAX)
		return VIRTIO_BLK_S_IOERR;
	vq_copy_out(&b->chain, sizeof(struct virtio_blk_outhdr), range, (size_t)bytes);
	for (unsigned i = 0; i < count; i++) {
		if (range[i].flags & ~allowed)
			return VIRTIO_BLK_S_UNSUPP;
		if (range[i].num_sectors > RANGE_SECTORS_MAX || !on_disk(b, range[i].sector, range[i].num_sectors))
			return VIRTIO_BLK_S_IOERR;
	}
	for (unsigned i = 0; i < count; i++)
		if (clear_range(b, type, &range[i]))
			return VIRTIO_BLK_S_IOERR;
	return VIRTIO_BLK_S_OK;
}

/* ---- Requests ---- */

/* Does the request at hand. Returns its status; *written: the bytes of data that the guest gets. */
static uint8_t do_request(struct blk *b, uint32_t *written)
{
	struct virtio_blk_outhdr header;
	if (vq_copy_out(&b->chain, 0, &header, sizeof header) != sizeof header)
		return VIRTIO_BLK_S_IOERR;
	switch (header.type) {
	case VIRTIO_BLK_T_IN:
		return do_read(b, header.sector, written);
	case VIRTIO_BLK_T_OUT:
		return do_write(b, header.sector);
	case VIRTIO_BLK_T_FLUSH:
		return do_flush(b);
	case VIRTIO_BLK_T_GET_ID:
		return do_get_id(b, written);
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return do_clear(b, header.type);
	default:
		return VIRTIO_BLK_S_UNSUPP;
	}
}

/* Handles the chain at hand. Returns whether the queue is still within the rules. */
static bool handle(struct blk *b)
{
	struct virtqueue *vq = &b->device.vq[QUEUE];
	uint64_t in_bytes = b->chain.in_bytes;
	if (in_bytes == 0)
		return false; /* nowhere to put a status */
	const struct iovec *last = &b->chain.iov[b->chain.out_count + b->chain.in_count - 1];
	uint8_t *status_at = (uint8_t *)last->iov_base + last->iov_len - 1;
	uint32_t written = 0;
	uint8_t status = do_request(b, &written);
	if (status != VIRTIO_BLK_S_OK)
		atomic_fetch_add(&b->device.count.bad_requests, 1);
	*status_at = status;
	/* Used length counts from the front of the buffers, so the status only where everything before it was written.
	 */
	vq_push(vq, b->chain.head, written + 1 == in_bytes ? written + 1 : written);
	return true;
}

static void notify(struct virtio_device *d, unsigned queue)
{
	struct blk *b = blk_of(d);
	struct virtqueue *vq = &d->vq[queue];
	int rc;
	do {
		vq_no_notify(vq);
		while ((rc = vq_pop(vq, &b->chain)) > 0) {
			if (!handle(b)) {
				vq->broken = true;
				break;
			}
			virtio_signal(d, queue);
		}
	} while (vq_want_notify(vq));
	if (vq->broken)
		virtio_needs_reset(d);
}

/* Nothing to do: this is a vCPU's thread, which does no disk I/O. The disk thread hears of chains by notifications. */
static void start(struct virtio_device *d)
{
	(void)d;
}

/* Nothing of the driver is kept between requests. */
static void reset(struct virtio_device *d)
{
	(void)d;
}

static void destroy(struct virtio_device *d)
{
	struct blk *b = blk_of(d);
	io_close(&b->backing.fd);
	free(b);
}

static const struct virtio_ops ops = {
    .name = "virtio-blk",
    .device_id = 2,
    .queue_count = 1,
    .config_read = config_read,
    .start = start,
    .notify = notify,
    .reset = reset,
    .destroy = destroy,
};

/*
 * Makes a disk. Its descriptor is the device's, also on failure. Returns 0 with *out, which ops->destroy ends, -EINVAL
 * where the backing makes no sense, or -ENOMEM.
 */
int blk_create(const struct mem *mem, const struct blk_backing *backing, struct virtio_device **out, struct err *e)
{
	struct blk *b = calloc(1, sizeof *b);
	int fd = backing->fd;
	uint64_t end;
	if (!b || fd < 0 || __builtin_add_overflow(backing->offset_bytes, backing->len_bytes, &end) || end > INT64_MAX) {
		int rc = b ? err_set(e, -EINVAL, "a disk needs a file that reaches so far")
			   : err_sys(e, -ENOMEM, "disk");
		free(b);
		io_close(&fd);
		return rc;
	}
	uint64_t features = 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_TOPOLOGY |
			    1ull << VIRTIO_BLK_F_FLUSH;
	if (backing->readonly)
		features |= 1ull << VIRTIO_BLK_F_RO;
	else
		features |= 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
	virtio_init(&b->device, &ops, mem, features);
	b->backing = *backing;
	b->sectors = backing->len_bytes >> SECTOR_SHIFT;
	b->config = (struct virtio_blk_config){
	    .capacity = b->sectors,
	    .seg_max = DATA_SEGMENTS_MAX,
	    .blk_size = SECTOR_BYTES,
	    .opt_io_size = OPTIMAL_BYTES / SECTOR_BYTES,
	    .max_discard_sectors = RANGE_SECTORS_MAX,
	    .max_discard_seg = RANGES_MAX,
	    .discard_sector_alignment = BLOCK_BYTES >> SECTOR_SHIFT,
	    .max_write_zeroes_sectors = RANGE_SECTORS_MAX,
	    .max_write_zeroes_seg = RANGES_MAX,
	    .write_zeroes_may_unmap = 1,
	};
	*out = &b->device;
	return 0;
}
