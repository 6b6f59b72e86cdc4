/*
 * Any text as rules, and as a policy file: what is taken is written again as the same rules, and decided without surprise:
 * an address that is not public is never allowed to a name that is not pinned unless a rule is about its own range, and what
 * a rule denies is denied.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/policy.h"
#include "virtio/net/policy_file.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"

static void check_same(const struct policy_rule *a, size_t a_count, const struct policy_rule *b, size_t b_count)
{
	if (a_count != b_count)
		abort();
	for (size_t i = 0; i < a_count; i++) {
		char one[POLICY_RULE_TEXT_BYTES], other[POLICY_RULE_TEXT_BYTES];
		if (strcmp(policy_rule_text(&a[i], one), policy_rule_text(&b[i], other)) != 0 || a[i].match != b[i].match)
			abort();
	}
}

static void check_written(const struct policy *p)
{
	struct policy again = {0};
	struct buf text = {0};
	struct err e;
	if (policy_file_write(p, &text) || policy_file_parse((char *)text.data, text.len, &again, &e))
		abort();
	check_same(p->allow, p->allow_count, again.allow, again.allow_count);
	check_same(p->deny, p->deny_count, again.deny, again.deny_count);
	check_same(p->intercept, p->intercept_count, again.intercept, again.intercept_count);
	if (p->hooks.count != again.hooks.count)
		abort();
	for (size_t i = 0; i < p->hooks.count; i++)
		if (strcmp(p->hooks.item[i], again.hooks.item[i]) != 0)
			abort();
	if (p->pin_count != again.pin_count || p->loopback_port_count != again.loopback_port_count)
		abort();
	policy_free(&again);
	buf_free(&text);
}

static void check_decisions(const struct policy *p)
{
	static const struct ip_addr metadata = {{[10] = 0xff, 0xff, 169, 254, 169, 254}};
	for (size_t i = 0; i < p->allow_count; i++) {
		const struct policy_rule *rule = &p->allow[i];
		struct policy_request r = {.proto = rule->proto, .port = rule->web ? 443 : rule->port_first};
		r.name = rule->match == MATCH_NAME ? rule->name : NULL;
		r.addr = rule->net.addr;
		struct policy_decision d = policy_decide(p, &r);
		if ((d.verdict == POLICY_DENY) != (d.reason != NULL) || (r.name && policy_resolves(p, r.name) && strlen(r.name) >= NAME_BYTES))
			abort();
		if (r.name && p->deny_count == 0 && d.verdict == POLICY_DENY && strcmp(r.name, POLICY_HOST_NAME) != 0)
			abort();
		d = policy_decide_address(p, &r, &metadata, false);
		if (r.name && d.verdict != POLICY_DENY && d.rule && d.rule->net.prefix_bits < 96 + 16)
			abort();
	}
}

/* Lines: the first character says what kind. */
static void add_lines(struct policy *p, char *text)
{
	struct err e;
	for (char *line; (line = strsep(&text, "\n"));) {
		int (*add)(struct policy *, const char *, struct err *) = *line == '-' ? policy_add_deny
									   : *line == '=' ? policy_add_pin
									   : *line == '%' ? policy_add_loopback : policy_add_allow;
		add(p, *line && strchr("-=%+", *line) ? line + 1 : line, &e);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct policy p = {0};
	struct err e;
	char *text = malloc(size + 1);
	memcpy(text, data, size);
	text[size] = 0;
	if (size && text[0] == '{')
		policy_file_parse(text, size, &p, &e);
	else
		add_lines(&p, text);
	check_written(&p);
	check_decisions(&p);
	policy_free(&p);
	free(text);
	return 0;
}
