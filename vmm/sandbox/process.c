#include "vmm/sandbox/process.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/util/err.h"

enum {
	STANDARD_SIGNALS = 32,
	PROCESS_NOT_EXECUTED = 99, /* an exit status */
};

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
 * Leaves the terminal, whose signals are the supervisor's to handle, and the handlers of the program that we were forked from.
 */
static void leave_session(void)
{
	setsid();
	for (int number = 1; number < STANDARD_SIGNALS; number++)
		signal(number, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
}

/*
 * The C library's allocator must not open a file, which a filtered thread dies of: glibc reads a setting of the kernel's before it
 * gives back a part of a thread's heap, and counts CPUs before it makes one more heap.
 */
static void limit_malloc(void)
{
	mallopt(M_TRIM_THRESHOLD, INT_MAX);
	mallopt(M_ARENA_MAX, 1);
}

/* Confines this process, all but the system calls, and has it end with the supervisor. It ends here where that fails. */
void process_enter(const struct jail *jail, pid_t supervisor)
{
	int missing[JAIL_STAGES]; /* doctor tells; that is no reason not to run */
	limit_malloc();
	enum jail_stage failed = jail_enter(jail, missing);
	if (failed != JAIL_STAGES)
		_exit(JAIL_EXIT_STATUS + (int)failed);
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* a change of user would undo it */
	if (getppid() != supervisor)
		_exit(0);
}

/*
 * Becomes another program, which enters the jail itself. Of the environment it gets what says where certificates are and how to
 * resolve.
 */
static _Noreturn void execute(const struct process *p)
{
	static const char *const names[] = {"SSL_CERT_FILE", "SSL_CERT_DIR", "RES_OPTIONS", "LOCALDOMAIN"};
	char *environment[sizeof names / sizeof names[0] + 1] = {NULL}, *const arguments[] = {(char *)p->name, (char *)p->argument, NULL};
	unsigned count = 0;
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		char *value = getenv(names[i]);
		if (value)
			environment[count++] = value - strlen(names[i]) - 1; /* as it stands in the environment */
	}
	for (unsigned i = 0; i < p->keep_count; i++)
		fcntl(p->keep[i], F_SETFD, 0);
	syscall(SYS_execveat, p->program_fd, "", arguments, environment, AT_EMPTY_PATH);
	_exit(PROCESS_NOT_EXECUTED);
}

static _Noreturn void run(const struct process *p, pid_t supervisor)
{
	prctl(PR_SET_NAME, p->name);
	leave_session();
	keep_only(p);
	if (!p->run)
		execute(p);
	process_enter(&p->jail, supervisor);
	p->run(p->config);
	_exit(0);
}

/*
 * Starts a process that enters its jail, calls p->run and ends when that returns, or when the supervisor dies; or one that executes
 * a program, which is to call process_enter(). Returns 0 with
 * *pidfd (pidfd_open(2)), by which the caller reaps it, or -errno.
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
	run(p, supervisor);
}

/*
 * Says in one line how the process `who` ended, where that was not its own will. Returns false where it did not. It is not
 * reaped.
 */
bool process_failure(int pidfd, const char *who, char *text, size_t text_bytes)
{
	siginfo_t info = {0};
	if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG | WNOWAIT) || info.si_pid == 0)
		return false;
	int stage = info.si_status - JAIL_EXIT_STATUS;
	if (info.si_code == CLD_EXITED && stage >= 0 && stage < JAIL_STAGES)
		snprintf(text, text_bytes, "%s could not be confined (%s); see caplock doctor", who, jail_stage_name((enum jail_stage)stage));
	else if (info.si_code == CLD_EXITED && info.si_status == PROCESS_NOT_EXECUTED)
		snprintf(text, text_bytes, "%s could not be executed", who);
	else if (info.si_code == CLD_EXITED)
		return false;
	else if (info.si_status == SIGSYS)
		snprintf(text, text_bytes, "%s was stopped by its seccomp filter; please report this", who);
	else
		snprintf(text, text_bytes, "%s was killed by signal %d (%s)", who, info.si_status, strsignal(info.si_status));
	return true;
}
