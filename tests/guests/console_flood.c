/* A console without end costs the host a bounded amount of memory, and blocks nobody. */
#include "tests/guests/guest.h"

void start(void *unused, void *boot_params)
{
	(void)unused, (void)boot_params;
	for (unsigned i = 0; i < 400000; i++)
		outb(PORT_SERIAL, 'x');
	say("\nKernel panic - not syncing: flood over\n");
	reset();
}
