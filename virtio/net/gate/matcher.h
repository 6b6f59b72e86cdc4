/* Many texts looked for at once in a stream. */
#ifndef CAPLOCK_GATE_MATCHER_H
#define CAPLOCK_GATE_MATCHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MATCHER_MIN_BYTES = 4 }; /* of a text */

struct matcher_text {
	const uint8_t *at; /* not owned */
	size_t bytes;
	unsigned id;   /* the caller's */
	uint16_t next; /* in the same bucket; MATCHER_NONE: none */
};

/* Zero-initialise to start, matcher_add() all texts, then matcher_ready(); matcher_free() to end. */
struct matcher {
	struct matcher_text *text;
	size_t count;
	size_t window; /* how much is looked at at once: as much as every text has */
	uint16_t bucket[256];
	uint8_t shift[1 << 16];
	bool begins[256];
};

int matcher_add(struct matcher *m, const void *text, size_t bytes, unsigned id);
void matcher_ready(struct matcher *m);
void matcher_free(struct matcher *m);
size_t matcher_find(const struct matcher *m, const uint8_t *data, size_t bytes, bool last, const struct matcher_text **found);

#endif
