/*
 * CPUID for the guest: what KVM supports on this host, minus what a sandbox cannot use or should not see.
 *
 * Set:     TSC-deadline timer and ARAT (without them the kernel calibrates the local APIC timer for 100 ms), the
 *          hypervisor bit, x2APIC, and the topology: `cpus` cores of one thread in one package.
 * Cleared: nested virtualization, MONITOR/MWAIT, performance counters, debug store, processor trace, IBS, thermal and
 *          power management, SGX and memory encryption, and host topology.
 *
 * Leaves: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; Documentation/virt/kvm/x86/cpuid.rst.
 */
#include <string.h>

#include "boot/cpu.h"

#define BIT(n) (1u << (n))

/* Bits that an id of `cpus` values takes. */
static unsigned id_bits(unsigned cpus)
{
	return cpus <= 1 ? 0 : 32 - (unsigned)__builtin_clz(cpus - 1);
}

static void filter_features(struct kvm_cpuid_entry2 *l, unsigned cpus, bool tsc_deadline)
{
	/* DTES64, MONITOR, DS-CPL, VMX, SMX, EST, TM2, CNXT-ID, SDBG, xTPR, PDCM, DCA */
	l->ecx &= ~(BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(10) | BIT(11) | BIT(14) | BIT(15) |
		    BIT(18));
	l->ecx |= BIT(21) | BIT(31); /* x2APIC, hypervisor */
	l->ecx = tsc_deadline ? l->ecx | BIT(24) : l->ecx & ~BIT(24);
	/* PSN, DS, ACPI, TM, IA64, PBE; HTT: more than one logical processor in the package */
	l->edx &= ~(BIT(18) | BIT(21) | BIT(22) | BIT(28) | BIT(29) | BIT(30) | BIT(31));
	l->edx |= cpus > 1 ? BIT(28) : 0;
	l->ebx = (l->ebx & 0x0000ffff) | (cpus & 0xff) << 16;
}

/*
 * Leaf 0xb, the levels of the topology, in place of what KVM gives: that has the host's levels, or, since Linux 6.2, one
 * entry that says there are none. 0x1f, which says the same in more words, is left out.
 */
static void replace_topology(struct cpuid *c, unsigned cpus)
{
	const struct kvm_cpuid_entry2 levels[] = {
		{.index = 0, .eax = 0, .ebx = 1, .ecx = 1 << 8},                 /* threads of a core: one */
		{.index = 1, .eax = id_bits(cpus), .ebx = cpus, .ecx = 2 << 8 | 1}, /* cores of the package */
		{.index = 2, .ecx = 2},                                          /* no more */
	};
	uint32_t max_leaf = 0;
	unsigned kept = 0;
	for (unsigned i = 0; i < c->head.nent; i++) {
		const struct kvm_cpuid_entry2 *l = &c->entry[i];
		if (l->function == 0)
			max_leaf = l->eax;
		if (l->function != 0xb && l->function != 0x1f)
			c->entry[kept++] = *l;
	}
	c->head.nent = kept;
	for (unsigned i = 0; i < 3 && max_leaf >= 0xb && c->head.nent < CPUID_ENTRIES_MAX; i++) {
		struct kvm_cpuid_entry2 *l = &c->entry[c->head.nent++];
		*l = levels[i];
		l->function = 0xb;
		l->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
	}
}

/* Leaf 4 and 0x8000001d: caches below the last level are per core, the last level is shared by all. */
static void filter_cache(struct kvm_cpuid_entry2 *l, unsigned cpus, bool intel)
{
	if ((l->eax & 0x1f) == 0)
		return;
	unsigned level = l->eax >> 5 & 7;
	l->eax &= intel ? 0x00003fff : ~0x03ffc000u;
	if (level >= 3)
		l->eax |= ((1u << id_bits(cpus)) - 1) << 14;
	if (intel)
		l->eax |= ((1u << id_bits(cpus)) - 1) << 26;
}

/* AMD and Hygon: the vendors that describe topology in leaf 0x80000008. */
static bool is_amd(const struct cpuid *c)
{
	const uint32_t auth = 0x68747541, hygo = 0x6f677948; /* the first four letters */
	return c->head.nent && c->entry[0].function == 0 && (c->entry[0].ebx == auth || c->entry[0].ebx == hygo);
}

/*
 * Filters `c`, which holds what KVM_GET_SUPPORTED_CPUID returned, for a guest of `cpus` CPUs. `tsc_deadline`: KVM has
 * the TSC-deadline timer. What differs from CPU to CPU is set by cpuid_set_cpu().
 */
void cpuid_filter(struct cpuid *c, unsigned cpus, bool tsc_deadline)
{
	bool amd = is_amd(c);
	replace_topology(c, cpus);
	for (unsigned i = 0; i < c->head.nent; i++) {
		struct kvm_cpuid_entry2 *l = &c->entry[i];
		switch (l->function) {
		case 0x1:
			filter_features(l, cpus, tsc_deadline);
			break;
		case 0x4:
			filter_cache(l, cpus, true);
			break;
		case 0x6: /* thermal and power */
			l->eax = BIT(2); /* ARAT */
			l->ebx = l->ecx = l->edx = 0;
			break;
		case 0x7:
			if (l->index == 0) {
				l->ebx &= ~(BIT(2) | BIT(12) | BIT(15) | BIT(25)); /* SGX, resource director, processor trace */
				l->ecx &= ~(BIT(5) | BIT(30));                     /* WAITPKG, SGX launch configuration */
				l->edx &= ~BIT(19);                                /* architectural LBR */
			}
			break;
		case 0x5:        /* MONITOR */
		case 0xa:        /* performance counters */
		case 0xf:        /* resource director */
		case 0x10:
		case 0x12:       /* SGX */
		case 0x14:       /* processor trace */
		case 0x1c:       /* last branch records */
		case 0x8000000a: /* SVM */
		case 0x8000001b: /* IBS */
		case 0x8000001f: /* memory encryption */
		case 0x80000022: /* performance counters */
			l->eax = l->ebx = l->ecx = l->edx = 0;
			break;
		case 0x80000001:
			/* SVM, IBS, SKINIT, WDT, LWP, node id MSR, performance counters, MWAITX */
			l->ecx &= ~(BIT(2) | BIT(10) | BIT(12) | BIT(13) | BIT(15) | BIT(19) | BIT(23) | BIT(24) | BIT(27) |
				    BIT(28) | BIT(29));
			break;
		case 0x80000008:
			if (amd)
				l->ecx = (l->ecx & ~0xf0ffu) | (cpus - 1) | id_bits(cpus) << 12;
			break;
		case 0x8000001d:
			filter_cache(l, cpus, false);
			break;
		}
	}
}

/* Sets what CPUID tells about the CPU with APIC id `index` itself. */
void cpuid_set_cpu(struct cpuid *c, unsigned index)
{
	for (unsigned i = 0; i < c->head.nent; i++) {
		struct kvm_cpuid_entry2 *l = &c->entry[i];
		switch (l->function) {
		case 0x1:
			l->ebx = (l->ebx & 0x00ffffff) | index << 24;
			break;
		case 0xb:
			l->edx = index;
			break;
		case 0x8000001e: /* APIC id, core id with one thread, node 0 of 1 */
			l->eax = index;
			l->ebx = index & 0xff;
			l->ecx = 0;
			break;
		}
	}
}
