/*
 * Frames between the supervisor and the agent.
 *
 * Theory of operation
 * -------------------
 * Purpose: the encoding of guest/proto.h, once, for both ends.
 *
 * Trust boundary: the other end may send anything. A frame's header is checked against the table of types (who may send
 * it, how long it may be) before any memory is reserved for its payload; a payload is looked at when it is complete.
 *
 * Limits: a receive queue holds at most one largest frame of a type and what arrived with it; what a sender queues is
 * bounded by its caller, who stops reading its sources when queue_len() is large. WINDOW frames are queued only when
 * a quarter of the window was consumed, so a peer that does not read cannot make us queue one per byte.
 */
#include "guest/frame.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/proto.h"

enum {
	READ_MIN_BYTES = 4096,        /* room for a read where no longer frame is expected */
	QUEUE_KEEP_BYTES = 256 << 10, /* an empty queue keeps no more memory than this */
	QUEUE_MAX_BYTES = 4 << 20,    /* no payload is built that makes a queue longer */
	ERROR_MAX_BYTES = 4 + 1024,
};

/* ---- Queues ---- */

/* How many bytes are queued. */
size_t queue_len(const struct queue *q)
{
	return q->end - q->start;
}

/* Makes room for `more_bytes` behind the queued bytes. Returns where they go, or NULL: out of memory. */
uint8_t *queue_reserve(struct queue *q, size_t more_bytes)
{
	size_t len = queue_len(q), need;
	if (q->cap - q->end >= more_bytes && q->data)
		return q->data + q->end;
	if (__builtin_add_overflow(len, more_bytes, &need))
		return NULL;
	if (q->start && len)
		memmove(q->data, q->data + q->start, len);
	q->start = 0;
	q->end = len;
	if (len == 0 && q->cap > QUEUE_KEEP_BYTES && need <= QUEUE_KEEP_BYTES)
		queue_free(q);
	if (need <= q->cap && q->data)
		return q->data + len;
	size_t cap = q->cap ? q->cap : 256;
	while (cap < need)
		if (__builtin_mul_overflow(cap, (size_t)2, &cap))
			return NULL;
	uint8_t *data = realloc(q->data, cap);
	if (!data)
		return NULL;
	q->data = data;
	q->cap = cap;
	return data + len;
}

/* Appends a copy of `data`. Returns 0 or -ENOMEM. */
int queue_add(struct queue *q, const void *data, size_t len_bytes)
{
	uint8_t *at = queue_reserve(q, len_bytes);
	if (!at)
		return -ENOMEM;
	if (len_bytes)
		memcpy(at, data, len_bytes);
	q->end += len_bytes;
	return 0;
}

/* Drops the first `len_bytes`, which are queued. */
void queue_consume(struct queue *q, size_t len_bytes)
{
	assert(len_bytes <= queue_len(q));
	q->start += len_bytes;
	if (q->start < q->end)
		return;
	q->start = q->end = 0;
	if (q->cap > QUEUE_KEEP_BYTES)
		queue_free(q);
}

/* Frees the storage and leaves an empty queue. */
void queue_free(struct queue *q)
{
	free(q->data);
	*q = (struct queue){0};
}

