/*
 * Replacements in a body.
 *
 * Theory of operation
 * -------------------
 * Purpose: finds texts in a body of any length and puts others in their places, whatever the pieces are in which the body
 * comes. At each position the first replacement of the list that fits is made; what is put in is not searched again, so that
 * replacements cannot feed each other.
 *
 * Memory: only what may be the beginning of a match is held back, less than HOOK_FIND_MAX_BYTES, and nothing once a line of
 * an event stream has ended. Input is taken in small pieces and no longer when there is enough output: what is held back may
 * still give HOOK_FIND_MAX_BYTES times HOOK_REPLACE_MAX_BYTES at once, where the user has made replacements like that.
 *
 * Event streams (text/event-stream) are searched line by line, and only in what follows "data:": names of events, comments
 * and the ends of lines stay what they are.
 */
#include "virtio/net/gate/hook_body.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/util/buf.h"

enum { PIECE_BYTES = 256 };

enum line {
	LINE_START, /* what there is of it is the beginning of "data:" */
	LINE_DATA,
	LINE_OTHER,
};

static const char data_field[] = "data:";

/* ---- Lists of replacements ---- */

/* Adds a replacement, copied. Returns 0, -ENOMEM, or -E2BIG where there are too many for a body. */
int hook_replacements_add(struct hook_replacements *r, const struct buf *find, const struct buf *replace)
{
	if (r->count == HOOK_REPLACEMENTS_MAX)
		return -E2BIG;
	struct hook_replacement *larger = reallocarray(r->item, r->count + 1, sizeof *larger);
	if (!larger)
		return -ENOMEM;
	r->item = larger;
	struct hook_replacement *added = &larger[r->count++];
	*added = (struct hook_replacement){0};
	int rc = buf_add(&added->find, find->data, find->len);
	return rc ? rc : buf_add(&added->replace, replace->data, replace->len);
}

/* Adds copies of all of `from`. Returns as hook_replacements_add(). */
int hook_replacements_add_all(struct hook_replacements *to, const struct hook_replacements *from)
{
	int rc = 0;
	for (size_t i = 0; i < from->count && rc == 0; i++)
		rc = hook_replacements_add(to, &from->item[i].find, &from->item[i].replace);
	return rc;
}

/* Frees a list, and leaves an empty one. */
void hook_replacements_free(struct hook_replacements *r)
{
	for (size_t i = 0; i < r->count; i++) {
		buf_free(&r->item[i].find);
		buf_free(&r->item[i].replace);
	}
	free(r->item);
	*r = (struct hook_replacements){0};
}

/* ---- A body ---- */

/* Starts with a body; `replace` must outlive it. `events`: it is text/event-stream. hook_body_free() to end. */
void hook_body_init(struct hook_body *b, const struct hook_replacements *replace, bool events)
{
	*b = (struct hook_body){.replace = replace, .events = events};
	for (size_t i = 0; i < replace->count; i++)
		b->first[replace->item[i].find.data[0]] = true;
}

/* The replacement to make at `p`; NULL: none, or, with *more, it depends on what comes. */
static const struct hook_replacement *fits(const struct hook_body *b, const uint8_t *p, size_t avail, bool last, bool *more)
{
	for (size_t i = 0; i < b->replace->count; i++) {
		const struct hook_replacement *r = &b->replace->item[i];
		size_t n = avail < r->find.len ? avail : r->find.len;
		if (memcmp(p, r->find.data, n) != 0)
			continue;
		if (n == r->find.len)
			return r;
		if (!last) {
			*more = true;
			return NULL;
		}
	}
	return NULL;
}

/* Searches what is pending, as far as it can be decided: all of it where it is the `last`. */
static int search(struct hook_body *b, bool last, struct buf *out)
{
	const uint8_t *p = b->pending.data;
	size_t at = 0, copied = 0, len = b->pending.len;
	bool more = false;
	int rc = 0;
	if (len == 0)
		return 0;
	while (at < len && rc == 0) {
		const struct hook_replacement *r = b->first[p[at]] ? fits(b, p + at, len - at, last, &more) : NULL;
		if (more)
			break;
		if (!r) {
			at++;
			continue;
		}
		rc = buf_add(out, p + copied, at - copied);
		rc = rc ? rc : buf_add(out, r->replace.data, r->replace.len);
		at += r->find.len;
		copied = at;
	}
	rc = rc ? rc : buf_add(out, p + copied, at - copied);
	buf_consume(&b->pending, at);
	return rc;
}

static int feed_piece(struct hook_body *b, const uint8_t *data, size_t len, struct buf *out)
{
	int rc = buf_add(&b->pending, data, len);
	return rc ? rc : search(b, false, out);
}

/* Takes the next byte of an event stream that ends a line, or some that do not. */
static int feed_events(struct hook_body *b, const uint8_t *data, size_t len, size_t *taken, struct buf *out)
{
	size_t n = 0;
	while (n < len && data[n] != '\r' && data[n] != '\n')
		n++;
	*taken = b->line == LINE_START || n == 0 ? 1 : n;
	if (n == 0) {
		b->line = LINE_START;
		b->matched_bytes = 0;
		int rc = search(b, true, out);
		return rc ? rc : buf_add(out, data, 1);
	}
	if (b->line == LINE_DATA)
		return feed_piece(b, data, n, out);
	if (b->line == LINE_START && data[0] != data_field[b->matched_bytes++])
		b->line = LINE_OTHER;
	else if (b->line == LINE_START && !data_field[b->matched_bytes])
		b->line = LINE_DATA;
	return buf_add(out, data, *taken);
}

/*
 * Takes `data`, or, where `out` has become HOOK_BODY_OUT_BYTES or more, only the first *taken bytes of it, and appends to `out`
 * what has been decided. Returns 0 or -ENOMEM.
 */
int hook_body_feed(struct hook_body *b, const void *data, size_t len_bytes, size_t *taken, struct buf *out)
{
	const uint8_t *p = data;
	int rc = 0;
	*taken = 0;
	while (*taken < len_bytes && out->len < HOOK_BODY_OUT_BYTES && rc == 0) {
		size_t n = len_bytes - *taken < PIECE_BYTES ? len_bytes - *taken : PIECE_BYTES;
		rc = b->events ? feed_events(b, p + *taken, n, &n, out) : feed_piece(b, p + *taken, n, out);
		*taken += n;
	}
	return rc;
}

/* Appends what was held back: the body has ended. Returns 0 or -ENOMEM. */
int hook_body_end(struct hook_body *b, struct buf *out)
{
	return search(b, true, out);
}

/* Frees what is held back. */
void hook_body_free(struct hook_body *b)
{
	buf_free(&b->pending);
}
