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

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/util/err.h"

enum {
	PORT_HTTP = 80,
	PORT_HTTPS = 443,
};

/* ---- Rules from text ---- */

static bool parse_port(const char *text, size_t len, uint16_t *out)
{
	unsigned value = 0;
	if (len == 0 || len > 5)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		value = value * 10 + (unsigned)(text[i] - '0');
	}
	*out = (uint16_t)value;
	return value > 0 && value <= UINT16_MAX;
}

/* "*", N or N-M. */
static bool parse_ports(const char *text, struct policy_rule *r)
{
	r->web = false;
	r->port_first = 1;
	r->port_last = UINT16_MAX;
	if (strcmp(text, "*") == 0)
		return true;
	size_t first = strcspn(text, "-");
	if (!parse_port(text, first, &r->port_first))
		return false;
	r->port_last = r->port_first;
	return text[first] == 0 ||
	       (parse_port(text + first + 1, strlen(text + first + 1), &r->port_last) && r->port_last >= r->port_first);
}

/* Separates HOST[:PORTS]; an IPv6 address is in brackets, or alone. *ports: NULL where there are none. */
static bool split_ports(char *text, char **host, char **ports)
{
	*host = text;
	*ports = NULL;
	if (text[0] == '[') {
		char *end = strchr(text, ']');
		if (!end || (end[1] && end[1] != ':'))
			return false;
		*host = text + 1;
		*ports = end[1] ? end + 2 : NULL;
		*end = 0;
		return true;
	}
	char *colon = strchr(text, ':');
	if (colon && !strchr(colon + 1, ':')) {
		*colon = 0;
		*ports = colon + 1;
	}
	return true;
}

static int parse_host(const char *host, const char *text, struct policy_rule *r, struct err *e)
{
	if (strcmp(host, "*") == 0) {
		r->match = MATCH_ANY;
		return 0;
	}
	r->match = MATCH_NET;
	if (addr_parse_net(host, &r->net))
		return 0;
	if (strpbrk(host, "/:"))
		return err_set(e, -EINVAL,
			       "'%s': '%s' is neither an address nor a range of them (10.0.0.0/8, without bits beyond the prefix)",
			       text, host);
	bool under = strncmp(host, "*.", 2) == 0;
	const char *name = host + (under ? 2 : 0);
	r->match = under ? MATCH_UNDER : MATCH_NAME;
	size_t at;
	const char *wrong = name_canonical(name, strlen(name), r->name, &at);
	if (!wrong)
		return 0;
	if (name[at] == '*')
		wrong = "a '*' is the whole pattern, or its first label";
	return err_set(e, -EINVAL, "'%s': not a host: %s, at character %zu", text, wrong, (size_t)(name - host) + at + 1);
}

/* [tcp:|udp:]HOST[:PORTS] */
static int parse_rule(const char *text, bool deny, struct policy_rule *r, struct err *e)
{
	char copy[POLICY_RULE_TEXT_BYTES], *host, *ports;
	*r = (struct policy_rule){.web = !deny, .any_proto = deny, .port_first = 1, .port_last = UINT16_MAX};
	if (strlen(text) >= sizeof copy)
		return err_set(e, -EINVAL, "'%.64s...' is too long for a host", text);
	if (strncmp(text, "tcp:", 4) == 0 || strncmp(text, "udp:", 4) == 0) {
		r->raw = true;
		r->any_proto = false;
		r->proto = text[0] == 't' ? NET_TCP : NET_UDP;
	}
	strcpy(copy, text + (r->raw ? 4 : 0));
	if (!split_ports(copy, &host, &ports))
		return err_set(e, -EINVAL, "'%s': an IPv6 address with a port is [ADDRESS]:PORT", text);
	int rc = parse_host(host, text, r, e);
	if (rc)
		return rc;
	if (ports && !parse_ports(ports, r))
		return err_set(e, -EINVAL, "'%s': '%s' is no port: give 1 to 65535, FIRST-LAST, or *", text, ports);
	if (r->raw && !ports && !deny)
		return err_set(e, -EINVAL, "'%s': give a port too, as in %.3s:%s:22", text, text, host);
	return 0;
}

/* One element more for an array of `size`-byte elements, or NULL. */
static void *grow(void *array, size_t *count, size_t size)
{
	void *larger = *count < POLICY_RULES_MAX ? realloc(array, (*count + 1) * size) : NULL;
	if (larger)
		(*count)++;
	return larger;
}

