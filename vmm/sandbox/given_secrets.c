/*
 * Nothing of a secret's value is here: it is a descriptor that the gate reads, and the supervisor never does, so that what is
 * forked from the supervisor cannot have it.
 */
#include "vmm/sandbox/given_secrets.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/gate.h"
#include "virtio/net/gate/secret.h"
#include "virtio/net/gate/sigv4.h"
#include "virtio/net/policy.h"
#include "vmm/caplock.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/strv.h"

enum { FD_MIN = 3 }; /* below are the standard streams, which a gate does not keep */

/* Takes a comma list apart. Returns 0 or -ENOMEM. */
static int split(const char *list, struct strv *out)
{
	int rc = 0;
	while (rc == 0 && list && *list) {
		size_t n = strcspn(list, ",");
		char *item = strndup(list, n);
		rc = !item ? -ENOMEM : n ? strv_add(out, item) : 0;
		free(item);
		list += n + (list[n] == ',');
	}
	return rc;
}

static int out_of_memory(struct err *e)
{
	return err_set(e, -ENOMEM, "out of memory");
}

/* Allows the hosts that secrets belong to, and has them read. Returns 0 or -errno. */
int given_secrets_allow(const struct caplock_spec *spec, struct policy *p, struct err *e)
{
	int rc = 0;
	p->intercept_all |= spec->network_intercept != 0;
	p->intercept_plain |= spec->secret_count > 0;
	for (size_t i = 0; i < spec->secret_count && rc == 0; i++) {
		struct strv hosts = {0};
		struct err why;
		rc = split(spec->secrets[i].hosts, &hosts) ? out_of_memory(&why) : 0;
		for (size_t k = 0; k < hosts.count && rc == 0; k++) {
			rc = policy_add_intercept(p, hosts.item[k], &why);
			rc = rc ? rc : policy_add_allow(p, hosts.item[k], &why);
		}
		if (rc)
			err_set(e, rc, "secret %s: %s", spec->secrets[i].name, why.text);
		strv_free(hosts.item);
	}
	return rc;
}

/* ---- Placeholders ---- */

static int set(struct strv *env, const char *name, const char *value)
{
	char *both;
	if (asprintf(&both, "%s=%s", name, value) < 0)
		return -ENOMEM;
	int rc = strv_add(env, both);
	free(both);
	return rc;
}

/*
 * An access key that looks like one, so that programs sign with it; the gate signs again with the right one. The id is the
 * placeholder: it is in what is signed.
 */
static int make_aws_key(struct gate_secret *secret, struct strv *env)
{
	char id[SIGV4_GUEST_ID_BYTES], key[SIGV4_GUEST_KEY_BYTES];
	int rc = sigv4_guest_keys_make(id, key);
	rc = rc ? rc : set(env, "AWS_ACCESS_KEY_ID", id);
	rc = rc ? rc : set(env, "AWS_SECRET_ACCESS_KEY", key);
	secret->placeholder = rc ? NULL : strdup(id);
	return rc ? rc : secret->placeholder ? 0 : -ENOMEM;
}

static int make_placeholder(const struct caplock_secret *given, struct gate_secret *secret, struct strv *env, struct err *e)
{
	char random[SECRET_RANDOM_PLACEHOLDER_BYTES];
	int rc = given->placeholder || secret->aws ? 0 : secret_placeholder_make(random);
	if (rc == 0 && secret->aws)
		rc = make_aws_key(secret, env);
	else if (rc == 0) {
		secret->placeholder = strdup(given->placeholder ? given->placeholder : random);
		rc = secret->placeholder ? set(env, secret->name, secret->placeholder) : -ENOMEM;
	}
	return rc ? err_sys(e, rc, "secret %s: cannot make a placeholder", secret->name) : 0;
}

/* ---- Checks ---- */

