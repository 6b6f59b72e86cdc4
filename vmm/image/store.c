/*
 * The image store.
 *
 * Theory of operation
 * -------------------
 * Purpose: root images by content and names for them, under $XDG_DATA_HOME/caplock:
 *
 *      images/sha256-HEX.ext4   root images; never changed, shared by all names that have the same content
 *      names/NAME.json          records (vmm/image/record.c); NAME with '/' and ':' as %2f and %3a
 *      scratch/BYTES            templates of scratch disks (vmm/image/scratch.c)
 *      lock                     flock: shared while an image is opened, exclusive while names or images change
 *
 * Trust boundary: the store is the user's own. Records are read strictly all the same: a damaged one is an error of one image.
 *
 * Invariants: a record's image is there before the record is, and goes after it; files appear by link or rename, complete and
 * synced. What an import is working on has no name (O_TMPFILE, or unlinked). What it leaves when it is killed in the instant of
 * giving names, the next change of the store removes.
 */
#include "vmm/image/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/image/image.h"
#include "vmm/image/record.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/strv.h"

enum { RECORD_MAX_BYTES = 4 << 20 };

/* ---- Opening ---- */

/* Makes a directory and those above it. */
static int make_dirs(char *path)
{
	for (char *p = path + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = 0;
		int rc = mkdir(path, 0777) && errno != EEXIST ? -errno : 0;
		*p = '/';
		if (rc && rc != -EROFS && rc != -EACCES && rc != -EPERM)
			return rc;
	}
	return mkdir(path, 0700) && errno != EEXIST ? -errno : 0;
}

static int find_path(char path[PATH_MAX], struct err *e)
{
	const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
	int n;
	if (data && data[0] == '/')
		n = snprintf(path, PATH_MAX, "%s/caplock", data);
	else if (home && home[0] == '/')
		n = snprintf(path, PATH_MAX, "%s/.local/share/caplock", home);
	else
		return err_set(e, -ENOENT, "no place for images and disks: set HOME or XDG_DATA_HOME to a directory");
	return n < PATH_MAX ? 0 : err_set(e, -ENAMETOOLONG, "XDG_DATA_HOME or HOME is too long");
}

/* Opens the user's store, making it where it is not there. store_close() ends it. Returns 0 or -errno. */
int store_open(struct store **out, struct err *e)
{
	struct store *s = calloc(1, sizeof *s);
	if (!s)
		return err_sys(e, -ENOMEM, "image store");
	int rc = find_path(s->path, e);
	if (rc) {
		free(s);
		return rc;
	}
	s->dir_fd = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->dir_fd < 0 && errno == ENOENT) {
		rc = make_dirs(s->path);
		s->dir_fd = rc ? -1 : open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		errno = rc ? -rc : errno;
	}
	if (s->dir_fd < 0) {
		rc = err_sys(e, -errno, "cannot open the image store %s (XDG_DATA_HOME says where it is)", s->path);
		free(s);
		return rc;
	}
	*out = s;
	return 0;
}

/* Ends the use of a store. NULL is accepted. */
void store_close(struct store *s)
{
	if (!s)
		return;
	io_close(&s->dir_fd);
	free(s);
}

/* A file without a name in a directory, which is gone when it is closed. Returns the descriptor or -errno. */
static int unnamed_file(const char *dir)
{
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
		char path[PATH_MAX + 16];
		snprintf(path, sizeof path, "%s/tmp-XXXXXX", dir);
		fd = mkostemp(path, O_CLOEXEC);
		if (fd >= 0)
			unlink(path);
		if (fd >= 0 && ftruncate(fd, 0)) { /* 9p and others forget an unlinked file */
			io_close(&fd);
			errno = EOPNOTSUPP;
		}
	}
	return fd < 0 ? -errno : fd;
}

/* A file of the store's file system without a name, which is gone when it is closed. Returns the descriptor or -errno. */
int store_temporary(struct store *s, struct err *e)
{
	int fd = unnamed_file(s->path);
	return fd < 0 ? err_sys(e, fd, "cannot make a file in the image store %s", s->path) : fd;
}

/*
 * A file without a name for what a sandbox writes: in the store, or, where that is somebody else's, read-only, or on a file
 * system that has no such files, in $TMPDIR (/var/tmp). Returns the descriptor or -errno.
 */
