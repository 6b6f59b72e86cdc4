/*
 * Theory of operation
 * -------------------
 * Purpose: the one-name rule. The name that the policy allowed, and that the gate resolves and dials, is also the one that
 * TLS (SNI) and HTTP (Host) name: otherwise a shared front end would lead from an allowed host to any other behind it.
 *
 * TLS: a record at a time, until the server's first bytes are there. Where they ask for a second ClientHello (a
 * HelloRetryRequest), that is checked too; everything else the server accepts after the first is encrypted, and passes.
 * Each ClientHello must be one record by itself, with one name in clear.
 *
 * HTTP: every request on the connection, as http_request.c takes them apart. What is not HTTP any more after an upgrade
 * is denied there.
 *
 * Pure: bytes in, how many of them may pass out.
 */
#include "virtio/net/inspect.h"

#include <string.h>

enum {
	PORT_HTTP = 80,
	PORT_HTTPS = 443,
};

/* Starts to look at a flow to `port`: 80 is HTTP, 443 is TLS, others are either. */
void inspect_start(struct inspect *s, uint16_t port)
{
	*s = (struct inspect){.port = port};
	s->kind = port == PORT_HTTP ? INSPECT_HTTP : port == PORT_HTTPS ? INSPECT_TLS : INSPECT_EITHER;
}

/* ---- TLS ---- */

static const char *check_hello(const char *name, const uint8_t *record, size_t len_bytes)
{
	char asked[NAME_BYTES];
	const char *wrong = tls_hello_name(record, len_bytes, asked);
	return wrong ? wrong : strcmp(asked, name) == 0 ? NULL : "TLS for another host (SNI)";
}

/* Whole records that may pass. What is part of a ClientHello does not pass before all of it is there. */
static size_t inspect_tls(struct inspect *s, const char *name, const uint8_t *data, size_t len_bytes, struct inspect_denial *denied)
{
	size_t passed = 0;
	while (passed < len_bytes) {
		const uint8_t *at = data + passed;
		size_t left = len_bytes - passed, bytes = tls_record_bytes(at, left, &denied->reason);
		if (bytes == 0)
			break; /* wrong, or too little */
		bool hello = !s->hello_passed || (at[0] == TLS_HANDSHAKE && left > TLS_RECORD_HEAD_BYTES && at[TLS_RECORD_HEAD_BYTES] == 1);
		if (!s->hello_passed && at[0] != TLS_HANDSHAKE)
			denied->reason = "TLS that does not begin with a ClientHello";
		if (denied->reason || left < bytes)
			break;
		denied->reason = hello ? check_hello(name, at, bytes) : NULL;
		if (denied->reason)
			break;
		if (s->hello_passed && hello)
			s->kind = INSPECT_OFF; /* there is no third one */
		s->hello_passed = true;
		passed += bytes;
	}
	return passed;
}

/* ---- HTTP ---- */

/* Whether a Host field names the flow's host and, if any, its port. */
static bool same_host(struct text host, const char *name, uint16_t port)
{
	char canonical[NAME_BYTES];
	size_t at, n = host.bytes;
	const char *colon = memchr(host.at ? host.at : "", ':', n);
	if (colon) {
		unsigned value = 0;
		n = (size_t)(colon - host.at);
		for (size_t i = n + 1; i < host.bytes; i++) {
			if (host.at[i] < '0' || host.at[i] > '9' || value > UINT16_MAX)
				return false;
			value = value * 10 + (unsigned)(host.at[i] - '0');
		}
		if (value != port)
			return false;
	}
	return !name_canonical(host.at, n, canonical, &at) && strcmp(canonical, name) == 0;
}

static bool method_is(const struct http_request *r, const char *method)
{
	return r->method.bytes == strlen(method) && memcmp(r->method.at, method, r->method.bytes) == 0;
}

static struct inspect_denial check_request(const struct inspect *s, const char *name, const struct http_request *r)
{
	if (s->refuse)
		return (struct inspect_denial){s->refuse, 403};
	if (method_is(r, "CONNECT") || method_is(r, "TRACE"))
		return (struct inspect_denial){"an HTTP method that is not allowed (CONNECT, TRACE)", 405};
	if (r->target.at[0] != '/' && !(method_is(r, "OPTIONS") && r->target.bytes == 1 && r->target.at[0] == '*'))
		return (struct inspect_denial){"an HTTP request as to a proxy", 421};
	if (!same_host(r->host, name, s->port))
		return (struct inspect_denial){"an HTTP request for another host", 421};
	return (struct inspect_denial){0};
}

static size_t inspect_http(struct inspect *s, const char *name, const uint8_t *data, size_t len_bytes, struct inspect_denial *denied)
{
	size_t passed = 0, taken;
	struct http_request request;
	struct http_denial wrong;
	enum http_event event;
	do {
		event = http_next(&s->http, data + passed, len_bytes - passed, &taken, &request, &wrong);
		if (event == HTTP_BAD)
			*denied = (struct inspect_denial){wrong.reason, wrong.status};
		if (event == HTTP_REQUEST)
			*denied = check_request(s, name, &request);
		if (!denied->reason)
			passed += taken;
	} while (event == HTTP_REQUEST && !denied->reason);
	return passed;
}

/* ---- Both ---- */

/*
 * Looks at what the guest sends on a flow that was allowed for `name`; `data` begins where the last call's result ended.
 * Returns how many bytes may pass. With denied->reason, what follows them must not, and the flow is to end.
 */
size_t inspect_guest(struct inspect *s, const char *name, const uint8_t *data, size_t len_bytes, struct inspect_denial *denied)
{
	*denied = (struct inspect_denial){0};
	if (s->kind == INSPECT_EITHER && len_bytes)
		s->kind = data[0] >= TLS_CHANGE_CIPHER_SPEC && data[0] <= TLS_APPLICATION_DATA ? INSPECT_TLS : INSPECT_HTTP;
	size_t passed = s->kind == INSPECT_TLS    ? inspect_tls(s, name, data, len_bytes, denied)
			: s->kind == INSPECT_HTTP ? inspect_http(s, name, data, len_bytes, denied)
						  : 0;
	return s->kind == INSPECT_OFF ? len_bytes : passed;
}

/* Looks at the server's bytes, from its first one on: they say when a TLS flow needs no more looking at. */
void inspect_server(struct inspect *s, const uint8_t *data, size_t len_bytes)
{
	size_t room = sizeof s->server_head - s->server_head_bytes;
	if (s->kind != INSPECT_TLS || !s->hello_passed || room == 0)
		return;
	size_t n = len_bytes < room ? len_bytes : room;
	memcpy(s->server_head + s->server_head_bytes, data, n);
	s->server_head_bytes += (uint8_t)n;
	bool other = s->server_head_bytes && s->server_head[0] != TLS_HANDSHAKE;
	if (other || (n == room && !tls_is_retry(s->server_head, sizeof s->server_head)))
		s->kind = INSPECT_OFF;
}
