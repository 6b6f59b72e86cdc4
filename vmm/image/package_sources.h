/* The hosts that package managers' configuration names: text in, rules for --allow-host out. Pure. */
#ifndef CAPLOCK_IMAGE_PACKAGE_SOURCES_H
#define CAPLOCK_IMAGE_PACKAGE_SOURCES_H

#include <stdbool.h>
#include <stddef.h>

#include "vmm/util/strv.h"

enum { PACKAGE_SOURCES_MAX = 256 };

enum package_config {
	PACKAGE_APT_LIST,    /* sources.list(5), one-line style */
	PACKAGE_APT_SOURCES, /* the same, deb822 style */
	PACKAGE_APK,         /* /etc/apk/repositories */
	PACKAGE_PIP,         /* pip.conf */
	PACKAGE_NPM,         /* npmrc */
	PACKAGE_CARGO,       /* config.toml */
	PACKAGE_CONFIGS,
};

/* Zero-initialise it to start; strv_free(rules.item) to end. */
struct package_sources {
	struct strv rules;                     /* each once */
	bool replaces_default[PACKAGE_CONFIGS]; /* what that package manager has built in is not used */
};

int package_sources_parse(struct package_sources *s, enum package_config kind, const char *text, size_t len_bytes);
int package_sources_add(struct package_sources *s, const char *rule);

#endif
