/*
 * Any text: what json_parse() accepts can be walked and read in every way, and a string that is written again reads as
 * what it was. The first byte chooses the limits.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/json.h"

static void check_string(struct json_value v)
{
	struct buf once = {0}, written = {0}, again = {0};
	struct json *doc;
	struct err e;
	char *text = NULL;
	if (json_bytes(v, &once, &e) || json_put_bytes(&written, once.data, once.len) ||
	    json_parse((char *)written.data, written.len, NULL, &doc, &e) || json_bytes(json_root(doc), &again, &e))
		abort();
	if (again.len != once.len || (once.len && memcmp(again.data, once.data, once.len) != 0))
		abort();
	if (json_string(v, &text, &e) == 0 && (strlen(text) != once.len || !json_string_is(v, text)))
		abort();
	free(text);
	json_free(doc);
	buf_free(&once);
	buf_free(&written);
	buf_free(&again);
}

/* Reads a value as everything that it may or may not be. Nesting is bounded by the limits. */
static void visit(struct json_value v)
{
	int64_t i;
	uint64_t u;
	double d;
	bool b;
	struct err e;
	enum json_type type = json_type(v);
	if ((json_bool(v, &b, &e) == 0) != (type == JSON_BOOL))
		abort();
	if (json_int64(v, &i, &e) == 0 && json_uint64(v, &u, &e) == 0 && (uint64_t)i != u)
		abort();
	if (json_double(v, &d, &e) == 0 && type != JSON_NUMBER)
		abort();
	if (type == JSON_STRING)
		check_string(v);
	size_t count = 0;
	struct json_iter it = JSON_ITER(v);
	for (; json_next(&it); count++) {
		char *key = NULL;
		if (type == JSON_OBJECT && json_string(it.key, &key, &e) == 0 &&
		    json_get(v, key).index != it.value.index)
			abort();
		free(key);
		visit(it.value);
	}
	if (count != json_count(v))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct json *doc;
	struct err e;
	if (size == 0)
		return 0;
	struct json_limits limits = {
	    .max_depth = 1u << (data[0] & 7), .max_values = 8u << (data[0] >> 3 & 7), .max_bytes = 4096};
	if (json_parse((const char *)data + 1, size - 1, &limits, &doc, &e) == 0) {
		visit(json_root(doc));
		json_free(doc);
	}
	return 0;
}
