#include "guest/poll.h"

#include <errno.h>
#include <unistd.h>

static int epoll_fd = -1;

/* Makes the process's one loop. Returns 0 or -errno. */
int poll_create(void)
{
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	return epoll_fd < 0 ? -errno : 0;
}

/*
 * Watches s->fd for `events` from now on. With 0 it is taken out of the epoll: that would go on to tell hang-ups, for
 * ever. Returns 0 or -errno.
 */
int poll_watch(struct source *s, uint32_t events)
{
	if (s->events == events)
		return 0;
	int op = s->events == 0 ? EPOLL_CTL_ADD : events == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
	struct epoll_event e = {.events = events, .data.ptr = s};
	if (epoll_ctl(epoll_fd, op, s->fd, &e))
		return -errno;
	s->events = events;
	return 0;
}

/* Stops watching and closes s->fd, where it is open. */
void poll_close(struct source *s)
{
	if (s->fd < 0)
		return;
	poll_watch(s, 0);
	close(s->fd);
	s->fd = -1;
}

/* Waits for one event and handles it. Returns 0 or -errno. */
int poll_once(void)
{
	struct epoll_event e;
	int n = epoll_wait(epoll_fd, &e, 1, -1);
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	struct source *s = e.data.ptr;
	if (n == 1)
		s->ready(s);
	return 0;
}
