/* An event loop over epoll: one per thread, everything in it non-blocking. */
#ifndef CAPLOCK_UTIL_LOOP_H
#define CAPLOCK_UTIL_LOOP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

enum { LOOP_BATCH = 32 };

/* One watched descriptor. The owner embeds it and keeps it alive until loop_remove(). */
struct loop_source {
	int fd;
	uint32_t events;                              /* what is watched: EPOLLIN... */
	void (*ready)(void *context, uint32_t events); /* what happened */
	void *context;
};

struct loop {
	int epoll_fd;
	int stop_fd;
	struct loop_source stop_source;
	bool stopped;
	struct epoll_event batch[LOOP_BATCH];
	int batch_count;
};

int loop_create(struct loop *l);
void loop_destroy(struct loop *l);
int loop_add(struct loop *l, struct loop_source *s, uint32_t events);
int loop_change(struct loop *l, struct loop_source *s, uint32_t events);
void loop_remove(struct loop *l, struct loop_source *s);
int loop_step(struct loop *l, int timeout_ms);
int loop_run(struct loop *l);
void loop_stop(struct loop *l);

#endif
