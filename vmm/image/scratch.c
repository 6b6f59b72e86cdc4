/*
 * Scratch disks: an empty ext4 of any size for every run, in well under a millisecond.
 *
 * An empty file system is a few blocks that are not zero, whatever its size. libext2fs makes one once per size; those blocks
 * are kept as a template, and a run writes them into a sparse file without a name. A template is
 *
 *      u64 magic, u64 size of the disk, then for each run of blocks: u64 offset, u64 length, bytes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/image/ext4.h"
#include "vmm/image/image.h"
#include "vmm/image/store.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"

enum {
	BLOCK_BYTES = 4096,
	TEMPLATE_MAX_BYTES = 64 << 20,
	TEMPLATE_VERSION = 2,
};

static const uint64_t template_magic = 0x63617073636c0000ull | TEMPLATE_VERSION;

static bool is_zero(const uint8_t *block)
{
	return block[0] == 0 && memcmp(block, block + 1, BLOCK_BYTES - 1) == 0;
}

/* Adds the blocks of [start, end) that are not zero to the template. */
static int add_extent(int fd, uint64_t start, uint64_t end, struct buf *out)
{
	static const uint64_t none[2];
	uint8_t block[BLOCK_BYTES];
	size_t head = 0; /* where the extent being added has its length */
	int rc = 0;
	for (uint64_t at = start; at < end && rc == 0; at += BLOCK_BYTES) {
		rc = io_pread_all(fd, block, BLOCK_BYTES, (off_t)at);
		if (rc || is_zero(block)) {
			head = 0;
			continue;
		}
		if (head == 0) {
			head = out->len + sizeof(uint64_t);
			rc = buf_add(out, none, sizeof none);
			if (rc)
				break;
			memcpy(out->data + head - sizeof at, &at, sizeof at);
		}
		rc = buf_add(out, block, BLOCK_BYTES);
		if (rc == 0) {
			uint64_t len = out->len - head - sizeof len;
			memcpy(out->data + head, &len, sizeof len);
		}
	}
	return rc;
}

static int make_template(struct store *s, uint64_t size_bytes, struct buf *out, struct err *e)
{
	int fd = store_working_file(s, e);
	int rc = fd < 0 ? fd : ext4_write_scratch(fd, size_bytes, e);
	if (rc == 0) {
		rc = buf_add(out, &template_magic, sizeof template_magic);
		rc = rc ? rc : buf_add(out, &size_bytes, sizeof size_bytes);
		for (off_t end = 0, start; rc == 0 && (start = lseek(fd, end, SEEK_DATA)) >= 0;) {
			end = lseek(fd, start, SEEK_HOLE);
			start &= ~(off_t)(BLOCK_BYTES - 1);
			rc = end < 0 ? -errno : add_extent(fd, (uint64_t)start, (uint64_t)end, out);
		}
	}
	io_close(&fd);
	return rc;
}

/* Keeps a template for the next run. That this fails costs only time. */
static void keep_template(struct store *s, const char *path, const struct buf *template)
{
	char temporary[64];
	snprintf(temporary, sizeof temporary, "%.40s.%d", path, (int)getpid());
	mkdirat(s->dir_fd, "scratch", 0700);
	int fd = openat(s->dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	if (io_write_all(fd, template->data, template->len) || renameat(s->dir_fd, temporary, s->dir_fd, path))
		unlinkat(s->dir_fd, temporary, 0);
	io_close(&fd);
}

/* Writes a template into `fd`. Returns -EINVAL where it is not a whole one for that size. */
static int write_template(int fd, uint64_t size_bytes, const struct buf *template)
{
	uint64_t head[2];
	size_t at = sizeof head;
	if (template->len < sizeof head)
		return -EINVAL;
	memcpy(head, template->data, sizeof head);
	if (head[0] != template_magic || head[1] != size_bytes)
		return -EINVAL;
	if (ftruncate(fd, (off_t)size_bytes))
		return -errno;
	while (at < template->len) {
		uint64_t extent[2];
		if (template->len - at < sizeof extent)
			return -EINVAL;
		memcpy(extent, template->data + at, sizeof extent);
		at += sizeof extent;
		if (extent[1] > template->len - at || extent[0] > size_bytes || extent[1] > size_bytes - extent[0])
			return -EINVAL;
		ssize_t n = pwrite(fd, template->data + at, (size_t)extent[1], (off_t)extent[0]);
		if (n != (ssize_t)extent[1])
			return n < 0 ? -errno : -ENOSPC;
		at += (size_t)n;
	}
	return 0;
}

/*
 * Makes a scratch disk of `size_bytes`: a sparse file without a name that holds an empty ext4 with the directories upper and
 * work. The caller owns *fd. Returns 0, or -errno with the reason in `e`.
 */
int store_scratch(struct store *s, uint64_t size_bytes, int *out, struct err *e)
{
	char path[48];
	struct buf template = {0};
	snprintf(path, sizeof path, "scratch/%llu", (unsigned long long)size_bytes);
	int fd = store_working_file(s, e);
	if (fd < 0)
		return fd;
	bool have = io_read_file(s->dir_fd, path, TEMPLATE_MAX_BYTES, &template) == 0;
	int rc = have ? write_template(fd, size_bytes, &template) : -EINVAL;
	if (rc == -EINVAL) { /* none, or not one of this version */
		template.len = 0;
		rc = ftruncate(fd, 0) ? -errno : make_template(s, size_bytes, &template, e);
		if (rc == 0)
			keep_template(s, path, &template);
		rc = rc ? rc : write_template(fd, size_bytes, &template);
	}
	if (rc)
		err_sys(e, rc, "cannot make a scratch disk of %llu MB", (unsigned long long)(size_bytes >> 20));
	buf_free(&template);
	if (rc)
		io_close(&fd);
	*out = fd;
	return rc;
}
