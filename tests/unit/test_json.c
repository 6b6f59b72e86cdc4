/* vmm/util/json.c: strict, bounded, and right about what it takes. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/json.h"

static struct json *doc;
static struct err e;

static int parse(const char *text)
{
	json_free(doc);
	doc = NULL;
	return json_parse(text, strlen(text), NULL, &doc, &e);
}

static void refused(const char *text)
{
	e.text[0] = 0;
	cr_expect_lt(parse(text), 0, "taken: %.60s", text);
	cr_expect(e.text[0]);
}

static struct json_value root(const char *text)
{
	cr_assert_eq(parse(text), 0, "%s: %s", text, e.text);
	return json_root(doc);
}

Test(json, types)
{
	struct json_value v = root(" {\"n\":null,\"t\":true,\"f\":false,\"i\":-5,\"s\":\"x\",\"a\":[1,2,3],\"o\":{}} ");
	bool flag;
	int64_t i;
	char *text;
	cr_expect_eq(json_count(v), 7);
	cr_expect_eq(json_type(json_get(v, "n")), JSON_NULL);
	cr_expect(json_bool(json_get(v, "t"), &flag, &e) == 0 && flag);
	cr_expect(json_bool(json_get(v, "f"), &flag, &e) == 0 && !flag);
	cr_expect(json_int64(json_get(v, "i"), &i, &e) == 0 && i == -5);
	cr_expect(json_string(json_get(v, "s"), &text, &e) == 0 && strcmp(text, "x") == 0);
	free(text);
	cr_expect_eq(json_count(json_get(v, "a")), 3);
	cr_expect_eq(json_type(json_get(v, "o")), JSON_OBJECT);
	cr_expect(json_is_absent(json_get(v, "absent")));
	cr_expect(json_is_absent(json_get(json_get(v, "i"), "below a number")));
	json_free(doc), doc = NULL;
}

Test(json, walks_in_order)
{
	struct json_iter it = JSON_ITER(root("{\"a\":1,\"b\":[10,20],\"c\":3}"));
	char seen[64] = "";
	while (json_next(&it)) {
		char *key;
		cr_assert_eq(json_string(it.key, &key, &e), 0);
		strcat(seen, key);
		free(key);
	}
	cr_expect_str_eq(seen, "abc");
	it = JSON_ITER(json_get(json_root(doc), "b"));
	uint64_t sum = 0, one;
	while (json_next(&it)) {
		cr_assert_eq(json_uint64(it.value, &one, &e), 0);
		sum += one;
	}
	cr_expect_eq(sum, 30);
	json_free(doc), doc = NULL;
}

Test(json, strings_are_unescaped)
{
	char *text;
	cr_assert_eq(json_string(root("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\u20ac\\ud83d\\ude00\""), &text, &e), 0, "%s", e.text);
	cr_expect_str_eq(text, "\"\\/\b\f\n\r\t\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
	free(text);
	cr_expect_lt(json_string(root("\"a\\u0000b\""), &text, &e), 0, "a NUL in a C string");
	struct buf b = {0};
	cr_expect_eq(json_bytes(json_root(doc), &b, &e), 0);
	cr_expect_eq(b.len, 3);
	buf_free(&b);
	json_free(doc), doc = NULL;
}

Test(json, numbers_are_exact_or_refused)
{
	int64_t i;
	uint64_t u;
	double d;
	cr_expect(json_uint64(root("18446744073709551615"), &u, &e) == 0 && u == UINT64_MAX);
	cr_expect_lt(json_uint64(root("18446744073709551616"), &u, &e), 0);
	cr_expect_lt(json_uint64(root("-1"), &u, &e), 0);
	cr_expect(json_int64(root("-9223372036854775808"), &i, &e) == 0 && i == INT64_MIN);
	cr_expect_lt(json_int64(root("9223372036854775808"), &i, &e), 0);
	cr_expect_lt(json_int64(root("1.5"), &i, &e), 0);
	cr_expect(json_double(root("-1.5e3"), &d, &e) == 0 && d == -1500);
	cr_expect_lt(json_double(root("\"1\""), &d, &e), 0);
	json_free(doc), doc = NULL;
}

Test(json, refuses_what_is_no_json)
{
	const char *bad[] = {"",       " ",        "{",       "}",        "[",        "[1,]",     "[1 2]",      "{\"a\"}",  "{\"a\":}",
			     "{1:2}",  "{a:1}",    "{\"a\":1,}", "tru",   "nul",      "True",     "01",         "1.",       ".5",
			     "+1",     "-",        "1e",      "0x10",     "NaN",      "Infinity", "\"",         "\"\\x\"",  "\"\\u12\"",
			     "\"\t\"", "'a'",      "1 2",     "{} {}",    "[]]",      "// x\n1",  "\"\xff\"",   "\"\xc0\x80\"", "\"\xed\xa0\x80\"",
			     "\"\xf4\x90\x80\x80\"", "\xef\xbb\xbf{}", "[\"a\":1]", "{\"a\":1:2}", "[1],"};
	for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++)
		refused(bad[i]);
}

Test(json, errors_say_where)
{
	cr_expect_lt(parse("{\"a\": tru}"), 0);
	cr_expect(strpbrk(e.text, "0123456789"), "%s", e.text);
	int64_t i;
	cr_expect_lt(json_int64(json_get(json_get(root("{\"config\":{\"Env\":[]}}"), "config"), "Env"), &i, &e), 0);
	cr_expect(strstr(e.text, "config.Env"), "%s", e.text);
	json_free(doc), doc = NULL;
}

Test(json, unknown_keys_are_named)
{
	const char *const known[] = {"a", "b", NULL};
	cr_expect_eq(json_only_keys(root("{\"a\":1,\"b\":2}"), known, &e), 0);
	cr_expect_lt(json_only_keys(root("{\"a\":1,\"typo\":2}"), known, &e), 0);
	cr_expect(strstr(e.text, "typo"), "%s", e.text);
	json_free(doc), doc = NULL;
}

Test(json, what_is_written_is_read_back)
{
	struct buf b = {0};
	char all[256], *back;
	for (int i = 1; i < 128; i++)
		all[i - 1] = (char)i;
	strcpy(all + 127, "\xc3\xa9\xf0\x9f\x98\x80");
	cr_assert_eq(json_put_string(&b, all), 0);
	cr_assert_eq(buf_add(&b, "", 1), 0);
	cr_assert_eq(json_string(root((const char *)b.data), &back, &e), 0, "%s", e.text);
	cr_expect_str_eq(back, all);
	free(back);
	buf_free(&b);
	json_free(doc), doc = NULL;
}

/* ---- Threat case 42 ---- */

