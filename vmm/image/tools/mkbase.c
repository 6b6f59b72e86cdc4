/*
 * mkbase OUT: writes the built-in base image: Debian's busybox with a name for every applet. Run by make.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/image/ext4.h"
#include "vmm/image/tree.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"

static const char busybox[] = "/bin/busybox";
static struct tree tree;
static int spool_fd;
static uint64_t spool_bytes;

static _Noreturn void die(const struct err *e)
{
	fprintf(stderr, "mkbase: %s\n", e->text);
	exit(1);
}

static void put(const char *path, mode_t mode, const void *data, size_t len_bytes)
{
	struct err e;
	struct tree_inode *i = tree_inode_create(mode);
	if (!i || (len_bytes && io_write_all(spool_fd, data, len_bytes)))
		die(&(struct err){"cannot write"});
	i->data_offset = spool_bytes;
	i->data_bytes = len_bytes;
	spool_bytes += len_bytes;
	if (S_ISLNK(mode)) {
		i->target = strdup(data);
		i->data_bytes = 0;
	}
	if (tree_put(&tree, 1, path, i, &e))
		die(&e);
}

static void put_text(const char *path, const char *text)
{
	put(path, S_IFREG | 0644, text, strlen(text));
}

static void put_busybox(void)
{
	struct stat st;
	int fd = open(busybox, O_RDONLY);
	void *bytes = fd < 0 || fstat(fd, &st) ? MAP_FAILED : mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (bytes == MAP_FAILED)
		die(&(struct err){"cannot read /bin/busybox (package busybox-static)"});
	put("bin/busybox", S_IFREG | 0755, bytes, (size_t)st.st_size);
	close(fd);
}

/* Applets as `busybox --list-full` names them: with their directories. */
static void put_applets(void)
{
	char line[128];
	FILE *list = popen("/bin/busybox --list-full", "r");
	unsigned count = 0;
	while (list && fgets(line, sizeof line, list)) {
		line[strcspn(line, "\n")] = 0;
		if (strcmp(line, "bin/busybox") != 0 && line[0])
			put(line, S_IFLNK | 0777, "/bin/busybox", 12);
		count++;
	}
	if (!list || pclose(list) || count == 0)
		die(&(struct err){"busybox does not list its applets"});
}

int main(int argc, char **argv)
{
	static const uint8_t uuid[16] = "caplock baseimg";
	struct err e;
	uint64_t size_bytes;
	if (argc != 2)
		die(&(struct err){"usage: mkbase OUT"});
	spool_fd = memfd_create("spool", MFD_CLOEXEC);
	int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (spool_fd < 0 || fd < 0 || tree_init(&tree))
		die(&(struct err){"cannot write"});
	static const char *const dirs[] = {"dev", "etc", "home", "mnt", "proc", "run", "sys", "usr/bin", "usr/sbin", "var"};
	for (unsigned i = 0; i < sizeof dirs / sizeof dirs[0]; i++)
		put(dirs[i], S_IFDIR | 0755, NULL, 0);
	put("root", S_IFDIR | 0700, NULL, 0);
	put("tmp", S_IFDIR | 01777, NULL, 0);
	put("var/tmp", S_IFDIR | 01777, NULL, 0);
	put_busybox();
	put_applets();
	put_text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n");
	put_text("etc/group", "root:x:0:\nnogroup:x:65534:\n");
	put_text("etc/nsswitch.conf", "hosts: files dns\n");
	if (ext4_write_tree(fd, &tree, spool_fd, uuid, &size_bytes, &e))
		die(&e);
	tree_free(&tree);
	return 0;
}
