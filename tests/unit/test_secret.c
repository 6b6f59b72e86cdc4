/* virtio/net/gate/secret.c, secret_apply.c, vault.c and encode.c: what becomes of placeholders in requests, as tables. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "virtio/net/gate/encode.h"
#include "virtio/net/gate/http.h"
#include "virtio/net/gate/secret.h"
#include "vmm/util/err.h"

/* ---- Making ---- */

static int add(struct secrets *s, const char *name, const char *placeholder, const char *hosts, const char *value, struct err *e)
{
	char *copy = strdup(value), list[128], *at = list;
	const char *host[9] = {0};
	snprintf(list, sizeof list, "%s", hosts);
	for (size_t i = 0; i < 8 && (host[i] = strsep(&at, ",")) && *host[i];)
		i++;
	struct secret_spec spec = {.name = name, .placeholder = placeholder, .hosts = *hosts ? host : NULL};
	spec.in_path = strstr(name, "PATH");
	spec.in_body = strstr(name, "BODY");
	spec.plain_http = strstr(name, "PLAIN");
	int rc = secrets_add(s, &spec, copy, strlen(copy), e);
	for (size_t i = 0; i < strlen(value); i++)
		cr_expect_eq(copy[i], 0, "the caller's copy stays");
	free(copy);
	return rc;
}

/* Placeholders that can be told in the tables below. */
static void make(struct secrets *s)
{
	struct err e;
	*s = (struct secrets){0};
	cr_assert_eq(add(s, "A", "PLACEHOLDER_A", "a.com,*.a.com,a.com:8443", "va+l/ue \"A\"=", &e), 0, "%s", e.text);
	cr_assert_eq(add(s, "B", "PLACEHOLDER_B", "b.com", "valueB", &e), 0, "%s", e.text);
	cr_assert_eq(add(s, "PATH", "PLACEHOLDER_P", "a.com", "p/a?th", &e), 0, "%s", e.text);
	cr_assert_eq(add(s, "PLAIN", "PLACEHOLDER_H", "a.com", "plain", &e), 0, "%s", e.text);
}

/* http[s]://HOST:PORT */
static struct secret_target target(const char *text, char host[NAME_BYTES])
{
	struct secret_target t = {.tls = strncmp(text, "https:", 6) == 0};
	unsigned port;
	cr_assert_eq(sscanf(strchr(text, '/') + 2, "%253[^:]:%u", host, &port), 2);
	t.port = (uint16_t)port;
	t.host = host;
	return t;
}

/* A GET of `path` with lines of fields. */
static void make_head(struct http_head *h, const char *path, const char *fields)
{
	*h = (struct http_head){.method = strdup("GET"), .authority = strdup("host"), .path = strdup(path)};
	for (size_t n; *fields; fields += n + (fields[n] == '\n')) {
		n = strcspn(fields, "\n");
		size_t name = strcspn(fields, ":");
		cr_assert_eq(http_add(&h->fields, fields, name, fields + name + 2, n - name - 2), 0);
	}
}

static void head_text(const struct http_head *h, char *out, size_t size)
{
	size_t n = 0, bytes = 0;
	*out = 0;
	for (size_t i = 0; i < h->fields.count; i++) {
		const struct http_field *f = &h->fields.item[i];
		n += (size_t)snprintf(out + n, size - n, "%s%s: %s", i ? "\n" : "", f->name, f->value);
		bytes += strlen(f->name) + strlen(f->value);
	}
	cr_expect_eq(h->fields.bytes, bytes);
}

/* ---- Requests ---- */