/* Sends to the socket `fd` as much as it takes now. Returns 0, also where it takes nothing, or -errno. */
int queue_send(struct queue *q, int fd)
{
	while (queue_len(q)) {
		ssize_t n = send(fd, q->data + q->start, queue_len(q), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		queue_consume(q, (size_t)n);
	}
	return 0;
}

/* ---- Integers ---- */

static void put_u16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static void put_u32(uint8_t *p, uint32_t v)
{
	put_u16(p, (uint16_t)v);
	put_u16(p + 2, (uint16_t)(v >> 16));
}

static uint16_t get_u16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

/* Writes `value` to the `len_bytes` at p, little-endian. */
void frame_put_le(uint8_t *p, size_t len_bytes, uint64_t value)
{
	for (size_t i = 0; i < len_bytes; i++, value >>= 8)
		p[i] = (uint8_t)value;
}

/* The little-endian 32-bit integer at p. */
uint32_t frame_u32(const uint8_t *p)
{
	return get_u16(p) | (uint32_t)get_u16(p + 2) << 16;
}

/* The little-endian 64-bit integer at p. */
uint64_t frame_u64(const uint8_t *p)
{
	return frame_u32(p) | (uint64_t)frame_u32(p + 4) << 32;
}

/* ---- Frames ---- */

struct rule {
	uint8_t senders; /* enum frame_sender, either or both; 0: no such type */
	uint32_t min_bytes, max_bytes;
};

static const struct rule rules[256] = {
    [PROTO_SETUP] = {FRAME_FROM_HOST, 0, PROTO_PAYLOAD_MAX},
    [PROTO_EXEC] = {FRAME_FROM_HOST, 0, PROTO_PAYLOAD_MAX},
    [PROTO_STDIN] = {FRAME_FROM_HOST, 1, PROTO_DATA_MAX},
    [PROTO_STDIN_EOF] = {FRAME_FROM_HOST, 0, 0},
    [PROTO_SIGNAL] = {FRAME_FROM_HOST, 4, 4},
    [PROTO_SHUTDOWN] = {FRAME_FROM_HOST, 0, 0},
    [PROTO_CLOSED] = {FRAME_FROM_HOST, 4, 4},
    [PROTO_HELLO] = {FRAME_FROM_GUEST, 8, 8},
    [PROTO_STARTED] = {FRAME_FROM_GUEST, 4, 4},
    [PROTO_STDOUT] = {FRAME_FROM_GUEST, 1, PROTO_DATA_MAX},
    [PROTO_STDERR] = {FRAME_FROM_GUEST, 1, PROTO_DATA_MAX},
    [PROTO_EXIT] = {FRAME_FROM_GUEST, 8, 8},
    [PROTO_ERROR] = {FRAME_FROM_GUEST, 4, ERROR_MAX_BYTES},
    [PROTO_WINDOW] = {FRAME_FROM_HOST | FRAME_FROM_GUEST, 8, 8},
};

static void put_header(uint8_t *p, uint8_t type, uint32_t len_bytes)
{
	p[0] = type;
	p[1] = p[2] = p[3] = 0;
	put_u32(p + 4, len_bytes);
}

/* Queues a frame. An ERROR's text is cut where it is too long. Returns 0, -E2BIG, or -ENOMEM. */
int frame_put(struct queue *q, uint8_t type, const void *payload, uint32_t len_bytes)
{
	if (type == PROTO_ERROR && len_bytes > ERROR_MAX_BYTES)
		len_bytes = ERROR_MAX_BYTES;
	if (len_bytes > rules[type].max_bytes)
		return -E2BIG;
	uint8_t *at = queue_reserve(q, PROTO_HEADER_BYTES + (size_t)len_bytes);
	if (!at)
		return -ENOMEM;
	put_header(at, type, len_bytes);
	if (len_bytes)
		memcpy(at + PROTO_HEADER_BYTES, payload, len_bytes);
	q->end += PROTO_HEADER_BYTES + len_bytes;
	return 0;
}

/* Queues a frame of `count` (at most 2) integers. Returns 0 or -ENOMEM. */
int frame_put_u32(struct queue *q, uint8_t type, unsigned count, const uint32_t *values)
{
	uint8_t payload[8];
	assert(count <= 2);
	for (unsigned i = 0; i < count; i++)
		put_u32(payload + (size_t)4 * i, values[i]);
	return frame_put(q, type, payload, 4 * count);
}

/* Starts a frame whose payload is then added with field_put(). Returns its place for frame_end(), SIZE_MAX: no memory.
 */
size_t frame_begin(struct queue *q, uint8_t type)
{
	uint8_t *at = queue_reserve(q, PROTO_HEADER_BYTES);
	if (!at)
		return SIZE_MAX;
	put_header(at, type, 0);
	size_t place = queue_len(q);
	q->end += PROTO_HEADER_BYTES;
	return place;
}

/* Ends the frame that frame_begin() placed at `place`: its payload is all that was queued since. Returns 0 or -E2BIG.
 */
int frame_end(struct queue *q, size_t place)
{
	uint8_t *header = q->data + q->start + place;
	size_t len = queue_len(q) - place - PROTO_HEADER_BYTES;
	if (len > rules[header[0]].max_bytes)
		return -E2BIG;
	put_u32(header + 4, (uint32_t)len);
	return 0;
}

/*
 * Reads once from the socket `fd` into q, with room for the rest of a frame that was begun. Returns 1 where something
 * arrived, 0 where nothing is there now, -ENODATA at the end of the stream, or -errno.
 */
int frame_receive(struct queue *q, int fd)
{
	size_t want = READ_MIN_BYTES, have = queue_len(q);
	if (have >= PROTO_HEADER_BYTES) {
		/* frame_take() has checked this length, or else ended the stream. */
		size_t whole = PROTO_HEADER_BYTES + (size_t)frame_u32(q->data + q->start + 4);
		if (whole > have && whole - have > want)
			want = whole - have;
	}
	uint8_t *at = queue_reserve(q, want);
	if (!at)
		return -ENOMEM;
	ssize_t n = recv(fd, at, q->cap - q->end, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -ENODATA;
	q->end += (size_t)n;
	return 1;
}

/*
 * Takes the next frame that `from` sent out of q. Its payload stays valid until q is used again. Returns 1, 0 where it
 * has not arrived completely, or -EPROTO where its header breaks a rule.
 */
int frame_take(struct queue *q, enum frame_sender from, struct frame *f)
{
	if (queue_len(q) < PROTO_HEADER_BYTES)
		return 0;
	const uint8_t *p = q->data + q->start;
	const struct rule *r = &rules[p[0]];
	uint32_t len = frame_u32(p + 4);
	if (!(r->senders & from) || p[1] || p[2] || p[3] || len < r->min_bytes || len > r->max_bytes)
		return -EPROTO;
	if (queue_len(q) - PROTO_HEADER_BYTES < len)
		return 0;
	*f = (struct frame){.type = p[0], .len = len, .payload = p + PROTO_HEADER_BYTES};
	/* Not queue_consume(): that may free the payload. */
	q->start += PROTO_HEADER_BYTES + (size_t)len;
	return 1;
}

/*
 * Reads once from `fd`, at most `max_bytes` (at least 1) and PROTO_DATA_MAX, straight into a new data frame of `type`.
 * `socket`: `fd` is one, and is not waited for whatever its flags. Returns the bytes read, 0 at the end, or -errno; a
 * frame is queued only where there are bytes.
 */
ssize_t frame_read_data(struct queue *q, uint8_t type, int fd, size_t max_bytes, bool socket)
{
	if (max_bytes > PROTO_DATA_MAX)
		max_bytes = PROTO_DATA_MAX;
	uint8_t *at = queue_reserve(q, PROTO_HEADER_BYTES + max_bytes);
	if (!at)
		return -ENOMEM;
	at += PROTO_HEADER_BYTES;
	ssize_t n = socket ? recv(fd, at, max_bytes, MSG_DONTWAIT) : read(fd, at, max_bytes);
	if (n < 0)
		return -errno;
	if (n == 0)
		return 0;
	put_header(at - PROTO_HEADER_BYTES, type, (uint32_t)n);
	q->end += PROTO_HEADER_BYTES + (size_t)n;
	return n;
}

/* ---- Fields ---- */

/* Adds a field to the payload being built. Returns 0, -E2BIG where no frame could hold it, or -ENOMEM. */
int field_put(struct queue *q, uint16_t tag, const void *value, size_t len_bytes)
{
	if (len_bytes > PROTO_PAYLOAD_MAX - PROTO_FIELD_HEADER_BYTES || queue_len(q) > QUEUE_MAX_BYTES)
		return -E2BIG;
	uint8_t *at = queue_reserve(q, PROTO_FIELD_HEADER_BYTES + len_bytes);
	if (!at)
		return -ENOMEM;
	put_u16(at, tag);
	put_u16(at + 2, 0);
	put_u32(at + 4, (uint32_t)len_bytes);
	if (len_bytes)
		memcpy(at + PROTO_FIELD_HEADER_BYTES, value, len_bytes);
	q->end += PROTO_FIELD_HEADER_BYTES + len_bytes;
	return 0;
}

/* How long the value of a field may be; strings are any length. */
static bool field_len_fits(uint16_t tag, uint32_t len)
{
	switch (tag) {
	case PROTO_FIELD_CLOCK_NS:
		return len == 8;
	case PROTO_FIELD_CPU_MILLI:
		return len == 4;
	case PROTO_FIELD_HOSTNAME:
	case PROTO_FIELD_CA:
	case PROTO_FIELD_JAVA_HOME:
	case PROTO_FIELD_ARG:
	case PROTO_FIELD_ENV:
	case PROTO_FIELD_CWD:
	case PROTO_FIELD_USER:
		return true;
	default:
		return false;
	}
}

static bool field_is_string(uint16_t tag)
{
	return tag != PROTO_FIELD_CLOCK_NS && tag != PROTO_FIELD_CPU_MILLI;
}

/*
 * Takes the next field off the *left_bytes at *at, a whole payload at first. Returns 1, 0 at the end, or -EPROTO: an
 * unknown tag, a length that does not fit, a NUL in a string.
 */
int field_next(const uint8_t **at, size_t *left_bytes, struct field *f)
{
	if (*left_bytes == 0)
		return 0;
	if (*left_bytes < PROTO_FIELD_HEADER_BYTES)
		return -EPROTO;
	const uint8_t *p = *at;
	*f = (struct field){.tag = get_u16(p), .len = frame_u32(p + 4), .value = p + PROTO_FIELD_HEADER_BYTES};
	if (get_u16(p + 2) || f->len > *left_bytes - PROTO_FIELD_HEADER_BYTES || !field_len_fits(f->tag, f->len))
		return -EPROTO;
	if (field_is_string(f->tag) && memchr(f->value, 0, f->len))
		return -EPROTO;
	*at = f->value + f->len;
	*left_bytes -= PROTO_FIELD_HEADER_BYTES + (size_t)f->len;
	return 1;
}

/* ---- Windows ---- */

/* Starts a stream: all of its window is open. */
void window_open(struct window *w)
{
	*w = (struct window){.open = PROTO_WINDOW_BYTES};
}

/* Sender: the receiver consumed `bytes`. Returns 0, or -EPROTO where that is more than was sent. */
int window_given(struct window *w, uint32_t bytes)
{
	if (bytes == 0 || bytes > PROTO_WINDOW_BYTES - w->open)
		return -EPROTO;
	w->open += bytes;
	return 0;
}

/* Receiver: `bytes` arrived. Returns 0, or -EPROTO where the sender was not allowed to. */
int window_received(struct window *w, uint32_t bytes)
{
	if (bytes > w->open)
		return -EPROTO;
	w->open -= bytes;
	return 0;
}

/* Receiver: queues a WINDOW frame for `stream` where enough was consumed to be worth one. Returns 0 or -ENOMEM. */
int window_give_back(struct window *w, uint32_t stream, struct queue *q)
{
	if (w->consumed < PROTO_WINDOW_BYTES / 4)
		return 0;
	int rc = frame_put_u32(q, PROTO_WINDOW, 2, (const uint32_t[]){stream, w->consumed});
	if (rc)
		return rc;
	w->open += w->consumed;
	w->consumed = 0;
	return 0;
}
