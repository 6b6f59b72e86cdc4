/* Hooks: rules of the user about requests and responses that are read. caplock(1), POLICY FILES, has their form. */
#ifndef CAPLOCK_GATE_HOOKS_H
#define CAPLOCK_GATE_HOOKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio/net/gate/hook_body.h"
#include "virtio/net/gate/http.h"
#include "vmm/util/buf.h"

struct err;
struct hook_rule;
struct json_value;

enum {
	HOOKS_MAX = 256,
	HOOK_NAME_BYTES = 65, /* 64 and a NUL */
	HOOK_TIMEOUT_MS = 5000, /* of a callback, where the rule says nothing */
	HOOK_ANSWER_MAX_BYTES = 8 << 20, /* of a callback */
};

/* Zero-initialise it to start; hooks_free() to end. */
struct hooks {
	struct hook_rule *rule;
	size_t count;
};

/* Whom a request is for. */
struct hook_target {
	const char *host; /* canonical; NULL: an address, which no rule is about */
	uint16_t port;
	uint64_t now_ms; /* of a clock that only goes on */
};

enum hook_step {
	HOOK_DONE,     /* the message goes on, edited */
	HOOK_BLOCKED,  /* outcome.status is the answer in its place */
	HOOK_CALLBACK, /* ask the callback of the rule, then hooks_callback_apply(), then the same function again */
};

/* What became of a message: one for a request, another for its response. Zero-initialise to start; hook_outcome_free(). */
struct hook_outcome {
	size_t next;              /* rule to go on with; at HOOK_CALLBACK, the one to ask for */
	unsigned status;          /* 403, 429, 502; 0: not blocked */
	uint32_t retry_after_s;   /* with 429, where waiting helps; otherwise 0 */
	char rule[HOOK_NAME_BYTES]; /* the last that did something, for the record */
	char reason[160];         /* where blocked; the guest may see it */
	uint64_t limited[HOOKS_MAX / 64]; /* rules whose byte budget the exchange is charged to */
	struct hook_replacements replace; /* of a response: those that apply to the body that the server sends */
	bool sets_body;           /* of a response: `body` is sent instead of the server's; `replace` is empty */
	struct buf body;
};

/* hook_rule.c */
int hooks_add(struct hooks *h, struct json_value rule, struct err *e);
int hooks_add_text(struct hooks *h, const char *text, struct err *e);
void hooks_free(struct hooks *h);

/* hooks.c */
bool hooks_any_for(const struct hooks *h, const char *host, uint16_t port);
bool hooks_any_callback(const struct hooks *h);
bool hooks_needs_identity(const struct hooks *h, const struct hook_target *t, const struct http_head *request);
enum hook_step hooks_before(struct hooks *h, const struct hook_target *t, struct http_head *request, struct hook_outcome *o);
enum hook_step hooks_after(struct hooks *h, const struct hook_target *t, const struct http_head *request,
			   struct http_head *response, struct hook_outcome *o);
bool hooks_is_events(const struct http_head *response);
bool hooks_limit_bytes(struct hooks *h, const struct hook_outcome *o, uint64_t bytes);
void hook_outcome_free(struct hook_outcome *o);

/* hook_callback.c */
uint32_t hooks_callback_timeout_ms(const struct hooks *h, const struct hook_outcome *o);
int hooks_callback_request(const struct hooks *h, const struct hook_outcome *o, const struct hook_target *t,
			   const struct http_head *request, const struct http_head *response, struct buf *out);
bool hooks_callback_apply(const struct hooks *h, struct hook_outcome *o, const char *text, size_t len_bytes,
			  struct http_head *message, struct err *e);
bool hooks_callback_failed(const struct hooks *h, struct hook_outcome *o);

#endif
