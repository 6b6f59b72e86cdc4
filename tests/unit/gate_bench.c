#include "tests/unit/gate_bench.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "virtio/net/gate/intercept.h"
#include "vmm/util/io.h"
#include "vmm/util/passfd.h"

enum {
	TEXT_BYTES = 1 << 20,
	STATUS = 7, /* of a gate that has ended as it should */
};

struct gate_config config;
struct gate_secret secret;
int supervisor_fd;
static int vmm_fd; /* our ends */
static pid_t gate;
struct ca *authority;
int server_fd;
uint16_t server_port;
const char *server_certificate;
bool server_http2, client_http2;
static char certificate[4096];         /* that the guest trusts */
static SSL_CTX *client_context;
SSL *client;
int client_fd;
static uint64_t requests;
static const uint8_t HTTP2[] = {2, 'h', '2'};

/* ---- The server ---- */

static SSL_CTX *server_context;

static int choose(SSL *ssl, void *context)
{
	(void)context;
	return SSL_use_certificate(ssl, ca_leaf(authority, server_certificate)) == 1 &&
	       SSL_use_PrivateKey(ssl, ca_leaf_key(authority)) == 1;
}

static int choose_protocol(SSL *ssl, const uint8_t **out, uint8_t *out_bytes, const uint8_t *in, unsigned in_bytes, void *context)
{
	(void)ssl;
	(void)context;
	int rc = SSL_select_next_proto((uint8_t **)out, out_bytes, HTTP2, sizeof HTTP2, in, in_bytes);
	return server_http2 && rc == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

/* Waits until there is something to read. */
void wait_for(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	cr_assert_eq(poll(&p, 1, WAIT_MS), 1, "nothing came");
}

/* The next connection of the gate to our server; SSL_accept() is yet to be called. */
struct session serve_connection(void)
{
	struct session s = {0};
	wait_for(server_fd);
	s.fd = accept4(server_fd, NULL, NULL, SOCK_CLOEXEC);
	cr_assert_geq(s.fd, 0);
	setsockopt(s.fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	if (server_certificate) {
		s.ssl = SSL_new(server_context);
		SSL_set_fd(s.ssl, s.fd);
	}
	return s;
}

/* Waits for what the gate sends. */
int session_read(struct session *s, void *data, int max_bytes)
{
	if (!s->ssl || !SSL_pending(s->ssl))
		wait_for(s->fd);
	return s->ssl ? SSL_read(s->ssl, data, max_bytes) : (int)recv(s->fd, data, (size_t)max_bytes, 0);
}

/* Sends all of it. */
void session_write(struct session *s, const char *text, size_t bytes)
{
	for (size_t done = 0; done < bytes;) {
		ssize_t n = s->ssl ? SSL_write(s->ssl, text + done, (int)(bytes - done)) : send(s->fd, text + done, bytes - done, MSG_NOSIGNAL);
		cr_assert_gt(n, 0);
		done += (size_t)n;
	}
}

/* Says good-bye, and closes it. */
void session_end(struct session *s)
{
	if (s->ssl) {
		SSL_shutdown(s->ssl);
		SSL_free(s->ssl);
	}
	io_close(&s->fd);
}

/* Reads until `end` is in it. The text is static. */
const char *session_read_until(struct session *s, const char *end)
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

/* A descriptor to read the text from. */
int memory_file(const char *text)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	cr_assert_eq(io_write_all(fd, text, strlen(text)), 0);
	cr_assert_eq(lseek(fd, 0, SEEK_SET), 0);
	return fd;
}

/* Adds a rule to the policy, before start(). */
void rule(int (*add)(struct policy *p, const char *text, struct err *e), const char *fmt, ...)
{
	struct err e;
	char text[256];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	cr_assert_eq(add(&config.policy, text, &e), 0, "%s", e.text);
}

/* A server, and what a gate is started with: a secret for owner.test. */
void set_up(void)
{
	static char *hosts[] = {"owner.test:1-65535", NULL};
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t bytes = sizeof a;
	struct buf pem = {0};
	signal(SIGPIPE, SIG_IGN);
	authority = ca_create();
	server_context = SSL_CTX_new(TLS_server_method());
	SSL_CTX_set_cert_cb(server_context, choose, NULL);
	SSL_CTX_set_alpn_select_cb(server_context, choose_protocol, NULL);
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
size_t take_message(void *out, size_t max_bytes)
{
	wait_for(supervisor_fd);
	ssize_t n = recv(supervisor_fd, out, max_bytes, 0);
	cr_assert_gt(n, 0, "the gate ended");
	return (size_t)n;
}

/* Starts the gate; what it is to do stands in `config`. */
void start(void)
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

/* The guest closes its connection. */
void leave(void)
{
	SSL_free(client);
	client = NULL;
	io_close(&client_fd);
}

/* Ends it all. */
void tear_down(void)
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

/* ---- The guest ---- */

/* Opens a flow to name:server_port: client_fd. */
void open_flow(const char *name)
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
bool try_tls(const char *sni)
{
	client = SSL_new(client_context);
	SSL_set_fd(client, client_fd);
	if (client_http2)
		SSL_set_alpn_protos(client, HTTP2, sizeof HTTP2);
	if (sni) {
		SSL_set_tlsext_host_name(client, sni);
		SSL_set1_host(client, sni);
	}
	return SSL_connect(client) == 1;
}

/* A flow with TLS to `name`. */
void connect_to(const char *name)
{
	open_flow(name);
	cr_assert(try_tls(name), "%s", ERR_reason_error_string(ERR_peek_error()));
}

/* The guest sends text. */
void say(const char *text)
{
	size_t bytes = strlen(text);
	cr_assert_eq(client ? SSL_write(client, text, (int)bytes) : (int)send(client_fd, text, bytes, 0), (int)bytes);
}

/* Reads until `end` is in it, or, with NULL, to the end. The text is static. */
const char *hear(const char *end)
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

/* `part` is in the text. */
void expect_in(const char *text, const char *part)
{
	cr_expect(strstr(text, part), "no \"%s\" in:\n%s", part, text);
}

/* `part` is not. */
void expect_not_in(const char *text, const char *part)
{
	cr_expect_not(strstr(text, part), "\"%s\" in:\n%s", part, text);
}

/* The next record of a request. */
struct gate_record take_record(void)
{
	struct gate_record r;
	cr_assert_eq(take_message(&r, sizeof r), sizeof r);
	cr_assert_eq(r.message, GATE_RECORD);
	return r;
}
