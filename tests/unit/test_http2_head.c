/* virtio/net/gate/http2_head.c: heads of HTTP/2, field by field. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/http2_head.h"

#define GET ":method=GET|:scheme=https|:authority=a.test|:path=/"
#define POST ":method=POST|:scheme=https|:authority=a.test|:path=/"
#define COUNT(a) (sizeof(a) / sizeof (a)[0])

/* "name=value|name=value" in; what is made of it out: METHOD AUTHORITY PATH or STATUS, what else is set, and the fields. */
static const char *read_head(enum http2_kind kind, const char *text, bool end_stream)
{
	static char out[1024];
	struct http2_in in = {0};
	struct buf said = {0};
	http2_in_start(&in, kind, true);
	while (*text) {
		size_t bytes = strcspn(text, "|"), name = strcspn(text + 1, "=") + 1;
		http2_in_field(&in, text, name, text + name + 1, bytes - name - 1);
		text += bytes + (text[bytes] != 0);
	}
	const struct http_head *h = &in.head;
	if (!http2_in_end(&in, end_stream)) {
		buf_addf(&said, "%u", in.wrong);
		cr_assert(in.reason);
	} else if (kind == HTTP2_REQUEST) {
		buf_addf(&said, "%s %s %s", h->method, h->authority, h->path);
	} else if (kind == HTTP2_RESPONSE) {
		buf_addf(&said, "%u", h->status);
	}
	if (!in.wrong) {
		buf_addf(&said, "%s%s%s", h->has_body ? " body" : "", h->trailers ? " te" : "", h->expects_continue ? " expects" : "");
		if (h->length_bytes != HTTP_LENGTH_UNKNOWN)
			buf_addf(&said, " %lld", (long long)h->length_bytes);
		for (size_t i = 0; i < h->fields.count; i++)
			buf_addf(&said, " (%s: %s)", h->fields.item[i].name, h->fields.item[i].value);
	}
	memcpy(out, said.data ? (char *)said.data : "", said.len + 1);
	buf_free(&said);
	http2_in_free(&in);
	return out;
}

Test(http2_head, requests)
{
	static const struct {
		const char *fields;
		bool end_stream;
		const char *head;
	} cases[] = {
		{GET, true, "GET a.test /"},
		{GET, false, "GET a.test / body"},
		{POST, true, "POST a.test / 0"}, /* servers of HTTP/1.1 want to know */
		{POST "|content-length=3|x=y", false, "POST a.test / body 3 (x: y)"},
		{":path=/|:authority=a.test|:scheme=https|:method=GET", true, "GET a.test /"},
		{":method=GET|:scheme=https|:path=/|host=a.test:443", true, "GET a.test:443 /"},
		{GET "|host=A.test", true, "GET a.test /"},
		{":method=OPTIONS|:scheme=https|:authority=a.test|:path=*", true, "OPTIONS a.test *"},
		{GET "|te=trailers", true, "GET a.test / te"},
		{POST "|expect=100-continue", false, "POST a.test / body expects"},
		{POST "|expect=100-continue", true, "POST a.test / 0"},
		{GET "|cookie=a=1|x= y \t|cookie=b=2", true, "GET a.test / (x: y) (cookie: a=1; b=2)"},
		{GET "|cookie=|cookie=a=1|cookie=", true, "GET a.test / (cookie: a=1)"},
		{"", true, "400"},
		{":method=GET|:scheme=https|:path=/", true, "400"},
		{":method=GET|:authority=a.test|:path=/", true, "400"},
		{":method=GET|:scheme=http|:authority=a.test|:path=/", true, "400"},
		{GET "|:path=/", true, "400"},
		{GET "|:method=GET", true, "400"},
		{GET "|:authority=a.test", true, "400"},
		{GET "|:scheme=https", true, "400"},
		{GET "|:status=200", true, "400"},
		{GET "|:protocol=websocket", true, "400"},
		{"x=y|" GET, true, "400"},
		{GET "|host=b.test", true, "400"},
		{":method=GET|:scheme=https|:authority=a@b|:path=/", true, "400"},
		{":method=GET|:scheme=https|:authority=a.test|:path=x", true, "400"},
		{":method=GET|:scheme=https|:authority=a.test|:path=*", true, "400"},
		{":method=GET|:scheme=https|:authority=a.test|:path=/a b", true, "400"},
		{":method=G T|:scheme=https|:authority=a.test|:path=/", true, "400"},
		{":method=TRACE|:scheme=https|:authority=a.test|:path=/", true, "405"},
		{":method=CONNECT|:authority=a.test", true, "405"},
		{":method=head|:scheme=https|:authority=a.test|:path=/", true, "400"},
		{GET "|X=y", true, "400"},
		{GET "|x =y", true, "400"},
		{GET "|x=a\r\nb: c", true, "400"},
		{GET "|connection=close", true, "400"},
		{GET "|keep-alive=1", true, "400"},
		{GET "|upgrade=websocket", true, "400"},
		{GET "|transfer-encoding=chunked", false, "400"},
		{GET "|te=gzip", true, "400"},
		{POST "|expect=more", false, "417"},
		{POST "|content-length=3", true, "400"},
		{POST "|content-length=3|content-length=3", false, "400"},
		{POST "|content-length=-1", false, "400"},
	};
	for (size_t i = 0; i < COUNT(cases); i++)
		cr_expect_str_eq(read_head(HTTP2_REQUEST, cases[i].fields, cases[i].end_stream), cases[i].head, "%s", cases[i].fields);
}

