/*
 * What a hook compares and edits: targets (path and query) and fields.
 *
 * A path has many spellings, and a server may take them all for the same: /v1/%61dmin, //v1/admin, /v1/x/../admin. A pattern
 * is therefore compared with the path as it was sent and with its plain form: percent-encoding decoded, "." and ".." resolved,
 * no empty segments.
 */
#include <errno.h>
#include <string.h>

#include "virtio/net/gate/hook_rule.h"
#include "virtio/net/gate/http_text.h"
#include "vmm/util/buf.h"

/* ---- Paths ---- */

static int hex_value(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* One decoded byte of at least one at *p, which moves past it. What is no encoding stands for itself. */
static char next_decoded(const char **p, const char *end)
{
	const char *at = *p;
	*p = at + 1;
	if (*at != '%' || end - at < 3 || hex_value(at[1]) < 0 || hex_value(at[2]) < 0)
		return *at;
	*p = at + 3;
	return (char)(hex_value(at[1]) << 4 | hex_value(at[2]));
}

/*
 * '*' is any run, '?' any byte. Only the last '*' is ever tried again: what an earlier one took does not matter any more, so the
 * cost is at most the product of the lengths.
 */
static bool glob_matches(const char *pattern, const char *text, size_t len)
{
	const char *star = NULL;
	size_t at = 0, star_at = 0;
	while (at < len) {
		if (*pattern == '*') {
			star = pattern++;
			star_at = at;
		} else if (*pattern && (*pattern == '?' || *pattern == text[at])) {
			pattern++;
			at++;
		} else if (star) {
			pattern = star + 1;
			at = ++star_at;
		} else {
			return false;
		}
	}
	while (*pattern == '*')
		pattern++;
	return *pattern == 0;
}

/* Writes the plain form of an absolute path, which is never longer, to `out`. Returns its length. */
static size_t make_plain(const char *path, size_t len, char *out)
{
	const char *end = path + len;
	size_t n = 0, segment = 0; /* where the segment begins that is being written, after its '/' */
	for (bool more = true; more;) {
		more = path < end;
		char c = more ? next_decoded(&path, end) : '/';
		if (c != '/') {
			out[n++] = c;
			continue;
		}
		size_t bytes = n - segment;
		if (bytes == 2 && out[segment] == '.' && out[segment + 1] == '.') {
			n = segment > 1 ? segment - 1 : segment;
			while (n > 0 && out[n - 1] != '/')
				n--;
		} else if ((bytes == 1 && out[segment] == '.') || (bytes == 0 && n > 0)) {
			n = segment;
		} else if (more) {
			out[n++] = '/';
		}
		segment = n;
	}
	return n;
}

/* Whether the path may have another plain form. */
static bool is_plain(const char *path, size_t len)
{
	return !memchr(path, '%', len) && !memmem(path, len, "//", 2) && !memmem(path, len, "/.", 2);
}

static bool plain_matches(const char *pattern, const char *path, size_t len)
{
	char plain[HTTP_FIELDS_MAX_BYTES];
	if (len > sizeof plain)
		return true;
	return glob_matches(pattern, plain, make_plain(path, len, plain));
}

/*
 * Whether the pattern fits the path of a target in either form. *ambiguous: only in one of them, so that whoever would let the
 * request pass for it should not.
 */
bool hook_path_matches(const char *pattern, const char *target, bool *ambiguous)
{
	size_t len = strcspn(target, "?");
	bool raw = glob_matches(pattern, target, len);
	bool plain = is_plain(target, len) ? raw : plain_matches(pattern, target, len);
	*ambiguous = raw != plain;
	return raw || plain;
}

/* What is wrong with a path to be sent, or NULL. */
const char *hook_path_wrong(const char *path)
{
	if (path[0] != '/')
		return "a path begins with '/'";
	if (!http_is_path(path, strlen(path)) || strchr(path, '?'))
		return "in a path '?' (%3F), '#' (%23), blanks and what is not printable ASCII are written %XX";
	return NULL;
}

/* ---- Queries ---- */

static int decode_part(const char *p, const char *end, struct buf *out)
{
	int rc = 0;
	while (p < end && rc == 0) {
		char c = *p == '+' ? ' ' : *p;
		if (*p == '+')
			p++;
		else
			c = next_decoded(&p, end);
		rc = buf_add(out, &c, 1);
	}
	return rc;
}

/*
 * Decodes the next NAME=VALUE of a query into `name` and `value`, whose content does not count; *query moves past it. Returns
 * 1, 0 at the end, or -ENOMEM.
 */
int hook_query_next(const char **query, struct buf *name, struct buf *value)
{
	const char *p = *query;
	p += strspn(p, "&");
	if (*p == 0)
		return 0;
	const char *end = p + strcspn(p, "&"), *equals = memchr(p, '=', (size_t)(end - p));
	name->len = value->len = 0;
	int rc = buf_reserve(name, 1); /* the data of an empty one is not NULL */
	rc = rc ? rc : buf_reserve(value, 1);
	rc = rc ? rc : decode_part(p, equals ? equals : end, name);
	rc = rc || !equals ? rc : decode_part(equals + 1, end, value);
	*query = end;
	return rc ? rc : 1;
}

static bool buf_is(const struct buf *b, const char *text)
{
	return b->len == strlen(text) && (b->len == 0 || memcmp(b->data, text, b->len) == 0);
}

static bool drops(const struct hook_url_edits *edits, const struct buf *name)
{
	for (size_t i = 0; i < edits->set.count; i++)
		if (buf_is(name, edits->set.item[i].name))
			return true;
	for (size_t i = 0; i < edits->drop.count; i++)
		if (buf_is(name, edits->drop.item[i]))
			return true;
	return false;
}

static bool is_unreserved(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c && strchr("-._~", c));
}

