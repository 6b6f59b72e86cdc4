/* virtio-net with the policy engine inside. */
#ifndef CAPLOCK_NET_NET_H
#define CAPLOCK_NET_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio/net/policy.h"

struct err;
struct loop;
struct mem;
struct virtio_device;

struct net_config {
	unsigned mtu;
	struct policy policy; /* the device's from now on */
	int gate_fd;          /* the gate's requests and replies (gate/proto.h); becomes the device's */
	int control_fd;       /* records for the supervisor (record.h), and its orders (order.h); becomes the device's */
	bool record_all;      /* --audit, --learn: each decision and each flow, whatever that costs */
};

int net_create(const struct mem *mem, struct loop *loop, const struct net_config *config, struct virtio_device **out,
	       struct err *e);

#endif
