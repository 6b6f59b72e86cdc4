/*
 * Theory of operation
 * -------------------
 * Purpose: takes the values of secrets from where the user has them to where only the gate reads them.
 *
 * A value stands in the arguments or in the environment, which /proc shows to others, and which every fork of this process has a
 * copy of. So it goes into a pipe, which is empty once the gate has read it, and is wiped where it stood, before anything is
 * forked. It is never copied into memory of ours. A file is opened and not read.
 *
 * No message has a value in it. What is not what it should be may be a value in the wrong place: a key alone, without name and
 * host; a host that is the end of a password with an '@'. Such text is not shown.
 */
#include "vmm/cli/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "virtio/net/gate/secret.h"
#include "virtio/net/policy.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/strv.h"

#define AWS "aws:"

extern char **environ;

/* ---- Values ---- */

/* Wipes the value of each variable `name`, and removes them. */
static void wipe_env(const char *name)
{
	size_t n = strlen(name);
	for (char **v = environ; v && *v; v++)
		if (strncmp(*v, name, n) == 0 && (*v)[n] == '=')
			explicit_bzero(*v + n + 1, strlen(*v + n + 1));
	unsetenv(name);
}

/* Makes a pipe that has the value and then ends: *fd, the caller's. Returns 0 or -errno. */
static int put_value(const char *name, const char *value, size_t len_bytes, int *fd, struct err *e)
{
	int pipe_fd[2];
	int rc = secret_check_value(name, value, len_bytes, e);
	if (rc)
		return rc;
	if (pipe2(pipe_fd, O_CLOEXEC))
		return err_sys(e, -errno, "secret %s: cannot make a pipe", name);
	fcntl(pipe_fd[1], F_SETFL, O_NONBLOCK);
	ssize_t written = write(pipe_fd[1], value, len_bytes);
	close(pipe_fd[1]);
	*fd = pipe_fd[0];
	return written == (ssize_t)len_bytes ? 0 : err_set(e, -ENOSPC, "secret %s: the value does not fit into a pipe", name);
}

/* Opens a file with a value. Its path is not shown: it may be the value. */
static int open_value(const char *name, const char *path, int *fd, struct err *e)
{
	struct stat st;
	*fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (*fd < 0 || fstat(*fd, &st))
		return err_sys(e, -errno, "secret %s: cannot open its file", name);
	if (S_ISDIR(st.st_mode))
		return err_set(e, -EISDIR, "secret %s: its file is a directory", name);
	if (S_ISREG(st.st_mode) && st.st_size == 0)
		return err_set(e, -EINVAL, "secret %s: its file is empty", name);
	return 0;
}

/* ---- The parts of an option ---- */

static int is_name(const char *text, size_t len_bytes)
{
	for (size_t i = 0; i < len_bytes; i++)
		if (text[i] != '_' && !(text[i] >= 'A' && text[i] <= 'Z') && !(text[i] >= 'a' && text[i] <= 'z') &&
		    (i == 0 || text[i] < '0' || text[i] > '9'))
			return 0;
	return len_bytes > 0 && len_bytes < SECRET_NAME_BYTES;
}

static int no_form(const char *option, size_t number, struct err *e)
{
	return err_set(e, -EINVAL, "%s number %zu: give %s (it is not shown here)", option, number,
		       strcmp(option, "--secret") == 0 ? "NAME@HOST[,HOST...] or NAME=VALUE@HOST[,HOST...]"
						       : "NAME=FILE@HOST[,HOST...]");
}

/* Whether the hosts are some; `shown`: the message may have them. */
static int check_hosts(const char *name, const char *hosts, int shown, struct err *e)
{
	struct policy scratch = {0};
	unsigned number = 0;
	int rc = 0;
	do {
		struct err why;
		char host[POLICY_RULE_TEXT_BYTES];
		size_t n = strcspn(hosts, ",");
		snprintf(host, sizeof host, "%.*s", (int)n, hosts);
		number++;
		if (n == 0)
			rc = err_set(e, -EINVAL, "secret %s: host number %u, after the last '@', is empty", name, number);
		else if (n >= sizeof host || policy_add_intercept(&scratch, host, &why))
			rc = shown && n < sizeof host ? err_set(e, -EINVAL, "secret %s: host number %u: %s", name, number, why.text)
						      : err_set(e, -EINVAL, "secret %s: host number %u, after the last '@', is none"
									    " (it is not shown: it may be of the value)", name, number);
		hosts += n + 1;
	} while (rc == 0 && hosts[-1]);
	policy_free(&scratch);
	return rc;
}

