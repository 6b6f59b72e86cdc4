/* What the network device tells the supervisor. */
#ifndef CAPLOCK_NET_REPORT_H
#define CAPLOCK_NET_REPORT_H

#include <stdint.h>

#include "virtio/net/addr.h"
#include "virtio/net/name.h"

struct net;
struct policy_request;

/* One message on a SOCK_SEQPACKET socket: a flow, or (port 0) a name, that was denied. */
struct net_report {
	char host[NAME_BYTES]; /* name or address */
	char reason[64];
	uint8_t proto; /* enum net_proto */
	uint16_t port;
};

void report_denied(struct net *n, const struct policy_request *r, const char *reason);

#endif
