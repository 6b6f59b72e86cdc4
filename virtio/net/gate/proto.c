#include "virtio/net/gate/proto.h"

#include <string.h>

#include "virtio/net/policy.h"

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
