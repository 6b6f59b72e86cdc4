/* Reads the headers of an ELF kernel (System V ABI, x86-64). */
#ifndef CAPLOCK_BOOT_ELF_H
#define CAPLOCK_BOOT_ELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

enum {
	ELF_SEGMENTS_MAX = 16,
	ELF_HEADERS_MAX_BYTES = 4096, /* the file header and all program headers are within this */
};

struct elf_segment {
	uint64_t file_offset;
	uint64_t file_bytes;
	uint64_t gpa;
	uint64_t mem_bytes; /* >= file_bytes; the rest is zero */
	bool writable;
};

struct elf {
	uint64_t entry_gpa;
	uint64_t start_gpa, end_gpa; /* of all segments */
	unsigned count;
	struct elf_segment segment[ELF_SEGMENTS_MAX];
};

int elf_parse(const uint8_t *head, size_t head_bytes, uint64_t file_bytes, uint64_t mem_start_gpa, uint64_t mem_end_gpa,
	      struct elf *out, struct err *e);

#endif
