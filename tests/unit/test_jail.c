/* vmm/jail: what its processes are left with, asked of the kernel. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <net/if.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/jail/jail.h"

enum {
	ALLOWED = 0,
	SYSCALLS = 470, /* the kernel's newest are about here */
	ALL = (1 << JAIL_ROLES) - 1,
	GATES = 1 << JAIL_GATE | 1 << JAIL_INTERCEPTOR,
	VMM = ALL & ~GATES,
};

/* What becomes of a system call in a role: ALLOWED, or the signal that ended the process. */
static int attempt(enum jail_role role, long number, const long a[3])
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		jail_thread(role);
		syscall(number, a[0], a[1], a[2], 0, 0, 0);
		syscall(role == JAIL_MAIN || (1 << role & GATES) ? SYS_exit_group : SYS_exit, 0);
	}
	waitpid(pid, &status, 0);
	return WIFSIGNALED(status) ? WTERMSIG(status) : ALLOWED;
}

Test(jail, nobody_opens_connects_executes_traces_or_signals)
{
	static const struct {
		const char *what;
		unsigned roles;
		long number;
		long a[3];
	} denied[] = {
		{"socket of the Internet", VMM, SYS_socket, {AF_INET, SOCK_STREAM}},
		{"datagram socket", VMM, SYS_socket, {AF_INET6, SOCK_DGRAM}},
		{"raw socket", ALL, SYS_socket, {AF_INET, SOCK_RAW}},
		{"packet socket", ALL, SYS_socket, {AF_PACKET, SOCK_DGRAM}},
		{"netlink socket", ALL, SYS_socket, {AF_NETLINK, SOCK_RAW}},
		{"vsock socket", ALL, SYS_socket, {AF_VSOCK, SOCK_STREAM}},
		{"unix socket", ALL, SYS_socket, {AF_UNIX, SOCK_STREAM}},
		{"socketpair", ALL & ~(1 << JAIL_INTERCEPTOR), SYS_socketpair, {AF_UNIX, SOCK_STREAM}},
		{"connect", VMM, SYS_connect, {-1}},
		{"bind", ALL, SYS_bind, {-1}},
		{"listen", ALL, SYS_listen, {-1}},
		{"accept", ALL, SYS_accept4, {-1}},
		{"open", ALL, SYS_open, {0}},
		{"openat", VMM, SYS_openat, {AT_FDCWD, 0, O_RDONLY}},
		{"openat to write", ALL, SYS_openat, {AT_FDCWD, 0, O_WRONLY}},
		{"openat to write and read", ALL, SYS_openat, {AT_FDCWD, 0, O_RDWR}},
		{"openat to create", ALL, SYS_openat, {AT_FDCWD, 0, O_CREAT}},
		{"openat2", ALL, SYS_openat2, {AT_FDCWD}},
		{"open_by_handle_at", ALL, SYS_open_by_handle_at, {-1}},
		{"memfd_create", ALL, SYS_memfd_create, {0}},
		{"execve", ALL, SYS_execve, {0}},
		{"execveat", ALL, SYS_execveat, {-1}},
		{"fork", ALL, SYS_fork, {0}},
		{"clone", ALL, SYS_clone, {-1}},
		{"clone3", ALL, SYS_clone3, {0}},
		{"mmap to execute", ALL, SYS_mmap, {0, 4096, PROT_READ | PROT_EXEC}},
		{"mprotect to execute", ALL, SYS_mprotect, {0, 4096, PROT_READ | PROT_EXEC}},
		{"pkey_mprotect", ALL, SYS_pkey_mprotect, {0}},
		{"ptrace", ALL, SYS_ptrace, {-1}},
		{"process_vm_readv", ALL, SYS_process_vm_readv, {1}},
		{"process_vm_writev", ALL, SYS_process_vm_writev, {1}},
		{"pidfd_getfd", ALL, SYS_pidfd_getfd, {-1}},
		{"kill", ALL, SYS_kill, {1, 0}},
		{"tgkill", ALL, SYS_tgkill, {1, 1, 0}},
		{"io_uring_setup", ALL, SYS_io_uring_setup, {1}},
		{"bpf", ALL, SYS_bpf, {-1}},
		{"userfaultfd", ALL, SYS_userfaultfd, {-1}},
		{"perf_event_open", ALL, SYS_perf_event_open, {0}},
		{"unshare", ALL, SYS_unshare, {0}},
		{"setns", ALL, SYS_setns, {-1}},
		{"mount", ALL, SYS_mount, {0}},
		{"chroot", ALL, SYS_chroot, {0}},
		{"keyctl", ALL, SYS_keyctl, {-1}},
		{"prctl", ALL, SYS_prctl, {PR_SET_DUMPABLE, 1}},
		{"dup", ALL, SYS_dup, {0}},
		{"ioctl", ALL, SYS_ioctl, {-1, KVM_CREATE_VM}},
		{"ioctl KVM_RUN", ALL & ~(1 << JAIL_VCPU), SYS_ioctl, {-1, KVM_RUN}},
	};
	for (size_t i = 0; i < sizeof denied / sizeof denied[0]; i++)
		for (enum jail_role role = 0; role < JAIL_ROLES; role++)
			cr_expect_eq(attempt(role, denied[i].number, denied[i].a), denied[i].roles & 1u << role ? SIGSYS : ALLOWED,
				     "%s in role %d", denied[i].what, role);
}

