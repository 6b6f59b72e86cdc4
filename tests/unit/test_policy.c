/* virtio/net/policy.c and policy_rule.c: what rules mean, as tables that can be read. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/policy.h"
#include "vmm/util/err.h"

/* ---- Reading the tables ---- */

static const char *const verdict_names[] = {[POLICY_DENY] = "deny", [POLICY_ALLOW] = "check", [POLICY_ALLOW_RAW] = "raw"};

/* Rules, separated by spaces: "+HOST" allows, "-HOST" denies, "=NAME:IP" pins, "@PORT" opens a port of the host's loopback. */
static struct policy make(const char *rules)
{
	struct policy p = {0};
	struct err e;
	char *copy = strdup(rules), *at = copy;
	for (char *rule; (rule = strsep(&at, " "));) {
		int rc = *rule == '+' ? policy_add_allow(&p, rule + 1, &e)
			 : *rule == '-' ? policy_add_deny(&p, rule + 1, &e)
			 : *rule == '=' ? policy_add_pin(&p, rule + 1, &e)
			 : *rule == '@' ? policy_add_loopback(&p, rule + 1, &e) : 0;
		cr_assert_eq(rc, 0, "%s: %s", rules, e.text);
	}
	free(copy);
	return p;
}

/* [udp:]NAME-or-ADDRESS:PORT; an IPv6 address in brackets. The name is in `name`. */
static struct policy_request parse(const char *text, char name[NAME_BYTES])
{
	struct policy_request r = {.proto = strncmp(text, "udp:", 4) == 0 ? NET_UDP : NET_TCP};
	text += r.proto == NET_UDP ? 4 : 0;
	const char *colon = strrchr(text, ':');
	size_t n = (size_t)(colon - text), bracket = text[0] == '[', at;
	char host[NAME_BYTES] = "";
	memcpy(host, text + bracket, n - 2 * bracket);
	r.port = (uint16_t)atoi(colon + 1);
	if (!addr_parse(host, &r.addr)) {
		cr_assert_null(name_canonical(host, strlen(host), name, &at), "%s", text);
		r.name = name;
	}
	return r;
}

struct row {
	const char *rules, *request, *verdict, *reason;
};

static void check_rows(const struct row *rows, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		char name[NAME_BYTES];
		struct policy p = make(rows[i].rules);
		struct policy_request r = parse(rows[i].request, name);
		struct policy_decision d = policy_decide(&p, &r);
		cr_expect_str_eq(verdict_names[d.verdict], rows[i].verdict, "{%s} %s: %s", rows[i].rules, rows[i].request, d.reason);
		if (rows[i].reason)
			cr_expect(d.reason && strcmp(d.reason, rows[i].reason) == 0, "{%s} %s: %s", rows[i].rules, rows[i].request,
				  d.reason);
		cr_expect((d.verdict == POLICY_DENY) == (d.reason != NULL));
		policy_free(&p);
	}
}
#define CHECK(rows) check_rows(rows, sizeof(rows) / sizeof(rows)[0])

/* ---- What is decided ---- */

