/* virtio/net/gate: hooks.c, hook_rule.c, hook_edit.c and hook_callback.c. What rules make of messages, as tables. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/hooks.h"
#include "vmm/util/err.h"
#include "vmm/util/json.h"

/* ---- Reading the tables ---- */

/* JSON is written with ' for ". The caller frees it. */
static char *json(const char *text)
{
	char *copy = strdup(text);
	for (char *p = copy; *p; p++)
		if (*p == '\'')
			*p = '"';
	return copy;
}

/* Rules, separated by a line end. */
static struct hooks make(const char *rules)
{
	struct hooks h = {0};
	struct err e;
	char *copy = json(rules), *at = copy;
	for (char *rule; *rules && (rule = strsep(&at, "\n"));)
		cr_assert_eq(hooks_add_text(&h, rule, &e), 0, "%s: %s", rule, e.text);
	free(copy);
	return h;
}

/* "Name: value; Name: value" */
static void add_fields(struct http_fields *f, const char *text)
{
	char *copy = strdup(text), *at = copy;
	for (char *field; *text && (field = strsep(&at, ";"));) {
		field += strspn(field, " ");
		char *colon = strchr(field, ':');
		cr_assert_eq(http_add(f, field, (size_t)(colon - field), colon + 2, strlen(colon + 2)), 0);
	}
	free(copy);
}

static void put_fields(const struct http_fields *f, struct buf *out)
{
	for (size_t i = 0; i < f->count; i++)
		buf_addf(out, "%s%s: %s", i ? "; " : " | ", f->item[i].name, f->item[i].value);
}

/* "METHOD path", with fields after " | ". */
static struct http_head make_request(const char *text)
{
	struct http_head h = {.length_bytes = HTTP_LENGTH_UNKNOWN};
	char *copy = strdup(text), *fields = strstr(copy, " | ");
	if (fields) {
		*fields = 0;
		add_fields(&h.fields, fields + 3);
	}
	char *space = strchr(copy, ' ');
	h.method = strndup(copy, (size_t)(space - copy));
	h.path = strdup(space + 1);
	free(copy);
	return h;
}

/* "STATUS", with fields after " | ". It has a body of 100 bytes. */
static struct http_head make_response(const char *text)
{
	struct http_head h = {.status = (unsigned)atoi(text), .length_bytes = 100, .has_body = true};
	const char *fields = strstr(text, " | ");
	if (fields)
		add_fields(&h.fields, fields + 3);
	return h;
}

static const struct hook_target target = {.host = "a.com", .port = 443, .now_ms = 1};

/* What became of a request: its text as in the tables, or "STATUS reason", or "callback of N". */
static const char *before(struct hooks *h, const struct hook_target *t, const char *text, struct hook_outcome *o)
{
	static char said[8192];
	struct http_head r = make_request(text);
	struct buf out = {0};
	enum hook_step step = hooks_before(h, t, &r, o);
	cr_expect_eq(step == HOOK_BLOCKED, o->status != 0);
	if (step == HOOK_BLOCKED)
		buf_addf(&out, "%u %s", o->status, o->reason);
	else if (step == HOOK_CALLBACK)
		buf_addf(&out, "callback of %zu", o->next);
	else
		buf_addf(&out, "%s %s", r.method, r.path);
	if (step == HOOK_DONE)
		put_fields(&r.fields, &out);
	snprintf(said, sizeof said, "%s", (char *)out.data);
	buf_free(&out);
	http_head_free(&r);
	return said;
}

static const char *after(struct hooks *h, const char *request_text, const char *text, struct hook_outcome *o)
{
	static char said[8192];
	struct http_head request = make_request(request_text), r = make_response(text);
	struct buf out = {0};
	enum hook_step step = hooks_after(h, &target, &request, &r, o);
	cr_expect_eq(step == HOOK_BLOCKED, o->status != 0);
	if (step == HOOK_BLOCKED) {
		buf_addf(&out, "%u %s", o->status, o->reason);
	} else {
		buf_addf(&out, "%u", r.status);
		put_fields(&r.fields, &out);
		buf_addf(&out, " (%d bytes, %zu replacements)", (int)r.length_bytes, o->replace.count);
	}
	snprintf(said, sizeof said, "%s", (char *)out.data);
	buf_free(&out);
	http_head_free(&request);
	http_head_free(&r);
	return said;
}

struct row {
	const char *rules, *message, *becomes;
};

static void check_before(const struct row *rows, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct hooks h = make(rows[i].rules);
		struct hook_outcome o = {0};
		cr_expect_str_eq(before(&h, &target, rows[i].message, &o), rows[i].becomes, "{%s} %s: %s", rows[i].rules,
				 rows[i].message, before(&h, &target, rows[i].message, &(struct hook_outcome){0}));
		hook_outcome_free(&o);
		hooks_free(&h);
	}
}
#define CHECK_BEFORE(rows) check_before(rows, sizeof(rows) / sizeof(rows)[0])

