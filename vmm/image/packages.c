/*
 * Where an image's packages come from.
 *
 * Theory of operation
 * -------------------
 * Purpose: for --allow-host @packages, the hosts that the package managers in an image fetch from: what their configuration
 * names (package_sources.c), and where there is none, what an installed one has built in (a preset).
 *
 * Trust boundary: the files may be anything. They are read from the root image, an ext4 that is not mounted, by a child
 * process confined like an import's, which answers with lines of text; those are rules to be checked like any others.
 *
 * Limits: FILE_MAX_BYTES of a file, FILES_MAX files of a directory, PACKAGE_SOURCES_MAX hosts: beyond, it is an error.
 */
#include <errno.h>
#include <ext2fs/ext2fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/image/confine.h"
#include "vmm/image/image.h"
#include "vmm/image/package_sources.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"

enum {
	FILE_MAX_BYTES = 256 << 10,
	FILES_MAX = 64,
	PATH_MAX_BYTES = 320,
	ANSWER_MAX_BYTES = PACKAGE_SOURCES_MAX * 300,
};

static const struct config_file {
	enum package_config kind;
	const char *path;
	const char *suffix; /* the path is a directory's, and its files that end so count */
} config_files[] = {
	{PACKAGE_APT_LIST, "/etc/apt/sources.list", NULL},
	{PACKAGE_APT_LIST, "/etc/apt/sources.list.d", ".list"},
	{PACKAGE_APT_SOURCES, "/etc/apt/sources.list.d", ".sources"},
	{PACKAGE_APK, "/etc/apk/repositories", NULL},
	{PACKAGE_PIP, "/etc/pip.conf", NULL},
	{PACKAGE_PIP, "/etc/xdg/pip/pip.conf", NULL},
	{PACKAGE_PIP, "/root/.config/pip/pip.conf", NULL},
	{PACKAGE_PIP, "/root/.pip/pip.conf", NULL},
	{PACKAGE_NPM, "/etc/npmrc", NULL},
	{PACKAGE_NPM, "/usr/etc/npmrc", NULL},
	{PACKAGE_NPM, "/usr/local/etc/npmrc", NULL},
	{PACKAGE_NPM, "/root/.npmrc", NULL},
	{PACKAGE_CARGO, "/usr/local/cargo/config.toml", NULL},
	{PACKAGE_CARGO, "/root/.cargo/config.toml", NULL},
	{PACKAGE_CARGO, "/root/.cargo/config", NULL},
};

/* Programs that know where to go without configuration. */
static const struct built_in {
	const char *program;
	const char *preset;
	enum package_config kind; /* whose configuration may replace it; PACKAGE_CONFIGS: none that we read */
} built_ins[] = {
	{"pip", "@pypi", PACKAGE_PIP},
	{"pip3", "@pypi", PACKAGE_PIP},
	{"uv", "@pypi", PACKAGE_CONFIGS},
	{"npm", "@npm", PACKAGE_NPM},
	{"yarn", "@npm", PACKAGE_NPM},
	{"pnpm", "@npm", PACKAGE_NPM},
	{"cargo", "@cargo", PACKAGE_CARGO},
	{"go", "@golang", PACKAGE_CONFIGS},
	{"gem", "@rubygems", PACKAGE_CONFIGS},
	{"mvn", "@maven", PACKAGE_CONFIGS},
	{"composer", "@packagist", PACKAGE_CONFIGS},
};

static const char *const program_directories[] = {"/usr/bin", "/usr/local/bin", "/bin", "/usr/local/go/bin", "/usr/local/cargo/bin",
						  "/root/.cargo/bin"};

static const char failed[] = "cannot read the package sources of the image";

/* ---- The child: reads the file system ---- */

/* Where the root image is. */
struct place {
	int root_fd;
	uint64_t offset_bytes;
};

struct reading {
	ext2_filsys fs;
	struct package_sources sources;
	struct err *e;
};

