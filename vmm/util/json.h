/* JSON (RFC 8259), read strictly and with bounded memory; and the little that is needed to write it. */
#ifndef CAPLOCK_UTIL_JSON_H
#define CAPLOCK_UTIL_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf;
struct err;
struct json;

/* What a text may cost. A field that is 0 stands for its default. */
struct json_limits {
	size_t max_bytes;    /* of text; default 8 MiB */
	uint32_t max_depth;  /* of nested arrays and objects; default 64 */
	uint32_t max_values; /* counting keys; default 1 Mi. Each costs 24 bytes of memory. */
};

enum json_type {
	JSON_NONE, /* no such value: what json_get() gives for an absent key */
	JSON_NULL,
	JSON_BOOL,
	JSON_NUMBER,
	JSON_STRING,
	JSON_ARRAY,
	JSON_OBJECT,
};

/* A value inside a document: valid as long as the document is. {0} is JSON_NONE. */
struct json_value {
	const struct json *doc;
	uint32_t index;
};

/* A walk over an array or an object; start with JSON_ITER(container). */
struct json_iter {
	struct json_value container;
	uint32_t next;
	struct json_value key;   /* a string, or JSON_NONE in an array */
	struct json_value value;
};
#define JSON_ITER(v) ((struct json_iter){.container = (v)})

int json_parse(const char *text, size_t len_bytes, const struct json_limits *limits, struct json **out,
	       struct err *e);
void json_free(struct json *doc);

struct json_value json_root(const struct json *doc);
enum json_type json_type(struct json_value v);
size_t json_count(struct json_value v);
bool json_is_absent(struct json_value v);
struct json_value json_get(struct json_value object, const char *key);
bool json_next(struct json_iter *it);
bool json_string_is(struct json_value v, const char *text);
const char *json_text(struct json_value v, size_t *len_bytes);
int json_only_keys(struct json_value object, const char *const *keys, struct err *e);

int json_expect(struct json_value v, enum json_type type, struct err *e);
int json_bool(struct json_value v, bool *out, struct err *e);
int json_int64(struct json_value v, int64_t *out, struct err *e);
int json_uint64(struct json_value v, uint64_t *out, struct err *e);
int json_double(struct json_value v, double *out, struct err *e);
int json_string(struct json_value v, char **out, struct err *e);
int json_bytes(struct json_value v, struct buf *out, struct err *e);
int json_error(struct json_value v, int code, struct err *e, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

int json_put_string(struct buf *b, const char *text);
int json_put_bytes(struct buf *b, const void *text, size_t len_bytes);

#endif
