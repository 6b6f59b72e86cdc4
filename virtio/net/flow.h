/* TCP flows: what the files of the TCP engine share. tcp.c has the theory of operation. */
#ifndef CAPLOCK_NET_FLOW_H
#define CAPLOCK_NET_FLOW_H

#include "virtio/net/inspect.h"
#include "virtio/net/net_priv.h"
#include "vmm/util/buf.h"

enum {
	FLOWS_MAX = 4096,
	HASH_BUCKETS = 4096,
	TCP_HEAD_BYTES = 20,

	KEPT_MAX_BYTES = 1 << 20, /* from the guest, of one flow: the window */
	BUDGET_BYTES = 64 << 20,  /* of all flows, each way */
	KEPT_MIN_BYTES = 16 << 10, /* that each may have beyond it */
	SEND_MAX_BYTES = 1 << 20, /* to the guest, of one flow: unacknowledged */
	PORT_HTTP = 80,

	FIN = 1,
	SYN = 2,
	RST = 4,
	PSH = 8,
	ACK = 16,
};

enum flow_state {
	DIALING,
	CALLING, /* we have sent SYN */
	SYN_RECEIVED,
	OPEN,
	TIME_WAIT,
};

/* Who answers a flow. */
enum flow_service {
	SERVICE_SERVER, /* the socket */
	SERVICE_DNS,
	SERVICE_PAGE, /* a denial, in HTTP */
	SERVICE_DONE, /* nobody any more: what the guest still says is dropped */
};

/* Data from the socket, until the guest has acknowledged all of it. */
struct segment {
	struct segment *next;
	uint32_t seq;
	uint32_t bytes;
	uint8_t data[];
};

struct flow {
	struct net *net;
	struct flow *hash_next;
	struct flow *turn_next;
	bool in_turn;
	uint32_t slot, generation;
	enum flow_state state;
	struct ip_addr guest, remote;
	uint16_t guest_port, remote_port;
	struct name_entry *name; /* NULL: the guest has only the address */
	enum policy_verdict verdict;
	bool waits;              /* for the user */
	bool published;          /* it began on the host */
	unsigned attempt;        /* of calling the guest */
	struct ip_addr dialled;  /* once it is connected */
	bool dialled_own;        /* and that is an address of this host */
	char denial[RECORD_REASON_BYTES]; /* what a page says */
	const char *end_reason;  /* static; NULL: see flow_destroy() */
	bool recorded;           /* its end is */
	enum flow_service service;
	uint64_t expires_ms; /* of a flow that is answered here; 0: it does not */
	struct loop_source source; /* fd -1: none (yet) */
	bool readable, writable, hung_up; /* hung_up: the server has ended, or failed: it is read until that is seen */

	/* To the guest. */
	struct segment *first, **last, *cursor; /* cursor: has snd_nxt; NULL: all is sent */
	uint32_t snd_una, snd_nxt, snd_max, snd_end; /* end: of what was read */
	uint32_t snd_wnd, snd_wl1; /* wl1: of the segment that told the window */
	uint32_t recover;          /* what was sent before all was sent again: duplicates until there say nothing new */
	uint8_t snd_shift;
	bool scales; /* the guest knows window scales */
	uint16_t mss;
	unsigned duplicate_acks, retries, unanswered; /* unanswered: of the retries, since the guest last said something */
	bool host_ended, fin_sent, fin_acked;
	bool owes_syn, owes_syn_ack, owes_ack, owes_probe, owes_rst;
	uint64_t deadline_ms;  /* until which an acknowledgment is waited for; 0: none */
	uint64_t late_ack_ms;  /* until which ours may wait for data to go with it; 0: it does not */
	bool asked_for_answer; /* the guest has sent data since we have */
	uint8_t slow_answers;  /* of the server: acknowledgments do not wait for them */

