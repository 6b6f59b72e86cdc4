/*
 * A sandbox, seen from its supervisor.
 *
 * Theory of operation
 * -------------------
 * Purpose: run one command in one microVM, relay its streams, and say how it ended.
 *
 *      supervisor (this file, the caller's process)          vmm process (vmm/machine)
 *        agent session  <---- stream socketpair ------------>  vsock device, the guest's first connection
 *        control        ----- seqpacket socketpair --------->  new connections into the guest; its end is the machine's
 *        status         <---- shared memory + eventfd -------  timeline, console, outcome
 *
 * Trust boundary: the guest, and with it the vmm process, may say anything: frames are checked by vmm/sandbox/agent.c, the
 * status is only read with bounds.
 *
 * Life: validate, open the image, the scratch disk and the kernel, fork the vmm; then one event loop until the session has
 * ended. The session's stream ends with the vmm process at the latest, so waiting for it is enough: the outcome of the
 * machine is looked at only then. The vmm is killed, not asked: disks are read-only or unlinked, and taking a machine apart
 * costs the kernel 15-25 ms that nobody has to wait for.
 *
 * Invariants: every path through sandbox_run() sets result->outcome; a killed vmm leaves nothing, because all it has is
 * memory and unlinked files.
 */
#include "vmm/sandbox/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vmm/assets.h"
#include "vmm/image/image.h"
#include "vmm/machine/kvm.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/status.h"
#include "vmm/sandbox/agent.h"
#include "vmm/sandbox/kernel.h"
#include "vmm/sandbox/network.h"
#include "vmm/sandbox/process.h"
#include "vmm/sandbox/trust_env.h"
#include "vmm/spec/spec.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/loop.h"

enum {
	STATUS_TIMEOUT = 124,
	STATUS_FAILED = 125,
	STATUS_REFUSED = 1,
	SIGNALS_UNTIL_KILL = 3, /* so many SIGINT or SIGTERM, and we no longer wait for the command */
	LOST_GRACE_MS = 2000,   /* from the agent's silence to the machine's outcome */
	VMM_FDS_MAX = 8192,     /* two for each of a thousand connections over vsock, one for each flow, and its own */
	CONSOLE_CHUNK_BYTES = 4096,
	SUSPICION_S = 2,        /* until a host without hardware for guests is asked whether it runs Linux */
	CONSOLE_WAIT_MS = 1000, /* for a reader of the console, when the sandbox has ended */
};

struct sandbox {
	const struct caplock_spec *spec;
	struct caplock_result *result;
	struct machine_config machine;
	char kernel_path[PATH_MAX];
	struct network network;
	struct network_events network_events;
	struct image image;
	struct store *store;
	struct spec_command command;
	struct machine_status *status;
	struct agent_session *session;
	struct loop loop;
	struct loop_source event, signals, timer, grace, suspicion, console;
	struct loop_source vmm; /* the process as a descriptor: a number could be somebody else's by now */
	sigset_t old_mask;
	bool mask_changed;
	int session_fd; /* until the session owns it */
	int control_fd;
	uint64_t console_at;
	bool console_waits, console_broken; /* for its reader; it has none */
	bool started, done;
	char stream_failure[256];
	char lost[256]; /* what the session found wrong, while we wait for the machine's own word */
	unsigned end_signals;
};

static void finish(struct sandbox *s, enum caplock_outcome outcome, int status, const char *message)
{
	if (s->done)
		return;
	s->done = true;
	s->result->outcome = outcome;
	s->result->status = status;
	snprintf(s->result->message, sizeof s->result->message, "%s", message ? message : "");
}

/* ---- How a machine ended ---- */

