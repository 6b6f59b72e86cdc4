/*
 * Many texts looked for at once.
 *
 * Theory of operation
 * -------------------
 * The algorithm of Wu and Manber, by pairs of bytes. As many bytes as the shortest text has are looked at as a window. Of its
 * last two a table says how far it may move: to where they could be the same two bytes of some text. Most windows move by
 * nearly their whole length, so that most bytes are never read. Where a window may not move, the texts that have these two
 * bytes there (a bucket) are compared.
 *
 * A match is the longest text at the first place where any is. That does not depend on how the stream is cut: where what is
 * there may still become a longer match, the answer is that more is needed.
 */
#include "virtio/net/gate/matcher.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	MATCHER_NONE = UINT16_MAX,
	WINDOW_MAX_BYTES = 64,
};

/* Adds a text of at least MATCHER_MIN_BYTES, which is not copied. Returns 0, -ENOMEM, or -E2BIG. */
int matcher_add(struct matcher *m, const void *text, size_t bytes, unsigned id)
{
	if (m->count == MATCHER_NONE)
		return -E2BIG;
	struct matcher_text *larger = realloc(m->text, (m->count + 1) * sizeof *larger);
	if (!larger)
		return -ENOMEM;
	m->text = larger;
	larger[m->count++] = (struct matcher_text){text, bytes, id, MATCHER_NONE};
	return 0;
}

static unsigned pair_at(const uint8_t *at)
{
	uint16_t pair;
	memcpy(&pair, at, sizeof pair);
	return pair;
}

static unsigned bucket_of(unsigned pair)
{
	return (pair ^ pair >> 8) & 255;
}

/* Makes the tables, after the last text. */
void matcher_ready(struct matcher *m)
{
	m->window = WINDOW_MAX_BYTES;
	for (size_t i = 0; i < m->count; i++)
		m->window = m->text[i].bytes < m->window ? m->text[i].bytes : m->window;
	memset(m->shift, (int)m->window - 1, sizeof m->shift);
	memset(m->bucket, 0xff, sizeof m->bucket);
	for (size_t i = 0; i < m->count; i++) {
		struct matcher_text *t = &m->text[i];
		for (size_t j = 0; j + 2 <= m->window; j++) {
			uint8_t *shift = &m->shift[pair_at(t->at + j)], move = (uint8_t)(m->window - 2 - j);
			*shift = move < *shift ? move : *shift;
		}
		uint16_t *bucket = &m->bucket[bucket_of(pair_at(t->at + m->window - 2))];
		t->next = *bucket;
		*bucket = (uint16_t)i;
		m->begins[t->at[0]] = true;
	}
}

/* Frees what it takes, and leaves no text. */
void matcher_free(struct matcher *m)
{
	free(m->text);
	m->text = NULL;
	m->count = 0;
}

/*
 * Compares the texts of a bucket with what is at `at`. Returns whether more is needed to know the longest that is there;
 * otherwise that is *found, or NULL.
 */
static bool compare(const struct matcher *m, unsigned bucket, const uint8_t *at, size_t bytes, bool last,
		    const struct matcher_text **found)
{
	*found = NULL;
	for (unsigned i = m->bucket[bucket]; i != MATCHER_NONE; i = m->text[i].next) {
		const struct matcher_text *t = &m->text[i];
		bool whole = t->bytes <= bytes;
		if (memcmp(t->at, at, whole ? t->bytes : bytes) != 0)
			continue;
		if (!whole && !last) {
			*found = NULL;
			return true;
		}
		if (whole && (!*found || t->bytes > (*found)->bytes))
			*found = t;
	}
	return false;
}

/* Whether some text begins with these bytes, which are fewer than a window. */
static bool may_begin(const struct matcher *m, const uint8_t *at, size_t bytes)
{
	if (!m->begins[at[0]])
		return false;
	for (size_t i = 0; i < m->count; i++)
		if (memcmp(m->text[i].at, at, bytes) == 0)
			return true;
	return false;
}

/*
 * Looks for the first text in `data`, which `last` says is the end of the stream. Returns how many bytes before it, or, with
 * *found NULL, how many bytes have none in them, whatever follows: the rest is to be given again, with more behind it. Pure.
 */
size_t matcher_find(const struct matcher *m, const uint8_t *data, size_t bytes, bool last, const struct matcher_text **found)
{
	size_t i = 0;
	*found = NULL;
	while (m->count && i + m->window <= bytes) {
		unsigned pair = pair_at(data + i + m->window - 2);
		if (m->shift[pair])
			i += m->shift[pair];
		else if (compare(m, bucket_of(pair), data + i, bytes - i, last, found) || *found)
			return i;
		else
			i++;
	}
	if (m->count == 0 || last)
		return bytes;
	while (i < bytes && !may_begin(m, data + i, bytes - i))
		i++;
	return i;
}
