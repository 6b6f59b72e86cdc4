#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "virtio/net/gate/http1.h"
#include "virtio/net/gate/http_text.h"

static const char *reason_of(unsigned status)
{
	static const struct {
		unsigned status;
		const char *reason;
	} reasons[] = {
		{100, "Continue"},
		{101, "Switching Protocols"},
		{103, "Early Hints"},
		{200, "OK"},
		{201, "Created"},
		{202, "Accepted"},
		{204, "No Content"},
		{206, "Partial Content"},
		{301, "Moved Permanently"},
		{302, "Found"},
		{303, "See Other"},
		{304, "Not Modified"},
		{307, "Temporary Redirect"},
		{308, "Permanent Redirect"},
		{400, "Bad Request"},
		{401, "Unauthorized"},
		{403, "Forbidden"},
		{404, "Not Found"},
		{405, "Method Not Allowed"},
		{408, "Request Timeout"},
		{409, "Conflict"},
		{410, "Gone"},
		{413, "Content Too Large"},
		{417, "Expectation Failed"},
		{421, "Misdirected Request"},
		{422, "Unprocessable Content"},
		{429, "Too Many Requests"},
		{431, "Request Header Fields Too Large"},
		{500, "Internal Server Error"},
		{501, "Not Implemented"},
		{502, "Bad Gateway"},
		{503, "Service Unavailable"},
		{504, "Gateway Timeout"},
		{505, "HTTP Version Not Supported"},
	};
	for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++)
		if (reasons[i].status == status)
			return reasons[i].reason;
	return "";
}

static bool may_declare_length(const struct http_head *h)
{
	return h->method || (h->status >= 200 && h->status != 204);
}

/* How to write a message, for a client of HTTP/1.0 or (`to_1_0` false) for HTTP/1.1. */
enum http1_body http1_body_of(const struct http_head *h, bool to_1_0)
{
	if (h->length_bytes != HTTP_LENGTH_UNKNOWN && may_declare_length(h))
		return HTTP1_LENGTH;
	return !h->has_body ? HTTP1_NO_BODY : to_1_0 && !h->method ? HTTP1_UNTIL_CLOSE : HTTP1_CHUNKED;
}

/* Whether a text can be written: it may have been changed since it was read. */
static bool is_head_sound(const struct http_head *h)
{
	size_t host_bytes;
	unsigned port;
	if (!h->method)
		return h->status >= 100 && h->status <= 599;
	return http_is_token(h->method, strlen(h->method)) && h->authority && h->path &&
	       http_parse_authority(h->authority, strlen(h->authority), &host_bytes, &port) &&
	       (http_is_path(h->path, strlen(h->path)) || strcmp(h->path, "*") == 0);
}

/* How much room a head takes: so that what is in it is written once, and not moved. */
static size_t estimate_bytes(const struct http_head *h)
{
	size_t bytes = 256 + h->fields.bytes + h->fields.count * 4;
	return h->method ? bytes + strlen(h->method) + strlen(h->path) + strlen(h->authority) : bytes;
}

static int put_text(struct buf *out, const char *text)
{
	return buf_add(out, text, strlen(text));
}

static int put_field(struct buf *out, const char *name, const char *value)
{
	int rc = put_text(out, name);
	rc = rc ? rc : put_text(out, ": ");
	rc = rc ? rc : put_text(out, value);
	return rc ? rc : put_text(out, "\r\n");
}

/* Fields, without those that are written anew. -EINVAL: one cannot be written. */
static int put_fields(struct buf *out, const struct http_fields *f, bool trailers)
{
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < f->count; i++) {
		const char *name = f->item[i].name, *value = f->item[i].value;
		size_t name_bytes = strlen(name);
		if (!http_is_token(name, name_bytes) || !http_is_value(value, strlen(value)))
			return -EINVAL;
		if (trailers ? http_may_trail(name, name_bytes) : http_name_kind(name, name_bytes) == HTTP_NAME_ORDINARY)
			rc = put_field(out, name, value);
	}
	return rc;
}

