/*
 * Secrets in bodies.
 *
 * Theory of operation
 * -------------------
 * Requests are searched for placeholders. One of a secret that must not go there ends the request before its first byte (what
 * came before has passed). To the secret's own host it is left as it is, or becomes the value where the user says so. Bodies
 * that are compressed are not opened: what is found in them by the server is a placeholder, and worth nothing.
 *
 * Answers are searched for the values of all secrets, as they are and encoded: in base64 of both alphabets, wherever in it the
 * value begins, percent-encoded, and as a string in JSON. A value becomes its placeholder, so that a program that is told its
 * key can go on using it; what is encoded becomes "[redacted NAME]". This is against accidents, not against a server that
 * means to tell: there are more encodings. Nor is a value found that is so short that it is in most answers anyway.
 *
 * A body comes in pieces. What may be the beginning of a match is held until more is there, and nothing else: an answer that
 * is sent line by line arrives line by line. How the body is cut changes nothing of what is found.
 */
#include "virtio/net/gate/secret_scan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/encode.h"
#include "virtio/net/gate/http.h"
#include "virtio/net/gate/secret.h"

/* ---- What is looked for ---- */

/* The forms of one value that is being added. */
struct forms {
	struct secret_patterns *patterns;
	size_t first;     /* of the matcher's texts, that is of this value */
	unsigned id;      /* of its encoded forms */
	uint8_t *scratch; /* SCRATCH_BYTES() */
	int rc;
};
#define SCRATCH_BYTES(value_bytes) (3 * (value_bytes) + 16)
#define FORMS_BYTES(value_bytes) ((6 * 4 / 3 + 8 * 3 + 2 * 2) * (value_bytes) + 64) /* of all; see add_encoded() */

/* Adds what is in the scratch area from `from` to `to`, where there is no such form of the value yet. */
static void add_form(struct forms *f, size_t from, size_t to)
{
	struct matcher *m = &f->patterns->values;
	size_t bytes = to - from;
	for (size_t i = f->first; i < m->count; i++)
		if (m->text[i].bytes == bytes && memcmp(m->text[i].at, f->scratch + from, bytes) == 0)
			return;
	uint8_t *at = f->rc ? NULL : vault_take(&f->patterns->vault, bytes); /* there is room for all */
	if (!at)
		return;
	memcpy(at, f->scratch + from, bytes);
	f->rc = matcher_add(m, at, bytes, f->id);
}

/*
 * A value in base64, where `before` bytes of something else are before it in a group of three: without the letters that depend
 * on what is before and behind.
 */
static void add_base64(struct forms *f, const struct secret *s, size_t before, bool url)
{
	uint8_t *plain = f->scratch + (s->value_bytes + 4) * 2;
	memset(plain, 0, before);
	memcpy(plain + before, s->value, s->value_bytes);
	encode_base64((const char *)plain, before + s->value_bytes, url, (char *)f->scratch);
	add_form(f, before ? before + 1 : 0, (before + s->value_bytes) * 8 / 6);
}

/* A value as a string in JSON; some write '/' in another way. */
static void add_json(struct forms *f, const struct secret *s, bool slash)
{
	uint8_t *at = f->scratch;
	for (size_t i = 0; i < s->value_bytes; i++) {
		char c = s->value[i];
		if (c == '"' || c == '\\' || c == '\t' || (c == '/' && slash))
			*at++ = '\\';
		*at++ = (uint8_t)(c == '\t' ? 't' : c);
	}
	add_form(f, 0, (size_t)(at - f->scratch));
}

static void add_encoded(struct forms *f, const struct secret *s)
{
	/* RFC 3986; JavaScript's encodeURIComponent; Python's quote; forms. */
	static const char *const kept[] = {ENCODE_UNRESERVED, ENCODE_UNRESERVED "!*'()", ENCODE_UNRESERVED "/", "-._*+"};
	for (size_t before = 0; before < 3; before++) {
		add_base64(f, s, before, false);
		add_base64(f, s, before, true);
	}
	for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
		add_form(f, 0, encode_percent(s->value, s->value_bytes, kept[i], false, (char *)f->scratch));
		add_form(f, 0, encode_percent(s->value, s->value_bytes, kept[i], true, (char *)f->scratch));
	}
	add_json(f, s, false);
	add_json(f, s, true);
}

