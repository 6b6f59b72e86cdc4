#include "boot/mptable.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "boot/layout.h"
#include "vmm/machine/mem.h"

/* Layouts of the MultiProcessor Specification 1.4, chapter 4. All are naturally packed. */
struct mp_floating {
	char signature[4]; /* "_MP_" */
	uint32_t table_gpa;
	uint8_t length_16; /* in units of 16 bytes */
	uint8_t revision;
	uint8_t checksum;
	uint8_t features[5];
};

struct mp_header {
	char signature[4]; /* "PCMP" */
	uint16_t length_bytes;
	uint8_t revision;
	uint8_t checksum;
	char oem[8];
	char product[12];
	uint32_t oem_table;
	uint16_t oem_size;
	uint16_t entries;
	uint32_t lapic_gpa;
	uint32_t reserved;
};

struct mp_cpu {
	uint8_t type; /* 0 */
	uint8_t apic_id;
	uint8_t apic_version;
	uint8_t flags; /* 1: usable, 2: boot CPU */
	uint32_t signature;
	uint32_t features;
	uint32_t reserved[2];
};

struct mp_bus {
	uint8_t type; /* 1 */
	uint8_t id;
	char name[6];
};

struct mp_ioapic {
	uint8_t type; /* 2 */
	uint8_t id;
	uint8_t version;
	uint8_t flags; /* 1: usable */
	uint32_t gpa;
};

struct mp_interrupt {
	uint8_t type;    /* 3: I/O interrupt, 4: local interrupt */
	uint8_t kind;    /* 0: INT, 1: NMI, 3: ExtINT */
	uint16_t flags;  /* 0: polarity and trigger as usual for the bus: edge, active high */
	uint8_t bus;
	uint8_t bus_irq;
	uint8_t apic; /* destination; 255: all local APICs */
	uint8_t pin;
};

enum {
	LAPIC_VERSION = 0x14,
	IOAPIC_VERSION = 0x11,
	TABLE_MAX_BYTES = MP_FLOATING_GPA - MP_TABLE_GPA,
};

static uint8_t checksum(const void *p, size_t len_bytes)
{
	uint8_t sum = 0;
	for (size_t i = 0; i < len_bytes; i++)
		sum += ((const uint8_t *)p)[i];
	return (uint8_t)-sum;
}

struct writer {
	uint8_t *at;
	unsigned entries;
};

static void put(struct writer *w, const void *entry, size_t len_bytes)
{
	memcpy(w->at, entry, len_bytes);
	w->at += len_bytes;
	w->entries++;
}

static void put_irq(struct writer *w, uint8_t ioapic_id, unsigned irq)
{
	put(w, &(struct mp_interrupt){.type = 3, .bus_irq = (uint8_t)irq, .apic = ioapic_id, .pin = (uint8_t)irq},
	    sizeof(struct mp_interrupt));
}

/*
 * Writes the floating pointer and the configuration table: `cpus` local APICs with ids 0.., one I/O APIC with the interrupts
 * of the timer and of the first `devices` devices on the pins of the same number (Linux programs every pin that is listed,
 * and each of its accesses is an exit), and the local interrupt pins. Returns 0, -EFAULT where guest memory ends before the
 * table, or -E2BIG where there are too many CPUs for it.
 */
int mptable_write(const struct mem *m, unsigned cpus, unsigned devices)
{
	uint8_t *table = mem_at(m, GPA(MP_TABLE_GPA), TABLE_MAX_BYTES);
	if (!table)
		return -EFAULT;
	const uint8_t ioapic_id = (uint8_t)cpus;
	if (cpus > 254 || sizeof(struct mp_header) + cpus * sizeof(struct mp_cpu) + (devices + 4) * 8 > TABLE_MAX_BYTES)
		return -E2BIG;

	struct writer w = {.at = table + sizeof(struct mp_header)};
	for (unsigned i = 0; i < cpus; i++)
		put(&w,
		    &(struct mp_cpu){.apic_id = (uint8_t)i, .apic_version = LAPIC_VERSION, .flags = i ? 1 : 3, .signature = 0x600,
				     .features = 0x201 /* FPU, APIC */},
		    sizeof(struct mp_cpu));
	put(&w, &(struct mp_bus){.type = 1, .id = 0, .name = "ISA   "}, sizeof(struct mp_bus));
	put(&w, &(struct mp_ioapic){.type = 2, .id = ioapic_id, .version = IOAPIC_VERSION, .flags = 1, .gpa = IOAPIC_GPA},
	    sizeof(struct mp_ioapic));
	put_irq(&w, ioapic_id, 0);
	for (unsigned i = 0; i < devices; i++)
		put_irq(&w, ioapic_id, MMIO_DEVICE_IRQ + i);
	put(&w, &(struct mp_interrupt){.type = 4, .kind = 1, .apic = 255, .pin = 1}, sizeof(struct mp_interrupt));

	struct mp_header h = {
		.signature = "PCMP",
		.length_bytes = (uint16_t)(w.at - table),
		.revision = 4,
		.oem = "CAPLOCK ",
		.product = "MICROVM     ",
		.entries = (uint16_t)w.entries,
		.lapic_gpa = LAPIC_GPA,
	};
	memcpy(table, &h, sizeof h);
	((struct mp_header *)table)->checksum = checksum(table, h.length_bytes);

	struct mp_floating f = {.signature = "_MP_", .table_gpa = MP_TABLE_GPA, .length_16 = 1, .revision = 4};
	f.checksum = checksum(&f, sizeof f);
	return mem_write(m, GPA(MP_FLOATING_GPA), &f, sizeof f);
}
