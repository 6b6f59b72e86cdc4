/* virtio/blk.c: a disk in a file and one in memory, as a driver uses them and as a hostile guest does. */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/virtio_driver.h"
#include "virtio/blk.h"
#include "vmm/util/err.h"

enum {
	SECTOR = 512,
	SECTORS = 64,
	DISK_OFFSET = 4096, /* of the disk in its file: neighbours on both sides must stay as they are */
	FILE_BYTES = DISK_OFFSET + SECTORS * SECTOR + 4096,
	NO_STATUS = 0xee, /* what the status byte is before the device writes it */
};

static struct driver g;
static int file_fd;
static uint32_t used_len;

static uint8_t pattern(size_t at)
{
	return (uint8_t)(at * 7 + at / 251);
}

static void attach(const struct blk_backing *backing)
{
	struct virtio_device *d;
	struct err e;
	driver_create(&g);
	cr_assert_eq(blk_create(&g.mem, backing, &d, &e), 0);
	driver_attach(&g, d);
	driver_start(&g, 0, 16);
}

static int make_file(void)
{
	uint8_t bytes[FILE_BYTES];
	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = pattern(i);
	int fd = memfd_create("disk", MFD_CLOEXEC);
	cr_assert(fd >= 0 && write(fd, bytes, sizeof bytes) == sizeof bytes);
	return fd;
}

static void attach_file(bool readonly)
{
	file_fd = make_file();
	attach(&(struct blk_backing){.fd = file_fd,
				     .offset_bytes = DISK_OFFSET,
				     .len_bytes = SECTORS * SECTOR + 100,
				     .readonly = readonly,
				     .serial = "caplock-root"});
}

static void writable(void)
{
	attach_file(false);
}

static void readonly(void)
{
	attach_file(true);
}

static void end(void)
{
	driver_destroy(&g);
}

TestSuite(blk, .init = writable, .fini = end);
TestSuite(blk_readonly, .init = readonly, .fini = end);

static uint8_t file_byte(size_t at)
{
	uint8_t b;
	cr_assert_eq(pread(file_fd, &b, 1, (off_t)at), 1);
	return b;
}

/* What is in the file around [from, from + len) must be the pattern still. */
static void expect_rest_unchanged(size_t from, size_t len)
{
	for (size_t i = 0; i < FILE_BYTES; i++)
		if (i < from || i >= from + len)
			cr_assert_eq(file_byte(i), pattern(i), "byte %zu", i);
}

static uint64_t bad_requests(void)
{
	return atomic_load(&g.device->count.bad_requests);
}

static uint64_t header_at(uint32_t type, uint64_t sector)
{
	uint64_t gpa = driver_alloc(&g, 16);
	const struct virtio_blk_outhdr h = {.type = type, .sector = sector};
	memcpy(driver_at(&g, gpa, 16), &h, 16);
	return gpa;
}

/* Sends a request: header, `count` buffers, a status byte. Returns the status. */
static uint8_t request(uint32_t type, uint64_t sector, const struct driver_buffer *data, unsigned count)
{
	struct driver_buffer buffers[16] = {{header_at(type, sector), 16, false}};
	uint64_t status = driver_alloc(&g, 1);
	memset(driver_at(&g, status, 1), NO_STATUS, 1);
	for (unsigned i = 0; i < count; i++)
		buffers[1 + i] = data[i];
	buffers[1 + count] = (struct driver_buffer){status, 1, true};
	uint32_t want = driver_add(&g, 0, buffers, count + 2), head;
	driver_kick(&g, 0);
	cr_assert(driver_take_used(&g, 0, &head, &used_len));
	cr_assert_eq(head, want);
	cr_assert(driver_take_irq(&g));
	return *(uint8_t *)driver_at(&g, status, 1);
}

static uint8_t read_sectors(uint64_t sector, uint64_t gpa, uint32_t len)
{
	return request(VIRTIO_BLK_T_IN, sector, &(struct driver_buffer){gpa, len, true}, 1);
}

static uint8_t write_sectors(uint64_t sector, uint64_t gpa, uint32_t len)
{
	return request(VIRTIO_BLK_T_OUT, sector, &(struct driver_buffer){gpa, len, false}, 1);
}

