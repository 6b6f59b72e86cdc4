/* --ask: the user decides about hosts that no rule is about. */
#ifndef CAPLOCK_SANDBOX_ASK_H
#define CAPLOCK_SANDBOX_ASK_H

struct ask;
struct err;
struct loop;
struct net_record;
struct network;

int ask_create(struct network *n, struct ask **out, struct err *e);
int ask_start(struct ask *a, struct loop *loop, struct err *e);
void ask_about(struct ask *a, const struct net_record *r);
void ask_destroy(struct ask *a);

#endif
