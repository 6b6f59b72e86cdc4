/* What the supervisor tells the network device of a running sandbox: one message each, on the socket of its records. */
#ifndef CAPLOCK_NET_ORDER_H
#define CAPLOCK_NET_ORDER_H

#include <stdint.h>

#include "virtio/net/policy.h"

struct net;

enum order_op {
	ORDER_POLICY,  /* change the rules; flows that they no longer allow end */
	ORDER_ANSWER,  /* what the user said of the flows that wait for `target` (RECORD_ASK) */
	ORDER_GATE,    /* with a descriptor: the gate's socket, where there was no gate */
	ORDER_PUBLISH, /* with a descriptor: a connection for the guest's port `target.port` */
	ORDER_END,     /* end every flow, and send the totals */
};

enum order_answer {
	ANSWER_DENY,
	ANSWER_ONCE,   /* the gate knows */
	ANSWER_DECIDE, /* as the rules say by now */
};

/* A flow's other end, in a message. */
struct net_target {
	uint8_t proto;         /* enum net_proto */
	uint16_t port;
	struct ip_addr addr;   /* where there is no name */
	char name[NAME_BYTES]; /* canonical; "": none */
};

struct net_order {
	uint64_t id;    /* RECORD_DONE has it when this is done; 0: nobody waits */
	uint8_t op;     /* enum order_op */
	uint8_t answer; /* enum order_answer */
	struct net_target target;
	struct policy_change change;
};

int order_create(struct net *n);
void order_destroy(struct net *n);

static inline struct policy_request target_request(const struct net_target *t)
{
	return (struct policy_request){.proto = t->proto, .name = t->name[0] ? t->name : NULL, .addr = t->addr, .port = t->port};
}

#endif
