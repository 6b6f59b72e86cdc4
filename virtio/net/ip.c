/* IPv4 and IPv6 (RFC 791, RFC 8200), as far as a link without routers behind it needs them. */
#include <errno.h>
#include <linux/if_ether.h>
#include <string.h>

#include "virtio/net/link.h"
#include "virtio/net/net_priv.h"

enum {
	IP4_BYTES = 20,
	IP6_BYTES = 40,
	IP4_FRAGMENT_MASK = 0x3fff, /* more fragments, or an offset */
	IP4_DONT_FRAGMENT = 0x4000,
	TRANSPORT_MIN_BYTES = 8,
	HOPS = 64,
};

static const struct ip_net link_v4 = {{{[10] = 0xff, 0xff, 198, 19, 0, 0}}, 96 + LINK_V4_BITS};
static const struct ip_net link_v6 = {{{LINK_PREFIX_V6}}, LINK_V6_BITS};
static const struct ip_net local_v6 = {{{0xfe, 0x80}}, 10};
static const struct ip_addr unspecified_v6 = {{0}};

/* ---- Checksums (RFC 1071) ---- */

/* Adds bytes to a sum of 16-bit words. An odd number of them only at the end. */
uint32_t sum_bytes(uint32_t sum, const void *data, size_t len_bytes)
{
	const uint8_t *p = data;
	uint64_t wide = sum;
	for (; len_bytes >= 2; p += 2, len_bytes -= 2)
		wide += (uint32_t)(p[0] << 8 | p[1]);
	if (len_bytes)
		wide += (uint32_t)(p[0] << 8);
	while (wide >> 32)
		wide = (wide & UINT32_MAX) + (wide >> 32);
	return (uint32_t)wide;
}

/* The sum as 16 bits, not yet complemented. */
uint16_t sum_fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static uint32_t sum_pseudo_header(const struct segment_out *s)
{
	bool v4 = addr_is_v4(&s->from);
	size_t bytes = s->head_bytes + s->data_bytes;
	uint32_t sum = s->proto + (uint32_t)(bytes >> 16) + (uint32_t)(bytes & 0xffff);
	sum = sum_bytes(sum, s->from.byte + (v4 ? 12 : 0), v4 ? 4 : 16);
	return sum_bytes(sum, s->to.byte + (v4 ? 12 : 0), v4 ? 4 : 16);
}

/* ---- From the guest ---- */

/* Copies from a packet's bytes, from its transport header on, counting from `offset`. Returns how much there was. */
size_t packet_copy(const struct packet *p, size_t offset, void *to, size_t len_bytes)
{
	if (offset >= p->bytes)
		return 0;
	if (len_bytes > p->bytes - offset)
		len_bytes = p->bytes - offset;
	return vq_copy_out(p->frame->chain, sizeof p->frame->vnet + p->offset + offset, to, len_bytes);
}

static void ip_input(struct net *n, const struct packet *p)
{
	if (p->bytes < TRANSPORT_MIN_BYTES || p->offset + TRANSPORT_MIN_BYTES > p->frame->head_bytes) {
		n->count.malformed++;
		return;
	}
	bool v4 = addr_is_v4(&p->to);
	if (p->proto == IP_TCP)
		tcp_input(n, p);
	else if (p->proto == IP_UDP)
		udp_input(n, p);
	else if (p->proto == IP_ICMP && v4)
		icmp_input(n, p);
	else if (p->proto == IP_ICMPV6 && !v4)
		icmp6_input(n, p);
	else
		n->count.unsupported++;
}

/* An IPv4 packet. Fragments are refused: what fits into no packet is no use to anything behind us. */
void ip4_input(struct net *n, const struct frame *f)
{
	const uint8_t *h = f->head + ETH_HEAD_BYTES;
	if (f->head_bytes < ETH_HEAD_BYTES + IP4_BYTES) {
		n->count.malformed++;
		return;
	}
	size_t head_bytes = (size_t)(h[0] & 0xf) * 4, total_bytes = get16(h + 2);
	if (h[0] >> 4 != 4 || head_bytes < IP4_BYTES || total_bytes < head_bytes || total_bytes > f->bytes - ETH_HEAD_BYTES) {
		n->count.malformed++;
		return;
	}
	if (get16(h + 6) & IP4_FRAGMENT_MASK) {
		n->count.fragments++;
		return;
	}
	struct packet p = {
		.frame = f,
		.from = addr_v4(get32(h + 12)),
		.to = addr_v4(get32(h + 16)),
		.proto = h[9],
		.offset = ETH_HEAD_BYTES + head_bytes,
		.bytes = total_bytes - head_bytes,
	};
	bool dhcp = get32(h + 12) == 0 && p.proto == IP_UDP, published = h[12] == IN_LOOPBACKNET && p.proto == IP_TCP;
	if (!addr_in(&p.from, &link_v4) && !dhcp && !published) {
		n->count.unsupported++;
		return;
	}
	ip_input(n, &p);
}

