#include "vmm/util/strv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Appends a copy of `text`. Returns 0 or -ENOMEM. */
int strv_add(struct strv *v, const char *text)
{
	char **item = reallocarray(v->item, v->count + 2, sizeof *item);
	if (!item)
		return -ENOMEM;
	v->item = item;
	item[v->count] = strdup(text);
	if (!item[v->count])
		return -ENOMEM;
	item[++v->count] = NULL;
	return 0;
}

/* Appends copies of all of `list`, which ends with NULL; NULL is an empty list. Returns 0 or -ENOMEM. */
int strv_add_all(struct strv *v, const char *const *list)
{
	for (; list && *list; list++)
		if (strv_add(v, *list))
			return -ENOMEM;
	return 0;
}

/* Adds NAME=VALUE, in the place of an earlier one with that name. Returns 0 or -ENOMEM. */
int strv_set_env(struct strv *v, const char *assignment)
{
	size_t name_bytes = strcspn(assignment, "=");
	for (size_t i = 0; i < v->count; i++) {
		if (strncmp(v->item[i], assignment, name_bytes) || v->item[i][name_bytes] != '=')
			continue;
		char *copy = strdup(assignment);
		if (!copy)
			return -ENOMEM;
		free(v->item[i]);
		v->item[i] = copy;
		return 0;
	}
	return strv_add(v, assignment);
}

/* Frees a list and its strings. Accepts NULL. */
void strv_free(char **list)
{
	for (char **p = list; p && *p; p++)
		free(*p);
	free(list);
}
