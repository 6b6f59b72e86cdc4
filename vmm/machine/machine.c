/*
 * The machine.
 *
 * Theory of operation
 * -------------------
 * Purpose: one microVM: guest memory, vCPUs, virtio devices, and the loops that serve them. It is all that its process
 * does; machine_run() reads as its life.
 *
 * Trust boundary: the guest may do anything to its memory, its ports and its device registers. What it does can end the
 * machine (machine_end()) or fail a request, nothing else. The supervisor is trusted; what we tell it goes through
 * struct machine_status.
 *
 * Threads: one per vCPU, which runs the guest and handles its port and register accesses; the main loop, which serves
 * vsock and the supervisor; the disk loop, which serves block devices and may wait for the host's disks. Queue
 * notifications reach the loops as eventfds without waking a vCPU thread; interrupts go back as eventfds that KVM takes
 * (irqfd). A device's lock is held while any of them is inside it.
 *
 * Jail: the process has entered it before machine_run() (sandbox/process.c); each thread enters its seccomp filter before it
 * serves the guest, the main loop's when all others exist.
 *
 * End: the first machine_end() wins. The process then exits, which takes every thread, the guest and its memory with it.
 *
 * Order of set-up: memory before interrupt controller and eventfds, because registering memory waits for readers of
 * KVM's bus tables (7.9 ms instead of 0.4 ms until the vCPU exists, on a Linux 6.18 host).
 */
#include "vmm/machine/machine.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "boot/boot.h"
#include "boot/cpu.h"
#include "guest/proto.h"
#include "virtio/vsock.h"
#include "vmm/machine/kvm.h"
#include "vmm/machine/machine_priv.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/passfd.h"

enum {
	TSS_GPA = 0xfffbd000,
	IDENTITY_MAP_GPA = 0xfffbc000,
	QUEUE_NOTIFY_OFFSET = 0x50, /* virtio 1.2, 4.2.2 */
};

/*
 * The kernel command line. Reasons:
 *   reboot=k panic=-1      a reset is a write to a port we know, also at once after a panic
 *   panic_print=0x20       a panic prints the whole kernel log, which was silent until then
 *   loglevel=1 earlyprintk the polled UART is the only console, and only emergencies are worth two VM exits per byte;
 *                          in this order, for earlyprintk prints at once what the log has by then
 *   noreplace-smp          one vCPU: do not rewrite 7100 LOCK prefixes; several vCPUs: it changes nothing
 *   tsc=reliable           no clocksource watchdog: an idle sandbox has no timer
 *   rcu_expedited          mounts and network set-up wait microseconds, not ticks
 *   swiotlb=noforce        guests over 4 GiB need no bounce buffers
 *   initcall_blacklist     no /sys/kernel/slab and /sys/module/.../parameters: a quarter of the boot
 */
static const char base_cmdline[] = "reboot=k panic=-1 panic_print=0x20 earlyprintk=serial,ttyS0,115200,keep noreplace-smp "
				   "tsc=reliable rcupdate.rcu_expedited=1 swiotlb=noforce random.trust_cpu=on "
				   "initcall_blacklist=slab_late_init,param_sysfs_builtin_init";

/* Tells the supervisor to look at the status. */
void machine_tell(struct machine *m)
{
	uint64_t one = 1;
	(void)!write(m->config->event_fd, &one, sizeof one);
}

/*
 * Ends the machine, from any thread, with an outcome and a line about it (NULL: the outcome says all). The first call
 * wins; the caller's thread goes on until the process exits.
 */
void machine_end(struct machine *m, enum machine_outcome outcome, const char *detail)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_mutex_lock(&lock);
	if (atomic_load(&m->status->outcome) == MACHINE_RUNNING) {
		snprintf(m->status->detail, sizeof m->status->detail, "%s", detail ? detail : "");
		atomic_store(&m->status->outcome, outcome);
		machine_tell(m);
		loop_stop(&m->main_loop);
	}
	pthread_mutex_unlock(&lock);
}

