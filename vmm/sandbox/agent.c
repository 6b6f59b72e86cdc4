/*
 * One command's session with the agent in the guest.
 *
 * Theory of operation
 * -------------------
 *      caller's stdin  --read-->  out queue  --send-->  stream  --receive-->  in queue  -->  output[i].data  --write-->
 * caller's (window)                                   (window)
 *
 * Purpose: speaks guest/proto.h on a stream socket and relays the command's streams to descriptors of the caller.
 *
 * Trust boundary: everything that is received comes from the guest. frame.c checks each frame by itself; here its order
 * is checked (HELLO, then STARTED or ERROR, then output, then EXIT) and its amount (windows). What breaks a rule ends
 * the session with AGENT_LOST. The bytes of the streams are relayed and never looked at.
 *
 * Bounds: an output keeps at most a window, so a caller that does not read stdout stalls the command's stdout and
 * nothing else. stdin is read only while its window is open and the out queue is short, and not before the command
 * runs: a command that cannot be started consumes nothing.
 *
 * The caller's descriptors must not block the loop, and must not become non-blocking either: they are shared with other
 * processes. So each is opened anew through /proc where that makes an independent description of the same thing
 * (terminals, pipes, devices), with O_NONBLOCK; sockets have MSG_DONTWAIT; regular files are always ready. Where
 * opening anew is not allowed, the descriptor is used as it is, once per readiness event and for at most PIPE_BUF
 * bytes, which a pipe that is ready takes without waiting.
 *
 * An output that cannot be written any more is closed in the guest too, so that the command gets SIGPIPE, as in a
 * pipeline.
 */
#include "vmm/sandbox/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "guest/frame.h"
#include "guest/proto.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/loop.h"

enum {
	OUT_LIMIT_BYTES = 128 << 10, /* so much is queued to the guest before stdin is left alone */
	SIGNAL_MAX = 64,
	STATUS_MIN = 125, /* of an ERROR */
	STATUS_MAX = 127,
};

enum state { GREETING, STARTING, RUNNING, EXITED, ENDED };

enum access { BY_FILE, BY_SOCKET, ALWAYS_READY };

/* A descriptor of the caller, as we use it. source.fd is ours, -1 when it is closed. */
struct endpoint {
	struct loop_source source;
	enum access access;
	bool may_block, watched;
};

struct output {
	struct endpoint to;
	struct agent_session *session;
	struct queue data;
	struct window window;
	enum proto_stream stream;
	bool closed; /* nobody reads it: what arrives is dropped */
};

struct agent_session {
	struct loop *loop;
	agent_event_fn event;
	void *context;
	enum state state;
	bool asked;       /* for the command, by agent_session_run() */
	bool output_seen;
	struct loop_source stream;
	struct queue in, out;
	struct endpoint input;
	struct window input_window;
	bool input_ended, input_held;
	struct output output[2]; /* stdout, stderr */
	enum agent_event exit_event;
	int exit_value;
};

/* ---- The caller's descriptors ---- */

/* Whether opening /proc/self/fd/N gives the same thing again; the master of a pty would give a new pty. */
static bool can_open_anew(int fd, const struct stat *st)
{
	return S_ISFIFO(st->st_mode) || (S_ISCHR(st->st_mode) && st->st_rdev != makedev(5, 2) && isatty(fd));
}

/* Makes `fd` of the caller (-1: none) an endpoint that is opened with `flags`. Returns 0 or -errno. */
static int endpoint_create(struct loop *loop, struct endpoint *p, int fd, int flags)
{
	struct stat st;
	char path[32];
	if (fd < 0)
		return 0;
	if (fstat(fd, &st))
		return -errno;
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	if (can_open_anew(fd, &st))
		p->source.fd = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (p->source.fd < 0) {
		p->source.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		p->may_block = true;
	}
	if (p->source.fd < 0)
		return -errno;
	if (S_ISSOCK(st.st_mode))
		p->access = BY_SOCKET;
	/* What cannot be polled, as files and /dev/null, is always ready. */
	int rc = loop_add(loop, &p->source, EPOLLIN);
	if (rc == -EPERM)
		p->access = ALWAYS_READY;
	else if (rc)
		return rc;
	else
		loop_remove(loop, &p->source);
	return 0;
}

/* Watches for `events`, or for nothing at all (0), not even hang-ups. Returns 0 or -errno. */
static int endpoint_watch(struct agent_session *s, struct endpoint *p, uint32_t events)
{
	if (p->source.fd < 0 || p->access == ALWAYS_READY)
		return 0;
	if (events && p->watched)
		return loop_change(s->loop, &p->source, events);
	if (events) {
		int rc = loop_add(s->loop, &p->source, events);
		p->watched = rc == 0;
		return rc;
	}
	if (p->watched)
		loop_remove(s->loop, &p->source);
	p->watched = false;
	return 0;
}

