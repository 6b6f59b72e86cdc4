/* A microVM: memory, vCPUs and devices on /dev/kvm, in a process of its own. */
#ifndef CAPLOCK_MACHINE_MACHINE_H
#define CAPLOCK_MACHINE_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio/blk.h"
#include "virtio/net/net.h"

struct err;
struct machine_status;

enum {
	MACHINE_DISKS_MAX = 4,
	MACHINE_CPUS_MAX = 64, /* what the guest kernel is configured for */
	MACHINE_MEMORY_MIN_MB = 64,
};

struct machine_config {
	unsigned cpus;
	uint64_t memory_bytes;
	int kvm_fd; /* kvm_open() */
	int kernel_fd;
	const char *kernel_path; /* for messages */
	const void *initrd;
	size_t initrd_bytes;
	bool console; /* all kernel messages, not only those of a panic */
	struct blk_backing disk[MACHINE_DISKS_MAX]; /* the guest's vda, vdb...; their descriptors become the machine's */
	unsigned disks;
	bool network;
	struct net_config net; /* where there is a network: its device's, with its descriptors and its policy */
	int agent_fd;                  /* the guest's first connection to PROTO_PORT gets it; becomes the machine's */
	int control_fd;                /* messages of struct machine_message; end of file ends the machine */
	int event_fd;                  /* eventfd, signalled when `status` changed: console, outcome */
	struct machine_status *status; /* shared with the supervisor */
};

/* Supervisor to machine, with one descriptor (SCM_RIGHTS): a stream socket to connect to a port of the guest. */
struct machine_message {
	uint32_t guest_port;
};

void machine_run(const struct machine_config *c);

#endif