Test(policy, table)
{
	static const struct row rows[] = {
		/* rules                        request                 verdict  reason of a denial */
		{"+a.com", "a.com:443", "check", NULL},
		{"+a.com", "a.com:80", "check", NULL},
		{"+a.com", "a.com:22", "deny", "no rule allows this port of the host"},
		{"+a.com", "A.COM.:443", "check", NULL},
		{"+A.Com.", "a.com:443", "check", NULL},
		{"+a.com", "b.com:443", "deny", "no rule allows this host"},
		{"+a.com", "x.a.com:443", "deny", "no rule allows this host"},
		{"+a.com", "xa.com:443", "deny", "no rule allows this host"},
		{"+a.com", "a.com.evil.org:443", "deny", "no rule allows this host"},
		{"+a.com", "udp:a.com:443", "deny", "no rule allows this port of the host"},
		{"+xn--bcher-kva.de", "XN--BCHER-KVA.de:443", "check", NULL},
		{"+_srv.a.com", "_srv.a.com:443", "check", NULL},

		{"+*.a.com", "x.a.com:443", "check", NULL},
		{"+*.a.com", "x.y.a.com:443", "check", NULL},
		{"+*.a.com", "a.com:443", "deny", "no rule allows this host"},
		{"+*.a.com", "xa.com:443", "deny", "no rule allows this host"},
		{"+*.a.com +a.com", "a.com:443", "check", NULL},

		{"+*", "anything.at.all:443", "check", NULL},
		{"+*", "anything.at.all:8080", "deny", "no rule allows this port of the host"},
		{"+*:*", "anything.at.all:8080", "check", NULL},
		{"+*:*", "1.1.1.1:80", "deny", "no rule allows this address"},
		{"+*:*", "udp:a.com:53", "deny", "no rule allows this port of the host"},
		{"+*:*", "host.caplock.internal:80", "deny", "this port of the host is not open to the sandbox"},

		{"+a.com:8080", "a.com:8080", "check", NULL},
		{"+a.com:8080", "a.com:443", "deny", "no rule allows this port of the host"},
		{"+a.com:8000-8010", "a.com:8010", "check", NULL},
		{"+a.com:8000-8010", "a.com:8011", "deny", "no rule allows this port of the host"},
		{"+a.com:8000-8010", "a.com:7999", "deny", "no rule allows this port of the host"},
		{"+a.com:*", "a.com:1", "check", NULL},
		{"+a.com:*", "a.com:65535", "check", NULL},

		{"+tcp:a.com:22", "a.com:22", "raw", NULL},
		{"+tcp:a.com:22", "a.com:443", "deny", "no rule allows this port of the host"},
		{"+tcp:a.com:22", "udp:a.com:22", "deny", "no rule allows this port of the host"},
		{"+udp:a.com:123", "udp:a.com:123", "raw", NULL},
		{"+udp:a.com:123", "a.com:123", "deny", "no rule allows this port of the host"},
		{"+a.com:* +tcp:a.com:443", "a.com:443", "raw", NULL}, /* whatever the order: a raw rule is explicit */
		{"+tcp:a.com:443 +a.com:*", "a.com:443", "raw", NULL},

		{"+1.1.1.1", "1.1.1.1:443", "raw", NULL},
		{"+1.1.1.1", "1.1.1.2:443", "deny", "no rule allows this address"},
		{"+1.1.1.1", "1.1.1.1:22", "deny", "no rule allows this address"},
		{"+1.0.0.0/8:*", "1.2.3.4:22", "raw", NULL},
		{"+1.0.0.0/8:*", "2.2.3.4:22", "deny", "no rule allows this address"},
		{"+::ffff:1.1.1.1", "1.1.1.1:443", "raw", NULL},
		{"+1.1.1.1", "[::ffff:1.1.1.1]:443", "raw", NULL},
		{"+0.0.0.0/0", "[2606:4700::1]:443", "deny", "no rule allows this address"},
		{"+[2606:4700::/32]:*", "[2606:4700::1]:5", "raw", NULL},
		{"+::/0", "1.1.1.1:443", "raw", NULL}, /* IPv4 as a part of IPv6 */

		{"+a.com -a.com", "a.com:443", "deny", "a rule denies this host"},
		{"-a.com +a.com", "a.com:443", "deny", "a rule denies this host"},
		{"+*.a.com -x.a.com", "x.a.com:443", "deny", "a rule denies this host"},
		{"+*.a.com -x.a.com", "y.a.com:443", "check", NULL},
		{"+a.com:* -a.com:22", "a.com:22", "deny", "a rule denies this host"},
		{"+a.com:* -a.com:22", "a.com:443", "check", NULL},
		{"+a.com -*", "a.com:443", "deny", "a rule denies this host"},
		{"+*:* -*.com", "a.com:443", "deny", "a rule denies this host"},
		{"+tcp:a.com:22 +udp:a.com:22 -udp:a.com", "udp:a.com:22", "deny", "a rule denies this host"},
		{"+tcp:a.com:22 +udp:a.com:22 -udp:a.com", "a.com:22", "raw", NULL},
		{"+1.0.0.0/8 -1.1.0.0/16", "1.1.1.1:443", "deny", "a rule denies this address"},
		{"+1.0.0.0/8 -1.1.0.0/16", "1.2.1.1:443", "raw", NULL},
		{"+1.1.1.1 -*", "1.1.1.1:443", "deny", "a rule denies this address"},
		{"=a.com:127.0.0.1 +a.com -a.com", "a.com:443", "deny", "a rule denies this host"},
		{"=a.com:127.0.0.1", "a.com:443", "deny", "no rule allows this host"}, /* a pin is no rule */

		{"@8080", "host.caplock.internal:8080", "raw", NULL},
		{"@8080", "udp:host.caplock.internal:8080", "deny", "this port of the host is not open to the sandbox"},
		{"@8080", "host.caplock.internal:8081", "deny", "this port of the host is not open to the sandbox"},
		{"@8080 -host.caplock.internal", "host.caplock.internal:8080", "deny", "a rule denies this host"},
		{"@8080 -*", "host.caplock.internal:8080", "deny", "a rule denies this host"},
		{"@8080", "127.0.0.1:8080", "deny", "a loopback address"},

		{"+a.com +a.com +a.com", "a.com:443", "check", NULL}, /* duplicates */
	};
	CHECK(rows);
}

Test(policy, case_21_no_rule_denies_everything)
{
	static const struct row rows[] = {
		{"", "a.com:443", "deny", "no rule allows this host"},
		{"", "1.1.1.1:443", "deny", "no rule allows this address"},
		{"", "[2606:4700::1]:443", "deny", "no rule allows this address"},
		{"", "udp:1.1.1.1:53", "deny", "no rule allows this address"},
		{"", "host.caplock.internal:80", "deny", "this port of the host is not open to the sandbox"},
		{"-b.com", "a.com:443", "deny", "no rule allows this host"},
		{"=a.com:1.1.1.1", "1.1.1.1:443", "deny", "no rule allows this address"},
	};
	CHECK(rows);
	struct policy empty = {0};
	cr_expect_not(policy_resolves(&empty, "a.com"));
	cr_expect_not(policy_resolves(&empty, POLICY_HOST_NAME));
}

