/*
 * The jail.
 *
 * Theory of operation
 * -------------------
 * Purpose: a guest that has taken over the process that runs it finds nothing there: no file, no network, no other process, no
 * privilege, and only the system calls that the process needs anyway. The same for the gate, but for connections.
 *
 * Order: a process is forked with nothing but its descriptors (sandbox/process.c) and enters, before it does anything else,
 *
 *      namespaces   an empty network, IPC and host name; in a user namespace, where it is not root
 *      root         an empty directory
 *      limits       descriptors, file size, no core dump (not the number of threads: KVM makes one, at the first KVM_RUN)
 *      privileges   root becomes a user that nobody else is; no capabilities, no_new_privs, not dumpable (no ptrace)
 *      landlock     no file, TCP bind or connection, abstract socket or signal to others
 *
 * Then it sets itself up (memory, KVM, devices, threads), for which no file is needed. Each thread enters its own seccomp filter
 * before it looks at anything of the guest's; the first thread does when all others exist, so that none can be made.
 *
 * Trust boundary: these stages do not rely on each other. The filter alone keeps the process from opening, connecting,
 * executing, tracing and signalling; the rest holds, should there be a way around it.
 *
 * Failing: what a host does not have or does not permit is left out, and `caplock doctor` says so. Anything else that
 * fails ends the process, and the run. A stage returns 0, a positive errno where the host lacks it, or -errno.
 *
 * All of it is safe in the child of a process that has threads: system calls only. It is on the boot path.
 */
#include "vmm/jail/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { UID_FIRST = 0x70000000 }; /* above what containers and user databases are given */

/* ---- The stages ---- */

/* Whether an errno says that the host lacks or forbids something, not that it failed. */
static bool is_refusal(int error)
{
	return error == EPERM || error == EACCES || error == EINVAL || error == ENOSYS || error == ENOSPC || error == EUSERS ||
	       error == ENOENT;
}

static int enter_namespaces(const struct jail *j)
{
	int flags = CLONE_NEWIPC | CLONE_NEWUTS | (j->host_network ? 0 : CLONE_NEWNET);
	if (unshare(flags) == 0 || unshare(CLONE_NEWUSER | flags) == 0)
		return 0;
	return is_refusal(errno) ? errno : -errno;
}

static int leave_root(void *result)
{
	*(int *)result = chroot("/proc/self/fdinfo") || chdir("/") ? errno : 0;
	return 0;
}

/*
 * The root becomes a directory that is empty for ever: that of a process that has ended. (A mount namespace would cost ten times
 * as much, and more on a host with many mounts.) Its child shares our root and working directory.
 */
static int enter_root(const struct jail *j)
{
	static _Alignas(16) char stack[16 << 10];
	int rc = 0;
	if (j->readable)
		return 0;
	pid_t pid = clone(leave_root, stack + sizeof stack, CLONE_FS | CLONE_VM | CLONE_VFORK, &rc);
	if (pid < 0)
		return -errno;
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	return rc == 0 || is_refusal(rc) ? rc : -rc;
}

/* Lowers both limits; what is lower stays. */
static int lower(int resource, rlim_t to)
{
	struct rlimit now;
	if (getrlimit((__rlimit_resource_t)resource, &now))
		return -errno;
	rlim_t limit = to < now.rlim_max ? to : now.rlim_max;
	return setrlimit((__rlimit_resource_t)resource, &(struct rlimit){limit, limit}) ? -errno : 0;
}

static int enter_limits(const struct jail *j)
{
	int rc = lower(RLIMIT_NOFILE, j->fds_max);
	rc = rc ? rc : lower(RLIMIT_FSIZE, j->file_bytes_max);
	rc = rc || !j->data_bytes_max ? rc : lower(RLIMIT_DATA, j->data_bytes_max);
	return rc ? rc : lower(RLIMIT_CORE, 0);
}

/* Where we are root, without a user namespace: a user of our own, so that other sandboxes are not ours either. */
static int leave_user(void)
{
	uid_t uid = UID_FIRST + (uid_t)getpid();
	if (geteuid() != 0)
		return 0;
	if (syscall(SYS_setgroups, 0, NULL) || syscall(SYS_setresgid, uid, uid, uid) || syscall(SYS_setresuid, uid, uid, uid))
		return is_refusal(errno) ? errno : -errno;
	return 0;
}

