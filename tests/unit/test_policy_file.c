/* virtio/net/policy_file.c and presets.c. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "virtio/net/policy.h"
#include "virtio/net/policy_file.h"
#include "virtio/net/presets.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"

static int parse(struct policy *p, const char *text, struct err *e)
{
	return policy_file_parse(text, strlen(text), p, e);
}

static void same_rule(const struct policy_rule *a, const struct policy_rule *b)
{
	cr_expect(a->match == b->match && a->proto == b->proto && a->any_proto == b->any_proto && a->raw == b->raw && a->web == b->web &&
		  a->port_first == b->port_first && a->port_last == b->port_last && strcmp(a->name, b->name) == 0 &&
		  addr_equal(&a->net.addr, &b->net.addr) && a->net.prefix_bits == b->net.prefix_bits);
}

static void same(const struct policy *a, const struct policy *b)
{
	cr_assert_eq(a->allow_count, b->allow_count);
	cr_assert_eq(a->deny_count, b->deny_count);
	cr_assert_eq(a->pin_count, b->pin_count);
	cr_assert_eq(a->loopback_port_count, b->loopback_port_count);
	for (size_t i = 0; i < a->allow_count; i++)
		same_rule(&a->allow[i], &b->allow[i]);
	for (size_t i = 0; i < a->deny_count; i++)
		same_rule(&a->deny[i], &b->deny[i]);
	cr_expect(a->loopback_port_count == 0 || memcmp(a->loopback_port, b->loopback_port, a->loopback_port_count * 2) == 0);
	cr_assert_eq(a->intercept_count, b->intercept_count);
	for (size_t i = 0; i < a->intercept_count; i++)
		same_rule(&a->intercept[i], &b->intercept[i]);
	cr_assert_eq(a->hooks.count, b->hooks.count);
	for (size_t i = 0; i < a->hooks.count; i++)
		cr_expect_str_eq(a->hooks.item[i], b->hooks.item[i]);
	for (size_t i = 0; i < a->pin_count; i++) {
		cr_expect_str_eq(a->pin[i].name, b->pin[i].name);
		cr_expect(addr_equal(&a->pin[i].addr, &b->pin[i].addr));
	}
}

static const char all[] = "{\n"
			  "  \"version\": 1,\n"
			  "  \"allow\": [\n"
			  "    \"api.example.com\",\n"
			  "    \"*.example.org:8000-8010\",\n"
			  "    \"tcp:git.example.com:22\",\n"
			  "    \"[2001:db8::/32]:*\"\n"
			  "  ],\n"
			  "  \"deny\": [\n"
			  "    \"x.example.org\"\n"
			  "  ],\n"
			  "  \"hosts\": {\n"
			  "    \"api.example.com\": [\"10.0.0.1\", \"2001:db8::1\"],\n"
			  "    \"db.example.com\": [\"10.0.0.2\"]\n"
			  "  },\n"
			  "  \"loopback_ports\": [\n"
			  "    8080,\n"
			  "    11434\n"
			  "  ],\n"
			  "  \"intercept\": [\n"
			  "    \"api.example.com\",\n"
			  "    \"*.example.org:8000-8010\"\n"
			  "  ],\n"
			  "  \"hooks\": [\n"
			  "    {\"hosts\": [\"api.example.com\"], \"action\": \"block\", \"path\": \"/\u00e4*\"},\n"
			  "    {\"phase\": \"after\", \"hosts\": [\"*.example.org:8000-8010\"], \"body_replacements\": [{\"find\": \"\\u0000\\\"\"}]}\n"
			  "  ]\n"
			  "}\n";

Test(policy_file, what_is_read_is_written)
{
	struct policy p = {0}, again = {0};
	struct buf text = {0};
	struct err e;
	cr_assert_eq(parse(&p, all, &e), 0, "%s", e.text);
	cr_assert_eq(policy_file_write(&p, &text), 0);
	cr_expect_eq(text.len, strlen(all));
	cr_expect(memcmp(text.data, all, text.len) == 0, "%.*s", (int)text.len, (char *)text.data);
	cr_assert_eq(policy_file_parse((char *)text.data, text.len, &again, &e), 0, "%s", e.text);
	same(&p, &again);
	policy_free(&p);
	policy_free(&again);
	buf_free(&text);
}

Test(policy_file, short_forms)
{
	struct policy p = {0};
	struct buf text = {0};
	struct err e;
	cr_assert_eq(policy_file_write(&p, &text), 0);
	cr_assert_eq(policy_file_parse((char *)text.data, text.len, &p, &e), 0, "%s", e.text);
	cr_expect(p.allow_count + p.deny_count + p.pin_count + p.loopback_port_count == 0);
	buf_free(&text);
	cr_assert_eq(parse(&p, "{\"version\":1,\"hosts\":{\"a.com\":\"10.0.0.1\"},\"allow\":[],\"deny\":[]}", &e), 0, "%s", e.text);
	cr_expect_eq(p.pin_count, 1);
	policy_free(&p);
}

/* Each names the place. */
Test(policy_file, what_is_refused)
{
	static const struct {
		const char *text, *says;
	} rows[] = {
		{"", "at byte 0"},
		{"{", "at byte 1"},
		{"[]", "expected an object"},
		{"{}", "no \"version\""},
		{"{\"allow\":[]}", "no \"version\""},
		{"{\"version\":2}", ".version (byte 11): a policy of version 2; this caplock knows version 1"},
		{"{\"version\":\"1\"}", ".version (byte 12): expected a number"},
		{"{\"version\":1,\"alow\":[]}", ".alow (byte 14): unknown key"},
		{"{\"version\":1,\"allow\":\"a.com\"}", ".allow (byte 22): expected an array"},
		{"{\"version\":1,\"allow\":[\"a.com\",7]}", ".allow[1] (byte 30): expected a string"},
		{"{\"version\":1,\"allow\":[\"a.com\",null]}", ".allow[1] (byte 30): expected a string"},
		{"{\"version\":1,\"allow\":null}", ".allow (byte 21): expected an array"},
		{"{\"version\":1,\"allow\":[{\"host\":\"a.com\"}]}", ".allow[0] (byte 22): expected a string"},
		{"{\"version\":1,\"allow\":[\"a.com\",\"foo..bar\"]}", ".allow[1] (byte 31): 'foo..bar': not a host: an empty label, at character 5"},
		{"{\"version\":1,\"allow\":[\"a.com\\u0000.b\"]}", ".allow[0]"},
		{"{\"version\":1,\"allow\":[\"@nonsense\"]}", ".allow[0] (byte 23): '@nonsense': no preset"},
		{"{\"version\":1,\"deny\":[\"10.0.0.1/8\"]}", ".deny[0] (byte 22): '10.0.0.1/8'"},
		{"{\"version\":1,\"hosts\":{\"a.com\":\"b.com\"}}", ".hosts.a.com (byte 31): 'a.com:b.com': 'b.com' is not an IP address"},
		{"{\"version\":1,\"hosts\":{\"a..com\":\"1.2.3.4\"}}", ".hosts.a..com (byte 32): 'a..com:1.2.3.4': not a host"},
		{"{\"version\":1,\"hosts\":{\"a.com\":[\"1.2.3.4\",5]}}", ".hosts.a.com[1] (byte 41): expected a string"},
		{"{\"version\":1,\"hosts\":[]}", ".hosts (byte 21): expected an object"},
		{"{\"version\":1,\"loopback_ports\":[80,0]}", ".loopback_ports[1] (byte 34): '0' is no port"},
		{"{\"version\":1,\"loopback_ports\":[\"80\"]}", ".loopback_ports[0] (byte 32): expected a number"},
		{"{\"version\":1,\"loopback_ports\":[80.5]}", ".loopback_ports[0] (byte 31): expected an integer"},
		{"{\"version\":1,\"intercept\":[\"10.0.0.1\"]}", ".intercept[0] (byte 27): '10.0.0.1': what is to be read"},
		{"{\"version\":1,\"intercept\":\"a.com\"}", ".intercept (byte 26): expected an array"},
		{"{\"version\":1,\"hooks\":{}}", ".hooks (byte 21): expected an array"},
		{"{\"version\":1,\"hooks\":[{},[]]}", ".hooks[1] (byte 25): expected an object"},
		{"{\"version\":1,\"hooks\":[{\"colour\":1}]}", ".hooks[0].colour (byte 24): unknown key"},
		{"{\"version\":1,\"hooks\":[{\"set_headers\":{\"Host\":\"a\"}}]}", ".hooks[0].set_headers.Host (byte 46): this header"},
		{"{\"version\":1,\"hooks\":[{\"hosts\":[\"a.*\"]}]}", ".hooks[0].hosts[0] (byte 33): 'a.*': not a host"},
		{"{\"version\":1,\"version\":1}", "duplicate key"},
		{"{\"version\":1} x", "text after the value"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct policy p = {0};
		struct err e = {""};
		cr_expect_lt(parse(&p, rows[i].text, &e), 0, "taken: %s", rows[i].text);
		cr_expect(strstr(e.text, rows[i].says), "%s: %s", rows[i].text, e.text);
		policy_free(&p);
	}
}

Test(policy_file, files_add_up)
{
	char path[] = "/tmp/caplock-test-XXXXXX";
	int fd = mkstemp(path);
	struct policy p = {0};
	struct err e;
	cr_assert_eq(policy_add_allow(&p, "first.com", &e), 0);
	cr_assert_geq(fd, 0);
	dprintf(fd, "%s", all);
	cr_assert_eq(policy_file_add(&p, path, &e), 0, "%s", e.text);
	cr_assert_eq(policy_file_add(&p, path, &e), 0, "%s", e.text);
	cr_expect_eq(p.allow_count, 9);
	cr_expect_eq(ftruncate(fd, 5), 0);
	cr_expect_lt(policy_file_add(&p, path, &e), 0);
	cr_expect_eq(strncmp(e.text, path, strlen(path)), 0, "%s", e.text);
	close(fd);
	unlink(path);
	cr_expect_eq(policy_file_add(&p, path, &e), -ENOENT);
	cr_expect(strstr(e.text, path), "%s", e.text);
	policy_free(&p);
}

/* The hosts of hooks are read, each once; a hook for all hosts makes all read. None of it allows anything. */
Test(policy_file, hooks)
{
	struct policy p = {0}, copy;
	struct policy_request r = {.proto = NET_TCP, .name = "x.com", .port = 8443};
	struct err e;
	cr_assert_eq(parse(&p, "{\"version\":1,\"hooks\":[{\"hosts\":[\"a.com\",\"b.com:8080\"]},{\"hosts\":[\"a.com\"],\"action\":\"block\"}]}", &e), 0,
		     "%s", e.text);
	cr_expect_eq(p.intercept_count, 2);
	cr_expect_eq(p.hooks.count, 2);
	cr_expect_str_eq(p.hooks.item[1], "{\"hosts\":[\"a.com\"],\"action\":\"block\"}");
	cr_expect_not(policy_intercepts(&p, &r));
	cr_assert_eq(parse(&p, "{\"version\":1,\"hooks\":[{}]}", &e), 0, "%s", e.text);
	cr_expect(policy_intercepts(&p, &r));
	cr_expect_eq(policy_decide(&p, &r).verdict, POLICY_DENY);
	cr_assert_eq(policy_copy(&copy, &p), 0);
	same(&p, &copy);
	policy_free(&p);
	cr_expect_eq(copy.hooks.count, 3);
	policy_free(&copy);
	cr_expect_eq(copy.hooks.count, 0);
}

/* As many hooks as there may be: in all files together. */
Test(policy_file, too_many_hooks)
{
	struct policy p = {0};
	struct buf text = {0};
	struct err e;
	cr_assert_eq(buf_addf(&text, "{\"version\":1,\"hooks\":["), 0);
	for (int i = 0; i < 200; i++)
		cr_assert_eq(buf_addf(&text, "%s{}", i ? "," : ""), 0);
	cr_assert_eq(buf_addf(&text, "]}"), 0);
	cr_expect_eq(policy_file_parse((char *)text.data, text.len, &p, &e), 0);
	cr_expect_eq(policy_file_parse((char *)text.data, text.len, &p, &e), -E2BIG);
	cr_expect(strstr(e.text, ".hooks[56]") && strstr(e.text, "at most 256"), "%s", e.text);
	buf_free(&text);
	policy_free(&p);
}

Test(policy_file, too_many_rules)
{
	struct policy p = {0};
	struct buf text = {0};
	struct err e;
	cr_assert_eq(buf_addf(&text, "{\"version\":1,\"allow\":["), 0);
	for (int i = 0; i <= POLICY_RULES_MAX; i++)
		cr_assert_eq(buf_addf(&text, "%s\"h%d.com\"", i ? "," : "", i), 0);
	cr_assert_eq(buf_addf(&text, "]}"), 0);
	cr_expect_eq(policy_file_parse((char *)text.data, text.len, &p, &e), -E2BIG);
	cr_expect(strstr(e.text, ".allow[4096]") && strstr(e.text, "at most 4096"), "%s", e.text);
	buf_free(&text);
	policy_free(&p);
}

/* Every preset is a good policy that allows named hosts at the usual ports, and nothing else. */
Test(presets, are_good)
{
	size_t count = 0;
	for (const struct preset *preset = presets; preset->name; preset++, count++) {
		struct policy p = {0};
		struct err e;
		char at[64];
		snprintf(at, sizeof at, "@%s", preset->name);
		cr_assert_eq(policy_add_allow(&p, at, &e), 0, "%s: %s", at, e.text);
		cr_expect_gt(p.allow_count, 0);
		cr_expect(p.deny_count + p.pin_count + p.loopback_port_count == 0, "%s", at);
		for (size_t i = 0; i < p.allow_count; i++)
			cr_expect((p.allow[i].match == MATCH_NAME || p.allow[i].match == MATCH_UNDER) && p.allow[i].web && strchr(p.allow[i].name, '.'),
				  "%s: %s", at, p.allow[i].name);
		cr_expect(count == 0 || strcmp(preset[-1].name, preset->name) < 0, "%s: not in order", at);
		policy_free(&p);
	}
	cr_expect_gt(count, 10);
	cr_expect_not_null(presets_find("github"));
	cr_expect_null(presets_find("git"));
	cr_expect_null(presets_find(""));
}
