#include "vmm/machine/status.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* Makes a zeroed status that children share. NULL where memory is short; status_destroy() ends it. */
struct machine_status *status_create(void)
{
	void *p = mmap(NULL, sizeof(struct machine_status), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

void status_destroy(struct machine_status *s)
{
	if (s)
		munmap(s, sizeof *s);
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Notes that moment `m` is now, unless it already happened. */
void timeline_stamp(struct machine_status *s, enum timeline_moment m)
{
	uint_least64_t never = 0;
	atomic_compare_exchange_strong(&s->timeline_ns[m], &never, clock_ns(CLOCK_MONOTONIC));
}

/*
 * Notes that this is the main() of a new process: that is T1, and T0 is as much earlier as the process has used the CPU
 * (the kernel's exec and the dynamic linker, if there is one; the process has not waited for anything yet).
 */
void timeline_stamp_main(uint64_t *start_ns, uint64_t *main_ns)
{
	*main_ns = clock_ns(CLOCK_MONOTONIC);
	*start_ns = *main_ns - clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

/* Adds console output of the guest. One writer at a time. */
void console_write(struct machine_status *s, char c)
{
	uint64_t head = atomic_load_explicit(&s->console_head, memory_order_relaxed);
	s->console[head % CONSOLE_BYTES] = c;
	atomic_store_explicit(&s->console_head, head + 1, memory_order_release);
}

/*
 * Copies console output from position *at on into `to`, at most `max_bytes`, and moves *at behind it. What was
 * overwritten meanwhile is skipped. Returns the bytes copied.
 */
size_t console_read(const struct machine_status *s, uint64_t *at, char *to, size_t max_bytes)
{
	uint64_t head = atomic_load_explicit(&s->console_head, memory_order_acquire);
	if (head - *at > CONSOLE_BYTES)
		*at = head - CONSOLE_BYTES;
	size_t n = head - *at < max_bytes ? (size_t)(head - *at) : max_bytes;
	for (size_t i = 0; i < n; i++)
		to[i] = s->console[(*at + i) % CONSOLE_BYTES];
	*at += n;
	return n;
}
