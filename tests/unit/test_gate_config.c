/* virtio/net/gate/config.c: what is written is what is read. */
#include <criterion/criterion.h>
#include <string.h>

#include "virtio/net/gate/config.h"
#include "virtio/net/gate/gate.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"

static struct err e;

static void rule(int (*add)(struct policy *p, const char *text, struct err *e), struct policy *p, const char *text)
{
	cr_assert_eq(add(p, text, &e), 0, "%s", e.text);
}

static bool reads(const struct policy *p, const char *name, uint16_t port)
{
	struct policy_request r = {.proto = NET_TCP, .name = name, .port = port};
	return policy_decide(p, &r).verdict == POLICY_ALLOW && policy_intercepts(p, &r);
}

Test(gate_config, round_trip)
{
	static const char *servers[] = {"127.0.0.1:53", "::1", NULL};
	char *hosts[] = {"a.test", "*.b.test:8443", NULL};
	struct gate_secret secrets[] = {
		{.name = "A", .placeholder = "quoted \"\\\n", .hosts = hosts, .value_fd = 7, .in_body = true},
		{.name = "team", .placeholder = "AKIA", .hosts = hosts, .value_fd = 8, .in_path = true, .plain_http = true, .aws = true},
	};
	struct gate_config c = {.vmm_fd = 3, .supervisor_fd = 4, .upstream_ca_fd = -1, .limit_ms = 1234, .dns_servers = servers,
				.secrets = secrets, .secret_count = 2, .record_all = true};
	struct gate_config read = {0};
	struct buf text = {0}, again = {0};
	rule(policy_add_allow, &c.policy, "a.test");
	rule(policy_add_allow, &c.policy, "*.b.test:8443");
	rule(policy_add_allow, &c.policy, "tcp:c.test:22");
	rule(policy_add_deny, &c.policy, "x.b.test");
	rule(policy_add_pin, &c.policy, "a.test:127.0.0.1");
	rule(policy_add_loopback, &c.policy, "8080");
	rule(policy_add_intercept, &c.policy, "*.b.test:8443");
	c.policy.intercept_plain = true;
	cr_assert_eq(gate_config_write(&c, &text), 0);
	cr_assert_eq(gate_config_parse((const char *)text.data, text.len, &read, &e), 0, "%s", e.text);
	cr_expect(read.vmm_fd == 3 && read.supervisor_fd == 4 && read.upstream_ca_fd == -1 && read.limit_ms == 1234 && read.record_all);
	cr_expect(read.policy.intercept_plain && !read.policy.intercept_all && !read.policy.allow_public);
	cr_expect(reads(&read.policy, "y.b.test", 8443) && !reads(&read.policy, "x.b.test", 8443) && !reads(&read.policy, "a.test", 443));
	cr_assert_eq(read.secret_count, 2);
	cr_expect_str_eq(read.secrets[0].placeholder, "quoted \"\\\n");
	cr_expect_str_eq(read.secrets[0].hosts[1], "*.b.test:8443");
	cr_expect(read.secrets[0].in_body && !read.secrets[0].in_path && !read.secrets[0].plain_http && !read.secrets[0].aws);
	cr_expect(!read.secrets[1].in_body && read.secrets[1].in_path && read.secrets[1].plain_http && read.secrets[1].aws);
	cr_expect(read.secrets[0].value_fd == 7 && read.secrets[1].value_fd == 8);
	cr_expect_str_eq(read.dns_servers[1], "::1");
	cr_assert_eq(gate_config_write(&read, &again), 0);
	cr_expect(again.len == text.len && memcmp(again.data, text.data, text.len) == 0, "and once more");
	buf_free(&text);
	buf_free(&again);
}

Test(gate_config, the_hosts_own_resolver)
{
	struct gate_config c = {.upstream_ca_fd = -1}, read = {0};
	struct buf text = {0};
	c.policy.intercept_all = c.policy.allow_public = true;
	cr_assert_eq(gate_config_write(&c, &text), 0);
	cr_assert_eq(gate_config_parse((const char *)text.data, text.len, &read, &e), 0, "%s", e.text);
	cr_expect(!read.dns_servers && read.secret_count == 0 && read.policy.intercept_all && read.policy.allow_public);
	buf_free(&text);
}

Test(gate_config, what_is_no_configuration)
{
	static const char *const texts[] = {"", "{}", "[]", "{\"vmm_fd\":3}", "{\"vmm_fd\":\"3\"}"};
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		struct gate_config read = {0};
		cr_expect_neq(gate_config_parse(texts[i], strlen(texts[i]), &read, &e), 0, "%s", texts[i]);
	}
}
