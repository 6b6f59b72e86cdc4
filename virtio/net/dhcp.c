/* DHCPv4 (RFC 2131, RFC 2132), for guests that insist on it: there is one address to give, and it is always given. */
#include "virtio/net/dhcp.h"

#include <string.h>

#include "virtio/net/link.h"
#include "virtio/net/net_priv.h"

enum {
	FIXED_BYTES = 240, /* with the magic cookie */
	OP_REQUEST = 1,
	OP_REPLY = 2,
	PORT_SERVER = 67,
	PORT_CLIENT = 68,
	TYPE_DISCOVER = 1,
	TYPE_OFFER = 2,
	TYPE_REQUEST = 3,
	TYPE_ACK = 5,
	TYPE_NAK = 6,
	TYPE_INFORM = 8,
	OPTION_MASK = 1,
	OPTION_ROUTER = 3,
	OPTION_DNS = 6,
	OPTION_MTU = 26,
	OPTION_REQUESTED = 50,
	OPTION_LEASE = 51,
	OPTION_TYPE = 53,
	OPTION_SERVER = 54,
	OPTION_END = 255,
	LEASE_S = 86400,
};

static const uint8_t cookie[4] = {99, 130, 83, 99};

/* The value of option `code`, of `want_bytes` bytes; NULL where the message has none. */
static const uint8_t *find_option(const uint8_t *m, size_t bytes, uint8_t code, size_t want_bytes)
{
	for (size_t at = FIXED_BYTES; at < bytes && m[at] != OPTION_END;) {
		if (m[at] == 0) {
			at++;
			continue;
		}
		if (at + 2 > bytes || at + 2 + m[at + 1] > bytes)
			return NULL;
		if (m[at] == code)
			return m[at + 1] == want_bytes ? m + at + 2 : NULL;
		at += 2u + m[at + 1];
	}
	return NULL;
}

static uint8_t *put_option32(uint8_t *o, uint8_t code, uint32_t value)
{
	o[0] = code;
	o[1] = 4;
	set32(o + 2, value);
	return o + 6;
}

static uint8_t *put_type(uint8_t *o, uint8_t type)
{
	o[0] = OPTION_TYPE;
	o[1] = 1;
	o[2] = type;
	return o + 3;
}

static uint8_t reply_type(const uint8_t *m, size_t bytes)
{
	const uint8_t *type = find_option(m, bytes, OPTION_TYPE, 1);
	const uint8_t *wanted = find_option(m, bytes, OPTION_REQUESTED, 4);
	uint32_t address = wanted ? get32(wanted) : get32(m + 12);
	if (!type)
		return 0;
	if (*type == TYPE_DISCOVER)
		return TYPE_OFFER;
	if (*type == TYPE_REQUEST)
		return address == LINK_GUEST_V4 ? TYPE_ACK : TYPE_NAK;
	return *type == TYPE_INFORM ? TYPE_ACK : 0;
}

/*
 * Answers a client's message: writes to `reply`, and returns how much that is; 0: it is no message that is answered, or none at
 * all. Pure.
 */
size_t dhcp_answer(const uint8_t *m, size_t bytes, unsigned mtu, uint8_t reply[DHCP_REPLY_MAX_BYTES])
{
	if (bytes < FIXED_BYTES || m[0] != OP_REQUEST || m[1] != 1 || m[2] != 6 || memcmp(m + 236, cookie, sizeof cookie))
		return 0;
	uint8_t type = reply_type(m, bytes), *r = reply;
	if (type == 0)
		return 0;
	memset(r, 0, FIXED_BYTES);
	memcpy(r, (const uint8_t[]){OP_REPLY, 1, 6}, 3);
	memcpy(r + 4, m + 4, 4);   /* transaction */
	memcpy(r + 10, m + 10, 2); /* flags */
	memcpy(r + 28, m + 28, 16); /* client's address */
	memcpy(r + 236, cookie, sizeof cookie);
	uint8_t *o = put_option32(put_type(r + FIXED_BYTES, type), OPTION_SERVER, LINK_HOST_V4);
	if (type != TYPE_NAK) {
		set32(r + 16, LINK_GUEST_V4);
		o = put_option32(o, OPTION_MASK, LINK_V4_MASK);
		o = put_option32(o, OPTION_ROUTER, LINK_HOST_V4);
		o = put_option32(o, OPTION_DNS, LINK_HOST_V4);
		o = put_option32(o, OPTION_LEASE, LEASE_S);
		*o++ = OPTION_MTU;
		*o++ = 2;
		set16(o, mtu);
		o += 2;
	}
	*o++ = OPTION_END;
	return (size_t)(o - r);
}

/* A datagram to the DHCP server's port. */
void dhcp_input(struct net *n, const struct packet *p)
{
	uint8_t m[DHCP_MESSAGE_BYTES], r[DHCP_REPLY_MAX_BYTES];
	size_t reply_bytes = dhcp_answer(m, packet_copy(p, 8, m, sizeof m), n->config.mtu, r);
	struct ip_addr host = addr_v4(LINK_HOST_V4), everybody = addr_v4(UINT32_MAX);
	if (reply_bytes == 0)
		n->count.malformed++;
	else if (udp_reply(n, &host, PORT_SERVER, &everybody, PORT_CLIENT, r, reply_bytes))
		n->count.unsent++;
}