static char *repeat(const char *text, size_t count, const char *middle, const char *end_text)
{
	size_t n = strlen(text), m = strlen(middle), k = strlen(end_text);
	char *all = malloc(n * count + m + k * count + 1), *p = all;
	for (size_t i = 0; i < count; i++)
		p = mempcpy(p, text, n);
	p = mempcpy(p, middle, m);
	for (size_t i = 0; i < count; i++)
		p = mempcpy(p, end_text, k);
	*p = 0;
	return all;
}

Test(json, case_42_depth)
{
	char *text = repeat("[", 10000, "1", "]");
	refused(text);
	free(text);
	text = repeat("{\"a\":", 10000, "1", "}");
	refused(text);
	free(text);
	text = repeat("[", 64, "1", "]");
	cr_expect_eq(parse(text), 0, "%s", e.text);
	free(text);
	json_free(doc), doc = NULL;
}

Test(json, case_42_duplicate_keys)
{
	refused("{\"a\":1,\"a\":2}");
	refused("{\"x\":{\"a\":1,\"b\":2,\"\\u0061\":3}}"); /* the same, escaped */
	cr_expect_eq(parse("{\"a\":{\"a\":1},\"b\":{\"a\":1}}"), 0);
	json_free(doc), doc = NULL;
}

Test(json, case_42_lone_surrogates)
{
	const char *bad[] = {"\"\\ud800\"", "\"\\udc00\"", "\"\\ud800x\"", "\"\\ud800\\u0041\"", "\"\\udc00\\ud800\""};
	for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		char *text = NULL;
		cr_expect(parse(bad[i]) < 0 || json_string(json_root(doc), &text, &e) < 0, "taken: %s", bad[i]);
		free(text);
	}
	json_free(doc), doc = NULL;
}

Test(json, case_42_numbers_without_bounds)
{
	double d;
	cr_expect(parse("1e400") < 0 || json_double(json_root(doc), &d, &e) < 0);
	char *text = repeat("9", 5000, "", "");
	uint64_t u;
	cr_expect(parse(text) < 0 || json_uint64(json_root(doc), &u, &e) < 0);
	free(text);
	json_free(doc), doc = NULL;
}

Test(json, case_42_a_hundred_megabytes)
{
	char *text = repeat(" ", 100 << 20, "1", "");
	refused(text);
	free(text);
	const struct json_limits few = {.max_values = 1000};
	text = repeat("1,", 2000, "1", "");
	text[0] = '[';
	text[1] = ' ';
	cr_expect_lt(json_parse(text, strlen(text), &few, &doc, &e), 0);
	doc = NULL;
	free(text);
}
