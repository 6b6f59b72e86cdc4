/* A growing list of strings that ends with NULL. Zero-initialise it to start. */
#ifndef CAPLOCK_UTIL_STRV_H
#define CAPLOCK_UTIL_STRV_H

#include <stddef.h>

struct strv {
	char **item; /* NULL while the list is empty */
	size_t count;
};

int strv_add(struct strv *v, const char *text);
int strv_add_all(struct strv *v, const char *const *list);
int strv_set_env(struct strv *v, const char *assignment);
void strv_free(char **list);

#endif
