/* virtio/net: dns.c and names.c. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/dns.h"
#include "virtio/net/names.h"

struct message {
	uint8_t at[1024];
	size_t bytes;
};

static void put(struct message *m, unsigned value, unsigned bytes)
{
	while (bytes--)
		m->at[m->bytes++] = (uint8_t)(value >> (8 * bytes));
}

static void put_name(struct message *m, const char *name)
{
	while (*name) {
		size_t label = strcspn(name, ".");
		put(m, (unsigned)label, 1);
		memcpy(m->at + m->bytes, name, label);
		m->bytes += label;
		name += label + (name[label] == '.');
	}
	put(m, 0, 1);
}

/* A query as clients send it. */
static struct message query(const char *name, unsigned type)
{
	struct message m = {.bytes = 0};
	put(&m, 0x1234, 2);
	put(&m, 0x0100, 2);
	put(&m, 1, 2);
	put(&m, 0, 2);
	put(&m, 0, 2);
	put(&m, 0, 2);
	put_name(&m, name);
	put(&m, type, 2);
	put(&m, DNS_CLASS_IN, 2);
	return m;
}

static void put_opt(struct message *m)
{
	m->at[11]++;
	put(m, 0, 1);
	put(m, 41, 2);
	put(m, 4096, 2);
	put(m, 0x8000, 4);
	put(m, 0, 2);
}

static unsigned get16(const uint8_t *p)
{
	return (unsigned)(p[0] << 8 | p[1]);
}

