/* virtio/virtqueue.c: the ring walker, fed by a driver that keeps the rules and by one that does not. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "tests/unit/virtio_driver.h"

static struct driver g;
static struct dummy_device dummy;
static struct vq_chain chain;
static struct virtqueue *vq;

static void begin(uint64_t features, uint16_t size)
{
	driver_create(&g);
	dummy_init(&dummy, &g.mem);
	driver_attach(&g, &dummy.device);
	driver_start(&g, features, size);
	vq = &dummy.device.vq[0];
}

static void plain(void)
{
	begin(0, 8);
}

static void with_indirect(void)
{
	begin(1ull << VIRTIO_RING_F_INDIRECT_DESC, 8);
}

static void with_event_idx(void)
{
	begin(1ull << VIRTIO_RING_F_EVENT_IDX, 8);
}

static void end(void)
{
	driver_destroy(&g);
}

static void broken(void)
{
	cr_expect_eq(vq_pop(vq, &chain), -EPROTO);
	cr_expect(vq->broken);
	cr_expect_eq(vq_pop(vq, &chain), -EPROTO, "a broken ring stays broken");
}

TestSuite(virtqueue, .init = plain, .fini = end);
TestSuite(virtqueue_indirect, .init = with_indirect, .fini = end);
TestSuite(virtqueue_event_idx, .init = with_event_idx, .fini = end);

Test(virtqueue, chain_goes_there_and_back)
{
	uint64_t a = driver_alloc(&g, 16), b = driver_alloc(&g, 8), c = driver_alloc(&g, 32);
	memcpy(driver_at(&g, a, 16), "0123456789abcdef", 16);
	memcpy(driver_at(&g, b, 8), "ghijklmn", 8);
	uint16_t head = driver_add(&g, 0, (struct driver_buffer[]){{a, 16, false}, {b, 8, false}, {c, 32, true}}, 3);
	cr_assert_eq(vq_pop(vq, &chain), 1);
	cr_expect_eq(chain.head, head);
	cr_expect_eq(chain.out_count, 2);
	cr_expect_eq(chain.in_count, 1);
	cr_expect_eq(chain.out_bytes, 24);
	cr_expect_eq(chain.in_bytes, 32);
	cr_expect_eq(vq->in_flight, 1);

	char text[32] = {0};
	cr_expect_eq(vq_copy_out(&chain, 14, text, 4), 4);
	cr_expect_str_eq(text, "efgh");
	cr_expect_eq(vq_copy_out(&chain, 20, text, sizeof text), 4, "what there is");
	cr_expect_eq(vq_copy_out(&chain, 24, text, 1), 0);
	cr_expect_eq(vq_copy_in(&chain, 30, "xyz", 3), 2);
	cr_expect_eq(memcmp(driver_at(&g, c + 30, 2), "xy", 2), 0);

	uint32_t used_head, used_len;
	cr_expect_not(driver_take_used(&g, 0, &used_head, &used_len));
	vq_push(vq, chain.head, 32);
	cr_assert(driver_take_used(&g, 0, &used_head, &used_len));
	cr_expect_eq(used_head, head);
	cr_expect_eq(used_len, 32);
	cr_expect_eq(vq->in_flight, 0);
	cr_expect_eq(vq_pop(vq, &chain), 0);
}

Test(virtqueue, indexes_wrap)
{
	uint64_t a = driver_alloc(&g, 16);
	for (uint32_t i = 0; i < 70000; i++) {
		uint32_t head, len;
		driver_add(&g, 0, &(struct driver_buffer){a, 16, true}, 1);
		cr_assert_eq(vq_pop(vq, &chain), 1);
		vq_push(vq, chain.head, i);
		cr_assert(driver_take_used(&g, 0, &head, &len));
		cr_assert_eq(head, chain.head);
		cr_assert_eq(len, i);
	}
}

Test(virtqueue, slices_select_the_bytes_asked_for)
{
	char bytes[30];
	struct iovec from[3] = {{bytes, 10}, {bytes + 10, 10}, {bytes + 20, 10}}, to[VQ_IOV_MAX];
	cr_expect_eq(vq_slice(from, 3, 0, 30, to), 3);
	cr_assert_eq(vq_slice(from, 3, 10, 10, to), 1);
	cr_expect_eq(to[0].iov_base, bytes + 10);
	cr_expect_eq(to[0].iov_len, 10);
	cr_assert_eq(vq_slice(from, 3, 9, 12, to), 3);
	cr_expect_eq(to[0].iov_len, 1);
	cr_expect_eq(to[2].iov_len, 1);
	cr_expect_eq(vq_slice(from, 3, 30, 1, to), 0);
	cr_expect_eq(vq_slice(from, 3, UINT64_MAX, UINT64_MAX, to), 0);
	cr_expect_eq(vq_slice(from, 3, 5, 0, to), 0);
	cr_assert_eq(vq_slice(from, 3, 25, UINT64_MAX, to), 1);
	cr_expect_eq(to[0].iov_len, 5);
}

Test(virtqueue, case_01_head_beyond_the_table)
{
	driver_desc(&g, 0, 0, driver_alloc(&g, 16), 16, 0, 0);
	driver_publish(&g, 0, 8);
	broken();
}

Test(virtqueue, case_01_next_beyond_the_table)
{
	driver_desc(&g, 0, 0, driver_alloc(&g, 16), 16, DESC_NEXT, 8);
	driver_publish(&g, 0, 0);
	broken();
}

Test(virtqueue, case_02_chain_that_loops)
{
	uint64_t a = driver_alloc(&g, 16);
	driver_desc(&g, 0, 0, a, 16, DESC_NEXT, 1);
	driver_desc(&g, 0, 1, a, 16, DESC_NEXT, 0);
	driver_publish(&g, 0, 0);
	broken();
}

Test(virtqueue, case_02_chain_of_all_descriptors_is_no_loop)
{
	uint64_t a = driver_alloc(&g, 16);
	struct driver_buffer buffers[8];
	for (unsigned i = 0; i < 8; i++)
		buffers[i] = (struct driver_buffer){a, 16, false};
	driver_add(&g, 0, buffers, 8);
	cr_expect_eq(vq_pop(vq, &chain), 1);
	cr_expect_eq(chain.out_count, 8);
}

Test(virtqueue, case_03_gpa_outside_ram)
{
	static const uint64_t outside[] = {DRIVER_MEMORY_BYTES, DRIVER_MEMORY_BYTES - 15, 0xc0000000, 0xd0000000,
					   1ull << 32};
	for (unsigned i = 0; i < sizeof outside / sizeof *outside; i++) {
		driver_start(&g, 0, 8);
		driver_add(&g, 0, &(struct driver_buffer){outside[i], 16, true}, 1);
		broken();
	}
	driver_start(&g, 0, 8);
	driver_add(&g, 0, &(struct driver_buffer){DRIVER_MEMORY_BYTES - 16, 16, true}, 1);
	cr_expect_eq(vq_pop(vq, &chain), 1, "up to the last byte");
}

Test(virtqueue, case_04_address_and_length_wrap)
{
	driver_add(&g, 0, &(struct driver_buffer){UINT64_MAX - 7, 16, true}, 1);
	broken();
	driver_start(&g, 0, 8);
	driver_add(&g, 0, &(struct driver_buffer){UINT64_MAX - 0xfffffffe, UINT32_MAX, true}, 1);
	broken();
}

Test(virtqueue, case_05_length_of_zero_and_of_4_gib)
{
	uint64_t a = driver_alloc(&g, 16);
	driver_add(&g, 0, &(struct driver_buffer){a, 0, true}, 1);
	broken();
	driver_start(&g, 0, 8);
	driver_add(&g, 0, &(struct driver_buffer){a, UINT32_MAX, true}, 1);
	broken();
}

Test(virtqueue, case_06_indirect_without_the_feature)
{
	/* What it refers to would do as a table and as a buffer. */
	uint64_t table = driver_alloc(&g, 16), len = 16;
	memcpy(driver_at(&g, table, 8), &table, 8);
	memcpy(driver_at(&g, table + 8, 8), &len, 8);
	driver_desc(&g, 0, 0, table, 16, DESC_INDIRECT, 0);
	driver_publish(&g, 0, 0);
	broken();
}

