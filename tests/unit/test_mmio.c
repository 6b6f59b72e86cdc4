/* virtio/mmio.c and virtio/device.c: the registers, as a driver and as a hostile guest use them. */
#include <criterion/criterion.h>
#include <linux/virtio_mmio.h>

#include "tests/unit/virtio_driver.h"

enum {
	ACK = VIRTIO_STATUS_ACKNOWLEDGE,
	DRIVER = ACK | VIRTIO_STATUS_DRIVER,
	FEATURES = DRIVER | VIRTIO_STATUS_FEATURES_OK,
	RUNNING = FEATURES | VIRTIO_STATUS_DRIVER_OK,
};

static const uint64_t version_1 = 1ull << VIRTIO_F_VERSION_1;
static struct driver g;
static struct dummy_device dummy;

static void begin(void)
{
	driver_create(&g);
	dummy_init(&dummy, &g.mem);
	driver_attach(&g, &dummy.device);
}

static void end(void)
{
	driver_destroy(&g);
}

static uint64_t bad_registers(void)
{
	return atomic_load(&dummy.device.count.bad_registers);
}

static uint32_t status(void)
{
	return driver_read(&g, VIRTIO_MMIO_STATUS);
}

static uint32_t set_status(uint32_t value)
{
	driver_write(&g, VIRTIO_MMIO_STATUS, value);
	return status();
}

TestSuite(mmio, .init = begin, .fini = end);

