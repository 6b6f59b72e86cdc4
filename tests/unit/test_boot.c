/* boot/boot.c, boot/mptable.c: what is in guest memory before the first instruction. */
#include <asm/bootparam.h>
#include <criterion/criterion.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "boot/boot.h"
#include "boot/cpu.h"
#include "boot/layout.h"
#include "boot/mptable.h"
#include "vmm/machine/mem.h"
#include "vmm/util/err.h"

#define KERNEL_GPA 0x1000000ull

/* A kernel file: one segment of `bytes` bytes at `offset`, filled with 0xa5, in a memory file. */
static int kernel_file(uint64_t offset, uint64_t bytes, uint64_t mem_bytes)
{
	struct {
		Elf64_Ehdr h;
		Elf64_Phdr p;
	} head = {
		.h = {.e_type = ET_EXEC, .e_machine = EM_X86_64, .e_entry = KERNEL_GPA, .e_phoff = sizeof(Elf64_Ehdr),
		      .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 1},
		.p = {.p_type = PT_LOAD, .p_offset = offset, .p_filesz = bytes, .p_paddr = KERNEL_GPA, .p_memsz = mem_bytes},
	};
	memcpy(head.h.e_ident, "\177ELF\2\1\1", 7);
	int fd = memfd_create("kernel", MFD_CLOEXEC);
	cr_assert(fd >= 0);
	cr_assert_eq(pwrite(fd, &head, sizeof head, 0), (ssize_t)sizeof head);
	for (uint64_t i = 0; i < bytes; i++)
		cr_assert_eq(pwrite(fd, "\xa5", 1, (off_t)(offset + i)), 1);
	return fd;
}

static struct mem mem;
static struct err e;
static uint64_t entry;

static int load(struct boot_config c, uint64_t mb)
{
	cr_assert_eq(mem_create(&mem, mb << 20, &e), 0, "%s", e.text);
	c.kernel_path = "k";
	c.cmdline = c.cmdline ? c.cmdline : "quiet";
	c.cpus = c.cpus ? c.cpus : 1;
	return boot_load(&mem, &c, &entry, &e);
}

static void check_segment(uint64_t offset)
{
	struct boot_config c = {.kernel_fd = kernel_file(offset, 0x2345, 0x5000)};
	cr_assert_eq(load(c, 64), 0, "%s", e.text);
	const uint8_t *p = mem_at(&mem, GPA(KERNEL_GPA), 0x5000);
	for (unsigned i = 0; i < 0x5000; i++)
		cr_assert_eq(p[i], i < 0x2345 ? 0xa5 : 0, "byte %#x", i);
	cr_expect_eq(entry, KERNEL_GPA);
	close(c.kernel_fd);
	mem_destroy(&mem);
}

Test(boot, maps_an_aligned_segment) { check_segment(0x1000); }

Test(boot, copies_an_unaligned_segment) { check_segment(0x1010); }

Test(boot, guest_writes_stay_out_of_the_kernel_file)
{
	struct boot_config c = {.kernel_fd = kernel_file(0x1000, 0x2000, 0x2000)};
	cr_assert_eq(load(c, 64), 0);
	cr_assert_eq(mem_write(&mem, GPA(KERNEL_GPA), "evil", 4), 0);
	char there[4];
	cr_assert_eq(pread(c.kernel_fd, there, 4, 0x1000), 4);
	cr_expect_eq(memcmp(there, "\xa5\xa5\xa5\xa5", 4), 0);
}

Test(boot, fills_boot_params)
{
	uint8_t initrd[5000];
	memset(initrd, 0x11, sizeof initrd);
	struct boot_config c = {.kernel_fd = kernel_file(0x1000, 0x1000, 0x1000), .initrd = initrd, .initrd_bytes = sizeof initrd,
				.cmdline = "one two", .seed = {9, 8, 7}};
	cr_assert_eq(load(c, 128), 0, "%s", e.text);
	struct boot_params p;
	cr_assert_eq(mem_read(&mem, GPA(BOOT_PARAMS_GPA), &p, sizeof p), 0);
	cr_expect_eq(p.hdr.boot_flag, 0xaa55);
	cr_expect_eq(memcmp(&p.hdr.header, "HdrS", 4), 0);
	cr_expect_eq(p.hdr.type_of_loader, 0xff);
	cr_expect_eq(p.hdr.ramdisk_size, sizeof initrd);
	cr_expect_eq(p.hdr.ramdisk_image % 4096, 0);
	cr_expect_eq(memcmp(mem_at(&mem, GPA(p.hdr.ramdisk_image), sizeof initrd), initrd, sizeof initrd), 0);
	cr_expect_str_eq(mem_at(&mem, GPA(p.hdr.cmd_line_ptr), 8), "one two");
	const struct setup_data *d = mem_at(&mem, GPA(p.hdr.setup_data), sizeof *d + 32);
	cr_expect_eq(d->type, SETUP_RNG_SEED);
	cr_expect_eq(d->len, 32);
	cr_expect_eq(d->next, 0);
	cr_expect_eq(memcmp(d->data, c.seed, 32), 0);
}

