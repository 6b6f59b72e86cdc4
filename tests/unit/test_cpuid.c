/* boot/cpuid.c: what the guest learns about its CPUs, from made-up Intel and AMD hosts. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "boot/cpu.h"

static struct cpuid c;

static struct kvm_cpuid_entry2 *leaf(uint32_t function, uint32_t index)
{
	for (unsigned i = 0; i < c.head.nent; i++)
		if (c.entry[i].function == function && c.entry[i].index == index)
			return &c.entry[i];
	cr_assert_fail("no leaf %#x", function);
	abort();
}

static void add(uint32_t function, uint32_t index, uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx)
{
	c.entry[c.head.nent++] = (struct kvm_cpuid_entry2){.function = function, .index = index, .eax = eax, .ebx = ebx,
							   .ecx = ecx, .edx = edx};
}

/* A host with every feature bit set. */
static void make_host(bool amd)
{
	memset(&c, 0, sizeof c);
	if (amd)
		add(0, 0, 0x10, 0x68747541, 0x444d4163, 0x69746e65);
	else
		add(0, 0, 0x1f, 0x756e6547, 0x6c65746e, 0x49656e69);
	add(1, 0, 0x906ea, 0x55ffaa00, UINT32_MAX, UINT32_MAX);
	add(4, 0, 0xfc004121, 1, 2, 3);
	add(4, 3, 0xfc1fc163, 1, 2, 3);
	add(6, 0, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX);
	add(7, 0, 2, UINT32_MAX, UINT32_MAX, UINT32_MAX);
	add(0xa, 0, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX);
	add(0xb, 0, 1, 2, 0x100, 77);
	add(0xb, 1, 7, 96, 0x201, 77);
	add(0xb, 2, 7, 96, 0x2, 77);
	add(0x80000001, 0, 0, 0, UINT32_MAX, UINT32_MAX);
	add(0x80000008, 0, 0x3030, 0, 0x703f, 0);
	add(0x8000000a, 0, 1, 2, 3, 4);
	add(0x8000001d, 3, 0xffc163, 0, 0, 0);
	add(0x8000001e, 0, 77, 77, 77, 0);
	add(0x40000001, 0, 0x1000008, 0, 0, 0);
}

Test(cpuid, offers_what_saves_boot_time)
{
	make_host(false);
	cpuid_filter(&c, 1, true);
	cr_expect(leaf(1, 0)->ecx & 1u << 24, "TSC deadline");
	cr_expect(leaf(1, 0)->ecx & 1u << 31, "hypervisor");
	cr_expect(leaf(1, 0)->ecx & 1u << 21, "x2APIC");
	cr_expect_eq(leaf(6, 0)->eax, 4, "ARAT and nothing else");
	cr_expect_eq(leaf(0x40000001, 0)->eax, 0x1000008, "kvmclock stays");
	make_host(false);
	cpuid_filter(&c, 1, false);
	cr_expect_not(leaf(1, 0)->ecx & 1u << 24, "TSC deadline without KVM's support");
}

Test(cpuid, hides_what_a_sandbox_cannot_use)
{
	for (int amd = 0; amd < 2; amd++) {
		make_host(amd);
		cpuid_filter(&c, 2, true);
		cr_expect_not(leaf(1, 0)->ecx & 1u << 5, "VMX");
		cr_expect_not(leaf(1, 0)->ecx & 1u << 3, "MONITOR");
		cr_expect_not(leaf(7, 0)->ebx & 1u << 2, "SGX");
		cr_expect_not(leaf(7, 0)->ebx & 1u << 25, "processor trace");
		cr_expect(leaf(7, 0)->ebx & 1u << 5, "AVX2 stays");
		cr_expect_not(leaf(0x80000001, 0)->ecx & 1u << 2, "SVM");
		cr_expect_not(leaf(0x80000001, 0)->ecx & 1u << 29, "MWAITX");
		cr_expect(leaf(0x80000001, 0)->ecx & 1u << 5, "LZCNT stays");
		cr_expect_eq(leaf(0xa, 0)->eax | leaf(0xa, 0)->edx, 0, "performance counters");
		cr_expect_eq(leaf(0x8000000a, 0)->eax | leaf(0x8000000a, 0)->edx, 0, "SVM details");
	}
}

Test(cpuid, describes_one_package_of_single_thread_cores)
{
	make_host(false);
	cpuid_filter(&c, 6, true);
	cr_expect_eq(leaf(1, 0)->ebx >> 16 & 0xff, 6);
	cr_expect(leaf(1, 0)->edx & 1u << 28);
	cr_expect_eq(leaf(0xb, 0)->eax, 0);
	cr_expect_eq(leaf(0xb, 0)->ebx, 1);
	cr_expect_eq(leaf(0xb, 0)->ecx, 0x100);
	cr_expect_eq(leaf(0xb, 1)->eax, 3, "6 ids take 3 bits");
	cr_expect_eq(leaf(0xb, 1)->ebx, 6);
	cr_expect_eq(leaf(0xb, 1)->ecx, 0x201);
	cr_expect_eq(leaf(0xb, 2)->ebx, 0);
	cr_expect_eq(leaf(0xb, 2)->ecx, 2);
	cr_expect_eq(leaf(4, 0)->eax >> 14 & 0xfff, 0, "the first level is a core's own");
	cr_expect_eq(leaf(4, 3)->eax >> 14 & 0xfff, 7, "the last level is shared");
	make_host(true);
	cpuid_filter(&c, 6, true);
	cr_expect_eq(leaf(0x80000008, 0)->ecx & 0xff, 5);
	cr_expect_eq(leaf(0x80000008, 0)->ecx >> 12 & 0xf, 3);
	make_host(false);
	cpuid_filter(&c, 1, true);
	cr_expect_not(leaf(1, 0)->edx & 1u << 28, "one CPU has no siblings");
}

/* KVM since Linux 6.2 gives one entry, which says that there are no levels. */
Test(cpuid, describes_the_topology_also_where_kvm_does_not)
{
	memset(&c, 0, sizeof c);
	add(0, 0, 0x1f, 0x756e6547, 0x6c65746e, 0x49656e69);
	add(0xb, 0, 0, 0, 0, 77);
	add(0x1f, 0, 0, 0, 0, 77);
	cpuid_filter(&c, 4, true);
	cr_expect_eq(c.head.nent, 4, "0, and 0xb three times");
	cr_expect_eq(leaf(0xb, 0)->ebx, 1);
	cr_expect_eq(leaf(0xb, 1)->eax, 2);
	cr_expect_eq(leaf(0xb, 1)->ebx, 4);
	cr_expect_eq(leaf(0xb, 1)->flags, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
	cpuid_set_cpu(&c, 3);
	cr_expect_eq(leaf(0xb, 1)->edx, 3);
	memset(&c, 0, sizeof c);
	add(0, 0, 0xa, 0x756e6547, 0x6c65746e, 0x49656e69);
	cpuid_filter(&c, 4, true);
	cr_expect_eq(c.head.nent, 1, "a CPU without that leaf");
}

Test(cpuid, gives_every_cpu_its_id)
{
	make_host(true);
	cpuid_filter(&c, 4, true);
	for (unsigned cpu = 0; cpu < 4; cpu++) {
		cpuid_set_cpu(&c, cpu);
		cr_expect_eq(leaf(1, 0)->ebx >> 24, cpu);
		cr_expect_eq(leaf(0xb, 1)->edx, cpu);
		cr_expect_eq(leaf(0x8000001e, 0)->eax, cpu);
	}
}
