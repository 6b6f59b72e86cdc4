#include "tests/unit/archive_maker.h"

#include <criterion/criterion.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/image/image.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"

struct bytes bytes_of(const void *data, size_t len)
{
	struct bytes b = {malloc(len ? len : 1), len, len};
	memcpy(b.data, data, len);
	return b;
}

void bytes_free(struct bytes *b)
{
	free(b->data);
	*b = (struct bytes){0};
}

void bytes_digest(const struct bytes *b, char text[DIGEST_TEXT_BYTES])
{
	struct sha256_ctx c;
	sha256_init(&c);
	sha256_update(&c, b->len, b->data);
	digest_text(&c, text);
}

static la_ssize_t take(struct archive *a, void *context, const void *data, size_t len)
{
	(void)a;
	struct bytes *b = context;
	if (b->len + len > b->room) {
		b->room = 2 * (b->len + len);
		b->data = realloc(b->data, b->room);
	}
	memcpy(b->data + b->len, data, len);
	b->len += len;
	return (la_ssize_t)len;
}

void tar_begin(struct tar *t, enum packing packing)
{
	*t = (struct tar){.a = archive_write_new()};
	archive_write_set_format_pax_restricted(t->a);
	if (packing == PACK_GZIP)
		archive_write_add_filter_gzip(t->a);
	if (packing == PACK_ZSTD)
		archive_write_add_filter_zstd(t->a);
	archive_write_set_bytes_in_last_block(t->a, 1);
	cr_assert_eq(archive_write_open(t->a, &t->out, NULL, take, NULL), ARCHIVE_OK);
}

struct archive_entry *tar_entry(const char *path, mode_t mode)
{
	struct archive_entry *entry = archive_entry_new();
	archive_entry_set_pathname(entry, path);
	archive_entry_set_mode(entry, mode);
	archive_entry_set_mtime(entry, 1700000000, 5);
	return entry;
}

/* Adds an entry and frees it. */
void tar_add(struct tar *t, struct archive_entry *entry, const void *data, size_t len)
{
	if (S_ISREG(archive_entry_mode(entry)) && !archive_entry_hardlink(entry) && !archive_entry_size_is_set(entry))
		archive_entry_set_size(entry, (la_int64_t)len);
	cr_assert_geq(archive_write_header(t->a, entry), ARCHIVE_WARN, "%s", archive_error_string(t->a));
	if (len)
		cr_assert_eq(archive_write_data(t->a, data, len), (la_ssize_t)len);
	archive_entry_free(entry);
}

void tar_file(struct tar *t, const char *path, mode_t mode, const char *text)
{
	tar_add(t, tar_entry(path, S_IFREG | mode), text, strlen(text));
}

void tar_dir(struct tar *t, const char *path, mode_t mode)
{
	tar_add(t, tar_entry(path, S_IFDIR | mode), NULL, 0);
}

void tar_symlink(struct tar *t, const char *path, const char *target)
{
	struct archive_entry *entry = tar_entry(path, S_IFLNK | 0777);
	archive_entry_set_symlink(entry, target);
	tar_add(t, entry, NULL, 0);
}

void tar_hardlink(struct tar *t, const char *path, const char *target)
{
	struct archive_entry *entry = tar_entry(path, S_IFREG | 0644);
	archive_entry_set_hardlink(entry, target);
	tar_add(t, entry, NULL, 0);
}

struct bytes tar_end(struct tar *t)
{
	archive_write_close(t->a);
	archive_write_free(t->a);
	return t->out;
}

static struct bytes make_config(const struct image_parts *p)
{
	struct buf b = {0};
	buf_addf(&b, "{%s,\"config\":%s,\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[",
		 p->platform ? p->platform : "\"os\":\"linux\",\"architecture\":\"amd64\"", p->config ? p->config : "{}");
	for (unsigned i = 0; i < p->count; i++) {
		char digest[DIGEST_TEXT_BYTES];
		bytes_digest(&p->unpacked[i], digest);
		buf_addf(&b, "%s\"%s\"", i ? "," : "", digest);
	}
	buf_addf(&b, "]}}");
	return (struct bytes){b.data, b.len, b.cap};
}

static void add_bytes(struct tar *t, const char *path, const struct bytes *b)
{
	tar_add(t, tar_entry(path, S_IFREG | 0644), b->data, b->len);
}

