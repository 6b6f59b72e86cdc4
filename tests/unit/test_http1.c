/* virtio/net/gate: http1.c, http1_head.c, http1_write.c. What is read of a connection, however it is cut, and what is written. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/http1.h"

TestSuite(http1, .timeout = 60);

#define H "Host: a\r\n"
#define GET "GET / HTTP/1.1\r\n"
#define POST "POST / HTTP/1.1\r\n" H
#define CHUNKED POST "Transfer-Encoding: chunked\r\n\r\n"
#define OK "HTTP/1.1 200 OK\r\n"
#define UPGRADED "Connection: upgrade\r\nUpgrade: websocket\r\n"
#define COUNT(a) (sizeof(a) / sizeof (a)[0])

/* ---- Reading, as a transcript ---- */

/* What a response answers. */
static const struct http_head to_get = {.method = "GET"}, to_head = {.method = "HEAD"},
			      to_upgrade = {.method = "GET", .upgrade = true};

struct run {
	struct http1_in in;
	const struct http_head *request; /* NULL: requests are read */
	struct buf text;                 /* the transcript */
	bool in_body;
	bool over; /* bad */
	bool eof;
	size_t passed;
	struct buf *out; /* whole messages are written to it, too; or NULL */
	struct http_head head;
	struct buf body;
};

static void say(struct run *r, const char *word)
{
	if (r->text.len && !r->in_body)
		buf_add(&r->text, " ", 1);
	buf_add(&r->text, word, strlen(word));
}

static void say_fields(struct run *r, const struct http_fields *f)
{
	for (size_t i = 0; i < f->count; i++)
		buf_addf(&r->text, " (%s: %s)", f->item[i].name, f->item[i].value);
}

/* METHOD AUTHORITY PATH or STATUS, what else is set, and the fields. */
static void say_head(struct run *r, const struct http_head *h)
{
	say(r, "");
	if (h->method)
		buf_addf(&r->text, "%s %s %s", h->method, h->authority, h->path);
	else
		buf_addf(&r->text, "%u", h->status);
	buf_addf(&r->text, "%s", h->has_body ? " body" : "");
	if (h->length_bytes != HTTP_LENGTH_UNKNOWN)
		buf_addf(&r->text, " %lld", (long long)h->length_bytes);
	buf_addf(&r->text, "%s%s%s%s", h->upgrade ? " upgrade" : "", h->expects_continue ? " expects" : "",
		 h->close ? " close" : "", h->trailers ? " te" : "");
	say_fields(r, &h->fields);
}

static void say_end(struct run *r)
{
	if (r->in_body)
		buf_add(&r->text, ">", 1);
	r->in_body = false;
	say(r, "end");
	say_fields(r, &r->in.trailers);
}

static void write_message(struct run *r)
{
	enum http1_body how = http1_body_of(&r->head, false);
	cr_assert_eq(http1_put_head(r->out, &r->head, how, r->head.close), 0);
	if (r->head.method || r->head.status >= 200) {
		cr_assert_eq(http1_put_data(r->out, how, r->body.data, r->body.len), 0);
		cr_assert_eq(http1_put_end(r->out, how, &r->in.trailers), 0);
	}
	http_head_free(&r->head);
	r->body.len = 0;
}

static void take(struct run *r, enum http1_event event, struct http1_found *found)
{
	if (event == HTTP1_HEAD) {
		say_head(r, &found->head);
		r->head = found->head;
		if (!r->out)
			http_head_free(&r->head);
		else if (!r->head.method && r->head.status < 200)
			write_message(r);
	} else if (event == HTTP1_DATA) {
		if (!r->in_body)
			say(r, "<");
		r->in_body = true;
		buf_add(&r->text, found->data, found->len_bytes);
		buf_add(&r->body, found->data, found->len_bytes);
	} else if (event == HTTP1_END) {
		say_end(r);
		if (r->out)
			write_message(r);
		if (r->request && r->in.state != HTTP1_OVER)
			http1_in_ask(&r->in, r->request);
	} else if (event == HTTP1_BAD) {
		cr_assert(found->reason);
		r->in_body = false;
		say(r, "");
		if (r->eof)
			buf_addf(&r->text, "!eof");
		else
			buf_addf(&r->text, "!%u", found->status);
		r->over = true;
	}
}

/* The first `bytes` of `data` are there; the reader gets exactly those that it may read. */
static void look(struct run *r, const void *data, size_t bytes)
{
	enum http1_event event;
	struct http1_found found;
	size_t left = bytes - r->passed, at = 0, taken;
	uint8_t *exact = malloc(left + 1);
	memcpy(exact, (const uint8_t *)data + r->passed, left);
	do {
		event = http1_next(&r->in, exact + at, left - at, &taken, &found);
		take(r, event, &found);
		at += taken;
		cr_assert_leq(at, left);
	} while (event != HTTP1_MORE && event != HTTP1_BAD);
	r->passed += at;
	free(exact);
}

