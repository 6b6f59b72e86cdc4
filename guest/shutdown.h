/* The end of the machine. */
#ifndef CAPLOCK_GUEST_SHUTDOWN_H
#define CAPLOCK_GUEST_SHUTDOWN_H

#include <stdbool.h>

void shutdown_configure(int scratch_fd);
void shutdown_begin(void (*stopped)(void));
bool shutdown_begun(void);
void shutdown_no_processes(void);
void shutdown_reset(void);

#endif
