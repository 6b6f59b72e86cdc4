/* The rules of a policy: from the text that a user writes, and back. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/policy.h"
#include "virtio/net/presets.h"
#include "vmm/util/err.h"

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
		char *end = strchr(text, ']'), *inner = strchr(text, ':');
		if (!end || (end[1] && end[1] != ':') || !inner || inner > end)
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
		return err_set(e, -EINVAL, "'%s': brackets are around an IPv6 address, as in [2001:db8::1]:443", text);
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
 * ports: 80 and 443. Or @PRESET: that preset's rules; or
 * @packages. Returns 0, -EINVAL with the text and what is wrong with it, or -E2BIG.
 */
int policy_add_allow(struct policy *p, const char *text, struct err *e)
{
	if (strcmp(text, POLICY_PACKAGES) == 0) {
		p->allow_packages = true;
		return 0;
	}
	if (text[0] == '@')
		return presets_add(p, text, e);
	return add_rule(&p->allow, &p->allow_count, text, false, e);
}

/* The same for a rule that denies; without ports or protocol: all of them. */
int policy_add_deny(struct policy *p, const char *text, struct err *e)
{
	if (text[0] == '@')
		return err_set(e, -EINVAL, "'%.300s': presets are only to allow; see: caplock policy presets %.300s", text, text);
	return add_rule(&p->deny, &p->deny_count, text, true, e);
}

static bool same_rule(const struct policy_rule *a, const struct policy_rule *b)
{
	return a->match == b->match && a->proto == b->proto && a->any_proto == b->any_proto && a->raw == b->raw && a->web == b->web &&
	       a->port_first == b->port_first && a->port_last == b->port_last &&
	       (a->match == MATCH_NET ? addr_equal(&a->net.addr, &b->net.addr) && a->net.prefix_bits == b->net.prefix_bits
				      : strcmp(a->name, b->name) == 0);
}

/* Adds a rule that is about the names of what is read, once. */
static int add_name(struct policy_rule **list, size_t *count, const char *text, struct err *e)
{
	struct policy_rule rule;
	int rc = parse_rule(text, false, &rule, e);
	if (rc)
		return rc;
	if (rule.raw || rule.match == MATCH_NET)
		return err_set(e, -EINVAL, "'%s': what is to be read is named by a host, without tcp: or udp:", text);
	for (size_t i = 0; i < *count; i++)
		if (same_rule(&(*list)[i], &rule))
			return 0;
	return add_rule(list, count, text, false, e);
}

/*
 * Adds HOST[:PORTS], whose allowed flows the gate reads, unless it is there. It allows nothing. Returns 0, -EINVAL with what is
 * wrong, or -E2BIG.
 */
int policy_add_intercept(struct policy *p, const char *text, struct err *e)
{
	return add_name(&p->intercept, &p->intercept_count, text, e);
}