/* An address is never read as a name, nor is anything that some resolver would take for an address. */
Test(policy, case_23_names_are_canonical_or_refused)
{
	static const struct {
		const char *text, *canonical; /* NULL: refused */
	} rows[] = {
		{"Example.COM", "example.com"},
		{"example.com.", "example.com"},
		{"xn--bcher-kva.de", "xn--bcher-kva.de"},
		{"a_b.com", "a_b.com"},
		{"1.2.3.com", "1.2.3.com"},
		{"0x7f.a", "0x7f.a"},
		{"localhost", "localhost"},
		{"example.com..", NULL},
		{".example.com", NULL},
		{"a..b", NULL},
		{"", NULL},
		{".", NULL},
		{"-a.com", NULL},
		{"a-.com", NULL},
		{"a.com-", NULL},
		{"b\xc3\xbc" "cher.de", NULL}, /* a U-label */
		{"a\xe3\x80\x82" "com", NULL}, /* the ideographic full stop */
		{"a b.com", NULL},
		{"a\tb", NULL},
		{"a.com\r\n", NULL},
		{"a/b", NULL},
		{"a:80", NULL},
		{"a@b", NULL},
		{"a%2e", NULL},
		{"*.a.com", NULL},
		{"127.0.0.1", NULL},
		{"127.1", NULL},
		{"2130706433", NULL},
		{"0x7f000001", NULL},
		{"0x7f.1", NULL},
		{"0X7F000001", NULL},
		{"017700000001", NULL},
		{"0177.0.0.1", NULL},
		{"127.0.0.0x1", NULL},
		{"127.1.", NULL},
		{"1.2.3", NULL},
		{"0x", NULL},
		{"::1", NULL},
		{"[::1]", NULL},
		{"::ffff:127.0.0.1", NULL},
		{"fe80::1%eth0", NULL},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		char out[NAME_BYTES];
		size_t at;
		const char *wrong = name_canonical(rows[i].text, strlen(rows[i].text), out, &at);
		cr_expect_eq(wrong == NULL, rows[i].canonical != NULL, "'%s': %s", rows[i].text, wrong);
		if (!wrong && rows[i].canonical)
			cr_expect_str_eq(out, rows[i].canonical);
	}
	char out[NAME_BYTES], longest[300];
	size_t at;
	cr_expect_not_null(name_canonical("a.com\0.b.com", 12, out, &at), "a NUL inside");
	memset(longest, 'a', sizeof longest);
	longest[63] = longest[127] = longest[191] = '.';
	cr_expect_null(name_canonical(longest, 253, out, &at));
	cr_expect_eq(strlen(out), 253);
	cr_expect_not_null(name_canonical(longest, 254, out, &at));
	longest[63] = 'a';
	cr_expect_not_null(name_canonical(longest, 200, out, &at), "a label of 127");
	cr_expect_eq(at, 63);
}

Test(policy, case_23_addresses_have_one_form)
{
	static const struct {
		const char *text, *canonical; /* NULL: no address */
	} rows[] = {
		{"127.0.0.1", "127.0.0.1"},
		{"::ffff:127.0.0.1", "127.0.0.1"},
		{"::FFFF:7f00:1", "127.0.0.1"},
		{"0:0:0:0:0:ffff:7f00:0001", "127.0.0.1"},
		{"2001:DB8:0:0::1", "2001:db8::1"},
		{"::", "::"},
		{"127.1", NULL},
		{"0x7f.0.0.1", NULL},
		{"0177.0.0.1", NULL},
		{"127.0.0.01", NULL},
		{"127.0.0.256", NULL},
		{"127.0.0.1.", NULL},
		{" 127.0.0.1", NULL},
		{"fe80::1%eth0", NULL},
		{"fe80::1%251", NULL},
		{"[::1]", NULL},
		{"1:2:3:4:5:6:7:8:9", NULL},
		{"::1::", NULL},
		{"::ffff:127.1", NULL},
		{"", NULL},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct ip_addr a;
		char text[ADDR_TEXT_BYTES];
		bool ok = addr_parse(rows[i].text, &a);
		cr_expect_eq(ok, rows[i].canonical != NULL, "'%s'", rows[i].text);
		if (ok && rows[i].canonical)
			cr_expect_str_eq(addr_text(&a, text), rows[i].canonical);
	}
}

/* A rule for a name is none for an address, whatever is there. */
Test(policy, case_24_addresses_are_not_names)
{
	static const struct row rows[] = {
		{"+a.com:* +*.a.com:* +*:*", "1.2.3.4:443", "deny", "no rule allows this address"},
		{"+a.com =a.com:1.2.3.4", "1.2.3.4:443", "deny", "no rule allows this address"},
		{"+a.com =a.com:10.0.0.1", "10.0.0.1:443", "deny", "a private address"},
		{"+tcp:*:*", "[2606:4700::1]:443", "deny", "no rule allows this address"},
		{"+0.0.0.0/0:* +::/0", "a.com:443", "deny", "no rule allows this host"},
	};
	CHECK(rows);
}

