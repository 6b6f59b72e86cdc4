#include "guest/log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static void write_log(const char *level, const char *text)
{
	char line[512];
	static int fd = -1; /* opened once: later /dev belongs to the sandbox's root */
	if (fd < 0)
		fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	int n = snprintf(line, sizeof line, "%scaplock: %s\n", level, text);
	if (fd >= 0 && n > 0)
		(void)!write(fd, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
}

/* Notes something that is wrong but need not stop the sandbox. */
void log_error(const char *fmt, ...)
{
	char text[400];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	write_log("<3>", text);
}

/* Says why PID 1 gives up. Its end is a kernel panic, which the host shows together with the log. */
void log_fatal(const char *why)
{
	write_log("<0>", why);
	_exit(1);
}
