/* A guest that never does anything is ended by --timeout. */
#include "tests/guests/guest.h"

void start(void *unused, void *boot_params)
{
	(void)unused, (void)boot_params;
	for (;;)
		__asm__ volatile("pause");
}
