/*
 * The gate's process: a fork of this one where flows are only opened, and the program caplock-gate where some are read, so that TLS
 * costs nobody else anything and nothing of the supervisor's memory is in a process that has secrets.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "virtio/net/gate/config.h"
#include "virtio/net/gate/proto.h"
#include "vmm/caplock.h"
#include "vmm/jail/jail.h"
#include "vmm/sandbox/given_secrets.h"
#include "vmm/sandbox/installed.h"
#include "vmm/sandbox/network_priv.h"
#include "vmm/sandbox/process.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/passfd.h"

enum { GATE_FDS_MAX = 8192 };

static const char program[] = "caplock-gate";

/* What the resolver of a gate reads that reads no flows; caplock-gate knows itself what it reads. */
static const char *const resolver_files[] = {"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/dev/urandom", NULL};

/* ---- What it says ---- */

/* It cannot do what it was started for: no command is to run. */
static void fail(struct network *n, const char *why)
{
	if (n->failed)
		return;
	n->failed = true;
	n->events->gate_failed(n->events->context, why);
}

/* The guest may be told now what to trust. */
static void take_certificate(struct network *n, const char *pem, size_t len_bytes)
{
	if (n->certificate.len)
		return;
	if (buf_add(&n->certificate, pem, len_bytes) || buf_add(&n->certificate, "", 1))
		fail(n, "out of memory");
	else
		n->events->ready(n->events->context);
}

static void take_failure(struct network *n, const char *text, size_t len_bytes)
{
	struct err e;
	err_set(&e, 0, "%.*s", (int)len_bytes, text);
	fail(n, e.text);
}

/* A connection to the callback socket of the hooks, or -1. */
static int connect_hook(const struct network *n)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (!n->spec->hook_socket)
		return -1;
	strcpy(address.sun_path, n->spec->hook_socket); /* its length was checked */
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address))
		io_close(&fd);
	return fd;
}

/* A gate that cannot be told now is not told: its rule denies when its time is up. */
static void take_callback(struct network *n, const struct gate_callback *c)
{
	int fd = connect_hook(n);
	struct gate_order order = {.op = GATE_CONNECTED, .callback = c->id};
	(void)passfd_send(n->gate_control.fd, &order, sizeof order, fd, MSG_DONTWAIT);
	io_close(&fd);
}

union message {
	uint8_t kind; /* enum gate_message */
	char text[GATE_MESSAGE_MAX_BYTES];
	struct gate_record record;
	struct gate_callback callback;
};

static void take_message(struct network *n, union message *m, size_t len_bytes)
{
	if (m->kind == GATE_DONE)
		n->queue_made += n->queue_made < n->queue_asked;
	else if (m->kind == GATE_CERTIFICATE && len_bytes > 1)
		take_certificate(n, m->text + 1, len_bytes - 1);
	else if (m->kind == GATE_FAILED)
		take_failure(n, m->text + 1, len_bytes - 1);
	else if (m->kind == GATE_RECORD && len_bytes == sizeof m->record)
		network_take_request(n, &m->record);
	else if (m->kind == GATE_CALLBACK && len_bytes == sizeof m->callback)
		take_callback(n, &m->callback);
}

/*
 * Takes what the gate has said, as long as the audit file takes its lines: a gate that is not heard waits. Returns false at its
 * end.
 */
bool gate_process_hear(struct network *n)
{
	union message m;
	ssize_t bytes = -1;
	errno = EAGAIN;
	while (network_audit_has_room(n) && (bytes = recv(n->gate_control.fd, &m, sizeof m, MSG_DONTWAIT)) > 0)
		take_message(n, &m, (size_t)bytes);
	bool ended = bytes == 0 || (bytes < 0 && errno != EAGAIN && errno != EINTR);
	network_write_audit(n);
	return !ended;
}

/* The end of a gate that reads, before it had anything to say. */
static void explain_end(struct network *n)
{
	char why[256];
	if (n->certificate.len || !n->intercepts)
		return;
	bool told = process_failure(n->gate_pidfd, program, why, sizeof why);
	fail(n, told ? why : "caplock-gate has ended at once: is it of another version than caplock?");
}

/* The gate has made changes: the device's follow. At its end it allows nothing any more. */
static void gate_ready(void *context, uint32_t events)
{
	(void)events;
	struct network *n = context;
	if (!gate_process_hear(n)) {
		loop_remove(n->loop, &n->gate_control);
		n->gate_lost = true;
		explain_end(n);
	}
	network_watch_slower(n);
	network_pump(n);
}

/* ---- Life ---- */

static void run_gate(const void *config)
{
	gate_run((struct gate_config *)config);
}

/* The last stage of a forked gate's confinement. */
static void confine_gate(void)
{
	jail_thread(JAIL_GATE);
}

