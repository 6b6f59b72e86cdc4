/*
 * Theory of operation
 * -------------------
 * Purpose: what happens to one request and its response between the two connections: who it is for is checked, hooks change or
 * stop it, secrets are put in on the way out and taken out on the way back.
 *
 *      client          exchange                                                          upstream
 *      request head -> [checks -> hooks before (-> callback) -> secrets] -> connection -> head
 *      request body -> [placeholders]                                                  -> body
 *                      <- [hooks after (-> callback), values taken out]               <- response head
 *                      <- [replacements -> values taken out]                          <- response body
 *
 * The one-name rule: the policy allowed flow->name, the guest's TLS has named it, and the request must, too; the connection that
 * upstream gives goes to that name and no other.
 *
 * Waiting: what comes while a callback is asked, or before there is a connection, is kept. Both sides are asked to stop
 * (exchange_wants_data(), exchange_wants_response()), so that this is little: what HTTP/2 has windows for.
 *
 * Life: the client owns it. exchange_cancel() is its end, and tells upstream where that is not done. It is freed when the loop comes
 * round, since the functions that were on their way may look at it once more; all of them do nothing then.
 *
 * Bounds: nothing of a body is kept but what filters hold back.
 */
#include "virtio/net/gate/exchange.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "virtio/net/gate/clock.h"
#include "virtio/net/gate/intercept_priv.h"
#include "virtio/net/gate/secret_scan.h"
#include "virtio/net/gate/upstream.h"
#include "vmm/util/err.h"

enum { PAGE_MAX_BYTES = 1024 };

struct exchange {
	struct flow_gate *flow;
	struct exchange *next_dead;
	const struct client_ops *client;
	void *client_context;
	const struct upstream_ops *upstream; /* NULL: none, not yet or not any more */
	void *upstream_context;
	struct want *want;         /* for a connection */
	struct callback *callback; /* that is asked */
	bool http2;
	bool dead;

	struct http_head request;
	struct http_head asked; /* the same without secrets, for hooks of the response, where there are any */
	struct http_fields request_trailers;
	struct hook_outcome before;
	struct secret_result secrets;
	struct secret_scan request_scan;
	struct buf early; /* of the body: before there is a connection */
	bool scans_request, request_ended, request_sent; /* sent: its end, too */
	bool body_seen;
	bool hashes;    /* the body is kept until its hash is known */
	bool is_signed; /* with a key of AWS */

	struct http_head response;
	struct http_fields response_trailers;
	struct hook_outcome after;
	struct hook_body replacer;
	struct secret_scan response_scan;
	struct buf late; /* of the body: while a callback is asked */
	bool replaces, scans_response;
	bool responding;      /* its head is with the client */
	bool response_ended;  /* upstream has said all */
	bool own_response;    /* it is ours */
	bool after_waits;     /* for a callback */
	bool tunnel;

	struct gate_record record;
	uint64_t start_ms;
};

static void go_on_before(struct exchange *x);
static void go_on_after(struct exchange *x);
static void response_body(struct exchange *x, const uint8_t *data, size_t len_bytes);
static void response_end(struct exchange *x);

/* ---- The record ---- */

static void start_record(struct exchange *x)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	x->start_ms = clock_ms();
	x->record = (struct gate_record){.message = GATE_RECORD, .http2 = x->http2, .tls = x->flow->tls, .port = x->flow->port,
					 .time_ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec};
	memcpy(x->record.name, x->flow->name, sizeof x->record.name);
}

/* The path as the guest gave it, before anything was put in; of the query, only the names. */
static void record_request(struct exchange *x)
{
	struct gate_record *r = &x->record;
	const char *path = x->request.path ? x->request.path : "", *query = strchr(path, '?');
	size_t at = 0, end = query ? (size_t)(query - path) : strlen(path);
	for (size_t i = 0; i < end && at < sizeof r->path - 1; i++)
		r->path[at++] = path[i];
	for (bool value = false; query && *query && at < sizeof r->path - 1; query++) {
		value = *query == '=' ? true : *query == '&' ? false : value;
		if (!value || *query == '=')
			r->path[at++] = *query;
	}
	snprintf(r->method, sizeof r->method, "%s", x->request.method ? x->request.method : "");
}

