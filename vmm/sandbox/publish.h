/* -p: ports of this host that lead to ports of the sandbox. */
#ifndef CAPLOCK_SANDBOX_PUBLISH_H
#define CAPLOCK_SANDBOX_PUBLISH_H

#include <stdint.h>

struct buf;
struct err;
struct loop;
struct network;
struct publish;

int publish_create(struct network *n, const char *const *list, const char *address, struct publish **out, struct err *e);
int publish_start(struct publish *p, struct loop *loop, struct err *e);
int publish_add(struct publish *p, const char *text, const char *address, struct err *e);
int publish_describe(const struct publish *p, struct buf *out);
void publish_destroy(struct publish *p);

#endif
