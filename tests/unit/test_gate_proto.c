/* virtio/net/gate/proto.c: what the gate takes from a vmm that somebody may have taken over. */
#include <criterion/criterion.h>
#include <string.h>

#include "virtio/net/gate/proto.h"
#include "virtio/net/policy.h"

Test(gate_proto, requests)
{
	static const struct {
		const char *name;
		unsigned port, proto;
		bool valid;
	} rows[] = {
		{"a.com", 443, NET_TCP, true},
		{"a.com", 53, NET_UDP, true},
		{"", 443, NET_TCP, true}, /* by address */
		{"host.caplock.internal", 1, NET_TCP, true},
		{"a.com", 0, NET_TCP, false},
		{"a.com", 443, 2, false},
		{"a.com", 443, 255, false},
		{"A.com", 443, NET_TCP, false}, /* not canonical: no rule would deny it */
		{"a.com.", 443, NET_TCP, false},
		{"a..com", 443, NET_TCP, false},
		{"127.1", 443, NET_TCP, false},
		{"127.0.0.1", 443, NET_TCP, false},
		{"a.com\n", 443, NET_TCP, false},
		{"b\xc3\xbc.de", 443, NET_TCP, false},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct gate_request r = {.port = (uint16_t)rows[i].port, .proto = (uint8_t)rows[i].proto};
		strcpy(r.name, rows[i].name);
		cr_expect_eq(gate_request_valid(&r), rows[i].valid, "%s:%u/%u", rows[i].name, rows[i].port, rows[i].proto);
	}
	struct gate_request endless = {.port = 443};
	memset(endless.name, 'a', sizeof endless.name);
	cr_expect_not(gate_request_valid(&endless));
}