Test(http2_head, responses_and_trailers)
{
	static const struct {
		const char *fields;
		enum http2_kind kind;
		bool end_stream;
		const char *head;
	} cases[] = {
		{":status=200|set-cookie=a|set-cookie=b", HTTP2_RESPONSE, false, "200 body (set-cookie: a) (set-cookie: b)"},
		{":status=200|content-length=3|content-length=3", HTTP2_RESPONSE, false, "200 body 3"},
		{":status=200|content-length=3|content-length=4", HTTP2_RESPONSE, false, "400"},
		{":status=204|content-length=0", HTTP2_RESPONSE, true, "204"},
		{":status=304|content-length=9", HTTP2_RESPONSE, true, "304 9"},
		{":status=103|link=x", HTTP2_RESPONSE, false, "103 (link: x)"},
		{":status=103", HTTP2_RESPONSE, true, "502"},
		{":status=101", HTTP2_RESPONSE, false, "502"},
		{":status=99", HTTP2_RESPONSE, true, "502"},
		{":status=600", HTTP2_RESPONSE, true, "502"},
		{":status=2x0", HTTP2_RESPONSE, true, "502"},
		{":status=0200", HTTP2_RESPONSE, true, "502"},
		{":status=200|:status=200", HTTP2_RESPONSE, true, "502"},
		{"x=y", HTTP2_RESPONSE, true, "502"},
		{":status=200|transfer-encoding=chunked", HTTP2_RESPONSE, false, "502"},
		{":status=200|connection=close|keep-alive=1", HTTP2_RESPONSE, true, "200"},
		{"grpc-status=0|content-length=3|authorization=x|te=trailers", HTTP2_TRAILERS, true, " (grpc-status: 0)"},
		{"x=y", HTTP2_TRAILERS, false, "400"},
		{":status=200", HTTP2_TRAILERS, true, "400"},
	};
	for (size_t i = 0; i < COUNT(cases); i++)
		cr_expect_str_eq(read_head(cases[i].kind, cases[i].fields, cases[i].end_stream), cases[i].head, "%s", cases[i].fields);
}

Test(http2_head, limits)
{
	static char large[HTTP_FIELDS_MAX_BYTES];
	struct http2_in in = {0};
	memset(large, 'x', sizeof large);
	http2_in_start(&in, HTTP2_TRAILERS, true);
	for (unsigned i = 0; i < HTTP_FIELDS_MAX; i++)
		http2_in_field(&in, "x", 1, "", 0);
	cr_expect_eq(in.wrong, 0);
	http2_in_field(&in, "x", 1, "", 0);
	cr_expect_eq(in.wrong, 431);
	for (const char *const *name = (const char *const[]){"cookie", "x", ":path", NULL}; *name; name++) {
		http2_in_start(&in, HTTP2_REQUEST, true);
		http2_in_field(&in, ":method", 7, "GET", 3);
		http2_in_field(&in, *name, strlen(*name), large, sizeof large);
		cr_expect_eq(in.wrong, 431, "%s", *name);
	}
	http2_in_free(&in);
}
