#include "vmm/image/confine.h"

#include <errno.h>
#include <seccomp.h>
#include <sys/resource.h>

/*
 * Leaves this process what working on its descriptors and its memory needs: it can no longer open, execute or connect
 * anything. Returns 0 or -errno.
 */
int image_confine(void)
{
	static const int allowed[] = {
		SCMP_SYS(read),          SCMP_SYS(write),       SCMP_SYS(readv),          SCMP_SYS(writev),    SCMP_SYS(pread64),
		SCMP_SYS(pwrite64),      SCMP_SYS(lseek),       SCMP_SYS(fstat),          SCMP_SYS(newfstatat), SCMP_SYS(ftruncate),
		SCMP_SYS(fallocate),     SCMP_SYS(fsync),       SCMP_SYS(fdatasync),      SCMP_SYS(fcntl),     SCMP_SYS(close),
		SCMP_SYS(mmap),          SCMP_SYS(mremap),      SCMP_SYS(munmap),         SCMP_SYS(mprotect),  SCMP_SYS(madvise),
		SCMP_SYS(brk),           SCMP_SYS(futex),       SCMP_SYS(rt_sigaction),   SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn),
		SCMP_SYS(clock_gettime), SCMP_SYS(getrandom),   SCMP_SYS(exit),           SCMP_SYS(exit_group), SCMP_SYS(getpid),
		SCMP_SYS(gettid),        SCMP_SYS(sigaltstack), SCMP_SYS(sched_yield),    SCMP_SYS(getuid),    SCMP_SYS(geteuid),
		SCMP_SYS(getgid),        SCMP_SYS(getegid),
	};
	struct rlimit no_core = {0, 0};
	setrlimit(RLIMIT_CORE, &no_core);
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	if (!filter)
		return -ENOMEM;
	int rc = 0;
	for (unsigned i = 0; i < sizeof allowed / sizeof allowed[0] && rc == 0; i++)
		rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
	rc = rc ? rc : seccomp_load(filter); /* sets no_new_privs, too */
	seccomp_release(filter);
	return rc;
}