/* Adds a secret that has no value yet. Returns 0 or -errno. */
static int add(struct secret_options *o, const char *name, size_t name_bytes, const char *hosts, unsigned flags, struct err *e)
{
	if (o->count == SECRET_OPTIONS_MAX)
		return err_set(e, -E2BIG, "there are more than %d secrets", SECRET_OPTIONS_MAX);
	for (size_t i = 0; i < o->count; i++)
		if (strncmp(o->item[i].name, name, name_bytes) == 0 && !o->item[i].name[name_bytes])
			return err_set(e, -EEXIST, "there are two secrets %s: give each name once, with all its hosts", o->item[i].name);
	struct caplock_secret *s = &o->item[o->count];
	*s = (struct caplock_secret){
		.name = strndup(name, name_bytes), .hosts = strdup(hosts), .value_fd = -1, .flags = flags};
	if (!s->name || !s->hosts)
		return err_set(e, -ENOMEM, "out of memory");
	o->count++;
	return 0;
}

/* ---- Options ---- */

/* Opens the file that programs of AWS have their keys in. */
static int open_credentials(int *fd, struct err *e)
{
	const char *path = getenv("AWS_SHARED_CREDENTIALS_FILE"), *home = getenv("HOME");
	char *made = NULL;
	struct stat st;
	if (!path && home && asprintf(&made, "%s/.aws/credentials", home) >= 0)
		path = made;
	*fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY) : -1;
	int rc = !path ? err_set(e, -ENOENT, "--secret " AWS ": neither HOME nor AWS_SHARED_CREDENTIALS_FILE is set")
		 : *fd < 0 ? err_sys(e, -errno, "--secret " AWS ": cannot open %s", path)
		 : fstat(*fd, &st) || !S_ISREG(st.st_mode) || !st.st_size
			 ? err_set(e, -EINVAL, "--secret " AWS ": %s is no file with credentials", path)
			 : 0;
	free(made);
	return rc;
}

static int add_aws(struct secret_options *o, const char *text, struct err *e)
{
	const char *at = strrchr(text, '@'), *profile = text + strlen(AWS);
	if (!at || at == profile)
		return err_set(e, -EINVAL, "--secret " AWS ": give " AWS "PROFILE@HOST[,HOST...], as in " AWS "default@*.amazonaws.com");
	int rc = add(o, profile, (size_t)(at - profile), at + 1, CAPLOCK_SECRET_AWS, e);
	rc = rc ? rc : check_hosts(o->item[o->count - 1].name, at + 1, 1, e);
	return rc ? rc : open_credentials(&o->item[o->count - 1].value_fd, e);
}

/* What stands before '@' is not shown where it names no variable: it may be a value that was given without a name. */
static int check_is_set(const char *name, size_t name_bytes, struct err *e)
{
	for (char **v = environ; v && *v; v++)
		if (strncmp(*v, name, name_bytes) == 0 && (*v)[name_bytes] == '=' && (*v)[name_bytes + 1])
			return 0;
	return err_set(e, -EINVAL, "--secret ...%s: no variable of the environment has the name before '@', or it is empty",
		       name + name_bytes);
}

/*
 * --secret NAME@HOSTS, whose value secret_finish() takes from the environment; NAME=VALUE@HOSTS, of which VALUE is wiped from
 * `text`; aws:PROFILE@HOSTS. Returns 0, or -errno with what is wrong.
 */
int secret_add(struct secret_options *o, char *text, struct err *e)
{
	if (strncmp(text, AWS, strlen(AWS)) == 0)
		return add_aws(o, text, e);
	size_t name_bytes = strcspn(text, "=@");
	char *at = strrchr(text, '@'), *value = text[name_bytes] == '=' ? text + name_bytes + 1 : NULL;
	if (!at || !is_name(text, name_bytes) || (value ? at < value : at != text + name_bytes)) {
		explicit_bzero(text, strlen(text));
		return no_form("--secret", o->count + 1, e);
	}
	int rc = value ? 0 : check_is_set(text, name_bytes, e);
	rc = rc ? rc : add(o, text, name_bytes, at + 1, 0, e);
	if (rc == 0 && value)
		rc = put_value(o->item[o->count - 1].name, value, (size_t)(at - value), &o->item[o->count - 1].value_fd, e);
	if (value)
		explicit_bzero(value, (size_t)(at - value));
	return rc ? rc : check_hosts(o->item[o->count - 1].name, o->item[o->count - 1].hosts, !value, e);
}