/* ---- Rules ---- */

/* Each with its place. */
Test(hooks, what_is_refused)
{
	static const struct {
		const char *rule, *says;
	} rows[] = {
		{"[]", "expected an object"},
		{"{'colour':'red'}", ".colour (byte 2): unknown key"},
		{"{'name':5}", ".name (byte 8): expected a string"},
		{"{'name':'a\\u0022b'}", "no quotes"},
		{"{'phase':'during'}", ".phase (byte 10): give \"before\" or \"after\""},
		{"{'action':'deny'}", ".action (byte 11): give \"allow\", \"block\" or \"mutate\""},
		{"{'action':'mutate'}", "says what to edit"},
		{"{'action':'block','set_headers':{'A':'b'}}", "a rule that blocks edits nothing"},
		{"{'action':'block','callback_id':'1'}", "asks nobody"},
		{"{'action':'block','limit':{'bytes':1}}", "has no limit"},
		{"{'hosts':'a.com'}", ".hosts (byte 10): expected an array"},
		{"{'hosts':['a.com','b..com']}", ".hosts[1] (byte 19): 'b..com': not a host: an empty label"},
		{"{'hosts':['api.*']}", "a '*' is the whole pattern, or its first label"},
		{"{'hosts':['10.0.0.1']}", ".hosts[0] (byte 11): '10.0.0.1'"},
		{"{'methods':['GE T']}", ".methods[0] (byte 13): 'GE T': not a method"},
		{"{'path':'v1/*'}", ".path (byte 9): 'v1/*': a path begins with '/'"},
		{"{'path':'/[ab]'}", "a pattern has '*'"},
		{"{'set_headers':{'Host':'b.com'}}", ".set_headers.Host (byte 24): this header is about the connection"},
		{"{'set_headers':{'content-LENGTH':'5'}}", "about the connection"},
		{"{'set_headers':{'Transfer-Encoding':'chunked'}}", "about the connection"},
		{"{'delete_headers':['Connection']}", ".delete_headers[0] (byte 20): 'Connection': this header is about the connection"},
		{"{'set_headers':{'A b':'c'}}", "a header's name has"},
		{"{'set_headers':{'':'c'}}", "a header's name has"},
		{"{'set_headers':{'A':'b\\r\\nC: d'}}", "no control characters"},
		{"{'set_headers':{'A':'b\\u0000'}}", "contains a NUL"},
		{"{'set_headers':{'A':' b'}}", "no blanks around it"},
		{"{'set_headers':{'A':5}}", ".set_headers.A (byte 20): expected a string"},
		{"{'set_headers':['A']}", "expected an object"},
		{"{'rewrite_path':'x'}", ".rewrite_path (byte 17): 'x': a path begins with '/'"},
		{"{'rewrite_path':'/x?y'}", "'/x?y': in a path '?'"},
		{"{'rewrite_path':'/x y'}", "'/x y': in a path"},
		{"{'set_query':{'':'c'}}", "an empty name"},
		{"{'set_response_headers':{'A':'b'}}", ".set_response_headers (byte 24): only a rule of phase \"after\""},
		{"{'body_replacements':[{'find':'a'}]}", "only a rule of phase \"after\""},
		{"{'phase':'after','set_headers':{'A':'b'}}", "only a rule of phase \"before\""},
		{"{'phase':'after','limit':{'bytes':5}}", "only a rule of phase \"before\""},
		{"{'phase':'after','body_replacements':[{'find':''}]}", "1 to 1024 bytes"},
		{"{'phase':'after','body_replacements':[{'replace':''}]}", ".body_replacements[0] (byte 38): give what to \"find\""},
		{"{'phase':'after','body_replacements':[{'find':'a','with':''}]}", ".with (byte 51): unknown key"},
		{"{'timeout_ms':-1}", "negative"},
		{"{'timeout_ms':700000}", ".timeout_ms (byte 14): give 0 to 600000"},
		{"{'limit':{}}", "give \"requests_per_minute\""},
		{"{'limit':{'requests_per_minute':0}}", "give 1 to"},
		{"{'limit':{'per_hour':5}}", "unknown key"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct hooks h = {0};
		struct err e = {""};
		char *text = json(rows[i].rule);
		cr_expect_lt(hooks_add_text(&h, text, &e), 0, "taken: %s", text);
		cr_expect(strstr(e.text, rows[i].says), "%s: %s", text, e.text);
		cr_expect_eq(h.count, 0);
		hooks_free(&h);
		free(text);
	}
}

Test(hooks, nothing_is_the_same_as_absent)
{
	struct hooks h = make("{'name':null,'phase':'','action':'','hosts':[],'methods':null,'path':'','set_headers':{},'delete_headers':[],"
			      "'set_query':null,'rewrite_path':'','body_replacements':[],'set_response_headers':{},'timeout_ms':0,"
			      "'callback_id':''}");
	struct hook_outcome o = {0};
	cr_expect_str_eq(before(&h, &target, "GET /", &o), "GET /");
	cr_expect_str_eq(o.rule, "hook_1");
	cr_expect_not(hooks_any_callback(&h));
	hooks_free(&h);
}

Test(hooks, there_are_bounds)
{
	struct hooks h = {0};
	struct err e;
	for (int i = 0; i < HOOKS_MAX; i++)
		cr_assert_eq(hooks_add_text(&h, "{}", &e), 0);
	cr_expect_eq(hooks_add_text(&h, "{}", &e), -E2BIG);
	cr_expect(strstr(e.text, "at most 256"), "%s", e.text);
	hooks_free(&h);
}

/* ---- What matches ---- */

Test(hooks, hosts)
{
	static const struct {
		const char *rule, *host;
		uint16_t port;
		bool any;
	} rows[] = {
		{"{'hosts':['a.com']}", "a.com", 443, true},	   {"{'hosts':['a.com']}", "a.com", 80, true},
		{"{'hosts':['a.com']}", "a.com", 8443, false},	   {"{'hosts':['a.com:8443']}", "a.com", 8443, true},
		{"{'hosts':['a.com']}", "b.a.com", 443, false},	   {"{'hosts':['*.a.com']}", "b.a.com", 443, true},
		{"{'hosts':['*.a.com']}", "a.com", 443, false},	   {"{'hosts':['b.com','A.COM']}", "a.com", 443, true},
		{"{'hosts':['*']}", "a.com", 443, true},	   {"{}", "a.com", 8443, true},
		{"{}", NULL, 443, false},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct hooks h = make(rows[i].rule);
		cr_expect_eq(hooks_any_for(&h, rows[i].host, rows[i].port), rows[i].any, "%s %s", rows[i].rule, rows[i].host);
		hooks_free(&h);
	}
}

#define BLOCK(match) "{'name':'no','action':'block'," match "}"
#define BLOCKED "403 hook 'no' blocks this request"

Test(hooks, methods_and_paths)
{
	static const struct row rows[] = {
		{BLOCK("'methods':['POST','put']"), "POST /", BLOCKED},
		{BLOCK("'methods':['POST','put']"), "PUT /", BLOCKED},
		{BLOCK("'methods':['POST','put']"), "GET /", "GET /"},
		{BLOCK("'path':'/v1/*'"), "GET /v1/a/b", BLOCKED},
		{BLOCK("'path':'/v1/*'"), "GET /v1/", BLOCKED},
		{BLOCK("'path':'/v1/*'"), "GET /v1", "GET /v1"},
		{BLOCK("'path':'/v1/*'"), "GET /v2/?/v1/", "GET /v2/?/v1/"},
		{BLOCK("'path':'/a?c'"), "GET /abc", BLOCKED},
		{BLOCK("'path':'/a?c'"), "GET /ac", "GET /ac"},
		{BLOCK("'path':'/a?c'"), "GET /a?c", "GET /a?c"},
		{BLOCK("'path':'*/admin*b'"), "GET /x/admin/a/b?q", BLOCKED},
		{BLOCK("'path':'*.git'"), "GET /x.git/y.git", BLOCKED},
		{BLOCK("'path':'*'"), "OPTIONS *", BLOCKED},
		{BLOCK("'path':'/*'"), "OPTIONS *", "OPTIONS *"},
		/* other spellings of /admin/x */
		{BLOCK("'path':'/admin/*'"), "GET /%61dmin/x", BLOCKED},
		{BLOCK("'path':'/admin/*'"), "GET /%61dmin%2Fx", BLOCKED},
		{BLOCK("'path':'/admin/*'"), "GET //admin//x", BLOCKED},
		{BLOCK("'path':'/admin/*'"), "GET /a/../admin/x", BLOCKED},
		{BLOCK("'path':'/admin/*'"), "GET /a/b/..%2f.%2e/./admin/x", BLOCKED},
		{BLOCK("'path':'/admin/*'"), "GET /../admin/x", BLOCKED},
		{BLOCK("'path':'/a/b/'"), "GET /a/c/../b/d/..", BLOCKED},
		{BLOCK("'path':'/a/'"), "GET /a/.", BLOCKED},
		{BLOCK("'path':'/a..'"), "GET /a..", BLOCKED},
		{BLOCK("'path':'/admin/*'"), "GET /%2561dmin/x", "GET /%2561dmin/x"},
		{BLOCK("'path':'/%61/*'"), "GET /%61/x", BLOCKED},
		/* who only allows is not taken in by them */
		{"{'path':'/pub/*'}\n" BLOCK("'path':'/*'"), "GET /pub/x", "GET /pub/x"},
		{"{'path':'/pub/*'}\n" BLOCK("'path':'/*'"), "GET /pub/../x", BLOCKED},
		{"{'path':'/pub/*'}\n" BLOCK("'path':'/*'"), "GET /pub/%2e%2e/x", BLOCKED},
		{"{'path':'/pub/*'}\n" BLOCK("'path':'/*'"), "GET /pub/%41", "GET /pub/%41"},
	};
	CHECK_BEFORE(rows);
}

/* A pattern that would take other matchers forever. */
Test(hooks, patterns_cost_little, .timeout = 20)
{
	char path[32768] = "GET /";
	memset(path + 5, 'a', sizeof path - 6);
	struct hooks h = make(BLOCK("'path':'/*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b'"));
	struct hook_outcome o = {0};
	struct http_head r = make_request(path);
	cr_expect_eq(hooks_before(&h, &target, &r, &o), HOOK_DONE);
	http_head_free(&r);
	hooks_free(&h);
}

/* ---- Requests ---- */

Test(hooks, order)
{
	static const struct row rows[] = {
		{"", "GET /", "GET /"},
		{"{}\n" BLOCK("'path':'/*'"), "GET /", "GET /"},
		{BLOCK("'path':'/*'") "\n{}", "GET /", BLOCKED},
		{"{'set_headers':{'A':'1'}}\n" BLOCK("'path':'/*'"), "GET /", BLOCKED},
		{"{'set_headers':{'A':'1'}}\n{'action':'mutate','set_headers':{'a':'2','B':'3'}}", "GET /", "GET / | A: 2; B: 3"},
		{"{'rewrite_path':'/b'}\n" BLOCK("'path':'/b'"), "GET /a", BLOCKED},
		{"{'phase':'after'}\n" BLOCK("'path':'/*'"), "GET /", BLOCKED},
		{"{'action':'block','phase':'after'}", "GET /", "GET /"},
		{"{'hosts':['b.com'],'action':'block'}", "GET /", "GET /"},
		{"{'callback_id':'x'}\n" BLOCK("'path':'/*'"), "GET /", "callback of 0"},
	};
	CHECK_BEFORE(rows);
}

Test(hooks, edits_of_requests)
{
	static const struct row rows[] = {
		{"{'set_headers':{'X-A':'1'}}", "GET / | x-a: 0; B: 2; X-A: 3", "GET / | x-a: 1; B: 2"},
		{"{'delete_headers':['b']}", "GET / | A: 1; B: 2; b: 3", "GET / | A: 1"},
		{"{'set_headers':{'A':'1'},'delete_headers':['A']}", "GET / | A: 0", "GET /"},
		{"{'set_headers':{'A':''}}", "GET /", "GET / | A: "},
		{"{'set_headers':{'A':'\xc3\xa4'}}", "GET /", "GET / | A: \xc3\xa4"},
		{"{'set_query':{'a':'1'}}", "GET /p", "GET /p?a=1"},
		{"{'set_query':{'a':'1'}}", "GET /p?b=2", "GET /p?b=2&a=1"},
		{"{'set_query':{'a':'1'}}", "GET /p?a=0&b=2&a", "GET /p?b=2&a=1"},
		{"{'set_query':{'a':'1'}}", "GET /p?%61=0&b=%2B+&", "GET /p?b=%2B+&a=1"},
		{"{'set_query':{'a b&':'\xc3\xa4/=+'}}", "GET /p?a+b%26=0", "GET /p?a%20b%26=%C3%A4%2F%3D%2B"},
		{"{'delete_query':['a']}", "GET /p?a=1", "GET /p"},
		{"{'delete_query':['a']}", "GET /p?aa=1&a=2&&A=3", "GET /p?aa=1&A=3"},
		{"{'delete_query':['a']}", "GET /p", "GET /p"},
		{"{'set_query':{'a':'1','b':'2'},'delete_query':['a']}", "GET /?a=0", "GET /?b=2"},
		{"{'rewrite_path':'/n'}", "GET /p?a=1&&b", "GET /n?a=1&&b"},
		{"{'rewrite_path':'/n%20','delete_query':['a']}", "GET /p?a=1", "GET /n%20"},
		{"{'rewrite_path':'/n','set_query':{'a':'1'}}", "OPTIONS *", "OPTIONS *"},
		{"{'path':'/p','rewrite_path':'/n'}", "GET /q", "GET /q"},
	};
	CHECK_BEFORE(rows);
}

/* What would become too long is blocked, and not cut. */
Test(hooks, edits_are_bounded)
{
	static const char *const rules[] = {"{'set_query':{'a':'0123456789'}}", "{'set_headers':{'a':'0123456789'}}"};
	for (size_t i = 0; i < 2; i++) {
		struct hooks h = make(rules[i]);
		struct hook_outcome o = {0};
		struct http_head r = {.method = strdup("GET")};
		r.path = malloc(HTTP_FIELDS_MAX_BYTES);
		memset(r.path, '/', HTTP_FIELDS_MAX_BYTES - 1);
		r.path[HTTP_FIELDS_MAX_BYTES - 1] = 0;
		cr_assert_eq(http_add(&r.fields, "b", 1, r.path, HTTP_FIELDS_MAX_BYTES - 5), 0);
		cr_expect_eq(hooks_before(&h, &target, &r, &o), HOOK_BLOCKED);
		cr_expect_eq(o.status, 502);
		cr_expect(strstr(o.reason, "too long"), "%s", o.reason);
		http_head_free(&r);
		hooks_free(&h);
	}
}

/* ---- Limits ---- */

static unsigned ask_at(struct hooks *h, uint64_t now_ms, uint32_t *retry_after_s)
{
	struct hook_outcome o = {0};
	struct hook_target t = target;
	t.now_ms = now_ms;
	before(h, &t, "GET /", &o);
	*retry_after_s = o.retry_after_s;
	return o.status;
}

Test(hooks, requests_per_minute)
{
	static const struct {
		uint64_t now_ms;
		unsigned status;
		uint32_t retry_after_s;
	} rows[] = {
		{0, 0, 0},	    {0, 0, 0},		{0, 0, 0},	   {0, 429, 20},	{10000, 429, 10}, {19999, 429, 1},
		{20000, 0, 0},	    {20000, 429, 20},	{60000, 0, 0},	   {60000, 0, 0},	{60000, 429, 20}, {1000000000, 0, 0},
		{1000000000, 0, 0}, {1000000000, 0, 0}, {1000000000, 429, 20},
	};
	struct hooks h = make("{'name':'calm','limit':{'requests_per_minute':3}}");
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		uint32_t retry_after_s;
		cr_expect_eq(ask_at(&h, 5000 + rows[i].now_ms, &retry_after_s), rows[i].status, "row %zu", i);
		cr_expect_eq(retry_after_s, rows[i].retry_after_s, "row %zu: %u", i, retry_after_s);
	}
	hooks_free(&h);
}