/* What becomes of a name's addresses: `own` ones are the host's. */
struct answer_row {
	const char *rules, *request, *answers, *dialled;
};

static void check_answers(const struct answer_row *row)
{
	char name[NAME_BYTES], got[512] = "";
	struct policy p = make(row->rules);
	struct policy_request r = parse(row->request, name);
	char *copy = strdup(row->answers), *at = copy;
	for (char *answer; (answer = strsep(&at, " "));) {
		struct ip_addr a;
		bool own = answer[0] == '!';
		cr_assert(addr_parse(answer + own, &a), "%s", answer);
		if (policy_decide_address(&p, &r, &a, own).verdict != POLICY_DENY) {
			strcat(got, got[0] ? " " : "");
			strcat(got, answer);
		}
	}
	cr_expect_str_eq(got, row->dialled, "{%s} %s -> %s: %s", row->rules, row->request, row->answers, got);
	free(copy);
	policy_free(&p);
}

/* Every answer of a resolver is judged by itself; "!" marks an address of this host. */
Test(policy, case_25_all_answers_are_filtered)
{
	static const struct answer_row rows[] = {
		{"+a.com", "a.com:443", "1.1.1.1 10.0.0.1 2606:4700::1 ::1", "1.1.1.1 2606:4700::1"},
		{"+a.com", "a.com:443", "127.0.0.1 169.254.169.254 ::ffff:10.0.0.1 fd00:ec2::254", ""},
		{"+a.com", "a.com:443", "!1.1.1.1 1.1.1.2", "1.1.1.2"},
		{"+a.com -1.1.1.0/24", "a.com:443", "1.1.1.1 1.1.2.1", "1.1.2.1"},
		{"+a.com +10.0.0.0/8", "a.com:443", "10.0.0.1 192.168.0.1", "10.0.0.1"},
		{"+a.com:22 +10.0.0.0/8", "a.com:22", "10.0.0.1", ""},
		{"+a.com +0.0.0.0/0:* +[::/0]:*", "a.com:443", "10.0.0.1 127.0.0.1 ::1 fd00::1 !1.1.1.1", ""},
		{"+a.com +1.1.1.1", "a.com:443", "!1.1.1.1", "!1.1.1.1"},
		{"+a.com +1.1.1.0/24", "a.com:443", "!1.1.1.1", ""},
		{"+a.com =a.com:10.0.0.1", "a.com:443", "10.0.0.1 10.0.0.2", "10.0.0.1"},
		{"+a.com +b.com =b.com:10.0.0.1", "a.com:443", "10.0.0.1", ""},
		{"+a.com =a.com:10.0.0.1 -10.0.0.0/8", "a.com:443", "10.0.0.1", ""},
		{"@80", "host.caplock.internal:80", "127.0.0.1 ::1", "127.0.0.1 ::1"},
		{"@80 -127.0.0.0/8", "host.caplock.internal:80", "127.0.0.1 ::1", "::1"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
		check_answers(&rows[i]);
}

/* Not public: denied to a name, and to every rule for addresses that is wider than the special range. */
Test(policy, case_26_special_addresses)
{
	static const struct {
		const char *addr, *what, *rule; /* the widest rule that allows it; NULL: itself */
	} rows[] = {
		{"0.0.0.0", "an address of this host", "0.0.0.0/8"},
		{"0.1.2.3", "an address of this host", "0.0.0.0/8"},
		{"127.0.0.1", "a loopback address", "127.0.0.0/8"},
		{"127.255.255.255", "a loopback address", "127.0.0.0/8"},
		{"10.0.0.1", "a private address", "10.0.0.0/8"},
		{"172.16.0.1", "a private address", "172.16.0.0/12"},
		{"172.31.255.255", "a private address", "172.16.0.0/12"},
		{"192.168.1.1", "a private address", "192.168.0.0/16"},
		{"100.64.0.1", "a shared address (CGNAT)", "100.64.0.0/10"},
		{"100.100.100.200", "a metadata address", NULL},
		{"168.63.129.16", "a metadata address", NULL},
		{"169.254.169.254", "a link-local address", "169.254.0.0/16"},
		{"192.0.0.192", "a protocol assignment", "192.0.0.0/24"},
		{"192.0.2.1", "a documentation address", "192.0.2.0/24"},
		{"198.51.100.1", "a documentation address", "198.51.100.0/24"},
		{"203.0.113.1", "a documentation address", "203.0.113.0/24"},
		{"192.88.99.1", "a 6to4 relay", "192.88.99.0/24"},
		{"198.18.0.1", "a benchmark address", "198.18.0.0/15"},
		{"198.19.255.255", "a benchmark address", "198.18.0.0/15"},
		{"224.0.0.251", "a multicast address", "224.0.0.0/4"},
		{"240.0.0.1", "a reserved address", "240.0.0.0/4"},
		{"255.255.255.255", "a reserved address", "240.0.0.0/4"},
		{"::ffff:169.254.169.254", "a link-local address", "169.254.0.0/16"},
		{"::", "an IPv4-compatible address", "::/96"},
		{"::1", "a loopback address", NULL},
		{"::127.0.0.1", "an IPv4-compatible address", "::/96"},
		{"64:ff9b::7f00:1", "a NAT64 address", "64:ff9b::/96"},
		{"64:ff9b:1::7f00:1", "a NAT64 address", "64:ff9b:1::/48"},
		{"64:ff9b:1:ffff::1", "a NAT64 address", "64:ff9b:1::/48"},
		{"64:ff9b:2::1", "a reserved address", "::/3"},
		{"100::1", "a reserved address", "::/3"},
		{"::ffff:0:127.0.0.1", "a reserved address", "::/3"}, /* RFC 2765 */
		{"2001::1", "a protocol assignment", "2001::/23"}, /* Teredo */
		{"2001:db8::1", "a documentation address", "2001:db8::/32"},
		{"2002:7f00:1::1", "a 6to4 address", "2002::/16"},
		{"3fff::1", "a documentation address", "3fff::/20"},
		{"4000::1", "a reserved address", "4000::/3"},
		{"5f00::1", "a reserved address", "4000::/3"},
		{"fc00::1", "a private address", "fc00::/7"},
		{"fd00:ec2::254", "a metadata address", NULL},
		{"fe80::1", "a link-local address", "fe80::/10"},
		{"fec0::1", "a site-local address", "fec0::/10"},
		{"ff02::1", "a multicast address", "ff00::/8"},
		{"ff0e::1", "a multicast address", "ff00::/8"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct ip_addr a;
		struct ip_net net;
		struct policy p = make("+*:* +a.com:*"), all = make("+0.0.0.0/0:* +[::/0]:*"), exact = {0}, wider = {0};
		struct policy_request named = {.name = "a.com", .port = 443}, direct = {.port = 443};
		struct err e;
		const char *rule = rows[i].rule ? rows[i].rule : rows[i].addr;
		char text[64], address[ADDR_TEXT_BYTES];
		cr_assert(addr_parse(rows[i].addr, &a));
		direct.addr = a;
		struct policy_decision d = policy_decide_address(&p, &named, &a, false);
		cr_expect(d.verdict == POLICY_DENY && strcmp(d.reason, rows[i].what) == 0, "%s: %s", rows[i].addr, d.reason);
		d = policy_decide(&all, &direct);
		cr_expect(d.verdict == POLICY_DENY && strcmp(d.reason, rows[i].what) == 0, "%s: %s", rows[i].addr, d.reason);
		cr_assert_eq(policy_add_allow(&exact, rule, &e), 0, "%s: %s", rule, e.text);
		cr_expect_eq(policy_decide(&exact, &direct).verdict, POLICY_ALLOW_RAW, "%s by %s", rows[i].addr, rule);
		/* One bit wider. */
		cr_assert(addr_parse_net(rule, &net));
		net.prefix_bits--;
		net.addr.byte[net.prefix_bits / 8] &= (uint8_t)~(0x80 >> net.prefix_bits % 8);
		bool v4 = addr_is_v4(&net.addr);
		snprintf(text, sizeof text, "%s/%u", addr_text(&net.addr, address), net.prefix_bits - (v4 ? 96 : 0));
		cr_assert_eq(policy_add_allow(&wider, text, &e), 0, "%s: %s", text, e.text);
		cr_expect_eq(policy_decide(&wider, &direct).verdict, POLICY_DENY, "%s by %s", rows[i].addr, text);
		policy_free(&p);
		policy_free(&all);
		policy_free(&exact);
		policy_free(&wider);
	}
}

Test(policy, case_26_public_addresses)
{
	static const char *const addrs[] = {"1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.0.0.1",
					    "128.0.0.0", "168.63.129.15", "169.253.0.1", "172.15.0.1", "172.32.0.0", "192.167.0.1",
					    "192.169.0.1", "198.17.255.255", "198.20.0.0", "223.255.255.255", "2000::1", "2001:200::1",
					    "2003::1", "2606:4700::1", "3ffe::1"};
	struct policy p = make("+a.com");
	struct policy_request r = {.name = "a.com", .port = 443};
	for (size_t i = 0; i < sizeof addrs / sizeof addrs[0]; i++) {
		struct ip_addr a;
		cr_assert(addr_parse(addrs[i], &a));
		cr_expect_eq(policy_decide_address(&p, &r, &a, false).verdict, POLICY_ALLOW, "%s", addrs[i]);
	}
	policy_free(&p);
}

/* Only names that some rule allows are resolved; what denies a port leaves the name. */
Test(policy, case_27_names_that_resolve)
{
	static const struct {
		const char *rules, *name;
		bool resolves;
	} rows[] = {
		{"+a.com", "a.com", true},
		{"+a.com", "b.com", false},
		{"+a.com", "x.a.com", false},
		{"+*.a.com", "data.in.labels.a.com", true}, /* as asked for; nothing is sent but what is dialled */
		{"+tcp:a.com:22", "a.com", true},
		{"+udp:a.com:53", "a.com", true},
		{"+a.com -a.com", "a.com", false},
		{"+a.com -*.com", "a.com", false},
		{"+a.com -a.com:22", "a.com", true},
		{"+a.com -tcp:a.com", "a.com", true},
		{"+*", "a.com", true},
		{"+* -*", "a.com", false},
		{"+*", "host.caplock.internal", false},
		{"@80", "host.caplock.internal", true},
		{"@80 -host.caplock.internal", "host.caplock.internal", false},
		{"=a.com:1.1.1.1", "a.com", false},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct policy p = make(rows[i].rules);
		cr_expect_eq(policy_resolves(&p, rows[i].name), rows[i].resolves, "{%s} %s", rows[i].rules, rows[i].name);
		policy_free(&p);
	}
}

/* Following a redirect is a new flow with a new name: it is decided like any other, and its address, too. */
Test(policy, case_32_a_redirect_is_another_flow)
{
	static const struct row rows[] = {
		{"+a.com", "other.com:443", "deny", "no rule allows this host"},
		{"+a.com", "169.254.169.254:80", "deny", "a link-local address"},
		{"+a.com", "a.com:8443", "deny", "no rule allows this port of the host"},
	};
	static const struct answer_row private = {"+a.com +internal.com", "internal.com:443", "10.0.0.1", ""};
	CHECK(rows);
	check_answers(&private);
}

Test(policy, the_rule_that_decided_is_told)
{
	char name[NAME_BYTES], text[POLICY_RULE_TEXT_BYTES];
	struct policy p = make("+b.com +*.a.com -x.a.com");
	struct policy_request r = parse("y.a.com:443", name);
	cr_expect_str_eq(policy_rule_text(policy_decide(&p, &r).rule, text), "*.a.com");
	r = parse("x.a.com:443", name);
	cr_expect_str_eq(policy_rule_text(policy_decide(&p, &r).rule, text), "x.a.com");
	r = parse("c.com:443", name);
	cr_expect_null(policy_decide(&p, &r).rule);
	policy_free(&p);
}

/* ---- Text ---- */

Test(policy, rules_are_written_as_they_are_read)
{
	static const struct {
		const char *rule, *text;
	} rows[] = {
		{"+a.com", "a.com"},
		{"+A.com.", "a.com"},
		{"+*", "*"},
		{"+*.a.com:*", "*.a.com:*"},
		{"+a.com:1-65535", "a.com:*"},
		{"+a.com:80", "a.com:80"},
		{"+a.com:80-80", "a.com:80"},
		{"+a.com:80-81", "a.com:80-81"},
		{"+tcp:a.com:22", "tcp:a.com:22"},
		{"+udp:*:*", "udp:*:*"},
		{"+tcp.:80", "tcp.:80"},
		{"+udp:udp:80", "udp:udp.:80"},
		{"+10.0.0.1", "10.0.0.1"},
		{"+10.0.0.0/8:22", "10.0.0.0/8:22"},
		{"+10.0.0.1/32", "10.0.0.1"},
		{"+::ffff:10.0.0.0/104", "10.0.0.0/8"},
		{"+2001:DB8::1", "2001:db8::1"},
		{"+[2001:db8::1]", "2001:db8::1"},
		{"+[2001:db8::1]:22", "[2001:db8::1]:22"},
		{"+tcp:[2001:db8::/32]:*", "tcp:[2001:db8::/32]:*"},
		{"+::/0", "::/0"},
		{"-a.com", "a.com"},
		{"-a.com:*", "a.com"},
		{"-a.com:22", "a.com:22"},
		{"-tcp:a.com", "tcp:a.com:*"},
		{"-*", "*"},
		{"-10.0.0.0/8", "10.0.0.0/8"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		char text[POLICY_RULE_TEXT_BYTES], again[POLICY_RULE_TEXT_BYTES + 1];
		struct policy p = make(rows[i].rule);
		cr_expect_str_eq(policy_rule_text(p.allow_count ? p.allow : p.deny, text), rows[i].text, "%s: %s", rows[i].rule, text);
		snprintf(again, sizeof again, "%c%s", rows[i].rule[0], text);
		struct policy q = make(again);
		const struct policy_rule *a = p.allow_count ? p.allow : p.deny, *b = q.allow_count ? q.allow : q.deny;
		cr_expect(a->match == b->match && a->proto == b->proto && a->any_proto == b->any_proto && a->raw == b->raw &&
			  a->web == b->web && a->port_first == b->port_first && a->port_last == b->port_last &&
			  addr_equal(&a->net.addr, &b->net.addr) && a->net.prefix_bits == b->net.prefix_bits, "%s", again);
		policy_free(&p);
		policy_free(&q);
	}
}

/* What is no rule is refused with the text that is wrong, and its place. */
Test(policy, bad_rules_say_what_is_wrong)
{
	static const struct {
		const char *text, *says;
	} rows[] = {
		{"", "no name"},
		{"foo..bar", "an empty label, at character 5"},
		{".a.com", "an empty label, at character 1"},
		{"exa mple.com", "a character that no host name has, at character 4"},
		{"b\xc3\xbc" "cher.de", "not ASCII: give the xn-- form, at character 2"},
		{"-x.com", "begins with a hyphen, at character 1"},
		{"a*b.com", "is the whole pattern, or its first label, at character 2"},
		{"*.*.com", "is the whole pattern, or its first label, at character 3"},
		{"a.com:0", "'0' is no port"},
		{"a.com:65536", "'65536' is no port"},
		{"a.com:", "'' is no port"},
		{"a.com:9-2", "'9-2' is no port"},
		{"a.com:1-", "'1-' is no port"},
		{"a.com:-1", "'-1' is no port"},
		{"a.com:http", "'http' is no port"},
		{"a.com: 80", "' 80' is no port"},
		{"tcp:a.com", "give a port too"},
		{"udp:", "no name"},
		{"127.1", "a number at the end"},
		{"0x7f000001", "a number at the end"},
		{"0177.0.0.1", "a number at the end"},
		{"1.2.3.4.", "a number at the end"},
		{"10.0.0.1/8", "without bits beyond the prefix"},
		{"10.0.0.0/33", "neither an address nor a range"},
		{"10.0.0.0/08", "neither an address nor a range"},
		{"10.0.0.0/", "neither an address nor a range"},
		{"10.0.0.0/-1", "neither an address nor a range"},
		{"fe80::1%eth0", "neither an address nor a range"},
		{"1:2:3", "neither an address nor a range"},
		{"[::1", "brackets are around an IPv6 address"},
		{"[::1]80", "brackets are around an IPv6 address"},
		{"[a.com]:80", "brackets are around an IPv6 address"},
		{"[10.0.0.1]:80", "brackets are around an IPv6 address"},
		{"http://a.com", "is no port"},
		{"https://a.com/", "is no port"},
		{"a.com/path", "neither an address nor a range"},
		{"@nonsense", "no preset has this name"},
		{"@", "no preset has this name"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct policy p = {0};
		struct err e = {""};
		cr_expect_lt(policy_add_allow(&p, rows[i].text, &e), 0, "taken: '%s'", rows[i].text);
		cr_expect(strstr(e.text, rows[i].says), "'%s': %s", rows[i].text, e.text);
		cr_expect(strstr(e.text, rows[i].text), "'%s': %s", rows[i].text, e.text);
		cr_expect_eq(p.allow_count, 0);
		policy_free(&p);
	}
	struct policy p = {0};
	struct err e;
	char text[1000];
	memset(text, 'a', sizeof text - 1);
	text[sizeof text - 1] = 0;
	cr_expect_lt(policy_add_allow(&p, text, &e), 0);
	cr_expect(strstr(e.text, "too long"), "%s", e.text);
	cr_expect_lt(policy_add_pin(&p, text, &e), 0);
	cr_expect_lt(policy_add_loopback(&p, text, &e), 0);
	cr_expect_lt(policy_add_deny(&p, "@github", &e), 0);
	cr_expect(strstr(e.text, "only to allow"), "%s", e.text);
}

Test(policy, pins_and_loopback_ports)
{
	static const char *const bad_pins[] = {"a", "a:", "a:b", ":1.2.3.4", "a..b:1.2.3.4", "a:1.2.3", "a:[1.2.3.4", "a:1.2.3.4/8", "*.a:1.2.3.4"};
	static const char *const bad_ports[] = {"", "0", "65536", "80-90", "*", "x", " 80", "080000"};
	struct policy p = make("=A.com:1.2.3.4 =a.com:[2001:db8::1] =b.com:::1 @80");
	struct ip_addr addr;
	struct err e;
	size_t from = 0;
	char text[ADDR_TEXT_BYTES];
	cr_assert(policy_pinned(&p, "a.com", &from, &addr));
	cr_expect_str_eq(addr_text(&addr, text), "1.2.3.4");
	cr_assert(policy_pinned(&p, "a.com", &from, &addr));
	cr_expect_str_eq(addr_text(&addr, text), "2001:db8::1");
	cr_expect_not(policy_pinned(&p, "a.com", &from, &addr));
	for (size_t i = 0; i < sizeof bad_pins / sizeof bad_pins[0]; i++)
		cr_expect_lt(policy_add_pin(&p, bad_pins[i], &e), 0, "%s", bad_pins[i]);
	for (size_t i = 0; i < sizeof bad_ports / sizeof bad_ports[0]; i++)
		cr_expect_lt(policy_add_loopback(&p, bad_ports[i], &e), 0, "%s", bad_ports[i]);
	policy_free(&p);
}

/* Changes of a running sandbox's rules. */
Test(policy, changes)
{
	static const struct {
		enum policy_op op;
		const char *rule;
		int rc;
		const char *verdict; /* of a.com:443, afterwards */
	} rows[] = {
		{POLICY_REMOVE_ALLOW, "a.com", -ENOENT, "deny"},
		{POLICY_ADD_ALLOW, "A.com", 0, "check"},
		{POLICY_ADD_ALLOW, "a.com", 0, "check"},
		{POLICY_REMOVE_ALLOW, "a.com:443", -ENOENT, "check"},
		{POLICY_REMOVE_DENY, "a.com", -ENOENT, "check"},
		{POLICY_REMOVE_ALLOW, "a.com.", 0, "deny"}, /* both of them */
		{POLICY_ADD_ALLOW, "*", 0, "check"},
		{POLICY_ADD_DENY, "a.com", 0, "deny"},
		{POLICY_REMOVE_DENY, "a.com", 0, "check"},
		{POLICY_ADD_ALLOW, "@github", 0, "check"},
		{POLICY_REMOVE_ALLOW, "@github", 0, "check"},
		{POLICY_REMOVE_ALLOW, "github.com", -ENOENT, "check"},
		{POLICY_REMOVE_ALLOW, "a..com", -EINVAL, "check"},
		{POLICY_ADD_ALLOW, "a..com", -EINVAL, "check"},
		{99, "a.com", -EINVAL, "check"},
		{POLICY_REMOVE_ALLOW, "*", 0, "deny"},
	};
	struct policy p = {0};
	struct err e;
	struct policy_change c = {0};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct policy_request r = {.name = "a.com", .port = 443};
		c = (struct policy_change){.op = (uint8_t)rows[i].op};
		strcpy(c.rule, rows[i].rule);
		cr_expect_eq(policy_apply(&p, &c, &e), rows[i].rc, "%zu: %s", i, rows[i].rule);
		cr_expect_str_eq(verdict_names[policy_decide(&p, &r).verdict], rows[i].verdict, "%zu: %s", i, rows[i].rule);
	}
	memset(c.rule, 'a', sizeof c.rule);
	cr_expect_eq(policy_apply(&p, &c, &e), -EINVAL);
	policy_free(&p);
}

/* There is an end to how many rules there are, and as many as that work. */
/* Intercept rules, the request, whether the gate reads what flows. "all", "plain": of every host, of HTTP without TLS. */
Test(policy, what_is_intercepted)
{
	static const struct {
		const char *rules, *request;
		bool intercepted;
	} rows[] = {
		{"", "a.com:443", false},
		{"a.com", "a.com:443", true},
		{"a.com", "a.com:80", true},
		{"a.com", "a.com:8443", false},
		{"a.com:8443", "a.com:8443", true},
		{"a.com", "b.a.com:443", false},
		{"*.a.com", "b.a.com:443", true},
		{"a.com", "192.0.2.1:443", false},
		{"all", "b.com:443", true},
		{"all", "192.0.2.1:443", false},
		{"all", "udp:b.com:443", false},
		{"plain", "b.com:80", true},
		{"plain", "b.com:443", false},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		char name[NAME_BYTES];
		struct err e;
		struct policy p = {.intercept_all = strcmp(rows[i].rules, "all") == 0, .intercept_plain = strcmp(rows[i].rules, "plain") == 0};
		if (rows[i].rules[0] && !p.intercept_all && !p.intercept_plain)
			cr_assert_eq(policy_add_intercept(&p, rows[i].rules, &e), 0, "%s", e.text);
		struct policy_request r = parse(rows[i].request, name);
		cr_expect_eq(policy_intercepts(&p, &r), rows[i].intercepted, "{%s} %s", rows[i].rules, rows[i].request);
		cr_expect_eq(policy_decide(&p, &r).verdict, POLICY_DENY, "intercepting allows nothing");
		policy_free(&p);
	}
}

Test(policy, interception_is_of_names)
{
	static const char *const bad[] = {"tcp:a.com:443", "192.0.2.1", "10.0.0.0/8", "a..com", "a.com:0"};
	struct policy p = {0};
	struct err e;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		cr_expect_eq(policy_add_intercept(&p, bad[i], &e), -EINVAL, "%s", bad[i]);
		cr_expect(strstr(e.text, bad[i]), "%s", e.text);
	}
	cr_expect_eq(p.intercept_count, 0);
	policy_free(&p);
}

Test(policy, rules_are_bounded)
{
	struct policy p = {0}, copy;
	struct err e;
	char text[32], name[NAME_BYTES];
	for (int i = 0; i < POLICY_RULES_MAX; i++) {
		snprintf(text, sizeof text, "host%d.com", i);
		cr_assert_eq(policy_add_allow(&p, text, &e), 0, "%s", e.text);
	}
	cr_expect_lt(policy_add_allow(&p, "more.com", &e), 0);
	cr_expect(strstr(e.text, "at most 4096"), "%s", e.text);
	cr_assert_eq(policy_copy(&copy, &p), 0);
	policy_free(&p);
	struct policy_request r = parse("host4095.com:443", name);
	cr_expect_eq(policy_decide(&copy, &r).verdict, POLICY_ALLOW);
	cr_expect_eq(policy_add_deny(&copy, "host4095.com", &e), 0);
	cr_expect_eq(policy_decide(&copy, &r).verdict, POLICY_DENY);
	policy_free(&copy);
	cr_expect_eq(policy_decide(&copy, &r).verdict, POLICY_DENY);
}
