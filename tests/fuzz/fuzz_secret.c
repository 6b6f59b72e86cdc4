/*
 * Heads, request bodies and answers, to one of several hosts. Whatever they are: no value goes to a host that it does not
 * belong to, nor its placeholder in any form that the host would read; what is blocked is unchanged; no value is in an answer
 * that has passed; and how a body is cut changes nothing.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/encode.h"
#include "virtio/net/gate/http.h"
#include "virtio/net/gate/secret.h"
#include "virtio/net/gate/secret_scan.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"

static struct secrets secrets;
static struct secret_patterns patterns;

static const struct secret_target targets[] = {
	{"a.com", 443, true}, {"a.com", 80, false}, {"b.com", 443, true}, {"c.com", 443, true}, {NULL, 443, true},
};

static void add(const char *name, const char *placeholder, const char *host, const char *value, unsigned where)
{
	struct err e;
	char copy[64];
	const char *hosts[] = {host, NULL};
	struct secret_spec spec = {name, placeholder, hosts, .in_path = where & 1, .in_body = where & 2, .plain_http = where & 4};
	strcpy(copy, value);
	if (secrets_add(&secrets, &spec, copy, strlen(copy), &e))
		abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	add("A", "SECRET_A", "a.com", "v\"1/+ \\\xc3\xa4", 0);
	add("B", "SECRET_B", "b.com", "#value-2", 1 | 2);
	add("C", "SEC_SECRET_C", "a.com", "#value-#value-3", 2 | 4);
	add("D", "AAAAAAAA", "a.com", "alue", 2);
	if (secret_patterns_make(&patterns, &secrets))
		abort();
	return 0;
}

static bool has(const void *in, size_t bytes, const void *what, size_t what_bytes)
{
	return bytes && memmem(in, bytes, what, what_bytes);
}

/* Whether a value may be there by chance: as a part of another that is put in, or completed by what is around it. */
static bool may_coincide(const struct secret *s, const struct secret_target *t)
{
	return strchr("BD", s->name[0]) && t->host && strcmp(t->host, "c.com") != 0;
}

/* ---- Heads ---- */

/* The texts of a head, one after another. */
static void join(const struct http_head *h, struct buf *out)
{
	buf_addf(out, "%s %s\n", h->method, h->path);
	for (size_t i = 0; i < h->fields.count; i++)
		buf_addf(out, "%s: %s\n", h->fields.item[i].name, h->fields.item[i].value);
}

/* Undoes percent-encoding, the simple way. */
static size_t decode(uint8_t *text, size_t bytes)
{
	size_t n = 0;
	for (size_t i = 0; i < bytes; i++, n++) {
		int high = i + 2 < bytes ? encode_hex_value((char)text[i + 1]) : -1;
		int low = i + 2 < bytes ? encode_hex_value((char)text[i + 2]) : -1;
		bool code = text[i] == '%' && high >= 0 && low >= 0;
		text[n] = code ? (uint8_t)(high << 4 | low) : text[i];
		i += code ? 2 : 0;
	}
	return n;
}

static void check_passed(const struct secret_target *t, const struct buf *before, const struct buf *after, const char *path)
{
	size_t bytes = strlen(path);
	uint8_t *decoded = (uint8_t *)strdup(path);
	bytes = decode(decoded, bytes);
	for (size_t i = 0; i < secrets.count; i++) {
		const struct secret *s = secrets.item[i];
		if (!secret_refusal(s, t))
			continue;
		if (has(after->data, after->len, s->placeholder, strlen(s->placeholder)) ||
		    has(decoded, bytes, s->placeholder, strlen(s->placeholder)))
			abort();
		if (has(after->data, after->len, s->value, s->value_bytes) && !may_coincide(s, t) &&
		    !has(before->data, before->len, s->value, s->value_bytes))
			abort();
	}
	free(decoded);
}

/* Lines: the path, and then fields. */
static bool make_head(struct http_head *h, char *text)
{
	char *line = strsep(&text, "\n");
	*h = (struct http_head){.method = strdup("GET"), .authority = strdup("x"), .path = strdup(line)};
	while ((line = strsep(&text, "\n"))) {
		char *value = strchr(line, ':');
		size_t name = value ? (size_t)(value - line) : strlen(line);
		value = value ? value + 1 : "";
		if (name && http_add(&h->fields, line, name, value, strlen(value)))
			return false;
	}
	return true;
}

