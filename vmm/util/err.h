/* Errors with context: functions return 0 or -errno and describe the failure in a caller-owned struct err. */
#ifndef CAPLOCK_UTIL_ERR_H
#define CAPLOCK_UTIL_ERR_H

#include <stddef.h>

/* One line of text for the user: what failed and what to do about it. No trailing newline. */
struct err {
	char text[768];
};

int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int err_sys(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
