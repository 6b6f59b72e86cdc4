/*
 * Theory of operation
 * -------------------
 * Purpose: what a guest asks and what a server answers, in the form that the gate checks and changes (http.h), and from it
 * the bytes for the other side. What is written comes from that form alone: no byte is passed on that was not understood, so
 * that the two sides cannot see different messages in one stream (request smuggling).
 *
 * Reading goes by lines, each of which is taken when it is whole: http1_head.c makes a head of them. A reader holds no bytes;
 * the caller keeps what was not taken, which is at most a line, and gives it again with more behind it. How the bytes are cut
 * makes no difference to what is found.
 *
 * Requests are read as strictly as virtio/net/http_request.c reads them. Of responses what says where they end is read
 * strictly, and as for the rest all that curl takes and can be written again.
 */
#include "virtio/net/gate/http1.h"

#include <assert.h>
#include <string.h>

#include "virtio/net/gate/http1_head.h"
#include "virtio/net/gate/http_text.h"

enum {
	CHUNK_LINE_MAX_BYTES = 256,
	CHUNK_SIZE_MAX_DIGITS = 16,
};

/* Starts to read a connection. Of responses, each must be asked for: http1_in_ask(). */
void http1_in_init(struct http1_in *in, enum http1_role role)
{
	*in = (struct http1_in){.role = role, .head.length_bytes = HTTP_LENGTH_UNKNOWN};
}

/* Frees what a reader has. */
void http1_in_free(struct http1_in *in)
{
	http_head_free(&in->head);
	http_fields_free(&in->seen.options);
	http_fields_free(&in->trailers);
}

/* The next response will be to `request`, which says what there is to expect. To be called when the one before has ended. */
void http1_in_ask(struct http1_in *in, const struct http_head *request)
{
	assert(in->role == HTTP1_RESPONSES && !in->asked);
	in->asked = true;
	in->asked_head = strcmp(request->method, "HEAD") == 0;
	in->asked_upgrade = request->upgrade;
}

/*
 * Takes a line of at most `limit` bytes, with its CR LF, going on where it stopped last time. Returns how long it is, or 0:
 * more is needed, or, with `wrong`, it cannot be.
 */
static size_t find_line(struct http1_in *in, const uint8_t *data, size_t len_bytes, size_t limit, struct http1_wrong *wrong)
{
	size_t most = len_bytes < limit ? len_bytes : limit;
	assert(in->scanned <= most);
	const uint8_t *end = memchr(data + in->scanned, '\n', most - in->scanned);
	in->scanned = end ? 0 : most;
	if (!end && most == limit)
		http1_wrong(wrong, in->state == HTTP1_CHUNK_SIZE ? 400 : 431, "an HTTP line, or head, that is too long");
	if (!end)
		return 0;
	size_t bytes = (size_t)(end - data) + 1;
	if (bytes >= 2 && data[bytes - 2] == '\r')
		return bytes;
	http1_wrong(wrong, 400, "an HTTP line that does not end with CR LF");
	return 0;
}

/* ---- Heads and trailers ---- */

/* A line of a head or a trailer, which both have their limit. */
static size_t find_head_line(struct http1_in *in, const uint8_t *data, size_t len_bytes, struct http1_wrong *wrong)
{
	size_t n = find_line(in, data, len_bytes, HTTP_FIELDS_MAX_BYTES - in->taken, wrong);
	in->taken += n;
	return n;
}

static size_t take_start(struct http1_in *in, const uint8_t *data, size_t len_bytes, struct http1_wrong *wrong)
{
	if (in->role == HTTP1_RESPONSES && !in->asked && len_bytes)
		http1_wrong(wrong, 502, "an HTTP response that nobody asked for");
	else
		http1_check_start(in->role, data, len_bytes, wrong);
	size_t n = wrong->status ? 0 : find_head_line(in, data, len_bytes, wrong);
	if (n == 0)
		return 0;
	http_fields_free(&in->trailers);
	struct http1_text line = {(const char *)data, n - 2};
	if (in->role == HTTP1_REQUESTS ? http1_request_line(in, line, wrong) : http1_status_line(in, line, wrong))
		in->state = HTTP1_FIELDS;
	return n;
}

