#include "vmm/image/container.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/util/err.h"
#include "vmm/util/io.h"

enum { READ_BYTES = 256 << 10 };

static const char *plain(const char *name)
{
	while (name[0] == '.' && name[1] == '/')
		name += 2;
	return name;
}

/* Adds a file, which then owns its link and, in a directory, its descriptor. */
static int add(struct container *a, const char *name, struct container_file file, struct err *e)
{
	if (a->count == CONTAINER_FILES_MAX)
		return err_set(e, -E2BIG, "the archive has more than %d files", CONTAINER_FILES_MAX);
	struct container_file *more = reallocarray(a->file, a->count + 1, sizeof *more);
	if (more)
		a->file = more;
	file.name = strdup(plain(name));
	if (!more || !file.name) {
		free(file.name);
		return err_sys(e, -ENOMEM, "archive");
	}
	a->file[a->count++] = file;
	return 0;
}

/* ---- Tar ---- */

/*
 * Whether archive_read_next_header() gave an entry. A warning comes with one: most often, that a name in UTF-8 means
 * nothing in this process's locale. It is then given as the bytes that it is, which is what a file system wants.
 */
bool container_has_header(int read)
{
	return read == ARCHIVE_OK || read == ARCHIVE_WARN;
}

/* What is unpacked so far is no thousandfold of what was read: that is a bomb, not an archive. */
static bool is_bomb(struct archive *in, uint64_t bytes)
{
	uint64_t packed = (uint64_t)archive_filter_bytes(in, -1);
	return bytes > CONTAINER_FREE_BYTES && (bytes - CONTAINER_FREE_BYTES) / CONTAINER_RATIO_MAX > packed;
}

static int read_content(struct archive *in, int spool_fd, uint64_t *at, struct err *e)
{
	const void *block;
	size_t n;
	la_int64_t offset;
	uint64_t start = *at;
	int rc;
	while ((rc = archive_read_data_block(in, &block, &n, &offset)) == ARCHIVE_OK) {
		if (offset < 0 || (uint64_t)offset > CONTAINER_MAX_BYTES || n > CONTAINER_MAX_BYTES - start ||
		    (uint64_t)offset + n > CONTAINER_MAX_BYTES - start)
			return err_set(e, -EFBIG, "the archive holds more than %llu GB", CONTAINER_MAX_BYTES >> 30);
		if (is_bomb(in, start + (uint64_t)offset + n))
			return err_set(e, -EFBIG, "the archive unpacks to more than %d times its size",
				       CONTAINER_RATIO_MAX);
		errno = 0;
		if (pwrite(spool_fd, block, n, (off_t)(start + (uint64_t)offset)) != (ssize_t)n)
			return err_sys(e, errno ? -errno : -ENOSPC, "cannot unpack the archive");
		*at = start + (uint64_t)offset + n;
	}
	return rc == ARCHIVE_EOF ? 0 : err_set(e, -EINVAL, "the archive is damaged: %s", archive_error_string(in));
}

static int read_entry(struct archive *in, struct archive_entry *entry, int spool_fd, uint64_t *at,
		      struct container *out, struct err *e)
{
	const char *name = archive_entry_pathname(entry);
	const char *link = archive_entry_hardlink(entry) ? archive_entry_hardlink(entry) : archive_entry_symlink(entry);
	struct container_file file = {.fd = spool_fd, .offset = *at};
	if (!name)
		return err_set(e, -EINVAL, "the archive is damaged: an entry has no name");
	if (link) {
		/* Older `docker save`s link a layer to one that they have already, relative to the link's directory. */
		while (strncmp(link, "../", 3) == 0)
			link += 3;
		file.link = strdup(plain(link));
		int rc = file.link ? add(out, name, file, e) : err_sys(e, -ENOMEM, "archive");
		if (rc)
			free(file.link);
		return rc;
	}
	if (archive_entry_filetype(entry) != AE_IFREG)
		return 0;
	int rc = read_content(in, spool_fd, at, e);
	if (rc)
		return rc;
	uint64_t size = archive_entry_size_is_set(entry) ? (uint64_t)archive_entry_size(entry) : *at - file.offset;
	if (size > *at - file.offset) { /* ends with a hole */
		if (size > CONTAINER_MAX_BYTES - file.offset || ftruncate(spool_fd, (off_t)(file.offset + size)))
			return err_set(e, -EFBIG, "the archive holds more than %llu GB", CONTAINER_MAX_BYTES >> 30);
		*at = file.offset + size;
	}
	file.len_bytes = size;
	return add(out, name, file, e);
}

