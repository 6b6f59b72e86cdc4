/* A split virtqueue, device side (virtio 1.2, section 2.7). */
#ifndef CAPLOCK_VIRTIO_VIRTQUEUE_H
#define CAPLOCK_VIRTIO_VIRTQUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm/machine/mem.h"

enum {
	VQ_SIZE_MAX = 256,
	VQ_IOV_MAX = VQ_SIZE_MAX, /* buffers of one chain, direct or indirect */
};

/* Of a large array that its function fills as far as it reads it: clearing it first would cost more than what is done. */
#define VQ_UNINITIALIZED __attribute__((uninitialized))

struct virtqueue {
	const struct mem *mem;
	/* Set by the driver through the transport while !ready, then fixed. */
	uint16_t size;
	gpa_t desc, avail, used;
	bool ready;
	/* Negotiated features that concern the ring. */
	bool event_idx;
	bool indirect;
	/* The ring broke the rules: nothing is taken from it until the device is reset. */
	bool broken;
	uint16_t next_avail;  /* the avail index up to which chains were taken */
	uint16_t next_used;   /* the used index to be published next */
	uint16_t last_signal; /* next_used when vq_should_signal() was last asked */
	uint16_t in_flight;   /* chains taken and not yet given back */
};

/* One request: first the buffers that the device reads, then those it writes. Valid until vq_push() or reset. */
struct vq_chain {
	uint16_t head;
	uint16_t out_count; /* iov[0 .. out_count) */
	uint16_t in_count;  /* iov[out_count .. out_count + in_count) */
	uint64_t out_bytes;
	uint64_t in_bytes;
	struct iovec iov[VQ_IOV_MAX];
};

int vq_enable(struct virtqueue *vq, bool event_idx, bool indirect);
void vq_reset(struct virtqueue *vq);
int vq_pop(struct virtqueue *vq, struct vq_chain *chain);
void vq_unpop(struct virtqueue *vq, uint16_t count);
void vq_push(struct virtqueue *vq, uint16_t head, uint32_t written_bytes);
bool vq_should_signal(struct virtqueue *vq);
bool vq_want_notify(struct virtqueue *vq);
void vq_no_notify(struct virtqueue *vq);

unsigned vq_slice(const struct iovec *from, unsigned count, uint64_t offset, uint64_t len_bytes, struct iovec *to);
size_t vq_copy_out(const struct vq_chain *chain, size_t offset, void *to, size_t len_bytes);
size_t vq_copy_in(const struct vq_chain *chain, size_t offset, const void *from, size_t len_bytes);

#endif