static void head(const struct secret_target *t, const uint8_t *data, size_t size)
{
	struct http_head h;
	struct secret_result r;
	struct buf before = {0}, after = {0};
	char *text = strndup((const char *)data, size);
	if (make_head(&h, text)) {
		join(&h, &before);
		if (secrets_apply(&secrets, t, &h, &r))
			abort();
		join(&h, &after);
		bool same = before.len == after.len && memcmp(before.data, after.data, before.len) == 0;
		if ((r.blocked || !r.used) && !same)
			abort();
		for (size_t i = 0; i < secrets.count; i++)
			if (r.used >> i & 1 && secret_refusal(secrets.item[i], t))
				abort();
		if (!r.blocked)
			check_passed(t, &before, &after, h.path);
		uint64_t found = 0;
		if (secret_redact_fields(&patterns, &h.fields, &found) == 0)
			for (size_t i = 0; i < h.fields.count; i++)
				for (size_t j = 0; j < secrets.count; j++)
					if (has(h.fields.item[i].value, strlen(h.fields.item[i].value), secrets.item[j]->value,
						secrets.item[j]->value_bytes))
						abort();
	}
	http_head_free(&h);
	buf_free(&before);
	buf_free(&after);
	free(text);
}

/* ---- Bodies ---- */

static void start(struct secret_scan *scan, const struct secret_target *t, bool answer, bool keep_length)
{
	if (answer)
		secret_scan_answer(scan, &patterns, keep_length);
	else
		secret_scan_request(scan, &patterns, t);
}

/* Passes all of it, in pieces of lengths that `seed` makes; 0: at once. */
static int pass(struct secret_scan *scan, const uint8_t *data, size_t size, uint32_t seed, struct buf *out)
{
	int rc = 0;
	for (size_t i = 0, n; rc == 0 && i < size; i += n) {
		seed = seed ? seed * 1664525 + 1013904223 : 0;
		n = seed ? 1 + (seed >> 16) % 12 : size;
		n = n < size - i ? n : size - i;
		struct buf more = {0};
		size_t same;
		uint8_t *exact = malloc(n);
		memcpy(exact, data + i, n);
		rc = secret_scan_feed(scan, exact, n, &same, &more);
		if (same > n)
			abort();
		buf_add(out, exact, same);
		buf_add(out, more.data, more.len);
		buf_free(&more);
		free(exact);
	}
	rc = rc ? rc : secret_scan_end(scan, out);
	secret_scan_free(scan);
	return rc;
}

static void check_body(const struct secret_target *t, bool answer, const uint8_t *in, size_t bytes, const struct buf *out)
{
	for (size_t i = 0; i < secrets.count; i++) {
		const struct secret *s = secrets.item[i];
		bool value = has(out->data, out->len, s->value, s->value_bytes);
		if (answer && value)
			abort();
		if (answer || !secret_refusal(s, t))
			continue;
		if (has(out->data, out->len, s->placeholder, strlen(s->placeholder)))
			abort();
		if (value && !may_coincide(s, t) && !has(in, bytes, s->value, s->value_bytes))
			abort();
	}
}

static void body(const struct secret_target *t, bool answer, bool keep_length, uint32_t seed, const uint8_t *data, size_t size)
{
	struct secret_scan one, other;
	struct buf out = {0}, again = {0};
	start(&one, t, answer, keep_length);
	start(&other, t, answer, keep_length);
	int rc = pass(&one, data, size, 0, &out), rc2 = pass(&other, data, size, seed | 1, &again);
	if (rc != rc2 || out.len != again.len || (out.len && memcmp(out.data, again.data, out.len) != 0))
		abort();
	if (one.found != other.found || one.count != other.count || one.blocked != other.blocked || (rc && rc != -EPERM))
		abort();
	if (keep_length && answer && out.len != size)
		abort();
	check_body(t, answer, data, size, &out);
	buf_free(&out);
	buf_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	const struct secret_target *t = &targets[data[0] % 5];
	unsigned what = data[0] / 5 % 4;
	if (what == 0)
		head(t, data + 1, size - 1);
	else
		body(t, what > 1, what > 2, data[1], data + 2, size - 2);
	return 0;
}
