/* virtio/net/gate/sigv4.c, sigv4_parse.c and sigv4_canonical.c: AWS's published examples, and what is refused. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/http.h"
#include "virtio/net/gate/secret.h"
#include "virtio/net/gate/sigv4.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"

#define GUEST_ID "AKIAGUESTGUESTGUEST1"
#define TOKEN                                                                                                                   \
	"AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/" \
	"qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT"  \
	"38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="

static const char credentials[] = "# comment\n"
				  "[default]\n"
				  "aws_access_key_id = AKIDEXAMPLE\n"
				  "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY\r\n"
				  "\n"
				  "[ token ]\n"
				  "  aws_access_key_id=AKIDEXAMPLE\n"
				  "region = us-east-1\n"
				  "aws_secret_access_key=wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY\n"
				  "aws_session_token=" TOKEN "\n"
				  "[s3]\n"
				  "aws_access_key_id=AKIAIOSFODNN7EXAMPLE\n"
				  ";aws_access_key_id=x\n"
				  "aws_secret_access_key=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n"
				  "[half]\n"
				  "aws_access_key_id=HALF\n"
				  "[sso]\n"
				  "sso_account_id=SECRETWORD\n"
				  "[blank]\n"
				  "aws_access_key_id=A B\n"
				  "aws_secret_access_key=SECRETWORD";

static const struct secret_target aws = {"example.amazonaws.com", 443, true};

static struct sigv4 open_profile(const char *profile)
{
	static const char *const hosts[] = {"*.amazonaws.com", NULL};
	struct sigv4 s = {0};
	struct err e;
	char *copy = strdup(credentials);
	cr_assert_eq(sigv4_open(&s, profile, GUEST_ID, hosts, copy, strlen(credentials), &e), 0, "%s", e.text);
	cr_expect_eq(copy[20], 0, "the caller's copy stays");
	free(copy);
	return s;
}

/* "METHOD PATH" and lines of fields. */
static struct http_head make_head(const char *host, const char *request, const char *fields)
{
	struct http_head h = {.authority = strdup(host), .length_bytes = HTTP_LENGTH_UNKNOWN};
	size_t method = strcspn(request, " ");
	h.method = strndup(request, method);
	h.path = strdup(request + method + 1);
	for (size_t n; *fields; fields += n + (fields[n] == '\n')) {
		n = strcspn(fields, "\n");
		size_t name = strcspn(fields, ":");
		cr_assert_eq(http_add(&h.fields, fields, name, fields + name + 1, n - name - 1), 0);
	}
	return h;
}

static void add_authorization(struct http_head *h, const char *scope, const char *names)
{
	char text[1024];
	int n = snprintf(text, sizeof text,
			 "AWS4-HMAC-SHA256 Credential=" GUEST_ID "/20000101/%s/aws4_request, SignedHeaders=%s, Signature=0123", scope, names);
	http_add(&h->fields, "authorization", 13, text, (size_t)n);
}

/* ---- AWS's test suite: 2015-08-30T12:36:00Z, us-east-1, "service" ---- */