Test(secret, put_in)
{
	static const struct {
		const char *target, *path, *fields, *new_path, *new_fields;
		unsigned used;
	} rows[] = {
		{"https://a.com:443", "/", "Accept: x", "/", "Accept: x", 0},
		{"https://a.com:443", "/", "X-Api-Key: PLACEHOLDER_A", "/", "X-Api-Key: va+l/ue \"A\"=", 1},
		{"https://x.a.com:443", "/", "X-Api-Key: PLACEHOLDER_A", "/", "X-Api-Key: va+l/ue \"A\"=", 1},
		{"https://a.com:8443", "/", "X-Api-Key: PLACEHOLDER_A", "/", "X-Api-Key: va+l/ue \"A\"=", 1},
		{"https://a.com:443", "/", "Authorization: Bearer PLACEHOLDER_A", "/", "Authorization: Bearer va+l/ue \"A\"=", 1},
		{"https://a.com:443", "/", "Cookie: a=PLACEHOLDER_A; b=PLACEHOLDER_H; c=PLACEHOLDER_A", "/",
		 "Cookie: a=va+l/ue \"A\"=; b=plain; c=va+l/ue \"A\"=", 1 | 8},
		{"https://a.com:443", "/", "K: PLACEHOLDER_\nL: PLACEHOLDER_APLACEHOLDER_H\nM: PLACEHOLDERPLACEHOLDER_H", "/",
		 "K: PLACEHOLDER_\nL: va+l/ue \"A\"=plain\nM: PLACEHOLDERplain", 1 | 8},
		/* Fields that are not for credentials, and names. */
		{"https://a.com:443", "/", "User-Agent: PLACEHOLDER_A\nReferer: PLACEHOLDER_A\nACCEPT-language: PLACEHOLDER_A\nK: v",
		 "/",
		 "User-Agent: PLACEHOLDER_A\nReferer: PLACEHOLDER_A\nACCEPT-language: PLACEHOLDER_A\nK: v", 0},
		{"https://a.com:443", "/", "If-Match: PLACEHOLDER_A\nIfx: PLACEHOLDER_H\nX-PLACEHOLDER_A: v", "/",
		 "If-Match: PLACEHOLDER_A\nIfx: plain\nX-PLACEHOLDER_A: v", 8},
		/* The query, and the path where its secret may be there. */
		{"https://a.com:443", "/?key=PLACEHOLDER_A&b", "K: v", "/?key=va%2Bl%2Fue%20%22A%22%3D&b", "K: v", 1},
		{"https://a.com:443", "/?key=PL%41CEHOLDER%5fA&b=%4", "K: v", "/?key=va%2Bl%2Fue%20%22A%22%3D&b=%4", "K: v", 1},
		{"https://a.com:443", "/?%50LACEHOLDER_A", "K: v", "/?va%2Bl%2Fue%20%22A%22%3D", "K: v", 1},
		{"https://a.com:443", "/botPLACEHOLDER_P/x?y=PLACEHOLDER_H", "K: v", "/botp%2Fa%3Fth/x?y=plain", "K: v", 4 | 8},
		{"https://a.com:443", "/%50LACEHOLDER_%50", "K: v", "/p%2Fa%3Fth", "K: v", 4},
		{"https://a.com:443", "*", "K: v", "*", "K: v", 0},
		/* user:PLACEHOLDER_A, without '=' and in another case, PLACEHOLDER_H, and what is no base64. */
		{"https://a.com:443", "/", "Authorization: Basic dXNlcjpQTEFDRUhPTERFUl9B", "/",
		 "Authorization: Basic dXNlcjp2YStsL3VlICJBIj0=", 1},
		{"https://a.com:443", "/", "authorization: bAsIc  OlBMQUNFSE9MREVSX0g", "/", "authorization: Basic OnBsYWlu", 8},
		{"https://a.com:443", "/", "Authorization: Basic PLACEHOLDER_H\nB: Basic !\nC: Basic", "/",
		 "Authorization: Basic plain\nB: Basic !\nC: Basic", 8},
		{"https://a.com:443", "/", "Authorization: Basic  eDp5", "/", "Authorization: Basic  eDp5", 0},
		/* Without TLS where it may be, and to others without any. */
		{"http://a.com:80", "/", "K: PLACEHOLDER_H", "/", "K: plain", 8},
		{"https://c.com:443", "/PLACEHOLDER_?x=PLACEHOLDER%20A", "K: PLACEHOLDER-A",
		 "/PLACEHOLDER_?x=PLACEHOLDER%20A", "K: PLACEHOLDER-A", 0},
	};
	struct secrets s;
	make(&s);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		char host[NAME_BYTES], text[1024];
		struct secret_target t = target(rows[i].target, host);
		struct secret_result r;
		struct http_head h;
		make_head(&h, rows[i].path, rows[i].fields);
		cr_assert_eq(secrets_apply(&s, &t, &h, &r), 0);
		head_text(&h, text, sizeof text);
		cr_expect_null(r.blocked, "%zu: %s", i, r.blocked);
		cr_expect_str_eq(h.path, rows[i].new_path, "%zu: %s", i, h.path);
		cr_expect_str_eq(text, rows[i].new_fields, "%zu: %s", i, text);
		cr_expect_eq(r.used, rows[i].used, "%zu: %lu", i, r.used);
		http_head_free(&h);
	}
	secrets_free(&s);
}

