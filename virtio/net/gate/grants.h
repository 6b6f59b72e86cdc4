/* What the user allows once (--ask): a few flows to a target that no rule is about. */
#ifndef CAPLOCK_GATE_GRANTS_H
#define CAPLOCK_GATE_GRANTS_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/net/gate/proto.h"

enum {
	GRANTS_MAX = 16,
	GRANT_FLOWS_MAX = 64,
	GRANT_MS = 30000, /* to begin the flows in */
};

/* Zero-initialise it to start. */
struct grants {
	struct {
		struct gate_request target;
		uint32_t flows; /* that may still be opened */
		uint64_t end_ms;
	} grant[GRANTS_MAX];
	unsigned next;
};

void grants_add(struct grants *g, const struct gate_request *target, uint32_t flows, uint64_t now_ms);
bool grants_take(struct grants *g, const struct gate_request *r, const struct policy_decision *d, uint64_t now_ms);
bool grants_reach(const struct policy_decision *d, const struct ip_addr *addr, bool own);

#endif