/* A limit is of the rule, and does not keep later rules from what they do. */
Test(hooks, limits_go_on)
{
	static const struct row rows[] = {
		{"{'limit':{'requests_per_minute':1}}\n" BLOCK("'path':'/*'"), "GET /", BLOCKED},
		{"{'path':'/b','limit':{'requests_per_minute':1}}", "GET /", "GET /"},
		{"{'limit':{'requests_per_minute':1},'set_headers':{'A':'1'}}", "GET /", "GET / | A: 1"},
	};
	CHECK_BEFORE(rows);
}

Test(hooks, bytes)
{
	struct hooks h = make("{'name':'small','path':'/a','limit':{'bytes':100}}\n{'name':'large','limit':{'bytes':1000}}");
	struct hook_outcome a = {0}, b = {0}, late = {0}, none = {0};
	cr_expect_str_eq(before(&h, &target, "GET /a", &a), "GET /a");
	cr_expect_str_eq(before(&h, &target, "GET /b", &b), "GET /b");
	cr_expect(hooks_limit_bytes(&h, &a, 60));
	cr_expect(hooks_limit_bytes(&h, &b, 500));
	cr_expect(hooks_limit_bytes(&h, &a, 40));
	cr_expect_str_eq(before(&h, &target, "GET /a", &late), "429 hook 'small' has no bytes left for this sandbox");
	cr_expect_eq(late.retry_after_s, 0);
	cr_expect_not(hooks_limit_bytes(&h, &a, 1));
	cr_expect(hooks_limit_bytes(&h, &b, 100));
	cr_expect_not(hooks_limit_bytes(&h, &b, UINT64_MAX));
	cr_expect(hooks_limit_bytes(&h, &none, UINT64_MAX), "an exchange that no limit is about");
	hooks_free(&h);
}

