/* The gate: the only process of a sandbox that opens network connections. */
#ifndef CAPLOCK_GATE_GATE_H
#define CAPLOCK_GATE_GATE_H

#include "virtio/net/policy.h"

enum { GATE_LIMIT_MS = 10000 };

struct gate_interceptor;
struct gate_secret;

/* A secret, as the supervisor hands it over. */
struct gate_secret {
	char *name, *placeholder;
	char **hosts;  /* ends with NULL */
	int value_fd;  /* read once, to its end */
	bool in_path, in_body, plain_http, aws;
};

struct gate_config {
	struct policy policy;           /* the gate's own copy */
	const char *const *dns_servers; /* ADDRESS[:PORT], ends with NULL; NULL: the host's */
	unsigned limit_ms;              /* for a name's resolution, and again for a connection; 0: GATE_LIMIT_MS */
	int vmm_fd;                     /* requests and replies (gate/proto.h); its end is the gate's */
	void (*confine)(void);          /* called when all is set up, before anything of the vmm's is read; NULL: nothing */
	int supervisor_fd;              /* struct gate_order, each answered (gate/proto.h) */
	const struct gate_interceptor *interceptor; /* reads what the policy wants read; NULL: no such flow is opened */
	struct gate_secret *secrets;    /* for the interceptor, which takes their values */
	size_t secret_count;
	int upstream_ca_fd;             /* certificates that it trusts, too (PEM); -1: none */
	bool record_all;                /* the supervisor gets a record of each request, not only of those that were denied */
};

void gate_run(struct gate_config *c);

#endif
