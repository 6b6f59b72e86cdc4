/*
 * The supervisor's session with a guest that says whatever it likes. The first byte chooses the caller's descriptors
 * and how the rest is cut into pieces; the session must end exactly once, and at the latest with its stream.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/sandbox/agent.h"
#include "vmm/util/err.h"
#include "vmm/util/loop.h"

struct end {
	struct agent_session *session;
	unsigned count;
	int destroy;
};

static void event(void *context, enum agent_event e, int value, const char *text)
{
	struct end *end = context;
	if (e < AGENT_EXITED)
		return;
	if ((e == AGENT_EXITED && (value < 0 || value > 255)) || ((e == AGENT_REFUSED || e == AGENT_LOST) && !text))
		abort();
	end->count++;
	if (end->destroy) {
		agent_session_destroy(end->session);
		end->session = NULL;
	}
}

static void turn(struct loop *loop, const struct end *end)
{
	for (int i = 0; i < 64 && end->count == 0; i++)
		if (loop_step(loop, 0) <= 0)
			return;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const argv[] = {"x", NULL};
	static const struct agent_command command = {.argv = argv};
	static int null = -1, zero = -1;
	if (null < 0) {
		signal(SIGPIPE, SIG_IGN);
		null = open("/dev/null", O_RDWR | O_CLOEXEC);
		zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	}
	if (size == 0)
		return 0;
	uint8_t how = data[0];
	struct agent_stdio stdio = {how & 1 ? zero : -1, how & 2 ? null : -1, -1};
	struct loop loop;
	struct end end = {.destroy = how & 4};
	struct err e;
	int pair[2];
	if (loop_create(&loop) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair))
		abort();
	if (agent_session_create(&loop, pair[0], &stdio, event, &end, &end.session, &e) ||
	    agent_session_run(end.session, NULL, &command, &e))
		abort();
	size_t piece = how & 8 ? size : 1 + (how >> 4);
	for (size_t at = 1; at < size && end.count == 0; at += piece) {
		size_t n = size - at < piece ? size - at : piece;
		if (send(pair[1], data + at, n, MSG_NOSIGNAL) != (ssize_t)n)
			break;
		turn(&loop, &end);
	}
	close(pair[1]);
	while (end.count == 0)
		if (loop_step(&loop, -1) < 0)
			abort();
	turn(&loop, &end);
	if (end.count != 1)
		abort();
	agent_session_destroy(end.session);
	loop_destroy(&loop);
	return 0;
}
