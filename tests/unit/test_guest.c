/*
 * The guest's agent and the supervisor's session, talking to each other over a socket pair: what a command experiences,
 * without a machine. The agent is the code of PID 1, in a child process; what it does to the machine (SETUP, SHUTDOWN)
 * is tested in one.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/frame.h"
#include "guest/guest.h"
#include "guest/proto.h"
#include "guest/setup.h"
#include "guest/user.h"
#include "vmm/sandbox/agent.h"
#include "vmm/util/err.h"
#include "vmm/util/loop.h"

/* An agent, a loop, and how the session in it went. */
struct rig {
	pid_t agent;
	int first_fd; /* our end of the first stream, -1 when a session has it */
	struct sockaddr_un address;
	socklen_t address_len;
	struct loop loop;
	struct agent_session *session;
	bool done, started, output;
	enum agent_event how;
	int value;
	char text[512];
};

static void agent_process(int stream_fd, int listen_fd)
{
	sigset_t set;
	/* Descriptors 0 to 2 and the two sockets are all that PID 1 has; the test framework's own are none of its
	 * business. */
	stream_fd = dup3(stream_fd, 900, O_CLOEXEC);
	listen_fd = dup3(listen_fd, 901, O_CLOEXEC);
	close_range(3, 899, 0);
	close_range(902, ~0u, 0);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	agent_run(stream_fd, listen_fd);
	_exit(1);
}

static void rig_start(struct rig *r)
{
	int pair[2];
	*r = (struct rig){.address = {.sun_family = AF_UNIX}, .address_len = sizeof r->address};
	signal(SIGPIPE, SIG_IGN);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	int listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	cr_assert_eq(bind(listen_fd, (struct sockaddr *)&r->address, sizeof(sa_family_t)), 0);
	cr_assert_eq(listen(listen_fd, 4096), 0);
	cr_assert_eq(getsockname(listen_fd, (struct sockaddr *)&r->address, &r->address_len), 0);
	r->agent = fork();
	if (r->agent == 0) {
		close(pair[0]);
		agent_process(pair[1], listen_fd);
	}
	close(pair[1]);
	close(listen_fd);
	r->first_fd = pair[0];
	cr_assert_eq(loop_create(&r->loop), 0);
}

static void rig_stop(struct rig *r)
{
	int status;
	agent_session_destroy(r->session);
	loop_destroy(&r->loop);
	if (r->first_fd >= 0)
		close(r->first_fd);
	cr_expect_eq(waitpid(r->agent, &status, WNOHANG), 0, "the agent lives");
	kill(r->agent, SIGKILL);
	waitpid(r->agent, &status, 0);
}

/* A new stream to the agent. */
static int rig_connect(struct rig *r)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(connect(fd, (struct sockaddr *)&r->address, r->address_len), 0);
	return fd;
}

static void rig_event(void *context, enum agent_event event, int value, const char *text)
{
	struct rig *r = context;
	r->started |= event == AGENT_STARTED;
	r->output |= event == AGENT_OUTPUT;
	if (event < AGENT_EXITED)
		return;
	cr_assert(!r->done, "a session ends once");
	r->done = true;
	r->how = event;
	r->value = value;
	snprintf(r->text, sizeof r->text, "%s", text ? text : "");
}

static void rig_begin(struct rig *r, struct agent_command command, struct agent_stdio stdio)
{
	char self[64];
	struct err e;
	snprintf(self, sizeof self, "%u:%u", getuid(), getgid());
	if (!command.user && getuid())
		command.user = self; /* without root there is nobody else to become */
	int fd = r->first_fd >= 0 ? r->first_fd : rig_connect(r);
	r->first_fd = -1;
	r->done = r->started = r->output = false;
	agent_session_destroy(r->session);
	r->session = NULL;
	cr_assert_eq(agent_session_create(&r->loop, fd, &stdio, rig_event, r, &r->session, &e), 0, "%s", e.text);
	cr_assert_eq(agent_session_run(r->session, NULL, &command, &e), 0, "%s", e.text);
}

static void rig_finish(struct rig *r)
{
	while (!r->done)
		cr_assert_geq(loop_step(&r->loop, -1), 0);
}

