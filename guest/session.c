/*
 * Sessions.
 *
 * Theory of operation
 * -------------------
 *      CONNECTING -> IDLE --EXEC--> STARTING --report ends--> RUNNING --exit, all output relayed--> CLOSING -> gone
 *                     |               +-----report says why---------------------------------ERROR----^
 *                     +--SHUTDOWN--> STOPPING --every process gone, disk written---------------EXIT--^
 *
 * Every event of a session ends in settle(), which sends what is queued, decides what to watch next, and may destroy
 * the session. Flow: an output pipe is read only while its own window is open and the queue to the host is short; stdin
 * is kept for the command up to its window. So a session's memory is bounded, and no stream waits for another.
 *
 * The end of a command: what is in its pipes when it has exited is relayed, then EXIT is sent. A background process
 * that keeps the pipes open is not waited for; it lives on, and gets SIGPIPE when it writes again.
 *
 * A stream that the host closes while the command runs kills the command's process group: nobody is left who could.
 */
#include "guest/session.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/exec.h"
#include "guest/frame.h"
#include "guest/log.h"
#include "guest/poll.h"
#include "guest/proto.h"
#include "guest/setup.h"
#include "guest/shutdown.h"

enum {
	OUT_LIMIT_BYTES = 128 << 10, /* so much is queued to the host before pipes are left alone */
	STATUS_SANDBOX = 125,
	SIGNAL_MAX = 64,
};

enum state { CONNECTING, IDLE, STARTING, RUNNING, STOPPING, CLOSING };

struct output {
	struct source source;
	struct window window;
	struct session *session;
	size_t left; /* after the command's exit: bytes still to relay */
	uint8_t type;
};

struct session {
	struct session *next;
	enum state state;
	enum session_kind kind;
	bool set_up, reaped, failed;
	struct source stream, input, report;
	struct queue in, out, input_data;
	struct window input_window;
	bool input_ended;
	struct output output[2]; /* stdout, stderr */
	pid_t pid;               /* 0: none, or reaped */
	int wait_status;
	uint64_t early_signals; /* bit n-1: signal n, for when the command runs */
};

static struct session *sessions;
static unsigned session_count;
static struct session *stopping; /* the one that waits for the shutdown */
static const char *failure;

/* Says what is wrong with the sandbox (NULL: nothing); every command is refused with it. Not copied. */
void session_configure(const char *why)
{
	failure = why;
}

/* ---- End ---- */

static void destroy(struct session *s)
{
	struct session **link = &sessions;
	while (*link != s)
		link = &(*link)->next;
	*link = s->next;
	session_count--;
	if (s->pid > 0) {
		kill(s->pid, SIGKILL); /* it may not have its own group yet */
		kill(-s->pid, SIGKILL);
	}
	enum state state = s->state;
	enum session_kind kind = s->kind;
	poll_close(&s->stream);
	poll_close(&s->input);
	poll_close(&s->report);
	for (int i = 0; i < 2; i++)
		poll_close(&s->output[i].source);
	queue_free(&s->in);
	queue_free(&s->out);
	queue_free(&s->input_data);
	bool was_stopping = s == stopping;
	free(s);
	if (was_stopping) {
		stopping = NULL;
		if (state == CLOSING)
			shutdown_reset();
	}
	if (kind == SESSION_FIRST && state == CONNECTING)
		log_fatal("the agent cannot reach the supervisor");
}

/* Queues the last frame's consequence: nothing but flushing is left. */
static void close_when_sent(struct session *s)
{
	s->state = CLOSING;
	poll_close(&s->input);
	poll_close(&s->report);
	for (int i = 0; i < 2; i++)
		poll_close(&s->output[i].source);
}

static void refuse(struct session *s, const char *text)
{
	char payload[4 + 512] = {STATUS_SANDBOX};
	int n = snprintf(payload + 4, sizeof payload - 4, "%s", text);
	size_t len = n < 0 ? 0 : (size_t)n < sizeof payload - 4 ? (size_t)n : sizeof payload - 5;
	s->failed |= frame_put(&s->out, PROTO_ERROR, payload, (uint32_t)(4 + len)) != 0;
	close_when_sent(s);
}

