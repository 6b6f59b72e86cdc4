/* virtio-vsock (virtio 1.2, section 5.10): stream sockets between the guest and descriptors of the host. */
#ifndef CAPLOCK_VIRTIO_VSOCK_H
#define CAPLOCK_VIRTIO_VSOCK_H

#include <stdint.h>

struct err;
struct loop;
struct mem;
struct virtio_device;

enum { VSOCK_GUEST_CID = 3, VSOCK_HOST_CID = 2 };

/*
 * The guest connects to `port` of the host: returns a connected, non-blocking stream socket, which the device then
 * owns, or -errno to refuse (the guest sees a reset). Called on the loop's thread with the device locked.
 */
typedef int (*vsock_accept_fn)(void *context, uint32_t port);

int vsock_create(const struct mem *mem, struct loop *loop, vsock_accept_fn accept, void *context,
		 struct virtio_device **out, struct err *e);
int vsock_connect(struct virtio_device *d, int fd, uint32_t guest_port);

#endif