/* The inode at a path of the image, through its symbolic links; 0: there is none. */
static ext2_ino_t find(struct reading *r, const char *path)
{
	ext2_ino_t number;
	return ext2fs_namei_follow(r->fs, EXT2_ROOT_INO, EXT2_ROOT_INO, path, &number) ? 0 : number;
}

/* Reads all of a regular file. Returns false where it cannot be read, or is too long. */
static bool read_file(struct reading *r, ext2_ino_t number, const struct ext2_inode *inode, struct buf *out)
{
	ext2_file_t file;
	unsigned got = 0;
	uint64_t bytes = EXT2_I_SIZE(inode);
	if (bytes > FILE_MAX_BYTES || buf_reserve(out, bytes + 1) || ext2fs_file_open(r->fs, number, 0, &file))
		return false;
	bool ok = bytes == 0 || ext2fs_file_read(file, out->data, (unsigned)bytes, &got) == 0;
	ext2fs_file_close(file);
	out->len = got;
	return ok;
}

static int take_file(struct reading *r, enum package_config kind, const char *path)
{
	struct ext2_inode inode;
	struct buf text = {0};
	ext2_ino_t number = find(r, path);
	if (number == 0 || ext2fs_read_inode(r->fs, number, &inode) || !LINUX_S_ISREG(inode.i_mode))
		return 0;
	int rc = read_file(r, number, &inode, &text)
			 ? package_sources_parse(&r->sources, kind, (const char *)text.data, text.len)
			 : err_set(r->e, -EFBIG, "%s cannot be read, or is longer than %d kB", path, FILE_MAX_BYTES >> 10);
	buf_free(&text);
	return rc;
}

struct listing {
	const char *directory, *suffix;
	struct strv paths;
	int rc;
};

static int list_entry(ext2_ino_t dir, int entry, struct ext2_dir_entry *d, int offset, int block_bytes, char *block, void *context)
{
	(void)dir, (void)entry, (void)offset, (void)block_bytes, (void)block;
	struct listing *l = context;
	char path[PATH_MAX_BYTES];
	size_t n = (size_t)ext2fs_dirent_name_len(d), m = strlen(l->suffix);
	if (n <= m || d->name[0] == '.' || memcmp(d->name + n - m, l->suffix, m) != 0)
		return 0;
	snprintf(path, sizeof path, "%s/%.*s", l->directory, (int)n, d->name);
	l->rc = l->paths.count == FILES_MAX ? -E2BIG : strv_add(&l->paths, path) ? -ENOMEM : 0;
	return l->rc ? DIRENT_ABORT : 0;
}

static int take_directory(struct reading *r, const struct config_file *c)
{
	struct listing l = {.directory = c->path, .suffix = c->suffix};
	struct ext2_inode inode;
	ext2_ino_t number = find(r, c->path);
	if (number == 0 || ext2fs_read_inode(r->fs, number, &inode) || !LINUX_S_ISDIR(inode.i_mode))
		return 0;
	ext2fs_dir_iterate2(r->fs, number, 0, NULL, list_entry, &l);
	int rc = l.rc == -E2BIG ? err_set(r->e, l.rc, "%s has more than %d files", c->path, FILES_MAX) : l.rc;
	for (size_t i = 0; i < l.paths.count && rc == 0; i++)
		rc = take_file(r, c->kind, l.paths.item[i]);
	strv_free(l.paths.item);
	return rc;
}

static bool has_program(struct reading *r, const char *name)
{
	char path[PATH_MAX_BYTES];
	for (size_t i = 0; i < sizeof program_directories / sizeof program_directories[0]; i++) {
		snprintf(path, sizeof path, "%s/%s", program_directories[i], name);
		if (find(r, path))
			return true;
	}
	return false;
}

static int take_all(struct reading *r)
{
	int rc = 0;
	for (size_t i = 0; i < sizeof config_files / sizeof config_files[0] && rc == 0; i++)
		rc = config_files[i].suffix ? take_directory(r, &config_files[i])
					    : take_file(r, config_files[i].kind, config_files[i].path);
	for (size_t i = 0; i < sizeof built_ins / sizeof built_ins[0] && rc == 0; i++) {
		const struct built_in *b = &built_ins[i];
		bool replaced = b->kind < PACKAGE_CONFIGS && r->sources.replaces_default[b->kind];
		if (!replaced && has_program(r, b->program))
			rc = package_sources_add(&r->sources, b->preset);
	}
	return rc;
}

