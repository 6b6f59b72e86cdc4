/* virtio/net/gate/matcher.c and secret_scan.c: secrets in bodies, however these are cut. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/encode.h"
#include "virtio/net/gate/http.h"
#include "virtio/net/gate/secret.h"
#include "virtio/net/gate/secret_scan.h"
#include "vmm/util/err.h"

/* ---- The matcher ---- */

static uint32_t next_random(uint32_t *state)
{
	*state = *state * 1664525 + 1013904223;
	return *state >> 16;
}

/* The same by looking at every place for every text. */
static size_t find_slowly(const struct matcher *m, const uint8_t *data, size_t bytes, bool last, const struct matcher_text **found)
{
	*found = NULL;
	for (size_t i = 0; i < bytes; i++) {
		for (size_t j = 0; j < m->count; j++) {
			const struct matcher_text *t = &m->text[j];
			size_t n = t->bytes < bytes - i ? t->bytes : bytes - i;
			if (memcmp(t->at, data + i, n) != 0)
				continue;
			if (n < t->bytes && !last) {
				*found = NULL;
				return i;
			}
			if (n == t->bytes && (!*found || t->bytes > (*found)->bytes))
				*found = t;
		}
		if (*found)
			return i;
	}
	return bytes;
}

/* Texts and data of few letters, so that there are many matches, and beginnings of some. */
Test(matcher, as_looking_everywhere)
{
	static struct matcher m;
	uint32_t state = 1;
	size_t matches = 0, waits = 0;
	for (int round = 0; round < 3000; round++) {
		char text[8][80];
		uint8_t data[200];
		unsigned letters = 1 + next_random(&state) % 3, count = 1 + next_random(&state) % 8;
		for (unsigned i = 0; i < count; i++) {
			size_t bytes = MATCHER_MIN_BYTES + next_random(&state) % (round % 10 ? 4 : 76);
			for (size_t j = 0; j < bytes; j++)
				text[i][j] = (char)('a' + next_random(&state) % letters);
			bool again = false;
			for (unsigned j = 0; j < m.count; j++)
				again |= m.text[j].bytes == bytes && memcmp(m.text[j].at, text[i], bytes) == 0;
			if (!again)
				cr_assert_eq(matcher_add(&m, text[i], bytes, i), 0);
		}
		matcher_ready(&m);
		size_t bytes = next_random(&state) % sizeof data;
		for (size_t i = 0; i < bytes; i++)
			data[i] = (uint8_t)('a' + next_random(&state) % letters);
		for (int last = 0; last < 2; last++) {
			const struct matcher_text *found, *expected;
			size_t n = find_slowly(&m, data, bytes, last, &expected);
			cr_assert_eq(matcher_find(&m, data, bytes, last, &found), n, "round %d", round);
			cr_assert(found == expected);
			matches += found != NULL;
			waits += !found && n < bytes;
		}
		matcher_free(&m);
		memset(&m, 0, sizeof m);
	}
	cr_expect(matches > 1000 && waits > 300, "%zu, %zu", matches, waits);
}

/* ---- Secrets ---- */

#define VALUE_A "q\"u/o+t e\\~'\xc3\xa4" /* that every encoding writes in another way */
#define VALUE_B "sk-live-0123456789"

static struct secrets secrets;
static struct secret_patterns patterns;

static void add(const char *name, const char *placeholder, const char *host, const char *value)
{
	struct err e;
	char *copy = strdup(value);
	const char *hosts[] = {host, NULL};
	struct secret_spec spec = {.name = name, .placeholder = placeholder, .hosts = hosts};
	spec.in_body = strstr(name, "BODY");
	spec.plain_http = strstr(name, "PLAIN");
	cr_assert_eq(secrets_add(&secrets, &spec, copy, strlen(copy), &e), 0, "%s", e.text);
	free(copy);
}

static void set_up(void)
{
	add("A", "PLACEHOLDER_A", "a.com", VALUE_A);
	add("B", "PLACEHOLDER_B", "b.com", VALUE_B);
	add("BODY", "PLACEHOLDER_IN_BODY", "a.com", "(the body's)");
	add("SHORT", "PLACEHOLDER_OF_SHORT", "a.com", "12+4");
	add("TINY", "PLACEHOLDER_OF_TINY", "a.com", "xyz");
	cr_assert_eq(secret_patterns_make(&patterns, &secrets), 0);
}

