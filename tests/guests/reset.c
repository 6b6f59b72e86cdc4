/* Writing 0xfe to the keyboard controller resets the machine, which ends it. */
#include "tests/guests/guest.h"

void start(void *unused, void *boot_params)
{
	(void)unused, (void)boot_params;
	reset();
}