static int put_encoded(struct buf *out, const char *text)
{
	int rc = 0;
	for (; *text && rc == 0; text++)
		rc = is_unreserved(*text) ? buf_add(out, text, 1) : buf_addf(out, "%%%02X", (unsigned char)*text);
	return rc;
}

/* Appends the parts of `query` that stay, as they are. */
static int put_kept(struct buf *out, const char *query, const struct hook_url_edits *edits, char *before)
{
	struct buf name = {0}, value = {0};
	const char *at = query;
	int rc = edits->drop_all ? 0 : hook_query_next(&at, &name, &value);
	for (; rc > 0; rc = hook_query_next(&at, &name, &value)) {
		const char *from = query + strspn(query, "&");
		query = at;
		if (drops(edits, &name))
			continue;
		rc = buf_add(out, before, 1);
		rc = rc ? rc : buf_add(out, from, (size_t)(at - from));
		*before = '&';
		if (rc)
			break;
	}
	buf_free(&name);
	buf_free(&value);
	return rc;
}

static int put_set(struct buf *out, const struct hook_url_edits *edits, char *before)
{
	int rc = 0;
	for (size_t i = 0; i < edits->set.count && rc == 0; i++) {
		struct buf name = {.data = (uint8_t *)edits->set.item[i].name, .len = strlen(edits->set.item[i].name)};
		bool gone = false;
		for (size_t j = 0; j < edits->drop.count; j++)
			gone |= buf_is(&name, edits->drop.item[j]);
		if (gone)
			continue;
		rc = buf_add(out, before, 1);
		rc = rc ? rc : put_encoded(out, edits->set.item[i].name);
		rc = rc ? rc : buf_add(out, "=", 1);
		rc = rc ? rc : put_encoded(out, edits->set.item[i].value);
		*before = '&';
	}
	return rc;
}

/*
 * Edits the target of a request: sets, then drops. The target "*" has neither path nor query, and stays. Returns 0, -ENOMEM, or
 * -E2BIG where it would become too long.
 */
int hook_edit_url(char **target, const struct hook_url_edits *edits)
{
	if ((*target)[0] != '/')
		return 0;
	size_t path_bytes = strcspn(*target, "?");
	const char *query = (*target)[path_bytes] ? *target + path_bytes + 1 : "";
	bool edits_query = edits->drop_all || edits->set.count || edits->drop.count;
	struct buf out = {0};
	char before = '?';
	int rc = buf_add(&out, edits->path ? edits->path : *target, edits->path ? strlen(edits->path) : path_bytes);
	if (edits_query) {
		rc = rc ? rc : put_kept(&out, query, edits, &before);
		rc = rc ? rc : put_set(&out, edits, &before);
	} else {
		rc = rc ? rc : buf_add(&out, *target + path_bytes, strlen(*target + path_bytes));
	}
	rc = rc ? rc : buf_add(&out, "", 1);
	if (rc == 0 && out.len > HTTP_FIELDS_MAX_BYTES)
		rc = -E2BIG;
	rc = rc ? rc : http_replace_text(target, (char *)out.data);
	buf_free(&out);
	return rc;
}

/* ---- Fields ---- */

/* What is wrong with a name for a field, or NULL. */
const char *hook_field_name_wrong(const char *name)
{
	return http_is_token(name, strlen(name)) ? NULL : "a header's name has letters, digits and hyphens";
}

/* What is wrong with a value for a field, or NULL. */
const char *hook_field_value_wrong(const char *value)
{
	return http_is_value(value, strlen(value)) ? NULL : "a header's value has no control characters, and no blanks around it";
}

/* Sets, then drops. Returns as http_set(). */
int hook_edit_fields(struct http_fields *f, const struct http_fields *set, const struct strv *drop)
{
	int rc = 0;
	for (size_t i = 0; i < set->count && rc == 0; i++)
		rc = http_set(f, set->item[i].name, set->item[i].value);
	for (size_t i = 0; i < drop->count && rc == 0; i++)
		http_remove(f, drop->item[i]);
	return rc;
}
