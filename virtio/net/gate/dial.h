/* Connections to the network: resolved, checked, and the first address that answers. */
#ifndef CAPLOCK_GATE_DIAL_H
#define CAPLOCK_GATE_DIAL_H

#include "virtio/net/gate/proto.h"

struct dial;
struct loop;
struct resolver;

enum { DIALS_MAX = 1024 }; /* that are under way at once */

/* Zero-initialise it but for the first four members. dialer_destroy() to end. */
struct dialer {
	struct loop *loop;
	const struct policy *policy;
	const char *const *dns_servers; /* as in struct gate_config */
	unsigned limit_ms;              /* likewise */
	struct resolver *resolver;      /* NULL: no name was to be resolved yet */
	struct dial *dials;
	unsigned count;
	uint64_t started; /* dials, ever */
};

/* How a dial ended. */
struct dial_result {
	int fd;              /* connected, and the callee's; -1: none */
	int error;           /* where there is none: a positive errno */
	const char *reason;  /* where error alone does not say it; or NULL. Gone when the callee returns */
	struct ip_addr addr; /* that was dialled */
	bool own;            /* the address is one of this host's */
	bool granted;        /* by the user: no rule need allow it */
};

typedef void (*dial_fn)(void *context, const struct dial_result *r);

void dial_start(struct dialer *d, const struct gate_request *target, bool granted, dial_fn done, void *context, struct dial **out);
void dial_cancel(struct dial *d);
int dialer_tick(struct dialer *d);
void dialer_destroy(struct dialer *d);

#endif
