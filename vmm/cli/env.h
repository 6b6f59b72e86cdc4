/* The environment options of run: -e and --env-file. */
#ifndef CAPLOCK_CLI_ENV_H
#define CAPLOCK_CLI_ENV_H

struct err;
struct strv;

int env_add(struct strv *env, const char *item, struct err *e);
int env_add_file(struct strv *env, const char *path, struct err *e);

#endif
