/*
 * ICMP (RFC 792) and ICMPv6 (RFC 4443): echo to the gateway; neighbour discovery (RFC 4861) as Ethernet's part of IPv6. No
 * echo goes any further: it would be a channel that no rule speaks of.
 */
#include <linux/icmpv6.h>
#include <string.h>

#include "virtio/net/link.h"
#include "virtio/net/net_priv.h"

enum {
	ECHO_BYTES = 8,
	ECHO_MAX_BYTES = 65535,
	ICMP_ECHO = 8,
	ICMP_ECHOREPLY = 0,
	SOLICITATION_BYTES = 24,
	ROUTER_SOLICITATION = 133,
	ROUTER_ADVERTISEMENT = 134,
	NEIGHBOUR_SOLICITATION = 135,
	NEIGHBOUR_ADVERTISEMENT = 136,
	OPTION_SOURCE_LINK = 1,
	OPTION_TARGET_LINK = 2,
	OPTION_PREFIX = 3,
	OPTION_MTU = 5,
	ROUTER_LIFETIME_S = 9000, /* the longest */
	FLAG_ROUTER = 0x80,
	FLAG_SOLICITED = 0x40,
	FLAG_OVERRIDE = 0x20,
	FLAG_ON_LINK = 0x80,
};

static const uint8_t our_mac[6] = LINK_HOST_MAC;
static const struct ip_addr host_v6 = {LINK_HOST_V6};
static const struct ip_addr guest_v6 = {LINK_GUEST_V6};
static const struct ip_addr host_local_v6 = {{0xfe, 0x80, [8] = 0x00, 0xca, 0xb1, 0xff, 0xfe, 0x0c, 0x00, 0x01}};
static const struct ip_addr all_nodes_v6 = {{0xff, 0x02, [15] = 1}};
static const struct ip_addr unspecified_v6 = {{0}};

static void transmit(struct net *n, struct segment_out *s)
{
	if (ip_send(n, s))
		n->count.unsent++;
}

/* Sends an echo back, as long as the guest's buffers and a packet take it. */
static void echo(struct net *n, const struct packet *p, uint8_t reply_type)
{
	static uint8_t data[ECHO_MAX_BYTES]; /* one thread runs this */
	uint8_t head[ECHO_BYTES];
	size_t data_bytes = packet_copy(p, ECHO_BYTES, data, sizeof data);
	if (p->bytes > n->config.mtu) {
		n->count.unsupported++;
		return;
	}
	packet_copy(p, 0, head, sizeof head);
	head[0] = reply_type;
	set16(head + 2, 0);
	transmit(n, &(struct segment_out){.from = p->to, .to = p->from, .proto = p->proto, .head = head, .head_bytes = sizeof head,
				      .data = data, .data_bytes = data_bytes});
}

/* An ICMP message. */
void icmp_input(struct net *n, const struct packet *p)
{
	if (p->frame->head[p->offset] == ICMP_ECHO && addr_to_v4(&p->to) == LINK_HOST_V4)
		echo(n, p, ICMP_ECHOREPLY);
	else
		n->count.unsupported++;
}

static void advertise_neighbour(struct net *n, const struct packet *p, const uint8_t *solicitation)
{
	struct ip_addr target;
	memcpy(target.byte, solicitation + 8, sizeof target.byte);
	bool probe = addr_equal(&p->from, &unspecified_v6); /* for duplicates: there are none but our own */
	bool ours = addr_equal(&target, &host_v6) || addr_equal(&target, &host_local_v6);
	if (addr_equal(&target, &guest_v6) || (probe && !ours))
		return;
	uint8_t head[SOLICITATION_BYTES + 8] = {NEIGHBOUR_ADVERTISEMENT};
	head[4] = (uint8_t)(FLAG_ROUTER | FLAG_OVERRIDE | (probe ? 0 : FLAG_SOLICITED));
	memcpy(head + 8, target.byte, sizeof target.byte);
	head[24] = OPTION_TARGET_LINK;
	head[25] = 1;
	memcpy(head + 26, our_mac, sizeof our_mac);
	transmit(n, &(struct segment_out){.from = target, .to = probe ? all_nodes_v6 : p->from, .proto = IP_ICMPV6, .head = head,
				      .head_bytes = sizeof head});
}

