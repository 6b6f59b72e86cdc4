/* /dev/kvm: opening it, and finding out what it can do. */
#ifndef CAPLOCK_MACHINE_KVM_H
#define CAPLOCK_MACHINE_KVM_H

#include <stdbool.h>

struct err;

enum kvm_kind {
	KVM_USABLE,
	KVM_ABSENT,    /* no /dev/kvm */
	KVM_FORBIDDEN, /* not for this user */
	KVM_TOO_OLD,   /* lacks what we need */
	KVM_EMULATED,  /* emulates kernel mode, and not enough of it for Linux */
	KVM_BROKEN,
};

int kvm_open(int *fd, enum kvm_kind *kind, struct err *e);
bool kvm_suspect(void);
int kvm_probe(int kvm_fd, enum kvm_kind *kind, struct err *e);

#endif
