/*
 * ext4, written in this process by libext2fs, without root and without mounting.
 *
 * Root images: no journal (they are read-only), no free space to speak of, and nothing in them that depends on when or
 * where they are made: the same tree gives the same bytes. Scratch disks: no journal (they are gone after a crash
 * anyway), and block groups marked uninitialised, so that an empty one of any size is a few blocks of data.
 */
#include "vmm/image/ext4.h"

#include <errno.h>
#include <ext2fs/ext2fs.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/image/tree.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"

enum {
	BLOCK_BYTES = 4096,
	BLOCK_LOG = 2, /* 1024 << 2 */
	INODE_BYTES = 256,
	SCRATCH_BYTES_PER_INODE = 16384,
	SLACK_BLOCKS = 64,
	COPY_BYTES = 1 << 20,
	FAST_SYMLINK_BYTES = 60, /* in the inode */
	LINKS_MAX = 65000,
};
#define MTIME_MAX_S 0x37fffffffll

struct writer {
	ext2_filsys fs;
	int spool_fd;
	uint8_t *copy; /* COPY_BYTES */
	struct err *e;
};

static int fail(struct err *e, errcode_t code, const char *what)
{
	return err_set(e, code == ENOSPC || code == EXT2_ET_BLOCK_ALLOC_FAIL ? -ENOSPC : -EIO,
		       "cannot write the file system, %s: %s", what, error_message(code));
}

/* A new file system in `fd`, an empty file which becomes as large: `blocks`, at least `inodes`, and no contents. */
static int create(int fd, uint64_t blocks, uint32_t inodes, bool lazy, const uint8_t uuid[16], ext2_filsys *fs,
		  struct err *e)
{
	struct ext2_super_block param = {
	    .s_rev_level = EXT2_DYNAMIC_REV,
	    .s_log_block_size = BLOCK_LOG,
	    .s_log_cluster_size = BLOCK_LOG,
	    .s_inode_size = INODE_BYTES,
	    .s_inodes_count = inodes,
	    .s_log_groups_per_flex = 4,
	    .s_feature_compat = EXT2_FEATURE_COMPAT_EXT_ATTR,
	    .s_feature_incompat =
		EXT2_FEATURE_INCOMPAT_FILETYPE | EXT3_FEATURE_INCOMPAT_EXTENTS | EXT4_FEATURE_INCOMPAT_FLEX_BG,
	    .s_feature_ro_compat = EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE |
				   EXT4_FEATURE_RO_COMPAT_HUGE_FILE | EXT4_FEATURE_RO_COMPAT_DIR_NLINK |
				   EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE | (lazy ? EXT4_FEATURE_RO_COMPAT_GDT_CSUM : 0),
	};
	char name[16];
	if (ftruncate(fd, (off_t)(blocks * BLOCK_BYTES)))
		return err_sys(e, -errno, "cannot make a file system of %llu MB",
			       (unsigned long long)(blocks * BLOCK_BYTES >> 20));
	ext2fs_blocks_count_set(&param, blocks);
	int own_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3); /* libext2fs closes it */
	if (own_fd < 0)
		return err_sys(e, -errno, "cannot make a file system");
	snprintf(name, sizeof name, "%d", own_fd);
	initialize_ext2_error_table();
	errcode_t rc = ext2fs_initialize(name, EXT2_FLAG_64BITS, &param, unixfd_io_manager, fs);
	if (rc) {
		close(own_fd);
		return fail(e, rc, "layout");
	}
	memcpy((*fs)->super->s_uuid, uuid, 16);
	memcpy((*fs)->super->s_hash_seed, uuid, 16);
	(*fs)->super->s_def_hash_version = EXT2_HASH_HALF_MD4;
	(*fs)->super->s_mkfs_time = (*fs)->super->s_lastcheck = (*fs)->super->s_wtime = 1;
	(*fs)->super->s_min_extra_isize = (*fs)->super->s_want_extra_isize =
	    sizeof(struct ext2_inode_large) - EXT2_GOOD_OLD_INODE_SIZE;
	(*fs)->super->s_max_mnt_count = -1;
	(*fs)->now = 1;
	rc = ext2fs_allocate_tables(*fs);
	/* Where it is 0, Linux counts, and writes the sum to every copy of the superblock when it mounts. */
	(*fs)->super->s_overhead_clusters = (uint32_t)(blocks - ext2fs_free_blocks_count((*fs)->super));
	if (rc)
		return fail(e, rc, "tables");
	for (ext2_ino_t i = 1; i < EXT2_FIRST_INODE((*fs)->super); i++)
		if (i != EXT2_ROOT_INO)
			ext2fs_inode_alloc_stats2(*fs, i, 1, 0);
	return 0;
}

