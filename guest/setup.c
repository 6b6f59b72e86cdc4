/*
 * What the guest learns from the host before its first command: name, time, and how much CPU it may use.
 *
 * The files are written into the image's /etc, whose contents are not ours: where a name is not a plain file it is
 * replaced, nothing is followed, and nothing is waited for. A file that cannot be written is not worth more than a line
 * in the log.
 */
#include "guest/setup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "guest/frame.h"
#include "guest/guest.h"
#include "guest/log.h"
#include "guest/proto.h"
#include "guest/trust.h"
#include "virtio/net/link.h"

enum {
	HOSTNAME_BYTES = 64,
	CPU_PERIOD_US = 100000,
	CPU_QUOTA_MIN_US = 1000, /* the kernel takes no less */
};

#define CGROUP "/sys/fs/cgroup/"

static int cgroup_fd = -1;

/* The cgroup.procs that commands join, or -1. */
int setup_cgroup_fd(void)
{
	return cgroup_fd;
}

/* Opens the plain file `path` for writing from its beginning; what else has that name makes room. Returns -1 on
 * failure. */
static int open_plain(const char *path)
{
	enum { FLAGS = O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC };
	struct stat st;
	int fd = open(path, FLAGS, 0644);
	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		return fd;
	if (fd >= 0)
		close(fd);
	if (unlink(path))
		rmdir(path);
	return open(path, FLAGS | O_EXCL, 0644);
}

static void write_plain(const char *path, const char *text)
{
	int fd = open_plain(path);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		log_error("cannot write %s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void set_hostname(const char *name)
{
	char text[512];
	if (sethostname(name, strlen(name)))
		log_error("cannot set the host name: %s", strerror(errno));
	mkdir("/etc", 0755);
	snprintf(text, sizeof text, "%s\n", name);
	write_plain("/etc/hostname", text);
	snprintf(text, sizeof text,
		 "127.0.0.1\tlocalhost\n"
		 "::1\tlocalhost ip6-localhost ip6-loopback\n"
		 "127.0.1.1\t%s\n",
		 name);
	write_plain("/etc/hosts", text);
	/* Without a server a resolver asks 127.0.0.1, where nothing answers: names fail at once. */
	write_plain("/etc/resolv.conf", net_has_link() ? "nameserver " LINK_DNS_TEXT "\n" : "# This sandbox has no network.\n");
}

static void set_clock(uint64_t ns)
{
	struct timespec t = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
	if (clock_settime(CLOCK_REALTIME, &t))
		log_error("cannot set the clock: %s", strerror(errno));
}

static int write_control(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int rc = fd < 0 || write(fd, text, strlen(text)) < 0 ? -errno : 0;
	if (fd >= 0)
		close(fd);
	return rc;
}

/*
 * Makes the cgroup of the commands. Root in the guest can leave it again: the limit that binds everybody is the number
 * of vCPUs.
 */
static const char *limit_cpu(uint32_t milli)
{
	char text[64];
	uint64_t quota_us = (uint64_t)milli * CPU_PERIOD_US / 1000;
	snprintf(text, sizeof text, "%llu %d",
		 (unsigned long long)(quota_us < CPU_QUOTA_MIN_US ? CPU_QUOTA_MIN_US : quota_us), CPU_PERIOD_US);
	int rc = write_control(CGROUP "cgroup.subtree_control", "+cpu");
	if (rc == 0 && mkdir(CGROUP "caplock", 0755) && errno != EEXIST)
		rc = -errno;
	rc = rc ? rc : write_control(CGROUP "caplock/cpu.max", text);
	if (rc == 0)
		cgroup_fd = open(CGROUP "caplock/cgroup.procs", O_WRONLY | O_CLOEXEC);
	return rc || cgroup_fd < 0 ? "cannot limit the CPU time of commands: the guest has no cgroup for it" : NULL;
}

/* Has programs trust the host's certificate. */
static void trust(const struct field *ca, const struct field *java_home)
{
	char home[PATH_MAX];
	int root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	snprintf(home, sizeof home, "%.*s", (int)java_home->len, (const char *)java_home->value);
	trust_install(root_fd, (const char *)ca->value, ca->len, home[0] == '/' ? home : NULL);
	close(root_fd);
}

/*
 * Does what a SETUP frame's payload says. Where the sandbox must not run commands for it, *failure becomes the reason.
 * Returns 0 or -EPROTO.
 */
int setup_apply(const uint8_t *payload, size_t len_bytes, const char **failure)
{
	char hostname[HOSTNAME_BYTES + 1] = "caplock";
	uint64_t clock_ns = 0;
	uint32_t cpu_milli = 0, seen = 0;
	struct field f, ca = {0}, java_home = {.value = (const uint8_t *)""};
	int rc;
	while ((rc = field_next(&payload, &len_bytes, &f)) == 1) {
		if (f.tag >= 32 || seen & 1u << f.tag)
			return -EPROTO;
		seen |= 1u << f.tag;
		if (f.tag == PROTO_FIELD_HOSTNAME && f.len >= 1 && f.len <= HOSTNAME_BYTES) {
			memcpy(hostname, f.value, f.len);
			hostname[f.len] = 0;
		} else if (f.tag == PROTO_FIELD_CLOCK_NS) {
			clock_ns = frame_u64(f.value);
		} else if (f.tag == PROTO_FIELD_CPU_MILLI) {
			cpu_milli = frame_u32(f.value);
		} else if (f.tag == PROTO_FIELD_CA) {
			ca = f;
		} else if (f.tag == PROTO_FIELD_JAVA_HOME) {
			java_home = f;
		} else {
			return -EPROTO;
		}
	}
	if (rc)
		return rc;
	if (clock_ns)
		set_clock(clock_ns);
	if (*failure)
		return 0; /* there is no root to write to */
	set_hostname(hostname);
	if (ca.len)
		trust(&ca, &java_home);
	if (cpu_milli)
		*failure = limit_cpu(cpu_milli);
	return 0;
}
