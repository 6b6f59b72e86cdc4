/* Images: what a sandbox boots from. */
#ifndef CAPLOCK_IMAGE_IMAGE_H
#define CAPLOCK_IMAGE_IMAGE_H

#include <stdint.h>

struct err;
struct store;
struct strv;

/* The part of the OCI image configuration that `run` honours. Strings and lists (ending with NULL) are owned; lists
 * are never NULL, strings may be. */
struct image_config {
	char **env;
	char **entrypoint;
	char **cmd;
	char *working_dir;
	char *user;
};

struct image {
	char *name;      /* as stored: with its tag */
	char *digest;    /* "sha256:..." of the root image's content, its name in the store */
	uint64_t bytes;  /* disk space that the root image takes */
	int64_t created; /* when it was imported, seconds since 1970 */
	struct image_config config;
};

int store_open(struct store **out, struct err *e);
void store_close(struct store *s);

/* Writes are atomic and safe against concurrent imports and SIGKILL at any point. */
int image_import(struct store *s, const char *name, int archive_fd, struct image *out, struct err *e);
int image_open(struct store *s, const char *name, struct image *out, int *root_fd, struct err *e);
int image_list(struct store *s, struct image **out, unsigned *count, struct err *e);
int image_remove(struct store *s, const char *name, struct err *e);
void image_free(struct image *i);

int image_packages(int root_fd, uint64_t offset_bytes, struct strv *rules, struct err *e);

int store_scratch(struct store *s, uint64_t size_bytes, int *fd, struct err *e);

#endif
