/* A connection of the gate: bytes both ways, over TLS or not, bounded and never waited for. conn.c has the theory of operation. */
#ifndef CAPLOCK_GATE_CONN_H
#define CAPLOCK_GATE_CONN_H

#include <openssl/ssl.h>

#include "vmm/util/buf.h"
#include "vmm/util/loop.h"

enum { CONN_HANDSHAKE_MS = 10000 };

/* What the owner is told. It may do anything with the connection meanwhile, also destroy it. */
struct conn_ops {
	void (*opened)(void *context); /* TLS is established */
	/* Returns how many bytes were taken; the rest comes again, with more. conn_pause() stops both. */
	size_t (*data)(void *context, const uint8_t *data, size_t len_bytes);
	void (*ended)(void *context, bool clean); /* the peer sends no more; clean: TLS says that this is all */
	void (*drained)(void *context);           /* conn_room() is large again */
	void (*fill)(void *context); /* what there is to send may be written now, while there is room; NULL: it always is at once */
	void (*failed)(void *context, const char *reason); /* nothing can be sent or received any more */
};

struct conn;

/* The connections of a loop. Zero-initialise it but for `loop`. */
struct conn_set {
	struct loop *loop;
	struct conn *work;  /* something is to be done for them, without an event */
	struct conn *dead;  /* to be freed */
	struct conn *timed; /* in handshakes, or lingering */
};

struct conn *conn_create(struct conn_set *set, int fd, const struct conn_ops *ops, void *context);
void conn_own(struct conn *c, const struct conn_ops *ops, void *context);
void conn_start_tls(struct conn *c, SSL *ssl);
SSL *conn_tls(const struct conn *c);
bool conn_is_open(const struct conn *c);
void conn_write(struct conn *c, const void *data, size_t len_bytes);
struct buf *conn_out(struct conn *c);
void conn_written(struct conn *c, int rc);
size_t conn_room(struct conn *c);
void conn_pause(struct conn *c, bool pause);
void conn_finish(struct conn *c, bool clean);
void conn_destroy(struct conn *c);
int conn_set_tick(struct conn_set *set);
void conn_set_free(struct conn_set *set);

#endif
