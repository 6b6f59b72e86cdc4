/*
 * The load of bench/net, all of it HTTP over TCP (and DNS), so that the same bytes may go where it is checked.
 *
 * netload serve [UDP-PORT]: on the host. Listens on every address and prints "port N"; with a UDP-PORT, answers each DNS query
 *     there with an address. Prints what it measures by the host's clock, and what clients tell it, one line each. Before it
 *     answers a "wait" it reads a line from standard input.
 * netload client HOST PORT DNS-SERVER TEST...: in the guest. Tests:
 *     up MS, down MS     one connection is kept full for this long
 *     rr MS              requests of one connection, each when the last is answered
 *     crr MS             the same, with a connection for each
 *     dns MS             DNS queries, each when the last is answered
 *     idle COUNT         so many connections that have said something, kept until the host's line on standard input
 * As PID 1, the variable "load" (of the kernel's command line) has ADDRESS and GATEWAY for the first link, and what follows
 *     "client".
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <net/route.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
	BLOCK_BYTES = 128 << 10,
	CONNECTIONS_MAX = 2048,
	SAMPLES_MAX = 100000,
	REQUEST_MAX_BYTES = 512,
};

static char block[BLOCK_BYTES];

static void fail(const char *what)
{
	fprintf(stderr, "netload: %s: %s\n", what, strerror(errno));
	exit(1);
}

static long long now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void send_all(int fd, const void *data, size_t bytes)
{
	for (size_t done = 0; done < bytes;) {
		ssize_t n = send(fd, (const char *)data + done, bytes - done, MSG_NOSIGNAL);
		if (n <= 0)
			fail("send");
		done += (size_t)n;
	}
}

static void raise_limit(void)
{
	struct rlimit files;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max > CONNECTIONS_MAX + 64 ? CONNECTIONS_MAX + 64 : files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
}

/* Reads a request or the head of a response into `head`. Returns what was read of the body, or -1 at the connection's end. */
static ssize_t read_head(int fd, char head[REQUEST_MAX_BYTES])
{
	for (size_t len = 0; len < REQUEST_MAX_BYTES - 1;) {
		ssize_t n = recv(fd, head + len, REQUEST_MAX_BYTES - 1 - len, 0);
		if (n <= 0)
			return -1;
		len += (size_t)n;
		head[len] = 0;
		char *end = strstr(head, "\r\n\r\n");
		if (end)
			return (ssize_t)len - (end + 4 - head);
	}
	return -1;
}

/* ---- The server: one client at a time, whose requests come one after the other ---- */

static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx";

/* The guest sends: counts until its end. */
static void serve_up(int fd, ssize_t bytes)
{
	long long start = now_ns();
	printf("begin up\n");
	for (ssize_t n; (n = recv(fd, block, sizeof block, 0)) > 0;)
		bytes += n;
	printf("up %zd %lld\n", bytes, now_ns() - start);
}

/* The guest receives: the time ends when it says how much that was. */
static void serve_down(int fd, long ms)
{
	static const char head[] = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
	char said[32] = "";
	long long start = now_ns();
	printf("begin down\n");
	send_all(fd, head, sizeof head - 1);
	while (now_ns() - start < ms * 1000000ll)
		send_all(fd, block, sizeof block);
	shutdown(fd, SHUT_WR);
	while (recv(fd, said, sizeof said, 0) > 0)
		;
	printf("down %lld\n", now_ns() - start);
}

/* Answers one request. Returns whether the connection goes on. */
static int serve_request(int fd)
{
	char head[REQUEST_MAX_BYTES], line[64], word[REQUEST_MAX_BYTES];
	ssize_t body = read_head(fd, head);
	long ms;
	if (body < 0)
		return 0;
	if (strncmp(head, "POST /up ", 9) == 0) {
		serve_up(fd, body);
		return 0;
	}
	if (sscanf(head, "GET /down/%ld ", &ms) == 1) {
		serve_down(fd, ms);
		return 0;
	}
	if (sscanf(head, "GET /wait/%s ", word) == 1) {
		printf("wait %s\n", word);
		if (!fgets(line, sizeof line, stdin))
			exit(0);
	}
	if (sscanf(head, "GET /say/%s ", word) == 1)
		printf("%s\n", word);
	send_all(fd, ok, sizeof ok - 1);
	return 1;
}

