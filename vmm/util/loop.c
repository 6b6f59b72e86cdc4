#include "vmm/util/loop.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/util/io.h"

static void stop_ready(void *context, uint32_t events)
{
	(void)events;
	struct loop *l = context;
	l->stopped = true;
}

/* Makes a loop. Returns 0 or -errno; loop_destroy() accepts the result either way. */
int loop_create(struct loop *l)
{
	*l = (struct loop){.epoll_fd = epoll_create1(EPOLL_CLOEXEC), .stop_fd = -1};
	if (l->epoll_fd < 0)
		return -errno;
	l->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->stop_fd < 0)
		return -errno;
	l->stop_source = (struct loop_source){.fd = l->stop_fd, .ready = stop_ready, .context = l};
	return loop_add(l, &l->stop_source, EPOLLIN);
}

/* Closes the loop's own descriptors; the sources' belong to their owners. */
void loop_destroy(struct loop *l)
{
	io_close(&l->stop_fd);
	io_close(&l->epoll_fd);
}

/* Watches s->fd for `events`. Returns 0 or -errno. */
int loop_add(struct loop *l, struct loop_source *s, uint32_t events)
{
	s->events = events;
	struct epoll_event ev = {.events = events, .data.ptr = s};
	return epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, s->fd, &ev) ? -errno : 0;
}

/* Watches s->fd for `events` instead; free where nothing changes. Returns 0 or -errno. */
int loop_change(struct loop *l, struct loop_source *s, uint32_t events)
{
	if (s->events == events)
		return 0;
	s->events = events;
	struct epoll_event ev = {.events = events, .data.ptr = s};
	return epoll_ctl(l->epoll_fd, EPOLL_CTL_MOD, s->fd, &ev) ? -errno : 0;
}

/* Stops watching s. After this s->ready is not called again, also when its event was already fetched. */
void loop_remove(struct loop *l, struct loop_source *s)
{
	epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL);
	for (int i = 0; i < l->batch_count; i++)
		if (l->batch[i].data.ptr == s)
			l->batch[i].data.ptr = NULL;
}

/* Waits up to `timeout_ms` (-1: for ever) and handles what is ready. Returns the number of events or -errno. */
int loop_step(struct loop *l, int timeout_ms)
{
	int n = epoll_wait(l->epoll_fd, l->batch, LOOP_BATCH, timeout_ms);
	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	l->batch_count = n;
	for (int i = 0; i < n; i++) {
		struct loop_source *s = l->batch[i].data.ptr;
		if (s)
			s->ready(s->context, l->batch[i].events);
	}
	l->batch_count = 0;
	return n;
}

/* Runs until loop_stop(). Returns 0 or -errno. */
int loop_run(struct loop *l)
{
	while (!l->stopped) {
		int rc = loop_step(l, -1);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* Ends loop_run(), from any thread. */
void loop_stop(struct loop *l)
{
	uint64_t one = 1;
	(void)!write(l->stop_fd, &one, sizeof one);
}
