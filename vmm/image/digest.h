/* SHA-256 digests as OCI writes them: "sha256:" and 64 hexadecimal digits. */
#ifndef CAPLOCK_IMAGE_DIGEST_H
#define CAPLOCK_IMAGE_DIGEST_H

#include <nettle/sha2.h>
#include <stdbool.h>
#include <stdint.h>

enum { DIGEST_TEXT_BYTES = 7 + 64 + 1 };

void digest_text(struct sha256_ctx *c, char text[DIGEST_TEXT_BYTES]);
bool digest_is_valid(const char *text);
int digest_file(int fd, uint64_t offset, uint64_t len_bytes, char text[DIGEST_TEXT_BYTES]);

#endif