/* A variable of a secret cannot be set in another way, too: that value would be in the sandbox. */
static int check_env(const struct caplock_spec *spec, const struct strv *env, struct err *e)
{
	for (size_t i = 0; i < env->count; i++) {
		size_t name_bytes = strcspn(env->item[i], "=") + 1;
		for (size_t k = 0; k < i; k++)
			if (strncmp(env->item[i], env->item[k], name_bytes) == 0)
				return err_set(e, -EINVAL, "two secrets are for the variable %.*s: give one", (int)name_bytes - 1,
					       env->item[i]);
		for (const char *const *v = spec->env; v && *v; v++)
			if (strncmp(env->item[i], *v, name_bytes) == 0)
				return err_set(e, -EINVAL, "%.*s is a secret and an environment variable: give one or the other",
					       (int)name_bytes - 1, env->item[i]);
	}
	return 0;
}

/* Of AWS it is a profile, which the gate looks up. */
static int check(struct secrets *before, const struct gate_secret *secret, struct err *e)
{
	struct secret_spec spec = {.name = secret->aws ? "AWS" : secret->name,
				   .placeholder = secret->placeholder,
				   .hosts = (const char *const *)secret->hosts};
	if (secret->aws && !secret->name[0])
		return err_set(e, -EINVAL, "a secret of AWS needs the name of a profile: give aws:PROFILE@HOST[,HOST...]");
	return secrets_declare(before, &spec, e);
}

static int take(const struct caplock_secret *given, struct gate_secret *secret, struct strv *env, struct err *e)
{
	struct strv hosts = {0};
	*secret = (struct gate_secret){
		.value_fd = -1,
		.name = strdup(given->name ? given->name : ""),
		.in_path = given->flags & CAPLOCK_SECRET_IN_PATH,
		.in_body = given->flags & CAPLOCK_SECRET_IN_BODY,
		.plain_http = given->flags & CAPLOCK_SECRET_PLAIN_HTTP,
		.aws = given->flags & CAPLOCK_SECRET_AWS,
	};
	int rc = split(given->hosts, &hosts);
	secret->hosts = hosts.item;
	if (rc || !secret->name)
		return out_of_memory(e);
	secret->value_fd = fcntl(given->value_fd, F_DUPFD_CLOEXEC, FD_MIN);
	if (secret->value_fd < 0)
		return err_set(e, -EBADF, "secret %s has no value", secret->name);
	return make_placeholder(given, secret, env, e);
}

/*
 * Takes the secrets of a spec over: for the gate, and as variables for the guest, which are added to `env`. Returns 0, or -errno
 * with what is wrong; given_secrets_free() is due in any case.
 */
int given_secrets_take(const struct caplock_spec *spec, struct gate_config *gate, struct strv *env, struct err *e)
{
	struct secrets checked = {0};
	int rc = 0;
	gate->secrets = spec->secret_count ? calloc(spec->secret_count, sizeof *gate->secrets) : NULL;
	if (spec->secret_count && !gate->secrets)
		return out_of_memory(e);
	for (size_t i = 0; i < spec->secret_count && rc == 0; i++) {
		rc = take(&spec->secrets[i], &gate->secrets[gate->secret_count++], env, e);
		rc = rc ? rc : check(&checked, &gate->secrets[i], e);
	}
	secrets_free(&checked);
	return rc ? rc : check_env(spec, env, e);
}

/* Closes the values: the gate has them. */
void given_secrets_close(struct gate_config *gate)
{
	for (size_t i = 0; i < gate->secret_count; i++)
		io_close(&gate->secrets[i].value_fd);
}

/* Frees what given_secrets_take() made. */
void given_secrets_free(struct gate_config *gate)
{
	given_secrets_close(gate);
	for (size_t i = 0; i < gate->secret_count; i++) {
		free(gate->secrets[i].name);
		free(gate->secrets[i].placeholder);
		strv_free(gate->secrets[i].hosts);
	}
	free(gate->secrets);
	gate->secrets = NULL;
	gate->secret_count = 0;
}
