/* UDP (RFC 768): DNS, whatever address it is sent to, DHCP, and flows that a rule allows (udp_flow.c). */
#include <string.h>

#include "virtio/net/dns.h"
#include "virtio/net/net_priv.h"
#include "virtio/net/udp_flow.h"

enum {
	HEAD_BYTES = 8,
	PORT_DHCP_SERVER = 67,
	QUERY_MAX_BYTES = 1500,
};

/* Sends a datagram to the guest. Returns what ip_send() does. */
int udp_reply(struct net *n, const struct ip_addr *from, uint16_t from_port, const struct ip_addr *to, uint16_t to_port,
	      const void *data, size_t data_bytes)
{
	uint8_t head[HEAD_BYTES] = {0};
	set16(head, from_port);
	set16(head + 2, to_port);
	set16(head + 4, (unsigned)(HEAD_BYTES + data_bytes));
	return ip_send(n, &(struct segment_out){.from = *from, .to = *to, .proto = IP_UDP, .head = head, .head_bytes = sizeof head,
						.data = data, .data_bytes = data_bytes});
}

static void resolve(struct net *n, const struct packet *p, uint16_t from_port, size_t bytes)
{
	uint8_t query[QUERY_MAX_BYTES], answer[DNS_ANSWER_MAX_BYTES];
	bytes = packet_copy(p, HEAD_BYTES, query, bytes < sizeof query ? bytes : sizeof query);
	bytes = resolver_answer(n, query, bytes, answer);
	if (bytes && udp_reply(n, &p->to, DNS_PORT, &p->from, from_port, answer, bytes))
		n->count.unsent++;
}

/* A datagram of the guest's. */
void udp_input(struct net *n, const struct packet *p)
{
	const uint8_t *h = p->frame->head + p->offset;
	uint16_t from_port = get16(h), to_port = get16(h + 2);
	size_t bytes = get16(h + 4);
	if (bytes < HEAD_BYTES || bytes > p->bytes) {
		n->count.malformed++;
		return;
	}
	bytes -= HEAD_BYTES;
	if (to_port == PORT_DHCP_SERVER && addr_is_v4(&p->to)) {
		dhcp_input(n, p);
	} else if (to_port == DNS_PORT) {
		resolve(n, p, from_port, bytes);
	} else {
		udp_flow_input(n, p, from_port, to_port, HEAD_BYTES, bytes);
	}
}
