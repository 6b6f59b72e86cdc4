#include "virtio/net/gate/resolve.h"

#include <ares.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "vmm/util/buf.h"
#include "vmm/util/loop.h"

enum {
	SOCKETS_MAX = 16,
	TIMEOUT_MS = 2000, /* of the first try */
	TRIES = 3,
};

struct resolver {
	struct loop *loop;
	ares_channel channel;
	struct resolver_socket {
		struct loop_source source; /* fd -1: free */
		struct resolver *resolver;
	} socket[SOCKETS_MAX];
};

/* It is freed when c-ares is done with it. */
struct question {
	resolve_fn done; /* NULL: nobody wants the answer any more */
	void *context;
};

static void socket_ready(void *context, uint32_t events)
{
	struct resolver_socket *s = context;
	bool in = events & (EPOLLIN | EPOLLHUP | EPOLLERR), out = events & EPOLLOUT;
	ares_process_fd(s->resolver->channel, in ? s->source.fd : ARES_SOCKET_BAD, out ? s->source.fd : ARES_SOCKET_BAD);
}

/* c-ares wants to be told of a socket, or is about to close it. */
static void watch(void *context, ares_socket_t fd, int in, int out)
{
	struct resolver *r = context;
	struct resolver_socket *s = NULL;
	uint32_t events = (in ? (uint32_t)EPOLLIN : 0) | (out ? (uint32_t)EPOLLOUT : 0);
	for (unsigned i = 0; i < SOCKETS_MAX; i++)
		if (r->socket[i].source.fd == fd || (!s && r->socket[i].source.fd < 0))
			s = &r->socket[i];
	for (unsigned i = 0; i < SOCKETS_MAX; i++)
		if (r->socket[i].source.fd == fd)
			s = &r->socket[i];
	if (!s)
		return; /* it times out */
	if (events && s->source.fd == fd) {
		loop_change(r->loop, &s->source, events);
	} else if (events) {
		s->source = (struct loop_source){.fd = fd, .ready = socket_ready, .context = s};
		if (loop_add(r->loop, &s->source, events))
			s->source.fd = -1;
	} else if (s->source.fd == fd) {
		loop_remove(r->loop, &s->source);
		s->source.fd = -1;
	}
}

/* Makes a resolver that asks `servers`, ADDRESS[:PORT] (NULL: the host's). Returns 0, -EINVAL where one is none, or -errno. */
int resolver_create(struct loop *loop, const char *const *servers, struct resolver **out)
{
	struct resolver *r = calloc(1, sizeof *r);
	struct buf list = {0};
	if (!r)
		return -ENOMEM;
	r->loop = loop;
	for (unsigned i = 0; i < SOCKETS_MAX; i++) {
		r->socket[i].resolver = r;
		r->socket[i].source.fd = -1;
	}
	struct ares_options o = {
		.flags = ARES_FLAG_NOSEARCH, .timeout = TIMEOUT_MS, .tries = TRIES, .sock_state_cb = watch, .sock_state_cb_data = r};
	int rc = ares_library_init(ARES_LIB_INIT_ALL);
	rc = rc ? rc : ares_init_options(&r->channel, &o, ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB);
	for (const char *const *s = servers; rc == 0 && s && *s; s++)
		rc = buf_addf(&list, "%s%s", s == servers ? "" : ",", *s) ? ARES_ENOMEM : 0;
	if (rc == 0 && list.len)
		rc = ares_set_servers_ports_csv(r->channel, (const char *)list.data);
	buf_free(&list);
	if (rc) {
		free(r);
		return rc == ARES_ENOMEM ? -ENOMEM : -EINVAL;
	}
	*out = r;
	return 0;
}

static unsigned collect(const struct ares_addrinfo *info, struct ip_addr *to)
{
	unsigned count = 0;
	for (const struct ares_addrinfo_node *n = info->nodes; n && count < RESOLVE_MAX; n = n->ai_next) {
		if (n->ai_family == AF_INET) {
			struct sockaddr_in a;
			memcpy(&a, n->ai_addr, sizeof a);
			to[count++] = addr_v4(ntohl(a.sin_addr.s_addr));
		} else if (n->ai_family == AF_INET6) {
			struct sockaddr_in6 a;
			memcpy(&a, n->ai_addr, sizeof a);
			memcpy(to[count++].byte, &a.sin6_addr, 16);
		}
	}
	return count;
}

static int error_of(int status)
{
	switch (status) {
	case ARES_SUCCESS:
	case ARES_ENOTFOUND:
	case ARES_ENODATA:
		return ENOENT;
	case ARES_ENOMEM:
		return ENOMEM;
	default:
		return ETIMEDOUT;
	}
}

static void answered(void *context, int status, int timeouts, struct ares_addrinfo *info)
{
	(void)timeouts;
	struct question q = *(struct question *)context;
	struct ip_addr addr[RESOLVE_MAX];
	free(context);
	unsigned count = status == ARES_SUCCESS && info ? collect(info, addr) : 0;
	if (info)
		ares_freeaddrinfo(info);
	if (q.done)
		q.done(q.context, addr, count, error_of(status));
}

/*
 * Asks for the addresses of a name; `done` gets the answer, perhaps before this returns. *asked is the question until then,
 * for resolver_forget().
 */
void resolver_ask(struct resolver *r, const char *name, resolve_fn done, void *context, struct question **asked)
{
	static const struct ares_addrinfo_hints both = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct question *q = malloc(sizeof *q);
	if (!q) {
		done(context, NULL, 0, ENOMEM);
		return;
	}
	*q = (struct question){done, context};
	*asked = q;
	ares_getaddrinfo(r->channel, name, NULL, &both, answered, q);
}

/* Has an answer that is still to come thrown away: its `done` is not called. NULL is accepted. */
void resolver_forget(struct question *q)
{
	if (q)
		q->done = NULL;
}

/* How long until resolver_tick() is to be called; -1: nothing is asked. */
int resolver_timeout_ms(struct resolver *r)
{
	struct timeval buffer;
	const struct timeval *t = r ? ares_timeout(r->channel, NULL, &buffer) : NULL;
	return t ? (int)(t->tv_sec * 1000 + t->tv_usec / 1000 + 1) : -1;
}

/* Gives up on what has timed out, or asks again. NULL is accepted. */
void resolver_tick(struct resolver *r)
{
	if (r)
		ares_process_fd(r->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
}
