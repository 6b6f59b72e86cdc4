/* A sandbox's network, seen from its supervisor: the policy, the gate's process, records of what happens, published ports. */
#ifndef CAPLOCK_SANDBOX_NETWORK_H
#define CAPLOCK_SANDBOX_NETWORK_H

#include <stdbool.h>
#include <stddef.h>

#include "virtio/net/gate/gate.h"
#include "virtio/net/order.h"
#include "virtio/net/record.h"
#include "vmm/util/buf.h"
#include "vmm/util/loop.h"
#include "vmm/util/strv.h"

struct ask;
struct control;
struct caplock_spec;
struct err;
struct machine_config;
struct publish;

/* What the sandbox must know: that it cannot go on; that its command is to leave the terminal to us for a while. */
struct network_events {
	void (*failed)(void *context); /* network_finish() says why */
	void (*terminal)(void *context, bool ours);
	void (*ready)(void *context); /* network_is_ready() */
	void (*gate_failed)(void *context, const char *why); /* it never will be */
	void *context;
};

struct order_pair;

/* Made by network_prepare(), which accepts any content; network_end() frees it. */
struct network {
	const struct caplock_spec *spec;
	const struct network_events *events;
	struct gate_config gate; /* its policy is kept as the gate's own is */
	bool intercepts;         /* the gate is one that reads flows */
	struct strv secret_env;  /* the guest's variables for its secrets: placeholders */
	int gate_pidfd;          /* -1: none */
	bool gate_lost, device_gone;
	struct buf certificate;  /* that the guest is to trust (PEM), with a NUL; empty: not known yet, or none */
	bool failed;             /* the gate cannot read flows: events->gate_failed was called */
	struct loop *loop;       /* NULL: not started */
	struct loop_source control;      /* the device: records, and orders (virtio/net/order.h) */
	struct loop_source gate_control; /* the gate: orders and their answers */
	uint64_t changes, changes_done;  /* of the rules: asked for, and made everywhere */
	struct order_pair *queue;        /* changes that are not made everywhere: of the first `made`, the device must still hear */
	size_t queue_head, queue_count, queue_asked, queue_made; /* asked: the gate was */
	struct strv denied, learned;     /* lines for the user; rules */
	struct loop_source audit_sink;   /* the caller's file; fd -1: none */
	struct buf audit;                /* for it */
	bool audit_waits;                /* the loop waits for it, and hears no records meanwhile */
	int learn_fd;                    /* the caller's; -1: none */
	bool totals_seen;
	struct ask *ask;         /* NULL: nobody is asked */
	struct publish *publish; /* NULL: no network */
	struct control *socket;  /* NULL: none */
	int failure;             /* of a record; -errno */
};

int network_policy(const struct caplock_spec *spec, struct policy *p, struct err *e);
int network_add_packages(struct policy *p, int root_fd, uint64_t offset_bytes, struct err *e);
void network_init(struct network *n);
int network_prepare(struct network *n, const struct caplock_spec *spec, struct machine_config *machine,
		    const struct network_events *events, struct err *e);
int network_start(struct network *n, struct loop *loop, struct err *e);
bool network_is_ready(const struct network *n);
const char *network_certificate(const struct network *n);
int network_change(struct network *n, enum policy_op op, const char *rule, struct err *e);
void network_answer(struct network *n, const struct net_target *target, enum order_answer answer);
int network_publish(struct network *n, int fd, uint16_t guest_port);
int network_finish(struct network *n, struct err *e);
char **network_denied(struct network *n);
void network_end(struct network *n);

#endif
