/*
 * A vmm that does not read its replies does not stop the gate: what does not fit into the socket waits here. The gate takes
 * no request while any waits, so that there are never more than flows that were being opened.
 */
#include "virtio/net/gate/answers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmm/util/io.h"
#include "vmm/util/passfd.h"

struct answer {
	struct answer *next;
	struct gate_reply reply;
	int fd; /* -1: none */
};

static int send_now(int to, const struct gate_reply *reply, int fd)
{
	int rc;
	do
		rc = passfd_send(to, reply, sizeof *reply, fd, MSG_DONTWAIT);
	while (rc == -EINTR);
	return rc;
}

/* Too many descriptors of this user are in sockets, perhaps not in this one: nothing tells when that ends. */
static int send_or_refuse(int to, const struct gate_reply *reply, int fd)
{
	int rc = send_now(to, reply, fd);
	if (rc != -ETOOMANYREFS)
		return rc;
	return send_now(to, &(struct gate_reply){.id = reply->id, .error = EMFILE}, -1);
}

static int keep(struct answers *a, const struct gate_reply *reply, int fd)
{
	struct answer *kept = malloc(sizeof *kept);
	if (!kept)
		return -ENOMEM;
	*kept = (struct answer){.reply = *reply, .fd = fd};
	*(a->first ? a->last : &a->first) = kept;
	a->last = &kept->next;
	return 0;
}

/*
 * Sends a reply, with `fd` (-1: none), which becomes ours; or keeps it for answers_flush(), after those that wait already.
 * Returns 0, or -errno where the vmm can no longer be answered.
 */
int answers_send(struct answers *a, const struct gate_reply *reply, int fd)
{
	int rc = a->first ? -EAGAIN : send_or_refuse(a->fd, reply, fd);
	if (rc == -EAGAIN) {
		rc = keep(a, reply, fd);
		if (rc == 0)
			return 0;
	}
	io_close(&fd);
	return rc;
}

static void drop_first(struct answers *a)
{
	struct answer *first = a->first;
	a->first = first->next;
	io_close(&first->fd);
	free(first);
}

/* Sends what waits, as far as it fits. Returns 0, or -errno where the vmm can no longer be answered. */
int answers_flush(struct answers *a)
{
	int rc = 0;
	while (a->first && (rc = send_or_refuse(a->fd, &a->first->reply, a->first->fd)) == 0)
		drop_first(a);
	return rc == -EAGAIN ? 0 : rc;
}

void answers_free(struct answers *a)
{
	while (a->first)
		drop_first(a);
}
