/*
 * A sandbox's network, seen from its supervisor.
 *
 * Theory of operation
 * -------------------
 * Purpose: makes the policy, starts the gate, hears the device's records, and changes the rules while the sandbox runs.
 *
 *      supervisor  -- orders, descriptors -->  device (in the vmm)  -- flows -->  gate
 *                  <-- records ------------
 *                  -- orders --------------------------------------------------->
 *                  <-- a byte for each that is carried out -----------------------
 *
 * There are three copies of the policy: ours, the gate's and the device's. A change is checked by being made in ours; then
 * the gate makes it; when it says so the device does, so that what the device allows the gate allows, too. Where nothing is
 * allowed there is no gate; it is started with the first rule that allows something.
 *
 * Trust boundary: records come from the process that parses the guest's bytes. Their texts are bounded and made printable;
 * all that a false record can do is to be false.
 */
#include "vmm/sandbox/network_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "virtio/net/gate/hooks.h"
#include "virtio/net/gate/proto.h"
#include "virtio/net/link.h"
#include "virtio/net/policy_file.h"
#include "vmm/caplock.h"
#include "vmm/image/image.h"
#include "vmm/machine/machine.h"
#include "vmm/sandbox/ask.h"
#include "vmm/sandbox/control.h"
#include "vmm/sandbox/given_secrets.h"
#include "vmm/sandbox/learn.h"
#include "vmm/sandbox/process.h"
#include "vmm/sandbox/publish.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/passfd.h"
#include "vmm/util/strv.h"

enum {
	FINISH_MS = 2000,   /* for each of the last records */
	GRANT_FLOWS = 16,   /* that one answer allows: those that wait for it */
	UPSTREAM_CA_MAX_BYTES = 16 << 20,
	WAITING_MAX = 8192, /* changes of the rules that are not made yet */
};

/* A change for both: the device follows the gate. */
struct order_pair {
	struct gate_order first;
	struct net_order then;
};

typedef int (*add_fn)(struct policy *p, const char *text, struct err *e);

/* ---- Before the start ---- */

/* Adds what an option gave. Its name goes before the reason. */
static int add_all(struct policy *p, const char *const *list, const char *option, add_fn add, struct err *e)
{
	for (; list && *list; list++) {
		struct err why;
		int rc = add(p, *list, &why);
		if (rc)
			return err_set(e, rc, "%s %s", option, why.text);
	}
	return 0;
}

/* The policy that a spec asks for: *p, which policy_free() ends. Returns 0, or -errno with what is wrong. */
int network_policy(const struct caplock_spec *s, struct policy *p, struct err *e)
{
	*p = (struct policy){.allow_public = s->learn_fd >= 0};
	int rc = add_all(p, s->allow_hosts, "--allow-host", policy_add_allow, e);
	rc = rc ? rc : add_all(p, s->deny_hosts, "--deny-host", policy_add_deny, e);
	rc = rc ? rc : add_all(p, s->allow_websockets, "--allow-websocket", policy_add_websocket, e);
	rc = rc ? rc : add_all(p, s->add_hosts, "--add-host", policy_add_pin, e);
	rc = rc ? rc : add_all(p, s->policies, "--policy", policy_file_add, e);
	rc = rc ? rc : add_all(p, s->allow_host_loopback, "--allow-host-loopback", policy_add_loopback, e);
	rc = rc ? rc : given_secrets_allow(s, p, e);
	if (rc)
		policy_free(p);
	return rc;
}

/*
 * Adds what "@packages" stands for in the image that begins at offset_bytes of root_fd, where the policy has it. Returns 0 or
 * -errno.
 */
int network_add_packages(struct policy *p, int root_fd, uint64_t offset_bytes, struct err *e)
{
	struct strv rules = {0};
	int rc = p->allow_packages ? image_packages(root_fd, offset_bytes, &rules, e) : 0;
	for (size_t i = 0; i < rules.count && rc == 0; i++)
		rc = policy_add_allow(p, rules.item[i], e);
	strv_free(rules.item);
	return rc;
}

