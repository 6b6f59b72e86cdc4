/*
 * virtio/net/gate: a gate in a process of its own, asked as the vmm and the supervisor ask it. Its resolver and its servers
 * are sockets of ours on the loopback.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "virtio/net/gate/dial.h"
#include "virtio/net/gate/gate.h"
#include "virtio/net/gate/proto.h"
#include "virtio/net/net_priv.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"

enum {
	WAIT_MS = 20000, /* for what must come */
	SHORT_MS = 1000,
	STATUS = 7, /* of a gate that has ended as it should */
	QUESTIONS_MAX = 16,
};

static struct gate_config config;
static int vmm_fd, supervisor_fd; /* our ends */
static int dns_fd, server_fd;
static uint16_t server_port;
static char dns_server[32];
static pid_t gate;

/* A socket on the loopback, and its port. */
static int loopback_socket(int type, uint16_t *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t bytes = sizeof a;
	int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)&a, &bytes), 0);
	*port = ntohs(a.sin_port);
	return fd;
}

static void rule(int (*add)(struct policy *p, const char *text, struct err *e), const char *text)
{
	struct err e;
	cr_assert_eq(add(&config.policy, text, &e), 0, "%s", text);
}

/* The servers and the rules; start() is still to be called. */
static void set_up(void)
{
	static const char *servers[2];
	char text[64];
	uint16_t dns_port;
	dns_fd = loopback_socket(SOCK_DGRAM, &dns_port);
	server_fd = loopback_socket(SOCK_STREAM, &server_port);
	cr_assert_eq(listen(server_fd, 1024), 0);
	snprintf(dns_server, sizeof dns_server, "127.0.0.1:%u", dns_port);
	servers[0] = dns_server;
	config = (struct gate_config){.dns_servers = servers};
	snprintf(text, sizeof text, "tcp:here.test:%u", server_port);
	rule(policy_add_allow, text);
	rule(policy_add_pin, "here.test:127.0.0.1");
	rule(policy_add_allow, "a.test");
}

static void start(void)
{
	int vmm[2], supervisor[2];
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, vmm), 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, supervisor), 0);
	config.vmm_fd = vmm[1];
	config.supervisor_fd = supervisor[1];
	vmm_fd = vmm[0];
	supervisor_fd = supervisor[0];
	gate = fork();
	cr_assert_geq(gate, 0);
	if (gate == 0) {
		io_close(&vmm_fd);
		io_close(&supervisor_fd);
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		gate_run(&config);
		_exit(STATUS);
	}
	io_close(&config.vmm_fd);
	io_close(&config.supervisor_fd);
}

static void tear_down(void)
{
	int status = 0;
	io_close(&vmm_fd);
	cr_expect_eq(waitpid(gate, &status, 0), gate);
	cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == STATUS, "the gate ended with status %#x", status);
	io_close(&supervisor_fd);
	io_close(&dns_fd);
	io_close(&server_fd);
	policy_free(&config.policy);
}

TestSuite(gate, .init = set_up, .fini = tear_down);

static void expect_readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	cr_assert_eq(poll(&p, 1, WAIT_MS), 1, "nothing came");
}

static struct gate_request request(uint64_t id, const char *name, uint16_t port)
{
	struct gate_request r = {.id = id, .port = port, .proto = NET_TCP};
	strcpy(r.name, name);
	return r;
}

static void ask(uint64_t id, const char *name, uint16_t port)
{
	struct gate_request r = request(id, name, port);
	cr_assert_eq(send(vmm_fd, &r, sizeof r, MSG_NOSIGNAL), (ssize_t)sizeof r);
}

/* The next reply, without its descriptor. */
static struct gate_reply reply(void)
{
	struct gate_reply r;
	expect_readable(vmm_fd);
	cr_assert_eq(recv(vmm_fd, &r, sizeof r, 0), (ssize_t)sizeof r, "the gate is gone");
	return r;
}

static void expect_reply(uint64_t id, int error, const char *reason)
{
	struct gate_reply r = reply();
	cr_expect_eq(r.id, id);
	cr_expect_eq(r.error, error, "request %lu: %s", r.id, strerror(r.error));
	cr_expect_str_eq(record_error(&r), reason);
}

static void expect_connected(uint64_t id)
{
	struct gate_reply r = reply();
	cr_expect_eq(r.id, id);
	cr_expect_eq(r.error, 0, "%s", strerror(r.error));
}

/* ---- Names ---- */

struct question {
	uint8_t packet[512];
	ssize_t bytes;
	struct sockaddr_in from;
};

/* The next question that the gate has. */
static struct question take_question(void)
{
	struct question q;
	socklen_t from_bytes = sizeof q.from;
	expect_readable(dns_fd);
	q.bytes = recvfrom(dns_fd, q.packet, sizeof q.packet, 0, (struct sockaddr *)&q.from, &from_bytes);
	cr_assert_geq(q.bytes, DNS_HEADER_BYTES);
	return q;
}

