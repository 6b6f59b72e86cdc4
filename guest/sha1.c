#include "guest/sha1.h"

#include <string.h>

static uint32_t rotate(uint32_t x, int n)
{
	return x << n | x >> (32 - n);
}

static uint32_t mix(int round, uint32_t b, uint32_t c, uint32_t d)
{
	static const uint32_t k[] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
	uint32_t f = round < 20 ? (b & c) | (~b & d) : round >= 40 && round < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
	return f + k[round / 20];
}

static void take_block(uint32_t h[5], const uint8_t *p)
{
	uint32_t w[80], v[5];
	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
	for (int i = 16; i < 80; i++)
		w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
	memcpy(v, h, sizeof v);
	for (int i = 0; i < 80; i++) {
		uint32_t next = rotate(v[0], 5) + mix(i, v[1], v[2], v[3]) + v[4] + w[i];
		v[4] = v[3];
		v[3] = v[2];
		v[2] = rotate(v[1], 30);
		v[1] = v[0];
		v[0] = next;
	}
	for (int i = 0; i < 5; i++)
		h[i] += v[i];
}

/* Begins a computation. */
void sha1_begin(struct sha1 *s)
{
	*s = (struct sha1){.h = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0}};
}

/* Adds bytes to it. */
void sha1_add(struct sha1 *s, const void *data, size_t len_bytes)
{
	const uint8_t *p = data;
	while (len_bytes) {
		size_t at = s->len_bytes % SHA1_BLOCK_BYTES, n = SHA1_BLOCK_BYTES - at;
		n = n < len_bytes ? n : len_bytes;
		memcpy(s->block + at, p, n);
		s->len_bytes += n;
		p += n;
		len_bytes -= n;
		if (at + n == SHA1_BLOCK_BYTES)
			take_block(s->h, s->block);
	}
}

/* Ends it. */
void sha1_end(struct sha1 *s, uint8_t digest[SHA1_BYTES])
{
	uint64_t bits = s->len_bytes * 8;
	uint8_t length[8];
	for (int i = 0; i < 8; i++)
		length[i] = (uint8_t)(bits >> (56 - 8 * i));
	sha1_add(s, "\x80", 1);
	while (s->len_bytes % SHA1_BLOCK_BYTES != SHA1_BLOCK_BYTES - sizeof length)
		sha1_add(s, "", 1);
	sha1_add(s, length, sizeof length);
	for (int i = 0; i < SHA1_BYTES; i++)
		digest[i] = (uint8_t)(s->h[i / 4] >> (24 - 8 * (i % 4)));
}
