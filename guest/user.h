/* Who a command runs as: /etc/passwd and /etc/group of the image, read as docker reads them. */
#ifndef CAPLOCK_GUEST_USER_H
#define CAPLOCK_GUEST_USER_H

#include <stddef.h>
#include <sys/types.h>

enum { USER_GROUPS_MAX = 256, USER_HOME_MAX = 1024 };

struct user {
	uid_t uid;
	gid_t gid;
	char home[USER_HOME_MAX];
	gid_t group[USER_GROUPS_MAX]; /* supplementary */
	size_t groups;
};

int user_lookup(const char *passwd_path, const char *group_path, const char *spec, struct user *u, char *text,
		size_t text_bytes);

#endif
