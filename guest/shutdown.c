/*
 * The end of the machine: SIGTERM to every process, SIGKILL to those that are left after a grace, everything written
 * back, then (after the host was told) a reset, which is how a guest ends its machine: there is no ACPI to power it
 * off.
 */
#include "guest/shutdown.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest/log.h"
#include "guest/poll.h"

enum {
	GRACE_MS = 2000,    /* from SIGTERM to SIGKILL */
	KILL_MS = 2000,     /* for killed processes to be gone */
	FAREWELL_MS = 2000, /* for the host to take the EXIT */
};

static enum { UP, TERMINATING, KILLING, STOPPED } phase;
static struct source timer = {.fd = -1};
static void (*tell_stopped)(void);
static int scratch_fd = -1;

/* Tells which mounted directory holds what was written (-1: none). Owned from now on. */
void shutdown_configure(int fd)
{
	scratch_fd = fd;
}

/* Whether the end has begun: nothing new is started. */
bool shutdown_begun(void)
{
	return phase != UP;
}

static void arm(unsigned ms)
{
	struct itimerspec when = {.it_value = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l + (ms == 0)}};
	timerfd_settime(timer.fd, 0, &when, NULL);
}

/* Whether PID 1 is alone: every process is its child sooner or later. */
static bool alone(void)
{
	siginfo_t info;
	return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) && errno == ECHILD;
}

static void write_back(void)
{
	sync();
	/* The overlay first, then the disk under it, which is reachable by its descriptor only. */
	mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	if (scratch_fd >= 0 && fchdir(scratch_fd) == 0)
		mount(NULL, ".", NULL, MS_REMOUNT | MS_RDONLY, NULL);
}

static void timer_ready(struct source *s)
{
	uint64_t count;
	(void)!read(s->fd, &count, sizeof count);
	if (phase == STOPPED)
		shutdown_reset();
	if (phase == TERMINATING && !alone()) {
		phase = KILLING;
		kill(-1, SIGKILL);
		arm(KILL_MS);
		return;
	}
	phase = STOPPED;
	write_back();
	arm(FAREWELL_MS);
	tell_stopped();
}

/* Starts the end; `stopped` is called when every process is gone and every disk written. The caller then resets. */
void shutdown_begin(void (*stopped)(void))
{
	tell_stopped = stopped;
	timer.ready = timer_ready;
	timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (timer.fd < 0 || poll_watch(&timer, EPOLLIN))
		log_fatal("no timer for the shutdown");
	phase = TERMINATING;
	kill(-1, SIGTERM);
	kill(-1, SIGCONT);
	arm(alone() ? 0 : GRACE_MS);
}

/* Called when the last child was reaped. */
void shutdown_no_processes(void)
{
	if (phase == TERMINATING || phase == KILLING)
		arm(0);
}

/* Ends the machine now. */
void shutdown_reset(void)
{
	reboot(RB_AUTOBOOT);
	log_fatal("the machine does not reset");
}