static void answer_question(struct question *q, unsigned rcode)
{
	q->packet[2] = 0x81;
	q->packet[3] = (uint8_t)(0x80 | rcode);
	sendto(dns_fd, q->packet, (size_t)q->bytes, 0, (struct sockaddr *)&q->from, sizeof q->from);
}

/* Both questions about a name, A and AAAA, have the same answer. */
static void answer_name(unsigned rcode)
{
	for (int i = 0; i < 2; i++) {
		struct question q = take_question();
		answer_question(&q, rcode);
	}
}

Test(gate, connects_to_what_is_allowed)
{
	start();
	ask(1, "here.test", server_port);
	expect_connected(1);
	ask(2, "here.test", 1);
	expect_reply(2, EPERM, "no rule allows this port of the host");
	ask(3, "b.test", 443);
	expect_reply(3, EPERM, "no rule allows this host");
}

Test(gate, names_that_do_not_resolve)
{
	start();
	ask(1, "a.test", 443);
	answer_name(DNS_NXDOMAIN);
	expect_reply(1, ENOENT, "the name does not resolve");
}

/* The flow is given up before c-ares gives the question up, whose answer then finds nobody. */
Test(gate, silent_resolver)
{
	struct question q[2];
	config.limit_ms = SHORT_MS;
	start();
	ask(1, "a.test", 443);
	q[0] = take_question();
	q[1] = take_question();
	expect_reply(1, ETIMEDOUT, "no resolver answers");
	answer_question(&q[0], DNS_NXDOMAIN);
	answer_question(&q[1], DNS_NXDOMAIN);
	ask(2, "a.test", 443); /* its answers come after those */
	answer_name(DNS_NXDOMAIN);
	expect_reply(2, ENOENT, "the name does not resolve");
}

/* A target may have as many flows under way as there are places left: here, half of all. */
Test(gate, one_silent_target_leaves_places)
{
	uint64_t id = 0;
	start();
	for (; id < DIALS_MAX / 2; id++)
		ask(id, "a.test", 443);
	ask(id, "a.test", 443);
	expect_reply(id, EAGAIN, "too many connections are being opened");
	ask(++id, "here.test", server_port);
	expect_connected(id);
}

/* ---- The supervisor ---- */

static void order(const struct gate_order *o)
{
	char done;
	cr_assert_eq(send(supervisor_fd, o, sizeof *o, MSG_NOSIGNAL), (ssize_t)sizeof *o);
	expect_readable(supervisor_fd);
	cr_assert_eq(recv(supervisor_fd, &done, 1, 0), 1, "the gate is gone");
}

static void grant(const char *name)
{
	order(&(struct gate_order){.op = GATE_GRANT, .grant = request(0, name, 443), .flows = 4});
}

Test(gate, rules_change)
{
	struct gate_order add = {.op = GATE_POLICY, .change = {POLICY_ADD_DENY, "here.test"}};
	start();
	order(&add);
	ask(1, "here.test", server_port);
	expect_reply(1, EPERM, "a rule denies this host");
}

/* The user's word about one flow is not for what a rule denies, nor for an address that is not public. */
Test(gate, grants_do_not_outweigh_rules)
{
	rule(policy_add_deny, "denied.test");
	rule(policy_add_pin, "inside.test:127.0.0.1");
	start();
	grant("denied.test");
	ask(1, "denied.test", 443);
	expect_reply(1, EPERM, "a rule denies this host");
	grant("inside.test");
	order(&(struct gate_order){.op = GATE_POLICY, .change = {POLICY_ADD_DENY, "127.0.0.0/8"}});
	ask(2, "inside.test", 443);
	expect_reply(2, EPERM, "a rule denies this address");
	ask(3, "asked.test", 443);
	expect_reply(3, EPERM, "no rule allows this host");
	grant("asked.test");
	ask(4, "asked.test", 443);
	answer_name(DNS_NXDOMAIN);
	expect_reply(4, ENOENT, "the name does not resolve");
}

/* The gate goes on for its supervisor while the vmm only asks; and then each request has its reply. */
Test(gate, vmm_that_does_not_read)
{
	struct gate_request r = request(0, "b.test", 443);
	start();
	struct pollfd p = {.fd = vmm_fd, .events = POLLOUT};
	while (poll(&p, 1, SHORT_MS) == 1 && r.id < 100000) {
		if (r.id % 4 == 3)
			strcpy(r.name, "here.test"); /* a descriptor to keep */
		r.port = r.id % 4 == 3 ? server_port : 443;
		cr_assert_eq(send(vmm_fd, &r, sizeof r, MSG_NOSIGNAL), (ssize_t)sizeof r);
		strcpy(r.name, "b.test");
		r.id++;
	}
	cr_assert_lt(r.id, 100000, "requests are read without end");
	order(&(struct gate_order){.op = GATE_NOTHING});
	for (uint64_t i = 0; i < r.id; i++)
		reply();
}