/* Notes the first KVM_RUN: when, and what CPU time this process and the supervisor have used until then. */
void machine_stamp_run(struct machine *m)
{
	struct timespec own = {0}, parent = {0};
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
	clock_gettime(m->parent_clock, &parent);
	atomic_store(&m->status->cpu_before_run_ns, (uint64_t)(own.tv_sec + parent.tv_sec) * 1000000000u +
							    (uint64_t)own.tv_nsec + (uint64_t)parent.tv_nsec);
	timeline_stamp(m->status, TIMELINE_RUN);
}

static int create_vm(struct machine *m, struct err *e)
{
	do
		m->vm_fd = ioctl(m->kvm_fd, KVM_CREATE_VM, 0);
	while (m->vm_fd < 0 && errno == EINTR);
	if (m->vm_fd < 0)
		return err_sys(e, -errno, "KVM cannot create a machine");
	int rc = mem_create(&m->mem, m->config->memory_bytes, e);
	if (rc)
		return rc;
	for (unsigned i = 0; i < m->mem.count; i++) {
		struct kvm_userspace_memory_region region = {
			.slot = i,
			.guest_phys_addr = m->mem.region[i].gpa,
			.memory_size = m->mem.region[i].len_bytes,
			.userspace_addr = (uintptr_t)m->mem.region[i].host,
		};
		if (ioctl(m->vm_fd, KVM_SET_USER_MEMORY_REGION, &region))
			return err_sys(e, -errno, "KVM cannot give the machine its memory");
	}
	uint64_t identity_map_gpa = IDENTITY_MAP_GPA;
	struct kvm_enable_cap split_irqchip = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {IOAPIC_PINS_MAX}};
	if (ioctl(m->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map_gpa) || ioctl(m->vm_fd, KVM_SET_TSS_ADDR, (long)TSS_GPA) ||
	    ioctl(m->vm_fd, KVM_ENABLE_CAP, &split_irqchip))
		return err_sys(e, -errno, "KVM cannot create the interrupt controllers");
	return 0;
}

