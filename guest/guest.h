/* The parts of PID 1, in the order in which init.c uses them. */
#ifndef CAPLOCK_GUEST_GUEST_H
#define CAPLOCK_GUEST_GUEST_H

#include <stdbool.h>

const char *mount_dev(void);
const char *mount_root(int *scratch_fd);
bool net_has_link(void);
void net_start(void);
int agent_run(int stream_fd, int listen_fd);

#endif