	/* From the guest. */
	uint32_t rcv_nxt, rcv_edge; /* edge: of the window that we told */
	struct buf kept;
	struct inspect inspect;
	size_t passed; /* of what is kept: it may go to the socket, while the flow is looked at */
	bool guest_ended, guest_ended_first, shut;
	bool deaf;  /* the socket takes no more; what it still has is read */
	bool asked; /* the gate */

	uint64_t from_guest_bytes, to_guest_bytes, start_ms;
};

struct tcp {
	struct flow *bucket[HASH_BUCKETS];
	struct flow *slot[FLOWS_MAX];
	uint32_t free_slot[FLOWS_MAX];
	uint32_t free_slots, generation;
	uint32_t publish_port;
	struct flow *turn_first, **turn_last;
	struct loop_source timer;
	uint64_t timer_ms; /* when it is set to; 0: not */
	uint64_t signal_ms; /* until when the guest is to hear of what was pushed; 0: it has */
	size_t kept_bytes, unacked_bytes;
	bool ask_again; /* flows wait for the gate to take their requests */
	uint64_t secret;
};

/* Of a segment from the guest: a checked copy. */
struct tcp_header {
	uint16_t from_port, to_port;
	uint32_t seq, ack;
	uint16_t window;
	uint8_t flags;
	size_t head_bytes;
};

static inline bool after(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) > 0;
}

/* flow.c */
uint64_t flow_now_ms(void);
uint64_t flow_secret(void);
uint32_t flow_hash(uint64_t secret, const struct ip_addr *guest, uint16_t guest_port, const struct ip_addr *remote,
		   uint16_t remote_port);
struct flow **flow_find(struct tcp *t, const struct packet *p, uint16_t guest_port, uint16_t remote_port);
struct flow *flow_create(struct net *n, const struct packet *p, uint16_t guest_port, uint16_t remote_port);
void flow_owe_reset(struct flow *f, const char *reason);
void flow_cut_server(struct flow *f);
void flow_record_end(struct flow *f, const char *reason);
void flow_destroy(struct flow *f, const char *reason);
struct policy_request flow_request(const struct flow *f);
void flow_join_turn(struct flow *f);
void flow_leave_turn(struct flow *f);
void flow_set_deadline(struct flow *f, unsigned after_ms);
void flow_ack_within(struct flow *f, unsigned after_ms);
uint64_t flow_due_ms(const struct flow *f);
void flow_expire_after(struct flow *f, unsigned after_ms);
void flow_drop_kept(struct flow *f);
void flow_drop_first(struct flow *f);
void flow_close_socket(struct flow *f, bool reset);

/* tcp.c */
void tcp_start_sequence(struct flow *f);
void tcp_take_syn(struct flow *f, const struct packet *p, const struct tcp_header *h);
struct flow *tcp_accept(struct net *n, const struct packet *p, const struct tcp_header *h);

/* tcp_out.c */
void tcp_send_reset(struct net *n, const struct packet *p, const struct tcp_header *h, size_t data_bytes);
void tcp_add_segment(struct flow *f, struct segment *s, size_t bytes);
void tcp_refuse(struct flow *f);
void tcp_go_back(struct flow *f);
void tcp_await_ack(struct flow *f);
void tcp_owe_ack(struct flow *f, size_t data_bytes);
void tcp_ack_is_late(struct flow *f);
void tcp_deadline_passed(struct flow *f);

/* tcp_open.c */
void tcp_open(struct net *n, const struct packet *p, const struct tcp_header *h);

/* tcp_publish.c */
bool tcp_call_elsewhere(struct flow *f);
void tcp_called(struct flow *f, const struct packet *p, const struct tcp_header *h);

/* tcp_socket.c */
void tcp_socket_ready(void *context, uint32_t events);
void tcp_to_socket(struct flow *f);
size_t tcp_kept_room(const struct flow *f);
size_t tcp_take_data(struct flow *f, const struct packet *p, size_t offset, size_t bytes);

/* tcp_local.c */
void local_answer(struct flow *f, const char *reason);
void local_answer_dns(struct flow *f);
void local_look(struct flow *f);

#endif
