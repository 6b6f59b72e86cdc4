/* An exception without an interrupt table is a triple fault, which ends the machine. */
#include "tests/guests/guest.h"

void start(void *unused, void *boot_params)
{
	(void)unused, (void)boot_params;
	const struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) none = {0, 0};
	__asm__ volatile("lidt %0; ud2" : : "m"(none));
	stop();
}
