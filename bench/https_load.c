/*
 * The load of bench/https: an HTTPS client that does little itself, HTTP/1.1, one thread, no session resumed.
 *
 * https_load HOST PORT WAY CA-FILE TEST VALUE...: WAY is how a connection is made: an IPv4 address; "dns", to ask for each name's; or
 * "gate:FD", to ask a caplock-gate for a flow, in place of a virtual machine's network device. Tests, each of which prints a line:
 *
 *     rps:CONNECTIONS MS    requests on kept connections, the next on each as soon as the last is answered: COUNT NS
 *     rr MS                 requests on one connection, each when the last is answered: COUNT NS P50-NS P99-NS
 *     new COUNT             connection, TLS and one request, to HOST, so many times: COUNT NS P50-NS P99-NS
 *     first COUNT           the same, with another name each time: n1.HOST, n2.HOST, ... : COUNT NS P50-NS P99-NS
 *     body MIB              GET /MIB, of so many MiB: BYTES NS
 *     hold 0                says so, and stays until it is killed
 *
 * Every request has "Authorization: Bearer ", then the variable API_KEY.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "virtio/net/gate/proto.h"

enum {
	CONNECTIONS_MAX = 256,
	SAMPLES_MAX = 1 << 20,
	RECORD_BYTES = 16 << 10,
};

struct connection {
	int fd;
	SSL *ssl;
};

static const char *host, *port, *way;
static SSL_CTX *tls;
static uint32_t sample[SAMPLES_MAX];

static long long now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void fail(const char *what)
{
	fprintf(stderr, "https_load: %s: %s\n", what, strerror(errno));
	ERR_print_errors_fp(stderr);
	exit(1);
}

/* ---- Connections ---- */

/* What the network device does for a guest: asks for a flow, and gets its socket. */
static int ask_gate(int gate_fd, const char *name)
{
	static uint64_t id;
	struct gate_request request = {.id = ++id, .port = (uint16_t)atoi(port), .proto = NET_TCP};
	struct gate_reply reply;
	char control[CMSG_SPACE(sizeof(int))];
	struct iovec io = {&reply, sizeof reply};
	struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	snprintf(request.name, sizeof request.name, "%s", name);
	if (send(gate_fd, &request, sizeof request, 0) < 0 || recvmsg(gate_fd, &message, 0) != sizeof reply)
		fail("gate");
	struct cmsghdr *c = CMSG_FIRSTHDR(&message);
	errno = reply.error;
	if (reply.error || !c)
		fail(name);
	int fd;
	memcpy(&fd, CMSG_DATA(c), sizeof fd);
	fcntl(fd, F_SETFL, 0); /* to wait */
	return fd;
}

/* The address of a name, to connect to. The gate needs none. */
static struct sockaddr_in find(const char *name)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	struct addrinfo *found, hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_INET};
	if (strncmp(way, "gate:", 5) == 0 || inet_pton(AF_INET, way, &to.sin_addr) == 1)
		return to;
	if (getaddrinfo(name, port, &hints, &found))
		fail(name);
	memcpy(&to, found->ai_addr, sizeof to);
	freeaddrinfo(found);
	return to;
}

static int dial(const char *name, const struct sockaddr_in *to)
{
	int one = 1, fd;
	if (strncmp(way, "gate:", 5) == 0)
		return ask_gate(atoi(way + 5), name);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (const struct sockaddr *)to, sizeof *to))
		fail(name);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

static struct connection open_connection(const char *name, const struct sockaddr_in *to)
{
	struct connection c = {dial(name, to), SSL_new(tls)};
	SSL_set_tlsext_host_name(c.ssl, name);
	SSL_set1_host(c.ssl, name);
	SSL_set_fd(c.ssl, c.fd);
	if (SSL_connect(c.ssl) != 1)
		fail("TLS");
	return c;
}

static void close_connection(struct connection *c)
{
	SSL_shutdown(c->ssl);
	SSL_free(c->ssl);
	close(c->fd);
}

/* ---- Requests ---- */

