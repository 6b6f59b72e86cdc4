#include "vmm/image/digest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/util/io.h"

enum { CHUNK_BYTES = 256 << 10 };

/* Ends a computation and writes its digest. */
void digest_text(struct sha256_ctx *c, char text[DIGEST_TEXT_BYTES])
{
	uint8_t raw[SHA256_DIGEST_SIZE];
	sha256_digest(c, sizeof raw, raw);
	char *to = text + sprintf(text, "sha256:");
	for (size_t i = 0; i < sizeof raw; i++)
		to += sprintf(to, "%02x", raw[i]);
}

/* Whether `text` is a digest that we can check. */
bool digest_is_valid(const char *text)
{
	return strlen(text) == DIGEST_TEXT_BYTES - 1 && strncmp(text, "sha256:", 7) == 0 && strspn(text + 7, "0123456789abcdef") == 64;
}

/* The digest of a part of a file. Returns 0, or -errno: -EIO where the file is shorter. */
int digest_file(int fd, uint64_t offset, uint64_t len_bytes, char text[DIGEST_TEXT_BYTES])
{
	struct sha256_ctx c;
	uint8_t *chunk = malloc(CHUNK_BYTES);
	int rc = chunk ? 0 : -ENOMEM;
	sha256_init(&c);
	while (rc == 0 && len_bytes) {
		size_t n = len_bytes < CHUNK_BYTES ? (size_t)len_bytes : CHUNK_BYTES;
		rc = io_pread_all(fd, chunk, n, (off_t)offset);
		if (rc == 0)
			sha256_update(&c, n, chunk);
		offset += n;
		len_bytes -= n;
	}
	digest_text(&c, text);
	free(chunk);
	return rc;
}
