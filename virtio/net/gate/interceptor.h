/* What reads flows for the gate: a part of the program that does (virtio/net/gate/intercept.c), and that only some gates have. */
#ifndef CAPLOCK_GATE_INTERCEPTOR_H
#define CAPLOCK_GATE_INTERCEPTOR_H

#include "virtio/net/gate/dial.h"
#include "virtio/net/gate/gate.h"

struct intercept;

/* What the gate does for it. */
struct gate_services {
	struct loop *loop;
	struct gate_config *config;
	struct dialer *dialer;
	void (*tell)(void *context, const void *message, size_t len_bytes); /* the supervisor: enum gate_message */
	void *context;
};

struct gate_interceptor {
	int (*create)(const struct gate_services *s, struct intercept **out); /* before the gate is confined */
	void (*destroy)(struct intercept *i);
	bool (*has_connection)(struct intercept *i, const struct gate_request *r, struct dial_result *where); /* that is unused */
	int (*open)(struct intercept *i, const struct gate_request *r, const struct dial_result *connection, int *guest_fd);
	void (*connected)(struct intercept *i, uint64_t callback, int fd); /* fd: -1, or the interceptor's from now on */
	void (*policy_changed)(struct intercept *i);
	int (*tick)(struct intercept *i); /* does what is due; returns milliseconds until something is next; -1: nothing */
};

#endif
