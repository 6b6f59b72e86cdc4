/* guest/frame.c: frames, fields and windows, and what breaks their rules. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/frame.h"
#include "guest/proto.h"

static void add_header(struct queue *q, uint8_t type, uint8_t pad, uint32_t len)
{
	uint8_t h[PROTO_HEADER_BYTES] = {type, pad};
	frame_put_le(h + 4, 4, len);
	cr_assert_eq(queue_add(q, h, sizeof h), 0);
}

/* What frame_take() says of a header alone. */
static int verdict(enum frame_sender from, uint8_t type, uint8_t pad, uint32_t len)
{
	struct queue q = {0};
	struct frame f;
	add_header(&q, type, pad, len);
	int rc = frame_take(&q, from, &f);
	queue_free(&q);
	return rc;
}

Test(frame, is_taken_as_it_was_put)
{
	struct queue q = {0};
	struct frame f;
	cr_assert_eq(frame_put(&q, PROTO_STDOUT, "hello", 5), 0);
	cr_assert_eq(frame_put_u32(&q, PROTO_EXIT, 2, (const uint32_t[]){PROTO_SIGNALLED, 0x80000009}), 0);
	cr_assert_eq(frame_take(&q, FRAME_FROM_GUEST, &f), 1);
	cr_expect_eq(f.type, PROTO_STDOUT);
	cr_expect_eq(f.len, 5);
	cr_expect_eq(memcmp(f.payload, "hello", 5), 0);
	cr_assert_eq(frame_take(&q, FRAME_FROM_GUEST, &f), 1);
	cr_expect_eq(frame_u32(f.payload), PROTO_SIGNALLED);
	cr_expect_eq(frame_u32(f.payload + 4), 0x80000009);
	cr_expect_eq(frame_take(&q, FRAME_FROM_GUEST, &f), 0);
	queue_free(&q);
}

Test(frame, waits_for_its_last_byte)
{
	struct queue whole = {0}, q = {0};
	struct frame f;
	cr_assert_eq(frame_put(&whole, PROTO_STDIN, "abc", 3), 0);
	for (size_t i = 0; i < queue_len(&whole); i++) {
		cr_assert_eq(frame_take(&q, FRAME_FROM_HOST, &f), 0);
		cr_assert_eq(queue_add(&q, whole.data + i, 1), 0);
	}
	cr_assert_eq(frame_take(&q, FRAME_FROM_HOST, &f), 1);
	cr_expect_eq(memcmp(f.payload, "abc", 3), 0);
	queue_free(&whole);
	queue_free(&q);
}