/* Runs a command to its end; its stdout is in `out`, with a NUL. */
static void rig_run(struct rig *r, struct agent_command command, int in_fd, char *out, size_t out_bytes)
{
	int fd = memfd_create("stdout", MFD_CLOEXEC);
	rig_begin(r, command, (struct agent_stdio){in_fd, fd, 2});
	rig_finish(r);
	ssize_t n = out_bytes ? pread(fd, out, out_bytes - 1, 0) : 0;
	cr_assert_geq(n, 0);
	if (out_bytes)
		out[n] = 0;
	close(fd);
}

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})

/* Expects a command (without streams) to end so. */
static void expect_end(struct rig *r, const char *const *argv, enum agent_event how, int value)
{
	rig_run(r, (struct agent_command){.argv = argv}, -1, NULL, 0);
	cr_expect_eq(r->how, how, "'%s': event %d: %s", argv[0], r->how, r->text);
	cr_expect_eq(r->value, value, "'%s': value %d: %s", argv[0], r->value, r->text);
}

static void write_file(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

Test(guest, exit_statuses, .timeout = 60)
{
	struct rig r;
	rig_start(&r);
	expect_end(&r, ARGV("true"), AGENT_EXITED, 0);
	expect_end(&r, ARGV("sh", "-c", "exit 7"), AGENT_EXITED, 7);
	expect_end(&r, ARGV("sh", "-c", "exit 255"), AGENT_EXITED, 255);
	expect_end(&r, ARGV("sh", "-c", "kill -9 $$"), AGENT_KILLED, 9);
	expect_end(&r, ARGV("sh", "-c", "kill -PIPE $$"), AGENT_KILLED, 13);
	rig_stop(&r);
}

Test(guest, statuses_of_what_cannot_be_run, .timeout = 60)
{
	struct rig r;
	char dir[] = "/tmp/caplock-test-XXXXXX", path[128];
	rig_start(&r);
	cr_assert_not_null(mkdtemp(dir));
	expect_end(&r, ARGV("no-such-program"), AGENT_REFUSED, 127);
	cr_expect_not_null(strstr(r.text, "no-such-program"));
	expect_end(&r, ARGV("/no/such/program"), AGENT_REFUSED, 127);
	expect_end(&r, ARGV(""), AGENT_REFUSED, 127);
	expect_end(&r, ARGV(dir), AGENT_REFUSED, 126);
	cr_expect_not_null(strstr(r.text, "directory"));
	snprintf(path, sizeof path, "%s/file", dir);
	write_file(path, "not a program", 0644);
	expect_end(&r, ARGV(path), AGENT_REFUSED, 126);
	chmod(path, 0755);
	expect_end(&r, ARGV(path), AGENT_REFUSED, 126);
	cr_expect_not_null(strstr(r.text, "exec format error"), "%s", r.text);
	write_file(path, "#!/no/such/interpreter\n", 0755);
	expect_end(&r, ARGV(path), AGENT_REFUSED, 127);
	cr_expect_not_null(strstr(r.text, "interpreter"), "%s", r.text);
	expect_end(&r, ARGV("sh", "-c", "exit 3"), AGENT_EXITED, 3);
	unlink(path);
	rmdir(dir);
	rig_stop(&r);
}

Test(guest, refuses_an_unknown_user_and_an_unusable_directory, .timeout = 60)
{
	struct rig r;
	rig_start(&r);
	rig_run(&r, (struct agent_command){.argv = ARGV("true"), .user = "no-such-user"}, -1, NULL, 0);
	cr_expect_eq(r.how, AGENT_REFUSED);
	cr_expect_eq(r.value, 126);
	cr_expect_not_null(strstr(r.text, "unable to find user no-such-user"), "%s", r.text);
	rig_run(&r, (struct agent_command){.argv = ARGV("true"), .cwd = "/dev/null/x"}, -1, NULL, 0);
	cr_expect_eq(r.how, AGENT_REFUSED);
	cr_expect_eq(r.value, 126);
	rig_stop(&r);
}

Test(guest, arguments_are_exact, .timeout = 60)
{
	struct rig r;
	char out[256];
	rig_start(&r);
	rig_run(&r, (struct agent_command){.argv = ARGV("printf", "[%s]", "a b", "", "*", "$HOME;\n'\"", "\xff")}, -1,
		out, sizeof out);
	cr_expect_str_eq(out, "[a b][][*][$HOME;\n'\"][\xff]");
	rig_stop(&r);
}

Test(guest, environment_is_what_was_asked_and_three_defaults, .timeout = 60)
{
	struct rig r;
	char out[1024];
	rig_start(&r);
	rig_run(&r, (struct agent_command){.argv = ARGV("env"), .env = ARGV("A=1", "HOME=/h", "A=2", "E=")}, -1, out,
		sizeof out);
	cr_expect_eq(strncmp(out, "A=2\nHOME=/h\nE=\nPATH=/usr/local/sbin:", 36), 0, "%s", out);
	cr_expect_not_null(strstr(out, "\nHOSTNAME="));
	cr_expect_null(strstr(out, "TERM="));
	rig_stop(&r);
}

Test(guest, program_is_found_along_the_commands_own_path, .timeout = 60)
{
	struct rig r;
	char dir[] = "/tmp/caplock-test-XXXXXX", path[128], env[256], out[64];
	rig_start(&r);
	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/mine", dir);
	write_file(path, "#!/bin/sh\necho found\n", 0755);
	snprintf(env, sizeof env, "PATH=/no/such:%s", dir);
	rig_run(&r, (struct agent_command){.argv = ARGV("mine"), .env = ARGV(env)}, -1, out, sizeof out);
	cr_expect_str_eq(out, "found\n");
	expect_end(&r, ARGV("mine"), AGENT_REFUSED, 127);
	chmod(path, 0644);
	rig_run(&r, (struct agent_command){.argv = ARGV("mine"), .env = ARGV(env)}, -1, NULL, 0);
	cr_expect_eq(r.value, 126);
	unlink(path);
	rmdir(dir);
	rig_stop(&r);
}

Test(guest, working_directory_is_made, .timeout = 60)
{
	struct rig r;
	char dir[] = "/tmp/caplock-test-XXXXXX", path[128], out[256];
	rig_start(&r);
	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/a/b", dir);
	rig_run(&r, (struct agent_command){.argv = ARGV("/bin/pwd"), .cwd = path}, -1, out, sizeof out);
	cr_expect_eq(strncmp(out, path, strlen(path)), 0, "%s", out);
	rmdir(path);
	*strrchr(path, '/') = 0;
	rmdir(path);
	rmdir(dir);
	rig_stop(&r);
}

Test(guest, command_starts_clean, .timeout = 60)
{
	struct rig r;
	char out[512];
	rig_start(&r);
	/* Blocked, ignored and caught signals; descriptors (the fourth is the directory itself). */
	rig_run(&r,
		(struct agent_command){
		    .argv = ARGV("/bin/sh", "-c",
				 "exec awk '/^Sig(Blk|Ign|Cgt)/ { print $2 }' /proc/self/status; ls /proc/self/fd")},
		-1, out, sizeof out);
	cr_expect_eq(strncmp(out, "0000000000000000\n0000000000000000\n", 34), 0, "%s", out);
	rig_run(&r, (struct agent_command){.argv = ARGV("ls", "/proc/self/fd")}, -1, out, sizeof out);
	cr_expect_str_eq(out, "0\n1\n2\n3\n");
	rig_run(&r,
		(struct agent_command){
		    .argv = ARGV("sh", "-c", "ps -o pid=,pgid=,sid= -p $$ | awk '{ print ($1==$2 && $2==$3) }'")},
		-1, out, sizeof out);
	cr_expect_str_eq(out, "1\n");
	rig_stop(&r);
}

Test(guest, stdin_arrives_and_ends, .timeout = 60)
{
	struct rig r;
	char out[64];
	int in[2];
	rig_start(&r);
	cr_assert_eq(pipe2(in, O_CLOEXEC), 0);
	cr_assert_eq(write(in[1], "hello", 5), 5);
	close(in[1]);
	rig_run(&r, (struct agent_command){.argv = ARGV("cat")}, in[0], out, sizeof out);
	cr_expect_str_eq(out, "hello");
	cr_expect_eq(fcntl(in[0], F_GETFL) & O_NONBLOCK, 0, "the caller's description is as it was");
	close(in[0]);
	rig_run(&r, (struct agent_command){.argv = ARGV("wc", "-c")}, -1, out, sizeof out);
	cr_expect_eq(atoi(out), 0);
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	rig_run(&r, (struct agent_command){.argv = ARGV("wc", "-c")}, null, out, sizeof out);
	cr_expect_eq(atoi(out), 0);
	close(null);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in), 0);
	cr_assert_eq(write(in[1], "socket", 6), 6);
	shutdown(in[1], SHUT_WR);
	rig_run(&r, (struct agent_command){.argv = ARGV("cat")}, in[0], out, sizeof out);
	cr_expect_str_eq(out, "socket");
	close(in[0]);
	close(in[1]);
	rig_stop(&r);
}

