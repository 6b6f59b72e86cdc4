/*
 * Rules of hooks, from their JSON.
 *
 * What is not understood is refused with its place: a key that no rule has, or one of the other phase, would be left out in
 * silence otherwise. Absent, null and empty are the same.
 */
#include "virtio/net/gate/hook_rule.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/http_text.h"
#include "vmm/util/err.h"
#include "vmm/util/json.h"

enum {
	PATTERN_MAX_BYTES = 1024,
	TIMEOUT_MAX_MS = 10 * 60 * 1000,
	REQUESTS_MAX = 1000000, /* per minute */
	METHOD_MAX_BYTES = 32,
};

/* ---- Parts ---- */

typedef const char *(*check_fn)(const char *text);

/* Reads a string into *out, which the caller frees; NULL where it is absent or empty. */
static int parse_text(struct json_value v, check_fn wrong, char **out, struct err *e)
{
	*out = NULL;
	if (json_is_absent(v))
		return 0;
	int rc = json_string(v, out, e);
	if (rc == 0 && !**out) {
		free(*out);
		*out = NULL;
	}
	const char *why = rc == 0 && *out ? wrong(*out) : NULL;
	return why ? json_error(v, -EINVAL, e, "'%.100s': %s", *out, why) : rc;
}

static int parse_list(struct json_value list, check_fn wrong, struct strv *out, struct err *e)
{
	int rc = json_is_absent(list) ? 0 : json_expect(list, JSON_ARRAY, e);
	struct json_iter it = JSON_ITER(list);
	while (rc == 0 && json_next(&it)) {
		char *text;
		rc = json_string(it.value, &text, e);
		if (rc)
			break;
		const char *why = wrong(text);
		rc = why			? json_error(it.value, -EINVAL, e, "'%.100s': %s", text, why)
		     : strv_add(out, text) ? err_sys(e, -ENOMEM, "hooks")
					   : 0;
		free(text);
	}
	return rc;
}

static int add_pair(struct json_value v, const char *name, const char *value, check_fn name_wrong, check_fn value_wrong,
		    struct http_fields *out, struct err *e)
{
	const char *why = name_wrong(name);
	if (!why)
		why = value_wrong(value);
	if (why)
		return json_error(v, -EINVAL, e, "%s", why);
	int rc = http_add(out, name, strlen(name), value, strlen(value));
	return rc == -E2BIG ? json_error(v, rc, e, "too much to set") : rc ? err_sys(e, rc, "hooks") : 0;
}

/* An object of names and values. */
static int parse_pairs(struct json_value object, check_fn name_wrong, check_fn value_wrong, struct http_fields *out, struct err *e)
{
	int rc = json_is_absent(object) ? 0 : json_expect(object, JSON_OBJECT, e);
	struct json_iter it = JSON_ITER(object);
	while (rc == 0 && json_next(&it)) {
		char *name = NULL, *value = NULL;
		rc = json_string(it.key, &name, e);
		rc = rc ? rc : json_string(it.value, &value, e);
		rc = rc ? rc : add_pair(it.value, name, value, name_wrong, value_wrong, out, e);
		free(name);
		free(value);
	}
	return rc;
}

static int parse_number(struct json_value v, uint64_t least, uint64_t most, uint64_t *out, struct err *e)
{
	if (json_is_absent(v))
		return 0;
	int rc = json_uint64(v, out, e);
	return rc == 0 && (*out < least || *out > most)
		       ? json_error(v, -ERANGE, e, "give %llu to %llu", (unsigned long long)least, (unsigned long long)most)
		       : rc;
}