static int add_value(struct secret_patterns *p, size_t number, uint8_t *scratch)
{
	const struct secret *s = p->secrets->item[number];
	struct forms f = {p, p->values.count, 2 * (unsigned)number + 1, scratch, 0};
	if (s->value_bytes >= SECRET_RAW_MIN_BYTES)
		f.rc = matcher_add(&p->values, s->value, s->value_bytes, 2 * (unsigned)number);
	if (s->value_bytes >= SECRET_ENCODED_MIN_BYTES)
		add_encoded(&f, s);
	return f.rc;
}

static int add_all(struct secret_patterns *p)
{
	size_t largest = 0, all = 0;
	for (size_t i = 0; i < p->secrets->count; i++) {
		size_t bytes = p->secrets->item[i]->value_bytes;
		largest = bytes > largest ? bytes : largest;
		all += FORMS_BYTES(bytes);
	}
	int rc = vault_open(&p->vault, SCRATCH_BYTES(largest) + all);
	uint8_t *scratch = rc ? NULL : vault_take(&p->vault, SCRATCH_BYTES(largest));
	for (size_t i = 0; rc == 0 && i < p->secrets->count; i++) {
		const char *placeholder = p->secrets->item[i]->placeholder;
		rc = matcher_add(&p->placeholders, placeholder, strlen(placeholder), (unsigned)i);
		rc = rc ? rc : add_value(p, i, scratch);
	}
	matcher_ready(&p->placeholders);
	matcher_ready(&p->values);
	return rc;
}

/* Prepares the search for these secrets, which stay the caller's and as they are. Returns 0, or -errno with nothing made. */
int secret_patterns_make(struct secret_patterns *p, const struct secrets *s)
{
	p->secrets = s;
	int rc = s->count ? add_all(p) : 0;
	if (rc)
		secret_patterns_free(p);
	return rc;
}

/* Wipes and frees what it takes; nothing is found any more. */
void secret_patterns_free(struct secret_patterns *p)
{
	matcher_free(&p->placeholders);
	matcher_free(&p->values);
	vault_close(&p->vault);
	p->secrets = NULL;
}

/* ---- Bodies ---- */

/* Starts on the body of a request to `t`. All pure from here on. */
void secret_scan_request(struct secret_scan *scan, const struct secret_patterns *p, const struct secret_target *t)
{
	*scan = (struct secret_scan){.secrets = p->secrets, .matcher = &p->placeholders};
	for (size_t i = 0; i < p->placeholders.count; i++) {
		const struct secret *s = p->secrets->item[i];
		if (secret_refusal(s, t))
			scan->stopped |= UINT64_C(1) << i;
		else if (s->in_body)
			scan->put_in |= UINT64_C(1) << i;
	}
}

/* Starts on the body of an answer. `keep_length`: its length was promised. */
void secret_scan_answer(struct secret_scan *scan, const struct secret_patterns *p, bool keep_length)
{
	*scan = (struct secret_scan){.secrets = p->secrets, .matcher = &p->values, .answer = true, .keep_length = keep_length};
}

/* Like buf_add(), but leaves nothing behind in memory that is freed. */
static int add(struct buf *b, const void *data, size_t bytes)
{
	if (bytes > b->cap - b->len) {
		struct buf larger = {0};
		int rc = buf_reserve(&larger, b->len + bytes > 2 * b->cap ? b->len + bytes : 2 * b->cap);
		if (rc)
			return rc;
		buf_add(&larger, b->data, b->len);
		if (b->data)
			explicit_bzero(b->data, b->len);
		buf_free(b);
		*b = larger;
	}
	return buf_add(b, data, bytes);
}

/* Adds `text`, or so much of it and of what fills it that it is as long as what it replaces. */
static int add_instead(const struct secret_scan *scan, const char *text, size_t length, size_t replaced_bytes, struct buf *out)
{
	if (!scan->keep_length)
		return add(out, text, length);
	int rc = add(out, text, length < replaced_bytes ? length : replaced_bytes);
	for (size_t i = length; rc == 0 && i < replaced_bytes; i++)
		rc = add(out, "*", 1);
	return rc;
}

static int answer_found(struct secret_scan *scan, const struct matcher_text *t, struct buf *out)
{
	const struct secret *s = scan->secrets->item[t->id / 2];
	char text[SECRET_NAME_BYTES + 16];
	scan->found |= UINT64_C(1) << t->id / 2;
	scan->count++;
	if (t->id % 2 == 0)
		return add_instead(scan, s->placeholder, strlen(s->placeholder), t->bytes, out);
	int length = snprintf(text, sizeof text, "[redacted %s]", s->name);
	return add_instead(scan, text, (size_t)length, t->bytes, out);
}

