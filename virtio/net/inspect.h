/* What an allowed flow says, on its way from the guest: TLS and HTTP must be about the host that the flow was allowed for. */
#ifndef CAPLOCK_NET_INSPECT_H
#define CAPLOCK_NET_INSPECT_H

#include <stdbool.h>
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

/* How far a TLS handshake is. */
enum inspect_tls {
	TLS_FIRST_HELLO,  /* the guest's is next */
	TLS_SERVER_HELLO, /* the server's is next: the guest waits */
	TLS_SECOND_HELLO, /* the guest's, which the server asked for, is next but for leftovers of its first try */
	TLS_NOT_SERVED,   /* the server speaks something else */
};

/* One flow's. */
struct inspect {
	enum inspect_kind kind;
	uint16_t port;
	const char *refuse; /* each HTTP request is denied for this reason; NULL: only what is wrong */
	bool named;         /* a ClientHello or a request was for the flow's name */
	enum inspect_tls tls;
	uint8_t server_head_bytes;
	uint8_t server_head[TLS_ANSWER_BYTES]; /* since its start, or its last alert */
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
