/* vmm/sandbox/given_secrets.c: from a spec to the gate's configuration, the policy, and the guest's environment. */
#include <criterion/criterion.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "virtio/net/gate/gate.h"
#include "virtio/net/policy.h"
#include "vmm/caplock.h"
#include "vmm/sandbox/given_secrets.h"
#include "vmm/util/err.h"
#include "vmm/util/strv.h"

static struct gate_config gate;
static struct strv env;
static struct err e;

static int take(const struct caplock_secret *list, size_t count, const char *const *variables)
{
	struct caplock_spec spec = {.secrets = list, .secret_count = count, .env = variables};
	given_secrets_free(&gate);
	strv_free(env.item);
	env = (struct strv){0};
	return given_secrets_take(&spec, &gate, &env, &e);
}

static bool decides(const struct policy *p, const char *name, uint16_t port, bool *intercepts)
{
	struct policy_request r = {.proto = NET_TCP, .name = name, .port = port};
	*intercepts = policy_intercepts(p, &r);
	return policy_decide(p, &r).verdict == POLICY_ALLOW;
}

Test(given_secrets, placeholders_for_the_guest)
{
	const struct caplock_secret list[] = {{.name = "A", .hosts = "a.test,*.b.test:8443", .value_fd = STDIN_FILENO},
					      {.name = "B", .hosts = "b.test", .placeholder = "sk-ant-1234", .flags = CAPLOCK_SECRET_IN_BODY}};
	cr_assert_eq(take(list, 2, NULL), 0, "%s", e.text);
	cr_assert_eq(env.count, 2);
	cr_expect_eq(strncmp(env.item[0], "A=SANDBOX_SECRET_", 17), 0);
	cr_expect_eq(strspn(env.item[0] + 17, "0123456789abcdef"), 32);
	cr_expect_str_eq(env.item[0] + 2, gate.secrets[0].placeholder);
	cr_expect_str_eq(env.item[1], "B=sk-ant-1234");
	cr_expect_str_eq(gate.secrets[0].hosts[1], "*.b.test:8443");
	cr_expect(gate.secrets[1].in_body && !gate.secrets[1].in_path && !gate.secrets[1].plain_http && !gate.secrets[1].aws);
	cr_expect_gt(gate.secrets[0].value_fd, 2, "a copy, which a process can keep");
	cr_expect_eq(fcntl(gate.secrets[0].value_fd, F_GETFD), FD_CLOEXEC);
	given_secrets_close(&gate);
	cr_expect_eq(gate.secrets[0].value_fd, -1);
	cr_expect_neq(fcntl(STDIN_FILENO, F_GETFD), -1, "the caller's stays");
}

Test(given_secrets, hosts_are_allowed_and_read)
{
	const struct caplock_secret list[] = {{.name = "A", .hosts = "a.test,*.b.test:8443", .value_fd = 0}};
	const struct caplock_spec spec = {.secrets = list, .secret_count = 1}, all = {.network_intercept = 1}, nothing = {0};
	struct policy p = {0};
	bool read;
	cr_assert_eq(given_secrets_allow(&spec, &p, &e), 0, "%s", e.text);
	cr_expect(decides(&p, "a.test", 443, &read) && read);
	cr_expect(decides(&p, "x.b.test", 8443, &read) && read);
	cr_expect(!decides(&p, "x.b.test", 443, &read) && !read);
	cr_expect(!decides(&p, "other.test", 443, &read) && !read);
	cr_expect(!decides(&p, "other.test", 80, &read) && read, "a placeholder on its way in clear is seen");
	policy_free(&p);
	cr_assert_eq(given_secrets_allow(&all, &p, &e), 0);
	cr_expect(!decides(&p, "a.test", 443, &read) && read);
	policy_free(&p);
	cr_assert_eq(given_secrets_allow(&nothing, &p, &e), 0);
	cr_expect(!decides(&p, "a.test", 80, &read) && !read);
}

Test(given_secrets, refused)
{
	static const struct {
		struct caplock_secret list[2];
		size_t count;
		const char *env, *message;
	} rows[] = {
		{{{.name = NULL, .hosts = "a.test"}}, 1, NULL, "cannot name a secret"},
		{{{.name = "A-B", .hosts = "a.test"}}, 1, NULL, "'A-B' cannot name a secret"},
		{{{.name = "A", .hosts = NULL}}, 1, NULL, "secret A: no host"},
		{{{.name = "A", .hosts = ""}}, 1, NULL, "secret A: no host"},
		{{{.name = "A", .hosts = "*"}}, 1, NULL, "every host"},
		{{{.name = "A", .hosts = "a..test"}}, 1, NULL, "secret A: "},
		{{{.name = "A", .hosts = "a.test", .value_fd = -1}}, 1, NULL, "secret A has no value"},
		{{{.name = "A", .hosts = "a.test", .placeholder = "short"}}, 1, NULL, "cannot be a placeholder"},
		{{{.name = "A", .hosts = "a.test", .placeholder = "sk-ant 0123456789"}}, 1, NULL, "cannot be a placeholder"},
		{{{.name = "A", .hosts = "a.test", .placeholder = "sk-ant-0123456789"},
		  {.name = "B", .hosts = "a.test", .placeholder = "ant-01234"}}, 2, NULL, "must not contain"},
		{{{.name = "A", .hosts = "a.test"}, {.name = "A", .hosts = "b.test"}}, 2, NULL, "there are two secrets A"},
		{{{.name = "A", .hosts = "a.test"}}, 1, "A=s3cret", "A is a secret and an environment variable"},
		{{{.name = "p", .hosts = "*.amazonaws.com", .flags = CAPLOCK_SECRET_AWS},
		  {.name = "AWS_ACCESS_KEY_ID", .hosts = "b.test"}}, 2, NULL, "two secrets are for the variable AWS_ACCESS_KEY_ID"},
		{{{.name = "", .hosts = "*.amazonaws.com", .flags = CAPLOCK_SECRET_AWS}}, 1, NULL, "name of a profile"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		const char *const variables[] = {rows[i].env, NULL};
		e.text[0] = 0;
		cr_expect_neq(take(rows[i].list, rows[i].count, variables), 0, "row %zu", i);
		cr_expect(strstr(e.text, rows[i].message) && !strstr(e.text, "s3cret"), "row %zu: %s", i, e.text);
	}
}

/* What the programs of AWS take for a key. */
Test(given_secrets, aws)
{
	const struct caplock_secret list[] = {{.name = "team", .hosts = "*.amazonaws.com", .flags = CAPLOCK_SECRET_AWS}};
	cr_assert_eq(take(list, 1, NULL), 0, "%s", e.text);
	cr_assert_eq(env.count, 2);
	cr_assert_eq(strncmp(env.item[0], "AWS_ACCESS_KEY_ID=AKIA", 22), 0);
	cr_expect_eq(strlen(env.item[0]), 18 + 20);
	for (const char *p = env.item[0] + 18; *p; p++)
		cr_expect(isupper((unsigned char)*p) || (*p >= '2' && *p <= '7'));
	cr_expect_eq(strncmp(env.item[1], "AWS_SECRET_ACCESS_KEY=", 22), 0);
	cr_expect_eq(strlen(env.item[1]), 22 + 40);
	cr_expect_str_eq(gate.secrets[0].placeholder, env.item[0] + 18);
	cr_expect(gate.secrets[0].aws);
}
