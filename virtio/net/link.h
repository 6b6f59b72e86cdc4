/* The network that the guest finds: one link, with the guest and us on it. Shared with guest/net.c. */
#ifndef CAPLOCK_NET_LINK_H
#define CAPLOCK_NET_LINK_H

/* 198.18.0.0/15 is for networks that touch no other (RFC 2544); names get addresses from its first half (names.c). */
#define LINK_HOST_V4 0xc6130001u  /* 198.19.0.1: gateway, DNS */
#define LINK_GUEST_V4 0xc6130002u /* 198.19.0.2 */
#define LINK_V4_BITS 24
#define LINK_V4_MASK 0xffffff00u
#define LINK_DNS_TEXT "198.19.0.1"

#define LINK_PREFIX_V6 0xfd, 0x0c, 0xa9, 0x10, 0xc1, 0x0c, 0, 0 /* RFC 4193 */
#define LINK_HOST_V6 {LINK_PREFIX_V6, 0, 0, 0, 0, 0, 0, 0, 1}
#define LINK_GUEST_V6 {LINK_PREFIX_V6, 0, 0, 0, 0, 0, 0, 0, 2}
#define LINK_V6_BITS 64

#define LINK_HOST_MAC {0x02, 0xca, 0xb1, 0x0c, 0x00, 0x01}
#define LINK_GUEST_MAC {0x02, 0xca, 0xb1, 0x0c, 0x00, 0x02}

#define LINK_MTU_DEFAULT 1500
#define LINK_MTU_MIN 1280 /* of IPv6 */
#define LINK_MTU_MAX 65520

#endif
