/*
 * A gate in a process of its own, a server of ours with TLS behind it, and a client with TLS in front of it, where the guest
 * would be.
 */
#ifndef CAPLOCK_TESTS_GATE_BENCH_H
#define CAPLOCK_TESTS_GATE_BENCH_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio/net/gate/ca.h"
#include "virtio/net/gate/gate.h"
#include "virtio/net/gate/proto.h"
#include "vmm/util/err.h"

/* The secret KEY, of owner.test. */
#define VALUE "sk-real-0123456789abcdef"
#define PLACEHOLDER "SANDBOX_SECRET_00112233445566778899aabbccddeeff"

enum { WAIT_MS = 20000 };

extern struct gate_config config;
extern struct gate_secret secret;
extern int supervisor_fd; /* our end */

/* ---- The gate ---- */

int memory_file(const char *text);
void set_up(void);
void rule(int (*add)(struct policy *p, const char *text, struct err *e), const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void start(void);
size_t take_message(void *out, size_t max_bytes);
struct gate_record take_record(void);
void tear_down(void);

/* ---- The server ---- */

/* A connection to it. */
struct session {
	SSL *ssl;
	int fd;
};

extern struct ca *authority;           /* of the server */
extern int server_fd;                  /* it listens */
extern uint16_t server_port;
extern const char *server_certificate; /* for whom; NULL: TLS is not spoken */
extern bool server_http2;              /* it speaks that */

void wait_for(int fd);
struct session serve_connection(void);
int session_read(struct session *s, void *data, int max_bytes);
const char *session_read_until(struct session *s, const char *end);
void session_write(struct session *s, const char *text, size_t bytes);
void session_end(struct session *s);

/* ---- The guest ---- */

extern SSL *client; /* NULL: no TLS */
extern int client_fd;
extern bool client_http2; /* it speaks that, and that only */

void open_flow(const char *name);
bool try_tls(const char *sni);
void connect_to(const char *name);
void say(const char *text);
const char *hear(const char *end);
void leave(void);
void expect_in(const char *text, const char *part);
void expect_not_in(const char *text, const char *part);

#endif
