/*
 * The network policy.
 *
 * Theory of operation
 * -------------------
 * Purpose: says of a flow whether the sandbox may have it. Both the device, when the guest asks for a flow, and the gate,
 * when it is about to dial, decide by these functions, each for itself.
 *
 * Two questions, in this order. policy_decide(): is the name allowed at this port (or the address, where the guest has
 * only that)? Rules of names never allow addresses, and the other way round. policy_decide_address(): may the name be at
 * that address? Addresses that are not public need a rule that names them or a range inside their special one, or a pin,
 * so that a name, whoever controls it, cannot lead to the host's network.
 *
 * Deny rules win over everything. No rule: denied.
 */
#include "virtio/net/policy.h"

#include <string.h>

enum {
	PORT_HTTP = 80,
	PORT_HTTPS = 443,
};

static bool takes_port(const struct policy_rule *r, enum net_proto proto, uint16_t port)
{
	if (!r->any_proto && r->proto != proto)
		return false;
	return r->web ? port == PORT_HTTP || port == PORT_HTTPS : port >= r->port_first && port <= r->port_last;
}

static bool takes_name(const struct policy_rule *r, const char *name)
{
	switch (r->match) {
	case MATCH_ANY:
		return true;
	case MATCH_NAME:
		return strcmp(r->name, name) == 0;
	case MATCH_UNDER:
		return name_is_under(name, r->name);
	default:
		return false;
	}
}

/* Whether an allowing rule means this address: a special one only where the rule is about its special range, or a part. */
static bool takes_addr(const struct policy_rule *r, const struct ip_addr *addr, const struct ip_net *special)
{
	return r->match == MATCH_NET && addr_in(addr, &r->net) && (!special || r->net.prefix_bits >= special->prefix_bits);
}

/* The rule that denies this address whatever allows it, or NULL. */
static const struct policy_rule *denies_addr(const struct policy *p, const struct policy_request *r, const struct ip_addr *addr)
{
	for (size_t i = 0; i < p->deny_count; i++) {
		const struct policy_rule *rule = &p->deny[i];
		if (takes_port(rule, r->proto, r->port) &&
		    (rule->match == MATCH_ANY || (rule->match == MATCH_NET && addr_in(addr, &rule->net))))
			return rule;
	}
	return NULL;
}

/* Likewise a name. */
static const struct policy_rule *denies_name(const struct policy *p, const struct policy_request *r)
{
	for (size_t i = 0; i < p->deny_count; i++)
		if (takes_port(&p->deny[i], r->proto, r->port) && takes_name(&p->deny[i], r->name))
			return &p->deny[i];
	return NULL;
}

static struct policy_decision deny(const char *reason)
{
	return (struct policy_decision){.verdict = POLICY_DENY, .reason = reason};
}

static struct policy_decision deny_by(const struct policy_rule *rule, const char *reason)
{
	return (struct policy_decision){.verdict = POLICY_DENY, .reason = reason, .rule = rule};
}

static struct policy_decision decided(enum policy_verdict verdict, const struct policy_rule *rule)
{
	return (struct policy_decision){.verdict = verdict, .rule = rule};
}

static bool is_host(const char *name)
{
	return strcmp(name, POLICY_HOST_NAME) == 0;
}

/* The host's loopback: only its ports that were opened count, never a rule for names. */
static struct policy_decision decide_loopback(const struct policy *p, const struct policy_request *r)
{
	for (size_t i = 0; i < p->loopback_port_count; i++)
		if (r->proto == NET_TCP && p->loopback_port[i] == r->port)
			return decided(POLICY_ALLOW_RAW, NULL);
	return deny("this port of the host is not open to the sandbox");
}

static struct policy_decision decide_name(const struct policy *p, const struct policy_request *r)
{
	const struct policy_rule *checked = NULL, *denying = denies_name(p, r);
	bool known = false;
	if (denying)
		return deny_by(denying, "a rule denies this host");
	if (is_host(r->name))
		return decide_loopback(p, r);
	for (size_t i = 0; i < p->allow_count; i++) {
		const struct policy_rule *rule = &p->allow[i];
		if (!takes_name(rule, r->name))
			continue;
		known = true;
		if (!takes_port(rule, r->proto, r->port))
			continue;
		if (rule->raw)
			return decided(POLICY_ALLOW_RAW, rule);
		checked = checked ? checked : rule;
	}
	if (checked)
		return decided(POLICY_ALLOW, checked);
	if (p->allow_public)
		return decided(POLICY_ALLOW, NULL);
	if (p->ask && r->proto == NET_TCP)
		return decided(POLICY_ASK, NULL);
	return deny(known ? "no rule allows this port of the host" : "no rule allows this host");
}

