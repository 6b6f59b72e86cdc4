/*
 * Commands.
 *
 * Theory of operation
 * -------------------
 * A command is started in two halves. The agent forks and goes on at once; everything that looks at the sandbox's files
 * (user, working directory, the program itself) happens in the child, because those files belong to untrusted programs
 * and may be slow or endless. The child says what went wrong in a pipe that closes by itself when the program is
 * executed.
 *
 * A command is what docker would make of it: exact arguments and no shell, a session and process group of its own,
 * default signals, and an environment with at least PATH, HOSTNAME and HOME. The program is searched for along the
 * command's own PATH.
 *
 * Exit statuses follow docker and the shell: 127 where there is no such program, 126 where it is there but cannot be
 * run (also for a user or working directory that is not usable), 125 where the sandbox itself failed.
 */
#include "guest/exec.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <grp.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest/frame.h"
#include "guest/proto.h"
#include "guest/user.h"

enum { STATUS_SANDBOX = 125, STATUS_NOT_RUNNABLE = 126, STATUS_NOT_FOUND = 127 };

#define DEFAULT_PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* ---- The request ---- */

/* Counts what the payload holds. Returns 0 or -EPROTO. */
static int count_fields(const uint8_t *payload, size_t len_bytes, size_t *args, size_t *envs, size_t *bytes)
{
	struct field f;
	bool cwd = false, user = false;
	int rc;
	*args = *envs = *bytes = 0;
	while ((rc = field_next(&payload, &len_bytes, &f)) == 1) {
		*bytes += (size_t)f.len + 1;
		if (f.tag == PROTO_FIELD_ARG)
			++*args;
		else if (f.tag == PROTO_FIELD_ENV && f.len && f.value[0] != '=' && memchr(f.value, '=', f.len))
			++*envs;
		else if (f.tag == PROTO_FIELD_CWD && !cwd)
			cwd = true;
		else if (f.tag == PROTO_FIELD_USER && !user)
			user = true;
		else
			return -EPROTO;
	}
	return rc == 0 && *args == 0 ? -EPROTO : rc;
}

/* Takes an EXEC frame's payload apart. Returns 0 (then exec_free() is due), -EPROTO, or -ENOMEM. */
int exec_parse(const uint8_t *payload, size_t len_bytes, struct exec_request *r)
{
	size_t args, envs, bytes;
	*r = (struct exec_request){0};
	int rc = count_fields(payload, len_bytes, &args, &envs, &bytes);
	if (rc)
		return rc;
	r->argv = calloc(args + 1, sizeof *r->argv);
	r->env = calloc(envs + 1, sizeof *r->env);
	char *s = r->strings = malloc(bytes);
	if (!r->argv || !r->env || !r->strings) {
		exec_free(r);
		return -ENOMEM;
	}
	struct field f;
	args = envs = 0;
	while (field_next(&payload, &len_bytes, &f) == 1) {
		memcpy(s, f.value, f.len);
		s[f.len] = 0;
		if (f.tag == PROTO_FIELD_ARG)
			r->argv[args++] = s;
		else if (f.tag == PROTO_FIELD_ENV)
			r->env[envs++] = s;
		else if (f.tag == PROTO_FIELD_CWD)
			r->cwd = s;
		else
			r->user = s;
		s += (size_t)f.len + 1;
	}
	return 0;
}

/* Frees what exec_parse() made. */
void exec_free(struct exec_request *r)
{
	free(r->argv);
	free(r->env);
	free(r->strings);
	*r = (struct exec_request){0};
}

/* ---- In the child ---- */

static int report_fd;

/* Tells the agent, and so the user, why the command does not run, and ends the child. */
__attribute__((format(printf, 2, 3), noreturn)) static void refuse(uint32_t status, const char *fmt, ...)
{
	struct {
		uint8_t status[4]; /* little-endian, as in an ERROR frame */
		char text[1024];
	} message = {.status = {(uint8_t)status}};
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(message.text, sizeof message.text, fmt, ap);
	va_end(ap);
	size_t len = n < 0 ? 0 : (size_t)n < sizeof message.text ? (size_t)n : sizeof message.text - 1;
	(void)!write(report_fd, &message, sizeof message.status + len);
	_exit((int)status);
}

