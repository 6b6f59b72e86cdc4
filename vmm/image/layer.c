/*
 * Layers (OCI image specification, layer.md): tars, packed with gzip or zstd or not at all.
 *
 * Two readers are chained: the first unpacks the blob, the second reads the tar in it; digests are computed on the way
 * through each. Nothing of an entry is ever used as a path of the host.
 */
#include "vmm/image/layer.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/image/container.h"
#include "vmm/image/tree.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"

enum {
	READ_BYTES = 256 << 10,
	TAR_BLOCK_BYTES = 512,
	XATTR_MAX_BYTES = 4000, /* what fits beside an inode */
	XATTR_NAME_MAX_BYTES = 255,
};

struct reader {
	const struct container_file *blob;
	uint64_t at; /* in the blob */
	uint8_t *chunk;
	struct sha256_ctx packed, unpacked;
	uint64_t unpacked_bytes, unpacked_max_bytes;
	bool padded; /* the last block was filled up */
	struct archive *unpack, *tar;
	struct tree *tree;
	unsigned layer;
	struct spool *spool;
	struct err *e;
};

/* ---- The two readers ---- */

static la_ssize_t read_blob(struct archive *a, void *context, const void **out)
{
	struct reader *r = context;
	uint64_t left = r->blob->len_bytes - r->at;
	size_t n = left < READ_BYTES ? (size_t)left : READ_BYTES;
	if (n && io_pread_all(r->blob->fd, r->chunk, n, (off_t)(r->blob->offset + r->at))) {
		archive_set_error(a, EIO, "it cannot be read");
		return -1;
	}
	sha256_update(&r->packed, n, r->chunk);
	r->at += n;
	*out = r->chunk;
	return (la_ssize_t)n;
}

static la_ssize_t read_unpacked(struct archive *a, void *context, const void **out)
{
	struct reader *r = context;
	size_t n = 0;
	la_int64_t offset;
	int rc = archive_read_data_block(r->unpack, out, &n, &offset);
	if (rc == ARCHIVE_EOF) {
		/* umoci does not fill up a tar's last block. Go's reader takes that, libarchive would not. */
		static const uint8_t zeroes[TAR_BLOCK_BYTES];
		n = r->padded ? 0 : (TAR_BLOCK_BYTES - r->unpacked_bytes % TAR_BLOCK_BYTES) % TAR_BLOCK_BYTES;
		r->padded = true;
		*out = zeroes;
		return (la_ssize_t)n;
	}
	if (rc != ARCHIVE_OK) {
		archive_set_error(a, EINVAL, "%s", archive_error_string(r->unpack));
		return -1;
	}
	r->unpacked_bytes += n;
	if (r->unpacked_bytes > r->unpacked_max_bytes) {
		archive_set_error(a, EFBIG, "it unpacks to more than %llu MB",
				  (unsigned long long)(r->unpacked_max_bytes >> 20));
		return -1;
	}
	sha256_update(&r->unpacked, n, *out);
	return (la_ssize_t)n;
}

static int damaged(struct reader *r, struct archive *a)
{
	return err_set(r->e, -EINVAL, "layer %u is damaged: %s", r->layer,
		       archive_error_string(a) ? archive_error_string(a) : "no tar");
}

static int open_readers(struct reader *r)
{
	struct archive_entry *entry;
	r->unpack = archive_read_new();
	r->tar = archive_read_new();
	r->chunk = malloc(READ_BYTES);
	if (!r->unpack || !r->tar || !r->chunk)
		return err_sys(r->e, -ENOMEM, "layer");
	archive_read_support_filter_gzip(r->unpack);
	archive_read_support_filter_zstd(r->unpack);
	archive_read_support_format_raw(r->unpack);
	archive_read_support_format_empty(r->unpack);
	if (archive_read_open(r->unpack, r, NULL, read_blob, NULL) != ARCHIVE_OK)
		return damaged(r, r->unpack);
	int rc = archive_read_next_header(r->unpack, &entry);
	if (rc != ARCHIVE_OK && rc != ARCHIVE_EOF)
		return damaged(r, r->unpack);
	archive_read_support_format_tar(r->tar);
	archive_read_support_format_empty(r->tar);
	return archive_read_open(r->tar, r, NULL, read_unpacked, NULL) == ARCHIVE_OK ? 0 : damaged(r, r->tar);
}

/* What is behind the tar's end is part of the digests. */
static int drain(struct reader *r)
{
	const void *block;
	la_ssize_t n;
	while ((n = read_unpacked(r->tar, r, &block)) > 0)
		;
	if (n < 0)
		return damaged(r, r->tar);
	while (read_blob(r->tar, r, &block) > 0)
		;
	return 0;
}

