/* Guest memory: the only way to it for devices and the boot loader. */
#ifndef CAPLOCK_MACHINE_MEM_H
#define CAPLOCK_MACHINE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

/* A guest-physical address. A struct, so that it cannot be mistaken for a host address or an integer. */
typedef struct {
	uint64_t addr;
} gpa_t;

#define GPA(a) ((gpa_t){(a)})

enum {
	MEM_REGIONS_MAX = 2, /* below the hole that starts at 3 GiB, and from 4 GiB */
};

struct mem_region {
	uint64_t gpa;
	uint64_t len_bytes;
	uint8_t *host;
};

struct mem {
	struct mem_region region[MEM_REGIONS_MAX];
	unsigned count;
};

int mem_create(struct mem *m, uint64_t size_bytes, struct err *e);
void mem_destroy(struct mem *m);
int mem_read(const struct mem *m, gpa_t from, void *to, size_t len_bytes);
int mem_write(const struct mem *m, gpa_t to, const void *from, size_t len_bytes);

/*
 * The host address of [gpa, gpa + len_bytes), or NULL unless the whole of it is inside one region of guest memory.
 * A length of 0 gives NULL. The guest can change these bytes at any time: read them once.
 */
static inline void *mem_at(const struct mem *m, gpa_t gpa, uint64_t len_bytes)
{
	for (unsigned i = 0; i < m->count; i++) {
		const struct mem_region *r = &m->region[i];
		uint64_t offset = gpa.addr - r->gpa; /* wraps to a huge offset where gpa is below the region */
		if (offset < r->len_bytes && len_bytes && len_bytes <= r->len_bytes - offset)
			return r->host + offset;
	}
	return NULL;
}

#endif
