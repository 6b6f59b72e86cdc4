/* DHCPv4 (RFC 2131, RFC 2132): the server's side, pure. */
#ifndef CAPLOCK_NET_DHCP_H
#define CAPLOCK_NET_DHCP_H

#include <stddef.h>
#include <stdint.h>

enum {
	DHCP_MESSAGE_BYTES = 512, /* of a client's message that are looked at */
	DHCP_REPLY_MAX_BYTES = 304,
};

size_t dhcp_answer(const uint8_t *message, size_t len_bytes, unsigned mtu, uint8_t reply[DHCP_REPLY_MAX_BYTES]);

#endif