/* Names the secrets of a set. */
static void record_secrets(struct exchange *x, uint64_t used)
{
	struct gate_record *r = &x->record;
	const struct secrets *all = &x->flow->all->secrets;
	size_t at = 0;
	for (size_t i = 0; i < all->count; i++)
		if (used & 1ull << i && at < sizeof r->secrets)
			at += (size_t)snprintf(r->secrets + at, sizeof r->secrets - at, "%s%s", at ? "," : "", all->item[i]->name);
}

static void finish_record(struct exchange *x)
{
	struct gate_record *r = &x->record;
	r->duration_ms = clock_ms() - x->start_ms;
	record_secrets(x, x->secrets.used | (x->scans_request ? x->request_scan.found : 0));
	if (x->is_signed && !r->secrets[0])
		strcpy(r->secrets, "AWS");
	r->redacted += x->scans_response ? (uint32_t)x->response_scan.count : 0;
	if (!x->responding && !r->reason[0])
		snprintf(r->reason, sizeof r->reason, "ended before there was a response");
	intercept_record(x->flow->all, r);
}

/* ---- Ends ---- */

/* Nothing more is wanted of the server. */
static void leave_upstream(struct exchange *x)
{
	const struct upstream_ops *ops = x->upstream;
	x->upstream = NULL;
	if (ops)
		ops->cancel(x->upstream_context);
}

/* See exchange.h. */
void exchange_cancel(struct exchange *x)
{
	struct intercept *i = x->flow->all;
	if (x->dead)
		return;
	x->dead = true;
	upstream_forget(x->want);
	callback_cancel(x->callback);
	leave_upstream(x);
	finish_record(x);
	x->next_dead = i->dead_exchanges;
	i->dead_exchanges = x;
}

/* Frees what has ended. */
void exchange_free_dead(struct intercept *i)
{
	while (i->dead_exchanges) {
		struct exchange *x = i->dead_exchanges;
		i->dead_exchanges = x->next_dead;
		http_head_free(&x->request);
		http_head_free(&x->asked);
		http_head_free(&x->response);
		http_fields_free(&x->request_trailers);
		http_fields_free(&x->response_trailers);
		hook_outcome_free(&x->before);
		hook_outcome_free(&x->after);
		if (x->replaces)
			hook_body_free(&x->replacer);
		if (x->scans_request)
			secret_scan_free(&x->request_scan);
		if (x->scans_response)
			secret_scan_free(&x->response_scan);
		buf_free(&x->early);
		buf_free(&x->late);
		free(x);
	}
}

/* The response cannot be completed, or, where it has not begun, becomes a page of ours. */
static void fail(struct exchange *x, unsigned status, const char *reason, const char *advice, bool denied)
{
	char text[PAGE_MAX_BYTES];
	const char *verb = denied ? "denied this request to" : "could not pass this request on to";
	if (x->dead || (x->own_response && x->responding))
		return;
	snprintf(x->record.reason, sizeof x->record.reason, "%s", reason);
	x->record.denied = denied;
	upstream_forget(x->want);
	callback_cancel(x->callback);
	x->callback = NULL;
	leave_upstream(x);
	if (x->responding) {
		x->client->reset(x->client_context, reason);
		return;
	}
	int n = snprintf(text, sizeof text, "caplock %s %s: %s.\n%s%s", verb, x->flow->name, x->record.reason, advice, *advice ? "\n" : "");
	size_t bytes = n < (int)sizeof text ? (size_t)n : sizeof text - 1;
	bool no_body = x->request.method && strcmp(x->request.method, "HEAD") == 0;
	http_head_free(&x->response);
	x->response.status = status;
	x->response.length_bytes = (int64_t)bytes;
	x->response.has_body = !no_body;
	x->response.close = !x->request_ended && x->request.has_body; /* nobody reads the rest of it */
	x->own_response = x->responding = true;
	x->record.status = (uint16_t)status;
	(void)!http_add(&x->response.fields, "content-type", 12, "text/plain; charset=utf-8", 25);
	if (x->before.retry_after_s) {
		char seconds[16];
		int digits = snprintf(seconds, sizeof seconds, "%u", x->before.retry_after_s);
		(void)!http_add(&x->response.fields, "retry-after", 11, seconds, (size_t)digits);
	}
	x->client->head(x->client_context, &x->response);
	if (!no_body && !x->dead)
		x->client->data(x->client_context, (const uint8_t *)text, bytes);
	if (!x->dead)
		x->client->end(x->client_context, NULL);
}

