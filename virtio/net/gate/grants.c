/* A grant stands in where the policy has no rule. It never outweighs one, nor does it lead to addresses that are not public. */
#include "virtio/net/gate/grants.h"

/* The user has allowed `flows` flows to a target. Where there are too many grants the oldest ends. */
void grants_add(struct grants *g, const struct gate_request *target, uint32_t flows, uint64_t now_ms)
{
	g->grant[g->next].target = *target;
	g->grant[g->next].flows = flows < GRANT_FLOWS_MAX ? flows : GRANT_FLOWS_MAX;
	g->grant[g->next].end_ms = now_ms + GRANT_MS;
	g->next = (g->next + 1) % GRANTS_MAX;
}

static bool no_rule_denies(const struct policy_decision *d)
{
	return d->verdict == POLICY_DENY && !d->rule;
}

/* Whether the user has allowed this flow, which the policy denies as `d` says; it counts. */
bool grants_take(struct grants *g, const struct gate_request *r, const struct policy_decision *d, uint64_t now_ms)
{
	if (!no_rule_denies(d))
		return false;
	for (unsigned i = 0; i < GRANTS_MAX; i++)
		if (g->grant[i].flows && now_ms < g->grant[i].end_ms && gate_same_target(&g->grant[i].target, r)) {
			g->grant[i].flows--;
			return true;
		}
	return false;
}

/* Whether a flow that the user has allowed may go to `addr`, which the policy denies as `d` says. `own`: it is this host's. */
bool grants_reach(const struct policy_decision *d, const struct ip_addr *addr, bool own)
{
	const char *what;
	return no_rule_denies(d) && !own && !addr_special(addr, &what);
}
