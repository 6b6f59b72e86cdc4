/* virtio/net: inspect.c, tls_hello.c, http_request.c. What allowed flows may say, and that it does not depend on how it is cut. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/inspect.h"

#define NAME "www.example.com"

/* ---- Making TLS ---- */

struct message {
	uint8_t at[40000];
	size_t bytes;
};

static void put(struct message *m, unsigned value, unsigned bytes)
{
	while (bytes--)
		m->at[m->bytes++] = (uint8_t)(value >> (8 * bytes));
}

static void put_all(struct message *m, const void *data, size_t bytes)
{
	memcpy(m->at + m->bytes, data, bytes);
	m->bytes += bytes;
}

/* Fills in the length that was left out `bytes` bytes before `from`. */
static void set_length(struct message *m, size_t from, unsigned bytes)
{
	size_t length = m->bytes - from;
	for (unsigned i = 0; i < bytes; i++)
		m->at[from - 1 - i] = (uint8_t)(length >> (8 * i));
}

/* What is unusual about a ClientHello. */
struct hello {
	const char *names[3]; /* of server_name extensions */
	unsigned extension;   /* one more, empty; 0: none */
	unsigned padding;     /* bytes of an extension for that */
	unsigned name_type;
	unsigned list_names; /* in one extension: more than the one */
	unsigned after_list; /* bytes in the extension behind its list */
	bool no_extensions;
	unsigned short_by;   /* bytes that the message's length lacks */
	unsigned trailing;   /* bytes after the message in its record */
	unsigned session_id_bytes;
};

static void put_server_name(struct message *m, const char *name, const struct hello *h)
{
	put(m, 0, 2);
	put(m, 0, 2);
	size_t ext = m->bytes;
	put(m, 0, 2);
	size_t list = m->bytes;
	for (unsigned i = 0; i <= h->list_names; i++) {
		put(m, h->name_type, 1);
		put(m, (unsigned)strlen(name), 2);
		put_all(m, name, strlen(name));
	}
	set_length(m, list, 2);
	put(m, 0, h->after_list);
	set_length(m, ext, 2);
}

static void put_extensions(struct message *m, const struct hello *h)
{
	put(m, 0, 2);
	size_t all = m->bytes;
	put(m, 0x0a0a, 2); /* GREASE */
	put(m, 0, 2);
	if (h->extension) {
		put(m, h->extension, 2);
		put(m, 0, 2);
	}
	for (unsigned i = 0; i < 3 && h->names[i]; i++)
		put_server_name(m, h->names[i], h);
	if (h->padding) {
		put(m, 21, 2);
		put(m, h->padding, 2);
		memset(m->at + m->bytes, 0, h->padding);
		m->bytes += h->padding;
	}
	set_length(m, all, 2);
}

/* A record with a ClientHello. */
static struct message client_hello(const struct hello *h)
{
	struct message m = {.bytes = 0};
	put(&m, 22, 1);
	put(&m, 0x0301, 2);
	put(&m, 0, 2);
	size_t record = m.bytes;
	put(&m, 1, 1);
	put(&m, 0, 3);
	size_t message = m.bytes;
	put(&m, 0x0303, 2);
	for (int i = 0; i < 32; i++)
		put(&m, 0x55, 1);
	put(&m, h->session_id_bytes, 1);
	for (unsigned i = 0; i < h->session_id_bytes; i++)
		put(&m, 0x66, 1);
	put(&m, 4, 2);
	put(&m, 0x0a0a1301, 4);
	put(&m, 1, 1);
	put(&m, 0, 1);
	if (!h->no_extensions)
		put_extensions(&m, h);
	set_length(&m, message, 3);
	m.at[message - 1] = (uint8_t)(m.at[message - 1] - h->short_by);
	for (unsigned i = 0; i < h->trailing; i++)
		put(&m, 0, 1);
	set_length(&m, record, 2);
	return m;
}

static struct message hello_for(const char *name)
{
	return client_hello(&(struct hello){.names = {name}});
}

static const uint8_t retry_random[32] = {0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
					 0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c};