enum { STREAM_BYTES = 64 << 20 };

/* A file of STREAM_BYTES whose every 8 bytes are its own position. */
static int numbered_file(void)
{
	int fd = memfd_create("numbers", MFD_CLOEXEC);
	static uint64_t block[8192];
	for (uint64_t i = 0; i < STREAM_BYTES / 8;) {
		for (size_t k = 0; k < 8192; k++)
			block[k] = i++;
		cr_assert_eq(write(fd, block, sizeof block), (ssize_t)sizeof block);
	}
	lseek(fd, 0, SEEK_SET);
	return fd;
}

Test(guest, streams_64_mib_both_ways, .timeout = 120)
{
	struct rig r;
	rig_start(&r);
	int in = numbered_file(), out = memfd_create("out", MFD_CLOEXEC);
	rig_begin(&r, (struct agent_command){.argv = ARGV("cat")}, (struct agent_stdio){in, out, -1});
	rig_finish(&r);
	cr_expect_eq(r.how, AGENT_EXITED, "%s", r.text);
	cr_assert_eq(lseek(out, 0, SEEK_END), STREAM_BYTES);
	const uint64_t *v = mmap(NULL, STREAM_BYTES, PROT_READ, MAP_SHARED, out, 0);
	for (uint64_t i = 0; i < STREAM_BYTES / 8; i++)
		cr_assert_eq(v[i], i);
	close(in);
	close(out);
	rig_stop(&r);
}

