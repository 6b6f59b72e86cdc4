#include <stdio.h>

#include "vmm/caplock.h"
#include "vmm/cli/cli.h"

static int run(int argc, char **argv)
{
	(void)argv;
	if (argc > 1)
		return cli_usage(&cmd_version, "takes no arguments");
	puts("caplock " CAPLOCK_VERSION);
	return 0;
}

const struct command cmd_version = {
	.name = "version",
	.synopsis = "caplock version",
	.summary = "Print the version",
	.run = run,
};