/* ---- Settling ---- */

static uint32_t output_events(const struct session *s, const struct output *o)
{
	return o->source.fd >= 0 && o->window.open && queue_len(&s->out) < OUT_LIMIT_BYTES ? EPOLLIN : 0;
}

static int watch(struct source *source, uint32_t events)
{
	return source->fd >= 0 ? poll_watch(source, events) : 0;
}

/* Sends EXIT when there is nothing left to relay. */
static void check_exit(struct session *s)
{
	if (s->state != RUNNING || !s->reaped || s->output[0].source.fd >= 0 || s->output[1].source.fd >= 0)
		return;
	bool killed = WIFSIGNALED(s->wait_status);
	uint32_t how[2] = {killed ? PROTO_SIGNALLED : PROTO_EXITED,
			   (uint32_t)(killed ? WTERMSIG(s->wait_status) : WEXITSTATUS(s->wait_status))};
	s->failed |= frame_put_u32(&s->out, PROTO_EXIT, 2, how) != 0;
	close_when_sent(s);
}

/* Sends what is queued and watches for what may come next. Destroys the session where it is over. */
static void settle(struct session *s)
{
	int rc = s->failed ? -EPIPE : 0;
	if (s->state == CONNECTING && rc == 0)
		return;
	check_exit(s);
	if (queue_len(&s->out) < OUT_LIMIT_BYTES)
		rc = rc ? rc : window_give_back(&s->input_window, PROTO_STREAM_STDIN, &s->out);
	rc = rc ? rc : queue_send(&s->out, s->stream.fd);
	/* The stream of a shutdown stays until the host has closed it: a reset would overtake the EXIT. */
	if (rc == 0 && s->state == CLOSING && queue_len(&s->out) == 0 && s != stopping)
		rc = -EPIPE;
	rc = rc ? rc : watch(&s->stream, EPOLLIN | (queue_len(&s->out) ? EPOLLOUT : 0));
	rc = rc ? rc : watch(&s->input, queue_len(&s->input_data) ? EPOLLOUT : 0);
	for (int i = 0; i < 2; i++)
		rc = rc ? rc : watch(&s->output[i].source, output_events(s, &s->output[i]));
	if (rc)
		destroy(s);
}

/* ---- The command's pipes ---- */

/* The command has exited: what is in its pipes now is the rest of its output. */
static void command_ended(struct session *s)
{
	poll_close(&s->input);
	for (int i = 0; i < 2; i++) {
		struct output *o = &s->output[i];
		int bytes = 0;
		if (o->source.fd < 0)
			continue;
		if (ioctl(o->source.fd, FIONREAD, &bytes) || bytes <= 0)
			poll_close(&o->source);
		o->left = (size_t)bytes;
	}
}

static void output_ready(struct source *source)
{
	struct output *o = CONTAINER(source, struct output, source);
	struct session *s = o->session;
	size_t max = o->window.open < o->left ? o->window.open : o->left;
	ssize_t n = frame_read_data(&s->out, o->type, source->fd, max, false);
	if (n > 0) {
		o->window.open -= (uint32_t)n;
		o->left -= s->reaped ? (size_t)n : 0;
	}
	s->failed |= n == -ENOMEM;
	if (n == 0 || (n < 0 && n != -EAGAIN && n != -EINTR) || o->left == 0)
		poll_close(source);
	settle(s);
}

/* Gives the command's stdin what is queued for it. */
static void write_input(struct session *s)
{
	while (s->input.fd >= 0 && queue_len(&s->input_data)) {
		ssize_t n = write(s->input.fd, s->input_data.data + s->input_data.start, queue_len(&s->input_data));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			poll_close(&s->input); /* the command reads no more */
			break;
		}
		s->input_window.consumed += (uint32_t)n;
		queue_consume(&s->input_data, (size_t)n);
	}
	if (s->input.fd < 0) {
		s->input_window.consumed += (uint32_t)queue_len(&s->input_data);
		queue_consume(&s->input_data, queue_len(&s->input_data));
	} else if (s->input_ended) {
		poll_close(&s->input);
	}
}

