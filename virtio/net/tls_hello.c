#include "virtio/net/tls_hello.h"

#include <string.h>

enum {
	HANDSHAKE_CLIENT_HELLO = 1,
	HANDSHAKE_SERVER_HELLO = 2,
	RANDOM_BYTES = 32,
	SESSION_ID_MAX_BYTES = 32,
	EXTENSION_SERVER_NAME = 0,
	EXTENSION_ECH = 0xfe0d,  /* draft-ietf-tls-esni */
	EXTENSION_ESNI = 0xffce, /* its older form */
	NAME_TYPE_HOST = 0,
};

/* What is left to read. Reading past the end makes it `broken`, and gives zeros. */
struct reader {
	const uint8_t *at;
	size_t left;
	bool broken;
};

static const uint8_t *take(struct reader *r, size_t bytes)
{
	if (r->broken || bytes > r->left) {
		r->broken = true;
		r->left = 0;
		return NULL;
	}
	const uint8_t *p = r->at;
	r->at += bytes;
	r->left -= bytes;
	return p;
}

static uint32_t number(struct reader *r, unsigned bytes)
{
	const uint8_t *p = take(r, bytes);
	uint32_t value = 0;
	for (unsigned i = 0; p && i < bytes; i++)
		value = value << 8 | p[i];
	return value;
}

/* A vector: its length in `bytes` bytes, then that much. */
static struct reader vector(struct reader *r, unsigned bytes)
{
	size_t len = number(r, bytes);
	const uint8_t *p = take(r, len);
	return p ? (struct reader){.at = p, .left = len} : (struct reader){.broken = true};
}

/*
 * The size of the TLS record that `data` begins with, its head included; 0 where there is too little to know. *wrong is
 * set where it is no record of TLS 1.0 to 1.3 (their heads are the same). Pure.
 */
size_t tls_record_bytes(const uint8_t *data, size_t len_bytes, const char **wrong)
{
	*wrong = NULL;
	if ((len_bytes > 0 && (data[0] < TLS_CHANGE_CIPHER_SPEC || data[0] > TLS_APPLICATION_DATA)) || (len_bytes > 1 && data[1] != 3))
		*wrong = "what is sent is not TLS";
	if (*wrong || len_bytes < TLS_RECORD_HEAD_BYTES)
		return 0;
	size_t bytes = (size_t)data[3] << 8 | data[4];
	if (bytes == 0 || bytes > TLS_RECORD_MAX_BYTES + 256)
		*wrong = "a TLS record of impossible length";
	return *wrong ? 0 : TLS_RECORD_HEAD_BYTES + bytes;
}

/* The server_name extension: exactly one name, of the one type there is. */
static const char *read_server_name(struct reader ext, char name[NAME_BYTES])
{
	struct reader list = vector(&ext, 2);
	uint32_t type = number(&list, 1);
	struct reader host = vector(&list, 2);
	size_t at;
	if (ext.broken || ext.left || list.broken || list.left || host.broken || type != NAME_TYPE_HOST)
		return "a malformed TLS server name";
	if (name_canonical((const char *)host.at, host.left, name, &at))
		return "a TLS server name that is no host name";
	return NULL;
}

static const char *read_extensions(struct reader all, char name[NAME_BYTES])
{
	bool named = false;
	while (all.left && !all.broken) {
		uint32_t type = number(&all, 2);
		struct reader ext = vector(&all, 2);
		if (ext.broken)
			break;
		if (type == EXTENSION_ECH || type == EXTENSION_ESNI)
			return "an encrypted TLS server name (ECH)";
		if (type != EXTENSION_SERVER_NAME)
			continue;
		const char *wrong = named ? "two TLS server names" : read_server_name(ext, name);
		if (wrong)
			return wrong;
		named = true;
	}
	if (all.broken)
		return "a malformed TLS ClientHello";
	return named ? NULL : "no TLS server name (SNI)";
}

/*
 * Writes the canonical name that a ClientHello asks for. `record` is one whole handshake record, and the ClientHello must
 * be all of it. Pure. Returns NULL, or what is wrong.
 */
const char *tls_hello_name(const uint8_t *record, size_t len_bytes, char name[NAME_BYTES])
{
	struct reader r = {record + TLS_RECORD_HEAD_BYTES, len_bytes - TLS_RECORD_HEAD_BYTES, false};
	uint32_t type = number(&r, 1), bytes = number(&r, 3);
	if (r.broken && (record[TLS_RECORD_HEAD_BYTES] == HANDSHAKE_CLIENT_HELLO))
		return "a TLS ClientHello split over records";
	if (type != HANDSHAKE_CLIENT_HELLO)
		return "TLS that does not begin with a ClientHello";
	if (bytes > r.left)
		return "a TLS ClientHello split over records";
	if (bytes < r.left)
		return "a malformed TLS ClientHello";
	take(&r, 2 + RANDOM_BYTES);
	struct reader session = vector(&r, 1), ciphers = vector(&r, 2), compressions = vector(&r, 1);
	if (r.broken || session.left > SESSION_ID_MAX_BYTES || ciphers.left % 2 || ciphers.left == 0 || compressions.left == 0)
		return "a malformed TLS ClientHello";
	if (r.left == 0)
		return "no TLS server name (SNI)";
	struct reader extensions = vector(&r, 2);
	return r.broken || r.left ? "a malformed TLS ClientHello" : read_extensions(extensions, name);
}

/*
 * What the first bytes of a server's stream, or those after an alert, are. Pure. Nothing that a server of TLS sends first is
 * shorter than TLS_ANSWER_BYTES but an alert.
 */
enum tls_answer tls_answer(const uint8_t *data, size_t len_bytes)
{
	/* The random value that makes a ServerHello a HelloRetryRequest (RFC 8446, section 4.1.3). */
	static const uint8_t retry[RANDOM_BYTES] = {0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c,
						    0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb,
						    0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c};
	const char *wrong;
	size_t bytes = tls_record_bytes(data, len_bytes, &wrong);
	if (wrong || data[0] == TLS_CHANGE_CIPHER_SPEC || data[0] == TLS_APPLICATION_DATA)
		return TLS_ANSWER_OTHER;
	if (data[0] == TLS_ALERT)
		return bytes == 0 || (bytes == TLS_ALERT_BYTES && len_bytes < bytes) ? TLS_ANSWER_PART
		       : bytes == TLS_ALERT_BYTES				      ? TLS_ANSWER_ALERT
										      : TLS_ANSWER_OTHER;
	if ((bytes && bytes < TLS_ANSWER_BYTES) ||
	    (len_bytes > TLS_RECORD_HEAD_BYTES && data[TLS_RECORD_HEAD_BYTES] != HANDSHAKE_SERVER_HELLO))
		return TLS_ANSWER_OTHER;
	if (len_bytes < TLS_ANSWER_BYTES)
		return TLS_ANSWER_PART;
	return memcmp(data + TLS_ANSWER_BYTES - RANDOM_BYTES, retry, RANDOM_BYTES) == 0 ? TLS_ANSWER_RETRY : TLS_ANSWER_HELLO;
}
