/* A file tree in memory: what an image's layers add up to, before it is written. File contents are in a spool file. */
#ifndef CAPLOCK_IMAGE_TREE_H
#define CAPLOCK_IMAGE_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct err;

enum {
	TREE_ENTRIES_MAX = 2 << 20,
	TREE_PATH_MAX_BYTES = 4096,
	TREE_NAME_MAX_BYTES = 255,
	TREE_DEPTH_MAX = 256,
	TREE_LINKS_MAX = 60000, /* names of one file; ext4 has 65000 */
};

struct tree_xattr {
	char *name;
	uint8_t *value;
	size_t len_bytes;
};

/* A file of any type: what hard links share. */
struct tree_inode {
	unsigned names; /* that refer to it */
	mode_t mode;    /* with its type */
	uint32_t uid, gid;
	int64_t mtime_s;
	uint32_t mtime_ns;
	uint32_t rdev_major, rdev_minor;  /* of a device node */
	char *target;                     /* of a symbolic link */
	uint64_t data_offset, data_bytes; /* of a regular file, in the spool */
	struct tree_xattr *xattr;
	unsigned xattrs;
	uint32_t number;          /* for the writer: 0 until it has one */
	struct tree_node **child; /* of a directory, sorted by name */
	unsigned children, child_room;
};

struct tree_node {
	char *name;
	unsigned layer; /* the last that named it, or something in it */
	struct tree_inode *inode;
};

struct tree {
	struct tree_node root;
	unsigned entries;
};

int tree_init(struct tree *t);
void tree_free(struct tree *t);
struct tree_inode *tree_inode_create(mode_t mode);
void tree_inode_release(struct tree_inode *i);
int tree_inode_add_xattr(struct tree_inode *i, const char *name, const void *value, size_t len_bytes);
int tree_put(struct tree *t, unsigned layer, const char *path, struct tree_inode *inode, struct err *e);
int tree_link(struct tree *t, unsigned layer, const char *path, const char *target, struct err *e);
int tree_whiteout(struct tree *t, unsigned layer, const char *path, struct err *e);
int tree_opaque(struct tree *t, unsigned layer, const char *path, struct err *e);

#endif
