/* Memory for what must not be found anywhere else: not in swap, a core dump, a child, nor afterwards. */
#ifndef CAPLOCK_GATE_VAULT_H
#define CAPLOCK_GATE_VAULT_H

#include <stddef.h>
#include <stdint.h>

/* Zero-initialise to start; vault_close() to end. */
struct vault {
	uint8_t *base;
	size_t size, used;
};

int vault_open(struct vault *v, size_t bytes);
uint8_t *vault_take(struct vault *v, size_t bytes);
void vault_close(struct vault *v);

#endif
