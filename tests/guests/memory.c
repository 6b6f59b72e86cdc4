/* All memory of the map is there, and is zero at both ends of every range. */
#include <asm/bootparam.h>

#include "tests/guests/guest.h"

void start(void *unused, void *boot_params)
{
	const struct boot_params *p = boot_params;
	(void)unused;
	uint64_t end = p->e820_table[1].addr + p->e820_table[1].size;
	claim(p->e820_entries == 2 && p->e820_table[1].addr == LOW_HOLE_END_GPA, "two ranges");
	claim(end == 64 << 20, "64 MiB");
	for (uint64_t gpa = LOW_HOLE_END_GPA; gpa < end; gpa += 4096) {
		volatile uint64_t *word = (volatile uint64_t *)gpa;
		uint64_t before = *word;
		*word = gpa ^ 0x5555;
		claim(*word == (gpa ^ 0x5555), "memory keeps what is written");
		*word = before;
	}
	done();
}
