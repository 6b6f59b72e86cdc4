/* A flow's socket: what the guest said goes there, and where it comes from. */
#include <errno.h>
#include <sys/socket.h>

#include "virtio/net/flow.h"
#include "vmm/util/io.h"

/* The socket takes no more for now; an event says when it does. */
static void wait_writable(struct flow *f)
{
	f->writable = false;
	loop_change(f->net->loop, &f->source, f->source.events | EPOLLOUT);
}

/* The server takes no more. What it said before that is for the guest still, and then its RST. */
static void stop_writing(struct flow *f)
{
	f->deaf = f->shut = f->readable = true;
	f->writable = false;
	if (f->host_ended)
		flow_owe_reset(f, "reset by the server");
	flow_drop_kept(f);
	f->passed = 0;
	flow_join_turn(f);
}

/* Passes on what is kept, then the guest's end. */
void tcp_to_socket(struct flow *f)
{
	size_t done = 0, may = f->inspect.kind == INSPECT_OFF ? f->kept.len : f->passed;
	if (f->source.fd < 0 || f->deaf)
		return;
	while (f->writable && done < may) {
		ssize_t n = send(f->source.fd, f->kept.data + done, may - done, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n >= 0) {
			done += (size_t)n;
		} else if (errno == EAGAIN) {
			wait_writable(f);
		} else if (errno != EINTR) {
			stop_writing(f);
			return;
		}
	}
	if (done) {
		f->net->tcp->kept_bytes -= done;
		f->passed -= f->inspect.kind == INSPECT_OFF ? f->passed : done;
		buf_consume(&f->kept, done);
		if (f->kept.len == 0)
			buf_free(&f->kept);
		/* Told once there is half of it: not for each byte. */
		if (f->rcv_edge - f->rcv_nxt < KEPT_MAX_BYTES / 2)
			f->owes_ack = true;
	}
	if (f->guest_ended && f->kept.len == 0 && !f->shut) {
		shutdown(f->source.fd, SHUT_WR);
		f->shut = true;
	}
	flow_join_turn(f);
}

/* How much more of the guest's data may be kept for this flow. */
size_t tcp_kept_room(const struct flow *f)
{
	size_t max = f->net->tcp->kept_bytes < BUDGET_BYTES ? KEPT_MAX_BYTES : KEPT_MIN_BYTES;
	return f->kept.len < max ? max - f->kept.len : 0;
}

/* Keeps data, but for its first `skip` bytes, as far as there is room. Returns how much that is. */
static size_t keep(struct flow *f, const struct iovec *iov, unsigned count, size_t skip)
{
	size_t before = f->kept.len, room = tcp_kept_room(f);
	for (unsigned i = 0; i < count && room; i++) {
		size_t from = skip < iov[i].iov_len ? skip : iov[i].iov_len;
		size_t bytes = iov[i].iov_len - from < room ? iov[i].iov_len - from : room;
		if (buf_add(&f->kept, (uint8_t *)iov[i].iov_base + from, bytes))
			break;
		skip -= from;
		room -= bytes;
	}
	f->net->tcp->kept_bytes += f->kept.len - before;
	return f->kept.len - before;
}

/* Takes `bytes` of data in order. Returns how much was taken: it is acknowledged, the rest comes again. */
size_t tcp_take_data(struct flow *f, const struct packet *p, size_t offset, size_t bytes)
{
	struct iovec iov[VQ_IOV_MAX] VQ_UNINITIALIZED;
	const struct vq_chain *c = p->frame->chain;
	unsigned count = vq_slice(c->iov, c->out_count, sizeof p->frame->vnet + p->offset + offset, bytes, iov);
	size_t done = 0;
	bool plain = f->service == SERVICE_SERVER && f->inspect.kind == INSPECT_OFF;
	if (f->service == SERVICE_DONE || f->deaf)
		return bytes;
	if (plain && f->writable && f->kept.len == 0) {
		struct msghdr m = {.msg_iov = iov, .msg_iovlen = count};
		ssize_t n = sendmsg(f->source.fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN && errno != EINTR) {
			stop_writing(f);
			return bytes;
		}
		done = n < 0 ? 0 : (size_t)n;
		if (done < bytes)
			wait_writable(f);
	}
	return done == bytes ? bytes : done + keep(f, iov, count, done);
}

/* Something can be read from a flow's socket or written to it. */
void tcp_socket_ready(void *context, uint32_t events)
{
	struct flow *f = context;
	struct net *n = f->net;
	pthread_mutex_lock(&n->device.lock);
	f->readable |= (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0;
	f->hung_up |= (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0;
	if (events & EPOLLERR && f->host_ended)
		flow_owe_reset(f, "reset by the server");
	if (events & EPOLLOUT && f->state == OPEN) {
		f->writable = true;
		tcp_to_socket(f);
	}
	flow_join_turn(f);
	net_flush(n);
	pthread_mutex_unlock(&n->device.lock);
}
