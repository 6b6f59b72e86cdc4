/* Puts a Linux kernel and all it needs into guest memory. */
#ifndef CAPLOCK_BOOT_BOOT_H
#define CAPLOCK_BOOT_BOOT_H

#include <stddef.h>
#include <stdint.h>

struct err;
struct mem;

struct boot_config {
	int kernel_fd;           /* an ELF vmlinux; not owned */
	const char *kernel_path; /* for messages */
	const void *initrd;
	size_t initrd_bytes; /* 0: none */
	const char *cmdline;
	unsigned cpus;
	unsigned devices; /* virtio-mmio devices, boot/layout.h */
	uint8_t seed[32]; /* for the guest's random number generator */
};

int boot_load(struct mem *m, const struct boot_config *c, uint64_t *entry_gpa, struct err *e);

#endif
