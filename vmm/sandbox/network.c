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
#include "vmm/sandbox/network.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "virtio/net/gate/proto.h"
#include "virtio/net/link.h"
#include "virtio/net/policy_file.h"
#include "vmm/caplock.h"
#include "vmm/image/image.h"
#include "vmm/jail/jail.h"
#include "vmm/machine/machine.h"
#include "vmm/sandbox/ask.h"
#include "vmm/sandbox/audit.h"
#include "vmm/sandbox/control.h"
#include "vmm/sandbox/learn.h"
#include "vmm/sandbox/process.h"
#include "vmm/sandbox/publish.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/passfd.h"
#include "vmm/util/strv.h"

enum {
	DENIED_MAX = 100,    /* hosts that are remembered for the user */
	FINISH_MS = 2000,    /* for each of the last records */
	AUDIT_MAX_BYTES = 64 << 10, /* that the audit file is behind */
	GRANT_FLOWS = 16,    /* that one answer allows: those that wait for it */
	WAITING_MAX = 8192,  /* changes of the rules that are not made yet */
	GATE_FDS_MAX = 8192,
};

/* A change for both: the device follows the gate. */
struct order_pair {
	struct gate_order first;
	struct net_order then;
};

/* What the gate's resolver reads. */
static const char *const resolver_files[] = {"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/dev/urandom", NULL};

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
	rc = rc ? rc : add_all(p, s->add_hosts, "--add-host", policy_add_pin, e);
	rc = rc ? rc : add_all(p, s->policies, "--policy", policy_file_add, e);
	rc = rc ? rc : add_all(p, s->allow_host_loopback, "--allow-host-loopback", policy_add_loopback, e);
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

static int check(const struct caplock_spec *s, struct err *e)
{
	struct ip_addr ignored;
	for (const char *const *server = s->dns_servers; server && *server; server++)
		if (!addr_parse(*server, &ignored))
			return err_set(e, -EINVAL, "--dns-servers '%s' is not an IP address", *server);
	if (s->mtu < LINK_MTU_MIN || s->mtu > LINK_MTU_MAX)
		return err_set(e, -EINVAL, "--mtu %u: give %d to %d", s->mtu, LINK_MTU_MIN, LINK_MTU_MAX);
	bool rules = s->allow_hosts || s->deny_hosts || s->add_hosts || s->dns_servers || s->allow_host_loopback || s->policies ||
		     s->publish || s->control_path || s->audit_fd >= 0 || s->learn_fd >= 0 || s->ask;
	if (s->no_network && rules)
		return err_set(e, -EINVAL, "--no-network, and options that are about the network: give one or the other");
	if (s->learn_fd >= 0 && s->ask)
		return err_set(e, -EINVAL, "--learn allows every public host and --ask asks: give one or the other");
	return 0;
}

/* A socket with message borders: *ours for us, *theirs for another process. */
static int make_socket(int *ours, int *theirs, struct err *e)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return err_sys(e, -errno, "cannot make a socket");
	*ours = pair[0];
	*theirs = pair[1];
	return 0;
}

static bool needs_gate(const struct policy *p)
{
	return p->allow_count || p->loopback_port_count || p->allow_public;
}

/* Makes it empty, for network_end(). */
void network_init(struct network *n)
{
	*n = (struct network){.gate_pidfd = -1, .gate.vmm_fd = -1, .gate.supervisor_fd = -1, .control.fd = -1, .gate_control.fd = -1,
			      .audit_sink.fd = -1, .learn_fd = -1};
}

/* The last stage of the gate's confinement. */
static void confine_gate(void)
{
	jail_thread(JAIL_GATE);
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
	rc = network_policy(spec, &n->gate.policy, e);
	rc = rc ? rc : network_add_packages(&n->gate.policy, machine->disk[0].fd, machine->disk[0].offset_bytes, e);
	if (rc == 0 && policy_copy(&machine->net.policy, &n->gate.policy))
		rc = err_sys(e, -ENOMEM, "policy");
	rc = rc || !spec->ask ? rc : ask_create(n, &n->ask, e);
	rc = rc || !spec->control_path ? rc : control_create(n, spec->control_path, &n->socket, e);
	rc = rc ? rc : publish_create(n, spec->publish, spec->publish_address, &n->publish, e);
	rc = rc ? rc : make_socket(&n->control.fd, &machine->net.control_fd, e);
	if (rc == 0 && needs_gate(&n->gate.policy))
		rc = make_socket(&machine->net.gate_fd, &n->gate.vmm_fd, e);
	if (rc)
		return rc;
	machine->network = true;
	machine->net.policy.ask = spec->ask; /* the gate never asks: it is told */
	machine->net.record_all = spec->audit_fd >= 0 || spec->learn_fd >= 0;
	n->gate.confine = confine_gate;
	n->gate.dns_servers = spec->dns_servers;
	return 0;
}

/* ---- Orders ---- */

/* Sends the device an order, and a descriptor with it (-1: none). Returns 0 or -errno. */
static int send_order(struct network *n, const struct net_order *order, int fd)
{
	return passfd_send(n->control.fd, order, sizeof *order, fd, MSG_DONTWAIT);
}