static int request_found(struct secret_scan *scan, const struct matcher_text *t, struct buf *out)
{
	const struct secret *s = scan->secrets->item[t->id];
	uint64_t bit = UINT64_C(1) << t->id;
	if (scan->stopped & bit) {
		scan->blocked = s;
		return -EPERM;
	}
	if (!(scan->put_in & bit))
		return add(out, s->placeholder, t->bytes);
	scan->found |= bit;
	scan->count++;
	return add(out, s->value, s->value_bytes);
}

/* Goes through *data until what may be the beginning of something, where it then is. */
static int run(struct secret_scan *scan, const uint8_t **data, size_t *bytes, bool last, struct buf *out)
{
	const struct matcher_text *found = NULL;
	int rc = 0;
	do {
		size_t n = matcher_find(scan->matcher, *data, *bytes, last, &found);
		rc = add(out, *data, n);
		if (rc == 0 && found)
			rc = scan->answer ? answer_found(scan, found, out) : request_found(scan, found, out);
		n += found ? found->bytes : 0;
		*data += n;
		*bytes -= n;
	} while (rc == 0 && found);
	return rc;
}

/*
 * Takes a piece of the body. What goes on is the first *pass_bytes of `data` as they are, and then what was added to `out`,
 * which may have a value in it. Returns 0, -ENOMEM, or -EPERM: the request is stopped at a placeholder, scan->blocked says
 * whose, and nothing must go on but what this call gives.
 */
int secret_scan_feed(struct secret_scan *scan, const void *data, size_t bytes, size_t *pass_bytes, struct buf *out)
{
	const uint8_t *at = data;
	const struct matcher_text *found = NULL;
	*pass_bytes = 0;
	if (scan->blocked)
		return -EPERM;
	if (scan->held.len) {
		int rc = add(&scan->held, data, bytes);
		at = scan->held.data;
		bytes = scan->held.len;
		rc = rc ? rc : run(scan, &at, &bytes, false, out);
		buf_consume(&scan->held, scan->held.len - bytes);
		return rc;
	}
	*pass_bytes = matcher_find(scan->matcher, at, bytes, false, &found);
	at += *pass_bytes;
	bytes -= *pass_bytes;
	int rc = found ? run(scan, &at, &bytes, false, out) : 0;
	return rc || bytes == 0 ? rc : add(&scan->held, at, bytes);
}

/* The body is over: adds to `out` what was held. Returns as secret_scan_feed(). */
int secret_scan_end(struct secret_scan *scan, struct buf *out)
{
	const uint8_t *at = scan->held.data;
	size_t bytes = scan->held.len;
	if (scan->blocked)
		return -EPERM;
	int rc = bytes ? run(scan, &at, &bytes, true, out) : 0;
	scan->held.len = 0;
	return rc;
}

/* Wipes and frees what it takes. */
void secret_scan_free(struct secret_scan *scan)
{
	if (scan->held.data)
		explicit_bzero(scan->held.data, scan->held.cap);
	buf_free(&scan->held);
}

/* ---- Fields of answers ---- */

static int replace_value(struct http_fields *f, size_t at, struct buf *value)
{
	size_t before = strlen(f->item[at].value), after = value->len;
	if (after > HTTP_FIELDS_MAX_BYTES - (f->bytes - before))
		return -E2BIG;
	int rc = buf_add(value, "", 1);
	rc = rc ? rc : http_replace_text(&f->item[at].value, (char *)value->data);
	f->bytes += rc ? 0 : after - before;
	return rc;
}

/*
 * Takes values out of the fields of an answer's head, or its trailers, and adds to *found whose. Returns 0, -ENOMEM, or -E2BIG:
 * there is no room for a placeholder, and the answer must not go on.
 */
int secret_redact_fields(const struct secret_patterns *p, struct http_fields *fields, uint64_t *found)
{
	struct secret_scan scan;
	struct buf value = {0};
	int rc = 0;
	secret_scan_answer(&scan, p, false);
	for (size_t i = 0; rc == 0 && i < fields->count; i++) {
		const uint8_t *at = (const uint8_t *)fields->item[i].value;
		size_t bytes = strlen(fields->item[i].value);
		uint64_t count = scan.count;
		value.len = 0;
		rc = run(&scan, &at, &bytes, true, &value);
		if (rc == 0 && scan.count > count)
			rc = replace_value(fields, i, &value);
	}
	*found |= scan.found;
	buf_free(&value);
	return rc;
}
