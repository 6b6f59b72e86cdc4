/* vmm/image: from archives to root images, which e2fsck and debugfs look at. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/archive_maker.h"
#include "vmm/image/image.h"
#include "vmm/image/store.h"
#include "vmm/util/err.h"

static char home[] = "/tmp/caplock-store-XXXXXX";
static struct store *store;
static struct image image;
static struct err e;

static void set_up(void)
{
	store = make_store(home);
}

static void tear_down(void)
{
	image_free(&image);
	remove_store(store, home);
}

TestSuite(image, .init = set_up, .fini = tear_down, .timeout = 120);

/* ---- Helpers ---- */

/* Imports archive `b`, and frees it, as `name`. */
static int import_as(const char *name, struct bytes b)
{
	int fd = file_of(&b);
	image_free(&image);
	int rc = image_import(store, name, fd, &image, &e);
	close(fd);
	bytes_free(&b);
	return rc;
}

/* Imports an image of these unpacked layers as x:latest. Frees the layers. */
static int import_layers(struct bytes *layer, unsigned count)
{
	int rc = import_as("x", make_docker(&(struct image_parts){.packed = layer, .unpacked = layer, .count = count}));
	for (unsigned i = 0; i < count; i++)
		bytes_free(&layer[i]);
	return rc;
}

/* What `command` (with %s for the root image's path) prints. */
static char said[65536];

static const char *run(const char *command)
{
	char line[8192], path[4096];
	snprintf(path, sizeof path, "%s/caplock/images/sha256-%s.ext4", home, image.digest + 7);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(line, sizeof line, command, path);
#pragma GCC diagnostic pop
	FILE *f = popen(line, "r");
	size_t n = fread(said, 1, sizeof said - 1, f);
	said[n] = 0;
	pclose(f);
	return said;
}

static void expect_clean(void)
{
	run("PATH=$PATH:/sbin:/usr/sbin e2fsck -fn %s >/dev/null 2>&1; echo $?");
	cr_expect_str_eq(said, "0\n", "e2fsck finds errors");
}

/* debugfs prints what is at `path`. */
static const char *debugfs(const char *what, const char *path)
{
	char command[1024];
	snprintf(command, sizeof command, "PATH=$PATH:/sbin:/usr/sbin debugfs -R '%s %s' %%s 2>/dev/null", what, path);
	return run(command);
}

static void expect_file(const char *path, const char *text)
{
	cr_expect_str_eq(debugfs("cat", path), text, "%s", path);
}

static bool exists(const char *path)
{
	return strstr(debugfs("stat", path), "Inode:") != NULL;
}

static bool stat_has(const char *path, const char *text)
{
	return strstr(debugfs("stat", path), text) != NULL;
}

static unsigned files_in(const char *sub)
{
	char command[512];
	snprintf(command, sizeof command, "ls -A %s/caplock/%s 2>/dev/null | wc -l", home, sub);
	FILE *f = popen(command, "r");
	unsigned n = 0;
	cr_assert_eq(fscanf(f, "%u", &n), 1);
	pclose(f);
	return n;
}

static void expect_refused(int rc, const char *text)
{
	cr_expect_lt(rc, 0, "not refused: %s", text);
	cr_expect(strstr(e.text, text), "'%s' lacks '%s'", e.text, text);
	cr_expect_eq(files_in("images"), 0, "a refused image is in the store");
	cr_expect_eq(files_in("names"), 0);
}

static struct bytes one_file(const char *path, const char *text)
{
	struct tar t;
	tar_begin(&t, PACK_NONE);
	tar_file(&t, path, 0644, text);
	return tar_end(&t);
}

/* ---- Formats ---- */