Test(virtqueue, readable_after_writable)
{
	uint64_t a = driver_alloc(&g, 16);
	driver_add(&g, 0, (struct driver_buffer[]){{a, 16, true}, {a, 16, false}}, 2);
	broken();
}

Test(virtqueue, case_08_avail_index_jumps)
{
	driver_desc(&g, 0, 0, driver_alloc(&g, 16), 16, 0, 0);
	driver_set_avail(&g, 0, 9);
	broken();
}

Test(virtqueue, case_08_avail_index_goes_back)
{
	driver_desc(&g, 0, 0, driver_alloc(&g, 16), 16, 0, 0);
	driver_set_avail(&g, 0, UINT16_MAX);
	broken();
}

static int enable(uint16_t size, uint64_t desc, uint64_t avail, uint64_t used)
{
	struct virtqueue q = {.mem = &g.mem, .size = size, .desc = GPA(desc), .avail = GPA(avail), .used = GPA(used)};
	int rc = vq_enable(&q, true, true);
	cr_expect_eq(q.ready, rc == 0);
	return rc;
}

Test(virtqueue, case_08_rings_overlap_or_are_misaligned)
{
	cr_expect_eq(enable(8, 0x1000, 0x2000, 0x3000), 0);
	cr_expect_eq(enable(8, 0x1008, 0x2000, 0x3000), -EINVAL);
	cr_expect_eq(enable(8, 0x1000, 0x2001, 0x3000), -EINVAL);
	cr_expect_eq(enable(8, 0x1000, 0x2000, 0x3002), -EINVAL);
	cr_expect_eq(enable(8, 0x1000, 0x107e, 0x3000), -EINVAL, "avail in the table's last two bytes");
	cr_expect_eq(enable(8, 0x1000, 0x1080, 0x3000), 0, "right after it");
	cr_expect_eq(enable(8, 0x1000, 0x2000, 0x2014), -EINVAL, "used over the avail ring's event field");
	cr_expect_eq(enable(8, 0x1000, 0x2000, 0x2018), 0);
	cr_expect_eq(enable(8, 0x1000, 0x1000, 0x1000), -EINVAL);
	cr_expect_eq(enable(8, DRIVER_MEMORY_BYTES - 128, 0x2000, 0x3000), 0);
	cr_expect_eq(enable(8, DRIVER_MEMORY_BYTES - 112, 0x2000, 0x3000), -EINVAL);
	cr_expect_eq(enable(8, 0x1000, DRIVER_MEMORY_BYTES - 22, 0x3000), 0);
	cr_expect_eq(enable(8, 0x1000, DRIVER_MEMORY_BYTES - 20, 0x3000), -EINVAL);
	cr_expect_eq(enable(8, 0x1000, 0x2000, DRIVER_MEMORY_BYTES - 68), -EINVAL);
	cr_expect_eq(enable(8, UINT64_MAX - 15, 0x2000, 0x3000), -EINVAL);
}