Test(secret, blocked)
{
	static const struct {
		const char *target, *path, *fields, *name, *what;
	} rows[] = {
		{"https://c.com:443", "/", "K: PLACEHOLDER_A", "A", "belong"},
		{"https://c.com:443", "/", "K: xPLACEHOLDER_Ax", "A", "belong"},
		{"https://c.com:443", "/", "User-Agent: PLACEHOLDER_A", "A", "belong"},
		{"https://c.com:443", "/", "X-PLACEHOLDER_A: v", "A", "belong"},
		{"https://c.com:443", "/", "x-placeholder_a: v", "A", "belong"},
		{"https://c.com:443", "/PLACEHOLDER_A", "K: v", "A", "belong"},
		{"https://c.com:443", "/x/%50%4C%41CEHOLDER_%41/", "K: v", "A", "belong"},
		{"https://c.com:443", "/?a=PLACEHOLDER_A", "K: v", "A", "belong"},
		{"https://c.com:443", "/?a=PLACEHOLDER%5FA", "K: v", "A", "belong"},
		{"https://c.com:443", "/", "Authorization: Basic dXNlcjpQTEFDRUhPTERFUl9B", "A", "belong"},
		{"https://c.com:443", "/", "X: BASIC dXNlcjpQTEFDRUhPTERFUl9B=", "A", "belong"},
		/* One that would do, and another. */
		{"https://a.com:443", "/?a=PLACEHOLDER_A", "K: PLACEHOLDER_A\nL: PLACEHOLDER_AxPLACEHOLDER_B", "B", "belong"},
		{"https://b.com:443", "/", "K: PLACEHOLDER_B PLACEHOLDER_A", "A", "belong"},
		/* Hosts that look alike, and other ports. */
		{"https://a.com.evil.com:443", "/", "K: PLACEHOLDER_A", "A", "belong"},
		{"https://ba.com:443", "/", "K: PLACEHOLDER_A", "A", "belong"},
		{"https://x.b.com:443", "/", "K: PLACEHOLDER_B", "B", "belong"},
		{"https://a.com:444", "/", "K: PLACEHOLDER_A", "A", "belong"},
		{"http://a.com:80", "/", "K: PLACEHOLDER_A", "A", "without TLS"},
		{"http://a.com:80", "/?PLACEHOLDER_A", "K: PLACEHOLDER_H", "A", "without TLS"},
		{"http://c.com:80", "/", "K: PLACEHOLDER_H", "PLAIN", "belong"},
		{"https://a.com:443", "/PLACEHOLDER_A?x", "K: v", "A", "path"},
		{"https://a.com:443", "/PLACEHOLDER_H", "K: PLACEHOLDER_A", "PLAIN", "path"},
	};
	struct secrets s;
	make(&s);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		char host[NAME_BYTES], text[1024];
		struct secret_target t = target(rows[i].target, host);
		struct secret_result r;
		struct http_head h;
		make_head(&h, rows[i].path, rows[i].fields);
		cr_assert_eq(secrets_apply(&s, &t, &h, &r), 0);
		head_text(&h, text, sizeof text);
		cr_expect(r.blocked && strstr(r.blocked, rows[i].what), "%zu: %s", i, r.blocked);
		cr_expect(r.secret && strcmp(r.secret->name, rows[i].name) == 0, "%zu", i);
		cr_expect_str_eq(h.path, rows[i].path);
		cr_expect_str_eq(text, rows[i].fields, "%zu: %s", i, text);
		cr_expect_eq(r.used, 0);
		http_head_free(&h);
	}
	secrets_free(&s);
}

