/* The options of run that are about secrets. */
#ifndef CAPLOCK_CLI_SECRET_H
#define CAPLOCK_CLI_SECRET_H

#include <stddef.h>

#include "vmm/caplock.h"

struct err;
struct strv;

enum { SECRET_OPTIONS_MAX = 64 }; /* as many as the gate takes */

/* What --secret-placeholder and --secret-in said, until all options are read: NAME=REST. */
struct secret_remark {
	const char *text;
	int in; /* nonzero: of --secret-in */
};

/* Zero-initialise it to start. Its strings and descriptors live as long as the process. */
struct secret_options {
	struct caplock_secret item[SECRET_OPTIONS_MAX]; /* value_fd is -1 of those that are in the environment */
	size_t count;
	struct secret_remark remark[2 * SECRET_OPTIONS_MAX];
	size_t remark_count;
};

int secret_add(struct secret_options *o, char *text, struct err *e);
int secret_add_file(struct secret_options *o, const char *text, struct err *e);
int secret_add_remark(struct secret_options *o, const char *text, int in, struct err *e);
int secret_finish(struct secret_options *o, const struct strv *env, struct err *e);

#endif