/* The guest's console from its beginning, or what is left of it, as printable text. The caller frees it; NULL: none. */
static char *console_text(const struct machine_status *status)
{
	char *text = malloc(CONSOLE_BYTES + 1);
	uint64_t at = 0;
	size_t n = text ? console_read(status, &at, text, CONSOLE_BYTES) : 0;
	if (n == 0) {
		free(text);
		return NULL;
	}
	size_t kept = 0;
	for (size_t i = 0; i < n; i++)
		if (text[i] == '\n' || text[i] == '\t' || ((unsigned char)text[i] >= 0x20 && text[i] != 0x7f))
			text[kept++] = text[i];
	text[kept] = 0;
	return text;
}

/* Says what a reset was: after a panic the console tells why. */
static void explain_reset(struct sandbox *s)
{
	static const char panic[] = "Kernel panic - not syncing: ";
	char message[512] = "the guest reset itself before the command ended";
	char *log = console_text(s->status);
	const char *why = log ? strstr(log, panic) : NULL;
	if (why) {
		why += sizeof panic - 1;
		snprintf(message, sizeof message, "the guest kernel panicked: %.*s", (int)strcspn(why, "\n"), why);
		s->result->kernel_log = log;
	} else {
		free(log);
	}
	finish(s, CAPLOCK_FAILED, STATUS_FAILED, message);
}

static void kill_vmm(struct sandbox *s)
{
	if (s->vmm.fd >= 0)
		syscall(SYS_pidfd_send_signal, s->vmm.fd, SIGKILL, NULL, 0);
}

/* Says how the vmm process ended, where it could not itself; where it lives, `text`, what the session found wrong. */
static void explain_death(struct sandbox *s, const char *text)
{
	char message[512];
	bool failed = process_failure(s->vmm.fd, "the machine's process", message, sizeof message);
	finish(s, CAPLOCK_FAILED, STATUS_FAILED, failed ? message : text);
}

/*
 * Whether this host has no hardware for guests, so that the machine counts as not started. Asked only where KVM gives up on an
 * instruction, or where such a host has no agent after a while, so that a good host does not pay for it.
 */
static bool blame_host(struct sandbox *s)
{
	enum kvm_kind kind;
	struct err e;
	int kvm_fd = -1;
	bool to_blame = kvm_suspect() && (kvm_open(&kvm_fd, &kind, &e) || kvm_probe(kvm_fd, &kind, &e));
	if (to_blame)
		finish(s, CAPLOCK_REFUSED, STATUS_REFUSED, e.text);
	io_close(&kvm_fd);
	return to_blame;
}

static void explain_outcome(struct sandbox *s, const char *text)
{
	struct err e;
	char detail[sizeof s->status->detail];
	memcpy(detail, s->status->detail, sizeof detail);
	detail[sizeof detail - 1] = 0;
	err_set(&e, 0, "%s", detail);
	switch (atomic_load(&s->status->outcome)) {
	case MACHINE_RUNNING:
		explain_death(s, text);
		break;
	case MACHINE_RESET:
		explain_reset(s);
		break;
	case MACHINE_HALTED:
		finish(s, CAPLOCK_FAILED, STATUS_FAILED, "the guest halted before the command ended");
		break;
	case MACHINE_TRIPLE_FAULT:
		finish(s, CAPLOCK_FAILED, STATUS_FAILED, "the guest kernel crashed (triple fault)");
		break;
	case MACHINE_KVM_GAVE_UP:
		if (!blame_host(s))
			finish(s, CAPLOCK_FAILED, STATUS_FAILED, e.text);
		break;
	case MACHINE_NOT_STARTED:
		finish(s, CAPLOCK_REFUSED, STATUS_REFUSED, e.text);
		break;
	default:
		finish(s, CAPLOCK_FAILED, STATUS_FAILED, e.text);
		break;
	}
}

/* ---- Events ---- */

static bool has_outcome(const struct sandbox *s)
{
	return atomic_load(&s->status->outcome) != MACHINE_RUNNING;
}

/*
 * The session is lost. The machine, or its process' end, says why, as a rule at once; but a guest need not, so there is a
 * limit. The loop goes on meanwhile: signals and the timeout still count.
 */