static void keep_descriptors(struct process *p, const struct gate_config *c)
{
	process_keep(p, c->vmm_fd);
	process_keep(p, c->supervisor_fd);
	process_keep(p, c->upstream_ca_fd);
	for (size_t i = 0; i < c->secret_count; i++)
		process_keep(p, c->secrets[i].value_fd);
}

/* A file in memory with the configuration: *fd, the caller's. */
static int write_config(const struct gate_config *c, int *fd, struct err *e)
{
	struct buf text = {0};
	int rc = gate_config_write(c, &text);
	*fd = -1;
	rc = rc ? rc : io_memory_file(text.data, text.len, fd);
	buf_free(&text);
	return rc ? err_sys(e, rc, "cannot write the gate's configuration") : 0;
}

static int open_program(int *fd, struct err *e)
{
	char path[PATH_MAX];
	int rc = installed_open(program, fd, path, e);
	return rc == -ENOENT ? err_set(e, rc, "there is no %s beside caplock or in ../lib/caplock from there, which opens TLS: "
					      "install all of caplock", program) : rc;
}

/* Starts the program. The configuration's descriptors are numbers in it: a fork keeps them, and so does the program. */
static int start_program(struct network *n, struct process *p, struct err *e)
{
	char argument[16];
	int config_fd = -1;
	p->program_fd = -1;
	int rc = open_program(&p->program_fd, e);
	rc = rc ? rc : write_config(&n->gate, &config_fd, e);
	if (rc == 0) {
		snprintf(argument, sizeof argument, "%d", config_fd);
		p->argument = argument;
		process_keep(p, config_fd);
		process_keep(p, p->program_fd);
		rc = process_start(p, &n->gate_pidfd, e);
	}
	io_close(&config_fd);
	io_close(&p->program_fd);
	return rc;
}

/* Starts the fork, of which only this is in memory that it did not have before. */
static int start_fork(struct network *n, struct process *p, struct err *e)
{
	n->gate.confine = confine_gate;
	p->run = run_gate;
	p->config = &n->gate;
	p->jail = (struct jail){.host_network = true, .readable = resolver_files, .fds_max = GATE_FDS_MAX};
	return process_start(p, &n->gate_pidfd, e);
}

/* Starts the gate, whose end of the vmm's socket is there. Returns 0 or -errno. */
int gate_process_start(struct network *n, struct err *e)
{
	struct process p = {.name = program};
	int rc = network_make_socket(&n->gate_control.fd, &n->gate.supervisor_fd, e);
	if (rc)
		return rc;
	keep_descriptors(&p, &n->gate);
	rc = n->intercepts ? start_program(n, &p, e) : start_fork(n, &p, e);
	io_close(&n->gate.vmm_fd);
	io_close(&n->gate.supervisor_fd);
	io_close(&n->gate.upstream_ca_fd);
	given_secrets_close(&n->gate);
	if (rc)
		return rc;
	n->gate_control.ready = gate_ready;
	n->gate_control.context = n;
	rc = n->audit_waits ? 0 : loop_add(n->loop, &n->gate_control, EPOLLIN);
	return rc ? err_sys(e, rc, "cannot watch the gate") : 0;
}

/* Starts a gate for a sandbox that runs without one, and gives the device its end. Returns 0 or -errno. */
int gate_process_start_late(struct network *n, struct err *e)
{
	int device_fd = -1;
	int rc = network_make_socket(&device_fd, &n->gate.vmm_fd, e);
	rc = rc ? rc : gate_process_start(n, e);
	if (rc == 0 && network_send_order(n, &(struct net_order){.op = ORDER_GATE}, device_fd))
		rc = err_set(e, -EPIPE, "the machine does not answer");
	io_close(&device_fd); /* without the device, the gate ends */
	if (rc && n->gate_pidfd < 0) {
		io_close(&n->gate.vmm_fd);
		io_close(&n->gate_control.fd);
	}
	return rc;
}

/* Has a gate that reads flows say the rest, and end. Returns false where there is none. */
bool gate_process_finish(struct network *n)
{
	return n->intercepts && n->gate_pidfd >= 0 && !n->gate_lost && shutdown(n->gate_control.fd, SHUT_WR) == 0;
}

/* Ends the gate. */
void gate_process_end(struct network *n)
{
	if (n->gate_pidfd >= 0) {
		syscall(SYS_pidfd_send_signal, n->gate_pidfd, SIGKILL, NULL, 0);
		waitid(P_PIDFD, (id_t)n->gate_pidfd, &(siginfo_t){0}, WEXITED);
	}
	io_close(&n->gate_pidfd);
	io_close(&n->gate.vmm_fd);
	io_close(&n->gate.supervisor_fd);
	io_close(&n->gate.upstream_ca_fd);
	io_close(&n->gate_control.fd);
	given_secrets_free(&n->gate);
	buf_free(&n->certificate);
}