/*
 * Moves the queue on: the gate is asked for what it was not, the device for what the gate has made. Both answer each order, so
 * what does not fit into a socket now is sent with an answer.
 */
static void pump(struct network *n)
{
	bool gate = n->gate_pidfd >= 0 && !n->gate_lost;
	int rc = 0;
	while (gate && n->queue_asked < n->queue_count &&
	       passfd_send(n->gate_control.fd, &n->queue[n->queue_asked].first, sizeof n->queue->first, -1, MSG_DONTWAIT) == 0)
		n->queue_asked++;
	if (!gate)
		n->queue_asked = n->queue_made = n->queue_count;
	while (n->queue_head < n->queue_made && (rc = send_order(n, &n->queue[n->queue_head].then, -1)) == 0)
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
	pump(n);
}

/* ---- Records ---- */

/* Makes a text of a record one that can be shown: it was the guest's. */
static void make_printable(char *text, size_t max_bytes)
{
	text[max_bytes - 1] = 0;
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || (unsigned char)*text >= 0x7f)
			*text = '?';
}

static void remember(struct network *n, const struct net_record *r)
{
	char line[NAME_BYTES + 128], port[16] = "", address[ADDR_TEXT_BYTES];
	if (r->port)
		snprintf(port, sizeof port, ":%u", r->port);
	snprintf(line, sizeof line, "%s%s%s: %s", r->name[0] ? r->name : addr_text(&r->addr, address), port,
		 r->proto == NET_UDP && r->port ? "/udp" : "", r->reason);
	for (size_t i = 0; i < n->denied.count; i++)
		if (strcmp(n->denied.item[i], line) == 0)
			return;
	if (n->denied.count < DENIED_MAX)
		(void)strv_add(&n->denied, line);
}

/* What is not recorded may not happen: the sandbox ends. */
static void record_failed(struct network *n, int error)
{
	n->failure = n->failure ? n->failure : error;
	n->audit_sink.fd = -1;
	buf_free(&n->audit);
	n->events->failed(n->events->context);
}

/* Writes what there is for the audit file, as far as it takes it now. */
static void write_audit(struct network *n)
{
	ssize_t done = 0;
	while (n->audit.len && (done = write(n->audit_sink.fd, n->audit.data, n->audit.len)) >= 0)
		buf_consume(&n->audit, (size_t)done);
	if (done < 0 && errno != EAGAIN && errno != EINTR)
		record_failed(n, -errno);
}

static void take_record(struct network *n, struct net_record *r)
{
	make_printable(r->name, sizeof r->name);
	make_printable(r->reason, sizeof r->reason);
	n->totals_seen |= r->kind == RECORD_TOTALS;
	if (r->kind == RECORD_DONE) {
		n->changes_done = r->id;
		return;
	}
	if (r->kind == RECORD_ASK && n->ask)
		ask_about(n->ask, r);
	if ((r->kind == RECORD_DNS || r->kind == RECORD_FLOW) && r->verdict == VERDICT_DENY)
		remember(n, r);
	int rc = n->audit_sink.fd >= 0 ? audit_line(&n->audit, r) : 0;
	if (rc == 0 && n->learn_fd >= 0 && r->kind == RECORD_CLOSE && !r->published)
		rc = learn_flow(&n->learned, r);
	if (rc)
		record_failed(n, rc);
}

/*
 * Takes what records there are, as long as the audit file takes theirs: what waits in the socket makes the device wait.
 * Returns false where there will be no more.
 */
static bool take_records(struct network *n)
{
	struct net_record r;
	ssize_t bytes = sizeof r;
	while (n->audit.len < AUDIT_MAX_BYTES && (bytes = recv(n->control.fd, &r, sizeof r, MSG_DONTWAIT)) == sizeof r)
		take_record(n, &r);
	write_audit(n);
	return bytes == sizeof r || (bytes < 0 && (errno == EAGAIN || errno == EINTR));
}

/* Has the loop wait for the audit file where it is slower than the device, and for the device otherwise. */
static void watch_slower(struct network *n)
{
	bool behind = n->audit.len > 0;
	if (behind == n->audit_waits)
		return;
	loop_remove(n->loop, behind ? &n->control : &n->audit_sink);
	int rc = behind ? loop_add(n->loop, &n->audit_sink, EPOLLOUT) : loop_add(n->loop, &n->control, EPOLLIN);
	n->audit_waits = behind;
	if (rc)
		record_failed(n, rc);
}

static void audit_ready(void *context, uint32_t events)
{
	(void)events;
	struct network *n = context;
	write_audit(n);
	watch_slower(n);
}

static void control_ready(void *context, uint32_t events)
{
	(void)events;
	struct network *n = context;
	if (take_records(n)) {
		watch_slower(n);
	} else {
		loop_remove(n->loop, &n->control); /* the machine is gone */
		n->changes_done = n->changes;
	}
	pump(n);
	if (n->socket)
		control_changed(n->socket);
}

/* ---- The gate ---- */

static void run_gate(const void *config)
{
	gate_run((struct gate_config *)config);
}