static void input_ready(struct source *source)
{
	struct session *s = CONTAINER(source, struct session, input);
	write_input(s);
	settle(s);
}

/* ---- Start of a command ---- */

static void deliver_early_signals(struct session *s)
{
	for (int n = 1; n <= SIGNAL_MAX && !s->reaped; n++)
		if (s->early_signals & 1ull << (n - 1))
			kill(-s->pid, n);
}

/* The report pipe has ended, which says that the program runs, or told why it does not. */
static void report_ready(struct source *source)
{
	struct session *s = CONTAINER(source, struct session, report);
	uint8_t payload[4 + 1024];
	ssize_t n = read(source->fd, payload, sizeof payload);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	poll_close(source);
	if (n >= 4) {
		s->failed |= frame_put(&s->out, PROTO_ERROR, payload, (uint32_t)n) != 0;
		close_when_sent(s);
	} else {
		s->failed |= frame_put_u32(&s->out, PROTO_STARTED, 1, (const uint32_t[]){(uint32_t)s->pid}) != 0;
		s->state = RUNNING;
		deliver_early_signals(s);
		if (s->reaped)
			command_ended(s);
	}
	settle(s);
}

static int start(struct session *s, const struct frame *f)
{
	if (failure || shutdown_begun()) {
		refuse(s, failure ? failure : "the sandbox is being shut down");
		return 0;
	}
	struct exec_request request;
	int rc = exec_parse(f->payload, f->len, &request);
	if (rc)
		return rc;
	struct exec_child child;
	rc = exec_start(&request, setup_cgroup_fd(), &child);
	exec_free(&request);
	if (rc) {
		char text[128];
		snprintf(text, sizeof text, "cannot start a process in the sandbox: %s", strerror(-rc));
		refuse(s, text);
		return 0;
	}
	s->state = STARTING;
	s->pid = child.pid;
	s->input.fd = child.in;
	s->report.fd = child.report;
	s->output[0].source.fd = child.out;
	s->output[1].source.fd = child.err;
	return watch(&s->report, EPOLLIN);
}

/* Called when a process of ours was reaped: if it is a session's command, how it ended is known now. */
void session_reaped(pid_t pid, int status)
{
	struct session *s = sessions;
	while (s && s->pid != pid)
		s = s->next;
	if (!s)
		return;
	s->pid = 0;
	s->reaped = true;
	s->wait_status = status;
	if (s->state == RUNNING)
		command_ended(s);
	settle(s);
}

/* ---- Frames ---- */

static int take_input(struct session *s, const struct frame *f)
{
	int rc = window_received(&s->input_window, f->len);
	if (rc || s->input_ended)
		return -EPROTO;
	rc = queue_add(&s->input_data, f->payload, f->len);
	if (rc == 0)
		write_input(s);
	return rc;
}

static int take_signal(struct session *s, const struct frame *f)
{
	uint32_t n = frame_u32(f->payload);
	if (n < 1 || n > SIGNAL_MAX)
		return -EPROTO;
	if (s->state == STARTING)
		s->early_signals |= 1ull << (n - 1);
	else if (s->pid > 0)
		kill(-s->pid, (int)n);
	return 0;
}

/* The output that a frame's first integer names, or NULL. */
static struct output *named_output(struct session *s, const struct frame *f)
{
	uint32_t stream = frame_u32(f->payload);
	return stream == PROTO_STREAM_STDOUT ? &s->output[0] : stream == PROTO_STREAM_STDERR ? &s->output[1] : NULL;
}

/* The shutdown has stopped everything: tell the host, or nobody. */
static void all_stopped(void)
{
	struct session *s = stopping;
	if (!s) {
		shutdown_reset();
		return;
	}
	s->failed |= frame_put_u32(&s->out, PROTO_EXIT, 2, (const uint32_t[]){PROTO_EXITED, 0}) != 0;
	close_when_sent(s);
	settle(s);
}

