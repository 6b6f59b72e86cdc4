/* vmm/machine without KVM: guest memory, serial port, status. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "boot/layout.h"
#include "vmm/machine/mem.h"
#include "vmm/machine/serial.h"
#include "vmm/machine/status.h"
#include "vmm/util/err.h"

static struct err e;

Test(mem, case_03_addresses_outside_memory_are_nowhere)
{
	struct mem m;
	cr_assert_eq(mem_create(&m, 64 << 20, &e), 0);
	const uint64_t end = 64 << 20;
	cr_expect(mem_at(&m, GPA(0), 1));
	cr_expect(mem_at(&m, GPA(0), end));
	cr_expect(mem_at(&m, GPA(end - 1), 1));
	cr_expect_null(mem_at(&m, GPA(end - 1), 2));
	cr_expect_null(mem_at(&m, GPA(end), 1));
	cr_expect_null(mem_at(&m, GPA(0), end + 1));
	cr_expect_null(mem_at(&m, GPA(1), UINT64_MAX));
	cr_expect_null(mem_at(&m, GPA(UINT64_MAX), 1));
	cr_expect_null(mem_at(&m, GPA(UINT64_MAX), UINT64_MAX));
	cr_expect_null(mem_at(&m, GPA(5), 0));
	char c[2];
	cr_expect_eq(mem_read(&m, GPA(end - 1), c, 2), -EFAULT);
	cr_expect_eq(mem_write(&m, GPA(end - 1), c, 2), -EFAULT);
	mem_destroy(&m);
}

Test(mem, nothing_is_in_the_hole)
{
	struct mem m;
	cr_assert_eq(mem_create(&m, 4096ull << 20, &e), 0);
	cr_expect(mem_at(&m, GPA(MEM_HOLE_START_GPA - 1), 1));
	cr_expect_null(mem_at(&m, GPA(MEM_HOLE_START_GPA - 1), 2));
	cr_expect_null(mem_at(&m, GPA(MEM_HOLE_START_GPA), 1));
	cr_expect_null(mem_at(&m, GPA(MEM_HOLE_END_GPA - 1), 1));
	cr_expect(mem_at(&m, GPA(MEM_HOLE_END_GPA), 1024 << 20));
	cr_expect_null(mem_at(&m, GPA(MEM_HOLE_END_GPA), (1024 << 20) + 1));
	mem_destroy(&m);
}

Test(mem, says_when_there_is_not_enough)
{
	struct mem m;
	cr_expect_neq(mem_create(&m, 1ull << 50, &e), 0);
	cr_expect(e.text[0]);
}

Test(serial, sends_characters_and_is_always_ready)
{
	struct serial s = {0};
	cr_expect(serial_write(&s, 0, 'x'));
	cr_expect_eq(serial_read(&s, 5), 0x60);
	cr_expect_not(serial_write(&s, 3, 0x83)); /* DLAB */
	cr_expect_not(serial_write(&s, 0, 1));
	cr_expect_eq(serial_read(&s, 0), 1);
	serial_write(&s, 3, 0x03);
	cr_expect_eq(serial_read(&s, 0), 0);
	serial_write(&s, 1, 0xff);
	cr_expect_eq(serial_read(&s, 1), 0x0f);
	cr_expect_eq(serial_read(&s, 2), 1, "no interrupt is ever pending");
	serial_write(&s, 7, 0x5a);
	cr_expect_eq(serial_read(&s, 7), 0x5a);
}

static bool says_halted(const char *text)
{
	struct serial s = {0};
	bool halted = false;
	for (; *text; text++)
		halted = serial_says_halted(&s, *text);
	return halted;
}

Test(serial, notices_the_last_words)
{
	cr_expect(says_halted("reboot: System halted"));
	cr_expect(says_halted("yystem halted"));
	cr_expect(says_halted("ysystem hSystem halted"));
	cr_expect_not(says_halted("reboot: System halte"));
	cr_expect_not(says_halted("ystem_halted"));
}

Test(status, timeline_keeps_the_first_time)
{
	struct machine_status *s = status_create();
	timeline_stamp(s, TIMELINE_INIT);
	uint64_t first = s->timeline_ns[TIMELINE_INIT];
	cr_expect(first);
	timeline_stamp(s, TIMELINE_INIT);
	cr_expect_eq(s->timeline_ns[TIMELINE_INIT], first);
	status_destroy(s);
	status_destroy(NULL);
}

Test(status, console_keeps_the_last_bytes)
{
	struct machine_status *s = status_create();
	static char text[CONSOLE_BYTES];
	uint64_t at = 0;
	cr_expect_eq(console_read(s, &at, text, sizeof text), 0);
	for (unsigned i = 0; i < CONSOLE_BYTES + 10; i++)
		console_write(s, (char)('a' + i % 26));
	cr_expect_eq(console_read(s, &at, text, 100), 100);
	cr_expect_eq(text[0], 'a' + 10 % 26);
	cr_expect_eq(console_read(s, &at, text, sizeof text), CONSOLE_BYTES - 100);
	cr_expect_eq(text[CONSOLE_BYTES - 101], (char)('a' + (CONSOLE_BYTES + 9) % 26));
	cr_expect_eq(console_read(s, &at, text, sizeof text), 0);
	status_destroy(s);
}

/* A vmm process that was taken over can write anything. */
Test(status, a_wild_console_position_is_harmless)
{
	struct machine_status *s = status_create();
	static char text[CONSOLE_BYTES];
	const uint64_t wild[] = {UINT64_MAX, 1ull << 63, CONSOLE_BYTES + 1, 5, 0};
	for (unsigned i = 0; i < sizeof wild / sizeof wild[0]; i++) {
		uint64_t at = 7;
		atomic_store(&s->console_head, wild[i]);
		cr_expect_leq(console_read(s, &at, text, sizeof text), sizeof text);
	}
	status_destroy(s);
}
