/*
 * The Landlock stage (Documentation/userspace-api/landlock.rst). The kernel's own header may be older than the kernel, so what
 * we ask for is spelled out here.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/jail/jail.h"

struct ruleset {
	uint64_t fs, net, scoped;
};

struct path_rule {
	uint64_t allowed;
	int32_t parent_fd;
} __attribute__((packed));

enum {
	CREATE_RULESET_VERSION = 1,
	RULE_PATH_BENEATH = 1,
	FS_READ_FILE = 1 << 2,
	FS_BITS_1 = 13, /* rights that ABI version 1 knows */
	NET_BIND_TCP = 1 << 0,
	NET_CONNECT_TCP = 1 << 1,
	SCOPE_ALL = 1 << 0 | 1 << 1, /* abstract unix sockets, signals */
};

/* All that this version of Landlock can deny. TCP connections are for who may read files: the gate. */
static struct ruleset everything(long version, bool connects)
{
	unsigned fs_bits = FS_BITS_1 + (version >= 2) + (version >= 3) + (version >= 5); /* refer, truncate, ioctl of devices */
	return (struct ruleset){
		.fs = (1u << fs_bits) - 1,
		.net = version >= 4 ? NET_BIND_TCP | (connects ? 0 : NET_CONNECT_TCP) : 0,
		.scoped = version >= 6 ? SCOPE_ALL : 0,
	};
}

static int allow_reading(int ruleset_fd, const char *path)
{
	struct path_rule rule = {.allowed = FS_READ_FILE, .parent_fd = open(path, O_PATH | O_CLOEXEC)};
	if (rule.parent_fd < 0)
		return errno == ENOENT || errno == EACCES ? 0 : -errno; /* then there is nothing to read */
	long rc = syscall(SYS_landlock_add_rule, ruleset_fd, RULE_PATH_BENEATH, &rule, 0) ? -errno : 0;
	close(rule.parent_fd);
	return (int)rc;
}

/*
 * Denies this process every file but `readable` (NULL: none), what it has open excepted; TCP, abstract sockets and signals to
 * processes outside, as far as the kernel can. Needs no_new_privs. Returns as a stage of the jail does.
 */
int jail_landlock(const char *const *readable)
{
	long version = syscall(SYS_landlock_create_ruleset, NULL, 0, CREATE_RULESET_VERSION);
	if (version < 0)
		return errno == ENOSYS || errno == EOPNOTSUPP || errno == EPERM ? errno : -errno;
	struct ruleset all = everything(version, readable != NULL);
	int fd = (int)syscall(SYS_landlock_create_ruleset, &all, sizeof all, 0);
	if (fd < 0)
		return -errno;
	int rc = 0;
	for (const char *const *path = readable; rc == 0 && path && *path; path++)
		rc = allow_reading(fd, *path);
	if (rc == 0 && syscall(SYS_landlock_restrict_self, fd, 0))
		rc = -errno;
	close(fd);
	return rc;
}