static int create_vcpus(struct machine *m, struct err *e)
{
	int run_bytes = ioctl(m->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (run_bytes < (int)sizeof(struct kvm_run))
		return err_set(e, -ENODEV, "KVM gives no size for a vCPU's state");
	for (unsigned i = 0; i < m->config->cpus; i++) {
		int rc = vcpu_create(&m->vcpu[i], m, i, m->vm_fd, (size_t)run_bytes, e);
		if (rc)
			return rc;
	}
	return 0;
}

static void queue_notified(void *context, uint32_t events)
{
	(void)events;
	struct notify_source *n = context;
	uint64_t count;
	if (read(n->source.fd, &count, sizeof count) == sizeof count)
		virtio_notify(n->device, n->queue);
}

/* Connects a device to the next slot of the bus: its notifications to `loop`, its interrupt to the guest. */
static int plug(struct machine *m, struct virtio_device *d, struct loop *loop, struct err *e)
{
	unsigned index = m->slots;
	if (index == MMIO_DEVICES_MAX) {
		d->ops->destroy(d);
		return err_set(e, -E2BIG, "a sandbox has at most %u devices", MMIO_DEVICES_MAX);
	}
	struct slot *s = &m->slot[m->slots++];
	s->device = d;
	d->irq_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	struct kvm_irqfd irq = {.fd = (uint32_t)d->irq_fd, .gsi = MMIO_DEVICE_IRQ + index};
	if (d->irq_fd < 0 || ioctl(m->vm_fd, KVM_IRQFD, &irq))
		return err_sys(e, -errno, "KVM cannot connect the interrupt of %s", d->ops->name);
	for (unsigned q = 0; q < d->ops->queue_count; q++) {
		struct notify_source *n = &s->notify[q];
		*n = (struct notify_source){.device = d, .queue = q};
		n->source = (struct loop_source){
			.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = queue_notified, .context = n};
		struct kvm_ioeventfd io = {
			.datamatch = q,
			.addr = MMIO_DEVICE_GPA + index * MMIO_DEVICE_BYTES + QUEUE_NOTIFY_OFFSET,
			.len = 4,
			.fd = n->source.fd,
			.flags = KVM_IOEVENTFD_FLAG_DATAMATCH,
		};
		if (n->source.fd < 0 || ioctl(m->vm_fd, KVM_IOEVENTFD, &io) || loop_add(loop, &n->source, EPOLLIN))
			return err_sys(e, -errno, "KVM cannot connect the queues of %s", d->ops->name);
	}
	return 0;
}

/* The guest connects to a port of the host: its agent, once, is all that is expected. */
static int accept_guest(void *context, uint32_t port)
{
	int *agent_fd = context;
	int fd = *agent_fd;
	if (port != PROTO_PORT || fd < 0)
		return -ECONNREFUSED;
	*agent_fd = -1;
	return fd;
}

static int create_devices(struct machine *m, struct err *e)
{
	static int agent_fd;
	agent_fd = m->config->agent_fd;
	for (unsigned i = 0; i < m->config->disks; i++) {
		struct virtio_device *d;
		int rc = blk_create(&m->mem, &m->config->disk[i], &d, e);
		rc = rc ? rc : plug(m, d, &m->disk.loop, e);
		if (rc)
			return rc;
	}
	if (m->config->network) {
		struct virtio_device *d;
		int rc = net_create(&m->mem, &m->net.loop, &m->config->net, &d, e);
		rc = rc ? rc : plug(m, d, &m->net.loop, e);
		if (rc)
			return rc;
	}
	int rc = vsock_create(&m->mem, &m->main_loop, accept_guest, &agent_fd, &m->vsock, e);
	rc = rc ? rc : plug(m, m->vsock, &m->main_loop, e);
	ioapic_init(&m->ioapic, m->vm_fd, MMIO_DEVICE_IRQ + m->slots);
	return rc;
}

static int load(struct machine *m, struct err *e)
{
	struct buf cmdline = {0};
	int rc = buf_addf(&cmdline, "loglevel=%d%s %s", m->config->console ? 8 : 1,
			  m->config->console ? " ignore_loglevel" : "", base_cmdline);
	for (unsigned i = 0; rc == 0 && i < m->slots; i++)
		rc = buf_addf(&cmdline, " virtio_mmio.device=4K@%#llx:%u", MMIO_DEVICE_GPA + i * MMIO_DEVICE_BYTES,
			      MMIO_DEVICE_IRQ + i);
	if (rc) {
		buf_free(&cmdline);
		return err_sys(e, rc, "kernel command line");
	}
	struct boot_config boot = {
		.kernel_fd = m->config->kernel_fd,
		.kernel_path = m->config->kernel_path,
		.initrd = m->config->initrd,
		.initrd_bytes = m->config->initrd_bytes,
		.cmdline = (const char *)cmdline.data,
		.cpus = m->config->cpus,
		.devices = m->slots,
	};
	if (getrandom(boot.seed, sizeof boot.seed, 0) != sizeof boot.seed)
		rc = err_sys(e, -errno, "no random numbers");
	rc = rc ? rc : boot_load(&m->mem, &boot, &m->entry_gpa, e);
	explicit_bzero(boot.seed, sizeof boot.seed);
	buf_free(&cmdline);
	return rc;
}

static int reset_vcpus(struct machine *m, struct err *e)
{
	static struct cpuid cpuid;
	cpuid.head.nent = CPUID_ENTRIES_MAX;
	if (ioctl(m->kvm_fd, KVM_GET_SUPPORTED_CPUID, &cpuid))
		return err_sys(e, -errno, "KVM does not tell what CPUs it supports");
	bool tsc_deadline = ioctl(m->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
	cpuid_filter(&cpuid, m->config->cpus, tsc_deadline);
	for (unsigned i = 0; i < m->config->cpus; i++) {
		int rc = vcpu_reset(&m->vcpu[i], &cpuid, m->entry_gpa, e);
		if (rc)
			return rc;
	}
	return 0;
}

/* A message of the supervisor, or its end, which is ours. */
static void control_ready(void *context, uint32_t events)
{
	(void)events;
	struct machine *m = context;
	struct machine_message message;
	int fd;
	ssize_t n = passfd_recv(m->config->control_fd, &message, sizeof message, &fd);
	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n <= 0) {
		loop_stop(&m->main_loop);
		return;
	}
	if (fd < 0)
		return;
	if (n == sizeof message)
		vsock_connect(m->vsock, fd, message.guest_port); /* owns it; a failure is the end of file at its other end */
	else
		close(fd);
}

static void *run_io(void *arg)
{
	struct io_thread *t = arg;
	char what[64];
	jail_thread(t->role);
	if (loop_run(&t->loop)) {
		snprintf(what, sizeof what, "the %s loop failed", t->name);
		machine_end(t->machine, MACHINE_KVM_FAILED, what);
	}
	return NULL;
}

static int start_io(struct io_thread *t, struct machine *m, const char *name, enum jail_role role, struct err *e)
{
	t->machine = m;
	t->role = role;
	t->name = name;
	int rc = pthread_create(&t->thread, NULL, run_io, t);
	return rc ? err_sys(e, -rc, "cannot start the %s thread", name) : 0;
}

static int start(struct machine *m, struct err *e)
{
	m->control = (struct loop_source){.fd = m->config->control_fd, .ready = control_ready, .context = m};
	int rc = loop_add(&m->main_loop, &m->control, EPOLLIN);
	if (rc)
		return err_sys(e, rc, "cannot watch the supervisor");
	rc = start_io(&m->disk, m, "disk", JAIL_DISK, e);
	rc = rc || !m->config->network ? rc : start_io(&m->net, m, "network", JAIL_NETWORK, e);
	if (rc)
		return rc;
	for (unsigned i = 0; i < m->config->cpus; i++) {
		rc = vcpu_start(&m->vcpu[i], e);
		if (rc)
			return rc;
	}
	return 0;
}

/*
 * Runs a machine until the guest ends it or the supervisor closes its end of control_fd. The outcome is in c->status.
 * The caller's process is used up: threads still run when this returns, so it must exit without destroying anything.
 */
void machine_run(const struct machine_config *c)
{
	static struct machine machine;
	struct machine *m = &machine;
	*m = (struct machine){.config = c, .status = c->status, .kvm_fd = c->kvm_fd, .vm_fd = -1};
	if (clock_getcpuclockid(getppid(), &m->parent_clock))
		m->parent_clock = CLOCK_PROCESS_CPUTIME_ID;
	pthread_mutex_init(&m->serial_lock, NULL);

	struct err e;
	int rc = 0;
	if (loop_create(&m->main_loop) || loop_create(&m->disk.loop) || (c->network && loop_create(&m->net.loop)))
		rc = err_sys(&e, -errno, "cannot make an event loop");
	rc = rc ? rc : create_vm(m, &e);
	rc = rc ? rc : create_vcpus(m, &e);
	rc = rc ? rc : create_devices(m, &e);
	rc = rc ? rc : load(m, &e);
	rc = rc ? rc : reset_vcpus(m, &e);
	rc = rc ? rc : start(m, &e);
	if (rc) {
		machine_end(m, MACHINE_NOT_STARTED, e.text);
		return;
	}
	jail_thread(JAIL_MAIN);
	rc = loop_run(&m->main_loop);
	if (rc)
		machine_end(m, MACHINE_KVM_FAILED, "the main loop failed");
}
