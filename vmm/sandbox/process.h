/* The processes of a sandbox: forks that keep the descriptors they are given, and nothing else. */
#ifndef CAPLOCK_SANDBOX_PROCESS_H
#define CAPLOCK_SANDBOX_PROCESS_H

struct err;

enum { PROCESS_FDS_MAX = 16 };

struct process {
	const char *name; /* for ps(1), at most 15 bytes */
	void (*run)(const void *config);
	const void *config;
	int keep[PROCESS_FDS_MAX]; /* all above 2; negative ones are none */
	unsigned keep_count;
};

void process_keep(struct process *p, int fd);
int process_start(const struct process *p, int *pidfd, struct err *e);

#endif
