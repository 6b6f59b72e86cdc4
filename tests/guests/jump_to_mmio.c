/* Running code where a device is cannot be emulated: KVM gives up, and that ends the machine. */
#include "tests/guests/guest.h"

void start(void *unused, void *boot_params)
{
	(void)unused, (void)boot_params;
	/* The kernel's page tables map the first GiB only; map the device's there. */
	uint64_t *pml4 = (uint64_t *)PAGE_TABLES_GPA;
	uint64_t *pdpt = (uint64_t *)(pml4[0] & ~0xfffull);
	pdpt[3] = 0xc0000000ull | 0x83; /* a page of 1 GiB */
	__asm__ volatile("mov %%cr3, %%rax; mov %%rax, %%cr3" : : : "rax", "memory");
	((void (*)(void))MMIO_DEVICE_GPA)();
	stop();
}
