/* The ClientHello of TLS (RFC 8446, section 4.1.2; RFC 6066, section 3): only the name that it asks for. */
#ifndef CAPLOCK_NET_TLS_HELLO_H
#define CAPLOCK_NET_TLS_HELLO_H

#include <stddef.h>
#include <stdint.h>

#include "virtio/net/name.h"

enum {
	TLS_RECORD_HEAD_BYTES = 5,
	TLS_RECORD_MAX_BYTES = 1 << 14, /* of its payload, in plaintext */
	TLS_ANSWER_BYTES = 43,          /* of a server's first bytes, after which tls_answer() knows */
	TLS_ALERT_BYTES = 7,            /* of an alert in plaintext, with its head */

	TLS_HANDSHAKE = 22, /* record types */
	TLS_ALERT = 21,
	TLS_CHANGE_CIPHER_SPEC = 20,
	TLS_APPLICATION_DATA = 23,
};

enum tls_answer {
	TLS_ANSWER_PART,  /* more is needed to know */
	TLS_ANSWER_ALERT, /* exactly an alert: what is next counts */
	TLS_ANSWER_HELLO, /* a ServerHello: what the client sends from now on is encrypted */
	TLS_ANSWER_RETRY, /* a second ClientHello is asked for */
	TLS_ANSWER_OTHER, /* no server of TLS */
};

size_t tls_record_bytes(const uint8_t *data, size_t len_bytes, const char **wrong);
const char *tls_hello_name(const uint8_t *record, size_t len_bytes, char name[NAME_BYTES]);
enum tls_answer tls_answer(const uint8_t *data, size_t len_bytes);

#endif
