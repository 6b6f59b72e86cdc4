/* vmm/spec, vmm/cli/env.c, vmm/util/strv.c: from options to a command. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vmm/cli/env.h"
#include "vmm/image/image.h"
#include "vmm/spec/spec.h"
#include "vmm/util/err.h"
#include "vmm/util/strv.h"

static struct err e;

static void refused(const struct caplock_spec *s, const char *text)
{
	e.text[0] = 0;
	cr_expect_eq(spec_validate(s, &e), -EINVAL, "not refused: %s", text);
	cr_expect(strstr(e.text, text), "'%s' lacks '%s'", e.text, text);
}

Test(spec, defaults_are_valid)
{
	struct caplock_spec s;
	caplock_spec_init(&s);
	cr_expect_eq(spec_validate(&s, &e), 0, "%s", e.text);
	cr_expect_eq(spec_vcpus(&s), 1);
	s.cpus = 0.5;
	cr_expect_eq(spec_validate(&s, &e), 0);
	cr_expect_eq(spec_vcpus(&s), 1);
	s.cpus = 1.01;
	cr_expect_eq(spec_vcpus(&s), 2);
}

Test(spec, refuses_what_is_out_of_range)
{
	struct caplock_spec good, s;
	caplock_spec_init(&good);
	s = good, s.cpus = 0, refused(&s, "above 0");
	s = good, s.cpus = -1, refused(&s, "above 0");
	s = good, s.cpus = 65, refused(&s, "at most 64");
	s = good, s.cpus = strtod("nan", NULL), refused(&s, "above 0");
	s = good, s.memory_mb = 63, refused(&s, "64 or more");
	s = good, s.memory_mb = 1u << 31, refused(&s, "at most");
	s = good, s.memory_mb = 16 << 20, refused(&s, "this host has");
	s = good, s.disk_mb = 1, refused(&s, "16 to");
	s = good, s.workdir = "tmp", refused(&s, "not absolute");
	s = good, s.env = (const char *const[]){"A=1", "B", NULL}, refused(&s, "'B'");
	s = good, s.env = (const char *const[]){"=1", NULL}, refused(&s, "NAME=VALUE");
	const char *names[] = {"", "-a", "a-", "a..b", "a_b", ".a", "a b", "a\n",
			       "a234567890123456789012345678901234567890123456789012345678901234"};
	for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
		s = good, s.hostname = names[i], refused(&s, "hostname");
	s = good, s.hostname = "box-1.example";
	cr_expect_eq(spec_validate(&s, &e), 0);
}

static const struct spec_extra nothing;
static char *none[] = {NULL};
static char *image_env[] = {"PATH=/bin", "A=image", "broken", NULL};
static char *entry[] = {"/entry", "-x", NULL};
static char *cmd[] = {"cmd", "arg", NULL};

/* argv and env as one line each. */
static char line[256];

static const char *joined(char **list)
{
	line[0] = 0;
	for (; list && *list; list++)
		snprintf(line + strlen(line), sizeof line - strlen(line), "%s%s", line[0] ? " " : "", *list);
	return line;
}

static const char *argv_of(const struct caplock_spec *s, char **entrypoint, char **command)
{
	struct image_config c = {.env = none, .entrypoint = entrypoint, .cmd = command};
	struct spec_command out;
	if (spec_command(s, &c, &nothing, &out, &e))
		return "refused";
	joined(out.argv);
	spec_command_free(&out);
	return line;
}

Test(spec, merges_the_command_as_docker_does)
{
	struct caplock_spec s = {0};
	cr_expect_str_eq(argv_of(&s, entry, cmd), "/entry -x cmd arg");
	cr_expect_str_eq(argv_of(&s, none, cmd), "cmd arg");
	cr_expect_str_eq(argv_of(&s, none, none), "refused");
	s.command = (const char *const[]){"mine", NULL};
	cr_expect_str_eq(argv_of(&s, entry, cmd), "/entry -x mine");
	s.entrypoint = "/other";
	cr_expect_str_eq(argv_of(&s, entry, cmd), "/other mine");
	s.command = NULL;
	cr_expect_str_eq(argv_of(&s, entry, cmd), "/other");
	s.entrypoint = "";
	cr_expect_str_eq(argv_of(&s, entry, cmd), "cmd arg");
}

