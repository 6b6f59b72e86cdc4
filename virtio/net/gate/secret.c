/*
 * Secrets.
 *
 * Theory of operation
 * -------------------
 * Purpose: a guest that may use a key does not get it. Its environment has a placeholder; the gate, which is the only process
 * that has the value, puts it into requests to the hosts that the key belongs to (secret_apply.c), and takes it out of what
 * these answer (secret_scan.c).
 *
 * Trust boundary: heads and bodies are the guest's and the servers'. The names, the hosts and the values are the user's.
 *
 * Invariants: a value is in the vault, and in messages on their way; errors, records and logs have names only. A request with
 * the placeholder of a secret that does not belong to its host, or that would be read on the way, is not sent at all: it is
 * either a mistake or an attempt. Placeholders are made of characters that neither URLs, JSON, forms nor shells write in
 * another way, and none is in another, so that where each begins and ends is one question with one answer.
 */
#include "virtio/net/gate/secret.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "vmm/util/err.h"

#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#define DIGITS "0123456789"

static int check_name(const struct secrets *s, const char *name, struct err *e)
{
	size_t len = strlen(name);
	if (len == 0 || len >= SECRET_NAME_BYTES || strspn(name, LETTERS DIGITS "_") != len || strspn(name, DIGITS))
		return err_set(e, -EINVAL, "'%.200s' cannot name a secret: give letters, digits and '_'", name);
	for (size_t i = 0; i < s->count; i++)
		if (strcmp(s->item[i]->name, name) == 0)
			return err_set(e, -EEXIST, "there are two secrets %s: give each name once, with all its hosts", name);
	return 0;
}

static int check_placeholder(const struct secrets *s, const struct secret_spec *spec, struct err *e)
{
	const char *text = spec->placeholder;
	size_t len = strlen(text);
	if (len < SECRET_PLACEHOLDER_MIN_BYTES || len >= SECRET_PLACEHOLDER_BYTES || strspn(text, LETTERS DIGITS "-._~") != len)
		return err_set(e, -EINVAL,
			       "secret %s: '%.300s' cannot be a placeholder: %d to %d letters, digits and '-._~' can",
			       spec->name, text, SECRET_PLACEHOLDER_MIN_BYTES, SECRET_PLACEHOLDER_BYTES - 1);
	for (size_t i = 0; i < s->count; i++)
		if (strcasestr(s->item[i]->placeholder, text) || strcasestr(text, s->item[i]->placeholder))
			return err_set(e, -EINVAL, "secret %s: its placeholder '%s' must not contain that of %s, '%s', nor be in it",
				       spec->name, text, s->item[i]->name, s->item[i]->placeholder);
	return 0;
}

/*
 * Whether a secret can have this value: it has to fit in a header field, whose ends are trimmed by whoever reads it. Returns 0, or
 * -errno with what is wrong, in which the value is not.
 */
int secret_check_value(const char *name, const char *value, size_t bytes, struct err *e)
{
	if (bytes == 0)
		return err_set(e, -EINVAL, "secret %s: there is no value", name);
	if (bytes > SECRET_VALUE_MAX_BYTES)
		return err_set(e, -E2BIG, "secret %s: the value has more than %d KiB", name, SECRET_VALUE_MAX_BYTES >> 10);
	for (size_t i = 0; i < bytes; i++)
		if (((unsigned char)value[i] < ' ' && value[i] != '\t') || value[i] == 0x7f)
			return err_set(e, -EINVAL, "secret %s: the value has a control character or the end of a line in it", name);
	if (strchr(" \t", value[0]) || strchr(" \t", value[bytes - 1]))
		return err_set(e, -EINVAL, "secret %s: the value begins or ends with a blank", name);
	return 0;
}

/* Makes `hosts` (NULL, or ends with it) those of the secret `name`. Returns 0, or -errno with what is wrong. */
int secret_add_hosts(struct policy *to, const char *name, const char *const *hosts, struct err *e)
{
	for (size_t i = 0; hosts && hosts[i]; i++) {
		struct err why;
		int rc = policy_add_intercept(to, hosts[i], &why);
		if (rc)
			return err_set(e, rc, "secret %s: %s", name, why.text);
		if (to->intercept[i].match == MATCH_ANY)
			return err_set(e, -EINVAL, "secret %s: '%s' is every host: name those that it belongs to", name, hosts[i]);
	}
	if (to->intercept_count == 0)
		return err_set(e, -EINVAL, "secret %s: no host that it belongs to: give NAME@HOST[,HOST...]", name);
	return 0;
}

static void free_secret(struct secret *secret)
{
	policy_free(&secret->hosts);
	free(secret);
}