static void send_request(struct connection *c, const char *name, const char *path)
{
	char text[1024];
	const char *key = getenv("API_KEY");
	int bytes = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: %s:%s\r\nUser-Agent: https_load\r\nAccept: */*\r\n"
			     "Authorization: Bearer %s\r\n\r\n", path, name, port, key ? key : "none");
	if (SSL_write(c->ssl, text, bytes) != bytes)
		fail("send");
}

/* Returns bytes of the body; there must be a Content-Length. */
static long long read_response(struct connection *c)
{
	static char text[RECORD_BYTES + 1];
	long long length, have = 0;
	char *end = NULL;
	while (!end) {
		int n = have < RECORD_BYTES ? SSL_read(c->ssl, text + have, (int)(RECORD_BYTES - have)) : 0;
		if (n <= 0)
			fail("response");
		have += n;
		text[have] = 0;
		end = strstr(text, "\r\n\r\n");
	}
	char *field = strcasestr(text, "\r\nContent-Length:");
	if (strncmp(text, "HTTP/1.1 200 ", 13) || !field || field > end) {
		fprintf(stderr, "%s\n", text);
		fail("not 200, or no length");
	}
	length = atoll(field + 17);
	have -= end + 4 - text;
	while (have < length) {
		int n = SSL_read(c->ssl, text, RECORD_BYTES);
		if (n <= 0)
			fail("body");
		have += n;
	}
	return length;
}

/* ---- Tests ---- */

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

static void print_samples(const char *test, size_t count, long long ns)
{
	size_t kept = count < SAMPLES_MAX ? count : SAMPLES_MAX;
	qsort(sample, kept, sizeof sample[0], compare);
	printf("%s %zu %lld %u %u\n", test, count, ns, sample[kept / 2], sample[kept * 99 / 100]);
}

static void test_rps(unsigned connections, long ms)
{
	static struct connection c[CONNECTIONS_MAX];
	struct sockaddr_in to = find(host);
	unsigned long long count = 0;
	for (unsigned i = 0; i < connections; i++) {
		c[i] = open_connection(host, &to);
		send_request(&c[i], host, "/");
	}
	long long start = now_ns(), ns;
	do {
		for (unsigned i = 0; i < connections; i++, count++) {
			read_response(&c[i]);
			send_request(&c[i], host, "/");
		}
	} while ((ns = now_ns() - start) < ms * 1000000ll);
	for (unsigned i = 0; i < connections; i++)
		close_connection(&c[i]);
	printf("rps %llu %lld\n", count, ns);
}

static void test_rr(long ms)
{
	struct sockaddr_in to = find(host);
	struct connection c = open_connection(host, &to);
	long long start = now_ns(), begin = start, end;
	size_t count = 0;
	do {
		send_request(&c, host, "/");
		read_response(&c);
		end = now_ns();
		sample[count++ % SAMPLES_MAX] = (uint32_t)(end - begin);
		begin = end;
	} while (end - start < ms * 1000000ll);
	close_connection(&c);
	print_samples("rr", count, end - start);
}

/* Asking for a name's address is not measured: how long that takes has nothing to do with TLS. */
static void test_connections(const char *test, long count, bool other_names)
{
	long long start = now_ns();
	for (long i = 0; i < count; i++) {
		char name[NAME_BYTES];
		if (other_names)
			snprintf(name, sizeof name, "n%ld.%s", i + 1, host);
		else
			snprintf(name, sizeof name, "%s", host);
		struct sockaddr_in to = find(name);
		long long begin = now_ns();
		struct connection c = open_connection(name, &to);
		send_request(&c, name, "/");
		read_response(&c);
		sample[i % SAMPLES_MAX] = (uint32_t)(now_ns() - begin);
		close_connection(&c);
	}
	print_samples(test, (size_t)count, now_ns() - start);
}

static void test_body(long mib)
{
	struct sockaddr_in to = find(host);
	struct connection c = open_connection(host, &to);
	char path[32];
	snprintf(path, sizeof path, "/%ld", mib);
	long long start = now_ns();
	send_request(&c, host, path);
	long long bytes = read_response(&c);
	printf("body %lld %lld\n", bytes, now_ns() - start);
	close_connection(&c);
}

static void hold(void)
{
	printf("hold\n");
	fflush(stdout);
	pause();
}

static void run(const char *test, long value)
{
	unsigned connections;
	if (sscanf(test, "rps:%u", &connections) == 1 && connections <= CONNECTIONS_MAX)
		test_rps(connections, value);
	else if (strcmp(test, "rr") == 0)
		test_rr(value);
	else if (strcmp(test, "new") == 0 || strcmp(test, "first") == 0)
		test_connections(test, value, test[0] == 'f');
	else if (strcmp(test, "body") == 0)
		test_body(value);
	else if (strcmp(test, "hold") == 0)
		hold();
	else
		fail(test);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	if (argc < 5) {
		fprintf(stderr, "https_load: HOST PORT WAY CA-FILE TEST VALUE...\n");
		return 2;
	}
	host = argv[1];
	port = argv[2];
	way = argv[3];
	tls = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_read_ahead(tls, 1);
	if (SSL_CTX_load_verify_file(tls, argv[4]) != 1)
		fail(argv[4]);
	for (char **test = argv + 5; test[0] && test[1]; test += 2)
		run(test[0], atol(test[1]));
	return 0;
}
