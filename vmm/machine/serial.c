#include "vmm/machine/serial.h"

enum {
	REG_DATA = 0, /* divisor, low, while DLAB */
	REG_IER = 1,  /* divisor, high, while DLAB */
	REG_IIR = 2,
	REG_LCR = 3,
	REG_MCR = 4,
	REG_LSR = 5,
	REG_MSR = 6,
	REG_SCR = 7,
	LCR_DLAB = 0x80,
	IIR_NONE = 0x01,         /* no interrupt pending */
	LSR_EMPTY = 0x20 | 0x40, /* holding register and transmitter: always */
	MSR_LINE_UP = 0x80 | 0x20 | 0x10,
};

/* Reads register `reg` (0..7). Nothing is ever received. */
uint8_t serial_read(const struct serial *s, unsigned reg)
{
	bool dlab = s->line_control & LCR_DLAB;
	switch (reg) {
	case REG_DATA:
		return dlab ? s->divisor[0] : 0;
	case REG_IER:
		return dlab ? s->divisor[1] : s->interrupt_enable;
	case REG_IIR:
		return IIR_NONE;
	case REG_LCR:
		return s->line_control;
	case REG_MCR:
		return s->modem_control;
	case REG_LSR:
		return LSR_EMPTY;
	case REG_MSR:
		return MSR_LINE_UP;
	default:
		return s->scratch;
	}
}

/* Writes register `reg` (0..7). Returns whether `value` is a character that was sent. */
bool serial_write(struct serial *s, unsigned reg, uint8_t value)
{
	bool dlab = s->line_control & LCR_DLAB;
	switch (reg) {
	case REG_DATA:
		if (!dlab)
			return true;
		s->divisor[0] = value;
		break;
	case REG_IER:
		if (dlab)
			s->divisor[1] = value;
		else
			s->interrupt_enable = value & 0x0f;
		break;
	case REG_LCR:
		s->line_control = value;
		break;
	case REG_MCR:
		s->modem_control = value & 0x1f;
		break;
	case REG_SCR:
		s->scratch = value;
		break;
	}
	return false;
}

/*
 * Whether `c` completes the text that Linux prints, at its highest level, when it stops every CPU for good. KVM tells of
 * no such thing: to it, halted CPUs wait for an interrupt.
 */
bool serial_says_halted(struct serial *s, char c)
{
	static const char text[] = "ystem halted"; /* "reboot: System halted", "...: System halted instead" */
	s->matched = c == text[s->matched] ? s->matched + 1 : c == text[0];
	if (text[s->matched])
		return false;
	s->matched = 0;
	return true;
}