/* What is about this connection only. */
static int put_connection(struct buf *out, const struct http_head *h, bool close)
{
	bool te = h->method && h->trailers;
	int rc = te ? put_field(out, "TE", "trailers") : 0;
	if (rc == 0 && h->upgrade)
		rc = put_field(out, "Upgrade", "websocket");
	if (rc || (!te && !h->upgrade && !close))
		return rc;
	char options[32];
	snprintf(options, sizeof options, "%s%s%s", close ? "close, " : "", te ? "TE, " : "", h->upgrade ? "Upgrade, " : "");
	options[strlen(options) - 2] = 0;
	return put_field(out, "Connection", options);
}

static int put_framing(struct buf *out, const struct http_head *h, enum http1_body how)
{
	char length[24];
	if (how == HTTP1_CHUNKED)
		return put_field(out, "Transfer-Encoding", "chunked");
	if (how != HTTP1_LENGTH)
		return 0;
	assert(h->length_bytes >= 0);
	snprintf(length, sizeof length, "%lld", (long long)h->length_bytes);
	return put_field(out, "Content-Length", length);
}

static int put_first_line(struct buf *out, const struct http_head *h)
{
	if (!h->method)
		return buf_addf(out, "HTTP/1.1 %u %s\r\n", h->status, reason_of(h->status));
	int rc = put_text(out, h->method);
	rc = rc ? rc : put_text(out, " ");
	rc = rc ? rc : put_text(out, h->path);
	rc = rc ? rc : put_text(out, " HTTP/1.1\r\n");
	return rc ? rc : put_field(out, "Host", h->authority);
}

/*
 * Adds a head whose body follows as `how` says, from http1_body_of(); `close`: nothing follows this message on the connection.
 * HTTP1_NO_BODY of a response is for one that has none by its nature (to HEAD, 204, 304, 1xx): others are of length 0.
 * Returns 0, -ENOMEM, or -EINVAL when the head has what cannot be sent; `out` is as it was then.
 */
int http1_put_head(struct buf *out, const struct http_head *h, enum http1_body how, bool close)
{
	size_t before = out->len;
	bool framed = how == HTTP1_LENGTH || how == HTTP1_CHUNKED;
	int rc = is_head_sound(h) && (!framed || may_declare_length(h)) ? 0 : -EINVAL;
	rc = rc ? rc : buf_reserve(out, estimate_bytes(h));
	rc = rc ? rc : put_first_line(out, h);
	rc = rc ? rc : put_fields(out, &h->fields, false);
	rc = rc ? rc : put_framing(out, h, how);
	if (rc == 0 && h->method && h->expects_continue)
		rc = put_field(out, "Expect", "100-continue");
	rc = rc ? rc : put_connection(out, h, close || how == HTTP1_UNTIL_CLOSE);
	rc = rc ? rc : put_text(out, "\r\n");
	if (rc)
		out->len = before;
	return rc;
}

/* Adds a piece of the body; as a chunk, if that is how. Returns 0 or -ENOMEM. */
int http1_put_data(struct buf *out, enum http1_body how, const void *data, size_t len_bytes)
{
	if (how != HTTP1_CHUNKED)
		return buf_add(out, data, len_bytes);
	if (len_bytes == 0) /* would be the last */
		return 0;
	int rc = buf_reserve(out, len_bytes + 32);
	rc = rc ? rc : buf_addf(out, "%zx\r\n", len_bytes);
	rc = rc ? rc : buf_add(out, data, len_bytes);
	return rc ? rc : put_text(out, "\r\n");
}

/* Adds the end of the body, with trailers (or NULL) if it is chunked. Returns as http1_put_head(). */
int http1_put_end(struct buf *out, enum http1_body how, const struct http_fields *trailers)
{
	if (how != HTTP1_CHUNKED)
		return 0;
	size_t before = out->len;
	int rc = put_text(out, "0\r\n");
	rc = rc || !trailers ? rc : put_fields(out, trailers, true);
	rc = rc ? rc : put_text(out, "\r\n");
	if (rc)
		out->len = before;
	return rc;
}
