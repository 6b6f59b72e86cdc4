#include "vmm/image/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vmm/util/buf.h"

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

/* Reads until the end. Returns 0, -EFBIG or -errno. */
static int read_all(int fd, size_t max_bytes, struct buf *out)
{
	for (;;) {
		if (out->len > max_bytes || buf_reserve(out, 65536))
			return -EFBIG;
		ssize_t n = read(fd, out->data + out->len, 65536);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return 0;
		out->len += n > 0 ? (size_t)n : 0;
	}
}

/*
 * Runs work() in a process of its own, which is to call image_confine() before it looks at anything, and waits for its end.
 * *answer gets what it writes to answer_fd; nothing where that is more than max_bytes. Returns 0, or -errno where it could not
 * be started.
 */
int image_child(void (*work)(const void *context, int answer_fd), const void *context, size_t max_bytes, struct buf *answer)
{
	int pipe_fds[2];
	if (pipe2(pipe_fds, O_CLOEXEC))
		return -errno;
	pid_t parent = getpid(), pid = fork();
	int rc = pid < 0 ? -errno : 0;
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() == parent) {
			close(pipe_fds[0]);
			work(context, pipe_fds[1]);
		}
		_exit(1);
	}
	close(pipe_fds[1]);
	if (pid > 0 && read_all(pipe_fds[0], max_bytes, answer))
		answer->len = 0;
	close(pipe_fds[0]);
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return rc;
}
