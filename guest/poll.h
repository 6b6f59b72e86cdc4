/* The agent's event loop: one epoll, one event at a time, so that a handler may destroy whatever it likes. */
#ifndef CAPLOCK_GUEST_POLL_H
#define CAPLOCK_GUEST_POLL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

/* A descriptor and who handles it. The owner embeds it; all zeroes but fd is "not watched". */
struct source {
	int fd;
	uint32_t events; /* what is watched; 0: nothing, not even hang-ups */
	void (*ready)(struct source *s);
};

/* The object that `member` of it is embedded in. */
#define CONTAINER(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

int poll_create(void);
int poll_watch(struct source *s, uint32_t events);
void poll_close(struct source *s);
int poll_once(void);

#endif
