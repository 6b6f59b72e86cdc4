#include "virtio/net/gate/proto.h"

#include <string.h>

#include "virtio/net/policy.h"

/* Whether both want a flow to the same host and port. Of valid requests. Pure. */
bool gate_same_target(const struct gate_request *a, const struct gate_request *b)
{
	return a->proto == b->proto && a->port == b->port && strcmp(a->name, b->name) == 0 &&
	       (a->name[0] || addr_equal(&a->addr, &b->addr));
}

/*
 * Whether a request may be taken for what it says: whoever has taken the vmm over can send anything. Its name ends and is
 * canonical, so that it is compared as the rules are. Pure.
 */
bool gate_request_valid(const struct gate_request *r)
{
	char canonical[NAME_BYTES];
	size_t at;
	if (!memchr(r->name, 0, sizeof r->name) || r->proto > NET_UDP || r->port == 0)
		return false;
	return r->name[0] == 0 || (!name_canonical(r->name, strlen(r->name), canonical, &at) && strcmp(canonical, r->name) == 0);
}
