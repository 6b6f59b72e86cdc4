/* What the network device tells the supervisor: a record of each decision, and of each flow that ended. */
#ifndef CAPLOCK_NET_RECORD_H
#define CAPLOCK_NET_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/net/addr.h"
#include "virtio/net/name.h"
#include "virtio/net/policy.h"

struct net;

enum record_kind {
	RECORD_DNS,    /* a name was asked for */
	RECORD_FLOW,   /* a flow was opened, or denied, then or by what it said, or could not be opened */
	RECORD_CLOSE,  /* a flow that was open has ended */
	RECORD_DONE,   /* a change of the rules is made (net_order.id) */
	RECORD_ASK,    /* a flow waits for the user's word (ORDER_ANSWER) */
	RECORD_TOTALS, /* after everything else, where ORDER_END asked for it */
};

enum record_verdict {
	VERDICT_DENY,
	VERDICT_ALLOW,
	VERDICT_FAILED, /* allowed, but the host was not reached */
};

enum { RECORD_REASON_BYTES = 96 };

/* What happened to frames and flows; only ever counted up. */
struct net_counters {
	uint64_t frames_in, frames_out;
	uint64_t malformed;   /* lengths or headers that contradict each other */
	uint64_t fragments;   /* refused: nothing that we offer needs them */
	uint64_t unsupported; /* other protocols, extension headers, addresses that are not the guest's */
	uint64_t unsent;      /* replies for which the guest had no buffer, datagrams for which the server's socket had none */
	uint64_t oversized;   /* datagrams for the guest, larger than its MTU */
	uint64_t reordered;   /* segments of TCP that came too early, and will be sent again */
	uint64_t flows, denied, over_limit;
};

/* One message on a SOCK_SEQPACKET socket, between two processes of one program. */
struct net_record {
	uint64_t time_ns; /* CLOCK_REALTIME */
	uint8_t kind;     /* enum record_kind */
	uint8_t verdict;  /* enum record_verdict */
	uint8_t proto;    /* enum net_proto */
	uint8_t has_addr;
	uint8_t published;       /* of a flow that ended: it began on the host, at a published port */
	uint8_t named;           /* of a flow that ended: TLS or HTTP said its name, and nothing else */
	uint16_t port;           /* 0: none */
	struct ip_addr addr;     /* that was dialled, or asked for */
	char name[NAME_BYTES];   /* canonical; "": none */
	char reason[RECORD_REASON_BYTES];
	uint64_t id;                                            /* of what is done */
	uint64_t from_guest_bytes, to_guest_bytes, duration_ms; /* of a flow that ended */
	struct net_counters count;                              /* the totals */
};

struct gate_reply;

/* A flow that ends. */
struct flow_summary {
	struct policy_request request;
	struct ip_addr addr; /* that was dialled, or, where it began on the host, called */
	bool published, named;
	uint64_t from_guest_bytes, to_guest_bytes, start_ms;
};

void record_dns(struct net *n, const char *name, bool allowed);
void record_flow(struct net *n, const struct policy_request *r, enum record_verdict verdict, const struct ip_addr *addr,
		 const char *reason);
void record_close(struct net *n, const struct flow_summary *s, const char *reason);
const char *record_error(const struct gate_reply *reply);
void record_done(struct net *n, uint64_t id);
bool record_ask(struct net *n, const struct policy_request *r);
void record_totals(struct net *n);

#endif