/* Reads what is in `fd` now. Returns how much. */
static size_t drain(int fd)
{
	char chunk[65536];
	struct pollfd p = {.fd = fd, .events = POLLIN};
	size_t total = 0;
	ssize_t n = 0;
	while (poll(&p, 1, 0) == 1 && (n = read(fd, chunk, sizeof chunk)) > 0)
		total += (size_t)n;
	return total;
}

Test(guest, stalled_stdout_stalls_nothing_else, .timeout = 60)
{
	struct rig r;
	int out[2], err[2];
	size_t out_bytes = 0, err_bytes = 0;
	rig_start(&r);
	cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
	cr_assert_eq(pipe2(err, O_CLOEXEC), 0);
	rig_begin(&r,
		  (struct agent_command){
		      .argv = ARGV("sh", "-c", "head -c 3000000 /dev/zero & head -c 3000000 /dev/zero >&2; wait")},
		  (struct agent_stdio){-1, out[1], err[1]});
	close(out[1]);
	close(err[1]);
	while (err_bytes < 3000000) {
		cr_assert_geq(loop_step(&r.loop, -1), 0);
		err_bytes += drain(err[0]);
	}
	cr_expect(!r.done);
	while (!r.done) {
		out_bytes += drain(out[0]);
		cr_assert_geq(loop_step(&r.loop, 10), 0);
	}
	out_bytes += drain(out[0]);
	cr_expect_eq(out_bytes, 3000000);
	cr_expect_eq(r.how, AGENT_EXITED, "%s", r.text);
	close(out[0]);
	close(err[0]);
	rig_stop(&r);
}

Test(guest, output_that_nobody_reads_ends_the_command, .timeout = 60)
{
	struct rig r;
	int out[2];
	rig_start(&r);
	cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
	rig_begin(&r, (struct agent_command){.argv = ARGV("yes")}, (struct agent_stdio){-1, out[1], -1});
	close(out[1]);
	while (!r.output)
		cr_assert_geq(loop_step(&r.loop, -1), 0);
	close(out[0]);
	rig_finish(&r);
	cr_expect_eq(r.how, AGENT_KILLED);
	cr_expect_eq(r.value, SIGPIPE);
	rig_stop(&r);
}

