/* Flows, or the rest of them, that are answered here: DNS over TCP, and denials in HTTP. What a flow says is judged here. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/flow.h"

enum {
	LOCAL_MAX_MS = 30000, /* of a flow that is answered here */
	LOCAL_SEND_MAX_BYTES = 64 << 10,
	PAGE_MAX_BYTES = 2048,
};

/* Queues data of our own for the guest. */
static void say(struct flow *f, const void *data, size_t bytes)
{
	struct segment *s = malloc(sizeof *s + bytes);
	if (!s) {
		flow_owe_reset(f, "out of memory");
		return;
	}
	memcpy(s->data, data, bytes);
	tcp_add_segment(f, s, bytes);
}

/* The flow is over but for what the guest has not got yet. */
static void finish_here(struct flow *f)
{
	flow_cut_server(f);
	f->host_ended = f->shut = true;
	flow_expire_after(f, LOCAL_MAX_MS);
	flow_join_turn(f);
}

/* Answers a request with what is wrong with it, and the option that would allow it. */
static void say_page(struct flow *f, unsigned status, const char *reason)
{
	char page[PAGE_MAX_BYTES], text[PAGE_MAX_BYTES - 512], address[ADDR_TEXT_BYTES], port[16] = "";
	const char *host = f->name ? f->name->name : addr_text(&f->remote, address);
	const char *title = status == 403 ? "Forbidden" : status == 405 ? "Method Not Allowed" : status == 421 ? "Misdirected Request"
			    : status == 431 ? "Request Header Fields Too Large" : "Bad Request";
	bool v6 = !f->name && !addr_is_v4(&f->remote);
	if (f->remote_port != PORT_HTTP)
		snprintf(port, sizeof port, ":%u", f->remote_port);
	int n = snprintf(text, sizeof text, "caplock denied this request to %s%s: %s.\n", host, port, reason);
	if (status == 403)
		snprintf(text + n, sizeof text - (size_t)n, "To allow this host, start the sandbox with --allow-host %s%s%s%s\n",
			 v6 && port[0] ? "[" : "", host, v6 && port[0] ? "]" : "", port);
	else
		snprintf(text + n, sizeof text - (size_t)n, "The sandbox may say in HTTP to this host what is for this host. To let it say "
			 "anything: --allow-host tcp:%s:%u\n", host, f->remote_port);
	n = snprintf(page, sizeof page, "HTTP/1.1 %u %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
		     status, title, strlen(text), text);
	say(f, page, (size_t)n);
}

/* DNS over TCP: each message has its length before it (RFC 1035, section 4.2.2). */
void local_answer_dns(struct flow *f)
{
	uint8_t answer[2 + DNS_ANSWER_MAX_BYTES];
	size_t done = 0, bytes = 0;
	while (f->kept.len - done >= 2 && f->snd_end - f->snd_una < LOCAL_SEND_MAX_BYTES) {
		const uint8_t *at = f->kept.data + done;
		bytes = get16(at);
		if (f->kept.len - done - 2 < bytes)
			break;
		size_t n = resolver_answer(f->net, at + 2, bytes, answer + 2);
		done += 2 + bytes;
		if (n == 0)
			continue;
		set16(answer, (unsigned)n);
		say(f, answer, 2 + n);
	}
	f->net->tcp->kept_bytes -= done;
	buf_consume(&f->kept, done);
	if (f->guest_ended && f->snd_end - f->snd_una < LOCAL_SEND_MAX_BYTES)
		finish_here(f);
	flow_join_turn(f);
}

/* Ends a flow for what it said: with a page where the server is not in the middle of saying something else. */
static void deny_flow(struct flow *f, const struct inspect_denial *d)
{
	struct policy_request r = flow_request(f);
	if (f->service == SERVICE_SERVER) /* of others it was said before */
		record_flow(f->net, &r, VERDICT_DENY, &f->dialled, d->reason);
	f->end_reason = d->reason;
	if (d->status && !f->first && !f->host_ended)
		say_page(f, d->status, d->reason);
	else
		flow_owe_reset(f, d->reason);
	finish_here(f);
}

/* Decides about what is kept and was not looked at yet. */
void local_look(struct flow *f)
{
	struct inspect_denial d;
	if (f->inspect.kind == INSPECT_OFF)
		return;
	f->passed += inspect_guest(&f->inspect, f->name ? f->name->name : "", f->kept.data + f->passed, f->kept.len - f->passed, &d);
	if (d.reason && f->net->config.policy.allow_public && f->service == SERVICE_SERVER) {
		/* --learn: it is only noted that a rule must let anything flow. */
		f->inspect = (struct inspect){.kind = INSPECT_OFF};
		f->passed = 0;
	} else if (d.reason)
		deny_flow(f, &d);
	else if (f->guest_ended && (f->service == SERVICE_PAGE || (f->inspect.kind != INSPECT_OFF && f->passed < f->kept.len)))
		flow_owe_reset(f, "it ended in the middle of a request");
	flow_join_turn(f);
}

/*
 * Answers a flow here whose SYN was not answered yet: DNS wherever it is asked for, or a page for HTTP that is denied for
 * `reason`, which is copied.
 */
void local_answer(struct flow *f, const char *reason)
{
	f->service = f->remote_port == DNS_PORT ? SERVICE_DNS : SERVICE_PAGE;
	f->inspect = (struct inspect){.kind = INSPECT_OFF};
	if (f->service == SERVICE_PAGE) {
		snprintf(f->denial, sizeof f->denial, "%s", reason);
		f->inspect = (struct inspect){.kind = INSPECT_HTTP, .refuse = f->denial};
	}
	f->verdict = POLICY_DENY;
	f->state = SYN_RECEIVED;
	f->owes_syn_ack = true;
	flow_expire_after(f, LOCAL_MAX_MS);
	flow_join_turn(f);
}
