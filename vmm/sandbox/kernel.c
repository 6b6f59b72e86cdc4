#include "vmm/sandbox/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/util/err.h"

/* The directory of the running program, or "" where it is not known. */
static void program_dir(char dir[PATH_MAX])
{
	ssize_t n = readlink("/proc/self/exe", dir, PATH_MAX - 1);
	dir[n > 0 ? n : 0] = 0;
	char *slash = strrchr(dir, '/');
	if (slash)
		*slash = 0;
}

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
	char dir[PATH_MAX];
	program_dir(dir);
	const char *const places[][2] = {{dir, "/vmlinux"}, {dir, "/../lib/caplock/vmlinux"}, {CAPLOCK_PREFIX, "/lib/caplock/vmlinux"}};
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
		if (snprintf(found, PATH_MAX, "%s%s", places[i][0], places[i][1]) >= PATH_MAX)
			continue;
		*fd = open(found, O_RDONLY | O_CLOEXEC);
		if (*fd >= 0)
			return 0;
		if (errno != ENOENT && errno != ENOTDIR)
			return err_sys(e, -errno, "cannot open kernel %s", found);
	}
	return err_set(e, -ENOENT, "no guest kernel beside the program or in %s/lib/caplock; build it with make, or give "
				   "--kernel PATH", CAPLOCK_PREFIX);
}
