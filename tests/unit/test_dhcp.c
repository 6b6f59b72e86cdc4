/* virtio/net/dhcp.c */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/dhcp.h"
#include "virtio/net/link.h"

enum { HEAD = 240 };

/* A client's message of this type, with the option of the address that it requests where that is not 0. */
static size_t message(uint8_t m[DHCP_MESSAGE_BYTES], unsigned type, uint32_t requested)
{
	memset(m, 0, DHCP_MESSAGE_BYTES);
	memcpy(m, "\1\1\6\0\xde\xad\xbe\xef", 8);
	memcpy(m + 28, "\2\3\4\5\6\7", 6);
	memcpy(m + 236, "\x63\x82\x53\x63", 4);
	size_t at = HEAD;
	m[at++] = 0; /* padding */
	m[at++] = 53;
	m[at++] = 1;
	m[at++] = (uint8_t)type;
	if (requested) {
		m[at++] = 50;
		m[at++] = 4;
		for (int i = 3; i >= 0; i--)
			m[at++] = (uint8_t)(requested >> (8 * i));
	}
	m[at++] = 255;
	return at;
}

/* The value of an option of `reply`, or NULL. */
static const uint8_t *option(const uint8_t *reply, size_t bytes, unsigned code)
{
	for (size_t at = HEAD; at < bytes && reply[at] != 255; at += 2u + reply[at + 1])
		if (reply[at] == code)
			return reply + at + 2;
	return NULL;
}

Test(dhcp, what_is_answered)
{
	static const struct {
		unsigned type;
		uint32_t requested;
		int reply; /* its type; 0: none */
	} rows[] = {
		{1, 0, 2}, {1, 0x0a000001, 2}, {3, LINK_GUEST_V4, 5}, {3, 0x0a000001, 6}, {3, 0, 6}, {4, 0, 0}, {7, 0, 0}, {8, 0, 5}, {99, 0, 0},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		uint8_t m[DHCP_MESSAGE_BYTES], r[DHCP_REPLY_MAX_BYTES];
		size_t bytes = dhcp_answer(m, message(m, rows[i].type, rows[i].requested), 1400, r);
		cr_assert_eq(bytes > 0, rows[i].reply > 0, "%zu", i);
		if (bytes == 0)
			continue;
		cr_expect_eq(option(r, bytes, 53)[0], rows[i].reply);
		cr_expect(r[0] == 2 && memcmp(r + 4, "\xde\xad\xbe\xef", 4) == 0 && memcmp(r + 28, "\2\3\4\5\6\7", 6) == 0);
		cr_expect_eq(r[bytes - 1], 255);
		if (rows[i].reply == 6)
			continue;
		cr_expect_eq(memcmp(r + 16, "\xc6\x13\0\2", 4), 0);
		cr_expect_eq(memcmp(option(r, bytes, 3), "\xc6\x13\0\1", 4), 0);
		cr_expect_eq(memcmp(option(r, bytes, 6), "\xc6\x13\0\1", 4), 0);
		cr_expect_eq(memcmp(option(r, bytes, 26), "\5\x78", 2), 0);
	}
}

/* The address may be in the head, as when a lease is renewed. */
Test(dhcp, renewal)
{
	uint8_t m[DHCP_MESSAGE_BYTES], r[DHCP_REPLY_MAX_BYTES];
	size_t n = message(m, 3, 0);
	memcpy(m + 12, "\xc6\x13\0\2", 4);
	size_t bytes = dhcp_answer(m, n, 1500, r);
	cr_assert_gt(bytes, 0);
	cr_expect_eq(option(r, bytes, 53)[0], 5);
}

Test(dhcp, what_is_no_message)
{
	uint8_t m[DHCP_MESSAGE_BYTES], r[DHCP_REPLY_MAX_BYTES];
	size_t n = message(m, 1, 0);
	static const size_t must_be[] = {0, 1, 2, 236, 239};
	for (size_t i = 0; i < sizeof must_be / sizeof must_be[0]; i++) {
		m[must_be[i]] ^= 1;
		cr_expect_eq(dhcp_answer(m, n, 1500, r), 0, "%zu", must_be[i]);
		m[must_be[i]] ^= 1;
	}
	for (size_t cut = 0; cut < n; cut++) {
		uint8_t *exact = malloc(cut ? cut : 1);
		memcpy(exact, m, cut);
		cr_expect_eq(dhcp_answer(exact, cut, 1500, r) > 0, cut >= HEAD + 4, "%zu", cut);
		free(exact);
	}
	m[HEAD + 2] = 2; /* the type is no byte */
	cr_expect_eq(dhcp_answer(m, n, 1500, r), 0);
	m[HEAD + 2] = 255; /* longer than the message */
	cr_expect_eq(dhcp_answer(m, n, 1500, r), 0);
}