static void deny(struct exchange *x, unsigned status, const char *reason)
{
	fail(x, status, reason, "", true);
}

/* See exchange.h. */
void exchange_refuse(struct exchange *x, unsigned status, const char *reason)
{
	record_request(x);
	deny(x, status, reason);
}

/* ---- The request ---- */

/* Makes an exchange for a request of the flow's; NULL: out of memory. */
struct exchange *exchange_create(struct flow_gate *flow, const struct client_ops *ops, void *context, bool http2)
{
	struct exchange *x = calloc(1, sizeof *x);
	if (!x)
		return NULL;
	x->flow = flow;
	x->client = ops;
	x->client_context = context;
	x->http2 = http2;
	x->request.length_bytes = x->response.length_bytes = HTTP_LENGTH_UNKNOWN;
	start_record(x);
	return x;
}

struct http_head *exchange_request_head(struct exchange *x)
{
	return &x->request;
}

static struct secret_target secret_target(const struct exchange *x)
{
	return (struct secret_target){.host = x->flow->name, .port = x->flow->port, .tls = x->flow->tls};
}

static struct hook_target hook_target(const struct exchange *x)
{
	return (struct hook_target){.host = x->flow->name, .port = x->flow->port, .now_ms = clock_ms()};
}

/* What no request may be. Returns true where it has been answered. */
static bool is_refused(struct exchange *x)
{
	const struct http_head *h = &x->request;
	if (strcasecmp(h->method, "CONNECT") == 0 || strcasecmp(h->method, "TRACE") == 0)
		deny(x, 405, "an HTTP method that is not allowed (CONNECT, TRACE)");
	else if (!name_is_authority(h->authority, strlen(h->authority), x->flow->name, x->flow->port))
		deny(x, 421, "an HTTP request for another host");
	else if (h->upgrade && !policy_allows_websocket(&x->flow->all->services.config->policy, x->flow->name, x->flow->port))
		fail(x, 403, "a WebSocket, which no rule allows", "To allow it: --allow-websocket HOST", true);
	else
		return false;
	return true;
}

/* The head is complete: it may go on. */
void exchange_request(struct exchange *x)
{
	record_request(x);
	if (!is_refused(x))
		go_on_before(x);
}

static void callback_answered(struct exchange *x, struct hook_outcome *o, struct http_head *message, const char *text, size_t len_bytes)
{
	struct hooks *h = &x->flow->all->hooks;
	struct err e;
	x->callback = NULL;
	bool ok = text ? hooks_callback_apply(h, o, text, len_bytes, message, &e) : hooks_callback_failed(h, o);
	if (!ok)
		deny(x, o->status ? o->status : 403, o->reason);
	else if (message == &x->request)
		go_on_before(x);
	else
		go_on_after(x);
}

static void before_answered(void *context, const char *text, size_t len_bytes)
{
	struct exchange *x = context;
	callback_answered(x, &x->before, &x->request, text, len_bytes);
}

static void after_answered(void *context, const char *text, size_t len_bytes)
{
	struct exchange *x = context;
	callback_answered(x, &x->after, &x->response, text, len_bytes);
}

/* Has the user's program asked about the request, or about the response. */
static void ask(struct exchange *x, struct hook_outcome *o, bool response)
{
	struct intercept *i = x->flow->all;
	struct hook_target t = hook_target(x);
	struct buf line = {0};
	if (hooks_callback_request(&i->hooks, o, &t, response ? &x->asked : &x->request, response ? &x->response : NULL, &line) == 0)
		x->callback = callback_start(&i->callbacks, &i->services, &line, hooks_callback_timeout_ms(&i->hooks, o),
					     response ? after_answered : before_answered, x);
	buf_free(&line);
	if (!x->callback)
		deny(x, 502, "a hook could not be asked");
}

