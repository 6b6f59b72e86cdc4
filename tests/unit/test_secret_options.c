/* vmm/cli/secret.c: what the options take, what they refuse, and that no value is in a message, or stays where it was. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/cli/secret.h"
#include "vmm/util/err.h"
#include "vmm/util/strv.h"

static struct secret_options o;
static struct err e;
static char option[70000];

static int add(const char *text)
{
	snprintf(option, sizeof option, "%s", text);
	e.text[0] = 0;
	return secret_add(&o, option, &e);
}

static int finish(void)
{
	struct strv none = {0};
	return secret_finish(&o, &none, &e);
}

/* What is in the descriptor of the only secret. */
static const char *value(void)
{
	static char text[66000];
	ssize_t n = 0, more;
	while ((more = read(o.item[0].value_fd, text + n, sizeof text - 1 - (size_t)n)) > 0)
		n += more;
	text[n] = 0;
	return text;
}

Test(secret_options, good)
{
	static const struct {
		const char *text, *name, *hosts, *value;
	} rows[] = {
		{"A=v@h.test", "A", "h.test", "v"},
		{"A_1=p@ss,w=rd@h.test,*.i.test:8443", "A_1", "h.test,*.i.test:8443", "p@ss,w=rd"}, /* the last '@' */
		{"_a= =@@h.test", "_a", "h.test", NULL}, /* blanks */
		{"A==@h.test", "A", "h.test", "="},
		{"FROM_ENV@h.test", "FROM_ENV", "h.test", "the value"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		o = (struct secret_options){0};
		setenv("FROM_ENV", "the value", 1);
		int rc = add(rows[i].text);
		if (!rows[i].value) {
			cr_expect_neq(rc, 0, "%s", rows[i].text);
			continue;
		}
		cr_assert_eq(rc, 0, "%s: %s", rows[i].text, e.text);
		cr_assert_eq(finish(), 0, "%s", e.text);
		cr_expect_str_eq(o.item[0].name, rows[i].name);
		cr_expect_str_eq(o.item[0].hosts, rows[i].hosts);
		cr_expect_str_eq(value(), rows[i].value);
		cr_expect_eq(o.item[0].flags, 0);
		cr_expect_eq(fcntl(o.item[0].value_fd, F_GETFD), FD_CLOEXEC);
	}
}

/* "s3cret" is in each of these, where somebody may have put a value; it is in no message, and not in the arguments afterwards. */
Test(secret_options, no_message_has_a_value)
{
	static const struct {
		const char *text, *message;
	} rows[] = {
		{"s3cret", "give NAME@HOST"},
		{"", "give NAME@HOST"},
		{"@h.test", "give NAME@HOST"},
		{"s3cret@h.test", "no variable of the environment"},
		{"s3cret-x@h.test", "give NAME@HOST"},
		{"NO_SUCH_VARIABLE@h.test", "...@h.test: no variable"},
		{"EMPTY@h.test", "or it is empty"},
		{"A=s3cret", "give NAME@HOST"},
		{"s3cret=@h.test", NULL}, /* a name is what is before '=' */
		{"A=@h.test", "secret A: there is no value"},
		{"A=s3cret@", "host number 1, after the last '@', is empty"},
		{"A=s3cret@h.test,", "host number 2, after the last '@', is empty"},
		{"A=x@s3cret..y", "secret A: host number 1, after the last '@', is none"},
		{"A=s3cret@h.test,b ad", "secret A: host number 2"},
		{"A=s3cret@10.0.0.0/8", "secret A: host number 1"},
		{"A=s3cret@tcp:h.test", "secret A: host number 1"},
		{"A=x\ns3cret@h.test", "secret A: the value has a control character"},
		{"A=s3cret @h.test", "secret A: the value begins or ends with a blank"},
		{"1A=s3cret@h.test", "give NAME@HOST"},
		{"A-B=s3cret@h.test", "give NAME@HOST"},
		{"p@s3cret=x@h.test", "give NAME@HOST"},
		{"s3@cret@h.test", "give NAME@HOST"},
		{"SET@b ad", "secret SET: host number 1: 'b ad'"},
		{"aws:@h.test", "aws:PROFILE@HOST"},
		{"aws:x", "aws:PROFILE@HOST"},
	};
	setenv("EMPTY", "", 1);
	setenv("SET", "s3cret", 1);
	unsetenv("NO_SUCH_VARIABLE");
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		o = (struct secret_options){0};
		cr_expect_neq(add(rows[i].text), 0, "%s", rows[i].text);
		cr_expect(!rows[i].message || strstr(e.text, rows[i].message), "%s: %s", rows[i].text, e.text);
		if (!rows[i].message)
			continue;
		cr_expect_null(strstr(e.text, "s3cret"), "%s", e.text);
		cr_expect_null(strchr(e.text, '\n'));
		char *at = strchr(rows[i].text, '=') ? strchr(option, 's') : NULL;
		cr_expect(!at || strncmp(at, "s3cret", 6) || strstr(rows[i].text, "@s3cret"), "%s: %s", rows[i].text, option);
	}
}

