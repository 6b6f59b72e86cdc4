/* Any bytes as a TLS record with a ClientHello, and as a server's answer. A name that comes out is canonical. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/tls_hello.h"

static void check_hello(const uint8_t *record, size_t size)
{
	char name[NAME_BYTES], again[NAME_BYTES];
	size_t at;
	if (tls_hello_name(record, size, name) == NULL && (name_canonical(name, strlen(name), again, &at) || strcmp(name, again) != 0))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *wrong;
	size_t bytes = tls_record_bytes(data, size, &wrong);
	if ((wrong && bytes) || (bytes && bytes <= TLS_RECORD_HEAD_BYTES))
		abort();
	if (size > TLS_RECORD_HEAD_BYTES)
		check_hello(data, size);
	if (bytes && bytes <= size)
		check_hello(data, bytes);
	/* An answer is judged by no more than it takes, and stays what it is. */
	enum tls_answer answer = TLS_ANSWER_PART;
	for (size_t i = 1; i <= size && i <= TLS_ANSWER_BYTES; i++) {
		uint8_t *exact = malloc(i);
		memcpy(exact, data, i);
		answer = tls_answer(exact, i);
		free(exact);
		if (answer != TLS_ANSWER_PART)
			break;
	}
	if (answer == TLS_ANSWER_PART && size >= TLS_ANSWER_BYTES)
		abort();
	return 0;
}
