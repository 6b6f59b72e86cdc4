/*
 * mkfilters: writes build/filters.c, a seccomp program for each role of vmm/jail/jail.h. Run by make, because libseccomp takes
 * longer to make a filter than a sandbox has for all of its start.
 *
 * mkfilters --list: prints the table, "ROLE SYSTEM-CALL" a line, and "rare" behind what not every run needs; tests/escape/needed
 * compares it with what is used.
 *
 * What is not in the table kills the process. No rule allows to open for writing, execute, make a process or a thread, trace,
 * signal, or map memory that can be executed; only the gate may make a socket.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/jail/jail.h"

/* Who may. */
enum {
	M = 1 << JAIL_MAIN,
	D = 1 << JAIL_DISK,
	N = 1 << JAIL_NETWORK,
	V = 1 << JAIL_VCPU,
	I = 1 << JAIL_INTERCEPTOR, /* a gate that reads flows */
	G = 1 << JAIL_GATE | I,
};

static const char *const role_names[JAIL_ROLES] = {"caplock-vmm", "disk", "network", "vcpu", "caplock-gate", "caplock-gate"};

struct rule {
	int number;
	const char *name;
	unsigned roles;
	bool rare;
	unsigned args;
	struct scmp_arg_cmp arg[2];
};

#define ALLOW(name, roles) {SCMP_SYS(name), #name, roles, false, 0, {{0}}}
#define ALLOW_RARE(name, roles) {SCMP_SYS(name), #name, roles, true, 0, {{0}}}
#define ALLOW_IF(name, roles, test) {SCMP_SYS(name), #name, roles, false, 1, {test}}
#define ALLOW_RARE_IF(name, roles, test) {SCMP_SYS(name), #name, roles, true, 1, {test}}
#define ALLOW_IF2(name, roles, test, and) {SCMP_SYS(name), #name, roles, false, 2, {test, and}}
#define ARG_IS(n, value) {n, SCMP_CMP_EQ, value, 0}
#define ARG_BITS(n, mask, value) {n, SCMP_CMP_MASKED_EQ, mask, value}
#define NOT_EXECUTABLE ARG_BITS(2, PROT_EXEC, 0)
#define SOCKET(family, type) ALLOW_IF2(socket, G, ARG_IS(0, family), ARG_BITS(1, 0xf, type))

static const struct rule rules[] = {
	/* The guest: its CPUs, and the messages of its interrupts (ioapic.c). */
	ALLOW_IF(ioctl, V, ARG_IS(1, KVM_RUN)),
	ALLOW_IF(ioctl, V, ARG_IS(1, KVM_SET_GSI_ROUTING)),
	/* Events: the loops, eventfds both ways, timers, locks. */
	ALLOW(epoll_wait, M | D | N | G),
	ALLOW(epoll_ctl, M | N | G),
	ALLOW(read, M | D | N | G),
	ALLOW(write, M | D | N | V),
	ALLOW(timerfd_settime, N),
	ALLOW_RARE(timerfd_create, N), /* with the first UDP flow */
	ALLOW_RARE(futex, M | D | N | V), /* where two threads want the same device */
	ALLOW_RARE(clock_gettime, M | D | N | V | G), /* where the vDSO has no clock */
	/* Disks. */
	ALLOW(preadv, D),
	ALLOW(pwritev, D),
	ALLOW_RARE(fdatasync, D), /* where the guest flushes */
	ALLOW_RARE(fallocate, D), /* where it discards */
	ALLOW(getrandom, N), /* sequence numbers */
	/* Sockets that somebody else made. A vCPU that resets a device ends its connections. */
	ALLOW(readv, M),
	ALLOW(sendmsg, M | N | G),
	ALLOW(sendto, N | G),
	ALLOW(recvfrom, N | G),
	ALLOW(recvmsg, N | G),
	ALLOW_RARE(recvmsg, M), /* connections into the guest */
	ALLOW(shutdown, M | N | V),
	ALLOW(setsockopt, N | G),
	ALLOW(close, M | N | G),
	/* The gate's own: to the Internet, not raw, and never listening. */
	SOCKET(AF_INET, SOCK_STREAM),
	SOCKET(AF_INET, SOCK_DGRAM),
	SOCKET(AF_INET6, SOCK_STREAM),
	SOCKET(AF_INET6, SOCK_DGRAM),
	ALLOW(connect, G),
	ALLOW(getsockname, G),
	ALLOW(getsockopt, G),
	/* The gate's resolver reads the host's configuration; Landlock says which files. */
	ALLOW_IF(openat, G, ARG_BITS(2, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY)),
	ALLOW(newfstatat, G),
	ALLOW(fcntl, G),
	ALLOW(uname, G),
	ALLOW_RARE(fstat, G),  /* newer C libraries' newfstatat */
	ALLOW_RARE(writev, G), /* DNS over TCP */
	/* A gate that reads flows: TLS on sockets, pairs of sockets for the vmm, certificates in files. */
	ALLOW_RARE(write, I),
	ALLOW_RARE_IF(socketpair, I, ARG_IS(0, AF_UNIX)),
	ALLOW_RARE(getrandom, I),
	ALLOW_RARE(access, I),
	ALLOW_RARE(lseek, I),
	ALLOW_RARE(shutdown, I),
	ALLOW_RARE(getpid, I),
	ALLOW_RARE(futex, I),
	ALLOW_RARE(sysinfo, I), /* qsort(), until glibc 2.37, once */
	ALLOW_RARE(gettimeofday, I), /* where the vDSO has no clock */
	ALLOW_RARE(time, I),
	/* Memory, as allocations come. */
	ALLOW_RARE(brk, M | D | N | V | G),
	ALLOW_RARE_IF(mmap, M | N | G, NOT_EXECUTABLE),
	ALLOW_RARE_IF(mprotect, M | N, NOT_EXECUTABLE),
	ALLOW_RARE(munmap, M | N | V | G),
	ALLOW_RARE(mremap, M | N | G),
	ALLOW_RARE(madvise, M | N | V),
	/* Ends: of the process, and of a thread that failed or whose guest has ended. */
	ALLOW_RARE(exit_group, M | G),
	ALLOW_RARE(madvise, D),
	ALLOW_RARE(rt_sigprocmask, D | N | V),
	ALLOW_RARE(exit, D | N | V),
};

