/*
 * Strict JSON reader.
 *
 * Theory of operation
 * -------------------
 * Purpose: one reader for every JSON text that comes from elsewhere: OCI documents, policy files, RPC requests.
 *
 * Trust boundary: the text is hostile. jsmn finds the tokens, but by design it accepts a good deal that is not JSON
 * (missing commas and colons, any UTF-8, "01"). So check_text() first proves that the text is JSON by the grammar of
 * RFC 8259, counting its values, and only such a text ever reaches jsmn. After that, tokens are trusted.
 *
 * Refused: text, nesting or values beyond the limits; bytes that are not UTF-8; control characters in strings; escapes
 * of lone surrogates; duplicate keys (compared after decoding, so "a" equals "\u0061"); anything after the value.
 *
 * Memory: one copy of the text, 20 bytes of token and 4 of link per value, and 4 more per key while keys are compared.
 * Nothing recurses: nesting is a bit stack of max_depth bits.
 *
 * A document is immutable once parsed. Errors name the place: a byte offset where the text is not JSON, else the path
 * of the value (".config.Env[3]").
 */
#include "vmm/util/json.h"

#include <errno.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/util/buf.h"
#include "vmm/util/err.h"

#define JSMN_STATIC
#define JSMN_STRICT
#define JSMN_PARENT_LINKS
#include <jsmn.h>

enum {
	DEFAULT_MAX_BYTES = 8 << 20,
	DEFAULT_MAX_DEPTH = 64,
	DEFAULT_MAX_VALUES = 1 << 20,
	DEPTH_CEILING = 4096, /* whatever the caller asks for */
};

struct json {
	char *text; /* a copy, with "\n\0" after it: jsmn wants a byte after a top-level number */
	jsmntok_t *tokens;
	uint32_t *after; /* index of the first token that is no longer inside token i */
	uint32_t count;
};

/* ---- The text is JSON: checked before jsmn sees it ---- */

struct checker {
	const unsigned char *text;
	size_t len;
	size_t pos;
	uint32_t max_depth;
	uint32_t max_values;
	uint32_t values;
	const char *fault;
};

/* Notes what is wrong at the current position; the first fault stays. */
static bool fail_at(struct checker *c, const char *what)
{
	if (!c->fault)
		c->fault = what;
	return false;
}

static int peek(const struct checker *c)
{
	return c->pos < c->len ? c->text[c->pos] : -1;
}

static void skip_space(struct checker *c)
{
	int ch;
	while ((ch = peek(c)) == ' ' || ch == '\t' || ch == '\n' || ch == '\r')
		c->pos++;
}

static bool is_digit(int ch)
{
	return ch >= '0' && ch <= '9';
}

/* The length of the UTF-8 sequence at `p` (Unicode table 3-7: no overlong forms, no surrogates), or 0. */
static size_t utf8_length(const unsigned char *p, size_t avail)
{
	if (avail == 0)
		return 0;
	if (p[0] < 0x80)
		return 1;
	unsigned char low = 0x80, high = 0xbf;
	size_t n;
	if (p[0] >= 0xc2 && p[0] <= 0xdf) {
		n = 2;
	} else if (p[0] >= 0xe0 && p[0] <= 0xef) {
		n = 3;
		if (p[0] == 0xe0)
			low = 0xa0;
		if (p[0] == 0xed)
			high = 0x9f;
	} else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
		n = 4;
		if (p[0] == 0xf0)
			low = 0x90;
		if (p[0] == 0xf4)
			high = 0x8f;
	} else {
		return 0;
	}
	if (avail < n || p[1] < low || p[1] > high)
		return 0;
	for (size_t i = 2; i < n; i++)
		if (p[i] < 0x80 || p[i] > 0xbf)
			return 0;
	return n;
}

static int hex_value(int ch)
{
	if (is_digit(ch))
		return ch - '0';
	if (ch >= 'a' && ch <= 'f')
		return ch - 'a' + 10;
	if (ch >= 'A' && ch <= 'F')
		return ch - 'A' + 10;
	return -1;
}

/* The value of four hexadecimal digits at `p`, or -1. */
static int hex4(const unsigned char *p, size_t avail)
{
	int value = 0;
	if (avail < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		int digit = hex_value(p[i]);
		if (digit < 0)
			return -1;
		value = value << 4 | digit;
	}
	return value;
}

