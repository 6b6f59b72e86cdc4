/*
 * Theory of operation
 * -------------------
 * Purpose: writes a Java KeyStore of certificates that are trusted, with the password "changeit", which is that of every such
 * store. All that Java needs of it is in this file, as neither Java nor its tools can be counted on. All integers are big-endian:
 *
 *   u32 0xfeedfeed, u32 version 2, u32 number of entries
 *   of each: u32 2 (a trusted certificate), text alias, u64 date in ms since 1970, text "X.509", u32 length, certificate (DER)
 *   SHA-1 of the password (UTF-16), "Mighty Aphrodite", and all of the above
 *
 * where a text is u16 length and UTF-8. Java takes such a file also where it expects PKCS #12 (keystore.type.compat).
 *
 * A store of the image is taken as it is, but for its count and its digest: whatever is in it, Java reads it, not we.
 */
#include "guest/jks.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "guest/sha1.h"

enum {
	MAGIC = 0xfeedfeed,
	VERSION = 2,
	TRUSTED = 2,
	COUNT_AT = 8,
	HEADER_BYTES = 12,
};

static const uint8_t password[] = "\0c\0h\0a\0n\0g\0e\0i\0t";
static const char whitener[] = "Mighty Aphrodite";
static const char begin[] = "-----BEGIN CERTIFICATE-----", end[] = "-----END CERTIFICATE-----";

static void set_u32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static uint32_t get_u32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int put_u32(struct queue *q, uint32_t v)
{
	uint8_t bytes[4];
	set_u32(bytes, v);
	return queue_add(q, bytes, sizeof bytes);
}

static int put_text(struct queue *q, const char *text)
{
	size_t n = strlen(text);
	const uint8_t len[2] = {(uint8_t)(n >> 8), (uint8_t)n};
	int rc = queue_add(q, len, sizeof len);
	return rc ? rc : queue_add(q, text, n);
}

/* Begins an empty store. Returns 0 or -ENOMEM. */
int jks_create(struct jks *j)
{
	int rc = put_u32(&j->bytes, MAGIC);
	rc = rc ? rc : put_u32(&j->bytes, VERSION);
	return rc ? rc : put_u32(&j->bytes, 0);
}

/* Begins with what is in a store. Returns 0, -EINVAL where it is none, or -ENOMEM. */
int jks_open(struct jks *j, const uint8_t *store, size_t len_bytes)
{
	if (len_bytes < HEADER_BYTES + SHA1_BYTES || get_u32(store) != MAGIC || get_u32(store + 4) != VERSION)
		return -EINVAL;
	j->count = get_u32(store + COUNT_AT);
	return queue_add(&j->bytes, store, len_bytes - SHA1_BYTES);
}

/* Adds a certificate (DER). Its date is that of the epoch. Returns 0 or -ENOMEM. */
int jks_add(struct jks *j, const char *alias, const uint8_t *certificate, size_t len_bytes)
{
	static const uint8_t date[8];
	int rc = put_u32(&j->bytes, TRUSTED);
	rc = rc ? rc : put_text(&j->bytes, alias);
	rc = rc ? rc : queue_add(&j->bytes, date, sizeof date);
	rc = rc ? rc : put_text(&j->bytes, "X.509");
	rc = rc ? rc : put_u32(&j->bytes, (uint32_t)len_bytes);
	rc = rc ? rc : queue_add(&j->bytes, certificate, len_bytes);
	j->count += rc == 0;
	return rc;
}

/* Decodes base64, of which what is no digit of it is skipped, to `out`, which has room. Returns the number of bytes. */
static size_t decode(const char *text, size_t len_bytes, uint8_t *out)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	uint32_t bits = 0;
	unsigned count = 0;
	size_t n = 0;
	for (size_t i = 0; i < len_bytes; i++) {
		const char *digit = text[i] ? strchr(digits, text[i]) : NULL;
		if (!digit)
			continue;
		bits = bits << 6 | (uint32_t)(digit - digits);
		count += 6;
		if (count >= 8) {
			count -= 8;
			out[n++] = (uint8_t)(bits >> count);
		}
	}
	return n;
}

/*
 * Adds the certificates of a text (PEM); the alias of each is `alias` and a number. Returns how many there were, or -ENOMEM.
 */
int jks_add_pem(struct jks *j, const char *alias, const char *pem, size_t len_bytes)
{
	const char *rest = pem, *stop = pem + len_bytes, *first, *last;
	struct queue der = {0};
	int count = 0, rc = 0;
	while (rc == 0 && (first = memmem(rest, (size_t)(stop - rest), begin, sizeof begin - 1))) {
		first += sizeof begin - 1;
		last = memmem(first, (size_t)(stop - first), end, sizeof end - 1);
		if (!last)
			break;
		char name[64];
		snprintf(name, sizeof name, "%s%d", alias, count);
		uint8_t *room = queue_reserve(&der, (size_t)(last - first));
		rc = room ? jks_add(j, name, room, decode(first, (size_t)(last - first), room)) : -ENOMEM;
		count++;
		rest = last + sizeof end - 1;
	}
	queue_free(&der);
	return rc ? rc : count;
}

/* Completes the store: it is j->bytes. Returns 0 or -ENOMEM. */
int jks_finish(struct jks *j)
{
	struct sha1 sum;
	uint8_t digest[SHA1_BYTES];
	uint8_t *data = j->bytes.data + j->bytes.start;
	set_u32(data + COUNT_AT, j->count);
	sha1_begin(&sum);
	sha1_add(&sum, password, sizeof password - 1);
	sha1_add(&sum, whitener, sizeof whitener - 1);
	sha1_add(&sum, data, queue_len(&j->bytes));
	sha1_end(&sum, digest);
	return queue_add(&j->bytes, digest, sizeof digest);
}