static void deny_secret(struct exchange *x, const char *reason, const struct secret *s)
{
	char text[sizeof x->record.reason];
	snprintf(text, sizeof text, "%.64s%s%.80s", s ? s->name : "", s ? ": " : "", reason);
	deny(x, 403, text);
}

/* Puts secrets into the head. Returns false where that has ended the exchange. */
static bool put_secrets(struct exchange *x)
{
	struct intercept *i = x->flow->all;
	struct secret_target t = secret_target(x);
	struct hook_target h = hook_target(x);
	if (i->hooks.count && http_head_copy(&x->asked, &x->request)) {
		deny(x, 502, "out of memory");
		return false;
	}
	bool identity = secrets_any_for(&i->secrets, &t) || hooks_needs_identity(&i->hooks, &h, &x->request);
	if (secrets_apply(&i->secrets, &t, &x->request, &x->secrets)) {
		deny(x, 431, "the request is too large with its secrets");
		return false;
	}
	if (x->secrets.blocked) {
		deny_secret(x, x->secrets.blocked, x->secrets.secret);
		return false;
	}
	if (identity && http_get(&x->request.fields, "accept-encoding"))
		(void)!http_set(&x->request.fields, "accept-encoding", "identity"); /* or else nothing can be found in the response */
	if (x->request.has_body && i->secrets.count) {
		secret_scan_request(&x->request_scan, &i->patterns, &t);
		x->scans_request = true;
		if (secrets_any_in_body(&i->secrets, &t))
			x->request.length_bytes = HTTP_LENGTH_UNKNOWN;
	}
	return true;
}

/* Asks for a connection to the server. */
static void find_route(struct exchange *x)
{
	upstream_get(x->flow->all, x, x->flow, x->http2, &x->want);
}

/* Signs the request, where it is to be, and has it go on. `hash`: of its body; NULL: not known. */
static void sign_and_go_on(struct exchange *x, const char *hash)
{
	struct intercept *i = x->flow->all;
	struct secret_target t = secret_target(x);
	struct sigv4_result r = {.outcome = SIGV4_NOT_OURS};
	int rc = 0;
	for (size_t n = 0; n < i->aws_count && rc == 0 && r.outcome == SIGV4_NOT_OURS; n++)
		rc = sigv4_sign(&i->aws[n], &t, time(NULL), hash, &x->request, &r);
	x->is_signed = r.outcome == SIGV4_SIGNED;
	x->hashes = r.outcome == SIGV4_NEEDS_HASH;
	if (rc)
		deny(x, 431, "the request is too large with its signature");
	else if (r.outcome == SIGV4_REFUSED)
		deny(x, 403, r.reason);
	else if (!x->hashes)
		find_route(x);
}

/* The body is needed here, before the server sees the head: a client that waits to be asked for it is asked by us. */
static void ask_for_body(struct exchange *x)
{
	const struct http_head go_on = {.status = 100, .length_bytes = HTTP_LENGTH_UNKNOWN};
	if (x->request.expects_continue)
		x->client->head(x->client_context, &go_on);
	x->request.expects_continue = false;
	if (!x->dead)
		x->client->resume(x->client_context);
}

/* All of the body is here. */
static void hash_and_go_on(struct exchange *x)
{
	char hash[SIGV4_HASH_BYTES];
	sigv4_hash(x->early.data, x->early.len, hash);
	sign_and_go_on(x, hash);
}

/* Hooks, then secrets, then the way to the server. */
static void go_on_before(struct exchange *x)
{
	struct intercept *i = x->flow->all;
	struct hook_target t = hook_target(x);
	enum hook_step step = i->hooks.count ? hooks_before(&i->hooks, &t, &x->request, &x->before) : HOOK_DONE;
	if (step == HOOK_BLOCKED) {
		deny(x, x->before.status, x->before.reason);
	} else if (step == HOOK_CALLBACK) {
		ask(x, &x->before, false);
	} else if (put_secrets(x)) {
		sign_and_go_on(x, NULL);
		if (!x->dead && x->hashes && x->request_ended)
			hash_and_go_on(x);
		else if (!x->dead && x->hashes)
			ask_for_body(x);
	}
}

