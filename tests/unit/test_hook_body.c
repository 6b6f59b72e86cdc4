/* virtio/net/gate/hook_body.c: what is found and replaced, whatever the pieces are. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/hook_body.h"

/* "find=replace", separated by spaces. */
static struct hook_replacements make(const char *text)
{
	struct hook_replacements r = {0};
	char *copy = strdup(text), *at = copy;
	for (char *one; *text && (one = strsep(&at, " "));) {
		char *equals = strchr(one, '=');
		struct buf find = {.data = (uint8_t *)one, .len = (size_t)(equals - one)};
		struct buf replace = {.data = (uint8_t *)equals + 1, .len = strlen(equals + 1)};
		cr_assert_eq(hook_replacements_add(&r, &find, &replace), 0);
	}
	free(copy);
	return r;
}

/* Feeds all of a piece, as often as it takes. */
static void feed(struct hook_body *b, const char *piece, size_t len, struct buf *out)
{
	struct buf some = {0};
	size_t at = 0, taken;
	while (at < len) {
		some.len = 0;
		cr_assert_eq(hook_body_feed(b, piece + at, len - at, &taken, &some), 0);
		cr_assert(taken > 0 || some.len >= HOOK_BODY_OUT_BYTES);
		buf_add(out, some.data, some.len);
		at += taken;
	}
	buf_free(&some);
}

static void check(const struct hook_replacements *r, bool events, const char *text, size_t first, size_t second, const char *expected)
{
	struct hook_body b;
	struct buf out = {0};
	hook_body_init(&b, r, events);
	feed(&b, text, first, &out);
	feed(&b, text + first, second - first, &out);
	feed(&b, text + second, strlen(text) - second, &out);
	cr_assert_eq(hook_body_end(&b, &out), 0);
	cr_assert_eq(buf_add(&out, "", 1), 0);
	cr_expect(out.len == strlen(expected) + 1 && strcmp((char *)out.data, expected) == 0, "%s cut at %zu, %zu: %s", text, first, second,
		  (char *)out.data);
	hook_body_free(&b);
	buf_free(&out);
}

Test(hook_body, every_split)
{
	static const struct {
		const char *replacements;
		bool events;
		const char *text, *expected;
	} rows[] = {
		{"a=b", false, "", ""},
		{"abc=X", false, "abc", "X"},
		{"abc=X", false, "xabcabxabcab", "xXabxXab"},
		{"abc=", false, "ababcc", "abc"},
		{"aab=X", false, "aaaab", "aaX"},
		{"abab=X", false, "abaabab", "abaX"},
		{"a=aa", false, "aba", "aabaa"},
		{"ab=b b=c", false, "abb", "bc"},
		{"abcd=1 bc=2", false, "abcabcd", "a21"},
		{"ab=1 abcd=2", false, "abcd", "1cd"},
		{"abcd=2 ab=1", false, "abcabcd", "1c2"},
		{"abcd=2 ab=1", false, "abc", "1c"},
		{"aaab=1 a=2", false, "aaaaab", "221"},
		{"aaab=1 a=2", false, "aaa", "222"},
		{"a=X", true, "a\ndata: a\nevent: a\ndata:aa\r\n: a\r\n\r\ndata:b a", "a\ndata: X\nevent: a\ndata:XX\r\n: a\r\n\r\ndata:b X"},
		{"a=X", true, "data: a\rdata: a\r\rdat: a\ndata a\n data: a\n", "data: X\rdata: X\r\rdat: a\ndata a\n data: a\n"},
		{"ab=X", true, "data: a\nb\ndata: ab\n", "data: a\nb\ndata: X\n"},
		{"data:=X", true, "data: data:\ndata:", "data: X\ndata:"},
		{"d=X", true, "dat\ndatadata:d\ndata:\ndata:d\n", "dat\ndatadata:d\ndata:\ndata:X\n"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct hook_replacements r = make(rows[i].replacements);
		size_t len = strlen(rows[i].text);
		for (size_t first = 0; first <= len; first++)
			for (size_t second = first; second <= len; second++)
				check(&r, rows[i].events, rows[i].text, first, second, rows[i].expected);
		hook_replacements_free(&r);
	}
}

/* What a line of an event stream has is passed with the end of the line, not with the next. */
Test(hook_body, events_do_not_wait)
{
	struct hook_replacements r = make("abc=X");
	struct hook_body b;
	struct buf out = {0};
	hook_body_init(&b, &r, true);
	feed(&b, "data: ab", 8, &out);
	cr_expect_eq(out.len, 6);
	feed(&b, "\n", 1, &out);
	cr_expect_eq(out.len, 9);
	hook_body_free(&b);
	buf_free(&out);
	hook_replacements_free(&r);
}

/* Output and what is held back are bounded, however much a replacement lengthens. */
Test(hook_body, memory_is_bounded)
{
	struct hook_replacements r = {0};
	struct hook_body b;
	struct buf find = {0}, replace = {0}, out = {0};
	static char text[1 << 20], larger[HOOK_REPLACE_MAX_BYTES];
	size_t at = 0, taken, total = 0;
	memset(text, 'a', sizeof text);
	buf_add(&find, "a", 1);
	buf_add(&replace, larger, sizeof larger);
	cr_assert_eq(hook_replacements_add(&r, &find, &replace), 0);
	hook_body_init(&b, &r, false);
	while (at < 16384) {
		out.len = 0;
		cr_assert_eq(hook_body_feed(&b, text + at, sizeof text - at, &taken, &out), 0);
		cr_assert(taken > 0 && out.len <= HOOK_BODY_OUT_BYTES + 256 * sizeof larger);
		cr_assert_lt(b.pending.len, HOOK_FIND_MAX_BYTES);
		at += taken;
		total += out.len;
	}
	cr_expect_eq(total, at * sizeof larger);
	hook_body_free(&b);
	hook_replacements_free(&r);
	buf_free(&find);
	buf_free(&replace);
	buf_free(&out);
}

Test(hook_body, as_many_as_there_may_be)
{
	struct hook_replacements r = {0}, copy = {0};
	struct buf one = {0};
	buf_add(&one, "a", 1);
	for (int i = 0; i < HOOK_REPLACEMENTS_MAX; i++)
		cr_assert_eq(hook_replacements_add(&r, &one, &one), 0);
	cr_expect_lt(hook_replacements_add(&r, &one, &one), 0);
	cr_expect_eq(hook_replacements_add_all(&copy, &r), 0);
	cr_expect_lt(hook_replacements_add_all(&copy, &r), 0);
	hook_replacements_free(&r);
	hook_replacements_free(&copy);
	buf_free(&one);
}