/* Consumes \uXXXX (the position is at the u), with the second half of a surrogate pair where there is one. */
static bool check_unicode_escape(struct checker *c)
{
	int unit = hex4(c->text + c->pos + 1, c->len - c->pos - 1);
	if (unit < 0)
		return fail_at(c, "bad \\u escape");
	if (unit >= 0xdc00 && unit <= 0xdfff)
		return fail_at(c, "lone surrogate");
	if (unit >= 0xd800 && unit <= 0xdbff) {
		const unsigned char *second = c->text + c->pos + 5;
		size_t avail = c->len - c->pos - 5;
		int low = avail >= 6 && second[0] == '\\' && second[1] == 'u' ? hex4(second + 2, avail - 2) : -1;
		if (low < 0xdc00 || low > 0xdfff)
			return fail_at(c, "lone surrogate");
		c->pos += 6;
	}
	c->pos += 5;
	return true;
}

static bool check_string(struct checker *c)
{
	c->pos++; /* the opening quote */
	for (;;) {
		int ch = peek(c);
		if (ch < 0)
			return fail_at(c, "string without end");
		if (ch == '"') {
			c->pos++;
			return true;
		}
		if (ch < 0x20)
			return fail_at(c, "control character in a string");
		if (ch == '\\') {
			c->pos++;
			ch = peek(c);
			if (ch == 'u') {
				if (!check_unicode_escape(c))
					return false;
			} else if (ch > 0 && strchr("\"\\/bfnrt", ch)) {
				c->pos++;
			} else {
				return fail_at(c, "bad escape");
			}
			continue;
		}
		size_t n = utf8_length(c->text + c->pos, c->len - c->pos);
		if (n == 0)
			return fail_at(c, "invalid UTF-8");
		c->pos += n;
	}
}

static bool check_digits(struct checker *c)
{
	if (!is_digit(peek(c)))
		return fail_at(c, "malformed number");
	while (is_digit(peek(c)))
		c->pos++;
	return true;
}

static bool check_number(struct checker *c)
{
	if (peek(c) == '-')
		c->pos++;
	if (peek(c) == '0') {
		c->pos++;
		if (is_digit(peek(c)))
			return fail_at(c, "number with a leading zero");
	} else if (!check_digits(c)) {
		return false;
	}
	if (peek(c) == '.') {
		c->pos++;
		if (!check_digits(c))
			return false;
	}
	if (peek(c) == 'e' || peek(c) == 'E') {
		c->pos++;
		if (peek(c) == '+' || peek(c) == '-')
			c->pos++;
		if (!check_digits(c))
			return false;
	}
	return true;
}

static bool check_word(struct checker *c, const char *word)
{
	size_t n = strlen(word);
	if (c->len - c->pos < n || memcmp(c->text + c->pos, word, n))
		return fail_at(c, "expected a value");
	c->pos += n;
	return true;
}

static bool check_scalar(struct checker *c)
{
	switch (peek(c)) {
	case '"':
		return check_string(c);
	case 't':
		return check_word(c, "true");
	case 'f':
		return check_word(c, "false");
	case 'n':
		return check_word(c, "null");
	case '-':
	case '0' ... '9':
		return check_number(c);
	default:
		return fail_at(c, c->pos < c->len ? "expected a value" : "the text ends too early");
	}
}

static bool count_value(struct checker *c)
{
	return c->values++ < c->max_values ? true : fail_at(c, "too many values");
}

/* Consumes `"key" :`, counting the key. */
static bool check_key(struct checker *c)
{
	skip_space(c);
	if (peek(c) != '"')
		return fail_at(c, "expected a key");
	if (!count_value(c) || !check_string(c))
		return false;
	skip_space(c);
	if (peek(c) != ':')
		return fail_at(c, "expected ':'");
	c->pos++;
	return true;
}

