/* The SETUP frame: what the host tells the guest about itself. */
#ifndef CAPLOCK_GUEST_SETUP_H
#define CAPLOCK_GUEST_SETUP_H

#include <stddef.h>
#include <stdint.h>

int setup_apply(const uint8_t *payload, size_t len_bytes, const char **failure);
int setup_cgroup_fd(void);

#endif
