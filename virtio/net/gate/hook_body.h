/* Finds and replaces in a body as it passes. */
#ifndef CAPLOCK_GATE_HOOK_BODY_H
#define CAPLOCK_GATE_HOOK_BODY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/util/buf.h"

enum {
	HOOK_FIND_MAX_BYTES = 1024,
	HOOK_REPLACE_MAX_BYTES = 4096,
	HOOK_REPLACEMENTS_MAX = 64,    /* for one body */
	HOOK_BODY_OUT_BYTES = 64 << 10, /* of output, after which no more input is taken */
};

struct hook_replacement {
	struct buf find, replace; /* find is never empty */
};

/* Zero-initialise it to start; hook_replacements_free() to end. */
struct hook_replacements {
	struct hook_replacement *item;
	size_t count;
};

struct hook_body {
	const struct hook_replacements *replace;
	struct buf pending; /* what may be the beginning of something to replace */
	bool first[256];    /* bytes that one begins with */
	bool events;        /* text/event-stream: only what follows "data:" in a line */
	uint8_t line;       /* where in a line: an enum of hook_body.c */
	uint8_t matched_bytes; /* of "data:" */
};

int hook_replacements_add(struct hook_replacements *r, const struct buf *find, const struct buf *replace);
int hook_replacements_add_all(struct hook_replacements *to, const struct hook_replacements *from);
void hook_replacements_free(struct hook_replacements *r);

void hook_body_init(struct hook_body *b, const struct hook_replacements *replace, bool events);
int hook_body_feed(struct hook_body *b, const void *data, size_t len_bytes, size_t *taken, struct buf *out);
int hook_body_end(struct hook_body *b, struct buf *out);
void hook_body_free(struct hook_body *b);

#endif
