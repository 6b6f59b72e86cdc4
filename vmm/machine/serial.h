/* The guest's console: a polled 8250 UART without interrupts (PC16550D data sheet, section 8). */
#ifndef CAPLOCK_MACHINE_SERIAL_H
#define CAPLOCK_MACHINE_SERIAL_H

#include <stdbool.h>
#include <stdint.h>

struct serial {
	uint8_t divisor[2];
	uint8_t interrupt_enable, line_control, modem_control, scratch;
	unsigned matched; /* bytes of HALT_TEXT that the output ended with */
};

uint8_t serial_read(const struct serial *s, unsigned reg);
bool serial_write(struct serial *s, unsigned reg, uint8_t value);
bool serial_says_halted(struct serial *s, char c);

#endif
