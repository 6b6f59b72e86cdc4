#include "vmm/spec/spec.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/image/image.h"
#include "vmm/machine/machine.h"
#include "vmm/util/err.h"
#include "vmm/util/strv.h"

enum {
	MEMORY_MAX_MB = 16 << 20, /* 16 TiB: what 44 bits of guest-physical addresses hold */
	DISK_MIN_MB = 16,
	DISK_MAX_MB = 1 << 20,
	HOSTNAME_MAX_BYTES = 63,
};

/* The whole number of vCPUs for `cpus`, which may have a fraction. */
unsigned spec_vcpus(const struct caplock_spec *s)
{
	return (unsigned)ceil(s->cpus);
}

/* A host name as RFC 1123 has it: letters, digits and inner hyphens in labels, at most 63 bytes. */
static int check_hostname(const char *name, struct err *e)
{
	size_t n = strlen(name);
	int ok = n > 0 && n <= HOSTNAME_MAX_BYTES;
	for (size_t i = 0; ok && i < n; i++) {
		int edge = i == 0 || i == n - 1 || name[i - 1] == '.' || name[i + 1] == '.';
		int alnum = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= 'A' && name[i] <= 'Z') ||
			    (name[i] >= '0' && name[i] <= '9');
		ok = alnum || (!edge && (name[i] == '-' || name[i] == '.'));
	}
	return ok ? 0 : err_set(e, -EINVAL, "hostname '%s' is not valid: letters, digits and hyphens, at most %d bytes", name,
				HOSTNAME_MAX_BYTES);
}

/* Checks everything in a spec that needs no image. Returns 0, or -EINVAL with what to change. */
int spec_validate(const struct caplock_spec *s, struct err *e)
{
	long online = sysconf(_SC_NPROCESSORS_ONLN);
	if (!(s->cpus > 0) || s->cpus > MACHINE_CPUS_MAX)
		return err_set(e, -EINVAL, "%g CPUs: give a number above 0, at most %d", s->cpus, MACHINE_CPUS_MAX);
	if (spec_vcpus(s) > (unsigned long)online)
		return err_set(e, -EINVAL, "%g CPUs: this host has %ld", s->cpus, online);
	if (s->memory_mb < MACHINE_MEMORY_MIN_MB || s->memory_mb > MEMORY_MAX_MB)
		return err_set(e, -EINVAL, "%u MB of memory: give %d or more, at most %d", s->memory_mb, MACHINE_MEMORY_MIN_MB,
			       MEMORY_MAX_MB);
	uint64_t host_mb = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) >> 20;
	if (s->memory_mb > host_mb)
		return err_set(e, -EINVAL, "%u MB of memory: this host has %llu", s->memory_mb, (unsigned long long)host_mb);
	if (s->disk_mb < DISK_MIN_MB || s->disk_mb > DISK_MAX_MB)
		return err_set(e, -EINVAL, "%u MB of disk: give %d to %d", s->disk_mb, DISK_MIN_MB, DISK_MAX_MB);
	for (const char *const *v = s->env; v && *v; v++)
		if (**v == '=' || !strchr(*v, '='))
			return err_set(e, -EINVAL, "environment '%s': give NAME=VALUE", *v);
	if (s->workdir && s->workdir[0] != '/')
		return err_set(e, -EINVAL, "working directory '%s' is not absolute", s->workdir);
	return s->hostname ? check_hostname(s->hostname, e) : 0;
}

/* The arguments: entrypoint, then those given or those of the image; a new entrypoint takes no arguments of the image. */
static int make_argv(const struct caplock_spec *s, const struct image_config *image, struct strv *argv)
{
	int rc;
	if (s->entrypoint)
		rc = s->entrypoint[0] ? strv_add(argv, s->entrypoint) : 0;
	else
		rc = strv_add_all(argv, (const char *const *)image->entrypoint);
	if (rc)
		return rc;
	if (s->command && s->command[0])
		return strv_add_all(argv, s->command);
	return s->entrypoint && s->entrypoint[0] ? 0 : strv_add_all(argv, (const char *const *)image->cmd);
}

/* Adds a list of assignments, which win over those before. */
static int set_all(struct strv *env, const char *const *list)
{
	int rc = 0;
	for (; list && *list && rc == 0; list++)
		rc = strchr(*list, '=') ? strv_set_env(env, *list) : 0;
	return rc;
}

static int make_env(const struct caplock_spec *s, const struct image_config *image, const struct spec_extra *extra, struct strv *env)
{
	int rc = set_all(env, (const char *const *)image->env);
	rc = rc ? rc : set_all(env, extra->defaults);
	rc = rc ? rc : set_all(env, s->env);
	return rc ? rc : set_all(env, extra->fixed);
}

/*
 * Merges a spec with the configuration of its image, as docker does. On success the caller owns `out`. Returns 0,
 * -EINVAL where there is nothing to run, or -ENOMEM.
 */
int spec_command(const struct caplock_spec *s, const struct image_config *image, const struct spec_extra *extra,
		 struct spec_command *out, struct err *e)
{
	struct strv argv = {0}, env = {0};
	int rc = make_argv(s, image, &argv);
	rc = rc ? rc : make_env(s, image, extra, &env);
	const char *workdir = s->workdir ? s->workdir : image->working_dir && image->working_dir[0] ? image->working_dir : "/";
	const char *user = s->user ? s->user : image->user;
	*out = (struct spec_command){.argv = argv.item, .env = env.item, .workdir = strdup(workdir)};
	if (user && user[0])
		out->user = strdup(user);
	if (rc || !out->workdir || (user && user[0] && !out->user))
		rc = err_sys(e, -ENOMEM, "command");
	else if (argv.count == 0)
		rc = err_set(e, -EINVAL, "no command: the image has none, so give one after --");
	if (rc)
		spec_command_free(out);
	return rc;
}

/* Frees what spec_command() made. */
void spec_command_free(struct spec_command *c)
{
	strv_free(c->argv);
	strv_free(c->env);
	free(c->workdir);
	free(c->user);
	*c = (struct spec_command){0};
}
