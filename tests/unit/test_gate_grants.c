/* virtio/net/gate/grants.c: what the user's word about one flow is good for. */
#include <criterion/criterion.h>
#include <string.h>

#include "virtio/net/gate/grants.h"

static const struct policy_rule rule;
static const struct policy_decision undecided = {.verdict = POLICY_DENY}, denied = {.verdict = POLICY_DENY, .rule = &rule},
				    allowed = {.verdict = POLICY_ALLOW, .rule = &rule};

static struct gate_request target(const char *name, uint16_t port)
{
	struct gate_request r = {.port = port, .proto = NET_TCP};
	if (!addr_parse(name, &r.addr))
		strcpy(r.name, name);
	return r;
}

Test(grants, where_no_rule_decides)
{
	static const struct {
		const char *addr;
		bool own, undecided;
	} rows[] = {
		{"93.184.216.34", false, true},
		{"2606:2800:220:1::1", false, true},
		{"93.184.216.34", true, false},
		{"10.0.0.1", false, false},
		{"127.0.0.1", true, false},
		{"127.0.0.1", false, false},
		{"169.254.169.254", false, false},
		{"::1", false, false},
		{"fe80::1", false, false},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct ip_addr addr;
		cr_assert(addr_parse(rows[i].addr, &addr));
		cr_expect_eq(grants_reach(&undecided, &addr, rows[i].own), rows[i].undecided, "%s", rows[i].addr);
		cr_expect_not(grants_reach(&denied, &addr, rows[i].own), "%s", rows[i].addr);
	}
}

Test(grants, count_and_target)
{
	struct grants g = {0};
	struct gate_request a = target("a.com", 443), address = target("93.184.216.34", 443);
	struct gate_request others[] = {target("b.com", 443), target("a.com", 80), target("93.184.216.34", 443)};
	grants_add(&g, &a, 2, 1000);
	for (size_t i = 0; i < 3; i++)
		cr_expect_not(grants_take(&g, &others[i], &undecided, 1000));
	cr_expect_not(grants_take(&g, &a, &denied, 1000));
	cr_expect_not(grants_take(&g, &a, &allowed, 1000));
	cr_expect(grants_take(&g, &a, &undecided, 1000));
	cr_expect(grants_take(&g, &a, &undecided, 1000));
	cr_expect_not(grants_take(&g, &a, &undecided, 1000));
	grants_add(&g, &address, 1, 1000);
	others[2].addr.byte[15]++;
	cr_expect_not(grants_take(&g, &others[2], &undecided, 1000));
	cr_expect(grants_take(&g, &address, &undecided, 1000));
}

Test(grants, end)
{
	struct grants g = {0};
	struct gate_request a = target("a.com", 443), b = target("b.com", 443);
	grants_add(&g, &a, UINT32_MAX, 1000);
	cr_expect(grants_take(&g, &a, &undecided, 1000 + GRANT_MS - 1));
	cr_expect_not(grants_take(&g, &a, &undecided, 1000 + GRANT_MS));
	for (unsigned i = 1; i < GRANT_FLOWS_MAX; i++)
		cr_expect(grants_take(&g, &a, &undecided, 1000));
	cr_expect_not(grants_take(&g, &a, &undecided, 1000));
	grants_add(&g, &a, 1, 1000);
	for (unsigned i = 0; i < GRANTS_MAX; i++)
		grants_add(&g, &b, 1, 1000);
	cr_expect_not(grants_take(&g, &a, &undecided, 1000));
}
