/* Three devices answer with virtio's magic, further slots and the gaps read as zero, and wild accesses are harmless. */
#include "tests/guests/guest.h"

static uint64_t slot(unsigned n) { return MMIO_DEVICE_GPA + n * MMIO_DEVICE_BYTES; }

void start(void *unused, void *boot_params)
{
	(void)unused, (void)boot_params;
	uint64_t *pml4 = (uint64_t *)PAGE_TABLES_GPA;
	uint64_t *pdpt = (uint64_t *)(pml4[0] & ~0xfffull);
	pdpt[3] = 0xc0000000ull | 0x83;
	__asm__ volatile("mov %%cr3, %%rax; mov %%rax, %%cr3" : : : "rax", "memory");
	static const uint32_t ids[] = {2, 2, 1, 19}; /* disks, network, vsock */
	for (unsigned i = 0; i < 4; i++) {
		claim(mmio_get(slot(i)) == 0x74726976, "magic");
		claim(mmio_get(slot(i) + 4) == 2, "version 2");
		claim(mmio_get(slot(i) + 8) == ids[i], "device id");
		claim(mmio_get(slot(i) + 0x70) == 0, "status 0 after reset");
	}
	for (unsigned i = 4; i < MMIO_DEVICES_MAX; i++)
		claim(mmio_get(slot(i)) == 0, "an empty slot");
	claim(mmio_get(MMIO_DEVICE_GPA - 4) == 0, "nothing before the first device");
	for (unsigned i = 0; i < 4; i++)
		for (uint64_t offset = 0; offset < MMIO_DEVICE_BYTES; offset++) {
			*(volatile uint8_t *)(slot(i) + offset) = 0xff;
			(void)*(volatile uint8_t *)(slot(i) + offset);
			if (offset % 4 == 0) {
				mmio_put(slot(i) + offset, 0xffffffff);
				(void)mmio_get(slot(i) + offset);
			}
			if (offset % 8 == 0) {
				*(volatile uint64_t *)(slot(i) + offset) = ~0ull;
				(void)*(volatile uint64_t *)(slot(i) + offset);
			}
		}
	for (unsigned i = 0; i < 4; i++) {
		mmio_put(slot(i) + 0x70, 0);
		claim(mmio_get(slot(i) + 0x70) == 0, "reset after nonsense");
	}
	done();
}