Test(virtqueue, case_09_size_zero_or_not_a_power_of_2)
{
	static const uint16_t bad[] = {0, 3, 6, 255, 512, 0x8000, 0xffff};
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
		cr_expect_eq(enable(bad[i], 0x10000, 0x20000, 0x30000), -EINVAL, "%u", bad[i]);
	cr_expect_eq(enable(1, 0x10000, 0x20000, 0x30000), 0);
	cr_expect_eq(enable(256, 0x10000, 0x20000, 0x30000), 0);
}

Test(virtqueue, case_14_no_more_in_flight_than_the_queue_holds)
{
	uint64_t a = driver_alloc(&g, 16);
	driver_desc(&g, 0, 0, a, 16, 0, 0);
	for (unsigned i = 0; i < 8; i++)
		driver_publish(&g, 0, 0);
	for (unsigned i = 0; i < 8; i++)
		cr_expect_eq(vq_pop(vq, &chain), 1);
	driver_publish(&g, 0, 0);
	broken();
}

Test(virtqueue, nothing_comes_from_a_queue_that_is_not_enabled)
{
	struct virtqueue q = {.mem = &g.mem, .size = 8};
	cr_expect_eq(vq_pop(&q, &chain), 0);
	cr_expect_not(vq_want_notify(&q));
	cr_expect_not(vq_should_signal(&q));
	vq_no_notify(&q);
}

Test(virtqueue, flags_suppress_both_ways)
{
	uint64_t a = driver_alloc(&g, 16);
	uint16_t *used_flags = driver_at(&g, g.q[0].used_gpa, 2), *avail_flags = driver_at(&g, g.q[0].avail_gpa, 2);
	vq_no_notify(vq);
	cr_expect_eq(*used_flags, 1);
	cr_expect_not(vq_want_notify(vq));
	cr_expect_eq(*used_flags, 0);

	driver_add(&g, 0, &(struct driver_buffer){a, 16, true}, 1);
	cr_expect(vq_want_notify(vq), "one came before the notification was asked for");
	cr_assert_eq(vq_pop(vq, &chain), 1);
	vq_push(vq, chain.head, 0);
	*avail_flags = 1;
	cr_expect_not(vq_should_signal(vq));
	*avail_flags = 0;
	cr_expect_not(vq_should_signal(vq), "nothing new");
	driver_add(&g, 0, &(struct driver_buffer){a, 16, true}, 1);
	cr_assert_eq(vq_pop(vq, &chain), 1);
	vq_push(vq, chain.head, 0);
	cr_expect(vq_should_signal(vq));
}

