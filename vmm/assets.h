/* Files that are part of the program (vmm/assets.S). */
#ifndef CAPLOCK_ASSETS_H
#define CAPLOCK_ASSETS_H

#include <stdint.h>

extern const uint8_t asset_initramfs[], asset_initramfs_end[];
extern const uint8_t asset_base_image[], asset_base_image_end[]; /* ext4: busybox */

struct err;
int assets_open_base_image(int *fd, uint64_t *offset_bytes, uint64_t *len_bytes, struct err *e);

#endif