/* ---- Entries ---- */

/*
 * The extended attributes that a file may have. POSIX ACLs (system.*) are left out: the guest's kernel has none, and
 * ext4 keeps them in a form of its own.
 */
static bool is_xattr_name(const char *name)
{
	static const char *const prefixes[] = {"user.", "trusted.", "security."};
	for (unsigned i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
		size_t n = strlen(prefixes[i]);
		if (strncmp(name, prefixes[i], n) == 0)
			return name[n] && strlen(name) <= XATTR_NAME_MAX_BYTES;
	}
	return false;
}

static int read_content(struct reader *r, struct tree_inode *inode)
{
	const void *block;
	size_t n;
	la_int64_t offset;
	int rc;
	inode->data_offset = r->spool->bytes;
	while ((rc = archive_read_data_block(r->tar, &block, &n, &offset)) == ARCHIVE_OK) {
		uint64_t end;
		if (offset < 0 || __builtin_add_overflow((uint64_t)offset, n, &end) ||
		    end > r->spool->max_bytes - inode->data_offset)
			return err_set(r->e, -EFBIG, "the image holds more than %llu GB",
				       (unsigned long long)(r->spool->max_bytes >> 30));
		errno = 0;
		if (pwrite(r->spool->fd, block, n, (off_t)(inode->data_offset + (uint64_t)offset)) != (ssize_t)n)
			return err_sys(r->e, errno ? -errno : -ENOSPC, "cannot unpack layer %u", r->layer);
		if (end > inode->data_bytes)
			inode->data_bytes = end;
	}
	return rc == ARCHIVE_EOF ? 0 : damaged(r, r->tar);
}

static int read_data(struct reader *r, struct archive_entry *entry, struct tree_inode *inode)
{
	int rc = read_content(r, inode);
	uint64_t size = archive_entry_size_is_set(entry) ? (uint64_t)archive_entry_size(entry) : 0;
	if (rc == 0 && size > inode->data_bytes) { /* a sparse file that ends with a hole */
		if (size > r->spool->max_bytes - inode->data_offset)
			return err_set(r->e, -EFBIG, "the image holds more than %llu GB",
				       (unsigned long long)(r->spool->max_bytes >> 30));
		inode->data_bytes = size;
		if (ftruncate(r->spool->fd, (off_t)(inode->data_offset + size)))
			return err_sys(r->e, -errno, "cannot unpack layer %u", r->layer);
	}
	r->spool->bytes += inode->data_bytes;
	return rc;
}

static int read_xattrs(struct reader *r, struct archive_entry *entry, struct tree_inode *inode)
{
	const char *name;
	const void *value;
	size_t n, total = 0;
	archive_entry_xattr_reset(entry);
	while (archive_entry_xattr_next(entry, &name, &value, &n) == ARCHIVE_OK) {
		if (!name || !is_xattr_name(name))
			continue;
		total += strlen(name) + n;
		if (total > XATTR_MAX_BYTES)
			return err_set(r->e, -E2BIG, "layer %u: a file's extended attributes are larger than %d bytes",
				       r->layer, XATTR_MAX_BYTES);
		if (tree_inode_add_xattr(inode, name, value, n))
			return err_sys(r->e, -ENOMEM, "layer");
	}
	return 0;
}

static int fill_inode(struct reader *r, struct archive_entry *entry, struct tree_inode *i)
{
	i->uid = (uint32_t)archive_entry_uid(entry);
	i->gid = (uint32_t)archive_entry_gid(entry);
	i->mtime_s = archive_entry_mtime(entry);
	i->mtime_ns = (uint32_t)archive_entry_mtime_nsec(entry) % 1000000000u;
	if (S_ISCHR(i->mode) || S_ISBLK(i->mode)) {
		i->rdev_major = (uint32_t)archive_entry_rdevmajor(entry) & 0xfff; /* what the kernel's dev_t holds */
		i->rdev_minor = (uint32_t)archive_entry_rdevminor(entry) & 0xfffff;
	}
	if (S_ISLNK(i->mode)) {
		const char *target = archive_entry_symlink(entry);
		if (!target || !target[0] || strlen(target) >= TREE_PATH_MAX_BYTES)
			return err_set(r->e, -EINVAL,
				       "layer %u: a symbolic link has no target, or one that is too long", r->layer);
		i->target = strdup(target);
		if (!i->target)
			return err_sys(r->e, -ENOMEM, "layer");
	}
	int rc = read_xattrs(r, entry, i);
	return rc == 0 && S_ISREG(i->mode) ? read_data(r, entry, i) : rc;
}

