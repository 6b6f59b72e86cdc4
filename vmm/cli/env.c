#include "vmm/cli/env.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/strv.h"

enum { ENV_FILE_MAX_BYTES = 1 << 20 };

/* Adds NAME=VALUE, or NAME with its value on this host, replacing an earlier one. Returns 0, -EINVAL or -ENOMEM. */
int env_add(struct strv *env, const char *item, struct err *e)
{
	int rc;
	if (item[0] == 0 || item[0] == '=')
		return err_set(e, -EINVAL, "environment '%s': give NAME=VALUE or NAME", item);
	if (strchr(item, '=')) {
		rc = strv_set_env(env, item);
	} else {
		const char *value = getenv(item);
		char *both;
		if (!value)
			return err_set(e, -EINVAL, "environment variable %s is not set on this host; give %s=VALUE", item, item);
		if (asprintf(&both, "%s=%s", item, value) < 0)
			return err_sys(e, -ENOMEM, "environment");
		rc = strv_set_env(env, both);
		free(both);
	}
	return rc ? err_sys(e, rc, "environment") : 0;
}

/*
 * Adds the variables of a file: one NAME=VALUE or NAME per line, taken literally; empty lines and lines that start with #
 * are skipped. Returns 0 or -errno.
 */
int env_add_file(struct strv *env, const char *path, struct err *e)
{
	struct buf text = {0};
	int rc = io_read_file(AT_FDCWD, path, ENV_FILE_MAX_BYTES, &text);
	if (rc) {
		buf_free(&text);
		return err_sys(e, rc, "cannot read env file %s", path);
	}
	if (memchr(text.data, 0, text.len))
		rc = err_set(e, -EINVAL, "env file %s: it contains a NUL byte; give a text file", path);
	char *rest = (char *)text.data, *line;
	for (unsigned number = 1; rc == 0 && (line = strsep(&rest, "\n")); number++) {
		size_t n = strlen(line);
		if (n && line[n - 1] == '\r')
			line[n - 1] = 0;
		line += strspn(line, " \t");
		if (line[0] == 0 || line[0] == '#')
			continue;
		struct err why;
		rc = env_add(env, line, &why);
		if (rc)
			err_set(e, rc, "env file %s, line %u: %s", path, number, why.text);
	}
	buf_free(&text);
	return rc;
}
