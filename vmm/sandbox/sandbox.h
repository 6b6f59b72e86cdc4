/* One sandbox: its supervisor side. */
#ifndef CAPLOCK_SANDBOX_SANDBOX_H
#define CAPLOCK_SANDBOX_SANDBOX_H

#include <stdint.h>

#include "vmm/caplock.h"

struct sandbox;

struct sandbox *sandbox_run(const struct caplock_spec *spec, uint64_t start_ns, uint64_t main_ns,
			    struct caplock_result *result);
void sandbox_destroy(struct sandbox *s);

#endif
