/* One stream of guest/proto.h in the guest: a command and the relay of its pipes. */
#ifndef CAPLOCK_GUEST_SESSION_H
#define CAPLOCK_GUEST_SESSION_H

#include <stdbool.h>
#include <sys/types.h>

enum session_kind {
	SESSION_FIRST, /* connecting to the host; gets the SETUP */
	SESSION_LATER, /* accepted */
};

void session_configure(const char *failure);
int session_create(int fd, enum session_kind kind);
void session_reaped(pid_t pid, int status);

#endif
