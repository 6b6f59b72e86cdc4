/*
 * Flows that begin on the host: connections to published ports.
 *
 * The supervisor has accepted them; here the guest is called. It is tried at 127.0.0.1 first, which its init lets the link
 * lead to, so that servers are reached whether they listen there or everywhere; where it refuses, or leaves PLACE_TRIES calls
 * unanswered, then at its addresses on the link. When all refuse, the connection is reset. A flow that is CALLING has sent its
 * SYN and waits for the guest's.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "virtio/net/flow.h"
#include "virtio/net/link.h"
#include "vmm/util/io.h"

enum {
	PORT_FIRST = 32768, /* of ours */
	PORT_COUNT = 28000,

	PLACE_LAST = 2,
	PLACE_TRIES = 4, /* after 3.75 s */
};

/* Where the guest's servers may listen, in the order of trial; and whence they are called. */
static struct packet place(unsigned attempt)
{
	static const uint8_t host_v6[16] = LINK_HOST_V6, guest_v6[16] = LINK_GUEST_V6;
	struct packet p = {.to = addr_v4(LINK_HOST_V4), .from = addr_v4(attempt == 0 ? INADDR_LOOPBACK : LINK_GUEST_V4)};
	if (attempt == 2) {
		memcpy(p.to.byte, host_v6, sizeof host_v6);
		memcpy(p.from.byte, guest_v6, sizeof guest_v6);
	}
	return p;
}

/* Makes the flow for the `attempt`th place. Returns NULL where there is no such place, too many flows or no memory. */
static struct flow *create(struct net *n, uint16_t guest_port, unsigned attempt)
{
	struct tcp *t = n->tcp;
	struct packet p = place(attempt);
	if (attempt > PLACE_LAST)
		return NULL;
	for (unsigned tried = 0; tried < PORT_COUNT; tried++) {
		uint16_t port = (uint16_t)(PORT_FIRST + t->publish_port++ % PORT_COUNT);
		if (!*flow_find(t, &p, guest_port, port))
			return flow_create(n, &p, guest_port, port);
	}
	return NULL;
}

/* Calls the guest at the `attempt`th place. Returns 0, or -EAGAIN where it cannot be; the descriptor is the caller's then. */
static int call(struct net *n, int fd, uint16_t guest_port, unsigned attempt)
{
	struct flow *f = create(n, guest_port, attempt);
	if (!f)
		return -EAGAIN;
	f->published = true;
	f->attempt = attempt;
	f->state = CALLING;
	f->source = (struct loop_source){.fd = fd, .ready = tcp_socket_ready, .context = f};
	if (loop_add(n->loop, &f->source, EPOLLIN | EPOLLRDHUP | EPOLLET)) {
		f->source.fd = -1;
		flow_destroy(f, "out of descriptors");
		return -EAGAIN;
	}
	f->scales = true;
	tcp_start_sequence(f);
	f->owes_syn = true;
	flow_join_turn(f);
	return 0;
}

/* The same for a connection that is used up: where it cannot be, it is reset. */
static void call_or_reset(struct net *n, int fd, uint16_t guest_port, unsigned attempt)
{
	static const struct linger at_once = {.l_onoff = 1};
	if (fd >= 0 && call(n, fd, guest_port, attempt)) {
		n->count.over_limit++;
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
		io_close(&fd);
	}
}

/* Calls the guest's port for a connection of the host's, which is used up. With the device's lock held. */
void tcp_publish(struct net *n, int fd, uint16_t guest_port)
{
	call_or_reset(n, fd, guest_port, 0);
}

/* Calls the guest at the next place for the same connection, which ends where there is none. The flow is gone afterwards. */
static void call_next(struct flow *f, const char *reason)
{
	struct net *n = f->net;
	uint16_t port = f->guest_port;
	unsigned next = f->attempt + 1;
	int fd = next <= PLACE_LAST ? f->source.fd : -1;
	if (fd >= 0) {
		loop_remove(n->loop, &f->source);
		f->source.fd = -1;
	}
	flow_destroy(f, reason);
	call_or_reset(n, fd, port, next);
}

/* The guest has not answered a call again. Returns whether it is called at the next place: then the flow is gone. */
bool tcp_call_elsewhere(struct flow *f)
{
	if (f->retries < PLACE_TRIES || f->attempt == PLACE_LAST)
		return false;
	call_next(f, "the guest does not answer");
	return true;
}

/* The guest answers our SYN (RFC 9293, 3.10.7.3). The flow may be gone afterwards. */
void tcp_called(struct flow *f, const struct packet *p, const struct tcp_header *h)
{
	bool acks = h->flags & ACK && h->ack == f->snd_max;
	if (h->flags & RST) {
		if (acks)
			call_next(f, "refused by the guest");
		return;
	}
	if (!acks || !(h->flags & SYN))
		return;
	f->scales = false;
	tcp_take_syn(f, p, h);
	f->snd_una = h->ack;
	f->state = OPEN;
	f->owes_syn = false;
	f->owes_ack = f->readable = f->writable = true;
	f->deadline_ms = 0;
	f->retries = 0;
	flow_join_turn(f);
}
