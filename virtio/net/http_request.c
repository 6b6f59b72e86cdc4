#include "virtio/net/http_request.h"

#include <stdbool.h>
#include <string.h>

enum {
	CHUNK_LINE_MAX_BYTES = 256,
	METHOD_MAX_BYTES = 32,
};

static bool is_token(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool text_is(struct text t, const char *word)
{
	if (t.bytes != strlen(word))
		return false;
	for (size_t i = 0; i < t.bytes; i++)
		if ((t.at[i] >= 'A' && t.at[i] <= 'Z' ? t.at[i] + 32 : t.at[i]) != word[i])
			return false;
	return true;
}

static bool bad(struct http_denial *wrong, unsigned status, const char *reason)
{
	*wrong = (struct http_denial){status, reason};
	return false;
}

/* METHOD SP TARGET SP HTTP/1.x (RFC 9112, section 3). */
static bool parse_request_line(struct text line, struct http_request *r, bool *is_1_1, struct http_denial *wrong)
{
	const char *space = memchr(line.at, ' ', line.bytes), *end = line.at + line.bytes;
	const char *second = space ? memchr(space + 1, ' ', (size_t)(end - space - 1)) : NULL;
	if (!second || end - second != 9 || memcmp(second + 1, "HTTP/1.", 7) != 0 || (end[-1] != '0' && end[-1] != '1'))
		return bad(wrong, 400, "what is sent is not HTTP/1.1");
	*is_1_1 = end[-1] == '1';
	r->method = (struct text){line.at, (size_t)(space - line.at)};
	r->target = (struct text){space + 1, (size_t)(second - space - 1)};
	for (size_t i = 0; i < r->method.bytes; i++)
		if (i == METHOD_MAX_BYTES || !is_token(r->method.at[i]))
			return bad(wrong, 400, "a malformed HTTP method");
	for (size_t i = 0; i < r->target.bytes; i++)
		if ((unsigned char)r->target.at[i] <= ' ' || r->target.at[i] == 0x7f)
			return bad(wrong, 400, "a malformed HTTP target");
	return r->method.bytes && r->target.bytes ? true : bad(wrong, 400, "what is sent is not HTTP/1.1");
}

/*
 * Looks at the first line of a head as it comes: who speaks another protocol would wait for an answer to it otherwise. `at` is
 * where the head begins; its byte `i` is new.
 */
static bool check_first_line(struct http_stream *s, const char *at, size_t i, struct http_denial *wrong)
{
	struct http_request ignored;
	bool is_1_1;
	if (at[i] == '\n')
		return parse_request_line((struct text){at, i - 1}, &ignored, &is_1_1, wrong);
	if (!s->method_ended && at[i] != ' ' && (i == METHOD_MAX_BYTES || !is_token(at[i])))
		return bad(wrong, 400, "what is sent is not HTTP/1.1");
	s->method_ended |= at[i] == ' ';
	return true;
}

/*
 * Looks for the empty line that ends a head or a trailer, going on where it stopped last time, so that the cost is linear.
 * Returns how many bytes there are until after it, or 0: more are needed, or, with `wrong`, it cannot be.
 */
static size_t find_end(struct http_stream *s, const uint8_t *data, size_t len_bytes, struct http_denial *wrong)
{
	for (; s->scanned < len_bytes; s->scanned++) {
		uint8_t c = data[s->scanned];
		bool after_cr = s->scanned > s->line_start && data[s->scanned - 1] == '\r';
		bool first_line = s->state == HTTP_HEAD && s->line_start == 0;
		if (s->scanned == HTTP_HEAD_MAX_BYTES)
			bad(wrong, 431, "an HTTP head of more than 64 KiB");
		else if (c == 0 || after_cr != (c == '\n'))
			bad(wrong, 400, "an HTTP line that does not end with CR LF, or has a NUL");
		else if (first_line)
			check_first_line(s, (const char *)data, s->scanned, wrong);
		if (wrong->status)
			return 0;
		if (c != '\n')
			continue;
		if (s->scanned - s->line_start == 1) {
			size_t bytes = s->scanned + 1;
			s->scanned = s->line_start = 0;
			s->method_ended = false;
			return bytes;
		}
		s->line_start = s->scanned + 1;
	}
	return 0;
}

/* Takes a line, which is there, without its end. */
static struct text take_line(const char **at)
{
	const char *end = strchr(*at, '\r'); /* find_end() has seen it */
	struct text line = {*at, (size_t)(end - *at)};
	*at = end + 2;
	return line;
}

/* NAME: VALUE, without the spaces around the value (RFC 9112, section 5). */
static bool parse_field(struct text line, struct text *name, struct text *value, struct http_denial *wrong)
{
	const char *colon = memchr(line.at, ':', line.bytes), *end = line.at + line.bytes;
	if (line.at[0] == ' ' || line.at[0] == '\t')
		return bad(wrong, 400, "an HTTP field folded over lines");
	if (!colon || colon == line.at)
		return bad(wrong, 400, "a malformed HTTP field");
	*name = (struct text){line.at, (size_t)(colon - line.at)};
	for (size_t i = 0; i < name->bytes; i++)
		if (!is_token(name->at[i]))
			return bad(wrong, 400, "a malformed HTTP field");
	const char *at = colon + 1;
	while (at < end && (*at == ' ' || *at == '\t'))
		at++;
	while (end > at && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	*value = (struct text){at, (size_t)(end - at)};
	return true;
}

static bool parse_length(struct text value, uint64_t *out)
{
	*out = 0;
	if (value.bytes == 0 || value.bytes > 18)
		return false;
	for (size_t i = 0; i < value.bytes; i++) {
		if (value.at[i] < '0' || value.at[i] > '9')
			return false;
		*out = *out * 10 + (uint64_t)(value.at[i] - '0');
	}
	return true;
}

/* What the fields say of where the body ends, and whose the request is. */
struct fields {
	bool has_host, has_length, chunked, expects;
	uint64_t length;
};

static bool take_field(struct text name, struct text value, struct http_request *r, struct fields *f, struct http_denial *wrong)
{
	if (text_is(name, "host")) {
		if (f->has_host)
			return bad(wrong, 400, "two HTTP Host fields");
		f->has_host = true;
		r->host = value;
	} else if (text_is(name, "content-length")) {
		if (f->has_length || !parse_length(value, &f->length))
			return bad(wrong, 400, "an HTTP Content-Length that is not one number");
		f->has_length = true;
	} else if (text_is(name, "expect")) {
		if (f->expects || !text_is(value, "100-continue"))
			return bad(wrong, 400, "an HTTP Expect other than 100-continue");
		f->expects = true;
	} else if (text_is(name, "transfer-encoding")) {
		if (f->chunked || !text_is(value, "chunked"))
			return bad(wrong, 400, "an HTTP Transfer-Encoding other than chunked");
		f->chunked = true;
	}
	return true;
}

static bool parse_head(struct http_stream *s, const char *at, const char *end, struct http_request *r, struct http_denial *wrong)
{
	struct fields f = {0};
	bool is_1_1;
	if (!parse_request_line(take_line(&at), r, &is_1_1, wrong))
		return false;
	while (at < end - 2) {
		struct text name, value;
		if (!parse_field(take_line(&at), &name, &value, wrong) || !take_field(name, value, r, &f, wrong))
			return false;
	}
	if (!f.has_host)
		return bad(wrong, 400, "an HTTP request without a Host field");
	if (f.chunked && (f.has_length || !is_1_1))
		return bad(wrong, 400, "an HTTP request whose length is ambiguous");
	s->state = f.chunked ? HTTP_CHUNK_SIZE : f.length ? HTTP_BODY : HTTP_HEAD;
	s->left = f.length;
	return true;
}

static int hex(uint8_t c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The line of a chunk's size; extensions are not looked at. Returns its length, or 0 as find_end(). */
static size_t parse_chunk_size(struct http_stream *s, const uint8_t *data, size_t len_bytes, struct http_denial *wrong)
{
	size_t limit = len_bytes < CHUNK_LINE_MAX_BYTES ? len_bytes : CHUNK_LINE_MAX_BYTES, digits = 0;
	uint64_t size = 0;
	while (digits < limit && digits < 15 && hex(data[digits]) >= 0)
		size = size << 4 | (uint64_t)hex(data[digits++]);
	bool ok = digits > 0;
	for (size_t i = digits; ok && i < limit; i++) {
		bool after_cr = data[i - 1] == '\r';
		if (after_cr && data[i] == '\n') {
			s->left = size;
			s->state = size ? HTTP_CHUNK : HTTP_TRAILER;
			return i + 1;
		}
		ok = !after_cr && data[i] != '\n' && data[i] != 0 && (i > digits || data[i] == '\r' || data[i] == ';');
	}
	if (!ok || limit == CHUNK_LINE_MAX_BYTES)
		bad(wrong, 400, "a malformed HTTP chunk");
	return 0;
}

/*
 * A trailer must be fields, too: a server that ignores it may not take it for something else. Fields that count in a head
 * (RFC 9110, 6.5.1) may not be there for servers that merge both.
 */
static bool check_trailer(const char *at, const char *end, struct http_denial *wrong)
{
	while (at < end - 2) {
		struct text name, value;
		if (!parse_field(take_line(&at), &name, &value, wrong))
			return false;
		if (text_is(name, "host") || text_is(name, "content-length") || text_is(name, "transfer-encoding"))
			return bad(wrong, 400, "an HTTP trailer with a field of a head");
	}
	return true;
}

static size_t take_body(struct http_stream *s, size_t len_bytes)
{
	size_t n = s->left < len_bytes ? (size_t)s->left : len_bytes;
	s->left -= n;
	if (s->left == 0)
		s->state = s->state == HTTP_BODY ? HTTP_HEAD : HTTP_CHUNK_END;
	return n;
}

static size_t take_chunk_end(struct http_stream *s, const uint8_t *data, size_t len_bytes, struct http_denial *wrong)
{
	if (data[0] != '\r' || (len_bytes > 1 && data[1] != '\n')) {
		bad(wrong, 400, "a malformed HTTP chunk");
		return 0;
	}
	if (len_bytes < 2)
		return 0;
	s->state = HTTP_CHUNK_SIZE;
	return 2;
}

/* Takes what the state is about. Returns how much that is; 0: more is needed, or, with `wrong`, it cannot be. */
static size_t take_next(struct http_stream *s, const uint8_t *at, size_t left, struct http_request *request,
			struct http_denial *wrong)
{
	size_t n;
	switch (s->state) {
	case HTTP_HEAD:
		*request = (struct http_request){0};
		n = find_end(s, at, left, wrong);
		if (n)
			parse_head(s, (const char *)at, (const char *)at + n, request, wrong);
		return n;
	case HTTP_BODY:
	case HTTP_CHUNK:
		return take_body(s, left);
	case HTTP_CHUNK_SIZE:
		return parse_chunk_size(s, at, left, wrong);
	case HTTP_CHUNK_END:
		return take_chunk_end(s, at, left, wrong);
	default: /* HTTP_TRAILER */
		n = find_end(s, at, left, wrong);
		if (n && check_trailer((const char *)at, (const char *)at + n, wrong))
			s->state = HTTP_HEAD;
		return n;
	}
}

/*
 * Goes on in a stream of requests: `data` begins where the last call's *taken ended (what was not taken is given again, with
 * more behind it). Returns HTTP_REQUEST with `request` when a head, and no more, was taken, HTTP_DATA when what comes before
 * one was: to be called again for what follows; HTTP_MORE when all was taken that can be; HTTP_BAD with `wrong`, after which
 * the stream is over. Pure but for `s`.
 */
enum http_event http_next(struct http_stream *s, const uint8_t *data, size_t len_bytes, size_t *taken, struct http_request *request,
			  struct http_denial *wrong)
{
	*wrong = (struct http_denial){0};
	*taken = 0;
	while (*taken < len_bytes) {
		bool head = s->state == HTTP_HEAD;
		if (head && *taken)
			return HTTP_DATA;
		size_t n = take_next(s, data + *taken, len_bytes - *taken, request, wrong);
		if (wrong->status)
			return HTTP_BAD;
		*taken += n;
		if (n && head)
			return HTTP_REQUEST;
		if (n == 0)
			break;
	}
	return HTTP_MORE;
}
