#include "virtio/net/presets.h"

#include <errno.h>
#include <string.h>

#include "virtio/net/policy.h"
#include "virtio/net/policy_file.h"
#include "vmm/util/err.h"

/* In the order of the alphabet. */
#define PRESETS(X) \
	X(alpine) \
	X(anthropic) \
	X(cargo) \
	X(conda) \
	X(debian) \
	X(docker) \
	X(gemini) \
	X(github) \
	X(gitlab) \
	X(golang) \
	X(huggingface) \
	X(maven) \
	X(mistral) \
	X(npm) \
	X(nuget) \
	X(openai) \
	X(openrouter) \
	X(packagist) \
	X(pypi) \
	X(rubygems) \
	X(ubuntu)

/* The file, as it is. Paths are from the top of the source tree, where the compiler is run. */
#define INCLUDE(name) \
	__asm__(".pushsection .rodata\n" \
		"preset_" #name ":\n" \
		".incbin \"virtio/net/presets/" #name ".json\"\n" \
		"preset_" #name "_end:\n" \
		".popsection\n"); \
	extern const char preset_##name[] __attribute__((visibility("hidden"))), \
		preset_##name##_end[] __attribute__((visibility("hidden")));
PRESETS(INCLUDE)

#define ENTRY(name) {#name, preset_##name, preset_##name##_end},
const struct preset presets[] = {PRESETS(ENTRY){NULL, NULL, NULL}};

/* The preset of that name (without the @), or NULL. */
const struct preset *presets_find(const char *name)
{
	for (const struct preset *p = presets; p->name; p++)
		if (strcmp(p->name, name) == 0)
			return p;
	return NULL;
}

/* Adds the rules of "@NAME". Returns 0, -EINVAL where there is none of that name, or -E2BIG. */
int presets_add(struct policy *p, const char *text, struct err *e)
{
	const struct preset *preset = presets_find(text + 1);
	if (!preset)
		return err_set(e, -EINVAL, "'%.300s': no preset has this name; see: caplock policy presets", text);
	return policy_file_parse(preset->text, (size_t)(preset->end - preset->text), p, e);
}