static int handle_idle(struct session *s, const struct frame *f)
{
	switch (f->type) {
	case PROTO_SETUP:
		if (s->kind != SESSION_FIRST || s->set_up)
			return -EPROTO;
		s->set_up = true;
		return setup_apply(f->payload, f->len, &failure);
	case PROTO_EXEC:
		return start(s, f);
	case PROTO_SHUTDOWN:
		if (shutdown_begun()) {
			refuse(s, "the sandbox is being shut down");
			return 0;
		}
		s->state = STOPPING;
		stopping = s;
		shutdown_begin(all_stopped);
		return 0;
	default:
		return -EPROTO;
	}
}

static int handle_command(struct session *s, const struct frame *f)
{
	struct output *o;
	switch (f->type) {
	case PROTO_STDIN:
		return take_input(s, f);
	case PROTO_STDIN_EOF:
		if (s->input_ended)
			return -EPROTO;
		s->input_ended = true;
		write_input(s);
		return 0;
	case PROTO_SIGNAL:
		return take_signal(s, f);
	case PROTO_WINDOW:
		o = named_output(s, f);
		return o ? window_given(&o->window, frame_u32(f->payload + 4)) : -EPROTO;
	case PROTO_CLOSED:
		o = named_output(s, f);
		if (o)
			poll_close(&o->source);
		return o ? 0 : -EPROTO;
	default:
		return -EPROTO;
	}
}

static int handle(struct session *s, const struct frame *f)
{
	switch (s->state) {
	case IDLE:
		return handle_idle(s, f);
	case STARTING:
	case RUNNING:
		return handle_command(s, f);
	case CLOSING: /* sent before the host knew */
		return 0;
	default:
		return -EPROTO;
	}
}

static int greet(struct session *s)
{
	s->state = IDLE;
	return frame_put_u32(&s->out, PROTO_HELLO, 2, (const uint32_t[]){PROTO_MAGIC, PROTO_VERSION});
}

static int connected(struct session *s)
{
	int error = 0;
	socklen_t len = sizeof error;
	if (getsockopt(s->stream.fd, SOL_SOCKET, SO_ERROR, &error, &len) || error)
		return -ECONNREFUSED;
	return greet(s);
}

static void stream_ready(struct source *source)
{
	struct session *s = CONTAINER(source, struct session, stream);
	struct frame f;
	int rc = s->state == CONNECTING ? connected(s) : 0;
	if (rc == 0 && s->state != CONNECTING) {
		rc = frame_receive(&s->in, source->fd);
		while (rc >= 0 && (rc = frame_take(&s->in, FRAME_FROM_HOST, &f)) == 1)
			rc = handle(s, &f);
	}
	s->failed |= rc < 0;
	settle(s);
}

/*
 * Takes over the stream socket `fd`, non-blocking; of SESSION_FIRST it may still be connecting. Returns 0, or -errno
 * with the stream closed: too many sessions, or no memory.
 */
int session_create(int fd, enum session_kind kind)
{
	struct session *s = session_count < PROTO_SESSIONS_MAX ? calloc(1, sizeof *s) : NULL;
	if (!s) {
		close(fd);
		return -ENOMEM;
	}
	s->kind = kind;
	s->stream = (struct source){.fd = fd, .ready = stream_ready};
	s->input = (struct source){.fd = -1, .ready = input_ready};
	s->report = (struct source){.fd = -1, .ready = report_ready};
	for (int i = 0; i < 2; i++) {
		s->output[i] = (struct output){.session = s, .left = SIZE_MAX, .type = i ? PROTO_STDERR : PROTO_STDOUT};
		s->output[i].source = (struct source){.fd = -1, .ready = output_ready};
		window_open(&s->output[i].window);
	}
	window_open(&s->input_window);
	s->next = sessions;
	sessions = s;
	session_count++;
	int rc = kind == SESSION_FIRST ? watch(&s->stream, EPOLLOUT) : greet(s);
	if (rc) {
		s->state = IDLE;
		s->failed = true;
	}
	settle(s);
	return rc;
}
