/*
 * PID 1 of the guest.
 *
 * Theory of operation
 * -------------------
 * Purpose: from the kernel's hand-over to a place where docker's programs feel at home, as fast as possible; then the
 * agent.
 *
 * The stream to the host is opened first, so that its answer is here when the root is mounted. A failure to mount does
 * not end the machine: the agent answers the host's command with the reason. A failure to reach the host does: PID 1
 * ends, the kernel panics, and its log says why.
 *
 * Trust: the image is untrusted, and so is every process once the first command runs. None of them may stop PID 1: it
 * opens no file of the image without O_NONBLOCK and O_NOFOLLOW, and leaves the rest to children (exec.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/vm_sockets.h>

#include "boot/layout.h"
#include "guest/guest.h"
#include "guest/log.h"
#include "guest/proto.h"
#include "guest/session.h"
#include "guest/shutdown.h"
#include "vmm/machine/status.h"

enum {
	FILES_MAX = 1048576, /* docker's limit on descriptors */
	BACKLOG = 64,
	CONNECT_TIMEOUT_S = 30,
};

/* Stamps T4. The right to do so is given back: it would be inherited. */
static void stamp_timeline(void)
{
	if (ioperm(PORT_TIMELINE, 1, 1))
		return;
	outb(TIMELINE_INIT, PORT_TIMELINE);
	ioperm(PORT_TIMELINE, 1, 0);
}

/* Fills descriptors 0 to 2, which the kernel could not open without a console. */
static void open_null(void)
{
	int fd;
	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd < 2);
	if (fd > 2)
		close(fd);
}

static void set_limits(void)
{
	const struct rlimit files = {FILES_MAX, FILES_MAX}, processes = {RLIM_INFINITY, RLIM_INFINITY};
	setrlimit(RLIMIT_NOFILE, &files);
	setrlimit(RLIMIT_NPROC, &processes);
}

static void set_signals(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static int vsock(void)
{
	return socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static int start_connecting(void)
{
	struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = PROTO_PORT};
	struct timeval timeout = {.tv_sec = CONNECT_TIMEOUT_S};
	int fd = vsock();
	if (fd < 0)
		log_fatal("the kernel has no vsock");
	setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &timeout, sizeof timeout);
	if (connect(fd, (struct sockaddr *)&host, sizeof host) && errno != EINPROGRESS)
		log_fatal("the agent cannot connect to the supervisor");
	return fd;
}

static int start_listening(void)
{
	struct sockaddr_vm any = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = PROTO_PORT};
	int fd = vsock();
	if (fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof any) || listen(fd, BACKLOG))
		log_fatal("the agent cannot listen for the supervisor");
	return fd;
}

/* Takes the machine over from the kernel. Never returns: the end of PID 1 is a panic. */
int main(void)
{
	stamp_timeline();
	const char *failure = mount_dev();
	open_null();
	set_limits();
	set_signals();
	int stream_fd = start_connecting();
	int listen_fd = start_listening();
	int scratch_fd = -1;
	if (!failure)
		failure = mount_root(&scratch_fd);
	if (!failure)
		net_start();
	session_configure(failure);
	shutdown_configure(scratch_fd);
	log_error("the agent's loop failed: %s", strerror(-agent_run(stream_fd, listen_fd)));
	log_fatal("the agent has ended");
}