Test(secret_options, a_value_is_wiped_where_it_stood)
{
	static char first[] = "WIPED=the first value", second[] = "WIPED=the second";
	extern char **environ;
	char *block[] = {first, "OTHER=stays", second, NULL}, **before = environ;
	cr_assert_eq(add("A=the argument's value@h.test"), 0, "%s", e.text);
	for (const char *p = option + 2; p < option + 2 + strlen("the argument's value"); p++)
		cr_assert_eq(*p, 0);
	cr_expect_eq(strcmp(option + 2 + strlen("the argument's value"), "@h.test"), 0);
	environ = block;
	cr_assert_eq(add("WIPED@h.test"), 0, "%s", e.text);
	cr_assert_eq(finish(), 0, "%s", e.text);
	cr_expect_null(getenv("WIPED"));
	cr_expect_str_eq(getenv("OTHER"), "stays");
	environ = before;
	for (size_t i = 6; i < sizeof first; i++)
		cr_expect_eq(first[i], 0);
	for (size_t i = 6; i < sizeof second; i++)
		cr_expect_eq(second[i], 0);
}

Test(secret_options, sizes)
{
	static char text[70000] = "A=";
	memset(text + 2, 'v', 65536);
	strcpy(text + 2 + 65536, "@h.test");
	cr_assert_eq(add(text), 0, "%s", e.text);
	cr_expect_eq(strlen(value()), 65536);
	o = (struct secret_options){0};
	memset(text + 2, 'v', 65537);
	strcpy(text + 2 + 65537, "@h.test");
	cr_expect_neq(add(text), 0);
	cr_expect_not_null(strstr(e.text, "64 KiB"), "%s", e.text);
	o = (struct secret_options){0};
	for (int i = 0; i <= SECRET_OPTIONS_MAX; i++) {
		char name[32];
		snprintf(name, sizeof name, "A%d=v@h.test", i);
		cr_expect_eq(add(name) == 0, i < SECRET_OPTIONS_MAX, "%d: %s", i, e.text);
	}
}

Test(secret_options, files)
{
	char dir[] = "/tmp/caplock-secret-XXXXXX", text[256];
	static const struct {
		const char *format, *message;
	} rows[] = {
		{"A=%s/v@lue=x@h.test", NULL},
		{"A=%s/none@h.test", "secret A: cannot open its file: No such file"},
		{"A=%s/empty@h.test", "secret A: its file is empty"},
		{"A=%s@h.test", "secret A: its file is a directory"},
		{"A=@h.test", "give NAME=FILE@HOST"},
		{"%s/v@h.test", "give NAME=FILE@HOST"},
		{"A=%s", "give NAME=FILE@HOST"},
	};
	cr_assert_not_null(mkdtemp(dir));
	snprintf(text, sizeof text, "printf 's3cret\\n' >%s/v@lue=x; : >%s/empty", dir, dir);
	cr_assert_eq(system(text), 0);
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		o = (struct secret_options){0};
		snprintf(text, sizeof text, rows[i].format, dir);
		int rc = secret_add_file(&o, text, &e);
		cr_expect_eq(rc == 0, !rows[i].message, "%s: %s", text, e.text);
		cr_expect(rc == 0 || strstr(e.text, rows[i].message), "%s: %s", text, e.text);
		cr_expect(rc == 0 || !strstr(e.text, dir), "a path may be a value that was meant for --secret");
		if (rc == 0)
			cr_expect_str_eq(value(), "s3cret\n", "it is read by the gate, all of it");
	}
	snprintf(text, sizeof text, "rm -r %s", dir);
	cr_assert_eq(system(text), 0);
}

