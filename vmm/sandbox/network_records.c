/*
 * What the device and the gate say has happened: lines for the user, for the audit file, and for the policy that is learned.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "virtio/net/gate/proto.h"
#include "vmm/sandbox/ask.h"
#include "vmm/sandbox/audit.h"
#include "vmm/sandbox/control.h"
#include "vmm/sandbox/learn.h"
#include "vmm/sandbox/network_priv.h"

enum {
	DENIED_MAX = 100,           /* lines that are remembered for the user */
	AUDIT_MAX_BYTES = 64 << 10, /* that the audit file is behind */
};

/* Makes a text of a record one that can be shown: it was the guest's. */
static void make_printable(char *text, size_t max_bytes)
{
	text[max_bytes - 1] = 0;
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || (unsigned char)*text >= 0x7f)
			*text = '?';
}

/* Keeps a line for the user, once. */
static void remember(struct network *n, const char *line)
{
	for (size_t i = 0; i < n->denied.count; i++)
		if (strcmp(n->denied.item[i], line) == 0)
			return;
	if (n->denied.count < DENIED_MAX)
		(void)strv_add(&n->denied, line);
}

static void remember_flow(struct network *n, const struct net_record *r)
{
	char line[NAME_BYTES + 128], port[16] = "", address[ADDR_TEXT_BYTES];
	if (r->port)
		snprintf(port, sizeof port, ":%u", r->port);
	snprintf(line, sizeof line, "%s%s%s: %s", r->name[0] ? r->name : addr_text(&r->addr, address), port,
		 r->proto == NET_UDP && r->port ? "/udp" : "", r->reason);
	remember(n, line);
}

/* What is not recorded may not happen: the sandbox ends. */
static void record_failed(struct network *n, int error)
{
	n->failure = n->failure ? n->failure : error;
	n->audit_sink.fd = -1;
	buf_free(&n->audit);
	n->events->failed(n->events->context);
}

/* Writes what there is for the audit file, as far as it takes it now. */
void network_write_audit(struct network *n)
{
	ssize_t done = 0;
	while (n->audit.len && (done = write(n->audit_sink.fd, n->audit.data, n->audit.len)) >= 0)
		buf_consume(&n->audit, (size_t)done);
	if (done < 0 && errno != EAGAIN && errno != EINTR)
		record_failed(n, -errno);
}

static void take_record(struct network *n, struct net_record *r)
{
	make_printable(r->name, sizeof r->name);
	make_printable(r->reason, sizeof r->reason);
	n->totals_seen |= r->kind == RECORD_TOTALS;
	if (r->kind == RECORD_DONE) {
		n->changes_done = r->id;
		return;
	}
	if (r->kind == RECORD_ASK && n->ask)
		ask_about(n->ask, r);
	if ((r->kind == RECORD_DNS || r->kind == RECORD_FLOW) && r->verdict == VERDICT_DENY)
		remember_flow(n, r);
	int rc = n->audit_sink.fd >= 0 ? audit_line(&n->audit, r) : 0;
	if (rc == 0 && n->learn_fd >= 0 && r->kind == RECORD_CLOSE && !r->published)
		rc = learn_flow(&n->learned, r);
	if (rc)
		record_failed(n, rc);
}

/* A request that the gate has read, and how it ended. */
void network_take_request(struct network *n, struct gate_record *r)
{
	char line[sizeof r->method + sizeof r->name + sizeof r->path + sizeof r->reason + 32];
	make_printable(r->name, sizeof r->name);
	make_printable(r->method, sizeof r->method);
	make_printable(r->path, sizeof r->path);
	make_printable(r->secrets, sizeof r->secrets);
	make_printable(r->reason, sizeof r->reason);
	struct buf url = {0};
	if (r->denied && audit_url(&url, r) == 0) {
		snprintf(line, sizeof line, "%s%s%.*s: %s", r->method, r->method[0] ? " " : "", (int)url.len, (const char *)url.data,
			 r->reason);
		remember(n, line);
	}
	buf_free(&url);
	int rc = n->audit_sink.fd >= 0 ? audit_request(&n->audit, r) : 0;
	if (rc)
		record_failed(n, rc);
}

/*
 * Takes what records there are, as long as the audit file takes theirs: what waits in the socket makes the device wait.
 * Returns false where there will be no more.
 */
bool network_take_records(struct network *n)
{
	struct net_record r;
	ssize_t bytes = sizeof r;
	while (n->audit.len < AUDIT_MAX_BYTES && (bytes = recv(n->control.fd, &r, sizeof r, MSG_DONTWAIT)) == sizeof r)
		take_record(n, &r);
	network_write_audit(n);
	return bytes == sizeof r || (bytes < 0 && (errno == EAGAIN || errno == EINTR));
}

/* Whether the audit file takes more lines now. */
bool network_audit_has_room(const struct network *n)
{
	return n->audit.len < AUDIT_MAX_BYTES;
}

/* Has the loop wait for a source, or leave it alone. */
static int watch(struct network *n, struct loop_source *source, uint32_t events)
{
	if (events)
		return loop_add(n->loop, source, events);
	loop_remove(n->loop, source);
	return 0;
}

/* Has the loop wait for the audit file where it is slower than those whose lines it has, and for them otherwise. */
void network_watch_slower(struct network *n)
{
	bool behind = n->audit.len > 0;
	if (behind == n->audit_waits)
		return;
	int rc = watch(n, &n->audit_sink, behind ? EPOLLOUT : 0);
	rc = rc || n->device_gone ? rc : watch(n, &n->control, behind ? 0 : EPOLLIN);
	rc = rc || n->gate_pidfd < 0 || n->gate_lost ? rc : watch(n, &n->gate_control, behind ? 0 : EPOLLIN);
	n->audit_waits = behind;
	if (rc)
		record_failed(n, rc);
}

/* The audit file takes more. */
void network_audit_ready(void *context, uint32_t events)
{
	(void)events;
	struct network *n = context;
	network_write_audit(n);
	network_watch_slower(n);
}

/* The device has said something. */
void network_control_ready(void *context, uint32_t events)
{
	(void)events;
	struct network *n = context;
	if (network_take_records(n)) {
		network_watch_slower(n);
	} else {
		loop_remove(n->loop, &n->control); /* the machine is gone */
		n->device_gone = true;
		n->changes_done = n->changes;
	}
	network_pump(n);
	if (n->socket)
		control_changed(n->socket);
}
