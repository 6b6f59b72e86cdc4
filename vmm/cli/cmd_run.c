/* caplock run: options to struct caplock_spec, and its result to lines and an exit status. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cli/cli.h"
#include "vmm/cli/env.h"
#include "vmm/cli/list.h"
#include "vmm/cli/secret.h"
#include "vmm/cli/timing.h"
#include "vmm/machine/machine.h"
#include "vmm/sandbox/sandbox.h"
#include "vmm/util/strv.h"

enum {
	OPT_IMAGE = 256,
	OPT_CPUS,
	OPT_MEMORY,
	OPT_DISK_SIZE,
	OPT_ENV_FILE,
	OPT_ENTRYPOINT,
	OPT_HOSTNAME,
	OPT_TIMEOUT,
	OPT_ALLOW_HOST,
	OPT_DENY_HOST,
	OPT_ALLOW_WEBSOCKET,
	OPT_ADD_HOST,
	OPT_POLICY,
	OPT_ALLOW_HOST_LOOPBACK,
	OPT_DNS_SERVERS,
	OPT_MTU,
	OPT_NO_NETWORK,
	OPT_SECRET,
	OPT_SECRET_FILE,
	OPT_SECRET_PLACEHOLDER,
	OPT_SECRET_IN,
	OPT_NETWORK_INTERCEPT,
	OPT_UPSTREAM_CA,
	OPT_HOOK_SOCKET,
	OPT_QUIET,
	OPT_ADDRESS,
	OPT_AUDIT,
	OPT_LEARN,
	OPT_ASK,
	OPT_CONTROL,
	OPT_KERNEL,
	OPT_TIMING,
	OPT_CONSOLE,
};

static const struct option options[] = {
	{"image", required_argument, NULL, OPT_IMAGE},
	{"cpus", required_argument, NULL, OPT_CPUS},
	{"memory", required_argument, NULL, OPT_MEMORY},
	{"disk-size", required_argument, NULL, OPT_DISK_SIZE},
	{"env", required_argument, NULL, 'e'},
	{"env-file", required_argument, NULL, OPT_ENV_FILE},
	{"workdir", required_argument, NULL, 'w'},
	{"user", required_argument, NULL, 'u'},
	{"entrypoint", required_argument, NULL, OPT_ENTRYPOINT},
	{"hostname", required_argument, NULL, OPT_HOSTNAME},
	{"timeout", required_argument, NULL, OPT_TIMEOUT},
	{"allow-host", required_argument, NULL, OPT_ALLOW_HOST},
	{"deny-host", required_argument, NULL, OPT_DENY_HOST},
	{"allow-websocket", required_argument, NULL, OPT_ALLOW_WEBSOCKET},
	{"add-host", required_argument, NULL, OPT_ADD_HOST},
	{"policy", required_argument, NULL, OPT_POLICY},
	{"allow-host-loopback", required_argument, NULL, OPT_ALLOW_HOST_LOOPBACK},
	{"dns-servers", required_argument, NULL, OPT_DNS_SERVERS},
	{"mtu", required_argument, NULL, OPT_MTU},
	{"no-network", no_argument, NULL, OPT_NO_NETWORK},
	{"secret", required_argument, NULL, OPT_SECRET},
	{"secret-file", required_argument, NULL, OPT_SECRET_FILE},
	{"secret-placeholder", required_argument, NULL, OPT_SECRET_PLACEHOLDER},
	{"secret-in", required_argument, NULL, OPT_SECRET_IN},
	{"network-intercept", no_argument, NULL, OPT_NETWORK_INTERCEPT},
	{"upstream-ca", required_argument, NULL, OPT_UPSTREAM_CA},
	{"hook-socket", required_argument, NULL, OPT_HOOK_SOCKET},
	{"publish", required_argument, NULL, 'p'},
	{"address", required_argument, NULL, OPT_ADDRESS},
	{"audit", required_argument, NULL, OPT_AUDIT},
	{"learn", required_argument, NULL, OPT_LEARN},
	{"ask", no_argument, NULL, OPT_ASK},
	{"control", required_argument, NULL, OPT_CONTROL},
	{"quiet", no_argument, NULL, OPT_QUIET},
	{"kernel", required_argument, NULL, OPT_KERNEL},
	{"timing", optional_argument, NULL, OPT_TIMING},
	{"console", no_argument, NULL, OPT_CONSOLE},
	{0},
};

struct run_options {
	struct caplock_spec spec;
	struct strv env, file_env; /* -e wins over --env-file, wherever it stands */
	struct strv allow_hosts, deny_hosts, websockets, add_hosts, policies, loopback, dns_servers, publish;
	struct secret_options secrets;
	enum timing_format timing;
	int quiet;
};

