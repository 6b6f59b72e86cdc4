/*
 * inject PID THREAD CALL: makes a thread of another process execute a system call, as an attacker would who controls it. THREAD
 * is its name. Prints what it returned. Where it is denied, that is its own number, and the process dies as soon as we let it go:
 * its parent is to tell.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TRIES = 1000 };

static const struct call {
	const char *name;
	long number;
	long a[3];
} calls[] = {
	{"clock_gettime", SYS_clock_gettime, {-1}}, /* allowed, and fails: shows that the rest would have run */
	{"socket", SYS_socket, {AF_INET, SOCK_STREAM}},
	{"connect", SYS_connect, {-1}},
	{"bind", SYS_bind, {-1}},
	{"openat", SYS_openat, {AT_FDCWD, 0, O_RDONLY}},
	{"openat-write", SYS_openat, {AT_FDCWD, 0, O_WRONLY}},
	{"execve", SYS_execve, {0}},
	{"clone", SYS_clone, {SIGCHLD}},
	{"mprotect-exec", SYS_mprotect, {0, 4096, PROT_READ | PROT_EXEC}},
	{"ptrace", SYS_ptrace, {-1}},
	{"kill", SYS_kill, {1, 0}},
};

static _Noreturn void die(const char *what)
{
	fprintf(stderr, "inject: %s: %s\n", what, strerror(errno));
	exit(2);
}

static const struct call *find_call(const char *name)
{
	for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++)
		if (strcmp(calls[i].name, name) == 0)
			return &calls[i];
	errno = EINVAL;
	die(name);
}

static pid_t find_thread(const char *pid, const char *name)
{
	char path[300], comm[64];
	snprintf(path, sizeof path, "/proc/%s/task", pid);
	DIR *tasks = opendir(path);
	if (!tasks)
		die(path);
	for (struct dirent *d; (d = readdir(tasks));) {
		if (d->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "/proc/%s/task/%s/comm", pid, d->d_name);
		FILE *f = fopen(path, "r");
		if (!f)
			continue;
		bool same = fgets(comm, sizeof comm, f) && strncmp(comm, name, strlen(name)) == 0 && comm[strlen(name)] == '\n';
		fclose(f);
		if (same)
			return (pid_t)atoi(d->d_name);
	}
	errno = ESRCH;
	die(name);
}

static void wait_stop(pid_t tid)
{
	int status;
	if (waitpid(tid, &status, __WALL) < 0 || !WIFSTOPPED(status))
		die("the thread does not stop");
}

/* Stops the thread behind a syscall instruction: there it waits most of the time. */
static void stop_at_syscall(pid_t tid, struct user_regs_struct *regs)
{
	for (unsigned i = 0; i < TRIES; i++) {
		if (ptrace(PTRACE_INTERRUPT, tid, 0, 0))
			die("PTRACE_INTERRUPT");
		wait_stop(tid);
		if (ptrace(PTRACE_GETREGS, tid, 0, regs))
			die("PTRACE_GETREGS");
		errno = 0;
		long code = ptrace(PTRACE_PEEKTEXT, tid, regs->rip - 2, 0);
		if (errno == 0 && (code & 0xffff) == 0x050f)
			return;
		ptrace(PTRACE_CONT, tid, 0, 0);
	}
	errno = EBUSY;
	die("no system call to stop at");
}

static void run_to_syscall(pid_t tid)
{
	if (ptrace(PTRACE_SYSCALL, tid, 0, 0))
		die("PTRACE_SYSCALL");
	wait_stop(tid);
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		errno = EINVAL;
		die("inject PID THREAD CALL");
	}
	const struct call *c = find_call(argv[3]);
	pid_t tid = find_thread(argv[1], argv[2]);
	struct user_regs_struct saved, regs;
	if (ptrace(PTRACE_SEIZE, tid, 0, 0))
		die("PTRACE_SEIZE");
	stop_at_syscall(tid, &saved);
	regs = saved;
	regs.rip -= 2;
	regs.orig_rax = (unsigned long long)-1; /* no restart of what it was in */
	regs.rax = (unsigned long long)c->number;
	regs.rdi = (unsigned long long)c->a[0];
	regs.rsi = (unsigned long long)c->a[1];
	regs.rdx = (unsigned long long)c->a[2];
	if (ptrace(PTRACE_SETREGS, tid, 0, &regs))
		die("PTRACE_SETREGS");
	run_to_syscall(tid); /* into it */
	run_to_syscall(tid); /* out of it */
	if (ptrace(PTRACE_GETREGS, tid, 0, &regs))
		die("PTRACE_GETREGS");
	if ((long long)saved.orig_rax >= 0) { /* back into what it waited in */
		saved.rax = saved.orig_rax;
		saved.rip -= 2;
	}
	if (ptrace(PTRACE_SETREGS, tid, 0, &saved))
		die("PTRACE_SETREGS");
	printf("returned %lld\n", (long long)regs.rax);
	ptrace(PTRACE_DETACH, tid, 0, 0);
	return 0;
}