static void lost(struct sandbox *s, const char *text)
{
	static const struct itimerspec limit = {.it_value = {LOST_GRACE_MS / 1000, LOST_GRACE_MS % 1000 * 1000000l}};
	snprintf(s->lost, sizeof s->lost, "%s", text);
	if (has_outcome(s) || timerfd_settime(s->grace.fd, 0, &limit, NULL) || loop_add(&s->loop, &s->grace, EPOLLIN) ||
	    loop_add(&s->loop, &s->vmm, EPOLLIN))
		explain_outcome(s, text);
}

/* The time after a loss is over, or the process is gone. */
static void explain_loss(void *context, uint32_t events)
{
	(void)events;
	struct sandbox *s = context;
	explain_outcome(s, s->lost);
}

/* The command has ended by itself. That its streams failed is a failure all the same: nobody has what it wrote. */
static void command_ended(struct sandbox *s, enum caplock_outcome outcome, int status)
{
	timeline_stamp(s->status, TIMELINE_OUTPUT);
	if (s->stream_failure[0])
		finish(s, CAPLOCK_FAILED, STATUS_FAILED, s->stream_failure);
	else
		finish(s, outcome, status, NULL);
}

static void agent_event(void *context, enum agent_event event, int value, const char *text)
{
	struct sandbox *s = context;
	switch (event) {
	case AGENT_HELLO:
		timeline_stamp(s->status, TIMELINE_AGENT);
		break;
	case AGENT_STARTED:
		s->started = true;
		break;
	case AGENT_OUTPUT:
		timeline_stamp(s->status, TIMELINE_OUTPUT);
		break;
	case AGENT_STREAM:
		snprintf(s->stream_failure, sizeof s->stream_failure, "%s", text);
		break;
	case AGENT_EXITED:
		command_ended(s, CAPLOCK_EXITED, value & 0xff);
		break;
	case AGENT_KILLED:
		command_ended(s, CAPLOCK_KILLED, 128 + (value & 0x7f));
		break;
	case AGENT_REFUSED:
		finish(s, CAPLOCK_UNSTARTED, value, text);
		break;
	case AGENT_LOST:
		lost(s, text ? text : "the agent in the guest went silent");
		break;
	}
}

/*
 * Copies what the console has to the caller, as far as that takes it within wait_ms. A write of a chunk does not block where
 * poll() says that there is room. Returns false where the reader is to be waited for.
 */
static bool copy_console(struct sandbox *s, int wait_ms)
{
	char chunk[CONSOLE_CHUNK_BYTES];
	struct pollfd p = {.fd = s->console.fd, .events = POLLOUT};
	for (unsigned copied = 0; s->console.fd >= 0 && !s->console_broken && copied < CONSOLE_BYTES; copied += sizeof chunk) {
		if (poll(&p, 1, wait_ms) == 0)
			return false;
		size_t n = console_read(s->status, &s->console_at, chunk, sizeof chunk);
		if (n == 0)
			break;
		s->console_broken = io_write_all(s->console.fd, chunk, n) != 0;
	}
	return true;
}

/* Copies the console, and has the loop watch its reader only while it must be waited for. */
static void console_ready(void *context, uint32_t events)
{
	(void)events;
	struct sandbox *s = context;
	bool waits = !copy_console(s, 0);
	if (waits && !s->console_waits)
		waits = loop_add(&s->loop, &s->console, EPOLLOUT) == 0;
	else if (!waits && s->console_waits)
		loop_remove(&s->loop, &s->console);
	s->console_waits = waits;
}

/* The status changed. A machine that has an outcome is killed: then the session ends, after all that was sent. */
static void status_changed(void *context, uint32_t events)
{
	(void)events;
	struct sandbox *s = context;
	uint64_t count;
	(void)!read(s->event.fd, &count, sizeof count);
	console_ready(s, 0);
	if (!has_outcome(s))
		return;
	kill_vmm(s);
	if (s->lost[0])
		explain_outcome(s, s->lost);
}

