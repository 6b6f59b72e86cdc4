#include "vmm/util/passfd.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

union control {
	struct cmsghdr head;
	char space[CMSG_SPACE(sizeof(int))];
};

/* Sends one message, and `fd` (-1: none) with it; `flags` are sendmsg()'s. The descriptor stays the caller's. Returns 0 or -errno. */
int passfd_send(int socket_fd, const void *data, size_t len_bytes, int fd, int flags)
{
	union control control = {0};
	struct iovec iov = {(void *)data, len_bytes};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	if (fd >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof control;
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		*c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(c), &fd, sizeof fd);
	}
	return sendmsg(socket_fd, &m, flags | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/*
 * Receives one message, if there is one, and the descriptor with it: *fd, which is the caller's then; -1: none. Returns its
 * length, 0 at the end, or -errno (-EAGAIN: there is none).
 */
ssize_t passfd_recv(int socket_fd, void *data, size_t max_bytes, int *fd)
{
	union control control;
	struct iovec iov = {data, max_bytes};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	*fd = -1;
	ssize_t bytes = recvmsg(socket_fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = bytes > 0 ? CMSG_FIRSTHDR(&m) : NULL;
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof *fd))
		memcpy(fd, CMSG_DATA(c), sizeof *fd);
	return bytes < 0 ? -errno : bytes;
}
