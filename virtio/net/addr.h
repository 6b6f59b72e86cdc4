/* Internet addresses: both families as one type, and what each is for (RFC 6890). */
#ifndef CAPLOCK_NET_ADDR_H
#define CAPLOCK_NET_ADDR_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

/* Network byte order; IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2). */
struct ip_addr {
	uint8_t byte[16];
};

struct ip_net {
	struct ip_addr addr; /* bits beyond the prefix are 0 */
	unsigned prefix_bits; /* of 128, also for IPv4: 96 more than one writes */
};

enum { ADDR_TEXT_BYTES = INET6_ADDRSTRLEN };

struct ip_addr addr_v4(uint32_t address);
bool addr_is_v4(const struct ip_addr *a);
uint32_t addr_to_v4(const struct ip_addr *a);
bool addr_equal(const struct ip_addr *a, const struct ip_addr *b);
bool addr_in(const struct ip_addr *a, const struct ip_net *net);
bool addr_parse(const char *text, struct ip_addr *out);
bool addr_parse_net(const char *text, struct ip_net *out);
const char *addr_text(const struct ip_addr *a, char text[ADDR_TEXT_BYTES]);
const struct ip_net *addr_special(const struct ip_addr *a, const char **what);
socklen_t addr_socket(const struct ip_addr *a, uint16_t port, struct sockaddr_storage *out);

#endif
