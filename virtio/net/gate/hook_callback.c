/*
 * The callback of a hook: one line of JSON asks, one answers.
 *
 * The request has callback_id, phase, host, method, path (as it is sent), query (decoded; the first value of a name) and
 * request_headers; for a response, status_code, response_headers and is_sse too. The answer may have action, request {headers,
 * query, path} (of a request), response {headers, body_replacements, set_body_base64} (of a response) and error. Headers and
 * queries are the whole of them, where they are there. Fields that belong to the connection are not taken from an answer: they
 * are written anew.
 *
 * The answer is not the guest's, but it is checked as if it were: anything else than the above blocks the message.
 */
#include <errno.h>
#include <nettle/base64.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "virtio/net/gate/hook_rule.h"
#include "virtio/net/gate/http_text.h"
#include "vmm/util/err.h"
#include "vmm/util/json.h"

enum { QUERY_MAX_NAMES = 256 }; /* different ones that a callback is told: each is compared with those before */

/* How long to wait for the callback that HOOK_CALLBACK is about. */
uint32_t hooks_callback_timeout_ms(const struct hooks *h, const struct hook_outcome *o)
{
	return h->rule[o->next].timeout_ms;
}

/* ---- The line that asks ---- */

/* `,"key":"text"` */
static int put_member(struct buf *out, const char *key, const char *text)
{
	int rc = buf_addf(out, ",\"%s\":", key);
	return rc ? rc : json_put_string(out, text);
}

/* As programs know it: Content-Type, whatever the case it came in. */
static int put_field_name(struct buf *out, const char *name)
{
	int rc = buf_add(out, "\"", 1);
	for (bool first = true; *name && rc == 0; first = *name++ == '-') {
		char c = *name;
		if (first && c >= 'a' && c <= 'z')
			c = (char)(c - 32);
		else if (!first && c >= 'A' && c <= 'Z')
			c = (char)(c + 32);
		rc = buf_add(out, &c, 1); /* of a token: nothing to escape */
	}
	return rc ? rc : buf_add(out, "\":[", 3);
}

static bool named_before(const struct http_fields *f, size_t at)
{
	for (size_t i = 0; i < at; i++)
		if (strcasecmp(f->item[i].name, f->item[at].name) == 0)
			return true;
	return false;
}

/* All values of the field that is at `at` first. */
static int put_values(struct buf *out, const struct http_fields *f, size_t at)
{
	int rc = put_field_name(out, f->item[at].name);
	for (size_t i = at; i < f->count && rc == 0; i++) {
		if (strcasecmp(f->item[i].name, f->item[at].name) != 0)
			continue;
		rc = i > at ? buf_add(out, ",", 1) : 0;
		rc = rc ? rc : json_put_string(out, f->item[i].value);
	}
	return rc ? rc : buf_add(out, "]", 1);
}

static int put_fields(struct buf *out, const char *key, const struct http_fields *f)
{
	int rc = buf_addf(out, ",\"%s\":{", key);
	bool first = true;
	for (size_t i = 0; i < f->count && rc == 0; i++) {
		if (named_before(f, i))
			continue;
		rc = first ? 0 : buf_add(out, ",", 1);
		rc = rc ? rc : put_values(out, f, i);
		first = false;
	}
	return rc ? rc : buf_add(out, "}", 1);
}

/* Decodes the next name and value of a query as JSON has them. Returns as hook_query_next(). */
static int next_shown(const char **query, struct buf *name, struct buf *value)
{
	struct buf raw_name = {0}, raw_value = {0};
	int more = hook_query_next(query, &raw_name, &raw_value);
	int rc = more < 0 ? more : 0;
	name->len = value->len = 0;
	if (more > 0) {
		rc = json_put_bytes(name, raw_name.data, raw_name.len);
		rc = rc ? rc : json_put_bytes(value, raw_value.data, raw_value.len);
	}
	buf_free(&raw_name);
	buf_free(&raw_value);
	return rc ? rc : more;
}

/* The names of a query that were shown, each with its first value. */
struct shown {
	struct buf names[QUERY_MAX_NAMES];
	size_t count;
};

/* Remembers a name, taking it. Returns 1; 0 where it was there before; or -E2BIG. */
static int remember(struct shown *s, struct buf *name)
{
	for (size_t i = 0; i < s->count; i++)
		if (s->names[i].len == name->len && memcmp(s->names[i].data, name->data, name->len) == 0)
			return 0;
	if (s->count == QUERY_MAX_NAMES)
		return -E2BIG;
	s->names[s->count++] = *name;
	*name = (struct buf){0};
	return 1;
}

