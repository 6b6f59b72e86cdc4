/* Frames, fields and windows of guest/proto.h, encoded and strictly decoded; for both sides. */
#ifndef CAPLOCK_GUEST_FRAME_H
#define CAPLOCK_GUEST_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Bytes in order: added at the end, taken from the front. Zero-initialise it to start; queue_free() to end. */
struct queue {
	uint8_t *data;
	size_t start, end; /* the bytes in use */
	size_t cap;
};

struct frame {
	uint8_t type; /* enum proto_type */
	uint32_t len; /* of the payload */
	const uint8_t *payload;
};

struct field {
	uint16_t tag; /* enum proto_field */
	uint32_t len;
	const uint8_t *value;
};

enum frame_sender { FRAME_FROM_HOST = 1, FRAME_FROM_GUEST = 2 };

/* One direction of one stream, as either end sees it. */
struct window {
	uint32_t open;     /* bytes that may still be sent */
	uint32_t consumed; /* receiver: bytes consumed and not yet given back */
};

size_t queue_len(const struct queue *q);
uint8_t *queue_reserve(struct queue *q, size_t more_bytes);
int queue_add(struct queue *q, const void *data, size_t len_bytes);
void queue_consume(struct queue *q, size_t len_bytes);
void queue_free(struct queue *q);
int queue_send(struct queue *q, int fd);

void frame_put_le(uint8_t *p, size_t len_bytes, uint64_t value);
uint32_t frame_u32(const uint8_t *p);
uint64_t frame_u64(const uint8_t *p);
int frame_put(struct queue *q, uint8_t type, const void *payload, uint32_t len_bytes);
int frame_put_u32(struct queue *q, uint8_t type, unsigned count, const uint32_t *values);
size_t frame_begin(struct queue *q, uint8_t type);
int frame_end(struct queue *q, size_t place);
int frame_receive(struct queue *q, int fd);
int frame_take(struct queue *q, enum frame_sender from, struct frame *f);
ssize_t frame_read_data(struct queue *q, uint8_t type, int fd, size_t max_bytes, bool socket);

int field_put(struct queue *q, uint16_t tag, const void *value, size_t len_bytes);
int field_next(const uint8_t **at, size_t *left_bytes, struct field *f);

void window_open(struct window *w);
int window_given(struct window *w, uint32_t bytes);
int window_received(struct window *w, uint32_t bytes);
int window_give_back(struct window *w, uint32_t stream, struct queue *q);

#endif