/* Checks the whole text against the grammar and counts its values into c->values. */
static bool check_text(struct checker *c)
{
	uint8_t is_object[DEPTH_CEILING / 8] = {0};
	uint32_t depth = 0;

	for (;;) {
		/* A value starts here. */
		skip_space(c);
		if (!count_value(c))
			return false;
		int open = peek(c);
		if (open == '{' || open == '[') {
			if (depth >= c->max_depth)
				return fail_at(c, "nested too deeply");
			uint8_t bit = (uint8_t)(1u << (depth % 8));
			is_object[depth / 8] = (uint8_t)(open == '{' ? is_object[depth / 8] | bit
								     : is_object[depth / 8] & ~bit);
			depth++;
			c->pos++;
			skip_space(c);
			if (peek(c) != (open == '{' ? '}' : ']')) {
				if (open == '{' && !check_key(c))
					return false;
				continue;
			}
		} else if (!check_scalar(c)) {
			return false;
		}

		/* A value, or an empty container that is still to be closed, ends here. */
		for (;;) {
			skip_space(c);
			if (depth == 0)
				return c->pos == c->len ? true : fail_at(c, "text after the value");
			bool object = is_object[(depth - 1) / 8] >> ((depth - 1) % 8) & 1;
			int ch = peek(c);
			if (ch == ',') {
				c->pos++;
				if (object && !check_key(c))
					return false;
				break;
			}
			if (ch != (object ? '}' : ']'))
				return fail_at(c, ch < 0   ? "the text ends too early"
						  : object ? "expected ',' or '}'"
							   : "expected ',' or ']'");
			c->pos++;
			depth--;
		}
	}
}

/* ---- Decoded strings ---- */

/* A walk over the decoded bytes of a string token. The text is known to be well formed. */
struct decoder {
	const unsigned char *p;
	const unsigned char *end;
	unsigned char pending[4]; /* rest of a decoded \u escape */
	unsigned char pending_len;
	unsigned char pending_pos;
};

static struct decoder decoder_start(const struct json *doc, uint32_t index)
{
	const jsmntok_t *t = &doc->tokens[index];
	return (struct decoder){.p = (const unsigned char *)doc->text + t->start,
				.end = (const unsigned char *)doc->text + t->end};
}

static unsigned char put_utf8(unsigned char *out, uint32_t code)
{
	if (code < 0x80) {
		out[0] = (unsigned char)code;
		return 1;
	}
	if (code < 0x800) {
		out[0] = (unsigned char)(0xc0 | code >> 6);
		out[1] = (unsigned char)(0x80 | (code & 0x3f));
		return 2;
	}
	if (code < 0x10000) {
		out[0] = (unsigned char)(0xe0 | code >> 12);
		out[1] = (unsigned char)(0x80 | (code >> 6 & 0x3f));
		out[2] = (unsigned char)(0x80 | (code & 0x3f));
		return 3;
	}
	out[0] = (unsigned char)(0xf0 | code >> 18);
	out[1] = (unsigned char)(0x80 | (code >> 12 & 0x3f));
	out[2] = (unsigned char)(0x80 | (code >> 6 & 0x3f));
	out[3] = (unsigned char)(0x80 | (code & 0x3f));
	return 4;
}

/* The next decoded byte, or -1 at the end. */
static int decoder_next(struct decoder *d)
{
	if (d->pending_pos < d->pending_len)
		return d->pending[d->pending_pos++];
	if (d->p == d->end)
		return -1;
	if (*d->p != '\\')
		return *d->p++;
	int ch = d->p[1];
	d->p += 2;
	switch (ch) {
	case 'b':
		return '\b';
	case 'f':
		return '\f';
	case 'n':
		return '\n';
	case 'r':
		return '\r';
	case 't':
		return '\t';
	case 'u':
		break;
	default:
		return ch;
	}
	uint32_t code = (uint32_t)hex4(d->p, 4);
	d->p += 4;
	if (code >= 0xd800 && code <= 0xdbff) {
		code = 0x10000 + ((code - 0xd800) << 10) + ((uint32_t)hex4(d->p + 2, 4) - 0xdc00);
		d->p += 6;
	}
	d->pending_len = put_utf8(d->pending, code);
	d->pending_pos = 1;
	return d->pending[0];
}

static int compare_strings(const struct json *doc, uint32_t a, uint32_t b)
{
	struct decoder da = decoder_start(doc, a), db = decoder_start(doc, b);
	for (;;) {
		int ca = decoder_next(&da), cb = decoder_next(&db);
		if (ca != cb)
			return ca < cb ? -1 : 1;
		if (ca < 0)
			return 0;
	}
}

