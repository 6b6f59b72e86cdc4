/* What the supervisor makes of the network's records: audit lines, learned rules; and published ports. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "virtio/net/gate/proto.h"
#include "virtio/net/policy.h"
#include "virtio/net/record.h"
#include "vmm/sandbox/audit.h"
#include "vmm/sandbox/learn.h"
#include "vmm/sandbox/network.h"
#include "vmm/sandbox/publish.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/json.h"
#include "vmm/util/strv.h"

static struct net_record record(enum record_kind kind, const char *name, const char *address, uint16_t port)
{
	struct net_record r = {.time_ns = 1500000000123456789u, .kind = kind, .port = port};
	strcpy(r.name, name);
	r.has_addr = address && addr_parse(address, &r.addr);
	return r;
}

static void expect_line(const struct net_record *r, const char *expected)
{
	struct buf out = {0};
	cr_assert_eq(audit_line(&out, r), 0);
	cr_assert_eq(buf_add(&out, "", 1), 0);
	cr_assert_str_eq((const char *)out.data, expected);
	buf_free(&out);
}

Test(audit, lines)
{
	struct net_record r = record(RECORD_DNS, "example.com", NULL, 0);
	r.verdict = VERDICT_ALLOW;
	expect_line(&r, "{\"time\":\"2017-07-14T02:40:00.123Z\",\"event\":\"dns\",\"verdict\":\"allow\",\"name\":\"example.com\"}\n");
	r = record(RECORD_FLOW, "", "fd00::1", 443);
	strcpy(r.reason, "a \"quoted\" reason");
	expect_line(&r, "{\"time\":\"2017-07-14T02:40:00.123Z\",\"event\":\"flow\",\"verdict\":\"deny\",\"proto\":\"tcp\","
			"\"address\":\"fd00::1\",\"port\":443,\"reason\":\"a \\\"quoted\\\" reason\"}\n");
	r = record(RECORD_FLOW, "a.test", "192.0.2.1", 53);
	r.proto = NET_UDP;
	r.verdict = VERDICT_FAILED;
	expect_line(&r, "{\"time\":\"2017-07-14T02:40:00.123Z\",\"event\":\"flow\",\"verdict\":\"failed\",\"proto\":\"udp\","
			"\"name\":\"a.test\",\"address\":\"192.0.2.1\",\"port\":53}\n");
	r = record(RECORD_CLOSE, "a.test", "192.0.2.1", 80);
	r.from_guest_bytes = 12;
	r.to_guest_bytes = 1ull << 40;
	r.duration_ms = 7;
	expect_line(&r, "{\"time\":\"2017-07-14T02:40:00.123Z\",\"event\":\"close\",\"proto\":\"tcp\",\"name\":\"a.test\",\"address\":\"192.0.2.1\","
			"\"port\":80,\"direction\":\"out\",\"bytes_sent\":12,\"bytes_received\":1099511627776,\"duration_ms\":7}\n");
	r = record(RECORD_TOTALS, "", NULL, 0);
	r.count.malformed = 3;
	expect_line(&r, "{\"time\":\"2017-07-14T02:40:00.123Z\",\"event\":\"totals\",\"frames_in\":0,\"frames_out\":0,\"malformed\":3,"
			"\"fragments\":0,\"unsupported\":0,\"unsent\":0,\"oversized\":0,\"reordered\":0,\"flows\":0,\"denied\":0,\"over_limit\":0}\n");
}

/* The device may say anything: numbers that mean nothing are no reason to read beyond a table. */
Test(audit, nonsense)
{
	for (unsigned kind = 0; kind < 256; kind++)
		for (unsigned verdict = 0; verdict < 256; verdict += 5) {
			struct net_record r = record((enum record_kind)kind, "a.test", "192.0.2.1", 80);
			struct buf out = {0};
			r.verdict = (uint8_t)verdict;
			r.time_ns = UINT64_MAX;
			cr_assert_eq(audit_line(&out, &r), 0);
			cr_assert_eq(out.data[out.len - 1], '\n');
			buf_free(&out);
		}
}

static void expect_request(const struct gate_record *r, const char *expected)
{
	struct buf out = {0};
	cr_assert_eq(audit_request(&out, r), 0);
	cr_assert_eq(buf_add(&out, "", 1), 0);
	cr_assert_str_eq((const char *)out.data, expected);
	buf_free(&out);
}

