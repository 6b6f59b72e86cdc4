/* Ethernet, and ARP (RFC 826): the guest's link has one other station, which is every address but the guest's. */
#include <linux/if_ether.h>
#include <string.h>

#include "virtio/net/link.h"
#include "virtio/net/net_priv.h"

enum {
	ARP_BYTES = 28,
	ARP_REQUEST = 1,
	ARP_REPLY = 2,
};

static const uint8_t our_mac[6] = LINK_HOST_MAC;

static bool is_for_us(const uint8_t *mac)
{
	return mac[0] & 1 || memcmp(mac, our_mac, sizeof our_mac) == 0;
}

/* Answers who-has for every address of the link but the guest's own, which it probes for to find duplicates. */
static void arp_input(struct net *n, const struct frame *f)
{
	static const uint8_t ethernet_ip4[6] = {0, 1, 8, 0, 6, 4};
	const uint8_t *q = f->head + ETH_HEAD_BYTES;
	if (f->head_bytes < ETH_HEAD_BYTES + ARP_BYTES || memcmp(q, ethernet_ip4, sizeof ethernet_ip4)) {
		n->count.malformed++;
		return;
	}
	if (get16(q + 6) != ARP_REQUEST || get32(q + 24) == LINK_GUEST_V4 || get32(q + 14) == get32(q + 24))
		return;
	uint8_t reply[ETH_HEAD_BYTES + ARP_BYTES];
	memcpy(reply, n->space.mac, 6);
	memcpy(reply + 6, our_mac, 6);
	set16(reply + 12, ETH_P_ARP);
	uint8_t *a = reply + ETH_HEAD_BYTES;
	memcpy(a, q, 6);
	set16(a + 6, ARP_REPLY);
	memcpy(a + 8, our_mac, 6);
	memcpy(a + 14, q + 24, 4);
	memcpy(a + 18, q + 8, 10);
	if (net_send_frame(n, reply, sizeof reply, NULL, 0, &(struct virtio_net_hdr_v1){0}))
		n->count.unsent++;
}

/* A frame of the guest's, at least with an Ethernet header. */
void eth_input(struct net *n, const struct frame *f)
{
	if (!is_for_us(f->head)) {
		n->count.unsupported++;
		return;
	}
	switch (get16(f->head + 12)) {
	case ETH_P_ARP:
		arp_input(n, f);
		break;
	case ETH_P_IP:
		ip4_input(n, f);
		break;
	case ETH_P_IPV6:
		ip6_input(n, f);
		break;
	default:
		n->count.unsupported++;
		break;
	}
}