Test(frame, header_rules)
{
	static const struct {
		enum frame_sender from;
		uint8_t type, pad;
		uint32_t len;
		int verdict;
	} cases[] = {
	    {FRAME_FROM_GUEST, PROTO_STDOUT, 0, PROTO_DATA_MAX, 0},
	    {FRAME_FROM_GUEST, PROTO_STDOUT, 0, PROTO_DATA_MAX + 1, -EPROTO},
	    {FRAME_FROM_GUEST, PROTO_STDOUT, 0, 0, -EPROTO},
	    {FRAME_FROM_GUEST, PROTO_STDOUT, 1, 1, -EPROTO},
	    {FRAME_FROM_HOST, PROTO_STDOUT, 0, 1, -EPROTO},
	    {FRAME_FROM_GUEST, PROTO_STDIN, 0, 1, -EPROTO},
	    {FRAME_FROM_HOST, PROTO_EXEC, 0, PROTO_PAYLOAD_MAX, 0},
	    {FRAME_FROM_HOST, PROTO_STDIN_EOF, 0, 1, -EPROTO},
	    {FRAME_FROM_HOST, PROTO_SIGNAL, 0, 3, -EPROTO},
	    {FRAME_FROM_GUEST, PROTO_EXIT, 0, 4, -EPROTO},
	    {FRAME_FROM_GUEST, PROTO_ERROR, 0, 3, -EPROTO},
	    {FRAME_FROM_GUEST, PROTO_WINDOW, 0, 8, 0},
	    {FRAME_FROM_HOST, PROTO_WINDOW, 0, 8, 0},
	    {FRAME_FROM_HOST, 0, 0, 0, -EPROTO},
	    {FRAME_FROM_GUEST, 255, 0, 0, -EPROTO},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		cr_expect_eq(verdict(cases[i].from, cases[i].type, cases[i].pad, cases[i].len), cases[i].verdict,
			     "case %zu", i);
}

Test(frame, case_20_a_length_over_1_mib_is_refused_before_memory_is_taken)
{
	for (unsigned type = 0; type < 256; type++) {
		cr_expect_eq(verdict(FRAME_FROM_HOST, (uint8_t)type, 0, PROTO_PAYLOAD_MAX + 1), -EPROTO);
		cr_expect_eq(verdict(FRAME_FROM_GUEST, (uint8_t)type, 0, UINT32_MAX), -EPROTO);
	}
}

Test(frame, too_long_is_not_sent)
{
	static uint8_t data[PROTO_PAYLOAD_MAX];
	struct queue q = {0};
	cr_expect_eq(frame_put(&q, PROTO_STDOUT, data, PROTO_DATA_MAX + 1), -E2BIG);
	cr_expect_eq(queue_len(&q), 0);
	size_t place = frame_begin(&q, PROTO_EXEC);
	cr_assert_eq(field_put(&q, PROTO_FIELD_ARG, data, 600000), 0);
	cr_assert_eq(field_put(&q, PROTO_FIELD_ARG, data, 600000), 0);
	cr_expect_eq(frame_end(&q, place), -E2BIG);
	cr_expect_eq(field_put(&q, PROTO_FIELD_ARG, data, SIZE_MAX), -E2BIG);
	queue_free(&q);
}

Test(frame, an_error_text_is_cut)
{
	static uint8_t text[4096] = {126};
	struct queue q = {0};
	struct frame f;
	cr_assert_eq(frame_put(&q, PROTO_ERROR, text, sizeof text), 0);
	cr_expect_eq(frame_take(&q, FRAME_FROM_GUEST, &f), 1);
	cr_expect_eq(frame_u32(f.payload), 126);
	queue_free(&q);
}

Test(field, list_is_read_as_it_was_put)
{
	struct queue q = {0};
	struct frame f;
	struct field field;
	size_t place = frame_begin(&q, PROTO_EXEC);
	cr_assert_eq(field_put(&q, PROTO_FIELD_ARG, "sh", 2), 0);
	cr_assert_eq(field_put(&q, PROTO_FIELD_ARG, "", 0), 0);
	cr_assert_eq(frame_end(&q, place), 0);
	cr_assert_eq(frame_take(&q, FRAME_FROM_HOST, &f), 1);
	const uint8_t *at = f.payload;
	size_t left = f.len;
	cr_assert_eq(field_next(&at, &left, &field), 1);
	cr_expect_eq(field.tag, PROTO_FIELD_ARG);
	cr_expect_eq(field.len, 2);
	cr_assert_eq(field_next(&at, &left, &field), 1);
	cr_expect_eq(field.len, 0);
	cr_expect_eq(field_next(&at, &left, &field), 0);
	queue_free(&q);
}

/* What field_next() says of `len` bytes. */
static int field_verdict(const void *bytes, size_t len)
{
	const uint8_t *at = bytes;
	struct field f;
	return field_next(&at, &len, &f);
}

Test(field, rules)
{
	cr_expect_eq(field_verdict("\x20\0\0\0\x01\0\0\0x", 9), 1);
	cr_expect_eq(field_verdict("\x20\0\0\0\x01\0\0", 7), -EPROTO, "half a header");
	cr_expect_eq(field_verdict("\x20\0\0\0\x02\0\0\0x", 9), -EPROTO, "longer than the payload");
	cr_expect_eq(field_verdict("\x20\0\0\0\xff\xff\xff\xffx", 9), -EPROTO, "4 GiB");
	cr_expect_eq(field_verdict("\x20\0\1\0\x01\0\0\0x", 9), -EPROTO, "padding");
	cr_expect_eq(field_verdict("\x20\0\0\0\x01\0\0\0\0", 9), -EPROTO, "NUL in a string");
	cr_expect_eq(field_verdict("\x63\0\0\0\x01\0\0\0x", 9), -EPROTO, "unknown tag");
	cr_expect_eq(field_verdict("\x02\0\0\0\x04\0\0\0xxxx", 12), -EPROTO, "a short clock");
	cr_expect_eq(field_verdict("\x03\0\0\0\x04\0\0\0\0\0\0\0", 12), 1, "an integer may be zero");
}

Test(window, is_never_overdrawn)
{
	struct window sender, receiver;
	struct queue q = {0};
	struct frame f;
	window_open(&sender);
	window_open(&receiver);
	cr_expect_eq(window_given(&sender, 1), -EPROTO, "nothing was sent");
	cr_expect_eq(window_received(&receiver, PROTO_WINDOW_BYTES), 0);
	cr_expect_eq(window_received(&receiver, 1), -EPROTO);
	receiver.consumed = PROTO_WINDOW_BYTES / 4 - 1;
	cr_assert_eq(window_give_back(&receiver, PROTO_STREAM_STDIN, &q), 0);
	cr_expect_eq(queue_len(&q), 0, "not worth a frame");
	receiver.consumed++;
	cr_assert_eq(window_give_back(&receiver, PROTO_STREAM_STDIN, &q), 0);
	cr_assert_eq(frame_take(&q, FRAME_FROM_GUEST, &f), 1);
	cr_expect_eq(frame_u32(f.payload + 4), PROTO_WINDOW_BYTES / 4);
	cr_expect_eq(window_received(&receiver, PROTO_WINDOW_BYTES / 4), 0);
	sender.open = 0;
	cr_expect_eq(window_given(&sender, PROTO_WINDOW_BYTES), 0);
	cr_expect_eq(window_given(&sender, UINT32_MAX), -EPROTO);
	cr_expect_eq(window_given(&sender, 0), -EPROTO);
	queue_free(&q);
}

Test(queue, keeps_order_and_gives_memory_back)
{
	struct queue q = {0};
	uint32_t next = 0;
	for (uint32_t i = 0; i < 100000; i++) {
		cr_assert_eq(queue_add(&q, &i, sizeof i), 0);
		if (i % 3 != 0)
			continue;
		uint32_t v;
		memcpy(&v, q.data + q.start, sizeof v);
		cr_assert_eq(v, next++);
		queue_consume(&q, sizeof v);
	}
	cr_expect_gt(q.cap, 256 << 10);
	queue_consume(&q, queue_len(&q));
	cr_expect_eq(q.cap, 0);
	cr_expect_null(queue_reserve(&q, SIZE_MAX));
	queue_free(&q);
}

Test(queue, is_sent_without_waiting)
{
	static uint8_t data[1 << 20];
	int s[2];
	struct queue q = {0};
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	cr_assert_eq(queue_add(&q, data, sizeof data), 0);
	cr_expect_eq(queue_send(&q, s[0]), 0);
	cr_expect_gt(queue_len(&q), 0);
	close(s[1]);
	cr_expect_eq(queue_send(&q, s[0]), -EPIPE);
	close(s[0]);
	queue_free(&q);
}
