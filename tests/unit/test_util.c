/* vmm/util: buffers, the event loop, whole reads. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/loop.h"

Test(buf, grows_and_is_consumed)
{
	struct buf b = {0};
	for (int i = 0; i < 1000; i++)
		cr_assert_eq(buf_addf(&b, "%03d,", i), 0);
	cr_expect_eq(b.len, 4000);
	buf_consume(&b, 4 * 999);
	cr_expect_eq(b.len, 4);
	cr_expect_eq(memcmp(b.data, "999,", 4), 0);
	buf_consume(&b, 4);
	cr_expect_eq(b.len, 0);
	cr_expect_neq(buf_reserve(&b, SIZE_MAX - 2), 0);
	buf_free(&b);
	cr_expect_eq(b.len, 0);
}

Test(err, keeps_one_line_whatever_it_is_told)
{
	struct err e;
	char long_text[4096];
	memset(long_text, 'x', sizeof long_text - 1);
	long_text[sizeof long_text - 1] = 0;
	cr_expect_eq(err_set(&e, -EINVAL, "%s", long_text), -EINVAL);
	cr_expect_lt(strlen(e.text), sizeof e.text);
	err_set(&e, 0, "two\nlines\x1b[31m");
	cr_expect_null(strchr(e.text, '\n'));
	cr_expect_null(strchr(e.text, '\x1b'));
	cr_expect_eq(err_sys(&e, -ENOENT, "cannot open"), -ENOENT);
	cr_expect(strstr(e.text, strerror(ENOENT)));
}

Test(io, short_files_are_errors)
{
	char path[] = "/tmp/caplock-io-XXXXXX", bytes[8];
	int fd = mkstemp(path);
	unlink(path);
	cr_assert_eq(write(fd, "1234", 4), 4);
	cr_expect_eq(io_pread_all(fd, bytes, 4, 0), 0);
	cr_expect_neq(io_pread_all(fd, bytes, 5, 0), 0);
	cr_expect_neq(io_pread_all(fd, bytes, 1, 100), 0);
	io_close(&fd);
	cr_expect_eq(fd, -1);
	io_close(&fd);
}

static struct loop loop;
static struct loop_source a, b;
static int calls;

static void drop_other(void *context, uint32_t events)
{
	(void)events;
	calls++;
	loop_remove(&loop, context);
}

/* A callback that removes a source whose event is in the same batch: that one must not be called. */
Test(loop, a_removed_source_is_not_called)
{
	cr_assert_eq(loop_create(&loop), 0);
	a = (struct loop_source){.fd = eventfd(1, 0), .ready = drop_other, .context = &b};
	b = (struct loop_source){.fd = eventfd(1, 0), .ready = drop_other, .context = &a};
	cr_assert_eq(loop_add(&loop, &a, EPOLLIN), 0);
	cr_assert_eq(loop_add(&loop, &b, EPOLLIN), 0);
	cr_expect_geq(loop_step(&loop, 0), 0);
	cr_expect_eq(calls, 1);
	loop_destroy(&loop);
}

static void stop(void *context, uint32_t events)
{
	(void)events;
	calls++;
	loop_stop(context);
}

Test(loop, runs_until_stopped)
{
	cr_assert_eq(loop_create(&loop), 0);
	a = (struct loop_source){.fd = eventfd(1, 0), .ready = stop, .context = &loop};
	cr_assert_eq(loop_add(&loop, &a, EPOLLIN), 0);
	cr_expect_eq(loop_run(&loop), 0);
	cr_expect_geq(calls, 1);
	loop_destroy(&loop);
}