Test(guest, command_that_ignores_its_stdin_ends, .timeout = 60)
{
	struct rig r;
	rig_start(&r);
	int in = numbered_file();
	rig_run(&r, (struct agent_command){.argv = ARGV("sh", "-c", "exec <&-; exit 4")}, in, NULL, 0);
	cr_expect_eq(r.value, 4);
	close(in);
	rig_stop(&r);
}

Test(guest, background_child_with_open_stdout_is_not_waited_for, .timeout = 60)
{
	struct rig r;
	char out[64];
	rig_start(&r);
	rig_run(&r, (struct agent_command){.argv = ARGV("sh", "-c", "sleep 100 & echo $!")}, -1, out, sizeof out);
	cr_expect_eq(r.how, AGENT_EXITED);
	pid_t child = atoi(out);
	cr_assert_gt(child, 1);
	cr_expect_eq(kill(child, SIGKILL), 0, "it lives on");
	rig_stop(&r);
}

Test(guest, signals_go_to_the_process_group, .timeout = 60)
{
	struct rig r;
	rig_start(&r);
	rig_begin(&r,
		  (struct agent_command){.argv = ARGV("sh", "-c", "trap 'exit 42' TERM; sleep 100 & echo ready; wait")},
		  (struct agent_stdio){-1, -1, -1});
	while (!r.output)
		cr_assert_geq(loop_step(&r.loop, -1), 0);
	cr_expect_eq(agent_session_signal(r.session, 65), -EINVAL);
	cr_expect_eq(agent_session_signal(r.session, SIGTERM), 0);
	rig_finish(&r);
	cr_expect_eq(r.how, AGENT_EXITED);
	cr_expect_eq(r.value, 42);
	cr_expect_eq(agent_session_signal(r.session, SIGTERM), -ESRCH);
	/* One that is sent before the command runs waits for it. */
	rig_begin(&r, (struct agent_command){.argv = ARGV("sleep", "100")}, (struct agent_stdio){-1, -1, -1});
	cr_expect_eq(agent_session_signal(r.session, SIGINT), 0);
	rig_finish(&r);
	cr_expect_eq(r.how, AGENT_KILLED);
	cr_expect_eq(r.value, SIGINT);
	rig_stop(&r);
}

Test(guest, process_group_dies_with_its_stream, .timeout = 60)
{
	struct rig r;
	char line[32] = "";
	int out[2];
	rig_start(&r);
	cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
	rig_begin(&r, (struct agent_command){.argv = ARGV("sh", "-c", "sleep 1000 & echo $!; wait")},
		  (struct agent_stdio){-1, out[1], -1});
	while (poll(&(struct pollfd){.fd = out[0], .events = POLLIN}, 1, 0) == 0)
		cr_assert_geq(loop_step(&r.loop, -1), 0);
	cr_assert_gt(read(out[0], line, sizeof line - 1), 0);
	int pidfd = (int)syscall(SYS_pidfd_open, atoi(line), 0);
	cr_assert_geq(pidfd, 0);
	agent_session_destroy(r.session);
	r.session = NULL;
	cr_expect_eq(poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, -1), 1);
	expect_end(&r, ARGV("true"), AGENT_EXITED, 0);
	close(pidfd);
	close(out[0]);
	close(out[1]);
	rig_stop(&r);
}

/* Waits until the agent closes `fd`, whatever it says before. */
static void expect_closed(int fd)
{
	char chunk[4096];
	ssize_t n;
	while ((n = read(fd, chunk, sizeof chunk)) > 0)
		;
	cr_expect(n == 0 || errno == ECONNRESET);
	close(fd);
}

static void put_exec(struct queue *q, const char *const *argv)
{
	size_t place = frame_begin(q, PROTO_EXEC);
	for (; *argv; argv++)
		cr_assert_eq(field_put(q, PROTO_FIELD_ARG, *argv, strlen(*argv)), 0);
	cr_assert_eq(frame_end(q, place), 0);
}

