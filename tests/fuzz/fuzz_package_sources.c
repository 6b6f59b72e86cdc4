/* Any configuration of a package manager, chosen by the first byte: what comes out are rules for names, each once. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/policy.h"
#include "vmm/image/package_sources.h"
#include "vmm/util/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct package_sources s = {0};
	struct policy p = {0};
	struct err e;
	if (size == 0)
		return 0;
	char *text = malloc(size);
	memcpy(text, data + 1, size - 1);
	package_sources_parse(&s, (enum package_config)(data[0] % PACKAGE_CONFIGS), text, size - 1);
	if (s.rules.count > PACKAGE_SOURCES_MAX)
		abort();
	for (size_t i = 0; i < s.rules.count; i++)
		if (policy_add_allow(&p, s.rules.item[i], &e) || p.allow_count != i + 1 || p.allow[i].match != MATCH_NAME || p.allow[i].raw)
			abort();
	policy_free(&p);
	strv_free(s.rules.item);
	free(text);
	return 0;
}