static void tear_down(void)
{
	secret_patterns_free(&patterns);
	secrets_free(&secrets);
}

TestSuite(secret_scan, .init = set_up, .fini = tear_down);

static int feed(struct secret_scan *scan, const char *data, size_t bytes, struct buf *out)
{
	struct buf more = {0};
	size_t pass;
	uint8_t *exact = malloc(bytes ? bytes : 1);
	memcpy(exact, data, bytes);
	int rc = secret_scan_feed(scan, exact, bytes, &pass, &more);
	cr_assert_leq(pass, bytes);
	buf_add(out, exact, pass);
	buf_add(out, more.data, more.len);
	buf_free(&more);
	free(exact);
	return rc;
}

/* Passes `in` in pieces: of `first` bytes, and then of `each`. The scan was started. Returns what it does. */
static int pass(struct secret_scan *scan, const char *in, size_t bytes, size_t first, size_t each, struct buf *out)
{
	int rc = feed(scan, in, first, out);
	for (size_t i = first; rc == 0 && i < bytes; i += each)
		rc = feed(scan, in + i, each < bytes - i ? each : bytes - i, out);
	rc = rc ? rc : secret_scan_end(scan, out);
	secret_scan_free(scan);
	return rc;
}

static void expect_text(const struct buf *out, const char *expected, const char *in, size_t at)
{
	bool same = out->len == strlen(expected) && (!out->len || memcmp(out->data, expected, out->len) == 0);
	cr_expect(same, "'%s' cut at %zu: '%.*s'", in, at, (int)out->len, (char *)out->data);
}

struct request_row {
	const char *host;
	bool tls;
	const char *in, *out, *blocked;
	unsigned found;
};

static void check_request(const struct request_row *r, size_t first, size_t each)
{
	struct secret_scan scan;
	struct buf out = {0};
	secret_scan_request(&scan, &patterns, &(struct secret_target){r->host, r->tls ? 443 : 80, r->tls});
	int rc = pass(&scan, r->in, strlen(r->in), first, each, &out);
	cr_expect_eq(rc, r->blocked ? -EPERM : 0);
	cr_expect((r->blocked == NULL) == (scan.blocked == NULL));
	if (r->blocked && scan.blocked)
		cr_expect_str_eq(scan.blocked->name, r->blocked);
	cr_expect_eq(scan.found, r->found);
	expect_text(&out, r->out, r->in, first);
	buf_free(&out);
}

Test(secret_scan, requests)
{
	static const struct request_row rows[] = {
		{"a.com", true, "", "", NULL, 0},
		{"a.com", true, "nothing PLACEHOLDER_ at all", "nothing PLACEHOLDER_ at all", NULL, 0},
		{"a.com", true, "a PLACEHOLDER_A stays", "a PLACEHOLDER_A stays", NULL, 0},
		{"a.com", true, "PLACEHOLDER_IN_BODY", "(the body's)", NULL, 4},
		{"a.com", true, "{\"k\":\"PLACEHOLDER_IN_BODY\"}", "{\"k\":\"(the body's)\"}", NULL, 4},
		{"a.com", true, "PLACEHOLDER_IN_BODYPLACEHOLDER_APLACEHOLDER_IN_BODY",
		 "(the body's)PLACEHOLDER_A(the body's)", NULL, 4},
		{"a.com", true, "PLACEHOLDER_INPLACEHOLDER_IN_BODY", "PLACEHOLDER_IN(the body's)", NULL, 4},
		{"b.com", true, "x PLACEHOLDER_B PLACEHOLDER_A x", "x PLACEHOLDER_B ", "A", 0},
		{"a.com", true, "x PLACEHOLDER_IN_BODY PLACEHOLDER_B x", "x (the body's) ", "B", 4},
		{"c.com", true, "xPLACEHOLDER_IN_BODYx", "x", "BODY", 0},
		{"c.com", true, "PLACEHOLDER_PLACEHOLDER_A", "PLACEHOLDER_", "A", 0},
		{"a.com", false, "PLACEHOLDER_IN_BODY", "", "BODY", 0},
		{NULL, true, "PLACEHOLDER_A", "", "A", 0},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		size_t bytes = strlen(rows[i].in);
		for (size_t first = 0; first <= bytes; first++)
			check_request(&rows[i], first, bytes + 1);
		check_request(&rows[i], 0, 1);
	}
}

