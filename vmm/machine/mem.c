#include "vmm/machine/mem.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "boot/layout.h"
#include "vmm/util/err.h"

/*
 * Reserves guest memory of `size_bytes` (a multiple of 4 KiB): one region up to MEM_HOLE_START_GPA, the rest from
 * MEM_HOLE_END_GPA. Pages are given by the host when they are touched, in 2 MiB units where it can; they stay out of
 * core dumps and are never merged with other sandboxes' pages. Returns 0 or -errno.
 */
int mem_create(struct mem *m, uint64_t size_bytes, struct err *e)
{
	uint64_t low_bytes = size_bytes < MEM_HOLE_START_GPA ? size_bytes : MEM_HOLE_START_GPA;
	struct mem_region want[MEM_REGIONS_MAX] = {
		{.gpa = 0, .len_bytes = low_bytes},
		{.gpa = MEM_HOLE_END_GPA, .len_bytes = size_bytes - low_bytes},
	};
	*m = (struct mem){0};
	for (unsigned i = 0; i < MEM_REGIONS_MAX && want[i].len_bytes; i++) {
		/* 2 MiB aligned, so that the host can back it with huge pages; the slack is given back. */
		const uint64_t huge = 2 << 20;
		uint64_t span = want[i].len_bytes + huge;
		uint8_t *p = mmap(NULL, span, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (p == MAP_FAILED) {
			int rc = err_sys(e, -errno, "cannot reserve %llu MiB of guest memory; give --memory less",
					 (unsigned long long)size_bytes >> 20);
			mem_destroy(m);
			return rc;
		}
		uint64_t head = -(uintptr_t)p & (huge - 1);
		if (head)
			munmap(p, head);
		if (huge - head)
			munmap(p + head + want[i].len_bytes, huge - head);
		want[i].host = p + head;
		madvise(want[i].host, want[i].len_bytes, MADV_HUGEPAGE);
		madvise(want[i].host, want[i].len_bytes, MADV_DONTDUMP);
		madvise(want[i].host, want[i].len_bytes, MADV_UNMERGEABLE);
		m->region[m->count++] = want[i];
	}
	return 0;
}

/* Gives guest memory back. Accepts a zeroed struct. */
void mem_destroy(struct mem *m)
{
	for (unsigned i = 0; i < m->count; i++)
		munmap(m->region[i].host, m->region[i].len_bytes);
	*m = (struct mem){0};
}

/* Copies from guest memory. Returns 0, or -EFAULT with nothing copied unless all of it is guest memory. */
int mem_read(const struct mem *m, gpa_t from, void *to, size_t len_bytes)
{
	const void *p = mem_at(m, from, len_bytes);
	if (!p)
		return -EFAULT;
	memcpy(to, p, len_bytes);
	return 0;
}

/* Copies to guest memory. Returns 0, or -EFAULT with nothing copied unless all of it is guest memory. */
int mem_write(const struct mem *m, gpa_t to, const void *from, size_t len_bytes)
{
	void *p = mem_at(m, to, len_bytes);
	if (!p)
		return -EFAULT;
	memcpy(p, from, len_bytes);
	return 0;
}
