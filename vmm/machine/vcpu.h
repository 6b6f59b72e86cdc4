/* One virtual CPU and its thread. Internal to vmm/machine. */
#ifndef CAPLOCK_MACHINE_VCPU_H
#define CAPLOCK_MACHINE_VCPU_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

struct cpuid;
struct err;
struct machine;

struct vcpu {
	struct machine *machine;
	unsigned index;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
};

int vcpu_create(struct vcpu *v, struct machine *m, unsigned index, int vm_fd, size_t run_bytes, struct err *e);
int vcpu_reset(struct vcpu *v, struct cpuid *cpuid, uint64_t entry_gpa, struct err *e);
int vcpu_start(struct vcpu *v, struct err *e);

#endif