/* Whether more of the body may be given now. */
bool exchange_wants_data(const struct exchange *x)
{
	if (x->own_response || x->response_ended)
		return true; /* it is dropped */
	if (x->hashes)
		return true;
	return x->upstream && x->upstream->room(x->upstream_context) > 0;
}

/* Counts bytes of a body against the rules' budgets. Returns false where one is used up: the exchange is over. */
static bool spend(struct exchange *x, uint64_t *counter, size_t bytes)
{
	*counter += bytes;
	if (!x->flow->all->hooks.count || hooks_limit_bytes(&x->flow->all->hooks, &x->before, bytes))
		return true;
	deny(x, 429, "a rule's budget of bytes is used up");
	return false;
}

/* Frees what may have a secret in it. */
static void wipe(struct buf *b)
{
	if (b->cap)
		explicit_bzero(b->data, b->cap);
	buf_free(b);
}

/* Sends a piece of the body through the search for placeholders. */
static void send_data(struct exchange *x, const uint8_t *data, size_t len_bytes)
{
	struct buf out = {0};
	size_t pass = len_bytes;
	if (!spend(x, &x->record.request_bytes, len_bytes))
		return;
	int rc = x->scans_request && !x->tunnel ? secret_scan_feed(&x->request_scan, data, len_bytes, &pass, &out) : 0;
	if (pass && rc != -ENOMEM)
		x->upstream->data(x->upstream_context, data, pass);
	if (out.len && x->upstream && rc != -ENOMEM)
		x->upstream->data(x->upstream_context, out.data, out.len);
	wipe(&out);
	if (rc == -EPERM)
		deny_secret(x, "a placeholder in the body, for a host that it does not belong to", x->request_scan.blocked);
	else if (rc)
		deny(x, 502, "out of memory");
}

static void send_end(struct exchange *x)
{
	struct buf out = {0};
	struct secret_result trailers = {0};
	struct secret_target t = secret_target(x);
	int rc = x->scans_request && !x->tunnel ? secret_scan_end(&x->request_scan, &out) : 0;
	if (x->flow->all->secrets.count)
		secrets_check_trailers(&x->flow->all->secrets, &t, &x->request_trailers, &trailers);
	if (rc || trailers.blocked) {
		wipe(&out);
		deny_secret(x, trailers.blocked ? trailers.blocked : "a placeholder in the body, for a host that it does not belong to",
			    trailers.blocked ? trailers.secret : x->request_scan.blocked);
		return;
	}
	if (out.len)
		x->upstream->data(x->upstream_context, out.data, out.len);
	wipe(&out);
	x->request_sent = true;
	if (x->upstream)
		x->upstream->end(x->upstream_context, &x->request_trailers);
}

/* A piece of the request's body. It is copied, or dropped where nobody wants it. */
void exchange_request_data(struct exchange *x, const uint8_t *data, size_t len_bytes)
{
	if (x->dead || x->own_response || x->response_ended || len_bytes == 0)
		return;
	x->body_seen = true;
	if (x->upstream && x->early.len == 0)
		send_data(x, data, len_bytes);
	else if (x->hashes && x->early.len + len_bytes > SIGV4_BODY_MAX_BYTES)
		deny(x, 413, "a body that is too large to be signed here: have the client send its hash (x-amz-content-sha256)");
	else if (buf_add(&x->early, data, len_bytes))
		deny(x, 502, "out of memory");
}

/* The request is complete. */
void exchange_request_end(struct exchange *x, struct http_fields *trailers)
{
	if (trailers && (x->dead || x->own_response))
		http_fields_free(trailers);
	if (x->dead)
		return;
	x->request_ended = true;
	if (x->own_response)
		return;
	if (trailers)
		x->request_trailers = *trailers;
	if (x->hashes)
		hash_and_go_on(x);
	else if (x->upstream)
		send_end(x);
}

/* There is a connection: what waited goes on. */
void exchange_upstream_ready(struct exchange *x, const struct upstream_ops *ops, void *context)
{
	struct buf early = x->early;
	x->upstream = ops;
	x->upstream_context = context;
	ops->head(context, &x->request);
	x->early = (struct buf){0};
	if (early.len && x->upstream)
		send_data(x, early.data, early.len);
	buf_free(&early);
	if (x->request_ended && x->upstream)
		send_end(x);
	else if (!x->dead && !x->own_response)
		x->client->resume(x->client_context);
}