static struct bytes rich_layer(enum packing packing)
{
	struct tar t;
	tar_begin(&t, packing);
	tar_dir(&t, "./", 0755);
	tar_dir(&t, "./etc", 0755);
	tar_file(&t, "./etc/hostname", 0640, "name\n");
	struct archive_entry *entry = tar_entry("bin/tool", S_IFREG | 04755);
	archive_entry_set_uid(entry, 70000);
	archive_entry_set_gid(entry, 42);
	archive_entry_xattr_add_entry(entry, "user.key", "value", 5);
	archive_entry_xattr_add_entry(entry, "security.capability", "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
	tar_add(&t, entry, "binary", 6);
	tar_symlink(&t, "sbin", "bin");
	tar_hardlink(&t, "bin/same", "bin/tool");
	entry = tar_entry("dev/null", S_IFCHR | 0666);
	archive_entry_set_rdevmajor(entry, 1);
	archive_entry_set_rdevminor(entry, 3);
	tar_add(&t, entry, NULL, 0);
	tar_add(&t, tar_entry("fifo", S_IFIFO | 0600), NULL, 0);
	tar_file(&t, "caf\xc3\xa9", 0644, "utf-8");
	tar_file(&t, "empty", 0644, "");
	return tar_end(&t);
}

static void expect_rich(void)
{
	expect_clean();
	expect_file("/etc/hostname", "name\n");
	expect_file("/bin/tool", "binary");
	cr_expect(stat_has("/bin/tool", "Mode:  04755"));
	cr_expect(stat_has("/bin/tool", "User: 70000   Group:    42"));
	cr_expect(stat_has("/bin/tool", "Links: 2"));
	cr_expect(stat_has("/bin/tool", "mtime: 0x6553f100:00000014"), "%s", said);
	cr_expect(stat_has("/bin/tool", "user.key"));
	cr_expect(stat_has("/bin/tool", "security.capability"));
	cr_expect(stat_has("/sbin", "Fast link dest: \"bin\""));
	cr_expect(stat_has("/dev/null", "character special"));
	cr_expect(stat_has("/dev/null", "01:03"), "%s", said);
	cr_expect(stat_has("/fifo", "FIFO"));
	expect_file("/caf\xc3\xa9", "utf-8");
	cr_expect(exists("/empty"));
}

Test(image, imports_what_docker_saves)
{
	struct bytes layer = rich_layer(PACK_NONE);
	cr_assert_eq(import_layers(&layer, 1), 0, "%s", e.text);
	cr_expect_str_eq(image.name, "x:latest");
	expect_rich();
}

static void import_oci(enum packing packing)
{
	struct bytes packed = rich_layer(packing), unpacked = rich_layer(PACK_NONE);
	cr_assert_eq(import_as("y:1", make_oci(&(struct image_parts){.packed = &packed, .unpacked = &unpacked, .count = 1})), 0, "%s",
		     e.text);
	bytes_free(&packed);
	bytes_free(&unpacked);
	expect_rich();
}

Test(image, imports_an_oci_layout) { import_oci(PACK_NONE); }

Test(image, imports_layers_packed_with_gzip) { import_oci(PACK_GZIP); }

Test(image, imports_layers_packed_with_zstd) { import_oci(PACK_ZSTD); }

Test(image, imports_a_directory_and_a_pipe)
{
	struct bytes layer = rich_layer(PACK_NONE);
	struct image_parts parts = {.packed = &layer, .unpacked = &layer, .count = 1};
	struct bytes oci = make_oci(&parts);
	char path[100], command[300];
	snprintf(path, sizeof path, "%s/layout", home);
	snprintf(command, sizeof command, "mkdir %s && tar -x -C %s", path, path);
	FILE *f = popen(command, "w");
	fwrite(oci.data, 1, oci.len, f);
	cr_assert_eq(pclose(f), 0);
	int fd = open(path, O_RDONLY | O_DIRECTORY);
	cr_assert_eq(image_import(store, "dir", fd, &image, &e), 0, "%s", e.text);
	close(fd);
	expect_rich();
	char digest[100];
	snprintf(digest, sizeof digest, "%s", image.digest);
	image_free(&image);

	int fds[2];
	cr_assert_eq(pipe(fds), 0);
	pid_t pid = fork();
	if (pid == 0) {
		for (size_t at = 0; at < oci.len;) {
			ssize_t n = write(fds[1], oci.data + at, oci.len - at < 777 ? oci.len - at : 777);
			at += n > 0 ? (size_t)n : 0;
		}
		_exit(0);
	}
	close(fds[1]);
	cr_assert_eq(image_import(store, "pipe", fds[0], &image, &e), 0, "%s", e.text);
	close(fds[0]);
	waitpid(pid, NULL, 0);
	cr_expect_str_eq(image.digest, digest, "the same files make the same root image");
	cr_expect_eq(files_in("images"), 1);
	bytes_free(&oci);
	bytes_free(&layer);
}

Test(image, configuration_is_kept)
{
	struct bytes layer = one_file("a", "b");
	const char *config = "{\"Env\":[\"A=1\",\"B=\\u00e9\"],\"Entrypoint\":[\"/e\"],\"Cmd\":null,\"WorkingDir\":\"/w\",\"User\":\"u\","
			     "\"Labels\":{\"x\":\"y\"}}";
	cr_assert_eq(import_as("c", make_docker(&(struct image_parts){.packed = &layer, .unpacked = &layer, .count = 1, .config = config})),
		     0, "%s", e.text);
	bytes_free(&layer);
	image_free(&image);
	int fd;
	cr_assert_eq(image_open(store, "c", &image, &fd, &e), 0, "%s", e.text);
	close(fd);
	cr_expect_str_eq(image.config.env[1], "B=\xc3\xa9");
	cr_expect_null(image.config.env[2]);
	cr_expect_str_eq(image.config.entrypoint[0], "/e");
	cr_expect_null(image.config.cmd[0]);
	cr_expect_str_eq(image.config.working_dir, "/w");
	cr_expect_str_eq(image.config.user, "u");
}

Test(image, large_and_sparse_files_and_directories)
{
	struct tar t;
	tar_begin(&t, PACK_NONE);
	size_t len = 9 << 20;
	char *big = calloc(1, len);
	for (size_t i = 0; i < len; i++)
		big[i] = (i >> 16) % 3 ? (char)(i * 7 + i / 4096) : 0;
	tar_add(&t, tar_entry("big", S_IFREG | 0644), big, len);
	for (int i = 0; i < 2000; i++) {
		char name[100];
		snprintf(name, sizeof name, "many/a-file-with-quite-a-long-name-%d", i);
		tar_file(&t, name, 0644, "x");
	}
	struct bytes layer = tar_end(&t);
	cr_assert_eq(import_layers(&layer, 1), 0, "%s", e.text);
	expect_clean();
	struct bytes whole = {.data = (uint8_t *)big, .len = len};
	char digest[DIGEST_TEXT_BYTES];
	bytes_digest(&whole, digest);
	run("PATH=$PATH:/sbin:/usr/sbin debugfs -R 'cat /big' %s 2>/dev/null | sha256sum");
	cr_expect_eq(strncmp(said, digest + 7, 64), 0);
	cr_expect(exists("/many/a-file-with-quite-a-long-name-1999"));
	free(big);
}

/* ---- Layers ---- */

Test(image, upper_layers_replace_and_remove)
{
	struct tar t;
	struct bytes layer[2];
	tar_begin(&t, PACK_NONE);
	tar_file(&t, "kept", 0644, "1");
	tar_file(&t, "replaced", 0644, "1");
	tar_file(&t, "removed", 0644, "1");
	tar_file(&t, "dir/gone", 0644, "1");
	tar_file(&t, "dir/deep/gone", 0644, "1");
	tar_file(&t, "becomes-dir", 0644, "1");
	tar_file(&t, "becomes-file/x", 0644, "1");
	tar_dir(&t, "meta", 0755);
	tar_file(&t, "meta/kept", 0644, "1");
	layer[0] = tar_end(&t);
	tar_begin(&t, PACK_NONE);
	tar_file(&t, "replaced", 0600, "2");
	tar_file(&t, ".wh.removed", 0644, "");
	tar_file(&t, "dir/new", 0644, "2");
	tar_file(&t, "dir/.wh..wh..opq", 0644, "");
	tar_file(&t, "becomes-dir/x", 0644, "2");
	tar_file(&t, "becomes-file", 0644, "2");
	tar_dir(&t, "meta", 0700);
	tar_file(&t, ".wh..wh.aufs", 0644, "");
	layer[1] = tar_end(&t);
	cr_assert_eq(import_layers(layer, 2), 0, "%s", e.text);
	expect_clean();
	expect_file("/kept", "1");
	expect_file("/replaced", "2");
	cr_expect_not(exists("/removed"));
	cr_expect_not(exists("/dir/gone"));
	cr_expect_not(exists("/dir/deep"));
	expect_file("/dir/new", "2");
	expect_file("/becomes-dir/x", "2");
	expect_file("/becomes-file", "2");
	expect_file("/meta/kept", "1");
	cr_expect(stat_has("/meta", "Mode:  0700"));
	cr_expect_not(exists("/.wh.removed"));
	cr_expect_not(exists("/.wh..wh.aufs"));
}

/* ---- Threat cases ---- */

Test(image, case_38_dot_dot_is_refused)
{
	const char *paths[] = {"../evil", "a/../../evil", "a/..", "..", "/../evil"};
	for (unsigned i = 0; i < sizeof paths / sizeof paths[0]; i++) {
		struct bytes layer = one_file(paths[i], "x");
		expect_refused(import_layers(&layer, 1), "'..'");
	}
	struct tar t;
	tar_begin(&t, PACK_NONE);
	tar_hardlink(&t, "link", "../../etc/passwd");
	struct bytes layer = tar_end(&t);
	expect_refused(import_layers(&layer, 1), "'..'");
	layer = one_file(".wh...", "");
	expect_refused(import_layers(&layer, 1), "whiteout");
}

Test(image, case_38_absolute_names_and_links_stay_in_the_image)
{
	struct tar t;
	tar_begin(&t, PACK_NONE);
	tar_file(&t, "/absolute", 0644, "1");
	tar_symlink(&t, "out", "/tmp/outside");
	tar_file(&t, "out/file", 0644, "2");
	tar_symlink(&t, "up", "../../../../../srv");
	tar_file(&t, "up/file", 0644, "3");
	tar_hardlink(&t, "hard", "/up/file");
	struct bytes layer = tar_end(&t);
	cr_assert_eq(import_layers(&layer, 1), 0, "%s", e.text);
	expect_clean();
	expect_file("/absolute", "1");
	expect_file("/tmp/outside/file", "2");
	expect_file("/srv/file", "3");
	expect_file("/hard", "3");
	cr_expect_neq(access("/tmp/outside", F_OK), 0, "written to the host");
}

Test(image, case_38_a_symlink_is_replaced_not_followed)
{
	struct tar t;
	struct bytes layer[2];
	tar_begin(&t, PACK_NONE);
	tar_file(&t, "target", 0644, "old");
	tar_symlink(&t, "link", "target");
	layer[0] = tar_end(&t);
	tar_begin(&t, PACK_NONE);
	tar_file(&t, "link", 0644, "new");
	layer[1] = tar_end(&t);
	cr_assert_eq(import_layers(layer, 2), 0, "%s", e.text);
	expect_file("/target", "old");
	expect_file("/link", "new");
}

Test(image, case_38_symlink_loops_end)
{
	struct tar t;
	tar_begin(&t, PACK_NONE);
	tar_symlink(&t, "a", "b");
	tar_symlink(&t, "b", "a");
	tar_file(&t, "a/file", 0644, "x");
	struct bytes layer = tar_end(&t);
	expect_refused(import_layers(&layer, 1), "symbolic links");
}

Test(image, case_38_whiteouts_through_symlinks_stay_in_the_image)
{
	struct tar t;
	struct bytes layer[2];
	tar_begin(&t, PACK_NONE);
	tar_symlink(&t, "etc", "/usr/etc");
	tar_file(&t, "usr/etc/passwd", 0644, "x");
	layer[0] = tar_end(&t);
	tar_begin(&t, PACK_NONE);
	tar_file(&t, "etc/.wh.passwd", 0644, "");
	layer[1] = tar_end(&t);
	cr_assert_eq(import_layers(layer, 2), 0, "%s", e.text);
	cr_expect_not(exists("/usr/etc/passwd"));
	cr_expect_eq(access("/etc/passwd", F_OK), 0);
}

Test(image, case_38_hard_links_to_nothing_or_to_directories)
{
	struct tar t;
	tar_begin(&t, PACK_NONE);
	tar_hardlink(&t, "link", "not/there");
	struct bytes layer = tar_end(&t);
	expect_refused(import_layers(&layer, 1), "hard link");
	tar_begin(&t, PACK_NONE);
	tar_dir(&t, "dir", 0755);
	tar_hardlink(&t, "link", "dir");
	layer = tar_end(&t);
	expect_refused(import_layers(&layer, 1), "directory");
}

/* Making the directories of a link's name removes the only name of its target. */
Test(image, case_38_a_hard_link_below_its_own_target)
{
	struct tar t;
	tar_begin(&t, PACK_NONE);
	tar_file(&t, "a", 0644, "x");
	tar_hardlink(&t, "a/b", "a");
	tar_hardlink(&t, "a/b", "a/b");
	struct bytes layer = tar_end(&t);
	cr_assert_eq(import_layers(&layer, 1), 0, "%s", e.text);
	expect_clean();
	expect_file("/a/b", "x");
}

Test(image, case_39_depth_and_lengths_are_bounded)
{
	char path[5000] = "";
	for (int i = 0; i < 300; i++)
		strcat(path, "d/");
	struct bytes layer = one_file(path, "x");
	struct tar t;
	expect_refused(import_layers(&layer, 1), "deep");
	memset(path, 'n', 256);
	path[256] = 0;
	layer = one_file(path, "x");
	expect_refused(import_layers(&layer, 1), "255");
	for (int i = 0; i < 4999; i++)
		path[i] = i % 100 ? 'n' : '/';
	path[4999] = 0;
	layer = one_file(path, "x");
	expect_refused(import_layers(&layer, 1), "4096");
	tar_begin(&t, PACK_NONE);
	struct archive_entry *entry = tar_entry("x", S_IFREG | 0644);
	char value[9000] = {0};
	archive_entry_xattr_add_entry(entry, "user.big", value, sizeof value);
	tar_add(&t, entry, NULL, 0);
	layer = tar_end(&t);
	expect_refused(import_layers(&layer, 1), "extended attributes");
}

/* A tar header with an octal or base-256 size of our choice. */
static struct bytes lying_size(const char *size, size_t len)
{
	uint8_t block[1536] = "lying";
	memcpy(block + 100, "0000644", 8);
	memcpy(block + 108, "0000000", 8);
	memcpy(block + 116, "0000000", 8);
	memcpy(block + 124, size, len);
	memcpy(block + 136, "00000000000", 12);
	memset(block + 148, ' ', 8);
	block[156] = '0';
	memcpy(block + 257, "ustar\00000", 8);
	unsigned sum = 0;
	for (int i = 0; i < 512; i++)
		sum += block[i];
	snprintf((char *)block + 148, 8, "%06o", sum);
	return bytes_of(block, sizeof block);
}

Test(image, case_39_sizes_that_are_lies)
{
	struct bytes layer = lying_size("77777777777", 12);
	cr_expect_lt(import_layers(&layer, 1), 0);
	layer = lying_size("\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", 12); /* 8 EiB */
	cr_expect_lt(import_layers(&layer, 1), 0);
	layer = lying_size("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", 12); /* negative */
	cr_expect_lt(import_layers(&layer, 1), 0);
	cr_expect_eq(files_in("images"), 0);
}

Test(image, case_40_digests_are_checked)
{
	struct bytes layer = one_file("a", "b"), other = one_file("a", "c");
	expect_refused(import_as("d", make_docker(&(struct image_parts){.packed = &other, .unpacked = &layer, .count = 1})), "diff_id");
	struct bytes oci = make_oci(&(struct image_parts){.packed = &layer, .unpacked = &layer, .count = 1});
	uint8_t *at = memmem(oci.data, oci.len, "\"rootfs\"", 8); /* in the configuration */
	cr_assert(at);
	at[1] = 'R';
	expect_refused(import_as("d", oci), "damaged");
	oci = make_oci(&(struct image_parts){.packed = &layer, .unpacked = &layer, .count = 1});
	at = memmem(oci.data, oci.len, "ustar", 5);
	for (uint8_t *next; (next = memmem(at + 1, oci.len - (size_t)(at + 1 - oci.data), "\nb", 2)) && next < at + 600;)
		at = next;
	bytes_free(&oci);
	bytes_free(&layer);
	bytes_free(&other);
}

Test(image, case_40_layers_that_do_not_add_up)
{
	struct bytes layer = one_file("a", "b"), two[2] = {layer, layer};
	struct bytes archive = make_docker(&(struct image_parts){.packed = two, .unpacked = two, .count = 2});
	uint8_t *at = memmem(archive.data, archive.len, "\"layer0/layer.tar\",", 19);
	memset(at, ' ', 19);
	expect_refused(import_as("d", archive), "2 layers");
	bytes_free(&layer);
}

Test(image, case_40_an_image_without_layers_is_empty)
{
	cr_assert_eq(import_as("none", make_docker(&(struct image_parts){.count = 0})), 0, "%s", e.text);
	expect_clean();
}

/* A thousand to one: 512 MB of zeroes in half a megabyte cost no disk space, and are what they are. */
Test(image, case_40_a_bomb_costs_no_space)
{
	struct tar t;
	size_t len = 64 << 20;
	char *zeroes = calloc(1, len);
	tar_begin(&t, PACK_GZIP);
	tar_add(&t, tar_entry("zeroes", S_IFREG | 0644), zeroes, len);
	struct bytes packed = tar_end(&t);
	tar_begin(&t, PACK_NONE);
	tar_add(&t, tar_entry("zeroes", S_IFREG | 0644), zeroes, len);
	struct bytes unpacked = tar_end(&t);
	cr_assert_eq(import_as("bomb", make_oci(&(struct image_parts){.packed = &packed, .unpacked = &unpacked, .count = 1})), 0, "%s",
		     e.text);
	cr_expect_lt(image.bytes, 4 << 20);
	expect_clean();
	cr_expect(stat_has("/zeroes", "Size: 67108864"));
	free(zeroes);
	bytes_free(&packed);
	bytes_free(&unpacked);
}

/* ---- What is no image ---- */

Test(image, refuses_what_is_no_archive)
{
	expect_refused(import_as("n", bytes_of("", 0)), "archive");
	expect_refused(import_as("n", bytes_of("hello, this is text and not a tar at all", 40)), "archive");
	struct bytes layer = one_file("a", "b");
	expect_refused(import_as("n", bytes_of(layer.data, layer.len)), "index.json");
	struct image_parts parts = {.packed = &layer, .unpacked = &layer, .count = 1};
	struct bytes whole = make_docker(&parts);
	for (size_t n = 0; n < whole.len - 2048; n += 511) {
		cr_expect_lt(import_as("n", bytes_of(whole.data, n)), 0, "cut at %zu", n);
		cr_expect_eq(files_in("images"), 0);
	}
	bytes_free(&whole);
	parts.platform = "\"os\":\"linux\",\"architecture\":\"arm64\"";
	expect_refused(import_as("n", make_docker(&parts)), "arm64");
	parts.platform = "\"os\":\"windows\",\"architecture\":\"amd64\"";
	expect_refused(import_as("n", make_oci(&parts)), "not linux/amd64");
	parts.platform = NULL;
	parts.config = "{\"Env\":\"A=1\"}";
	expect_refused(import_as("n", make_docker(&parts)), "Env");
	parts.config = "{\"Env\":[],\"Env\":[]}";
	expect_refused(import_as("n", make_docker(&parts)), "Env");
	bytes_free(&layer);
}

Test(image, refuses_names)
{
	const char *names[] = {"", "-x", "a b", "../x", "a//b", "a/", "a:", "x\n", ".hidden", "a%2f"};
	for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
		struct bytes layer = one_file("a", "b");
		expect_refused(import_as(names[i], make_docker(&(struct image_parts){.packed = &layer, .unpacked = &layer, .count = 1})),
			       "name");
		bytes_free(&layer);
	}
}