static void signal_arrived(void *context, uint32_t events)
{
	(void)events;
	struct sandbox *s = context;
	struct signalfd_siginfo info;
	if (read(s->signals.fd, &info, sizeof info) != sizeof info)
		return;
	int number = (int)info.ssi_signo;
	bool ends = number == SIGINT || number == SIGTERM || number == SIGQUIT || number == SIGHUP;
	s->end_signals += ends;
	if (ends && (!s->started || s->end_signals >= SIGNALS_UNTIL_KILL))
		finish(s, CAPLOCK_KILLED, 128 + number, NULL);
	else if (s->started)
		agent_session_signal(s->session, number);
}

static void time_is_up(void *context, uint32_t events)
{
	(void)events;
	struct sandbox *s = context;
	char message[128];
	snprintf(message, sizeof message, "the run took longer than %g s and was ended", s->spec->timeout_ms / 1e3);
	finish(s, CAPLOCK_TIMED_OUT, STATUS_TIMEOUT, message);
}

/* A record that counts cannot be written; network_finish() says why. */
static void network_failed(void *context)
{
	finish(context, CAPLOCK_FAILED, STATUS_FAILED, "the network's record cannot be written");
}

/* A question to the user waits on the terminal, which may be the command's standard input, too. */
static void hold_terminal(void *context, bool ours)
{
	struct sandbox *s = context;
	agent_session_hold_input(s->session, ours);
}

static int start_command(struct sandbox *s, struct err *e);

/* The gate has said what the guest is to trust. */
static void network_ready(void *context)
{
	struct sandbox *s = context;
	struct err e;
	if (!s->done && start_command(s, &e))
		finish(s, CAPLOCK_REFUSED, STATUS_REFUSED, e.text);
}

/* The gate cannot do what it is for, so that nothing is run; or it has ended because the machine has, which is the reason then. */
static void gate_failed(void *context, const char *why)
{
	struct sandbox *s = context;
	char message[512];
	if (has_outcome(s))
		explain_outcome(s, why);
	else if (process_failure(s->vmm.fd, "the machine's process", message, sizeof message))
		finish(s, CAPLOCK_FAILED, STATUS_FAILED, message);
	else
		finish(s, CAPLOCK_REFUSED, STATUS_REFUSED, why);
}

/* ---- Life ---- */

static int open_image(struct sandbox *s, struct err *e)
{
	struct blk_backing *root = &s->machine.disk[0], *scratch = &s->machine.disk[1];
	*root = (struct blk_backing){.fd = -1, .readonly = true, .serial = "root"};
	*scratch = (struct blk_backing){.fd = -1, .serial = "scratch"};
	s->machine.disks = 2;
	int rc = store_open(&s->store, e);
	if (rc)
		return rc;
	if (s->spec->image) {
		rc = image_open(s->store, s->spec->image, &s->image, &root->fd, e);
		if (rc)
			return rc;
		off_t end = lseek(root->fd, 0, SEEK_END);
		if (end < 0)
			return err_sys(e, -errno, "image %s", s->spec->image);
		root->len_bytes = (uint64_t)end;
	} else {
		rc = assets_open_base_image(&root->fd, &root->offset_bytes, &root->len_bytes, e);
		if (rc)
			return rc;
	}
	scratch->len_bytes = (uint64_t)s->spec->disk_mb << 20;
	return store_scratch(s->store, scratch->len_bytes, &scratch->fd, e);
}

