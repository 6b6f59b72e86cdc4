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

/* What the gate tells the supervisor: messages that begin with a byte, one of these. */
enum gate_message {
	GATE_DONE,        /* alone: an order is carried out */
	GATE_CERTIFICATE, /* then the certificate that the guest is to trust (PEM). Before anything else, from an interceptor */
	GATE_FAILED,      /* then why there will be no gate (text), instead of the certificate */
	GATE_RECORD,      /* struct gate_record */
	GATE_CALLBACK,    /* struct gate_callback */
};

enum {
	GATE_MESSAGE_MAX_BYTES = 8192,
	GATE_PATH_BYTES = 2048,
};

/* A request that was read, and what became of it. */
struct gate_record {
	uint8_t message; /* GATE_RECORD */
	uint8_t denied;  /* by us: `reason` */
	uint8_t http2;
	uint8_t tls;
	uint16_t port;
	uint16_t status; /* that the guest got; 0: none */
	uint32_t redacted; /* places in the response */
	uint64_t time_ns;  /* CLOCK_REALTIME, of its start */
	uint64_t request_bytes, response_bytes; /* of the bodies, as they passed */
	uint64_t duration_ms;
	char name[NAME_BYTES];
	char method[32];
	char path[GATE_PATH_BYTES]; /* the values of the query left out */
	char secrets[256];          /* names of those that were put in, with commas between */
	char reason[160];           /* of a denial, or of a failure; "": none */
};

/* The gate wants a connection to the callback socket of hooks: the answer is an order with this number. */
struct gate_callback {
	uint8_t message; /* GATE_CALLBACK */
	uint64_t id;
};

enum gate_order_op {
	GATE_POLICY, /* change the rules */
	GATE_NOTHING, /* but answer: what was ordered before is done then */
	GATE_CONNECTED, /* with a descriptor, or without: what GATE_CALLBACK asked for. Not answered */
	GATE_GRANT,  /* flows to a target that no rule is about; they are begun soon, or not */
};

/* The supervisor's word. Each is answered, when it is carried out, by GATE_DONE, where nothing else is said. */
struct gate_order {
	uint8_t op; /* enum gate_order_op */
	struct policy_change change;
	struct gate_request grant;
	uint32_t flows; /* that are granted */
	uint64_t callback; /* its id */
};

bool gate_same_target(const struct gate_request *a, const struct gate_request *b);
bool gate_request_valid(const struct gate_request *r);

#endif
