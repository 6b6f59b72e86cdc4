/* The table of flows: their slots, turns, clocks and ends. */
#include "virtio/net/flow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "vmm/util/io.h"

/* The clock of deadlines. */
uint64_t flow_now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- The table ---- */

/* A hash of a flow's ends, which the guest cannot predict. */
uint32_t flow_hash(uint64_t secret, const struct ip_addr *guest, uint16_t guest_port, const struct ip_addr *remote,
		   uint16_t remote_port)
{
	uint64_t part[4], h = secret ^ ((uint64_t)guest_port << 16 | remote_port);
	memcpy(part, guest, 16);
	memcpy(part + 2, remote, 16);
	for (int i = 0; i < 4; i++) {
		h = (h ^ part[i]) * 0x9e3779b97f4a7c15u;
		h ^= h >> 29;
	}
	return (uint32_t)(h >> 20);
}

/* For flow_hash(). */
uint64_t flow_secret(void)
{
	uint64_t secret;
	return getrandom(&secret, sizeof secret, GRND_NONBLOCK) == sizeof secret ? secret : flow_now_ms();
}

/* Where the flow of a packet is in its bucket, or (*result is NULL) would be. */
struct flow **flow_find(struct tcp *t, const struct packet *p, uint16_t guest_port, uint16_t remote_port)
{
	struct flow **at = &t->bucket[flow_hash(t->secret, &p->from, guest_port, &p->to, remote_port) % HASH_BUCKETS];
	for (; *at; at = &(*at)->hash_next)
		if ((*at)->guest_port == guest_port && (*at)->remote_port == remote_port && addr_equal(&(*at)->guest, &p->from) &&
		    addr_equal(&(*at)->remote, &p->to))
			break;
	return at;
}

/* A flow that is only remembered makes room for one that is wanted. */
static void end_time_wait(struct tcp *t)
{
	struct flow *oldest = NULL;
	for (uint32_t i = 0; i < FLOWS_MAX; i++)
		if (t->slot[i] && t->slot[i]->state == TIME_WAIT && (!oldest || t->slot[i]->deadline_ms < oldest->deadline_ms))
			oldest = t->slot[i];
	if (oldest)
		flow_destroy(oldest, NULL);
}

/* Makes the flow of a SYN, where flow_find() finds none. Returns NULL where there are too many or no memory. */
struct flow *flow_create(struct net *n, const struct packet *p, uint16_t guest_port, uint16_t remote_port)
{
	struct tcp *t = n->tcp;
	if (t->free_slots == 0)
		end_time_wait(t);
	struct flow *f = t->free_slots ? calloc(1, sizeof *f) : NULL;
	if (!f)
		return NULL;
	f->net = n;
	f->slot = t->free_slot[--t->free_slots];
	f->generation = ++t->generation;
	t->slot[f->slot] = f;
	f->guest = p->from;
	f->remote = p->to;
	f->guest_port = guest_port;
	f->remote_port = remote_port;
	f->name = names_find(&n->names, &p->to);
	if (f->name)
		f->name->flows++;
	f->source.fd = -1;
	f->last = &f->first;
	f->start_ms = flow_now_ms();
	*flow_find(t, p, guest_port, remote_port) = f;
	n->count.flows++;
	return f;
}

/* ---- Turns ---- */

/* The flow may have something to send: tcp_flush() sees to it. */
void flow_join_turn(struct flow *f)
{
	struct tcp *t = f->net->tcp;
	if (f->in_turn)
		return;
	f->in_turn = true;
	f->turn_next = NULL;
	*t->turn_last = f;
	t->turn_last = &f->turn_next;
}

/* Takes a flow out of the queue of those that may have something to send. */
void flow_leave_turn(struct flow *f)
{
	struct tcp *t = f->net->tcp;
	if (!f->in_turn)
		return;
	struct flow **at = &t->turn_first;
	while (*at != f)
		at = &(*at)->turn_next;
	*at = f->turn_next;
	if (!*at)
		t->turn_last = at;
	f->in_turn = false;
}

/* ---- Clocks ---- */

