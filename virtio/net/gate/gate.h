/* The gate: the only process of a sandbox that opens network connections. */
#ifndef CAPLOCK_GATE_GATE_H
#define CAPLOCK_GATE_GATE_H

#include "virtio/net/policy.h"

enum {
	GATE_LIMIT_MS = 10000,
	GATE_DIALS_MAX = 1024, /* flows that are being opened at once */
};

struct gate_config {
	struct policy policy;           /* the gate's own copy */
	const char *const *dns_servers; /* ADDRESS[:PORT], ends with NULL; NULL: the host's */
	unsigned limit_ms;              /* for a name's resolution, and again for a connection; 0: GATE_LIMIT_MS */
	int vmm_fd;                     /* requests and replies (gate/proto.h); its end is the gate's */
	void (*confine)(void);          /* called when all is set up, before anything of the vmm's is read; NULL: nothing */
	int supervisor_fd;              /* struct gate_order, each answered by a byte */
};

void gate_run(struct gate_config *c);

#endif
