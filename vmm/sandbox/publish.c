/*
 * Listeners on this host. What connects becomes, as a descriptor, the device's, which opens a flow to the guest's port
 * (virtio/net/tcp_publish.c); this process has nothing to do with its bytes.
 */
#include "vmm/sandbox/publish.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "virtio/net/addr.h"
#include "vmm/sandbox/network.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"

enum {
	PUBLISHED_MAX = 256,
	BACKLOG = 128,
	BATCH = 64, /* connections before others have their turn */
	TEXT_BYTES = 128,
};

struct listener {
	struct publish *publish;
	struct loop_source source;
	struct sockaddr_storage address; /* with the port that it is */
	uint16_t guest_port;
};

struct publish {
	struct network *network;
	struct loop *loop; /* NULL: not started */
	struct listener *listener[PUBLISHED_MAX];
	unsigned count;
};

struct mapping {
	char address[TEXT_BYTES];
	uint16_t host_port, guest_port; /* host_port 0: any that is free */
};

/* ---- [ADDRESS:][HOST:]GUEST ---- */

static bool parse_port(const char *text, unsigned min, uint16_t *out)
{
	size_t n = strspn(text, "0123456789");
	unsigned long value = strtoul(text, NULL, 10);
	*out = (uint16_t)value;
	return n && n <= 5 && !text[n] && value >= min && value <= UINT16_MAX;
}

static int parse(const char *text, const char *address, struct mapping *m, struct err *e)
{
	char copy[TEXT_BYTES];
	if (strlen(text) >= sizeof copy || strlen(address) >= sizeof m->address)
		return err_set(e, -EINVAL, "'%.64s...' is too long for a port", text);
	strcpy(copy, text);
	strcpy(m->address, address);
	char *guest = strrchr(copy, ':'), *host = NULL;
	if (guest) {
		*guest++ = 0;
		host = strrchr(copy, ':');
		if (host && copy[0] == '[' && copy[strlen(copy) - 1] == ']')
			host = NULL, strcpy(m->address, copy);
		else if (host)
			*host++ = 0, strcpy(m->address, copy);
		else
			host = copy;
	}
	if (!parse_port(guest ? guest : copy, 1, &m->guest_port))
		return err_set(e, -EINVAL, "'%s': give [[ADDRESS:]HOST:]GUEST, ports from 1 to 65535", text);
	m->host_port = m->guest_port;
	if (host && !parse_port(host, 0, &m->host_port))
		return err_set(e, -EINVAL, "'%s': '%s' is no port of this host", text, host);
	return 0;
}

static int parse_address(const struct mapping *m, const char *text, struct sockaddr_storage *out, socklen_t *out_bytes,
			 struct err *e)
{
	struct ip_addr a;
	char plain[TEXT_BYTES];
	size_t n = strlen(m->address);
	bool bracket = n > 2 && m->address[0] == '[' && m->address[n - 1] == ']';
	snprintf(plain, sizeof plain, "%.*s", (int)(n - 2 * bracket), m->address + bracket);
	if (!addr_parse(plain, &a))
		return err_set(e, -EINVAL, "'%s': '%s' is not an IP address", text, plain);
	*out_bytes = addr_socket(&a, m->host_port, out);
	return 0;
}

/* ---- Listening ---- */

static void ready(void *context, uint32_t events)
{
	(void)events;
	struct listener *l = context;
	for (unsigned i = 0; i < BATCH; i++) {
		int fd = accept4(l->source.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0)
			return;
		network_publish(l->publish->network, fd, l->guest_port); /* where that fails, closing it says so */
		close(fd);
	}
}