Test(audit, requests)
{
	struct gate_record r = {.time_ns = 1500000000123456789u, .tls = 1, .http2 = 1, .port = 443, .status = 200, .redacted = 2,
				.request_bytes = 3, .response_bytes = 1ull << 40, .duration_ms = 7};
	strcpy(r.name, "a.test");
	strcpy(r.method, "GET");
	strcpy(r.path, "/x?q=");
	strcpy(r.secrets, "A,B");
	expect_request(&r, "{\"time\":\"2017-07-14T02:40:00.123Z\",\"event\":\"request\",\"verdict\":\"allow\",\"method\":\"GET\","
			   "\"url\":\"https://a.test/x?q=\",\"http\":\"2\",\"status\":200,\"secrets\":[\"A\",\"B\"],\"redacted\":2,"
			   "\"bytes_sent\":3,\"bytes_received\":1099511627776,\"duration_ms\":7}\n");
	r = (struct gate_record){.time_ns = 1500000000123456789u, .port = 8080, .denied = 1};
	strcpy(r.name, "a.test");
	strcpy(r.method, "PO\"ST");
	strcpy(r.path, "/");
	strcpy(r.reason, "because");
	expect_request(&r, "{\"time\":\"2017-07-14T02:40:00.123Z\",\"event\":\"request\",\"verdict\":\"deny\",\"method\":\"PO\\\"ST\","
			   "\"url\":\"http://a.test:8080/\",\"http\":\"1.1\",\"reason\":\"because\","
			   "\"bytes_sent\":0,\"bytes_received\":0,\"duration_ms\":0}\n");
}

Test(learn, the_smallest_policy)
{
	static const struct {
		const char *name, *address;
		uint16_t port;
		bool named, udp;
	} flows[] = {
		{"a.test", NULL, 443, true, false},      {"a.test", NULL, 80, true, false}, /* one rule */
		{"b.test", NULL, 443, true, false},      {"b.test", NULL, 443, true, false},
		{"c.test", NULL, 443, true, false},      {"c.test", NULL, 443, false, false}, /* something else, once */
		{"d.test", NULL, 22, false, false},      {"d.test", NULL, 8443, true, false},
		{"", "192.0.2.1", 80, false, false},     {"", "2001:db8::1", 443, false, false},
		{"e.test", NULL, 123, false, true},      {POLICY_HOST_NAME, NULL, 8080, false, false},
		{"f.test", NULL, 443, false, false},     {"f.test", NULL, 443, true, false}, {"f.test", NULL, 80, true, false},
	};
	static const char expected[] = "tcp:192.0.2.1:80 tcp:[2001:db8::1]:443 a.test b.test:443 d.test:8443 f.test:80 "
				       "tcp:c.test:443 tcp:d.test:22 tcp:f.test:443 udp:e.test:123";
	struct strv rules = {0};
	for (size_t i = 0; i < sizeof flows / sizeof *flows; i++) {
		struct net_record r = record(RECORD_CLOSE, flows[i].name, flows[i].address, flows[i].port);
		r.named = flows[i].named;
		r.proto = flows[i].udp ? NET_UDP : NET_TCP;
		cr_assert_eq(learn_flow(&rules, &r), 0);
	}
	char path[] = "/tmp/learn-XXXXXX", text[4096] = "";
	int fd = mkstemp(path);
	cr_assert_eq(write(fd, "something longer that was there before", 38), 38);
	lseek(fd, 0, SEEK_SET);
	struct policy used = {0};
	struct err e;
	cr_assert_eq(policy_add_pin(&used, "b.test:10.0.0.1", &e), 0);
	cr_assert_eq(policy_add_pin(&used, "unused.test:10.0.0.1", &e), 0);
	cr_assert_eq(learn_write(fd, &rules, &used, &e), 0, "%s", e.text);
	cr_assert_gt(pread(fd, text, sizeof text - 1, 0), 0);
	char copy[sizeof expected];
	strcpy(copy, expected);
	unsigned count = 0;
	for (char *rest, *rule = strtok_r(copy, " ", &rest); rule; rule = strtok_r(NULL, " ", &rest), count++) {
		char quoted[128];
		snprintf(quoted, sizeof quoted, "\"%s\"", rule);
		cr_assert(strstr(text, quoted), "%s is not in %s", quoted, text);
	}
	struct json *doc;
	cr_assert_eq(json_parse(text, strlen(text), NULL, &doc, &e), 0, "%s in %s", e.text, text);
	cr_assert_eq(json_count(json_get(json_root(doc), "allow")), count, "%s", text);
	cr_assert_eq(json_count(json_get(json_root(doc), "hosts")), 1, "%s", text);
	cr_assert_eq(json_count(json_get(json_root(doc), "loopback_ports")), 1, "%s", text);
	json_free(doc);
	policy_free(&used);
	unlink(path);
	close(fd);
	strv_free(rules.item);
}