int store_working_file(struct store *s, struct err *e)
{
	int fd = unnamed_file(s->path);
	if (fd != -EACCES && fd != -EROFS && fd != -EPERM && fd != -EOPNOTSUPP)
		return fd < 0 ? err_sys(e, fd, "cannot make a file in the image store %s", s->path) : fd;
	const char *dir = getenv("TMPDIR");
	if (!dir || dir[0] != '/')
		dir = "/var/tmp";
	fd = unnamed_file(dir);
	return fd < 0 ? err_sys(e, fd, "cannot make a scratch disk in %s (TMPDIR says where; the image store %s cannot hold it)", dir,
				s->path)
		      : fd;
}

/* Takes the store's lock; closing the descriptor that this returns gives it back. */
int store_lock(struct store *s, bool exclusive, struct err *e)
{
	int fd = openat(s->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 && !exclusive && (errno == EROFS || errno == EACCES))
		fd = openat(s->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* nobody changes such a store */
	int rc = fd < 0 ? -errno : 0;
	while (rc == 0 && flock(fd, exclusive ? LOCK_EX : LOCK_SH))
		rc = errno == EINTR ? 0 : -errno;
	if (rc) {
		io_close(&fd);
		return err_sys(e, rc, "cannot lock the image store %s", s->path);
	}
	return fd;
}

/* ---- Names ---- */

static bool name_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("._-/:", c));
}

/*
 * Checks an image's name, and adds ":latest" where it has no tag. Letters, digits and . _ - / :, not beginning with one of
 * the latter. Returns 0 or -EINVAL.
 */
int store_check_name(const char *name, char full[IMAGE_NAME_MAX_BYTES + 8], struct err *e)
{
	size_t n = strlen(name);
	bool ok = n > 0 && n <= IMAGE_NAME_MAX_BYTES && !strchr("._-/:", name[0]) && !strstr(name, "//") && name[n - 1] != '/' &&
		  name[n - 1] != ':';
	for (size_t i = 0; ok && i < n; i++)
		ok = name_char(name[i]);
	if (!ok)
		return err_set(e, -EINVAL, "image name '%s' is not valid: give one like python:3.12 or host/name:tag, of letters, digits and . _ - / :, "
			       "at most %d characters", name,
			       IMAGE_NAME_MAX_BYTES);
	const char *slash = strrchr(name, '/');
	snprintf(full, IMAGE_NAME_MAX_BYTES + 8, "%s%s", name, strchr(slash ? slash : name, ':') ? "" : ":latest");
	return 0;
}

/* The file of a name's record. */
static void record_path(const char *full, char path[2 * PATH_MAX])
{
	char *to = path + sprintf(path, "names/");
	for (; *full; full++)
		to += *full == '/' || *full == ':' || *full == '%' ? sprintf(to, "%%%02x", *full) : sprintf(to, "%c", *full);
	strcpy(to, ".json");
}

static int image_path(const char *digest, char path[PATH_MAX], struct err *e)
{
	const char *hex = strncmp(digest, "sha256:", 7) == 0 ? digest + 7 : "";
	if (strlen(hex) != 64 || strspn(hex, "0123456789abcdef") != 64)
		return err_set(e, -EINVAL, "the image store is damaged: a record has the digest '%s'; import the image again", digest);
	snprintf(path, PATH_MAX, "images/sha256-%s.ext4", hex);
	return 0;
}

/* ---- Reading ---- */

/* Frees what an image owns. */
void image_free(struct image *i)
{
	free(i->name);
	free(i->digest);
	strv_free(i->config.env);
	strv_free(i->config.entrypoint);
	strv_free(i->config.cmd);
	free(i->config.working_dir);
	free(i->config.user);
	*i = (struct image){0};
}

static int read_record(struct store *s, const char *path, struct image *out, struct err *e)
{
	struct buf text = {0};
	struct err why;
	int rc = io_read_file(s->dir_fd, path, RECORD_MAX_BYTES, &text);
	if (rc == 0) {
		rc = record_read((const char *)text.data, text.len, out, &why);
		if (rc)
			err_set(e, rc, "the image store is damaged: %s/%s: %s; remove that file and import the image again", s->path, path,
				why.text);
	} else {
		err_sys(e, rc, "cannot read %s/%s", s->path, path);
	}
	buf_free(&text);
	return rc;
}

