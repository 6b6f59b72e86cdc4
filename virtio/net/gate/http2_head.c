#include "virtio/net/gate/http2_head.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "virtio/net/gate/http_text.h"

/* A piece of a field. */
struct text {
	const char *at;
	size_t bytes;
};

static bool text_is(struct text t, const char *word)
{
	return t.bytes == strlen(word) && memcmp(t.at, word, t.bytes) == 0;
}

/* Remembers what is wrong: the first thing. */
static void wrong(struct http2_in *in, unsigned status, const char *reason)
{
	if (in->wrong)
		return;
	in->wrong = status;
	in->reason = reason;
}

static void added(struct http2_in *in, int rc)
{
	if (rc == -E2BIG)
		wrong(in, 431, "HTTP fields that are too many or too large");
	else if (rc)
		wrong(in, 500, "no memory for an HTTP message");
}

/* Each may be there once. */
static void copy_once(struct http2_in *in, char **to, struct text t, const char *twice)
{
	if (*to) {
		wrong(in, 400, twice);
		return;
	}
	*to = strndup(t.at, t.bytes);
	added(in, *to ? 0 : -ENOMEM);
}

/* ---- Pseudo header fields ---- */

static void take_method(struct http2_in *in, struct text value)
{
	const char *reason;
	if (!http_is_token(value.at, value.bytes)) {
		wrong(in, 400, "a malformed HTTP method");
		return;
	}
	copy_once(in, &in->head.method, value, "two HTTP methods");
	unsigned status = in->wrong ? 0 : http_refuses_method(in->head.method, &reason);
	if (status)
		wrong(in, status, reason);
}

static void take_authority(struct http2_in *in, char **to, struct text value)
{
	size_t host_bytes;
	unsigned port;
	if (http_parse_authority(value.at, value.bytes, &host_bytes, &port))
		copy_once(in, to, value, "two HTTP Host fields");
	else
		wrong(in, 400, "an HTTP Host field that is no host");
}

static void take_path(struct http2_in *in, struct text value)
{
	if (http_is_path(value.at, value.bytes) || text_is(value, "*"))
		copy_once(in, &in->head.path, value, "two HTTP targets");
	else
		wrong(in, 400, "a malformed HTTP target");
}

static void take_scheme(struct http2_in *in, struct text value)
{
	if (in->scheme_seen || !http_text_is(value.at, value.bytes, in->https ? "https" : "http"))
		wrong(in, 400, "an HTTP scheme that is not the connection's");
	in->scheme_seen = true;
}

static void take_status(struct http2_in *in, struct text value)
{
	unsigned status = 0;
	for (size_t i = 0; i < value.bytes && value.bytes == 3; i++)
		status = value.at[i] >= '0' && value.at[i] <= '9' ? status * 10 + (unsigned)(value.at[i] - '0') : 1000;
	if (in->head.status || status < 100 || status > 599 || status == 101)
		wrong(in, 502, "a malformed HTTP status");
	else
		in->head.status = status;
}

static void take_pseudo(struct http2_in *in, struct text name, struct text value)
{
	bool request = in->kind == HTTP2_REQUEST;
	if (in->fields_seen || in->kind == HTTP2_TRAILERS)
		wrong(in, 400, "an HTTP/2 pseudo field out of place");
	else if (request && text_is(name, ":method"))
		take_method(in, value);
	else if (request && text_is(name, ":scheme"))
		take_scheme(in, value);
	else if (request && text_is(name, ":authority"))
		take_authority(in, &in->head.authority, value);
	else if (request && text_is(name, ":path"))
		take_path(in, value);
	else if (!request && text_is(name, ":status"))
		take_status(in, value);
	else
		wrong(in, 400, "an HTTP/2 pseudo field that is none");
}

/* ---- Fields ---- */

static void take_length(struct http2_in *in, struct text value)
{
	int64_t length, before = in->head.length_bytes;
	bool again = before != HTTP_LENGTH_UNKNOWN;
	if (!http_parse_length(value.at, value.bytes, &length) || (again && (in->kind == HTTP2_REQUEST || before != length)))
		wrong(in, 400, "an HTTP Content-Length that is not one number");
	else
		in->head.length_bytes = length;
}

/* Cookie may come in pieces, so that HPACK can find them again (RFC 9113, 8.2.3). */
static void take_cookie(struct http2_in *in, struct text value)
{
	if (value.bytes == 0)
		return;
	int rc = in->cookie.len ? buf_add(&in->cookie, "; ", 2) : 0;
	added(in, rc ? rc : buf_add(&in->cookie, value.at, value.bytes));
}

static void take_request_field(struct http2_in *in, struct text name, struct text value)
{
	switch (http_name_kind(name.at, name.bytes)) {
	case HTTP_NAME_ORDINARY:
		if (text_is(name, "cookie"))
			take_cookie(in, value);
		else
			added(in, http_add(&in->head.fields, name.at, name.bytes, value.at, value.bytes));
		return;
	case HTTP_NAME_HOST:
		take_authority(in, &in->host, value);
		return;
	case HTTP_NAME_CONTENT_LENGTH:
		take_length(in, value);
		return;
	case HTTP_NAME_TE:
		if (!http_text_is(value.at, value.bytes, "trailers"))
			wrong(in, 400, "an HTTP TE other than trailers");
		in->head.trailers = true;
		return;
	case HTTP_NAME_EXPECT:
		if (!http_text_is(value.at, value.bytes, "100-continue"))
			wrong(in, 417, "an HTTP Expect other than 100-continue");
		in->head.expects_continue = true;
		return;
	case HTTP_NAME_TRANSFER_ENCODING:
	case HTTP_NAME_CONNECTION:
	case HTTP_NAME_UPGRADE:
	case HTTP_NAME_HOP:
		wrong(in, 400, "an HTTP field that HTTP/2 does not have");
		return;
	}
}

