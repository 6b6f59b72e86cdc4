#include "vmm/util/buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Makes room for `more_bytes` after the bytes in use. Returns 0, or -ENOMEM with the buffer unchanged. */
int buf_reserve(struct buf *b, size_t more_bytes)
{
	size_t need;
	if (__builtin_add_overflow(b->len, more_bytes, &need))
		return -ENOMEM;
	if (need <= b->cap)
		return 0;
	size_t cap = b->cap ? b->cap : 256;
	while (cap < need)
		if (__builtin_mul_overflow(cap, (size_t)2, &cap))
			return -ENOMEM;
	uint8_t *p = realloc(b->data, cap);
	if (!p)
		return -ENOMEM;
	b->data = p;
	b->cap = cap;
	return 0;
}

/* Appends a copy of `data`. Returns 0 or -ENOMEM. */
int buf_add(struct buf *b, const void *data, size_t len_bytes)
{
	int rc = buf_reserve(b, len_bytes);
	if (rc)
		return rc;
	if (len_bytes)
		memcpy(b->data + b->len, data, len_bytes);
	b->len += len_bytes;
	return 0;
}

/* Appends formatted text, keeping a NUL after it that is not counted in `len`. Returns 0 or -ENOMEM. */
int buf_addf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		return -EINVAL;
	int rc = buf_reserve(b, (size_t)n + 1);
	if (rc)
		return rc;
	va_start(ap, fmt);
	vsnprintf((char *)b->data + b->len, (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->len += (size_t)n;
	return 0;
}

/* Drops the first `len_bytes` (at most all) bytes. */
void buf_consume(struct buf *b, size_t len_bytes)
{
	if (len_bytes >= b->len) {
		b->len = 0;
		return;
	}
	memmove(b->data, b->data + len_bytes, b->len - len_bytes);
	b->len -= len_bytes;
}

/* Frees the storage and leaves an empty buffer. */
void buf_free(struct buf *b)
{
	free(b->data);
	*b = (struct buf){0};
}
