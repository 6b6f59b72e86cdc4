/*
 * The I/O APIC (82093AA data sheet, 3.1 and 3.2).
 *
 * Purpose: with KVM's split irqchip the local APICs are in the kernel and this is ours. An interrupt never passes through
 * here: a device's eventfd makes KVM send the message that the guest programmed for its pin, a route, which changes only
 * when the guest does. Pins are edge-triggered; there is nothing to acknowledge.
 *
 * Why not KVM's own: with it comes a PIC, and Linux then reads and masks all of its 24 pins twice. That is 600 exits of a boot.
 */
#include "vmm/machine/ioapic.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <sys/ioctl.h>

enum {
	IOREGSEL = 0x00,
	IOWIN = 0x10,
	REG_ID = 0,
	REG_VERSION = 1,
	REG_ARBITRATION = 2,
	REG_TABLE = 0x10, /* two registers for each pin */
	VERSION = 0x11,
	ID_MASK = 0xf << 24,
};

#define ENTRY_MASKED (1ull << 16)
#define ENTRY_READ_ONLY (1ull << 12 | 1ull << 14) /* delivery status, remote IRR: always 0 here */

/*
 * Initialises the state after reset: every pin is masked. `vm_fd` is not owned. `pins`, 1..IOAPIC_PINS_MAX: as many as are
 * used, because Linux reads and writes the registers of each a dozen times, and each access is an exit.
 */
void ioapic_init(struct ioapic *a, int vm_fd, unsigned pins)
{
	*a = (struct ioapic){.vm_fd = vm_fd, .pins = pins};
	pthread_mutex_init(&a->lock, NULL);
	for (unsigned pin = 0; pin < a->pins; pin++)
		a->entry[pin] = ENTRY_MASKED;
}

/* The message of an entry (Intel SDM volume 3, 11.11): the fields are the same, elsewhere. */
static struct kvm_irq_routing_entry route(unsigned pin, uint64_t entry)
{
	uint32_t destination = (uint32_t)(entry >> 56), logical = entry >> 11 & 1;
	uint32_t vector_and_mode = entry & 0x7ff, level = entry >> 15 & 1;
	return (struct kvm_irq_routing_entry){
		.gsi = pin,
		.type = KVM_IRQ_ROUTING_MSI,
		.u.msi = {.address_lo = 0xfee00000u | destination << 12 | logical << 2,
			  .data = vector_and_mode | level << 15 | level << 14},
	};
}

/* Gives KVM the messages of all pins that are not masked (KVM_SET_GSI_ROUTING). Returns 0 or -errno. */
static int update_routes(const struct ioapic *a)
{
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entry[IOAPIC_PINS_MAX];
	} routing = {0};
	for (unsigned pin = 0; pin < a->pins; pin++)
		if (!(a->entry[pin] & ENTRY_MASKED))
			routing.entry[routing.head.nr++] = route(pin, a->entry[pin]);
	return ioctl(a->vm_fd, KVM_SET_GSI_ROUTING, &routing) ? -errno : 0;
}

static uint32_t read_selected(const struct ioapic *a)
{
	unsigned pin = (a->selected - REG_TABLE) / 2;
	if (a->selected == REG_ID || a->selected == REG_ARBITRATION)
		return a->id;
	if (a->selected == REG_VERSION)
		return VERSION | (a->pins - 1) << 16;
	if (a->selected < REG_TABLE || pin >= a->pins)
		return UINT32_MAX;
	return (uint32_t)(a->entry[pin] >> (a->selected % 2 * 32));
}

static int write_selected(struct ioapic *a, uint32_t value)
{
	unsigned pin = (a->selected - REG_TABLE) / 2, shift = a->selected % 2 * 32;
	if (a->selected == REG_ID)
		a->id = value & ID_MASK;
	if (a->selected < REG_TABLE || pin >= a->pins)
		return 0;
	uint64_t old = a->entry[pin];
	uint64_t new = ((old & ~(0xffffffffull << shift)) | (uint64_t)value << shift) & ~ENTRY_READ_ONLY;
	a->entry[pin] = new;
	bool matters = new != old && !(old & new & ENTRY_MASKED);
	return matters ? update_routes(a) : 0;
}

/* Reads the register at `offset`; all ones where there is none. Any thread. */
uint32_t ioapic_read(struct ioapic *a, uint64_t offset)
{
	pthread_mutex_lock(&a->lock);
	uint32_t value = offset == IOREGSEL ? a->selected : offset == IOWIN ? read_selected(a) : UINT32_MAX;
	pthread_mutex_unlock(&a->lock);
	return value;
}

/* Writes the register at `offset`; dropped where there is none. Any thread. Returns 0, or -errno where KVM fails. */
int ioapic_write(struct ioapic *a, uint64_t offset, uint32_t value)
{
	int rc = 0;
	pthread_mutex_lock(&a->lock);
	if (offset == IOREGSEL)
		a->selected = value & 0xff;
	else if (offset == IOWIN)
		rc = write_selected(a, value);
	pthread_mutex_unlock(&a->lock);
	return rc;
}