/* --secret-file NAME=FILE@HOSTS. Returns 0, or -errno with what is wrong. */
int secret_add_file(struct secret_options *o, const char *text, struct err *e)
{
	size_t name_bytes = strcspn(text, "=");
	const char *at = strrchr(text, '@'), *path = text + name_bytes + 1;
	if (!at || !is_name(text, name_bytes) || at <= path)
		return no_form("--secret-file", o->count + 1, e);
	int rc = add(o, text, name_bytes, at + 1, 0, e);
	rc = rc ? rc : check_hosts(o->item[o->count - 1].name, at + 1, 0, e);
	char *copy = rc ? NULL : strndup(path, (size_t)(at - path));
	if (rc == 0)
		rc = copy ? open_value(o->item[o->count - 1].name, copy, &o->item[o->count - 1].value_fd, e)
			  : err_set(e, -ENOMEM, "out of memory");
	free(copy);
	return rc;
}

/* --secret-placeholder NAME=TEXT, or, where `in`, --secret-in NAME=path,body,http. Returns 0 or -errno. */
int secret_add_remark(struct secret_options *o, const char *text, int in, struct err *e)
{
	const char *option = in ? "--secret-in" : "--secret-placeholder";
	if (!is_name(text, strcspn(text, "=")) || !strchr(text, '='))
		return err_set(e, -EINVAL, "%s '%s': give NAME=%s", option, text, in ? "path, body or http" : "TEXT");
	if (o->remark_count == sizeof o->remark / sizeof *o->remark)
		return err_set(e, -E2BIG, "%s: there are too many", option);
	o->remark[o->remark_count++] = (struct secret_remark){text, in};
	return 0;
}

/* ---- When all options are read ---- */

/* Adds the flags of a list. */
static int take_places(struct caplock_secret *s, const char *list, struct err *e)
{
	static const struct {
		const char *word;
		unsigned flag;
	} places[] = {
		{"path", CAPLOCK_SECRET_IN_PATH}, {"body", CAPLOCK_SECRET_IN_BODY}, {"http", CAPLOCK_SECRET_PLAIN_HTTP}};
	do {
		size_t n = strcspn(list, ","), i = 0;
		while (i < sizeof places / sizeof *places && (strlen(places[i].word) != n || strncmp(places[i].word, list, n)))
			i++;
		if (i == sizeof places / sizeof *places)
			return err_set(e, -EINVAL, "--secret-in %s: '%.*s' is none of path, body and http", s->name, (int)n, list);
		s->flags |= places[i].flag;
		list += n + 1;
	} while (list[-1]);
	return 0;
}

static int take_remark(struct secret_options *o, const struct secret_remark *r, struct err *e)
{
	const char *option = r->in ? "--secret-in" : "--secret-placeholder", *rest = strchr(r->text, '=') + 1;
	size_t n = (size_t)(rest - r->text) - 1;
	for (size_t i = 0; i < o->count; i++) {
		struct caplock_secret *s = &o->item[i];
		if (strncmp(s->name, r->text, n) || s->name[n] || s->flags & CAPLOCK_SECRET_AWS)
			continue;
		if (r->in)
			return take_places(s, rest, e);
		if (s->placeholder)
			return err_set(e, -EINVAL, "--secret-placeholder %s: it has one already", s->name);
		s->placeholder = rest;
		return 0;
	}
	return err_set(e, -EINVAL, "%s %.*s: there is no such --secret or --secret-file", option, (int)n, r->text);
}

/* A value in the variables for the guest would be in the sandbox. */
static int check_env(const struct caplock_secret *s, const struct strv *env, struct err *e)
{
	size_t n = strlen(s->name);
	for (size_t i = 0; i < env->count; i++)
		if (strncmp(env->item[i], s->name, n) == 0 && env->item[i][n] == '=' && !(s->flags & CAPLOCK_SECRET_AWS))
			return err_set(e, -EINVAL, "%s is given by --secret and by -e or --env-file, which puts its value into the sandbox: "
						   "give one", s->name);
	return 0;
}

static int take_from_env(struct caplock_secret *s, struct err *e)
{
	const char *value = getenv(s->name);
	if (!value)
		return err_set(e, -EINVAL, "secret %s: it is not in the environment", s->name);
	int rc = put_value(s->name, value, strlen(value), &s->value_fd, e);
	wipe_env(s->name);
	return rc;
}

/*
 * Completes the secrets when all options are read; `env` are the variables for the guest. Values are taken from this process's
 * environment, and wiped there. Returns 0, or -errno with what is wrong.
 */
int secret_finish(struct secret_options *o, const struct strv *env, struct err *e)
{
	int rc = 0;
	for (size_t i = 0; i < o->remark_count && rc == 0; i++)
		rc = take_remark(o, &o->remark[i], e);
	for (size_t i = 0; i < o->count && rc == 0; i++)
		rc = check_env(&o->item[i], env, e);
	for (size_t i = 0; i < o->count && rc == 0; i++)
		if (o->item[i].value_fd < 0)
			rc = take_from_env(&o->item[i], e);
	return rc;
}
