/* Replies to the vmm, of which some may wait until it reads. */
#ifndef CAPLOCK_GATE_ANSWERS_H
#define CAPLOCK_GATE_ANSWERS_H

#include "virtio/net/gate/proto.h"

struct answer;

/* Zero-initialise it, but for fd. answers_free() to end. */
struct answers {
	int fd; /* the caller's */
	struct answer *first, **last; /* those that wait */
};

int answers_send(struct answers *a, const struct gate_reply *reply, int fd);
int answers_flush(struct answers *a);
void answers_free(struct answers *a);

#endif
