/* The inside of a machine, shared by the files of vmm/machine. */
#ifndef CAPLOCK_MACHINE_PRIV_H
#define CAPLOCK_MACHINE_PRIV_H

#include <pthread.h>

#include "boot/layout.h"
#include "vmm/jail/jail.h"
#include "vmm/machine/ioapic.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/mem.h"
#include "vmm/machine/serial.h"
#include "vmm/machine/status.h"
#include "vmm/machine/vcpu.h"
#include "vmm/util/loop.h"
#include "virtio/device.h"

/* One queue's notifications: an eventfd that KVM signals when the guest writes the queue's number. */
struct notify_source {
	struct loop_source source;
	struct virtio_device *device;
	unsigned queue;
};

struct slot {
	struct virtio_device *device;
	struct notify_source notify[VIRTIO_QUEUES_MAX];
};

/* A thread that runs a loop of devices. */
struct io_thread {
	struct machine *machine;
	const char *name;
	enum jail_role role;
	struct loop loop;
	pthread_t thread;
};

struct machine {
	const struct machine_config *config;
	struct machine_status *status;
	int kvm_fd, vm_fd;
	clockid_t parent_clock; /* CPU time of the supervisor */
	struct mem mem;
	uint64_t entry_gpa;
	struct vcpu vcpu[MACHINE_CPUS_MAX];
	struct ioapic ioapic;
	struct slot slot[MMIO_DEVICES_MAX];
	unsigned slots;
	struct virtio_device *vsock;
	struct loop main_loop;
	struct io_thread disk, net; /* disk I/O blocks; the network is busy */
	struct loop_source control;
	pthread_mutex_t serial_lock;
	struct serial serial;
};

void machine_end(struct machine *m, enum machine_outcome outcome, const char *detail);
void machine_tell(struct machine *m);
void machine_stamp_run(struct machine *m);

#endif
