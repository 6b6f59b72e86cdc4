#include "vmm/sandbox/installed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
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
 * Opens a file that is installed with the program: beside it, or in ../lib/caplock from there, or in the lib/caplock of the build's
 * PREFIX. `found` is its path, for messages. The caller owns *fd. Returns 0, -ENOENT without a message, or -errno.
 */
int installed_open(const char *name, int *fd, char found[PATH_MAX], struct err *e)
{
	char dir[PATH_MAX];
	program_dir(dir);
	const char *const places[][2] = {{dir, "/"}, {dir, "/../lib/caplock/"}, {CAPLOCK_PREFIX, "/lib/caplock/"}};
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
		if (snprintf(found, PATH_MAX, "%s%s%s", places[i][0], places[i][1], name) >= PATH_MAX)
			continue;
		*fd = open(found, O_RDONLY | O_CLOEXEC);
		if (*fd >= 0)
			return 0;
		if (errno != ENOENT && errno != ENOTDIR)
			return err_sys(e, -errno, "cannot open %s", found);
	}
	return -ENOENT;
}
