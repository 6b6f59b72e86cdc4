/* SHA-1 (FIPS 180-4): for formats that want it, not for security. */
#ifndef CAPLOCK_GUEST_SHA1_H
#define CAPLOCK_GUEST_SHA1_H

#include <stddef.h>
#include <stdint.h>

enum { SHA1_BYTES = 20, SHA1_BLOCK_BYTES = 64 };

struct sha1 {
	uint32_t h[5];
	uint64_t len_bytes;
	uint8_t block[SHA1_BLOCK_BYTES];
};

void sha1_begin(struct sha1 *s);
void sha1_add(struct sha1 *s, const void *data, size_t len_bytes);
void sha1_end(struct sha1 *s, uint8_t digest[SHA1_BYTES]);

#endif