/* A hook that asks needs somebody to ask. */
static int check_hooks(const struct caplock_spec *spec, const struct policy *p, struct err *e)
{
	struct hooks hooks = {0};
	int rc = 0;
	for (char **text = p->hooks.item; rc == 0 && text && *text; text++)
		rc = hooks_add_text(&hooks, *text, e);
	if (rc == 0 && !spec->hook_socket && hooks_any_callback(&hooks))
		rc = err_set(e, -EINVAL, "a hook of the policy has a callback_id: give --hook-socket");
	hooks_free(&hooks);
	return rc;
}

static int check(const struct caplock_spec *s, struct err *e)
{
	struct ip_addr ignored;
	for (const char *const *server = s->dns_servers; server && *server; server++)
		if (!addr_parse(*server, &ignored))
			return err_set(e, -EINVAL, "--dns-servers '%s' is not an IP address", *server);
	if (s->mtu < LINK_MTU_MIN || s->mtu > LINK_MTU_MAX)
		return err_set(e, -EINVAL, "--mtu %u: give %d to %d", s->mtu, LINK_MTU_MIN, LINK_MTU_MAX);
	bool rules = s->allow_hosts || s->deny_hosts || s->add_hosts || s->dns_servers || s->allow_host_loopback || s->policies ||
		     s->publish || s->control_path || s->audit_fd >= 0 || s->learn_fd >= 0 || s->ask || s->secret_count ||
		     s->network_intercept || s->upstream_ca || s->hook_socket || s->allow_websockets;
	if (s->no_network && rules)
		return err_set(e, -EINVAL, "--no-network, and options that are about the network: give one or the other");
	if (s->hook_socket && strlen(s->hook_socket) >= sizeof((struct sockaddr_un *)0)->sun_path)
		return err_set(e, -ENAMETOOLONG, "--hook-socket %s: a socket's path has at most %zu bytes", s->hook_socket,
			       sizeof((struct sockaddr_un *)0)->sun_path - 1);
	if (s->learn_fd >= 0 && s->ask)
		return err_set(e, -EINVAL, "--learn allows every public host and --ask asks: give one or the other");
	return 0;
}

/* A socket with message borders: *ours for us, *theirs for another process. */
int network_make_socket(int *ours, int *theirs, struct err *e)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return err_sys(e, -errno, "cannot make a socket");
	*ours = pair[0];
	*theirs = pair[1];
	return 0;
}

static bool needs_interceptor(const struct policy *p)
{
	return p->intercept_count || p->intercept_all || p->intercept_plain || p->websocket_count;
}

/* A gate that reads flows is there from the beginning: the guest learns only then what to trust. */
static bool needs_gate(const struct policy *p)
{
	return p->allow_count || p->loopback_port_count || p->allow_public || needs_interceptor(p);
}

/* Reads what --upstream-ca names, for the gate. A certificate that is none is for the gate to say; a file without is not. */
static int read_upstream_ca(const char *path, int *fd, struct err *e)
{
	struct buf text = {0};
	if (!path)
		return 0;
	int rc = io_read_file(AT_FDCWD, path, UPSTREAM_CA_MAX_BYTES, &text);
	if (rc == 0 && !strstr((const char *)text.data, "-----BEGIN "))
		rc = err_set(e, -EINVAL, "--upstream-ca %s: there is no certificate (PEM) in it", path);
	else if (rc || (rc = io_memory_file(text.data, text.len, fd)))
		rc = err_sys(e, rc, "--upstream-ca %s", path);
	buf_free(&text);
	return rc;
}

/* Makes it empty, for network_end(). */
void network_init(struct network *n)
{
	*n = (struct network){.gate_pidfd = -1, .gate.vmm_fd = -1, .gate.supervisor_fd = -1, .gate.upstream_ca_fd = -1,
			      .control.fd = -1, .gate_control.fd = -1, .audit_sink.fd = -1, .learn_fd = -1};
}

