/* The boot timeline for people and for programs. */
#ifndef CAPLOCK_CLI_TIMING_H
#define CAPLOCK_CLI_TIMING_H

#include <stdio.h>

struct caplock_result;

enum timing_format { TIMING_NONE, TIMING_TEXT, TIMING_JSON };

void timing_print(FILE *out, enum timing_format format, const struct caplock_result *r);

#endif
