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
	if (strcmp(r->name, POLICY_HOST_NAME) == 0)
		return 0; /* ports of the host are opened by hand */
	snprintf(checked, sizeof checked, "%s%s%s:%u", bracket ? "[" : "", host, bracket ? "]" : "", r->port);
	snprintf(raw, sizeof raw, "%s:%s", r->proto == NET_UDP ? "udp" : "tcp", checked);
	if (find(rules, raw) >= 0)
		return 0;
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
		bool checked = strncmp(rule, "tcp:", 4) && strncmp(rule, "udp:", 4);
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

/* Writes the policy to `fd`, over what was in it. Returns 0 or -errno. */
int learn_write(int fd, const struct strv *rules, struct err *e)
{
	struct strv merged = {0};
	struct policy p = {0};
	struct buf text = {0};
	int rc = merge(rules, &merged);
	if (merged.count)
		qsort(merged.item, merged.count, sizeof *merged.item, compare);
	for (size_t i = 0; rc == 0 && i < merged.count; i++)
		rc = policy_add_allow(&p, merged.item[i], e);
	rc = rc ? rc : policy_file_write(&p, &text);
	if (rc == 0 && ftruncate(fd, 0) && errno != EINVAL) /* a pipe has nothing to be written over */
		rc = -errno;
	rc = rc ? rc : io_write_all(fd, text.data, text.len);
	buf_free(&text);
	policy_free(&p);
	strv_free(merged.item);
	return rc ? err_sys(e, rc, "cannot write what was learned") : 0;
}