static uint8_t clear(uint32_t type, const struct virtio_blk_discard_write_zeroes *range, unsigned count)
{
	uint64_t gpa = driver_alloc(&g, count * sizeof *range);
	memcpy(driver_at(&g, gpa, count * sizeof *range), range, count * sizeof *range);
	return request(type, 0, &(struct driver_buffer){gpa, (uint32_t)(count * sizeof *range), false}, 1);
}

static uint64_t offered(void)
{
	return g.device->features;
}

Test(blk, tells_what_it_is)
{
	struct virtio_blk_config c = {0};
	for (uint32_t i = 0; i < sizeof c; i++)
		((uint8_t *)&c)[i] = (uint8_t)mmio_read(g.device, 0x100 + i, 1);
	cr_expect_eq(c.capacity, SECTORS, "the last 100 bytes are no sector");
	cr_expect_eq(c.seg_max, VQ_IOV_MAX - 2);
	cr_expect_eq(c.opt_io_size, 512);
	cr_expect_eq(c.blk_size, SECTOR);
	cr_expect_gt(c.max_discard_sectors, 0);
	cr_expect_gt(c.max_write_zeroes_seg, 0);
	cr_expect_eq(mmio_read(g.device, 0x100 + sizeof c, 4), 0);
	cr_expect(offered() & 1ull << VIRTIO_BLK_F_FLUSH);
	cr_expect(offered() & 1ull << VIRTIO_BLK_F_DISCARD);
	cr_expect_not(offered() & 1ull << VIRTIO_BLK_F_RO);
}

Test(blk, reads_into_several_buffers)
{
	uint64_t a = driver_alloc(&g, 2000);
	struct driver_buffer data[3] = {{a, 100, true}, {a + 500, 1, true}, {a + 600, 923, true}};
	cr_assert_eq(request(VIRTIO_BLK_T_IN, 3, data, 3), VIRTIO_BLK_S_OK);
	cr_expect_eq(used_len, 1025);
	size_t at = DISK_OFFSET + 3 * SECTOR;
	for (unsigned i = 0; i < 3; i++)
		for (unsigned k = 0; k < data[i].len_bytes; k++)
			cr_assert_eq(*(uint8_t *)driver_at(&g, data[i].gpa + k, 1), pattern(at++));
	cr_expect_eq(*(uint8_t *)driver_at(&g, a + 100, 1), 0, "nothing between the buffers");
}

Test(blk, writes_from_several_buffers)
{
	uint64_t a = driver_alloc(&g, 1024);
	memset(driver_at(&g, a, 1024), 0xa5, 1024);
	struct driver_buffer data[2] = {{a, 30, false}, {a + 30, 994, false}};
	cr_assert_eq(request(VIRTIO_BLK_T_OUT, 5, data, 2), VIRTIO_BLK_S_OK);
	cr_expect_eq(used_len, 1);
	size_t from = DISK_OFFSET + 5 * SECTOR;
	for (size_t i = 0; i < 1024; i++)
		cr_assert_eq(file_byte(from + i), 0xa5);
	expect_rest_unchanged(from, 1024);
}

Test(blk, header_and_status_may_be_anywhere_in_their_parts)
{
	/* A driver need not put them into buffers of their own (section 2.7.4.2). */
	uint64_t a = driver_alloc(&g, 16 + SECTOR), b = driver_alloc(&g, SECTOR + 1);
	const struct virtio_blk_outhdr out = {.type = VIRTIO_BLK_T_OUT, .sector = 1},
				       in = {.type = VIRTIO_BLK_T_IN, .sector = 1};
	uint32_t head;
	memcpy(driver_at(&g, a, 16), &out, 16);
	memset(driver_at(&g, a + 16, SECTOR), 0x5a, SECTOR);
	driver_add(&g, 0, (struct driver_buffer[]){{a, 7, false}, {a + 7, 9 + SECTOR, false}, {b, 1, true}}, 3);
	driver_kick(&g, 0);
	cr_assert(driver_take_used(&g, 0, &head, &used_len));
	memcpy(driver_at(&g, a, 16), &in, 16);
	driver_add(&g, 0, (struct driver_buffer[]){{a, 16, false}, {b, SECTOR + 1, true}}, 2);
	driver_kick(&g, 0);
	cr_assert(driver_take_used(&g, 0, &head, &used_len));
	cr_expect_eq(used_len, SECTOR + 1);
	cr_expect_eq(*(uint8_t *)driver_at(&g, b + SECTOR - 1, 1), 0x5a);
	cr_expect_eq(*(uint8_t *)driver_at(&g, b + SECTOR, 1), VIRTIO_BLK_S_OK);
}