/* The head is whole, and is the caller's. */
static enum http1_event give_head(struct http1_in *in, struct http1_found *found, struct http1_wrong *wrong)
{
	if (!http1_end_head(in, wrong))
		return HTTP1_BAD;
	found->head = in->head;
	found->is_1_0 = in->seen.is_1_0;
	in->close = in->head.close;
	http_fields_free(&in->seen.options);
	in->head = (struct http_head){.length_bytes = HTTP_LENGTH_UNKNOWN};
	in->seen = (struct http1_seen){0};
	in->taken = 0;
	return HTTP1_HEAD;
}

static size_t take_trailer(struct http1_in *in, const uint8_t *data, size_t len_bytes, struct http1_wrong *wrong)
{
	size_t n = find_head_line(in, data, len_bytes, wrong);
	if (n == 2)
		in->state = HTTP1_ENDED;
	if (n <= 2)
		return n;
	struct http1_text line = {(const char *)data, n - 2}, name, value;
	if (http1_split_field(line, &name, &value, wrong) && http_may_trail(name.at, name.bytes))
		http1_added(http_add(&in->trailers, name.at, name.bytes, value.at, value.bytes), wrong);
	return n;
}

/* ---- Bodies ---- */

static int hex(uint8_t c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The line of a chunk's size; an extension ends with it. */
static size_t take_chunk_size(struct http1_in *in, const uint8_t *data, size_t len_bytes, struct http1_wrong *wrong)
{
	size_t n = find_line(in, data, len_bytes, CHUNK_LINE_MAX_BYTES, wrong), digits = 0;
	if (n == 0)
		return 0;
	uint64_t size = 0;
	for (; digits < CHUNK_SIZE_MAX_DIGITS && hex(data[digits]) >= 0; digits++)
		size = size << 4 | (uint64_t)hex(data[digits]);
	size_t end = n - 2;
	while (end > digits && (data[end - 1] == ' ' || data[end - 1] == '\t'))
		end--;
	bool extension = data[digits] == ';' && http_is_value((const char *)data + digits, end - digits);
	if (digits == 0 || (digits < n - 2 && !extension)) {
		http1_wrong(wrong, 400, "a malformed HTTP chunk");
		return 0;
	}
	in->left = size;
	in->state = size ? HTTP1_CHUNK : HTTP1_TRAILERS;
	return n;
}

static size_t take_chunk_end(struct http1_in *in, const uint8_t *data, size_t len_bytes, struct http1_wrong *wrong)
{
	if (memcmp(data, "\r\n", len_bytes < 2 ? len_bytes : 2) != 0)
		http1_wrong(wrong, 400, "a malformed HTTP chunk");
	if (wrong->status || len_bytes < 2)
		return 0;
	in->state = HTTP1_CHUNK_SIZE;
	return 2;
}

static size_t take_data(struct http1_in *in, const uint8_t *data, size_t len_bytes, struct http1_found *found)
{
	bool until_eof = in->state == HTTP1_UNTIL_EOF;
	size_t n = until_eof || in->left > len_bytes ? len_bytes : (size_t)in->left;
	found->data = data;
	found->len_bytes = n;
	if (until_eof)
		return n;
	in->left -= n;
	if (in->left == 0)
		in->state = in->state == HTTP1_BODY ? HTTP1_ENDED : HTTP1_CHUNK_END;
	return n;
}

/* ---- All of it ---- */

static enum http1_event take_end(struct http1_in *in)
{
	in->state = in->close ? HTTP1_OVER : HTTP1_START;
	in->taken = 0;
	in->asked = false;
	return HTTP1_END;
}

/*
 * Takes what the state is about: *n bytes. Returns HTTP1_MORE when it is nothing that the caller hears of; with *n == 0,
 * more is needed.
 */
static enum http1_event take_next(struct http1_in *in, const uint8_t *at, size_t left, size_t *n, struct http1_found *found,
				  struct http1_wrong *wrong)
{
	*n = 0;
	switch (in->state) {
	case HTTP1_START:
		*n = take_start(in, at, left, wrong);
		return HTTP1_MORE;
	case HTTP1_FIELDS:
		*n = find_head_line(in, at, left, wrong);
		if (*n == 2)
			return give_head(in, found, wrong);
		if (*n)
			http1_field(in, (struct http1_text){(const char *)at, *n - 2}, wrong);
		return HTTP1_MORE;
	case HTTP1_BODY:
	case HTTP1_UNTIL_EOF:
	case HTTP1_CHUNK:
		*n = take_data(in, at, left, found);
		return *n ? HTTP1_DATA : HTTP1_MORE;
	case HTTP1_CHUNK_SIZE:
		*n = take_chunk_size(in, at, left, wrong);
		return HTTP1_MORE;
	case HTTP1_CHUNK_END:
		*n = take_chunk_end(in, at, left, wrong);
		return HTTP1_MORE;
	case HTTP1_TRAILERS:
		*n = take_trailer(in, at, left, wrong);
		return HTTP1_MORE;
	case HTTP1_ENDED:
		return take_end(in);
	case HTTP1_OVER:
		return HTTP1_MORE;
	}
	return HTTP1_MORE;
}

/*
 * Goes on in a connection: `data` begins where the last call's *taken ended. To be called until it returns HTTP1_MORE, also
 * with no data: an end may be all that is to be said. What was not taken then is given again, with more behind it.
 *
 * A message is HTTP1_HEAD, HTTP1_DATA any number of times, HTTP1_END. An interim response (1xx) is HTTP1_HEAD only, and the
 * response comes after it. After 101 there is nothing more: what follows, and was not taken, is another protocol; for the same
 * reason the caller does not go on after a request's end with `upgrade` before it knows the answer. After a message with
 * `close` nothing more is taken. After HTTP1_BAD the connection is of no use: 502 if the server is to blame.
 */
enum http1_event http1_next(struct http1_in *in, const uint8_t *data, size_t len_bytes, size_t *taken, struct http1_found *found)
{
	struct http1_wrong wrong = {0};
	*found = (struct http1_found){.head.length_bytes = HTTP_LENGTH_UNKNOWN};
	*taken = 0;
	data = len_bytes ? data : (const uint8_t *)"";
	for (;;) {
		size_t n;
		enum http1_state state = in->state;
		enum http1_event event = take_next(in, data + *taken, len_bytes - *taken, &n, found, &wrong);
		if (wrong.status) {
			found->status = in->role == HTTP1_RESPONSES && wrong.status != 500 ? 502 : wrong.status;
			found->reason = wrong.reason;
			in->state = HTTP1_OVER;
			return HTTP1_BAD;
		}
		*taken += n;
		if (event != HTTP1_MORE || (n == 0 && in->state == state))
			return event;
	}
}

/*
 * The connection's bytes have ended, all that there are having been given to http1_next(). Returns HTTP1_END for the end of
 * a body that has no other; HTTP1_MORE between messages, where nothing is missing; HTTP1_BAD within one, or where a response
 * was to come.
 */
enum http1_event http1_eof(struct http1_in *in, struct http1_found *found)
{
	*found = (struct http1_found){.head.length_bytes = HTTP_LENGTH_UNKNOWN};
	if (in->state == HTTP1_UNTIL_EOF)
		return take_end(in);
	if (in->state == HTTP1_OVER || (in->state == HTTP1_START && in->scanned == 0 && !in->asked))
		return HTTP1_MORE;
	found->status = in->role == HTTP1_RESPONSES ? 502 : 400;
	found->reason = in->role == HTTP1_RESPONSES ? "an HTTP response that is not whole" : "an HTTP request that is not whole";
	return HTTP1_BAD;
}
