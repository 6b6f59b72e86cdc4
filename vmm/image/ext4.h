/* Writes ext4 file systems with libext2fs: root images and scratch disks. */
#ifndef CAPLOCK_IMAGE_EXT4_H
#define CAPLOCK_IMAGE_EXT4_H

#include <stdint.h>

struct err;
struct tree;

int ext4_write_tree(int fd, struct tree *t, int spool_fd, const uint8_t uuid[16], uint64_t *size_bytes, struct err *e);
int ext4_write_scratch(int fd, uint64_t size_bytes, struct err *e);

#endif
