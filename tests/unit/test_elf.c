/* boot/elf.c: what is refused, and why. */
#include <criterion/criterion.h>
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "boot/elf.h"
#include "vmm/util/err.h"

#define START 0x100000ull
#define END 0x8000000ull
#define FILE_BYTES 0x5000ull

/* A kernel of two segments. */
struct image {
	Elf64_Ehdr h;
	Elf64_Phdr p[20];
};

static struct image good(void)
{
	struct image i = {
		.h = {.e_type = ET_EXEC, .e_machine = EM_X86_64, .e_entry = 0x1000100, .e_phoff = sizeof(Elf64_Ehdr),
		      .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 3},
		.p = {{.p_type = PT_LOAD, .p_offset = 0x1000, .p_filesz = 0x2000, .p_paddr = 0x1000000, .p_memsz = 0x2000},
		      {.p_type = PT_NOTE, .p_offset = 0x900000, .p_filesz = 1 << 30},
		      {.p_type = PT_LOAD, .p_offset = 0x3000, .p_filesz = 0x1000, .p_paddr = 0x2000000, .p_memsz = 0x9000}},
	};
	memcpy(i.h.e_ident, ELFMAG, SELFMAG);
	i.h.e_ident[EI_CLASS] = ELFCLASS64;
	i.h.e_ident[EI_DATA] = ELFDATA2LSB;
	return i;
}

static struct elf elf;
static struct err why;

static int parse(const struct image *i)
{
	why.text[0] = 0;
	return elf_parse((const uint8_t *)i, sizeof *i, FILE_BYTES, START, END, &elf, &why);
}

/* `i` is refused, and the reason contains `text`. */
static void refused(const struct image *i, const char *text)
{
	cr_expect_eq(parse(i), -ENOEXEC, "not refused: %s", text);
	cr_expect(strstr(why.text, text), "reason '%s' lacks '%s'", why.text, text);
}

Test(elf, takes_a_kernel)
{
	struct image i = good();
	cr_assert_eq(parse(&i), 0, "%s", why.text);
	cr_expect_eq(elf.count, 2);
	cr_expect_eq(elf.entry_gpa, 0x1000100);
	cr_expect_eq(elf.start_gpa, 0x1000000);
	cr_expect_eq(elf.end_gpa, 0x2009000);
	cr_expect_eq(elf.segment[1].file_offset, 0x3000);
	cr_expect_eq(elf.segment[1].mem_bytes, 0x9000);
}

Test(elf, says_what_is_not_an_elf)
{
	uint8_t head[4096] = {0};
	struct err e;
	cr_expect_eq(elf_parse(head, sizeof head, sizeof head, START, END, &elf, &e), -ENOEXEC);
	cr_expect(strstr(e.text, "not an ELF"));
	memcpy(head + 0x202, "HdrS", 4);
	cr_expect_eq(elf_parse(head, sizeof head, sizeof head, START, END, &elf, &e), -ENOEXEC);
	cr_expect(strstr(e.text, "bzImage"));
	head[0] = 0x1f, head[1] = 0x8b, head[0x202] = 0;
	cr_expect_eq(elf_parse(head, sizeof head, sizeof head, START, END, &elf, &e), -ENOEXEC);
	cr_expect(strstr(e.text, "gzip"));
	cr_expect_eq(elf_parse(head, 0, 0, START, END, &elf, &e), -ENOEXEC);
}

Test(elf, refuses_every_truncation)
{
	struct image i = good();
	for (size_t n = 0; n < sizeof(Elf64_Ehdr) + 3 * sizeof(Elf64_Phdr); n++)
		cr_assert_eq(elf_parse((const uint8_t *)&i, n, n, START, END, &elf, &why), -ENOEXEC, "%zu bytes", n);
	i.p[2].p_filesz = 0x2001;
	i.p[2].p_memsz = 0x9000;
	refused(&i, "truncated");
}

Test(elf, refuses_other_machines)
{
	struct image i = good();
	i.h.e_machine = EM_AARCH64;
	refused(&i, "another machine");
	i = good();
	i.h.e_ident[EI_CLASS] = ELFCLASS32;
	refused(&i, "another machine");
	i = good();
	i.h.e_type = ET_REL;
	refused(&i, "not executable");
}

Test(elf, refuses_bad_headers)
{
	struct image i = good();
	i.h.e_phoff = UINT64_MAX;
	refused(&i, "program headers");
	i = good();
	i.h.e_phnum = UINT16_MAX;
	refused(&i, "program headers");
	i = good();
	i.h.e_phentsize = 32;
	refused(&i, "program headers");
	i = good();
	i.h.e_phnum = 0;
	refused(&i, "nothing to load");
	i = good();
	i.h.e_entry = 0x1002000;
	refused(&i, "entry point");
}

Test(elf, refuses_bad_segments)
{
	struct image i = good();
	i.p[0].p_offset = UINT64_MAX - 0x1000;
	refused(&i, "truncated");
	i = good();
	i.p[0].p_memsz = 0x1fff;
	refused(&i, "larger in the file");
	i = good();
	i.p[2].p_paddr = UINT64_MAX - 0x8fff;
	i.p[2].p_memsz = UINT64_MAX;
	refused(&i, "wraps");
	i = good();
	i.p[0].p_paddr = START - 1;
	refused(&i, "below the first usable");
	i = good();
	i.p[2].p_paddr = END - 0x8fff;
	refused(&i, "--memory");
	i = good();
	i.p[2].p_paddr = 0x1001fff;
	refused(&i, "overlap");
	i = good();
	i.h.e_phnum = 20;
	for (unsigned n = 0; n < 20; n++)
		i.p[n] = (Elf64_Phdr){.p_type = PT_LOAD, .p_paddr = START + n * 0x1000, .p_memsz = 0x1000};
	refused(&i, "more than 16");
}
