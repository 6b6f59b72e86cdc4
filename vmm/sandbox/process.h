/* The vmm process of a sandbox. */
#ifndef CAPLOCK_SANDBOX_PROCESS_H
#define CAPLOCK_SANDBOX_PROCESS_H

struct err;
struct machine_config;

int process_start(const struct machine_config *c, int *pidfd, struct err *e);

#endif
