/*
 * Hooks.
 *
 * Theory of operation
 * -------------------
 * Purpose: rules of the user that block or edit requests and responses of hosts that are read (intercepted), ask a callback
 * about them, or say how many there may be. A hook opens nothing: the policy does.
 *
 * For a message the rules of its phase are gone through in their order. A rule that matches blocks, which ends the search; or
 * takes from its limit, edits, and asks its callback, and the search goes on; or, where it allows without any of that, ends
 * the search. Whoever has the message calls hooks_before() or hooks_after(); at HOOK_CALLBACK, which stops the search, they ask
 * (hook_callback.c), apply the answer, and call again. Nothing here waits, and nothing is remembered but the limits: an outcome
 * is all that there is of a search.
 *
 * Fail closed: what cannot be edited as a rule says (too long, compressed in spite of being asked not to, no memory), and a
 * callback without a proper answer, blocks.
 *
 * Evasion: a path that matches only in one of its spellings (hook_edit.c) matches rules that block, limit or edit, but not those
 * that allow.
 *
 * Secrets are put in after all hooks: no callback sees one, as long as hooks_after() gets the request as the hooks left it.
 */
#include "virtio/net/gate/hooks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "virtio/net/gate/hook_rule.h"

enum {
	MINUTE_MS = 60000,
	STATUS_BLOCKED = 403,
	STATUS_LIMITED = 429,
	STATUS_FAILED = 502,
};

/* ---- Matching ---- */

static bool takes_host(const struct hook_rule *r, const char *host, uint16_t port)
{
	return policy_intercepts(&r->hosts, &(struct policy_request){.proto = NET_TCP, .name = host, .port = port});
}

static bool takes_method(const struct hook_rule *r, const char *method)
{
	for (size_t i = 0; i < r->methods.count; i++)
		if (strcasecmp(r->methods.item[i], method) == 0)
			return true;
	return r->methods.count == 0;
}

static bool allows_only(const struct hook_rule *r)
{
	return !r->blocks && !hook_rule_edits(r) && !r->callback_id && !r->limit.requests_per_minute && !r->limit.bytes;
}

static bool matches(const struct hook_rule *r, const struct hook_target *t, const struct http_head *request)
{
	bool ambiguous = false;
	return takes_host(r, t->host, t->port) && takes_method(r, request->method) &&
	       (!r->path || hook_path_matches(r->path, request->path, &ambiguous)) && !(ambiguous && allows_only(r));
}

/* Whether a rule is about this host: then what it says must be read. */
bool hooks_any_for(const struct hooks *h, const char *host, uint16_t port)
{
	for (size_t i = 0; i < h->count; i++)
		if (takes_host(&h->rule[i], host, port))
			return true;
	return false;
}

/* Whether a rule has a callback: without somebody to ask, all that it matches is blocked. */
bool hooks_any_callback(const struct hooks *h)
{
	for (size_t i = 0; i < h->count; i++)
		if (h->rule[i].callback_id)
			return true;
	return false;
}

/*
 * Whether the body of the response may have to be edited, so that the request must ask for one that is not compressed
 * (Accept-Encoding: identity). For a request that hooks_before() has passed.
 */
bool hooks_needs_identity(const struct hooks *h, const struct hook_target *t, const struct http_head *request)
{
	for (size_t i = 0; i < h->count; i++) {
		const struct hook_rule *r = &h->rule[i];
		if (r->after && (r->replace.count || r->callback_id) && matches(r, t, request))
			return true;
	}
	return false;
}

/* ---- Limits ---- */

