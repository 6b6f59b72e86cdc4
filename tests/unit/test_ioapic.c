/* vmm/machine/ioapic.c: the registers. That the messages arrive is what every end-to-end test shows. */
#include <criterion/criterion.h>
#include <errno.h>

#include "vmm/machine/ioapic.h"

enum { SELECT = 0, WINDOW = 0x10, MASKED = 1 << 16, PINS = 8 };

static struct ioapic a;

/* Without a machine, a change of routes fails: that shows which writes make one. */
static void setup(void)
{
	ioapic_init(&a, -1, PINS);
}

TestSuite(ioapic, .init = setup);

static uint32_t get(uint32_t reg)
{
	cr_assert_eq(ioapic_write(&a, SELECT, reg), 0);
	cr_expect_eq(ioapic_read(&a, SELECT), reg);
	return ioapic_read(&a, WINDOW);
}

static int set(uint32_t reg, uint32_t value)
{
	cr_assert_eq(ioapic_write(&a, SELECT, reg), 0);
	return ioapic_write(&a, WINDOW, value);
}

Test(ioapic, every_pin_is_masked_at_first)
{
	cr_expect_eq(get(1), 0x11 | (PINS - 1) << 16);
	for (uint32_t pin = 0; pin < PINS; pin++) {
		cr_expect_eq(get(0x10 + 2 * pin), MASKED);
		cr_expect_eq(get(0x11 + 2 * pin), 0);
	}
}

Test(ioapic, entries_and_the_id_keep_what_is_written_but_for_read_only_bits)
{
	cr_expect_eq(set(0, UINT32_MAX), 0);
	cr_expect_eq(get(0), 0x0f000000);
	cr_expect_eq(get(2), 0x0f000000);
	cr_expect_eq(set(0x10 + 2 * 5, UINT32_MAX), 0);
	cr_expect_eq(get(0x10 + 2 * 5), UINT32_MAX & ~(1u << 12 | 1u << 14));
	cr_expect_eq(set(0x11 + 2 * 5, 0x12345678), 0);
	cr_expect_eq(get(0x11 + 2 * 5), 0x12345678);
	cr_expect_eq(get(0x10 + 2 * 4), MASKED, "the neighbour");
	cr_expect_eq(get(0x10 + 2 * 6), MASKED, "the neighbour");
}

Test(ioapic, routes_change_only_with_a_pin_that_is_not_masked)
{
	cr_expect_eq(set(0x10, MASKED | 0x31), 0);
	cr_expect_eq(set(0x11, 1 << 24), 0);
	cr_expect_eq(set(0x10, 0x31), -EBADF, "unmasked");
	cr_expect_eq(set(0x10, 0x31), 0, "the same again");
	cr_expect_eq(set(0x11, 2 << 24), -EBADF, "to another CPU");
	cr_expect_eq(set(0x10, MASKED | 0x31), -EBADF, "masked");
	cr_expect_eq(set(0x10, MASKED | 0x32), 0);
}

Test(ioapic, what_is_not_a_register_reads_as_ones_and_takes_nothing)
{
	for (uint32_t reg = 0; reg < 0x100; reg++) {
		if (reg <= 2 || (reg >= 0x10 && reg < 0x10 + 2 * PINS))
			continue;
		cr_expect_eq(set(reg, 0), 0);
		cr_expect_eq(get(reg), UINT32_MAX);
	}
	cr_expect_eq(set(1, 0), 0);
	cr_expect_eq(get(1), 0x11 | (PINS - 1) << 16);
	for (uint64_t offset = 4; offset < IOAPIC_BYTES; offset += 4) {
		if (offset == WINDOW)
			continue;
		cr_expect_eq(ioapic_write(&a, offset, 0), 0);
		cr_expect_eq(ioapic_read(&a, offset), UINT32_MAX);
	}
	cr_expect_eq(ioapic_write(&a, SELECT, 0x12345601), 0);
	cr_expect_eq(ioapic_read(&a, SELECT), 1, "eight bits select");
}