/* For guests that configure themselves: the router, the prefix, and the MTU. */
static void advertise_router(struct net *n, const struct packet *p)
{
	uint8_t head[16 + 8 + 8 + 32] = {ROUTER_ADVERTISEMENT};
	uint8_t *o = head + 16;
	head[4] = 64; /* hop limit */
	set16(head + 6, ROUTER_LIFETIME_S);
	o[0] = OPTION_SOURCE_LINK;
	o[1] = 1;
	memcpy(o + 2, our_mac, sizeof our_mac);
	o += 8;
	o[0] = OPTION_MTU;
	o[1] = 1;
	set32(o + 4, n->config.mtu);
	o += 8;
	o[0] = OPTION_PREFIX;
	o[1] = 4;
	o[2] = LINK_V6_BITS;
	o[3] = FLAG_ON_LINK;
	set32(o + 4, UINT32_MAX); /* valid, preferred: for ever */
	set32(o + 8, UINT32_MAX);
	memcpy(o + 16, host_v6.byte, LINK_V6_BITS / 8);
	bool known = !addr_equal(&p->from, &unspecified_v6);
	transmit(n, &(struct segment_out){.from = host_local_v6, .to = known ? p->from : all_nodes_v6, .proto = IP_ICMPV6,
				      .head = head, .head_bytes = sizeof head});
}

/* An ICMPv6 message. */
void icmp6_input(struct net *n, const struct packet *p)
{
	const uint8_t *h = p->frame->head + p->offset;
	bool whole = p->offset + SOLICITATION_BYTES <= p->frame->head_bytes && p->bytes >= SOLICITATION_BYTES;
	if (h[0] == ICMPV6_ECHO_REQUEST && (addr_equal(&p->to, &host_v6) || addr_equal(&p->to, &host_local_v6)))
		echo(n, p, ICMPV6_ECHO_REPLY);
	else if (h[0] == NEIGHBOUR_SOLICITATION && whole)
		advertise_neighbour(n, p, h);
	else if (h[0] == ROUTER_SOLICITATION)
		advertise_router(n, p);
	else
		n->count.unsupported++;
}

/* ---- Refusals ---- */

static bool is_multicast(const struct ip_addr *a)
{
	return addr_is_v4(a) ? addr_to_v4(a) >= 0xe0000000u : a->byte[0] == 0xff; /* broadcasts too */
}

/* The headers of the datagram that is refused, as far as its sender looks at them. */
static size_t put_refused(uint8_t *at, const struct ip_addr *guest, uint16_t guest_port, const struct ip_addr *remote,
			  uint16_t remote_port)
{
	bool v4 = addr_is_v4(guest);
	size_t head = v4 ? 20 : 40;
	if (v4) {
		at[0] = 0x45;
		set16(at + 2, 28);
		at[8] = 64;
		at[9] = IP_UDP;
		memcpy(at + 12, guest->byte + 12, 4);
		memcpy(at + 16, remote->byte + 12, 4);
		set16(at + 10, (uint16_t)~sum_fold(sum_bytes(0, at, 20)));
	} else {
		at[0] = 0x60;
		set16(at + 4, 8);
		at[6] = IP_UDP;
		at[7] = 64;
		memcpy(at + 8, guest->byte, 16);
		memcpy(at + 24, remote->byte, 16);
	}
	set16(at + head, guest_port);
	set16(at + head + 2, remote_port);
	set16(at + head + 4, 8);
	return head + 8;
}

/* Tells the guest that nobody is at `remote` for a datagram of its (RFC 1122, 3.2.2.1; RFC 4443, 3.1). */
void icmp_port_unreachable(struct net *n, const struct ip_addr *guest, uint16_t guest_port, const struct ip_addr *remote,
			   uint16_t remote_port)
{
	bool v4 = addr_is_v4(guest);
	uint8_t head[8 + 48] = {v4 ? 3 : ICMPV6_DEST_UNREACH, v4 ? 3 : ICMPV6_PORT_UNREACH};
	if (is_multicast(remote))
		return;
	size_t bytes = 8 + put_refused(head + 8, guest, guest_port, remote, remote_port);
	transmit(n, &(struct segment_out){.from = *remote, .to = *guest, .proto = v4 ? IP_ICMP : IP_ICMPV6, .head = head,
				      .head_bytes = bytes});
}