Test(dns, questions)
{
	static const struct {
		const char *asked, *name; /* "": no host */
	} rows[] = {
		{"www.example.com", "www.example.com"},
		{"WwW.ExAmPlE.cOm", "www.example.com"},
		{"_http._tcp.example.com", "_http._tcp.example.com"},
		{"xn--bcher-kva.de", "xn--bcher-kva.de"},
		{"", ""},
		{"b\xc3\xbc" "cher.de", ""},
		{"a b.com", ""},
		{"127.1", ""},
		{"-a.com", ""},
		{"1.0.0.127.in-addr.arpa", "1.0.0.127.in-addr.arpa"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct message m = query(rows[i].asked, DNS_TYPE_A);
		struct dns_query q;
		cr_assert_eq(dns_parse(m.at, m.bytes, &q), 0, "%s", rows[i].asked);
		cr_expect_str_eq(q.name, rows[i].name, "%s: %s", rows[i].asked, q.name);
		cr_expect(q.id == 0x1234 && q.type == DNS_TYPE_A && q.class == DNS_CLASS_IN && q.recursion_desired && !q.edns);
		cr_expect_eq(q.question_bytes, m.bytes - DNS_HEADER_BYTES);
	}
}

/* A dot or a NUL inside a label is no other name's end. */
Test(dns, case_23_labels_are_not_names)
{
	struct message m = query("x", DNS_TYPE_A);
	struct dns_query q;
	m.bytes = DNS_HEADER_BYTES;
	put(&m, 7, 1);
	memcpy(m.at + m.bytes, "www.exa", 7);
	m.bytes += 7;
	put(&m, 0, 1);
	put(&m, 1, 2);
	put(&m, 1, 2);
	cr_assert_eq(dns_parse(m.at, m.bytes, &q), 0);
	cr_expect_str_eq(q.name, "");
	m.at[DNS_HEADER_BYTES + 4] = 0;
	cr_assert_eq(dns_parse(m.at, m.bytes, &q), 0);
	cr_expect_str_eq(q.name, "");
}

Test(dns, edns)
{
	struct message m = query("a.com", DNS_TYPE_A);
	struct dns_query q;
	put_opt(&m);
	cr_assert_eq(dns_parse(m.at, m.bytes, &q), 0);
	cr_expect(q.edns);
	for (size_t n = m.bytes - 1; n > m.bytes - 11; n--) { /* cut: it is as if it was not there */
		cr_assert_eq(dns_parse(m.at, n, &q), 0);
		cr_expect_not(q.edns);
	}
}

Test(dns, what_is_refused)
{
	struct message good = query("www.example.com", DNS_TYPE_A), m;
	struct dns_query q;
	for (size_t n = 0; n < good.bytes; n++) { /* every cut */
		uint8_t *exact = malloc(n ? n : 1);
		memcpy(exact, good.at, n);
		cr_expect_eq(dns_parse(exact, n, &q), n < DNS_HEADER_BYTES ? -EBADMSG : -DNS_FORMERR, "%zu", n);
		free(exact);
	}
	m = good;
	m.at[2] |= 0x80; /* a response: answering it could go on for ever */
	cr_expect_eq(dns_parse(m.at, m.bytes, &q), -EBADMSG);
	for (unsigned opcode = 1; opcode < 16; opcode++) {
		m = good;
		m.at[2] = (uint8_t)(opcode << 3);
		cr_expect_eq(dns_parse(m.at, m.bytes, &q), -DNS_NOTIMP);
		cr_expect(q.id == 0x1234 && q.question_bytes == 0);
	}
	for (unsigned count = 0; count < 4; count++) {
		m = good;
		m.at[5] = (uint8_t)count;
		cr_expect_eq(dns_parse(m.at, m.bytes, &q), count == 1 ? 0 : -DNS_FORMERR);
	}
}

/* Names that point: to themselves, forward, back. There is nothing before a question that it could point to. */
Test(dns, compression_is_refused)
{
	static const uint8_t pointers[][2] = {{0xc0, 12}, {0xc0, 0}, {0xc0, 14}, {0xff, 0xff}, {0x40, 1}, {0x80, 1}};
	for (size_t i = 0; i < sizeof pointers / sizeof pointers[0]; i++) {
		struct message m = query("a", DNS_TYPE_A);
		struct dns_query q;
		memcpy(m.at + DNS_HEADER_BYTES, pointers[i], 2);
		cr_expect_eq(dns_parse(m.at, m.bytes, &q), -DNS_FORMERR);
		m = query("www.example.com", DNS_TYPE_A);
		memcpy(m.at + DNS_HEADER_BYTES + 4, pointers[i], 2);
		cr_expect_eq(dns_parse(m.at, m.bytes, &q), -DNS_FORMERR);
	}
}

/* Where the bytes after it would be enough for a label, too. */
Test(dns, labels_are_at_most_63_long)
{
	for (unsigned length = 62; length <= 220; length++) {
		struct message m = query("", DNS_TYPE_A);
		struct dns_query q;
		m.bytes = DNS_HEADER_BYTES;
		put(&m, length, 1);
		memset(m.at + m.bytes, 'a', length);
		m.bytes += length;
		put(&m, 0, 1);
		put(&m, DNS_TYPE_A, 2);
		put(&m, DNS_CLASS_IN, 2);
		cr_expect_eq(dns_parse(m.at, m.bytes, &q), length <= 63 ? 0 : -DNS_FORMERR, "%u", length);
	}
}

Test(dns, case_27_lengths)
{
	char longest[254] = "", label[64];
	struct dns_query q;
	memset(label, 'a', 63);
	label[63] = 0;
	snprintf(longest, sizeof longest, "%s.%s.%s.%.61s", label, label, label, label);
	struct message m = query(longest, 16);
	cr_expect_eq(strlen(longest), 253);
	cr_assert_eq(dns_parse(m.at, m.bytes, &q), 0);
	cr_expect_str_eq(q.name, longest);
	uint8_t out[DNS_ANSWER_MAX_BYTES];
	struct ip_addr v4 = addr_v4(0x01020304), v6 = {{0x20}};
	struct dns_answer a = {.v4 = &v4, .v6 = &v6};
	q.edns = true;
	cr_expect_leq(dns_build(&q, &a, out), 512);
	char more[400];
	snprintf(more, sizeof more, "%sa", longest);
	m = query(more, 16);
	cr_expect_eq(dns_parse(m.at, m.bytes, &q), -DNS_FORMERR);
	snprintf(more, sizeof more, "%s.%s.%s.%s.%s", label, label, label, label, label);
	m = query(more, 16);
	cr_expect_eq(dns_parse(m.at, m.bytes, &q), -DNS_FORMERR);
}

Test(dns, answers)
{
	struct message m = query("wWw.example.com", DNS_TYPE_ANY);
	struct dns_query q;
	struct ip_addr v4 = addr_v4(0xc6120100), v6;
	struct dns_answer a = {.ttl_s = 30, .v4 = &v4, .v6 = &v6};
	uint8_t out[DNS_ANSWER_MAX_BYTES];
	cr_assert(addr_parse("fd0c:a910:c10c:1::100", &v6));
	put_opt(&m);
	cr_assert_eq(dns_parse(m.at, m.bytes, &q), 0);
	size_t bytes = dns_build(&q, &a, out), question = q.question_bytes;
	cr_expect_eq(bytes, 12 + question + 16 + 28 + 11);
	cr_expect(get16(out) == 0x1234 && get16(out + 2) == 0x8180);
	cr_expect(get16(out + 4) == 1 && get16(out + 6) == 2 && get16(out + 8) == 0 && get16(out + 10) == 1);
	cr_expect_eq(memcmp(out + 12, m.at + 12, question), 0, "the question, with its case");
	const uint8_t *r = out + 12 + question;
	cr_expect(get16(r) == 0xc00c && get16(r + 2) == DNS_TYPE_A && get16(r + 4) == 1 && get16(r + 8) == 30 && get16(r + 10) == 4);
	cr_expect_eq(memcmp(r + 12, "\xc6\x12\x01\x00", 4), 0);
	r += 16;
	cr_expect(get16(r) == 0xc00c && get16(r + 2) == DNS_TYPE_AAAA && get16(r + 10) == 16);
	cr_expect_eq(memcmp(r + 12, v6.byte, 16), 0);
	r += 28;
	cr_expect(r[0] == 0 && get16(r + 1) == 41);

	a = (struct dns_answer){.rcode = DNS_NXDOMAIN};
	q.edns = q.recursion_desired = false;
	cr_expect_eq(dns_build(&q, &a, out), 12 + question);
	cr_expect_eq(get16(out + 2), 0x8083);
	dns_parse((const uint8_t *)"\x12\x34\x01\0\0\2\0\0\0\0\0\0", 12, &q); /* FORMERR: without the question */
	a.rcode = DNS_FORMERR;
	cr_expect_eq(dns_build(&q, &a, out), 12);
	cr_expect_eq(get16(out + 4), 0);
}

Test(dns, reverse)
{
	static const struct {
		const char *name, *addr; /* NULL: none */
	} rows[] = {
		{"4.3.2.1.in-addr.arpa", "1.2.3.4"},
		{"255.255.18.198.in-addr.arpa", "198.18.255.255"},
		{"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "2001:db8::1"},
		{"256.3.2.1.in-addr.arpa", NULL},
		{"0004.3.2.1.in-addr.arpa", NULL},
		{"3.2.1.in-addr.arpa", NULL},
		{"5.4.3.2.1.in-addr.arpa", NULL},
		{"in-addr.arpa", NULL},
		{"a.3.2.1.in-addr.arpa", NULL},
		{"1.8.b.d.0.1.0.0.2.ip6.arpa", NULL},
		{"g.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", NULL},
		{"1.00.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0..8.b.d.0.1.0.0.2.ip6.arpa", NULL},
		{"4.3.2.1.in-addr.arpa.example.com", NULL},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct ip_addr a;
		char text[ADDR_TEXT_BYTES];
		bool is = dns_reverse(rows[i].name, &a);
		cr_expect_eq(is, rows[i].addr != NULL, "%s", rows[i].name);
		if (is && rows[i].addr)
			cr_expect_str_eq(addr_text(&a, text), rows[i].addr);
	}
}

/* ---- names.c ---- */

static uint64_t now = 1000000; /* ms */

Test(names, each_name_has_an_address_of_each_family)
{
	struct names n = {0};
	char text[ADDR_TEXT_BYTES];
	struct name_entry *a = names_add(&n, "a.com", now), *b = names_add(&n, "b.com", now);
	struct ip_addr v4 = names_v4(a), v6 = names_v6(b);
	cr_expect_str_eq(addr_text(&v4, text), "198.18.1.0");
	cr_expect_str_eq(addr_text(&v6, text), "fd0c:a910:c10c:1::101");
	cr_expect_eq(names_add(&n, "a.com", now), a);
	cr_expect_eq(names_find(&n, &v4), a);
	cr_expect_eq(names_find(&n, &v6), b);
	names_free(&n);
}

Test(names, addresses_that_no_name_has)
{
	static const char *const none[] = {"198.18.0.0", "198.18.0.255", "198.18.1.1", "198.18.255.255", "198.19.1.0", "198.17.1.0", "1.2.3.4",
					   "fd0c:a910:c10c:1::", "fd0c:a910:c10c:1::101", "fd0c:a910:c10c:1:0:1:0:100", "fd0c:a910:c10c:1::1:100",
					   "fd0c:a910:c10c::100", "::ffff:0:198.18.1.0"};
	struct names n = {0};
	names_add(&n, "a.com", now);
	for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
		struct ip_addr a;
		cr_assert(addr_parse(none[i], &a));
		cr_expect_null(names_find(&n, &a), "%s", none[i]);
	}
	names_free(&n);
	struct ip_addr a = addr_v4(0xc6120100);
	cr_expect_null(names_find(&n, &a), "empty");
}

/* When there are as many as may be, one that has no flow gives its address away, but not while the guest may still use it. */
Test(names, are_bounded)
{
	struct names n = {0};
	char name[32];
	struct name_entry *kept = names_add(&n, "kept.com", now), *oldest = names_add(&n, "oldest.com", now);
	kept->flows = 1;
	for (unsigned i = 2; i < NAMES_MAX; i++) {
		snprintf(name, sizeof name, "h%u.com", i);
		cr_assert_not_null(names_add(&n, name, now));
	}
	struct ip_addr of_kept = names_v4(kept), of_oldest = names_v4(oldest);
	now += NAMES_TTL_S * 1000 - 1;
	cr_expect_null(names_add(&n, "too.soon.com", now), "the guest may still use its address");
	now++;
	struct name_entry *more = names_add(&n, "more.com", now);
	cr_expect_eq(names_find(&n, &of_kept), kept);
	cr_expect_str_eq(kept->name, "kept.com");
	cr_expect_eq(names_find(&n, &of_oldest), more);
	cr_expect_str_eq(more->name, "more.com");
	cr_expect_eq(names_add(&n, "more.com", now), more);
	now += NAMES_TTL_S * 1000;
	for (unsigned i = 0; i < NAMES_MAX; i++)
		n.entry[i]->flows = 1;
	cr_expect_null(names_add(&n, "too.much.com", now));
	cr_expect_not_null(names_add(&n, "kept.com", now));
	names_free(&n);
}