static int put_file(struct reader *r, struct archive_entry *entry, const char *path)
{
	mode_t type = archive_entry_filetype(entry);
	if (type != AE_IFREG && type != AE_IFDIR && type != AE_IFLNK && type != AE_IFCHR && type != AE_IFBLK &&
	    type != AE_IFIFO)
		return err_set(r->e, -EINVAL, "layer %u: an entry is of a type that no file has", r->layer);
	struct tree_inode *inode = tree_inode_create(type | (archive_entry_perm(entry) & 07777));
	if (!inode)
		return err_sys(r->e, -ENOMEM, "layer");
	int rc = fill_inode(r, entry, inode);
	if (rc) {
		tree_inode_release(inode);
		return rc;
	}
	return tree_put(r->tree, r->layer, path, inode, r->e);
}

/* Handles names that begin with .wh. Returns 1 where `path` is none, 0 where it was handled, or -errno. */
static int whiteout(struct reader *r, const char *path)
{
	const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
	size_t dir_len = (size_t)(base - path);
	char target[TREE_PATH_MAX_BYTES + 1];
	if (strncmp(base, ".wh.", 4) != 0)
		return 1;
	if (strlen(path) > TREE_PATH_MAX_BYTES)
		return err_set(r->e, -ENAMETOOLONG, "layer %u: a path is longer than %d bytes", r->layer,
			       TREE_PATH_MAX_BYTES);
	memcpy(target, path, dir_len);
	if (strcmp(base, ".wh..wh..opq") == 0) {
		target[dir_len] = 0;
		return tree_opaque(r->tree, r->layer, target, r->e);
	}
	if (strncmp(base + 4, ".wh.", 4) == 0)
		return 0; /* aufs's own files */
	if (!base[4] || strcmp(base + 4, ".") == 0 || strcmp(base + 4, "..") == 0)
		return err_set(r->e, -EINVAL, "layer %u: the whiteout '%s' names nothing", r->layer, base);
	strcpy(target + dir_len, base + 4);
	return tree_whiteout(r->tree, r->layer, target, r->e);
}

static int apply_entry(struct reader *r, struct archive_entry *entry)
{
	const char *path = archive_entry_pathname(entry);
	if (!path || !path[0])
		return err_set(r->e, -EINVAL, "layer %u: an entry has no name", r->layer);
	int rc = whiteout(r, path);
	if (rc <= 0)
		return rc;
	if (archive_entry_hardlink(entry))
		return tree_link(r->tree, r->layer, path, archive_entry_hardlink(entry), r->e);
	return put_file(r, entry, path);
}

/* What a layer may unpack to: a thousandfold is a bomb, not a layer. */
static uint64_t unpacked_max(uint64_t packed_bytes, uint64_t image_max_bytes)
{
	uint64_t max;
	bool over = __builtin_mul_overflow(packed_bytes, CONTAINER_RATIO_MAX, &max) ||
		    __builtin_add_overflow(max, CONTAINER_FREE_BYTES, &max);
	return over || max > image_max_bytes ? image_max_bytes : max;
}

/*
 * Applies layer `number` (from 1), the tar in `blob`, to the tree; contents are added to the spool. *digests are those
 * of the blob. Returns 0, or -errno with the reason in `e`.
 */
int layer_apply(struct tree *t, unsigned number, const struct container_file *blob, struct spool *spool,
		struct layer_digests *digests, struct err *e)
{
	struct reader r = {.blob = blob, .tree = t, .layer = number, .spool = spool, .e = e};
	struct archive_entry *entry;
	r.unpacked_max_bytes = unpacked_max(blob->len_bytes, spool->max_bytes);
	sha256_init(&r.packed);
	sha256_init(&r.unpacked);
	int rc = open_readers(&r), read = ARCHIVE_OK;
	while (rc == 0 && container_has_header(read = archive_read_next_header(r.tar, &entry)))
		rc = apply_entry(&r, entry);
	if (rc == 0 && read != ARCHIVE_EOF)
		rc = damaged(&r, r.tar);
	rc = rc ? rc : drain(&r);
	digest_text(&r.packed, digests->packed);
	digest_text(&r.unpacked, digests->unpacked);
	if (r.tar)
		archive_read_free(r.tar);
	if (r.unpack)
		archive_read_free(r.unpack);
	free(r.chunk);
	return rc;
}