/* The value of `name` ("PATH=") in `env`, or NULL. */
static char *env_value(char **env, const char *name)
{
	size_t n = strlen(name);
	for (; *env; env++)
		if (strncmp(*env, name, n) == 0)
			return *env + n;
	return NULL;
}

/* The environment: what was asked for, the last of a name winning, and docker's defaults for what was not. */
static char **make_env(char **asked, const struct user *u)
{
	enum { DEFAULTS = 3 };
	static char hostname[sizeof "HOSTNAME=" + HOST_NAME_MAX] = "HOSTNAME=";
	static char home[sizeof "HOME=" + USER_HOME_MAX] = "HOME=";
	static char path[] = DEFAULT_PATH;
	size_t count = 0, n = 0;
	while (asked[count])
		count++;
	char **env = calloc(count + DEFAULTS + 1, sizeof *env);
	if (!env)
		refuse(STATUS_SANDBOX, "out of memory in the sandbox");
	for (size_t i = 0; i < count; i++) {
		size_t name = (size_t)(strchr(asked[i], '=') - asked[i]) + 1, k = 0;
		while (k < n && strncmp(env[k], asked[i], name) != 0)
			k++;
		env[k] = asked[i];
		n += k == n;
	}
	gethostname(hostname + sizeof "HOSTNAME=" - 1, HOST_NAME_MAX);
	snprintf(home + sizeof "HOME=" - 1, USER_HOME_MAX, "%s", u->home);
	if (!env_value(env, "PATH="))
		env[n++] = path;
	if (!env_value(env, "HOSTNAME="))
		env[n++] = hostname;
	if (!env_value(env, "HOME="))
		env[n++] = home;
	return env;
}

/* Goes to the working directory, which is made where it is missing. */
static void enter(const char *cwd)
{
	char path[PATH_MAX];
	if (chdir(cwd) == 0)
		return;
	int n = snprintf(path, sizeof path, "%s", cwd);
	if (errno == ENOENT && n > 0 && (size_t)n < sizeof path) {
		for (char *p = path + 1; *p; p++) {
			if (*p != '/')
				continue;
			*p = 0;
			mkdir(path, 0755);
			*p = '/';
		}
		mkdir(path, 0755);
		if (chdir(cwd) == 0)
			return;
	}
	refuse(STATUS_NOT_RUNNABLE, "cannot use working directory '%s': %s", cwd, strerror(errno));
}

static void become(const struct user *u, const char *who)
{
	/* Who is not root cannot set groups; then it also cannot become anybody else. */
	if (geteuid() && geteuid() == u->uid && getegid() == u->gid)
		return;
	if (setgroups(u->groups, u->group) || setgid(u->gid) || setuid(u->uid))
		refuse(STATUS_NOT_RUNNABLE, "cannot become user '%s': %s", who ? who : "root", strerror(errno));
}

/* Executes `name` in each directory of `path`. Returns, as an errno, why it could not. */
static int execute_along(const char *path, const char *name, char **argv, char **env)
{
	char file[PATH_MAX];
	int why = ENOENT;
	for (;;) {
		size_t len = strcspn(path, ":");
		int n = snprintf(file, sizeof file, "%.*s%s%s", (int)len, path, len ? "/" : "", name);
		if (n > 0 && (size_t)n < sizeof file) {
			execve(file, argv, env);
			if (errno == EACCES)
				why = EACCES;
			else if (errno != ENOENT && errno != ENOTDIR)
				return errno;
			else if (access(file, F_OK) == 0)
				return ENOENT; /* it is there; what it needs is not */
		}
		if (path[len] == 0)
			return why;
		path += len + 1;
	}
}

