/* Any bytes as a DHCP message; the first two are the MTU. A reply is whole, and its options end inside it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/dhcp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t reply[DHCP_REPLY_MAX_BYTES];
	if (size < 2)
		return 0;
	size_t bytes = size - 2 > DHCP_MESSAGE_BYTES ? DHCP_MESSAGE_BYTES : size - 2, at = 240;
	uint8_t *message = malloc(bytes ? bytes : 1);
	memcpy(message, data + 2, bytes);
	size_t n = dhcp_answer(message, bytes, (unsigned)(data[0] << 8 | data[1]), reply);
	if (n > sizeof reply || (n && (n < 241 || memcmp(reply + 4, message + 4, 4) != 0)))
		abort();
	while (n && at < n && reply[at] != 255)
		at += 2u + reply[at + 1];
	if (n && at != n - 1)
		abort();
	free(message);
	return 0;
}
