/* virtio/net/gate: http.c, http_text.c. Messages of HTTP, and the texts that they are made of. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/http.h"
#include "virtio/net/gate/http_text.h"

static struct http_fields fields;

static void tear_down(void)
{
	http_fields_free(&fields);
	cr_expect(!fields.item && !fields.count && !fields.bytes);
}

TestSuite(http, .fini = tear_down);

static void add(const char *name, const char *value)
{
	cr_assert_eq(http_add(&fields, name, strlen(name), value, strlen(value)), 0);
}

/* The fields as "Name: value, ...", their bytes counted anew. */
static void expect_fields(const char *expected)
{
	char text[4096] = "";
	size_t bytes = 0;
	for (size_t i = 0; i < fields.count; i++) {
		strcat(strcat(strcat(text, i ? ", " : ""), fields.item[i].name), ": ");
		strcat(text, fields.item[i].value);
		bytes += strlen(fields.item[i].name) + strlen(fields.item[i].value);
	}
	cr_expect_str_eq(text, expected);
	cr_expect_eq(fields.bytes, bytes);
}

Test(http, fields_keep_their_order_and_are_found_in_any_case)
{
	add("Accept", "a");
	add("cookie", "b");
	add("ACCEPT", "c");
	expect_fields("Accept: a, cookie: b, ACCEPT: c");
	cr_expect_str_eq(http_get(&fields, "accept"), "a");
	cr_expect_str_eq(http_get(&fields, "Cookie"), "b");
	cr_expect_null(http_get(&fields, "Accep"));
}

Test(http, add_takes_the_bytes_it_is_given)
{
	cr_assert_eq(http_add(&fields, "Name: x", 4, "value\r\n", 5), 0);
	expect_fields("Name: value");
}

Test(http, set_replaces_all_of_a_name_in_the_place_of_the_first)
{
	add("A", "1");
	add("B", "2");
	add("a", "3");
	add("C", "4");
	add("A", "5");
	cr_assert_eq(http_set(&fields, "a", "longer"), 0);
	expect_fields("A: longer, B: 2, C: 4");
	cr_assert_eq(http_set(&fields, "D", "new"), 0);
	cr_assert_eq(http_set(&fields, "C", ""), 0);
	expect_fields("A: longer, B: 2, C: , D: new");
}

Test(http, removed_fields_make_room)
{
	for (int round = 0; round < 4; round++) {
		for (int i = 0; i < 9; i++)
			add(i % 2 ? "Odd" : "Even", "x");
		http_remove(&fields, "odd");
		cr_expect_eq(fields.count, 5);
		http_remove_at(&fields, 2);
		cr_expect_eq(fields.count, 4);
		cr_expect_eq(fields.bytes, 4 * 5);
		http_remove(&fields, "EVEN");
		expect_fields("");
	}
}

Test(http, fields_are_limited_in_number)
{
	for (int i = 0; i < HTTP_FIELDS_MAX; i++)
		add("n", "v");
	cr_expect_eq(http_add(&fields, "n", 1, "v", 1), -E2BIG);
	cr_expect_eq(http_set(&fields, "m", "v"), -E2BIG);
	cr_expect_eq(fields.count, HTTP_FIELDS_MAX);
	cr_expect_eq(fields.bytes, 2 * HTTP_FIELDS_MAX);
}

Test(http, fields_are_limited_in_bytes)
{
	char *large = malloc(HTTP_FIELDS_MAX_BYTES);
	memset(large, 'x', HTTP_FIELDS_MAX_BYTES);
	large[HTTP_FIELDS_MAX_BYTES - 1] = 0;
	cr_expect_eq(http_add(&fields, "ab", 2, large, HTTP_FIELDS_MAX_BYTES - 1), -E2BIG);
	cr_expect_eq(http_add(&fields, "a", 1, large, HTTP_FIELDS_MAX_BYTES - 1), 0);
	cr_expect_eq(http_add(&fields, "a", 1, "", 0), -E2BIG);
	cr_expect_eq(http_set(&fields, "b", "c"), -E2BIG);
	cr_expect_eq(http_set(&fields, "a", large), 0, "as large as it was");
	cr_expect_eq(http_set(&fields, "a", "small"), 0);
	expect_fields("a: small");
	free(large);
}

