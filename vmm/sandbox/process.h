/* The vmm process of a sandbox. */
#ifndef CAPLOCK_SANDBOX_PROCESS_H
#define CAPLOCK_SANDBOX_PROCESS_H

#include <sys/types.h>

struct err;
struct machine_config;

int process_start(const struct machine_config *c, pid_t *pid, struct err *e);

#endif
