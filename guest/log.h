/* What PID 1 has to say goes to the kernel's log, which a panic prints. */
#ifndef CAPLOCK_GUEST_LOG_H
#define CAPLOCK_GUEST_LOG_H

__attribute__((format(printf, 1, 2))) void log_error(const char *fmt, ...);
__attribute__((noreturn)) void log_fatal(const char *why);

#endif
