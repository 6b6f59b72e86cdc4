/*
 * The smallest policy that would have permitted a run: a rule for each host and port that was connected to, checked (TLS,
 * HTTP) where all that was said was for that host, and for a host that was used at 80 and 443 one rule instead of two.
 */
#include "vmm/sandbox/learn.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "virtio/net/policy.h"
#include "virtio/net/policy_file.h"
#include "virtio/net/record.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/strv.h"

static const char loopback[] = "loopback:"; /* before a port of the host's, in the list */

enum { RULE_BYTES = NAME_BYTES + 32 };

/* Where a rule is in the list; -1: nowhere. */
static long find(const struct strv *rules, const char *rule)
{
	for (size_t i = 0; i < rules->count; i++)
		if (strcmp(rules->item[i], rule) == 0)
			return (long)i;
	return -1;
}

static void drop(struct strv *rules, long i)
{
	free(rules->item[i]);
	memmove(&rules->item[i], &rules->item[i + 1], (rules->count - (size_t)i) * sizeof *rules->item);
	rules->count--;
}

/* Learns from a flow that has ended. Returns 0 or -ENOMEM. */
int learn_flow(struct strv *rules, const struct net_record *r)
{
	char checked[RULE_BYTES], raw[RULE_BYTES + 4], address[ADDR_TEXT_BYTES];
	const char *host = r->name[0] ? r->name : addr_text(&r->addr, address);
	bool bracket = strchr(host, ':');
	if (rules->count >= POLICY_RULES_MAX)
		return 0; /* learn_write() says so */
	snprintf(checked, sizeof checked, "%s%s%s:%u", bracket ? "[" : "", host, bracket ? "]" : "", r->port);
	snprintf(raw, sizeof raw, "%s:%s", r->proto == NET_UDP ? "udp" : "tcp", checked);
	if (find(rules, raw) >= 0)
		return 0;
	if (strcmp(r->name, POLICY_HOST_NAME) == 0) {
		snprintf(checked, sizeof checked, "%s%u", loopback, r->port);
		return find(rules, checked) >= 0 ? 0 : strv_add(rules, checked);
	}
	bool is_checked = r->named && r->name[0] && r->proto == NET_TCP;
	if (is_checked)
		return find(rules, checked) >= 0 ? 0 : strv_add(rules, checked);
	if (find(rules, checked) >= 0)
		drop(rules, find(rules, checked));
	return strv_add(rules, raw);
}

/* A host's rules for 80 and 443 become one without ports, which means these. Returns 0 or -errno. */
static int merge(const struct strv *rules, struct strv *merged)
{
	for (size_t i = 0; i < rules->count; i++) {
		char host[RULE_BYTES], other[RULE_BYTES + 4];
		const char *rule = rules->item[i], *port = strrchr(rule, ':');
		bool checked = strncmp(rule, loopback, sizeof loopback - 1) && strncmp(rule, "tcp:", 4) && strncmp(rule, "udp:", 4);
		bool is_80 = strcmp(port, ":80") == 0, is_443 = strcmp(port, ":443") == 0;
		snprintf(host, sizeof host, "%.*s", (int)(port - rule), rule);
		snprintf(other, sizeof other, "%s:%d", host, is_80 ? 443 : 80);
		bool both = checked && (is_80 || is_443) && find(rules, other) >= 0;
		const char *text = both ? host : rule;
		int rc = find(merged, text) >= 0 ? 0 : strv_add(merged, text);
		if (rc)
			return rc;
	}
	return 0;
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int add_rule(struct policy *p, const char *rule, struct err *e)
{
	size_t n = sizeof loopback - 1;
	return strncmp(rule, loopback, n) == 0 ? policy_add_loopback(p, rule + n, e) : policy_add_allow(p, rule, e);
}

/* Where names are, as the run was told, for those that it used. */
static int add_pins(struct policy *p, const struct policy *used, struct err *e)
{
	int rc = 0;
	for (size_t i = 0; i < used->pin_count && rc == 0; i++) {
		char text[NAME_BYTES + ADDR_TEXT_BYTES + 2], address[ADDR_TEXT_BYTES];
		snprintf(text, sizeof text, "%s:%s", used->pin[i].name, addr_text(&used->pin[i].addr, address));
		if (policy_resolves(p, used->pin[i].name))
			rc = policy_add_pin(p, text, e);
	}
	return rc;
}

/*
 * Writes the policy to `fd`, over what was in it, with the pins of the policy that was used. Returns 0, or -errno; -E2BIG where
 * there were more hosts than a policy holds, after those were written.
 */
int learn_write(int fd, const struct strv *rules, const struct policy *used, struct err *e)
{
	struct strv merged = {0};
	struct policy p = {0};
	struct buf text = {0};
	int rc = merge(rules, &merged);
	if (merged.count)
		qsort(merged.item, merged.count, sizeof *merged.item, compare);
	for (size_t i = 0; rc == 0 && i < merged.count; i++)
		rc = add_rule(&p, merged.item[i], e);
	rc = rc ? rc : add_pins(&p, used, e);
	rc = rc ? rc : policy_file_write(&p, &text);
	if (rc == 0 && ftruncate(fd, 0) && errno != EINVAL) /* a pipe has nothing to be written over */
		rc = -errno;
	rc = rc ? rc : io_write_all(fd, text.data, text.len);
	buf_free(&text);
	policy_free(&p);
	strv_free(merged.item);
	if (rc == 0 && rules->count >= POLICY_RULES_MAX)
		return err_set(e, -E2BIG, "the run used more than %d hosts; only so many were learned", POLICY_RULES_MAX);
	return rc ? err_sys(e, rc, "cannot write what was learned") : 0;
}
