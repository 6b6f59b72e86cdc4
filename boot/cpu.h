/* The state of the boot CPU at the kernel's 64-bit entry point, and what CPUID tells the guest. */
#ifndef CAPLOCK_BOOT_CPU_H
#define CAPLOCK_BOOT_CPU_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

struct mem;

enum { CPUID_ENTRIES_MAX = 256 };

/* struct kvm_cpuid2 with room for its entries. */
struct cpuid {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 entry[CPUID_ENTRIES_MAX];
};

int cpu_write_tables(const struct mem *m);
void cpu_boot_regs(uint64_t entry_gpa, struct kvm_regs *regs);
void cpu_boot_sregs(struct kvm_sregs *sregs);

void cpuid_filter(struct cpuid *c, unsigned cpus, bool tsc_deadline);
void cpuid_set_cpu(struct cpuid *c, unsigned index);

#endif
