/* A panic is a message and a reset. */
#include "tests/guests/guest.h"

void start(void *unused, void *boot_params)
{
	(void)unused, (void)boot_params;
	say("a line before\nKernel panic - not syncing: tiny guest\n\x1b[31mred\x07\n");
	reset();
}