/* A whole decimal number of `what`. */
static int parse_number(const char *text, const char *what, unsigned *out, struct err *e)
{
	char *end;
	errno = 0;
	unsigned long value = strtoul(text, &end, 10);
	if (errno || *end || text[0] < '0' || text[0] > '9' || value > UINT32_MAX)
		return err_set(e, -EINVAL, "%s '%s': give a whole number", what, text);
	*out = (unsigned)value;
	return 0;
}

/* A decimal number that may have a fraction, from 0 to `max`. */
static int parse_real(const char *text, const char *what, double max, double *out, struct err *e)
{
	char *end;
	double value = strtod(text, &end);
	int plain = strspn(text, "0123456789.") == strlen(text);
	if (!plain || end == text || *end || !isfinite(value) || value > max)
		return err_set(e, -EINVAL, "%s '%s': give a number from 0 to %.0f", what, text, max);
	*out = value;
	return 0;
}

static int parse_timeout(const char *text, unsigned *timeout_ms, struct err *e)
{
	double seconds;
	int rc = parse_real(text, "--timeout", UINT32_MAX / 1000, &seconds, e);
	if (rc == 0 && seconds < 0.001)
		rc = err_set(e, -EINVAL, "--timeout '%s': give seconds above 0", text);
	if (rc == 0)
		*timeout_ms = (unsigned)(seconds * 1000);
	return rc;
}

static int parse_timing(const char *text, enum timing_format *format, struct err *e)
{
	*format = text && strcmp(text, "json") == 0 ? TIMING_JSON : TIMING_TEXT;
	if (text && *format != TIMING_JSON)
		return err_set(e, -EINVAL, "--timing=%s: give --timing or --timing=json", text);
	return 0;
}

/* Opens a file that the run writes, for the user only. */
static int open_output(const char *path, const char *option, int flags, int *fd, struct err *e)
{
	*fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | flags, 0600);
	return *fd < 0 ? err_sys(e, -errno, "%s %s", option, path) : 0;
}

static int parse_option(int option, char *value, struct run_options *o, struct err *e)
{
	struct caplock_spec *s = &o->spec;
	switch (option) {
	case OPT_IMAGE:
		s->image = value;
		return 0;
	case OPT_CPUS:
		return parse_real(value, "--cpus", MACHINE_CPUS_MAX, &s->cpus, e);
	case OPT_MEMORY:
		return parse_number(value, "--memory", &s->memory_mb, e);
	case OPT_DISK_SIZE:
		return parse_number(value, "--disk-size", &s->disk_mb, e);
	case 'e':
		return env_add(&o->env, value, e);
	case OPT_ENV_FILE:
		return env_add_file(&o->file_env, value, e);
	case 'w':
		s->workdir = value;
		return 0;
	case 'u':
		s->user = value;
		return 0;
	case OPT_ENTRYPOINT:
		s->entrypoint = value;
		return 0;
	case OPT_HOSTNAME:
		s->hostname = value;
		return 0;
	case OPT_TIMEOUT:
		return parse_timeout(value, &s->timeout_ms, e);
	case OPT_ALLOW_HOST:
		return cli_add_list(&o->allow_hosts, value, "--allow-host", e);
	case OPT_DENY_HOST:
		return cli_add_list(&o->deny_hosts, value, "--deny-host", e);
	case OPT_ALLOW_WEBSOCKET:
		return cli_add_list(&o->websockets, value, "--allow-websocket", e);
	case OPT_ADD_HOST:
		return cli_add_list(&o->add_hosts, value, "--add-host", e);
	case OPT_POLICY:
		return strv_add(&o->policies, value) ? err_sys(e, -ENOMEM, "options") : 0;
	case OPT_ALLOW_HOST_LOOPBACK:
		return cli_add_list(&o->loopback, value, "--allow-host-loopback", e);
	case OPT_DNS_SERVERS:
		return cli_add_list(&o->dns_servers, value, "--dns-servers", e);
	case OPT_MTU:
		return parse_number(value, "--mtu", &s->mtu, e);
	case OPT_NO_NETWORK:
		s->no_network = 1;
		return 0;
	case OPT_SECRET:
		return secret_add(&o->secrets, value, e);
	case OPT_SECRET_FILE:
		return secret_add_file(&o->secrets, value, e);
	case OPT_SECRET_PLACEHOLDER:
	case OPT_SECRET_IN:
		return secret_add_remark(&o->secrets, value, option == OPT_SECRET_IN, e);
	case OPT_NETWORK_INTERCEPT:
		s->network_intercept = 1;
		return 0;
	case OPT_UPSTREAM_CA:
		s->upstream_ca = value;
		return 0;
	case OPT_HOOK_SOCKET:
		s->hook_socket = value;
		return 0;
	case 'p':
		return cli_add_list(&o->publish, value, "-p", e);
	case OPT_ADDRESS:
		s->publish_address = value;
		return 0;
	case OPT_AUDIT:
		return open_output(value, "--audit", O_APPEND | O_NONBLOCK, &s->audit_fd, e);
	case OPT_LEARN:
		return open_output(value, "--learn", 0, &s->learn_fd, e);
	case OPT_ASK:
		s->ask = 1;
		return 0;
	case OPT_CONTROL:
		s->control_path = value;
		return 0;
	case OPT_QUIET:
		o->quiet = 1;
		return 0;
	case OPT_KERNEL:
		s->kernel = value;
		return 0;
	case OPT_TIMING:
		return parse_timing(value, &o->timing, e);
	default: /* OPT_CONSOLE */
		s->console_fd = STDERR_FILENO;
		return 0;
	}
}

