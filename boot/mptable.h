/* The MultiProcessor table: how the guest learns of its CPUs and interrupt lines without ACPI. */
#ifndef CAPLOCK_BOOT_MPTABLE_H
#define CAPLOCK_BOOT_MPTABLE_H

struct mem;

int mptable_write(const struct mem *m, unsigned cpus, unsigned devices);

#endif