Test(http, head_is_freed_as_a_whole)
{
	struct http_head h = {.method = strdup("GET"), .authority = strdup("a"), .path = strdup("/"), .has_body = true};
	cr_assert_eq(http_add(&h.fields, "a", 1, "b", 1), 0);
	cr_assert_eq(http_replace_text(&h.path, "/longer"), 0);
	cr_expect_str_eq(h.path, "/longer");
	http_head_free(&h);
	cr_expect(!h.method && !h.authority && !h.path && !h.fields.count && !h.has_body);
	cr_expect_eq(h.length_bytes, HTTP_LENGTH_UNKNOWN);
}

Test(http, characters_of_texts)
{
	for (int c = 0; c < 256; c++) {
		char one = (char)c, path[2] = {'/', one};
		bool printable = c > ' ' && c < 0x7f;
		bool token = printable && !strchr("\"(),/:;<=>?@[\\]{}", c); /* RFC 9110, 5.6.2 */
		cr_expect_eq(http_is_token(&one, 1), token, "%d", c);
		cr_expect_eq(http_is_value(&one, 1), printable || c >= 0x80, "%d", c);
		cr_expect_eq(http_is_path(path, 2), printable && c != '#', "%d", c);
	}
	cr_expect(http_is_value("a b\tc", 5) && http_is_value("", 0));
	cr_expect(!http_is_value("a ", 2) && !http_is_value("\ta", 2) && !http_is_value("a\0b", 3));
	cr_expect(!http_is_token("", 0) && !http_is_path("", 0) && !http_is_path("a", 1));
}

Test(http, names_with_a_meaning_of_their_own)
{
	static const struct {
		const char *name;
		enum http_name kind;
		bool may_trail;
	} names[] = {
		{"host", HTTP_NAME_HOST, false},
		{"Content-length", HTTP_NAME_CONTENT_LENGTH, false},
		{"TRANSFER-ENCODING", HTTP_NAME_TRANSFER_ENCODING, false},
		{"connection", HTTP_NAME_CONNECTION, false},
		{"te", HTTP_NAME_TE, false},
		{"upgrade", HTTP_NAME_UPGRADE, false},
		{"expect", HTTP_NAME_EXPECT, false},
		{"keep-alive", HTTP_NAME_HOP, false},
		{"proxy-connection", HTTP_NAME_HOP, false},
		{"http2-settings", HTTP_NAME_HOP, false},
		{"authorization", HTTP_NAME_ORDINARY, false},
		{"Set-cookie", HTTP_NAME_ORDINARY, false},
		{"content-encoding", HTTP_NAME_ORDINARY, false},
		{"hostx", HTTP_NAME_ORDINARY, true},
		{"grpc-status", HTTP_NAME_ORDINARY, true},
	};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		const char *name = names[i].name;
		cr_expect_eq(http_name_kind(name, strlen(name)), names[i].kind, "%s", name);
		cr_expect_eq(http_may_trail(name, strlen(name)), names[i].may_trail, "%s", name);
	}
}

Test(http, authorities)
{
	static const struct {
		const char *text;
		size_t host_bytes; /* 0: it is none */
		unsigned port;
	} cases[] = {
		{"a.example", 9, 0},
		{"A.Example.", 10, 0},
		{"a.example:8080", 9, 8080},
		{"127.0.0.1:1", 9, 1},
		{"[::1]", 5, 0},
		{"[2001:db8::1]:65535", 13, 65535},
		{"", 0, 0},
		{":80", 0, 0},
		{"a:", 0, 0},
		{"a:0", 0, 0},
		{"a:65536", 0, 0},
		{"a:99999999999999999999", 0, 0},
		{"a:8x", 0, 0},
		{"a:1:2", 0, 0},
		{"me@a", 0, 0},
		{"a b", 0, 0},
		{"a/b", 0, 0},
		{"::1", 0, 0},
		{"[127.0.0.1]", 0, 0},
		{"[::1", 0, 0},
		{"[::1]x", 0, 0},
		{"[]", 0, 0},
		{"[]:1", 0, 0},
		{"x[::1]", 0, 0},
		{"127.1", 0, 0},
		{"0x7f000001", 0, 0},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		size_t host_bytes;
		unsigned port;
		bool ok = http_parse_authority(cases[i].text, strlen(cases[i].text), &host_bytes, &port);
		cr_expect_eq(ok, cases[i].host_bytes > 0, "%s", cases[i].text);
		if (ok)
			cr_expect(host_bytes == cases[i].host_bytes && port == cases[i].port, "%s", cases[i].text);
	}
}
