/*
 * virtio/net/gate/intercept.c and all that it stands on: a gate in a process of its own, a server of ours with TLS behind it, and a
 * client with TLS in front of it, where the guest would be.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include "virtio/net/gate/ca.h"
#include "virtio/net/gate/gate.h"
#include "virtio/net/gate/intercept.h"
#include "virtio/net/gate/proto.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/passfd.h"
#include "vmm/util/strv.h"

enum {
	WAIT_MS = 20000,
	TEXT_BYTES = 1 << 20,
	STATUS = 7, /* of a gate that has ended as it should */
};

static const char VALUE[] = "sk-real-0123456789abcdef", PLACEHOLDER[] = "SANDBOX_SECRET_00112233445566778899aabbccddeeff";

static struct gate_config config;
static struct gate_secret secret;
static int vmm_fd, supervisor_fd; /* our ends */
static pid_t gate;
static struct ca *authority; /* of the server */
static int server_fd;
static uint16_t server_port;
static const char *server_certificate; /* for whom; NULL: TLS is not spoken */
static char certificate[4096];         /* that the guest trusts */
static SSL_CTX *client_context;
static SSL *client; /* NULL: no TLS */
static int client_fd;
static uint64_t requests;

/* ---- The server ---- */

/* A connection to our server. */
struct session {
	SSL *ssl;
	int fd;
};

static SSL_CTX *server_context;

static int choose(SSL *ssl, void *context)
{
	(void)context;
	return SSL_use_certificate(ssl, ca_leaf(authority, server_certificate)) == 1 &&
	       SSL_use_PrivateKey(ssl, ca_leaf_key(authority)) == 1;
}

static void wait_for(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	cr_assert_eq(poll(&p, 1, WAIT_MS), 1, "nothing came");
}

static struct session serve_connection(void)
{
	struct session s = {0};
	wait_for(server_fd);
	s.fd = accept4(server_fd, NULL, NULL, SOCK_CLOEXEC);
	cr_assert_geq(s.fd, 0);
	if (server_certificate) {
		s.ssl = SSL_new(server_context);
		SSL_set_fd(s.ssl, s.fd);
	}
	return s;
}

static int session_read(struct session *s, void *data, int max_bytes)
{
	if (!s->ssl || !SSL_pending(s->ssl))
		wait_for(s->fd);
	return s->ssl ? SSL_read(s->ssl, data, max_bytes) : (int)recv(s->fd, data, (size_t)max_bytes, 0);
}

static void session_write(struct session *s, const char *text, size_t bytes)
{
	for (size_t done = 0; done < bytes;) {
		ssize_t n = s->ssl ? SSL_write(s->ssl, text + done, (int)(bytes - done)) : send(s->fd, text + done, bytes - done, MSG_NOSIGNAL);
		cr_assert_gt(n, 0);
		done += (size_t)n;
	}
}

static void session_end(struct session *s)
{
	if (s->ssl) {
		SSL_shutdown(s->ssl);
		SSL_free(s->ssl);
	}
	io_close(&s->fd);
}

/* Reads until `end` is in it. The text is static. */
static const char *session_read_until(struct session *s, const char *end)
{
	static char text[TEXT_BYTES];
	size_t len = 0;
	text[0] = 0;
	while (!strstr(text, end)) {
		int n = session_read(s, text + len, (int)(sizeof text - 1 - len));
		cr_assert_gt(n, 0, "the gate ended: %s", text);
		len += (size_t)n;
		text[len] = 0;
	}
	return text;
}

/* ---- The gate ---- */

static int memory_file(const char *text)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	cr_assert_eq(io_write_all(fd, text, strlen(text)), 0);
	cr_assert_eq(lseek(fd, 0, SEEK_SET), 0);
	return fd;
}

static void rule(int (*add)(struct policy *p, const char *text, struct err *e), const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void rule(int (*add)(struct policy *p, const char *text, struct err *e), const char *fmt, ...)
{
	struct err e;
	char text[256];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	cr_assert_eq(add(&config.policy, text, &e), 0, "%s", e.text);
}

static void set_up(void)
{
	static char *hosts[] = {"owner.test:1-65535", NULL};
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t bytes = sizeof a;
	struct buf pem = {0};
	signal(SIGPIPE, SIG_IGN);
	authority = ca_create();
	server_context = SSL_CTX_new(TLS_server_method());
	SSL_CTX_set_cert_cb(server_context, choose, NULL);
	server_certificate = "owner.test";
	server_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(server_fd, (struct sockaddr *)&a, sizeof a), 0);
	cr_assert_eq(getsockname(server_fd, (struct sockaddr *)&a, &bytes), 0);
	cr_assert_eq(listen(server_fd, 64), 0);
	server_port = ntohs(a.sin_port);
	cr_assert_eq(ca_certificate(authority, &pem), 0);
	cr_assert_eq(buf_add(&pem, "", 1), 0);
	secret = (struct gate_secret){
		.name = "KEY", .placeholder = (char *)PLACEHOLDER, .hosts = hosts, .value_fd = memory_file(VALUE)};
	config = (struct gate_config){.interceptor = &intercept_interceptor, .secrets = &secret, .secret_count = 1, .record_all = true};
	config.upstream_ca_fd = memory_file((char *)pem.data);
	buf_free(&pem);
	config.policy.intercept_all = true;
	for (const char *const *name = (const char *const[]){"owner.test", "other.test", NULL}; *name; name++) {
		rule(policy_add_allow, "%s:1-65535", *name);
		rule(policy_add_pin, "%s:127.0.0.1", *name);
	}
	client_fd = -1;
	requests = 0;
}

