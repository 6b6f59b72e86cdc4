/* Starting a command: from an EXEC frame to a process with three pipes. */
#ifndef CAPLOCK_GUEST_EXEC_H
#define CAPLOCK_GUEST_EXEC_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct exec_request {
	char **argv, **env; /* end with NULL */
	char *cwd, *user;   /* may be NULL */
	char *strings;      /* what all of them point into */
};

struct exec_child {
	pid_t pid;
	int in, out, err; /* our ends of its pipes, non-blocking */
	int report;       /* ends without a byte when the command runs; otherwise the payload of an ERROR frame */
};

int exec_parse(const uint8_t *payload, size_t len_bytes, struct exec_request *r);
void exec_free(struct exec_request *r);
int exec_start(const struct exec_request *r, int cgroup_fd, struct exec_child *child);

#endif
