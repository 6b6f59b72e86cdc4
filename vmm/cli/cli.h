/* The command table: one entry per command, one file per command; help derives from it. */
#ifndef CAPLOCK_CLI_H
#define CAPLOCK_CLI_H

#include <stdint.h>

#include "vmm/util/err.h"

/* Exit statuses of caplock itself (the command's own status is passed through; see caplock(1), EXIT STATUS). */
enum {
	EXIT_REFUSED = 1,   /* bad usage or input, or no usable KVM: nothing was started */
	EXIT_TIMEOUT = 124, /* --timeout ran out */
	EXIT_SANDBOX = 125, /* the sandbox itself failed */
};

struct option_help {
	const char *flag; /* "--memory MB" */
	const char *text; /* one line */
};

struct command {
	const char *name;
	const char *synopsis; /* "caplock image import NAME < ARCHIVE", one line per form */
	const char *summary;  /* one line */
	const struct option_help *options; /* ends with {0}; may be NULL */
	int (*run)(int argc, char **argv); /* argv[0] is the command's name; returns the exit status */
};

extern const struct command cmd_run, cmd_image, cmd_policy, cmd_doctor, cmd_version, cmd_help;
extern const struct command *const commands[]; /* ends with NULL */
extern uint64_t cli_start_ns, cli_main_ns;      /* T0 and T1 of the timeline */

const struct command *cli_find(const char *name);

int cli_fail(int status, const struct err *e);
int cli_usage(const struct command *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