/* There is none, and will be none. */
void exchange_upstream_failed(struct exchange *x, unsigned status, const char *reason)
{
	fail(x, status, reason, "", status == 403);
}

/* The server's side can take more. */
void exchange_upstream_drained(struct exchange *x)
{
	if (!x->dead)
		x->client->resume(x->client_context);
}

/* Whether the request can be sent once more: then nothing is done twice, and all of it is still here. */
bool exchange_can_repeat(const struct exchange *x)
{
	static const char *const methods[] = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE"};
	bool safe = false;
	for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
		safe |= strcmp(x->request.method, methods[i]) == 0;
	return !x->dead && safe && !x->body_seen && !x->responding && !x->request.upgrade;
}

/* Sends it once more, on another connection. The one it had is gone. */
void exchange_repeat(struct exchange *x)
{
	x->upstream = NULL;
	x->request_sent = false;
	upstream_get(x->flow->all, x, x->flow, x->http2, &x->want);
}

/* ---- The response ---- */

struct http_head *exchange_response_head(struct exchange *x)
{
	return &x->response;
}

/* Whether more of the response may be given now. */
bool exchange_wants_response(const struct exchange *x)
{
	return x->dead || (!x->after_waits && x->client->room(x->client_context) > 0);
}

/* The client can take more. */
void exchange_client_drained(struct exchange *x)
{
	if (!x->dead && x->upstream)
		x->upstream->resume(x->upstream_context);
}

/* Prepares what the body goes through, as the hooks and the response want it. */
static void start_filters(struct exchange *x)
{
	struct intercept *i = x->flow->all;
	x->replaces = x->after.replace.count > 0 && x->response.has_body;
	if (x->replaces) {
		hook_body_init(&x->replacer, &x->after.replace, hooks_is_events(&x->response));
		x->response.length_bytes = HTTP_LENGTH_UNKNOWN;
	}
	if (x->after.sets_body)
		x->response.length_bytes = (int64_t)x->after.body.len;
	x->scans_response = i->secrets.count && x->response.has_body;
	if (x->scans_response)
		secret_scan_answer(&x->response_scan, &i->patterns, x->response.length_bytes != HTTP_LENGTH_UNKNOWN);
}

/* The hooks are done with the head: it goes to the guest. */
static void send_response_head(struct exchange *x)
{
	start_filters(x);
	x->responding = true;
	x->response.close = false; /* the guest's connection is another */
	x->record.status = (uint16_t)x->response.status;
	x->client->head(x->client_context, &x->response);
	if (!x->dead && x->after.sets_body)
		response_body(x, x->after.body.data, x->after.body.len);
}

/* Takes values out of fields of the response. Returns false where that has ended the exchange. */
static bool redact(struct exchange *x, struct http_fields *fields)
{
	struct intercept *i = x->flow->all;
	uint64_t found = 0;
	if (i->secrets.count && secret_redact_fields(&i->patterns, fields, &found)) {
		fail(x, 502, "the response is too large without its secrets", "", false);
		return false;
	}
	x->record.redacted += (uint32_t)__builtin_popcountll(found);
	return true;
}

/* Hooks of the response, then what came meanwhile. */
static void go_on_after(struct exchange *x)
{
	struct intercept *i = x->flow->all;
	struct hook_target t = hook_target(x);
	enum hook_step step = i->hooks.count ? hooks_after(&i->hooks, &t, &x->asked, &x->response, &x->after) : HOOK_DONE;
	bool waited = x->after_waits;
	x->after_waits = step == HOOK_CALLBACK;
	if (step == HOOK_BLOCKED) {
		deny(x, x->after.status, x->after.reason);
		return;
	}
	if (step == HOOK_CALLBACK) {
		ask(x, &x->after, true);
		return;
	}
	send_response_head(x);
	if (!waited || x->dead)
		return;
	struct buf late = x->late;
	x->late = (struct buf){0};
	if (late.len)
		exchange_response_data(x, late.data, late.len);
	buf_free(&late);
	if (x->dead)
		return;
	if (x->response_ended)
		response_end(x);
	else if (x->upstream)
		x->upstream->resume(x->upstream_context);
}

