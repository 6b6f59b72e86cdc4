#include "vmm/machine/kvm.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "boot/cpu.h"
#include "boot/layout.h"
#include "vmm/machine/mem.h"
#include "vmm/machine/status.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"

static const struct {
	int number;
	const char *name;
} needed[] = {
	{KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP"}, {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
	{KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},             {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
	{KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},     {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
	{KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK"},
};

/*
 * Opens /dev/kvm and checks its version and capabilities (Documentation/virt/kvm/api.rst, 4.1 and 4.4). The caller owns
 * *fd. Returns 0, or -errno with what to do in `e` and *kind telling the cases apart.
 */
int kvm_open(int *fd, enum kvm_kind *kind, struct err *e)
{
	*kind = KVM_USABLE;
	*fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (*fd < 0) {
		int rc = -errno;
		if (rc == -ENOENT || rc == -ENXIO || rc == -ENODEV) {
			*kind = KVM_ABSENT;
			return err_set(e, rc,
				       "no /dev/kvm: this machine has no hardware virtualization, or its kvm module is not "
				       "loaded; use a machine that has it, or the emulated one, tests/lab/lab");
		}
		if (rc == -EACCES || rc == -EPERM) {
			*kind = KVM_FORBIDDEN;
			return err_set(e, rc, "/dev/kvm is not accessible to uid %u; add the user to its group: "
					      "sudo usermod -aG kvm USER, then log in again", geteuid());
		}
		*kind = KVM_BROKEN;
		return err_sys(e, rc, "cannot open /dev/kvm");
	}
	int version = ioctl(*fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION) {
		io_close(fd);
		*kind = KVM_BROKEN;
		return err_set(e, -ENODEV, "/dev/kvm has API version %d, not %d; it is not a KVM we know", version,
			       KVM_API_VERSION);
	}
	for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
		if (ioctl(*fd, KVM_CHECK_EXTENSION, needed[i].number) > 0)
			continue;
		io_close(fd);
		*kind = KVM_TOO_OLD;
		return err_set(e, -ENODEV, "this host's KVM lacks %s; use Linux 5.10 or newer", needed[i].name);
	}
	return 0;
}

/*
 * Whether this CPU shows neither VMX nor SVM. Where /dev/kvm exists all the same, something else than the hardware runs
 * its guests, and kvm_probe() should tell whether it can run Linux. One CPUID instruction, or two.
 */
bool kvm_suspect(void)
{
	unsigned a, b, c, d;
	if (__get_cpuid(1, &a, &b, &c, &d) && c & 1u << 5)
		return false;
	return !(__get_cpuid(0x80000001, &a, &b, &c, &d) && c & 1u << 2);
}

/* The probe: in 64-bit kernel mode, int3 must reach its handler, which writes to a port. */
enum {
	PROBE_BYTES = 64 << 10,
	PROBE_IDT_GPA = 0x4000,
	PROBE_HANDLER_GPA = 0x5000,
};

static int write_probe(const struct mem *m)
{
	static const uint8_t code[] = {0xcc, 0xf4};          /* int3; hlt */
	static const uint8_t handler[] = {0xe6, 0x80, 0xf4}; /* out %al, $0x80; hlt */
	/* A 64-bit interrupt gate for vector 3 (Intel SDM volume 3, 6.14.1). */
	static const uint64_t gate[2] = {PROBE_HANDLER_GPA | 0x10ull << 16 | 0x8eull << 40, 0};
	int rc = cpu_write_tables(m);
	rc = rc ? rc : mem_write(m, GPA(STUB_GPA), code, sizeof code);
	rc = rc ? rc : mem_write(m, GPA(PROBE_HANDLER_GPA), handler, sizeof handler);
	return rc ? rc : mem_write(m, GPA(PROBE_IDT_GPA + 3 * sizeof gate), gate, sizeof gate);
}

/* Runs the probe on `vcpu`. Returns the exit reason, or -errno. */
static int run_probe(int vcpu, struct kvm_run *run)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	if (ioctl(vcpu, KVM_GET_SREGS, &sregs))
		return -errno;
	cpu_boot_sregs(&sregs);
	sregs.idt = (struct kvm_dtable){.base = PROBE_IDT_GPA, .limit = 4 * 16 - 1};
	cpu_boot_regs(0, &regs);
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) || ioctl(vcpu, KVM_SET_REGS, &regs))
		return -errno;
	while (ioctl(vcpu, KVM_RUN, 0))
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
	return (int)run->exit_reason;
}

/*
 * Runs a guest of two instructions, which the KVM of some hosts without hardware virtualization cannot: they emulate
 * kernel mode. Returns 0 with *kind KVM_USABLE; or -errno with the reason and what to do in `e`.
 */
int kvm_probe(int kvm_fd, enum kvm_kind *kind, struct err *e)
{
	*kind = KVM_BROKEN;
	int rc = 0, vcpu = -1;
	struct mem m = {0};
	int run_bytes = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct kvm_run *run = MAP_FAILED;
	int vm = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	if (vm < 0 || run_bytes < (int)sizeof *run)
		rc = err_sys(e, -errno, "KVM cannot create a machine");
	rc = rc ? rc : mem_create(&m, PROBE_BYTES, e);
	if (rc == 0) {
		struct kvm_userspace_memory_region region = {
			.memory_size = PROBE_BYTES, .userspace_addr = (uintptr_t)m.region[0].host};
		if (write_probe(&m) || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) || ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000ul))
			rc = err_sys(e, -errno, "KVM cannot give a machine memory");
	}
	if (rc == 0) {
		vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
		if (vcpu >= 0)
			run = mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
		if (run == MAP_FAILED)
			rc = err_sys(e, -errno, "KVM cannot create a vCPU");
	}
	if (rc == 0) {
		int exit_reason = run_probe(vcpu, run);
		if (exit_reason == KVM_EXIT_IO) {
			*kind = KVM_USABLE;
		} else if (exit_reason < 0) {
			rc = err_sys(e, exit_reason, "KVM cannot run a guest");
		} else if (kvm_suspect()) {
			*kind = KVM_EMULATED;
			rc = err_set(e, -ENODEV,
				     "this host's KVM emulates kernel mode and cannot run Linux (no VMX or SVM); use a machine "
				     "with hardware virtualization, or the emulated one, tests/lab/lab");
		} else {
			unsigned long long reason = exit_reason == KVM_EXIT_FAIL_ENTRY
							    ? run->fail_entry.hardware_entry_failure_reason
							    : 0;
			rc = err_set(e, -ENODEV,
				     "this host's KVM cannot run a guest of two instructions (exit %d, reason %#llx); look at its "
				     "kernel log, and at the hypervisor around it if there is one", exit_reason, reason);
		}
	}
	if (run != MAP_FAILED)
		munmap(run, (size_t)run_bytes);
	io_close(&vcpu);
	io_close(&vm);
	mem_destroy(&m);
	return rc;
}
