/* Image archives: what an import's confined child does, without the confinement. */
#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/image/container.h"
#include "vmm/image/ext4.h"
#include "vmm/image/layer.h"
#include "vmm/image/oci.h"
#include "vmm/image/tree.h"
#include "vmm/util/err.h"
#include "vmm/util/strv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { IMAGE_MAX_BYTES = 4 << 20 };

/*
 * The first byte says what the rest is: 'L' one layer, applied between two others that are not; anything else an archive.
 */
static int read_it(const uint8_t *data, size_t size, int fd, int blobs_fd, struct tree *tree, struct spool *spool, struct err *e)
{
	struct container container = {0};
	struct image_config config = {0};
	struct layer_digests digests;
	int rc;
	if (size && data[0] == 'L') {
		struct container_file blob = {.fd = fd, .offset = 1, .len_bytes = size - 1};
		rc = layer_apply(tree, 1, &blob, spool, &digests, e);
		return rc ? rc : layer_apply(tree, 2, &blob, spool, &digests, e);
	}
	rc = container_read_tar(fd, blobs_fd, &container, e);
	rc = rc ? rc : oci_read(&container, tree, spool, &config, e);
	container_free(&container);
	strv_free(config.env);
	strv_free(config.entrypoint);
	strv_free(config.cmd);
	free(config.working_dir);
	free(config.user);
	return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t uuid[16];
	int fd = memfd_create("archive", 0), blobs_fd = memfd_create("blobs", 0), spool_fd = memfd_create("spool", 0);
	int root_fd = memfd_create("root", 0);
	struct spool spool = {.fd = spool_fd, .max_bytes = IMAGE_MAX_BYTES};
	struct tree tree;
	struct err e = {""};
	uint64_t size_bytes;
	assert(write(fd, data, size) == (ssize_t)size && lseek(fd, 0, SEEK_SET) == 0);
	assert(tree_init(&tree) == 0);
	int rc = read_it(data, size, fd, blobs_fd, &tree, &spool, &e);
	assert(rc == 0 || e.text[0]);
	assert(spool.bytes <= IMAGE_MAX_BYTES);
	if (rc == 0) {
		rc = ext4_write_tree(root_fd, &tree, spool_fd, uuid, &size_bytes, &e);
		assert(rc == 0 || e.text[0]);
	}
	tree_free(&tree);
	close(fd);
	close(blobs_fd);
	close(spool_fd);
	close(root_fd);
	return 0;
}
