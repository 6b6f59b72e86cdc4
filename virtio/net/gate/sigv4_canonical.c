/*
 * The canonical form of a request, as AWS Signature Version 4 signs it. It is that which AWS makes of the request that it
 * gets: the path and the query are read and written again, so that it does not matter how the guest encoded them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "virtio/net/gate/encode.h"
#include "virtio/net/gate/http.h"
#include "virtio/net/gate/sigv4.h"
#include "vmm/util/buf.h"

/* Adds `text`, percent-encoded but for letters, digits and `keep`. */
static int add_encoded(struct buf *out, const char *text, size_t bytes, const char *keep)
{
	int rc = buf_reserve(out, 3 * bytes);
	if (rc == 0 && bytes)
		out->len += encode_percent(text, bytes, keep, false, (char *)out->data + out->len);
	return rc;
}

/* The same for what is percent-encoded already, in some way; `scratch` has room for it. */
static int add_encoded_anew(struct buf *out, const char *text, size_t bytes, const char *keep, char *scratch)
{
	return add_encoded(out, scratch, encode_percent_decode(text, bytes, scratch), keep);
}

/* ---- The path ---- */

/* Writes a path without ".", ".." and empty segments to `out`, which has room for it. Returns its length. */
static size_t normalise(const char *path, size_t bytes, char *out)
{
	size_t n = 0;
	for (size_t i = 0, len; i < bytes; i += len + 1) {
		const char *end = memchr(path + i, '/', bytes - i);
		len = end ? (size_t)(end - path) - i : bytes - i;
		if (len == 0 || (len == 1 && path[i] == '.'))
			continue;
		if (len == 2 && path[i] == '.' && path[i + 1] == '.') {
			while (n && out[--n] != '/')
				;
			continue;
		}
		out[n++] = '/';
		memcpy(out + n, path + i, len);
		n += len;
	}
	if (n == 0 || (bytes && path[bytes - 1] == '/'))
		out[n++] = '/';
	return n;
}

/* S3 has its names encoded once, as they are; others have what is sent encoded once more, and normalised before. */
static int add_path(struct buf *out, const char *path, size_t bytes, bool s3, char *scratch)
{
	if (s3)
		return add_encoded_anew(out, path, bytes, ENCODE_UNRESERVED "/", scratch);
	return add_encoded(out, scratch, normalise(path, bytes, scratch), ENCODE_UNRESERVED "/");
}

/* ---- The query ---- */

enum { BETWEEN = 1 }; /* a name and its value, so that they are sorted first by the one and then by the other */

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Adds the texts in `list`, each with a NUL, sorted and with '&' between them. */
static int add_sorted(struct buf *out, struct buf *list, size_t count)
{
	char **item = calloc(count ? count : 1, sizeof *item);
	int rc = item ? 0 : -ENOMEM;
	char *at = (char *)list->data;
	for (size_t i = 0; rc == 0 && i < count; at += strlen(at) + 1)
		item[i++] = at;
	if (rc == 0)
		qsort(item, count, sizeof *item, compare);
	for (size_t i = 0; rc == 0 && i < count; i++) {
		*strchr(item[i], BETWEEN) = '=';
		rc = i ? buf_add(out, "&", 1) : 0;
		rc = rc ? rc : buf_add(out, item[i], strlen(item[i]));
	}
	free(item);
	return rc;
}

/* The parameters, encoded in one way and sorted; one without a '=' has an empty value. */
static int add_query(struct buf *out, const char *query, char *scratch)
{
	struct buf list = {0};
	size_t count = 0;
	int rc = 0;
	for (size_t len; rc == 0 && *query; query += len + (query[len] == '&')) {
		len = strcspn(query, "&");
		if (len == 0)
			continue;
		const char *equals = memchr(query, '=', len);
		size_t name = equals ? (size_t)(equals - query) : len, value = equals ? len - name - 1 : 0;
		rc = add_encoded_anew(&list, query, name, ENCODE_UNRESERVED, scratch);
		rc = rc ? rc : buf_add(&list, (char[]){BETWEEN}, 1);
		rc = rc ? rc : add_encoded_anew(&list, query + len - value, value, ENCODE_UNRESERVED, scratch);
		rc = rc ? rc : buf_add(&list, "", 1);
		count++;
	}
	rc = rc ? rc : add_sorted(out, &list, count);
	buf_free(&list);
	return rc;
}

/* ---- The fields ---- */