/* Takes one request from the bucket; false: there is none left. */
static bool take_request(struct hook_limit *l, uint64_t now_ms)
{
	const uint64_t full = (uint64_t)l->requests_per_minute * MINUTE_MS;
	uint64_t passed_ms = now_ms > l->filled_ms ? now_ms - l->filled_ms : 0;
	if (l->filled_ms == 0 || passed_ms >= MINUTE_MS)
		l->level = full;
	else
		l->level += passed_ms * l->requests_per_minute;
	if (l->level > full)
		l->level = full;
	l->filled_ms = now_ms ? now_ms : 1;
	if (l->level < MINUTE_MS)
		return false;
	l->level -= MINUTE_MS;
	return true;
}

/* When there will be one more: seconds, rounded up. */
static uint32_t refilled_after_s(const struct hook_limit *l)
{
	uint64_t ms = (MINUTE_MS - l->level + l->requests_per_minute - 1) / l->requests_per_minute;
	return (uint32_t)((ms + 999) / 1000);
}

/*
 * Charges bytes of bodies, of either direction, to the rules that the exchange was subject to, the outcome being hooks_before()'s.
 * Returns false where one has no more of them: the exchange ends.
 */
bool hooks_limit_bytes(struct hooks *h, const struct hook_outcome *o, uint64_t bytes)
{
	bool within = true;
	for (size_t i = 0; i < h->count; i++) {
		struct hook_limit *l = &h->rule[i].limit;
		if (!(o->limited[i / 64] >> (i % 64) & 1))
			continue;
		if (__builtin_add_overflow(l->bytes_used, bytes, &l->bytes_used))
			l->bytes_used = UINT64_MAX;
		within &= l->bytes_used <= l->bytes;
	}
	return within;
}

/* ---- A message ---- */

/* Decides against a message, by the rule that the outcome names. */
static enum hook_step block(struct hook_outcome *o, unsigned status, const char *what)
{
	o->status = status;
	snprintf(o->reason, sizeof o->reason, "hook '%s' %s", o->rule, what);
	return HOOK_BLOCKED;
}

static enum hook_step fail(struct hook_outcome *o, int rc)
{
	return block(o, STATUS_FAILED,
		     rc == -E2BIG ? "cannot edit this message: it would become too long" : "cannot edit this message: no memory");
}

static enum hook_step charge(struct hook_outcome *o, struct hook_limit *l, uint64_t now_ms)
{
	if (l->bytes && l->bytes_used >= l->bytes)
		return block(o, STATUS_LIMITED, "has no bytes left for this sandbox");
	if (l->requests_per_minute && !take_request(l, now_ms)) {
		o->retry_after_s = refilled_after_s(l);
		return block(o, STATUS_LIMITED, "has no requests left for now");
	}
	if (l->bytes)
		o->limited[o->next / 64] |= (uint64_t)1 << (o->next % 64);
	return HOOK_DONE;
}

static int edit(const struct hook_rule *r, struct http_head *m, struct hook_outcome *o)
{
	int rc = hook_edit_fields(&m->fields, &r->set_fields, &r->drop_fields);
	if (rc == 0 && (r->url.path || r->url.set.count || r->url.drop.count))
		rc = hook_edit_url(&m->path, &r->url);
	return rc ? rc : hook_replacements_add_all(&o->replace, &r->replace);
}

/* Goes through the rules of a phase, for the message `m`, which is the request or the response to it. */
static enum hook_step search(struct hooks *h, const struct hook_target *t, const struct http_head *request, struct http_head *m,
			     struct hook_outcome *o)
{
	for (; o->next < h->count; o->next++) {
		struct hook_rule *r = &h->rule[o->next];
		if (r->after != (m != request) || !matches(r, t, request))
			continue;
		strcpy(o->rule, r->name);
		if (r->blocks)
			return block(o, STATUS_BLOCKED, r->after ? "blocks this response" : "blocks this request");
		if (allows_only(r)) {
			o->next = h->count;
			break;
		}
		if (charge(o, &r->limit, t->now_ms) == HOOK_BLOCKED)
			return HOOK_BLOCKED;
		int rc = edit(r, m, o);
		if (rc)
			return fail(o, rc);
		if (r->callback_id)
			return HOOK_CALLBACK;
	}
	return HOOK_DONE;
}

