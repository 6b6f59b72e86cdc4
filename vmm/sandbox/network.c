#include "vmm/sandbox/network.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "virtio/net/link.h"
#include "virtio/net/policy_file.h"
#include "virtio/net/report.h"
#include "vmm/caplock.h"
#include "vmm/image/image.h"
#include "vmm/machine/machine.h"
#include "vmm/sandbox/process.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/strv.h"

enum { DENIED_MAX = 100 }; /* hosts that are remembered for the user */

typedef int (*add_fn)(struct policy *p, const char *text, struct err *e);

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
	*p = (struct policy){0};
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
	bool rules = s->allow_hosts || s->deny_hosts || s->add_hosts || s->dns_servers || s->allow_host_loopback || s->policies;
	if (s->no_network && rules)
		return err_set(e, -EINVAL, "--no-network, and options that are about the network: give one or the other");
	return 0;
}

/*
 * Makes what the spec says of the network: the policy for both processes, and the sockets between them. `machine` gets its
 * part. Returns 0, -EINVAL with what is wrong, or -errno.
 */
int network_prepare(struct network *n, const struct caplock_spec *spec, struct machine_config *machine, struct err *e)
{
	*n = (struct network){.gate_pidfd = -1, .gate.vmm_fd = -1, .report.fd = -1};
	machine->net = (struct net_config){.mtu = spec->mtu, .gate_fd = -1, .report_fd = -1};
	int rc = check(spec, e);
	if (rc || spec->no_network)
		return rc;
	rc = network_policy(spec, &n->gate.policy, e);
	rc = rc ? rc : network_add_packages(&n->gate.policy, machine->disk[0].fd, machine->disk[0].offset_bytes, e);
	if (rc)
		return rc;
	if (policy_copy(&machine->net.policy, &n->gate.policy))
		return err_sys(e, -ENOMEM, "policy");
	machine->network = true;
	n->gate.dns_servers = spec->dns_servers;
	int gate[2], report[2];
	if (n->gate.policy.allow_count || n->gate.policy.loopback_port_count) {
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, gate))
			return err_sys(e, -errno, "cannot make a socket");
		n->gate.vmm_fd = gate[0];
		machine->net.gate_fd = gate[1];
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, report))
		return err_sys(e, -errno, "cannot make a socket");
	n->report.fd = report[0];
	machine->net.report_fd = report[1];
	return 0;
}

static void run_gate(const void *config)
{
	gate_run(config);
}

static void remember(struct network *n, const struct net_report *r)
{
	char line[NAME_BYTES + 128], port[16] = "";
	if (r->port)
		snprintf(port, sizeof port, ":%u", r->port);
	snprintf(line, sizeof line, "%.*s%s%s: %.*s", NAME_BYTES - 1, r->host, port, r->proto == NET_UDP && r->port ? "/udp" : "",
		 (int)sizeof r->reason - 1, r->reason);
	for (unsigned i = 0; i < n->denied_count; i++)
		if (strcmp(n->denied[i], line) == 0)
			return;
	char **larger = n->denied_count < DENIED_MAX ? realloc(n->denied, (n->denied_count + 2) * sizeof *larger) : NULL;
	char *copy = larger ? strdup(line) : NULL;
	if (larger)
		n->denied = larger;
	if (copy)
		n->denied[n->denied_count++] = copy;
	if (larger)
		n->denied[n->denied_count] = NULL;
}

static void report_ready(void *context, uint32_t events)
{
	(void)events;
	struct network *n = context;
	struct net_report r;
	ssize_t bytes;
	while ((bytes = recv(n->report.fd, &r, sizeof r, MSG_DONTWAIT)) == sizeof r) {
		r.host[sizeof r.host - 1] = r.reason[sizeof r.reason - 1] = 0;
		for (char *p = r.host; *p; p++) /* it was the guest's */
			if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f)
				*p = '?';
		remember(n, &r);
	}
	if (bytes == 0)
		loop_remove(n->loop, &n->report); /* the machine is gone */
}

/* Starts the gate, and listens to what is denied. Returns 0 or -errno. */
int network_start(struct network *n, struct loop *loop, struct err *e)
{
	struct process p = {.name = "caplock-gate", .run = run_gate, .config = &n->gate};
	int rc = 0;
	if (n->gate.vmm_fd >= 0) {
		process_keep(&p, n->gate.vmm_fd);
		rc = process_start(&p, &n->gate_pidfd, e);
		io_close(&n->gate.vmm_fd);
	}
	if (rc || n->report.fd < 0)
		return rc;
	n->loop = loop;
	n->report.ready = report_ready;
	n->report.context = n;
	rc = loop_add(loop, &n->report, EPOLLIN);
	return rc ? err_sys(e, rc, "cannot watch the network") : 0;
}

/* What was denied until now: lines that the caller frees with their array, which ends with NULL; NULL: nothing. */
char **network_denied(struct network *n)
{
	if (n->report.fd >= 0)
		report_ready(n, 0);
	char **lines = n->denied;
	n->denied = NULL;
	n->denied_count = 0;
	return lines;
}

/* Ends the gate and frees everything. */
void network_end(struct network *n)
{
	if (n->gate_pidfd >= 0) {
		syscall(SYS_pidfd_send_signal, n->gate_pidfd, SIGKILL, NULL, 0);
		waitid(P_PIDFD, (id_t)n->gate_pidfd, &(siginfo_t){0}, WEXITED);
	}
	io_close(&n->gate_pidfd);
	io_close(&n->gate.vmm_fd);
	io_close(&n->report.fd);
	policy_free(&n->gate.policy);
	for (unsigned i = 0; i < n->denied_count; i++)
		free(n->denied[i]);
	free(n->denied);
	*n = (struct network){.gate_pidfd = -1, .gate.vmm_fd = -1, .report.fd = -1};
}
