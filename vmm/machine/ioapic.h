/* The I/O APIC, which tells KVM what message each device's interrupt is (split irqchip). */
#ifndef CAPLOCK_MACHINE_IOAPIC_H
#define CAPLOCK_MACHINE_IOAPIC_H

#include <pthread.h>
#include <stdint.h>

#include "boot/layout.h"

enum {
	IOAPIC_PINS_MAX = MMIO_DEVICE_IRQ + MMIO_DEVICES_MAX,
	IOAPIC_BYTES = 0x20, /* of registers */
};

struct ioapic {
	int vm_fd;
	pthread_mutex_t lock;
	uint32_t selected;
	uint32_t id;
	unsigned pins;
	uint64_t entry[IOAPIC_PINS_MAX];
};

void ioapic_init(struct ioapic *a, int vm_fd, unsigned pins);
uint32_t ioapic_read(struct ioapic *a, uint64_t offset);
int ioapic_write(struct ioapic *a, uint64_t offset, uint32_t value);

#endif
