/* caplock policy: look at network policies without starting anything. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/policy.h"
#include "virtio/net/policy_file.h"
#include "virtio/net/presets.h"
#include "vmm/caplock.h"
#include "vmm/cli/cli.h"
#include "vmm/cli/list.h"
#include "vmm/image/image.h"
#include "vmm/sandbox/network.h"
#include "vmm/util/io.h"
#include "vmm/util/strv.h"

enum {
	OPT_ALLOW_HOST = 256,
	OPT_DENY_HOST,
	OPT_ADD_HOST,
	OPT_POLICY,
	OPT_ALLOW_HOST_LOOPBACK,
	OPT_IMAGE,
};

static const struct option options[] = {
	{"allow-host", required_argument, NULL, OPT_ALLOW_HOST},
	{"deny-host", required_argument, NULL, OPT_DENY_HOST},
	{"add-host", required_argument, NULL, OPT_ADD_HOST},
	{"policy", required_argument, NULL, OPT_POLICY},
	{"allow-host-loopback", required_argument, NULL, OPT_ALLOW_HOST_LOOPBACK},
	{"image", required_argument, NULL, OPT_IMAGE},
	{0},
};

/* ---- presets [NAME] ---- */

static void print_rules(const struct preset *preset)
{
	struct policy p = {0};
	struct err e;
	char text[POLICY_RULE_TEXT_BYTES];
	policy_file_parse(preset->text, (size_t)(preset->end - preset->text), &p, &e);
	printf("@%-12s", preset->name);
	for (size_t i = 0; i < p.allow_count; i++)
		printf(" %s", policy_rule_text(&p.allow[i], text));
	putchar('\n');
	policy_free(&p);
}

/* All of them as lines, or one as the file that it is. */
static int do_presets(int argc, char **argv)
{
	if (argc == 1) {
		for (const struct preset *p = presets; p->name; p++)
			print_rules(p);
		return 0;
	}
	const struct preset *p = presets_find(argv[1] + (argv[1][0] == '@'));
	if (!p)
		return cli_usage(&cmd_policy, "no preset '%s'; caplock policy presets lists them", argv[1]);
	fwrite(p->text, 1, (size_t)(p->end - p->text), stdout);
	return 0;
}

/* ---- check FILE... ---- */

static int do_check(int argc, char **argv)
{
	int status = 0;
	for (int i = 1; i < argc; i++) {
		struct policy p = {0};
		struct err e;
		if (policy_file_add(&p, argv[i], &e))
			status = cli_fail(EXIT_REFUSED, &e);
		else
			printf("%s: good: allows %zu, denies %zu, %zu hosts, %zu loopback ports, intercepts %zu, %zu hooks\n",
			       argv[i], p.allow_count, p.deny_count, p.pin_count, p.loopback_port_count, p.intercept_count,
			       p.hooks.count);
		policy_free(&p);
	}
	return status;
}

/* ---- explain [OPTIONS] HOST[:PORT]... ---- */

struct lists {
	struct strv allow_hosts, deny_hosts, add_hosts, policies, loopback;
	const char *image;
};

static int parse_option(int option, const char *value, struct lists *l, struct err *e)
{
	switch (option) {
	case OPT_ALLOW_HOST:
		return cli_add_list(&l->allow_hosts, value, "--allow-host", e);
	case OPT_DENY_HOST:
		return cli_add_list(&l->deny_hosts, value, "--deny-host", e);
	case OPT_ADD_HOST:
		return cli_add_list(&l->add_hosts, value, "--add-host", e);
	case OPT_POLICY:
		return strv_add(&l->policies, value) ? err_sys(e, -ENOMEM, "options") : 0;
	case OPT_IMAGE:
		l->image = value;
		return 0;
	default: /* OPT_ALLOW_HOST_LOOPBACK */
		return cli_add_list(&l->loopback, value, "--allow-host-loopback", e);
	}
}

/*
 * What is asked for is written as a rule is, and must be one host and one port, 443 where there is none. The rule in *rule
 * has the name that r->name points to.
 */
static int parse_request(const char *text, struct policy_rule *rule, struct policy_request *r, struct err *e)
{
	struct policy one = {0};
	int rc = policy_add_allow(&one, text, e);
	bool exact = rc == 0 && one.allow_count == 1 &&
		     (one.allow->match == MATCH_NAME || (one.allow->match == MATCH_NET && one.allow->net.prefix_bits == 128)) &&
		     (one.allow->web || one.allow->port_first == one.allow->port_last);
	if (rc == 0 && !exact)
		rc = err_set(e, -EINVAL, "'%.300s': give one host, with one port or none: [udp:]HOST[:PORT]", text);
	if (rc == 0) {
		*rule = *one.allow;
		*r = (struct policy_request){.proto = rule->proto,
					     .name = rule->match == MATCH_NAME ? rule->name : NULL,
					     .addr = rule->net.addr,
					     .port = rule->web ? 443 : rule->port_first};
	}
	policy_free(&one);
	return rc;
}

