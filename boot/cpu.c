/*
 * CPU state for the 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"): long mode, paging
 * with the loaded kernel, boot_params and command line identity-mapped, __BOOT_CS = 0x10 and __BOOT_DS = 0x18 flat,
 * interrupts off, RSI = boot_params.
 *
 * The CPU first runs a stub of a few bytes, which stamps the timeline (struct timeline, KERNEL) and jumps to the kernel.
 */
#include "boot/cpu.h"

#include <errno.h>
#include <string.h>

#include "boot/layout.h"
#include "vmm/machine/mem.h"
#include "vmm/machine/status.h"

enum {
	CR0_PE = 1 << 0,
	CR0_MP = 1 << 1,
	CR0_ET = 1 << 4,
	CR0_NE = 1 << 5,
	CR4_PAE = 1 << 5,
	EFER_LME = 1 << 8,
	EFER_LMA = 1 << 10,
	PTE_PRESENT = 1 << 0,
	PTE_WRITE = 1 << 1,
	PTE_LARGE = 1 << 7,
	PAGE_BYTES = 4096,
	LARGE_PAGE_BYTES = 2 << 20,
	SELECTOR_CODE = 0x10,
	SELECTOR_DATA = 0x18,
};
#define CR0_PG (1u << 31)

/*
 * Writes the GDT, the page tables and the entry stub into guest memory. Returns 0, or -EFAULT where memory is too small.
 */
int cpu_write_tables(const struct mem *m)
{
	/* Null, unused, 64-bit code, data; base 0, limit 4 GiB, present, accessed. */
	const uint64_t gdt[] = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff};

	uint64_t *pml4 = mem_at(m, GPA(PAGE_TABLES_GPA), 3 * PAGE_BYTES);
	if (!pml4)
		return -EFAULT;
	uint64_t *pdpt = pml4 + PAGE_BYTES / 8, *pd = pdpt + PAGE_BYTES / 8;
	pml4[0] = (PAGE_TABLES_GPA + PAGE_BYTES) | PTE_PRESENT | PTE_WRITE;
	pdpt[0] = (PAGE_TABLES_GPA + 2 * PAGE_BYTES) | PTE_PRESENT | PTE_WRITE;
	for (uint64_t i = 0; i < IDENTITY_MAP_BYTES / LARGE_PAGE_BYTES; i++)
		pd[i] = i * LARGE_PAGE_BYTES | PTE_PRESENT | PTE_WRITE | PTE_LARGE;

	const uint8_t stub[] = {
		0x66, 0xba, PORT_TIMELINE & 0xff, PORT_TIMELINE >> 8, /* mov $PORT_TIMELINE, %dx */
		0xb0, TIMELINE_KERNEL,                                /* mov $TIMELINE_KERNEL, %al */
		0xee,                                                 /* out %al, %dx */
		0xff, 0xe3,                                           /* jmp *%rbx */
	};
	int rc = mem_write(m, GPA(GDT_GPA), gdt, sizeof gdt);
	return rc ? rc : mem_write(m, GPA(STUB_GPA), stub, sizeof stub);
}

/* General registers at the stub, which enters the kernel at `entry_gpa`. */
void cpu_boot_regs(uint64_t entry_gpa, struct kvm_regs *regs)
{
	*regs = (struct kvm_regs){
		.rip = STUB_GPA,
		.rbx = entry_gpa,
		.rsi = BOOT_PARAMS_GPA,
		.rsp = STUB_STACK_GPA,
		.rflags = 2, /* reserved, always 1 */
	};
}

/* Changes the reset state of a CPU, as KVM_GET_SREGS gave it, to flat 64-bit mode on our tables. */
void cpu_boot_sregs(struct kvm_sregs *s)
{
	const struct kvm_segment code = {
		.limit = UINT32_MAX, .selector = SELECTOR_CODE, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	const struct kvm_segment data = {
		.limit = UINT32_MAX, .selector = SELECTOR_DATA, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
	s->cs = code;
	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->gdt = (struct kvm_dtable){.base = GDT_GPA, .limit = 4 * 8 - 1};
	s->idt = (struct kvm_dtable){0};
	s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_PG;
	s->cr3 = PAGE_TABLES_GPA;
	s->cr4 = CR4_PAE;
	s->efer = EFER_LME | EFER_LMA;
}