/* Opens everything the machine gets. */
static int prepare(struct sandbox *s, struct err *e)
{
	int rc = open_image(s, e);
	static char *const shell[] = {"sh", NULL};
	struct image_config base = {.cmd = (char **)shell};
	rc = rc ? rc : network_prepare(&s->network, s->spec, &s->machine, &s->network_events, e);
	struct spec_extra extra = {.defaults = s->network.intercepts ? trust_env : NULL,
				   .fixed = (const char *const *)s->network.secret_env.item};
	rc = rc ? rc : spec_command(s->spec, s->spec->image ? &s->image.config : &base, &extra, &s->command, e);
	rc = rc ? rc : kernel_open(s->spec->kernel, &s->machine.kernel_fd, s->kernel_path, e);
	enum kvm_kind kind;
	rc = rc ? rc : kvm_open(&s->machine.kvm_fd, &kind, e);
	if (rc)
		return rc;
	int session[2], control[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, session))
		return err_sys(e, -errno, "cannot make a socket");
	s->session_fd = session[0];
	s->machine.agent_fd = session[1];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control))
		return err_sys(e, -errno, "cannot make a socket");
	s->control_fd = control[0];
	s->machine.control_fd = control[1];
	s->event.fd = s->machine.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->event.fd < 0)
		return err_sys(e, -errno, "cannot make an eventfd");
	s->machine.cpus = spec_vcpus(s->spec);
	s->machine.memory_bytes = (uint64_t)s->spec->memory_mb << 20;
	s->machine.kernel_path = s->kernel_path;
	s->machine.initrd = asset_initramfs;
	s->machine.initrd_bytes = (size_t)(asset_initramfs_end - asset_initramfs);
	s->machine.console = s->spec->console_fd >= 0;
	s->console = (struct loop_source){
		.fd = s->machine.console ? fcntl(s->spec->console_fd, F_DUPFD_CLOEXEC, 3) : -1, .ready = console_ready, .context = s};
	s->grace = (struct loop_source){
		.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), .ready = explain_loss, .context = s};
	if (s->grace.fd < 0)
		return err_sys(e, -errno, "cannot make a timer");
	s->machine.status = s->status;
	return 0;
}

/* Keeps signals for the command from ending us: they are read from a descriptor instead. */
static int take_signals(struct sandbox *s, struct err *e)
{
	sigset_t set;
	sigemptyset(&set);
	static const int forwarded[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
	for (size_t i = 0; s->spec->forward_signals && i < sizeof forwarded / sizeof forwarded[0]; i++)
		sigaddset(&set, forwarded[i]);
	int rc = pthread_sigmask(SIG_BLOCK, &set, &s->old_mask);
	if (rc)
		return err_sys(e, -rc, "cannot block signals");
	s->mask_changed = true;
	s->signals = (struct loop_source){
		.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), .ready = signal_arrived, .context = s};
	if (s->signals.fd < 0 || loop_add(&s->loop, &s->signals, EPOLLIN))
		return err_sys(e, -errno, "cannot watch signals");
	return 0;
}

static int start_timer(struct sandbox *s, struct err *e)
{
	if (s->spec->timeout_ms == 0)
		return 0;
	struct itimerspec when = {
		.it_value = {.tv_sec = s->spec->timeout_ms / 1000, .tv_nsec = s->spec->timeout_ms % 1000 * 1000000l}};
	s->timer = (struct loop_source){
		.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), .ready = time_is_up, .context = s};
	if (s->timer.fd < 0 || timerfd_settime(s->timer.fd, 0, &when, NULL) || loop_add(&s->loop, &s->timer, EPOLLIN))
		return err_sys(e, -errno, "cannot start the timer");
	return 0;
}

/* On a host that may only emulate, a guest may also spin for ever. */
static void no_agent_yet(void *context, uint32_t events)
{
	(void)events;
	struct sandbox *s = context;
	loop_remove(&s->loop, &s->suspicion);
	if (atomic_load(&s->status->timeline_ns[TIMELINE_AGENT]) == 0)
		blame_host(s);
}

static int start_suspicion(struct sandbox *s, struct err *e)
{
	static const struct itimerspec when = {.it_value = {.tv_sec = SUSPICION_S}};
	if (!kvm_suspect())
		return 0;
	s->suspicion = (struct loop_source){
		.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), .ready = no_agent_yet, .context = s};
	if (s->suspicion.fd < 0 || timerfd_settime(s->suspicion.fd, 0, &when, NULL) || loop_add(&s->loop, &s->suspicion, EPOLLIN))
		return err_sys(e, -errno, "cannot start a timer");
	return 0;
}

