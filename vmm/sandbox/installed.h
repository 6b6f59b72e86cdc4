/* Files that are installed with the program. */
#ifndef CAPLOCK_SANDBOX_INSTALLED_H
#define CAPLOCK_SANDBOX_INSTALLED_H

#include <limits.h>

struct err;

int installed_open(const char *name, int *fd, char found[PATH_MAX], struct err *e);

#endif
