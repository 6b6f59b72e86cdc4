/* What the store notes about an image, as JSON. */
#ifndef CAPLOCK_IMAGE_RECORD_H
#define CAPLOCK_IMAGE_RECORD_H

#include <stddef.h>

#include "vmm/image/image.h"
#include "vmm/util/json.h"

struct buf;

int record_write(const struct image *image, struct buf *out);
int record_read(const char *text, size_t len_bytes, struct image *out, struct err *e);
int record_read_config(struct json_value config, struct image_config *out, struct err *e);

#endif
