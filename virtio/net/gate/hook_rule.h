/* A rule as hooks.c, hook_callback.c and hook_edit.c see it. */
#ifndef CAPLOCK_GATE_HOOK_RULE_H
#define CAPLOCK_GATE_HOOK_RULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio/net/gate/hook_body.h"
#include "virtio/net/gate/hooks.h"
#include "virtio/net/gate/http.h"
#include "virtio/net/policy.h"
#include "vmm/util/strv.h"

struct err;
struct json_value;

/* What a rule, or the answer of a callback, makes of a target. */
struct hook_url_edits {
	char *path; /* instead of the path; NULL: stays */
	struct http_fields set; /* names and values of the query, decoded */
	struct strv drop;
	bool drop_all; /* of the query */
};

/* A bucket of tokens: as many as requests are allowed in a minute, and as many at once. */
struct hook_limit {
	uint32_t requests_per_minute; /* 0: any number */
	uint64_t bytes;               /* 0: any number */
	uint64_t filled_ms;           /* when `level` was; 0: never, it is full */
	uint64_t level;               /* 60000 for a request */
	uint64_t bytes_used;
};

struct hook_rule {
	char name[HOOK_NAME_BYTES];
	bool after;
	bool blocks;
	struct policy hosts; /* what it intercepts is what the rule is about */
	struct strv methods;
	char *path; /* pattern; NULL: any */
	struct http_fields set_fields; /* of the message of its phase */
	struct strv drop_fields;
	struct hook_url_edits url;
	struct hook_replacements replace;
	char *callback_id; /* NULL: none */
	uint32_t timeout_ms;
	struct hook_limit limit;
};

/* hook_rule.c */
bool hook_rule_edits(const struct hook_rule *r);
int hook_replacements_parse(struct json_value list, struct hook_replacements *out, struct err *e);

/* hook_edit.c */
bool hook_path_matches(const char *pattern, const char *target, bool *ambiguous);
const char *hook_field_name_wrong(const char *name);
const char *hook_field_value_wrong(const char *value);
const char *hook_path_wrong(const char *path);
int hook_edit_url(char **target, const struct hook_url_edits *edits);
int hook_edit_fields(struct http_fields *f, const struct http_fields *set, const struct strv *drop);
int hook_query_next(const char **query, struct buf *name, struct buf *value);

#endif
