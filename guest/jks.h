/* Java's trust stores. */
#ifndef CAPLOCK_GUEST_JKS_H
#define CAPLOCK_GUEST_JKS_H

#include <stdbool.h>

#include "guest/frame.h"

/* A store that is being written. Zero-initialise it to start; queue_free(&j->bytes) to end. */
struct jks {
	struct queue bytes;
	uint32_t count;
};

int jks_create(struct jks *j);
int jks_open(struct jks *j, const uint8_t *store, size_t len_bytes);
int jks_add(struct jks *j, const char *alias, const uint8_t *certificate, size_t len_bytes);
int jks_add_pem(struct jks *j, const char *alias, const char *pem, size_t len_bytes);
int jks_finish(struct jks *j);

#endif