/* An IPv6 packet. Extension headers, among them fragments, are refused. */
void ip6_input(struct net *n, const struct frame *f)
{
	const uint8_t *h = f->head + ETH_HEAD_BYTES;
	if (f->head_bytes < ETH_HEAD_BYTES + IP6_BYTES || h[0] >> 4 != 6) {
		n->count.malformed++;
		return;
	}
	struct packet p = {
		.frame = f,
		.proto = h[6],
		.offset = ETH_HEAD_BYTES + IP6_BYTES,
		.bytes = get16(h + 4),
	};
	memcpy(p.from.byte, h + 8, 16);
	memcpy(p.to.byte, h + 24, 16);
	if (p.bytes > f->bytes - ETH_HEAD_BYTES - IP6_BYTES || addr_is_v4(&p.from) || addr_is_v4(&p.to)) { /* RFC 4291, 2.5.5.2 */
		n->count.malformed++;
		return;
	}
	bool ours = addr_in(&p.from, &link_v6);
	bool discovery = p.proto == IP_ICMPV6 && (addr_in(&p.from, &local_v6) || addr_equal(&p.from, &unspecified_v6));
	if (!ours && !discovery) {
		n->count.unsupported++;
		return;
	}
	ip_input(n, &p);
}

/* ---- To the guest ---- */

static size_t put_ip4(uint8_t *h, const struct segment_out *s)
{
	memset(h, 0, IP4_BYTES);
	h[0] = 0x45;
	set16(h + 2, (unsigned)(IP4_BYTES + s->head_bytes + s->data_bytes));
	set16(h + 6, IP4_DONT_FRAGMENT);
	h[8] = HOPS;
	h[9] = s->proto;
	memcpy(h + 12, s->from.byte + 12, 4);
	memcpy(h + 16, s->to.byte + 12, 4);
	set16(h + 10, (uint16_t)~sum_fold(sum_bytes(0, h, IP4_BYTES)));
	return IP4_BYTES;
}

static size_t put_ip6(uint8_t *h, const struct segment_out *s)
{
	memset(h, 0, IP6_BYTES);
	h[0] = 0x60;
	set16(h + 4, (unsigned)(s->head_bytes + s->data_bytes));
	h[6] = s->proto;
	h[7] = s->proto == IP_ICMPV6 ? 255 : HOPS; /* RFC 4861 takes no other */
	memcpy(h + 8, s->from.byte, 16);
	memcpy(h + 24, s->to.byte, 16);
	return IP6_BYTES;
}

static size_t checksum_offset(uint8_t proto)
{
	return proto == IP_TCP ? 16 : proto == IP_UDP ? 6 : 2;
}

/*
 * Sends a transport segment to the guest, as one packet or, where s->gso_bytes is given, as one that stands for several.
 * Checksums are left to the guest where it offers that. Returns what net_send_frame() does.
 */
int ip_send(struct net *n, struct segment_out *s)
{
	static const uint8_t our_mac[6] = LINK_HOST_MAC;
	uint8_t head[ETH_HEAD_BYTES + IP6_BYTES + 64];
	struct virtio_net_hdr_v1 vnet = {0};
	bool v4 = addr_is_v4(&s->from);
	memcpy(head, n->space.mac, 6);
	memcpy(head + 6, our_mac, 6);
	set16(head + 12, v4 ? ETH_P_IP : ETH_P_IPV6);
	size_t at = ETH_HEAD_BYTES;
	at += v4 ? put_ip4(head + at, s) : put_ip6(head + at, s);
	size_t sum_at = checksum_offset(s->proto);
	uint32_t sum = s->proto == IP_ICMP ? 0 : sum_pseudo_header(s);
	bool offload = net_offers(n, VIRTIO_NET_F_GUEST_CSUM) && (s->proto == IP_TCP || s->proto == IP_UDP);
	if (offload) {
		vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		vnet.csum_start = (uint16_t)at;
		vnet.csum_offset = (uint16_t)sum_at;
		set16(s->head + sum_at, sum_fold(sum));
	} else {
		sum = sum_bytes(sum, s->head, s->head_bytes);
		uint16_t value = (uint16_t)~sum_fold(sum_bytes(sum, s->data, s->data_bytes));
		set16(s->head + sum_at, value ? value : s->proto == IP_UDP ? 0xffff : 0);
	}
	if (s->gso_bytes) {
		vnet.gso_type = v4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
		vnet.gso_size = s->gso_bytes;
		vnet.hdr_len = (uint16_t)(at + s->head_bytes);
	}
	memcpy(head + at, s->head, s->head_bytes);
	return net_send_frame(n, head, at + s->head_bytes, s->data, s->data_bytes, &vnet);
}