/*
 * Reads a tar, compressed or not, from `fd`; contents go to spool_fd, an empty file. The caller frees *out with
 * container_free(), also on failure. Returns 0 or -errno.
 */
int container_read_tar(int fd, int spool_fd, struct container *out, struct err *e)
{
	struct archive *in = archive_read_new();
	struct archive_entry *entry;
	uint64_t at = 0;
	if (!in)
		return err_sys(e, -ENOMEM, "archive");
	archive_read_support_format_tar(in);
	archive_read_support_filter_gzip(in);
	archive_read_support_filter_zstd(in);
	int rc = archive_read_open_fd(in, fd, READ_BYTES);
	if (rc != ARCHIVE_OK && archive_filter_bytes(in, -1) == 0) {
		archive_read_free(in);
		return err_set(e, -EINVAL, "the archive is empty: did what should have written it fail?");
	}
	if (rc != ARCHIVE_OK) {
		rc = err_set(e, -EINVAL,
			     "it is not an image archive (%s); give what docker save writes, or an OCI layout",
			     archive_error_string(in));
		archive_read_free(in);
		return rc;
	}
	int failed = 0;
	while (!failed && container_has_header(rc = archive_read_next_header(in, &entry)))
		failed = read_entry(in, entry, spool_fd, &at, out, e);
	if (!failed && rc != ARCHIVE_EOF)
		failed = err_set(e, -EINVAL, "the archive is damaged: %s", archive_error_string(in));
	if (!failed && out->count == 0)
		failed = err_set(e, -EINVAL, "the archive is empty; give what docker save writes, or an OCI layout");
	archive_read_free(in);
	return failed;
}

/* ---- Directory ---- */

static int add_from_directory(int dir_fd, const char *name, const char *full, struct container *out, struct err *e)
{
	struct stat st;
	int fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : err_sys(e, -errno, "cannot read %s", full);
	int rc = fstat(fd, &st) ? err_sys(e, -errno, "cannot read %s", full) : 0;
	if (rc == 0 && S_ISREG(st.st_mode)) {
		rc = add(out, full,
			 (struct container_file){.fd = fd, .own_fd = true, .len_bytes = (uint64_t)st.st_size}, e);
		if (rc == 0)
			return 0;
	}
	close(fd);
	return rc;
}

/*
 * Opens the files of an OCI layout's directory (image-layout.md): `fd` is it. As container_read_tar().
 */
int container_read_directory(int fd, struct container *out, struct err *e)
{
	static const char *const top[] = {"oci-layout", "index.json"};
	for (unsigned i = 0; i < sizeof top / sizeof top[0]; i++) {
		int rc = add_from_directory(fd, top[i], top[i], out, e);
		if (rc)
			return rc;
	}
	int blobs_fd = openat(fd, "blobs/sha256", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
	DIR *dir = blobs_fd < 0 ? NULL : fdopendir(blobs_fd);
	if (!dir || out->count < 2) {
		if (dir)
			closedir(dir);
		return err_set(
		    e, -EINVAL,
		    "the directory is not an OCI image layout: oci-layout, index.json and blobs/sha256 are expected");
	}
	for (struct dirent *d; rc == 0 && (d = readdir(dir));) {
		char full[300];
		snprintf(full, sizeof full, "blobs/sha256/%s", d->d_name);
		if (d->d_name[0] != '.')
			rc = add_from_directory(blobs_fd, d->d_name, full, out, e);
	}
	closedir(dir);
	return rc;
}

/* ---- Both ---- */

static const struct container_file *find_name(const struct container *a, const char *name)
{
	for (unsigned i = a->count; i-- > 0;) /* the last of a name counts, as in any tar */
		if (strcmp(a->file[i].name, name) == 0)
			return &a->file[i];
	return NULL;
}

/* The file called `name`, following links between names; NULL where there is none. */
const struct container_file *container_find(const struct container *a, const char *name)
{
	const struct container_file *f = find_name(a, plain(name));
	for (unsigned i = 0; f && f->link && i < CONTAINER_LINKS_MAX; i++)
		f = find_name(a, f->link);
	return f && !f->link ? f : NULL;
}

/* Frees what an archive owns; the descriptors of a directory's files, too. */
void container_free(struct container *a)
{
	for (unsigned i = 0; i < a->count; i++) {
		free(a->file[i].name);
		free(a->file[i].link);
		if (a->file[i].own_fd)
			close(a->file[i].fd);
	}
	free(a->file);
	*a = (struct container){0};
}
