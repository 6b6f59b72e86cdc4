/*
 * caplock.h: run untrusted programs in disposable Linux microVMs. The one public header of libcaplock.a.
 *
 * A sandbox is described by a struct caplock_spec and run by caplock_run(), which blocks until its command has ended.
 * The library starts one process per sandbox (the virtual machine), prints nothing, and leaves nothing behind.
 * Several threads may run sandboxes at the same time. SIGPIPE must be ignored.
 */
#ifndef CAPLOCK_H
#define CAPLOCK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CAPLOCK_VERSION "0.1.0"

enum {
	CAPLOCK_SECRET_IN_PATH = 1,    /* it may also be put into the path of a URL, */
	CAPLOCK_SECRET_IN_BODY = 2,    /* into the body of a request, */
	CAPLOCK_SECRET_PLAIN_HTTP = 4, /* and be sent over HTTP without TLS */
	CAPLOCK_SECRET_AWS = 8,        /* `name` is a profile, and the value a credentials file that has it: requests are signed anew */
};

/* A key that the command uses without having it: a placeholder stands for it until its request is outside the sandbox. */
struct caplock_secret {
	const char *name;        /* of the variable that has the placeholder */
	const char *hosts;       /* that it belongs to, and that are allowed: HOST[:PORT][,...]; HOST: name or *.NAME */
	const char *placeholder; /* NULL: a random one */
	int value_fd;            /* its value: read once, to its end, by the process that opens connections; the caller's */
	unsigned flags;          /* CAPLOCK_SECRET_... */
};

/* What to run, and in what. Start from caplock_spec_init(). Strings and lists belong to the caller; lists end with NULL. */
struct caplock_spec {
	const char *image;          /* name in the image store; NULL: the built-in base image (busybox) */
	double cpus;                /* 1; a fraction is enforced inside the guest */
	unsigned memory_mb;         /* 512; MiB */
	unsigned disk_mb;           /* 5120; MiB of the writable layer */
	const char *const *command; /* arguments; NULL: those of the image */
	const char *entrypoint;     /* NULL: that of the image; "": none */
	const char *const *env;     /* NAME=VALUE; added to those of the image */
	const char *workdir;        /* NULL: that of the image, or "/" */
	const char *user;           /* NULL: that of the image, or root */
	const char *hostname;       /* NULL: "caplock" */
	int no_network;                          /* nonzero: no network device at all; otherwise one that reaches what is allowed */
	const char *const *allow_hosts;          /* [tcp:|udp:]HOST[:PORT[-PORT]|:*]; HOST: name, *.NAME, *, address or range; @PRESET, @packages */
	const char *const *deny_hosts;           /* likewise; wins over allow_hosts */
	const char *const *allow_websockets;     /* HOST[:PORTS] that may have WebSockets, where HTTP is opened or without TLS; they allow nothing else */
	const char *const *policies;             /* paths of policy files, whose rules are added to the others */
	const char *const *add_hosts;            /* NAME:ADDRESS: where a name is, whatever a resolver says */
	const char *const *allow_host_loopback;  /* ports of this host's loopback, at host.caplock.internal */
	const char *const *dns_servers;          /* addresses; NULL: this host's */
	const char *const *publish;              /* [[ADDRESS:]HOST:]GUEST: ports of this host that lead to ports of the sandbox */
	const char *publish_address;             /* where an element has none; NULL: 127.0.0.1 */
	void (*published)(void *context, const char *line); /* told of each, once it listens: ADDRESS:PORT -> sandbox:PORT; or NULL */
	void *published_context;
	const struct caplock_secret *secrets;
	size_t secret_count;
	int network_intercept;                   /* nonzero: TLS of every host is opened, not only where a secret or a policy needs it */
	const char *upstream_ca;                 /* path of certificates (PEM) that servers may have, too; NULL: none */
	const char *hook_socket;                 /* a Unix socket that answers the callbacks of hooks; NULL: none */
	int audit_fd;                            /* gets a line of JSON for each decision and each flow that ended; -1: none.
	                                            Non-blocking, where it is not a file: the sandbox waits for it, not we */
	int learn_fd;                            /* every public host is allowed, and this file becomes a policy; -1: not so */
	int ask;                                 /* nonzero: the user is asked on the terminal about hosts that no rule names */
	const char *control_path;                /* a Unix socket that takes changes of the rules (caplock(1)); NULL: none */
	unsigned mtu;                            /* of the network device: 1500 */
	const char *kernel;         /* path of a vmlinux; NULL: the installed one */
	unsigned timeout_ms;        /* of the whole run; 0: none */
	int console_fd;             /* the guest's kernel messages are copied to it; -1: to nowhere */
	int stdin_fd, stdout_fd, stderr_fd; /* the command's; -1: none */
	int forward_signals; /* nonzero: SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and 2 go to the command, not to us */
};

/* Moments of a boot: indices of caplock_result.timeline_ns. */
enum caplock_moment {
	CAPLOCK_T0_START,  /* the process was started */
	CAPLOCK_T1_MAIN,   /* its main() was reached (in a program that embeds the library: caplock_run()) */
	CAPLOCK_T2_RUN,    /* the virtual CPU runs for the first time */
	CAPLOCK_T3_KERNEL, /* the guest kernel is entered */
	CAPLOCK_T4_INIT,   /* the guest's PID 1 runs */
	CAPLOCK_T5_AGENT,  /* the agent in the guest answers */
	CAPLOCK_T6_OUTPUT, /* the command's first byte of output; its end, where there is none */
	CAPLOCK_MOMENTS,
};

enum caplock_outcome {
	CAPLOCK_EXITED,    /* the command ended; status is its exit status */
	CAPLOCK_KILLED,    /* a signal ended the command; status is 128 + its number */
	CAPLOCK_UNSTARTED, /* the sandbox runs, but the command could not be started: status 126, 127 or 125 */
	CAPLOCK_TIMED_OUT, /* timeout_ms passed; status 124 */
	CAPLOCK_REFUSED,   /* nothing was started: bad spec, no image, no usable KVM; status 1 */
	CAPLOCK_FAILED,    /* the sandbox failed before the command ended: panic, reset, halt, triple fault; or one of the
			      streams did, as on a full disk; status 125 */
};

struct caplock_result {
	enum caplock_outcome outcome;
	int status;         /* as an exit status */
	char message[1024]; /* one line for the user; empty where the outcome says all */
	char *kernel_log;   /* after a failure of the guest: its console; NULL: none. caplock_result_free() */
	char **denied;      /* a line for each host that the network denied, ends with NULL; NULL: none. caplock_result_free() */
	uint64_t timeline_ns[CAPLOCK_MOMENTS]; /* CLOCK_MONOTONIC; 0: not reached */
	uint64_t cpu_before_run_ns;            /* CPU time used until T2 */
};

/* Fills in the defaults named above. */
void caplock_spec_init(struct caplock_spec *spec);

/* Runs a sandbox. Returns result->status. */
int caplock_run(const struct caplock_spec *spec, struct caplock_result *result);

/* Frees what `result` owns. */
void caplock_result_free(struct caplock_result *result);

#ifdef __cplusplus
}
#endif

#endif
