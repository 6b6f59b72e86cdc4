/* A growable byte buffer. Zero-initialise it to start; buf_free() to end. */
#ifndef CAPLOCK_UTIL_BUF_H
#define CAPLOCK_UTIL_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
	uint8_t *data;
	size_t len; /* bytes in use */
	size_t cap; /* bytes allocated */
};

int buf_reserve(struct buf *b, size_t more_bytes);
int buf_add(struct buf *b, const void *data, size_t len_bytes);
int buf_addf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_consume(struct buf *b, size_t len_bytes);
void buf_free(struct buf *b);

#endif
