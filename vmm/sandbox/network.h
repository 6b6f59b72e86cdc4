/* A sandbox's network, seen from its supervisor: the policy, the gate's process, and what was denied. */
#ifndef CAPLOCK_SANDBOX_NETWORK_H
#define CAPLOCK_SANDBOX_NETWORK_H

#include "vmm/util/loop.h"
#include "virtio/net/gate/gate.h"

struct caplock_spec;
struct err;
struct machine_config;

/* Made by network_prepare(), which accepts any content; network_end() frees it. */
struct network {
	struct gate_config gate;
	int gate_pidfd;            /* -1: none */
	struct loop *loop;
	struct loop_source report; /* what the device denied */
	char **denied;             /* a line each, ends with NULL; NULL: none */
	unsigned denied_count;
};

int network_policy(const struct caplock_spec *spec, struct policy *p, struct err *e);
int network_add_packages(struct policy *p, int root_fd, uint64_t offset_bytes, struct err *e);
int network_prepare(struct network *n, const struct caplock_spec *spec, struct machine_config *machine, struct err *e);
int network_start(struct network *n, struct loop *loop, struct err *e);
char **network_denied(struct network *n);
void network_end(struct network *n);

#endif