Test(secret, other_places)
{
	const struct secret_target other = {"c.com", 443, true}, address = {NULL, 443, true};
	struct secrets s;
	struct secret_result r;
	struct http_head h;
	make(&s);
	make_head(&h, "/", "K: v");
	free(h.method);
	h.method = strdup("placeholder_A");
	cr_assert_eq(secrets_apply(&s, &other, &h, &r), 0);
	cr_expect(r.blocked && r.secret == s.item[0]);
	http_replace_text(&h.method, "GET");
	http_replace_text(&h.authority, "placeholder_b.c.com");
	cr_assert_eq(secrets_apply(&s, &other, &h, &r), 0);
	cr_expect(r.blocked && r.secret == s.item[1]);
	http_replace_text(&h.authority, "192.0.2.1");
	http_set(&h.fields, "K", "PLACEHOLDER_B");
	cr_assert_eq(secrets_apply(&s, &address, &h, &r), 0);
	cr_expect(r.blocked && r.secret == s.item[1]);
	secrets_check_trailers(&s, &other, &h.fields, &r);
	cr_expect(r.blocked && r.secret == s.item[1]);
	secrets_check_trailers(&s, &(struct secret_target){"b.com", 443, true}, &h.fields, &r);
	cr_expect_null(r.blocked);
	http_head_free(&h);
	secrets_free(&s);
}

/* A value makes a head larger than any may be: nothing of it is sent. */
Test(secret, too_large)
{
	const struct secret_target t = {"a.com", 443, true};
	struct secrets s = {0};
	struct secret_result r;
	struct http_head h;
	struct err e;
	char *value = malloc(SECRET_VALUE_MAX_BYTES + 1);
	memset(value, 'x', SECRET_VALUE_MAX_BYTES);
	value[SECRET_VALUE_MAX_BYTES] = 0;
	cr_assert_eq(add(&s, "A", "PLACEHOLDER_A", "a.com", value, &e), 0);
	make_head(&h, "/", "K: PLACEHOLDER_A");
	cr_assert_eq(secrets_apply(&s, &t, &h, &r), 0);
	cr_expect(r.blocked && !r.secret && r.used == 0);
	cr_expect_str_eq(http_get(&h.fields, "K"), "PLACEHOLDER_A");
	http_head_free(&h);
	secrets_free(&s);
	free(value);
}

/* ---- The store ---- */