Test(spec, merges_environment_workdir_and_user)
{
	struct image_config c = {.env = image_env, .entrypoint = none, .cmd = cmd, .working_dir = "/srv", .user = "web"};
	struct caplock_spec s = {.env = (const char *const[]){"A=mine", "B=", NULL}};
	struct spec_command out;
	cr_assert_eq(spec_command(&s, &c, &nothing, &out, &e), 0);
	cr_expect_str_eq(joined(out.env), "PATH=/bin A=mine B=");
	cr_expect_str_eq(out.workdir, "/srv");
	cr_expect_str_eq(out.user, "web");
	spec_command_free(&out);
	s.workdir = "/w", s.user = "0:0";
	cr_assert_eq(spec_command(&s, &c, &nothing, &out, &e), 0);
	cr_expect_str_eq(out.workdir, "/w");
	cr_expect_str_eq(out.user, "0:0");
	spec_command_free(&out);
	c.working_dir = "", c.user = "", s.user = NULL, s.workdir = NULL;
	cr_assert_eq(spec_command(&s, &c, &nothing, &out, &e), 0);
	cr_expect_str_eq(out.workdir, "/");
	cr_expect_null(out.user);
	spec_command_free(&out);
}

Test(spec, our_variables_win_over_the_images_and_some_over_all)
{
	struct image_config c = {.env = image_env, .entrypoint = none, .cmd = cmd};
	struct caplock_spec s = {.env = (const char *const[]){"U=mine", "S=mine", NULL}};
	const struct spec_extra extra = {.defaults = (const char *const[]){"A=ours", "U=ours", NULL},
					 .fixed = (const char *const[]){"S=placeholder", NULL}};
	struct spec_command out;
	cr_assert_eq(spec_command(&s, &c, &extra, &out, &e), 0);
	cr_expect_str_eq(joined(out.env), "PATH=/bin A=ours U=mine S=placeholder");
	spec_command_free(&out);
}

Test(env, takes_values_and_passes_the_hosts)
{
	struct strv v = {0};
	setenv("FROM_HOST", "h", 1);
	unsetenv("NOT_THERE");
	cr_expect_eq(env_add(&v, "A=1", &e), 0);
	cr_expect_eq(env_add(&v, "A=2=3", &e), 0);
	cr_expect_eq(env_add(&v, "FROM_HOST", &e), 0);
	cr_expect_str_eq(joined(v.item), "A=2=3 FROM_HOST=h");
	cr_expect_eq(env_add(&v, "NOT_THERE", &e), -EINVAL);
	cr_expect(strstr(e.text, "NOT_THERE"));
	cr_expect_eq(env_add(&v, "", &e), -EINVAL);
	cr_expect_eq(env_add(&v, "=x", &e), -EINVAL);
	strv_free(v.item);
}

static int add_file(struct strv *v, const char *text, size_t bytes)
{
	char path[] = "/tmp/caplock-env-XXXXXX";
	int fd = mkstemp(path);
	cr_assert_eq(write(fd, text, bytes), (ssize_t)bytes);
	close(fd);
	int rc = env_add_file(v, path, &e);
	unlink(path);
	return rc;
}

Test(env, reads_files)
{
	struct strv v = {0};
	const char text[] = "# comment\n\nA=1\r\n  B=two words # kept\nC=\"quoted\"\nlast=x";
	cr_expect_eq(add_file(&v, text, sizeof text - 1), 0, "%s", e.text);
	cr_expect_str_eq(joined(v.item), "A=1 B=two words # kept C=\"quoted\" last=x");
	strv_free(v.item);
}

Test(env, refuses_bad_files)
{
	struct strv v = {0};
	cr_expect_eq(add_file(&v, "A=1\n=2\n", 7), -EINVAL);
	cr_expect(strstr(e.text, "line 2"), "%s", e.text);
	cr_expect_eq(add_file(&v, "A\0=1", 4), -EINVAL);
	cr_expect(strstr(e.text, "NUL"), "%s", e.text);
	cr_expect_eq(env_add_file(&v, "/does/not/exist", &e), -ENOENT);
	cr_expect_neq(env_add_file(&v, "/", &e), 0);
	cr_expect_neq(env_add_file(&v, "/dev/zero", &e), 0);
	strv_free(v.item);
}
