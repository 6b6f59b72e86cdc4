/* The image store's inside, shared by the files of vmm/image. */
#ifndef CAPLOCK_IMAGE_STORE_H
#define CAPLOCK_IMAGE_STORE_H

#include <limits.h>
#include <stdbool.h>

struct err;
struct image;

struct store {
	char path[PATH_MAX];
	int dir_fd;
};

enum { IMAGE_NAME_MAX_BYTES = 200 };

int store_temporary(struct store *s, struct err *e);
int store_working_file(struct store *s, struct err *e);
int store_lock(struct store *s, bool exclusive, struct err *e);
int store_check_name(const char *name, char full[IMAGE_NAME_MAX_BYTES + 8], struct err *e);
int store_commit(struct store *s, int root_fd, const struct image *image, struct err *e);

#endif
