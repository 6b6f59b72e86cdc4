/* DNS messages (RFC 1035, RFC 6891): one question in, one answer out. Pure. */
#ifndef CAPLOCK_NET_DNS_H
#define CAPLOCK_NET_DNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio/net/addr.h"
#include "virtio/net/name.h"

enum {
	DNS_PORT = 53,
	DNS_HEADER_BYTES = 12,
	DNS_QUESTION_MAX_BYTES = 255 + 4,
	DNS_ANSWER_MAX_BYTES = DNS_HEADER_BYTES + DNS_QUESTION_MAX_BYTES + 2 * 28 + 300 + 11,

	DNS_TYPE_A = 1,
	DNS_TYPE_PTR = 12,
	DNS_TYPE_AAAA = 28,
	DNS_TYPE_ANY = 255,
	DNS_CLASS_IN = 1,

	DNS_NOERROR = 0,
	DNS_FORMERR = 1,
	DNS_SERVFAIL = 2,
	DNS_NXDOMAIN = 3,
	DNS_NOTIMP = 4,
};

struct dns_query {
	uint16_t id;
	bool recursion_desired;
	bool edns;
	uint16_t type, class;
	char name[NAME_BYTES]; /* canonical; empty where the question is for no host name */
	uint8_t question[DNS_QUESTION_MAX_BYTES]; /* as it was asked */
	size_t question_bytes;
};

/* What a name is: up to one address of each family, or for PTR a name. */
struct dns_answer {
	unsigned rcode;
	uint32_t ttl_s;
	const struct ip_addr *v4, *v6; /* NULL: not asked for, or none */
	const char *name;
};

int dns_parse(const uint8_t *message, size_t len_bytes, struct dns_query *q);
size_t dns_build(const struct dns_query *q, const struct dns_answer *a, uint8_t out[DNS_ANSWER_MAX_BYTES]);
bool dns_reverse(const char *name, struct ip_addr *out);

#endif