/* Adds HOST[:PORTS], which may have WebSockets where its flows are read. Returns as policy_add_intercept(). */
int policy_add_websocket(struct policy *p, const char *text, struct err *e)
{
	return add_name(&p->websocket, &p->websocket_count, text, e);
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

/* ---- Text from rules ---- */

/* Hosts that are called tcp or udp have a dot at the end: "tcp:22" is something else. */
static void put_host(const struct policy_rule *r, bool ports, char *out, size_t size)
{
	char address[ADDR_TEXT_BYTES], bits[8] = "";
	if (r->match != MATCH_NET) {
		bool is_proto = r->match == MATCH_NAME && (strcmp(r->name, "tcp") == 0 || strcmp(r->name, "udp") == 0);
		snprintf(out, size, "%s%s%s", r->match == MATCH_UNDER ? "*." : "", r->match == MATCH_ANY ? "*" : r->name,
			 is_proto ? "." : "");
		return;
	}
	bool v4 = addr_is_v4(&r->net.addr);
	if (r->net.prefix_bits < 128)
		snprintf(bits, sizeof bits, "/%u", r->net.prefix_bits - (v4 ? 96 : 0));
	addr_text(&r->net.addr, address);
	snprintf(out, size, ports && !v4 ? "[%s%s]" : "%s%s", address, bits);
}

/* Writes the text that makes this rule, in its shortest form, to `out`, and returns it. */
const char *policy_rule_text(const struct policy_rule *r, char out[POLICY_RULE_TEXT_BYTES])
{
	char ports[16] = "", host[POLICY_RULE_TEXT_BYTES];
	bool all = r->port_first == 1 && r->port_last == UINT16_MAX;
	if (all && !r->web && !r->any_proto)
		strcpy(ports, ":*");
	else if (!all && r->port_first == r->port_last)
		snprintf(ports, sizeof ports, ":%u", r->port_first);
	else if (!all)
		snprintf(ports, sizeof ports, ":%u-%u", r->port_first, r->port_last);
	put_host(r, ports[0], host, sizeof host);
	snprintf(out, POLICY_RULE_TEXT_BYTES, "%s%.*s%s", !r->raw ? "" : r->proto == NET_TCP ? "tcp:" : "udp:",
		 POLICY_RULE_TEXT_BYTES - 32, host, ports);
	return out;
}

/* ---- The whole ---- */

/* Removes what is the same as `rule`. Returns whether there was any. */
static bool remove_rule(struct policy_rule *list, size_t *count, const struct policy_rule *rule)
{
	size_t kept = 0, before = *count;
	for (size_t i = 0; i < before; i++)
		if (!same_rule(&list[i], rule))
			list[kept++] = list[i];
	*count = kept;
	return kept < before;
}

/* Removes the rules that `text` stands for from those that allow, or that deny. */
static int remove_rules(struct policy *p, const char *text, bool deny, struct err *e)
{
	struct policy gone = {0};
	bool found = false;
	int rc = deny ? policy_add_deny(&gone, text, e) : policy_add_allow(&gone, text, e);
	for (size_t i = 0; rc == 0 && i < gone.allow_count; i++)
		found |= remove_rule(p->allow, &p->allow_count, &gone.allow[i]);
	for (size_t i = 0; rc == 0 && i < gone.deny_count; i++)
		found |= remove_rule(p->deny, &p->deny_count, &gone.deny[i]);
	policy_free(&gone);
	return rc ? rc : found ? 0 : err_set(e, -ENOENT, "'%s': there is no such rule", text);
}

/* Changes the rules. Returns 0, -EINVAL with what is wrong, -E2BIG, or -ENOENT where the rule to remove is not there. */
int policy_apply(struct policy *p, const struct policy_change *c, struct err *e)
{
	if (!memchr(c->rule, 0, sizeof c->rule))
		return err_set(e, -EINVAL, "a rule that is too long");
	if (strcmp(c->rule, POLICY_PACKAGES) == 0)
		return err_set(e, -EINVAL, "'%s' is only for the start of a sandbox", c->rule);
	switch (c->op) {
	case POLICY_ADD_ALLOW:
		return policy_add_allow(p, c->rule, e);
	case POLICY_REMOVE_ALLOW:
		return remove_rules(p, c->rule, false, e);
	case POLICY_ADD_DENY:
		return policy_add_deny(p, c->rule, e);
	case POLICY_REMOVE_DENY:
		return remove_rules(p, c->rule, true, e);
	default:
		return err_set(e, -EINVAL, "no change of a policy");
	}
}

static void *copy_array(const void *from, size_t count, size_t size, bool *ok)
{
	void *copy = count ? malloc(count * size) : NULL;
	if (copy)
		memcpy(copy, from, count * size);
	*ok &= copy || count == 0;
	return copy;
}

/* Makes `to`, whose content does not count, the same policy as `from`, independent of it. Returns 0 or -ENOMEM. */
int policy_copy(struct policy *to, const struct policy *from)
{
	bool ok = true;
	*to = *from;
	to->allow = copy_array(from->allow, from->allow_count, sizeof *from->allow, &ok);
	to->deny = copy_array(from->deny, from->deny_count, sizeof *from->deny, &ok);
	to->pin = copy_array(from->pin, from->pin_count, sizeof *from->pin, &ok);
	to->intercept = copy_array(from->intercept, from->intercept_count, sizeof *from->intercept, &ok);
	to->websocket = copy_array(from->websocket, from->websocket_count, sizeof *from->websocket, &ok);
	to->loopback_port = copy_array(from->loopback_port, from->loopback_port_count, sizeof *from->loopback_port, &ok);
	to->hooks = (struct strv){0};
	ok &= strv_add_all(&to->hooks, (const char *const *)from->hooks.item) == 0;
	if (!ok)
		policy_free(to);
	return ok ? 0 : -ENOMEM;
}

/* Frees what the rules take; `p` denies everything again. */
void policy_free(struct policy *p)
{
	free(p->allow);
	free(p->deny);
	free(p->pin);
	free(p->intercept);
	strv_free(p->hooks.item);
	free(p->websocket);
	free(p->loopback_port);
	*p = (struct policy){0};
}
