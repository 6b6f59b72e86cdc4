/*
 * Secrets in the head of a request.
 *
 * First all of the head is searched for placeholders, in every form that a server would read: as it is, percent-encoded in the
 * URL, and in base64 after "Basic". One whose secret must not go there stops the request. Only then are values put in:
 *
 *   in the values of fields    but not in those that never hold credentials (User-Agent, Referer, ...): servers write them to
 *                              logs and pages. The placeholder, which is worth nothing, is left there.
 *   in the query               percent-encoded
 *   in the path                percent-encoded, of secrets of which the user says so
 *
 * A placeholder in another place of a request to the secret's own host (a field's name) is left.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "virtio/net/gate/encode.h"
#include "virtio/net/gate/http.h"
#include "virtio/net/gate/secret.h"

/* How a text is compared with placeholders. */
enum reading {
	AS_IT_IS,
	PERCENT_ENCODED,
	ANY_CASE,
};

/* A part of a text. */
struct piece {
	const char *at, *end;
};

static struct piece piece_of(const char *text)
{
	return (struct piece){text, text + strlen(text)};
}

/* ---- Finding ---- */

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

/* The next character of a text that is not at its end. */
static char take_char(struct piece *p, enum reading how)
{
	char c = *p->at++;
	if (how == ANY_CASE)
		return lower(c);
	if (how != PERCENT_ENCODED || c != '%' || p->end - p->at < 2)
		return c;
	int high = encode_hex_value(p->at[0]), low = encode_hex_value(p->at[1]);
	if (high < 0 || low < 0)
		return c;
	p->at += 2;
	return (char)(high << 4 | low);
}

/* How many bytes of `text` this placeholder is, with which it begins; 0: it does not. */
static size_t begins_with(struct piece text, const char *placeholder, enum reading how)
{
	const char *from = text.at;
	for (; *placeholder; placeholder++) {
		char wanted = how == ANY_CASE ? lower(*placeholder) : *placeholder;
		if (text.at == text.end || take_char(&text, how) != wanted)
			return 0;
	}
	return (size_t)(text.at - from);
}

/* Looks for the first placeholder in `text`: which part of it that is, and the number of its secret. */
static bool find(const struct secrets *s, struct piece text, enum reading how, struct piece *found, size_t *number)
{
	for (; text.at < text.end; text.at++) {
		if (!s->begins[(uint8_t)*text.at])
			continue;
		for (*number = 0; *number < s->count; ++*number) {
			size_t bytes = begins_with(text, s->item[*number]->placeholder, how);
			*found = (struct piece){text.at, text.at + bytes};
			if (bytes)
				return true;
		}
	}
	return false;
}

/* What "Basic" credentials say, in memory that the caller wipes and frees; NULL where the value is no such thing. */
static char *decode_basic(const char *value, size_t *bytes)
{
	if (strncasecmp(value, "Basic ", 6) != 0)
		return NULL;
	value += 6 + strspn(value + 6, " ");
	size_t len = strlen(value);
	char *text = malloc(len + 1);
	ssize_t n = text ? encode_base64_decode(value, len, text) : -1;
	if (n < 0) {
		free(text);
		return NULL;
	}
	*bytes = (size_t)n;
	return text;
}

static void wipe(char *text, size_t bytes)
{
	if (text)
		explicit_bzero(text, bytes);
	free(text);
}

/* ---- Checking ---- */

struct check {
	const struct secrets *secrets;
	const struct secret_target *target;
	struct secret_result *result;
	bool *any; /* whether there is a placeholder */
};

/* Stops the request where a placeholder in `text` must not be. */
static void check_text(const struct check *c, struct piece text, enum reading how, bool path)
{
	struct piece found;
	for (size_t i; !c->result->blocked && find(c->secrets, text, how, &found, &i); text.at = found.end) {
		const struct secret *secret = c->secrets->item[i];
		*c->any = true;
		c->result->blocked = secret_refusal(secret, c->target);
		if (!c->result->blocked && path && !secret->in_path)
			c->result->blocked = "the placeholder of a secret in the path of a URL";
		c->result->secret = c->result->blocked ? secret : NULL;
	}
}