/* The memory map: RAM and nothing else, sorted, without the PC's hole and the MP table. */
static void check_map(uint64_t mb)
{
	struct boot_config c = {.kernel_fd = kernel_file(0x1000, 0x1000, 0x1000)};
	cr_assert_eq(load(c, mb), 0, "%s", e.text);
	struct boot_params p;
	cr_assert_eq(mem_read(&mem, GPA(BOOT_PARAMS_GPA), &p, sizeof p), 0);
	uint64_t end = 0, ram = 0;
	for (unsigned i = 0; i < p.e820_entries; i++) {
		const struct boot_e820_entry entry_i = p.e820_table[i];
		cr_expect_eq(entry_i.type, 1);
		cr_expect(entry_i.addr >= end);
		end = entry_i.addr + entry_i.size;
		ram += entry_i.size;
		cr_expect(mem_at(&mem, GPA(entry_i.addr), entry_i.size), "entry %u is not all memory", i);
		cr_expect(end <= MP_TABLE_GPA || entry_i.addr >= LOW_HOLE_END_GPA);
		cr_expect(end <= MEM_HOLE_START_GPA || entry_i.addr >= MEM_HOLE_END_GPA);
	}
	cr_expect_eq(ram, (mb << 20) - (LOW_HOLE_END_GPA - MP_TABLE_GPA));
	mem_destroy(&mem);
}

Test(boot, memory_map_below_the_hole) { check_map(64); }

Test(boot, memory_map_up_to_the_hole) { check_map(3072); }

Test(boot, memory_map_above_the_hole) { check_map(5000); }

Test(boot, refuses_what_does_not_fit)
{
	static uint8_t initrd[50 << 20];
	struct boot_config c = {.kernel_fd = kernel_file(0x1000, 0x1000, 0x1000), .initrd = initrd, .initrd_bytes = sizeof initrd};
	cr_expect_eq(load(c, 64), -ENOMEM);
	cr_expect(strstr(e.text, "--memory"), "%s", e.text);
	c.kernel_fd = kernel_file(0x1000, 0x1000, 80 << 20);
	cr_expect_eq(load(c, 64), -ENOEXEC);
	cr_expect(strstr(e.text, "--memory"), "%s", e.text);
	char line[CMDLINE_MAX_BYTES + 1];
	memset(line, 'x', sizeof line);
	line[sizeof line - 1] = 0;
	c = (struct boot_config){.kernel_fd = kernel_file(0x1000, 0x1000, 0x1000), .cmdline = line};
	cr_expect_eq(load(c, 64), -E2BIG);
}

Test(boot, refuses_what_is_no_file)
{
	int fds[2];
	cr_assert_eq(pipe(fds), 0);
	cr_expect_eq(load((struct boot_config){.kernel_fd = fds[0]}, 64), -ENOEXEC);
	cr_expect(strstr(e.text, "not a regular file"), "%s", e.text);
	cr_expect_eq(load((struct boot_config){.kernel_fd = open("/", O_RDONLY)}, 64), -ENOEXEC);
}

static uint8_t sum(const uint8_t *p, size_t n)
{
	uint8_t s = 0;
	while (n--)
		s = (uint8_t)(s + *p++);
	return s;
}

Test(mptable, describes_every_cpu_and_the_interrupts_in_use)
{
	cr_assert_eq(mem_create(&mem, 64 << 20, &e), 0);
	for (unsigned cpus = 1; cpus <= 64; cpus *= 4) {
		cr_assert_eq(mptable_write(&mem, cpus, 3), 0);
		const uint8_t *f = mem_at(&mem, GPA(MP_FLOATING_GPA), 16);
		cr_expect_eq(memcmp(f, "_MP_", 4), 0);
		cr_expect_eq(sum(f, 16), 0);
		const uint8_t *t = mem_at(&mem, GPA(MP_TABLE_GPA), 4096);
		uint16_t bytes, entries;
		memcpy(&bytes, t + 4, 2);
		memcpy(&entries, t + 34, 2);
		cr_expect_eq(sum(t, bytes), 0);
		unsigned seen = 0, boot_cpus = 0;
		uint32_t pins = 0;
		const uint8_t *p = t + 44;
		for (unsigned i = 0; i < entries; i++) {
			if (p[0] == 0) {
				cr_expect_eq(p[1], seen);
				boot_cpus += p[3] >> 1 & 1;
				seen++;
			}
			if (p[0] == 3) {
				cr_expect_eq(p[5], p[7], "the pin has the number of the interrupt");
				pins |= 1u << p[7];
			}
			p += p[0] == 0 ? 20 : 8;
		}
		cr_expect_eq(p, t + bytes);
		cr_expect_eq(seen, cpus);
		cr_expect_eq(boot_cpus, 1);
		cr_expect_eq(pins, 1u | 7u << MMIO_DEVICE_IRQ);
	}
	cr_expect_eq(mptable_write(&mem, 255, 3), -E2BIG);
}

Test(cpu, page_tables_map_the_first_gigabyte)
{
	cr_assert_eq(mem_create(&mem, 64 << 20, &e), 0);
	cr_assert_eq(cpu_write_tables(&mem), 0);
	struct kvm_sregs s = {0};
	cpu_boot_sregs(&s);
	for (uint64_t va = 0; va < IDENTITY_MAP_BYTES; va += 0x1ff000) {
		uint64_t table = s.cr3;
		for (int shift = 39;; shift -= 9) {
			uint64_t pte;
			cr_assert_eq(mem_read(&mem, GPA(table + (va >> shift & 511) * 8), &pte, 8), 0);
			cr_assert(pte & 1);
			table = pte & 0xffffffffff000;
			if (pte & 0x80) {
				cr_assert_eq(shift, 21);
				cr_assert_eq((table & ~0x1fffffull) | (va & 0x1fffff), va);
				break;
			}
		}
	}
}
