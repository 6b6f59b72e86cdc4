/* A gate's configuration as a text, for a gate that is a program of its own (caplock-gate). */
#ifndef CAPLOCK_GATE_CONFIG_H
#define CAPLOCK_GATE_CONFIG_H

#include <stddef.h>

struct buf;
struct err;
struct gate_config;

int gate_config_write(const struct gate_config *c, struct buf *out);
int gate_config_parse(const char *text, size_t len_bytes, struct gate_config *c, struct err *e);

#endif
