/* The inside of the network device, shared by the files of virtio/net. */
#ifndef CAPLOCK_NET_NET_PRIV_H
#define CAPLOCK_NET_NET_PRIV_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio/device.h"
#include "virtio/net/addr.h"
#include "virtio/net/dns.h"
#include "virtio/net/names.h"
#include "virtio/net/net.h"
#include "virtio/net/order.h"
#include "virtio/net/policy.h"
#include "virtio/net/record.h"
#include "vmm/util/loop.h"

enum {
	ETH_HEAD_BYTES = 14,
	FRAME_HEAD_BYTES = 256, /* of a frame, copied: all headers, and all of a small packet */
	GSO_MAX_BYTES = 65535,  /* of an IP packet */

	NET_PATIENCE_MS = 5, /* that what nobody waits for may wait, so that it goes with something else */

	IP_ICMP = 1,
	IP_TCP = 6,
	IP_UDP = 17,
	IP_ICMPV6 = 58,
};

/* A frame of the guest's. Headers are read from `head`, which the guest cannot change any more. */
struct frame {
	const struct vq_chain *chain;
	struct virtio_net_hdr_v1 vnet;
	uint8_t head[FRAME_HEAD_BYTES];
	size_t head_bytes; /* in `head` */
	size_t bytes;      /* of the frame */
};

/* An IP packet in a frame; offsets are from the frame's start. */
struct packet {
	const struct frame *frame;
	struct ip_addr from, to;
	uint8_t proto;
	size_t offset; /* of the payload's header: within frame->head for at least 8 bytes */
	size_t bytes;  /* from there on */
};

/* What is to be sent: a transport header, whose checksum is filled in here, and data. */
struct segment_out {
	struct ip_addr from, to;
	uint8_t proto;
	uint8_t *head; /* checksum field 0 */
	size_t head_bytes;
	const void *data;
	size_t data_bytes;
	uint16_t gso_bytes; /* of data in each packet that it stands for; 0: it is one packet */
};

struct tcp;
struct udp;
struct gate_client;

struct net {
	struct virtio_device device; /* first: the ops cast */
	struct loop *loop;
	struct net_config config;
	struct virtio_net_config space;
	struct names names;
	struct tcp *tcp;
	struct udp *udp;
	struct loop_source gate;
	struct loop_source control; /* orders of the supervisor, and our records */
	struct loop_source wake; /* of the loop, for what a vCPU's thread began */
	struct net_counters count;
	struct vq_chain tx; /* the chain at hand */
	struct vq_chain rx;
	bool ended;      /* the sandbox is about to: nothing that the guest says counts any more */
	bool rx_starved; /* something waits for the guest's buffers */
	size_t unsignalled_bytes;
	bool patient;    /* the guest does not wait to hear that the frame at hand was taken */
	bool rx_pushed;  /* and not signalled yet */
};

/* net.c */
bool net_running(const struct net *n);
int net_send_frame(struct net *n, const void *head, size_t head_bytes, const void *data, size_t data_bytes,
		   const struct virtio_net_hdr_v1 *vnet);
void net_flush(struct net *n);
uint32_t net_frame_max_bytes(const struct net *n);
bool net_offers(const struct net *n, unsigned feature);

/* eth.c, ip.c */
void eth_input(struct net *n, const struct frame *f);
void ip4_input(struct net *n, const struct frame *f);
void ip6_input(struct net *n, const struct frame *f);
int ip_send(struct net *n, struct segment_out *s);
size_t packet_copy(const struct packet *p, size_t offset, void *to, size_t len_bytes);
uint32_t sum_bytes(uint32_t sum, const void *data, size_t len_bytes);
uint16_t sum_fold(uint32_t sum);

/* icmp.c */
void icmp_input(struct net *n, const struct packet *p);
void icmp6_input(struct net *n, const struct packet *p);
void icmp_port_unreachable(struct net *n, const struct ip_addr *guest, uint16_t guest_port, const struct ip_addr *remote,
			   uint16_t remote_port);

/* udp.c */
void udp_input(struct net *n, const struct packet *p);
int udp_reply(struct net *n, const struct ip_addr *from, uint16_t from_port, const struct ip_addr *to, uint16_t to_port,
	      const void *data, size_t data_bytes);

/* resolver.c */
size_t resolver_answer(struct net *n, const uint8_t *query, size_t query_bytes, uint8_t out[DNS_ANSWER_MAX_BYTES]);

/* dhcp.c */
void dhcp_input(struct net *n, const struct packet *p);

/* flow.c, tcp.c, tcp_out.c */
int tcp_create(struct net *n);
void tcp_destroy(struct net *n);
void tcp_input(struct net *n, const struct packet *p);
void tcp_flush(struct net *n);
void tcp_signal_within(struct net *n, unsigned after_ms);
void tcp_signalled(struct net *n);

/* tcp_open.c */
struct gate_reply;
void tcp_opened(struct net *n, const struct gate_reply *reply, int fd);
void tcp_ask_again(struct net *n);
void tcp_gate_lost(struct net *n);
void tcp_policy_changed(struct net *n);
void tcp_answered(struct net *n, const struct net_target *target, enum order_answer answer);
void tcp_end(struct net *n);

/* tcp_publish.c */
void tcp_publish(struct net *n, int fd, uint16_t guest_port);

/* gate_client.c */
int gate_client_create(struct net *n);
void gate_client_destroy(struct net *n);
int gate_ask(struct net *n, uint64_t id, const struct policy_request *r);

static inline uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void set16(uint8_t *p, unsigned value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

static inline void set32(uint8_t *p, uint32_t value)
{
	set16(p, value >> 16);
	set16(p + 2, value & 0xffff);
}

#endif
