/* The supervisor's word, carried out. It is trusted; its messages are only checked for their size. */
#include "virtio/net/order.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "virtio/net/net_priv.h"
#include "virtio/net/record.h"
#include "virtio/net/udp_flow.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/passfd.h"

/* Carries an order out; `fd` is used up. */
static void carry_out(struct net *n, const struct net_order *order, int fd)
{
	struct err e;
	if (n->ended) { /* no record may follow the totals */
		io_close(&fd);
		return;
	}
	switch (order->op) {
	case ORDER_POLICY:
		if (policy_apply(&n->config.policy, &order->change, &e) == 0 && order->change.op != POLICY_ADD_ALLOW) {
			tcp_policy_changed(n);
			udp_policy_changed(n);
		}
		break;
	case ORDER_ANSWER:
		tcp_answered(n, &order->target, order->answer);
		break;
	case ORDER_GATE:
		if (n->gate.fd < 0) {
			n->config.gate_fd = fd;
			fd = -1;
			gate_client_create(n);
		}
		break;
	case ORDER_PUBLISH:
		tcp_publish(n, fd, order->target.port);
		fd = -1;
		break;
	case ORDER_END:
		tcp_end(n);
		udp_destroy(n);
		n->ended = true;
		record_totals(n);
		break;
	default:
		break;
	}
	if (order->id)
		record_done(n, order->id);
	io_close(&fd);
}

static void ready(void *context, uint32_t events)
{
	(void)events;
	struct net *n = context;
	struct net_order order;
	int fd;
	pthread_mutex_lock(&n->device.lock);
	for (;;) {
		ssize_t bytes = passfd_recv(n->control.fd, &order, sizeof order, &fd);
		if (bytes == sizeof order) {
			carry_out(n, &order, fd);
			continue;
		}
		io_close(&fd);
		if (bytes == -EINTR)
			continue;
		if (bytes != -EAGAIN) /* the supervisor is gone, and the machine follows */
			loop_remove(n->loop, &n->control);
		break;
	}
	net_flush(n);
	pthread_mutex_unlock(&n->device.lock);
}

/* Takes n->config.control_fd over. Returns 0 or -errno. */
int order_create(struct net *n)
{
	n->control = (struct loop_source){.fd = n->config.control_fd, .ready = ready, .context = n};
	n->config.control_fd = -1;
	return n->control.fd < 0 ? 0 : loop_add(n->loop, &n->control, EPOLLIN);
}

void order_destroy(struct net *n)
{
	loop_remove(n->loop, &n->control);
	io_close(&n->control.fd);
}