Test(sigv4, test_suite)
{
	static const struct {
		const char *request, *fields, *names, *signature;
	} rows[] = {
		{"GET /", "My-Header1:value2\nMy-Header1:value2\nMy-Header1:value1", "host;my-header1;x-amz-date",
		 "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"},
		{"GET /", "My-Header1:value4\nmy-header1:value1\nMY-HEADER1:value3\nMy-Header1:value2", "host;my-header1;x-amz-date",
		 "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01"},
		{"GET /", "My-Header1:value1\nMy-Header2:\"a   b   c\"", "host;my-header1;my-header2;x-amz-date",
		 "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"},
		{"GET /-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", "", "host;x-amz-date",
		 "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"},
		{"GET /\xe1\x88\xb4", "", "host;x-amz-date", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"},
		{"GET /", "", "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
		{"GET /?Param1=value1", "", "host;x-amz-date", "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"},
		{"GET /?Param2=value2&Param1=value1", "", "host;x-amz-date",
		 "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
		{"GET /?-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz="
		 "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
		 "", "host;x-amz-date", "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"},
		{"GET /?\xe1\x88\xb4=bar", "", "host;x-amz-date",
		 "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"},
		{"GET /?%e1%88%b4=bar", "", "host;x-amz-date", "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"},
		{"GET //", "", "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
		{"GET /./", "", "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
		{"GET /example/..", "", "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
		{"GET /a/./b/../../", "", "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
		{"POST /", "", "host;x-amz-date", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
		{"POST /", "My-Header1:value1", "host;my-header1;x-amz-date",
		 "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c"},
		{"POST /", "My-Header1:VALUE1", "host;my-header1;x-amz-date",
		 "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d"},
		{"POST /?Param1=value1", "", "host;x-amz-date", "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11"},
		{"POST /?@#$%^&+=/,?><`\";:\\|][{}", "", "host;x-amz-date",
		 "66c82657c86e26fb25238d0e69f011edc4c6df5ae71119d7cb98ed9b87393c1e"},
		{"POST /?p=", "", "host;x-amz-date", "e71688addb58a26418614085fb730ba3faa623b461c17f48f2fbdb9361b94a9b"},
		{"POST /?p", "", "host;x-amz-date", "e71688addb58a26418614085fb730ba3faa623b461c17f48f2fbdb9361b94a9b"},
		{"POST /", "Content-Type:application/x-www-form-urlencoded", "content-type;host;x-amz-date",
		 "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"},
		{"POST /", "Content-Type:application/x-www-form-urlencoded; charset=utf8", "content-type;host;x-amz-date",
		 "1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe"},
	};
	struct sigv4 s = open_profile("default");
	char body_hash[SIGV4_HASH_BYTES];
	sigv4_hash("Param1=value1", 13, body_hash);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct http_head h = make_head("example.amazonaws.com", rows[i].request, rows[i].fields);
		struct sigv4_result r;
		char expected[512];
		h.has_body = strncmp(rows[i].fields, "Content-Type", 12) == 0;
		add_authorization(&h, "us-east-1/service", rows[i].names);
		cr_assert_eq(sigv4_sign(&s, &aws, 1440938160, NULL, &h, &r), 0);
		cr_expect_eq(r.outcome, h.has_body ? SIGV4_NEEDS_HASH : SIGV4_SIGNED, "%zu: %s", i, r.reason);
		if (h.has_body)
			cr_assert_eq(sigv4_sign(&s, &aws, 1440938160, body_hash, &h, &r), 0);
		snprintf(expected, sizeof expected,
			 "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=%s, Signature=%s",
			 rows[i].names, rows[i].signature);
		cr_expect_str_eq(http_get(&h.fields, "Authorization"), expected, "%zu %s", i, rows[i].request);
		cr_expect_str_eq(http_get(&h.fields, "X-Amz-Date"), "20150830T123600Z");
		http_head_free(&h);
	}
	sigv4_close(&s);
}

/* A temporary key's token is put in and signed; the guest's own, of a key that is none, never goes. */
Test(sigv4, session_token)
{
	static const char with_token[] = "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
			  without[] = "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b";
	for (int token = 0; token < 2; token++) {
		struct sigv4 s = open_profile(token ? "token" : "default");
		struct http_head h = make_head("example.amazonaws.com", "POST /", "X-Amz-Security-Token:guest\nx-amz-date:yesterday");
		struct sigv4_result r;
		add_authorization(&h, "us-east-1/service", "host;x-amz-security-token");
		cr_assert_eq(sigv4_sign(&s, &aws, 1440938160, NULL, &h, &r), 0);
		cr_expect_eq(r.outcome, SIGV4_SIGNED);
		const char *value = http_get(&h.fields, "x-amz-security-token");
		if (token)
			cr_expect_str_eq(value, TOKEN);
		else
			cr_expect_null(value);
		cr_expect(strstr(http_get(&h.fields, "authorization"), token ? with_token : without));
		cr_expect(strstr(http_get(&h.fields, "authorization"), token ? "=host;x-amz-date;x-amz-security-token," : "=host;x-amz-date,"));
		http_head_free(&h);
		sigv4_close(&s);
	}
}

/* The examples of the documentation of S3: 2013-05-24T00:00:00Z. */
Test(sigv4, s3)
{
	static const char empty[] = "x-amz-content-sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
	static const struct {
		const char *request, *fields, *names, *signature;
	} rows[] = {
		{"GET /test.txt", "Range:bytes=0-9", "host;range;x-amz-content-sha256;x-amz-date",
		 "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
		{"GET /?lifecycle", "", "host;x-amz-content-sha256;x-amz-date",
		 "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
		{"GET /?prefix=J&max-keys=2", "", "host;x-amz-content-sha256;x-amz-date",
		 "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
	};
	const struct secret_target t = {"examplebucket.s3.amazonaws.com", 443, true};
	struct sigv4 s = open_profile("s3");
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct http_head h = make_head(t.host, rows[i].request, rows[i].fields);
		struct sigv4_result r;
		http_add(&h.fields, empty, 20, empty + 21, sizeof empty - 22);
		add_authorization(&h, "us-east-1/s3", rows[i].names);
		cr_assert_eq(sigv4_sign(&s, &t, 1369353600, NULL, &h, &r), 0);
		const char *signature = strstr(http_get(&h.fields, "authorization"), "Signature=");
		cr_expect_str_eq(signature + 10, rows[i].signature, "%zu", i);
		http_head_free(&h);
	}
	struct http_head put = make_head(t.host, "PUT /test%24file.text",
					 "Date:Fri, 24 May 2013 00:00:00 GMT\nX-Amz-Storage-Class:REDUCED_REDUNDANCY\n"
					 "X-Amz-Content-Sha256:44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072");
	struct sigv4_result r;
	put.has_body = true;
	add_authorization(&put, "us-east-1/s3", "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class");
	cr_assert_eq(sigv4_sign(&s, &t, 1369353600, NULL, &put, &r), 0);
	cr_expect(strstr(http_get(&put.fields, "authorization"), "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"));
	http_head_free(&put);
	sigv4_close(&s);
}

/* ---- The canonical form ---- */

Test(sigv4, canonical)
{
	static const struct {
		const char *request, *fields, *service, *names;
		int64_t length_bytes;
		const char *canonical, *signed_names;
	} rows[] = {
		/* A path of S3 has one form, another service's is encoded as it is sent. */
		{"GET /a(b)%2f%2B/../c//", "", "s3", "host", -1, "GET\n/a%28b%29/%2B/../c//\n\nhost:h\n\nhost\nHASH", "host"},
		{"GET /a(b)%2f%2B/../c//d/", "", "sqs", "host", -1, "GET\n/c/d/\n\nhost:h\n\nhost\nHASH", "host"},
		{"GET /a(b)%2f", "", "sqs", "host", -1, "GET\n/a%28b%29%252f\n\nhost:h\n\nhost\nHASH", "host"},
		{"GET /../..", "", "sqs", "host", -1, "GET\n/\n\nhost:h\n\nhost\nHASH", "host"},
		/* Parameters are sorted by name, then by value, not as texts. */
		{"GET /?=&a-b=1&a=2&a=1&&c=%3d+%2&a%00", "", "x", "host", -1,
		 "GET\n/\n=&a=1&a=2&a%00=&a-b=1&c=%3D%2B%252\nhost:h\n\nhost\nHASH", "host"},
		/* Fields: in the order of names, each once, without those that are gone. */
		{"GET /", "B:x  y\nA:1\na:2\nC:", "x", "b;a;Host;gone;a;C;", -1, "GET\n/\n\na:1,2\nb:x y\nc:\nhost:h\n\na;b;c;host\nHASH",
		 "a;b;c;host"},
		{"PUT /", "X-Amz-Date:d\nX-Amz-Security-Token:t\nAuthorization:x", "x", "content-length;authorization", 7,
		 "PUT\n/\n\ncontent-length:7\nhost:h\nx-amz-date:d\nx-amz-security-token:t\n\n"
		 "content-length;host;x-amz-date;x-amz-security-token\nHASH",
		 "content-length;host;x-amz-date;x-amz-security-token"},
		{"PUT /", "", "x", "content-length;host", -1, "PUT\n/\n\nhost:h\n\nhost\nHASH", "host"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct http_head h = make_head("h", rows[i].request, rows[i].fields);
		struct sigv4_scope scope = {.fields = {rows[i].names, strlen(rows[i].names)}};
		struct buf out = {0}, names = {0};
		strcpy(scope.service, rows[i].service);
		h.length_bytes = rows[i].length_bytes;
		cr_assert_eq(sigv4_canonical(&h, &scope, "HASH", &out, &names), 0);
		buf_add(&out, "", 1);
		buf_add(&names, "", 1);
		cr_expect_str_eq((char *)out.data, rows[i].canonical, "%zu: %s", i, (char *)out.data);
		cr_expect_str_eq((char *)names.data, rows[i].signed_names, "%zu: %s", i, (char *)names.data);
		buf_free(&out);
		buf_free(&names);
		http_head_free(&h);
	}
}

Test(sigv4, too_many_names)
{
	struct sigv4 s = open_profile("default");
	struct http_head h = make_head("example.amazonaws.com", "GET /", "");
	struct sigv4_result r;
	struct buf text = {0};
	buf_addf(&text, "AWS4-HMAC-SHA256 Credential=" GUEST_ID "/x/r/s/aws4_request,Signature=,SignedHeaders=");
	for (int i = 0; i < HTTP_FIELDS_MAX + 1; i++)
		buf_addf(&text, "n%d;", i);
	http_set(&h.fields, "Authorization", (char *)text.data);
	cr_expect_eq(sigv4_sign(&s, &aws, 0, NULL, &h, &r), -E2BIG);
	buf_free(&text);
	http_head_free(&h);
	sigv4_close(&s);
}

/* ---- What is not signed ---- */

#define SCOPE GUEST_ID "/20150830/us-east-1/s3/aws4_request"
#define SIGNED "Authorization:AWS4-HMAC-SHA256 Credential=" SCOPE ", SignedHeaders=host, Signature=0"

Test(sigv4, outcomes)
{
	static const struct {
		const char *host;
		bool tls;
		const char *path, *fields;
		enum sigv4_outcome outcome;
		const char *reason;
	} rows[] = {
		{"s3.amazonaws.com", true, "/", SIGNED, SIGV4_SIGNED, NULL},
		{"s3.amazonaws.com", true, "/", SIGNED "\nX-Amz-Content-Sha256:UNSIGNED-PAYLOAD", SIGV4_SIGNED, NULL},
		{"s3.amazonaws.com", true, "/", SIGNED "\nX-Amz-Content-Sha256:STREAMING-UNSIGNED-PAYLOAD-TRAILER", SIGV4_SIGNED, NULL},
		{"s3.amazonaws.com", true, "/?AccessKeyId=" GUEST_ID, SIGNED, SIGV4_SIGNED, NULL},
		/* Not with the guest's key, or not to AWS. */
		{"s3.amazonaws.com", true, "/", "K:v", SIGV4_NOT_OURS, NULL},
		{"s3.amazonaws.com", true, "/", "Authorization:Bearer x", SIGV4_NOT_OURS, NULL},
		{"s3.amazonaws.com", true, "/", "Authorization:AWS4-HMAC-SHA256 Credential=AKIAOTHER/x/r/s/aws4_request, SignedHeaders=host",
		 SIGV4_NOT_OURS, NULL},
		{"s3.amazonaws.com", true, "/?X-Amz-Credential=AKIAOTHER&X-Amz-Signature=0", "K:v", SIGV4_NOT_OURS, NULL},
		{"amazonaws.com", true, "/", SIGNED, SIGV4_NOT_OURS, NULL},
		{"example.com", true, "/", SIGNED, SIGV4_NOT_OURS, NULL},
		{NULL, true, "/", SIGNED, SIGV4_NOT_OURS, NULL},
		/* With it, but it cannot be. */
		{"s3.amazonaws.com", false, "/", SIGNED, SIGV4_REFUSED, "without TLS"},
		{"s3.amazonaws.com", true, "/?X-Amz-Credential=" GUEST_ID "%2Fx&X-Amz-Signature=0", "K:v", SIGV4_REFUSED, "presigned"},
		{"s3.amazonaws.com", true, "/?AWSAccessKeyId=" GUEST_ID "&Signature=x", SIGNED, SIGV4_REFUSED, "presigned"},
		{"s3.amazonaws.com", true, "/", SIGNED "\nX-Amz-Content-Sha256:STREAMING-AWS4-HMAC-SHA256-PAYLOAD", SIGV4_REFUSED, "one by one"},
		{"s3.amazonaws.com", true, "/", SIGNED "\nX-Amz-Content-Sha256:STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", SIGV4_REFUSED,
		 "one by one"},
		{"s3.amazonaws.com", true, "/", SIGNED "\nX-Amz-Content-Sha256:abc", SIGV4_REFUSED, "malformed"},
		{"s3.amazonaws.com", true, "/", "Authorization:AWS " GUEST_ID ":x", SIGV4_REFUSED, "other than"},
		{"s3.amazonaws.com", true, "/", "Authorization:AWS4-ECDSA-P256-SHA256 Credential=" SCOPE ", SignedHeaders=host", SIGV4_REFUSED,
		 "other than"},
		{"s3.amazonaws.com", true, "/", "Authorization:AWS4-HMAC-SHA256 Credential=" SCOPE, SIGV4_REFUSED, "other than"},
		{"s3.amazonaws.com", true, "/", "Authorization:AWS4-HMAC-SHA256 Credential=" SCOPE "x, SignedHeaders=host", SIGV4_REFUSED,
		 "other than"},
		{"s3.amazonaws.com", true, "/", "Authorization:AWS4-HMAC-SHA256 Credential=" GUEST_ID "/x/r\n", SIGV4_REFUSED, "other than"},
		{"s3.amazonaws.com", true, "/", "Authorization:AWS4-HMAC-SHA256 Credential=" GUEST_ID "/x/r,/s/aws4_request, SignedHeaders=host",
		 SIGV4_REFUSED, "other than"},
	};
	struct sigv4 s = open_profile("default");
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		char request[256];
		snprintf(request, sizeof request, "GET %s", rows[i].path);
		struct http_head h = make_head("h", request, rows[i].fields);
		struct sigv4_result r;
		char *before = strdup(h.fields.item[0].value);
		cr_assert_eq(sigv4_sign(&s, &(struct secret_target){rows[i].host, 443, rows[i].tls}, 0, NULL, &h, &r), 0);
		cr_expect_eq(r.outcome, rows[i].outcome, "%zu: %d %s", i, r.outcome, r.reason);
		cr_expect(!rows[i].reason ? !r.reason : r.reason && strstr(r.reason, rows[i].reason), "%zu: %s", i, r.reason);
		cr_expect((strcmp(h.fields.item[0].value, before) == 0) == (r.outcome != SIGV4_SIGNED), "%zu", i);
		free(before);
		http_head_free(&h);
	}
	sigv4_close(&s);
}

Test(sigv4, bodies)
{
	static const struct {
		bool has_body;
		int64_t length_bytes;
		enum sigv4_outcome outcome;
	} rows[] = {{false, HTTP_LENGTH_UNKNOWN, SIGV4_SIGNED}, {true, 0, SIGV4_SIGNED}, {true, 5, SIGV4_NEEDS_HASH},
		    {true, HTTP_LENGTH_UNKNOWN, SIGV4_NEEDS_HASH}};
	struct sigv4 s = open_profile("default");
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct http_head h = make_head("h", "POST /", SIGNED);
		struct sigv4_result r;
		h.has_body = rows[i].has_body;
		h.length_bytes = rows[i].length_bytes;
		cr_assert_eq(sigv4_sign(&s, &aws, 0, NULL, &h, &r), 0);
		cr_expect_eq(r.outcome, rows[i].outcome, "%zu", i);
		http_head_free(&h);
	}
	sigv4_close(&s);
}

/* ---- Credentials ---- */

Test(sigv4, credentials)
{
	static const struct {
		const char *profile, *wrong;
	} rows[] = {
		{"default", NULL}, {"token", NULL}, {"s3", NULL}, {"none", "no profile 'none'"}, {"", "no profile ''"},
		{"half", "has no aws_secret_access_key"}, {"sso", "has no aws_access_key_id"}, {"blank", "a key that is none"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct sigv4_credentials c;
		struct err e = {""};
		int rc = sigv4_parse_credentials(credentials, sizeof credentials - 1, rows[i].profile, &c, &e);
		cr_expect_eq(rc == 0, rows[i].wrong == NULL, "%s: %s", rows[i].profile, e.text);
		cr_expect(strstr(e.text, rows[i].wrong ? rows[i].wrong : ""), "%s: %s", rows[i].profile, e.text);
		cr_expect_null(strstr(e.text, "SECRETWORD"));
		if (i == 0)
			cr_expect(c.key.bytes == 40 && memcmp(c.key.at, "wJalr", 5) == 0 && !c.token.at);
		if (i == 1)
			cr_expect(c.token.bytes == strlen(TOKEN) && c.id.bytes == 11);
	}
}

Test(sigv4, open_fails_clean)
{
	static const char *const every[] = {"*", NULL}, *const good[] = {"*.amazonaws.com", NULL};
	struct sigv4 s = {0};
	struct err e;
	char text[] = "[p]\naws_access_key_id=A\naws_secret_access_key=B\n", copy[sizeof text];
	strcpy(copy, text);
	cr_expect_eq(sigv4_open(&s, "p", GUEST_ID, every, copy, sizeof text - 1, &e), -EINVAL);
	cr_expect(strstr(e.text, "aws:p"), "%s", e.text);
	cr_expect_eq(copy[0], 0);
	strcpy(copy, text);
	cr_expect_eq(sigv4_open(&s, "p", "short", good, copy, sizeof text - 1, &e), -EINVAL);
	cr_expect(strstr(e.text, "'short'") && copy[0] == 0, "%s", e.text);
	cr_expect_eq(sigv4_open(&s, "q", GUEST_ID, good, text, sizeof text - 1, &e), -ENOENT);
	cr_expect(!s.vault.base && !s.hosts.intercept);
}

Test(sigv4, guest_keys)
{
	char id[SIGV4_GUEST_ID_BYTES], key[SIGV4_GUEST_KEY_BYTES], other[SIGV4_GUEST_ID_BYTES];
	cr_assert_eq(sigv4_guest_keys_make(id, key), 0);
	cr_assert_eq(sigv4_guest_keys_make(other, key), 0);
	cr_expect(strlen(id) == 20 && strncmp(id, "AKIA", 4) == 0 && strlen(key) == 40);
	cr_expect_str_neq(id, other);
}