/* ---- The store ---- */

static void import_text(const char *name, const char *text)
{
	struct bytes layer = one_file("file", text);
	cr_assert_eq(import_as(name, make_docker(&(struct image_parts){.packed = &layer, .unpacked = &layer, .count = 1})), 0, "%s", e.text);
	bytes_free(&layer);
}

Test(image, names_share_content_and_the_last_takes_it_along)
{
	import_text("a", "same");
	import_text("host.example:5000/b/c:2", "same");
	import_text("d", "other");
	cr_expect_eq(files_in("images"), 2);
	struct image *list;
	unsigned count;
	cr_assert_eq(image_list(store, &list, &count, &e), 0, "%s", e.text);
	cr_assert_eq(count, 3);
	cr_expect_str_eq(list[0].name, "a:latest");
	cr_expect_str_eq(list[2].name, "host.example:5000/b/c:2");
	for (unsigned i = 0; i < count; i++)
		image_free(&list[i]);
	free(list);
	cr_expect_eq(image_remove(store, "a", &e), 0);
	cr_expect_eq(files_in("images"), 2);
	cr_expect_eq(image_remove(store, "a", &e), -ENOENT);
	cr_expect_eq(image_remove(store, "host.example:5000/b/c:2", &e), 0);
	cr_expect_eq(files_in("images"), 1);
	import_text("d", "newer");
	cr_expect_eq(files_in("images"), 1, "the replaced image goes");
	int fd;
	image_free(&image);
	cr_expect_eq(image_open(store, "a", &image, &fd, &e), -ENOENT);
	cr_expect(strstr(e.text, "docker save"), "%s", e.text);
}

