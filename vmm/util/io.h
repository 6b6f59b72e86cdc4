/* Whole reads and writes, descriptor ownership helpers. */
#ifndef CAPLOCK_UTIL_IO_H
#define CAPLOCK_UTIL_IO_H

#include <stddef.h>
#include <sys/types.h>

struct buf;

int io_write_all(int fd, const void *data, size_t len_bytes);
int io_pread_all(int fd, void *data, size_t len_bytes, off_t offset);
int io_read_file(int dirfd, const char *path, size_t max_bytes, struct buf *out);
int io_memory_file(const void *data, size_t len_bytes, int *fd);
void io_close(int *fd);

#endif
