/* virtio/net/gate/intercept.c and all that it stands on, with HTTP/1.1. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include "tests/unit/gate_bench.h"
#include "vmm/util/io.h"
#include "vmm/util/passfd.h"
#include "vmm/util/strv.h"

TestSuite(intercept, .init = set_up, .fini = tear_down);

static const char OK[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/* ---- Requests ---- */

Test(intercept, a_request_and_its_response_pass)
{
	start();
	connect_to("owner.test");
	say("POST /path?q=1 HTTP/1.1\r\nHost: owner.test\r\nX-Field: value\r\nContent-Length: 5\r\n\r\nhello");
	struct session s = serve_connection();
	cr_assert_eq(SSL_accept(s.ssl), 1);
	const char *request = session_read_until(&s, "hello");
	expect_in(request, "POST /path?q=1 HTTP/1.1\r\nHost: owner.test\r\n");
	expect_in(request, "X-Field: value\r\n");
	expect_in(request, "Content-Length: 5\r\n");
	session_write(&s, OK, sizeof OK - 1);
	expect_in(hear("ok"), "HTTP/1.1 200 OK\r\n");
	struct gate_record r = take_record();
	cr_expect_str_eq(r.name, "owner.test");
	cr_expect_str_eq(r.method, "POST");
	cr_expect_str_eq(r.path, "/path?q=");
	cr_expect_eq(r.status, 200);
	cr_expect_eq(r.request_bytes, 5);
	cr_expect_eq(r.response_bytes, 2);
	cr_expect_str_eq(r.secrets, "");
	cr_expect_eq(r.denied, 0);

	say("GET /2 HTTP/1.1\r\nHost: owner.test\r\n\r\n"); /* on both connections that there are */
	expect_in(session_read_until(&s, "\r\n\r\n"), "GET /2 HTTP/1.1\r\n");
	session_write(&s, OK, sizeof OK - 1);
	expect_in(hear("ok"), "HTTP/1.1 200 OK\r\n");
	session_end(&s);
}

Test(intercept, a_secret_is_put_in)
{
	char text[512];
	start();
	connect_to("owner.test");
	snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: owner.test\r\nAuthorization: Bearer %s\r\nUser-Agent: %s\r\n\r\n", PLACEHOLDER,
		 PLACEHOLDER);
	say(text);
	struct session s = serve_connection();
	cr_assert_eq(SSL_accept(s.ssl), 1);
	snprintf(text, sizeof text, "Authorization: Bearer %s\r\n", VALUE);
	const char *request = session_read_until(&s, "\r\n\r\n");
	expect_in(request, text);
	expect_in(request, PLACEHOLDER); /* in User-Agent, which servers show others */
	snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nX-Echo: %s\r\nContent-Length: %zu\r\n\r\n<%s>", VALUE, strlen(VALUE) + 2, VALUE);
	session_write(&s, text, strlen(text));
	const char *response = hear(">");
	expect_not_in(response, VALUE);
	struct gate_record r = take_record();
	cr_expect_str_eq(r.secrets, "KEY");
	cr_expect_eq(r.redacted, 2);
	session_end(&s);
}

Test(intercept, case_36_a_placeholder_for_another_host_is_blocked)
{
	char text[512];
	start();
	connect_to("other.test");
	snprintf(text, sizeof text, "GET /?key=%s HTTP/1.1\r\nHost: other.test\r\n\r\n", PLACEHOLDER);
	say(text);
	const char *response = hear("KEY");
	expect_in(response, "HTTP/1.1 403 Forbidden\r\n");
	struct gate_record r = take_record();
	cr_expect_eq(r.denied, 1);
	cr_expect_eq(r.status, 403);
	cr_expect_str_eq(r.path, "/?key=");
	expect_in(r.reason, "KEY");
}

Test(intercept, case_22_tls_names_the_flows_host)
{
	start();
	open_flow("owner.test");
	cr_expect_not(try_tls("other.test"));
	expect_in(take_record().reason, "SNI");
	leave();
	open_flow("owner.test");
	cr_expect_not(try_tls(NULL));
	expect_in(take_record().reason, "SNI");
}

