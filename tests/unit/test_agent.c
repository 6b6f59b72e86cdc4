/* vmm/sandbox/agent.c against a scripted guest: what it accepts, in which order, and what it makes of hostile frames.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/frame.h"
#include "guest/proto.h"
#include "vmm/sandbox/agent.h"
#include "vmm/util/err.h"
#include "vmm/util/loop.h"

struct peer {
	struct loop loop;
	struct agent_session *session;
	int fd; /* the guest's end */
	struct queue out, in;
	int out_fd;      /* the caller's stdout: a file */
	char events[32]; /* a letter each */
	int value;
	char text[1024];
	bool destroy_at_end;
};

static void peer_event(void *context, enum agent_event event, int value, const char *text)
{
	struct peer *p = context;
	size_t n = strlen(p->events);
	cr_assert_lt(n + 1, sizeof p->events);
	p->events[n] = "HSOFEKRL"[event];
	p->value = value;
	snprintf(p->text, sizeof p->text, "%s", text ? text : "");
	if (event >= AGENT_EXITED && p->destroy_at_end) {
		agent_session_destroy(p->session);
		p->session = NULL;
	}
}

static void peer_create(struct peer *p, struct agent_stdio stdio)
{
	int pair[2];
	struct err e;
	*p = (struct peer){.out_fd = stdio.out};
	signal(SIGPIPE, SIG_IGN);
	cr_assert_eq(loop_create(&p->loop), 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	p->fd = pair[1];
	cr_assert_eq(agent_session_create(&p->loop, pair[0], &stdio, peer_event, p, &p->session, &e), 0, "%s", e.text);
}

static void peer_run(struct peer *p, const char *ca)
{
	const struct agent_setup setup = {
		.hostname = "box", .clock_ns = 0x0102030405060708, .cpu_milli = 1500, .ca = ca, .java_home = "/java"};
	static const char *const argv[] = {"prog", "arg", NULL}, *const env[] = {"A=b", NULL};
	static const struct agent_command command = {.argv = argv, .env = env, .cwd = "/w", .user = "u"};
	struct err e;
	cr_assert_eq(agent_session_run(p->session, &setup, &command, &e), 0, "%s", e.text);
}

static void peer_start_with(struct peer *p, struct agent_stdio stdio)
{
	peer_create(p, stdio);
	peer_run(p, NULL);
}

static void peer_start(struct peer *p)
{
	peer_start_with(p, (struct agent_stdio){-1, memfd_create("out", MFD_CLOEXEC), -1});
}

/* Handles what is ready, until nothing is. */
static void peer_turn(struct peer *p)
{
	while (loop_step(&p->loop, 0) > 0)
		;
}

static void peer_say(struct peer *p, const void *bytes, size_t len)
{
	if (p->fd >= 0)
		(void)!send(p->fd, bytes, len, MSG_NOSIGNAL);
	peer_turn(p);
}

static void peer_put(struct peer *p, uint8_t type, const void *payload, uint32_t len)
{
	struct queue q = {0};
	cr_assert_eq(frame_put(&q, type, payload, len), 0);
	peer_say(p, q.data, queue_len(&q));
	queue_free(&q);
}

static void peer_put_u32(struct peer *p, uint8_t type, unsigned count, uint32_t a, uint32_t b)
{
	struct queue q = {0};
	cr_assert_eq(frame_put_u32(&q, type, count, (const uint32_t[]){a, b}), 0);
	peer_say(p, q.data, queue_len(&q));
	queue_free(&q);
}

static void peer_hello(struct peer *p)
{
	peer_put_u32(p, PROTO_HELLO, 2, PROTO_MAGIC, PROTO_VERSION);
}

static void peer_started(struct peer *p)
{
	peer_hello(p);
	peer_put_u32(p, PROTO_STARTED, 1, 17, 0);
}

static void peer_stop(struct peer *p)
{
	agent_session_destroy(p->session);
	loop_destroy(&p->loop);
	if (p->fd >= 0)
		close(p->fd);
	queue_free(&p->in);
}

/* Expects the next frame from the session to be of `type`. */
static struct frame peer_expect(struct peer *p, uint8_t type)
{
	struct frame f = {0};
	peer_turn(p);
	while (frame_receive(&p->in, p->fd) == 1)
		;
	cr_assert_eq(frame_take(&p->in, FRAME_FROM_HOST, &f), 1, "no frame; wanted %d", type);
	cr_assert_eq(f.type, type, "type %d, wanted %d", f.type, type);
	return f;
}

static void expect_field(const uint8_t **at, size_t *left, uint16_t tag, const void *value, size_t len)
{
	struct field f;
	cr_assert_eq(field_next(at, left, &f), 1);
	cr_expect_eq(f.tag, tag);
	cr_assert_eq(f.len, len);
	cr_expect_eq(memcmp(f.value, value, len), 0);
}

Test(agent, sends_setup_and_exec_at_once)
{
	struct peer p;
	peer_start(&p);
	struct frame f = peer_expect(&p, PROTO_SETUP);
	const uint8_t *at = f.payload;
	size_t left = f.len;
	expect_field(&at, &left, PROTO_FIELD_HOSTNAME, "box", 3);
	expect_field(&at, &left, PROTO_FIELD_CLOCK_NS, "\x08\x07\x06\x05\x04\x03\x02\x01", 8);
	expect_field(&at, &left, PROTO_FIELD_CPU_MILLI, "\xdc\x05\0\0", 4);
	cr_expect_eq(left, 0);
	f = peer_expect(&p, PROTO_EXEC);
	at = f.payload;
	left = f.len;
	expect_field(&at, &left, PROTO_FIELD_ARG, "prog", 4);
	expect_field(&at, &left, PROTO_FIELD_ARG, "arg", 3);
	expect_field(&at, &left, PROTO_FIELD_ENV, "A=b", 3);
	expect_field(&at, &left, PROTO_FIELD_CWD, "/w", 2);
	expect_field(&at, &left, PROTO_FIELD_USER, "u", 1);
	cr_expect_eq(left, 0);
	peer_stop(&p);
}

/* A certificate may be known only later than the agent. */
Test(agent, asks_for_the_command_when_it_is_told_to)
{
	struct peer p;
	peer_create(&p, (struct agent_stdio){-1, memfd_create("out", MFD_CLOEXEC), -1});
	peer_hello(&p);
	cr_expect_str_eq(p.events, "H");
	cr_expect_eq(frame_receive(&p.in, p.fd), 0, "nothing was sent");
	peer_run(&p, "PEM");
	struct frame f = peer_expect(&p, PROTO_SETUP);
	const uint8_t *at = f.payload;
	size_t left = f.len;
	expect_field(&at, &left, PROTO_FIELD_HOSTNAME, "box", 3);
	expect_field(&at, &left, PROTO_FIELD_CLOCK_NS, "\x08\x07\x06\x05\x04\x03\x02\x01", 8);
	expect_field(&at, &left, PROTO_FIELD_CPU_MILLI, "\xdc\x05\0\0", 4);
	expect_field(&at, &left, PROTO_FIELD_CA, "PEM", 3);
	expect_field(&at, &left, PROTO_FIELD_JAVA_HOME, "/java", 5);
	cr_expect_eq(left, 0);
	peer_expect(&p, PROTO_EXEC);
	peer_put_u32(&p, PROTO_STARTED, 1, 17, 0);
	cr_expect_str_eq(p.events, "HS");
	peer_stop(&p);
}

Test(agent, a_command_that_nobody_asked_for_has_not_started)
{
	struct peer p;
	peer_create(&p, (struct agent_stdio){-1, -1, -1});
	peer_hello(&p);
	peer_put_u32(&p, PROTO_STARTED, 1, 17, 0);
	cr_expect_str_eq(p.events, "HL");
	peer_stop(&p);
}

Test(agent, tells_the_life_of_a_command)
{
	struct peer p;
	char out[8] = "";
	peer_start(&p);
	peer_turn(&p);
	cr_expect_str_eq(p.events, "");
	peer_started(&p);
	cr_expect_str_eq(p.events, "HS");
	peer_put(&p, PROTO_STDERR, "dropped", 7);
	peer_put(&p, PROTO_STDOUT, "ab", 2);
	peer_put(&p, PROTO_STDOUT, "c", 1);
	cr_expect_str_eq(p.events, "HSO", "the first output is told once");
	peer_put_u32(&p, PROTO_EXIT, 2, PROTO_EXITED, 200);
	cr_expect_str_eq(p.events, "HSOE");
	cr_expect_eq(p.value, 200);
	cr_expect_eq(pread(p.out_fd, out, sizeof out - 1, 0), 3);
	cr_expect_str_eq(out, "abc");
	peer_stop(&p);
}

Test(agent, tells_a_death_by_signal)
{
	struct peer p;
	peer_start(&p);
	p.destroy_at_end = true;
	peer_started(&p);
	peer_put_u32(&p, PROTO_EXIT, 2, PROTO_SIGNALLED, 9);
	cr_expect_str_eq(p.events, "HSK");
	cr_expect_eq(p.value, 9);
	peer_stop(&p);
}

Test(agent, tells_a_refusal_as_one_line)
{
	struct peer p;
	peer_start(&p);
	p.destroy_at_end = true;
	peer_hello(&p);
	peer_put(&p, PROTO_ERROR, "\x7f\0\0\0no such\nprogram\x1b[2J", 23);
	cr_expect_str_eq(p.events, "HR");
	cr_expect_eq(p.value, 127);
	cr_expect_str_eq(p.text, "no such?program?[2J");
	peer_stop(&p);
}

Test(agent, everything_in_one_piece_and_the_end_behind_it)
{
	struct peer p;
	struct queue q = {0};
	peer_start(&p);
	frame_put_u32(&q, PROTO_HELLO, 2, (const uint32_t[]){PROTO_MAGIC, PROTO_VERSION});
	frame_put_u32(&q, PROTO_STARTED, 1, (const uint32_t[]){1});
	frame_put(&q, PROTO_STDOUT, "x", 1);
	frame_put_u32(&q, PROTO_EXIT, 2, (const uint32_t[]){PROTO_EXITED, 0});
	queue_add(&q, "junk after the end", 18);
	cr_assert_eq(write(p.fd, q.data, queue_len(&q)), (ssize_t)queue_len(&q));
	close(p.fd);
	p.fd = -1;
	peer_turn(&p);
	cr_expect_str_eq(p.events, "HSOE");
	queue_free(&q);
	peer_stop(&p);
}

Test(agent, one_byte_at_a_time)
{
	struct peer p;
	struct queue q = {0};
	peer_start(&p);
	frame_put_u32(&q, PROTO_HELLO, 2, (const uint32_t[]){PROTO_MAGIC, PROTO_VERSION});
	frame_put_u32(&q, PROTO_STARTED, 1, (const uint32_t[]){1});
	frame_put(&q, PROTO_STDOUT, "xyz", 3);
	frame_put_u32(&q, PROTO_EXIT, 2, (const uint32_t[]){PROTO_EXITED, 5});
	for (size_t i = 0; i < queue_len(&q); i++)
		peer_say(&p, q.data + i, 1);
	cr_expect_str_eq(p.events, "HSOE");
	cr_expect_eq(p.value, 5);
	queue_free(&q);
	peer_stop(&p);
}

Test(agent, early_end_is_a_loss_whenever_it_comes)
{
	for (int stage = 0; stage < 4; stage++) {
		struct peer p;
		peer_start(&p);
		p.destroy_at_end = true;
		if (stage == 1)
			peer_hello(&p);
		if (stage >= 2)
			peer_started(&p);
		if (stage == 3)
			peer_say(&p, "\x43\0\0\0\x09\0\0\0half", 12);
		close(p.fd);
		p.fd = -1;
		peer_turn(&p);
		cr_expect_eq(p.events[strlen(p.events) - 1], 'L', "stage %d", stage);
		peer_stop(&p);
	}
}

Test(agent, case_20_frames_that_break_a_rule_end_the_session)
{
	static const struct {
		const char *name, *bytes;
		size_t len;
		int stage; /* 0: at once, 1: after HELLO, 2: after STARTED */
	} cases[] = {
	    {"4 GiB", "\x43\0\0\0\xff\xff\xff\xff", 8, 2},
	    {"1 MiB and a byte", "\x45\0\0\0\1\0\x10\0", 8, 1},
	    {"unknown type", "\x63\0\0\0\0\0\0\0", 8, 2},
	    {"padding", "\x43\0\1\0\1\0\0\0x", 9, 2},
	    {"no greeting", "\x41\0\0\0\4\0\0\0\1\0\0\0", 12, 0},
	    {"wrong magic", "\x40\0\0\0\x08\0\0\0XXXX\1\0\0\0", 16, 0},
	    {"wrong version", "\x40\0\0\0\x08\0\0\0CPLK\2\0\0\0", 16, 0},
	    {"a second greeting", "\x40\0\0\0\x08\0\0\0CPLK\1\0\0\0", 16, 1},
	    {"output before the start", "\x42\0\0\0\1\0\0\0x", 9, 1},
	    {"exit before the start", "\x44\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0", 16, 1},
	    {"a second start", "\x41\0\0\0\4\0\0\0\1\0\0\0", 12, 2},
	    {"an error after the start", "\x45\0\0\0\4\0\0\0\x7f\0\0\0", 12, 2},
	    {"an error of status 0", "\x45\0\0\0\4\0\0\0\0\0\0\0", 12, 1},
	    {"exit code 256", "\x44\0\0\0\x08\0\0\0\0\0\0\0\0\1\0\0", 16, 2},
	    {"signal 0", "\x44\0\0\0\x08\0\0\0\1\0\0\0\0\0\0\0", 16, 2},
	    {"signal 65", "\x44\0\0\0\x08\0\0\0\1\0\0\0\x41\0\0\0", 16, 2},
	    {"exit of kind 2", "\x44\0\0\0\x08\0\0\0\2\0\0\0\0\0\0\0", 16, 2},
	    {"what only the host sends", "\2\0\0\0\0\0\0\0", 8, 2},
	    {"empty output", "\x42\0\0\0\0\0\0\0", 8, 2},
	    {"a window for what was not sent", "\x80\0\0\0\x08\0\0\0\0\0\0\0\1\0\0\0", 16, 2},
	    {"a window of an output", "\x80\0\0\0\x08\0\0\0\1\0\0\0\1\0\0\0", 16, 2},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct peer p;
		peer_start(&p);
		p.destroy_at_end = i % 2;
		if (cases[i].stage == 1)
			peer_hello(&p);
		if (cases[i].stage == 2)
			peer_started(&p);
		size_t before = strlen(p.events);
		peer_say(&p, cases[i].bytes, cases[i].len);
		cr_expect_str_eq(p.events + before, "L", "%s: %s", cases[i].name, p.events);
		cr_expect_not_null(strstr(p.text, "broke the protocol"), "%s: %s", cases[i].name, p.text);
		peer_stop(&p);
	}
}

Test(agent, output_beyond_the_window_ends_the_session)
{
	static const uint8_t data[PROTO_DATA_MAX];
	struct peer p;
	int out[2];
	cr_assert_eq(pipe2(out, O_CLOEXEC | O_NONBLOCK), 0);
	peer_start_with(&p, (struct agent_stdio){-1, out[1], -1});
	peer_started(&p);
	/* The pipe takes 64 KiB, which are given back in one WINDOW; nobody reads the rest. */
	for (int i = 0; i < PROTO_WINDOW_BYTES / PROTO_DATA_MAX + 1; i++)
		peer_put(&p, PROTO_STDOUT, data, sizeof data);
	cr_expect_str_eq(p.events, "HSO");
	peer_put(&p, PROTO_STDOUT, data, 1);
	cr_expect_str_eq(p.events, "HSOL");
	close(out[0]);
	close(out[1]);
	peer_stop(&p);
}

Test(agent, a_guest_that_does_not_read_costs_bounded_memory)
{
	/* The guest sends for ever and reads nothing: its windows are not given back for ever. */
	static const uint8_t data[PROTO_DATA_MAX];
	struct peer p;
	uint64_t sent = 0;
	peer_start_with(&p, (struct agent_stdio){-1, -1, -1});
	peer_started(&p);
	while (!strchr(p.events, 'L') && sent < 64ull << 30) {
		peer_put(&p, PROTO_STDOUT, data, sizeof data);
		sent += sizeof data;
	}
	cr_expect(strchr(p.events, 'L'));
	peer_stop(&p);
}

Test(agent, stdin_obeys_its_window_and_waits_for_the_start)
{
	static uint8_t data[1 << 20];
	struct peer p;
	size_t got = 0;
	int in = memfd_create("in", MFD_CLOEXEC);
	cr_assert_eq(write(in, data, sizeof data), (ssize_t)sizeof data);
	lseek(in, 0, SEEK_SET);
	peer_start_with(&p, (struct agent_stdio){in, -1, -1});
	peer_expect(&p, PROTO_SETUP);
	peer_expect(&p, PROTO_EXEC);
	cr_expect_eq(lseek(in, 0, SEEK_CUR), 0);
	peer_started(&p);
	while (got < PROTO_WINDOW_BYTES)
		got += peer_expect(&p, PROTO_STDIN).len;
	cr_expect_eq(got, PROTO_WINDOW_BYTES);
	cr_expect_eq(frame_receive(&p.in, p.fd), 0);
	cr_expect_eq(lseek(in, 0, SEEK_CUR), PROTO_WINDOW_BYTES, "no more is read than can be sent");
	peer_put_u32(&p, PROTO_WINDOW, 2, PROTO_STREAM_STDIN, 10);
	cr_expect_eq(peer_expect(&p, PROTO_STDIN).len, 10);
	while (got + 10 < sizeof data) {
		peer_put_u32(&p, PROTO_WINDOW, 2, PROTO_STREAM_STDIN, 4096);
		uint32_t n = peer_expect(&p, PROTO_STDIN).len;
		cr_assert_leq(n, 4096);
		got += n;
	}
	peer_put_u32(&p, PROTO_WINDOW, 2, PROTO_STREAM_STDIN, 4096);
	peer_expect(&p, PROTO_STDIN_EOF);
	close(in);
	peer_stop(&p);
}

Test(agent, stdin_of_none_ends_at_once)
{
	struct peer p;
	peer_start(&p);
	peer_expect(&p, PROTO_SETUP);
	peer_expect(&p, PROTO_EXEC);
	peer_started(&p);
	peer_expect(&p, PROTO_STDIN_EOF);
	peer_stop(&p);
}

Test(agent, exit_waits_for_a_slow_reader)
{
	static const uint8_t data[PROTO_DATA_MAX];
	char chunk[4096];
	struct peer p;
	int out[2];
	size_t got = 0;
	cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	peer_start_with(&p, (struct agent_stdio){-1, out[1], -1});
	peer_started(&p);
	for (int i = 0; i < 3; i++)
		peer_put(&p, PROTO_STDOUT, data, sizeof data);
	peer_put_u32(&p, PROTO_EXIT, 2, PROTO_EXITED, 1);
	cr_expect_str_eq(p.events, "HSO");
	cr_expect_eq(fcntl(out[1], F_GETFL) & O_NONBLOCK, 0, "the caller's description is as it was");
	while (!strchr(p.events, 'E')) {
		ssize_t n = read(out[0], chunk, sizeof chunk);
		cr_assert(n > 0 || errno == EAGAIN);
		got += n > 0 ? (size_t)n : 0;
		peer_turn(&p);
	}
	ssize_t n;
	while ((n = read(out[0], chunk, sizeof chunk)) > 0)
		got += (size_t)n;
	cr_expect_eq(got, 3 * sizeof data);
	close(out[0]);
	close(out[1]);
	peer_stop(&p);
}

Test(agent, a_stalled_terminal_stalls_nothing)
{
	static const uint8_t data[PROTO_DATA_MAX];
	struct peer p;
	int master, slave;
	cr_assert_eq(openpty(&master, &slave, NULL, NULL, NULL), 0);
	peer_start_with(&p, (struct agent_stdio){slave, slave, slave});
	peer_started(&p);
	for (int i = 0; i < 3; i++) {
		peer_put(&p, PROTO_STDOUT, data, sizeof data);
		peer_put(&p, PROTO_STDERR, data, sizeof data);
	}
	cr_expect_str_eq(p.events, "HSO");
	cr_expect_eq(agent_session_signal(p.session, SIGINT), 0);
	peer_expect(&p, PROTO_SETUP);
	peer_expect(&p, PROTO_EXEC);
	cr_expect_eq(frame_u32(peer_expect(&p, PROTO_SIGNAL).payload), SIGINT);
	cr_expect_eq(fcntl(slave, F_GETFL) & O_NONBLOCK, 0);
	peer_stop(&p);
	close(master);
	close(slave);
}

Test(agent, output_without_a_reader_is_closed_in_the_guest)
{
	struct peer p;
	int out[2];
	cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
	peer_start_with(&p, (struct agent_stdio){-1, out[1], -1});
	close(out[0]);
	peer_expect(&p, PROTO_SETUP);
	peer_expect(&p, PROTO_EXEC);
	peer_started(&p);
	peer_expect(&p, PROTO_STDIN_EOF);
	peer_put(&p, PROTO_STDOUT, "x", 1);
	cr_expect_eq(frame_u32(peer_expect(&p, PROTO_CLOSED).payload), PROTO_STREAM_STDOUT);
	peer_put(&p, PROTO_STDOUT, "x", 1);
	peer_put_u32(&p, PROTO_EXIT, 2, PROTO_SIGNALLED, SIGPIPE);
	cr_expect_str_eq(p.events, "HSOK");
	close(out[1]);
	peer_stop(&p);
}

Test(agent, a_command_too_large_for_a_frame_is_refused)
{
	static char big[700000];
	const char *const argv[] = {"prog", big, big, NULL};
	const struct agent_command command = {.argv = argv};
	const struct agent_stdio none = {-1, -1, -1};
	struct agent_session *s;
	struct loop loop;
	struct err e;
	int pair[2];
	memset(big, 'x', sizeof big - 1);
	cr_assert_eq(loop_create(&loop), 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	cr_assert_eq(agent_session_create(&loop, pair[0], &none, peer_event, NULL, &s, &e), 0);
	cr_expect_eq(agent_session_run(s, NULL, &command, &e), -E2BIG);
	cr_expect_not_null(strstr(e.text, "1048576"), "%s", e.text);
	agent_session_destroy(s);
	cr_expect_eq(fcntl(pair[0], F_GETFD), -1, "the stream was taken over and closed");
	close(pair[1]);
	agent_session_destroy(NULL);
	loop_destroy(&loop);
}