static int parse_replacement(struct json_value v, struct hook_replacements *out, struct err *e)
{
	static const char *const keys[] = {"find", "replace", NULL};
	struct json_value find_text = json_get(v, "find"), replace_text = json_get(v, "replace");
	struct buf find = {0}, replace = {0};
	int rc = json_only_keys(v, keys, e);
	if (rc == 0 && json_is_absent(find_text))
		rc = json_error(v, -EINVAL, e, "give what to \"find\"");
	rc = rc ? rc : json_bytes(find_text, &find, e);
	rc = rc || json_is_absent(replace_text) ? rc : json_bytes(replace_text, &replace, e);
	if (rc == 0 && (find.len == 0 || find.len > HOOK_FIND_MAX_BYTES))
		rc = json_error(find_text, -EINVAL, e, "what is searched has 1 to %d bytes", HOOK_FIND_MAX_BYTES);
	if (rc == 0 && replace.len > HOOK_REPLACE_MAX_BYTES)
		rc = json_error(replace_text, -EINVAL, e, "what is put in has at most %d bytes", HOOK_REPLACE_MAX_BYTES);
	if (rc == 0 && (rc = hook_replacements_add(out, &find, &replace)))
		rc = json_error(v, rc, e, "at most %d replacements are made in a body", HOOK_REPLACEMENTS_MAX);
	buf_free(&find);
	buf_free(&replace);
	return rc;
}

/* Adds "body_replacements" to `out`. Returns 0, or -EINVAL, -E2BIG or -ENOMEM with what is wrong. */
int hook_replacements_parse(struct json_value list, struct hook_replacements *out, struct err *e)
{
	int rc = json_is_absent(list) ? 0 : json_expect(list, JSON_ARRAY, e);
	struct json_iter it = JSON_ITER(list);
	while (rc == 0 && json_next(&it))
		rc = parse_replacement(it.value, out, e);
	return rc;
}

/* ---- Checks ---- */

static const char *no_check(const char *text)
{
	(void)text;
	return NULL;
}

static const char *name_wrong(const char *text)
{
	if (strlen(text) >= HOOK_NAME_BYTES)
		return "a name has at most 64 characters";
	for (; *text; text++)
		if (*text < ' ' || *text > '~' || *text == '"')
			return "a name has printable ASCII characters, and no quotes";
	return NULL;
}

static const char *method_wrong(const char *text)
{
	return hook_field_name_wrong(text) || strlen(text) > METHOD_MAX_BYTES ? "not a method" : NULL;
}

static const char *pattern_wrong(const char *text)
{
	if (*text != '/' && *text != '*')
		return "a path begins with '/', or with '*' that stands for it too";
	if (strpbrk(text, "[\\"))
		return "a pattern has '*' for any characters and '?' for one, and nothing else";
	return strlen(text) > PATTERN_MAX_BYTES ? "too long" : NULL;
}

/* Of a header that is to be set or deleted: framing is nobody's but ours. */
static const char *field_name_wrong(const char *text)
{
	if (http_name_kind(text, strlen(text)) != HTTP_NAME_ORDINARY)
		return "this header is about the connection; no rule can edit it";
	return hook_field_name_wrong(text);
}

static const char *query_name_wrong(const char *text)
{
	return *text ? NULL : "an empty name";
}

/* ---- A rule ---- */

static const char *const keys[] = {
	"name",		 "phase",	"action",	"hosts",	"methods",	      "path",
	"set_headers",	 "delete_headers", "set_query",	"delete_query", "rewrite_path",	      "set_response_headers",
	"delete_response_headers", "body_replacements", "timeout_ms", "callback_id", "limit", NULL,
};
static const char *const before_only[] = {"set_headers", "delete_headers", "set_query", "delete_query", "rewrite_path", "limit", NULL};
static const char *const after_only[] = {"set_response_headers", "delete_response_headers", "body_replacements", NULL};

static bool is_empty(struct json_value v)
{
	enum json_type type = json_type(v);
	return json_is_absent(v) || json_string_is(v, "") || ((type == JSON_ARRAY || type == JSON_OBJECT) && json_count(v) == 0);
}

/* Reads one of two words into *second; absent: the first. */
static int parse_word(struct json_value v, const char *first, const char *other, bool *second, struct err *e)
{
	*second = json_string_is(v, other);
	if (is_empty(v) || *second || json_string_is(v, first))
		return 0;
	return json_error(v, -EINVAL, e, "give \"%s\" or \"%s\"", first, other);
}

