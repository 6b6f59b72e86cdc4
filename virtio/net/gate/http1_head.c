#include "virtio/net/gate/http1_head.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "virtio/net/gate/http_text.h"

enum {
	METHOD_MAX_BYTES = 32,
	OPTIONS_MAX = 16, /* that Connection names */
};

/* Says what is wrong. Returns false, to be passed on. */
bool http1_wrong(struct http1_wrong *wrong, unsigned status, const char *reason)
{
	*wrong = (struct http1_wrong){status, reason};
	return false;
}

/* What adding to a message has come to. */
bool http1_added(int rc, struct http1_wrong *wrong)
{
	return rc == 0        ? true
	       : rc == -E2BIG ? http1_wrong(wrong, 431, "HTTP fields that are too many or too large")
			      : http1_wrong(wrong, 500, "no memory for an HTTP message");
}

static bool text_is(struct http1_text t, const char *word)
{
	return http_text_is(t.at, t.bytes, word);
}

static bool copy_text(char **out, struct http1_text t, struct http1_wrong *wrong)
{
	*out = strndup(t.at, t.bytes);
	return http1_added(*out ? 0 : -ENOMEM, wrong);
}

/* ---- The first line ---- */

/*
 * Looks at a first line that may not be whole: who speaks another protocol would wait for an answer to it otherwise.
 */
bool http1_check_start(enum http1_role role, const uint8_t *data, size_t len_bytes, struct http1_wrong *wrong)
{
	static const char version[] = "HTTP/1.";
	const char *text = (const char *)data;
	size_t n = role == HTTP1_REQUESTS ? METHOD_MAX_BYTES + 1 : sizeof version - 1;
	n = n < len_bytes ? n : len_bytes;
	if (n == 0)
		return true;
	if (role == HTTP1_RESPONSES)
		return memcmp(text, version, n) == 0 ? true : http1_wrong(wrong, 502, "an answer that is not HTTP/1.1");
	const char *space = memchr(text, ' ', n);
	bool ok = (space || n <= METHOD_MAX_BYTES) && http_is_token(text, space ? (size_t)(space - text) : n);
	return ok ? true : http1_wrong(wrong, 400, "what is sent is not HTTP/1.1");
}

/* HTTP/1.1 or HTTP/1.0. */
static bool take_version(struct http1_in *in, struct http1_text t, struct http1_wrong *wrong)
{
	if (t.bytes != 8 || memcmp(t.at, "HTTP/", 5) != 0 || t.at[6] != '.')
		return http1_wrong(wrong, 400, "what is sent is not HTTP/1.1");
	if (t.at[5] != '1' || (t.at[7] != '0' && t.at[7] != '1'))
		return http1_wrong(wrong, 505, "a version of HTTP that is neither 1.1 nor 1.0");
	in->seen.is_1_0 = t.at[7] == '0';
	return true;
}

static bool check_method(const char *method, struct http1_wrong *wrong)
{
	const char *reason;
	unsigned status = http_refuses_method(method, &reason);
	return status ? http1_wrong(wrong, status, reason) : true;
}

static bool check_target(const char *method, struct http1_text target, struct http1_wrong *wrong)
{
	if (http_is_path(target.at, target.bytes) || (strcmp(method, "OPTIONS") == 0 && text_is(target, "*")))
		return true;
	if ((target.bytes > 7 && strncasecmp(target.at, "http://", 7) == 0) ||
	    (target.bytes > 8 && strncasecmp(target.at, "https://", 8) == 0))
		return http1_wrong(wrong, 421, "an HTTP request as to a proxy");
	return http1_wrong(wrong, 400, "a malformed HTTP target");
}

/* METHOD SP TARGET SP VERSION (RFC 9112, section 3); the method was looked at by http1_check_start(). */
bool http1_request_line(struct http1_in *in, struct http1_text line, struct http1_wrong *wrong)
{
	const char *end = line.at + line.bytes, *space = memchr(line.at, ' ', line.bytes);
	const char *second = space ? memchr(space + 1, ' ', (size_t)(end - space - 1)) : NULL;
	if (!second)
		return http1_wrong(wrong, 400, "what is sent is not HTTP/1.1");
	struct http1_text method = {line.at, (size_t)(space - line.at)};
	struct http1_text target = {space + 1, (size_t)(second - space - 1)};
	struct http1_text version = {second + 1, (size_t)(end - second - 1)};
	struct http_head *h = &in->head;
	return take_version(in, version, wrong) && copy_text(&h->method, method, wrong) && check_method(h->method, wrong) &&
	       check_target(h->method, target, wrong) && copy_text(&h->path, target, wrong);
}

