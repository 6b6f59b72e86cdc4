/*
 * The gate opens no Unix socket: it asks the supervisor, which may have another user and another view of the files, for a
 * connected one. What goes wrong, or takes too long, is no answer, and what waits for it is denied.
 */
#include "virtio/net/gate/callback.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "virtio/net/gate/clock.h"
#include "virtio/net/gate/hooks.h"
#include "virtio/net/gate/interceptor.h"
#include "virtio/net/gate/proto.h"
#include "vmm/util/io.h"
#include "vmm/util/loop.h"

enum { READ_BYTES = 16 << 10 };

struct callback {
	struct callbacks *all;
	struct callback *next;
	const struct gate_services *services;
	uint64_t id, end_ms;
	struct loop_source source; /* fd -1: not connected yet */
	struct buf out, in;
	callback_fn done;
	void *context;
};

/* Ends a call without a word. Accepts NULL. */
void callback_cancel(struct callback *c)
{
	if (!c)
		return;
	struct callback **at = &c->all->list;
	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	if (c->source.fd >= 0)
		loop_remove(c->services->loop, &c->source);
	io_close(&c->source.fd);
	buf_free(&c->out);
	buf_free(&c->in);
	free(c);
}

/* The call is over, and gone when its owner hears the answer (NULL: none). */
static void end(struct callback *c, bool answered)
{
	struct buf in = c->in;
	callback_fn done = c->done;
	void *context = c->context;
	c->in = (struct buf){0};
	callback_cancel(c);
	done(context, answered ? (const char *)in.data : NULL, answered ? in.len : 0);
	buf_free(&in);
}

static bool send_line(struct callback *c)
{
	while (c->out.len) {
		ssize_t n = send(c->source.fd, c->out.data, c->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		buf_consume(&c->out, (size_t)n);
	}
	return true;
}

static void ready(void *context, uint32_t events)
{
	(void)events;
	struct callback *c = context;
	if (!send_line(c)) {
		end(c, false);
		return;
	}
	for (;;) {
		if (c->in.len > HOOK_ANSWER_MAX_BYTES || buf_reserve(&c->in, READ_BYTES))
			break;
		ssize_t n = recv(c->source.fd, c->in.data + c->in.len, READ_BYTES, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
			loop_change(c->services->loop, &c->source, EPOLLIN | (c->out.len ? EPOLLOUT : 0u));
			return;
		}
		if (n <= 0)
			break;
		uint8_t *line_end = memchr(c->in.data + c->in.len, '\n', (size_t)n);
		c->in.len = line_end ? (size_t)(line_end - c->in.data) : c->in.len + (size_t)n;
		if (line_end) {
			end(c, true);
			return;
		}
	}
	end(c, false);
}

/*
 * Has the user's program asked: `line`, which is taken over, ends with a line end. `done` hears the answer, never from inside this
 * call. NULL: out of memory.
 */
struct callback *callback_start(struct callbacks *all, const struct gate_services *s, struct buf *line, uint32_t limit_ms, callback_fn done,
				void *context)
{
	struct callback *c = calloc(1, sizeof *c);
	if (!c)
		return NULL;
	*c = (struct callback){.all = all, .next = all->list, .services = s, .id = ++all->last_id, .end_ms = clock_ms() + limit_ms,
			       .source = {.fd = -1, .ready = ready, .context = c}, .out = *line, .done = done, .context = context};
	*line = (struct buf){0};
	all->list = c;
	const struct gate_callback message = {.message = GATE_CALLBACK, .id = c->id};
	s->tell(s->context, &message, sizeof message);
	return c;
}

/* The supervisor has connected call `id`: `fd` (-1: it could not), which is ours. */
void callback_connected(struct callbacks *all, uint64_t id, int fd)
{
	struct callback *c = all->list;
	while (c && (c->id != id || c->source.fd >= 0))
		c = c->next;
	if (!c) {
		io_close(&fd);
		return;
	}
	c->source.fd = fd;
	if (fd >= 0 && loop_add(c->services->loop, &c->source, EPOLLIN | EPOLLOUT)) {
		io_close(&c->source.fd);
		fd = -1;
	}
	if (fd < 0)
		end(c, false);
}

/* Ends calls that took too long. Returns how long until the next, in milliseconds; -1: none. */
int callbacks_tick(struct callbacks *all)
{
	uint64_t now = clock_ms(), next = UINT64_MAX;
	for (struct callback *c = all->list; c;) {
		if (c->end_ms > now) {
			next = c->end_ms < next ? c->end_ms : next;
			c = c->next;
			continue;
		}
		end(c, false);
		c = all->list;
		next = UINT64_MAX;
	}
	return next == UINT64_MAX ? -1 : (int)(next - now);
}
