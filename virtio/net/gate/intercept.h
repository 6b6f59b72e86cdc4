/* The interceptor: ends TLS, reads HTTP, puts secrets in. intercept.c has the theory of operation. */
#ifndef CAPLOCK_GATE_INTERCEPT_H
#define CAPLOCK_GATE_INTERCEPT_H

#include "virtio/net/gate/interceptor.h"

extern const struct gate_interceptor intercept_interceptor;

#endif