/* Nothing goes on after a placeholder that stops a request. */
Test(secret_scan, stays_blocked)
{
	struct secret_scan scan;
	struct buf out = {0};
	secret_scan_request(&scan, &patterns, &(struct secret_target){"c.com", 443, true});
	cr_expect_eq(feed(&scan, "x PLACEHOLDER_A", 15, &out), -EPERM);
	cr_expect_eq(feed(&scan, "more", 4, &out), -EPERM);
	cr_expect_eq(secret_scan_end(&scan, &out), -EPERM);
	expect_text(&out, "x ", "", 0);
	secret_scan_free(&scan);
	buf_free(&out);
}

/* ---- Answers ---- */

static void check_answer(const char *in, const char *expected, unsigned found, bool keep_length)
{
	size_t bytes = strlen(in);
	for (size_t first = 0; first <= bytes + 1; first++) {
		struct secret_scan scan;
		struct buf out = {0};
		secret_scan_answer(&scan, &patterns, keep_length);
		bool each_byte = first > bytes;
		cr_expect_eq(pass(&scan, in, bytes, each_byte ? 0 : first, each_byte ? 1 : bytes + 1, &out), 0);
		cr_expect_eq(scan.found, found, "%s: %lx", in, scan.found);
		expect_text(&out, expected, in, first);
		buf_free(&out);
	}
}

Test(secret_scan, answers)
{
	static const struct {
		const char *in, *out, *same_length;
		unsigned found;
	} rows[] = {
		{"nothing PLACEHOLDER_A", "nothing PLACEHOLDER_A", "nothing PLACEHOLDER_A", 0},
		{"sk-live-012345678", "sk-live-012345678", "sk-live-012345678", 0},
		{"<" VALUE_B ">", "<PLACEHOLDER_B>", "<PLACEHOLDER_B*****>", 2},
		{VALUE_B VALUE_B "sk-", "PLACEHOLDER_BPLACEHOLDER_Bsk-", "PLACEHOLDER_B*****PLACEHOLDER_B*****sk-", 2},
		{"sk-live-" VALUE_B, "sk-live-PLACEHOLDER_B", "sk-live-PLACEHOLDER_B*****", 2},
		{VALUE_A, "PLACEHOLDER_A", "PLACEHOLDER_A*", 1},
		/* quote(), encodeURIComponent(), a form; in lower case, and mixed. */
		{"q%22u%2Fo%2Bt%20e%5C~%27%C3%A4", "[redacted A]", "[redacted A]******************", 1},
		{"q%22u%2fo%2bt%20e%5c~%27%c3%a4", "[redacted A]", "[redacted A]******************", 1},
		{"q%22u%2Fo%2Bt%20e%5C~'%C3%A4", "[redacted A]", "[redacted A]****************", 1},
		{"q%22u/o%2Bt%20e%5C~%27%C3%A4", "[redacted A]", "[redacted A]****************", 1},
		{"q%22u%2Fo%2Bt+e%5C%7E%27%C3%A4", "[redacted A]", "[redacted A]******************", 1},
		/* JSON */
		{"{\"k\":\"q\\\"u/o+t e\\\\~'\xc3\xa4\"}", "{\"k\":\"[redacted A]\"}", "{\"k\":\"[redacted A]****\"}", 1},
		{"{\"k\":\"q\\\"u\\/o+t e\\\\~'\xc3\xa4\"}", "{\"k\":\"[redacted A]\"}", "{\"k\":\"[redacted A]*****\"}", 1},
		/* Too short to be looked for in every form, or at all. */
		{"12+4", "PLACEHOLDER_OF_SHORT", "PLAC", 8},
		{"12%2B4", "12%2B4", "12%2B4", 0},
		{"xyz", "xyz", "xyz", 0},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		check_answer(rows[i].in, rows[i].out, rows[i].found, false);
		check_answer(rows[i].in, rows[i].same_length, rows[i].found, true);
	}
}

