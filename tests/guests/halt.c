/* What Linux prints when it has stopped all CPUs ends the machine. */
#include "tests/guests/guest.h"

void start(void *unused, void *boot_params)
{
	(void)unused, (void)boot_params;
	say("reboot: System halted\n");
	stop();
}