Test(secret_options, aws_has_its_own_file)
{
	char path[] = "/tmp/caplock-aws-XXXXXX";
	int fd = mkstemp(path);
	setenv("AWS_SHARED_CREDENTIALS_FILE", path, 1);
	cr_expect_neq(add("aws:team@*.amazonaws.com"), 0, "an empty one");
	o = (struct secret_options){0};
	cr_assert_eq(write(fd, "[team]\n", 7), 7);
	cr_assert_eq(add("aws:team@*.amazonaws.com"), 0, "%s", e.text);
	cr_expect_str_eq(o.item[0].name, "team");
	cr_expect_eq(o.item[0].flags, CAPLOCK_SECRET_AWS);
	cr_expect_str_eq(value(), "[team]\n");
	unlink(path);
	close(fd);
}

Test(secret_options, remarks)
{
	static const struct {
		const char *text;
		int in;
		const char *message; /* NULL: good */
	} rows[] = {
		{"A=sk-ant-0123456789", 0, NULL},
		{"A=path", 1, NULL},
		{"A=body,http,path", 1, NULL},
		{"A=", 1, "'' is none of path, body and http"},
		{"A=header", 1, "'header' is none of path, body and http"},
		{"A=path,", 1, "'' is none of"},
		{"B=sk-ant-0123456789", 0, "--secret-placeholder B: there is no such --secret"},
		{"AA=path", 1, "--secret-in AA: there is no such --secret"},
		{"A", 0, "give NAME=TEXT"},
		{"=x", 1, "give NAME=path, body or http"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		o = (struct secret_options){0};
		int rc = secret_add_remark(&o, rows[i].text, rows[i].in, &e); /* also before its secret */
		cr_assert_eq(add("A=v@h.test"), 0);
		if (rc == 0)
			rc = finish();
		else
			secret_add_remark(&o, rows[i].text, rows[i].in, &e);
		cr_expect_eq(rc == 0, !rows[i].message, "%s: %s", rows[i].text, e.text);
		cr_expect(rc == 0 || strstr(e.text, rows[i].message), "%s: %s", rows[i].text, e.text);
	}
	o = (struct secret_options){0};
	cr_assert_eq(add("A=v@h.test"), 0);
	cr_assert_eq(secret_add_remark(&o, "A=sk-ant-0123456789", 0, &e), 0);
	cr_assert_eq(secret_add_remark(&o, "A=body,http", 1, &e), 0);
	cr_assert_eq(finish(), 0);
	cr_expect_str_eq(o.item[0].placeholder, "sk-ant-0123456789");
	cr_expect_eq(o.item[0].flags, CAPLOCK_SECRET_IN_BODY | CAPLOCK_SECRET_PLAIN_HTTP);
}

Test(secret_options, names_are_used_once)
{
	struct strv env = {0};
	cr_assert_eq(add("A=v@h.test"), 0);
	cr_expect_eq(add("A=s3cret@i.test"), -EEXIST);
	cr_expect_str_eq(e.text, "there are two secrets A: give each name once, with all its hosts");
	cr_assert_eq(add("AB=v@h.test"), 0);
	cr_assert_eq(strv_add(&env, "ABC=x"), 0);
	cr_expect_eq(secret_finish(&o, &env, &e), 0);
	cr_assert_eq(strv_add(&env, "A=s3cret"), 0);
	cr_expect_eq(secret_finish(&o, &env, &e), -EINVAL);
	cr_expect(strstr(e.text, "A is given by --secret and by -e") && !strstr(e.text, "s3cret"), "%s", e.text);
	strv_free(env.item);
}