static void set_timer(struct tcp *t, uint64_t at_ms)
{
	struct itimerspec when = {.it_value = {(time_t)(at_ms / 1000), (long)(at_ms % 1000) * 1000000}};
	t->timer_ms = at_ms;
	timerfd_settime(t->timer.fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Sets a clock; the timer only where that is earlier than what it is set to. */
static void set_clock(struct tcp *t, uint64_t *clock_ms, unsigned after_ms)
{
	*clock_ms = flow_now_ms() + after_ms;
	if (t->timer_ms == 0 || *clock_ms < t->timer_ms)
		set_timer(t, *clock_ms);
}

/* What the guest owes is waited for so long. */
void flow_set_deadline(struct flow *f, unsigned after_ms)
{
	set_clock(f->net->tcp, &f->deadline_ms, after_ms);
}

/* What the guest has sent is acknowledged then, if no data went there before. */
void flow_ack_within(struct flow *f, unsigned after_ms)
{
	set_clock(f->net->tcp, &f->late_ack_ms, after_ms);
}

/* The flow ends then by RST, whatever happens. */
void flow_expire_after(struct flow *f, unsigned after_ms)
{
	set_clock(f->net->tcp, &f->expires_ms, after_ms);
}

/* The guest hears of what was pushed then, if nothing else is to be told before. */
void tcp_signal_within(struct net *n, unsigned after_ms)
{
	if (!n->tcp->signal_ms)
		set_clock(n->tcp, &n->tcp->signal_ms, after_ms);
}

/* The guest has heard of all that was pushed. */
void tcp_signalled(struct net *n)
{
	n->tcp->signal_ms = 0;
}

/* The first of a flow's clocks; 0: none. One less than 0 is later than all. */
uint64_t flow_due_ms(const struct flow *f)
{
	uint64_t due = f->deadline_ms - 1;
	due = f->late_ack_ms - 1 < due ? f->late_ack_ms - 1 : due;
	due = f->expires_ms - 1 < due ? f->expires_ms - 1 : due;
	return due + 1;
}

/* ---- Ends ---- */

/* Closes the flow's socket, with `reset` so that the other side notices a failure. */
void flow_close_socket(struct flow *f, bool reset)
{
	if (f->source.fd < 0)
		return;
	if (reset) {
		static const struct linger at_once = {.l_onoff = 1};
		setsockopt(f->source.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
	}
	loop_remove(f->net->loop, &f->source);
	io_close(&f->source.fd);
}

/* The guest gets its RST when its ring takes it; `reason` is for the record, unless there is one already. */
void flow_owe_reset(struct flow *f, const char *reason)
{
	if (!f->end_reason)
		f->end_reason = reason;
	f->owes_rst = true;
	flow_join_turn(f);
}

/* The server has no part in the flow any more, at once: what the guest still says is dropped. */
void flow_cut_server(struct flow *f)
{
	flow_close_socket(f, true);
	flow_drop_kept(f);
	f->inspect.kind = INSPECT_OFF;
	f->passed = 0;
	f->service = SERVICE_DONE;
}

/* Forgets what the guest said and the socket did not take. */
void flow_drop_kept(struct flow *f)
{
	f->net->tcp->kept_bytes -= f->kept.len;
	buf_free(&f->kept);
}

/* Forgets the first of the segments for the guest. */
void flow_drop_first(struct flow *f)
{
	struct segment *s = f->first;
	f->first = s->next;
	if (!f->first)
		f->last = &f->first;
	if (f->cursor == s)
		f->cursor = s->next;
	f->net->tcp->unacked_bytes -= s->bytes;
	free(s);
}

/*
 * The record of a flow's end, once: it may be over for both sides before it is destroyed. Of one that was never opened, that
 * it was not.
 */
void flow_record_end(struct flow *f, const char *reason)
{
	bool was_open = f->state != DIALING && f->state != CALLING && (f->published || f->verdict != POLICY_DENY);
	struct flow_summary s = {
		.request = flow_request(f),
		.addr = f->published ? f->guest : f->dialled,
		.published = f->published,
		.named = f->inspect.named,
		.from_guest_bytes = f->from_guest_bytes,
		.to_guest_bytes = f->to_guest_bytes,
		.start_ms = f->start_ms,
	};
	if (f->published)
		s.request.port = f->guest_port;
	if (f->state == DIALING && !f->recorded)
		record_flow(f->net, &s.request, VERDICT_FAILED, NULL, reason);
	else if (was_open && !f->recorded)
		record_close(f->net, &s, f->end_reason ? f->end_reason : reason);
	f->recorded = true;
}

/* Ends a flow here; `reason` is for the record (NULL: it ended as it should). */
void flow_destroy(struct flow *f, const char *reason)
{
	struct tcp *t = f->net->tcp;
	struct flow **at = &t->bucket[flow_hash(t->secret, &f->guest, f->guest_port, &f->remote, f->remote_port) % HASH_BUCKETS];
	while (*at != f)
		at = &(*at)->hash_next;
	*at = f->hash_next;
	flow_leave_turn(f);
	flow_record_end(f, reason);
	flow_close_socket(f, reason != NULL);
	flow_drop_kept(f);
	while (f->first)
		flow_drop_first(f);
	if (f->name)
		f->name->flows--;
	t->slot[f->slot] = NULL;
	t->free_slot[t->free_slots++] = f->slot;
	free(f);
}

/* What the policy was asked for this flow. */
struct policy_request flow_request(const struct flow *f)
{
	return (struct policy_request){
		.proto = NET_TCP, .name = f->name ? f->name->name : NULL, .addr = f->remote, .port = f->remote_port};
}

/* ---- The engine ---- */

static void clock_struck(struct flow *f, uint64_t now_ms)
{
	if (f->expires_ms && f->expires_ms <= now_ms) {
		f->expires_ms = 0;
		flow_owe_reset(f, "it took too long");
		return;
	}
	if (f->late_ack_ms && f->late_ack_ms <= now_ms)
		tcp_ack_is_late(f);
	if (f->deadline_ms && f->deadline_ms <= now_ms)
		tcp_deadline_passed(f);
}

static void timer_ready(void *context, uint32_t events)
{
	(void)events;
	struct net *n = context;
	struct tcp *t = n->tcp;
	uint64_t expirations, now = flow_now_ms(), next = 0;
	(void)!read(t->timer.fd, &expirations, sizeof expirations);
	pthread_mutex_lock(&n->device.lock);
	t->timer_ms = 0;
	for (uint32_t i = 0; i < FLOWS_MAX; i++) {
		struct flow *f = t->slot[i];
		if (f && flow_due_ms(f) && flow_due_ms(f) <= now)
			clock_struck(f, now);
	}
	net_flush(n);
	for (uint32_t i = 0; i < FLOWS_MAX; i++) {
		uint64_t due = t->slot[i] ? flow_due_ms(t->slot[i]) : 0;
		if (due && (next == 0 || due < next))
			next = due;
	}
	if (next)
		set_timer(t, next);
	pthread_mutex_unlock(&n->device.lock);
}

/* Makes n->tcp. Returns 0 or -errno. */
int tcp_create(struct net *n)
{
	struct tcp *t = calloc(1, sizeof *t);
	if (!t)
		return -ENOMEM;
	n->tcp = t;
	t->turn_last = &t->turn_first;
	t->timer = (struct loop_source){
		.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), .ready = timer_ready, .context = n};
	if (t->timer.fd < 0)
		return -errno;
	for (uint32_t i = 0; i < FLOWS_MAX; i++)
		t->free_slot[t->free_slots++] = FLOWS_MAX - 1 - i;
	t->secret = flow_secret();
	return loop_add(n->loop, &t->timer, EPOLLIN);
}

/* Frees n->tcp, all flows with it. */
void tcp_destroy(struct net *n)
{
	struct tcp *t = n->tcp;
	if (!t)
		return;
	tcp_end(n);
	loop_remove(n->loop, &t->timer);
	io_close(&t->timer.fd);
	free(t);
	n->tcp = NULL;
}