/*
 * Finds image `name`: *out, which image_free() ends, and its root image's content, *root_fd, which the caller closes.
 * Returns 0, -ENOENT where there is none of that name, or -errno.
 */
int image_open(struct store *s, const char *name, struct image *out, int *root_fd, struct err *e)
{
	char full[IMAGE_NAME_MAX_BYTES + 8], path[2 * PATH_MAX];
	int rc = store_check_name(name, full, e);
	int lock_fd = rc ? rc : store_lock(s, false, e);
	if (lock_fd < 0)
		return lock_fd;
	record_path(full, path);
	if (faccessat(s->dir_fd, path, F_OK, 0) && errno == ENOENT)
		rc = err_set(e, -ENOENT, "no image %s; import one: docker save %s | caplock image import %s", full, full, full);
	rc = rc ? rc : read_record(s, path, out, e);
	if (rc == 0) {
		rc = image_path(out->digest, path, e);
		*root_fd = rc ? -1 : openat(s->dir_fd, path, O_RDONLY | O_CLOEXEC);
		if (rc == 0 && *root_fd < 0)
			rc = err_sys(e, -errno, "the image store is damaged: %s/%s; import the image again", s->path, path);
		if (rc)
			image_free(out);
	}
	io_close(&lock_fd);
	return rc;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct image *)a)->name, ((const struct image *)b)->name);
}