/*
 * Makes what the spec says of the network: the policy for both processes, and the sockets between them. `machine` gets its
 * part. Returns 0, -EINVAL with what is wrong, or -errno.
 */
int network_prepare(struct network *n, const struct caplock_spec *spec, struct machine_config *machine,
		    const struct network_events *events, struct err *e)
{
	network_init(n);
	machine->net = (struct net_config){.mtu = spec->mtu, .gate_fd = -1, .control_fd = -1};
	int rc = check(spec, e);
	if (rc || spec->no_network)
		return rc;
	n->events = events;
	n->spec = spec;
	n->audit_sink.fd = spec->audit_fd;
	n->learn_fd = spec->learn_fd;
	rc = given_secrets_take(spec, &n->gate, &n->secret_env, e);
	rc = rc ? rc : network_policy(spec, &n->gate.policy, e);
	rc = rc ? rc : check_hooks(spec, &n->gate.policy, e);
	rc = rc ? rc : network_add_packages(&n->gate.policy, machine->disk[0].fd, machine->disk[0].offset_bytes, e);
	if (rc == 0 && policy_copy(&machine->net.policy, &n->gate.policy))
		rc = err_sys(e, -ENOMEM, "policy");
	rc = rc || !spec->ask ? rc : ask_create(n, &n->ask, e);
	rc = rc || !spec->control_path ? rc : control_create(n, spec->control_path, &n->socket, e);
	rc = rc ? rc : publish_create(n, spec->publish, spec->publish_address, &n->publish, e);
	rc = rc ? rc : network_make_socket(&n->control.fd, &machine->net.control_fd, e);
	rc = rc ? rc : read_upstream_ca(spec->upstream_ca, &n->gate.upstream_ca_fd, e);
	n->intercepts = needs_interceptor(&n->gate.policy);
	if (rc == 0 && needs_gate(&n->gate.policy))
		rc = network_make_socket(&machine->net.gate_fd, &n->gate.vmm_fd, e);
	if (rc)
		return rc;
	machine->network = true;
	machine->net.policy.ask = spec->ask; /* the gate never asks: it is told */
	machine->net.record_all = spec->audit_fd >= 0 || spec->learn_fd >= 0;
	n->gate.record_all = spec->audit_fd >= 0;
	n->gate.dns_servers = spec->dns_servers;
	return 0;
}

/* ---- Orders ---- */

/* Sends the device an order, and a descriptor with it (-1: none). Returns 0 or -errno. */
int network_send_order(struct network *n, const struct net_order *order, int fd)
{
	return passfd_send(n->control.fd, order, sizeof *order, fd, MSG_DONTWAIT);
}

/*
 * Moves the queue on: the gate is asked for what it was not, the device for what the gate has made. Both answer each order, so
 * what does not fit into a socket now is sent with an answer.
 */
void network_pump(struct network *n)
{
	bool gate = n->gate_pidfd >= 0 && !n->gate_lost;
	int rc = 0;
	while (gate && n->queue_asked < n->queue_count &&
	       passfd_send(n->gate_control.fd, &n->queue[n->queue_asked].first, sizeof n->queue->first, -1, MSG_DONTWAIT) == 0)
		n->queue_asked++;
	if (!gate)
		n->queue_asked = n->queue_made = n->queue_count;
	while (n->queue_head < n->queue_made && (rc = network_send_order(n, &n->queue[n->queue_head].then, -1)) == 0)
		n->queue_head++;
	if (rc && rc != -EAGAIN) { /* the machine is gone */
		n->queue_head = n->queue_count;
		n->changes_done = n->changes;
	}
	if (n->queue_head == n->queue_count)
		n->queue_head = n->queue_count = n->queue_asked = n->queue_made = 0;
}