static void serve_dns(int fd)
{
	static const char answer[] = "\xc0\x0c\0\1\0\1\0\0\0\74\0\4\12\0\2\2"; /* the name asked for: A 10.0.2.2, for a minute */
	char message[512 + sizeof answer];
	struct sockaddr_storage from;
	socklen_t from_bytes = sizeof from;
	ssize_t n = recvfrom(fd, message, 512, 0, (struct sockaddr *)&from, &from_bytes);
	if (n < 12)
		return;
	message[2] |= (char)0x80;
	message[3] = (char)0x80;
	message[7] = 1;  /* answers */
	message[11] = 0; /* no additional record */
	ssize_t end = 12;
	while (end < n && message[end])
		end += message[end] + 1;
	memcpy(message + end + 5, answer, sizeof answer - 1);
	sendto(fd, message, (size_t)end + 5 + sizeof answer - 1, 0, (struct sockaddr *)&from, from_bytes);
}

static int listen_on(int type, int port)
{
	int on = 1, fd = socket(AF_INET, type, 0);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	socklen_t bytes = sizeof a;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || (type == SOCK_STREAM && listen(fd, 4096)))
		fail("listen");
	getsockname(fd, (struct sockaddr *)&a, &bytes);
	if (type == SOCK_STREAM)
		printf("port %d\n", ntohs(a.sin_port));
	return fd;
}

static _Noreturn void serve(int dns_port)
{
	static struct pollfd p[CONNECTIONS_MAX];
	int count = 2, on = 1;
	setvbuf(stdout, NULL, _IOLBF, 0);
	raise_limit();
	p[0] = (struct pollfd){listen_on(SOCK_STREAM, 0), POLLIN, 0};
	p[1] = (struct pollfd){dns_port ? listen_on(SOCK_DGRAM, dns_port) : -1, POLLIN, 0};
	for (;;) {
		if (poll(p, (nfds_t)count, -1) < 0)
			fail("poll");
		for (int i = count - 1; i > 1; i--)
			if (p[i].revents && !serve_request(p[i].fd)) {
				close(p[i].fd);
				p[i] = p[--count];
			}
		if (p[1].revents)
			serve_dns(p[1].fd);
		if (p[0].revents && count < CONNECTIONS_MAX) {
			int fd = accept(p[0].fd, NULL, NULL);
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
			p[count++] = (struct pollfd){fd, POLLIN, 0};
		}
	}
}

/* ---- The client ---- */

static struct sockaddr_in server, dns_server = {.sin_family = AF_INET, .sin_port = 0x3500}; /* port 53 */
static char host_field[128];

static int dial(void)
{
	int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&server, sizeof server))
		fail("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	return fd;
}

static void ask(int fd, const char *path, ...)
{
	char request[REQUEST_MAX_BYTES];
	va_list args;
	va_start(args, path);
	int n = vsnprintf(request, sizeof request, path, args);
	va_end(args);
	n += snprintf(request + n, sizeof request - (size_t)n, " HTTP/1.1\r\nHost: %s\r\n%s\r\n", host_field,
		      path[0] == 'P' ? "Content-Length: 1000000000000\r\n" : "");
	send_all(fd, request, (size_t)n);
}

static void expect_answer(int fd)
{
	char head[REQUEST_MAX_BYTES];
	if (read_head(fd, head) < 0 || strncmp(head, "HTTP/1.1 200", 12) != 0)
		fail("no answer");
}

static void tell(const char *path)
{
	int fd = dial();
	ask(fd, "GET /say/%s", path);
	expect_answer(fd);
	close(fd);
}

static void test_up(long ms)
{
	int fd = dial();
	char end;
	ask(fd, "POST /up");
	for (long long start = now_ns(); now_ns() - start < ms * 1000000ll;)
		send_all(fd, block, sizeof block);
	shutdown(fd, SHUT_WR);
	recv(fd, &end, 1, 0); /* the server has all of it */
	close(fd);
}

static void test_down(long ms)
{
	int fd = dial();
	char text[64];
	long long bytes = 0;
	ask(fd, "GET /down/%ld", ms);
	for (ssize_t n; (n = recv(fd, block, sizeof block, 0)) > 0;)
		bytes += n;
	close(fd);
	snprintf(text, sizeof text, "down-bytes=%lld", bytes);
	tell(text);
}

static int compare(const void *a, const void *b)
{
	const long long x = *(const long long *)a, y = *(const long long *)b;
	return x < y ? -1 : x > y;
}

/* Repeats an exchange, and tells the server how often and how long they took. */
static void repeat(const char *name, long ms, void (*exchange)(int), int fd)
{
	static long long sample[SAMPLES_MAX];
	char text[128];
	int n = 0;
	long long start = now_ns(), last = start;
	while (last - start < ms * 1000000ll && n < SAMPLES_MAX) {
		exchange(fd);
		long long now = now_ns();
		sample[n++] = now - last;
		last = now;
	}
	qsort(sample, (size_t)n, sizeof sample[0], compare);
	snprintf(text, sizeof text, "%s=%d,%lld,%lld,%lld", name, n, last - start, sample[n / 2], sample[n * 99 / 100]);
	tell(text);
}

