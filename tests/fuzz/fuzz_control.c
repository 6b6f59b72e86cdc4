/*
 * What a client writes to the control socket: each line is answered by one line of JSON, and what is answered has been done:
 * the supervisor, the gate and the device then have the same rules. This file is the gate and the device, which only keep
 * their copies of the policy. The first byte says in pieces of how many bytes the rest arrives.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "virtio/net/gate/proto.h"
#include "virtio/net/policy_file.h"
#include "vmm/caplock.h"
#include "vmm/machine/machine.h"
#include "vmm/sandbox/network.h"
#include "vmm/sandbox/process.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/json.h"
#include "vmm/util/loop.h"

enum { STEPS_MAX = 100000 };

static struct other {
	int fd; /* -1: there is none */
	struct policy policy;
} gate = {.fd = -1}, device = {.fd = -1};

/* ---- Instead of vmm/sandbox/process.c: no process is started. The gate's socket is kept, and its rules as they are now ---- */

void process_keep(struct process *p, int fd)
{
	p->keep[p->keep_count++] = fd;
}

int process_start(const struct process *p, int *pidfd, struct err *e)
{
	const struct gate_config *config = p->config;
	(void)e;
	gate.fd = fcntl(config->supervisor_fd, F_DUPFD_CLOEXEC, 3);
	if (gate.fd < 0 || policy_copy(&gate.policy, &config->policy))
		abort();
	*pidfd = open("/dev/null", O_RDWR | O_CLOEXEC);
	return 0;
}

bool process_failure(int pidfd, const char *who, char *text, size_t text_bytes)
{
	(void)pidfd, (void)who, (void)text, (void)text_bytes;
	return false;
}

/* ---- The gate and the device ---- */

static void apply(struct policy *p, const struct policy_change *change)
{
	struct err e;
	if (policy_apply(p, change, &e)) /* it was good for the supervisor */
		abort();
}

static bool gate_step(void)
{
	struct gate_order order;
	if (gate.fd < 0 || recv(gate.fd, &order, sizeof order, MSG_DONTWAIT) != sizeof order)
		return false;
	if (order.op == GATE_POLICY)
		apply(&gate.policy, &order.change);
	return send(gate.fd, "", 1, MSG_NOSIGNAL) == 1;
}

static bool device_step(void)
{
	struct net_order order;
	if (recv(device.fd, &order, sizeof order, MSG_DONTWAIT) != sizeof order) /* a descriptor with it is closed */
		return false;
	if (order.op == ORDER_POLICY)
		apply(&device.policy, &order.change);
	struct net_record done = {.kind = RECORD_DONE, .id = order.id};
	return !order.id || send(device.fd, &done, sizeof done, MSG_NOSIGNAL) == sizeof done;
}

static void end_other(struct other *o)
{
	io_close(&o->fd);
	policy_free(&o->policy);
}

/* Everything until nothing happens any more; what the client is answered is added to `answers`. */
static void run(struct loop *loop, int client, struct buf *answers)
{
	char data[4096];
	for (unsigned i = 0; i < STEPS_MAX; i++) {
		bool more = loop_step(loop, 0) > 0;
		more |= gate_step();
		more |= device_step();
		ssize_t n = recv(client, data, sizeof data, MSG_DONTWAIT);
		if (n > 0 && buf_add(answers, data, (size_t)n))
			abort();
		if (n == 0)
			abort(); /* it was dropped, who reads its answers */
		if (n < 0 && !more)
			return;
	}
	abort();
}

/* ---- What must be so ---- */

static void check_same(const struct policy *a, const struct policy *b)
{
	struct buf one = {0}, other = {0};
	if (policy_file_write(a, &one) || policy_file_write(b, &other) || one.len != other.len || memcmp(one.data, other.data, one.len) != 0)
		abort();
	buf_free(&one);
	buf_free(&other);
}

static size_t count_lines(const void *text, size_t bytes)
{
	size_t n = 0;
	for (const char *at = text; bytes && (at = memchr(at, '\n', (size_t)((const char *)text + bytes - at))); at++)
		n++;
	return n;
}

static void check_answers(const struct buf *answers)
{
	for (size_t at = 0; at < answers->len;) {
		const char *line = (const char *)answers->data + at;
		const char *end = memchr(line, '\n', answers->len - at);
		struct json *doc;
		struct err e;
		if (!end || json_parse(line, (size_t)(end - line), NULL, &doc, &e))
			abort();
		if (json_expect(json_get(json_root(doc), "ok"), JSON_BOOL, &e))
			abort();
		json_free(doc);
		at += (size_t)(end - line) + 1;
	}
}

/* ---- One client ---- */

static void failed(void *context)
{
	(void)context;
	abort();
}

static int connect_to(const char *path)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	strcpy(to.sun_path, path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to))
		abort();
	return fd;
}

static void write_all(struct loop *loop, int client, const uint8_t *data, size_t size, size_t piece, struct buf *answers)
{
	for (size_t at = 0; at < size; at += piece) {
		size_t bytes = size - at < piece ? size - at : piece;
		if (send(client, data + at, bytes, MSG_NOSIGNAL) != (ssize_t)bytes)
			abort();
		run(loop, client, answers);
	}
}

/* Ports are published in a network of this process's own, where it may have one. */
int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	if (unshare(CLONE_NEWNET))
		(void)!unshare(CLONE_NEWUSER | CLONE_NEWNET);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct network_events events = {.failed = failed};
	char path[64];
	struct caplock_spec spec = {.audit_fd = -1, .learn_fd = -1, .mtu = 1500, .control_path = path};
	struct machine_config machine = {0};
	struct network n;
	struct loop loop;
	struct buf answers = {0};
	struct err e;
	if (size == 0)
		return 0;
	snprintf(path, sizeof path, "/tmp/fuzz_control.%d", (int)getpid());
	if (loop_create(&loop) || network_prepare(&n, &spec, &machine, &events, &e) || network_start(&n, &loop, &e))
		abort();
	device = (struct other){machine.net.control_fd, machine.net.policy};
	int client = connect_to(path);
	write_all(&loop, client, data + 1, size - 1, data[0] + 1, &answers);
	if (count_lines(answers.data, answers.len) != count_lines(data + 1, size - 1))
		abort();
	check_answers(&answers);
	check_same(&n.gate.policy, &device.policy);
	if (gate.fd >= 0)
		check_same(&n.gate.policy, &gate.policy);
	close(client);
	network_end(&n);
	end_other(&gate);
	end_other(&device);
	loop_destroy(&loop);
	buf_free(&answers);
	return 0;
}
