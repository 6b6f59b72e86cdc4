/*
 * The guest's end of the network device, for tests: a driver with both rings, frames in and out, and the gate's end, which
 * the test answers. Every frame that the device sends is checked here: lengths, checksums, what the vnet header says.
 */
#ifndef CAPLOCK_TESTS_NET_PEER_H
#define CAPLOCK_TESTS_NET_PEER_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/unit/virtio_driver.h"
#include "virtio/net/gate/proto.h"
#include "virtio/net/net_priv.h"
#include "virtio/net/order.h"
#include "vmm/util/loop.h"

enum {
	PEER_RX = 0,
	PEER_TX = 1,
	PEER_QUEUE = 256,
	PEER_TX_SLOTS = 16,
	PEER_FRAME_MAX_BYTES = 14 + 65535,
};

#define PEER_OFFLOADS                                                                                                            \
	(1ull << VIRTIO_NET_F_CSUM | 1ull << VIRTIO_NET_F_GUEST_CSUM | 1ull << VIRTIO_NET_F_HOST_TSO4 |                          \
	 1ull << VIRTIO_NET_F_HOST_TSO6 | 1ull << VIRTIO_NET_F_GUEST_TSO4 | 1ull << VIRTIO_NET_F_GUEST_TSO6 |                    \
	 1ull << VIRTIO_NET_F_MRG_RXBUF)

struct peer_config {
	uint64_t features;       /* 0: all offloads */
	unsigned mtu;            /* 0: 1500 */
	uint32_t rx_bytes;       /* of one receive buffer; 0: 4096 */
	uint16_t rx_buffers;     /* 0: as many as fit */
	const char *allow[8];    /* rules, up to the first NULL */
	bool ask;                /* about what no rule is about */
};

struct peer {
	struct driver g;
	struct loop loop;
	struct net *net;
	int gate;    /* the gate's end */
	int control; /* the supervisor's end */
	uint32_t rx_bytes;
	uint64_t rx_gpa, tx_gpa;
	unsigned tx_next;
	bool hold_buffers; /* what is received is not given back to the device */
};

/* A frame of the device's. */
struct peer_frame {
	struct virtio_net_hdr_v1 vnet;
	size_t bytes;
	uint8_t data[PEER_FRAME_MAX_BYTES];
};

void peer_create(struct peer *p, const struct peer_config *c);
void peer_destroy(struct peer *p);
void peer_give_buffer(struct peer *p, uint16_t index);
void peer_queue(struct peer *p, const struct virtio_net_hdr_v1 *vnet, const void *frame, size_t bytes);
void peer_send(struct peer *p, const struct virtio_net_hdr_v1 *vnet, const void *frame, size_t bytes);
bool peer_receive(struct peer *p, struct peer_frame *f);
void peer_run(struct peer *p);
void peer_run_soon(struct peer *p);
bool peer_pass_time(struct peer *p);

bool peer_gate_take(struct peer *p, struct gate_request *r);
void peer_gate_reply(struct peer *p, uint64_t id, int fd, int error);
void peer_order(struct peer *p, const struct net_order *order, int fd);
bool peer_record_take(struct peer *p, struct net_record *r);
void peer_tcp_pair(int fd[2], int buffer_bytes);

uint16_t peer_checksum(uint8_t proto, const struct ip_addr *from, const struct ip_addr *to, const uint8_t *data, size_t bytes);
size_t peer_ip(uint8_t *frame, uint8_t proto, const struct ip_addr *from, const struct ip_addr *to, const void *data, size_t bytes);
bool peer_ip_parse(const struct peer_frame *f, uint8_t *proto, struct ip_addr *from, struct ip_addr *to, size_t *at, size_t *bytes);

#endif
