/* What an allowed flow says, on its way from the guest: TLS and HTTP must be about the host that the flow was allowed for. */
#ifndef CAPLOCK_NET_INSPECT_H
#define CAPLOCK_NET_INSPECT_H

#include <stddef.h>
#include <stdint.h>

#include "virtio/net/http_request.h"
#include "virtio/net/tls_hello.h"

enum inspect_kind {
	INSPECT_OFF,    /* everything passes */
	INSPECT_EITHER, /* the first byte says which it is */
	INSPECT_TLS,    /* until the server has accepted the ClientHello */
	INSPECT_HTTP,   /* every request */
};

/* One flow's. */
struct inspect {
	enum inspect_kind kind;
	uint16_t port;
	const char *refuse; /* each HTTP request is denied for this reason; NULL: only what is wrong */
	bool hello_passed;
	uint8_t server_head_bytes;
	uint8_t server_head[TLS_RETRY_BYTES];
	struct http_stream http;
};

/* Why a flow ends. */
struct inspect_denial {
	const char *reason; /* static; NULL: it goes on */
	unsigned status;    /* of an answer in HTTP; 0: there is no use in one */
};

void inspect_start(struct inspect *s, uint16_t port);
size_t inspect_guest(struct inspect *s, const char *name, const uint8_t *data, size_t len_bytes, struct inspect_denial *denied);
void inspect_server(struct inspect *s, const uint8_t *data, size_t len_bytes);

#endif
