/*
 * Theory of operation
 * -------------------
 * Everything that happens to a connection ends in pump(): it goes on with the handshake, gives the owner what was received, reads
 * on, and sends what there is to send. What the owner does meanwhile (write, pause) only marks the connection, and pump() runs once
 * more before the loop waits again: so what is written piece by piece is sent as one, and no callback is called from inside a call
 * of the owner's. An owner that has many things to send, of which the most urgent comes first, writes only when it is asked (fill).
 *
 *      HANDSHAKE -> OPEN -> (FINISHING: what was written is sent; then the peer has LINGER_MS to end, too) -> dead
 *
 * A connection with unread data in it must not be closed at once: that would be a reset, which may overtake what was sent.
 *
 * A connection that is destroyed is closed at once; its memory is freed when the loop comes round.
 *
 * Bounds: the owner asks conn_room() before it writes, and pauses what it does not want. What the owner leaves unread is bounded
 * by what it takes for one unit (a head); it must refuse what is larger.
 *
 * Wiping: what was sent to a server may be a secret. The out buffer is cleared when it is empty, and all is when it is freed.
 */
#include "virtio/net/gate/conn.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "virtio/net/gate/clock.h"
#include "virtio/net/gate/exchange.h"
#include "vmm/util/io.h"

enum {
	READ_BYTES = 16 << 10, /* a record of TLS */
	ROUNDS_MAX = 4,        /* of work, before events have their turn */
	READS_MAX = 8,         /* of one connection, before others have their turn */
	WRITE_BYTES = 64 << 10,
	KEEP_BYTES = 32 << 10, /* of a buffer that is empty */
	LINGER_MS = 2000,
};

struct conn {
	struct conn_set *set;
	struct conn *next_work, *next_dead, *next_timed;
	struct loop_source source;
	SSL *ssl; /* NULL: none */
	const struct conn_ops *ops;
	void *context;
	struct buf in, out;
	size_t sent;       /* of `out` */
	uint64_t end_ms;   /* of the handshake, or of lingering */
	bool queued;       /* in set->work */
	bool handshaking;
	bool paused;
	bool ended;        /* the peer sends no more, and the owner knows */
	bool full;         /* the owner waits for room */
	bool finishing, lingering;
	bool wants_write;  /* TLS does, to go on reading */
	bool dead;
	bool rude;         /* TLS does not say that this is all: it is not */
	int broken;        /* -errno: what was to be written is not */
	bool fresh;        /* the owner goes on: with what it has left, were it nothing */
};

static void pump(struct conn *c, uint32_t events);

static void ready(void *context, uint32_t events)
{
	pump(context, events);
}

/* Has pump() run before the loop waits. */
static void queue(struct conn *c)
{
	if (c->queued || c->dead)
		return;
	c->queued = true;
	c->next_work = c->set->work;
	c->set->work = c;
}

/* Makes a connection of a connected, non-blocking socket, which it owns. Returns NULL, with fd closed, where that fails. */
struct conn *conn_create(struct conn_set *set, int fd, const struct conn_ops *ops, void *context)
{
	struct conn *c = calloc(1, sizeof *c);
	if (!c) {
		io_close(&fd);
		return NULL;
	}
	*c = (struct conn){.set = set, .ops = ops, .context = context};
	c->source = (struct loop_source){.fd = fd, .ready = ready, .context = c};
	if (loop_add(set->loop, &c->source, EPOLLIN)) {
		io_close(&fd);
		free(c);
		return NULL;
	}
	return c;
}

/* Gives the connection another owner. */
void conn_own(struct conn *c, const struct conn_ops *ops, void *context)
{
	c->ops = ops;
	c->context = context;
	queue(c);
}

static void join_timed(struct conn *c, unsigned limit_ms)
{
	c->end_ms = clock_ms() + limit_ms;
	c->next_timed = c->set->timed;
	c->set->timed = c;
}

static void leave_timed(struct conn *c)
{
	for (struct conn **at = &c->set->timed; *at; at = &(*at)->next_timed)
		if (*at == c) {
			*at = c->next_timed;
			return;
		}
}

/*
 * Starts TLS; `ssl` has its method, and says whether it is a client or a server. It is the connection's from now on. What a client
 * says first is said at once, so that the server is at work while the gate is.
 */