Test(blk, several_requests_per_notification)
{
	uint64_t status = driver_alloc(&g, 4), data = driver_alloc(&g, SECTOR);
	memset(driver_at(&g, status, 4), NO_STATUS, 4);
	for (unsigned i = 0; i < 4; i++)
		driver_add(&g, 0,
			   (struct driver_buffer[]){
			       {header_at(VIRTIO_BLK_T_IN, i), 16, false}, {data, SECTOR, true}, {status + i, 1, true}},
			   3);
	driver_kick(&g, 0);
	uint32_t head;
	for (unsigned i = 0; i < 4; i++) {
		cr_expect(driver_take_used(&g, 0, &head, &used_len));
		cr_expect_eq(*(uint8_t *)driver_at(&g, status + i, 1), VIRTIO_BLK_S_OK);
	}
}

Test(blk, flushes_and_tells_its_serial_number)
{
	uint64_t id = driver_alloc(&g, 20);
	cr_expect_eq(request(VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
	cr_expect_eq(request(VIRTIO_BLK_T_GET_ID, 0, &(struct driver_buffer){id, 20, true}, 1), VIRTIO_BLK_S_OK);
	cr_expect_eq(used_len, 21);
	cr_expect_str_eq((char *)driver_at(&g, id, 20), "caplock-root");
	cr_expect_eq(request(VIRTIO_BLK_T_GET_ID, 0, &(struct driver_buffer){id, 19, true}, 1), VIRTIO_BLK_S_IOERR);
}

Test(blk, discards_and_writes_zeroes)
{
	static const uint32_t types[] = {VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_T_WRITE_ZEROES};
	for (unsigned t = 0; t < 3; t++) {
		struct virtio_blk_discard_write_zeroes range[2] = {{.sector = 8 + 16 * t, .num_sectors = 4},
								   {.sector = 12 + 16 * t, .num_sectors = 2}};
		range[0].flags = t == 2 ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
		cr_expect_eq(clear(types[t], range, 2), VIRTIO_BLK_S_OK);
		size_t from = DISK_OFFSET + (8 + 16 * t) * SECTOR;
		cr_expect_eq(file_byte(from - 1), pattern(from - 1));
		for (size_t i = 0; i < 6 * SECTOR; i++)
			cr_assert_eq(file_byte(from + i), 0);
		cr_expect_eq(file_byte(from + 6 * SECTOR), pattern(from + 6 * SECTOR));
	}
	struct stat st;
	cr_assert_eq(fstat(file_fd, &st), 0);
	cr_expect_eq(st.st_size, FILE_BYTES);
}

Test(blk, refuses_what_it_cannot_clear)
{
	struct virtio_blk_discard_write_zeroes good = {.sector = 0, .num_sectors = 1}, range[2] = {good, good},
					       many[17];
	range[1].flags = 1;
	cr_expect_eq(clear(VIRTIO_BLK_T_DISCARD, range, 2), VIRTIO_BLK_S_UNSUPP, "a discard has no flags");
	range[1].flags = 2;
	cr_expect_eq(clear(VIRTIO_BLK_T_WRITE_ZEROES, range, 2), VIRTIO_BLK_S_UNSUPP);
	range[1] = (struct virtio_blk_discard_write_zeroes){.sector = SECTORS, .num_sectors = 1};
	cr_expect_eq(clear(VIRTIO_BLK_T_WRITE_ZEROES, range, 2), VIRTIO_BLK_S_IOERR);
	range[1] = (struct virtio_blk_discard_write_zeroes){.sector = UINT64_MAX, .num_sectors = 2};
	cr_expect_eq(clear(VIRTIO_BLK_T_WRITE_ZEROES, range, 2), VIRTIO_BLK_S_IOERR);
	range[1] = (struct virtio_blk_discard_write_zeroes){.sector = 1, .num_sectors = UINT32_MAX};
	cr_expect_eq(clear(VIRTIO_BLK_T_WRITE_ZEROES, range, 2), VIRTIO_BLK_S_IOERR);
	for (unsigned i = 0; i < 17; i++)
		many[i] = good;
	cr_expect_eq(clear(VIRTIO_BLK_T_DISCARD, many, 17), VIRTIO_BLK_S_IOERR);
	uint64_t a = driver_alloc(&g, 16);
	cr_expect_eq(request(VIRTIO_BLK_T_DISCARD, 0, &(struct driver_buffer){a, 15, false}, 1), VIRTIO_BLK_S_IOERR);
	cr_expect_eq(request(VIRTIO_BLK_T_DISCARD, 0, NULL, 0), VIRTIO_BLK_S_IOERR);
	cr_expect_eq(bad_requests(), 8);
	expect_rest_unchanged(0, 0); /* the good range before the bad one included */
}

Test(blk, unknown_requests_are_unsupported)
{
	cr_expect_eq(request(VIRTIO_BLK_T_SECURE_ERASE, 0, NULL, 0), VIRTIO_BLK_S_UNSUPP);
	cr_expect_eq(request(UINT32_MAX, 0, NULL, 0), VIRTIO_BLK_S_UNSUPP);
}

Test(blk, file_that_became_shorter_is_an_error)
{
	uint64_t a = driver_alloc(&g, 2 * SECTOR);
	cr_assert_eq(ftruncate(file_fd, DISK_OFFSET + SECTOR + 10), 0);
	cr_expect_eq(read_sectors(0, a, SECTOR), VIRTIO_BLK_S_OK);
	cr_expect_eq(read_sectors(0, a, 2 * SECTOR), VIRTIO_BLK_S_IOERR);
}

Test(blk, case_15_sectors_beyond_the_end)
{
	uint64_t a = driver_alloc(&g, 2 * SECTOR);
	static const uint64_t beyond[] = {SECTORS,         SECTORS - 1, UINT64_MAX, UINT64_MAX - 1,
					  UINT64_MAX >> 9, 1ull << 55,  1ull << 63};
	cr_expect_eq(write_sectors(SECTORS - 1, a, SECTOR), VIRTIO_BLK_S_OK, "the last one is not");
	for (unsigned i = 0; i < sizeof beyond / sizeof *beyond; i++) {
		cr_expect_eq(write_sectors(beyond[i], a, 2 * SECTOR), VIRTIO_BLK_S_IOERR);
		cr_expect_eq(read_sectors(beyond[i], a, 2 * SECTOR), VIRTIO_BLK_S_IOERR);
	}
	expect_rest_unchanged(DISK_OFFSET + (SECTORS - 1) * SECTOR, SECTOR);
}

Test(blk, case_15_parts_of_sectors)
{
	uint64_t a = driver_alloc(&g, SECTOR);
	cr_expect_eq(write_sectors(0, a, 511), VIRTIO_BLK_S_IOERR);
	cr_expect_eq(read_sectors(0, a, 1), VIRTIO_BLK_S_IOERR);
	expect_rest_unchanged(0, 0);
}

Test(blk_readonly, case_15_nothing_is_written)
{
	struct virtio_blk_discard_write_zeroes range = {.sector = 0, .num_sectors = 1};
	uint64_t a = driver_alloc(&g, SECTOR);
	cr_expect(offered() & 1ull << VIRTIO_BLK_F_RO);
	cr_expect_not(offered() & (1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES));
	cr_expect_eq(write_sectors(0, a, SECTOR), VIRTIO_BLK_S_IOERR);
	cr_expect_neq(clear(VIRTIO_BLK_T_DISCARD, &range, 1), VIRTIO_BLK_S_OK);
	cr_expect_neq(clear(VIRTIO_BLK_T_WRITE_ZEROES, &range, 1), VIRTIO_BLK_S_OK);
	cr_expect_eq(request(VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
	cr_expect_eq(read_sectors(0, a, SECTOR), VIRTIO_BLK_S_OK);
	expect_rest_unchanged(0, 0);
}

Test(blk, case_15_content_is_never_interpreted)
{
	/* The header of a qcow2 image whose backing file is a secret of the host: it is bytes like others. */
	static const char header[SECTOR] = "QFI\xfb\0\0\0\3\0\0\0\0\0\0\0\x60\0\0\0\x0b/etc/shadow";
	uint64_t a = driver_alloc(&g, SECTOR), b = driver_alloc(&g, SECTOR);
	memcpy(driver_at(&g, a, SECTOR), header, SECTOR);
	cr_expect_eq(write_sectors(0, a, SECTOR), VIRTIO_BLK_S_OK);
	driver_start(&g, 0, 16);
	cr_expect_eq(read_sectors(0, b, SECTOR), VIRTIO_BLK_S_OK);
	cr_expect_eq(memcmp(driver_at(&g, b, SECTOR), header, SECTOR), 0);
	cr_expect_eq(read_sectors(1, b, SECTOR), VIRTIO_BLK_S_OK);
	cr_expect_eq(*(uint8_t *)driver_at(&g, b, 1), pattern(DISK_OFFSET + SECTOR));
}

/* ---- Broken requests ---- */

static void expect_needs_reset(void)
{
	uint32_t head;
	driver_kick(&g, 0);
	cr_expect_not(driver_take_used(&g, 0, &head, &used_len));
	cr_expect(g.device->status & VIRTIO_STATUS_NEEDS_RESET);
	cr_expect_eq(atomic_load(&g.device->count.ring_errors), 1);
	driver_start(&g, 0, 16);
	cr_expect_eq(read_sectors(0, driver_alloc(&g, SECTOR), SECTOR), VIRTIO_BLK_S_OK,
		     "as good as new after a reset");
}

Test(blk, request_without_a_status_byte)
{
	driver_add(&g, 0, &(struct driver_buffer){header_at(VIRTIO_BLK_T_FLUSH, 0), 16, false}, 1);
	expect_needs_reset();
}

Test(blk, request_with_a_short_header)
{
	uint64_t status = driver_alloc(&g, 1);
	uint32_t head;
	driver_add(&g, 0, (struct driver_buffer[]){{header_at(VIRTIO_BLK_T_FLUSH, 0), 15, false}, {status, 1, true}},
		   2);
	driver_kick(&g, 0);
	cr_assert(driver_take_used(&g, 0, &head, &used_len));
	cr_expect_eq(*(uint8_t *)driver_at(&g, status, 1), VIRTIO_BLK_S_IOERR);
	driver_add(&g, 0, &(struct driver_buffer){status, 1, true}, 1);
	driver_kick(&g, 0);
	cr_expect(driver_take_used(&g, 0, &head, &used_len), "no header at all");
	cr_expect_eq(*(uint8_t *)driver_at(&g, status, 1), VIRTIO_BLK_S_IOERR);
}

Test(blk, case_01_to_04_broken_rings_need_a_reset)
{
	driver_publish(&g, 0, 16);
	expect_needs_reset();
}

Test(blk, case_03_gpa_outside_ram_touches_nothing)
{
	struct driver_buffer buffers[3] = {{header_at(VIRTIO_BLK_T_OUT, 0), 16, false},
					   {DRIVER_MEMORY_BYTES - 256, SECTOR, false},
					   {driver_alloc(&g, 1), 1, true}};
	driver_add(&g, 0, buffers, 3);
	expect_needs_reset();
	expect_rest_unchanged(0, 0);
}

Test(blk, case_05_one_request_cannot_ask_for_more_than_the_disk)
{
	uint64_t all = driver_alloc(&g, 1 << 20);
	struct driver_buffer data[12];
	for (unsigned i = 0; i < 12; i++)
		data[i] = (struct driver_buffer){all, 1 << 20, true};
	cr_expect_eq(request(VIRTIO_BLK_T_IN, 0, data, 12), VIRTIO_BLK_S_IOERR);
	cr_expect_eq(used_len, 0);
}

/* ---- A guest that writes while we read, and one that resets ---- */

static struct {
	uint64_t header_gpa;
	bool stop;
} race;

static void *rewrite_header(void *unused)
{
	(void)unused;
	volatile struct virtio_blk_outhdr *h = driver_at(&g, race.header_gpa, 16);
	for (uint32_t i = 0; !__atomic_load_n(&race.stop, __ATOMIC_RELAXED); i++) {
		h->type = i & 1 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
		h->sector = i & 2 ? 0 : UINT64_MAX / SECTOR;
	}
	return NULL;
}

Test(blk_readonly, case_07_header_changes_while_it_is_read)
{
	pthread_t thread;
	uint64_t data = driver_alloc(&g, SECTOR), status = driver_alloc(&g, 1);
	race.header_gpa = header_at(VIRTIO_BLK_T_IN, 0);
	race.stop = false;
	cr_assert_eq(pthread_create(&thread, NULL, rewrite_header, NULL), 0);
	for (unsigned i = 0; i < 20000; i++) {
		uint32_t head;
		driver_add(
		    &g, 0,
		    (struct driver_buffer[]){{race.header_gpa, 16, false}, {data, SECTOR, true}, {status, 1, true}}, 3);
		driver_kick(&g, 0);
		cr_assert(driver_take_used(&g, 0, &head, &used_len));
		cr_assert(*(uint8_t *)driver_at(&g, status, 1) <= VIRTIO_BLK_S_IOERR);
	}
	__atomic_store_n(&race.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	expect_rest_unchanged(0, 0);
}

static void *kick_for_ever(void *unused)
{
	(void)unused;
	while (!__atomic_load_n(&race.stop, __ATOMIC_RELAXED))
		driver_kick(&g, 0);
	return NULL;
}

Test(blk, case_11_reset_while_requests_are_done)
{
	pthread_t thread;
	uint64_t data = driver_alloc(&g, SECTOR), status = driver_alloc(&g, 1), header = header_at(VIRTIO_BLK_T_IN, 0);
	race.stop = false;
	cr_assert_eq(pthread_create(&thread, NULL, kick_for_ever, NULL), 0);
	for (unsigned i = 0; i < 500; i++) {
		driver_add(&g, 0,
			   (struct driver_buffer[]){{header, 16, false}, {data, SECTOR, true}, {status, 1, true}}, 3);
		driver_write(&g, 0x70, 0);
		/* Reset means that nothing of the device touches memory any more. */
		memset(driver_at(&g, data, SECTOR), 0x77, SECTOR);
		for (unsigned k = 0; k < SECTOR; k++)
			cr_assert_eq(*(uint8_t *)driver_at(&g, data + k, 1), 0x77);
		driver_start(&g, 0, 16);
	}
	__atomic_store_n(&race.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
}

Test(blk, case_14_in_flight_is_zero_when_idle)
{
	uint64_t a = driver_alloc(&g, SECTOR);
	for (unsigned i = 0; i < 100; i++)
		read_sectors(0, a, SECTOR);
	cr_expect_eq(g.device->vq[0].in_flight, 0);
}

/* ---- Creation ---- */

Test(blk_create, refuses_backings_that_make_no_sense_and_closes_the_file)
{
	struct driver m;
	struct virtio_device *d;
	struct err e;
	driver_create(&m);
	cr_expect_eq(blk_create(&m.mem, &(struct blk_backing){.fd = -1, .len_bytes = 512, .readonly = true}, &d, &e),
		     -EINVAL);
	int fd = make_file();
	struct blk_backing wraps = {.fd = fd, .offset_bytes = UINT64_MAX - 100, .len_bytes = 512};
	cr_expect_eq(blk_create(&m.mem, &wraps, &d, &e), -EINVAL);
	cr_expect(e.text[0]);
	cr_expect_eq(close(fd), -1);
	driver_destroy(&m);
}