Test(policy, rules_come_and_go)
{
	struct policy p = {0};
	struct err e;
	struct policy_change add = {.op = POLICY_ADD_ALLOW, .rule = "Example.COM"};
	struct policy_change other = {.op = POLICY_ADD_ALLOW, .rule = "tcp:example.com:22"};
	struct policy_change remove = {.op = POLICY_REMOVE_ALLOW, .rule = "example.com."};
	struct policy_request web = {.proto = NET_TCP, .name = "example.com", .port = 443}, ssh = {NET_TCP, "example.com", {{0}}, 22};
	cr_assert_eq(policy_apply(&p, &remove, &e), -ENOENT);
	cr_assert_eq(policy_apply(&p, &add, &e), 0);
	cr_assert_eq(policy_apply(&p, &other, &e), 0);
	cr_assert_eq(policy_decide(&p, &web).verdict, POLICY_ALLOW);
	cr_assert_eq(policy_apply(&p, &remove, &e), 0);
	cr_assert_eq(policy_decide(&p, &web).verdict, POLICY_DENY);
	cr_assert_eq(policy_decide(&p, &ssh).verdict, POLICY_ALLOW_RAW);
	struct policy_change deny = {.op = POLICY_ADD_DENY, .rule = "*.com"}, undeny = {.op = POLICY_REMOVE_DENY, .rule = "*.com"};
	cr_assert_eq(policy_apply(&p, &deny, &e), 0);
	cr_assert_eq(policy_decide(&p, &ssh).verdict, POLICY_DENY);
	cr_assert_eq(policy_apply(&p, &undeny, &e), 0);
	cr_assert_eq(policy_decide(&p, &ssh).verdict, POLICY_ALLOW_RAW);
	struct policy_change endless = {.op = POLICY_ADD_ALLOW};
	memset(endless.rule, 'a', sizeof endless.rule);
	cr_assert_eq(policy_apply(&p, &endless, &e), -EINVAL);
	cr_assert_eq(policy_apply(&p, &(struct policy_change){.op = 77, .rule = "a.test"}, &e), -EINVAL);
	policy_free(&p);
}

Test(publish, texts)
{
	static const struct {
		const char *text, *address, *expected; /* of the error; NULL: it listens */
	} cases[] = {
		{"0:80", NULL, NULL},
		{"127.0.0.2:0:80", NULL, NULL},
		{"[::1]:0:80", NULL, NULL},
		{"0:80", "127.0.0.3", NULL},
		{"", NULL, "give [[ADDRESS:]HOST:]GUEST"},
		{"0", NULL, "give [[ADDRESS:]HOST:]GUEST"},
		{"65536", NULL, "give [[ADDRESS:]HOST:]GUEST"},
		{"80:", NULL, "give [[ADDRESS:]HOST:]GUEST"},
		{"0:0", NULL, "give [[ADDRESS:]HOST:]GUEST"},
		{"80 ", NULL, "give [[ADDRESS:]HOST:]GUEST"},
		{":80", NULL, "'' is no port of this host"},
		{"-1:80", NULL, "'-1' is no port of this host"},
		{"localhost:0:80", NULL, "'localhost' is not an IP address"},
		{":0:80", NULL, "'' is not an IP address"},
		{"192.0.2.1:0:80", NULL, "cannot listen"},
	};
	struct network n;
	struct publish *p = NULL;
	struct err e;
	network_init(&n);
	cr_assert_eq(publish_create(&n, NULL, NULL, &p, &e), 0);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		int rc = publish_add(p, cases[i].text, cases[i].address, &e);
		cr_assert_eq(rc == 0, !cases[i].expected, "%s: %s", cases[i].text, rc ? e.text : "it listens");
		if (rc)
			cr_assert(strstr(e.text, cases[i].expected), "%s: %s", cases[i].text, e.text);
	}
	struct buf lines = {0};
	cr_assert_eq(publish_describe(p, &lines), 0);
	cr_assert_eq(buf_add(&lines, "", 1), 0);
	cr_assert(strstr((char *)lines.data, "127.0.0.2:") && strstr((char *)lines.data, "127.0.0.3:") && strstr((char *)lines.data, "[::1]:"));
	cr_assert_null(strstr((char *)lines.data, ":0 -> "));
	buf_free(&lines);
	publish_destroy(p);
}
