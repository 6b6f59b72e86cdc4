/*
 * With --audit or --learn each record counts: where the supervisor is behind, the device waits for it, and the guest with
 * the device. Otherwise a record that does not fit is lost: it is a courtesy to the user.
 */
#include "virtio/net/record.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "virtio/net/flow.h"
#include "virtio/net/gate/proto.h"

static bool send_record(struct net *n, struct net_record *record)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	record->time_ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
	bool counts = n->config.record_all || record->kind == RECORD_DONE;
	int flags = MSG_NOSIGNAL | (counts ? 0 : MSG_DONTWAIT);
	return send(n->control.fd, record, sizeof *record, flags) == sizeof *record;
}

static struct net_record about(const struct policy_request *r, enum record_kind kind, const char *reason)
{
	struct net_record record = {.kind = kind, .proto = (uint8_t)r->proto, .port = r->port, .has_addr = !r->name, .addr = r->addr};
	if (r->name)
		snprintf(record.name, sizeof record.name, "%s", r->name);
	snprintf(record.reason, sizeof record.reason, "%s", reason ? reason : "");
	return record;
}

/* A name was asked for. */
void record_dns(struct net *n, const char *name, bool allowed)
{
	struct policy_request r = {.proto = NET_UDP, .name = name};
	struct net_record record = about(&r, RECORD_DNS, allowed ? NULL : "no rule allows this host");
	record.verdict = allowed ? VERDICT_ALLOW : VERDICT_DENY;
	if (!allowed || n->config.record_all)
		send_record(n, &record);
}

/* What became of a flow that the guest wanted; `addr`: where it was dialled, or NULL. Denials are counted here. */
void record_flow(struct net *n, const struct policy_request *r, enum record_verdict verdict, const struct ip_addr *addr,
		 const char *reason)
{
	struct net_record record = about(r, RECORD_FLOW, reason);
	record.verdict = (uint8_t)verdict;
	if (addr) {
		record.addr = *addr;
		record.has_addr = 1;
	}
	n->count.denied += verdict == VERDICT_DENY;
	if (verdict == VERDICT_DENY || n->config.record_all)
		send_record(n, &record);
}

/* A flow that was open has ended; `reason` is NULL where it ended as it should. */
void record_close(struct net *n, const struct flow_summary *s, const char *reason)
{
	if (!n->config.record_all)
		return;
	struct net_record record = about(&s->request, RECORD_CLOSE, reason);
	record.verdict = VERDICT_ALLOW;
	record.has_addr = 1;
	record.addr = s->addr;
	record.published = s->published;
	record.named = s->named;
	record.from_guest_bytes = s->from_guest_bytes;
	record.to_guest_bytes = s->to_guest_bytes;
	record.duration_ms = flow_now_ms() - s->start_ms;
	send_record(n, &record);
}

/* Why the gate has opened no flow, for a user. */
const char *record_error(const struct gate_reply *reply)
{
	if (reply->reason[0])
		return reply->reason;
	switch (reply->error) {
	case ECONNREFUSED:
		return "connection refused";
	case ETIMEDOUT:
		return "timed out";
	case EHOSTUNREACH:
	case ENETUNREACH:
		return "unreachable";
	case ENOENT:
		return "the name does not resolve";
	case EAGAIN:
		return "too many connections are being opened";
	case EMFILE:
	case ENFILE:
		return "out of descriptors";
	default:
		return "the host was not reached";
	}
}

/* A change of the rules is made, and what it ended is ended. */
void record_done(struct net *n, uint64_t id)
{
	struct net_record record = {.kind = RECORD_DONE, .id = id};
	send_record(n, &record);
}

/* Asks the user about a flow. Returns whether there will be an answer. */
bool record_ask(struct net *n, const struct policy_request *r)
{
	struct net_record record = about(r, RECORD_ASK, NULL);
	return send_record(n, &record);
}

/* The last record: the counters. */
void record_totals(struct net *n)
{
	struct net_record record = {.kind = RECORD_TOTALS, .count = n->count};
	send_record(n, &record);
}