/* ---- Files ---- */

static errcode_t write_inode(struct writer *w, ext2_ino_t number, const struct ext2_inode_large *inode)
{
	return ext2fs_write_inode_full(w->fs, number, (struct ext2_inode *)(uintptr_t)inode, sizeof *inode);
}

/* Copies metadata of `from` into the inode, which keeps its type's own fields. */
static void set_metadata(struct ext2_inode_large *to, const struct tree_inode *from)
{
	/* The low 32 bits count as signed, and the extra field has what is to be added: until the year 2446. */
	int64_t s = from->mtime_s < INT32_MIN ? INT32_MIN : from->mtime_s > MTIME_MAX_S ? MTIME_MAX_S : from->mtime_s;
	uint32_t extra = from->mtime_ns << 2 | (uint32_t)((s - (int32_t)s) >> 32);
	to->i_mode = (uint16_t)from->mode;
	to->i_uid = (uint16_t)from->uid;
	to->osd2.linux2.l_i_uid_high = (uint16_t)(from->uid >> 16);
	to->i_gid = (uint16_t)from->gid;
	to->osd2.linux2.l_i_gid_high = (uint16_t)(from->gid >> 16);
	to->i_atime = to->i_ctime = to->i_mtime = to->i_crtime = (uint32_t)s;
	to->i_atime_extra = to->i_ctime_extra = to->i_mtime_extra = to->i_crtime_extra = extra;
	to->i_extra_isize = sizeof *to - EXT2_GOOD_OLD_INODE_SIZE;
}

static int write_xattrs(struct writer *w, ext2_ino_t number, const struct tree_inode *from)
{
	struct ext2_xattr_handle *h;
	if (from->xattrs == 0)
		return 0;
	errcode_t rc = ext2fs_xattrs_open(w->fs, number, &h);
	if (rc)
		return fail(w->e, rc, "attributes");
	for (unsigned i = 0; i < from->xattrs && rc == 0; i++)
		rc = ext2fs_xattr_set(h, from->xattr[i].name, from->xattr[i].value, from->xattr[i].len_bytes);
	errcode_t closed = ext2fs_xattrs_close(&h);
	rc = rc ? rc : closed;
	if (rc == EXT2_ET_EA_NO_SPACE)
		return err_set(w->e, -E2BIG, "a file's extended attributes take more than a block");
	return rc ? fail(w->e, rc, "attributes") : 0;
}