static void execute(char **argv, char **env)
{
	const char *name = argv[0];
	const char *path = env_value(env, "PATH=");
	bool search = !strchr(name, '/');
	if (search && *name == 0)
		refuse(STATUS_NOT_FOUND, "the command's name is empty");
	if (search)
		errno = execute_along(path, name, argv, env);
	else
		execve(name, argv, env);
	int why = errno;
	struct stat st;
	switch (why) {
	case ENOENT:
	case ENOTDIR:
		if (!search && stat(name, &st) == 0)
			refuse(STATUS_NOT_FOUND, "cannot run '%s': its interpreter or loader is not in the image",
			       name);
		refuse(STATUS_NOT_FOUND,
		       search ? "'%s': executable file not found in $PATH" : "'%s': no such file or directory", name);
	case EACCES:
		if (!search && stat(name, &st) == 0 && S_ISDIR(st.st_mode))
			refuse(STATUS_NOT_RUNNABLE, "cannot run '%s': it is a directory", name);
		refuse(STATUS_NOT_RUNNABLE, "cannot run '%s': permission denied", name);
	case ENOEXEC:
		refuse(STATUS_NOT_RUNNABLE,
		       "cannot run '%s': exec format error (another CPU's program, or a script without #!)", name);
	default:
		refuse(STATUS_NOT_RUNNABLE, "cannot run '%s': %s", name, strerror(why));
	}
}

/* By the system call: the C library refuses the signals that it uses itself, which a caller may have left ignored. */
static void reset_signals(void)
{
	static const struct {
		void (*handler)(int);
		unsigned long flags;
		void *restorer;
		uint64_t mask;
	} by_default = {.handler = SIG_DFL};
	sigset_t none;
	sigemptyset(&none);
	for (int i = 1; i <= 64; i++)
		syscall(SYS_rt_sigaction, i, &by_default, NULL, sizeof by_default.mask);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

__attribute__((noreturn)) static void run_child(const struct exec_request *r, int cgroup_fd, const int stdio[3])
{
	static struct user u;
	char text[512];
	setsid();
	for (int i = 0; i < 3; i++)
		if (dup2(stdio[i], i) < 0)
			refuse(STATUS_SANDBOX, "cannot connect the command's streams: %s", strerror(errno));
	if (cgroup_fd >= 0 && write(cgroup_fd, "0", 1) != 1)
		refuse(STATUS_SANDBOX, "cannot limit the command's CPU time: %s", strerror(errno));
	umask(022);
	if (user_lookup("/etc/passwd", "/etc/group", r->user, &u, text, sizeof text))
		refuse(STATUS_NOT_RUNNABLE, "%s", text);
	char **env = make_env(r->env, &u);
	enter(r->cwd ? r->cwd : "/");
	become(&u, r->user);
	reset_signals();
	execute(r->argv, env);
	_exit(STATUS_SANDBOX);
}

/* ---- In the agent ---- */

static void close_all(const int *fd, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (fd[i] >= 0)
			close(fd[i]);
}

/*
 * Starts a command; cgroup_fd (-1: none) is the cgroup.procs it joins first. On success the caller owns child's
 * descriptors and reaps child->pid. Returns 0 or -errno.
 */
int exec_start(const struct exec_request *r, int cgroup_fd, struct exec_child *child)
{
	/* Pairs of read end and write end: stdin, stdout, stderr, report. */
	int p[8] = {-1, -1, -1, -1, -1, -1, -1, -1};
	static const uint8_t ours[] = {1, 2, 4, 6};
	static const uint8_t theirs[] = {0, 3, 5, 7};
	int rc = 0;
	for (int i = 0; i < 8 && rc == 0; i += 2)
		rc = pipe2(p + i, O_CLOEXEC) ? -errno : 0;
	for (size_t i = 0; i < 4 && rc == 0; i++)
		rc = fcntl(p[ours[i]], F_SETFL, O_NONBLOCK) ? -errno : 0;
	pid_t pid = rc ? -1 : fork();
	if (pid < 0) {
		rc = rc ? rc : -errno;
		close_all(p, 8);
		return rc;
	}
	if (pid == 0) {
		report_fd = p[7];
		run_child(r, cgroup_fd, (const int[]){p[0], p[3], p[5]});
	}
	for (size_t i = 0; i < 4; i++)
		close(p[theirs[i]]);
	*child = (struct exec_child){.pid = pid, .in = p[1], .out = p[2], .err = p[4], .report = p[6]};
	return 0;
}