void conn_start_tls(struct conn *c, SSL *ssl)
{
	c->ssl = ssl;
	SSL_set_fd(ssl, c->source.fd);
	SSL_set_read_ahead(ssl, 1); /* or else each record takes two calls of read(2) */
	c->handshaking = true;
	join_timed(c, CONN_HANDSHAKE_MS);
	if (!SSL_is_server(ssl))
		SSL_do_handshake(ssl); /* what is wrong with it, pump() will see */
	ERR_clear_error(); /* or else whatever TLS is being spoken now seems to have failed */
	queue(c);
}

/* NULL: there is no TLS. */
SSL *conn_tls(const struct conn *c)
{
	return c->ssl;
}

/* Whether it can be used: TLS is established, where there is any, and the peer has not ended. */
bool conn_is_open(const struct conn *c)
{
	return !c->handshaking && !c->ended && !c->dead && !c->finishing;
}

/* ---- The end ---- */

static void wipe(struct buf *b)
{
	if (b->cap)
		explicit_bzero(b->data, b->cap);
	buf_free(b);
}

/* Closes the connection. Its owner hears nothing more of it. Accepts NULL. */
void conn_destroy(struct conn *c)
{
	if (!c || c->dead)
		return;
	if (c->handshaking || c->lingering)
		leave_timed(c);
	c->dead = true;
	loop_remove(c->set->loop, &c->source);
	if (c->ssl) {
		if (c->rude)
			SSL_set_shutdown(c->ssl, SSL_SENT_SHUTDOWN);
		SSL_shutdown(c->ssl); /* says good-bye where there is room for it */
		SSL_free(c->ssl);
		ERR_clear_error();
	}
	io_close(&c->source.fd);
	wipe(&c->in);
	wipe(&c->out);
	c->next_dead = c->set->dead;
	c->set->dead = c;
}

static void fail(struct conn *c, const char *reason)
{
	if (c->dead)
		return;
	if (c->finishing)
		conn_destroy(c);
	else
		c->ops->failed(c->context, reason);
}

/*
 * Sends what is there to send, then closes; `clean`: that is all, as TLS may say. What is received is dropped. The owner hears nothing
 * more of it.
 */
void conn_finish(struct conn *c, bool clean)
{
	if (c->handshaking) {
		conn_destroy(c);
		return;
	}
	c->finishing = true;
	c->rude = !clean;
	queue(c);
}

/* ---- Sending ---- */

/* How much more may be written, so that memory is bounded. Where it is 0, drained() is called later. */
size_t conn_room(struct conn *c)
{
	size_t waiting = c->out.len - c->sent;
	c->full |= waiting >= CONN_QUEUE_MAX_BYTES;
	return waiting < CONN_QUEUE_MAX_BYTES ? CONN_QUEUE_MAX_BYTES - waiting : 0;
}

/* The buffer to append to; conn_written() follows. */
struct buf *conn_out(struct conn *c)
{
	return &c->out;
}

/*
 * Something was appended to conn_out(); or, where rc is not 0, it could not be: nothing of what would follow it must be sent, and the
 * connection fails.
 */
void conn_written(struct conn *c, int rc)
{
	c->broken = c->broken ? c->broken : rc;
	queue(c);
}

/* Sends a copy of `data`, in time. */
void conn_write(struct conn *c, const void *data, size_t len_bytes)
{
	if (c->dead)
		return;
	conn_written(c, buf_add(&c->out, data, len_bytes));
}