Test(guest, case_20_frames_that_break_a_rule_close_the_stream_only, .timeout = 60)
{
	static const struct {
		const char *name, *bytes;
		size_t len;
		bool running; /* after the EXEC of a cat */
	} cases[] = {
	    {"4 GiB", "\2\0\0\0\xff\xff\xff\xff", 8, false},
	    {"a type that only the guest sends", "\x42\0\0\0\1\0\0\0x", 9, false},
	    {"stdin without a command", "\3\0\0\0\1\0\0\0x", 9, false},
	    {"an empty EXEC", "\2\0\0\0\0\0\0\0", 8, false},
	    {"an unknown field", "\2\0\0\0\x08\0\0\0\x63\0\0\0\0\0\0\0", 16, false},
	    {"a hostname in EXEC", "\2\0\0\0\x09\0\0\0\1\0\0\0\1\0\0\0x", 17, false},
	    {"an environment without a name", "\2\0\0\0\x13\0\0\0\x20\0\0\0\1\0\0\0x\x21\0\0\0\2\0\0\0=x", 27, false},
	    {"SETUP on a later stream", "\1\0\0\0\0\0\0\0", 8, false},
	    {"a second EXEC", "\2\0\0\0\x09\0\0\0\x20\0\0\0\1\0\0\0x", 17, true},
	    {"signal 0", "\5\0\0\0\4\0\0\0\0\0\0\0", 12, true},
	    {"a window nobody used", "\x80\0\0\0\x08\0\0\0\1\0\0\0\1\0\0\0", 16, true},
	    {"a window of stdin", "\x80\0\0\0\x08\0\0\0\0\0\0\0\1\0\0\0", 16, true},
	    {"stdin after its end", "\4\0\0\0\0\0\0\0\3\0\0\0\1\0\0\0x", 17, true},
	    {"no such output", "\7\0\0\0\4\0\0\0\0\0\0\0", 12, true},
	};
	struct rig r;
	rig_start(&r);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct queue q = {0};
		int fd = rig_connect(&r);
		if (cases[i].running)
			put_exec(&q, ARGV("sleep", "1000"));
		cr_assert_eq(queue_add(&q, cases[i].bytes, cases[i].len), 0);
		cr_assert_eq(queue_send(&q, fd), 0, "%s", cases[i].name);
		expect_closed(fd);
		queue_free(&q);
	}
	expect_end(&r, ARGV("true"), AGENT_EXITED, 0);
	rig_stop(&r);
}

Test(guest, stdin_beyond_the_window_closes_the_stream, .timeout = 60)
{
	static const uint8_t data[PROTO_DATA_MAX];
	struct rig r;
	struct queue q = {0};
	rig_start(&r);
	int fd = rig_connect(&r);
	/* The agent's window and the command's pipe can take 5 frames; of 24, some are too many. */
	put_exec(&q, ARGV("sleep", "1000"));
	for (int i = 0; i < 24; i++)
		cr_assert_eq(frame_put(&q, PROTO_STDIN, data, sizeof data), 0);
	while (queue_len(&q) && queue_send(&q, fd) == 0)
		poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, -1);
	queue_free(&q);
	expect_closed(fd);
	rig_stop(&r);
}

Test(guest, case_20_at_most_1024_sessions, .timeout = 60)
{
	enum { EXTRA = 8 };
	static int fd[PROTO_SESSIONS_MAX + EXTRA];
	struct rlimit files = {4096, 4096};
	if (setrlimit(RLIMIT_NOFILE, &files))
		cr_skip("too few descriptors allowed here");
	struct rig r;
	unsigned greeted = 0;
	char hello[PROTO_HEADER_BYTES + 8];
	rig_start(&r);
	for (int i = 0; i < PROTO_SESSIONS_MAX + EXTRA; i++)
		fd[i] = rig_connect(&r);
	for (int i = 0; i < PROTO_SESSIONS_MAX + EXTRA; i++)
		greeted += recv(fd[i], hello, sizeof hello, MSG_WAITALL) == sizeof hello;
	cr_expect_eq(greeted, PROTO_SESSIONS_MAX - 1, "the first stream is one, too");
	for (int i = 0; i < PROTO_SESSIONS_MAX + EXTRA; i++)
		close(fd[i]);
	rig_stop(&r);
}