/* ---- Responses ---- */

#define AFTER(what) "{'phase':'after','name':'it'," what "}"
#define FIND "'body_replacements':[{'find':'a','replace':'b'},{'find':'c'}]"

Test(hooks, responses)
{
	static const struct {
		const char *rules, *request, *response, *becomes;
	} rows[] = {
		{"", "GET /", "200 | A: 1", "200 | A: 1 (100 bytes, 0 replacements)"},
		{"{'action':'block'}", "GET /", "200", "200 (100 bytes, 0 replacements)"},
		{AFTER("'action':'block'"), "GET /", "200", "403 hook 'it' blocks this response"},
		{AFTER("'action':'block','path':'/b'"), "GET /a", "200", "200 (100 bytes, 0 replacements)"},
		{AFTER("'action':'block','methods':['HEAD']"), "HEAD /a", "200", "403 hook 'it' blocks this response"},
		{AFTER("'set_response_headers':{'A':'2'}"), "GET /", "200 | B: 1; a: 1; A: 0", "200 | B: 1; a: 2 (100 bytes, 0 replacements)"},
		{AFTER("'delete_response_headers':['Set-Cookie']"), "GET /", "200 | Set-Cookie: 1; set-cookie: 2", "200 (100 bytes, 0 replacements)"},
		{AFTER(FIND), "GET /", "200 | Digest: x; Content-MD5: y; Content-Encoding: identity",
		 "200 | Content-Encoding: identity (-1 bytes, 2 replacements)"},
		{AFTER(FIND) "\n" AFTER(FIND), "GET /", "200", "200 (-1 bytes, 4 replacements)"},
		{AFTER(FIND), "GET /", "200 | Content-Encoding: gzip", "502 hook 'it' cannot edit this response: it is compressed"},
		{AFTER(FIND), "GET /", "200 | Content-Encoding: identity; content-encoding: br",
		 "502 hook 'it' cannot edit this response: it is compressed"},
		{AFTER("'set_response_headers':{'A':'1'}"), "GET /", "200 | Content-Encoding: gzip",
		 "200 | Content-Encoding: gzip; A: 1 (100 bytes, 0 replacements)"},
		{AFTER("'path':'/x'") "\n" AFTER("'action':'block'"), "GET /x", "200", "200 (100 bytes, 0 replacements)"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct hooks h = make(rows[i].rules);
		struct hook_outcome o = {0};
		const char *becomes = after(&h, rows[i].request, rows[i].response, &o);
		cr_expect_str_eq(becomes, rows[i].becomes, "{%s} %s: %s", rows[i].rules, rows[i].response, becomes);
		hook_outcome_free(&o);
		hooks_free(&h);
	}
}

Test(hooks, a_response_without_a_body_has_nothing_to_replace)
{
	struct hooks h = make(AFTER(FIND));
	struct http_head request = make_request("HEAD /"), response = make_response("200 | Content-Encoding: gzip");
	struct hook_outcome o = {0};
	response.has_body = false;
	cr_expect_eq(hooks_after(&h, &target, &request, &response, &o), HOOK_DONE);
	cr_expect_eq(o.replace.count, 0);
	cr_expect_eq(response.length_bytes, 100);
	http_head_free(&request);
	http_head_free(&response);
	hooks_free(&h);
}

Test(hooks, identity)
{
	static const struct {
		const char *rule;
		bool needs;
	} rows[] = {
		{AFTER(FIND), true},
		{AFTER("'callback_id':'x'"), true},
		{AFTER("'set_response_headers':{'A':'1'}"), false},
		{AFTER("'path':'/other'," FIND), false},
		{"{'callback_id':'x'}", false},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct hooks h = make(rows[i].rule);
		struct http_head request = make_request("GET /");
		cr_expect_eq(hooks_needs_identity(&h, &target, &request), rows[i].needs, "%s", rows[i].rule);
		http_head_free(&request);
		hooks_free(&h);
	}
}

/* ---- Callbacks ---- */

static void expect_line(const struct buf *line, const char *expected)
{
	char *text = json(expected);
	cr_expect(line->len == strlen(text) && memcmp(line->data, text, line->len) == 0, "%.*s", (int)line->len, (char *)line->data);
	free(text);
}

Test(hooks, what_a_callback_is_asked)
{
	struct hooks h = make("{'callback_id':'n\\u00e4 1','timeout_ms':70}\n{'callback_id':'2','phase':'after'}");
	struct http_head request = make_request("POST /a%20b?x=1&y=%C3%A4+&x=2&%78=3&z&%C3=4&%C4=5 | x-a-Bc: 1; Q: \\; X-A-BC: 2");
	struct http_head response = make_response("404 | content-TYPE: Text/Event-Stream");
	struct hook_outcome o = {0}, of_response = {0};
	struct buf line = {0};
	cr_expect(hooks_any_callback(&h));
	cr_expect_eq(hooks_before(&h, &target, &request, &o), HOOK_CALLBACK);
	cr_expect_eq(hooks_callback_timeout_ms(&h, &o), 70);
	cr_assert_eq(hooks_callback_request(&h, &o, &target, &request, NULL, &line), 0);
	expect_line(&line, "{'phase':'before','callback_id':'n\xc3\xa4 1','host':'a.com','method':'POST','path':'/a%20b',"
			   "'query':{'x':'1','y':'\xc3\xa4 ','z':'','\xef\xbf\xbd':'4'},'request_headers':{'X-A-Bc':['1','2'],'Q':['\\\\']}}\n");
	line.len = 0;
	cr_expect_eq(hooks_after(&h, &target, &request, &response, &of_response), HOOK_CALLBACK);
	cr_expect_eq(hooks_callback_timeout_ms(&h, &of_response), HOOK_TIMEOUT_MS);
	cr_assert_eq(hooks_callback_request(&h, &of_response, &target, &request, &response, &line), 0);
	expect_line(&line, "{'phase':'after','callback_id':'2','host':'a.com','method':'POST','path':'/a%20b',"
			   "'query':{'x':'1','y':'\xc3\xa4 ','z':'','\xef\xbf\xbd':'4'},'request_headers':{'X-A-Bc':['1','2'],'Q':['\\\\']},"
			   "'status_code':404,'response_headers':{'Content-Type':['Text/Event-Stream']},'is_sse':true}\n");
	buf_free(&line);
	http_head_free(&request);
	http_head_free(&response);
	hooks_free(&h);
}

Test(hooks, a_query_with_too_many_names)
{
	struct hooks h = make("{'callback_id':'1'}");
	struct http_head request = make_request("GET /");
	struct buf path = {0}, line = {0};
	struct hook_outcome o = {0};
	for (int i = 0; i < 257; i++)
		buf_addf(&path, "%s%d", i ? "&" : "/?", i);
	http_replace_text(&request.path, (char *)path.data);
	cr_expect_eq(hooks_before(&h, &target, &request, &o), HOOK_CALLBACK);
	cr_expect_eq(hooks_callback_request(&h, &o, &target, &request, NULL, &line), -E2BIG);
	cr_expect_not(hooks_callback_failed(&h, &o));
	cr_expect_eq(o.status, 502);
	cr_expect_str_eq(o.reason, "hook 'hook_1' had no answer from its callback");
	buf_free(&path);
	buf_free(&line);
	http_head_free(&request);
	hooks_free(&h);
}

/* A request, the answer, what becomes of it by that and the rule after. */
Test(hooks, answers_about_requests)
{
	static const char failed[] = "502 hook 'hook_1' had no proper answer from its callback";
	static const struct {
		const char *answer, *becomes;
	} rows[] = {
		{"{}", "GET /p?a=1 | A: 1; Last: 1"},
		{"{}\n", "GET /p?a=1 | A: 1; Last: 1"},
		{"{'action':'','request':null,'response':null,'error':''}", "GET /p?a=1 | A: 1; Last: 1"},
		{"{'action':'allow'}", "GET /p?a=1 | A: 1; Last: 1"},
		{"{'action':'block'}", "403 hook 'hook_1' blocks this request"},
		{"{'action':'mutate','request':{'headers':{'B':['1','2'],'C':[]}}}", "GET /p?a=1 | B: 1; B: 2; Last: 1"},
		{"{'request':{'headers':{}}}", "GET /p?a=1 | Last: 1"},
		{"{'request':{'headers':{'Host':['b.com'],'Content-Length':['5'],'connection':['close'],'D':['1']}}}", "GET /p?a=1 | D: 1; Last: 1"},
		{"{'request':{'query':{'b':'2 3','c':''}}}", "GET /p?b=2%203&c= | A: 1; Last: 1"},
		{"{'request':{'query':{}}}", "GET /p | A: 1; Last: 1"},
		{"{'request':{'path':'/n'}}", "GET /n?a=1 | A: 1; Last: 1"},
		{"{'request':{'path':''}}", "GET /p?a=1 | A: 1; Last: 1"},
		{"{'response':{'headers':{'B':['1']}}}", "GET /p?a=1 | A: 1; Last: 1"},
		{"", failed},
		{"{", failed},
		{"[]", failed},
		{"null", failed},
		{"{} {}", failed},
		{"{'action':'maybe'}", failed},
		{"{'action':true}", failed},
		{"{'error':'boom'}", failed},
		{"{'error':'boom','action':'allow'}", failed},
		{"{'colour':1}", failed},
		{"{'request':[]}", failed},
		{"{'request':{'headers':{'B':'1'}}}", failed},
		{"{'request':{'headers':{'B':['1\\r\\nC: 2']}}}", failed},
		{"{'request':{'headers':{'B:':['1']}}}", failed},
		{"{'request':{'headers':{'B':[null]}}}", failed},
		{"{'request':{'query':{'a':1}}}", failed},
		{"{'request':{'path':'n'}}", failed},
		{"{'request':{'path':'/n?x'}}", failed},
		{"{'request':{'path':'/n HTTP/1.1'}}", failed},
		{"{'request':{'method':'PUT'}}", failed},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct hooks h = make("{'callback_id':'1'}\n{'set_headers':{'Last':'1'}}");
		struct http_head r = make_request("GET /p?a=1 | A: 1");
		struct hook_outcome o = {0};
		struct buf out = {0};
		struct err e;
		char *answer = json(rows[i].answer);
		cr_assert_eq(hooks_before(&h, &target, &r, &o), HOOK_CALLBACK);
		bool good = hooks_callback_apply(&h, &o, answer, strlen(answer), &r, &e);
		cr_expect_eq(!good, o.status != 0);
		cr_expect_eq(e.text[0] != 0, o.status == 502, "%s", e.text);
		if (good) {
			cr_expect_eq(hooks_before(&h, &target, &r, &o), HOOK_DONE);
			buf_addf(&out, "%s %s", r.method, r.path);
			put_fields(&r.fields, &out);
		} else {
			buf_addf(&out, "%u %s", o.status, o.reason);
		}
		cr_expect_str_eq((char *)out.data, rows[i].becomes, "%s: %s (%s)", answer, (char *)out.data, e.text);
		free(answer);
		buf_free(&out);
		http_head_free(&r);
		hook_outcome_free(&o);
		hooks_free(&h);
	}
}

/* A rule with a replacement, then one with the callback. */
Test(hooks, answers_about_responses)
{
	static const struct {
		const char *answer, *body, *becomes;
	} rows[] = {
		{"{}", NULL, "200 | A: 1 (-1 bytes, 1 replacements)"},
		{"{'response':{'headers':{'B':['2']}}}", NULL, "200 | B: 2 (-1 bytes, 1 replacements)"},
		{"{'response':{'body_replacements':[{'find':'y','replace':'z'}]}}", NULL, "200 | A: 1 (-1 bytes, 2 replacements)"},
		{"{'response':{'set_body_base64':'eHkK'}}", "XXy\n", "200 | A: 1 (4 bytes, 0 replacements)"},
		{"{'response':{'set_body_base64':'eHkK','headers':{'Content-Encoding':['gzip']}}}", "XXy\n", "200 (4 bytes, 0 replacements)"},
		{"{'response':{'set_body_base64':'eHkK','headers':{'Content-Type':['text/event-stream']}}}", "xy\n",
		 "200 | Content-Type: text/event-stream (3 bytes, 0 replacements)"},
		{"{'response':{'set_body_base64':''}}", NULL, "200 | A: 1 (-1 bytes, 1 replacements)"},
		{"{'action':'block'}", NULL, "403 hook 'hook_2' blocks this response"},
		{"{'response':{'set_body_base64':'?'}}", NULL, "502 hook 'hook_2' had no proper answer from its callback"},
		{"{'response':{'set_body_base64':'eHk'}}", NULL, "502 hook 'hook_2' had no proper answer from its callback"},
		{"{'response':{'body_replacements':[{'find':''}]}}", NULL, "502 hook 'hook_2' had no proper answer from its callback"},
		{"{'response':{'status':500}}", NULL, "502 hook 'hook_2' had no proper answer from its callback"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct hooks h = make(AFTER("'body_replacements':[{'find':'x','replace':'XX'}]") "\n{'callback_id':'1','phase':'after'}");
		struct http_head request = make_request("GET /"), r = make_response("200 | A: 1");
		struct hook_outcome o = {0};
		struct buf out = {0};
		struct err e;
		char *answer = json(rows[i].answer);
		cr_assert_eq(hooks_after(&h, &target, &request, &r, &o), HOOK_CALLBACK);
		if (hooks_callback_apply(&h, &o, answer, strlen(answer), &r, &e)) {
			cr_expect_eq(hooks_after(&h, &target, &request, &r, &o), HOOK_DONE);
			buf_addf(&out, "%u", r.status);
			put_fields(&r.fields, &out);
			buf_addf(&out, " (%d bytes, %zu replacements)", (int)r.length_bytes, o.replace.count);
		} else {
			buf_addf(&out, "%u %s", o.status, o.reason);
		}
		cr_expect_str_eq((char *)out.data, rows[i].becomes, "%s: %s (%s)", answer, (char *)out.data, e.text);
		cr_expect_eq(o.sets_body, rows[i].body != NULL, "%s", answer);
		if (rows[i].body)
			cr_expect(o.body.len == strlen(rows[i].body) && memcmp(o.body.data, rows[i].body, o.body.len) == 0, "%s: %.*s",
				  answer, (int)o.body.len, (char *)o.body.data);
		free(answer);
		buf_free(&out);
		http_head_free(&request);
		http_head_free(&r);
		hook_outcome_free(&o);
		hooks_free(&h);
	}
}
