/* --learn: the rules that would have permitted what was done. */
#ifndef CAPLOCK_SANDBOX_LEARN_H
#define CAPLOCK_SANDBOX_LEARN_H

struct err;
struct net_record;
struct policy;
struct strv;

int learn_flow(struct strv *rules, const struct net_record *r);
int learn_write(int fd, const struct strv *rules, const struct policy *used, struct err *e);

#endif
