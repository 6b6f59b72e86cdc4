#include "vmm/machine/vcpu.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "boot/cpu.h"
#include "vmm/machine/bus.h"
#include "vmm/machine/machine_priv.h"
#include "vmm/util/err.h"

enum {
	MSR_MISC_ENABLE = 0x1a0,
	MISC_ENABLE_FAST_STRING = 1 << 0,
	MSR_MTRR_DEF_TYPE = 0x2ff,
	MTRR_ENABLED = 1 << 11,
	MTRR_WRITE_BACK = 6,
	VCPU_STACK_BYTES = 64 << 10,
};

/* Creates vCPU `index`, which is also its APIC id. Returns 0 or -errno. */
int vcpu_create(struct vcpu *v, struct machine *m, unsigned index, int vm_fd, size_t run_bytes, struct err *e)
{
	*v = (struct vcpu){.machine = m, .index = index};
	v->fd = ioctl(vm_fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (v->fd < 0)
		return err_sys(e, -errno, "KVM cannot create vCPU %u", index);
	v->run = mmap(NULL, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (v->run == MAP_FAILED)
		return err_sys(e, -errno, "KVM cannot map vCPU %u", index);
	return 0;
}

/*
 * Puts a vCPU into the state it starts from: its CPUID, memory type write-back, and on the boot CPU the registers of the
 * kernel's entry. The others wait for the boot CPU's startup interrupt, as after power-on. Returns 0 or -errno.
 */
int vcpu_reset(struct vcpu *v, struct cpuid *cpuid, uint64_t entry_gpa, struct err *e)
{
	cpuid_set_cpu(cpuid, v->index);
	if (ioctl(v->fd, KVM_SET_CPUID2, cpuid))
		return err_sys(e, -errno, "KVM refuses the CPUID of vCPU %u", v->index);
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[2];
	} msrs = {
		.head.nmsrs = 2,
		.entry = {{.index = MSR_MISC_ENABLE, .data = MISC_ENABLE_FAST_STRING},
			  {.index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLED | MTRR_WRITE_BACK}},
	};
	/* Both are defaults that only matter to kernels other than ours: a host may refuse them. */
	ioctl(v->fd, KVM_SET_MSRS, &msrs);
	if (v->index)
		return 0;

	struct kvm_sregs sregs;
	struct kvm_regs regs;
	if (ioctl(v->fd, KVM_GET_SREGS, &sregs))
		return err_sys(e, -errno, "KVM cannot read the state of vCPU %u", v->index);
	cpu_boot_sregs(&sregs);
	cpu_boot_regs(entry_gpa, &regs);
	if (ioctl(v->fd, KVM_SET_SREGS, &sregs) || ioctl(v->fd, KVM_SET_REGS, &regs))
		return err_sys(e, -errno, "KVM cannot set the state of vCPU %u", v->index);
	return 0;
}

static void handle_port(struct vcpu *v)
{
	struct kvm_run *r = v->run;
	uint8_t *data = (uint8_t *)r + r->io.data_offset;
	for (uint32_t i = 0; i < r->io.count; i++, data += r->io.size) {
		uint32_t value = 0;
		if (r->io.direction == KVM_EXIT_IO_IN) {
			value = bus_port_read(v->machine, r->io.port, r->io.size);
			memcpy(data, &value, r->io.size);
		} else {
			memcpy(&value, data, r->io.size);
			bus_port_write(v->machine, r->io.port, r->io.size, value);
		}
	}
}

static void handle_mmio(struct vcpu *v)
{
	struct kvm_run *r = v->run;
	if (r->mmio.is_write)
		bus_mmio_write(v->machine, r->mmio.phys_addr, r->mmio.data, r->mmio.len);
	else
		bus_mmio_read(v->machine, r->mmio.phys_addr, r->mmio.data, r->mmio.len);
}

/* Ends the machine because KVM gave an exit that no guest should cause. */
static void fail_exit(struct vcpu *v)
{
	const struct kvm_run *r = v->run;
	char text[256];
	if (r->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		snprintf(text, sizeof text, "KVM internal error %u on vCPU %u", r->internal.suberror, v->index);
	else if (r->exit_reason == KVM_EXIT_FAIL_ENTRY)
		snprintf(text, sizeof text, "the CPU refused to enter the guest on vCPU %u, hardware reason %#llx", v->index,
			 (unsigned long long)r->fail_entry.hardware_entry_failure_reason);
	else
		snprintf(text, sizeof text, "unexpected KVM exit %u on vCPU %u", r->exit_reason, v->index);
	machine_end(v->machine, r->exit_reason == KVM_EXIT_INTERNAL_ERROR ? MACHINE_KVM_GAVE_UP : MACHINE_KVM_FAILED, text);
}

/* Handles one exit. Returns whether the vCPU goes on. */
static bool handle_exit(struct vcpu *v)
{
	switch (v->run->exit_reason) {
	case KVM_EXIT_IO:
		handle_port(v);
		return true;
	case KVM_EXIT_MMIO:
		handle_mmio(v);
		return true;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IOAPIC_EOI: /* of a pin that the guest made level-triggered; ours are not */
		return true;
	case KVM_EXIT_SHUTDOWN:
		machine_end(v->machine, MACHINE_TRIPLE_FAULT, NULL);
		return false;
	case KVM_EXIT_HLT:
		machine_end(v->machine, MACHINE_HALTED, NULL);
		return false;
	default:
		fail_exit(v);
		return false;
	}
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *v = arg;
	jail_thread(JAIL_VCPU);
	if (v->index == 0)
		machine_stamp_run(v->machine);
	for (;;) {
		if (ioctl(v->fd, KVM_RUN, 0) == 0) {
			if (!handle_exit(v))
				return NULL;
		} else if (errno != EINTR && errno != EAGAIN) {
			char text[128];
			snprintf(text, sizeof text, "KVM_RUN on vCPU %u: %s", v->index, strerror(errno));
			machine_end(v->machine, MACHINE_KVM_FAILED, text);
			return NULL;
		}
	}
}

/* Starts the thread of a vCPU. It runs until the process ends. Returns 0 or -errno. */
int vcpu_start(struct vcpu *v, struct err *e)
{
	pthread_attr_t attr;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, VCPU_STACK_BYTES);
	int rc = pthread_create(&v->thread, &attr, vcpu_thread, v);
	pthread_attr_destroy(&attr);
	return rc ? err_sys(e, -rc, "cannot start the thread of vCPU %u", v->index) : 0;
}