static int compare_keys(const void *a, const void *b, void *doc)
{
	return compare_strings(doc, *(const uint32_t *)a, *(const uint32_t *)b);
}

/* ---- Building a document ---- */

/* Fills doc->after: jsmn lists tokens in the order of the text, so what is inside a token follows it directly. */
static void link_tokens(struct json *doc)
{
	for (uint32_t i = doc->count; i-- > 0;) {
		if (doc->after[i] == 0)
			doc->after[i] = i + 1;
		int parent = doc->tokens[i].parent;
		if (parent >= 0 && doc->after[parent] < doc->after[i])
			doc->after[parent] = doc->after[i];
	}
}

/* Refuses an object that has the same key twice. `keys` has room for every token. */
static int check_duplicate_keys(const struct json *doc, uint32_t object, uint32_t *keys, struct err *e)
{
	uint32_t n = 0;
	for (uint32_t i = object + 1; i < doc->after[object]; i = doc->after[i])
		keys[n++] = i;
	qsort_r(keys, n, sizeof *keys, compare_keys, (void *)doc);
	for (uint32_t i = 1; i < n; i++)
		if (compare_strings(doc, keys[i - 1], keys[i]) == 0)
			return err_set(e, -EINVAL, "JSON: duplicate key \"%.*s\" at byte %d",
				       doc->tokens[keys[i]].end - doc->tokens[keys[i]].start > 60
					       ? 60
					       : doc->tokens[keys[i]].end - doc->tokens[keys[i]].start,
				       doc->text + doc->tokens[keys[i]].start, doc->tokens[keys[i]].start);
	return 0;
}

static int check_all_keys(const struct json *doc, struct err *e)
{
	uint32_t *keys = NULL;
	int rc = 0;
	for (uint32_t i = 0; i < doc->count && rc == 0; i++) {
		if (doc->tokens[i].type != JSMN_OBJECT || doc->tokens[i].size < 2)
			continue;
		if (!keys)
			keys = malloc(doc->count * sizeof *keys);
		rc = keys ? check_duplicate_keys(doc, i, keys, e) : err_sys(e, -ENOMEM, "JSON");
	}
	free(keys);
	return rc;
}

/*
 * Parses `text` (need not end with a NUL) into a document that owns a copy of it; free it with json_free().
 * `limits` may be NULL for the defaults. Returns 0; -EFBIG where the text is longer than allowed; -EINVAL where it is
 * not acceptable JSON, with the byte offset in `e`; or -ENOMEM.
 */
int json_parse(const char *text, size_t len_bytes, const struct json_limits *limits, struct json **out, struct err *e)
{
	static const struct json_limits defaults = {0};
	*out = NULL;
	if (!limits)
		limits = &defaults;
	size_t max_bytes = limits->max_bytes ? limits->max_bytes : DEFAULT_MAX_BYTES;
	if (len_bytes > max_bytes || len_bytes > INT32_MAX - 2)
		return err_set(e, -EFBIG, "JSON: %zu bytes are more than the %zu allowed", len_bytes, max_bytes);

	struct checker c = {
		.text = (const unsigned char *)text,
		.len = len_bytes,
		.max_depth = limits->max_depth ? limits->max_depth : DEFAULT_MAX_DEPTH,
		.max_values = limits->max_values ? limits->max_values : DEFAULT_MAX_VALUES,
	};
	if (c.max_depth > DEPTH_CEILING)
		c.max_depth = DEPTH_CEILING;
	if (!check_text(&c))
		return err_set(e, -EINVAL, "JSON: %s at byte %zu", c.fault, c.pos);

	struct json *doc = calloc(1, sizeof *doc);
	if (!doc)
		return err_sys(e, -ENOMEM, "JSON");
	doc->text = malloc(len_bytes + 2);
	doc->tokens = malloc(c.values * sizeof *doc->tokens);
	doc->after = calloc(c.values, sizeof *doc->after);
	int rc = 0;
	if (!doc->text || !doc->tokens || !doc->after) {
		rc = err_sys(e, -ENOMEM, "JSON");
		goto out;
	}
	memcpy(doc->text, text, len_bytes);
	memcpy(doc->text + len_bytes, "\n", 2);

	jsmn_parser parser;
	jsmn_init(&parser);
	int n = jsmn_parse(&parser, doc->text, len_bytes + 1, doc->tokens, c.values);
	if (n < 0 || (uint32_t)n != c.values) {
		rc = err_set(e, -EINVAL, "JSON: unreadable at byte %u", parser.pos);
		goto out;
	}
	doc->count = c.values;
	link_tokens(doc);
	rc = check_all_keys(doc, e);
out:
	if (rc) {
		json_free(doc);
		return rc;
	}
	*out = doc;
	return 0;
}