static void endpoint_close(struct agent_session *s, struct endpoint *p)
{
	endpoint_watch(s, p, 0);
	io_close(&p->source.fd);
}

static bool passed(ssize_t n)
{
	return n == -EAGAIN || n == -EINTR;
}

static ssize_t endpoint_write(const struct endpoint *p, const uint8_t *data, size_t len_bytes)
{
	if (p->may_block && p->access == BY_FILE && len_bytes > PIPE_BUF)
		len_bytes = PIPE_BUF;
	ssize_t n = p->access == BY_SOCKET ? send(p->source.fd, data, len_bytes, MSG_DONTWAIT | MSG_NOSIGNAL)
					   : write(p->source.fd, data, len_bytes);
	return n < 0 ? -errno : n;
}

/* ---- End ---- */

static void stream_close(struct agent_session *s)
{
	if (s->stream.fd >= 0)
		loop_remove(s->loop, &s->stream);
	io_close(&s->stream.fd);
}

static void release(struct agent_session *s)
{
	endpoint_close(s, &s->input);
	for (int i = 0; i < 2; i++)
		endpoint_close(s, &s->output[i].to);
	stream_close(s);
	s->state = ENDED;
}

/* Ends the session; the caller may destroy it meanwhile, so nothing touches it afterwards. */
static void end(struct agent_session *s, enum agent_event event, int value, const char *text)
{
	release(s);
	s->event(s->context, event, value, text);
}

static const char guest_ended[] = "the guest ended before the command did";

static bool is_end(int rc)
{
	return rc == -ENODATA || rc == -ECONNRESET || rc == -EPIPE;
}

static void lose(struct agent_session *s, int rc)
{
	struct err e;
	if (rc == -EPROTO)
		err_set(&e, rc, "the agent in the guest broke the protocol");
	else if (is_end(rc))
		err_set(&e, rc, "%s", guest_ended);
	else
		err_sys(&e, rc, "the session with the guest failed");
	end(s, AGENT_LOST, 0, e.text);
}

/* ---- Output of the command ---- */

/* Nobody reads this output: it is dropped from now on, and the command is told. */
static int output_close(struct output *o)
{
	struct agent_session *s = o->session;
	endpoint_close(s, &o->to);
	o->closed = true;
	o->window.consumed += (uint32_t)queue_len(&o->data);
	queue_consume(&o->data, queue_len(&o->data));
	return s->state == RUNNING ? frame_put_u32(&s->out, PROTO_CLOSED, 1, (const uint32_t[]){o->stream}) : 0;
}

/* A descriptor of the caller's does not do its work: that is for the caller to know, the session goes on. */
static void stream_failed(struct agent_session *s, int rc, const char *what)
{
	struct err e;
	err_sys(&e, rc, "%s", what);
	s->event(s->context, AGENT_STREAM, 0, e.text);
}

/* Writes once. Returns 0 or -errno, which ends the session. */
static int output_write(struct output *o)
{
	ssize_t n = endpoint_write(&o->to, o->data.data + o->data.start, queue_len(&o->data));
	if (passed(n))
		return 0;
	if (n < 0 && !is_end((int)n)) /* a reader that is gone is none */
		stream_failed(o->session, (int)n,
			      o->stream == PROTO_STREAM_STDERR ? "cannot write standard error" : "cannot write standard output");
	if (n < 0)
		return output_close(o);
	o->window.consumed += (uint32_t)n;
	queue_consume(&o->data, (size_t)n);
	return 0;
}

static int take_output(struct agent_session *s, struct output *o, const struct frame *f)
{
	if (s->state != RUNNING || window_received(&o->window, f->len))
		return -EPROTO;
	if (!s->output_seen) {
		s->output_seen = true;
		s->event(s->context, AGENT_OUTPUT, 0, NULL);
	}
	if (o->closed || o->to.source.fd < 0) {
		o->window.consumed += f->len;
		return 0;
	}
	return queue_add(&o->data, f->payload, f->len);
}

/* ---- Input of the command ---- */

static bool input_wanted(const struct agent_session *s)
{
	return s->state == RUNNING && s->input.source.fd >= 0 && !s->input_held && s->input_window.open &&
	       queue_len(&s->out) < OUT_LIMIT_BYTES;
}