/* All images, sorted by name: *out, an array of *count that the caller frees with its images. Returns 0 or -errno. */
int image_list(struct store *s, struct image **out, unsigned *count, struct err *e)
{
	*out = NULL;
	*count = 0;
	int lock_fd = store_lock(s, false, e);
	if (lock_fd < 0)
		return lock_fd;
	int fd = openat(s->dir_fd, "names", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	for (struct dirent *d; rc == 0 && dir && (d = readdir(dir));) {
		char path[PATH_MAX];
		size_t n = strlen(d->d_name);
		if (n < 6 || strcmp(d->d_name + n - 5, ".json") != 0)
			continue;
		struct image *more = reallocarray(*out, *count + 1, sizeof *more);
		if (!more) {
			rc = err_sys(e, -ENOMEM, "images");
			break;
		}
		*out = more;
		snprintf(path, sizeof path, "names/%s", d->d_name);
		rc = read_record(s, path, &more[*count], e);
		*count += rc == 0;
	}
	if (dir)
		closedir(dir);
	io_close(&lock_fd);
	if (rc) {
		while (*count)
			image_free(&(*out)[--*count]);
		free(*out);
		*out = NULL;
	} else if (*count) {
		qsort(*out, *count, sizeof **out, by_name);
	}
	return rc;
}

/* ---- Changing. With the exclusive lock. ---- */

/* Adds the digests of all records to `out`. Returns false where one cannot be read: it may be any. */
static bool used_digests(struct store *s, struct strv *out)
{
	int fd = openat(s->dir_fd, "names", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	bool complete = dir || errno == ENOENT;
	for (struct dirent *d; dir && complete && (errno = 0, d = readdir(dir));) {
		char path[PATH_MAX];
		struct image i = {0};
		struct err ignored;
		if (d->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "names/%s", d->d_name);
		complete = read_record(s, path, &i, &ignored) == 0 && strv_add(out, i.digest) == 0;
		image_free(&i);
	}
	complete = complete && (!dir || errno == 0);
	if (dir)
		closedir(dir);
	return complete;
}

/* Removes the files of a directory that end in `suffix`, but those whose digest is in `used`. */
static void remove_files(struct store *s, const char *directory, const char *suffix, const struct strv *used)
{
	int fd = openat(s->dir_fd, directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	for (struct dirent *d; dir && (d = readdir(dir));) {
		size_t n = strlen(d->d_name), m = strlen(suffix);
		bool keep = n < m || strcmp(d->d_name + n - m, suffix) != 0;
		for (size_t i = 0; !keep && used && i < used->count; i++)
			keep = strncmp(d->d_name + strlen("sha256-"), used->item[i] + strlen("sha256:"), 64) == 0;
		if (!keep)
			unlinkat(dirfd(dir), d->d_name, 0);
	}
	if (dir)
		closedir(dir);
}

/* Removes root images that no record refers to, and what a killed import left half-written. */
static void sweep(struct store *s)
{
	struct strv used = {0};
	remove_files(s, "names", ".new", NULL);
	remove_files(s, "images", ".new", NULL);
	if (used_digests(s, &used))
		remove_files(s, "images", ".ext4", &used);
	strv_free(used.item);
}

/* Gives a complete, synced file without a name the name `path`, unless there is one: it has the same content. */
static int give_name(struct store *s, int fd, const char *path)
{
	char self[32], temporary[PATH_MAX + 8];
	snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
	if (linkat(AT_FDCWD, self, s->dir_fd, path, AT_SYMLINK_FOLLOW) == 0 || errno == EEXIST)
		return 0;
	if (errno != ENOENT && errno != EXDEV && errno != EPERM)
		return -errno;
	/* A file system without O_TMPFILE: the file was unlinked, so it is copied beside its place and renamed. */
	snprintf(temporary, sizeof temporary, "%s.new", path);
	int to = openat(s->dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), rc = to < 0 ? -errno : 0;
	struct stat st;
	if (rc == 0 && fstat(fd, &st))
		rc = -errno;
	off_t from = 0;
	while (rc == 0 && from < st.st_size) {
		ssize_t n = copy_file_range(fd, &from, to, NULL, (size_t)(st.st_size - from), 0);
		rc = n > 0 ? 0 : n ? -errno : -EIO;
	}
	if (rc == 0 && (fsync(to) || renameat(s->dir_fd, temporary, s->dir_fd, path)))
		rc = -errno;
	if (rc)
		unlinkat(s->dir_fd, temporary, 0);
	io_close(&to);
	return rc;
}

static int write_record(struct store *s, const char *path, const struct image *image)
{
	struct buf text = {0};
	char temporary[2 * PATH_MAX + 8];
	snprintf(temporary, sizeof temporary, "%s.new", path);
	int rc = record_write(image, &text);
	int fd = rc ? -1 : openat(s->dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (rc == 0 && fd < 0)
		rc = -errno;
	rc = rc ? rc : io_write_all(fd, text.data, text.len);
	if (rc == 0 && (fsync(fd) || renameat(s->dir_fd, temporary, s->dir_fd, path)))
		rc = -errno;
	if (rc && fd >= 0)
		unlinkat(s->dir_fd, temporary, 0);
	io_close(&fd);
	buf_free(&text);
	return rc;
}

/*
 * Adds the root image in root_fd, a file of store_temporary() which is complete, under the name and with the data of `image`;
 * an older image of that name loses it. Returns 0 or -errno; then the store is as it was.
 */
int store_commit(struct store *s, int root_fd, const struct image *image, struct err *e)
{
	char path[2 * PATH_MAX], root_path[PATH_MAX];
	int rc = image_path(image->digest, root_path, e);
	if (rc == 0 && fsync(root_fd))
		rc = err_sys(e, -errno, "cannot write the image to %s", s->path);
	int lock_fd = rc ? rc : store_lock(s, true, e);
	if (lock_fd < 0)
		return lock_fd;
	mkdirat(s->dir_fd, "images", 0700);
	mkdirat(s->dir_fd, "names", 0700);
	record_path(image->name, path);
	rc = give_name(s, root_fd, root_path);
	rc = rc ? rc : write_record(s, path, image);
	if (rc)
		err_sys(e, rc, "cannot write the image to %s", s->path);
	sweep(s);
	io_close(&lock_fd);
	return rc;
}

/* Removes a name, and its root image where no other name has it. Sandboxes that run it go on. Returns 0 or -errno. */
int image_remove(struct store *s, const char *name, struct err *e)
{
	char full[IMAGE_NAME_MAX_BYTES + 8], path[2 * PATH_MAX];
	int rc = store_check_name(name, full, e);
	int lock_fd = rc ? rc : store_lock(s, true, e);
	if (lock_fd < 0)
		return lock_fd;
	record_path(full, path);
	if (unlinkat(s->dir_fd, path, 0))
		rc = errno == ENOENT ? err_set(e, -ENOENT, "no image %s", full) : err_sys(e, -errno, "cannot remove image %s", full);
	else
		sweep(s);
	io_close(&lock_fd);
	return rc;
}