/* Reads the image. Errors that take_all() has no text for are told by their number. */
static int read_image(const struct place *place, struct reading *r)
{
	char name[16], options[48];
	snprintf(name, sizeof name, "%d", place->root_fd);
	snprintf(options, sizeof options, "offset=%llu", (unsigned long long)place->offset_bytes);
	r->e->text[0] = 0;
	int rc = image_confine();
	if (rc == 0 && ext2fs_open2(name, options, EXT2_FLAG_64BITS | EXT2_FLAG_SOFTSUPP_FEATURES, 0, 0, unixfd_io_manager, &r->fs))
		rc = err_set(r->e, -EIO, "its file system cannot be read");
	rc = rc ? rc : take_all(r);
	if (rc == -E2BIG && !r->e->text[0])
		err_set(r->e, rc, "they name more than %d hosts", PACKAGE_SOURCES_MAX);
	else if (rc && !r->e->text[0])
		err_set(r->e, rc, "%s", strerror(-rc));
	return rc;
}

/* A line for each rule; or "!" and what is wrong. */
static void work(const void *context, int answer_fd)
{
	const struct place *place = context;
	struct err e;
	struct reading r = {.e = &e};
	struct buf answer = {0};
	int rc = read_image(place, &r);
	if (rc)
		rc = buf_addf(&answer, "!%s\n", e.text);
	else
		for (size_t i = 0; i < r.sources.rules.count && rc == 0; i++)
			rc = buf_addf(&answer, "%s\n", r.sources.rules.item[i]);
	rc = rc ? rc : buf_addf(&answer, ".\n");
	_exit(rc || io_write_all(answer_fd, answer.data, answer.len) ? 1 : 0);
}

/* ---- The parent ---- */

/*
 * Whether a line of the child's is a rule that it may ask for: a public host by name, checked, or a preset of a package manager's.
 * The child has read the image's file system, so it may be the image's.
 */
static bool may_ask_for(const char *line)
{
	for (size_t i = 0; i < sizeof built_ins / sizeof built_ins[0]; i++)
		if (strcmp(line, built_ins[i].preset) == 0)
			return true;
	const char *port = strchr(line, ':'), *dot = strchr(line, '.');
	size_t host = port ? (size_t)(port - line) : strlen(line);
	bool named = dot && dot < line + host && strspn(line, "0123456789.") < host &&
		     strspn(line, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") == host;
	return named && (!port || (port[1] && port[1 + strspn(port + 1, "0123456789")] == 0));
}

static int read_answer(char *text, struct strv *rules, struct err *e)
{
	for (char *line; (line = strsep(&text, "\n"));) {
		if (line[0] == '!')
			return err_set(e, -EINVAL, "%s: %s", failed, line + 1);
		if (strcmp(line, ".") == 0)
			return 0;
		if (!may_ask_for(line))
			return err_set(e, -EINVAL, "%s: they name what is no public host", failed);
		if (strv_add(rules, line))
			return err_sys(e, -ENOMEM, "%s", failed);
	}
	return err_set(e, -EIO, "%s: the process that reads them ended without an answer", failed);
}

/*
 * The rules for the hosts that the image's packages come from, as --allow-host takes them, added to `rules`. The root image
 * begins at offset_bytes of root_fd. Returns 0 or -errno.
 */
int image_packages(int root_fd, uint64_t offset_bytes, struct strv *rules, struct err *e)
{
	struct place place = {root_fd, offset_bytes};
	struct buf answer = {0};
	int rc = image_child(work, &place, ANSWER_MAX_BYTES, &answer);
	rc = rc || buf_add(&answer, "", 1) ? err_sys(e, rc ? rc : -ENOMEM, "%s", failed) : read_answer((char *)answer.data, rules, e);
	buf_free(&answer);
	return rc;
}
