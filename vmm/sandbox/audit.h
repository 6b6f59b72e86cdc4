/* --audit: a line of JSON for each record of the network. */
#ifndef CAPLOCK_SANDBOX_AUDIT_H
#define CAPLOCK_SANDBOX_AUDIT_H

struct buf;
struct gate_record;
struct net_record;

int audit_line(struct buf *out, const struct net_record *r);
int audit_url(struct buf *out, const struct gate_record *r);
int audit_request(struct buf *out, const struct gate_record *r);

#endif