/* Receives one message of the gate's to the supervisor. */
static size_t take_message(void *out, size_t max_bytes)
{
	wait_for(supervisor_fd);
	ssize_t n = recv(supervisor_fd, out, max_bytes, 0);
	cr_assert_gt(n, 0, "the gate ended");
	return (size_t)n;
}

static void start(void)
{
	int vmm[2], supervisor[2];
	char message[sizeof certificate];
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, vmm), 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, supervisor), 0);
	config.vmm_fd = vmm[1];
	config.supervisor_fd = supervisor[1];
	vmm_fd = vmm[0];
	supervisor_fd = supervisor[0];
	gate = fork();
	cr_assert_geq(gate, 0);
	if (gate == 0) {
		io_close(&vmm_fd);
		io_close(&supervisor_fd);
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		gate_run(&config);
		_exit(STATUS);
	}
	io_close(&config.vmm_fd);
	io_close(&config.supervisor_fd);
	io_close(&config.upstream_ca_fd);
	io_close(&secret.value_fd);
	size_t n = take_message(message, sizeof message);
	cr_assert_eq(message[0], GATE_CERTIFICATE, "%.*s", (int)n - 1, message + 1);
	memcpy(certificate, message + 1, n - 1);
	client_context = SSL_CTX_new(TLS_client_method());
	BIO *bio = BIO_new_mem_buf(certificate, (int)n - 1);
	X509 *x = PEM_read_bio_X509(bio, NULL, NULL, NULL);
	cr_assert_eq(X509_STORE_add_cert(SSL_CTX_get_cert_store(client_context), x), 1);
	X509_free(x);
	BIO_free(bio);
	SSL_CTX_set_verify(client_context, SSL_VERIFY_PEER, NULL);
}

static void leave(void)
{
	SSL_free(client);
	client = NULL;
	io_close(&client_fd);
}

static void tear_down(void)
{
	int status = 0;
	leave();
	io_close(&vmm_fd);
	cr_expect_eq(waitpid(gate, &status, 0), gate);
	cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == STATUS, "the gate ended with status %#x", status);
	io_close(&supervisor_fd);
	io_close(&server_fd);
	SSL_CTX_free(client_context);
	SSL_CTX_free(server_context);
	ca_destroy(authority);
	policy_free(&config.policy);
}

TestSuite(intercept, .init = set_up, .fini = tear_down);

/* ---- The guest ---- */

/* Opens a flow to name:server_port: client_fd. */
static void open_flow(const char *name)
{
	struct gate_request r = {.id = ++requests, .port = server_port, .proto = NET_TCP};
	struct gate_reply reply;
	strcpy(r.name, name);
	cr_assert_eq(send(vmm_fd, &r, sizeof r, 0), sizeof r);
	wait_for(vmm_fd);
	cr_assert_eq(passfd_recv(vmm_fd, &reply, sizeof reply, &client_fd), sizeof reply);
	cr_assert_eq(reply.error, 0, "%s", reply.reason);
	cr_assert_eq(reply.id, r.id);
	cr_assert_geq(client_fd, 0);
	fcntl(client_fd, F_SETFL, 0);
}

/* Speaks TLS with the gate, naming `sni`, as the guest does. Returns whether that worked. */
static bool try_tls(const char *sni)
{
	client = SSL_new(client_context);
	SSL_set_fd(client, client_fd);
	if (sni) {
		SSL_set_tlsext_host_name(client, sni);
		SSL_set1_host(client, sni);
	}
	return SSL_connect(client) == 1;
}

/* A flow with TLS to `name`. */
static void connect_to(const char *name)
{
	open_flow(name);
	cr_assert(try_tls(name), "%s", ERR_reason_error_string(ERR_peek_error()));
}

static void say(const char *text)
{
	size_t bytes = strlen(text);
	cr_assert_eq(client ? SSL_write(client, text, (int)bytes) : (int)send(client_fd, text, bytes, 0), (int)bytes);
}

/* Reads until `end` is in it, or, with NULL, to the end. The text is static. */
static const char *hear(const char *end)
{
	static char text[TEXT_BYTES];
	size_t len = 0;
	text[0] = 0;
	while (!end || !strstr(text, end)) {
		if (!client || !SSL_pending(client))
			wait_for(client_fd);
		int n = client ? SSL_read(client, text + len, (int)(sizeof text - 1 - len))
			       : (int)recv(client_fd, text + len, sizeof text - 1 - len, 0);
		if (n <= 0 && !end)
			return text;
		cr_assert_gt(n, 0, "the gate ended: %s", text);
		len += (size_t)n;
		text[len] = 0;
	}
	return text;
}

static void expect_in(const char *text, const char *part)
{
	cr_expect(strstr(text, part), "no \"%s\" in:\n%s", part, text);
}

static void expect_not_in(const char *text, const char *part)
{
	cr_expect_not(strstr(text, part), "\"%s\" in:\n%s", part, text);
}

/* The next record of a request. */
static struct gate_record take_record(void)
{
	struct gate_record r;
	cr_assert_eq(take_message(&r, sizeof r), sizeof r);
	cr_assert_eq(r.message, GATE_RECORD);
	return r;
}

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
