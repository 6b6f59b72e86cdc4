#include "vmm/sandbox/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/sandbox/installed.h"
#include "vmm/util/err.h"

/*
 * Opens the guest kernel: `path` where given, else $CAPLOCK_KERNEL, else `vmlinux` beside the program or installed
 * (../lib/caplock/vmlinux from the program, then the PREFIX of the build). `found` is its path, for messages. The caller
 * owns *fd. Returns 0 or -errno.
 */
int kernel_open(const char *path, int *fd, char found[PATH_MAX], struct err *e)
{
	const char *from_env = getenv("CAPLOCK_KERNEL");
	if (!path && from_env && from_env[0])
		path = from_env;
	if (path) {
		snprintf(found, PATH_MAX, "%s", path);
		*fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		return *fd < 0 ? err_sys(e, -errno, "cannot open kernel %s", path) : 0;
	}
	int rc = installed_open("vmlinux", fd, found, e);
	if (rc != -ENOENT)
		return rc;
	return err_set(e, -ENOENT, "no guest kernel beside the program or in %s/lib/caplock; build it with make, or give "
				   "--kernel PATH", CAPLOCK_PREFIX);
}