static int full(struct err *e)
{
	return err_set(e, -E2BIG, "a policy has at most %d rules of a kind", POLICY_RULES_MAX);
}

static int add_rule(struct policy_rule **list, size_t *count, const char *text, bool deny, struct err *e)
{
	struct policy_rule rule;
	int rc = parse_rule(text, deny, &rule, e);
	if (rc)
		return rc;
	struct policy_rule *larger = grow(*list, count, sizeof rule);
	if (!larger)
		return full(e);
	*list = larger;
	larger[*count - 1] = rule;
	return 0;
}

/*
 * Adds a rule [tcp:|udp:]HOST[:PORT[-PORT]|:*] that allows: HOST is a name, *.NAME, *, an address or a range. Without
 * ports: 80 and 443. Returns 0, -EINVAL with the text and what is wrong with it, or -E2BIG.
 */
int policy_add_allow(struct policy *p, const char *text, struct err *e)
{
	return add_rule(&p->allow, &p->allow_count, text, false, e);
}

/* The same for a rule that denies; without ports or protocol: all of them. */
int policy_add_deny(struct policy *p, const char *text, struct err *e)
{
	return add_rule(&p->deny, &p->deny_count, text, true, e);
}

/* Adds NAME:ADDRESS (an IPv6 address also in brackets). Returns 0, -EINVAL with what is wrong, or -E2BIG. */
int policy_add_pin(struct policy *p, const char *text, struct err *e)
{
	struct policy_pin pin;
	char address[POLICY_RULE_TEXT_BYTES];
	size_t n = strcspn(text, ":"), at, len = strlen(text);
	if (text[n] != ':' || len >= sizeof address)
		return err_set(e, -EINVAL, "'%.300s': give NAME:ADDRESS", text);
	const char *wrong = name_canonical(text, n, pin.name, &at);
	if (wrong)
		return err_set(e, -EINVAL, "'%s': not a host: %s, at character %zu", text, wrong, at + 1);
	bool bracket = text[n + 1] == '[' && text[len - 1] == ']';
	size_t from = n + 1 + bracket, to = len - bracket;
	memcpy(address, text + from, to - from);
	address[to - from] = 0;
	if (!addr_parse(address, &pin.addr))
		return err_set(e, -EINVAL, "'%s': '%s' is not an IP address", text, address);
	struct policy_pin *larger = grow(p->pin, &p->pin_count, sizeof pin);
	if (!larger)
		return full(e);
	p->pin = larger;
	larger[p->pin_count - 1] = pin;
	return 0;
}

/* Opens a port of the host's loopback, at POLICY_HOST_NAME. Returns 0, -EINVAL with what is wrong, or -E2BIG. */
int policy_add_loopback(struct policy *p, const char *text, struct err *e)
{
	uint16_t port;
	if (!parse_port(text, strlen(text), &port))
		return err_set(e, -EINVAL, "'%s' is no port: give 1 to 65535", text);
	uint16_t *larger = grow(p->loopback_port, &p->loopback_port_count, sizeof port);
	if (!larger)
		return full(e);
	p->loopback_port = larger;
	larger[p->loopback_port_count - 1] = port;
	return 0;
}

static bool same_rule(const struct policy_rule *a, const struct policy_rule *b)
{
	return a->match == b->match && a->proto == b->proto && a->any_proto == b->any_proto && a->raw == b->raw && a->web == b->web &&
	       a->port_first == b->port_first && a->port_last == b->port_last &&
	       (a->match == MATCH_NET ? addr_equal(&a->net.addr, &b->net.addr) && a->net.prefix_bits == b->net.prefix_bits
				      : strcmp(a->name, b->name) == 0);
}

static int remove_rule(struct policy_rule *list, size_t *count, const char *text, bool deny, struct err *e)
{
	struct policy_rule rule;
	size_t kept = 0, before = *count;
	int rc = parse_rule(text, deny, &rule, e);
	for (size_t i = 0; rc == 0 && i < before; i++)
		if (!same_rule(&list[i], &rule))
			list[kept++] = list[i];
	*count = rc ? before : kept;
	return rc ? rc : kept < before ? 0 : err_set(e, -ENOENT, "'%s': there is no such rule", text);
}