/* Frees a document and invalidates its values. NULL is fine. */
void json_free(struct json *doc)
{
	if (!doc)
		return;
	free(doc->text);
	free(doc->tokens);
	free(doc->after);
	free(doc);
}

/* ---- Reading values ---- */

static struct json_value value_at(const struct json *doc, uint32_t index)
{
	return (struct json_value){.doc = doc, .index = index};
}

/* The document's value. */
struct json_value json_root(const struct json *doc)
{
	return value_at(doc, 0);
}

/* The type of a value; JSON_NONE for an absent one. */
enum json_type json_type(struct json_value v)
{
	if (!v.doc)
		return JSON_NONE;
	const jsmntok_t *t = &v.doc->tokens[v.index];
	switch (t->type) {
	case JSMN_OBJECT:
		return JSON_OBJECT;
	case JSMN_ARRAY:
		return JSON_ARRAY;
	case JSMN_STRING:
		return JSON_STRING;
	default:
		break;
	}
	switch (v.doc->text[t->start]) {
	case 't':
	case 'f':
		return JSON_BOOL;
	case 'n':
		return JSON_NULL;
	default:
		return JSON_NUMBER;
	}
}

/* The number of elements of an array or members of an object; 0 for anything else. */
size_t json_count(struct json_value v)
{
	enum json_type type = json_type(v);
	return type == JSON_ARRAY || type == JSON_OBJECT ? (size_t)v.doc->tokens[v.index].size : 0;
}

/* Whether a value is absent or null: most documents of others mean the same by both. */
bool json_is_absent(struct json_value v)
{
	return json_type(v) <= JSON_NULL;
}

/*
 * Steps to the next element or member, into it->key and it->value. Returns false at the end, and at once for a value
 * that is neither array nor object.
 */
bool json_next(struct json_iter *it)
{
	struct json_value c = it->container;
	enum json_type type = json_type(c);
	if (type != JSON_ARRAY && type != JSON_OBJECT)
		return false;
	if (it->next == 0)
		it->next = c.index + 1;
	if (it->next >= c.doc->after[c.index])
		return false;
	uint32_t i = it->next;
	it->next = c.doc->after[i];
	if (type == JSON_OBJECT) {
		it->key = value_at(c.doc, i);
		it->value = value_at(c.doc, i + 1);
	} else {
		it->key = (struct json_value){0};
		it->value = value_at(c.doc, i);
	}
	return true;
}

/* Whether a value is the string `text`. */
bool json_string_is(struct json_value v, const char *text)
{
	if (json_type(v) != JSON_STRING)
		return false;
	struct decoder d = decoder_start(v.doc, v.index);
	for (const unsigned char *p = (const unsigned char *)text; *p; p++)
		if (decoder_next(&d) != *p)
			return false;
	return decoder_next(&d) < 0;
}

/* The member `key` of an object, or JSON_NONE where there is none or the value is no object. Costs a walk. */
struct json_value json_get(struct json_value object, const char *key)
{
	if (json_type(object) != JSON_OBJECT)
		return (struct json_value){0};
	struct json_iter it = JSON_ITER(object);
	while (json_next(&it))
		if (json_string_is(it.key, key))
			return it.value;
	return (struct json_value){0};
}

/* ---- Errors that name the value ---- */