enum { RULES = sizeof rules / sizeof rules[0] };

static _Noreturn void die(const char *what, int error)
{
	fprintf(stderr, "mkfilters: %s: %s\n", what, strerror(error));
	exit(1);
}

static scmp_filter_ctx make(enum jail_role role)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_KILL_PROCESS);
	if (!f)
		die("seccomp_init", ENOMEM);
	int rc = seccomp_attr_set(f, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	for (unsigned i = 0; i < RULES && rc == 0; i++)
		if (rules[i].roles & 1u << role)
			rc = seccomp_rule_add_exact_array(f, SCMP_ACT_ALLOW, rules[i].number, rules[i].args, rules[i].arg);
	/* What a machine does most is looked for first. */
	rc = rc ? rc : seccomp_syscall_priority(f, role == JAIL_VCPU ? SCMP_SYS(ioctl) : SCMP_SYS(epoll_wait), 255);
	if (rc)
		die(role_names[role], -rc);
	return f;
}

static void print_code(enum jail_role role)
{
	static struct sock_filter code[BPF_MAXINSNS];
	FILE *binary = tmpfile();
	scmp_filter_ctx f = make(role);
	int rc = binary ? seccomp_export_bpf(f, fileno(binary)) : -errno;
	if (rc)
		die("seccomp_export_bpf", -rc);
	rewind(binary);
	size_t count = fread(code, sizeof code[0], BPF_MAXINSNS, binary);
	printf("static const struct sock_filter role_%u[] = { /* %s */\n", role, role_names[role]);
	for (size_t i = 0; i < count; i++)
		printf("\t{%#x, %u, %u, %#x},\n", code[i].code, code[i].jt, code[i].jf, code[i].k);
	printf("};\n\n");
	seccomp_release(f);
	fclose(binary);
}

static void list(void)
{
	for (enum jail_role role = 0; role < JAIL_ROLES; role++)
		for (unsigned i = 0; i < RULES; i++)
			if (rules[i].roles & 1u << role)
				printf("%s %s%s\n", role_names[role], rules[i].name, rules[i].rare ? " rare" : "");
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "--list") == 0) {
		list();
		return 0;
	}
	printf("/* Made by vmm/jail/tools/mkfilters.c. */\n#include \"vmm/jail/jail.h\"\n\n");
	for (enum jail_role role = 0; role < JAIL_ROLES; role++)
		print_code(role);
	printf("#define FILTER(role) {role, sizeof role / sizeof role[0]}\n\nconst struct jail_filter jail_filter[JAIL_ROLES] = {\n");
	for (enum jail_role role = 0; role < JAIL_ROLES; role++)
		printf("\tFILTER(role_%u),\n", role);
	printf("};\n");
	return fflush(stdout) ? 1 : 0;
}
