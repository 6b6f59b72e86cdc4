/*
 * Theory of operation
 * -------------------
 * Purpose: the one-name rule. The name that the policy allowed, and that the gate resolves and dials, is also the one that
 * TLS (SNI) and HTTP (Host) name: otherwise a shared front end would lead from an allowed host to any other behind it.
 *
 * TLS: the guest's first record must be a whole ClientHello, with one name in clear. What it sends after it waits until the
 * server has answered (early data, too; the server does not wait for it). An answer that is a ServerHello means that the
 * server speaks TLS and has accepted that ClientHello: from there on everything is encrypted, and passes. A
 * HelloRetryRequest means that a second ClientHello follows, which is checked as the first. Anything else means that this
 * is no server of TLS: nothing more passes, so that records cannot carry something that another kind of server would read.
 *
 * HTTP: every request on the connection, as http_request.c takes them apart. What is not HTTP any more after an upgrade
 * is denied there.
 *
 * Pure: bytes in, how many of them may pass out.
 */
#include "virtio/net/inspect.h"

#include <string.h>
#include <strings.h>

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

/* Whether a whole record may pass now. False with no reason: it waits for the server. */
static bool take_record(struct inspect *s, const char *name, const uint8_t *record, size_t bytes, const char **reason)
{
	bool first = s->tls == TLS_FIRST_HELLO;
	if (!first && record[0] == TLS_ALERT && bytes == TLS_ALERT_BYTES)
		return true; /* it gives up */
	if (s->tls == TLS_SERVER_HELLO)
		return false;
	if (record[0] != TLS_HANDSHAKE)
		return true;
	*reason = check_hello(name, record, bytes);
	if (*reason)
		return false;
	s->named = true;
	if (first)
		s->tls = TLS_SERVER_HELLO;
	else
		s->kind = INSPECT_OFF;
	return true;
}

/* Whole records that may pass. */
static size_t inspect_tls(struct inspect *s, const char *name, const uint8_t *data, size_t len_bytes, struct inspect_denial *denied)
{
	size_t passed = 0;
	while (passed < len_bytes && s->kind == INSPECT_TLS) {
		const uint8_t *at = data + passed;
		size_t left = len_bytes - passed, bytes = tls_record_bytes(at, left, &denied->reason);
		if (s->tls == TLS_NOT_SERVED)
			denied->reason = "TLS to a server that does not speak it";
		else if (!denied->reason && s->tls == TLS_FIRST_HELLO && at[0] != TLS_HANDSHAKE)
			denied->reason = "TLS that does not begin with a ClientHello";
		if (denied->reason || bytes == 0 || left < bytes || !take_record(s, name, at, bytes, &denied->reason))
			break;
		passed += bytes;
	}
	return passed;
}

/* What the server's first bytes make of the handshake. */
static void take_answer(struct inspect *s)
{
	switch (tls_answer(s->server_head, s->server_head_bytes)) {
	case TLS_ANSWER_PART:
		return;
	case TLS_ANSWER_ALERT:
		s->server_head_bytes = 0;
		return;
	case TLS_ANSWER_HELLO:
		if (s->tls == TLS_SERVER_HELLO)
			s->kind = INSPECT_OFF;
		else
			s->tls = TLS_NOT_SERVED; /* nobody asked it yet */
		return;
	case TLS_ANSWER_RETRY:
		s->tls = s->tls == TLS_SERVER_HELLO ? TLS_SECOND_HELLO : TLS_NOT_SERVED;
		return;
	case TLS_ANSWER_OTHER:
		s->tls = TLS_NOT_SERVED;
		return;
	}
}

/* ---- HTTP ---- */

/* In any case: it is for the server to be strict. */
static bool method_is(const struct http_request *r, const char *method)
{
	return r->method.bytes == strlen(method) && strncasecmp(r->method.at, method, r->method.bytes) == 0;
}

static struct inspect_denial check_request(const struct inspect *s, const char *name, const struct http_request *r)
{
	if (s->refuse)
		return (struct inspect_denial){s->refuse, 403};
	if (method_is(r, "CONNECT") || method_is(r, "TRACE"))
		return (struct inspect_denial){"an HTTP method that is not allowed (CONNECT, TRACE)", 405};
	if (r->target.at[0] != '/' && !(method_is(r, "OPTIONS") && r->target.bytes == 1 && r->target.at[0] == '*'))
		return (struct inspect_denial){"an HTTP request as to a proxy", 421};
	if (!name_is_authority(r->host.at, r->host.bytes, name, s->port))
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
		s->named |= event == HTTP_REQUEST && !denied->reason;
		if (event != HTTP_REQUEST || !denied->reason)
			passed += taken;
	} while ((event == HTTP_REQUEST || event == HTTP_DATA) && !denied->reason);
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

/*
 * Looks at the server's bytes, from its first one on: they say what a TLS handshake has come to. What the guest has sent is to
 * be looked at again afterwards.
 */
void inspect_server(struct inspect *s, const uint8_t *data, size_t len_bytes)
{
	for (size_t i = 0; i < len_bytes; i++) {
		bool matters = s->kind == INSPECT_TLS || s->kind == INSPECT_EITHER;
		if (!matters || s->tls == TLS_SECOND_HELLO || s->tls == TLS_NOT_SERVED)
			return;
		s->server_head[s->server_head_bytes++] = data[i];
		take_answer(s);
	}
}