static int put_query(struct buf *out, const char *target)
{
	const char *query = target + strcspn(target, "?");
	struct shown shown = {.count = 0};
	struct buf name = {0}, value = {0};
	int rc = buf_addf(out, ",\"query\":{");
	query += *query == '?';
	while (rc == 0 && (rc = next_shown(&query, &name, &value)) > 0) {
		rc = remember(&shown, &name);
		if (rc <= 0)
			continue;
		const struct buf *kept = &shown.names[shown.count - 1];
		rc = shown.count > 1 ? buf_add(out, ",", 1) : 0;
		rc = rc ? rc : buf_add(out, kept->data, kept->len);
		rc = rc ? rc : buf_add(out, ":", 1);
		rc = rc ? rc : buf_add(out, value.data, value.len);
	}
	for (size_t i = 0; i < shown.count; i++)
		buf_free(&shown.names[i]);
	buf_free(&name);
	buf_free(&value);
	return rc ? rc : buf_add(out, "}", 1);
}

static int put_path(struct buf *out, const char *target)
{
	int rc = buf_addf(out, ",\"path\":");
	return rc ? rc : json_put_bytes(out, target, strcspn(target, "?"));
}

/*
 * Appends the line, with its end, that asks the callback which HOOK_CALLBACK is about. `response` is NULL for a request.
 * Returns 0; or -ENOMEM, or -E2BIG where the query has too many names: then hooks_callback_failed().
 */
int hooks_callback_request(const struct hooks *h, const struct hook_outcome *o, const struct hook_target *t,
			   const struct http_head *request, const struct http_head *response, struct buf *out)
{
	int rc = buf_addf(out, "{\"phase\":\"%s\"", response ? "after" : "before");
	rc = rc ? rc : put_member(out, "callback_id", h->rule[o->next].callback_id);
	rc = rc ? rc : put_member(out, "host", t->host);
	rc = rc ? rc : put_member(out, "method", request->method);
	rc = rc ? rc : put_path(out, request->path);
	rc = rc ? rc : put_query(out, request->path);
	rc = rc ? rc : put_fields(out, "request_headers", &request->fields);
	if (response) {
		rc = rc ? rc : buf_addf(out, ",\"status_code\":%u", response->status);
		rc = rc ? rc : put_fields(out, "response_headers", &response->fields);
		rc = rc ? rc : buf_addf(out, ",\"is_sse\":%s", hooks_is_events(response) ? "true" : "false");
	}
	return rc ? rc : buf_add(out, "}\n", 2);
}

/* ---- The answer ---- */

/* Adds the values of one field. */
static int parse_values(struct json_value values, const char *name, struct http_fields *out, struct err *e)
{
	const char *why = hook_field_name_wrong(name);
	int rc = why ? json_error(values, -EINVAL, e, "%s", why) : json_expect(values, JSON_ARRAY, e);
	struct json_iter it = JSON_ITER(values);
	while (rc == 0 && json_next(&it)) {
		char *value;
		rc = json_string(it.value, &value, e);
		if (rc)
			break;
		why = hook_field_value_wrong(value);
		rc = why ? json_error(it.value, -EINVAL, e, "%s", why) : http_name_kind(name, strlen(name)) != HTTP_NAME_ORDINARY ? 0
			 : http_add(out, name, strlen(name), value, strlen(value));
		if (rc == -E2BIG || rc == -ENOMEM)
			json_error(it.value, rc, e, "too much");
		free(value);
	}
	return rc;
}

/* Puts the fields of the answer in the place of the message's. */
static int apply_fields(struct json_value object, struct http_fields *f, struct err *e)
{
	struct http_fields all = {0};
	if (json_is_absent(object))
		return 0;
	int rc = json_expect(object, JSON_OBJECT, e);
	struct json_iter it = JSON_ITER(object);
	while (rc == 0 && json_next(&it)) {
		char *name;
		rc = json_string(it.key, &name, e);
		if (rc)
			break;
		rc = parse_values(it.value, name, &all, e);
		free(name);
	}
	if (rc) {
		http_fields_free(&all);
		return rc;
	}
	http_fields_free(f);
	*f = all;
	return 0;
}

static int parse_query(struct json_value object, struct hook_url_edits *edits, struct err *e)
{
	if (json_is_absent(object))
		return 0;
	int rc = json_expect(object, JSON_OBJECT, e);
	struct json_iter it = JSON_ITER(object);
	edits->drop_all = true;
	while (rc == 0 && json_next(&it)) {
		char *name = NULL, *value = NULL;
		rc = json_string(it.key, &name, e);
		rc = rc ? rc : json_string(it.value, &value, e);
		if (rc == 0 && (rc = http_add(&edits->set, name, strlen(name), value, strlen(value))))
			json_error(it.value, rc, e, "too much");
		free(name);
		free(value);
	}
	return rc;
}

static int parse_path(struct json_value v, struct hook_url_edits *edits, struct err *e)
{
	if (json_is_absent(v) || json_string_is(v, ""))
		return 0;
	int rc = json_string(v, &edits->path, e);
	const char *why = rc ? NULL : hook_path_wrong(edits->path);
	return why ? json_error(v, -EINVAL, e, "%s", why) : rc;
}