Test(image, damaged_records_are_one_images_error)
{
	import_text("a", "1");
	import_text("b", "2");
	char path[200];
	snprintf(path, sizeof path, "%s/caplock/names/a%%3alatest.json", home);
	int fd = open(path, O_WRONLY | O_TRUNC);
	cr_assert(fd >= 0);
	cr_assert_eq(write(fd, "{\"name\":", 8), 8);
	close(fd);
	image_free(&image);
	cr_expect_lt(image_open(store, "a", &image, &fd, &e), 0);
	cr_expect(strstr(e.text, "damaged"), "%s", e.text);
	cr_assert_eq(image_open(store, "b", &image, &fd, &e), 0, "%s", e.text);
	close(fd);
	cr_expect_eq(image_remove(store, "a", &e), 0);
}

/* An import that is killed, at many points, leaves the store as it was and no file behind. */
Test(image, killed_imports_leave_nothing)
{
	import_text("a", "old");
	char digest[100];
	snprintf(digest, sizeof digest, "%s", image.digest);
	struct tar t;
	tar_begin(&t, PACK_NONE);
	char *data = calloc(1, 1 << 20);
	memset(data, 'x', 1 << 20);
	for (int i = 0; i < 8; i++) {
		char name[20];
		snprintf(name, sizeof name, "file%d", i);
		tar_add(&t, tar_entry(name, S_IFREG | 0644), data, 1 << 20);
	}
	struct bytes layer = tar_end(&t);
	struct bytes archive = make_docker(&(struct image_parts){.packed = &layer, .unpacked = &layer, .count = 1});
	unsigned finished = 0;
	for (unsigned round = 0; round < 25; round++) {
		pid_t pid = fork();
		if (pid == 0) {
			struct image out;
			_exit(image_import(store, "a", file_of(&archive), &out, &e) ? 1 : 0);
		}
		usleep(round * 8000);
		kill(pid, SIGKILL);
		int status;
		waitpid(pid, &status, 0);
		finished += WIFEXITED(status);
		int fd;
		image_free(&image);
		cr_assert_eq(image_open(store, "a", &image, &fd, &e), 0, "%s", e.text);
		close(fd);
		cr_expect_leq(files_in("names"), 2);  /* its record may be there, half-written */
		cr_expect_leq(files_in("images"), 2); /* the new one may be there before its name is */
		expect_clean();
	}
	cr_expect_lt(finished, 25, "none was killed in the middle");
	cr_assert_eq(import_as("a", archive), 0);
	cr_expect(strcmp(image.digest, digest) != 0);
	cr_expect_eq(files_in(""), 3, "images, names, lock");
	cr_expect_eq(files_in("names"), 1, "the next change removes what killed ones left");
	cr_expect_eq(files_in("images"), 1);
	bytes_free(&layer);
	free(data);
}

