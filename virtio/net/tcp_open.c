/*
 * How flows are opened, and by whose leave.
 *
 * Theory of operation
 * -------------------
 * A SYN is decided about by the policy: denied (RST, or in HTTP a page), allowed, or left to the user (--ask). An allowed
 * flow is DIALING: the gate decides again, and connects. The guest gets its SYN-ACK when there is a socket, and RST
 * otherwise: it always learns at once what became of it.
 *
 *      SYN -> policy -> [waits for the user] -> gate asked -> tcp_opened() -> SYN_RECEIVED
 *
 * When rules are taken back, every flow is decided about again (tcp_policy_changed()).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "virtio/net/flow.h"
#include "virtio/net/gate/proto.h"
#include "vmm/util/io.h"

/* The flow will not come about: says so to the guest and the record. */
static void fail(struct flow *f, enum record_verdict verdict, const char *reason)
{
	struct policy_request r = flow_request(f);
	record_flow(f->net, &r, verdict, NULL, reason);
	f->recorded = true;
	if (verdict == VERDICT_DENY && f->remote_port == PORT_HTTP)
		local_answer(f, reason);
	else
		tcp_refuse(f);
}

/* Asks the gate for the flow's socket: now, or when the gate has read what it was asked before. The flow may be gone then. */
static void ask_gate(struct flow *f)
{
	struct policy_request r = flow_request(f);
	int rc = gate_ask(f->net, (uint64_t)f->generation << 32 | f->slot, &r);
	f->asked = rc == 0;
	if (rc == -EAGAIN)
		f->net->tcp->ask_again = true;
	else if (rc)
		fail(f, VERDICT_FAILED, "the gate is gone");
}

/* The policy has decided: what it allows goes on to the gate, what it asks about to the user. */
static void go_on(struct flow *f, struct policy_decision d)
{
	struct policy_request r = flow_request(f);
	f->verdict = d.verdict;
	f->waits = d.verdict == POLICY_ASK;
	if (d.verdict == POLICY_DENY) {
		fail(f, VERDICT_DENY, d.reason);
	} else if (f->waits) {
		if (!record_ask(f->net, &r))
			fail(f, VERDICT_DENY, "the user cannot be asked");
	} else {
		if (d.verdict == POLICY_ALLOW && !policy_intercepts(&f->net->config.policy, &r))
			inspect_start(&f->inspect, f->remote_port);
		else if (d.verdict == POLICY_ALLOW)
			f->inspect.named = true; /* the gate sees to it */
		ask_gate(f);
	}
}

/* Whether another flow waits for the user's word about the same. */
static bool is_asked_about(const struct flow *f, const struct net_target *target)
{
	return f->waits && f->remote_port == target->port &&
	       (f->name ? strcmp(f->name->name, target->name) == 0 : !target->name[0] && addr_equal(&f->remote, &target->addr));
}

static struct net_target target_of(const struct policy_request *r)
{
	struct net_target t = {.proto = (uint8_t)r->proto, .port = r->port, .addr = r->addr};
	if (r->name)
		snprintf(t.name, sizeof t.name, "%s", r->name);
	return t;
}

static bool joins_others(struct net *n, const struct policy_request *r)
{
	struct net_target target = target_of(r);
	for (uint32_t i = 0; i < FLOWS_MAX; i++)
		if (n->tcp->slot[i] && is_asked_about(n->tcp->slot[i], &target))
			return true;
	return false;
}

/* The guest wants a flow. */
void tcp_open(struct net *n, const struct packet *p, const struct tcp_header *h)
{
	struct flow *f;
	if (h->to_port == DNS_PORT) {
		if ((f = tcp_accept(n, p, h)))
			local_answer(f, NULL);
		return;
	}
	const struct name_entry *name = names_find(&n->names, &p->to);
	struct policy_request r = {.proto = NET_TCP, .name = name ? name->name : NULL, .addr = p->to, .port = h->to_port};
	struct policy_decision d = policy_decide(&n->config.policy, &r);
	if (d.verdict == POLICY_DENY) {
		record_flow(n, &r, VERDICT_DENY, NULL, d.reason);
		if (h->to_port != PORT_HTTP)
			tcp_send_reset(n, p, h, 0);
		else if ((f = tcp_accept(n, p, h)))
			local_answer(f, d.reason);
		return;
	}
	bool joins = d.verdict == POLICY_ASK && joins_others(n, &r);
	f = tcp_accept(n, p, h);
	if (f && joins)
		f->waits = true;
	else if (f)
		go_on(f, d);
}

