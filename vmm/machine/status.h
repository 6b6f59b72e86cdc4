/*
 * What the vmm process tells its supervisor, in memory that both map: the boot timeline, how the guest ended, and the
 * guest's console. The vmm only writes and the supervisor only reads, so the guest can neither block the one nor, where
 * it took the vmm over, do more than lie to the other: every reader bounds what it reads.
 */
#ifndef CAPLOCK_MACHINE_STATUS_H
#define CAPLOCK_MACHINE_STATUS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* The moments of a boot. Values are those that guests write to PORT_TIMELINE. */
enum timeline_moment {
	TIMELINE_START = 0, /* T0 process start */
	TIMELINE_MAIN,      /* T1 main() */
	TIMELINE_RUN,       /* T2 first KVM_RUN */
	TIMELINE_KERNEL,    /* T3 kernel entry */
	TIMELINE_INIT,      /* T4 PID 1 */
	TIMELINE_AGENT,     /* T5 the agent answers */
	TIMELINE_OUTPUT,    /* T6 first byte of the command's output; its end, if there is none */
	TIMELINE_COUNT,
};

enum machine_outcome {
	MACHINE_RUNNING = 0,
	MACHINE_RESET,          /* the guest asked for a reset, as it does after a panic and at its end */
	MACHINE_HALTED,         /* every CPU halted for ever */
	MACHINE_TRIPLE_FAULT,
	MACHINE_KVM_FAILED,     /* KVM_RUN failed, or cannot run this guest; see detail */
	MACHINE_KVM_GAVE_UP,    /* KVM cannot emulate an instruction of the guest; see detail */
	MACHINE_NOT_STARTED,    /* see detail */
};

enum { CONSOLE_BYTES = 256 << 10 /* a power of 2 */ };

struct machine_status {
	atomic_uint_least64_t timeline_ns[TIMELINE_COUNT]; /* CLOCK_MONOTONIC; 0: did not happen */
	atomic_uint_least64_t cpu_before_run_ns;           /* CPU time of all our processes until the first KVM_RUN */
	atomic_uint outcome;                               /* enum machine_outcome; written last */
	char detail[512];                                  /* one line, for KVM_FAILED, KVM_GAVE_UP, NOT_STARTED */
	atomic_uint_least64_t console_head;                /* bytes ever written */
	char console[CONSOLE_BYTES];                       /* the last CONSOLE_BYTES of them */
};

struct machine_status *status_create(void);
void status_destroy(struct machine_status *s);
void timeline_stamp(struct machine_status *s, enum timeline_moment m);
void timeline_stamp_main(uint64_t *start_ns, uint64_t *main_ns);
void console_write(struct machine_status *s, char c);
size_t console_read(const struct machine_status *s, uint64_t *at, char *to, size_t max_bytes);

#endif