/* What becomes of a flow, by which rule or for which reason. Returns whether it is allowed. */
static bool explain(const struct policy *p, const struct policy_request *r)
{
	char text[POLICY_RULE_TEXT_BYTES], address[ADDR_TEXT_BYTES];
	struct policy_decision d = policy_decide(p, r);
	bool v6 = !r->name && !addr_is_v4(&r->addr);
	printf("%s %s%s%s%s:%u: ", d.verdict == POLICY_DENY ? "deny" : "allow", r->proto == NET_UDP ? "udp:" : "", v6 ? "[" : "",
	       r->name ? r->name : addr_text(&r->addr, address), v6 ? "]" : "", r->port);
	if (d.verdict == POLICY_DENY)
		printf("%s", d.reason);
	else
		printf("%s", d.verdict == POLICY_ALLOW ? "TLS and HTTP that name this host" : "whatever is sent");
	if (d.rule)
		printf(" (%s)", policy_rule_text(d.rule, text));
	putchar('\n');
	return d.verdict != POLICY_DENY;
}

/* Adds what "@packages" stands for in the image. */
static int add_packages(struct policy *p, const char *image_name, struct err *e)
{
	struct store *store = NULL;
	struct image image = {0};
	int fd = -1, rc = store_open(&store, e);
	rc = rc ? rc : image_open(store, image_name, &image, &fd, e);
	rc = rc ? rc : network_add_packages(p, fd, 0, e);
	io_close(&fd);
	image_free(&image);
	store_close(store);
	return rc;
}

static int explain_all(const struct lists *l, int argc, char **argv)
{
	struct caplock_spec spec;
	struct policy p;
	struct err e;
	caplock_spec_init(&spec);
	spec.allow_hosts = (const char *const *)l->allow_hosts.item;
	spec.deny_hosts = (const char *const *)l->deny_hosts.item;
	spec.add_hosts = (const char *const *)l->add_hosts.item;
	spec.policies = (const char *const *)l->policies.item;
	spec.allow_host_loopback = (const char *const *)l->loopback.item;
	if (network_policy(&spec, &p, &e))
		return cli_fail(EXIT_REFUSED, &e);
	if (p.allow_packages && !l->image)
		return cli_usage(&cmd_policy, "@packages: give --image, too, whose packages are meant");
	if (p.allow_packages && add_packages(&p, l->image, &e))
		return cli_fail(EXIT_REFUSED, &e);
	int status = 0;
	for (int i = 0; i < argc; i++) {
		struct policy_rule rule;
		struct policy_request r;
		if (parse_request(argv[i], &rule, &r, &e))
			status = cli_fail(EXIT_REFUSED, &e);
		else if (!explain(&p, &r))
			status = EXIT_REFUSED;
	}
	policy_free(&p);
	return status;
}

static int do_explain(int argc, char **argv)
{
	struct lists l = {0};
	struct err e;
	int option, rc = 0;
	opterr = 0;
	optind = 1;
	while (rc == 0 && (option = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (option == ':')
			return cli_usage(&cmd_policy, "%s needs a value", argv[optind - 1]);
		if (option == '?')
			return cli_usage(&cmd_policy, "no option %s", argv[optind - 1]);
		rc = parse_option(option, optarg, &l, &e);
	}
	int status = rc ? cli_fail(EXIT_REFUSED, &e)
			: optind == argc ? cli_usage(&cmd_policy, "give the hosts to explain")
					 : explain_all(&l, argc - optind, argv + optind);
	strv_free(l.allow_hosts.item);
	strv_free(l.deny_hosts.item);
	strv_free(l.add_hosts.item);
	strv_free(l.policies.item);
	strv_free(l.loopback.item);
	return status;
}

/* ---- packages [IMAGE] ---- */

/* The rules that "@packages" stands for, a line each. */
static int do_packages(const char *image_name)
{
	struct policy p = {.allow_packages = true};
	struct err e;
	char text[POLICY_RULE_TEXT_BYTES];
	int rc = add_packages(&p, image_name, &e);
	for (size_t i = 0; i < p.allow_count && rc == 0; i++)
		puts(policy_rule_text(&p.allow[i], text));
	policy_free(&p);
	return rc ? cli_fail(EXIT_REFUSED, &e) : 0;
}

static int run(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	if (strcmp(what, "presets") == 0 && argc <= 3)
		return do_presets(argc - 1, argv + 1);
	if (strcmp(what, "check") == 0 && argc > 2)
		return do_check(argc - 1, argv + 1);
	if (strcmp(what, "packages") == 0 && argc == 3)
		return do_packages(argv[2]);
	if (strcmp(what, "explain") == 0)
		return do_explain(argc - 1, argv + 1);
	return cli_usage(&cmd_policy, "give presets [NAME], check FILE..., packages IMAGE, or explain [OPTIONS] HOST[:PORT]...");
}

const struct command cmd_policy = {
	.name = "policy",
	.synopsis = "caplock policy presets [NAME]\n"
		    "caplock policy check FILE...\n"
		    "caplock policy packages IMAGE\n"
		    "caplock policy explain [OPTIONS] [udp:]HOST[:PORT]...",
	.summary = "List presets, check policy files, say what @packages of an image is, and what a policy allows and why",
	.options =
		(const struct option_help[]){
			{"--allow-host HOST", "of explain: as of caplock run, and likewise"},
			{"", "--deny-host, --add-host, --policy, --allow-host-loopback and --image"},
			{0},
		},
	.run = run,
};