/* What is to become of a request, which is edited. See enum hook_step; after HOOK_DONE and HOOK_BLOCKED it is not called again. */
enum hook_step hooks_before(struct hooks *h, const struct hook_target *t, struct http_head *request, struct hook_outcome *o)
{
	return search(h, t, request, request, o);
}

/* ---- The body of a response ---- */

/* Whether a response, edited, is a stream of events (text/event-stream). */
bool hooks_is_events(const struct http_head *response)
{
	const char *type = http_get(&response->fields, "content-type");
	return type && strncasecmp(type, "text/event-stream", 17) == 0;
}

static bool is_compressed(const struct http_head *response)
{
	for (size_t i = 0; i < response->fields.count; i++) {
		const struct http_field *f = &response->fields.item[i];
		if (strcasecmp(f->name, "content-encoding") == 0 && *f->value && strcasecmp(f->value, "identity") != 0)
			return true;
	}
	return false;
}

/* Makes the replacements in the body that a callback has set. */
static int edit_set_body(struct hook_outcome *o, bool events)
{
	struct hook_body b;
	struct buf out = {0}, whole = {0};
	size_t at = 0, taken;
	int rc = 0;
	hook_body_init(&b, &o->replace, events);
	while (at < o->body.len && rc == 0) {
		rc = hook_body_feed(&b, o->body.data + at, o->body.len - at, &taken, &out);
		rc = rc ? rc : buf_add(&whole, out.data, out.len);
		at += taken;
		out.len = 0;
		if (whole.len > HOOK_ANSWER_MAX_BYTES)
			rc = -E2BIG;
	}
	rc = rc ? rc : hook_body_end(&b, &whole);
	hook_body_free(&b);
	buf_free(&out);
	buf_free(&o->body);
	o->body = whole;
	hook_replacements_free(&o->replace);
	return rc;
}

/* Makes the head say what the body will be. */
static enum hook_step settle_body(struct http_head *response, struct hook_outcome *o)
{
	static const char *const of_old_body[] = {"content-md5", "digest", "content-digest", "repr-digest"};
	if (!o->replace.count && !o->sets_body)
		return HOOK_DONE;
	if (!response->has_body) {
		hook_replacements_free(&o->replace);
		o->sets_body = false;
		return HOOK_DONE;
	}
	if (!o->sets_body && is_compressed(response))
		return block(o, STATUS_FAILED, "cannot edit this response: it is compressed");
	int rc = o->sets_body && o->replace.count ? edit_set_body(o, hooks_is_events(response)) : 0;
	if (rc)
		return fail(o, rc);
	if (o->sets_body)
		http_remove(&response->fields, "content-encoding");
	for (size_t i = 0; i < sizeof of_old_body / sizeof of_old_body[0]; i++)
		http_remove(&response->fields, of_old_body[i]);
	response->length_bytes = o->sets_body ? (int64_t)o->body.len : HTTP_LENGTH_UNKNOWN;
	return HOOK_DONE;
}

/*
 * What is to become of a response (not one of 1xx), whose head is edited: its length too. The request is the one that
 * hooks_before() left, without secrets. At HOOK_DONE the outcome says what becomes of the body: o->sets_body, or o->replace for
 * hook_body_init(), with `events` as hooks_is_events() says.
 */
enum hook_step hooks_after(struct hooks *h, const struct hook_target *t, const struct http_head *request,
			   struct http_head *response, struct hook_outcome *o)
{
	enum hook_step step = search(h, t, request, response, o);
	return step == HOOK_DONE ? settle_body(response, o) : step;
}

/* Frees what the outcome has, and leaves an empty one. */
void hook_outcome_free(struct hook_outcome *o)
{
	hook_replacements_free(&o->replace);
	buf_free(&o->body);
	*o = (struct hook_outcome){0};
}
