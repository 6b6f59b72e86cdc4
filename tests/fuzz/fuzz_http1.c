/*
 * A connection's bytes as requests or, the first byte saying so, as responses to what was asked. All at once, byte by byte and
 * in pieces: the same messages. What is written of them reads as the same again, and requests pass the device's check, too.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/http1.h"
#include "virtio/net/http_request.h"

enum {
	RESPONSES = 1,
	TO_HEAD = 2,
	TO_UPGRADE = 4,
};

struct run {
	unsigned how;
	struct http1_in in;
	struct http_head head; /* of the message that has begun */
	enum http1_body body_how;
	struct buf body, out; /* out: of whole messages, written again */
	size_t passed, requests;
	bool bad, truncated;
	unsigned status;
};

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* A reader whose next message may come, whatever it is. */
static void prepare(struct run *r)
{
	struct http_head request = {.method = r->how & TO_HEAD ? "HEAD" : "GET", .upgrade = r->how & TO_UPGRADE};
	if (r->how & RESPONSES && r->in.state != HTTP1_OVER)
		http1_in_ask(&r->in, &request);
}

static void start(struct run *r, unsigned how)
{
	*r = (struct run){.how = how};
	http1_in_init(&r->in, how & RESPONSES ? HTTP1_RESPONSES : HTTP1_REQUESTS);
	prepare(r);
}

static void finish(struct run *r)
{
	http1_in_free(&r->in);
	http_head_free(&r->head);
	buf_free(&r->body);
	buf_free(&r->out);
}

static void take_end(struct run *r)
{
	must(http1_put_head(&r->out, &r->head, r->body_how, r->head.close) == 0);
	must(http1_put_data(&r->out, r->body_how, r->body.data, r->body.len) == 0);
	must(http1_put_end(&r->out, r->body_how, &r->in.trailers) == 0);
	must(r->head.has_body || r->body.len == 0);
	must(r->body_how != HTTP1_LENGTH || !r->head.has_body || (size_t)r->head.length_bytes == r->body.len);
	http_head_free(&r->head);
	r->body.len = 0;
	r->requests++;
	prepare(r);
}

static void take_head(struct run *r, struct http1_found *found)
{
	r->head = found->head;
	r->body_how = http1_body_of(&r->head, false);
	if (!r->head.method && r->head.status < 200) {
		must(http1_put_head(&r->out, &r->head, r->body_how, r->head.close) == 0);
		http_head_free(&r->head);
	}
}

/* The first `bytes` of `data` are there. The reader gets exactly those that it may read. */
static void look(struct run *r, const uint8_t *data, size_t bytes)
{
	enum http1_event event;
	struct http1_found found;
	size_t left = bytes - r->passed, at = 0, taken;
	uint8_t *exact = malloc(left ? left : 1);
	if (left)
		memcpy(exact, data + r->passed, left);
	do {
		event = http1_next(&r->in, exact + at, left - at, &taken, &found);
		must(taken <= left - at);
		if (event == HTTP1_HEAD)
			take_head(r, &found);
		if (event == HTTP1_DATA) {
			must(found.len_bytes && found.data >= exact + at && found.data + found.len_bytes == exact + at + taken);
			must(buf_add(&r->body, found.data, found.len_bytes) == 0);
		}
		if (event == HTTP1_END)
			take_end(r);
		at += taken;
	} while (event != HTTP1_MORE && event != HTTP1_BAD);
	r->passed += at;
	r->bad = event == HTTP1_BAD;
	r->status = r->bad ? found.status : 0;
	must(!r->bad || (found.reason && r->status >= 400));
	free(exact);
}

static void see_eof(struct run *r)
{
	struct http1_found found;
	enum http1_event event = http1_eof(&r->in, &found);
	if (event == HTTP1_END)
		take_end(r);
	r->truncated = event == HTTP1_BAD;
}

/* `step` bytes at a time; 0: all. */
static void run(struct run *r, unsigned how, const uint8_t *data, size_t size, size_t step)
{
	start(r, how);
	look(r, data, step ? 0 : size);
	for (size_t bytes = 0; step && bytes < size && !r->bad;) {
		bytes = size - bytes < step ? size : bytes + step;
		look(r, data, bytes);
	}
	if (!r->bad)
		see_eof(r);
}

static void must_agree(const struct run *a, const struct run *b)
{
	must(a->bad == b->bad && a->status == b->status && a->truncated == b->truncated && a->requests == b->requests);
	must(a->out.len == b->out.len && (a->out.len == 0 || memcmp(a->out.data, b->out.data, a->out.len) == 0));
}

static void must_pass_device(const struct run *r)
{
	struct http_stream stream = {0};
	struct http_request request;
	struct http_denial wrong;
	size_t passed = 0, requests = 0, taken;
	enum http_event event;
	do {
		event = http_next(&stream, r->out.data + passed, r->out.len - passed, &taken, &request, &wrong);
		requests += event == HTTP_REQUEST;
		passed += taken;
	} while (event == HTTP_REQUEST || event == HTTP_DATA);
	must(event == HTTP_MORE && passed == r->out.len && requests == r->requests && stream.state == HTTP_HEAD);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct run whole, cut, again;
	if (size < 2)
		return 0;
	unsigned how = data[0];
	size_t step = data[1] % 64u + 1;
	data += 2;
	size -= 2;
	run(&whole, how, data, size, 0);
	run(&cut, how, data, size, 1);
	must_agree(&whole, &cut);
	finish(&cut);
	run(&cut, how, data, size, step);
	must_agree(&whole, &cut);
	finish(&cut);
	run(&again, how, whole.out.data, whole.out.len, 0);
	must(!again.bad && again.requests == whole.requests && again.out.len == whole.out.len);
	must(whole.out.len == 0 || memcmp(again.out.data, whole.out.data, whole.out.len) == 0);
	finish(&again);
	if (!(how & RESPONSES) && whole.out.len)
		must_pass_device(&whole);
	finish(&whole);
	return 0;
}