static struct message server_hello(bool retry)
{
	struct message m = {.bytes = 0};
	uint8_t random[32];
	memset(random, 0x77, sizeof random);
	put(&m, 0x160303, 3);
	put(&m, 44, 2);
	put(&m, 2, 1);
	put(&m, 40, 3);
	put(&m, 0x0303, 2);
	put_all(&m, retry ? retry_random : random, 32);
	put(&m, 0, 1);
	put(&m, 0x1301, 2);
	put(&m, 0, 1);
	put(&m, 0, 2);
	return m;
}

/* ---- The names in ClientHellos ---- */

static const char *name_in(const struct message *m, char name[NAME_BYTES])
{
	return tls_hello_name(m->at, m->bytes, name);
}

Test(tls_hello, case_31_what_is_refused)
{
	static const struct {
		struct hello hello;
		const char *wrong; /* NULL: fine, and it is NAME */
	} rows[] = {
		{{.names = {NAME}}, NULL},
		{{.names = {"WWW.Example.COM."}}, NULL},
		{{.names = {NAME}, .padding = 600}, NULL},
		{{.names = {NAME}, .session_id_bytes = 32}, NULL},
		{{.names = {NAME}, .extension = 0x1a1a}, NULL}, /* GREASE */
		{{.names = {NULL}}, "no TLS server name (SNI)"},
		{{.no_extensions = true}, "no TLS server name (SNI)"},
		{{.names = {NAME}, .extension = 0xfe0d}, "an encrypted TLS server name (ECH)"},
		{{.names = {NAME}, .extension = 0xffce}, "an encrypted TLS server name (ECH)"},
		{{.names = {NAME, "other.example.com"}}, "two TLS server names"},
		{{.names = {NAME, NAME}}, "two TLS server names"},
		{{.names = {NAME}, .list_names = 1}, "a malformed TLS server name"},
		{{.names = {NAME}, .after_list = 1}, "a malformed TLS server name"},
		{{.names = {NAME}, .name_type = 1}, "a malformed TLS server name"},
		{{.names = {""}}, "a TLS server name that is no host name"},
		{{.names = {"127.0.0.1"}}, "a TLS server name that is no host name"},
		{{.names = {"a b"}}, "a TLS server name that is no host name"},
		{{.names = {NAME}, .short_by = 1}, "a malformed TLS ClientHello"},
		{{.names = {NAME}, .trailing = 1}, "a malformed TLS ClientHello"},
		{{.names = {NAME}, .session_id_bytes = 33}, "a malformed TLS ClientHello"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		char name[NAME_BYTES];
		struct message m = client_hello(&rows[i].hello);
		const char *wrong = name_in(&m, name);
		cr_expect((wrong == NULL) == (rows[i].wrong == NULL) && (!wrong || strcmp(wrong, rows[i].wrong) == 0), "%zu: %s", i, wrong);
		if (!wrong)
			cr_expect_str_eq(name, NAME);
	}
	struct message m = hello_for(NAME);
	char name[NAME_BYTES];
	m.at[5] = 2;
	cr_expect_str_eq(name_in(&m, name), "TLS that does not begin with a ClientHello");
	struct message nul = client_hello(&(struct hello){.names = {"www.example.comX.evil"}});
	*(uint8_t *)memchr(nul.at, 'X', nul.bytes) = 0;
	cr_expect_str_eq(name_in(&nul, name), "a TLS server name that is no host name");
}

/* A record that holds less than the message, at every byte. */
Test(tls_hello, case_31_split_over_records)
{
	struct message whole = hello_for(NAME);
	for (size_t cut = 1; cut < whole.bytes - TLS_RECORD_HEAD_BYTES; cut++) {
		struct message m = whole;
		char name[NAME_BYTES];
		m.bytes = TLS_RECORD_HEAD_BYTES + cut;
		set_length(&m, TLS_RECORD_HEAD_BYTES, 2);
		cr_expect_str_eq(name_in(&m, name), "a TLS ClientHello split over records", "%zu", cut);
	}
}

/* Every length field, wrong by one: never read outside (AddressSanitizer), never another name. */
Test(tls_hello, every_byte_changed)
{
	struct message whole = hello_for(NAME);
	for (size_t at = TLS_RECORD_HEAD_BYTES; at < whole.bytes; at++)
		for (unsigned bit = 0; bit < 8; bit++) {
			char name[NAME_BYTES] = "";
			uint8_t *exact = malloc(whole.bytes);
			memcpy(exact, whole.at, whole.bytes);
			exact[at] ^= (uint8_t)(1u << bit);
			tls_hello_name(exact, whole.bytes, name);
			free(exact);
		}
}

Test(tls_hello, records)
{
	static const struct {
		uint8_t data[6];
		size_t len, bytes;
		bool wrong;
	} rows[] = {
		{{0}, 0, 0, false},
		{{22}, 1, 0, false},
		{{22, 3, 1, 0}, 4, 0, false},
		{{22, 3, 1, 0, 1}, 5, 6, false},
		{{23, 3, 3, 0x41, 0}, 5, 5 + (1 << 14) + 256, false},
		{{23, 3, 3, 0x41, 1}, 5, 0, true},
		{{22, 3, 1, 0, 0}, 5, 0, true},
		{{22, 2, 1, 0, 1}, 5, 0, true},
		{{19, 3, 1, 0, 1}, 5, 0, true},
		{{24, 3, 1, 0, 1}, 5, 0, true}, /* heartbeat */
		{{0x80, 0x2e, 1, 3, 1}, 5, 0, true}, /* a hello of SSL 2 */
		{{'G', 'E', 'T', ' ', '/'}, 5, 0, true},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		const char *wrong;
		cr_expect_eq(tls_record_bytes(rows[i].data, rows[i].len, &wrong), rows[i].bytes, "%zu", i);
		cr_expect_eq(wrong != NULL, rows[i].wrong, "%zu", i);
	}
}

/* ---- Flows: a script of what both sides say, and what may pass ---- */

struct flow {
	struct inspect inspect;
	struct message guest; /* what it has said, of which `passed` passed */
	size_t passed;
	const char *denied;
	unsigned status;
};

static void look(struct flow *f)
{
	struct inspect_denial d;
	if (f->denied)
		return;
	size_t n = inspect_guest(&f->inspect, NAME, f->guest.at + f->passed, f->guest.bytes - f->passed, &d);
	cr_assert_leq(n, f->guest.bytes - f->passed);
	f->passed += n;
	f->denied = d.reason;
	f->status = d.status;
}

static void guest_says(struct flow *f, const void *data, size_t bytes)
{
	put_all(&f->guest, data, bytes);
	look(f);
}

static void server_says(struct flow *f, const void *data, size_t bytes)
{
	inspect_server(&f->inspect, data, bytes);
	look(f);
}

static struct flow *start(uint16_t port)
{
	struct flow *f = calloc(1, sizeof *f);
	inspect_start(&f->inspect, port);
	return f;
}

static void expect(struct flow *f, size_t passed, const char *denied)
{
	cr_expect_eq(f->passed, passed, "%zu of %zu bytes passed: %s", f->passed, f->guest.bytes, f->denied);
	cr_expect((f->denied == NULL) == (denied == NULL) && (!denied || strcmp(denied, f->denied) == 0), "%s, not %s", f->denied, denied);
	free(f);
}

static const char early_data[] = "\x17\x03\x03\x00\x04\x01\x02\x03\x04";
static const char alert[] = "\x15\x03\x03\x00\x02\x01\x00";
static const char change_cipher[] = "\x14\x03\x03\x00\x01\x01";
static const char anything[] = "GET / HTTP/1.1\r\nHost: other.example.com\r\n\r\n";
#define TEXT(t) t, sizeof(t) - 1

Test(inspect, case_31_a_whole_hello_passes_and_then_everything)
{
	struct message hello = hello_for(NAME), answer = server_hello(false);
	struct flow *f = start(443);
	for (size_t i = 0; i + 1 < hello.bytes; i++) {
		guest_says(f, hello.at + i, 1);
		cr_assert_eq(f->passed, 0, "a part of it passed, at %zu", i);
	}
	guest_says(f, hello.at + hello.bytes - 1, 1);
	cr_expect_eq(f->passed, hello.bytes);
	cr_expect(f->inspect.named);
	for (size_t i = 0; i < answer.bytes; i++)
		server_says(f, answer.at + i, 1);
	guest_says(f, TEXT(early_data));
	guest_says(f, TEXT(anything)); /* encrypted, for all we know */
	expect(f, hello.bytes + sizeof early_data - 1 + sizeof anything - 1, NULL);
}

/* Before the server has answered nothing but the hello passes, so that nothing in clear can be slipped in. */
Test(inspect, case_31_what_follows_a_hello_waits_for_the_server)
{
	struct message hello = hello_for(NAME), other = hello_for("other.example.com"), answer = server_hello(false);
	struct flow *f = start(443);
	guest_says(f, hello.at, hello.bytes);
	guest_says(f, TEXT(change_cipher));
	guest_says(f, TEXT(early_data));
	cr_expect_eq(f->passed, hello.bytes);
	server_says(f, answer.at, answer.bytes);
	expect(f, hello.bytes + sizeof change_cipher - 1 + sizeof early_data - 1, NULL);

	f = start(443);
	guest_says(f, hello.at, hello.bytes);
	guest_says(f, other.at, other.bytes); /* a second one, which nobody asked for */
	expect(f, hello.bytes, NULL);

	f = start(443);
	guest_says(f, hello.at, hello.bytes);
	guest_says(f, TEXT(alert)); /* it gives up */
	expect(f, hello.bytes + sizeof alert - 1, NULL);

	f = start(443);
	guest_says(f, hello.at, hello.bytes);
	guest_says(f, TEXT("\x15\x03\x03\x00\x08\r\nGET /\r")); /* more than an alert is */
	expect(f, hello.bytes, NULL);

	f = start(443);
	guest_says(f, hello.at, hello.bytes);
	guest_says(f, TEXT(anything));
	expect(f, hello.bytes, "what is sent is not TLS");
}

/* A server that asks for another ClientHello gets one with the same name, or none. */
Test(inspect, case_31_the_second_hello_is_checked)
{
	struct message hello = hello_for(NAME), other = hello_for("other.example.com"), retry = server_hello(true);
	struct flow *f = start(443);
	guest_says(f, hello.at, hello.bytes);
	guest_says(f, TEXT(early_data));
	server_says(f, retry.at, retry.bytes);
	guest_says(f, TEXT(change_cipher));
	guest_says(f, hello.at, hello.bytes);
	guest_says(f, TEXT(anything));
	expect(f, 2 * hello.bytes + sizeof early_data - 1 + sizeof change_cipher - 1 + sizeof anything - 1, NULL);

	f = start(443);
	guest_says(f, hello.at, hello.bytes);
	server_says(f, retry.at, retry.bytes);
	guest_says(f, other.at, other.bytes);
	expect(f, hello.bytes, "TLS for another host (SNI)");

	f = start(443);
	guest_says(f, hello.at, hello.bytes);
	server_says(f, retry.at, retry.bytes);
	guest_says(f, TEXT("\x16\x03\x03\x00\x04\x14\x00\x00\x00")); /* something else in a handshake record */
	expect(f, hello.bytes, "TLS that does not begin with a ClientHello");

	f = start(443);
	guest_says(f, hello.at, hello.bytes);
	server_says(f, retry.at, retry.bytes);
	guest_says(f, TEXT(anything));
	expect(f, hello.bytes, "what is sent is not TLS");
}

/* A server that does not answer in TLS may read what follows as something else: it gets no more. */
Test(inspect, case_31_a_server_that_does_not_speak_tls)
{
	static const char http[] = "HTTP/1.1 400 Bad Request\r\n\r\n", banner[] = "SSH-2.0-x\r\n";
	struct message hello = hello_for(NAME), answer = server_hello(false);
	struct flow *f = start(443);
	guest_says(f, hello.at, hello.bytes);
	server_says(f, TEXT(http));
	cr_expect_null(f->denied, "not before the guest goes on");
	guest_says(f, TEXT(early_data));
	expect(f, hello.bytes, "TLS to a server that does not speak it");

	f = start(443);
	server_says(f, TEXT(banner)); /* before it was asked */
	guest_says(f, hello.at, hello.bytes);
	expect(f, 0, "TLS to a server that does not speak it");

	f = start(8443); /* where either is spoken, too */
	server_says(f, TEXT(banner));
	guest_says(f, hello.at, hello.bytes);
	expect(f, 0, "TLS to a server that does not speak it");

	f = start(443);
	server_says(f, answer.at, answer.bytes); /* the answer before the question */
	guest_says(f, hello.at, hello.bytes);
	expect(f, 0, "TLS to a server that does not speak it");

	f = start(443);
	guest_says(f, hello.at, hello.bytes);
	server_says(f, TEXT("\x16\x03\x03\x00\x04\x0e\x00\x00\x00")); /* a handshake that begins elsewhere */
	guest_says(f, TEXT(early_data));
	expect(f, hello.bytes, "TLS to a server that does not speak it");

	f = start(443);
	guest_says(f, hello.at, hello.bytes);
	server_says(f, TEXT(alert)); /* a warning, as some give about names, and then the hello */
	server_says(f, answer.at, answer.bytes);
	guest_says(f, TEXT(anything));
	expect(f, hello.bytes + sizeof anything - 1, NULL);
}

Test(inspect, case_31_no_hello_at_all)
{
	static const struct {
		uint16_t port;
		const char *said;
		size_t bytes;
		const char *denied;
	} rows[] = {
		{443, TEXT("GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n"), "what is sent is not TLS"},
		{443, TEXT("SSH-2.0-x\r\n"), "what is sent is not TLS"},
		{443, TEXT("\x80\x2e\x01\x03\x01"), "what is sent is not TLS"},
		{443, TEXT("\x15\x03\x03\x00\x02\x01\x00"), "TLS that does not begin with a ClientHello"},
		{443, TEXT("\x17\x03\x03\x00\x01\x00"), "TLS that does not begin with a ClientHello"},
		{443, TEXT("\x16\x03\x03\x00\x01\x01"), "a TLS ClientHello split over records"},
		{443, TEXT("\x16\x03\x03\x00\x04\x02\x00\x00\x00"), "TLS that does not begin with a ClientHello"},
		{443, TEXT("\x16\x03\x03\xff\xff"), "a TLS record of impossible length"},
		{80, TEXT("\x16\x03\x01\x00\x05"), "what is sent is not HTTP/1.1"},
		{8080, TEXT("\x80\x2e\x01\x03\x01"), "what is sent is not HTTP/1.1"},
		{8080, TEXT("SSH-2.0-OpenSSH_9.2\r\n"), "what is sent is not HTTP/1.1"},
		{8080, TEXT("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "what is sent is not HTTP/1.1"},
		{80, TEXT("PRI * HTTP/2.0\r\n"), "what is sent is not HTTP/1.1"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct flow *f = start(rows[i].port);
		guest_says(f, rows[i].said, rows[i].bytes);
		expect(f, 0, rows[i].denied);
	}
}

/* ---- HTTP ---- */

#define GET "GET / HTTP/1.1\r\nHost: " NAME "\r\n\r\n"
#define POST "POST /x HTTP/1.1\r\nHost: " NAME "\r\n"
#define OTHER "GET / HTTP/1.1\r\nHost: other.example.com\r\n\r\n"

/* What the guest says to port 80. All until `|` passes; `status` 0: it goes on. */
struct http_row {
	const char *said;
	unsigned status;
};

static const struct http_row http_good[] = {
	{GET "|", 0},
	{"GET /a?b HTTP/1.0\r\nhOsT:\t WWW.EXAMPLE.com.:80 \t\r\nA: b\r\nEmpty:\r\n\r\n|", 0},
	{GET GET GET "|", 0},
	{"OPTIONS * HTTP/1.1\r\nHost: " NAME "\r\n\r\n|", 0},
	{POST "Content-Length: 5\r\n\r\nhello" GET "|", 0},
	{POST "Content-Length: 0\r\n\r\n" GET "|", 0},
	{POST "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0A;x=\"y\"\r\n0123456789\r\n0\r\n\r\n" GET "|", 0},
	{POST "Transfer-Encoding: Chunked\r\n\r\n0\r\nA-Trailer: x\r\n\r\n" GET "|", 0},
	{POST "Expect: 100-continue\r\nContent-Length: 1\r\n\r\n!" GET "|", 0},
	{"GET / HTTP/1.1\r\nHost: " NAME "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n|\x81\x05hello", 400}, /* after 101 */
};

/* Case 22: whose it is. */
static const struct http_row http_hosts[] = {
	{"|" OTHER, 421},
	{GET "|" OTHER, 421}, /* the same connection, another host */
	{POST "Content-Length: 5\r\n\r\nhello|" OTHER, 421},
	{"|GET / HTTP/1.1\r\nHost: " NAME ":81\r\n\r\n", 421},
	{"|GET / HTTP/1.1\r\nHost: " NAME ":\r\n\r\n", 421},
	{"|GET / HTTP/1.1\r\nHost: x@" NAME "\r\n\r\n", 421},
	{"|GET / HTTP/1.1\r\nHost: " NAME ", other.example.com\r\n\r\n", 421},
	{"|GET / HTTP/1.1\r\nHost:\r\n\r\n", 421},
	{"|GET / HTTP/1.1\r\n\r\n", 400},
	{"|GET / HTTP/1.0\r\n\r\n", 400},
	{"|GET / HTTP/1.1\r\nHost: " NAME "\r\nHost: " NAME "\r\n\r\n", 400},
	{"|GET / HTTP/1.1\r\nHost: " NAME "\r\nhost: other.example.com\r\n\r\n", 400},
	{"|GET http://" NAME "/ HTTP/1.1\r\nHost: " NAME "\r\n\r\n", 421},
	{"|GET http://other.example.com/ HTTP/1.1\r\nHost: " NAME "\r\n\r\n", 421},
	{"|GET * HTTP/1.1\r\nHost: " NAME "\r\n\r\n", 421},
	{"|GET other HTTP/1.1\r\nHost: " NAME "\r\n\r\n", 421},
};

/* Case 29: no proxies. */
static const struct http_row http_proxies[] = {
	{"|CONNECT other.example.com:443 HTTP/1.1\r\nHost: " NAME "\r\n\r\n", 405},
	{"|Connect " NAME ":80 HTTP/1.1\r\nHost: " NAME "\r\n\r\n", 405},
	{GET "|CONNECT / HTTP/1.1\r\nHost: " NAME "\r\n\r\n", 405},
	{"|TRACE / HTTP/1.1\r\nHost: " NAME "\r\n\r\n", 405},
};

/* Case 30: where a request ends. */
static const struct http_row http_lengths[] = {
	{"|" POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"|" POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400},
	{"|" POST "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400},
	{"|" POST "Content-Length: 5, 5\r\n\r\nhello", 400},
	{"|" POST "Content-Length: +5\r\n\r\nhello", 400},
	{"|" POST "Content-Length: 0x5\r\n\r\nhello", 400},
	{"|" POST "Content-Length: -1\r\n\r\n", 400},
	{"|" POST "Content-Length:\r\n\r\n", 400},
	{"|" POST "Content-Length: 9999999999999999999\r\n\r\n", 400},
	{"|" POST "Content-Length : 5\r\n\r\nhello", 400},
	{"|" POST " Content-Length: 5\r\n\r\nhello", 400},
	{"|" POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"|" POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400},
	{"|" POST "Transfer-Encoding: identity\r\n\r\n", 400},
	{"|" POST "Transfer-Encoding: \x0b" "chunked\r\n\r\n0\r\n\r\n", 400},
	{"|" POST "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", 400},
	{"|POST / HTTP/1.0\r\nHost: " NAME "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
	{"|" POST "X: a\r\n b\r\n\r\n", 400},
	{"|" POST "X: a\nY: b\r\n\r\n", 400},
	{"|" POST "X: a\rY: b\r\n\r\n", 400},
	{"|" POST "X: a\r\r\n\r\n", 400},
	{"|" POST ": a\r\n\r\n", 400},
	{"|" POST "X\r\n\r\n", 400},
	{"|GET / HTTP/1.1\nHost: " NAME "\n\n", 400},
	{"|\r\n" GET, 400},
	{"|GET  / HTTP/1.1\r\nHost: " NAME "\r\n\r\n", 400},
	{"|GET / x HTTP/1.1\r\nHost: " NAME "\r\n\r\n", 400},
	{"|GET / HTTP/1.1 \r\nHost: " NAME "\r\n\r\n", 400},
	{"|GET / HTTP/1.2\r\nHost: " NAME "\r\n\r\n", 400},
	{"|GET / HTTP/2.0\r\nHost: " NAME "\r\n\r\n", 400},
	{"|GET /\r\n", 400}, /* HTTP/0.9 */
	{"|GE(T / HTTP/1.1\r\nHost: " NAME "\r\n\r\n", 400},
	{"|GET /\x01 HTTP/1.1\r\nHost: " NAME "\r\n\r\n", 400},
	{"|ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\nHost: " NAME "\r\n\r\n", 400},
	{"|" POST "Expect: 100-Continue, x\r\n\r\n", 400},
	{"|" POST "Expect: 100-continue\r\nExpect: 100-continue\r\n\r\n", 400},
	{POST "Transfer-Encoding: chunked\r\n\r\n|x\r\n", 400},
	{POST "Transfer-Encoding: chunked\r\n\r\n|\r\n", 400},
	{POST "Transfer-Encoding: chunked\r\n\r\n|-5\r\nhello\r\n", 400},
	{POST "Transfer-Encoding: chunked\r\n\r\n|5 \r\nhello\r\n", 400},
	{POST "Transfer-Encoding: chunked\r\n\r\n|5\nhello\r\n", 400},
	{POST "Transfer-Encoding: chunked\r\n\r\n|5;a\nb\r\nhello\r\n", 400},
	{POST "Transfer-Encoding: chunked\r\n\r\n|5;a\rb\r\nhello\r\n", 400},
	{POST "Transfer-Encoding: chunked\r\n\r\n|10000000000000000\r\n", 400},
	{POST "Transfer-Encoding: chunked\r\n\r\n|fffffffffffffff1\r\n", 400},
	{POST "Transfer-Encoding: chunked\r\n\r\n5\r\nhello|0\r\n\r\n", 400},
	{POST "Transfer-Encoding: chunked\r\n\r\n5\r\nhello|\n0\r\n\r\n", 400},
	{POST "Transfer-Encoding: chunked\r\n\r\n0\r\n|GET / HTTP/1.1\r\n\r\n", 400},
	{POST "Transfer-Encoding: chunked\r\n\r\n0\r\n|Host: other.example.com\r\n\r\n", 400},
	{POST "Transfer-Encoding: chunked\r\n\r\n0\r\n|Content-Length: 5\r\n\r\n", 400},
	{POST "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n|" OTHER, 421},
	{POST "Content-Length: 3\r\n\r\nabc|" OTHER, 421},
};

/* Says it in pieces: `cut` says how long the next is. */
static void check_http(const struct http_row *row, size_t (*cut)(size_t at, size_t seed), size_t seed)
{
	struct flow *f = start(80);
	size_t bytes = strlen(row->said), may = strcspn(row->said, "|");
	char *said = strdup(row->said);
	memmove(said + may, said + may + 1, bytes - may);
	bytes--;
	for (size_t at = 0; at < bytes && !f->denied;) {
		size_t n = cut(at, seed);
		n = n > bytes - at ? bytes - at : n;
		guest_says(f, said + at, n);
		at += n;
	}
	cr_expect(f->passed == may && f->status == row->status, "%s: %zu passed, %u: %s (seed %zu)", row->said, f->passed, f->status,
		  f->denied, seed);
	cr_expect_eq(f->denied != NULL, row->status != 0);
	free(said);
	free(f);
}

static size_t at_once(size_t at, size_t seed)
{
	(void)at, (void)seed;
	return SIZE_MAX;
}

static size_t by_bytes(size_t at, size_t seed)
{
	(void)at, (void)seed;
	return 1;
}

static size_t in_two(size_t at, size_t seed)
{
	return at ? SIZE_MAX : seed;
}

static size_t at_random(size_t at, size_t seed)
{
	return 1 + (at * 2654435761u ^ seed * 40503u) % 17;
}

/* However it is cut, the same passes and the same is denied. */
static void check_table(const struct http_row *rows, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		check_http(&rows[i], at_once, 0);
		check_http(&rows[i], by_bytes, 0);
		for (size_t seed = 1; seed < strlen(rows[i].said) - 1; seed++)
			check_http(&rows[i], in_two, seed);
		for (size_t seed = 1; seed < 20; seed++)
			check_http(&rows[i], at_random, seed);
	}
}
#define CHECK(rows) check_table(rows, sizeof(rows) / sizeof(rows)[0])

Test(inspect, http_that_is_good)
{
	CHECK(http_good);
}

Test(inspect, case_22_http_names_the_host)
{
	CHECK(http_hosts);
}

Test(inspect, case_29_no_proxies)
{
	CHECK(http_proxies);
}

Test(inspect, case_30_no_doubt_where_requests_end)
{
	CHECK(http_lengths);
}

/* Chunks that are longer than their lines, and lines that are too long. */
Test(inspect, large_chunks)
{
	struct flow *f = start(80);
	char data[5000];
	guest_says(f, TEXT(POST "Transfer-Encoding: chunked\r\n\r\n"));
	memset(data, 'x', sizeof data);
	memcpy(data, "1000;a\r\n", 8);
	guest_says(f, data, 8 + 0x1000);
	guest_says(f, TEXT("\r\n0\r\n\r\n" GET));
	expect(f, f->guest.bytes, NULL);

	f = start(80);
	guest_says(f, TEXT(POST "Transfer-Encoding: chunked\r\n\r\n"));
	size_t head = f->guest.bytes;
	memset(data, 'x', sizeof data);
	memcpy(data, "5;", 2);
	guest_says(f, data, 255);
	cr_expect_null(f->denied);
	guest_says(f, data, 1);
	expect(f, head, "a malformed HTTP chunk");
}

Test(inspect, large_heads_are_refused)
{
	for (int extra = 0; extra < 2; extra++)
		for (int pieces = 0; pieces < 2; pieces++) {
			struct inspect s;
			struct inspect_denial d = {0};
			size_t bytes = HTTP_HEAD_MAX_BYTES + (size_t)extra, passed = 0;
			uint8_t *head = malloc(bytes);
			memset(head, 'x', bytes);
			memcpy(head, TEXT("GET / HTTP/1.1\r\nHost: " NAME "\r\nX: "));
			memcpy(head + bytes - 4, "\r\n\r\n", 4);
			inspect_start(&s, 80);
			for (size_t n = pieces ? 1000 : bytes; !d.reason && passed == 0; n = n + 1000 < bytes ? n + 1000 : bytes)
				passed = inspect_guest(&s, NAME, head, n, &d);
			cr_expect_eq(d.status, extra ? 431 : 0, "%u", d.status);
			cr_expect_eq(passed, extra ? 0 : bytes);
			free(head);
		}
}

/* A flow whose port is neither's is either, by its first byte, and stays that. */
Test(inspect, either_is_one_or_the_other)
{
	struct message hello = hello_for(NAME);
	struct flow *f = start(8443);
	guest_says(f, hello.at, hello.bytes);
	expect(f, hello.bytes, NULL);
	f = start(8443);
	guest_says(f, TEXT("GET / HTTP/1.1\r\nHost: " NAME ":8443\r\n\r\n"));
	guest_says(f, hello.at, hello.bytes);
	expect(f, sizeof GET - 1 + strlen(":8443"), "what is sent is not HTTP/1.1");
	f = start(8443);
	guest_says(f, TEXT("GET / HTTP/1.1\r\nHost: " NAME ":8444\r\n\r\n"));
	expect(f, 0, "an HTTP request for another host");
}

/* What the server says does not matter to HTTP. */
Test(inspect, case_30_http_goes_on_whatever_the_server_says)
{
	struct message answer = server_hello(false);
	struct flow *f = start(80);
	guest_says(f, TEXT(GET));
	server_says(f, TEXT("HTTP/1.1 101 Switching Protocols\r\n\r\n"));
	server_says(f, answer.at, answer.bytes);
	guest_says(f, TEXT(OTHER));
	expect(f, sizeof GET - 1, "an HTTP request for another host");
}