/* Returns bytes sent, 0: not now, or -1. */
static ssize_t send_some(struct conn *c)
{
	size_t left = c->out.len - c->sent, bytes = left < WRITE_BYTES ? left : WRITE_BYTES;
	if (!c->ssl) {
		ssize_t n = send(c->source.fd, c->out.data + c->sent, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
		return n >= 0 ? n : errno == EAGAIN || errno == EINTR ? 0 : -1;
	}
	int n = SSL_write(c->ssl, c->out.data + c->sent, (int)bytes);
	if (n > 0)
		return n;
	int error = SSL_get_error(c->ssl, n);
	ERR_clear_error();
	return error == SSL_ERROR_WANT_WRITE || error == SSL_ERROR_WANT_READ ? 0 : -1;
}

/* All is sent: says so, and waits for the peer to say so, too. */
static void linger(struct conn *c)
{
	if (c->ended) {
		conn_destroy(c);
	} else if (!c->lingering) {
		if (c->ssl && !c->rude)
			SSL_shutdown(c->ssl);
		ERR_clear_error();
		shutdown(c->source.fd, SHUT_WR);
		c->lingering = true;
		join_timed(c, LINGER_MS);
	}
}

static void flush(struct conn *c)
{
	ssize_t n = 1;
	while (!c->dead && !c->handshaking && c->sent < c->out.len && (n = send_some(c)) > 0)
		c->sent += (size_t)n;
	if (n < 0) {
		fail(c, "the connection was reset");
		return;
	}
	if (c->dead || c->sent < c->out.len)
		return;
	if (c->sent)
		explicit_bzero(c->out.data, c->sent < c->out.cap ? c->sent : c->out.cap);
	c->sent = c->out.len = 0;
	if (c->out.cap > KEEP_BYTES)
		buf_free(&c->out);
	if (c->finishing) {
		linger(c);
	} else if (c->full) {
		c->full = false;
		c->ops->drained(c->context);
	}
}

/* ---- Receiving ---- */

/* Whether nothing is to be given to the owner now. */
static bool is_deaf(const struct conn *c)
{
	return c->dead || c->paused || c->finishing || c->handshaking || c->ended;
}

/* Stops giving the owner what is received, and receiving; or goes on. */
void conn_pause(struct conn *c, bool pause)
{
	if (c->paused && !pause) {
		c->fresh = true;
		queue(c);
	}
	c->paused = pause;
}

/* Gives the owner what it has left, together with what is new. */
static void deliver(struct conn *c, const uint8_t *data, size_t len_bytes)
{
	if (c->in.len) {
		if (buf_add(&c->in, data, len_bytes)) {
			fail(c, "out of memory");
			return;
		}
		size_t taken = c->ops->data(c->context, c->in.data, c->in.len);
		if (!c->dead)
			buf_consume(&c->in, taken);
	} else {
		size_t taken = c->ops->data(c->context, data, len_bytes);
		if (!c->dead && taken < len_bytes && buf_add(&c->in, data + taken, len_bytes - taken))
			fail(c, "out of memory");
	}
	if (!c->dead && c->in.len == 0 && c->in.cap > KEEP_BYTES)
		buf_free(&c->in);
}

/* Returns bytes received; 0: none now; -1: the end, *clean says which; -2: a failure. */
static ssize_t receive_some(struct conn *c, uint8_t *data, bool *clean)
{
	*clean = true;
	c->wants_write = false;
	if (!c->ssl) {
		ssize_t n = recv(c->source.fd, data, READ_BYTES, MSG_DONTWAIT);
		return n > 0 ? n : n == 0 ? -1 : errno == EAGAIN || errno == EINTR ? 0 : -2;
	}
	int n = SSL_read(c->ssl, data, READ_BYTES);
	if (n > 0)
		return n;
	int error = SSL_get_error(c->ssl, n);
	bool truncated = error == SSL_ERROR_SSL && ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING;
	ERR_clear_error();
	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
		c->wants_write = error == SSL_ERROR_WANT_WRITE;
		return 0;
	}
	*clean = error == SSL_ERROR_ZERO_RETURN;
	return *clean || truncated ? -1 : -2;
}

/* Whether there is more to receive, after so many bytes. Where this is unknown, an event will tell. */
static bool has_more(const struct conn *c, size_t received_bytes)
{
	return c->ssl ? SSL_has_pending(c->ssl) : received_bytes == READ_BYTES;
}

static void receive(struct conn *c, bool readable)
{
	static uint8_t data[READ_BYTES]; /* one loop, one thread */
	bool clean;
	if (c->fresh && !is_deaf(c)) {
		c->fresh = false;
		size_t taken = c->ops->data(c->context, c->in.data, c->in.len);
		if (c->dead)
			return;
		buf_consume(&c->in, taken);
	}
	readable = readable || c->wants_write || has_more(c, 0);
	for (unsigned i = 0; i < READS_MAX && readable && !is_deaf(c); i++) {
		ssize_t n = receive_some(c, data, &clean);
		if (n == 0)
			return;
		if (n < 0) {
			c->ended = true;
			if (n == -1)
				c->ops->ended(c->context, clean);
			else
				fail(c, "the connection was reset");
			return;
		}
		readable = has_more(c, (size_t)n);
		deliver(c, data, (size_t)n);
	}
	if (readable && !is_deaf(c))
		queue(c);
}

