/* The state at the kernel's entry is what the 64-bit boot protocol asks for, and memory is zero but for what is loaded. */
#include <asm/bootparam.h>

#include "tests/guests/guest.h"

static volatile uint8_t bss[100000];

void start(void *unused, void *boot_params)
{
	const struct boot_params *p = boot_params;
	(void)unused;
	uint16_t cs, ds, ss;
	uint64_t flags, cr0, cr4;
	__asm__ volatile("mov %%cs, %0; mov %%ds, %1; mov %%ss, %2" : "=r"(cs), "=r"(ds), "=r"(ss));
	__asm__ volatile("pushfq; pop %0" : "=r"(flags));
	__asm__ volatile("mov %%cr0, %0; mov %%cr4, %1" : "=r"(cr0), "=r"(cr4));
	claim((uint64_t)p == BOOT_PARAMS_GPA, "RSI is boot_params");
	claim(cs == 0x10 && ds == 0x18 && ss == 0x18, "segments");
	claim(!(flags & 0x200), "interrupts are off");
	claim(cr0 & 1 && cr0 & 1u << 31 && cr4 & 1 << 5, "protected mode, paging, PAE");
	claim(p->hdr.header == 0x53726448, "HdrS");
	claim(p->hdr.setup_data == SETUP_DATA_GPA, "setup_data");
	claim(p->e820_entries >= 2, "memory map");
	claim(p->hdr.ramdisk_size > 0, "initramfs");
	claim(*(const uint32_t *)(uint64_t)p->hdr.ramdisk_image == 0x37303730, "initramfs is a cpio archive");
	const struct setup_data *seed = (const void *)p->hdr.setup_data;
	uint8_t any = 0;
	for (unsigned i = 0; i < seed->len; i++)
		any |= seed->data[i];
	claim(seed->type == SETUP_RNG_SEED && seed->len == 32 && any, "seed");
	for (unsigned i = 0; i < sizeof bss; i++)
		claim(bss[i] == 0, "bss is zero");
	done();
}
