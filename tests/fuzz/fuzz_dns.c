/*
 * Any bytes as a DNS query: its name is canonical or none, and every answer to it fits and has the question as it was asked.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/dns.h"

static void check_answer(const struct dns_query *q, const struct dns_answer *a)
{
	uint8_t out[DNS_ANSWER_MAX_BYTES];
	size_t bytes = dns_build(q, a, out);
	if (bytes < DNS_HEADER_BYTES + q->question_bytes || bytes > sizeof out || !(out[2] & 0x80) || (out[3] & 15u) != a->rcode ||
	    memcmp(out + DNS_HEADER_BYTES, q->question, q->question_bytes) != 0)
		abort();
	struct dns_query again; /* a response is no query */
	if (dns_parse(out, bytes, &again) != -EBADMSG)
		abort();
	out[2] &= 0x7f;
	if (q->question_bytes && (dns_parse(out, bytes, &again) || strcmp(again.name, q->name) != 0 || again.type != q->type))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct dns_query q;
	struct ip_addr addr, v4 = addr_v4(0x01020304), v6 = {{0x20, 1}};
	char canonical[NAME_BYTES];
	size_t at;
	int rc = dns_parse(data, size, &q);
	if (rc == -EBADMSG)
		return 0;
	if (rc && (q.question_bytes || (rc != -DNS_FORMERR && rc != -DNS_NOTIMP)))
		abort();
	if (q.name[0] && (name_canonical(q.name, strlen(q.name), canonical, &at) || strcmp(canonical, q.name) != 0))
		abort();
	dns_reverse(q.name, &addr);
	check_answer(&q, &(struct dns_answer){.rcode = rc ? (unsigned)-rc : DNS_NXDOMAIN});
	check_answer(&q, &(struct dns_answer){.v4 = &v4, .v6 = &v6, .ttl_s = UINT32_MAX});
	if (strlen(q.name) < 100)
		check_answer(&q, &(struct dns_answer){.name = q.name[0] ? q.name : "a"});
	return 0;
}
