/* The control socket of a running sandbox. */
#ifndef CAPLOCK_SANDBOX_CONTROL_H
#define CAPLOCK_SANDBOX_CONTROL_H

struct control;
struct err;
struct loop;
struct network;

int control_create(struct network *n, const char *path, struct control **out, struct err *e);
int control_start(struct control *c, struct loop *loop, struct err *e);
void control_changed(struct control *c);
void control_destroy(struct control *c);

#endif