static int parse_phase(struct hook_rule *r, struct json_value v, struct err *e)
{
	int rc = parse_word(json_get(v, "phase"), "before", "after", &r->after, e);
	for (const char *const *key = r->after ? before_only : after_only; *key && rc == 0; key++)
		if (!is_empty(json_get(v, *key)))
			rc = json_error(json_get(v, *key), -EINVAL, e, "only a rule of phase \"%s\" can have this",
					r->after ? "before" : "after");
	return rc;
}

static int parse_hosts(struct hook_rule *r, struct json_value hosts, struct err *e)
{
	int rc = json_is_absent(hosts) ? 0 : json_expect(hosts, JSON_ARRAY, e);
	struct json_iter it = JSON_ITER(hosts);
	struct err why;
	while (rc == 0 && json_next(&it)) {
		char *text;
		rc = json_string(it.value, &text, e);
		if (rc)
			break;
		rc = policy_add_intercept(&r->hosts, text, &why);
		rc = rc ? json_error(it.value, rc, e, "%s", why.text) : 0;
		free(text);
	}
	r->hosts.intercept_all = r->hosts.intercept_count == 0;
	return rc;
}

static int parse_limit(struct hook_limit *limit, struct json_value v, struct err *e)
{
	static const char *const limit_keys[] = {"requests_per_minute", "bytes", NULL};
	uint64_t requests = 0;
	if (json_is_absent(v))
		return 0;
	int rc = json_only_keys(v, limit_keys, e);
	rc = rc ? rc : parse_number(json_get(v, "requests_per_minute"), 1, REQUESTS_MAX, &requests, e);
	rc = rc ? rc : parse_number(json_get(v, "bytes"), 1, (uint64_t)1 << 53, &limit->bytes, e);
	if (rc == 0 && requests == 0 && limit->bytes == 0)
		rc = json_error(v, -EINVAL, e, "give \"requests_per_minute\", \"bytes\", or both");
	limit->requests_per_minute = (uint32_t)requests;
	return rc;
}

static int parse_match(struct hook_rule *r, struct json_value v, struct err *e)
{
	int rc = parse_hosts(r, json_get(v, "hosts"), e);
	rc = rc ? rc : parse_list(json_get(v, "methods"), method_wrong, &r->methods, e);
	return rc ? rc : parse_text(json_get(v, "path"), pattern_wrong, &r->path, e);
}

static int parse_edits(struct hook_rule *r, struct json_value v, struct err *e)
{
	struct json_value set = json_get(v, r->after ? "set_response_headers" : "set_headers");
	struct json_value drop = json_get(v, r->after ? "delete_response_headers" : "delete_headers");
	int rc = parse_pairs(set, field_name_wrong, hook_field_value_wrong, &r->set_fields, e);
	rc = rc ? rc : parse_list(drop, field_name_wrong, &r->drop_fields, e);
	rc = rc ? rc : parse_pairs(json_get(v, "set_query"), query_name_wrong, no_check, &r->url.set, e);
	rc = rc ? rc : parse_list(json_get(v, "delete_query"), query_name_wrong, &r->url.drop, e);
	rc = rc ? rc : parse_text(json_get(v, "rewrite_path"), hook_path_wrong, &r->url.path, e);
	return rc ? rc : hook_replacements_parse(json_get(v, "body_replacements"), &r->replace, e);
}

static int parse_callback(struct hook_rule *r, struct json_value v, struct err *e)
{
	uint64_t timeout_ms = 0;
	int rc = parse_text(json_get(v, "callback_id"), no_check, &r->callback_id, e);
	rc = rc ? rc : parse_number(json_get(v, "timeout_ms"), 0, TIMEOUT_MAX_MS, &timeout_ms, e);
	r->timeout_ms = timeout_ms ? (uint32_t)timeout_ms : HOOK_TIMEOUT_MS;
	return rc;
}

