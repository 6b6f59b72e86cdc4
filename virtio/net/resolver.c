/* What the guest's questions for names are answered with: made-up addresses for what the policy allows, and no others. */
#include <string.h>

#include "virtio/net/dns.h"
#include "virtio/net/flow.h"

/* The name that a reverse question is about, where we gave its address to one. */
static const char *reverse(struct net *n, const char *name)
{
	struct ip_addr addr;
	const struct name_entry *e = dns_reverse(name, &addr) ? names_find(&n->names, &addr) : NULL;
	return e ? e->name : NULL;
}

/* What a service is asked for: the host of _SERVICE._PROTO.HOST (RFC 2782); another name is itself. */
static const char *service_host(const char *name)
{
	for (int i = 0; i < 2 && name[0] == '_' && strchr(name, '.'); i++)
		name = strchr(name, '.') + 1;
	return name;
}

static void answer_name(struct net *n, const struct dns_query *q, struct dns_answer *a, struct ip_addr *v4, struct ip_addr *v6)
{
	const char *host = service_host(q->name);
	if (!policy_resolves(&n->config.policy, q->name)) {
		a->rcode = DNS_NXDOMAIN;
		if (host == q->name || !policy_resolves(&n->config.policy, host)) { /* else the client goes on with the host itself */
			n->count.denied++;
			record_dns(n, q->name, false);
		}
		return;
	}
	const struct name_entry *e = names_add(&n->names, q->name, flow_now_ms());
	if (!e) {
		a->rcode = DNS_SERVFAIL;
		return;
	}
	*v4 = names_v4(e);
	*v6 = names_v6(e);
	a->v4 = q->type == DNS_TYPE_A || q->type == DNS_TYPE_ANY ? v4 : NULL;
	a->v6 = q->type == DNS_TYPE_AAAA || q->type == DNS_TYPE_ANY ? v6 : NULL;
	a->ttl_s = NAMES_TTL_S;
	record_dns(n, q->name, true);
}

/*
 * Answers a DNS message: nobody else is asked, so that no question leaves the sandbox. Every type but A, AAAA and PTR has
 * an empty answer (HTTPS records would let clients hide the name they talk to). Returns the length of the answer in `out`,
 * or 0 where there is none to give.
 */
size_t resolver_answer(struct net *n, const uint8_t *query, size_t query_bytes, uint8_t out[DNS_ANSWER_MAX_BYTES])
{
	struct dns_query q;
	struct dns_answer a = {.ttl_s = NAMES_TTL_S};
	struct ip_addr v4, v6;
	int rc = dns_parse(query, query_bytes, &q);
	if (rc == -DNS_FORMERR || rc == -DNS_NOTIMP)
		a.rcode = (unsigned)-rc;
	else if (rc)
		return 0;
	else if (q.class != DNS_CLASS_IN || !q.name[0])
		a.rcode = DNS_NXDOMAIN;
	else if (q.type == DNS_TYPE_PTR)
		a.rcode = (a.name = reverse(n, q.name)) ? DNS_NOERROR : DNS_NXDOMAIN;
	else
		answer_name(n, &q, &a, &v4, &v6);
	return dns_build(&q, &a, out);
}