/* Reads the command line. Returns 0, or the exit status after having said what is wrong. */
static int parse(int argc, char **argv, struct run_options *o)
{
	struct err e;
	int option;
	opterr = 0;
	optind = 1;
	while ((option = getopt_long(argc, argv, "+:e:w:u:p:", options, NULL)) != -1) {
		if (option == ':')
			return cli_usage(&cmd_run, "%s needs a value", argv[optind - 1]);
		if (option == '?' && optopt > 0 && optopt < 256)
			return cli_usage(&cmd_run, "no option -%c", optopt);
		if (option == '?' && optopt)
			return cli_usage(&cmd_run, "%.*s takes no value", (int)strcspn(argv[optind - 1], "="), argv[optind - 1]);
		if (option == '?') /* without what follows it: an option that is mistyped may have been --secret */
			return cli_usage(&cmd_run, "no option %.*s", (int)strcspn(argv[optind - 1], "="), argv[optind - 1]);
		if (optarg && strcmp(optarg, "--") == 0)
			return cli_usage(&cmd_run, "an option before -- needs a value");
		if (parse_option(option, optarg, o, &e))
			return cli_fail(EXIT_REFUSED, &e);
	}
	for (size_t i = 0; i < o->env.count; i++)
		if (strv_set_env(&o->file_env, o->env.item[i]))
			return cli_fail(EXIT_REFUSED, &(struct err){"out of memory"});
	if (secret_finish(&o->secrets, &o->file_env, &e))
		return cli_fail(EXIT_REFUSED, &e);
	o->spec.secrets = o->secrets.item;
	o->spec.secret_count = o->secrets.count;
	o->spec.env = (const char *const *)o->file_env.item;
	o->spec.allow_hosts = (const char *const *)o->allow_hosts.item;
	o->spec.deny_hosts = (const char *const *)o->deny_hosts.item;
	o->spec.allow_websockets = (const char *const *)o->websockets.item;
	o->spec.add_hosts = (const char *const *)o->add_hosts.item;
	o->spec.policies = (const char *const *)o->policies.item;
	o->spec.allow_host_loopback = (const char *const *)o->loopback.item;
	o->spec.publish = (const char *const *)o->publish.item;
	o->spec.dns_servers = (const char *const *)o->dns_servers.item;
	o->spec.command = (const char *const *)argv + optind;
	return 0;
}

static void print_kernel_log(const char *log)
{
	fprintf(stderr, "caplock: the guest's kernel log:\n");
	for (const char *line = log; *line;) {
		int n = (int)strcspn(line, "\n");
		if (n)
			fprintf(stderr, "  | %.*s\n", n, line);
		line += n + (line[n] == '\n');
	}
}

/* Descriptors 0..2 of ours stay what they are: without one, the machine's would take its place. */
static void fill_stdio(void)
{
	int fd;
	do
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	while (fd >= 0 && fd <= 2);
	if (fd > 2)
		close(fd);
}

static void print_published(void *context, const char *line)
{
	(void)context;
	fprintf(stderr, "Forwarding %s\n", line);
}