Test(mmio, identifies_itself)
{
	cr_expect_eq(driver_read(&g, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
	cr_expect_eq(driver_read(&g, VIRTIO_MMIO_VERSION), 2);
	cr_expect_eq(driver_read(&g, VIRTIO_MMIO_DEVICE_ID), 42);
	cr_expect_eq(driver_read(&g, VIRTIO_MMIO_SHM_LEN_LOW), UINT32_MAX);
	cr_expect_eq(driver_offered(&g),
		     version_1 | 1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_RING_F_INDIRECT_DESC | 1 << 3);
	driver_write(&g, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
	cr_expect_eq(driver_read(&g, VIRTIO_MMIO_DEVICE_FEATURES), 0);
	cr_expect_eq(bad_registers(), 0);
}

Test(mmio, driver_brings_device_up_and_resets_it)
{
	driver_start(&g, 1 << 3, 8);
	cr_expect_eq(dummy.starts, 1);
	cr_expect_eq(status(), RUNNING);
	cr_expect(dummy.device.vq[0].ready && dummy.device.vq[1].ready);
	cr_expect_not(dummy.device.vq[0].event_idx);
	driver_kick(&g, 1);
	cr_expect_eq(dummy.notifies, 1);
	cr_expect_eq(dummy.last_queue, 1);
	cr_expect_eq(bad_registers(), 0);

	unsigned resets = dummy.resets;
	cr_expect_eq(set_status(0), 0);
	cr_expect_eq(dummy.resets, resets + 1);
	cr_expect_not(dummy.device.vq[0].ready);
	cr_expect_eq(dummy.device.vq[0].size, 0);
	cr_expect_eq(dummy.device.driver_features, 0);
	driver_kick(&g, 1);
	cr_expect_eq(dummy.notifies, 1, "not while it is down");
}

Test(mmio, negotiated_features_reach_the_rings)
{
	driver_start(&g, 1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_RING_F_INDIRECT_DESC, 8);
	cr_expect(dummy.device.vq[0].event_idx);
	cr_expect(dummy.device.vq[1].indirect);
}

Test(mmio, case_10_features_not_offered_are_refused)
{
	cr_expect_not(driver_negotiate(&g, version_1 | 1 << 4));
	cr_expect_not(driver_negotiate(&g, version_1 | 1ull << 63));
	cr_expect_not(driver_negotiate(&g, 1 << 3), "a legacy driver");
	cr_expect(driver_negotiate(&g, version_1));
}

Test(mmio, case_10_status_bits_are_not_skipped)
{
	cr_expect_eq(set_status(DRIVER & ~(uint32_t)ACK), 0);
	cr_expect_eq(set_status(ACK), ACK);
	cr_expect_eq(set_status(ACK | VIRTIO_STATUS_FEATURES_OK), ACK);
	cr_expect_eq(set_status(DRIVER), DRIVER);
	cr_expect_eq(set_status(DRIVER | VIRTIO_STATUS_DRIVER_OK), DRIVER, "no features yet");
	driver_write(&g, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	driver_write(&g, VIRTIO_MMIO_DRIVER_FEATURES, 1);
	cr_expect_eq(set_status(RUNNING), DRIVER, "not both at once");
	cr_expect_eq(set_status(FEATURES), FEATURES);
	cr_expect_eq(dummy.starts, 0);
	cr_expect_eq(bad_registers(), 4);
}

Test(mmio, case_10_status_bits_are_not_taken_back)
{
	driver_start(&g, 0, 8);
	cr_expect_eq(set_status(FEATURES), RUNNING);
	cr_expect_eq(set_status(ACK), RUNNING);
	cr_expect_eq(bad_registers(), 2);
	cr_expect_eq(set_status(RUNNING), RUNNING);
	cr_expect_eq(dummy.starts, 1, "not started again");
	cr_expect_eq(set_status(RUNNING | 0x100), RUNNING, "unknown bit");
	cr_expect_eq(set_status(RUNNING | VIRTIO_STATUS_FAILED), RUNNING | VIRTIO_STATUS_FAILED);
}

Test(mmio, case_10_features_are_final_after_features_ok)
{
	driver_write(&g, VIRTIO_MMIO_DRIVER_FEATURES, 1 << 3);
	cr_expect_eq(dummy.device.driver_features, 0, "and none before DRIVER");
	cr_expect(driver_negotiate(&g, version_1));
	driver_write(&g, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	driver_write(&g, VIRTIO_MMIO_DRIVER_FEATURES, 1 << 3);
	cr_expect_eq(dummy.device.driver_features, version_1);
}

Test(mmio, case_10_needs_reset_is_not_the_drivers_to_set_or_clear)
{
	cr_expect_eq(set_status(ACK | VIRTIO_STATUS_NEEDS_RESET), ACK);
	set_status(0);
	driver_start(&g, 0, 8);
	virtio_needs_reset(&dummy.device);
	virtio_needs_reset(&dummy.device);
	cr_expect_eq(atomic_load(&dummy.device.count.ring_errors), 1);
	cr_expect(driver_take_irq(&g));
	cr_expect_eq(driver_read(&g, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_ISR_CONFIG);
	cr_expect_eq(set_status(RUNNING), RUNNING | VIRTIO_STATUS_NEEDS_RESET);
	driver_kick(&g, 0);
	cr_expect_eq(dummy.notifies, 0);
	cr_expect_eq(set_status(0), 0);
}

Test(mmio, case_09_queues_are_fixed_once_ready)
{
	cr_assert(driver_negotiate(&g, version_1));
	driver_place_queue(&g, 0, 8);
	cr_assert(driver_enable_queue(&g, 0));
	const struct virtqueue before = dummy.device.vq[0];
	driver_write(&g, VIRTIO_MMIO_QUEUE_NUM, 16);
	driver_write(&g, VIRTIO_MMIO_QUEUE_DESC_LOW, 0x8000);
	driver_write(&g, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 1);
	driver_write(&g, VIRTIO_MMIO_QUEUE_USED_LOW, 0x8000);
	driver_write(&g, VIRTIO_MMIO_QUEUE_READY, 1);
	const struct virtqueue *vq = &dummy.device.vq[0];
	cr_expect(vq->ready);
	cr_expect_eq(vq->size, 8);
	cr_expect_eq(vq->desc.addr, before.desc.addr);
	cr_expect_eq(vq->avail.addr, before.avail.addr);
	cr_expect_eq(vq->used.addr, before.used.addr);
	cr_expect_eq(bad_registers(), 5);
}

Test(mmio, queue_can_be_given_back_before_it_is_used)
{
	cr_assert(driver_negotiate(&g, version_1));
	driver_place_queue(&g, 0, 8);
	cr_assert(driver_enable_queue(&g, 0));
	driver_write(&g, VIRTIO_MMIO_QUEUE_READY, 0);
	cr_expect_eq(driver_read(&g, VIRTIO_MMIO_QUEUE_READY), 0);
	cr_expect(driver_enable_queue(&g, 0), "and made anew");
	cr_expect_eq(bad_registers(), 0);
}

Test(mmio, case_09_queues_are_not_disabled_while_the_device_runs)
{
	driver_start(&g, 0, 8);
	driver_write(&g, VIRTIO_MMIO_QUEUE_SEL, 0);
	driver_write(&g, VIRTIO_MMIO_QUEUE_READY, 0);
	cr_expect_eq(driver_read(&g, VIRTIO_MMIO_QUEUE_READY), 1);
	cr_expect_eq(dummy.device.vq[0].size, 8);
	cr_expect_eq(bad_registers(), 1);
}

Test(mmio, case_09_queues_are_not_made_after_driver_ok_or_before_features_ok)
{
	driver_place_queue(&g, 1, 8);
	cr_expect_not(driver_enable_queue(&g, 1));
	cr_assert(driver_negotiate(&g, version_1));
	driver_ok(&g);
	cr_expect_not(driver_enable_queue(&g, 1));
	cr_expect_eq(dummy.device.vq[1].size, 0);
	cr_expect_eq(dummy.device.vq[1].desc.addr, 0);
	driver_kick(&g, 1);
	cr_expect_eq(dummy.notifies, 0);
}

Test(mmio, case_09_sizes_that_are_no_sizes)
{
	static const uint32_t bad[] = {0, 3, 257, 512, 0x10008, UINT32_MAX};
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
		cr_assert(driver_negotiate(&g, version_1));
		driver_place_queue(&g, 0, 8);
		driver_write(&g, VIRTIO_MMIO_QUEUE_SEL, 0);
		driver_write(&g, VIRTIO_MMIO_QUEUE_NUM, bad[i]);
		driver_write(&g, VIRTIO_MMIO_QUEUE_AVAIL_LOW, 0x2000);
		driver_write(&g, VIRTIO_MMIO_QUEUE_USED_LOW, 0x3000);
		driver_write(&g, VIRTIO_MMIO_QUEUE_READY, 1);
		cr_expect_eq(driver_read(&g, VIRTIO_MMIO_QUEUE_READY), 0, "%u", bad[i]);
	}
}

Test(mmio, case_12_queue_numbers_out_of_range)
{
	cr_assert(driver_negotiate(&g, version_1));
	static const uint32_t bad[] = {2, 3, 4, 5, 0x80000000, UINT32_MAX};
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
		driver_write(&g, VIRTIO_MMIO_QUEUE_SEL, bad[i]);
		cr_expect_eq(driver_read(&g, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
		cr_expect_eq(driver_read(&g, VIRTIO_MMIO_QUEUE_READY), 0);
		driver_write(&g, VIRTIO_MMIO_QUEUE_NUM, 8);
		driver_write(&g, VIRTIO_MMIO_QUEUE_READY, 1);
		driver_write(&g, VIRTIO_MMIO_QUEUE_NOTIFY, bad[i]);
	}
	driver_ok(&g);
	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
		virtio_notify(&dummy.device, bad[i]);
	cr_expect_eq(dummy.notifies, 0);
	cr_expect_eq(bad_registers(), 3 * sizeof bad / sizeof *bad);
	driver_write(&g, VIRTIO_MMIO_QUEUE_SEL, 1);
	cr_expect_eq(driver_read(&g, VIRTIO_MMIO_QUEUE_NUM_MAX), VQ_SIZE_MAX);
}

Test(mmio, case_12_registers_of_other_widths_and_offsets)
{
	for (unsigned len = 1; len <= 2; len++) {
		cr_expect_eq(mmio_read(&dummy.device, VIRTIO_MMIO_MAGIC_VALUE, len), 0);
		cr_expect_eq(mmio_read(&dummy.device, VIRTIO_MMIO_INTERRUPT_STATUS, len), 0);
		mmio_write(&dummy.device, VIRTIO_MMIO_STATUS, len, ACK);
		mmio_write(&dummy.device, VIRTIO_MMIO_INTERRUPT_ACK, len, 1);
	}
	cr_expect_eq(status(), 0);
	cr_expect_eq(bad_registers(), 8);
	cr_expect_eq(driver_read(&g, VIRTIO_MMIO_MAGIC_VALUE + 1), 0);
	cr_expect_eq(driver_read(&g, 0xf8), 0);
	driver_write(&g, 0xf8, 1);
	driver_write(&g, VIRTIO_MMIO_MAGIC_VALUE, 1);
	cr_expect_eq(bad_registers(), 12);
}

Test(mmio, case_12_configuration_of_any_width_never_beyond_its_end)
{
	cr_expect_eq(mmio_read(&dummy.device, 0x100, 1), 1);
	cr_expect_eq(mmio_read(&dummy.device, 0x101, 2), 0x0302);
	cr_expect_eq(mmio_read(&dummy.device, 0x104, 4), 0x08070605);
	cr_expect_eq(mmio_read(&dummy.device, 0x106, 4), 0x0807);
	cr_expect_eq(mmio_read(&dummy.device, 0x108, 4), 0);
	cr_expect_eq(mmio_read(&dummy.device, 0xffc, 4), 0);
	cr_expect_eq(mmio_read(&dummy.device, 0xfff, 4), 0);
	mmio_write(&dummy.device, 0x100, 4, 0xffffffff);
	mmio_write(&dummy.device, 0x100, 1, 0xff);
	cr_expect_eq(mmio_read(&dummy.device, 0x100, 4), 0x04030201, "not writable");
}

Test(mmio, configuration_has_a_generation)
{
	uint32_t before = driver_read(&g, VIRTIO_MMIO_CONFIG_GENERATION);
	virtio_config_changed(&dummy.device);
	cr_expect_neq(driver_read(&g, VIRTIO_MMIO_CONFIG_GENERATION), before);
	cr_expect_not(driver_take_irq(&g), "nobody is there to be told");
	driver_start(&g, 0, 8);
	virtio_config_changed(&dummy.device);
	cr_expect(driver_take_irq(&g));
}

Test(mmio, interrupts_are_noted_and_acknowledged_without_the_lock)
{
	driver_start(&g, 0, 8);
	driver_add(&g, 0, &(struct driver_buffer){driver_alloc(&g, 16), 16, true}, 1);
	struct vq_chain chain;
	cr_assert_eq(vq_pop(&dummy.device.vq[0], &chain), 1);
	vq_push(&dummy.device.vq[0], chain.head, 0);
	virtio_signal(&dummy.device, 0);
	cr_expect(driver_take_irq(&g));
	virtio_config_changed(&dummy.device);

	/* A device that is busy holds its lock; this would hang otherwise. */
	pthread_mutex_lock(&dummy.device.lock);
	cr_expect_eq(driver_read(&g, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_ISR_USED | VIRTIO_ISR_CONFIG);
	driver_write(&g, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_ISR_USED);
	cr_expect_eq(driver_read(&g, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_ISR_CONFIG);
	pthread_mutex_unlock(&dummy.device.lock);
}

Test(mmio, case_13_notifications_are_coalesced_into_one_interrupt_status)
{
	driver_start(&g, 0, 8);
	for (unsigned i = 0; i < 100000; i++)
		driver_kick(&g, 0);
	cr_expect_eq(atomic_load(&dummy.device.count.notifications), 100000);
	cr_expect_eq(atomic_load(&dummy.device.count.signals), 0);
	cr_expect_not(driver_take_irq(&g));
}