static void take_response_field(struct http2_in *in, struct text name, struct text value)
{
	switch (http_name_kind(name.at, name.bytes)) {
	case HTTP_NAME_ORDINARY:
		added(in, http_add(&in->head.fields, name.at, name.bytes, value.at, value.bytes));
		return;
	case HTTP_NAME_CONTENT_LENGTH:
		take_length(in, value);
		return;
	case HTTP_NAME_TRANSFER_ENCODING:
		wrong(in, 502, "an HTTP field that HTTP/2 does not have");
		return;
	default: /* says nothing, in a response */
		return;
	}
}

static bool has_capital(struct text t)
{
	bool found = false;
	for (size_t i = 0; i < t.bytes; i++)
		found |= t.at[i] >= 'A' && t.at[i] <= 'Z';
	return found;
}

static struct text trim(struct text t)
{
	for (; t.bytes && (t.at[0] == ' ' || t.at[0] == '\t'); t.bytes--)
		t.at++;
	while (t.bytes && (t.at[t.bytes - 1] == ' ' || t.at[t.bytes - 1] == '\t'))
		t.bytes--;
	return t;
}

/* The next field. What is wrong is remembered, and nothing is kept from then on. */
void http2_in_field(struct http2_in *in, const char *name_at, size_t name_bytes, const char *value_at, size_t value_bytes)
{
	struct text name = {name_at, name_bytes}, value = trim((struct text){value_at, value_bytes});
	if (in->wrong)
		return;
	in->bytes += name_bytes + value_bytes;
	if (in->bytes > HTTP_FIELDS_MAX_BYTES) {
		added(in, -E2BIG);
		return;
	}
	if (name.bytes && name.at[0] == ':') {
		take_pseudo(in, name, value);
		return;
	}
	in->fields_seen = true;
	if (!http_is_token(name.at, name.bytes) || has_capital(name) || !http_is_value(value.at, value.bytes))
		wrong(in, 400, "a malformed HTTP field");
	else if (in->kind == HTTP2_REQUEST)
		take_request_field(in, name, value);
	else if (in->kind == HTTP2_RESPONSE)
		take_response_field(in, name, value);
	else if (http_may_trail(name.at, name.bytes))
		added(in, http_add(&in->head.fields, name.at, name.bytes, value.at, value.bytes));
}

/* ---- The end ---- */

/* Whether a server may refuse a request of this method that does not say that it has no body. */
static bool is_about_content(const char *method)
{
	return strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0 || strcmp(method, "PATCH") == 0;
}

static void end_request(struct http2_in *in, bool end_stream)
{
	struct http_head *h = &in->head;
	if (h->authority && in->host && strcasecmp(h->authority, in->host)) {
		wrong(in, 400, "two HTTP hosts");
	} else if (!h->authority) {
		h->authority = in->host;
		in->host = NULL;
	}
	if (!h->method || !h->path || !in->scheme_seen || !h->authority)
		wrong(in, 400, "an HTTP request that is not complete");
	else if (h->path[0] == '*' && strcmp(h->method, "OPTIONS"))
		wrong(in, 400, "a malformed HTTP target");
	else if (end_stream && h->length_bytes > 0)
		wrong(in, 400, "an HTTP body that is missing");
	else if (in->cookie.len)
		added(in, http_add(&h->fields, "cookie", 6, (const char *)in->cookie.data, in->cookie.len));
	if (in->wrong)
		return;
	h->has_body = !end_stream;
	h->expects_continue &= h->has_body;
	if (end_stream && is_about_content(h->method))
		h->length_bytes = 0;
}

static void end_response(struct http2_in *in, bool end_stream)
{
	struct http_head *h = &in->head;
	if (h->status == 0 || (h->status < 200 && end_stream))
		wrong(in, 502, "an HTTP response that is not complete");
	if (h->status < 200 || h->status == 204)
		h->length_bytes = HTTP_LENGTH_UNKNOWN;
	h->has_body = !end_stream && h->status >= 200 && h->status != 204 && h->status != 304;
}

/*
 * All fields are known. Returns whether the head, or the trailers, are sound: `wrong` and `reason` say why not. To HEAD, there
 * is no body whatever has_body says.
 */
bool http2_in_end(struct http2_in *in, bool end_stream)
{
	if (in->kind == HTTP2_REQUEST)
		end_request(in, end_stream);
	else if (in->kind == HTTP2_RESPONSE)
		end_response(in, end_stream);
	else if (!end_stream)
		wrong(in, 400, "HTTP trailers that are not the end");
	return !in->wrong;
}

/* Starts to read a head, or trailers; `https`: the scheme of the connection, for requests. What there is, is freed. */
void http2_in_start(struct http2_in *in, enum http2_kind kind, bool https)
{
	http2_in_free(in);
	in->kind = kind;
	in->https = https;
}

/* Frees what it has. */
void http2_in_free(struct http2_in *in)
{
	http_head_free(&in->head);
	free(in->host);
	if (in->cookie.cap)
		explicit_bzero(in->cookie.data, in->cookie.cap);
	buf_free(&in->cookie);
	*in = (struct http2_in){.head.length_bytes = HTTP_LENGTH_UNKNOWN};
}