static int enter_privileges(const struct jail *j)
{
	(void)j;
	int rc = leave_user();
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
	if (syscall(SYS_capset, &head, none) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_DUMPABLE, 0))
		return -errno;
	return rc;
}

static int enter_landlock(const struct jail *j)
{
	return jail_landlock(j->readable);
}

static const struct {
	const char *name;
	int (*enter)(const struct jail *j);
} stages[JAIL_STAGES] = {
	[JAIL_NAMESPACES] = {"namespaces", enter_namespaces}, [JAIL_ROOT] = {"root", enter_root},
	[JAIL_LIMITS] = {"limits", enter_limits},             [JAIL_PRIVILEGES] = {"privileges", enter_privileges},
	[JAIL_LANDLOCK] = {"landlock", enter_landlock},       [JAIL_SECCOMP] = {"seccomp", NULL},
};

/* A stage's name, for people. */
const char *jail_stage_name(enum jail_stage stage)
{
	return stages[stage].name;
}

/*
 * Confines this process, which must have a single thread, all but the system calls. missing[stage] is then 0, or why the host
 * does not have that stage. Returns JAIL_STAGES, or the stage that failed, and missing[] has its errno.
 */
enum jail_stage jail_enter(const struct jail *j, int missing[JAIL_STAGES])
{
	for (enum jail_stage s = 0; s < JAIL_SECCOMP; s++) {
		missing[s] = stages[s].enter(j);
		if (missing[s] < 0) {
			missing[s] = -missing[s];
			return s;
		}
	}
	return JAIL_STAGES;
}

/* ---- System calls ---- */

/* Limits this thread to the system calls of its role. Returns as a stage does. */
static int enter_seccomp(enum jail_role role)
{
	struct sock_fprog program = {.len = jail_filter[role].instructions, .filter = (struct sock_filter *)jail_filter[role].code};
	/* SPEC_ALLOW: no code here is anybody else's, and where it was implied (until Linux 5.16) it made every thread slow. */
	if (syscall(SYS_seccomp, 1 /* SECCOMP_SET_MODE_FILTER */, 4 /* SECCOMP_FILTER_FLAG_SPEC_ALLOW */, &program) == 0)
		return 0;
	int error = errno;
	return error == ENOSYS || prctl(PR_GET_SECCOMP, 0, 0, 0, 0) < 0 ? error : -error;
}

/*
 * Confines this thread for good, before it serves the guest; a process' first thread does it when it has made all others. Where
 * that fails, the process ends.
 */
void jail_thread(enum jail_role role)
{
	static const char *const names[JAIL_ROLES] = {[JAIL_DISK] = "disk", [JAIL_NETWORK] = "network", [JAIL_VCPU] = "vcpu"};
	if (names[role])
		prctl(PR_SET_NAME, names[role]);
	if (enter_seccomp(role) < 0)
		_exit(JAIL_EXIT_STATUS + JAIL_SECCOMP);
}

/* ---- For doctor ---- */

static _Noreturn void probe(int out_fd)
{
	int result[JAIL_STAGES + 1] = {0};
	const struct jail j = {.fds_max = 256};
	enum jail_stage failed = jail_enter(&j, result);
	if (failed == JAIL_STAGES) {
		result[JAIL_SECCOMP] = enter_seccomp(JAIL_MAIN);
		failed = result[JAIL_SECCOMP] < 0 ? JAIL_SECCOMP : JAIL_STAGES;
	}
	result[JAIL_STAGES] = (int)failed;
	_exit(write(out_fd, result, sizeof result) != sizeof result);
}

/*
 * Tries the jail of a vmm in a child. Returns 0 with missing[] and *failed as jail_enter() gives them, all stages included, or
 * -errno.
 */
int jail_probe(int missing[JAIL_STAGES], enum jail_stage *failed)
{
	int fds[2], result[JAIL_STAGES + 1];
	if (pipe2(fds, O_CLOEXEC))
		return -errno;
	pid_t pid = fork();
	if (pid == 0)
		probe(fds[1]);
	close(fds[1]);
	ssize_t n = read(fds[0], result, sizeof result);
	close(fds[0]);
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	if (n != sizeof result)
		return -EIO;
	for (unsigned s = 0; s < JAIL_STAGES; s++)
		missing[s] = result[s] < 0 ? -result[s] : result[s];
	*failed = (enum jail_stage)result[JAIL_STAGES];
	return 0;
}
