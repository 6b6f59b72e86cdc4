/*
 * The sandbox's root: the image, read-only, under a writable layer.
 *
 *   /dev/vda  the image            -> lower of the overlay
 *   /dev/vdb  the scratch disk     -> upper/ and work/ of the overlay
 *
 * The overlay is moved over the initramfs, whose root cannot be pivoted. From then on every path is resolved inside the
 * image, whatever its symbolic links say. Mount points that the image lacks are made in the overlay.
 */
#include "guest/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/log.h"

struct mount_point {
	const char *type, *path, *options;
	unsigned long flags;
	bool needed;
};

enum { PLAIN = MS_NOSUID | MS_NODEV | MS_NOEXEC };

/* As docker has them, but writable: root in the sandbox administers its own kernel. */
static const struct mount_point mount_points[] = {
    {"proc", "/proc", NULL, PLAIN, true},
    {"sysfs", "/sys", NULL, PLAIN, true},
    {"devtmpfs", "/dev", "mode=0755", MS_NOSUID | MS_NOEXEC, true},
    {"devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666", MS_NOSUID | MS_NOEXEC, false},
    {"tmpfs", "/dev/shm", "mode=1777", PLAIN, false},
    {"mqueue", "/dev/mqueue", NULL, PLAIN, false},
    {"cgroup2", "/sys/fs/cgroup", NULL, PLAIN, false},
};

static const char *const dev_links[][2] = {
    {"/proc/self/fd", "/dev/fd"},
    {"/proc/self/fd/0", "/dev/stdin"},
    {"/proc/self/fd/1", "/dev/stdout"},
    {"/proc/self/fd/2", "/dev/stderr"},
};

static char failure_text[256];

static const char *failed(const char *what)
{
	snprintf(failure_text, sizeof failure_text, "the sandbox has no root: cannot mount %s: %s", what,
		 strerror(errno));
	log_error("%s", failure_text);
	return failure_text;
}

/* Mounts the initramfs's /dev. Returns NULL, or why not. */
const char *mount_dev(void)
{
	mkdir("/dev", 0755);
	return mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755") ? failed("/dev") : NULL;
}

/* Makes `path` a directory, also where the image has something else there. */
static void make_directory(const char *path)
{
	struct stat st;
	if (mkdir(path, 0755) == 0 || errno != EEXIST)
		return;
	if (lstat(path, &st) == 0 && !S_ISDIR(st.st_mode) && unlink(path) == 0)
		mkdir(path, 0755);
}

/*
 * Options: the image has nothing to recover (noload), and neither disk is worth a thread that initialises it or reads
 * ahead. Write barriers order writes against a loss of power, of which the scratch disk survives none anyway: the
 * host's page cache keeps what the guest wrote, in order, also when the sandbox is killed. Without them this mount
 * takes 0.3 ms instead of 4.
 */
#define IMAGE_OPTIONS   "noload,no_prefetch_block_bitmaps"
#define SCRATCH_OPTIONS "nobarrier,noinit_itable,no_prefetch_block_bitmaps"

static const char *mount_overlay(int *scratch_fd)
{
	mkdir("/image", 0755);
	mkdir("/scratch", 0755);
	mkdir("/root", 0755);
	if (mount("/dev/vda", "/image", "ext4", MS_RDONLY, IMAGE_OPTIONS))
		return failed("the image");
	if (mount("/dev/vdb", "/scratch", "ext4", 0, SCRATCH_OPTIONS))
		return failed("the scratch disk");
	*scratch_fd = open("/scratch", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (mount("overlay", "/root", "overlay", 0, "lowerdir=/image,upperdir=/scratch/upper,workdir=/scratch/work"))
		return failed("the writable layer over the image");
	return NULL;
}

/*
 * Mounts the sandbox's root and makes it this process's. *scratch_fd is set to the directory of the scratch disk, owned
 * by the caller, or -1. Returns NULL, or why there is no root.
 */
const char *mount_root(int *scratch_fd)
{
	*scratch_fd = -1;
	const char *why = mount_overlay(scratch_fd);
	if (why)
		return why;
	if (chdir("/root") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"))
		return failed("the root");
	umask(0);
	for (size_t i = 0; i < sizeof mount_points / sizeof mount_points[0]; i++) {
		const struct mount_point *m = &mount_points[i];
		make_directory(m->path);
		if (mount(m->type, m->path, m->type, m->flags, m->options) == 0)
			continue;
		if (m->needed)
			return failed(m->path);
		log_error("cannot mount %s: %s", m->path, strerror(errno));
	}
	umask(022);
	for (size_t i = 0; i < sizeof dev_links / sizeof dev_links[0]; i++)
		if (symlink(dev_links[i][0], dev_links[i][1]))
			log_error("cannot make %s: %s", dev_links[i][1], strerror(errno));
	return NULL;
}
