/*
 * Between the network device and the gate, and between the supervisor and the gate: one message each way on a SOCK_SEQPACKET socket. Both are of one program, so the
 * layout is the compiler's.
 */
#ifndef CAPLOCK_GATE_PROTO_H
#define CAPLOCK_GATE_PROTO_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/net/addr.h"
#include "virtio/net/name.h"
#include "virtio/net/policy.h"

/* The guest wants a flow. */
struct gate_request {
	uint64_t id;
	struct ip_addr addr;   /* where there is no name */
	char name[NAME_BYTES]; /* canonical; "": none */
	uint16_t port;
	uint8_t proto; /* enum net_proto */
};

/* What became of it; with the connected socket (SCM_RIGHTS) where error is 0. */
struct gate_reply {
	uint64_t id;
	int32_t error;       /* 0, or an errno */
	uint8_t own;         /* the address is one of this host's */
	struct ip_addr addr; /* that was dialled */
	char reason[64];     /* where error alone does not say it, as of a denial: EPERM */
};

enum gate_order_op {
	GATE_POLICY, /* change the rules */
	GATE_NOTHING, /* but answer: what was ordered before is done then */
	GATE_GRANT,  /* flows to a target that no rule is about; they are begun soon, or not */
};

/* The supervisor's word. Each is answered, when it is carried out, by one byte. */
struct gate_order {
	uint8_t op; /* enum gate_order_op */
	struct policy_change change;
	struct gate_request grant;
	uint32_t flows; /* that are granted */
};

bool gate_same_target(const struct gate_request *a, const struct gate_request *b);
bool gate_request_valid(const struct gate_request *r);

#endif
