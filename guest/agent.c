/*
 * The agent: accepts streams from the host and reaps what was started.
 *
 * As PID 1 it inherits every orphan of the sandbox. SIGCHLD is read from a descriptor, so that there is one place where
 * things happen: the loop. Whom a dead process belonged to is session.c's business.
 */
#include "guest/guest.h"

#include <errno.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

#include "guest/poll.h"
#include "guest/session.h"
#include "guest/shutdown.h"

static void child_ready(struct source *s)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;
	(void)!read(s->fd, &info, sizeof info);
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		session_reaped(pid, status);
	if (pid < 0 && errno == ECHILD)
		shutdown_no_processes();
}

/* A stream to our port. Only the host may: a program in the sandbox would get commands run as root. */
static void listen_ready(struct source *s)
{
	union {
		struct sockaddr any;
		struct sockaddr_vm vm;
	} peer = {0};
	socklen_t len = sizeof peer;
	int fd = accept4(s->fd, &peer.any, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0)
		return;
	if (peer.any.sa_family == AF_VSOCK && peer.vm.svm_cid != VMADDR_CID_HOST)
		close(fd);
	else
		session_create(fd, SESSION_LATER);
}

/*
 * Serves the first stream (connecting or connected, non-blocking) and those that listen_fd (-1: none) accepts. SIGCHLD
 * must be blocked and SIGPIPE ignored. Returns only where it cannot go on, with -errno.
 */
int agent_run(int stream_fd, int listen_fd)
{
	static struct source child = {.ready = child_ready}, listener = {.ready = listen_ready};
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	int rc = poll_create();
	if (rc)
		return rc;
	child.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	listener.fd = listen_fd;
	if (child.fd < 0)
		return -errno;
	rc = poll_watch(&child, EPOLLIN);
	rc = rc || listen_fd < 0 ? rc : poll_watch(&listener, EPOLLIN);
	rc = rc ? rc : session_create(stream_fd, SESSION_FIRST);
	while (rc == 0)
		rc = poll_once();
	return rc;
}