/*
 * Whether the sandbox may have a flow to a name, or to an address that the guest has from elsewhere than our DNS. Pure.
 * A name's address must pass policy_decide_address() too.
 */
struct policy_decision policy_decide(const struct policy *p, const struct policy_request *r)
{
	return r->name ? decide_name(p, r) : policy_decide_address(p, r, &r->addr, false);
}

static bool is_pinned(const struct policy *p, const char *name, const struct ip_addr *addr)
{
	for (size_t i = 0; i < p->pin_count; i++)
		if (addr_equal(&p->pin[i].addr, addr) && strcmp(p->pin[i].name, name) == 0)
			return true;
	return false;
}

/*
 * Whether a flow of `r` may go to `addr`: where r->name is not NULL, one of those it resolves to, after policy_decide()
 * has allowed the name; otherwise, the address itself, which then needs a rule of its own. `own`: it is one of this host's,
 * which is no more public than a private one. Pure.
 */
struct policy_decision policy_decide_address(const struct policy *p, const struct policy_request *r, const struct ip_addr *addr,
					     bool own)
{
	const char *what = NULL;
	const struct ip_net *special = addr_special(addr, &what), itself = {*addr, 128};
	const struct policy_rule *denying = denies_addr(p, r, addr);
	if (own && !special) {
		special = &itself;
		what = "an address of this host";
	}
	if (denying)
		return deny_by(denying, "a rule denies this address");
	if (r->name && is_host(r->name))
		return decide_loopback(p, r);
	if (r->name && (!special || is_pinned(p, r->name, addr)))
		return decided(POLICY_ALLOW, NULL);
	for (size_t i = 0; i < p->allow_count; i++)
		if (takes_port(&p->allow[i], r->proto, r->port) && takes_addr(&p->allow[i], addr, special))
			return decided(POLICY_ALLOW_RAW, &p->allow[i]);
	if (!special && p->allow_public)
		return decided(POLICY_ALLOW_RAW, NULL);
	if (!special && p->ask && r->proto == NET_TCP)
		return decided(POLICY_ASK, NULL);
	return deny(what ? what : "no rule allows this address");
}

/* How a flow is allowed that the user allows: on the ports of the web, for its name only. */
enum policy_verdict policy_once(const struct policy_request *r)
{
	return r->name && (r->port == PORT_HTTP || r->port == PORT_HTTPS) ? POLICY_ALLOW : POLICY_ALLOW_RAW;
}

static bool any_takes(const struct policy_rule *rule, size_t count, const char *name, uint16_t port)
{
	for (size_t i = 0; i < count; i++)
		if (takes_port(&rule[i], NET_TCP, port) && takes_name(&rule[i], name))
			return true;
	return false;
}

/*
 * Whether the gate ends TLS and reads HTTP on a flow that is allowed as POLICY_ALLOW: hosts with secrets or hooks, or all of
 * them. Flows that a rule allows raw are never read. Pure.
 */
bool policy_intercepts(const struct policy *p, const struct policy_request *r)
{
	if (!r->name || r->proto != NET_TCP)
		return false;
	if (p->intercept_all || (p->intercept_plain && r->port == PORT_HTTP))
		return true;
	return any_takes(p->intercept, p->intercept_count, r->name, r->port) ||
	       (r->port == PORT_HTTP && policy_allows_websocket(p, r->name, r->port));
}

/*
 * Whether HTTP to this host may become a WebSocket, where the gate reads it; without TLS it must, as nothing else could tell one from
 * something else. Pure.
 */
bool policy_allows_websocket(const struct policy *p, const char *name, uint16_t port)
{
	return any_takes(p->websocket, p->websocket_count, name, port);
}

/* Whether DNS gives this (canonical) name an address: some port of it is allowed. */
bool policy_resolves(const struct policy *p, const char *name)
{
	for (size_t i = 0; i < p->deny_count; i++) {
		const struct policy_rule *r = &p->deny[i];
		if (r->any_proto && r->port_first == 1 && r->port_last == UINT16_MAX && takes_name(r, name))
			return false;
	}
	if (is_host(name))
		return p->loopback_port_count > 0;
	for (size_t i = 0; i < p->allow_count; i++)
		if (takes_name(&p->allow[i], name))
			return true;
	return p->allow_public || p->ask;
}

/* The next address pinned to `name` from pin *from on, which moves past it; false where there is none more. */
bool policy_pinned(const struct policy *p, const char *name, size_t *from, struct ip_addr *out)
{
	for (; *from < p->pin_count; (*from)++)
		if (strcmp(p->pin[*from].name, name) == 0) {
			*out = p->pin[(*from)++].addr;
			return true;
		}
	return false;
}