/* ---- Indirect tables ---- */

static void put_desc(uint64_t table, unsigned index, uint64_t gpa, uint32_t len, uint16_t flags, uint16_t next)
{
	uint64_t saved = g.q[0].desc_gpa;
	g.q[0].desc_gpa = table;
	driver_desc(&g, 0, (uint16_t)index, gpa, len, flags, next);
	g.q[0].desc_gpa = saved;
}

Test(virtqueue_indirect, table_is_walked)
{
	uint64_t table = driver_alloc(&g, 32), a = driver_alloc(&g, 64);
	put_desc(table, 0, a, 16, DESC_NEXT, 1);
	put_desc(table, 1, a + 16, 48, DESC_WRITE, 0);
	driver_desc(&g, 0, 3, table, 32, DESC_INDIRECT, 0);
	driver_publish(&g, 0, 3);
	cr_assert_eq(vq_pop(vq, &chain), 1);
	cr_expect_eq(chain.head, 3);
	cr_expect_eq(chain.out_bytes, 16);
	cr_expect_eq(chain.in_bytes, 48);
}

Test(virtqueue_indirect, table_may_follow_direct_descriptors)
{
	uint64_t table = driver_alloc(&g, 16), a = driver_alloc(&g, 64);
	put_desc(table, 0, a, 16, DESC_WRITE, 0);
	driver_desc(&g, 0, 0, a, 16, DESC_NEXT, 1);
	driver_desc(&g, 0, 1, table, 16, DESC_INDIRECT, 0);
	driver_publish(&g, 0, 0);
	cr_assert_eq(vq_pop(vq, &chain), 1);
	cr_expect_eq(chain.out_count, 1);
	cr_expect_eq(chain.in_count, 1);
}

Test(virtqueue_indirect, case_06_nested)
{
	uint64_t table = driver_alloc(&g, 16);
	put_desc(table, 0, table, 16, DESC_INDIRECT, 0);
	driver_desc(&g, 0, 0, table, 16, DESC_INDIRECT, 0);
	driver_publish(&g, 0, 0);
	broken();
}

Test(virtqueue_indirect, case_06_with_next)
{
	uint64_t table = driver_alloc(&g, 16);
	put_desc(table, 0, driver_alloc(&g, 16), 16, 0, 0);
	driver_desc(&g, 0, 0, table, 16, DESC_INDIRECT | DESC_NEXT, 1);
	driver_desc(&g, 0, 1, table, 16, 0, 0);
	driver_publish(&g, 0, 0);
	broken();
}

Test(virtqueue_indirect, case_06_length_is_no_multiple_or_zero_or_too_large)
{
	static const uint32_t bad[] = {0, 8, 17, 257 * 16, 0xfffffff0};
	uint64_t table = driver_alloc(&g, 300 * 16);
	put_desc(table, 0, table, 16, 0, 0);
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
		driver_start(&g, 1ull << VIRTIO_RING_F_INDIRECT_DESC, 8);
		driver_desc(&g, 0, 0, table, bad[i], DESC_INDIRECT, 0);
		driver_publish(&g, 0, 0);
		broken();
	}
}

Test(virtqueue_indirect, case_02_loop_in_the_table)
{
	uint64_t table = driver_alloc(&g, 32);
	put_desc(table, 0, table, 16, DESC_NEXT, 1);
	put_desc(table, 1, table, 16, DESC_NEXT, 0);
	driver_desc(&g, 0, 0, table, 32, DESC_INDIRECT, 0);
	driver_publish(&g, 0, 0);
	broken();
}

Test(virtqueue_indirect, case_01_next_beyond_the_table)
{
	uint64_t table = driver_alloc(&g, 64);
	put_desc(table, 0, table, 16, DESC_NEXT, 2);
	put_desc(table, 2, table, 16, 0, 0);
	driver_desc(&g, 0, 0, table, 32, DESC_INDIRECT, 0);
	driver_publish(&g, 0, 0);
	broken();
}

Test(virtqueue_indirect, chain_with_more_buffers_than_we_hold)
{
	uint64_t table = driver_alloc(&g, VQ_IOV_MAX * 16);
	for (unsigned i = 0; i < VQ_IOV_MAX; i++)
		put_desc(table, i, table, 16, i + 1 < VQ_IOV_MAX ? DESC_NEXT : 0, (uint16_t)(i + 1));
	driver_desc(&g, 0, 0, table, VQ_IOV_MAX * 16, DESC_INDIRECT, 0);
	driver_publish(&g, 0, 0);
	cr_assert_eq(vq_pop(vq, &chain), 1);
	cr_expect_eq(chain.out_count, VQ_IOV_MAX);
	driver_desc(&g, 0, 1, table, 16, DESC_NEXT, 0);
	driver_publish(&g, 0, 1);
	broken();
}