Test(secret, refused)
{
	static const struct {
		const char *name, *placeholder, *hosts, *value, *what;
	} rows[] = {
		{"", "PLACEHOLDER_X", "a.com", "VALUE", "cannot name"},
		{"A-B", "PLACEHOLDER_X", "a.com", "VALUE", "cannot name"},
		{"1A", "PLACEHOLDER_X", "a.com", "VALUE", "cannot name"},
		{"A", "PLACEHOLDER_X", "a.com", "VALUE", "two secrets A"},
		{"X", "PLACEHOLDER_A", "a.com", "VALUE", "must not contain"},
		{"X", "LACEHOLDER_", "a.com", "VALUE", "must not contain"},
		{"X", "xplaceholder_ax", "a.com", "VALUE", "must not contain"},
		{"X", "short", "a.com", "VALUE", "cannot be a placeholder"},
		{"X", "with blank", "a.com", "VALUE", "cannot be a placeholder"},
		{"X", "PLACEHOLDER%20", "a.com", "VALUE", "cannot be a placeholder"},
		{"X", "PLACEHOLDER_X", "a.com", "", "no value"},
		{"X", "PLACEHOLDER_X", "a.com", "VA\nLUE", "end of a line"},
		{"X", "PLACEHOLDER_X", "a.com", "VALUE\r", "end of a line"},
		{"X", "PLACEHOLDER_X", "a.com", " VALUE", "a blank"},
		{"X", "PLACEHOLDER_X", "a.com", "VALUE\t", "a blank"},
		{"X", "PLACEHOLDER_X", "", "VALUE", "no host that"},
		{"X", "PLACEHOLDER_X", "*", "VALUE", "every host"},
		{"X", "PLACEHOLDER_X", "a.com,*:8080", "VALUE", "every host"},
		{"X", "PLACEHOLDER_X", "10.0.0.1", "VALUE", "named by a host"},
		{"X", "PLACEHOLDER_X", "tcp:a.com:1", "VALUE", "named by a host"},
		{"X", "PLACEHOLDER_X", "a_b!", "VALUE", "a_b!"},
	};
	struct secrets s;
	make(&s);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct err e = {"nothing"};
		cr_expect_lt(add(&s, rows[i].name, rows[i].placeholder, rows[i].hosts, rows[i].value, &e), 0, "%zu", i);
		cr_expect(strstr(e.text, rows[i].what), "%zu: %s", i, e.text);
		cr_expect_null(strstr(e.text, "VA"), "%zu: %s", i, e.text);
	}
	cr_expect_eq(s.count, 4);
	secrets_free(&s);
}

Test(secret, as_many_as_there_may_be)
{
	struct secrets s = {0};
	struct err e;
	char name[16], placeholder[32], *value = malloc(SECRET_VALUE_MAX_BYTES + 2);
	memset(value, 'x', SECRET_VALUE_MAX_BYTES + 1);
	value[SECRET_VALUE_MAX_BYTES + 1] = 0;
	cr_expect_eq(add(&s, "LARGE", "PLACEHOLDER", "a.com", value, &e), -E2BIG);
	value[SECRET_VALUE_MAX_BYTES] = 0;
	for (int i = 0; i < SECRETS_MAX; i++) {
		snprintf(name, sizeof name, "S%d", i);
		snprintf(placeholder, sizeof placeholder, "PLACEHOLDER_%02d", i);
		cr_assert_eq(add(&s, name, placeholder, "a.com", value, &e), 0, "%s", e.text);
	}
	cr_expect_eq(add(&s, "MORE", "PLACEHOLDER_MORE", "a.com", value, &e), -E2BIG);
	cr_expect_eq(memcmp(s.item[SECRETS_MAX - 1]->value, value, SECRET_VALUE_MAX_BYTES), 0);
	secrets_free(&s);
	secrets_free(&s);
	free(value);
}

Test(secret, questions)
{
	struct secrets s;
	struct err e;
	make(&s);
	cr_assert_eq(add(&s, "BODY", "PLACEHOLDER_BODY", "d.com", "v", &e), -EINVAL);
	cr_assert_eq(add(&s, "BODY", "OTHER_PLACEHOLDER", "d.com", "v", &e), 0);
	cr_expect(secrets_any_for(&s, &(struct secret_target){"b.com", 443, true}));
	cr_expect(secrets_any_for(&s, &(struct secret_target){"b.com", 80, false}));
	cr_expect_not(secrets_any_for(&s, &(struct secret_target){"c.com", 443, true}));
	cr_expect_not(secrets_any_for(&s, &(struct secret_target){NULL, 443, true}));
	cr_expect(secrets_any_in_body(&s, &(struct secret_target){"d.com", 443, true}));
	cr_expect_not(secrets_any_in_body(&s, &(struct secret_target){"d.com", 80, false}));
	cr_expect_not(secrets_any_in_body(&s, &(struct secret_target){"a.com", 443, true}));
	secrets_free(&s);
}

