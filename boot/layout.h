/*
 * The guest-physical map. Everything the loader places and everything the devices answer at is listed here, so that
 * an overlap can be seen.
 *
 *   0x0000_1000  GDT                      0x0000_7000  boot_params ("zero page")
 *   0x0000_2000  entry stub               0x0000_9000  page tables (PML4, PDPT, one page directory)
 *   0x0000_3000  setup_data (RNG seed)    0x0002_0000  kernel command line
 *   0x0000_8ff0  stack top of the stub
 *   0x0009_e000  MP table, and its floating pointer at 0x9_fc00 (not RAM in e820, up to 0xa_0000)
 *   0x000a_0000 .. 0x0010_0000            not RAM in e820, as on a PC
 *   0x0010_0000 ..                        the kernel, where its ELF headers say
 *   top of the first GiB, downwards       initramfs
 *   0xc000_0000 .. 0x1_0000_0000          no memory: virtio-mmio, I/O APIC, local APIC
 *   0x1_0000_0000 ..                      the rest of memory
 */
#ifndef CAPLOCK_BOOT_LAYOUT_H
#define CAPLOCK_BOOT_LAYOUT_H

#define GDT_GPA 0x1000ull
#define STUB_GPA 0x2000ull
#define SETUP_DATA_GPA 0x3000ull
#define BOOT_PARAMS_GPA 0x7000ull
#define STUB_STACK_GPA 0x8ff0ull
#define PAGE_TABLES_GPA 0x9000ull
#define CMDLINE_GPA 0x20000ull
#define CMDLINE_MAX_BYTES 4096u
#define MP_TABLE_GPA 0x9e000ull
#define MP_FLOATING_GPA 0x9fc00ull
#define LOW_HOLE_START_GPA 0xa0000ull
#define LOW_HOLE_END_GPA 0x100000ull

/* What the page tables of the entry map, one to one: all that the kernel needs before it has its own. */
#define IDENTITY_MAP_BYTES 0x40000000ull

#define MEM_HOLE_START_GPA 0xc0000000ull
#define MEM_HOLE_END_GPA 0x100000000ull

#define IOAPIC_GPA 0xfec00000u
#define LAPIC_GPA 0xfee00000u

/* virtio-mmio: one page and one interrupt line each. */
#define MMIO_DEVICE_GPA 0xd0000000ull
#define MMIO_DEVICE_BYTES 0x1000ull
#define MMIO_DEVICE_IRQ 1u
#define MMIO_DEVICES_MAX 8u

/* I/O ports. */
#define PORT_SERIAL 0x3f8u   /* a polled 8250, 8 ports */
#define PORT_I8042_CMD 0x64u /* 0xfe written to it resets the machine */
#define PORT_TIMELINE 0x510u /* one byte: which moment of the boot this is (struct timeline) */

#endif
