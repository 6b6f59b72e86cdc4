/* UDP flows, for udp.c and what reaches them from elsewhere. */
#ifndef CAPLOCK_NET_UDP_FLOW_H
#define CAPLOCK_NET_UDP_FLOW_H

#include "virtio/net/net_priv.h"

enum { UDP_FLOWS_MAX = 1024 };

#define UDP_FLOW_ID (1ull << 31) /* in the id of a request to the gate: not a TCP flow's */

void udp_flow_input(struct net *n, const struct packet *p, uint16_t guest_port, uint16_t remote_port, size_t offset, size_t bytes);
void udp_opened(struct net *n, const struct gate_reply *reply, int fd);
void udp_flush(struct net *n);
void udp_gate_lost(struct net *n);
void udp_policy_changed(struct net *n);
void udp_destroy(struct net *n);

#endif
