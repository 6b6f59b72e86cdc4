/* Reads an image out of a container: manifests, configuration, layers. */
#ifndef CAPLOCK_IMAGE_OCI_H
#define CAPLOCK_IMAGE_OCI_H

#include "vmm/image/image.h"

struct container;
struct err;
struct spool;
struct tree;

int oci_read(const struct container *c, struct tree *tree, struct spool *spool, struct image_config *config, struct err *e);

#endif