/* Reads `step` bytes at a time, and then the end of the connection: the transcript, to be freed. */
static char *transcript(const struct http_head *request, const void *data, size_t bytes, size_t step, struct buf *out)
{
	struct run r = {.request = request, .out = out};
	struct http1_found found;
	http1_in_init(&r.in, request ? HTTP1_RESPONSES : HTTP1_REQUESTS);
	if (request)
		http1_in_ask(&r.in, request);
	for (size_t known = 0; known < bytes && !r.over;) {
		known = bytes - known < step ? bytes : known + step;
		look(&r, data, known);
	}
	bool last_asked = request && r.in.state == HTTP1_START && r.in.scanned == 0 && r.text.len;
	r.eof = true;
	if (!r.over && !last_asked) /* or it is only this test that asks for one more */
		take(&r, http1_eof(&r.in, &found), &found);
	if (!r.over && r.in.state == HTTP1_OVER && r.passed < bytes)
		say(&r, "...");
	http1_in_free(&r.in);
	http_head_free(&r.head);
	buf_free(&r.body);
	buf_add(&r.text, "", 1);
	return (char *)r.text.data;
}

static void expect_transcript(const struct http_head *request, const char *bytes, const char *expected)
{
	for (size_t step = 1; step <= strlen(bytes) + 1; step += step < 8 ? 1 : step) {
		char *text = transcript(request, bytes, strlen(bytes), step, NULL);
		cr_expect_str_eq(text, expected, "%s\nby %zu: %s\nexpected: %s", bytes, step, text, expected);
		free(text);
	}
}

/* What is written of the messages reads as they did. */
static void expect_round_trip(const struct http_head *request, const char *bytes)
{
	struct buf once = {0}, twice = {0};
	char *first = transcript(request, bytes, strlen(bytes), SIZE_MAX, &once);
	char *second = transcript(request, once.data, once.len, SIZE_MAX, &twice);
	cr_expect_str_eq(first, second, "%s", bytes);
	cr_expect(once.len && once.len == twice.len && memcmp(once.data, twice.data, once.len) == 0, "%s", bytes);
	free(first);
	free(second);
	buf_free(&once);
	buf_free(&twice);
}

/* ---- Requests ---- */