/* Wherever a value begins in base64, no more is left of it than the letters that it shares with what is around. */
Test(secret_scan, base64)
{
	static const char *const values[] = {VALUE_A, VALUE_B};
	for (unsigned i = 0; i < 16; i++) {
		const char *value = values[i & 1];
		bool url = i & 2;
		for (size_t before = 0; before < 7; before++) {
			char plain[64], in[128], expected[128];
			size_t n = (size_t)snprintf(plain, sizeof plain, "%.*s%s%.*s", (int)before, "before", value, (int)(i >> 2),
						    "end");
			n = encode_base64(plain, n, url, in);
			in[n] = 0;
			size_t from = (before * 8 + 5) / 6, to = (before + strlen(value)) * 8 / 6;
			snprintf(expected, sizeof expected, "%.*s[redacted %c]%s", (int)from, in, "AB"[i & 1], in + to);
			check_answer(in, expected, 1u << (i & 1), false);
		}
	}
}

/* A line that cannot be the beginning of anything is not kept waiting for the next. */
Test(secret_scan, holds_only_beginnings)
{
	static const struct {
		const char *data;
		size_t pass;
	} rows[] = {{"data: 1\n\n", 9}, {"data: {\"x\":\"sk\"}\n\n", 18}, {"data: sk-l", 6}, {"ive-99\n", 0}, {"data: 2\n\n", 9}};
	struct secret_scan scan;
	struct buf out = {0};
	secret_scan_answer(&scan, &patterns, false);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		size_t pass;
		cr_assert_eq(secret_scan_feed(&scan, rows[i].data, strlen(rows[i].data), &pass, &out), 0);
		cr_expect_eq(pass, rows[i].pass, "%zu: %zu", i, pass);
	}
	expect_text(&out, "sk-live-99\n", "", 0);
	cr_expect_eq(scan.held.len, 0);
	secret_scan_free(&scan);
	buf_free(&out);
}

Test(secret_scan, fields)
{
	struct http_fields f = {0};
	uint64_t found = 0;
	char *large = malloc(HTTP_FIELDS_MAX_BYTES + 1);
	http_add(&f, "Location", 8, "https://x/?k=" VALUE_B "&x", strlen("https://x/?k=" VALUE_B "&x"));
	http_add(&f, "Server", 6, "x", 1);
	http_add(&f, "X-Basic", 7, "OnNrLWxpdmUtMDEyMzQ1Njc4OQ==", 28);
	cr_assert_eq(secret_redact_fields(&patterns, &f, &found), 0);
	cr_expect_str_eq(f.item[0].value, "https://x/?k=PLACEHOLDER_B&x");
	cr_expect_str_eq(f.item[1].value, "x");
	cr_expect_str_eq(f.item[2].value, "On[redacted B]Q==");
	cr_expect_eq(found, 2);
	cr_expect_eq(f.bytes, 8 + 28 + 6 + 1 + 7 + 17);
	/* There is no room for what is longer. */
	size_t n = HTTP_FIELDS_MAX_BYTES - f.bytes - 1;
	memset(large, ' ', n);
	memcpy(large, "12+4", 4);
	cr_assert_eq(http_add(&f, "K", 1, large, n), 0);
	cr_expect_eq(secret_redact_fields(&patterns, &f, &found), -E2BIG);
	http_fields_free(&f);
	free(large);
}

Test(secret_scan, without_secrets)
{
	static struct secret_patterns none;
	struct secrets no_secrets = {0};
	struct secret_scan scan;
	struct buf out = {0};
	size_t pass;
	cr_assert_eq(secret_patterns_make(&none, &no_secrets), 0);
	secret_scan_answer(&scan, &none, false);
	cr_expect_eq(secret_scan_feed(&scan, "body", 4, &pass, &out), 0);
	cr_expect(pass == 4 && out.len == 0);
	secret_scan_request(&scan, &none, &(struct secret_target){"a.com", 443, true});
	cr_expect_eq(secret_scan_feed(&scan, "body", 4, &pass, &out), 0);
	cr_expect(pass == 4 && out.len == 0);
	cr_expect_eq(secret_scan_end(&scan, &out), 0);
	secret_scan_free(&scan);
	secret_patterns_free(&none);
}
