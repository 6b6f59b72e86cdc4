/* Names to addresses, asynchronously, by c-ares. */
#ifndef CAPLOCK_GATE_RESOLVE_H
#define CAPLOCK_GATE_RESOLVE_H

#include <stdint.h>

#include "virtio/net/addr.h"

struct loop;
struct resolver;
struct question;

enum { RESOLVE_MAX = 16 }; /* addresses of a name */

/* `count` addresses, best first; 0: none, and `error` is ENOENT: there is no such name; ETIMEDOUT: no resolver knows; or ENOMEM. */
typedef void (*resolve_fn)(void *context, const struct ip_addr *addr, unsigned count, int error);

int resolver_create(struct loop *loop, const char *const *servers, struct resolver **out);
void resolver_ask(struct resolver *r, const char *name, resolve_fn done, void *context, struct question **asked);
void resolver_forget(struct question *q);
int resolver_timeout_ms(struct resolver *r);
void resolver_tick(struct resolver *r);

#endif