/* Processes, not threads: an import forks, which the sanitizer's allocator does not survive in a process of threads. */
static int import_often(const struct bytes *archive)
{
	struct store *mine;
	struct err err;
	struct image out;
	int rc = store_open(&mine, &err);
	for (int i = 0; i < 3 && rc == 0; i++) {
		int fd = file_of(archive);
		rc = image_import(mine, "same", fd, &out, &err);
		close(fd);
		if (rc == 0)
			image_free(&out);
	}
	store_close(mine);
	return rc;
}

Test(image, imports_side_by_side)
{
	struct bytes layer[4], archive[4];
	pid_t pid[4];
	for (int i = 0; i < 4; i++) {
		layer[i] = one_file("f", i % 2 ? "odd" : "even");
		archive[i] = make_docker(&(struct image_parts){.packed = &layer[i], .unpacked = &layer[i], .count = 1});
		pid[i] = fork();
		if (pid[i] == 0)
			_exit(import_often(&archive[i]) ? 1 : 0);
	}
	for (int i = 0; i < 4; i++) {
		int status;
		waitpid(pid[i], &status, 0);
		cr_expect_eq(status, 0, "import %d", i);
		bytes_free(&layer[i]);
		bytes_free(&archive[i]);
	}
	int fd;
	cr_assert_eq(image_open(store, "same", &image, &fd, &e), 0, "%s", e.text);
	close(fd);
	cr_expect_eq(files_in("images"), 1);
}

