/* The kernel's ELF headers, whatever they say, describe segments inside the file and the memory, or are refused. */
#include <assert.h>
#include <string.h>

#include "boot/elf.h"
#include "vmm/util/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint64_t start = 1 << 20, end = 128 << 20;
	uint64_t file_bytes = size;
	struct elf elf;
	struct err e;
	/* A first byte of its own says that the file is larger than its head, as kernels are. */
	if (size && data[0] == 'L') {
		data++;
		size--;
		file_bytes = 32 << 20;
	}
	size_t head = size < ELF_HEADERS_MAX_BYTES ? size : ELF_HEADERS_MAX_BYTES;
	if (elf_parse(data, head, file_bytes, start, end, &elf, &e)) {
		assert(e.text[0]);
		return 0;
	}
	assert(elf.count > 0 && elf.count <= ELF_SEGMENTS_MAX);
	for (unsigned i = 0; i < elf.count; i++) {
		const struct elf_segment *s = &elf.segment[i];
		assert(s->file_offset <= file_bytes && s->file_bytes <= file_bytes - s->file_offset);
		assert(s->file_bytes <= s->mem_bytes);
		assert(s->gpa >= start && s->gpa <= end && s->mem_bytes <= end - s->gpa);
		assert(s->gpa >= elf.start_gpa && s->gpa + s->mem_bytes <= elf.end_gpa);
	}
	assert(elf.entry_gpa >= elf.start_gpa && elf.entry_gpa < elf.end_gpa);
	return 0;
}
