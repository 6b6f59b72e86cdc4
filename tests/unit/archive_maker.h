/* Makes image archives for tests, from descriptions of layers. */
#ifndef CAPLOCK_TESTS_ARCHIVE_MAKER_H
#define CAPLOCK_TESTS_ARCHIVE_MAKER_H

#include <archive.h>
#include <archive_entry.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/image/digest.h"

/* Bytes of any origin. */
struct bytes {
	uint8_t *data;
	size_t len, room;
};

enum packing { PACK_NONE, PACK_GZIP, PACK_ZSTD };

struct bytes bytes_of(const void *data, size_t len);
void bytes_free(struct bytes *b);
void bytes_digest(const struct bytes *b, char text[DIGEST_TEXT_BYTES]);

/* A tar in the making. */
struct tar {
	struct archive *a;
	struct bytes out;
};

void tar_begin(struct tar *t, enum packing packing);
struct archive_entry *tar_entry(const char *path, mode_t mode);
void tar_add(struct tar *t, struct archive_entry *entry, const void *data, size_t len);
void tar_file(struct tar *t, const char *path, mode_t mode, const char *text);
void tar_dir(struct tar *t, const char *path, mode_t mode);
void tar_symlink(struct tar *t, const char *path, const char *target);
void tar_hardlink(struct tar *t, const char *path, const char *target);
struct bytes tar_end(struct tar *t);

/* An image of `count` layers; `unpacked` are their tars (for diff_ids), `packed` what is stored. */
struct image_parts {
	const struct bytes *packed, *unpacked;
	unsigned count;
	const char *config;   /* the "config" object; NULL: {} */
	const char *platform; /* NULL: "os":"linux","architecture":"amd64" */
};

struct bytes make_docker(const struct image_parts *p);
struct bytes make_oci(const struct image_parts *p);
int file_of(const struct bytes *b);

/* An empty image store in a new directory, which mkdtemp() gives its name. */
struct store *make_store(char *home);
void remove_store(struct store *store, const char *home);

#endif