/* A head has come. One of 1xx is passed on, and another follows. */
void exchange_response(struct exchange *x)
{
	if (x->dead) {
		http_head_free(&x->response);
		return;
	}
	if (!redact(x, &x->response.fields))
		return;
	if (x->response.status == 101) {
		x->tunnel = x->responding = true;
		x->record.status = 101;
		x->client->head(x->client_context, &x->response);
		if (!x->dead)
			x->client->resume(x->client_context);
	} else if (x->response.status < 200) {
		x->client->head(x->client_context, &x->response);
		if (!x->dead)
			http_head_free(&x->response);
	} else {
		go_on_after(x);
	}
}

/* Gives the client a piece of the body through the search for values. */
static void search(struct exchange *x, const uint8_t *data, size_t len_bytes)
{
	struct buf out = {0};
	size_t pass = len_bytes;
	int rc = x->scans_response ? secret_scan_feed(&x->response_scan, data, len_bytes, &pass, &out) : 0;
	if (rc == 0 && pass)
		x->client->data(x->client_context, data, pass);
	if (rc == 0 && out.len && !x->dead)
		x->client->data(x->client_context, out.data, out.len);
	buf_free(&out);
	if (rc)
		fail(x, 502, "out of memory", "", false);
}

static void response_body(struct exchange *x, const uint8_t *data, size_t len_bytes)
{
	while (x->replaces && len_bytes && !x->dead) {
		struct buf out = {0};
		size_t taken = 0;
		int rc = hook_body_feed(&x->replacer, data, len_bytes, &taken, &out);
		if (rc == 0 && out.len)
			search(x, out.data, out.len);
		buf_free(&out);
		data += taken;
		len_bytes -= taken;
		if (rc) {
			fail(x, 502, "out of memory", "", false);
			return;
		}
	}
	if (!x->replaces && len_bytes)
		search(x, data, len_bytes);
}

/* A piece of the response's body. */
void exchange_response_data(struct exchange *x, const uint8_t *data, size_t len_bytes)
{
	if (x->dead || len_bytes == 0)
		return;
	if (x->after_waits) {
		if (buf_add(&x->late, data, len_bytes))
			fail(x, 502, "out of memory", "", false);
		return;
	}
	if (!x->tunnel && !spend(x, &x->record.response_bytes, len_bytes))
		return;
	if (x->tunnel) {
		x->record.response_bytes += len_bytes;
		x->client->data(x->client_context, data, len_bytes);
	} else if (!x->after.sets_body) {
		response_body(x, data, len_bytes);
	}
}

/* Lets go what the filters hold back. */
static void drain_filters(struct exchange *x)
{
	struct buf out = {0};
	int rc = x->replaces ? hook_body_end(&x->replacer, &out) : 0;
	if (rc == 0 && out.len)
		search(x, out.data, out.len);
	buf_free(&out);
	if (rc == 0 && x->scans_response && !x->dead)
		rc = secret_scan_end(&x->response_scan, &out);
	if (rc == 0 && out.len && !x->dead)
		x->client->data(x->client_context, out.data, out.len);
	buf_free(&out);
	if (rc)
		fail(x, 502, "out of memory", "", false);
}

static void response_end(struct exchange *x)
{
	if (!x->tunnel)
		drain_filters(x);
	if (x->dead || x->own_response || !redact(x, &x->response_trailers))
		return;
	x->client->end(x->client_context, &x->response_trailers);
}

/* The response is complete; the server's side is done with the exchange. */
void exchange_response_end(struct exchange *x, struct http_fields *trailers)
{
	x->upstream = NULL;
	x->response_ended = true;
	if (trailers && x->dead)
		http_fields_free(trailers);
	else if (trailers)
		x->response_trailers = *trailers;
	if (!x->dead && !x->after_waits)
		response_end(x);
}

/* The connection is gone before the response was complete. */
void exchange_response_lost(struct exchange *x, const char *reason)
{
	x->upstream = NULL;
	if (!x->dead && x->tunnel)
		x->client->end(x->client_context, NULL);
	else
		fail(x, 502, reason, "", false);
}