static const struct {
	const char *bytes, *transcript;
} accepted[] = {
	{GET H "\r\n", "GET a / end"},
	{"GET /p?q=\"{x}|' HTTP/1.1\r\nhOST:\t A.Example:8443 \t\r\n\r\n", "GET A.Example:8443 /p?q=\"{x}|' end"},
	{"GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "GET [::1]:80 / end"},
	{"OPTIONS * HTTP/1.1\r\n" H "\r\n", "OPTIONS a * end"},
	{"m-SEARCH / HTTP/1.1\r\n" H "\r\n", "m-SEARCH a / end"},
	{GET H "Accept: */*\r\nX:\r\nUtf: \xc3\xa9\r\naccept: b  c\r\n\r\n",
	 "GET a / (Accept: */*) (X: ) (Utf: \xc3\xa9) (accept: b  c) end"},
	/* Bodies. */
	{POST "Content-Length: 5\r\n\r\nhello", "POST a / body 5 <hello> end"},
	{POST "Content-Length: 0\r\n\r\n", "POST a / body 0 end"},
	{POST "Content-Length: 0005\r\n\r\nhello", "POST a / body 5 <hello> end"},
	{POST "Content-Length: 999999999999999999\r\n\r\n", "POST a / body 999999999999999999 !eof"},
	{POST "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nx", "POST a / body 1 expects <x> end"},
	{GET H "Expect: 100-continue\r\n\r\n", "GET a / end"},
	{CHUNKED "0\r\n\r\n", "POST a / body end"},
	{CHUNKED "3\r\nabc\r\n0A\r\n0123456789\r\n00\r\n\r\n", "POST a / body <abc0123456789> end"},
	{CHUNKED "0000000000000001;a=\"b c\";d \r\nx\r\n0;e\r\n\r\n", "POST a / body <x> end"},
	{CHUNKED "0\r\nX: 1\r\nHost: b\r\nContent-Length: 7\r\nAuthorization: no\r\nY:2\r\n\r\n",
	 "POST a / body end (X: 1) (Y: 2)"},
	/* More than one. */
	{GET H "\r\n" GET "Host: b\r\n\r\n", "GET a / end GET b / end"},
	{POST "Content-Length: 2\r\n\r\nhi" CHUNKED "1\r\nx\r\n0\r\nT: 1\r\n\r\n" GET H "\r\n",
	 "POST a / body 2 <hi> end POST a / body <x> end (T: 1) GET a / end"},
	{GET H "Connection: close\r\n\r\nleft", "GET a / close end ..."},
	{"POST / HTTP/1.0\r\n" H "Content-Length: 1\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n\r\nxleft",
	 "POST a / body 1 close <x> end ..."},
	/* What is of the connection. */
	{GET "Connection: keep-alive, X-One,, x-TWO ;p\r\nX-One: 1\r\nKeep-Alive: 5\r\n" H "X-Two: 2\r\nX-Three: 3\r\n\r\n",
	 "GET a / (X-Three: 3) end"},
	{GET H "Proxy-Connection: keep-alive\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n",
	 "GET a / end"},
	{GET H "TE: deflate;q=0.5, Trailers\r\n\r\n", "GET a / te end"},
	{GET H "TE: gzip\r\n\r\n", "GET a / end"},
	{GET H UPGRADED "Sec-WebSocket-Key: k\r\n\r\n", "GET a / upgrade (Sec-WebSocket-Key: k) end"},
	{GET H "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n", "GET a / upgrade end"},
	{GET H "Upgrade: websocket\r\n\r\n", "GET a / end"},
	{GET H UPGRADED "Upgrade: h2c\r\n\r\n", "GET a / end"},
	{GET H "Connection: upgrade\r\nUpgrade: h2c, websocket\r\n\r\n", "GET a / end"},
	{"PUT / HTTP/1.1\r\n" H UPGRADED "\r\n", "PUT a / end"},
	{"GET / HTTP/1.0\r\n" H UPGRADED "\r\n", "GET a / close end"},
};

Test(http1, requests_that_are_taken)
{
	for (size_t i = 0; i < COUNT(accepted); i++)
		expect_transcript(NULL, accepted[i].bytes, accepted[i].transcript);
}

Test(http1, requests_survive_a_round_trip)
{
	for (size_t i = 0; i < COUNT(accepted); i++)
		if (!strchr(accepted[i].transcript, '!') && !strstr(accepted[i].transcript, "..."))
			expect_round_trip(NULL, accepted[i].bytes);
}

Test(http1, requests_that_are_refused)
{
	static const struct {
		const char *bytes;
		unsigned status;
	} refused[] = {
		/* The first line. */
		{"\r\n" GET H "\r\n", 400},
		{"\x16\x03\x01", 400},
		{"SSH-2.0-x\r\n", 400},
		{"GET\r\n", 400},
		{"GET /\r\n", 400},
		{" / HTTP/1.1\r\n", 400},
		{"GET  / HTTP/1.1\r\n", 400},
		{"GET /  HTTP/1.1\r\n", 400},
		{"GET / HTTP/1.1 \r\n", 400},
		{"GET\t/ HTTP/1.1\r\n", 400},
		{"GET / http/1.1\r\n", 400},
		{"GET / HTTP/11\r\n", 400},
		{"GET / HTTP/2.0\r\n", 505},
		{"GET / HTTP/1.2\r\n", 505},
		{"PRI * HTTP/2.0\r\n", 505},
		{"A(B / HTTP/1.1\r\n", 400},
		{"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", 400},
		{"head / HTTP/1.1\r\n", 400},
		{"CONNECT a:443 HTTP/1.1\r\n", 405},
		{"Trace / HTTP/1.1\r\n", 405},
		{"GET http://a/ HTTP/1.1\r\n", 421},
		{"GET HTTPS://a/ HTTP/1.1\r\n", 421},
		{"GET a:443 HTTP/1.1\r\n", 400},
		{"GET a HTTP/1.1\r\n", 400},
		{"GET * HTTP/1.1\r\n", 400},
		{"GET /#f HTTP/1.1\r\n", 400},
		{"GET /\x01 HTTP/1.1\r\n", 400},
		{"GET /\xc3\xa9 HTTP/1.1\r\n", 400},
		/* Lines. */
		{"GET / HTTP/1.1\n", 400},
		{GET "Host: a\n", 400},
		{GET H "\n", 400},
		{GET H "A: b\rc\r\n", 400},
		{GET H "A: b\r\r\n", 400},
		{GET H "A: b\r\n c\r\n", 400},
		{GET " " H, 400},
		{GET H "A : b\r\n", 400},
		{GET H ": b\r\n", 400},
		{GET H "A b: c\r\n", 400},
		{GET H "A\x80: c\r\n", 400},
		{GET H "no colon\r\n", 400},
		{GET H "A: b\x7f\r\n", 400},
		{GET H "A: b\x01\r\n", 400},
		/* Host. */
		{GET "\r\n", 400},
		{"GET / HTTP/1.0\r\n\r\n", 400},
		{GET H H, 400},
		{GET "Host:\r\n", 400},
		{GET "Host: a b\r\n", 400},
		{GET "Host: me@a\r\n", 400},
		{GET "Host: a:\r\n", 400},
		/* Where the body ends. */
		{POST "Content-Length: 1\r\nContent-Length: 1\r\n", 400},
		{POST "Content-Length: 1, 1\r\n", 400},
		{POST "Content-Length: +1\r\n", 400},
		{POST "Content-Length: -1\r\n", 400},
		{POST "Content-Length: 0x1\r\n", 400},
		{POST "Content-Length:\r\n", 400},
		{POST "Content-Length: 1000000000000000000\r\n", 400},
		{POST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
		{POST "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400},
		{POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400},
		{POST "Transfer-Encoding: gzip, chunked\r\n", 501},
		{POST "Transfer-Encoding: identity\r\n", 501},
		{POST "Transfer-Encoding: chunked;x\r\n", 501},
		{POST "Transfer-Encoding: \x0b" "chunked\r\n", 400},
		{POST "Transfer-Encoding:\r\n", 501},
		{"POST / HTTP/1.0\r\n" H "Transfer-Encoding: chunked\r\n\r\n", 400},
		{POST "Expect: 200-ok\r\n", 417},
		/* Connection. */
		{GET "Connection: host\r\n", 400},
		{GET "Connection: close, Authorization\r\n", 400},
		{GET "Connection: Cookie\r\n", 400},
		{GET "Connection: Content-Length\r\n", 400},
		{GET "Connection: Transfer-Encoding\r\n", 400},
		{GET "Connection: a b\r\n", 400},
		{GET "Connection: 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17\r\n", 400},
	};
	for (size_t i = 0; i < COUNT(refused); i++) {
		char expected[8];
		snprintf(expected, sizeof expected, "!%u", refused[i].status);
		expect_transcript(NULL, refused[i].bytes, expected);
	}
}

Test(http1, chunks_that_are_refused)
{
	static const char *const chunks[] = {
		"\r\n", ";a\r\n", "-1\r\n", "0x1\r\n", "1 \r\n", " 1\r\n", "1\n", "1\rx\r\n", "g\r\n", "1;a\x01\r\n", "1;a\n",
		"00000000000000001\r\n", "10000000000000000\r\n", "0\r\nno field\r\n", "0\r\n a: b\r\n", "0\r\na: b\n",
	};
	for (size_t i = 0; i < COUNT(chunks); i++) {
		char bytes[256];
		snprintf(bytes, sizeof bytes, CHUNKED "%s", chunks[i]);
		expect_transcript(NULL, bytes, "POST a / body !400");
	}
	for (unsigned i = 0; i < 3; i++) { /* what ends a chunk */
		static const char *const ends[] = {"X", "\n", "\rX"};
		char bytes[256];
		snprintf(bytes, sizeof bytes, CHUNKED "1\r\nx%s00", ends[i]);
		expect_transcript(NULL, bytes, "POST a / body <x !400");
	}
}

Test(http1, nul_is_refused_everywhere)
{
	static const char head[] = GET H "A: b\r\n", chunk[] = "1;x\r\n";
	for (size_t i = 0; i < sizeof head - 1; i++) {
		char bytes[sizeof head + 2] = GET H "A: b\r\n\r\n";
		bytes[i] = 0;
		char *text = transcript(NULL, bytes, sizeof bytes - 1, SIZE_MAX, NULL);
		cr_expect_eq(text[0], '!', "%zu: %s", i, text);
		free(text);
	}
	for (size_t i = 0; i < sizeof chunk - 2; i++) {
		char bytes[256] = CHUNKED "1;x\r\n";
		bytes[strlen(CHUNKED) + i] = 0;
		char *text = transcript(NULL, bytes, strlen(CHUNKED) + sizeof chunk - 1, SIZE_MAX, NULL);
		cr_expect_str_eq(text, "POST a / body !400", "%zu", i);
		free(text);
	}
}

/* ---- Limits ---- */

/* A head of exactly `bytes` bytes, in `count` fields besides Host. */
static char *make_head(const char *first, size_t bytes, unsigned count, const char *name)
{
	char *head = malloc(bytes + 1);
	size_t at = (size_t)sprintf(head, "%s", first);
	for (unsigned i = 0; i < count; i++) {
		size_t last = i + 1 == count ? bytes - 2 - at : 5;
		memset(head + at, 'x', last);
		memcpy(head + at, name, strlen(name));
		memcpy(head + at + last - 2, "\r\n", 2);
		at += last;
	}
	memcpy(head + at, "\r\n", 3);
	cr_assert_eq(at + 2, bytes);
	return head;
}

static void expect_limit(const char *first, size_t bytes, unsigned count, const char *name, const char *end)
{
	char *head = make_head(first, bytes, count, name);
	for (size_t step = 37; step <= bytes; step += bytes / 2) {
		char *text = transcript(NULL, head, bytes, step, NULL);
		size_t n = strlen(text), expected = strlen(end);
		cr_expect(n >= expected && strcmp(text + n - expected, end) == 0, "%zu bytes in %u by %zu: ...%.40s, not %s",
			  bytes, count, step, text + (n > 40 ? n - 40 : 0), end);
		free(text);
	}
	free(head);
}

Test(http1, heads_have_a_limit)
{
	expect_limit(GET H, HTTP_FIELDS_MAX_BYTES, 1, "a:", "end");
	expect_limit(GET H, HTTP_FIELDS_MAX_BYTES + 1, 1, "a:", "!431");
	expect_limit(GET H, HTTP_FIELDS_MAX_BYTES, 100, "a:", "end");
	expect_limit(GET H, HTTP_FIELDS_MAX_BYTES + 1, 100, "a:", "!431");
	expect_limit("GET /", HTTP_FIELDS_MAX_BYTES + 3, 1, "", "!431");
	expect_limit(GET H, 8000, HTTP_FIELDS_MAX, "a:", "end");
	expect_limit(GET H, 8000, HTTP_FIELDS_MAX + 1, "a:", "!431");
}

Test(http1, trailers_have_a_limit)
{
	size_t before = strlen(CHUNKED "0\r\n");
	expect_limit(CHUNKED "0\r\n", before + HTTP_FIELDS_MAX_BYTES + 1, 1, "a:", "!431");
	expect_limit(CHUNKED "0\r\n", before + 8000, HTTP_FIELDS_MAX + 1, "a:", "!431");
	expect_limit(CHUNKED "0\r\n", before + 60000, 1, "te:", "end");
	expect_limit(CHUNKED "0\r\n", before + HTTP_FIELDS_MAX_BYTES + 1, 9, "te:", "!431");
}

Test(http1, chunk_extensions_have_a_limit)
{
	char bytes[512];
	snprintf(bytes, sizeof bytes, CHUNKED "1;%0252d\r\nx\r\n0\r\n\r\n", 0);
	expect_transcript(NULL, bytes, "POST a / body <x> end");
	snprintf(bytes, sizeof bytes, CHUNKED "1;%0253d\r\nx\r\n0\r\n\r\n", 0);
	expect_transcript(NULL, bytes, "POST a / body !400");
}

Test(http1, the_end_of_a_connection_within_a_request)
{
	static const struct {
		const char *bytes, *transcript;
	} cases[] = {
		{"G", "!eof"},
		{GET, "!eof"},
		{GET H, "!eof"},
		{POST "Content-Length: 2\r\n\r\n", "POST a / body 2 !eof"},
		{POST "Content-Length: 2\r\n\r\nx", "POST a / body 2 <x !eof"},
		{CHUNKED, "POST a / body !eof"},
		{CHUNKED "1\r\nx\r\n", "POST a / body <x !eof"},
		{CHUNKED "0\r\n", "POST a / body !eof"},
		{CHUNKED "0\r\n\r", "POST a / body !eof"},
	};
	for (size_t i = 0; i < COUNT(cases); i++)
		expect_transcript(NULL, cases[i].bytes, cases[i].transcript);
}

/* ---- Responses ---- */

static const struct {
	const struct http_head *request;
	const char *bytes, *transcript;
} responses[] = {
	{&to_get, OK "Content-Length: 2\r\n\r\nhi", "200 body 2 <hi> end"},
	{&to_get, "HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", "404 body 0 end"},
	{&to_get, "HTTP/1.1 599 \r\nContent-Length: 0\r\n\r\n", "599 body 0 end"},
	{&to_get, "HTTP/1.1 200 \xc3\xa9 \x01\r\nA: \xff\r\nContent-Length: 0\r\n\r\n", "200 body 0 (A: \xff) end"},
	{&to_get, OK "Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", "200 body 2 <hi> end"},
	{&to_get, OK "Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\nhi\r\n0\r\nX: y\r\nSet-Cookie: a\r\n\r\n",
	 "200 body (Trailer: X) <hi> end (X: y)"},
	{&to_get, OK "Connection: Transfer-Encoding, X\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	 "200 body end"},
	{&to_get, OK "Host: a\r\nUpgrade: h2c\r\nKeep-Alive: 5\r\nTE: trailers\r\nExpect: x\r\nContent-Length: 0\r\n\r\n",
	 "200 body 0 end"},
	/* Until the connection ends. */
	{&to_get, OK "\r\nall of it", "200 body close <all of it> end"},
	{&to_get, OK "\r\n", "200 body close end"},
	{&to_get, "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nx", "200 body close <x> end"},
	{&to_get, "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", "200 body 1 close <x> end"},
	{&to_get, OK "Content-Length: 1\r\nConnection: close\r\n\r\nx", "200 body 1 close <x> end"},
	/* Without a body. */
	{&to_head, OK "Content-Length: 20\r\n\r\n" OK "\r\n", "200 20 end 200 end"},
	{&to_head, OK "Transfer-Encoding: chunked\r\n\r\n", "200 end"},
	{&to_get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 20\r\n\r\n" OK "Content-Length: 0\r\n\r\n",
	 "304 20 end 200 body 0 end"},
	{&to_get, "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 204\r\nContent-Length: 0\r\n\r\n", "204 end 204 end"},
	{&to_get, "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", "204 close end"},
	{&to_get, "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", "204 close end"},
	/* Interim. */
	{&to_get, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nLink: y\r\n\r\n" OK "Content-Length: 1\r\n\r\nx",
	 "100 103 (Link: y) 200 body 1 <x> end"},
	{&to_head, "HTTP/1.1 103 x\r\nConnection: close\r\n\r\n" OK "\r\n", "103 close 200 end"},
	{&to_upgrade, "HTTP/1.1 101 x\r\n" UPGRADED "A: b\r\n\r\n", "101 upgrade (A: b)"},
	{&to_upgrade, OK "Content-Length: 0\r\n\r\n", "200 body 0 end"},
};

Test(http1, responses_that_are_taken)
{
	for (size_t i = 0; i < COUNT(responses); i++)
		expect_transcript(responses[i].request, responses[i].bytes, responses[i].transcript);
}

Test(http1, responses_survive_a_round_trip)
{
	for (size_t i = 0; i < COUNT(responses); i++)
		expect_round_trip(responses[i].request, responses[i].bytes);
}

Test(http1, responses_that_are_refused)
{
	static const struct {
		const struct http_head *request;
		const char *bytes, *transcript;
	} refused[] = {
		{&to_get, "", "!eof"},
		{&to_get, "SSH-2.0", "!502"},
		{&to_get, "\r\n" OK, "!502"},
		{&to_get, "HTTP/2 200\r\n", "!502"},
		{&to_get, "HTTP/1.2 200 OK\r\n", "!502"},
		{&to_get, "HTTP/1.1 20\r\n", "!502"},
		{&to_get, "HTTP/1.1 2000\r\n", "!502"},
		{&to_get, "HTTP/1.1  200\r\n", "!502"},
		{&to_get, "HTTP/1.1 099 x\r\n", "!502"},
		{&to_get, "HTTP/1.1 600 x\r\n", "!502"},
		{&to_get, "HTTP/1.1 200 OK\n", "!502"},
		{&to_get, OK "A: b\r\n c\r\n", "!502"},
		{&to_get, OK "A : b\r\n", "!502"},
		{&to_get, OK "Content-Length: 1\r\nContent-Length: 2\r\n", "!502"},
		{&to_get, OK "Content-Length: x\r\n", "!502"},
		{&to_get, OK "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "!502"},
		{&to_head, OK "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "!502"},
		{&to_get, OK "Transfer-Encoding: gzip, chunked\r\n", "!502"},
		{&to_get, "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "!502"},
		{&to_get, "HTTP/1.1 103 x\r\nContent-Length: 1\r\n\r\n", "!502"},
		{&to_get, "HTTP/1.1 101 x\r\n" UPGRADED "\r\n", "!502"},
		{&to_upgrade, "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", "!502"},
		{&to_upgrade, "HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n", "!502"},
		{&to_get, "HTTP/1.1 100 x\r\n\r\nH", "100 !eof"},
		{&to_get, OK "Content-Length: 2\r\n\r\nx", "200 body 2 <x !eof"},
		{&to_get, OK "Transfer-Encoding: chunked\r\n\r\n1\r\nx", "200 body <x !eof"},
	};
	for (size_t i = 0; i < COUNT(refused); i++)
		expect_transcript(refused[i].request, refused[i].bytes, refused[i].transcript);
}

Test(http1, what_follows_an_upgrade_is_not_taken)
{
	expect_transcript(&to_upgrade, "HTTP/1.1 101 x\r\n" UPGRADED "\r\n\x81\x05hello", "101 upgrade ...");
}

Test(http1, a_response_must_be_asked_for)
{
	static const uint8_t bytes[] = OK "Content-Length: 0\r\n\r\n" OK;
	struct http1_in in;
	struct http1_found found;
	size_t taken, at = 0;
	http1_in_init(&in, HTTP1_RESPONSES);
	cr_expect_eq(http1_next(&in, NULL, 0, &taken, &found), HTTP1_MORE);
	cr_expect_eq(http1_eof(&in, &found), HTTP1_MORE, "a server may close what is idle");
	http1_in_ask(&in, &to_get);
	cr_expect_eq(http1_next(&in, bytes, sizeof bytes - 1, &at, &found), HTTP1_HEAD);
	http_head_free(&found.head);
	cr_expect_eq(http1_next(&in, bytes + at, sizeof bytes - 1 - at, &taken, &found), HTTP1_END);
	cr_expect_eq(taken, 0);
	cr_expect_eq(http1_next(&in, bytes + at, sizeof bytes - 1 - at, &taken, &found), HTTP1_BAD);
	cr_expect_eq(found.status, 502);
	http1_in_free(&in);
}

Test(http1, version_of_a_request_is_told)
{
	for (int minor = 0; minor < 2; minor++) {
		char bytes[] = "GET / HTTP/1.x\r\n" H "\r\n";
		bytes[13] = (char)('0' + minor);
		struct http1_in in;
		struct http1_found found;
		size_t taken;
		http1_in_init(&in, HTTP1_REQUESTS);
		cr_assert_eq(http1_next(&in, (const uint8_t *)bytes, strlen(bytes), &taken, &found), HTTP1_HEAD);
		cr_expect_eq(found.is_1_0, minor == 0);
		http_head_free(&found.head);
		http1_in_free(&in);
	}
}

/* ---- Writing ---- */

static void expect_written(const struct buf *out, const char *expected)
{
	cr_expect(out->len == strlen(expected) && memcmp(out->data, expected, out->len) == 0, "written: %.*s\nexpected: %s",
		  (int)out->len, (const char *)out->data, expected);
}

static void expect_head(const struct http_head *h, enum http1_body how, bool close, const char *expected)
{
	struct buf out = {0};
	cr_expect_eq(http1_put_head(&out, h, how, close), 0, "%s", expected);
	expect_written(&out, expected);
	buf_free(&out);
}

Test(http1, heads_are_written_anew)
{
	struct http_field item[] = {
		{"A", "b"}, {"content-LENGTH", "7"}, {"Connection", "x"}, {"transfer-encoding", "chunked"}, {"C", ""}};
	struct http_head get = {.method = "GET", .authority = "a:1", .path = "/p", .fields = {item, 5, 0}};
	expect_head(&get, HTTP1_NO_BODY, false, "GET /p HTTP/1.1\r\nHost: a:1\r\nA: b\r\nC: \r\n\r\n");
	struct http_head put = {
		.method = "PUT", .authority = "a", .path = "*", .length_bytes = 12, .has_body = true, .expects_continue = true};
	expect_head(&put, HTTP1_LENGTH, true,
		    "PUT * HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n");
	expect_head(&put, HTTP1_CHUNKED, false,
		    "PUT * HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n");
	struct http_head up = {.method = "GET", .authority = "a", .path = "/", .upgrade = true, .trailers = true};
	expect_head(&up, HTTP1_NO_BODY, true,
		    "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nUpgrade: websocket\r\nConnection: close, TE, Upgrade\r\n\r\n");
	struct http_head found = {.status = 404, .length_bytes = 0, .has_body = true, .trailers = true, .expects_continue = true};
	expect_head(&found, HTTP1_LENGTH, false, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
	expect_head(&found, HTTP1_UNTIL_CLOSE, false, "HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n");
	struct http_head odd = {.status = 299, .length_bytes = HTTP_LENGTH_UNKNOWN};
	expect_head(&odd, HTTP1_CHUNKED, false, "HTTP/1.1 299 \r\nTransfer-Encoding: chunked\r\n\r\n");
}

Test(http1, how_a_body_is_framed)
{
	static const struct {
		const char *method;
		unsigned status;
		int64_t length;
		bool has_body, to_1_0;
		enum http1_body how;
	} cases[] = {
		{"GET", 0, HTTP_LENGTH_UNKNOWN, false, false, HTTP1_NO_BODY},
		{"PUT", 0, HTTP_LENGTH_UNKNOWN, true, false, HTTP1_CHUNKED},
		{"PUT", 0, 0, true, false, HTTP1_LENGTH},
		{NULL, 200, HTTP_LENGTH_UNKNOWN, true, false, HTTP1_CHUNKED},
		{NULL, 200, HTTP_LENGTH_UNKNOWN, true, true, HTTP1_UNTIL_CLOSE},
		{NULL, 200, 3, true, true, HTTP1_LENGTH},
		{NULL, 200, HTTP_LENGTH_UNKNOWN, false, false, HTTP1_NO_BODY}, /* to HEAD */
		{NULL, 200, 3, false, false, HTTP1_LENGTH},
		{NULL, 304, 3, false, false, HTTP1_LENGTH},
		{NULL, 204, 0, false, false, HTTP1_NO_BODY},
		{NULL, 100, 0, false, false, HTTP1_NO_BODY},
	};
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct http_head h = {.method = (char *)cases[i].method, .status = cases[i].status, .length_bytes = cases[i].length,
				      .has_body = cases[i].has_body};
		cr_expect_eq(http1_body_of(&h, cases[i].to_1_0), cases[i].how, "%zu", i);
	}
}

/* What was changed since it was read may not become something else. */
Test(http1, heads_that_cannot_be_written)
{
	static const char *const names[] = {"", "a b", "a:", "a\r\nb"};
	static const char *const values[] = {"a\r\nb", "a\nb", " a", "a\x01"};
	static const char *const paths[] = {"", "a", "/ b", "/\r\n", "http://a/", "/#"};
	static const char *const hosts[] = {"", "a b", "a\r\nb", "a/"};
	struct buf out = {0};
	struct http_field item[] = {{"A", "b"}};
	struct http_head h = {.method = "GET", .authority = "a", .path = "/", .fields = {item, 1, 2}};
	cr_assert_eq(buf_add(&out, "x", 1), 0);
	for (size_t i = 0; i < COUNT(names); i++) {
		item[0] = (struct http_field){(char *)names[i], "b"};
		cr_expect_eq(http1_put_head(&out, &h, HTTP1_NO_BODY, false), -EINVAL, "%s", names[i]);
		cr_expect_eq(http1_put_end(&out, HTTP1_CHUNKED, &h.fields), -EINVAL, "%s", names[i]);
	}
	for (size_t i = 0; i < COUNT(values); i++) {
		item[0] = (struct http_field){"A", (char *)values[i]};
		cr_expect_eq(http1_put_head(&out, &h, HTTP1_NO_BODY, false), -EINVAL, "%s", values[i]);
	}
	h.fields.count = 0;
	for (size_t i = 0; i < COUNT(paths); i++) {
		h.path = (char *)paths[i];
		cr_expect_eq(http1_put_head(&out, &h, HTTP1_NO_BODY, false), -EINVAL, "%s", paths[i]);
	}
	h.path = "/";
	for (size_t i = 0; i < COUNT(hosts); i++) {
		h.authority = (char *)hosts[i];
		cr_expect_eq(http1_put_head(&out, &h, HTTP1_NO_BODY, false), -EINVAL, "%s", hosts[i]);
	}
	struct http_head none = {.status = 204};
	cr_expect_eq(http1_put_head(&out, &none, HTTP1_CHUNKED, false), -EINVAL);
	none.status = 99;
	cr_expect_eq(http1_put_head(&out, &none, HTTP1_NO_BODY, false), -EINVAL);
	expect_written(&out, "x");
	buf_free(&out);
}

Test(http1, bodies_are_written_anew)
{
	struct buf out = {0};
	struct http_field item[] = {{"X", "y"}, {"Content-Length", "1"}, {"Authorization", "z"}};
	struct http_fields trailers = {item, 3, 0};
	cr_assert_eq(http1_put_data(&out, HTTP1_CHUNKED, "0123456789", 10), 0);
	cr_assert_eq(http1_put_data(&out, HTTP1_CHUNKED, "", 0), 0);
	cr_assert_eq(http1_put_end(&out, HTTP1_CHUNKED, &trailers), 0);
	expect_written(&out, "a\r\n0123456789\r\n0\r\nX: y\r\n\r\n");
	out.len = 0;
	cr_assert_eq(http1_put_end(&out, HTTP1_CHUNKED, NULL), 0);
	expect_written(&out, "0\r\n\r\n");
	out.len = 0;
	cr_assert_eq(http1_put_data(&out, HTTP1_LENGTH, "abc", 3), 0);
	cr_assert_eq(http1_put_end(&out, HTTP1_LENGTH, &trailers), 0);
	expect_written(&out, "abc");
	buf_free(&out);
}