static int listen_on(struct listener *l, const char *text, socklen_t bytes, struct err *e)
{
	static const int on = 1;
	l->source = (struct loop_source){
		.fd = socket(l->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), .ready = ready, .context = l};
	if (l->source.fd < 0)
		return err_sys(e, -errno, "'%s': cannot make a socket", text);
	setsockopt(l->source.fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (l->address.ss_family == AF_INET6)
		setsockopt(l->source.fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
	if (bind(l->source.fd, (struct sockaddr *)&l->address, bytes) || listen(l->source.fd, BACKLOG) ||
	    getsockname(l->source.fd, (struct sockaddr *)&l->address, &bytes))
		return err_sys(e, -errno, "'%s': cannot listen", text);
	return 0;
}

static int start_listener(struct listener *l, struct err *e)
{
	int rc = loop_add(l->publish->loop, &l->source, EPOLLIN);
	return rc ? err_sys(e, rc, "cannot watch a published port") : 0;
}

/*
 * Publishes [[ADDRESS:]HOST:]GUEST; `address` (NULL: 127.0.0.1) where it has none. Returns 0, -EINVAL with what is wrong, or
 * -errno where it cannot listen there.
 */
int publish_add(struct publish *p, const char *text, const char *address, struct err *e)
{
	struct mapping m;
	struct sockaddr_storage to;
	socklen_t bytes;
	int rc = parse(text, address ? address : "127.0.0.1", &m, e);
	rc = rc ? rc : parse_address(&m, text, &to, &bytes, e);
	if (rc == 0 && p->count == PUBLISHED_MAX)
		rc = err_set(e, -E2BIG, "at most %d ports can be published", PUBLISHED_MAX);
	struct listener *l = rc ? NULL : calloc(1, sizeof *l);
	if (!l)
		return rc ? rc : err_sys(e, -ENOMEM, "published port");
	*l = (struct listener){.publish = p, .address = to, .guest_port = m.guest_port};
	rc = listen_on(l, text, bytes, e);
	rc = rc || !p->loop ? rc : start_listener(l, e);
	if (rc) {
		io_close(&l->source.fd);
		free(l);
		return rc;
	}
	p->listener[p->count++] = l;
	return 0;
}

/* Publishes each of `list` (NULL: none, until publish_add()), listening at once but answering after publish_start(). */
int publish_create(struct network *n, const char *const *list, const char *address, struct publish **out, struct err *e)
{
	struct publish *p = calloc(1, sizeof *p);
	if (!p)
		return err_sys(e, -ENOMEM, "published ports");
	p->network = n;
	*out = p;
	for (; list && *list; list++) {
		struct err why;
		int rc = publish_add(p, *list, address, &why);
		if (rc)
			return err_set(e, rc, "-p %s", why.text);
	}
	return 0;
}

/* Has `loop` answer connections. Returns 0 or -errno. */
int publish_start(struct publish *p, struct loop *loop, struct err *e)
{
	int rc = 0;
	p->loop = loop;
	for (unsigned i = 0; i < p->count && rc == 0; i++)
		rc = start_listener(p->listener[i], e);
	return rc;
}

/* Appends a line for each port: ADDRESS:PORT -> sandbox:PORT. Returns 0 or -ENOMEM. */
int publish_describe(const struct publish *p, struct buf *out)
{
	int rc = 0;
	for (unsigned i = 0; p && i < p->count && rc == 0; i++) {
		const struct listener *l = p->listener[i];
		char host[INET6_ADDRSTRLEN] = "";
		bool v6 = l->address.ss_family == AF_INET6;
		const struct sockaddr_in *a4 = (const void *)&l->address;
		const struct sockaddr_in6 *a6 = (const void *)&l->address;
		inet_ntop(l->address.ss_family, v6 ? (const void *)&a6->sin6_addr : &a4->sin_addr, host, sizeof host);
		rc = buf_addf(out, "%s%s%s:%u -> sandbox:%u\n", v6 ? "[" : "", host, v6 ? "]" : "",
			      ntohs(v6 ? a6->sin6_port : a4->sin_port), l->guest_port);
	}
	return rc;
}

/* Accepts NULL. */
void publish_destroy(struct publish *p)
{
	for (unsigned i = 0; p && i < p->count; i++) {
		if (p->loop)
			loop_remove(p->loop, &p->listener[i]->source);
		io_close(&p->listener[i]->source.fd);
		free(p->listener[i]);
	}
	free(p);
}
