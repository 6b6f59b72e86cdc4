/* Policies for well-known services, which are part of the program: virtio/net/presets/NAME.json is "@NAME". */
#ifndef CAPLOCK_NET_PRESETS_H
#define CAPLOCK_NET_PRESETS_H

#include <stddef.h>

struct err;
struct policy;

struct preset {
	const char *name; /* without the @ */
	const char *text; /* a policy file's */
	const char *end;
};

extern const struct preset presets[]; /* ends with {0} */

const struct preset *presets_find(const char *name);
int presets_add(struct policy *p, const char *text, struct err *e);

#endif