static void check_fields(const struct check *c, const struct http_fields *fields)
{
	for (size_t i = 0; i < fields->count; i++) {
		const char *value = fields->item[i].value;
		size_t bytes;
		check_text(c, piece_of(fields->item[i].name), ANY_CASE, false);
		check_text(c, piece_of(value), AS_IT_IS, false);
		char *basic = decode_basic(value, &bytes);
		if (basic)
			check_text(c, (struct piece){basic, basic + bytes}, AS_IT_IS, false);
		free(basic);
	}
}

static void check_head(const struct check *c, const struct http_head *h)
{
	struct piece path = piece_of(h->path), query = path;
	path.end = query.at = path.at + strcspn(path.at, "?");
	check_text(c, piece_of(h->method), ANY_CASE, false);
	if (h->authority)
		check_text(c, piece_of(h->authority), ANY_CASE, false);
	check_text(c, path, PERCENT_ENCODED, true);
	check_text(c, query, PERCENT_ENCODED, false);
	check_fields(c, &h->fields);
}

/* ---- Putting values in ---- */

/* Writes `from` to `out` (NULL: nowhere), encoded for a text that is read so. Returns the length. */
static size_t put(const char *from, size_t bytes, enum reading how, char *out)
{
	if (how == PERCENT_ENCODED)
		return encode_percent(from, bytes, ENCODE_UNRESERVED, false, out);
	if (out && bytes)
		memcpy(out, from, bytes);
	return bytes;
}

/*
 * Writes `text` with values for placeholders to `out` (NULL: nowhere). Returns its length, and which secrets there are in it
 * in *used.
 */
static size_t substitute(const struct secrets *s, struct piece text, enum reading how, char *out, uint64_t *used)
{
	struct piece found;
	size_t n = 0;
	for (size_t i; find(s, text, how, &found, &i); text.at = found.end) {
		const struct secret *secret = s->item[i];
		n += put(text.at, (size_t)(found.at - text.at), AS_IT_IS, out ? out + n : NULL);
		n += put(secret->value, secret->value_bytes, how, out ? out + n : NULL);
		*used |= UINT64_C(1) << i;
	}
	return n + put(text.at, (size_t)(text.end - text.at), AS_IT_IS, out ? out + n : NULL);
}

/* Makes a copy of `text` with values for placeholders, and a NUL behind; *out is NULL where there is no placeholder. */
static int substituted(const struct secrets *s, struct piece text, enum reading how, uint64_t *used, char **out, size_t *bytes)
{
	uint64_t here = 0;
	*out = NULL;
	*bytes = substitute(s, text, how, NULL, &here);
	if (!here)
		return 0;
	*out = malloc(*bytes + 1);
	if (!*out)
		return -ENOMEM;
	substitute(s, text, how, *out, used);
	(*out)[*bytes] = 0;
	return 0;
}

/* The same for what is in "Basic" credentials. */
static int substituted_basic(const struct secrets *s, const char *value, uint64_t *used, char **out)
{
	size_t bytes, new_bytes;
	char *basic = decode_basic(value, &bytes), *new;
	*out = NULL;
	if (!basic)
		return 0;
	int rc = substituted(s, (struct piece){basic, basic + bytes}, AS_IT_IS, used, &new, &new_bytes);
	free(basic);
	if (!new)
		return rc;
	*out = malloc(new_bytes * 4 / 3 + 16);
	if (*out) {
		char *at = stpcpy(*out, "Basic ");
		at += encode_base64(new, new_bytes, false, at);
		strcpy(at, new_bytes % 3 == 1 ? "==" : new_bytes % 3 == 2 ? "=" : "");
	}
	wipe(new, new_bytes);
	return *out ? 0 : -ENOMEM;
}

