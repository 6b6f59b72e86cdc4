/* The files of an image archive: a tar, whose contents go to a spool file, or a directory. */
#ifndef CAPLOCK_IMAGE_CONTAINER_H
#define CAPLOCK_IMAGE_CONTAINER_H

#include <stdbool.h>
#include <stdint.h>

struct err;

enum {
	CONTAINER_FILES_MAX = 4096,
	CONTAINER_LINKS_MAX = 8,   /* followed from one name to the next */
	CONTAINER_RATIO_MAX = 100, /* of what is unpacked to what is packed: of a packed archive, and of a layer */
};
#define CONTAINER_MAX_BYTES  (64ull << 30) /* of all files together */
#define CONTAINER_FREE_BYTES (1ull << 30)  /* beyond these, CONTAINER_RATIO_MAX counts */

/* One file: `len_bytes` from `offset` of `fd`. */
struct container_file {
	char *name; /* without "./" in front */
	char *link; /* to another name; then there is no content */
	int fd;
	bool own_fd; /* of a directory's file; else it is the spool's */
	uint64_t offset, len_bytes;
};

struct container {
	struct container_file *file;
	unsigned count;
};

bool container_has_header(int read);
int container_read_tar(int fd, int spool_fd, struct container *out, struct err *e);
int container_read_directory(int fd, struct container *out, struct err *e);
const struct container_file *container_find(const struct container *a, const char *name);
void container_free(struct container *a);

#endif
