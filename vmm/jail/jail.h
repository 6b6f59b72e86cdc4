/* Confinement of the processes of a sandbox. */
#ifndef CAPLOCK_JAIL_JAIL_H
#define CAPLOCK_JAIL_JAIL_H

#include <linux/filter.h>
#include <stdbool.h>
#include <stdint.h>

/* In the order in which they are entered. */
enum jail_stage {
	JAIL_NAMESPACES,
	JAIL_ROOT,
	JAIL_LIMITS,
	JAIL_PRIVILEGES,
	JAIL_LANDLOCK,
	JAIL_SECCOMP, /* each thread, by jail_thread() */
	JAIL_STAGES,
};

/* What a thread does; each has its own list of system calls (tools/mkfilters.c). */
enum jail_role {
	JAIL_MAIN,    /* vmm: its first thread, when all others run */
	JAIL_DISK,    /* vmm */
	JAIL_NETWORK, /* vmm */
	JAIL_VCPU,    /* vmm */
	JAIL_GATE,
	JAIL_INTERCEPTOR, /* a gate that reads flows */
	JAIL_ROLES,
};

/* What a process is left with. */
struct jail {
	bool host_network;
	const char *const *readable; /* files that it may open to read, ends with NULL; NULL: none, and its root is empty */
	unsigned fds_max;
	uint64_t file_bytes_max; /* of what it writes */
	uint64_t data_bytes_max; /* of its memory; 0: no limit */
};

/* A process that could not be confined ends with this plus the stage. */
enum { JAIL_EXIT_STATUS = 64 };

/* A seccomp program; build/filters.c, made by tools/mkfilters.c, has one for each role. */
struct jail_filter {
	const struct sock_filter *code;
	unsigned short instructions;
};

extern const struct jail_filter jail_filter[JAIL_ROLES];

enum jail_stage jail_enter(const struct jail *j, int missing[JAIL_STAGES]);
int jail_landlock(const char *const *readable);
void jail_thread(enum jail_role role);
int jail_probe(int missing[JAIL_STAGES], enum jail_stage *failed);
const char *jail_stage_name(enum jail_stage stage);

#endif