/* Closes what only the vmm needs. */
static void close_machine_fds(struct machine_config *c)
{
	io_close(&c->kernel_fd);
	io_close(&c->kvm_fd);
	io_close(&c->agent_fd);
	io_close(&c->control_fd);
	io_close(&c->net.gate_fd);
	io_close(&c->net.control_fd);
	policy_free(&c->net.policy);
	for (unsigned i = 0; i < c->disks; i++)
		io_close(&c->disk[i].fd);
}

static void run_machine(const void *config)
{
	machine_run(config);
}

static int start_vmm(struct sandbox *s, struct err *e)
{
	struct machine_config *c = &s->machine;
	struct process p = {.name = "caplock-vmm", .run = run_machine, .config = c, .jail.fds_max = VMM_FDS_MAX};
	process_keep(&p, c->kernel_fd);
	process_keep(&p, c->kvm_fd);
	process_keep(&p, c->agent_fd);
	process_keep(&p, c->control_fd);
	process_keep(&p, c->event_fd);
	process_keep(&p, c->net.gate_fd);
	process_keep(&p, c->net.control_fd);
	for (unsigned i = 0; i < c->disks; i++) {
		process_keep(&p, c->disk[i].fd);
		if (!c->disk[i].readonly && p.jail.file_bytes_max < c->disk[i].offset_bytes + c->disk[i].len_bytes)
			p.jail.file_bytes_max = c->disk[i].offset_bytes + c->disk[i].len_bytes;
	}
	int rc = process_start(&p, &s->vmm.fd, e);
	close_machine_fds(c);
	return rc;
}

static int start_session(struct sandbox *s, struct err *e)
{
	struct agent_stdio stdio = {s->spec->stdin_fd, s->spec->stdout_fd, s->spec->stderr_fd};
	int fd = s->session_fd;
	s->session_fd = -1;
	return agent_session_create(&s->loop, fd, &stdio, agent_event, s, &s->session, e);
}

/* The value of a variable of the command, or NULL. */
static const char *command_env(const struct sandbox *s, const char *name)
{
	size_t n = strlen(name);
	for (char **v = s->command.env; v && *v; v++)
		if (strncmp(*v, name, n) == 0 && (*v)[n] == '=')
			return *v + n + 1;
	return NULL;
}

static int start_command(struct sandbox *s, struct err *e)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	struct agent_setup setup = {
		.hostname = s->spec->hostname ? s->spec->hostname : "caplock",
		.clock_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec,
		.cpu_milli = s->spec->cpus < spec_vcpus(s->spec) ? (uint32_t)ceil(s->spec->cpus * 1000) : 0,
		.ca = network_certificate(&s->network),
		.java_home = command_env(s, "JAVA_HOME"),
	};
	struct agent_command command = {
		.argv = (const char *const *)s->command.argv,
		.env = (const char *const *)s->command.env,
		.cwd = s->command.workdir,
		.user = s->command.user,
	};
	return agent_session_run(s->session, &setup, &command, e);
}

static int start(struct sandbox *s, struct err *e)
{
	int rc = loop_create(&s->loop);
	if (rc)
		return err_sys(e, rc, "cannot make an event loop");
	rc = take_signals(s, e);
	rc = rc ? rc : start_timer(s, e);
	rc = rc ? rc : prepare(s, e);
	if (rc)
		return rc;
	s->event.ready = status_changed;
	s->event.context = s;
	rc = loop_add(&s->loop, &s->event, EPOLLIN);
	if (rc)
		return err_sys(e, rc, "cannot watch the machine");
	s->vmm = (struct loop_source){.fd = -1, .ready = explain_loss, .context = s};
	rc = start_vmm(s, e);
	rc = rc ? rc : network_start(&s->network, &s->loop, e);
	rc = rc ? rc : start_suspicion(s, e);
	rc = rc ? rc : start_session(s, e);
	return rc || !network_is_ready(&s->network) ? rc : start_command(s, e);
}

