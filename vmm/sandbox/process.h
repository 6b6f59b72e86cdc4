/* The processes of a sandbox: forks that keep the descriptors they are given, and little else (vmm/jail). */
#ifndef CAPLOCK_SANDBOX_PROCESS_H
#define CAPLOCK_SANDBOX_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "vmm/jail/jail.h"

struct err;

enum { PROCESS_FDS_MAX = 128 };

struct process {
	const char *name; /* for ps(1), at most 15 bytes */
	void (*run)(const void *config); /* NULL: program_fd is executed, with its argument */
	int program_fd;
	const char *argument;
	const void *config;
	struct jail jail;
	int keep[PROCESS_FDS_MAX]; /* all above 2; negative ones are none */
	unsigned keep_count;
};

void process_keep(struct process *p, int fd);
void process_enter(const struct jail *jail, pid_t supervisor);
int process_start(const struct process *p, int *pidfd, struct err *e);
bool process_failure(int pidfd, const char *who, char *text, size_t text_bytes);

#endif
