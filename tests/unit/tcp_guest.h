/*
 * A TCP of the guest's, for tests: segments written and read one by one, and a model of a whole connection on top that
 * sends and checks a pseudo-random stream, over a link that loses, doubles and reorders what it is told to.
 */
#ifndef CAPLOCK_TESTS_TCP_GUEST_H
#define CAPLOCK_TESTS_TCP_GUEST_H

#include "tests/unit/net_peer.h"
#include "virtio/net/flow.h"

enum {
	SEGMENT_DATA_MAX_BYTES = 65000,
	GUEST_MSS = 1460,
};

/* A segment of the device's. */
struct tcp_seen {
	struct ip_addr from, to;
	uint16_t from_port, to_port;
	uint32_t seq, ack;
	uint8_t flags;
	uint16_t window;
	uint16_t mss; /* of a SYN; 0: not told */
	int shift;    /* -1: not told */
	size_t bytes;
	const uint8_t *data;
};

/* One connection's identity and sequence space; tests may set any of it. */
struct tcp_guest {
	struct peer *peer;
	struct ip_addr from, to;
	uint16_t from_port, to_port;
	uint32_t una, nxt;     /* ours */
	uint32_t rcv_nxt;      /* the device's */
	uint32_t edge;         /* that the device told: what may be sent */
	int peer_shift;        /* of the device's window; -1: none */
	unsigned shift;        /* of ours, where `scales` */
	bool scales;
	uint16_t mss;          /* that we tell; 0: none */
	uint32_t window_bytes; /* that we tell */
	bool has_others;       /* connections, whose segments are not for it */
	int server;            /* the other end of the flow's socket; -1 */
};

void guest_init(struct tcp_guest *t, struct peer *p, bool v6, uint16_t from_port, uint16_t to_port);
void guest_end(struct tcp_guest *t);
void guest_segment(struct tcp_guest *t, uint8_t flags, uint32_t seq, const void *data, size_t bytes);
void guest_send(struct tcp_guest *t, uint8_t flags, const void *data, size_t bytes);
void guest_syn(struct tcp_guest *t);
bool guest_parse(const struct peer_frame *f, struct tcp_seen *s);
bool guest_next(struct tcp_guest *t, struct tcp_seen *s);
void guest_expect(struct tcp_guest *t, struct tcp_seen *s, uint8_t flags);
void guest_expect_none(struct tcp_guest *t);
void guest_dial(struct tcp_guest *t, int buffer_bytes);
void guest_connect(struct tcp_guest *t, int buffer_bytes);
void guest_serve(struct tcp_guest *t, int buffer_bytes);

void stream_fill(uint64_t seed, uint64_t offset, uint8_t *to, size_t bytes);
bool stream_is(uint64_t seed, uint64_t offset, const uint8_t *data, size_t bytes);

#endif
