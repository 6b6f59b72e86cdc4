/*
 * Importing.
 *
 * Theory of operation
 * -------------------
 * Purpose: from an archive to a root image in the store.
 *
 * Trust boundary: the archive may be anything. All that parses it runs in a child process (`work`) which has the archive, two
 * files without names and a pipe, and which seccomp confines to reading, writing and allocating: it can neither open, execute
 * nor connect anything, nor signal anybody. Its answer is read as strictly as the archive itself: JSON, {"error": TEXT} or a
 * record without a name.
 *
 * What is written has no name until it is complete, so failing or being killed at any point leaves the store as it was.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "vmm/image/confine.h"
#include "vmm/image/container.h"
#include "vmm/image/digest.h"
#include "vmm/image/ext4.h"
#include "vmm/image/image.h"
#include "vmm/image/layer.h"
#include "vmm/image/oci.h"
#include "vmm/image/record.h"
#include "vmm/image/store.h"
#include "vmm/image/tree.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/json.h"

enum { ANSWER_MAX_BYTES = 8 << 20 };

/* The work of one import, and what its child may use. */
struct import {
	int archive_fd;
	int container_fd; /* a tar's files */
	int spool_fd;     /* layers' file contents */
	int root_fd;      /* the root image */
};

/* ---- The child ---- */

static int read_container(const struct import *w, struct container *c, bool *confined, struct err *e)
{
	struct stat st;
	if (fstat(w->archive_fd, &st))
		return err_sys(e, -errno, "cannot read the archive");
	if (S_ISDIR(st.st_mode)) { /* its files must be opened while we still can */
		int rc = container_read_directory(w->archive_fd, c, e);
		if (rc)
			return rc;
	}
	int rc = image_confine();
	if (rc)
		return err_sys(e, rc, "cannot confine the import");
	*confined = true;
	return S_ISDIR(st.st_mode) ? 0 : container_read_tar(w->archive_fd, w->container_fd, c, e);
}

/* Identical trees give identical root images: the identity of the file system must not come from anywhere else. */
static const uint8_t root_uuid[16] = "caplock root fs";

static int do_import(const struct import *w, struct image *image, struct err *e)
{
	struct container container = {0};
	struct spool spool = {.fd = w->spool_fd, .max_bytes = CONTAINER_MAX_BYTES};
	struct tree tree;
	bool confined = false;
	uint64_t size_bytes = 0;
	char digest[DIGEST_TEXT_BYTES];
	int rc = tree_init(&tree) ? err_sys(e, -ENOMEM, "image") : 0;
	rc = rc ? rc : read_container(w, &container, &confined, e);
	rc = rc ? rc : oci_read(&container, &tree, &spool, &image->config, e);
	rc = rc ? rc : ext4_write_tree(w->root_fd, &tree, w->spool_fd, root_uuid, &size_bytes, e);
	if (rc == 0) {
		struct stat st;
		rc = digest_file(w->root_fd, 0, size_bytes, digest);
		rc = rc ? rc : fstat(w->root_fd, &st) ? -errno : 0;
		image->bytes = rc ? 0 : (uint64_t)st.st_blocks * 512;
		image->digest = strdup(digest);
		if (rc || !image->digest)
			rc = err_sys(e, rc ? rc : -ENOMEM, "cannot read the root image");
	}
	container_free(&container);
	tree_free(&tree);
	return rc;
}

static void work(const void *context, int answer_fd)
{
	const struct import *w = context;
	struct image image = {0};
	struct err e;
	struct buf answer = {0};
	int rc = do_import(w, &image, &e);
	if (rc) {
		rc = buf_addf(&answer, "{\"errno\":%d,\"error\":", -rc);
		rc = rc ? rc : json_put_string(&answer, e.text);
		rc = rc ? rc : buf_addf(&answer, "}");
	} else {
		rc = record_write(&image, &answer);
	}
	_exit(rc || io_write_all(answer_fd, answer.data, answer.len) ? 1 : 0);
}

/* ---- The parent ---- */

/* What the child said: an image, or its error. */
static int read_answer(const struct buf *text, struct image *out, struct err *e)
{
	struct json *doc;
	struct err why;
	uint64_t code = EINVAL;
	char *said = NULL;
	if (json_parse((const char *)text->data, text->len, NULL, &doc, &why))
		return err_set(e, -EIO, "the import ended without an answer; it may have run out of memory");
	struct json_value error = json_get(json_root(doc), "error");
	int rc = 0;
	if (!json_is_absent(error)) {
		rc = json_string(error, &said, &why);
		if (rc || json_uint64(json_get(json_root(doc), "errno"), &code, &why) || code == 0 || code > 4095)
			code = EINVAL;
		err_set(e, -(int)code, "%s", said ? said : "the import failed");
		rc = -(int)code;
		free(said);
	}
	json_free(doc);
	return rc ? rc : record_read((const char *)text->data, text->len, out, e);
}

static int run_child(struct import *w, struct image *out, struct err *e)
{
	struct buf answer = {0};
	int rc = image_child(work, w, ANSWER_MAX_BYTES, &answer);
	rc = rc ? err_sys(e, rc, "cannot start the import") : read_answer(&answer, out, e);
	buf_free(&answer);
	return rc;
}

static int open_files(struct store *s, struct import *w, struct err *e)
{
	int *const fds[] = {&w->container_fd, &w->spool_fd, &w->root_fd};
	for (unsigned i = 0; i < sizeof fds / sizeof fds[0]; i++) {
		*fds[i] = store_temporary(s, e);
		if (*fds[i] < 0)
			return *fds[i];
	}
	return 0;
}

/*
 * Imports the image in archive_fd (what `docker save` writes or an OCI image layout: a tar, also from a pipe, or a directory) as
 * `name`, in place of an older one. On success the caller ends *out with image_free(). Returns 0 or -errno.
 */
int image_import(struct store *s, const char *name, int archive_fd, struct image *out, struct err *e)
{
	char full[IMAGE_NAME_MAX_BYTES + 8];
	struct import w = {archive_fd, -1, -1, -1};
	*out = (struct image){0};
	int rc = store_check_name(name, full, e);
	rc = rc ? rc : open_files(s, &w, e);
	rc = rc ? rc : run_child(&w, out, e);
	if (rc == 0) {
		free(out->name);
		out->name = strdup(full);
		out->created = (int64_t)time(NULL);
		rc = out->name ? store_commit(s, w.root_fd, out, e) : err_sys(e, -ENOMEM, "image");
	}
	if (rc)
		image_free(out);
	io_close(&w.container_fd);
	io_close(&w.spool_fd);
	io_close(&w.root_fd);
	return rc;
}