/* As `docker save` wrote it until version 24. */
struct bytes make_docker(const struct image_parts *p)
{
	struct tar t;
	struct bytes config = make_config(p);
	struct buf manifest = {0};
	char digest[DIGEST_TEXT_BYTES], name[100];
	tar_begin(&t, PACK_NONE);
	bytes_digest(&config, digest);
	snprintf(name, sizeof name, "%s.json", digest + 7);
	add_bytes(&t, name, &config);
	buf_addf(&manifest, "[{\"Config\":\"%s\",\"RepoTags\":[\"x:latest\"],\"Layers\":[", name);
	for (unsigned i = 0; i < p->count; i++) {
		snprintf(name, sizeof name, "layer%u/layer.tar", i);
		add_bytes(&t, name, &p->packed[i]);
		buf_addf(&manifest, "%s\"%s\"", i ? "," : "", name);
	}
	buf_addf(&manifest, "]}]");
	add_bytes(&t, "manifest.json", &(struct bytes){.data = manifest.data, .len = manifest.len});
	bytes_free(&config);
	buf_free(&manifest);
	return tar_end(&t);
}

static void add_blob(struct tar *t, const struct bytes *b, const char *type, char descriptor[300])
{
	char digest[DIGEST_TEXT_BYTES], path[120];
	bytes_digest(b, digest);
	snprintf(path, sizeof path, "blobs/sha256/%s", digest + 7);
	add_bytes(t, path, b);
	snprintf(descriptor, 300, "{\"mediaType\":\"%s\",\"digest\":\"%s\",\"size\":%zu}", type, digest, b->len);
}

/* An OCI image layout with an index in the index. */
struct bytes make_oci(const struct image_parts *p)
{
	struct tar t;
	struct bytes config = make_config(p);
	struct buf manifest = {0}, inner = {0}, index = {0};
	char descriptor[300];
	tar_begin(&t, PACK_NONE);
	tar_file(&t, "oci-layout", 0644, "{\"imageLayoutVersion\":\"1.0.0\"}");
	add_blob(&t, &config, "application/vnd.oci.image.config.v1+json", descriptor);
	buf_addf(&manifest, "{\"schemaVersion\":2,\"config\":%s,\"layers\":[", descriptor);
	for (unsigned i = 0; i < p->count; i++) {
		add_blob(&t, &p->packed[i], "application/vnd.oci.image.layer.v1.tar", descriptor);
		buf_addf(&manifest, "%s%s", i ? "," : "", descriptor);
	}
	buf_addf(&manifest, "]}");
	add_blob(&t, &(struct bytes){.data = manifest.data, .len = manifest.len}, "application/vnd.oci.image.manifest.v1+json", descriptor);
	descriptor[strlen(descriptor) - 1] = 0;
	buf_addf(&inner,
		 "{\"schemaVersion\":2,\"manifests\":[%s,\"platform\":{\"os\":\"linux\",\"architecture\":\"amd64\"}},"
		 "{\"digest\":\"sha256:00\",\"size\":1,\"platform\":{\"os\":\"linux\",\"architecture\":\"arm64\"}},"
		 "{\"digest\":\"sha256:00\",\"size\":1,\"platform\":{\"os\":\"unknown\",\"architecture\":\"unknown\"}}]}",
		 descriptor);
	add_blob(&t, &(struct bytes){.data = inner.data, .len = inner.len}, "application/vnd.oci.image.index.v1+json", descriptor);
	buf_addf(&index, "{\"schemaVersion\":2,\"manifests\":[%s]}", descriptor);
	add_bytes(&t, "index.json", &(struct bytes){.data = index.data, .len = index.len});
	bytes_free(&config);
	buf_free(&manifest);
	buf_free(&inner);
	buf_free(&index);
	return tar_end(&t);
}

/* A memory file with these bytes, at its beginning. */
int file_of(const struct bytes *b)
{
	int fd = memfd_create("archive", MFD_CLOEXEC);
	cr_assert_eq(write(fd, b->data, b->len), (ssize_t)b->len);
	lseek(fd, 0, SEEK_SET);
	return fd;
}

struct store *make_store(char *home)
{
	struct store *store = NULL;
	struct err e;
	if (!mkdtemp(home) || setenv("XDG_DATA_HOME", home, 1) || store_open(&store, &e))
		abort();
	return store;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

void remove_store(struct store *store, const char *home)
{
	store_close(store);
	nftw(home, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