/* Whether a rule changes a message itself, callback or not. */
bool hook_rule_edits(const struct hook_rule *r)
{
	return r->set_fields.count || r->drop_fields.count || r->url.set.count || r->url.drop.count || r->url.path || r->replace.count;
}

/* The action, once the rest is known: what would do nothing, or something else than it says, is refused. */
static int parse_action(struct hook_rule *r, struct json_value v, struct err *e)
{
	struct json_value action = json_get(v, "action");
	bool limits = r->limit.requests_per_minute || r->limit.bytes, mutates = json_string_is(action, "mutate");
	r->blocks = json_string_is(action, "block");
	if (!is_empty(action) && !r->blocks && !mutates && !json_string_is(action, "allow"))
		return json_error(action, -EINVAL, e, "give \"allow\", \"block\" or \"mutate\"");
	if (r->blocks && (hook_rule_edits(r) || r->callback_id || limits))
		return json_error(action, -EINVAL, e, "a rule that blocks edits nothing, asks nobody and has no limit");
	if (mutates && !hook_rule_edits(r) && !r->callback_id)
		return json_error(action, -EINVAL, e, "a rule that mutates says what to edit");
	return 0;
}

static int parse_name(struct hook_rule *r, struct json_value v, size_t number, struct err *e)
{
	char *name;
	int rc = parse_text(v, name_wrong, &name, e);
	if (rc == 0 && name)
		strcpy(r->name, name);
	else if (rc == 0)
		snprintf(r->name, sizeof r->name, "hook_%zu", number);
	free(name);
	return rc;
}

static int parse_rule(struct hook_rule *r, struct json_value v, size_t number, struct err *e)
{
	int rc = json_only_keys(v, keys, e);
	rc = rc ? rc : parse_name(r, json_get(v, "name"), number, e);
	rc = rc ? rc : parse_phase(r, v, e);
	rc = rc ? rc : parse_match(r, v, e);
	rc = rc ? rc : parse_edits(r, v, e);
	rc = rc ? rc : parse_callback(r, v, e);
	rc = rc ? rc : parse_limit(&r->limit, json_get(v, "limit"), e);
	return rc ? rc : parse_action(r, v, e);
}

static void free_rule(struct hook_rule *r)
{
	policy_free(&r->hosts);
	strv_free(r->methods.item);
	free(r->path);
	http_fields_free(&r->set_fields);
	strv_free(r->drop_fields.item);
	http_fields_free(&r->url.set);
	strv_free(r->url.drop.item);
	free(r->url.path);
	hook_replacements_free(&r->replace);
	free(r->callback_id);
}

/* ---- All of them ---- */

/*
 * Adds a rule at the end. Returns 0, or -EINVAL, -ERANGE, -E2BIG or -ENOMEM with what is wrong, and where: then it is not
 * added.
 */
int hooks_add(struct hooks *h, struct json_value rule, struct err *e)
{
	if (h->count == HOOKS_MAX)
		return json_error(rule, -E2BIG, e, "there are at most %d hooks", HOOKS_MAX);
	struct hook_rule *larger = reallocarray(h->rule, h->count + 1, sizeof *larger);
	if (!larger)
		return err_sys(e, -ENOMEM, "hooks");
	h->rule = larger;
	larger[h->count] = (struct hook_rule){0};
	int rc = parse_rule(&larger[h->count], rule, h->count + 1, e);
	if (rc)
		free_rule(&larger[h->count]);
	else
		h->count++;
	return rc;
}

/* The same for the text of a rule. */
int hooks_add_text(struct hooks *h, const char *text, struct err *e)
{
	struct json *doc;
	int rc = json_parse(text, strlen(text), NULL, &doc, e);
	if (rc)
		return rc;
	rc = hooks_add(h, json_root(doc), e);
	json_free(doc);
	return rc;
}

/* Frees the rules, and leaves none. */
void hooks_free(struct hooks *h)
{
	for (size_t i = 0; i < h->count; i++)
		free_rule(&h->rule[i]);
	free(h->rule);
	*h = (struct hooks){0};
}