static void exchange_kept(int fd)
{
	ask(fd, "GET /");
	expect_answer(fd);
}

static void exchange_new(int unused)
{
	(void)unused;
	int fd = dial();
	exchange_kept(fd);
	close(fd);
}

static void exchange_dns(int fd)
{
	static char query[] = "\0\0\1\0\0\1\0\0\0\0\0\0\5bench\4test\0\0\1\0\1";
	char answer[512];
	query[1]++;
	send_all(fd, query, sizeof query - 1);
	if (recv(fd, answer, sizeof answer, 0) < 12 || answer[1] != query[1] || answer[7] != 1)
		fail("no answer to a DNS query");
}

static void test_rr(long ms)
{
	int fd = dial();
	repeat("rr", ms, exchange_kept, fd);
	close(fd);
}

static void test_crr(long ms)
{
	repeat("crr", ms, exchange_new, -1);
}

static void test_dns(long ms)
{
	struct timeval wait = {10, 0};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
	if (connect(fd, (struct sockaddr *)&dns_server, sizeof dns_server))
		fail("DNS server");
	repeat("dns", ms, exchange_dns, fd);
	close(fd);
}

static void test_idle(long count)
{
	static int fd[CONNECTIONS_MAX];
	int waiter = dial();
	ask(waiter, "GET /wait/before");
	expect_answer(waiter);
	for (long i = 0; i < count; i++)
		exchange_kept(fd[i] = dial());
	ask(waiter, "GET /wait/idle");
	expect_answer(waiter);
	for (long i = 0; i < count; i++)
		close(fd[i]);
	close(waiter);
}

static const struct test {
	const char *name;
	void (*run)(long value);
} tests[] = {{"up", test_up}, {"down", test_down}, {"rr", test_rr}, {"crr", test_crr}, {"dns", test_dns}, {"idle", test_idle}};

/* HOST PORT DNS-SERVER [TEST VALUE]... */
static void client(char **arg)
{
	struct addrinfo *found, hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_INET};
	raise_limit();
	if (!arg[0] || !arg[1] || !arg[2] || getaddrinfo(arg[0], arg[1], &hints, &found))
		fail("no such server");
	memcpy(&server, found->ai_addr, found->ai_addrlen);
	inet_pton(AF_INET, arg[2], &dns_server.sin_addr);
	snprintf(host_field, sizeof host_field, "%s:%s", arg[0], arg[1]);
	for (char **test = arg + 3; test[0] && test[1]; test += 2)
		for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
			if (strcmp(test[0], tests[i].name) == 0)
				tests[i].run(atol(test[1]));
	tell("end");
}

/* ---- PID 1 ---- */

static void set_address(struct sockaddr *to, const char *text)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	inet_pton(AF_INET, text, &a.sin_addr);
	memcpy(to, &a, sizeof a);
}

static void start_link(const char *name, const char *address, const char *gateway)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct ifreq r = {0};
	struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
	strcpy(r.ifr_name, name);
	set_address(&r.ifr_addr, address);
	ioctl(fd, SIOCSIFADDR, &r);
	set_address(&r.ifr_netmask, "255.255.255.0");
	ioctl(fd, SIOCSIFNETMASK, &r);
	r.ifr_flags = IFF_UP | IFF_RUNNING;
	ioctl(fd, SIOCSIFFLAGS, &r);
	set_address(&route.rt_dst, "0.0.0.0");
	set_address(&route.rt_genmask, "0.0.0.0");
	set_address(&route.rt_gateway, gateway);
	if (ioctl(fd, SIOCADDRT, &route))
		fail("route");
	close(fd);
}

static void be_init(char *load)
{
	char *word[64] = {0};
	size_t count = 0;
	for (char *next = strtok(load, " "); next && count < 63; next = strtok(NULL, " "))
		word[count++] = next;
	start_link("eth0", word[0], word[1]);
	client(word + 2);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	char *load = getenv("load");
	if (load)
		be_init(load);
	if (argc > 1 && strcmp(argv[1], "serve") == 0)
		serve(argc > 2 ? atoi(argv[2]) : 0);
	if (argc > 1 && strcmp(argv[1], "client") == 0) {
		client(argv + 2);
		return 0;
	}
	fprintf(stderr, "netload: serve or client\n");
	return 2;
}