/* Fields that servers keep, show or echo, and where no credential belongs. Those that end with a '-' are the first of many. */
static bool never_has_credentials(const char *name)
{
	static const char *const names[] = {
		"Accept",     "Accept-",  "Baggage",     "Cache-Control", "Content-",     "Date",    "Forwarded",
		"From",       "If-",      "Origin",      "Pragma",        "Priority",     "Range",   "Referer",
		"Sec-CH-",    "Sec-Fetch-", "Sec-GPC",   "Traceparent",   "Tracestate",   "User-Agent", "Via",
		"X-Forwarded-", "X-Real-IP", "X-Request-ID", "X-Requested-With",
	};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		size_t n = strlen(names[i]);
		if (names[i][n - 1] == '-' ? strncasecmp(name, names[i], n) == 0 : strcasecmp(name, names[i]) == 0)
			return true;
	}
	return false;
}

/* The new texts of a head, before they take their places. */
struct changes {
	char *path;
	char *value[HTTP_FIELDS_MAX];
	size_t bytes; /* of the path and all fields */
};

static void drop(struct changes *c)
{
	if (c->path)
		wipe(c->path, strlen(c->path));
	for (size_t i = 0; i < HTTP_FIELDS_MAX; i++)
		if (c->value[i])
			wipe(c->value[i], strlen(c->value[i]));
	free(c);
}

static int change_value(const struct secrets *s, const char *value, uint64_t *used, char **out)
{
	size_t bytes;
	int rc = substituted(s, piece_of(value), AS_IT_IS, used, out, &bytes);
	return rc || *out ? rc : substituted_basic(s, value, used, out);
}

static int change_all(const struct secrets *s, const struct http_head *h, uint64_t *used, struct changes *c)
{
	int rc = substituted(s, piece_of(h->path), PERCENT_ENCODED, used, &c->path, &c->bytes);
	for (size_t i = 0; rc == 0 && i < h->fields.count; i++) {
		const struct http_field *f = &h->fields.item[i];
		if (!never_has_credentials(f->name))
			rc = change_value(s, f->value, used, &c->value[i]);
		c->bytes += strlen(f->name) + strlen(c->value[i] ? c->value[i] : f->value);
	}
	return rc;
}

/* Puts the new texts in the place of the old, which are freed with `c`. */
static void commit(struct changes *c, struct http_head *h)
{
	char *old = h->path;
	h->path = c->path ? c->path : old;
	c->path = c->path ? old : NULL;
	for (size_t i = 0; i < h->fields.count; i++) {
		if (!c->value[i])
			continue;
		old = h->fields.item[i].value;
		h->fields.item[i].value = c->value[i];
		h->fields.bytes += strlen(c->value[i]) - strlen(old);
		c->value[i] = old;
	}
}

/* ---- The whole ---- */

/*
 * Puts the values that belong to `t` in the place of their placeholders, or says in *r why the request must not be sent, which
 * is then as it was. Returns 0, or -ENOMEM with the request as it was. Pure.
 */
int secrets_apply(const struct secrets *s, const struct secret_target *t, struct http_head *request, struct secret_result *r)
{
	bool any = false;
	const struct check c = {s, t, r, &any};
	*r = (struct secret_result){0};
	if (s->count)
		check_head(&c, request);
	if (r->blocked || !any)
		return 0;
	struct changes *changes = calloc(1, sizeof *changes);
	uint64_t used = 0;
	int rc = changes ? change_all(s, request, &used, changes) : -ENOMEM;
	if (rc == 0 && used && changes->bytes > HTTP_FIELDS_MAX_BYTES) {
		r->blocked = "a request that is too large with the values of its secrets";
	} else if (rc == 0) {
		commit(changes, request);
		r->used = used;
	}
	if (changes)
		drop(changes);
	return rc;
}

/* Looks for placeholders in what follows a request's body, in which none is replaced; sets *r as secrets_apply(). Pure. */
void secrets_check_trailers(const struct secrets *s, const struct secret_target *t, const struct http_fields *trailers,
			    struct secret_result *r)
{
	bool any;
	const struct check c = {s, t, r, &any};
	*r = (struct secret_result){0};
	if (s->count)
		check_fields(&c, trailers);
}
