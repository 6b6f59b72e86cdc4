/* Finds the guest kernel. */
#ifndef CAPLOCK_SANDBOX_KERNEL_H
#define CAPLOCK_SANDBOX_KERNEL_H

#include <limits.h>

struct err;

int kernel_open(const char *path, int *fd, char found[PATH_MAX], struct err *e);

#endif