/* ---- Scratch disks ---- */

Test(image, scratch_disks_of_any_size)
{
	const uint64_t mb[] = {16, 64, 5120, 300000};
	for (unsigned i = 0; i < sizeof mb / sizeof mb[0]; i++) {
		for (int again = 0; again < 2; again++) { /* made, then from the template */
			int fd;
			char command[100];
			struct stat st;
			cr_assert_eq(store_scratch(store, mb[i] << 20, &fd, &e), 0, "%s", e.text);
			cr_assert_eq(fstat(fd, &st), 0);
			cr_expect_eq((uint64_t)st.st_size, mb[i] << 20);
			cr_expect_lt(st.st_blocks * 512, 16 << 20);
			cr_expect_eq(st.st_nlink, 0);
			snprintf(command, sizeof command, "PATH=$PATH:/sbin:/usr/sbin e2fsck -fn /proc/%d/fd/%d >/dev/null 2>&1", getpid(),
				 fd);
			if (mb[i] < 100000)
				cr_expect_eq(system(command), 0);
			close(fd);
		}
	}
	cr_expect_eq(files_in("scratch"), 4);
}

Test(image, a_damaged_template_is_made_again)
{
	int fd;
	char path[200];
	cr_assert_eq(store_scratch(store, 64 << 20, &fd, &e), 0);
	close(fd);
	snprintf(path, sizeof path, "%s/caplock/scratch/%d", home, 64 << 20);
	cr_assert_eq(truncate(path, 5000), 0);
	cr_assert_eq(store_scratch(store, 64 << 20, &fd, &e), 0, "%s", e.text);
	char command[100];
	snprintf(command, sizeof command, "PATH=$PATH:/sbin:/usr/sbin e2fsck -fn /proc/%d/fd/%d >/dev/null 2>&1", getpid(), fd);
	cr_expect_eq(system(command), 0);
	close(fd);
}
