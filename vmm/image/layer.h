/* Applies one layer of an image to the tree. */
#ifndef CAPLOCK_IMAGE_LAYER_H
#define CAPLOCK_IMAGE_LAYER_H

#include <stdint.h>

#include "vmm/image/digest.h"

struct container_file;
struct err;
struct tree;

/* Where layers' file contents are gathered. */
struct spool {
	int fd;
	uint64_t bytes, max_bytes;
};

struct layer_digests {
	char packed[DIGEST_TEXT_BYTES];   /* of the blob as it is */
	char unpacked[DIGEST_TEXT_BYTES]; /* of the tar in it: the diff_id */
};

int layer_apply(struct tree *t, unsigned number, const struct container_file *blob, struct spool *spool,
		struct layer_digests *digests, struct err *e);

#endif