/* What the peer still sends to a connection that is finishing is not kept, nor deciphered. */
static void drop_received(struct conn *c)
{
	uint8_t data[READ_BYTES];
	for (unsigned i = 0; i < READS_MAX && !c->ended; i++) {
		ssize_t n = recv(c->source.fd, data, sizeof data, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		c->ended = n <= 0;
	}
}

/* ---- TLS ---- */

/* Why a handshake failed, in words. */
static const char *explain(const SSL *ssl, int error)
{
	long verified = SSL_get_verify_result(ssl);
	if (error == SSL_ERROR_SYSCALL)
		return "the connection ended during the TLS handshake";
	if (verified != X509_V_OK && !SSL_is_server(ssl))
		return X509_verify_cert_error_string(verified);
	const char *reason = ERR_reason_error_string(ERR_peek_error());
	return reason ? reason : "the TLS handshake failed";
}

static void shake_hands(struct conn *c)
{
	int rc = SSL_do_handshake(c->ssl), error = rc == 1 ? SSL_ERROR_NONE : SSL_get_error(c->ssl, rc);
	c->wants_write = error == SSL_ERROR_WANT_WRITE;
	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
		return;
	c->handshaking = false;
	leave_timed(c);
	if (rc == 1) {
		c->ops->opened(c->context);
		return;
	}
	const char *reason = explain(c->ssl, error);
	ERR_clear_error();
	fail(c, reason);
}

/* ---- All of it ---- */

static void watch(struct conn *c)
{
	bool sends = !c->handshaking && c->sent < c->out.len;
	bool reads = !c->ended && (c->handshaking || c->finishing || !c->paused);
	loop_change(c->set->loop, &c->source, (reads ? EPOLLIN : 0u) | (sends || c->wants_write ? EPOLLOUT : 0u));
}

static void pump(struct conn *c, uint32_t events)
{
	if (c->dead)
		return;
	if (c->broken) {
		fail(c, c->broken == -ENOMEM ? "out of memory" : "a message that cannot be sent");
		return;
	}
	if (c->handshaking)
		shake_hands(c);
	if (c->finishing && !c->dead)
		drop_received(c);
	if (!is_deaf(c))
		receive(c, events & ~(uint32_t)EPOLLOUT);
	else if (!c->dead && events & (EPOLLHUP | EPOLLERR)) /* nothing else would be told while it is paused */
		fail(c, "the connection was reset");
	if (!c->dead && !c->handshaking && !c->finishing && c->ops->fill)
		c->ops->fill(c->context);
	if (!c->dead)
		flush(c);
	if (!c->dead)
		watch(c);
}

/* Does what there is to do before the loop waits. Returns how long it may, in milliseconds; -1: for ever. */
int conn_set_tick(struct conn_set *set)
{
	struct conn *c;
	for (unsigned round = 0; set->work && round < ROUNDS_MAX; round++) {
		struct conn *list = set->work;
		set->work = NULL;
		while ((c = list)) {
			list = c->next_work;
			c->queued = false;
			pump(c, 0);
		}
	}
	uint64_t now = set->timed ? clock_ms() : 0, next = UINT64_MAX;
	for (c = set->timed; c;) {
		if (c->end_ms > now) {
			next = c->end_ms < next ? c->end_ms : next;
			c = c->next_timed;
			continue;
		}
		bool lingering = c->lingering;
		c->handshaking = c->lingering = false;
		leave_timed(c);
		c->ended = true;
		if (lingering)
			conn_destroy(c);
		else
			fail(c, "the TLS handshake took too long");
		c = set->timed;
		next = UINT64_MAX;
	}
	conn_set_free(set);
	return set->work ? 0 : next == UINT64_MAX ? -1 : (int)(next - now);
}

/* Frees connections that were destroyed. */
void conn_set_free(struct conn_set *set)
{
	struct conn *c;
	while ((c = set->dead)) {
		set->dead = c->next_dead;
		if (c->queued) { /* it stands in the list of work, too */
			struct conn **at = &set->work;
			while (*at != c)
				at = &(*at)->next_work;
			*at = c->next_work;
		}
		free(c);
	}
}
