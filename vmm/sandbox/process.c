#include "vmm/sandbox/process.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/util/err.h"

enum { FDS_MAX = 8192 }; /* of a process */

static int compare_fds(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/* Has the process keep `fd`; where it is negative, there is nothing to keep. */
void process_keep(struct process *p, int fd)
{
	assert(p->keep_count < PROCESS_FDS_MAX);
	if (fd >= 0)
		p->keep[p->keep_count++] = fd;
}

/*
 * Leaves the process with its descriptors and /dev/null as 0..2: the user's pipes must end when the supervisor does, not
 * when the kernel has taken the machine apart. Keeps the supervisor's locks from being held here, too.
 */
static void keep_only(const struct process *p)
{
	int keep[PROCESS_FDS_MAX];
	unsigned next = 3;
	for (unsigned i = 0; i < p->keep_count; i++)
		keep[i] = p->keep[i];
	qsort(keep, p->keep_count, sizeof keep[0], compare_fds);
	for (unsigned i = 0; i < p->keep_count; i++) {
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

/* Each network flow takes a descriptor, and users have 1024 by default, for programs that use select(2). */
static void raise_fd_limit(void)
{
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) || files.rlim_cur >= FDS_MAX)
		return;
	files.rlim_cur = files.rlim_max < FDS_MAX ? files.rlim_max : FDS_MAX;
	setrlimit(RLIMIT_NOFILE, &files);
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
 * Starts a process that calls p->run and ends when that returns, or when the supervisor dies. Returns 0 with *pidfd
 * (pidfd_open(2)), by which the caller reaps it, or -errno.
 */
int process_start(const struct process *p, int *pidfd, struct err *e)
{
	pid_t supervisor = getpid(), pid = fork();
	if (pid > 0)
		*pidfd = open_child(pid);
	if (pid < 0 || (pid > 0 && *pidfd < 0))
		return err_sys(e, pid < 0 ? -errno : *pidfd, "cannot start the process %s", p->name);
	if (pid > 0)
		return 0;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != supervisor)
		_exit(0);
	prctl(PR_SET_NAME, p->name);
	keep_only(p);
	raise_fd_limit();
	p->run(p->config);
	_exit(0);
}