static void report(struct sandbox *s)
{
	for (int i = 0; i < CAPLOCK_MOMENTS; i++)
		s->result->timeline_ns[i] = atomic_load(&s->status->timeline_ns[i]);
	s->result->cpu_before_run_ns = atomic_load(&s->status->cpu_before_run_ns);
	s->result->denied = network_denied(&s->network);
	copy_console(s, CONSOLE_WAIT_MS);
}

/*
 * Runs the sandbox of `spec` until its command has ended; `result` then says how. start_ns and main_ns are T0 and T1 of the
 * timeline. The machine is dead or dying when this returns: sandbox_destroy() waits for its end, and a program that is
 * about to exit need not call it.
 */
struct sandbox *sandbox_run(const struct caplock_spec *spec, uint64_t start_ns, uint64_t main_ns,
			    struct caplock_result *result)
{
	*result = (struct caplock_result){.outcome = CAPLOCK_REFUSED, .status = STATUS_REFUSED};
	struct err e;
	if (spec_validate(spec, &e)) {
		snprintf(result->message, sizeof result->message, "%s", e.text);
		return NULL;
	}
	struct sandbox *s = calloc(1, sizeof *s);
	if (!s || !(s->status = status_create())) {
		free(s);
		snprintf(result->message, sizeof result->message, "out of memory");
		return NULL;
	}
	s->spec = spec;
	s->result = result;
	s->session_fd = s->control_fd = s->event.fd = s->signals.fd = s->timer.fd = s->loop.epoll_fd = s->loop.stop_fd = -1;
	s->grace.fd = s->suspicion.fd = s->console.fd = s->vmm.fd = -1;
	s->machine.net.gate_fd = s->machine.net.control_fd = -1;
	network_init(&s->network);
	s->network_events = (struct network_events){.failed = network_failed, .terminal = hold_terminal, .ready = network_ready,
						    .gate_failed = gate_failed, .context = s};
	s->machine.kvm_fd = s->machine.kernel_fd = s->machine.agent_fd = s->machine.control_fd = s->machine.event_fd = -1;
	atomic_store(&s->status->timeline_ns[TIMELINE_START], start_ns);
	atomic_store(&s->status->timeline_ns[TIMELINE_MAIN], main_ns);

	int rc = start(s, &e);
	if (rc)
		finish(s, CAPLOCK_REFUSED, STATUS_REFUSED, e.text);
	while (!s->done) {
		rc = loop_step(&s->loop, -1);
		if (rc < 0)
			finish(s, CAPLOCK_FAILED, STATUS_FAILED, "the event loop failed");
	}
	if (network_finish(&s->network, &e)) {
		s->done = false;
		finish(s, CAPLOCK_FAILED, STATUS_FAILED, e.text);
	}
	kill_vmm(s);
	report(s);
	return s;
}

/* Waits for the end of the machine's process and frees everything. Accepts NULL. */
void sandbox_destroy(struct sandbox *s)
{
	if (!s)
		return;
	agent_session_destroy(s->session);
	network_end(&s->network);
	close_machine_fds(&s->machine);
	io_close(&s->session_fd);
	io_close(&s->control_fd);
	io_close(&s->event.fd);
	io_close(&s->signals.fd);
	io_close(&s->timer.fd);
	io_close(&s->grace.fd);
	io_close(&s->suspicion.fd);
	io_close(&s->console.fd);
	loop_destroy(&s->loop);
	if (s->mask_changed)
		pthread_sigmask(SIG_SETMASK, &s->old_mask, NULL);
	while (s->vmm.fd >= 0 && waitid(P_PIDFD, (id_t)s->vmm.fd, &(siginfo_t){0}, WEXITED) && errno == EINTR)
		;
	io_close(&s->vmm.fd);
	image_free(&s->image);
	store_close(s->store);
	spec_command_free(&s->command);
	status_destroy(s->status);
	free(s);
}
