/* What the parts of vmm/sandbox/network.h share: network.c, network_records.c, gate_process.c. */
#ifndef CAPLOCK_SANDBOX_NETWORK_PRIV_H
#define CAPLOCK_SANDBOX_NETWORK_PRIV_H

#include "vmm/sandbox/network.h"

struct gate_record;

/* network.c */
int network_make_socket(int *ours, int *theirs, struct err *e);
int network_send_order(struct network *n, const struct net_order *order, int fd);
void network_pump(struct network *n);

/* network_records.c */
void network_write_audit(struct network *n);
bool network_audit_has_room(const struct network *n);
void network_watch_slower(struct network *n);
bool network_take_records(struct network *n);
void network_take_request(struct network *n, struct gate_record *r);
void network_audit_ready(void *context, uint32_t events);
void network_control_ready(void *context, uint32_t events);

/* gate_process.c */
int gate_process_start(struct network *n, struct err *e);
int gate_process_start_late(struct network *n, struct err *e);
bool gate_process_hear(struct network *n);
bool gate_process_finish(struct network *n);
void gate_process_end(struct network *n);

#endif
