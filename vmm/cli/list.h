/* Options whose value is a list. */
#ifndef CAPLOCK_CLI_LIST_H
#define CAPLOCK_CLI_LIST_H

struct err;
struct strv;

int cli_add_list(struct strv *list, const char *text, const char *option, struct err *e);

#endif
