/*
 * The boot loader.
 *
 * Theory of operation
 * -------------------
 * Purpose: everything that firmware, boot loader and decompressor do on a PC, reduced to filling guest memory: an ELF
 * vmlinux at its link address, initramfs, command line, boot_params with the memory map, a seed for the guest's random
 * number generator, MP table, and the tables for entering in 64-bit mode. boot/layout.h has the map.
 *
 * Trust boundary: the kernel file may be anything. Its headers are copied and validated (boot/elf.c); its contents only
 * ever reach guest memory. Guest memory is ours alone until the first KVM_RUN.
 *
 * Specification: Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"; zero-page.rst.
 */
#include "boot/boot.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "boot/cpu.h"
#include "boot/elf.h"
#include "boot/layout.h"
#include "boot/mptable.h"
#include "vmm/machine/mem.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"

enum {
	PAGE_BYTES = 4096,
	BOOT_PROTOCOL_VERSION = 0x20f,
	LOADER_TYPE_UNDEFINED = 0xff,
	E820_RAM = 1,
};

/*
 * Puts one segment into memory. Whole pages of the file are mapped, not copied, where guest memory and file agree about
 * their alignment: that takes no time, and sandboxes share what they do not change. A segment that the kernel writes to is
 * copied, into one large page where the host has those: mapped, each of its pages would cost an exit or two.
 */
static int load_segment(struct mem *m, const struct boot_config *c, const struct elf_segment *s)
{
	uint8_t *to = mem_at(m, GPA(s->gpa), s->file_bytes);
	if (!to)
		return -EFAULT;
	uint64_t mapped = 0;
	if (!s->writable && s->gpa % PAGE_BYTES == 0 && s->file_offset % PAGE_BYTES == 0)
		mapped = s->file_bytes & ~(uint64_t)(PAGE_BYTES - 1);
	if (mapped && mmap(to, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, c->kernel_fd,
			   (off_t)s->file_offset) == MAP_FAILED)
		mapped = 0;
	return io_pread_all(c->kernel_fd, to + mapped, s->file_bytes - mapped, (off_t)(s->file_offset + mapped));
}

static int load_segments(struct mem *m, const struct boot_config *c, const struct elf *elf, struct err *e)
{
	for (unsigned i = 0; i < elf->count; i++) {
		int rc = elf->segment[i].file_bytes ? load_segment(m, c, &elf->segment[i]) : 0;
		if (rc)
			return err_sys(e, rc, "cannot read kernel %s", c->kernel_path);
	}
	return 0;
}

static int load_kernel(struct mem *m, const struct boot_config *c, struct elf *elf, struct err *e)
{
	struct stat st;
	if (fstat(c->kernel_fd, &st))
		return err_sys(e, -errno, "cannot read kernel %s", c->kernel_path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -ENOEXEC, "kernel %s: it is not a regular file", c->kernel_path);
	uint8_t head[ELF_HEADERS_MAX_BYTES];
	size_t head_bytes = (uint64_t)st.st_size < sizeof head ? (size_t)st.st_size : sizeof head;
	int rc = io_pread_all(c->kernel_fd, head, head_bytes, 0);
	if (rc)
		return err_sys(e, rc, "cannot read kernel %s", c->kernel_path);
	uint64_t low_end = m->region[0].len_bytes < IDENTITY_MAP_BYTES ? m->region[0].len_bytes : IDENTITY_MAP_BYTES;
	struct err why;
	rc = elf_parse(head, head_bytes, (uint64_t)st.st_size, LOW_HOLE_END_GPA, low_end, elf, &why);
	if (rc)
		return err_set(e, rc, "kernel %s: %s", c->kernel_path, why.text);
	return load_segments(m, c, elf, e);
}

/* Puts the initramfs as high as the kernel can reach early, so that it is in nobody's way. */
static int load_initrd(struct mem *m, const struct boot_config *c, const struct elf *elf, uint64_t *gpa, struct err *e)
{
	*gpa = 0;
	if (c->initrd_bytes == 0)
		return 0;
	uint64_t top = m->region[0].len_bytes < IDENTITY_MAP_BYTES ? m->region[0].len_bytes : IDENTITY_MAP_BYTES;
	if (c->initrd_bytes > top || ((top - c->initrd_bytes) & ~(uint64_t)(PAGE_BYTES - 1)) < elf->end_gpa)
		return err_set(e, -ENOMEM, "kernel and initramfs do not fit into the sandbox's memory; give --memory more");
	*gpa = (top - c->initrd_bytes) & ~(uint64_t)(PAGE_BYTES - 1);
	return mem_write(m, GPA(*gpa), c->initrd, c->initrd_bytes);
}

