#include "virtio/net/addr.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#define V4(a, b, c, d) {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d}}
#define V6(...) {{__VA_ARGS__}}

enum { V4_BITS = 96 };

/*
 * What is not somewhere on the public internet: the registries of RFC 6890, the clouds' metadata services, and the address
 * families that wrap IPv4. More specific ones first.
 */
static const struct special {
	struct ip_net net;
	const char *what;
} specials[] = {
	{{V4(168, 63, 129, 16), 128}, "a metadata address"},
	{{V4(100, 100, 100, 200), 128}, "a metadata address"},
	{{V4(192, 0, 0, 0), V4_BITS + 24}, "a protocol assignment"},
	{{V4(192, 0, 2, 0), V4_BITS + 24}, "a documentation address"},
	{{V4(192, 88, 99, 0), V4_BITS + 24}, "a 6to4 relay"},
	{{V4(198, 51, 100, 0), V4_BITS + 24}, "a documentation address"},
	{{V4(203, 0, 113, 0), V4_BITS + 24}, "a documentation address"},
	{{V4(169, 254, 0, 0), V4_BITS + 16}, "a link-local address"},
	{{V4(192, 168, 0, 0), V4_BITS + 16}, "a private address"},
	{{V4(198, 18, 0, 0), V4_BITS + 15}, "a benchmark address"},
	{{V4(172, 16, 0, 0), V4_BITS + 12}, "a private address"},
	{{V4(100, 64, 0, 0), V4_BITS + 10}, "a shared address (CGNAT)"},
	{{V4(0, 0, 0, 0), V4_BITS + 8}, "an address of this host"},
	{{V4(10, 0, 0, 0), V4_BITS + 8}, "a private address"},
	{{V4(127, 0, 0, 0), V4_BITS + 8}, "a loopback address"},
	{{V4(224, 0, 0, 0), V4_BITS + 4}, "a multicast address"},
	{{V4(240, 0, 0, 0), V4_BITS + 4}, "a reserved address"},
	{{V6(0xfd, 0, 0x0e, 0xc2, [15] = 0x54, [14] = 0x02), 128}, "a metadata address"}, /* fd00:ec2::254 */
	{{V6([15] = 1), 128}, "a loopback address"},
	{{V6(0, 0x64, 0xff, 0x9b), 96}, "a NAT64 address"},
	{{V6(0, 0x64, 0xff, 0x9b, 0, 1), 48}, "a NAT64 address"},
	{{V6(0, 0), 96}, "an IPv4-compatible address"},
	{{V6(0x20, 0x01, 0x0d, 0xb8), 32}, "a documentation address"},
	{{V6(0x20, 0x01, 0, 0), 23}, "a protocol assignment"},
	{{V6(0x3f, 0xff), 20}, "a documentation address"},
	{{V6(0x20, 0x02), 16}, "a 6to4 address"},
	{{V6(0xfe, 0x80), 10}, "a link-local address"},
	{{V6(0xfe, 0xc0), 10}, "a site-local address"},
	{{V6(0xff), 8}, "a multicast address"},
	{{V6(0xfc), 7}, "a private address"},
};

static const struct ip_net v4_mapped = {V4(0, 0, 0, 0), V4_BITS};

/* IPv6 by its first three bits: besides 2000::/3 all is reserved, where it is not for something. */
enum { GLOBAL_UNICAST = 1 };
static const struct ip_net eighths[8] = {
	{V6(0), 3}, {V6(0x20), 3}, {V6(0x40), 3}, {V6(0x60), 3}, {V6(0x80), 3}, {V6(0xa0), 3}, {V6(0xc0), 3}, {V6(0xe0), 3},
};

/* `address` in host byte order. */
struct ip_addr addr_v4(uint32_t address)
{
	struct ip_addr a = V4((uint8_t)(address >> 24), (uint8_t)(address >> 16), (uint8_t)(address >> 8), (uint8_t)address);
	return a;
}

bool addr_is_v4(const struct ip_addr *a)
{
	return addr_in(a, &v4_mapped);
}