/* The user's word about flows that wait for `target`. With the device's lock held. */
void tcp_answered(struct net *n, const struct net_target *target, enum order_answer answer)
{
	for (uint32_t i = 0; i < FLOWS_MAX; i++) {
		struct flow *f = n->tcp->slot[i];
		if (!f || !is_asked_about(f, target))
			continue;
		struct policy_request r = flow_request(f);
		struct policy_decision d = policy_decide(&n->config.policy, &r); /* the rules may have changed meanwhile */
		if (answer == ANSWER_DENY)
			d = (struct policy_decision){.verdict = POLICY_DENY, .reason = "the user denied it"};
		else if (answer == ANSWER_ONCE && d.verdict == POLICY_ASK)
			d.verdict = policy_once(&r);
		go_on(f, d);
	}
}

/*
 * The gate's answer: with `fd`, a connected socket that becomes the flow's, where there is no error; otherwise with a
 * positive errno, and the reason where that is EPERM. With the device's lock held.
 */
void tcp_opened(struct net *n, const struct gate_reply *reply, int fd)
{
	uint32_t slot = (uint32_t)reply->id;
	struct flow *f = slot < FLOWS_MAX ? n->tcp->slot[slot] : NULL;
	if (!f || f->generation != reply->id >> 32 || f->state != DIALING || !f->asked) {
		io_close(&fd);
		return;
	}
	if (reply->error || fd < 0) {
		io_close(&fd);
		fail(f, reply->error == EPERM ? VERDICT_DENY : VERDICT_FAILED, record_error(reply));
		return;
	}
	struct policy_request r = flow_request(f);
	f->source = (struct loop_source){.fd = fd, .ready = tcp_socket_ready, .context = f};
	if (loop_add(n->loop, &f->source, EPOLLIN | EPOLLRDHUP | EPOLLET)) {
		io_close(&f->source.fd);
		fail(f, VERDICT_FAILED, "out of descriptors");
		return;
	}
	f->dialled = reply->addr;
	f->dialled_own = reply->own;
	record_flow(n, &r, VERDICT_ALLOW, &f->dialled, NULL);
	f->state = SYN_RECEIVED;
	f->owes_syn_ack = true;
	flow_join_turn(f);
}

/* The gate takes requests again. With the device's lock held. */
void tcp_ask_again(struct net *n)
{
	n->tcp->ask_again = false;
	for (uint32_t i = 0; i < FLOWS_MAX && !n->tcp->ask_again; i++) {
		struct flow *f = n->tcp->slot[i];
		if (f && f->state == DIALING && !f->waits && !f->asked)
			ask_gate(f);
	}
}

/* There is no gate any more: what waits for it is refused. With the device's lock held. */
void tcp_gate_lost(struct net *n)
{
	for (uint32_t i = 0; i < FLOWS_MAX; i++) {
		struct flow *f = n->tcp->slot[i];
		if (f && f->state == DIALING && !f->waits)
			fail(f, VERDICT_FAILED, "the gate is gone");
	}
}

/* Whether the rules still allow a flow that they once allowed, in the same way. */
static bool still_allowed(const struct flow *f)
{
	struct policy_request r = flow_request(f);
	const struct policy *p = &f->net->config.policy;
	struct policy_decision d = policy_decide(p, &r);
	bool narrower = d.verdict == POLICY_ALLOW && f->verdict == POLICY_ALLOW_RAW && !p->allow_public;
	if (d.verdict == POLICY_DENY || narrower)
		return false;
	return f->state == DIALING || policy_decide_address(p, &r, &f->dialled, f->dialled_own).verdict != POLICY_DENY;
}

/* Rules were taken back, or hosts denied: flows that are no longer allowed end. With the device's lock held. */
void tcp_policy_changed(struct net *n)
{
	static const char reason[] = "the rule was taken back";
	for (uint32_t i = 0; i < FLOWS_MAX; i++) {
		struct flow *f = n->tcp->slot[i];
		if (!f || f->service != SERVICE_SERVER || f->published || f->waits || f->state == TIME_WAIT || f->owes_rst ||
		    still_allowed(f))
			continue;
		if (f->state == DIALING) {
			fail(f, VERDICT_DENY, reason);
			continue;
		}
		struct policy_request r = flow_request(f);
		record_flow(n, &r, VERDICT_DENY, &f->dialled, reason);
		flow_cut_server(f);
		flow_owe_reset(f, reason);
	}
}

/*
 * Ends every flow: the sandbox is about to end. What a socket has taken arrives, as it does when any program ends; the server
 * sees a reset only where it does not get all that the guest has sent. With the device's lock held.
 */
void tcp_end(struct net *n)
{
	for (uint32_t i = 0; i < FLOWS_MAX; i++) {
		struct flow *f = n->tcp->slot[i];
		if (!f)
			continue;
		flow_close_socket(f, f->kept.len > 0);
		flow_destroy(f, "the sandbox ended");
	}
}
