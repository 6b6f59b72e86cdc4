/* What a sandbox shall be: limits of struct caplock_spec, and what it means together with an image. */
#ifndef CAPLOCK_SPEC_SPEC_H
#define CAPLOCK_SPEC_SPEC_H

#include "vmm/caplock.h"

struct err;
struct image_config;

/* Variables that are ours; lists that end with NULL, or NULL. */
struct spec_extra {
	const char *const *defaults; /* win over the image's, not over the spec's */
	const char *const *fixed;    /* win over all */
};

/* The command as the agent gets it. Owned. */
struct spec_command {
	char **argv;
	char **env;
	char *workdir;
	char *user; /* NULL: root */
};

int spec_validate(const struct caplock_spec *s, struct err *e);
unsigned spec_vcpus(const struct caplock_spec *s);
int spec_command(const struct caplock_spec *s, const struct image_config *image, const struct spec_extra *extra,
		 struct spec_command *out, struct err *e);
void spec_command_free(struct spec_command *c);

#endif
