#include "boot/elf.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#include "vmm/util/err.h"

/* Says what a file that is not an ELF kernel is, where that helps the user. */
static int not_elf(const uint8_t *head, size_t head_bytes, struct err *e)
{
	if (head_bytes >= 0x206 && memcmp(head + 0x202, "HdrS", 4) == 0)
		return err_set(e, -ENOEXEC, "it is a compressed bzImage; give the uncompressed vmlinux");
	if (head_bytes >= 2 && head[0] == 0x1f && head[1] == 0x8b)
		return err_set(e, -ENOEXEC, "it is compressed with gzip; unpack it first");
	return err_set(e, -ENOEXEC, "it is not an ELF file; give an uncompressed x86-64 vmlinux");
}

/* Copies and checks program header `p`. Returns 1 where it is a segment to load, 0 where not, or -ENOEXEC. */
static int read_segment(const Elf64_Phdr *p, uint64_t file_bytes, uint64_t mem_start_gpa, uint64_t mem_end_gpa,
			struct elf_segment *s, struct err *e)
{
	if (p->p_type != PT_LOAD || p->p_memsz == 0)
		return 0;
	*s = (struct elf_segment){p->p_offset, p->p_filesz, p->p_paddr, p->p_memsz, p->p_flags & PF_W};
	uint64_t end;
	if (__builtin_add_overflow(s->file_offset, s->file_bytes, &end) || end > file_bytes)
		return err_set(e, -ENOEXEC, "it is truncated: a segment ends at byte %llu of %llu",
			       (unsigned long long)s->file_offset + s->file_bytes, (unsigned long long)file_bytes);
	if (s->file_bytes > s->mem_bytes)
		return err_set(e, -ENOEXEC, "a segment is larger in the file than in memory; the file is damaged");
	if (__builtin_add_overflow(s->gpa, s->mem_bytes, &end))
		return err_set(e, -ENOEXEC, "a segment's address wraps around; the file is damaged");
	if (s->gpa < mem_start_gpa)
		return err_set(e, -ENOEXEC, "a segment is at %#llx, below the first usable address %#llx; give an uncompressed vmlinux",
			       (unsigned long long)s->gpa, (unsigned long long)mem_start_gpa);
	if (end > mem_end_gpa)
		return err_set(e, -ENOEXEC, "it needs memory up to %#llx, the sandbox has %#llx; give --memory more",
			       (unsigned long long)end, (unsigned long long)mem_end_gpa);
	return 1;
}

/*
 * Parses the headers of an x86-64 ELF executable. `head` is the first min(file size, ELF_HEADERS_MAX_BYTES) bytes of a
 * file of `file_bytes`. Every segment is inside the file and inside [mem_start_gpa, mem_end_gpa), none overlap, and the
 * entry is in one of them. Pure. Returns 0 or -ENOEXEC, with the reason in `e` as "it ..." or "a segment ...".
 */
int elf_parse(const uint8_t *head, size_t head_bytes, uint64_t file_bytes, uint64_t mem_start_gpa, uint64_t mem_end_gpa,
	      struct elf *out, struct err *e)
{
	*out = (struct elf){.start_gpa = UINT64_MAX};
	Elf64_Ehdr h;
	if (head_bytes < SELFMAG || memcmp(head, ELFMAG, SELFMAG) != 0)
		return not_elf(head, head_bytes, e);
	if (head_bytes < sizeof h)
		return err_set(e, -ENOEXEC, "it is truncated: %zu bytes", head_bytes);
	memcpy(&h, head, sizeof h);
	if (h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_ident[EI_DATA] != ELFDATA2LSB || h.e_machine != EM_X86_64)
		return err_set(e, -ENOEXEC, "it is for another machine (ELF machine %u); give an x86-64 vmlinux", h.e_machine);
	if (h.e_type != ET_EXEC && h.e_type != ET_DYN)
		return err_set(e, -ENOEXEC, "it is not executable (ELF type %u); give a vmlinux", h.e_type);
	if (h.e_phentsize != sizeof(Elf64_Phdr) || h.e_phoff > head_bytes ||
	    h.e_phnum > (head_bytes - h.e_phoff) / sizeof(Elf64_Phdr))
		return err_set(e, -ENOEXEC, "its program headers are not where they should be; the file is damaged");

	for (unsigned i = 0; i < h.e_phnum; i++) {
		Elf64_Phdr p;
		memcpy(&p, head + h.e_phoff + i * sizeof p, sizeof p);
		struct elf_segment s;
		int rc = read_segment(&p, file_bytes, mem_start_gpa, mem_end_gpa, &s, e);
		if (rc < 0)
			return rc;
		if (rc == 0)
			continue;
		if (out->count == ELF_SEGMENTS_MAX)
			return err_set(e, -ENOEXEC, "it has more than %d segments", ELF_SEGMENTS_MAX);
		for (unsigned j = 0; j < out->count; j++)
			if (s.gpa < out->segment[j].gpa + out->segment[j].mem_bytes &&
			    out->segment[j].gpa < s.gpa + s.mem_bytes)
				return err_set(e, -ENOEXEC, "its segments overlap; the file is damaged");
		out->segment[out->count++] = s;
		if (s.gpa < out->start_gpa)
			out->start_gpa = s.gpa;
		if (s.gpa + s.mem_bytes > out->end_gpa)
			out->end_gpa = s.gpa + s.mem_bytes;
		if (h.e_entry >= s.gpa && h.e_entry < s.gpa + s.file_bytes)
			out->entry_gpa = h.e_entry;
	}
	if (out->count == 0)
		return err_set(e, -ENOEXEC, "it has nothing to load; give a vmlinux");
	if (out->entry_gpa == 0)
		return err_set(e, -ENOEXEC, "its entry point %#llx is in none of its segments", (unsigned long long)h.e_entry);
	return 0;
}