static int input_end(struct agent_session *s)
{
	endpoint_close(s, &s->input);
	s->input_ended = true;
	return frame_put(&s->out, PROTO_STDIN_EOF, NULL, 0);
}

/* Reads once. Returns 0 or -errno, which ends the session. */
static int input_read(struct agent_session *s)
{
	ssize_t n = frame_read_data(&s->out, PROTO_STDIN, s->input.source.fd, s->input_window.open,
				    s->input.access == BY_SOCKET);
	if (n == -ENOMEM)
		return -ENOMEM;
	if (passed(n))
		return 0;
	if (n < 0)
		stream_failed(s, (int)n, "cannot read standard input");
	if (n <= 0)
		return input_end(s);
	s->input_window.open -= (uint32_t)n;
	return 0;
}

/* ---- Frames ---- */

static int take_hello(struct agent_session *s, const struct frame *f)
{
	if (f->type != PROTO_HELLO || frame_u32(f->payload) != PROTO_MAGIC ||
	    frame_u32(f->payload + 4) != PROTO_VERSION)
		return -EPROTO;
	s->state = STARTING;
	s->event(s->context, AGENT_HELLO, 0, NULL);
	return 0;
}

/* Returns 1 where the session has ended, with the answer told. */
static int take_answer(struct agent_session *s, const struct frame *f)
{
	if (!s->asked)
		return -EPROTO;
	if (f->type == PROTO_STARTED) {
		s->state = RUNNING;
		s->event(s->context, AGENT_STARTED, 0, NULL);
		return s->input.source.fd < 0 ? input_end(s) : 0;
	}
	if (f->type != PROTO_ERROR)
		return -EPROTO;
	uint32_t status = frame_u32(f->payload);
	if (status < STATUS_MIN || status > STATUS_MAX)
		return -EPROTO;
	struct err e;
	err_set(&e, 0, "%.*s", (int)(f->len - 4), (const char *)f->payload + 4);
	end(s, AGENT_REFUSED, (int)status, e.text);
	return 1;
}

/* Nothing more comes: what is here goes to the caller, then the session ends with `event`. */
static void drain(struct agent_session *s, enum agent_event event, int value)
{
	s->state = EXITED;
	s->exit_event = event;
	s->exit_value = value;
	endpoint_close(s, &s->input);
	stream_close(s);
}

static int take_exit(struct agent_session *s, const struct frame *f)
{
	uint32_t how = frame_u32(f->payload), value = frame_u32(f->payload + 4);
	bool exited = how == PROTO_EXITED && value <= 255;
	bool killed = how == PROTO_SIGNALLED && value >= 1 && value <= SIGNAL_MAX;
	if (!exited && !killed)
		return -EPROTO;
	drain(s, exited ? AGENT_EXITED : AGENT_KILLED, (int)value);
	return 0;
}

static int take_running(struct agent_session *s, const struct frame *f)
{
	switch (f->type) {
	case PROTO_STDOUT:
		return take_output(s, &s->output[0], f);
	case PROTO_STDERR:
		return take_output(s, &s->output[1], f);
	case PROTO_WINDOW:
		if (frame_u32(f->payload) != PROTO_STREAM_STDIN)
			return -EPROTO;
		return window_given(&s->input_window, frame_u32(f->payload + 4));
	case PROTO_EXIT:
		return take_exit(s, f);
	default:
		return -EPROTO;
	}
}

/* Takes every frame that has arrived. Returns 0, 1 where the session has ended, or -errno. */
static int take_frames(struct agent_session *s)
{
	struct frame f;
	int rc = 0;
	while (rc == 0 && s->state < EXITED && (rc = frame_take(&s->in, FRAME_FROM_GUEST, &f)) == 1)
		rc = s->state == GREETING   ? take_hello(s, &f)
		     : s->state == STARTING ? take_answer(s, &f)
					    : take_running(s, &f);
	return rc;
}

/* ---- Settling ---- */

/* Relays to and from what is always ready, as much as may be. */
static int pump_files(struct agent_session *s)
{
	int rc = 0;
	for (int i = 0; i < 2; i++) {
		struct output *o = &s->output[i];
		while (rc == 0 && o->to.access == ALWAYS_READY && queue_len(&o->data))
			rc = output_write(o);
	}
	while (rc == 0 && s->input.access == ALWAYS_READY && input_wanted(s))
		rc = input_read(s);
	return rc;
}

static int give_back(struct agent_session *s)
{
	int rc = 0;
	for (int i = 0; i < 2 && rc == 0 && s->state == RUNNING && queue_len(&s->out) < OUT_LIMIT_BYTES; i++)
		rc = window_give_back(&s->output[i].window, s->output[i].stream, &s->out);
	return rc;
}

