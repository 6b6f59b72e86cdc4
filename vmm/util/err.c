#include "vmm/util/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/*
 * Records a failure. `code` is the -errno to return; `e` may be NULL.
 * Control characters (a path or a name may carry them) are replaced, so that the text stays one line.
 * Returns `code`, so that callers can write `return err_set(e, -EINVAL, "...")`.
 */
int err_set(struct err *e, int code, const char *fmt, ...)
{
	if (e) {
		va_list ap;
		va_start(ap, fmt);
		vsnprintf(e->text, sizeof e->text, fmt, ap);
		va_end(ap);
		for (char *p = e->text; *p; p++)
			if ((unsigned char)*p < 0x20 || *p == 0x7f)
				*p = '?';
	}
	return code;
}

/* Like err_set(), and appends ": " and the system's text for -code. */
int err_sys(struct err *e, int code, const char *fmt, ...)
{
	if (e) {
		char what[640];
		va_list ap;
		va_start(ap, fmt);
		vsnprintf(what, sizeof what, fmt, ap);
		va_end(ap);
		err_set(e, code, "%s: %s", what, strerror(-code));
	}
	return code;
}