/* The gate has made changes: the device's follow. At its end it allows nothing any more. */
static void gate_ready(void *context, uint32_t events)
{
	(void)events;
	struct network *n = context;
	char done;
	ssize_t bytes;
	while ((bytes = recv(n->gate_control.fd, &done, 1, MSG_DONTWAIT)) > 0)
		n->queue_made += n->queue_made < n->queue_asked;
	if (bytes == 0 || (errno != EAGAIN && errno != EINTR)) {
		loop_remove(n->loop, &n->gate_control);
		n->gate_lost = true;
	}
	pump(n);
}

static int start_gate(struct network *n, struct err *e)
{
	struct process p = {
		.name = "caplock-gate",
		.run = run_gate,
		.config = &n->gate,
		.jail = {.host_network = true, .readable = resolver_files, .fds_max = GATE_FDS_MAX},
	};
	int rc = make_socket(&n->gate_control.fd, &n->gate.supervisor_fd, e);
	if (rc)
		return rc;
	process_keep(&p, n->gate.vmm_fd);
	process_keep(&p, n->gate.supervisor_fd);
	rc = process_start(&p, &n->gate_pidfd, e);
	io_close(&n->gate.vmm_fd);
	io_close(&n->gate.supervisor_fd);
	if (rc)
		return rc;
	n->gate_control.ready = gate_ready;
	n->gate_control.context = n;
	rc = loop_add(n->loop, &n->gate_control, EPOLLIN);
	return rc ? err_sys(e, rc, "cannot watch the gate") : 0;
}

/* Starts a gate for a sandbox that runs without one, and gives the device its end. */
static int start_gate_late(struct network *n, struct err *e)
{
	int device_fd = -1;
	int rc = make_socket(&device_fd, &n->gate.vmm_fd, e);
	rc = rc ? rc : start_gate(n, e);
	if (rc == 0 && send_order(n, &(struct net_order){.op = ORDER_GATE}, device_fd))
		rc = err_set(e, -EPIPE, "the machine does not answer");
	io_close(&device_fd); /* without the device, the gate ends */
	if (rc && n->gate_pidfd < 0) {
		io_close(&n->gate.vmm_fd);
		io_close(&n->gate_control.fd);
	}
	return rc;
}

/* ---- While it runs ---- */

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
	int rc = n->gate.vmm_fd >= 0 ? start_gate(n, e) : 0;
	if (rc)
		return rc;
	n->audit_sink.ready = audit_ready;
	n->audit_sink.context = n;
	n->control.ready = control_ready;
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
	rc = first ? start_gate_late(n, e) : rc;
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
	if (answer == ANSWER_ONCE && n->gate_pidfd < 0 && start_gate_late(n, &e))
		order.answer = ANSWER_DENY;
	if (reserve(n, &e) == 0)
		enqueue(n, &first, &order);
	else
		send_order(n, &order, -1); /* denied by whoever has not heard of it */
}

/* Gives the device a connection for the guest's port. The descriptor stays the caller's. Returns 0 or -errno. */
int network_publish(struct network *n, int fd, uint16_t guest_port)
{
	return send_order(n, &(struct net_order){.op = ORDER_PUBLISH, .target.port = guest_port}, fd);
}

/* ---- The end ---- */

/* Waits until the audit file takes what there is for it, or else until there is a record. False: that took too long. */
static bool wait_for_record(const struct network *n)
{
	struct pollfd p = {.fd = n->audit.len ? n->audit_sink.fd : n->control.fd, .events = n->audit.len ? POLLOUT : POLLIN};
	return poll(&p, 1, FINISH_MS) > 0;
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
	bool more = counts && send_order(n, &(struct net_order){.op = ORDER_END}, -1) == 0;
	while (more && !n->totals_seen && wait_for_record(n))
		more = take_records(n);
	while (n->audit.len && wait_for_record(n))
		write_audit(n);
	if (n->audit.len)
		n->failure = n->failure ? n->failure : -ETIMEDOUT;
	int rc = n->failure ? err_sys(e, n->failure, "the audit record cannot be written") : 0;
	return rc || !counts || n->learn_fd < 0 ? rc : learn_write(n->learn_fd, &n->learned, &n->gate.policy, e);
}

/* What was denied until now: lines that the caller frees with their array, which ends with NULL; NULL: nothing. */
char **network_denied(struct network *n)
{
	if (n->control.fd >= 0)
		take_records(n);
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
	if (n->gate_pidfd >= 0) {
		syscall(SYS_pidfd_send_signal, n->gate_pidfd, SIGKILL, NULL, 0);
		waitid(P_PIDFD, (id_t)n->gate_pidfd, &(siginfo_t){0}, WEXITED);
	}
	ask_destroy(n->ask);
	control_destroy(n->socket);
	publish_destroy(n->publish);
	io_close(&n->gate_pidfd);
	io_close(&n->gate.vmm_fd);
	io_close(&n->gate.supervisor_fd);
	io_close(&n->control.fd);
	io_close(&n->gate_control.fd);
	policy_free(&n->gate.policy);
	free(n->queue);
	buf_free(&n->audit);
	strv_free(n->denied.item);
	strv_free(n->learned.item);
	network_init(n);
}