static int run(int argc, char **argv)
{
	struct run_options o = {0};
	caplock_spec_init(&o.spec);
	fill_stdio();
	int status = parse(argc, argv, &o);
	if (status)
		return status;
	o.spec.stdin_fd = STDIN_FILENO;
	o.spec.stdout_fd = STDOUT_FILENO;
	o.spec.stderr_fd = STDERR_FILENO;
	o.spec.forward_signals = 1;
	o.spec.published = print_published;

	/* Neither the sandbox nor the options are freed: we exit, and nobody should wait for the machine's end. */
	struct caplock_result result;
	sandbox_run(&o.spec, cli_start_ns, cli_main_ns, &result);
	if (result.message[0]) {
		struct err e;
		err_set(&e, 0, "%s", result.message);
		cli_fail(result.status, &e);
	}
	if (result.kernel_log && o.spec.console_fd < 0)
		print_kernel_log(result.kernel_log);
	for (char **line = result.denied; line && *line && !o.quiet; line++)
		fprintf(stderr, "caplock: denied %s\n", *line);
	if (o.timing != TIMING_NONE)
		timing_print(stderr, o.timing, &result);
	fflush(NULL);
	_exit(result.status);
}

const struct command cmd_run = {
	.name = "run",
	.synopsis = "caplock run [OPTIONS] [--] [COMMAND [ARGUMENT...]]",
	.summary = "Run a command in a new sandbox",
	.options =
		(const struct option_help[]){
			{"--image NAME", "the image to run (see: caplock image); default: built-in busybox"},
			{"--cpus N", "virtual CPUs, may have a fraction (1)"},
			{"--memory MB", "memory, at least 64 (512)"},
			{"--disk-size MB", "writable layer over the image, 16 or more (5120); takes space as it is used"},
			{"-e, --env NAME[=VALUE]", "set a variable, or pass this host's, which must be set; may be repeated"},
			{"--env-file FILE", "the same from the lines of a file; -e wins"},
			{"-w, --workdir DIR", "working directory (the image's, or /)"},
			{"-u, --user USER[:GROUP]", "name or id to run as (the image's, or root)"},
			{"--entrypoint PROGRAM", "instead of the image's; \"\" for none"},
			{"--hostname NAME", "(caplock)"},
			{"--timeout SECONDS", "end the run after this time, exit status 124"},
			{"--allow-host HOST", "allow [tcp:|udp:]HOST[:PORT[-PORT]|:*] (80 and 443); a name, *.NAME, *, address or range;"},
			{"", "or @PRESET (see: caplock policy presets), or @packages: the image's mirrors"},
			{"--deny-host HOST", "deny it, whatever is allowed"},
			{"--allow-websocket HOST", "let HTTP that is opened, and HTTP without TLS, become a WebSocket there"},
			{"--add-host NAME:IP", "where NAME is, instead of asking a resolver"},
			{"--policy FILE", "add the rules of a policy file, of which there may be several"},
			{"--allow-host-loopback PORT", "open a port of this host's loopback, at host.caplock.internal"},
			{"--dns-servers IP,...", "whom to ask for allowed names (this host's)"},
			{"--mtu BYTES", "of the network device (1500)"},
			{"--no-network", "no network device at all"},
			{"--secret NAME[=VALUE]@HOST,...", "a key (this host's variable, or VALUE) for requests to these hosts, which are allowed;"},
			{"", "the sandbox has a placeholder in NAME; aws:PROFILE@HOST,...: sign requests with a key of AWS"},
			{"--secret-file NAME=FILE@HOST,...", "the same, from a file"},
			{"--secret-placeholder NAME=TEXT", "instead of a random one"},
			{"--secret-in NAME=WHERE,...", "put it also into: path, body; http: and send it without TLS"},
			{"--network-intercept", "open TLS of every host, as for hosts of secrets and hooks"},
			{"--upstream-ca FILE", "trust these certificates (PEM), too, where TLS is opened"},
			{"--hook-socket SOCKET", "who answers the callbacks of hooks (see: caplock(1))"},
			{"-p, --publish [[IP:]HOST:]GUEST", "lead a port of this host (at 127.0.0.1) to the sandbox's; HOST 0: any"},
			{"--address IP", "instead of 127.0.0.1 for -p"},
			{"--audit FILE", "append a line of JSON for each decision and each flow that ended"},
			{"--learn FILE", "allow every public host, and write the policy that would have been enough"},
			{"--ask", "ask on the terminal about hosts that no rule names"},
			{"--control SOCKET", "take changes of the rules from this Unix socket while it runs"},
			{"--quiet", "do not say what the network denied"},
			{"--kernel PATH", "boot this vmlinux; also $CAPLOCK_KERNEL"},
			{"--timing[=json]", "print the boot timeline to stderr at the end"},
			{"--console", "print the guest's kernel messages to stderr"},
			{0},
		},
	.run = run,
};
