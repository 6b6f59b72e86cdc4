/* The host's side of guest/proto.h: one command's session with the agent, relayed to descriptors of the caller. */
#ifndef CAPLOCK_SANDBOX_AGENT_H
#define CAPLOCK_SANDBOX_AGENT_H

#include <stdbool.h>
#include <stdint.h>

struct agent_session;
struct err;
struct loop;

struct agent_setup {
	const char *hostname;
	uint64_t clock_ns;  /* CLOCK_REALTIME */
	uint32_t cpu_milli; /* thousandths of a CPU that all commands share; 0: no limit */
	const char *ca;     /* a certificate (PEM) that programs are to trust; NULL: none */
	const char *java_home; /* of the image; NULL: unknown */
};

struct agent_command {
	const char *const *argv; /* ends with NULL; at least one */
	const char *const *env;  /* NAME=VALUE, ends with NULL; may be NULL */
	const char *cwd;         /* may be NULL: "/" */
	const char *user;        /* may be NULL: root */
};

enum agent_event {
	AGENT_HELLO,   /* the agent is there (T5) */
	AGENT_STARTED, /* the command runs */
	AGENT_OUTPUT,  /* the first byte of its output arrived (T6); told once */
	AGENT_STREAM,  /* a stream of the caller's failed, text says how: what it should have carried is lost */
	AGENT_EXITED,  /* the command ended and all of its output is written; value: 0..255 */
	AGENT_KILLED,  /* likewise, by a signal; value: its number */
	AGENT_REFUSED, /* the command could not be started; value: exit status (126, 127, 125); text says why */
	AGENT_LOST,    /* the stream ended early or broke the protocol; text says how */
};

/* The last four end the session: it does nothing more, and may be destroyed from inside the call. */
typedef void (*agent_event_fn)(void *context, enum agent_event event, int value, const char *text);

/* Where a command's streams are relayed; not owned. -1: none (stdin: EOF; output: dropped). */
struct agent_stdio {
	int in, out, err;
};

int agent_session_create(struct loop *loop, int fd, const struct agent_stdio *stdio, agent_event_fn event, void *context,
			 struct agent_session **out, struct err *e);
int agent_session_run(struct agent_session *s, const struct agent_setup *setup, const struct agent_command *command,
		      struct err *e);
void agent_session_destroy(struct agent_session *s);
void agent_session_hold_input(struct agent_session *s, bool hold);
int agent_session_signal(struct agent_session *s, int signal_number);

#endif
