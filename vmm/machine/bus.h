/* Where the guest's port and MMIO accesses go. Called from vCPU threads. Internal to vmm/machine. */
#ifndef CAPLOCK_MACHINE_BUS_H
#define CAPLOCK_MACHINE_BUS_H

#include <stdint.h>

struct machine;

uint32_t bus_port_read(struct machine *m, uint16_t port, unsigned len_bytes);
void bus_port_write(struct machine *m, uint16_t port, unsigned len_bytes, uint32_t value);
void bus_mmio_read(struct machine *m, uint64_t gpa, void *to, unsigned len_bytes);
void bus_mmio_write(struct machine *m, uint64_t gpa, const void *from, unsigned len_bytes);

#endif
