/*
 * Users and groups.
 *
 * The rules are those of docker's --user: NAME or UID, then optionally ":" and GROUP or GID. A name must be in the
 * file; a number need not be. A user found in passwd brings its group, its home and, where no group was asked for, the
 * groups that list it. Runs in the command's own process, before it gives up root: whatever the files are, nothing else
 * waits.
 */
#include "guest/user.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	FILE_MAX_BYTES = 4 << 20,
	ID_MAX = INT32_MAX, /* docker's limit */
	FIELDS_MAX = 7,
};

/* The contents of a regular file, with a NUL; NULL where there is none or it is too large. The caller frees it. */
static char *read_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	struct stat st;
	char *text = NULL;
	size_t len = 0;
	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= FILE_MAX_BYTES)
		text = malloc((size_t)st.st_size + 1);
	while (text && len < (size_t)st.st_size) {
		ssize_t n = read(fd, text + len, (size_t)st.st_size - len);
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	if (text)
		text[len] = 0;
	if (fd >= 0)
		close(fd);
	return text;
}

/* A decimal id. Returns whether `s` is one. */
static bool parse_id(const char *s, uint32_t *id)
{
	uint64_t v = 0;
	if (!*s)
		return false;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return false;
		v = v * 10 + (uint64_t)(*s - '0');
		if (v > ID_MAX)
			return false;
	}
	*id = (uint32_t)v;
	return true;
}

/*
 * Takes the next line off *text and splits it at ":"; missing fields are "". Returns false at the end. The line is cut
 * up in place.
 */
static bool next_entry(char **text, char *field[FIELDS_MAX])
{
	static char empty[1];
	char *line = strsep(text, "\n");
	if (!line)
		return false;
	for (int i = 0; i < FIELDS_MAX; i++) {
		char *f = strsep(&line, ":");
		field[i] = f ? f : empty;
	}
	return true;
}

/* Finds `who` in passwd. Returns whether it is there; its name is copied to `name`. */
static bool find_user(char *text, const char *who, struct user *u, char *name, size_t name_bytes)
{
	uint32_t wanted = 0, uid, gid;
	bool by_id = parse_id(who, &wanted);
	char *field[FIELDS_MAX];
	while (next_entry(&text, field)) {
		if (!parse_id(field[2], &uid) || !parse_id(field[3], &gid))
			continue;
		if (by_id ? uid != wanted : strcmp(field[0], who) != 0)
			continue;
		u->uid = uid;
		u->gid = gid;
		if (field[5][0])
			snprintf(u->home, sizeof u->home, "%s", field[5]);
		snprintf(name, name_bytes, "%s", field[0]);
		return true;
	}
	return false;
}

static bool find_group(char *text, const char *who, gid_t *out)
{
	uint32_t gid;
	char *field[FIELDS_MAX];
	while (next_entry(&text, field)) {
		if (strcmp(field[0], who) || !parse_id(field[2], &gid))
			continue;
		*out = gid;
		return true;
	}
	return false;
}

static bool lists(char *members, const char *name)
{
	for (char *m; (m = strsep(&members, ",")) != NULL;)
		if (strcmp(m, name) == 0)
			return true;
	return false;
}

/* Adds every group that lists `name`. */
static void find_memberships(char *text, const char *name, struct user *u)
{
	uint32_t gid;
	char *field[FIELDS_MAX];
	while (next_entry(&text, field) && u->groups < USER_GROUPS_MAX)
		if (parse_id(field[2], &gid) && lists(field[3], name))
			u->group[u->groups++] = gid;
}

/*
 * Finds out who `spec` is (NULL: root). Returns 0, or -ENOENT with a line about who is missing in `text`.
 */
int user_lookup(const char *passwd_path, const char *group_path, const char *spec, struct user *u, char *text,
		size_t text_bytes)
{
	char who[256], name[256] = "";
	*u = (struct user){.home = "/"};
	int n = snprintf(who, sizeof who, "%s", spec ? spec : "0");
	if (n < 0 || (size_t)n >= sizeof who) {
		snprintf(text, text_bytes, "unable to find user: the name is too long");
		return -ENOENT;
	}
	char *group = strchr(who, ':');
	if (group)
		*group++ = 0;
	const char *user = *who ? who : "0";

	char *passwd = read_file(passwd_path);
	bool found = passwd && find_user(passwd, user, u, name, sizeof name);
	free(passwd);
	if (!found && !parse_id(user, &u->uid)) {
		snprintf(text, text_bytes, "unable to find user %s: no matching entries in passwd file", user);
		return -ENOENT;
	}
	char *groups = read_file(group_path);
	int rc = 0;
	if (group && *group) {
		if (!parse_id(group, &u->gid) && !(groups && find_group(groups, group, &u->gid))) {
			snprintf(text, text_bytes, "unable to find group %s: no matching entries in group file", group);
			rc = -ENOENT;
		}
	} else if (found && groups) {
		find_memberships(groups, name, u);
	}
	free(groups);
	return rc;
}