static void add_e820(struct boot_params *p, uint64_t start_gpa, uint64_t end_gpa)
{
	p->e820_table[p->e820_entries++] =
		(struct boot_e820_entry){.addr = start_gpa, .size = end_gpa - start_gpa, .type = E820_RAM};
}

/* What is not listed is not memory, so the MP table and the PC's legacy hole need no entries of their own. */
static void add_memory_map(struct boot_params *p, const struct mem *m)
{
	add_e820(p, 0, MP_TABLE_GPA);
	add_e820(p, LOW_HOLE_END_GPA, m->region[0].len_bytes);
	for (unsigned i = 1; i < m->count; i++)
		add_e820(p, m->region[i].gpa, m->region[i].gpa + m->region[i].len_bytes);
}

static int write_seed(struct mem *m, const uint8_t seed[32])
{
	struct {
		struct setup_data head;
		uint8_t seed[32];
	} __attribute__((packed)) data = {.head = {.type = SETUP_RNG_SEED, .len = sizeof data.seed}};
	memcpy(data.seed, seed, sizeof data.seed);
	int rc = mem_write(m, GPA(SETUP_DATA_GPA), &data, sizeof data);
	explicit_bzero(&data, sizeof data);
	return rc;
}

static int write_params(struct mem *m, const struct boot_config *c, uint64_t initrd_gpa)
{
	struct boot_params *p = mem_at(m, GPA(BOOT_PARAMS_GPA), sizeof *p);
	if (!p)
		return -EFAULT;
	p->hdr.boot_flag = 0xaa55;
	memcpy(&p->hdr.header, "HdrS", 4);
	p->hdr.version = BOOT_PROTOCOL_VERSION;
	p->hdr.type_of_loader = LOADER_TYPE_UNDEFINED;
	p->hdr.loadflags = LOADED_HIGH;
	p->hdr.cmd_line_ptr = (uint32_t)CMDLINE_GPA;
	p->hdr.cmdline_size = (uint32_t)strlen(c->cmdline);
	p->hdr.ramdisk_image = (uint32_t)initrd_gpa;
	p->hdr.ramdisk_size = (uint32_t)c->initrd_bytes;
	p->hdr.setup_data = SETUP_DATA_GPA;
	add_memory_map(p, m);
	return 0;
}

/*
 * Loads the kernel of `c` and all it needs into fresh, zeroed guest memory. On success *entry_gpa is where the kernel
 * is entered (see cpu_boot_regs()). Returns 0, or -errno with the reason in `e`: -ENOEXEC for a file that is no kernel
 * of this machine, -ENOMEM where it does not fit.
 */
int boot_load(struct mem *m, const struct boot_config *c, uint64_t *entry_gpa, struct err *e)
{
	struct elf elf;
	int rc = load_kernel(m, c, &elf, e);
	if (rc)
		return rc;
	uint64_t initrd_gpa;
	rc = load_initrd(m, c, &elf, &initrd_gpa, e);
	if (rc)
		return rc;
	size_t cmdline_bytes = strlen(c->cmdline) + 1;
	if (cmdline_bytes > CMDLINE_MAX_BYTES)
		return err_set(e, -E2BIG, "the kernel command line is %zu bytes, the limit is %u", cmdline_bytes,
			       CMDLINE_MAX_BYTES);
	if (mem_write(m, GPA(CMDLINE_GPA), c->cmdline, cmdline_bytes) || write_seed(m, c->seed) ||
	    write_params(m, c, initrd_gpa) || mptable_write(m, c->cpus, c->devices) || cpu_write_tables(m))
		return err_set(e, -ENOMEM, "the sandbox's memory is too small to boot; give --memory more");
	*entry_gpa = elf.entry_gpa;
	return 0;
}