/* Adds a value with one blank where there are several. */
static int add_value(struct buf *out, const char *value)
{
	int rc = 0;
	for (size_t len; rc == 0 && *value; value += len) {
		len = *value == ' ' ? strspn(value, " ") : strcspn(value, " ");
		rc = buf_add(out, value, *value == ' ' ? 1 : len);
	}
	return rc;
}

/* Adds the line of a field, and its name to `names`; nothing where the request has no such field. */
static int add_field(const struct http_head *h, const char *name, struct buf *lines, struct buf *names)
{
	int rc = 0;
	size_t count = 0;
	bool host = strcmp(name, "host") == 0, length = strcmp(name, "content-length") == 0 && h->length_bytes >= 0;
	if (host || length) {
		rc = host ? buf_addf(lines, "host:%s", h->authority) : buf_addf(lines, "%s:%lld", name, (long long)h->length_bytes);
		count = 1;
	}
	for (size_t i = 0; rc == 0 && i < h->fields.count; i++) {
		if (strcasecmp(h->fields.item[i].name, name) != 0)
			continue;
		rc = count++ ? buf_add(lines, ",", 1) : buf_addf(lines, "%s:", name);
		rc = rc ? rc : add_value(lines, h->fields.item[i].value);
	}
	if (rc || !count)
		return rc;
	rc = buf_add(lines, "\n", 1);
	rc = rc || !names->len ? rc : buf_add(names, ";", 1);
	return rc ? rc : buf_add(names, name, strlen(name));
}

/* What the gate decides of itself to sign, or not. */
static bool is_decided(const char *name)
{
	static const char *const names[] = {"authorization", "host", "x-amz-date", "x-amz-security-token"};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	return false;
}

/* The names of the fields to sign, each once and sorted: the guest's and those that always are. Their texts are in *copy. */
static int list_names(struct sigv4_text fields, char **copy, char **name, size_t *count)
{
	*copy = strndup(fields.at, fields.bytes);
	if (!*copy)
		return -ENOMEM;
	*count = 0;
	for (char *rest = *copy, *one; (one = strsep(&rest, ";"));) {
		for (char *c = one; *c; c++)
			*c = *c >= 'A' && *c <= 'Z' ? (char)(*c + 32) : *c;
		if (is_decided(one) || *one == 0)
			continue;
		if (*count == HTTP_FIELDS_MAX)
			return -E2BIG;
		name[(*count)++] = one;
	}
	name[(*count)++] = "host";
	name[(*count)++] = "x-amz-date";
	name[(*count)++] = "x-amz-security-token";
	qsort(name, *count, sizeof *name, compare);
	size_t kept = 0;
	for (size_t i = 0; i < *count; i++)
		if (i == 0 || strcmp(name[i], name[kept - 1]) != 0)
			name[kept++] = name[i];
	*count = kept;
	return 0;
}

static int add_fields(const struct http_head *h, struct sigv4_text fields, struct buf *lines, struct buf *names)
{
	char *name[HTTP_FIELDS_MAX + 3], *copy;
	size_t count;
	int rc = list_names(fields, &copy, name, &count);
	for (size_t i = 0; rc == 0 && i < count; i++)
		rc = add_field(h, name[i], lines, names);
	free(copy);
	return rc;
}

/* ---- The whole ---- */

/*
 * Adds the canonical form of a request to `request`, and the names of the fields that are in it to `names`: those that the
 * guest signed, where they are still there, with "host", "x-amz-date" and "x-amz-security-token". Returns 0, -ENOMEM, or
 * -E2BIG: it signed more fields than there can be. Pure.
 */
int sigv4_canonical(const struct http_head *h, const struct sigv4_scope *scope, const char *payload_hash, struct buf *request,
		    struct buf *names)
{
	size_t path = strcspn(h->path, "?");
	const char *query = h->path[path] ? h->path + path + 1 : "";
	char *scratch = malloc(strlen(h->path) + 1);
	int rc = scratch ? buf_addf(request, "%s\n", h->method) : -ENOMEM;
	rc = rc ? rc : add_path(request, h->path, path, strncmp(scope->service, "s3", 2) == 0, scratch);
	rc = rc ? rc : buf_add(request, "\n", 1);
	rc = rc ? rc : add_query(request, query, scratch);
	rc = rc ? rc : buf_add(request, "\n", 1);
	rc = rc ? rc : add_fields(h, scope->fields, request, names);
	rc = rc ? rc : buf_add(request, "\n", 1);
	rc = rc ? rc : buf_add(request, names->data, names->len);
	rc = rc ? rc : buf_addf(request, "\n%s", payload_hash);
	free(scratch);
	return rc;
}