static int watch(struct agent_session *s)
{
	int rc = endpoint_watch(s, &s->input, input_wanted(s) ? EPOLLIN : 0);
	for (int i = 0; i < 2; i++)
		rc = rc ? rc : endpoint_watch(s, &s->output[i].to, queue_len(&s->output[i].data) ? EPOLLOUT : 0);
	if (rc || s->stream.fd < 0)
		return rc;
	/* A file has no event of its own: it is read when the stream takes more. */
	bool more = queue_len(&s->out) || (s->input.access == ALWAYS_READY && input_wanted(s));
	return loop_change(s->loop, &s->stream, EPOLLIN | (more ? EPOLLOUT : 0));
}

/* Sends what the stream takes. A guest that reads no more may have sent its EXIT before: its end is seen by reading. */
static int send_out(struct agent_session *s)
{
	if (s->stream.fd < 0)
		return 0;
	int rc = queue_send(&s->out, s->stream.fd);
	if (rc != -EPIPE && rc != -ECONNRESET)
		return rc;
	queue_consume(&s->out, queue_len(&s->out));
	return 0;
}

static bool has_output(const struct agent_session *s)
{
	return queue_len(&s->output[0].data) || queue_len(&s->output[1].data);
}

/* After each event: sends and relays what can go now, and watches for the rest. `rc` is the event's result so far. */
static void settle(struct agent_session *s, int rc)
{
	if (is_end(rc) && s->state == RUNNING && has_output(s)) { /* the last words before a crash are worth most */
		drain(s, AGENT_LOST, 0);
		rc = 0;
	}
	rc = rc ? rc : pump_files(s);
	rc = rc ? rc : give_back(s);
	rc = rc ? rc : send_out(s);
	rc = rc ? rc : watch(s);
	if (rc < 0)
		lose(s, rc);
	else if (rc == 0 && s->state == EXITED && !has_output(s))
		end(s, s->exit_event, s->exit_value, s->exit_event == AGENT_LOST ? guest_ended : NULL);
}

static void stream_ready(void *context, uint32_t events)
{
	(void)events;
	struct agent_session *s = context;
	int rc = frame_receive(&s->in, s->stream.fd);
	settle(s, rc == 1 ? take_frames(s) : rc);
}

static void input_ready(void *context, uint32_t events)
{
	(void)events;
	struct agent_session *s = context;
	settle(s, input_wanted(s) ? input_read(s) : 0);
}

static void output_ready(void *context, uint32_t events)
{
	(void)events;
	struct output *o = context;
	settle(o->session, queue_len(&o->data) ? output_write(o) : 0);
}

/* ---- Life ---- */

static int put_setup(struct queue *q, const struct agent_setup *setup)
{
	uint8_t clock[8], milli[4];
	size_t place = frame_begin(q, PROTO_SETUP);
	if (place == SIZE_MAX)
		return -ENOMEM;
	frame_put_le(clock, sizeof clock, setup->clock_ns);
	frame_put_le(milli, sizeof milli, setup->cpu_milli);
	int rc = field_put(q, PROTO_FIELD_HOSTNAME, setup->hostname, strlen(setup->hostname));
	rc = rc ? rc : field_put(q, PROTO_FIELD_CLOCK_NS, clock, sizeof clock);
	if (setup->cpu_milli)
		rc = rc ? rc : field_put(q, PROTO_FIELD_CPU_MILLI, milli, sizeof milli);
	if (setup->ca)
		rc = rc ? rc : field_put(q, PROTO_FIELD_CA, setup->ca, strlen(setup->ca));
	if (setup->ca && setup->java_home)
		rc = rc ? rc : field_put(q, PROTO_FIELD_JAVA_HOME, setup->java_home, strlen(setup->java_home));
	return rc ? rc : frame_end(q, place);
}

static int put_strings(struct queue *q, uint16_t tag, const char *const *s)
{
	int rc = 0;
	for (; rc == 0 && s && *s; s++)
		rc = field_put(q, tag, *s, strlen(*s));
	return rc;
}

static int put_exec(struct queue *q, const struct agent_command *c)
{
	const char *const cwd[] = {c->cwd, NULL}, *const user[] = {c->user, NULL};
	size_t place = frame_begin(q, PROTO_EXEC);
	if (place == SIZE_MAX)
		return -ENOMEM;
	int rc = put_strings(q, PROTO_FIELD_ARG, c->argv);
	rc = rc ? rc : put_strings(q, PROTO_FIELD_ENV, c->env);
	rc = rc ? rc : put_strings(q, PROTO_FIELD_CWD, cwd);
	rc = rc ? rc : put_strings(q, PROTO_FIELD_USER, user);
	return rc ? rc : frame_end(q, place);
}

