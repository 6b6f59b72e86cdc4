#include "virtio/net/gate/http.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Frees a text of a message: it may have held a secret. Accepts NULL. */
static void free_text(char *text)
{
	if (text)
		explicit_bzero(text, strlen(text));
	free(text);
}

/* The value of the first field `name`, or NULL. */
const char *http_get(const struct http_fields *f, const char *name)
{
	for (size_t i = 0; i < f->count; i++)
		if (strcasecmp(f->item[i].name, name) == 0)
			return f->item[i].value;
	return NULL;
}

/* Adds a field at the end, whatever there is of that name. */
int http_add(struct http_fields *f, const char *name, size_t name_bytes, const char *value, size_t value_bytes)
{
	if (f->count == HTTP_FIELDS_MAX || name_bytes + value_bytes > HTTP_FIELDS_MAX_BYTES - f->bytes)
		return -E2BIG;
	if ((f->count & (f->count - 1)) == 0) { /* a power of two: full */
		struct http_field *larger = realloc(f->item, (f->count ? 2 * f->count : 1) * sizeof *larger);
		if (!larger)
			return -ENOMEM;
		f->item = larger;
	}
	struct http_field field = {strndup(name, name_bytes), strndup(value, value_bytes)};
	if (!field.name || !field.value) {
		free(field.name);
		free(field.value);
		return -ENOMEM;
	}
	f->item[f->count++] = field;
	f->bytes += name_bytes + value_bytes;
	return 0;
}

/* Makes `name` a field with this value only, in the place of the first that there was. */
int http_set(struct http_fields *f, const char *name, const char *value)
{
	for (size_t i = 0; i < f->count; i++) {
		if (strcasecmp(f->item[i].name, name))
			continue;
		size_t before = strlen(f->item[i].value), bytes = strlen(value);
		if (bytes > HTTP_FIELDS_MAX_BYTES - (f->bytes - before))
			return -E2BIG;
		int rc = http_replace_text(&f->item[i].value, value);
		if (rc)
			return rc;
		f->bytes += bytes - before;
		for (size_t j = f->count; j-- > i + 1;)
			if (strcasecmp(f->item[j].name, name) == 0)
				http_remove_at(f, j);
		return 0;
	}
	return http_add(f, name, strlen(name), value, strlen(value));
}

/* Removes field number `at`. */
void http_remove_at(struct http_fields *f, size_t at)
{
	f->bytes -= strlen(f->item[at].name) + strlen(f->item[at].value);
	free(f->item[at].name);
	free_text(f->item[at].value);
	memmove(&f->item[at], &f->item[at + 1], (--f->count - at) * sizeof *f->item);
	/* http_add() grows at powers of two, of which this may be one again: realloc() to the same size is free. */
}

/* Removes every field `name`. */
void http_remove(struct http_fields *f, const char *name)
{
	for (size_t i = f->count; i-- > 0;)
		if (strcasecmp(f->item[i].name, name) == 0)
			http_remove_at(f, i);
}

/* Puts a copy of `value` in the place of *text, which is freed. Returns 0, or -ENOMEM with *text as it was. */
int http_replace_text(char **text, const char *value)
{
	char *copy = strdup(value);
	if (!copy)
		return -ENOMEM;
	free_text(*text);
	*text = copy;
	return 0;
}

/* Frees the fields, and leaves none. */
void http_fields_free(struct http_fields *f)
{
	for (size_t i = 0; i < f->count; i++) {
		free(f->item[i].name);
		free_text(f->item[i].value);
	}
	free(f->item);
	*f = (struct http_fields){0};
}

static bool copy_text(char **to, const char *from)
{
	*to = from ? strdup(from) : NULL;
	return *to || !from;
}

/* Makes `to`, whose content does not count, the same as `from`, independent of it. Returns 0, or -ENOMEM with `to` empty. */
int http_head_copy(struct http_head *to, const struct http_head *from)
{
	*to = *from;
	to->fields = (struct http_fields){0};
	bool ok = copy_text(&to->method, from->method);
	ok &= copy_text(&to->authority, from->authority);
	ok &= copy_text(&to->path, from->path);
	for (size_t i = 0; i < from->fields.count && ok; i++) {
		const struct http_field *f = &from->fields.item[i];
		ok = http_add(&to->fields, f->name, strlen(f->name), f->value, strlen(f->value)) == 0;
	}
	if (ok)
		return 0;
	http_head_free(to);
	return -ENOMEM;
}

/* Frees what a head owns, and leaves an empty one. */
void http_head_free(struct http_head *h)
{
	free(h->method);
	free(h->authority);
	free_text(h->path);
	http_fields_free(&h->fields);
	*h = (struct http_head){.length_bytes = HTTP_LENGTH_UNKNOWN};
}