Test(guest, setup_takes_each_field_once_and_nothing_else)
{
	const char *failure = NULL;
	cr_expect_eq(setup_apply((const uint8_t *)"\1\0\0\0\0\0\0\0", 8, &failure), -EPROTO, "an empty name");
	cr_expect_eq(setup_apply((const uint8_t *)"\1\0\0\0\1\0\0\0x\1\0\0\0\1\0\0\0y", 18, &failure), -EPROTO);
	cr_expect_eq(setup_apply((const uint8_t *)"\x20\0\0\0\1\0\0\0x", 9, &failure), -EPROTO);
	cr_expect_eq(setup_apply((const uint8_t *)"\3\0\0\0\1\0\0\0x", 9, &failure), -EPROTO);
	uint8_t long_name[8 + 65] = "\1\0\0\0\x41";
	memset(long_name + 8, 'a', 65);
	cr_expect_eq(setup_apply(long_name, sizeof long_name, &failure), -EPROTO);
}

/* ---- Users ---- */

static void lookup(const char *spec, int verdict, unsigned uid, unsigned gid, const char *home, size_t groups)
{
	static struct user u;
	char dir[] = "/tmp/caplock-test-XXXXXX", passwd[64], group[64], text[256] = "";
	cr_assert_not_null(mkdtemp(dir));
	snprintf(passwd, sizeof passwd, "%s/passwd", dir);
	snprintf(group, sizeof group, "%s/group", dir);
	write_file(passwd,
		   "broken\n:::\nbad:x:99999999999:1::/bad:\nroot:x:0:0:root:/root:/bin/sh\n"
		   "app:x:1000:1001::/home/app:/bin/sh\nhomeless:x:1002:1002",
		   0644);
	write_file(group, "root:x:0:\nwheel:x:10:root,app\napp:x:1001:\naudio:x:29:apple,app\n", 0644);
	cr_expect_eq(user_lookup(passwd, group, spec, &u, text, sizeof text), verdict, "%s: %s", spec, text);
	if (verdict == 0) {
		cr_expect_eq(u.uid, uid, "%s: uid %u", spec, u.uid);
		cr_expect_eq(u.gid, gid, "%s: gid %u", spec, u.gid);
		cr_expect_str_eq(u.home, home);
		cr_expect_eq(u.groups, groups, "%s: %zu groups", spec, u.groups);
	}
	unlink(passwd);
	unlink(group);
	rmdir(dir);
}

Test(guest, users_are_found_as_docker_finds_them)
{
	lookup(NULL, 0, 0, 0, "/root", 1);
	lookup("root", 0, 0, 0, "/root", 1);
	lookup("app", 0, 1000, 1001, "/home/app", 2);
	lookup("1000", 0, 1000, 1001, "/home/app", 2);
	lookup("app:29", 0, 1000, 29, "/home/app", 0);
	lookup("app:wheel", 0, 1000, 10, "/home/app", 0);
	lookup(":wheel", 0, 0, 10, "/root", 0);
	lookup("homeless", 0, 1002, 1002, "/", 0);
	lookup("4711", 0, 4711, 0, "/", 0);
	lookup("4711:4712", 0, 4711, 4712, "/", 0);
	lookup("nobody", -ENOENT, 0, 0, "", 0);
	lookup("bad", -ENOENT, 0, 0, "", 0);
	lookup("app:nogroup", -ENOENT, 0, 0, "", 0);
	lookup("-1", -ENOENT, 0, 0, "", 0);
	lookup("4294967296", -ENOENT, 0, 0, "", 0);
	lookup("0x0", -ENOENT, 0, 0, "", 0);
}

Test(guest, a_passwd_that_is_no_file_finds_nobody_and_does_not_block)
{
	static struct user u;
	char dir[] = "/tmp/caplock-test-XXXXXX", fifo[64], text[256];
	cr_assert_not_null(mkdtemp(dir));
	snprintf(fifo, sizeof fifo, "%s/fifo", dir);
	cr_assert_eq(mkfifo(fifo, 0600), 0);
	cr_expect_eq(user_lookup(fifo, fifo, "root", &u, text, sizeof text), -ENOENT);
	cr_expect_eq(user_lookup(fifo, fifo, "7:8", &u, text, sizeof text), 0);
	cr_expect_eq(user_lookup("/dev/zero", "/dev/zero", "root", &u, text, sizeof text), -ENOENT);
	unlink(fifo);
	rmdir(dir);
}
