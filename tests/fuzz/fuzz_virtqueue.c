/*
 * The ring walker over a guest that wrote what it liked. Input: size exponent, features, then bytes for the rings and
 * the table, then steps: each pops, pushes or asks, or changes a byte of the rings in between.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "virtio/virtqueue.h"

enum {
	MEMORY_BYTES = 64 << 10,
	RINGS_BYTES = 2048,
	STEPS_MAX = 512,
};

static uint8_t memory[MEMORY_BYTES] __attribute__((aligned(4096)));

static void check(const struct vq_chain *c)
{
	uint64_t bytes = 0;
	assert(c->out_count + c->in_count >= 1 && c->out_count + c->in_count <= VQ_IOV_MAX);
	for (unsigned i = 0; i < (unsigned)c->out_count + c->in_count; i++) {
		const uint8_t *p = c->iov[i].iov_base;
		assert(c->iov[i].iov_len && p >= memory && p + c->iov[i].iov_len <= memory + MEMORY_BYTES);
		bytes += c->iov[i].iov_len;
	}
	assert(bytes == c->out_bytes + c->in_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct mem mem = {.region = {{.gpa = 0, .len_bytes = MEMORY_BYTES, .host = memory}}, .count = 1};
	struct virtqueue vq = {.mem = &mem};
	static struct vq_chain chain;
	if (size < 8)
		return 0;
	memset(memory, 0, sizeof memory);
	vq.size = (uint16_t)(1u << (data[0] % 9)) + (data[0] == 255);
	vq.desc = GPA((uint64_t)data[1] * 16);
	vq.avail = GPA((uint64_t)data[2] * 16);
	vq.used = GPA((uint64_t)data[3] * 16);
	bool event_idx = data[4] & 1, indirect = data[4] & 2;
	data += 8;
	size -= 8;
	size_t ring_bytes = size < RINGS_BYTES ? size : RINGS_BYTES;
	memcpy(memory, data, ring_bytes);
	if (vq_enable(&vq, event_idx, indirect))
		return 0;
	uint16_t taken[VQ_SIZE_MAX], count = 0;
	for (size_t i = ring_bytes, step = 0; i + 3 <= size && step < STEPS_MAX; i += 3, step++) {
		uint8_t copy[64];
		switch (data[i] % 6) {
		case 0:
			memory[(data[i + 1] | data[i + 2] << 8) % RINGS_BYTES] = data[i];
			break;
		case 1:
		case 2:
			if (vq_pop(&vq, &chain) == 1) {
				check(&chain);
				size_t n = vq_copy_out(&chain, data[i + 1], copy, data[i + 2] % sizeof copy);
				vq_copy_in(&chain, data[i + 2], copy, n);
				assert(count < vq.size);
				taken[count++] = chain.head;
			}
			break;
		case 3:
			if (count)
				vq_push(&vq, taken[--count], data[i + 1]);
			break;
		case 4:
			vq_should_signal(&vq);
			break;
		default:
			vq_no_notify(&vq);
			vq_want_notify(&vq);
			break;
		}
		assert(vq.in_flight == count);
	}
	return 0;
}
