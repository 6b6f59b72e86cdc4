/* CPUID offers what saves time and hides what a sandbox cannot use. */
#include "tests/guests/guest.h"

static void cpuid(uint32_t leaf, uint32_t r[4])
{
	__asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(0));
}

void start(void *unused, void *boot_params)
{
	(void)unused, (void)boot_params;
	uint32_t r[4];
	cpuid(1, r);
	claim(r[2] & 1u << 31, "hypervisor");
	claim(!(r[2] & 1u << 5), "no VMX");
	claim(!(r[2] & 1u << 3), "no MONITOR");
	claim(r[1] >> 24 == 0, "APIC id 0");
	claim((r[1] >> 16 & 0xff) == 1, "one logical processor");
	cpuid(0x40000000, r);
	claim(r[1] == 0x4b4d564b, "KVM's signature");
	cpuid(0x40000001, r);
	claim(r[0] & 1 << 3, "kvmclock");
	cpuid(0x80000000, r);
	if (r[0] >= 0x80000001) {
		cpuid(0x80000001, r);
		claim(!(r[2] & 1 << 2), "no SVM");
	}
	done();
}
