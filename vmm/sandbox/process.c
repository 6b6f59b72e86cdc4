#include "vmm/sandbox/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/machine/machine.h"
#include "vmm/util/err.h"

static int compare_fds(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/*
 * Leaves the process with the machine's descriptors and /dev/null as 0..2: the user's pipes must end when the supervisor
 * does, not when the kernel has taken the machine apart. Keeps the supervisor's locks from being held here, too.
 */
static void keep_only(const struct machine_config *c)
{
	int keep[MACHINE_DISKS_MAX + 4], count = 0;
	keep[count++] = c->kernel_fd;
	keep[count++] = c->agent_fd;
	keep[count++] = c->control_fd;
	keep[count++] = c->event_fd;
	for (unsigned i = 0; i < c->disks; i++)
		if (c->disk[i].fd >= 0)
			keep[count++] = c->disk[i].fd;
	qsort(keep, (size_t)count, sizeof keep[0], compare_fds);
	unsigned next = 3;
	for (int i = 0; i < count; i++) {
		if ((unsigned)keep[i] > next)
			close_range(next, (unsigned)keep[i] - 1, 0);
		next = (unsigned)keep[i] + 1;
	}
	close_range(next, ~0u, 0);
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd < 3; fd++)
		if (null_fd < 0 || dup2(null_fd, fd) < 0)
			close(fd);
	if (null_fd > 2)
		close(null_fd);
}

/* A descriptor of the child that just started, or -errno where it is gone already, or there are too many descriptors. */
static int open_child(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (fd >= 0)
		return fd;
	int rc = -errno;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return rc;
}

/*
 * Starts the process that runs the machine; it ends with the machine, or when the supervisor dies. All descriptors of `c`
 * are above 2. Returns 0 with *pidfd (pidfd_open(2)), by which the caller reaps it, or -errno.
 */
int process_start(const struct machine_config *c, int *pidfd, struct err *e)
{
	pid_t supervisor = getpid(), pid = fork();
	if (pid > 0)
		*pidfd = open_child(pid);
	if (pid < 0 || (pid > 0 && *pidfd < 0))
		return err_sys(e, pid < 0 ? -errno : *pidfd, "cannot start the machine's process");
	if (pid > 0)
		return 0;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != supervisor)
		_exit(0);
	prctl(PR_SET_NAME, "caplock-vmm");
	keep_only(c);
	machine_run(c);
	_exit(0);
}
