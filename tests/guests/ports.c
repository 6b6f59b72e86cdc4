/* Every port may be read, and most written; nothing but the documented ones does anything. */
#include "tests/guests/guest.h"

void start(void *unused, void *boot_params)
{
	(void)unused, (void)boot_params;
	/* What KVM's own devices answer at (interrupt controllers, timer) is not ours to test. */
	for (unsigned port = 0x200; port < 0x10000; port += port < 0x600 ? 1 : 7)
		(void)inb((uint16_t)port);
	claim(inb(0x2f8) == 0xff, "nobody answers");
	claim(inb(PORT_SERIAL + 5) == 0x60, "the serial port is ready");
	for (unsigned port = 0x500; port < 0x600; port++)
		outb((uint16_t)port, 0xfe);
	outb(PORT_I8042_CMD, 0xd1);
	done();
}
