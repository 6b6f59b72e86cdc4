#include "vmm/image/record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/strv.h"

static const struct json_limits limits = {.max_bytes = 4 << 20, .max_values = 100000};

static int put_list(struct buf *b, const char *key, char **list)
{
	int rc = buf_addf(b, ",\"%s\":[", key);
	for (char **v = list; v && *v && rc == 0; v++) {
		rc = v == list ? 0 : buf_add(b, ",", 1);
		rc = rc ? rc : json_put_string(b, *v);
	}
	return rc ? rc : buf_add(b, "]", 1);
}

static int put_text(struct buf *b, const char *key, const char *text)
{
	int rc = buf_addf(b, "%s\"%s\":", b->data[b->len - 1] == '{' ? "" : ",", key);
	return rc ? rc : json_put_string(b, text ? text : "");
}

/* Adds the record of an image to `out`. Returns 0 or -ENOMEM. */
int record_write(const struct image *image, struct buf *out)
{
	const struct image_config *c = &image->config;
	int rc = buf_addf(out, "{");
	rc = rc ? rc : put_text(out, "name", image->name);
	rc = rc ? rc : put_text(out, "digest", image->digest);
	rc = rc ? rc : buf_addf(out, ",\"bytes\":%llu,\"created\":%lld,\"config\":{", (unsigned long long)image->bytes,
				(long long)image->created);
	rc = rc ? rc : put_text(out, "WorkingDir", c->working_dir);
	rc = rc ? rc : put_text(out, "User", c->user);
	rc = rc ? rc : put_list(out, "Env", c->env);
	rc = rc ? rc : put_list(out, "Entrypoint", c->entrypoint);
	rc = rc ? rc : put_list(out, "Cmd", c->cmd);
	return rc ? rc : buf_addf(out, "}}\n");
}

static bool missing(struct json_value v)
{
	return json_is_absent(v) || json_type(v) == JSON_NULL;
}

/* A list of strings; absent and null are an empty one. */
static int get_list(struct json_value v, char ***out, struct err *e)
{
	struct strv list = {0};
	int rc = 0;
	if (!missing(v))
		rc = json_expect(v, JSON_ARRAY, e);
	struct json_iter it = JSON_ITER(v);
	while (rc == 0 && !missing(v) && json_next(&it)) {
		char *text = NULL;
		rc = json_string(it.value, &text, e);
		if (rc == 0 && strv_add(&list, text))
			rc = err_sys(e, -ENOMEM, "image");
		free(text);
	}
	if (rc == 0 && !list.item) {
		list.item = calloc(1, sizeof *list.item);
		rc = list.item ? 0 : err_sys(e, -ENOMEM, "image");
	}
	if (rc)
		strv_free(list.item);
	else
		*out = list.item;
	return rc;
}

static int get_text(struct json_value v, char **out, struct err *e)
{
	return missing(v) ? 0 : json_string(v, out, e);
}

/*
 * Reads the part of an OCI image configuration's "config" that a sandbox honours. The caller frees *out with image_free(),
 * also on failure. Returns 0 or -errno.
 */
int record_read_config(struct json_value config, struct image_config *out, struct err *e)
{
	int rc = missing(config) ? 0 : json_expect(config, JSON_OBJECT, e);
	if (rc)
		return rc;
	rc = rc ? rc : get_list(json_get(config, "Env"), &out->env, e);
	rc = rc ? rc : get_list(json_get(config, "Entrypoint"), &out->entrypoint, e);
	rc = rc ? rc : get_list(json_get(config, "Cmd"), &out->cmd, e);
	rc = rc ? rc : get_text(json_get(config, "WorkingDir"), &out->working_dir, e);
	return rc ? rc : get_text(json_get(config, "User"), &out->user, e);
}

/* Reads a record. The caller frees *out with image_free(). Returns 0, or -errno with nothing to free. */
int record_read(const char *text, size_t len_bytes, struct image *out, struct err *e)
{
	struct json *doc;
	*out = (struct image){0};
	int rc = json_parse(text, len_bytes, &limits, &doc, e);
	if (rc)
		return rc;
	struct json_value root = json_root(doc);
	rc = json_string(json_get(root, "name"), &out->name, e);
	rc = rc ? rc : json_string(json_get(root, "digest"), &out->digest, e);
	rc = rc ? rc : json_uint64(json_get(root, "bytes"), &out->bytes, e);
	rc = rc ? rc : json_int64(json_get(root, "created"), &out->created, e);
	rc = rc ? rc : record_read_config(json_get(root, "config"), &out->config, e);
	json_free(doc);
	if (rc)
		image_free(out);
	return rc;
}
