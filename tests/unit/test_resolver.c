/* virtio/net/resolver.c: what the guest's questions are answered with, whatever resolver they were for. */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "virtio/net/dns.h"
#include "virtio/net/net_priv.h"
#include "virtio/net/record.h"
#include "vmm/util/err.h"

static struct net net;
static int record_fd; /* the supervisor's end */

static void set_up(void)
{
	int fds[2];
	struct err e;
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, fds), 0);
	record_fd = fds[0];
	net.control.fd = fds[1];
	cr_assert_eq(policy_add_allow(&net.config.policy, "a.com", &e), 0);
	cr_assert_eq(policy_add_allow(&net.config.policy, "*.b.com:8080", &e), 0);
	cr_assert_eq(policy_add_deny(&net.config.policy, "no.b.com", &e), 0);
}

static void tear_down(void)
{
	policy_free(&net.config.policy);
	names_free(&net.names);
	close(record_fd);
	close(net.control.fd);
}

TestSuite(resolver, .init = set_up, .fini = tear_down);

/* Asks for `name`. Returns the return code, with the number of answers in *answers and the last one's data at *data. */
static unsigned ask_class(const char *name, unsigned type, unsigned class, unsigned *answers, const uint8_t **data)
{
	static uint8_t out[DNS_ANSWER_MAX_BYTES];
	uint8_t q[512] = {0, 7, 1, 0, 0, 1};
	size_t at = DNS_HEADER_BYTES;
	while (*name) {
		size_t label = strcspn(name, ".");
		q[at++] = (uint8_t)label;
		memcpy(q + at, name, label);
		at += label;
		name += label + (name[label] == '.');
	}
	at++;
	set16(q + at, type);
	set16(q + at + 2, class);
	at += 4;
	size_t n = resolver_answer(&net, q, at, out);
	cr_assert_geq(n, at);
	*answers = get16(out + 6);
	*data = out + at + 12;
	return out[3] & 15;
}

static unsigned ask(const char *name, unsigned type, unsigned *answers, const uint8_t **data)
{
	return ask_class(name, type, DNS_CLASS_IN, answers, data);
}

Test(resolver, case_27_only_what_is_allowed_has_an_address)
{
	static const struct {
		const char *name;
		unsigned type, rcode, answers;
	} rows[] = {
		{"a.com", DNS_TYPE_A, DNS_NOERROR, 1},
		{"A.Com", DNS_TYPE_AAAA, DNS_NOERROR, 1},
		{"a.com", DNS_TYPE_ANY, DNS_NOERROR, 2},
		{"a.com", 16, DNS_NOERROR, 0}, /* TXT */
		{"a.com", 65, DNS_NOERROR, 0}, /* HTTPS: no keys for encrypted hellos */
		{"a.com", 64, DNS_NOERROR, 0}, /* SVCB */
		{"a.com", 5, DNS_NOERROR, 0},
		{"x.a.com", DNS_TYPE_A, DNS_NXDOMAIN, 0},
		{"evil.com", DNS_TYPE_A, DNS_NXDOMAIN, 0},
		{"c2VjcmV0.evil.com", 16, DNS_NXDOMAIN, 0},
		{"x.b.com", DNS_TYPE_A, DNS_NOERROR, 1},
		{"no.b.com", DNS_TYPE_A, DNS_NXDOMAIN, 0},
		{"b.com", DNS_TYPE_A, DNS_NXDOMAIN, 0},
		{"127.1", DNS_TYPE_A, DNS_NXDOMAIN, 0},
		{"", 2, DNS_NXDOMAIN, 0},
		{"host.caplock.internal", DNS_TYPE_A, DNS_NXDOMAIN, 0},
		{"_http._tcp.a.com", 33, DNS_NXDOMAIN, 0},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		unsigned answers;
		const uint8_t *data;
		cr_expect_eq(ask(rows[i].name, rows[i].type, &answers, &data), rows[i].rcode, "%s %u", rows[i].name, rows[i].type);
		cr_expect_eq(answers, rows[i].answers, "%s %u: %u answers", rows[i].name, rows[i].type, answers);
	}
	unsigned answers;
	const uint8_t *data;
	cr_expect_eq(ask_class("a.com", DNS_TYPE_A, 3, &answers, &data), DNS_NXDOMAIN);
}

/* The address is of the name, both ways. */
Test(resolver, case_27_addresses_are_made_up)
{
	unsigned answers;
	const uint8_t *data, *first;
	struct ip_addr addr;
	ask("a.com", DNS_TYPE_A, &answers, &first);
	addr = addr_v4(get32(first));
	cr_expect_str_eq(names_find(&net.names, &addr)->name, "a.com");
	cr_expect_eq(ask("0.1.18.198.in-addr.arpa", DNS_TYPE_PTR, &answers, &data), DNS_NOERROR);
	cr_expect_eq(memcmp(data, "\1a\3com", 7), 0);
	cr_expect_eq(ask("1.1.18.198.in-addr.arpa", DNS_TYPE_PTR, &answers, &data), DNS_NXDOMAIN);
	cr_expect_eq(ask("8.8.8.8.in-addr.arpa", DNS_TYPE_PTR, &answers, &data), DNS_NXDOMAIN);
}

/* The user is told of hosts, not of questions about services of an allowed one. */
Test(resolver, what_is_recorded)
{
	unsigned answers;
	const uint8_t *data;
	struct net_record r;
	ask("a.com", DNS_TYPE_A, &answers, &data);
	ask("_http._tcp.a.com", 33, &answers, &data);
	ask("8.8.8.8.in-addr.arpa", DNS_TYPE_PTR, &answers, &data);
	cr_expect_lt(recv(record_fd, &r, sizeof r, 0), 0, "%s", r.name);
	ask("Evil.com", DNS_TYPE_A, &answers, &data);
	cr_assert_eq(recv(record_fd, &r, sizeof r, 0), (ssize_t)sizeof r);
	cr_expect_str_eq(r.name, "evil.com");
	ask("_http._tcp.evil.com", 33, &answers, &data);
	cr_assert_eq(recv(record_fd, &r, sizeof r, 0), (ssize_t)sizeof r);
	cr_expect_str_eq(r.name, "_http._tcp.evil.com");
}

Test(resolver, what_is_no_question)
{
	uint8_t out[DNS_ANSWER_MAX_BYTES];
	cr_expect_eq(resolver_answer(&net, (const uint8_t *)"", 0, out), 0);
	cr_expect_eq(resolver_answer(&net, (const uint8_t *)"\0\7\x81\x80\0\1\0\0\0\0\0\0\0\0\1\0\1", 17, out), 0);
	cr_expect_eq(resolver_answer(&net, (const uint8_t *)"\0\7\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1", 18, out), DNS_HEADER_BYTES);
	cr_expect_eq(out[3] & 15, DNS_FORMERR);
}
