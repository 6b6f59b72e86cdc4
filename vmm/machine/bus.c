#include "vmm/machine/bus.h"

#include <string.h>

#include "vmm/machine/machine_priv.h"

enum { I8042_RESET = 0xfe };

/* Reads a port. What nothing answers at reads as all ones, except the keyboard controller: not busy. */
uint32_t bus_port_read(struct machine *m, uint16_t port, unsigned len_bytes)
{
	(void)len_bytes;
	if (port >= PORT_SERIAL && port < PORT_SERIAL + 8) {
		pthread_mutex_lock(&m->serial_lock);
		uint32_t value = serial_read(&m->serial, port - PORT_SERIAL);
		pthread_mutex_unlock(&m->serial_lock);
		return value;
	}
	return port == PORT_I8042_CMD ? 0 : UINT32_MAX;
}

static void serial_output(struct machine *m, unsigned reg, uint8_t value)
{
	pthread_mutex_lock(&m->serial_lock);
	bool sent = serial_write(&m->serial, reg, value);
	bool halted = sent && serial_says_halted(&m->serial, (char)value);
	if (sent)
		console_write(m->status, (char)value);
	pthread_mutex_unlock(&m->serial_lock);
	if (halted)
		machine_end(m, MACHINE_HALTED, NULL);
	else if (sent && value == '\n')
		machine_tell(m);
}

/* Writes a port. Writes that nothing listens to are dropped. */
void bus_port_write(struct machine *m, uint16_t port, unsigned len_bytes, uint32_t value)
{
	(void)len_bytes;
	if (port == PORT_TIMELINE) {
		if (value == TIMELINE_KERNEL || value == TIMELINE_INIT)
			timeline_stamp(m->status, (enum timeline_moment)value);
	} else if (port >= PORT_SERIAL && port < PORT_SERIAL + 8) {
		serial_output(m, port - PORT_SERIAL, (uint8_t)value);
	} else if (port == PORT_I8042_CMD && (value & 0xff) == I8042_RESET) {
		machine_end(m, MACHINE_RESET, NULL);
	}
}

/* The device whose registers `gpa` is in, with the offset among them; NULL where there is none. */
static struct virtio_device *device_at(struct machine *m, uint64_t gpa, uint64_t *offset)
{
	uint64_t index = (gpa - MMIO_DEVICE_GPA) / MMIO_DEVICE_BYTES;
	if (gpa < MMIO_DEVICE_GPA || index >= m->slots)
		return NULL;
	*offset = (gpa - MMIO_DEVICE_GPA) % MMIO_DEVICE_BYTES;
	return m->slot[index].device;
}

static bool is_ioapic(uint64_t gpa)
{
	return gpa >= IOAPIC_GPA && gpa - IOAPIC_GPA < IOAPIC_BYTES;
}

/* Reads `len_bytes` (at most 8) of MMIO; zeroes where there is no register of that width. */
void bus_mmio_read(struct machine *m, uint64_t gpa, void *to, unsigned len_bytes)
{
	uint64_t offset, value = 0;
	struct virtio_device *d = device_at(m, gpa, &offset);
	if (d && len_bytes <= 4)
		value = mmio_read(d, offset, len_bytes);
	else if (is_ioapic(gpa) && len_bytes == 4)
		value = ioapic_read(&m->ioapic, gpa - IOAPIC_GPA);
	memcpy(to, &value, len_bytes);
}

/* Writes `len_bytes` (at most 8) of MMIO; dropped where there is no register of that width. */
void bus_mmio_write(struct machine *m, uint64_t gpa, const void *from, unsigned len_bytes)
{
	uint64_t offset;
	uint32_t value = 0;
	struct virtio_device *d = device_at(m, gpa, &offset);
	if (len_bytes > sizeof value)
		return;
	memcpy(&value, from, len_bytes);
	if (d)
		mmio_write(d, offset, len_bytes, value);
	else if (is_ioapic(gpa) && len_bytes == 4 && ioapic_write(&m->ioapic, gpa - IOAPIC_GPA, value))
		machine_end(m, MACHINE_KVM_FAILED, "KVM refuses the guest's interrupt routes");
}