static bool all_zero(const uint8_t *p, size_t n)
{
	return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

/* Writes one chunk of a file at its offset; blocks of zeroes stay holes. */
static errcode_t write_chunk(struct writer *w, ext2_file_t file, uint64_t offset, size_t bytes)
{
	for (size_t at = 0; at < bytes;) {
		size_t n = 0;
		while (at + n < bytes &&
		       !all_zero(w->copy + at + n, bytes - at - n < BLOCK_BYTES ? bytes - at - n : BLOCK_BYTES))
			n += BLOCK_BYTES;
		if (at + n > bytes)
			n = bytes - at;
		unsigned written = 0;
		errcode_t rc = n ? ext2fs_file_llseek(file, offset + at, EXT2_SEEK_SET, NULL) : 0;
		rc = rc || n == 0 ? rc : ext2fs_file_write(file, w->copy + at, (unsigned)n, &written);
		if (rc)
			return rc;
		at += n ? n : BLOCK_BYTES;
	}
	return 0;
}

static int write_data(struct writer *w, ext2_ino_t number, const struct tree_inode *from)
{
	ext2_file_t file;
	errcode_t rc = ext2fs_file_open(w->fs, number, EXT2_FILE_WRITE, &file);
	for (uint64_t at = 0; rc == 0 && at < from->data_bytes;) {
		uint64_t left = from->data_bytes - at;
		size_t n = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
		if (io_pread_all(w->spool_fd, w->copy, n, (off_t)(from->data_offset + at))) {
			rc = EIO;
			break;
		}
		rc = write_chunk(w, file, at, n);
		at += n;
	}
	rc = rc ? rc : ext2fs_file_set_size2(file, from->data_bytes);
	errcode_t closed = ext2fs_file_close(file);
	rc = rc ? rc : closed;
	return rc ? fail(w->e, rc, "a file's data") : 0;
}

/* How device numbers are kept (include/linux/kdev_t.h): small ones in the old form. */
static void set_device(struct ext2_inode_large *to, const struct tree_inode *from)
{
	uint32_t major = from->rdev_major, minor = from->rdev_minor;
	if (major < 256 && minor < 256)
		to->i_block[0] = major << 8 | minor;
	else
		to->i_block[1] = (minor & 0xff) | major << 8 | (minor & ~0xffu) << 12;
}

/* Gives a regular file's inode the root of an extent tree. */
static errcode_t make_extent_tree(struct writer *w, ext2_ino_t number, struct ext2_inode_large *inode)
{
	ext2_extent_handle_t h;
	errcode_t rc = ext2fs_extent_open2(w->fs, number, (struct ext2_inode *)inode, &h);
	if (rc == 0)
		ext2fs_extent_free(h);
	return rc;
}

/*
 * A new inode, `from->number`, of `links` names, with all but its contents. Group descriptors count directories.
 */
static int make_inode(struct writer *w, ext2_ino_t near, struct tree_inode *from, uint32_t links)
{
	struct ext2_inode_large inode = {0};
	ext2_ino_t number = from->number;
	errcode_t rc = number ? 0 : ext2fs_new_inode(w->fs, near, from->mode, NULL, &number);
	if (rc)
		return fail(w->e, rc, "inode");
	set_metadata(&inode, from);
	inode.i_links_count = links > LINKS_MAX ? 1 : (uint16_t)links; /* 1: too many to count (dir_nlink) */
	if (S_ISCHR(from->mode) || S_ISBLK(from->mode))
		set_device(&inode, from);
	ext2fs_inode_alloc_stats2(w->fs, number, 1, S_ISDIR(from->mode));
	rc = ext2fs_write_new_inode(w->fs, number, (struct ext2_inode *)&inode);
	if (rc == 0 && (S_ISREG(from->mode) || S_ISDIR(from->mode)))
		rc = make_extent_tree(w, number, &inode);
	rc = rc ? rc : write_inode(w, number, &inode);
	from->number = number;
	return rc ? fail(w->e, rc, "inode") : 0;
}

static int write_symlink(struct writer *w, ext2_ino_t near, struct tree_inode *from)
{
	struct ext2_inode_large inode;
	ext2_ino_t number;
	errcode_t rc = ext2fs_new_inode(w->fs, near, from->mode, NULL, &number);
	rc = rc ? rc : ext2fs_symlink(w->fs, near, number, NULL, from->target);
	rc = rc ? rc : ext2fs_read_inode_full(w->fs, number, (struct ext2_inode *)&inode, sizeof inode);
	if (rc)
		return fail(w->e, rc, "symbolic link");
	set_metadata(&inode, from);
	inode.i_links_count = (uint16_t)from->names;
	from->number = number;
	rc = write_inode(w, number, &inode);
	return rc ? fail(w->e, rc, "symbolic link") : write_xattrs(w, number, from);
}

/* Anything but a directory. The second of several names finds it written. */
static int write_file(struct writer *w, ext2_ino_t near, struct tree_inode *from)
{
	if (from->number)
		return 0;
	if (S_ISLNK(from->mode))
		return write_symlink(w, near, from);
	int rc = make_inode(w, near, from, from->names);
	rc = rc == 0 && S_ISREG(from->mode) ? write_data(w, from->number, from) : rc;
	return rc ? rc : write_xattrs(w, from->number, from);
}

/* ---- Directories ---- */

static uint8_t directory_type(mode_t mode)
{
	return S_ISREG(mode)    ? EXT2_FT_REG_FILE
	       : S_ISDIR(mode)  ? EXT2_FT_DIR
	       : S_ISCHR(mode)  ? EXT2_FT_CHRDEV
	       : S_ISBLK(mode)  ? EXT2_FT_BLKDEV
	       : S_ISFIFO(mode) ? EXT2_FT_FIFO
				: EXT2_FT_SYMLINK;
}

/* A directory's blocks in the making: all its entries are known, so it is written once, from front to back. */
struct dir_blocks {
	ext2_file_t file;
	uint8_t block[BLOCK_BYTES];
	unsigned used;                 /* bytes of the block */
	struct ext2_dir_entry_2 *last; /* whose length reaches to the block's end */
};

static errcode_t end_block(struct dir_blocks *d)
{
	unsigned written;
	if (d->used == 0)
		return 0;
	d->last->rec_len = (uint16_t)(BLOCK_BYTES - (unsigned)((uint8_t *)d->last - d->block));
	errcode_t rc = ext2fs_file_write(d->file, d->block, BLOCK_BYTES, &written);
	memset(d->block, 0, sizeof d->block);
	d->used = 0;
	return rc;
}

static errcode_t add_entry(struct dir_blocks *d, const char *name, ext2_ino_t number, mode_t mode)
{
	size_t name_bytes = strlen(name);
	unsigned bytes = (8 + (unsigned)name_bytes + 3) & ~3u;
	errcode_t rc = d->used + bytes > BLOCK_BYTES ? end_block(d) : 0;
	struct ext2_dir_entry_2 *entry = (struct ext2_dir_entry_2 *)(d->block + d->used);
	entry->inode = number;
	entry->rec_len = (uint16_t)bytes;
	entry->name_len = (uint8_t)name_bytes;
	entry->file_type = directory_type(mode);
	memcpy(entry->name, name, name_bytes);
	d->last = entry;
	d->used += bytes;
	return rc;
}

static int write_entries(struct writer *w, ext2_ino_t parent, const struct tree_inode *dir)
{
	struct dir_blocks *d = calloc(1, sizeof *d);
	if (!d)
		return err_sys(w->e, -ENOMEM, "image");
	errcode_t rc = ext2fs_file_open(w->fs, dir->number, EXT2_FILE_WRITE, &d->file);
	if (rc == 0) {
		rc = add_entry(d, ".", dir->number, S_IFDIR);
		rc = rc ? rc : add_entry(d, "..", parent, S_IFDIR);
		for (unsigned i = 0; i < dir->children && rc == 0; i++)
			rc =
			    add_entry(d, dir->child[i]->name, dir->child[i]->inode->number, dir->child[i]->inode->mode);
		rc = rc ? rc : end_block(d);
		errcode_t closed = ext2fs_file_close(d->file);
		rc = rc ? rc : closed;
	}
	free(d);
	return rc ? fail(w->e, rc, "directory") : 0;
}

/* A directory and all below it. Depth is bounded by TREE_DEPTH_MAX. */
static int write_dir(struct writer *w, ext2_ino_t parent, struct tree_inode *dir)
{
	uint32_t links = 2;
	for (unsigned i = 0; i < dir->children; i++)
		links += S_ISDIR(dir->child[i]->inode->mode);
	int rc = make_inode(w, parent, dir, links);
	for (unsigned i = 0; i < dir->children && rc == 0; i++) {
		struct tree_inode *child = dir->child[i]->inode;
		rc = S_ISDIR(child->mode) ? write_dir(w, dir->number, child) : write_file(w, dir->number, child);
	}
	rc = rc ? rc : write_entries(w, parent, dir);
	return rc ? rc : write_xattrs(w, dir->number, dir);
}

/* ---- Sizes ---- */

struct need {
	uint64_t blocks, inodes;
};

/* Adds what a directory's content takes: more than it will, by little. */
static void add_need(const struct tree_inode *dir, struct need *n)
{
	uint64_t names = 0;
	n->inodes++;
	n->blocks += dir->xattrs > 0;
	for (unsigned i = 0; i < dir->children; i++) {
		const struct tree_inode *c = dir->child[i]->inode;
		names += 8 + ((strlen(dir->child[i]->name) + 3) & ~3ull);
		if (S_ISDIR(c->mode)) {
			add_need(c, n);
			continue;
		}
		n->inodes++;
		n->blocks += c->xattrs > 0;
		/* An extent covers up to 32768 blocks; a file with many holes needs a tree of them. */
		if (S_ISREG(c->mode))
			n->blocks += (c->data_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES + (c->data_bytes >> 24) +
				     (c->data_bytes > BLOCK_BYTES * 8);
		if (S_ISLNK(c->mode) && strlen(c->target) >= FAST_SYMLINK_BYTES)
			n->blocks++;
	}
	n->blocks +=
	    1 + names / (BLOCK_BYTES - 300); /* an entry does not cross blocks: up to 263 bytes of each are lost */
}

/*
 * Writes the tree as a read-only root file system into `fd`, an empty file; contents come from `spool_fd`. *size_bytes
 * is the disk's size. Returns 0, -ENOSPC, -E2BIG or -EIO with the reason in `e`.
 */
int ext4_write_tree(int fd, struct tree *t, int spool_fd, const uint8_t uuid[16], uint64_t *size_bytes, struct err *e)
{
	struct need need = {.inodes = 16};
	add_need(t->root.inode, &need);
	uint64_t tables = need.inodes * INODE_BYTES / BLOCK_BYTES;
	uint64_t blocks = need.blocks + tables + tables / 8 + need.blocks / 32 + SLACK_BLOCKS;
	struct writer w = {.spool_fd = spool_fd, .copy = malloc(COPY_BYTES), .e = e};
	if (!w.copy || need.inodes > UINT32_MAX) {
		free(w.copy);
		return err_sys(e, -ENOMEM, "image");
	}
	int rc = create(fd, blocks, (uint32_t)need.inodes, false, uuid, &w.fs, e);
	t->root.inode->number = EXT2_ROOT_INO;
	rc = rc ? rc : write_dir(&w, EXT2_ROOT_INO, t->root.inode);
	if (rc == 0) {
		*size_bytes = ext2fs_blocks_count(w.fs->super) * BLOCK_BYTES;
		errcode_t code = ext2fs_close_free(&w.fs);
		if (code)
			rc = fail(e, code, "end");
	}
	if (w.fs)
		ext2fs_free(w.fs);
	free(w.copy);
	if (rc == 0 && ftruncate(fd, (off_t)*size_bytes))
		rc = err_sys(e, -errno, "cannot write the root image");
	return rc;
}

/* ---- Scratch disks ---- */

/* The inode tables are zeroes as the file is: the kernel need not clear them in the background. */
static void mark_zeroed(ext2_filsys fs)
{
	for (dgrp_t g = 0; g < fs->group_desc_count; g++) {
		ext2fs_bg_flags_set(fs, g, EXT2_BG_INODE_ZEROED);
		ext2fs_group_desc_csum_set(fs, g);
	}
}

/*
 * Writes an empty file system of `size_bytes` with the directories upper and work (those of an overlay) into `fd`, an
 * empty file, which becomes as large and stays sparse. Returns 0, or -errno with the reason in `e`.
 */
int ext4_write_scratch(int fd, uint64_t size_bytes, struct err *e)
{
	static const uint8_t uuid[16] = "caplock-scratch";
	static const char *const dirs[] = {"upper", "work"};
	ext2_filsys fs = NULL;
	uint64_t inodes = size_bytes / SCRATCH_BYTES_PER_INODE;
	int rc = create(fd, size_bytes / BLOCK_BYTES, (uint32_t)(inodes < 1024 ? 1024 : inodes), true, uuid, &fs, e);
	errcode_t code = rc ? 0 : ext2fs_mkdir(fs, EXT2_ROOT_INO, EXT2_ROOT_INO, NULL);
	for (unsigned i = 0; rc == 0 && code == 0 && i < sizeof dirs / sizeof dirs[0]; i++)
		code = ext2fs_mkdir(fs, EXT2_ROOT_INO, 0, dirs[i]);
	if (rc == 0 && code == 0) {
		mark_zeroed(fs);
		code = ext2fs_close_free(&fs);
	}
	if (rc == 0 && code)
		rc = fail(e, code, "scratch disk");
	if (fs)
		ext2fs_free(fs);
	return rc;
}
