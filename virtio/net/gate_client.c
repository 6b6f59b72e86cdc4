/* The device's side of gate/proto.h. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "virtio/net/gate/proto.h"
#include "virtio/net/net_priv.h"
#include "virtio/net/udp_flow.h"
#include "vmm/util/io.h"
#include "vmm/util/passfd.h"

/* Takes one reply. Returns false where there is none now. */
static bool receive(struct net *n)
{
	struct gate_reply reply;
	int fd;
	ssize_t bytes = passfd_recv(n->gate.fd, &reply, sizeof reply, &fd);
	if (bytes == -EAGAIN || bytes == -EINTR)
		return bytes == -EINTR;
	if (bytes != sizeof reply) { /* the gate is gone: what was asked of it is denied, and so is all that follows */
		io_close(&fd);
		loop_remove(n->loop, &n->gate);
		io_close(&n->gate.fd);
		tcp_gate_lost(n);
		udp_gate_lost(n);
		return false;
	}
	reply.reason[sizeof reply.reason - 1] = 0;
	if (reply.id & UDP_FLOW_ID)
		udp_opened(n, &reply, fd);
	else
		tcp_opened(n, &reply, fd);
	return true;
}

static void ready(void *context, uint32_t events)
{
	struct net *n = context;
	pthread_mutex_lock(&n->device.lock);
	while (n->gate.fd >= 0 && receive(n))
		;
	if (events & EPOLLOUT && n->gate.fd >= 0) {
		loop_change(n->loop, &n->gate, EPOLLIN);
		tcp_ask_again(n);
	}
	net_flush(n);
	pthread_mutex_unlock(&n->device.lock);
}

/* Takes n->config.gate_fd over. Returns 0 or -errno. */
int gate_client_create(struct net *n)
{
	n->gate = (struct loop_source){.fd = n->config.gate_fd, .ready = ready, .context = n};
	n->config.gate_fd = -1;
	return n->gate.fd < 0 ? 0 : loop_add(n->loop, &n->gate, EPOLLIN);
}

void gate_client_destroy(struct net *n)
{
	loop_remove(n->loop, &n->gate);
	io_close(&n->gate.fd);
}

/*
 * Asks the gate for a flow; tcp_opened() gets the answer for `id`. Returns 0, -EAGAIN where that is to be tried again when
 * tcp_ask_again() is called, or -errno where nobody will answer.
 */
int gate_ask(struct net *n, uint64_t id, const struct policy_request *r)
{
	struct gate_request request = {.id = id, .addr = r->addr, .port = r->port, .proto = (uint8_t)r->proto};
	if (r->name)
		strcpy(request.name, r->name);
	if (n->gate.fd < 0)
		return -EPIPE;
	if (send(n->gate.fd, &request, sizeof request, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return 0;
	int error = errno;
	if (error == EAGAIN)
		loop_change(n->loop, &n->gate, EPOLLIN | EPOLLOUT);
	return -error;
}