static int apply_request(struct json_value v, struct http_head *request, struct err *e)
{
	static const char *const keys[] = {"headers", "query", "path", NULL};
	struct hook_url_edits edits = {0};
	if (json_is_absent(v))
		return 0;
	int rc = json_only_keys(v, keys, e);
	rc = rc ? rc : parse_query(json_get(v, "query"), &edits, e);
	rc = rc ? rc : parse_path(json_get(v, "path"), &edits, e);
	rc = rc ? rc : apply_fields(json_get(v, "headers"), &request->fields, e);
	if (rc == 0 && (edits.path || edits.drop_all) && (rc = hook_edit_url(&request->path, &edits)))
		json_error(v, rc, e, "the target would become too long");
	http_fields_free(&edits.set);
	free(edits.path);
	return rc;
}

/* Reads base64 into `out`, which is emptied. */
static int parse_body(struct json_value v, struct buf *out, struct err *e)
{
	struct base64_decode_ctx decoder;
	struct buf text = {0};
	size_t bytes = 0;
	out->len = 0;
	base64_decode_init(&decoder);
	int rc = json_bytes(v, &text, e);
	if (rc == 0 && buf_reserve(out, BASE64_DECODE_LENGTH(text.len)))
		rc = err_sys(e, -ENOMEM, "hooks");
	if (rc == 0 && (!base64_decode_update(&decoder, &bytes, out->data, text.len, (char *)text.data) ||
			!base64_decode_final(&decoder)))
		rc = json_error(v, -EINVAL, e, "not base64");
	out->len = rc ? 0 : bytes;
	buf_free(&text);
	return rc;
}

static int apply_response(struct json_value v, struct http_head *response, struct hook_outcome *o, struct err *e)
{
	static const char *const keys[] = {"headers", "body_replacements", "set_body_base64", NULL};
	struct json_value body = json_get(v, "set_body_base64");
	if (json_is_absent(v))
		return 0;
	int rc = json_only_keys(v, keys, e);
	rc = rc ? rc : apply_fields(json_get(v, "headers"), &response->fields, e);
	rc = rc ? rc : hook_replacements_parse(json_get(v, "body_replacements"), &o->replace, e);
	if (rc == 0 && !json_is_absent(body) && !json_string_is(body, "")) {
		rc = parse_body(body, &o->body, e);
		o->sets_body = rc == 0;
	}
	return rc;
}

static int apply_action(struct json_value v, bool *blocks, struct err *e)
{
	*blocks = json_string_is(v, "block");
	if (json_is_absent(v) || *blocks || json_string_is(v, "") || json_string_is(v, "allow") || json_string_is(v, "mutate"))
		return 0;
	return json_error(v, -EINVAL, e, "no such action");
}

static int apply(struct json_value root, struct http_head *message, struct hook_outcome *o, bool *blocks, struct err *e)
{
	static const char *const keys[] = {"action", "request", "response", "error", NULL};
	struct json_value error = json_get(root, "error");
	int rc = json_only_keys(root, keys, e);
	if (rc == 0 && !json_is_absent(error) && !json_string_is(error, ""))
		return json_error(error, -EINVAL, e, "the callback reports an error");
	rc = rc ? rc : apply_action(json_get(root, "action"), blocks, e);
	if (rc || *blocks)
		return rc;
	return message->method ? apply_request(json_get(root, "request"), message, e)
			       : apply_response(json_get(root, "response"), message, o, e);
}

static bool block(const struct hooks *h, struct hook_outcome *o, unsigned status, const char *what)
{
	o->status = status;
	snprintf(o->reason, sizeof o->reason, "hook '%s' %s", h->rule[o->next].name, what);
	return false;
}

/*
 * Applies what the callback has answered to the message that it was asked about. Returns true: hooks_before() or hooks_after()
 * goes on; false: blocked, as the outcome says. `e` says what is wrong with the answer, for the record, and else is empty.
 */
bool hooks_callback_apply(const struct hooks *h, struct hook_outcome *o, const char *text, size_t len_bytes,
			  struct http_head *message, struct err *e)
{
	struct json *doc = NULL;
	bool blocks = false;
	e->text[0] = 0;
	int rc = json_parse(text, len_bytes, &(struct json_limits){.max_bytes = HOOK_ANSWER_MAX_BYTES, .max_depth = 8}, &doc, e);
	rc = rc ? rc : apply(json_root(doc), message, o, &blocks, e);
	json_free(doc);
	if (rc)
		return block(h, o, 502, "had no proper answer from its callback");
	if (blocks)
		return block(h, o, 403, message->method ? "blocks this request" : "blocks this response");
	o->next++;
	return true;
}

/* The callback could not be asked, or did not answer in time: blocked. Returns false. */
bool hooks_callback_failed(const struct hooks *h, struct hook_outcome *o)
{
	return block(h, o, 502, "had no answer from its callback");
}