static int prepare(struct agent_session *s, const struct agent_stdio *stdio)
{
	int rc = endpoint_create(s->loop, &s->input, stdio->in, O_RDONLY);
	rc = rc ? rc : endpoint_create(s->loop, &s->output[0].to, stdio->out, O_WRONLY);
	rc = rc ? rc : endpoint_create(s->loop, &s->output[1].to, stdio->err, O_WRONLY);
	return rc ? rc : loop_add(s->loop, &s->stream, EPOLLIN);
}

/*
 * Starts a session on the stream socket `fd`, which it owns from now on, also where this fails; agent_session_run() is what it is
 * for. Events come from the loop, never from inside this call. Returns 0 or -errno.
 */
int agent_session_create(struct loop *loop, int fd, const struct agent_stdio *stdio, agent_event_fn event, void *context,
			 struct agent_session **out, struct err *e)
{
	struct agent_session *s = calloc(1, sizeof *s);
	if (!s) {
		close(fd);
		return err_sys(e, -ENOMEM, "cannot start a session");
	}
	s->loop = loop;
	s->event = event;
	s->context = context;
	s->stream = (struct loop_source){.fd = fd, .ready = stream_ready, .context = s};
	s->input.source = (struct loop_source){.fd = -1, .ready = input_ready, .context = s};
	window_open(&s->input_window);
	for (int i = 0; i < 2; i++) {
		struct output *o = &s->output[i];
		o->to.source = (struct loop_source){.fd = -1, .ready = output_ready, .context = o};
		o->session = s;
		o->stream = i ? PROTO_STREAM_STDERR : PROTO_STREAM_STDOUT;
		window_open(&o->window);
	}
	int rc = prepare(s, stdio);
	if (rc) {
		agent_session_destroy(s);
		return err_sys(e, rc, "cannot relay the command's streams");
	}
	*out = s;
	return 0;
}

/*
 * Has the command run, once, whether or not the agent has said HELLO by now. `setup` is NULL on every stream of a guest but the
 * first. Nothing is kept of the arguments. Returns 0, or -errno, -E2BIG where the command does not fit a frame.
 */
int agent_session_run(struct agent_session *s, const struct agent_setup *setup, const struct agent_command *command,
		      struct err *e)
{
	int rc = setup ? put_setup(&s->out, setup) : 0;
	rc = rc ? rc : put_exec(&s->out, command);
	if (rc == -E2BIG)
		return err_set(e, rc, "the command's arguments and environment are larger than %d bytes: give less",
			       PROTO_PAYLOAD_MAX);
	s->asked = true;
	if (rc == 0 && s->stream.fd >= 0)
		rc = loop_change(s->loop, &s->stream, EPOLLIN | EPOLLOUT);
	return rc ? err_sys(e, rc, "cannot start a session") : 0;
}

/* Ends a session without an event. A command that still runs is killed by the agent. Accepts NULL. */
void agent_session_destroy(struct agent_session *s)
{
	if (!s)
		return;
	release(s);
	queue_free(&s->in);
	queue_free(&s->out);
	for (int i = 0; i < 2; i++)
		queue_free(&s->output[i].data);
	free(s);
}

/*
 * Sends a signal to the command's process group; one that has not started yet gets it when it does. Returns 0, -EINVAL
 * for a number that is no signal, -ESRCH where the command has ended, -EAGAIN where the guest takes nothing, or
 * -ENOMEM.
 */
int agent_session_signal(struct agent_session *s, int signal_number)
{
	if (signal_number < 1 || signal_number > SIGNAL_MAX)
		return -EINVAL;
	if (s->state >= EXITED)
		return -ESRCH;
	if (queue_len(&s->out) >= 2 * (size_t)OUT_LIMIT_BYTES + PROTO_PAYLOAD_MAX)
		return -EAGAIN;
	int rc = frame_put_u32(&s->out, PROTO_SIGNAL, 1, (const uint32_t[]){(uint32_t)signal_number});
	return rc ? rc : loop_change(s->loop, &s->stream, EPOLLIN | EPOLLOUT);
}

/* Leaves the command's standard input alone for a while: what is typed meanwhile is for somebody else. */
void agent_session_hold_input(struct agent_session *s, bool hold)
{
	s->input_held = hold;
	settle(s, 0);
}
