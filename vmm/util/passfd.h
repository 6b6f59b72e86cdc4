/* Messages with a descriptor (SCM_RIGHTS, unix(7)). */
#ifndef CAPLOCK_UTIL_PASSFD_H
#define CAPLOCK_UTIL_PASSFD_H

#include <stddef.h>
#include <sys/types.h>

int passfd_send(int socket_fd, const void *data, size_t len_bytes, int fd, int flags);
ssize_t passfd_recv(int socket_fd, void *data, size_t max_bytes, int *fd);

#endif