Test(intercept, case_22_requests_name_the_flows_host)
{
	static const char *const bad[] = {
		"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: owner.test\r\nHost: other.test\r\n\r\n",
		"GET http://other.test/ HTTP/1.1\r\nHost: owner.test\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: owner.test:1\r\n\r\n",
		"GET / HTTP/1.1\r\n\r\n",
	};
	start();
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		connect_to("owner.test");
		say(bad[i]);
		const char *response = hear(".\n");
		cr_expect(strncmp(response, "HTTP/1.1 4", 10) == 0, "%s", response);
		cr_expect_eq(take_record().denied, 1);
		leave();
	}
}

Test(intercept, case_30_a_pipelined_request_is_policed)
{
	start();
	connect_to("owner.test");
	say("GET /1 HTTP/1.1\r\nHost: owner.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: other.test\r\n\r\n");
	struct session s = serve_connection();
	cr_assert_eq(SSL_accept(s.ssl), 1);
	expect_not_in(session_read_until(&s, "\r\n\r\n"), "/2");
	session_write(&s, OK, sizeof OK - 1);
	expect_in(hear("421"), "200 OK");
	session_end(&s);
}

Test(intercept, case_35_trace_and_connect_are_refused)
{
	start();
	connect_to("owner.test");
	say("TRACE / HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	expect_in(hear("\r\n\r\n"), "HTTP/1.1 405");
}

/* ---- Servers ---- */

Test(intercept, a_server_with_the_wrong_name_is_refused)
{
	server_certificate = "wrong.test";
	start();
	connect_to("owner.test");
	say("GET / HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	struct session s = serve_connection();
	cr_expect_neq(SSL_accept(s.ssl), 1);
	const char *response = hear("\n");
	expect_in(response, "HTTP/1.1 502");
	expect_in(take_record().reason, "hostname mismatch");
	session_end(&s);
}

Test(intercept, a_server_that_nobody_vouches_for_is_refused)
{
	start();
	struct ca *first = authority;
	authority = ca_create();
	connect_to("owner.test");
	say("GET / HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	struct session s = serve_connection();
	cr_expect_neq(SSL_accept(s.ssl), 1);
	expect_in(hear("\n"), "HTTP/1.1 502");
	expect_in(take_record().reason, "issuer");
	session_end(&s);
	ca_destroy(first);
}

Test(intercept, a_response_that_breaks_off_is_not_complete)
{
	start();
	connect_to("owner.test");
	say("GET / HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	struct session s = serve_connection();
	cr_assert_eq(SSL_accept(s.ssl), 1);
	session_read_until(&s, "\r\n\r\n");
	static const char part[] = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\npart";
	session_write(&s, part, sizeof part - 1);
	hear("part");
	session_end(&s);
	char c;
	wait_for(client_fd);
	cr_expect_leq(SSL_read(client, &c, 1), 0);
	cr_expect_neq(SSL_get_shutdown(client) & SSL_RECEIVED_SHUTDOWN, SSL_RECEIVED_SHUTDOWN);
}

Test(intercept, events_are_not_held_back)
{
	start();
	connect_to("owner.test");
	say("GET / HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	struct session s = serve_connection();
	cr_assert_eq(SSL_accept(s.ssl), 1);
	session_read_until(&s, "\r\n\r\n");
	static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
	session_write(&s, head, sizeof head - 1);
	hear("\r\n\r\n");
	for (unsigned i = 0; i < 3; i++) {
		char event[64];
		snprintf(event, sizeof event, "e\r\ndata: event %u\n\r\n", i);
		session_write(&s, event, strlen(event));
		snprintf(event, sizeof event, "data: event %u\n", i);
		hear(event);
	}
	session_write(&s, "0\r\n\r\n", 5);
	hear("0\r\n\r\n");
	session_end(&s);
}

Test(intercept, a_client_may_wait_for_100_continue)
{
	start();
	connect_to("owner.test");
	say("POST / HTTP/1.1\r\nHost: owner.test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
	struct session s = serve_connection();
	cr_assert_eq(SSL_accept(s.ssl), 1);
	session_read_until(&s, "\r\n\r\n");
	session_write(&s, "HTTP/1.1 100 Continue\r\n\r\n", 25);
	expect_in(hear("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n");
	say("body");
	session_read_until(&s, "body");
	session_write(&s, OK, sizeof OK - 1);
	expect_in(hear("ok"), "HTTP/1.1 200 OK\r\n");
	session_end(&s);
}

/* Answers a request on a connection that is new, and leaves it open. */
static struct session serve_request(const char *response)
{
	struct session s = serve_connection();
	cr_assert_eq(SSL_accept(s.ssl), 1);
	session_read_until(&s, "\r\n\r\n");
	session_write(&s, response, strlen(response));
	return s;
}

/* The second request is read, and its connection dialled, while no event comes. */
Test(intercept, a_server_that_does_not_answer_any_more_is_given_up)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int filler[4];
	config.limit_ms = 300;
	start();
	connect_to("owner.test");
	say("GET /1 HTTP/1.1\r\nHost: owner.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	struct session s = serve_connection();
	cr_assert_eq(SSL_accept(s.ssl), 1);
	session_read_until(&s, "\r\n\r\n");
	cr_assert_eq(listen(server_fd, 0), 0); /* what does not fit is not answered */
	a.sin_port = htons(server_port);
	for (unsigned i = 0; i < sizeof filler / sizeof filler[0]; i++) {
		filler[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		connect(filler[i], (struct sockaddr *)&a, sizeof a);
	}
	static const char last[] = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
	session_write(&s, last, sizeof last - 1);
	expect_in(hear("Gateway"), "HTTP/1.1 504 Gateway");
	session_end(&s);
	for (unsigned i = 0; i < sizeof filler / sizeof filler[0]; i++)
		close(filler[i]);
}

/* The body has no end of its own, and TLS does not say that this is it: somebody may have cut it off. */
Test(intercept, a_body_that_is_cut_off_is_not_complete)
{
	start();
	connect_to("owner.test");
	say("GET / HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	struct session s = serve_request("HTTP/1.1 200 OK\r\n\r\nall that came");
	shutdown(s.fd, SHUT_WR);
	expect_not_in(hear(NULL), "\r\n0\r\n");
	cr_expect_neq(SSL_get_shutdown(client) & SSL_RECEIVED_SHUTDOWN, SSL_RECEIVED_SHUTDOWN);
	session_end(&s);
}

/* What was received of a response is not lost with the rest of it. */
Test(intercept, what_came_of_a_response_is_passed_on)
{
	enum { BYTES = 64 << 10 };
	static char response[BYTES + 64];
	start();
	connect_to("owner.test");
	say("GET / HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	int head = sprintf(response, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", BYTES + 1);
	memset(response + head, 'x', BYTES);
	struct session s = serve_request(response);
	session_end(&s);
	const char *body = strstr(hear(NULL), "\r\n\r\n");
	cr_assert(body);
	cr_expect_eq(strlen(body + 4), BYTES);
}

/* One that is busy for ever is nothing to wait for. */
Test(intercept, a_request_fails_where_its_connection_does)
{
	start();
	connect_to("owner.test");
	say("GET /events HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	struct session busy = serve_request("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
	hear("\r\n\r\n");
	SSL *first = client;
	int first_fd = client_fd;
	connect_to("owner.test");
	say("GET / HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	struct session s = serve_connection();
	io_close(&server_fd);
	SSL_free(s.ssl);
	close(s.fd); /* in the middle of the handshake */
	expect_in(hear("\n"), "HTTP/1.1 502");
	leave();
	client = first;
	client_fd = first_fd;
	session_end(&busy);
}

/* Flows that say nothing do not keep the server's connections. */
Test(intercept, unused_connections_are_few)
{
	enum { FLOWS = 300, MOST = 256 };
	int fd[FLOWS];
	unsigned open = 0;
	start();
	for (unsigned i = 0; i < FLOWS; i++) {
		open_flow("owner.test");
		io_close(&client_fd);
		wait_for(server_fd);
		fd[i] = accept4(server_fd, NULL, NULL, SOCK_CLOEXEC);
		cr_assert_geq(fd[i], 0);
	}
	for (unsigned i = 0; i < FLOWS - MOST; i++)
		wait_for(fd[i]); /* the oldest have ended */
	for (unsigned i = 0; i < FLOWS; i++) {
		open += poll(&(struct pollfd){.fd = fd[i], .events = POLLIN}, 1, 0) == 0;
		close(fd[i]);
	}
	cr_expect_eq(open, MOST);
}

/* ---- Rules that change ---- */

/* Has the gate change its rules. */
static void change_rule(enum policy_op op, const char *text)
{
	struct gate_order order = {.op = GATE_POLICY, .change.op = (uint8_t)op};
	uint8_t message[GATE_MESSAGE_MAX_BYTES];
	snprintf(order.change.rule, sizeof order.change.rule, "%s", text);
	cr_assert_eq(send(supervisor_fd, &order, sizeof order, 0), sizeof order);
	while (take_message(message, sizeof message) != 1 || message[0] != GATE_DONE)
		;
}

Test(intercept, case_37_a_flow_ends_with_its_rule)
{
	start();
	connect_to("owner.test");
	say("GET /events HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	struct session s = serve_request("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
	hear("\r\n\r\n");
	change_rule(POLICY_ADD_DENY, "owner.test");
	cr_expect_str_eq(hear(NULL), "");
	char c;
	cr_expect_leq(session_read(&s, &c, 1), 0, "the server's connection is still open");
	session_end(&s);
}

/* The addresses of a name may be others under other rules. */
Test(intercept, case_37_a_connection_of_before_is_not_used_again)
{
	start();
	connect_to("owner.test");
	say("GET /1 HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	struct session s = serve_request("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
	hear("o");
	change_rule(POLICY_ADD_DENY, "unrelated.test");
	session_write(&s, "k", 1);
	hear("k");
	say("GET /2 HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	struct session next = serve_request(OK);
	hear("ok");
	session_end(&next);
	session_end(&s);
}

/* ---- WebSockets ---- */

static const char UPGRADE[] = "GET /ws HTTP/1.1\r\nHost: owner.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
			      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

Test(intercept, case_33_a_websocket_needs_a_rule)
{
	start();
	connect_to("owner.test");
	say(UPGRADE);
	expect_in(hear("--allow-websocket"), "HTTP/1.1 403 Forbidden\r\n");
}

Test(intercept, case_33_nothing_is_put_into_a_websocket)
{
	rule(policy_add_websocket, "owner.test:1-65535");
	start();
	connect_to("owner.test");
	say(UPGRADE);
	struct session s = serve_connection();
	cr_assert_eq(SSL_accept(s.ssl), 1);
	expect_in(session_read_until(&s, "\r\n\r\n"), "Upgrade: websocket\r\n");
	static const char answer[] = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
	session_write(&s, answer, sizeof answer - 1);
	hear("\r\n\r\n");
	say(PLACEHOLDER);
	session_read_until(&s, PLACEHOLDER);
	session_write(&s, "from the server", 15);
	hear("from the server");
	session_end(&s);
	cr_expect_str_eq(hear(NULL), "");
}

/* ---- Bodies ---- */

/* Sends text as a chunk, or two, cut at `cut`. */
static void say_chunks(const char *text, size_t cut)
{
	char chunk[512];
	size_t bytes = strlen(text);
	if (cut) {
		snprintf(chunk, sizeof chunk, "%zx\r\n%.*s\r\n", cut, (int)cut, text);
		say(chunk);
	}
	snprintf(chunk, sizeof chunk, "%zx\r\n%s\r\n0\r\n\r\n", bytes - cut, text + cut);
	say(chunk);
}

/* other.test's server gets what comes before the placeholder, at most. */
Test(intercept, case_34_a_placeholder_in_a_body_is_found_however_it_is_cut)
{
	server_certificate = "other.test";
	start();
	for (size_t cut = 0; cut < sizeof PLACEHOLDER - 1; cut++) {
		connect_to("other.test");
		say("POST / HTTP/1.1\r\nHost: other.test\r\nTransfer-Encoding: chunked\r\n\r\n");
		struct session s = serve_connection();
		cr_assert_eq(SSL_accept(s.ssl), 1);
		session_read_until(&s, "\r\n\r\n");
		say_chunks(PLACEHOLDER, cut);
		expect_in(hear("KEY"), "HTTP/1.1 403 Forbidden\r\n");
		char rest[256];
		int n = session_read(&s, rest, sizeof rest);
		cr_expect_leq(n, 0, "cut at %zu, %d bytes went out: %.*s", cut, n, n, rest);
		session_end(&s);
		leave();
	}
}

Test(intercept, case_34_a_compressed_body_is_left_as_it_is)
{
	uint8_t packed[256], received[256];
	uLongf bytes = sizeof packed;
	char head[256];
	cr_assert_eq(compress(packed, &bytes, (const uint8_t *)PLACEHOLDER, sizeof PLACEHOLDER), Z_OK);
	start();
	connect_to("owner.test");
	snprintf(head, sizeof head, "POST / HTTP/1.1\r\nHost: owner.test\r\nContent-Encoding: deflate\r\nContent-Length: %lu\r\n\r\n", bytes);
	say(head);
	cr_assert_eq(SSL_write(client, packed, (int)bytes), (int)bytes);
	struct session s = serve_connection();
	cr_assert_eq(SSL_accept(s.ssl), 1);
	session_read_until(&s, "\r\n\r\n");
	for (uLongf done = 0; done < bytes;) {
		int n = session_read(&s, received + done, (int)(bytes - done));
		cr_assert_gt(n, 0);
		done += (uLongf)n;
	}
	cr_expect_arr_eq(received, packed, bytes);
	session_end(&s);
}

Test(intercept, case_35_a_secret_that_comes_back_is_taken_out)
{
	static const char encoded[] = "c2stcmVhbC0wMTIzNDU2Nzg5YWJjZGVm"; /* base64 of VALUE */
	char text[512];
	start();
	connect_to("owner.test");
	say("GET / HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	struct session s = serve_connection();
	cr_assert_eq(SSL_accept(s.ssl), 1);
	session_read_until(&s, "\r\n\r\n");
	snprintf(text, sizeof text, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%zx\r\nraw %s, base64 %s.\r\n0\r\n\r\n",
		 strlen(VALUE) + strlen(encoded) + 14, VALUE, encoded);
	session_write(&s, text, strlen(text));
	const char *response = hear("0\r\n\r\n");
	expect_not_in(response, VALUE);
	expect_not_in(response, "c2stcmVhbC0w");
	expect_in(response, PLACEHOLDER);
	cr_expect_eq(take_record().redacted, 2);
	session_end(&s);
}

Test(intercept, case_36_a_placeholder_without_tls_is_blocked)
{
	char text[256];
	server_certificate = NULL;
	start();
	open_flow("owner.test");
	snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: owner.test\r\nX-Key: %s\r\n\r\n", PLACEHOLDER);
	say(text);
	expect_in(hear("KEY"), "HTTP/1.1 403 Forbidden\r\n");
	expect_in(take_record().reason, "KEY");
}

Test(intercept, a_large_body_passes_both_ways)
{
	enum { BYTES = 4 << 20 };
	static char body[BYTES], back[BYTES];
	char head[128];
	for (size_t i = 0; i < BYTES; i++)
		body[i] = (char)(i * 2654435761u >> 24);
	start();
	connect_to("owner.test");
	snprintf(head, sizeof head, "POST / HTTP/1.1\r\nHost: owner.test\r\nContent-Length: %d\r\n\r\n", BYTES);
	say(head);
	pid_t writer = fork(); /* the guest writes and reads at the same time */
	if (writer == 0) {
		struct session s = serve_connection();
		if (SSL_accept(s.ssl) != 1)
			_exit(1);
		session_read_until(&s, "\r\n\r\n");
		snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", BYTES);
		session_write(&s, head, strlen(head));
		for (size_t done = 0; done < BYTES;) {
			char piece[16384];
			int n = session_read(&s, piece, sizeof piece);
			if (n <= 0)
				_exit(2);
			session_write(&s, piece, (size_t)n);
			done += (size_t)n;
		}
		session_end(&s);
		_exit(0);
	}
	size_t sent = 0, got = 0;
	fcntl(client_fd, F_SETFL, O_NONBLOCK);
	bool head_seen = false;
	while (got < BYTES) {
		struct pollfd p = {.fd = client_fd, .events = (short)(POLLIN | (sent < BYTES ? POLLOUT : 0))};
		cr_assert_eq(poll(&p, 1, WAIT_MS), 1);
		int n = sent < BYTES ? SSL_write(client, body + sent, (int)(BYTES - sent < 16384 ? BYTES - sent : 16384)) : 0;
		sent += n > 0 ? (size_t)n : 0;
		char piece[16384 + 1];
		while ((n = SSL_read(client, piece, sizeof piece - 1)) > 0) {
			char *at = piece;
			if (!head_seen) {
				piece[n] = 0;
				at = strstr(piece, "\r\n\r\n");
				cr_assert(at, "the head in one piece");
				at += 4;
				head_seen = true;
			}
			size_t bytes = (size_t)(piece + n - at);
			cr_assert_leq(got + bytes, BYTES);
			memcpy(back + got, at, bytes);
			got += bytes;
		}
		cr_assert_neq(SSL_get_error(client, n), SSL_ERROR_SSL);
	}
	cr_expect(memcmp(body, back, BYTES) == 0);
	int status;
	waitpid(writer, &status, 0);
	cr_expect_eq(status, 0);
}

/* ---- Hooks ---- */

static void hook(const char *text)
{
	cr_assert_eq(strv_add(&config.policy.hooks, text), 0);
}

Test(intercept, hooks_block_and_change_requests)
{
	hook("{\"name\":\"no deleting\",\"phase\":\"before\",\"action\":\"block\",\"hosts\":[\"owner.test:*\"],\"methods\":[\"DELETE\"]}");
	hook("{\"name\":\"mark\",\"phase\":\"before\",\"action\":\"mutate\",\"hosts\":[\"owner.test:*\"],\"set_headers\":{\"X-Agent\":\"caplock\"}}");
	start();
	connect_to("owner.test");
	say("DELETE /all HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	expect_in(hear("no deleting"), "HTTP/1.1 403 Forbidden\r\n");
	say("GET / HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	struct session s = serve_connection();
	cr_assert_eq(SSL_accept(s.ssl), 1);
	expect_in(session_read_until(&s, "\r\n\r\n"), "X-Agent: caplock\r\n");
	session_write(&s, OK, sizeof OK - 1);
	hear("ok");
	session_end(&s);
}

Test(intercept, hooks_change_event_streams)
{
	hook("{\"name\":\"words\",\"phase\":\"after\",\"action\":\"mutate\",\"hosts\":[\"owner.test:*\"],"
	     "\"body_replacements\":[{\"find\":\"secret\",\"replace\":\"public\"}]}");
	start();
	connect_to("owner.test");
	say("GET / HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	struct session s = serve_connection();
	cr_assert_eq(SSL_accept(s.ssl), 1);
	session_read_until(&s, "\r\n\r\n");
	static const char response[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 29\r\n\r\n"
				       "data: a secret\n\nid: secret\n\nx";
	session_write(&s, response, sizeof response - 1);
	const char *text = hear("0\r\n\r\n");
	expect_in(text, "data: a public\n");
	expect_in(text, "id: secret\n");
	session_end(&s);
}

/* Waits for the gate to ask for a connection to the callback, and gives it one: ours is returned. */
static int take_callback(void)
{
	struct gate_callback asked;
	int pair[2];
	cr_assert_eq(take_message(&asked, sizeof asked), sizeof asked);
	cr_assert_eq(asked.message, GATE_CALLBACK);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	const struct gate_order order = {.op = GATE_CONNECTED, .callback = asked.id};
	fcntl(pair[1], F_SETFL, O_NONBLOCK);
	cr_assert_eq(passfd_send(supervisor_fd, &order, sizeof order, pair[1], 0), 0);
	close(pair[1]);
	return pair[0];
}

static const char CALLBACK[] = "{\"name\":\"ask\",\"phase\":\"before\",\"hosts\":[\"owner.test:*\"],\"callback_id\":\"network_hook_1\"}";

Test(intercept, hooks_ask_a_program)
{
	char line[4096];
	hook(CALLBACK);
	start();
	connect_to("owner.test");
	say("GET /a HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	int fd = take_callback();
	wait_for(fd);
	ssize_t n = recv(fd, line, sizeof line - 1, 0);
	cr_assert_gt(n, 0);
	line[n] = 0;
	expect_in(line, "\"callback_id\":\"network_hook_1\"");
	expect_in(line, "\"path\":\"/a\"");
	static const char answer[] = "{\"action\":\"mutate\",\"request\":{\"path\":\"/b\"}}\n";
	cr_assert_eq(send(fd, answer, sizeof answer - 1, 0), sizeof answer - 1);
	struct session s = serve_connection();
	cr_assert_eq(SSL_accept(s.ssl), 1);
	expect_in(session_read_until(&s, "\r\n\r\n"), "GET /b HTTP/1.1\r\n");
	session_write(&s, OK, sizeof OK - 1);
	hear("ok");
	session_end(&s);
	close(fd);
}

Test(intercept, hooks_that_do_not_answer_deny)
{
	hook(CALLBACK);
	start();
	connect_to("owner.test");
	say("GET /a HTTP/1.1\r\nHost: owner.test\r\n\r\n");
	close(take_callback());
	expect_in(hear(".\n"), "HTTP/1.1 502 Bad Gateway\r\n");
	cr_expect_eq(take_record().denied, 1);
}

/* ---- AWS ---- */

static const char AWS_REQUEST[] = "POST / HTTP/1.1\r\nHost: owner.test:%u\r\nX-Amz-Date: 20260101T000000Z\r\nAuthorization: AWS4-HMAC-SHA256 "
				  "Credential=AKIAGUESTGUESTGUESTG/20260101/eu-west-1/sts/aws4_request, SignedHeaders=host;x-amz-date, "
				  "Signature=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\r\nContent-Length: 3\r\n\r\n";

/* Without a hash of the body in the head: the gate waits for all of it, and makes one. */
Test(intercept, requests_to_aws_are_signed_anew)
{
	static char *hosts[] = {"owner.test:1-65535", NULL};
	struct gate_secret key = {.name = "work", .placeholder = "AKIAGUESTGUESTGUESTG", .hosts = hosts, .aws = true};
	char text[1024];
	key.value_fd = memory_file("[work]\naws_access_key_id = AKIAREALREALREALREAL\naws_secret_access_key = abcdefghijklmnopqrstuvwxyz0123456789ABCD\n");
	io_close(&secret.value_fd);
	config.secrets = &key;
	start();
	io_close(&key.value_fd);
	connect_to("owner.test");
	snprintf(text, sizeof text, AWS_REQUEST, server_port);
	say(text);
	struct session s = serve_connection();
	cr_assert_eq(SSL_accept(s.ssl), 1);
	cr_expect_eq(poll(&(struct pollfd){.fd = s.fd, .events = POLLIN}, 1, 100), 0, "it was sent before it could be signed");
	say("a=b");
	const char *request = session_read_until(&s, "a=b");
	expect_in(request, "Credential=AKIAREALREALREALREAL/");
	expect_in(request, "/eu-west-1/sts/aws4_request");
	expect_not_in(request, "AKIAGUEST");
	expect_not_in(request, "0123456789abcdef0123456789abcdef0123456789abcdef");
	session_write(&s, OK, sizeof OK - 1);
	hear("ok");
	cr_expect_str_eq(take_record().secrets, "AWS");
	session_end(&s);
}

/* ---- Certificates ---- */

Test(ca, case_37_ten_thousand_names_have_one_key_and_few_certificates)
{
	struct ca *ca = ca_create();
	EVP_PKEY *key = ca_leaf_key(ca);
	char name[32];
	for (unsigned i = 0; i < 10000; i++) {
		snprintf(name, sizeof name, "host-%u.test", i);
		X509 *leaf = ca_leaf(ca, name);
		cr_assert(leaf);
		cr_assert_eq(X509_check_host(leaf, name, 0, 0, NULL), 1);
		cr_assert_eq(EVP_PKEY_eq(X509_get0_pubkey(leaf), key), 1);
		cr_assert_eq(ca_leaf(ca, name), leaf);
	}
	ca_destroy(ca);
}