/* ---- Event index ---- */

static void set_used_event(uint16_t value)
{
	uint64_t gpa = g.q[0].avail_gpa + 4 + 2 * g.q[0].size;
	memcpy(driver_at(&g, gpa, 2), &value, 2);
}

static uint16_t get_avail_event(void)
{
	uint16_t value;
	memcpy(&value, driver_at(&g, g.q[0].used_gpa + 4 + 8 * g.q[0].size, 2), 2);
	return value;
}

static void one_chain(void)
{
	driver_add(&g, 0, &(struct driver_buffer){DRIVER_BUFFERS_GPA, 16, true}, 1);
	cr_assert_eq(vq_pop(vq, &chain), 1);
	vq_push(vq, chain.head, 0);
}

Test(virtqueue_event_idx, signals_when_the_event_is_passed)
{
	set_used_event(0);
	one_chain();
	cr_expect(vq_should_signal(vq), "used 0 -> 1 passes 0");
	cr_expect_not(vq_should_signal(vq), "asked again, nothing new");
	set_used_event(3);
	one_chain();
	cr_expect_not(vq_should_signal(vq), "1 -> 2");
	one_chain();
	cr_expect_not(vq_should_signal(vq), "2 -> 3");
	one_chain();
	cr_expect(vq_should_signal(vq), "3 -> 4 passes 3");
	one_chain();
	one_chain();
	cr_expect_not(vq_should_signal(vq), "4 -> 6, 3 is behind");
	set_used_event(7);
	one_chain();
	one_chain();
	one_chain();
	cr_expect(vq_should_signal(vq), "6 -> 9 passes 7");
}

Test(virtqueue_event_idx, signals_by_the_standards_arithmetic_also_where_it_wraps)
{
	uint32_t signals = 0;
	for (uint32_t i = 0; i < 0x20000; i++) {
		set_used_event(i & ~3u); /* one in four */
		one_chain();
		signals += vq_should_signal(vq);
	}
	cr_expect_eq(signals, 0x20000 / 4);
}

Test(virtqueue_event_idx, asks_for_the_next_notification_and_looks_again)
{
	cr_expect_not(vq_want_notify(vq));
	cr_expect_eq(get_avail_event(), 0);
	one_chain();
	vq_no_notify(vq);
	cr_expect_eq(get_avail_event(), 0, "the event stays behind: no notification");
	cr_expect_not(vq_want_notify(vq));
	cr_expect_eq(get_avail_event(), 1);
	driver_add(&g, 0, &(struct driver_buffer){DRIVER_BUFFERS_GPA, 16, true}, 1);
	cr_expect(vq_want_notify(vq));
}

/* ---- A guest that writes while we read ---- */

static void *rewrite(void *stop)
{
	uint64_t good = DRIVER_BUFFERS_GPA;
	for (uint32_t i = 0; !__atomic_load_n((bool *)stop, __ATOMIC_RELAXED); i++) {
		volatile uint64_t *d = driver_at(&g, g.q[0].desc_gpa, 16);
		d[0] = i & 1 ? good : UINT64_MAX - 8;
		d[1] = i & 2 ? 16 : 0x0000000200001000; /* length 16 readable, or 4096 writable */
	}
	return NULL;
}

Test(virtqueue, case_07_descriptor_changes_while_it_is_read)
{
	static bool stop;
	pthread_t thread;
	unsigned taken = 0, refused = 0;
	driver_desc(&g, 0, 0, DRIVER_BUFFERS_GPA, 16, 0, 0);
	cr_assert_eq(pthread_create(&thread, NULL, rewrite, &stop), 0);
	const uint8_t *start = g.mem.region[0].host, *past = start + g.mem.region[0].len_bytes;
	for (unsigned i = 0; i < 200000; i++) {
		driver_publish(&g, 0, 0);
		int rc = vq_pop(vq, &chain);
		if (rc == 1) {
			const uint8_t *p = chain.iov[0].iov_base;
			cr_assert(p >= start && p + chain.iov[0].iov_len <= past);
			cr_assert_eq(chain.iov[0].iov_len, chain.out_bytes + chain.in_bytes);
			vq_push(vq, chain.head, 0);
			taken++;
		} else {
			/* Start over as a reset would, quicker. */
			vq->broken = false;
			vq->next_avail = g.q[0].avail_index;
			refused++;
		}
	}
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	cr_expect_eq(taken + refused, 200000);
}
