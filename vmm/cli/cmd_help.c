#include <stdio.h>

#include "vmm/cli/cli.h"

static void print_command(const struct command *c)
{
	printf("%s\n\nUsage:\n", c->summary);
	for (const char *line = c->synopsis; *line;) {
		int n = 0;
		while (line[n] && line[n] != '\n')
			n++;
		printf("  %.*s\n", n, line);
		line += n + (line[n] == '\n');
	}
	if (!c->options)
		return;
	printf("\nOptions:\n");
	for (const struct option_help *o = c->options; o->flag; o++)
		printf("  %-26s %s\n", o->flag, o->text);
}

static int run(int argc, char **argv)
{
	if (argc > 1) {
		const struct command *c = cli_find(argv[1]);
		if (!c)
			return cli_usage(&cmd_help, "no command '%s'", argv[1]);
		print_command(c);
		return 0;
	}
	printf("caplock: run untrusted programs in disposable Linux microVMs\n\n"
	       "  caplock run -- uname -a                        in the built-in busybox image\n"
	       "  docker save python:3.12 | caplock image import python:3.12\n"
	       "  caplock run --image python:3.12 -- python3 -c 'print(1)'\n\n"
	       "Commands:\n");
	for (const struct command *const *c = commands; *c; c++)
		printf("  %-10s %s\n", (*c)->name, (*c)->summary);
	printf("\nOptions of a command: caplock help COMMAND\n");
	return 0;
}

const struct command cmd_help = {
	.name = "help",
	.synopsis = "caplock help [COMMAND]",
	.summary = "Describe caplock or one of its commands",
	.run = run,
};
