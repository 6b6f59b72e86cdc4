/*
 * Hooks of any text: parts of the input, separated by empty lines, are a rule, another, a target, the answer of a callback, and a
 * body. A request and a response go through the rules, each callback having that answer; then the body through what applies to it.
 *
 * What is never so: a head that could not be written as it is; a body that depends on the pieces it came in; a line to a callback
 * that is no JSON; a blocked message without a reason, or the other way round.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/hooks.h"
#include "virtio/net/gate/http_text.h"
#include "vmm/util/err.h"
#include "vmm/util/json.h"

static void check(bool good)
{
	if (!good)
		abort();
}

/* The next part, which is ended with a NUL; *at moves past it. */
static char *next_part(char **at, char *end, size_t *len)
{
	char *part = *at, *stop = memmem(part, (size_t)(end - part), "\n\n", 2);
	*at = stop ? stop + 2 : end;
	stop = stop ? stop : end;
	*stop = 0;
	*len = (size_t)(stop - part);
	return part;
}

static void check_head(const struct http_head *h)
{
	size_t bytes = 0;
	check(!h->method || http_is_path(h->path, strlen(h->path)) || strcmp(h->path, "*") == 0);
	for (size_t i = 0; i < h->fields.count; i++) {
		const struct http_field *f = &h->fields.item[i];
		check(http_is_token(f->name, strlen(f->name)) && http_is_value(f->value, strlen(f->value)));
		check(http_name_kind(f->name, strlen(f->name)) == HTTP_NAME_ORDINARY);
		bytes += strlen(f->name) + strlen(f->value);
	}
	check(bytes == h->fields.bytes && bytes <= HTTP_FIELDS_MAX_BYTES && h->fields.count <= HTTP_FIELDS_MAX);
}

static void check_line(const struct hooks *h, const struct hook_outcome *o, const struct hook_target *t,
		       const struct http_head *request, const struct http_head *response)
{
	struct buf line = {0};
	struct json *doc;
	struct err e;
	if (hooks_callback_request(h, o, t, request, response, &line) == 0) {
		check(memchr(line.data, '\n', line.len) == line.data + line.len - 1);
		check(json_parse((char *)line.data, line.len - 1, NULL, &doc, &e) == 0);
		json_free(doc);
	}
	buf_free(&line);
}

/* Goes through the rules; `response` NULL: with the request. */
static enum hook_step go(struct hooks *h, const struct hook_target *t, struct http_head *request, struct http_head *response,
			 struct hook_outcome *o, const char *answer, size_t answer_bytes)
{
	enum hook_step step;
	struct err e;
	while ((step = response ? hooks_after(h, t, request, response, o) : hooks_before(h, t, request, o)) == HOOK_CALLBACK) {
		check_line(h, o, t, request, response);
		if (!hooks_callback_apply(h, o, answer, answer_bytes, response ? response : request, &e)) {
			step = HOOK_BLOCKED;
			break;
		}
	}
	check((step == HOOK_BLOCKED) == (o->status != 0) && (o->status != 0) == (o->reason[0] != 0));
	check_head(response ? response : request);
	return step;
}

static void pass_body(const struct hook_replacements *r, bool events, const char *body, size_t len, size_t piece, struct buf *out)
{
	struct hook_body b;
	hook_body_init(&b, r, events);
	for (size_t at = 0, taken; at < len && out->len < HOOK_BODY_OUT_BYTES; at += taken) {
		check(hook_body_feed(&b, body + at, len - at < piece ? len - at : piece, &taken, out) == 0);
		check(taken > 0 && b.pending.len < HOOK_FIND_MAX_BYTES);
	}
	check(hook_body_end(&b, out) == 0);
	check(b.pending.len == 0);
	hook_body_free(&b);
}

static void check_body(const struct hook_outcome *o, bool events, const char *body, size_t len)
{
	struct buf whole = {0};
	if (len > 4096)
		len = 4096;
	pass_body(&o->replace, events, body, len, len + 1, &whole);
	for (size_t piece = 1; piece < 8 && whole.len < HOOK_BODY_OUT_BYTES; piece++) {
		struct buf out = {0};
		pass_body(&o->replace, events, body, len, piece, &out);
		check(out.len == whole.len && (out.len == 0 || memcmp(out.data, whole.data, out.len) == 0));
		buf_free(&out);
	}
	buf_free(&whole);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hooks h = {0};
	struct hook_target t = {.host = "a.com", .port = 443, .now_ms = 1};
	struct http_head request = {.length_bytes = HTTP_LENGTH_UNKNOWN}, response = {.status = 200, .has_body = true};
	struct hook_outcome of_request = {0}, of_response = {0};
	struct err e;
	size_t len, answer_bytes;
	char *text = malloc(size + 1), *at = text, *end = text + size;
	memcpy(text, data, size);
	text[size] = 0;
	hooks_add_text(&h, next_part(&at, end, &len), &e);
	hooks_add_text(&h, next_part(&at, end, &len), &e);
	char *path = next_part(&at, end, &len), *answer = next_part(&at, end, &answer_bytes);
	request.method = strdup("POST");
	request.path = strdup(len < 4096 && http_is_path(path, len) ? path : "/a?b=c");
	http_add(&request.fields, "X-a", 3, "1", 1);
	http_add(&response.fields, "Content-Type", 12, size & 1 ? "text/plain" : "text/event-stream", size & 1 ? 10 : 17);
	if (go(&h, &t, &request, NULL, &of_request, answer, answer_bytes) == HOOK_DONE &&
	    go(&h, &t, &request, &response, &of_response, answer, answer_bytes) == HOOK_DONE) {
		check(!of_response.sets_body || (of_response.replace.count == 0 && response.length_bytes == (int64_t)of_response.body.len));
		check_body(&of_response, hooks_is_events(&response), at, (size_t)(end - at));
	}
	hooks_limit_bytes(&h, &of_request, size);
	hook_outcome_free(&of_request);
	hook_outcome_free(&of_response);
	http_head_free(&request);
	http_head_free(&response);
	hooks_free(&h);
	free(text);
	return 0;
}
