/*
 * What a guest says on a flow that is looked at, the first byte choosing its port. In pieces, with the server's words in
 * between: no more passes than was said, and nothing after a denial. All at once, and byte by byte: the same passes.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/inspect.h"

static const char name[] = "www.example.com";

struct run {
	struct inspect inspect;
	size_t passed;
	struct inspect_denial denied;
};

/* The guest has said the first `bytes` of `data`. The parser gets exactly those that it may read. */
static void look(struct run *r, const uint8_t *data, size_t bytes)
{
	size_t left = bytes - r->passed;
	uint8_t *exact = malloc(left ? left : 1);
	if (left)
		memcpy(exact, data + r->passed, left);
	size_t n = inspect_guest(&r->inspect, name, exact, left, &r->denied);
	free(exact);
	if (n > left || (r->denied.status && !r->denied.reason))
		abort();
	r->passed += n;
}

/* Pieces: the length of each in a byte, its highest bit set where the server says it. */
static void in_pieces(uint16_t port, const uint8_t *data, size_t size)
{
	struct run r;
	uint8_t *said = malloc(size + 1);
	size_t bytes = 0;
	inspect_start(&r.inspect, port);
	r.passed = 0;
	r.denied = (struct inspect_denial){0};
	while (size && !r.denied.reason) {
		size_t n = data[0] & 0x7f;
		bool server = data[0] & 0x80;
		data++;
		size--;
		n = n > size ? size : n;
		if (server) {
			inspect_server(&r.inspect, data, n);
		} else {
			memcpy(said + bytes, data, n);
			bytes += n;
		}
		look(&r, said, bytes);
		if (r.inspect.kind == INSPECT_OFF && !r.inspect.named)
			abort();
		data += n;
		size -= n;
	}
	free(said);
}

static struct run at_once(uint16_t port, const uint8_t *data, size_t size)
{
	struct run r = {.passed = 0};
	inspect_start(&r.inspect, port);
	look(&r, data, size);
	return r;
}

static struct run by_bytes(uint16_t port, const uint8_t *data, size_t size)
{
	struct run r = {.passed = 0};
	inspect_start(&r.inspect, port);
	for (size_t i = 1; i <= size && !r.denied.reason; i++)
		look(&r, data, i);
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint16_t ports[] = {80, 443, 8443};
	if (size == 0)
		return 0;
	uint16_t port = ports[data[0] % 3];
	in_pieces(port, data + 1, size - 1);
	struct run a = at_once(port, data + 1, size - 1), b = by_bytes(port, data + 1, size - 1);
	if (a.passed != b.passed || (a.denied.reason == NULL) != (b.denied.reason == NULL) || a.denied.status != b.denied.status)
		abort();
	return 0;
}