/* The IPv4 address, in host byte order. */
uint32_t addr_to_v4(const struct ip_addr *a)
{
	return (uint32_t)a->byte[12] << 24 | (uint32_t)a->byte[13] << 16 | (uint32_t)a->byte[14] << 8 | a->byte[15];
}

bool addr_equal(const struct ip_addr *a, const struct ip_addr *b)
{
	return memcmp(a, b, sizeof *a) == 0;
}

bool addr_in(const struct ip_addr *a, const struct ip_net *net)
{
	unsigned whole = net->prefix_bits / 8, rest = net->prefix_bits % 8;
	if (memcmp(a->byte, net->addr.byte, whole))
		return false;
	return rest == 0 || (a->byte[whole] ^ net->addr.byte[whole]) >> (8 - rest) == 0;
}

/*
 * Reads an address in its standard form: four decimal numbers without leading zeros, or RFC 4291's text without a zone.
 * Other forms of IPv4 (127.1, 0x7f000001) are none.
 */
bool addr_parse(const char *text, struct ip_addr *out)
{
	struct in_addr v4;
	if (inet_pton(AF_INET, text, &v4) == 1) {
		*out = addr_v4(ntohl(v4.s_addr));
		return true;
	}
	return inet_pton(AF_INET6, text, out->byte) == 1;
}

/* Reads ADDRESS[/BITS]; bits of the address beyond the prefix must be 0. */
bool addr_parse_net(const char *text, struct ip_net *out)
{
	char address[ADDR_TEXT_BYTES + 1];
	size_t n = strcspn(text, "/");
	if (n >= sizeof address)
		return false;
	memcpy(address, text, n);
	address[n] = 0;
	if (!addr_parse(address, &out->addr))
		return false;
	bool v4 = !strchr(address, ':');
	out->prefix_bits = 128;
	if (text[n] == '/') {
		const char *bits = text + n + 1;
		size_t digits = strspn(bits, "0123456789");
		unsigned max = v4 ? 32 : 128;
		if (digits == 0 || digits > 3 || bits[digits] || (digits > 1 && bits[0] == '0'))
			return false;
		unsigned value = (unsigned)strtoul(bits, NULL, 10);
		if (value > max)
			return false;
		out->prefix_bits = value + 128 - max;
	}
	for (unsigned bit = out->prefix_bits; bit < 128; bit++)
		if (out->addr.byte[bit / 8] >> (7 - bit % 8) & 1)
			return false;
	return true;
}

/* Writes the standard form to `text`, and returns it. */
const char *addr_text(const struct ip_addr *a, char text[ADDR_TEXT_BYTES])
{
	if (addr_is_v4(a))
		inet_ntop(AF_INET, a->byte + 12, text, ADDR_TEXT_BYTES);
	else
		inet_ntop(AF_INET6, a->byte, text, ADDR_TEXT_BYTES);
	return text;
}

/* The range that makes an address not public, and in *what its kind; NULL where it is public. */
const struct ip_net *addr_special(const struct ip_addr *a, const char **what)
{
	for (size_t i = 0; i < sizeof specials / sizeof specials[0]; i++)
		if (addr_in(a, &specials[i].net)) {
			*what = specials[i].what;
			return &specials[i].net;
		}
	unsigned eighth = a->byte[0] >> 5;
	if (addr_is_v4(a) || eighth == GLOBAL_UNICAST)
		return NULL;
	*what = "a reserved address";
	return &eighths[eighth];
}

/* Writes an address and a port as the socket calls take them. Returns their length. */
socklen_t addr_socket(const struct ip_addr *a, uint16_t port, struct sockaddr_storage *out)
{
	*out = (struct sockaddr_storage){0};
	if (addr_is_v4(a)) {
		struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(addr_to_v4(a))}};
		memcpy(out, &v4, sizeof v4);
		return sizeof v4;
	}
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	memcpy(&v6.sin6_addr, a->byte, 16);
	memcpy(out, &v6, sizeof v6);
	return sizeof v6;
}