/* Writes the path of a value from the root, such as ".config.Env[3]", cut at its front where it is too long. */
static void value_path(struct json_value v, char *out, size_t size)
{
	char path[160];
	size_t at = sizeof path - 1;
	path[at] = 0;
	int i = (int)v.index;
	while (v.doc->tokens[i].parent >= 0) {
		const jsmntok_t *tokens = v.doc->tokens;
		int parent = tokens[i].parent;
		char step[72];
		if (tokens[parent].type == JSMN_ARRAY) {
			unsigned n = 0;
			for (uint32_t k = (uint32_t)parent + 1; k != (uint32_t)i; k = v.doc->after[k])
				n++;
			snprintf(step, sizeof step, "[%u]", n);
		} else {
			int key = tokens[parent].type == JSMN_OBJECT ? i : parent;
			int len = tokens[key].end - tokens[key].start;
			snprintf(step, sizeof step, ".%.*s", len > 64 ? 64 : len, v.doc->text + tokens[key].start);
			if (key == parent)
				parent = tokens[key].parent;
		}
		size_t n = strlen(step);
		if (n + 3 > at) {
			at -= 3;
			memcpy(path + at, "...", 3);
			break;
		}
		at -= n;
		memcpy(path + at, step, n);
		i = parent;
	}
	snprintf(out, size, "%s", path[at] ? path + at : "the document");
}

/* Records that something is wrong with a value, naming where it is. Returns `code`. */
int json_error(struct json_value v, int code, struct err *e, const char *fmt, ...)
{
	char what[400], path[168] = "(absent)";
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	if (!v.doc)
		return err_set(e, code, "JSON: %s", what);
	value_path(v, path, sizeof path);
	return err_set(e, code, "JSON: %s (byte %d): %s", path, v.doc->tokens[v.index].start, what);
}

static const char *type_name(enum json_type type)
{
	static const char *const names[] = {
		[JSON_NONE] = "nothing",    [JSON_NULL] = "null",	[JSON_BOOL] = "true or false",
		[JSON_NUMBER] = "a number", [JSON_STRING] = "a string", [JSON_ARRAY] = "an array",
		[JSON_OBJECT] = "an object",
	};
	return names[type];
}

/* Returns 0 where the value has the type, else -EINVAL. */
int json_expect(struct json_value v, enum json_type type, struct err *e)
{
	enum json_type have = json_type(v);
	if (have == type)
		return 0;
	if (have == JSON_NONE)
		return err_set(e, -EINVAL, "JSON: %s is missing", type_name(type));
	return json_error(v, -EINVAL, e, "expected %s, found %s", type_name(type), type_name(have));
}

/* The text that a value (not JSON_NONE) was read from; of a string, what is between the quotes. Not a C string. */
const char *json_text(struct json_value v, size_t *len_bytes)
{
	const jsmntok_t *t = &v.doc->tokens[v.index];
	*len_bytes = (size_t)(t->end - t->start);
	return v.doc->text + t->start;
}

/* Refuses an object with a member that `keys` (ends with NULL) does not list. Returns 0 or -EINVAL. */
int json_only_keys(struct json_value object, const char *const *keys, struct err *e)
{
	int rc = json_expect(object, JSON_OBJECT, e);
	struct json_iter it = JSON_ITER(object);
	while (rc == 0 && json_next(&it)) {
		size_t i = 0;
		while (keys[i] && !json_string_is(it.key, keys[i]))
			i++;
		if (!keys[i])
			rc = json_error(it.key, -EINVAL, e, "unknown key");
	}
	return rc;
}

/* Reads true or false. Returns 0 or -EINVAL. */
int json_bool(struct json_value v, bool *out, struct err *e)
{
	int rc = json_expect(v, JSON_BOOL, e);
	if (rc == 0)
		*out = v.doc->text[v.doc->tokens[v.index].start] == 't';
	return rc;
}

/* The text of a number that is written as an integer, or NULL with the error set. */
static const char *integer_text(struct json_value v, struct err *e)
{
	if (json_expect(v, JSON_NUMBER, e))
		return NULL;
	const jsmntok_t *t = &v.doc->tokens[v.index];
	for (int i = t->start; i < t->end; i++)
		if (strchr(".eE", v.doc->text[i])) {
			json_error(v, -EINVAL, e, "expected an integer");
			return NULL;
		}
	return v.doc->text + t->start;
}