/* Changes the rules. Returns 0, -EINVAL with what is wrong, -E2BIG, or -ENOENT where the rule to remove is not there. */
int policy_apply(struct policy *p, const struct policy_change *c, struct err *e)
{
	if (!memchr(c->rule, 0, sizeof c->rule))
		return err_set(e, -EINVAL, "a rule that is too long");
	switch (c->op) {
	case POLICY_ADD_ALLOW:
		return policy_add_allow(p, c->rule, e);
	case POLICY_REMOVE_ALLOW:
		return remove_rule(p->allow, &p->allow_count, c->rule, false, e);
	case POLICY_ADD_DENY:
		return policy_add_deny(p, c->rule, e);
	case POLICY_REMOVE_DENY:
		return remove_rule(p->deny, &p->deny_count, c->rule, true, e);
	default:
		return err_set(e, -EINVAL, "no change of a policy");
	}
}

/* Frees what the rules take; `p` denies everything again. */
void policy_free(struct policy *p)
{
	free(p->allow);
	free(p->deny);
	free(p->pin);
	free(p->loopback_port);
	*p = (struct policy){0};
}

/* ---- Decisions ---- */

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

static bool denied_addr(const struct policy *p, enum net_proto proto, uint16_t port, const struct ip_addr *addr)
{
	for (size_t i = 0; i < p->deny_count; i++)
		if (takes_port(&p->deny[i], proto, port) &&
		    (p->deny[i].match == MATCH_ANY || (p->deny[i].match == MATCH_NET && addr_in(addr, &p->deny[i].net))))
			return true;
	return false;
}

static struct policy_decision deny(const char *reason)
{
	return (struct policy_decision){POLICY_DENY, reason};
}

/* The host's loopback: only its ports that were opened count, never a rule for names. */
static struct policy_decision decide_loopback(const struct policy *p, const struct policy_request *r)
{
	for (size_t i = 0; i < p->loopback_port_count; i++)
		if (r->proto == NET_TCP && p->loopback_port[i] == r->port)
			return (struct policy_decision){POLICY_ALLOW_RAW, NULL};
	return deny("this port of the host is not open to the sandbox");
}

static struct policy_decision decide_name(const struct policy *p, const struct policy_request *r)
{
	if (strcmp(r->name, POLICY_HOST_NAME) == 0)
		return decide_loopback(p, r);
	for (size_t i = 0; i < p->deny_count; i++)
		if (takes_port(&p->deny[i], r->proto, r->port) && takes_name(&p->deny[i], r->name))
			return deny("a rule denies this host");
	bool known = false, checked = false;
	for (size_t i = 0; i < p->allow_count; i++) {
		if (!takes_name(&p->allow[i], r->name))
			continue;
		known = true;
		if (!takes_port(&p->allow[i], r->proto, r->port))
			continue;
		if (p->allow[i].raw)
			return (struct policy_decision){POLICY_ALLOW_RAW, NULL};
		checked = true;
	}
	if (checked)
		return (struct policy_decision){POLICY_ALLOW, NULL};
	if (p->allow_public)
		return (struct policy_decision){POLICY_ALLOW, NULL};
	if (p->ask)
		return (struct policy_decision){POLICY_ASK, NULL};
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
	if (own && !special) {
		special = &itself;
		what = "an address of this host";
	}
	if (denied_addr(p, r->proto, r->port, addr))
		return deny("a rule denies this address");
	if (r->name && strcmp(r->name, POLICY_HOST_NAME) == 0)
		return decide_loopback(p, r);
	if (r->name && !special)
		return (struct policy_decision){POLICY_ALLOW, NULL};
	for (size_t i = 0; r->name && i < p->pin_count; i++)
		if (addr_equal(&p->pin[i].addr, addr) && strcmp(p->pin[i].name, r->name) == 0)
			return (struct policy_decision){POLICY_ALLOW, NULL};
	for (size_t i = 0; i < p->allow_count; i++)
		if (takes_port(&p->allow[i], r->proto, r->port) && takes_addr(&p->allow[i], addr, special))
			return (struct policy_decision){POLICY_ALLOW_RAW, NULL};
	if (!special && p->allow_public)
		return (struct policy_decision){POLICY_ALLOW_RAW, NULL};
	if (!special && p->ask)
		return (struct policy_decision){POLICY_ASK, NULL};
	return deny(what ? what : "no rule allows this address");
}

/* Whether DNS gives this (canonical) name an address: some port of it is allowed. */
bool policy_resolves(const struct policy *p, const char *name)
{
	if (strcmp(name, POLICY_HOST_NAME) == 0)
		return p->loopback_port_count > 0;
	for (size_t i = 0; i < p->deny_count; i++) {
		const struct policy_rule *r = &p->deny[i];
		if (r->any_proto && r->port_first == 1 && r->port_last == UINT16_MAX && takes_name(r, name))
			return false;
	}
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