/* Makes a place for one more pair of orders. Returns 0 or -ENOBUFS. */
static int reserve(struct network *n, struct err *e)
{
	struct order_pair *larger =
		n->queue_count < WAITING_MAX ? realloc(n->queue, (n->queue_count + 1) * sizeof *n->queue) : NULL;
	if (!larger)
		return err_set(e, -ENOBUFS, "too many changes at once: wait for the answers");
	n->queue = larger;
	return 0;
}

/* Queues an order for the gate, and the one for the device that follows when that is made. reserve() has made the place. */
static void enqueue(struct network *n, const struct gate_order *first, struct net_order *then)
{
	then->id = ++n->changes;
	n->queue[n->queue_count++] = (struct order_pair){*first, *then};
	network_pump(n);
}

/* ---- While it runs ---- */

/* Whether a command may be started; if not, events->ready is called when it may. */
bool network_is_ready(const struct network *n)
{
	return !n->intercepts || n->certificate.len > 0;
}

/* The certificate that programs in the sandbox are to trust (PEM), or NULL. */
const char *network_certificate(const struct network *n)
{
	return n->certificate.len ? (const char *)n->certificate.data : NULL;
}

/* Tells the caller where the published ports are. */
static void tell_published(const struct network *n)
{
	struct buf lines = {0};
	if (n->spec->published && publish_describe(n->publish, &lines) == 0 && lines.len && buf_add(&lines, "", 1) == 0)
		for (char *rest, *line = strtok_r((char *)lines.data, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
			n->spec->published(n->spec->published_context, line);
	buf_free(&lines);
}

/* Starts the gate, and listens to the device. Returns 0 or -errno. */
int network_start(struct network *n, struct loop *loop, struct err *e)
{
	n->loop = loop;
	if (n->control.fd < 0)
		return 0;
	int rc = n->gate.vmm_fd >= 0 ? gate_process_start(n, e) : 0;
	if (rc)
		return rc;
	n->audit_sink.ready = network_audit_ready;
	n->audit_sink.context = n;
	n->control.ready = network_control_ready;
	n->control.context = n;
	rc = loop_add(loop, &n->control, EPOLLIN);
	if (rc)
		return err_sys(e, rc, "cannot watch the network");
	rc = n->ask ? ask_start(n->ask, loop, e) : 0;
	tell_published(n);
	rc = rc || !n->socket ? rc : control_start(n->socket, loop, e);
	return rc ? rc : publish_start(n->publish, loop, e);
}

/*
 * Changes the rules: at once here, then in the gate, then in the device, and flows that are no longer allowed end; all is done
 * when n->changes_done is as high as n->changes is now. Returns 0, -EINVAL with what is wrong with `rule`, -ENOENT where a rule
 * to remove is not there, or -errno.
 */
int network_change(struct network *n, enum policy_op op, const char *rule, struct err *e)
{
	struct net_order order = {.op = ORDER_POLICY, .change.op = (uint8_t)op};
	if (n->control.fd < 0)
		return err_set(e, -ENOTCONN, "this sandbox has no network");
	if (strlen(rule) >= sizeof order.change.rule)
		return err_set(e, -EINVAL, "'%.64s...' is too long for a host", rule);
	if (op == POLICY_ADD_ALLOW && n->gate_lost)
		return err_set(e, -EPIPE, "the gate of this sandbox is gone: nothing more can be allowed");
	strcpy(order.change.rule, rule);
	int rc = reserve(n, e);
	rc = rc ? rc : policy_apply(&n->gate.policy, &order.change, e);
	bool first = rc == 0 && n->gate_pidfd < 0 && needs_gate(&n->gate.policy); /* a gate begins with the rules as they are now */
	rc = first ? gate_process_start_late(n, e) : rc;
	if (rc == 0)
		enqueue(n, &(struct gate_order){.op = first ? GATE_NOTHING : GATE_POLICY, .change = order.change}, &order);
	return rc;
}

/* The user's word about the flows that wait for `target`; with ANSWER_DECIDE, after a rule was added. */
void network_answer(struct network *n, const struct net_target *target, enum order_answer answer)
{
	struct net_order order = {.op = ORDER_ANSWER, .answer = (uint8_t)answer, .target = *target};
	struct gate_order first = {.op = answer == ANSWER_ONCE ? GATE_GRANT : GATE_NOTHING,
				   .flows = GRANT_FLOWS,
				   .grant = {.addr = target->addr, .port = target->port, .proto = target->proto}};
	struct err e;
	strcpy(first.grant.name, target->name);
	if (answer == ANSWER_ONCE && n->gate_pidfd < 0 && gate_process_start_late(n, &e))
		order.answer = ANSWER_DENY;
	if (reserve(n, &e) == 0)
		enqueue(n, &first, &order);
	else
		network_send_order(n, &order, -1); /* denied by whoever has not heard of it */
}

/* Gives the device a connection for the guest's port. The descriptor stays the caller's. Returns 0 or -errno. */
int network_publish(struct network *n, int fd, uint16_t guest_port)
{
	return network_send_order(n, &(struct net_order){.op = ORDER_PUBLISH, .target.port = guest_port}, fd);
}

/* ---- The end ---- */

/* Waits until the audit file takes what there is for it, or else until `fd` has a record. False: that took too long. */
static bool wait_for(const struct network *n, int fd)
{
	struct pollfd p = {.fd = n->audit.len ? n->audit_sink.fd : fd, .events = n->audit.len ? POLLOUT : POLLIN};
	return poll(&p, 1, FINISH_MS) > 0;
}

/* Waits for the last records of the device, and for those of a gate that has any. */
static void hear_the_rest(struct network *n)
{
	bool more = network_send_order(n, &(struct net_order){.op = ORDER_END}, -1) == 0;
	while (more && !n->totals_seen && wait_for(n, n->control.fd))
		more = network_take_records(n);
	more = n->audit_sink.fd >= 0 && gate_process_finish(n);
	while (more && wait_for(n, n->gate_control.fd))
		more = gate_process_hear(n);
}

/*
 * Where each record counts, has the device end all flows, waits for the last records, and writes what was learned. Ends the
 * control socket. Returns 0, or -errno where the record is not complete.
 */
int network_finish(struct network *n, struct err *e)
{
	bool counts = n->loop && n->control.fd >= 0 && (n->audit_sink.fd >= 0 || n->learn_fd >= 0);
	control_destroy(n->socket);
	n->socket = NULL;
	if (counts)
		hear_the_rest(n);
	while (n->audit.len && wait_for(n, -1))
		network_write_audit(n);
	if (n->audit.len)
		n->failure = n->failure ? n->failure : -ETIMEDOUT;
	int rc = n->failure ? err_sys(e, n->failure, "the audit record cannot be written") : 0;
	return rc || !counts || n->learn_fd < 0 ? rc : learn_write(n->learn_fd, &n->learned, &n->gate.policy, e);
}

/* What was denied until now: lines that the caller frees with their array, which ends with NULL; NULL: nothing. */
char **network_denied(struct network *n)
{
	if (n->control.fd >= 0)
		network_take_records(n);
	if (n->gate_control.fd >= 0 && !n->gate_lost)
		gate_process_hear(n);
	char line[256];
	if (n->gate_lost && process_failure(n->gate_pidfd, "what is new: the gate", line, sizeof line))
		(void)strv_add(&n->denied, line);
	char **lines = n->denied.item;
	n->denied = (struct strv){0};
	return lines;
}

/* Ends the gate and frees everything. */
void network_end(struct network *n)
{
	gate_process_end(n);
	ask_destroy(n->ask);
	control_destroy(n->socket);
	publish_destroy(n->publish);
	io_close(&n->control.fd);
	policy_free(&n->gate.policy);
	free(n->queue);
	buf_free(&n->audit);
	strv_free(n->secret_env.item);
	strv_free(n->denied.item);
	strv_free(n->learned.item);
	network_init(n);
}