/* Makes a secret without its value. */
static int make(const struct secret_spec *spec, struct secret **out, struct err *e)
{
	struct secret *secret = calloc(1, sizeof *secret);
	if (!secret)
		return err_set(e, -ENOMEM, "out of memory");
	strcpy(secret->name, spec->name);
	strcpy(secret->placeholder, spec->placeholder);
	secret->in_path = spec->in_path;
	secret->in_body = spec->in_body;
	secret->plain_http = spec->plain_http;
	int rc = secret_add_hosts(&secret->hosts, spec->name, spec->hosts, e);
	if (rc)
		free_secret(secret);
	*out = rc ? NULL : secret;
	return rc;
}

/* Adds a secret without a value, which is the last then. */
static int declare(struct secrets *s, const struct secret_spec *spec, struct err *e)
{
	struct secret *secret;
	int rc;
	if (s->count == SECRETS_MAX)
		return err_set(e, -E2BIG, "there are more than %d secrets", SECRETS_MAX);
	if ((rc = check_name(s, spec->name, e)) || (rc = check_placeholder(s, spec, e)) || (rc = make(spec, &secret, e)))
		return rc;
	s->item[s->count++] = secret;
	s->begins['%'] = true;
	s->begins[tolower((uint8_t)secret->placeholder[0])] = true;
	s->begins[toupper((uint8_t)secret->placeholder[0])] = true;
	return 0;
}

static int add(struct secrets *s, const struct secret_spec *spec, const char *value, size_t value_bytes, struct err *e)
{
	int rc = secret_check_value(spec->name, value, value_bytes, e);
	if (rc)
		return rc;
	if (!s->vault.base && (rc = vault_open(&s->vault, (size_t)SECRETS_MAX * SECRET_VALUE_MAX_BYTES)))
		return err_sys(e, rc, "cannot set memory aside for secrets");
	rc = declare(s, spec, e);
	if (rc)
		return rc;
	uint8_t *at = vault_take(&s->vault, value_bytes); /* there is room for the largest of all */
	memcpy(at, value, value_bytes);
	s->item[s->count - 1]->value = (const char *)at;
	s->item[s->count - 1]->value_bytes = value_bytes;
	return 0;
}

/*
 * Checks what secrets_add() would, all but the value, of secrets one after the other: `s`, which is only for that, remembers them.
 * Returns 0, or -errno with what is wrong.
 */
int secrets_declare(struct secrets *s, const struct secret_spec *spec, struct err *e)
{
	return declare(s, spec, e);
}

/*
 * Adds a secret. The value moves: the caller's copy is wiped, whatever comes of it. Returns 0, or -errno with what is wrong,
 * in which the value never is.
 */
int secrets_add(struct secrets *s, const struct secret_spec *spec, char *value, size_t value_bytes, struct err *e)
{
	int rc = add(s, spec, value, value_bytes, e);
	explicit_bzero(value, value_bytes);
	return rc;
}

/* Wipes the values, and leaves no secret. */
void secrets_free(struct secrets *s)
{
	vault_close(&s->vault);
	for (size_t i = 0; i < s->count; i++)
		free_secret(s->item[i]);
	*s = (struct secrets){0};
}

/* Writes a placeholder that nobody can guess. Returns 0, or -errno. */
int secret_placeholder_make(char out[SECRET_RANDOM_PLACEHOLDER_BYTES])
{
	uint8_t random[16];
	if (getrandom(random, sizeof random, 0) != sizeof random)
		return errno ? -errno : -EIO;
	char *at = stpcpy(out, SECRET_PLACEHOLDER_PREFIX);
	for (size_t i = 0; i < 2 * sizeof random; i++)
		*at++ = "0123456789abcdef"[random[i / 2] >> (i % 2 ? 0 : 4) & 15];
	*at = 0;
	return 0;
}

/* Whether the secret is one of this host's. Pure, as are all below. */
bool secret_belongs(const struct secret *s, const struct secret_target *t)
{
	struct policy_request r = {.proto = NET_TCP, .name = t->host, .port = t->port};
	return policy_intercepts(&s->hosts, &r);
}

/* Why the secret must not go to `t`, in which case not even its placeholder does; NULL: it may. */
const char *secret_refusal(const struct secret *s, const struct secret_target *t)
{
	if (!secret_belongs(s, t))
		return "the placeholder of a secret that does not belong to this host";
	return t->tls || s->plain_http ? NULL : "the placeholder of a secret on its way over HTTP without TLS";
}

/* Whether some secret belongs to `t`: its answers have to be readable. */
bool secrets_any_for(const struct secrets *s, const struct secret_target *t)
{
	for (size_t i = 0; i < s->count; i++)
		if (secret_belongs(s->item[i], t))
			return true;
	return false;
}

/* Whether bodies to `t` can change their length by what is put into them. */
bool secrets_any_in_body(const struct secrets *s, const struct secret_target *t)
{
	for (size_t i = 0; i < s->count; i++)
		if (s->item[i]->in_body && !secret_refusal(s->item[i], t))
			return true;
	return false;
}
