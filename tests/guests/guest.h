/* A guest of a few lines: entered as a kernel is, it checks one claim about the machine and says so on the console. */
#ifndef CAPLOCK_TESTS_GUEST_H
#define CAPLOCK_TESTS_GUEST_H

#include <stddef.h>
#include <stdint.h>

#include "boot/layout.h"

static inline void outb(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

static inline uint8_t inb(uint16_t port)
{
	uint8_t value;
	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline void say(const char *text)
{
	while (*text)
		outb(PORT_SERIAL, (uint8_t)*text++);
}

static inline __attribute__((noreturn)) void stop(void)
{
	for (;;)
		__asm__ volatile("cli; hlt");
}

static inline __attribute__((noreturn)) void reset(void)
{
	outb(PORT_I8042_CMD, 0xfe);
	stop();
}

/* Ends the guest unless the claim holds. */
static inline void claim(int holds, const char *what)
{
	if (holds)
		return;
	say("claim fails: ");
	say(what);
	say("\n");
	reset();
}

static inline __attribute__((noreturn)) void done(void)
{
	say("all claims hold\n");
	reset();
}

static inline uint32_t mmio_get(uint64_t gpa) { return *(volatile uint32_t *)gpa; }

static inline void mmio_put(uint64_t gpa, uint32_t value) { *(volatile uint32_t *)gpa = value; }

/* As the boot protocol has it: RSI. */
void start(void *unused, void *boot_params) __attribute__((section(".text.start"), noreturn));

#endif
