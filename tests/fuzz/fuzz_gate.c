/* Any request to the gate: what is valid can be decided, and its name is what the rules are compared with. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/proto.h"
#include "virtio/net/policy.h"
#include "vmm/util/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct gate_request *r = calloc(1, sizeof *r); /* exactly its size, for AddressSanitizer */
	struct policy p = {0};
	struct err e;
	memcpy(r, data, size < sizeof *r ? size : sizeof *r);
	if (policy_add_allow(&p, "a.com", &e) || policy_add_allow(&p, "1.0.0.0/8:*", &e) || policy_add_deny(&p, "b.com", &e))
		abort();
	if (gate_request_valid(r)) {
		struct policy_request wanted = {
			.proto = r->proto, .name = r->name[0] ? r->name : NULL, .addr = r->addr, .port = r->port};
		struct policy_decision d = policy_decide(&p, &wanted);
		if (d.verdict != POLICY_DENY && wanted.name && strcmp(wanted.name, "a.com") != 0)
			abort();
		if (d.verdict != POLICY_DENY && !wanted.name && (!addr_is_v4(&r->addr) || r->addr.byte[12] != 1))
			abort();
	}
	policy_free(&p);
	free(r);
	return 0;
}