/* VERSION SP STATUS [SP [REASON]] (RFC 9112, section 4); some leave out the last blank, too. */
bool http1_status_line(struct http1_in *in, struct http1_text line, struct http1_wrong *wrong)
{
	if (line.bytes < 12 || !take_version(in, (struct http1_text){line.at, 8}, wrong))
		return http1_wrong(wrong, 502, "an answer that is not HTTP/1.1");
	const char *digits = line.at + 9;
	for (int i = 0; i < 3; i++) {
		if (digits[i] < '0' || digits[i] > '9')
			return http1_wrong(wrong, 502, "a malformed HTTP status");
		in->head.status = in->head.status * 10 + (unsigned)(digits[i] - '0');
	}
	bool ok = line.at[8] == ' ' && (line.bytes == 12 || line.at[12] == ' ') && in->head.status >= 100 && in->head.status <= 599;
	return ok ? true : http1_wrong(wrong, 502, "a malformed HTTP status");
}

/* ---- Fields ---- */

/* NAME: VALUE, without the blanks around the value (RFC 9112, section 5). Folded lines are none. */
bool http1_split_field(struct http1_text line, struct http1_text *name, struct http1_text *value, struct http1_wrong *wrong)
{
	const char *colon = memchr(line.at, ':', line.bytes), *end = line.at + line.bytes;
	if (!colon || !http_is_token(line.at, (size_t)(colon - line.at)))
		return http1_wrong(wrong, 400, "a malformed HTTP field");
	*name = (struct http1_text){line.at, (size_t)(colon - line.at)};
	const char *at = colon + 1;
	while (at < end && (*at == ' ' || *at == '\t'))
		at++;
	while (end > at && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	*value = (struct http1_text){at, (size_t)(end - at)};
	return http_is_value(at, value->bytes) ? true : http1_wrong(wrong, 400, "an HTTP field with a control character");
}

/* Takes the next element of a list, without its parameters: false at the end. Empty ones are passed over. */
static bool next_element(struct http1_text *list, struct http1_text *out)
{
	while (list->bytes && strchr(", \t", list->at[0])) {
		list->at++;
		list->bytes--;
	}
	size_t n = 0, name = 0;
	bool parameters = false;
	for (; n < list->bytes && list->at[n] != ','; n++) {
		parameters |= list->at[n] == ';';
		if (!parameters && list->at[n] != ' ' && list->at[n] != '\t')
			name = n + 1;
	}
	*out = (struct http1_text){list->at, name};
	list->at += n;
	list->bytes -= n;
	return n;
}

/* Fields that a request's Connection must not name: a server would read the request without them. */
static bool is_end_to_end(struct http1_text option)
{
	return text_is(option, "host") || text_is(option, "authorization") || text_is(option, "cookie") ||
	       text_is(option, "content-length") || text_is(option, "transfer-encoding");
}

static bool take_connection(struct http1_in *in, struct http1_text list, struct http1_wrong *wrong)
{
	struct http1_text option;
	while (next_element(&list, &option)) {
		if (!http_is_token(option.at, option.bytes) || in->seen.options.count == OPTIONS_MAX)
			return http1_wrong(wrong, 400, "a malformed HTTP Connection field");
		if (in->role == HTTP1_REQUESTS && is_end_to_end(option))
			return http1_wrong(wrong, 400, "an HTTP Connection field that names what is for the server");
		in->head.close |= text_is(option, "close");
		in->seen.option_upgrade |= text_is(option, "upgrade");
		if (http_name_kind(option.at, option.bytes) == HTTP_NAME_ORDINARY && !text_is(option, "close") &&
		    !http1_added(http_add(&in->seen.options, option.at, option.bytes, "", 0), wrong))
			return false;
	}
	return true;
}

/* One number. A response may say it more than once (RFC 9110, 8.6). */
static bool take_length(struct http1_in *in, struct http1_text value, struct http1_wrong *wrong)
{
	int64_t length;
	bool ok = http_parse_length(value.at, value.bytes, &length);
	if (ok && in->seen.has_length)
		ok = in->role == HTTP1_RESPONSES && in->head.length_bytes == length;
	if (!ok)
		return http1_wrong(wrong, 400, "an HTTP Content-Length that is not one number");
	in->seen.has_length = true;
	in->head.length_bytes = length;
	return true;
}

static bool take_host(struct http1_in *in, struct http1_text value, struct http1_wrong *wrong)
{
	size_t host_bytes;
	unsigned port;
	if (in->role == HTTP1_RESPONSES)
		return true;
	if (in->head.authority)
		return http1_wrong(wrong, 400, "two HTTP Host fields");
	if (!http_parse_authority(value.at, value.bytes, &host_bytes, &port))
		return http1_wrong(wrong, 400, "an HTTP Host field that is no host");
	return copy_text(&in->head.authority, value, wrong);
}

static void take_te(struct http1_in *in, struct http1_text list)
{
	struct http1_text element;
	while (in->role == HTTP1_REQUESTS && next_element(&list, &element))
		in->head.trailers |= text_is(element, "trailers");
}

/* A field of the head; in->seen gets what counts for it as a whole. */
bool http1_field(struct http1_in *in, struct http1_text line, struct http1_wrong *wrong)
{
	struct http1_text name, value;
	if (!http1_split_field(line, &name, &value, wrong))
		return false;
	switch (http_name_kind(name.at, name.bytes)) {
	case HTTP_NAME_ORDINARY:
		return http1_added(http_add(&in->head.fields, name.at, name.bytes, value.at, value.bytes), wrong);
	case HTTP_NAME_HOST:
		return take_host(in, value, wrong);
	case HTTP_NAME_CONTENT_LENGTH:
		return take_length(in, value, wrong);
	case HTTP_NAME_TRANSFER_ENCODING:
		if (in->seen.chunked || !text_is(value, "chunked"))
			return http1_wrong(wrong, in->seen.chunked ? 400 : 501, "an HTTP Transfer-Encoding other than chunked");
		in->seen.chunked = true;
		return true;
	case HTTP_NAME_CONNECTION:
		return take_connection(in, value, wrong);
	case HTTP_NAME_TE:
		take_te(in, value);
		return true;
	case HTTP_NAME_UPGRADE:
		in->seen.websocket = !in->seen.has_upgrade && text_is(value, "websocket");
		in->seen.has_upgrade = true;
		return true;
	case HTTP_NAME_EXPECT:
		in->seen.expects = true;
		return in->role == HTTP1_RESPONSES || text_is(value, "100-continue")
			       ? true
			       : http1_wrong(wrong, 417, "an HTTP Expect other than 100-continue");
	case HTTP_NAME_HOP:
		return true;
	}
	return true;
}

/* ---- The end of a head ---- */

static bool end_request(struct http1_in *in, struct http1_wrong *wrong)
{
	struct http_head *h = &in->head;
	const struct http1_seen *s = &in->seen;
	if (!h->authority)
		return http1_wrong(wrong, 400, "an HTTP request without a Host field");
	h->has_body = s->chunked || s->has_length;
	h->upgrade = s->websocket && s->option_upgrade && strcmp(h->method, "GET") == 0 && !h->has_body && !s->is_1_0;
	h->expects_continue = s->expects && h->has_body && !s->is_1_0;
	in->state = s->chunked ? HTTP1_CHUNK_SIZE : s->has_length ? HTTP1_BODY : HTTP1_ENDED;
	return true;
}

/* 1xx: the response comes after it, except after 101. */
static bool end_interim(struct http1_in *in, struct http1_wrong *wrong)
{
	struct http_head *h = &in->head;
	if (in->seen.has_length || in->seen.chunked)
		return http1_wrong(wrong, 502, "an interim HTTP response with a body");
	h->upgrade = h->status == 101;
	if (h->upgrade && !(in->asked_upgrade && in->seen.websocket && in->seen.option_upgrade))
		return http1_wrong(wrong, 502, "an HTTP upgrade that nobody asked for");
	in->state = h->upgrade ? HTTP1_OVER : HTTP1_START;
	return true;
}

/* RFC 9112, 6.3. */
static bool end_response(struct http1_in *in, struct http1_wrong *wrong)
{
	struct http_head *h = &in->head;
	const struct http1_seen *s = &in->seen;
	if (h->status < 200)
		return end_interim(in, wrong);
	if (h->status == 204) { /* if a body was declared nevertheless, there may be one */
		h->close |= s->chunked || h->length_bytes > 0;
		h->length_bytes = HTTP_LENGTH_UNKNOWN;
	}
	h->has_body = !in->asked_head && h->status != 204 && h->status != 304;
	h->close |= h->has_body && !s->chunked && !s->has_length;
	in->state = !h->has_body    ? HTTP1_ENDED
		    : s->chunked    ? HTTP1_CHUNK_SIZE
		    : s->has_length ? HTTP1_BODY
				    : HTTP1_UNTIL_EOF;
	return true;
}

/* All fields are known: where the body ends, and what else they make of the head. */
bool http1_end_head(struct http1_in *in, struct http1_wrong *wrong)
{
	struct http_head *h = &in->head;
	struct http1_seen *s = &in->seen;
	if (s->chunked && (s->has_length || s->is_1_0))
		return http1_wrong(wrong, 400, "an HTTP message whose length is ambiguous");
	for (size_t i = 0; i < s->options.count; i++)
		http_remove(&h->fields, s->options.item[i].name);
	h->close |= s->is_1_0;
	if (!(in->role == HTTP1_REQUESTS ? end_request(in, wrong) : end_response(in, wrong)))
		return false;
	in->left = in->state == HTTP1_BODY ? (uint64_t)h->length_bytes : 0;
	return true;
}
