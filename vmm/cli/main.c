/* caplock: finds the command, runs it, and prints what goes wrong. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "vmm/caplock.h"
#include "vmm/cli/cli.h"
#include "vmm/machine/status.h"

uint64_t cli_start_ns, cli_main_ns;

const struct command *const commands[] = {&cmd_run, &cmd_image, &cmd_policy, &cmd_doctor, &cmd_version, &cmd_help, NULL};

/* The command called `name`, or NULL. */
const struct command *cli_find(const char *name)
{
	for (const struct command *const *c = commands; *c; c++)
		if (strcmp((*c)->name, name) == 0)
			return *c;
	return NULL;
}

/* Prints one line about a failure. Returns `status`, for `return cli_fail(...)`. */
int cli_fail(int status, const struct err *e)
{
	fprintf(stderr, "caplock: %s\n", e->text);
	return status;
}

/* Prints what is wrong with the arguments of `c`, and where its help is. Returns EXIT_REFUSED. */
int cli_usage(const struct command *c, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	struct err e;
	err_set(&e, 0, "%s: %s; see: caplock help %s", c->name, text, c->name);
	return cli_fail(EXIT_REFUSED, &e);
}

int main(int argc, char **argv)
{
	timeline_stamp_main(&cli_start_ns, &cli_main_ns);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_DFL); /* whoever ignored it had the machine's end, which we explain, thrown away */
	const char *name = argc > 1 ? argv[1] : "help";
	if (strcmp(name, "--version") == 0)
		name = "version";
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
		name = "help";
	const struct command *c = cli_find(name);
	if (!c) {
		struct err e;
		err_set(&e, 0, "no command '%s'; see: caplock help", name);
		return cli_fail(EXIT_REFUSED, &e);
	}
	int shift = argc > 1 ? 1 : 0;
	if (argc > 2 && (strcmp(argv[2], "--help") == 0 || strcmp(argv[2], "-h") == 0)) {
		argv[2] = argv[1];
		c = &cmd_help;
	}
	int status = c->run(argc - shift, argv + shift);
	if (fflush(stdout) || ferror(stdout)) {
		struct err e;
		err_sys(&e, -errno, "cannot write standard output");
		return cli_fail(EXIT_REFUSED, &e);
	}
	return status;
}