/* Reads an integer (no fraction, no exponent). Returns 0, -EINVAL, or -ERANGE where it does not fit. */
int json_int64(struct json_value v, int64_t *out, struct err *e)
{
	const char *text = integer_text(v, e);
	if (!text)
		return -EINVAL;
	errno = 0;
	long long value = strtoll(text, NULL, 10);
	if (errno)
		return json_error(v, -ERANGE, e, "the integer is out of range");
	*out = value;
	return 0;
}

/* Reads an integer that is not negative. Returns 0, -EINVAL, or -ERANGE where it does not fit. */
int json_uint64(struct json_value v, uint64_t *out, struct err *e)
{
	const char *text = integer_text(v, e);
	if (!text)
		return -EINVAL;
	if (*text == '-' && strncmp(text, "-0", 2))
		return json_error(v, -ERANGE, e, "the integer is negative");
	errno = 0;
	unsigned long long value = strtoull(text, NULL, 10);
	if (errno)
		return json_error(v, -ERANGE, e, "the integer is out of range");
	*out = value;
	return 0;
}

/* Reads a number. Returns 0, -EINVAL, or -ERANGE where it is too large for a double (1e400). */
int json_double(struct json_value v, double *out, struct err *e)
{
	int rc = json_expect(v, JSON_NUMBER, e);
	if (rc)
		return rc;
	locale_t c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
	if (!c_locale)
		return err_sys(e, -ENOMEM, "JSON");
	double value = strtod_l(v.doc->text + v.doc->tokens[v.index].start, NULL, c_locale);
	freelocale(c_locale);
	if (value > 1.7976931348623157e308 || value < -1.7976931348623157e308)
		return json_error(v, -ERANGE, e, "the number is out of range");
	*out = value;
	return 0;
}

/* Appends the decoded bytes of a string, which may contain NUL. Returns 0, -EINVAL or -ENOMEM. */
int json_bytes(struct json_value v, struct buf *out, struct err *e)
{
	int rc = json_expect(v, JSON_STRING, e);
	if (rc)
		return rc;
	const jsmntok_t *t = &v.doc->tokens[v.index];
	if (buf_reserve(out, (size_t)(t->end - t->start) + 1)) /* decoding never lengthens */
		return err_sys(e, -ENOMEM, "JSON");
	struct decoder d = decoder_start(v.doc, v.index);
	int ch;
	while ((ch = decoder_next(&d)) >= 0)
		out->data[out->len++] = (uint8_t)ch;
	return 0;
}

/* Decodes a string into memory that the caller frees. Returns 0, -EINVAL (also where it contains a NUL) or -ENOMEM. */
int json_string(struct json_value v, char **out, struct err *e)
{
	struct buf b = {0};
	int rc = json_bytes(v, &b, e);
	if (rc == 0 && memchr(b.data, 0, b.len))
		rc = json_error(v, -EINVAL, e, "the string contains a NUL");
	if (rc) {
		buf_free(&b);
		return rc;
	}
	b.data[b.len] = 0; /* json_bytes() leaves room for it */
	*out = (char *)b.data;
	return 0;
}

/* ---- Writing ---- */

/*
 * Appends `text` as a JSON string with its quotes. Bytes that are not UTF-8 become U+FFFD. Returns 0 or -ENOMEM.
 */
int json_put_bytes(struct buf *b, const void *text, size_t len_bytes)
{
	const unsigned char *p = text, *end = p + len_bytes;
	int rc = buf_add(b, "\"", 1);
	while (rc == 0 && p < end) {
		size_t n = utf8_length(p, (size_t)(end - p));
		if (n == 0) {
			rc = buf_add(b, "\xef\xbf\xbd", 3);
			n = 1;
		} else if (*p == '"' || *p == '\\') {
			rc = buf_addf(b, "\\%c", *p);
		} else if (*p == '\n') {
			rc = buf_add(b, "\\n", 2);
		} else if (*p < 0x20 || *p == 0x7f) {
			rc = buf_addf(b, "\\u%04x", *p);
		} else {
			rc = buf_add(b, p, n);
		}
		p += n;
	}
	return rc ? rc : buf_add(b, "\"", 1);
}

/* Appends a C string as a JSON string. Returns 0 or -ENOMEM. */
int json_put_string(struct buf *b, const char *text)
{
	return json_put_bytes(b, text, strlen(text));
}
