/* Calls of hooks to the user's program: one line of JSON each way, on a connection of its own that the supervisor makes. */
#ifndef CAPLOCK_GATE_CALLBACK_H
#define CAPLOCK_GATE_CALLBACK_H

#include <stdint.h>

#include "vmm/util/buf.h"

struct callback;
struct gate_services;

/* Zero-initialise to start. */
struct callbacks {
	struct callback *list;
	uint64_t last_id;
};

/* The answer's line, without its end; NULL: there is none, and there will be none. */
typedef void (*callback_fn)(void *context, const char *text, size_t len_bytes);

struct callback *callback_start(struct callbacks *all, const struct gate_services *s, struct buf *line, uint32_t limit_ms, callback_fn done,
				void *context);
void callback_cancel(struct callback *c);
void callback_connected(struct callbacks *all, uint64_t id, int fd);
int callbacks_tick(struct callbacks *all);

#endif