/* By number, all of them; with no argument they fail, or do nothing. */
Test(jail, each_role_has_few_system_calls)
{
	static const unsigned max[JAIL_ROLES] = {
		[JAIL_MAIN] = 20, [JAIL_DISK] = 15, [JAIL_NETWORK] = 25, [JAIL_VCPU] = 15, [JAIL_GATE] = 30, [JAIL_INTERCEPTOR] = 40};
	for (enum jail_role role = 0; role < JAIL_ROLES; role++) {
		unsigned count = 0;
		for (long number = 0; number < SYSCALLS; number++)
			count += attempt(role, number, (long[3]){0}) == ALLOWED;
		cr_expect_leq(count, max[role], "role %d: %u", role, count);
		cr_expect_gt(count, 5, "role %d: %u", role, count);
	}
}

Test(jail, calls_of_another_architecture_are_denied)
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		jail_thread(JAIL_MAIN);
		long number = 20; /* i386: getpid; x86-64: writev */
		__asm__ volatile("int $0x80" : "+a"(number) : : "memory");
		syscall(SYS_exit_group, 0);
	}
	waitpid(pid, &status, 0);
	cr_expect(WIFSIGNALED(status), "%#x", status);
}

/* In a child that has entered the jail: `look` tells what it finds, by its exit status. */
static int inside(const struct jail *j, int (*look)(const int missing[JAIL_STAGES]))
{
	int status, missing[JAIL_STAGES];
	pid_t pid = fork();
	if (pid == 0) {
		if (jail_enter(j, missing) != JAIL_STAGES)
			_exit(100);
		_exit(look(missing));
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int look_at_files(const int missing[JAIL_STAGES])
{
	struct rlimit files;
	if (!missing[JAIL_ROOT] && (access("/etc", F_OK) == 0 || access("/dev", F_OK) == 0 || access("/proc", F_OK) == 0))
		return 1;
	if (!missing[JAIL_LANDLOCK] && open("/proc/self/fd/0", O_RDONLY) >= 0)
		return 2;
	if (getrlimit(RLIMIT_NOFILE, &files) || files.rlim_cur > 100 || files.rlim_max > 100)
		return 3;
	return prctl(PR_GET_DUMPABLE) || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1 ? 4 : 0;
}

Test(jail, the_vmm_has_no_files)
{
	cr_expect_eq(inside(&(struct jail){.fds_max = 100}, look_at_files), 0);
}

static int look_at_memory(const int missing[JAIL_STAGES])
{
	struct rlimit data;
	(void)missing;
	return getrlimit(RLIMIT_DATA, &data) || data.rlim_cur != 1 << 30 || data.rlim_max != 1 << 30;
}

Test(jail, memory_has_a_limit)
{
	cr_expect_eq(inside(&(struct jail){.fds_max = 100, .data_bytes_max = 1 << 30}, look_at_memory), 0);
}

static int look_at_readable(const int missing[JAIL_STAGES])
{
	if (open("/etc/passwd", O_RDONLY) < 0)
		return 1;
	if (!missing[JAIL_LANDLOCK] && (open("/etc/group", O_RDONLY) >= 0 || errno != EACCES))
		return 2;
	return open("/etc/passwd", O_RDWR) >= 0 ? 3 : 0;
}

Test(jail, the_gate_reads_what_it_was_given_and_nothing_else)
{
	static const char *const readable[] = {"/etc/passwd", "/no/such/file", NULL};
	cr_expect_eq(inside(&(struct jail){.host_network = true, .readable = readable, .fds_max = 100}, look_at_readable), 0);
}

static int look_at_network(const int missing[JAIL_STAGES])
{
	struct if_nameindex *list = if_nameindex();
	return !missing[JAIL_NAMESPACES] && (!list || strcmp(list[0].if_name, "lo") != 0 || list[1].if_index);
}

Test(jail, the_vmm_has_an_empty_network)
{
	cr_expect_eq(inside(&(struct jail){.fds_max = 100}, look_at_network), 0);
}

Test(jail, doctor_gets_every_stage)
{
	int missing[JAIL_STAGES];
	enum jail_stage failed;
	cr_assert_eq(jail_probe(missing, &failed), 0);
	cr_expect_eq(failed, JAIL_STAGES, "stage %d: %d", failed, failed < JAIL_STAGES ? missing[failed] : 0);
	cr_expect_eq(missing[JAIL_SECCOMP], 0);
}