Test(secret, random_placeholder)
{
	char one[SECRET_RANDOM_PLACEHOLDER_BYTES], other[SECRET_RANDOM_PLACEHOLDER_BYTES];
	cr_assert_eq(secret_placeholder_make(one), 0);
	cr_assert_eq(secret_placeholder_make(other), 0);
	cr_expect_eq(strncmp(one, "SANDBOX_SECRET_", 15), 0);
	cr_expect_eq(strlen(one), 47);
	cr_expect_eq(strspn(one + 15, "0123456789abcdef"), 32);
	cr_expect_str_neq(one, other);
}

/* What the kernel says of the memory of a vault: "dd" it is not dumped, "wf" a child has zeros. */
Test(vault, is_neither_dumped_nor_inherited)
{
	struct vault v = {0};
	cr_assert_eq(vault_open(&v, 100000), 0);
	cr_expect_null(vault_take(&v, v.size + 1));
	uint8_t *at = vault_take(&v, 4096), *next = vault_take(&v, 1);
	cr_assert(at && next == at + 4096);
	*at = 42;
	pid_t child = fork();
	if (child == 0)
		_exit(*at);
	int status;
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	FILE *f = fopen("/proc/self/smaps", "r");
	char line[512];
	bool here = false, seen = false;
	while (fgets(line, sizeof line, f)) {
		unsigned long from, to;
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			here = from <= (uintptr_t)at && (uintptr_t)at < to;
		if (here && strncmp(line, "VmFlags:", 8) == 0) {
			cr_expect(strstr(line, " dd") && strstr(line, " wf"), "%s", line);
			seen = true;
		}
	}
	fclose(f);
	cr_expect(seen);
	vault_close(&v);
	cr_expect_null(v.base);
}

/* ---- Forms ---- */

Test(encode, percent)
{
	static const struct {
		const char *from, *keep, *to;
		bool lower;
	} rows[] = {
		{"aZ09-._~", ENCODE_UNRESERVED, "aZ09-._~", false},
		{"a b/c+\xff", ENCODE_UNRESERVED, "a%20b%2Fc%2B%FF", false},
		{"a b/c+\xff", "-._~/", "a%20b/c%2b%ff", true},
		{"a b+c~", "-._*+", "a+b%2Bc%7E", false},
		{"", "", "", false},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		char out[64];
		size_t n = encode_percent(rows[i].from, strlen(rows[i].from), rows[i].keep, rows[i].lower, out);
		out[n] = 0;
		cr_expect_str_eq(out, rows[i].to);
		cr_expect_eq(encode_percent(rows[i].from, strlen(rows[i].from), rows[i].keep, rows[i].lower, NULL), n);
	}
}

Test(encode, base64)
{
	static const char *const rows[][2] = {
		/* RFC 4648, section 10 */
		{"", ""}, {"f", "Zg"}, {"fo", "Zm8"}, {"foo", "Zm9v"}, {"foob", "Zm9vYg"}, {"fooba", "Zm9vYmE"},
		{"foobar", "Zm9vYmFy"},
		{"\xff\xef\xbe", "/+++"},
	};
	char out[64], back[64];
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		size_t len = strlen(rows[i][0]), n = encode_base64(rows[i][0], len, false, out);
		cr_expect_eq(n, strlen(rows[i][1]));
		cr_expect_eq(memcmp(out, rows[i][1], n), 0);
		memcpy(out + n, "==", 2);
		cr_expect_eq(encode_base64_decode(out, n + (4 - n % 4) % 4, back), (ssize_t)len);
		cr_expect_eq(memcmp(back, rows[i][0], len), 0);
	}
	cr_expect_eq(encode_base64("\xff\xef\xbe", 3, true, out), 4);
	cr_expect_eq(memcmp(out, "_---", 4), 0);
	cr_expect_eq(encode_base64_decode("_---", 4, back), 3);
	cr_expect_eq(memcmp(back, "\xff\xef\xbe", 3), 0);
	cr_expect_eq(encode_base64_decode("Zm 9v", 5, back), -1);
	cr_expect_eq(encode_base64_decode("Zg=x", 4, back), -1);
}
