#include "virtio/net/name.h"

#include <string.h>

enum { LABEL_MAX_BYTES = 63 };

static bool is_alnum(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z');
}

/* Whether a label is what some resolvers take for a part of an address: 127, 0x7f. */
static bool is_number(const char *label)
{
	if (label[0] == '0' && label[1] == 'x')
		return label[2 + strspn(label + 2, "0123456789abcdef")] == 0;
	return label[strspn(label, "0123456789")] == 0;
}

/* One character of a name at `at`: what is wrong with it, or NULL. */
static const char *check(const char *out, size_t label_start, size_t at)
{
	char c = out[at];
	if (c == '.')
		return at == label_start ? "an empty label" : out[at - 1] == '-' ? "a label ends with a hyphen" : NULL;
	if ((unsigned char)c >= 0x80)
		return "not ASCII: give the xn-- form";
	if (c == '-' && at == label_start)
		return "a label begins with a hyphen";
	if (!is_alnum(c) && c != '-' && c != '_')
		return "a character that no host name has";
	return at - label_start >= LABEL_MAX_BYTES ? "a label of more than 63 characters" : NULL;
}

/*
 * Writes the canonical form of a host name to `out`: letters in lower case, no dot at the end. Underscores are taken, as
 * resolvers do. A name whose last label is a number is refused: somebody would read it as an address. Pure. Returns NULL,
 * or what is wrong, and where in *at.
 */
const char *name_canonical(const char *text, size_t len_bytes, char out[NAME_BYTES], size_t *at)
{
	*at = 0;
	if (len_bytes && text[len_bytes - 1] == '.')
		len_bytes--;
	if (len_bytes == 0)
		return "no name";
	if (len_bytes >= NAME_BYTES)
		return "more than 253 characters";
	size_t label = 0;
	for (size_t i = 0; i < len_bytes; i++) {
		*at = i;
		out[i] = text[i] >= 'A' && text[i] <= 'Z' ? (char)(text[i] + 32) : text[i];
		const char *wrong = check(out, label, i);
		if (wrong)
			return wrong;
		if (out[i] == '.')
			label = i + 1;
	}
	out[len_bytes] = 0;
	if (label == len_bytes)
		return "an empty label";
	if (out[len_bytes - 1] == '-')
		return "a label ends with a hyphen";
	*at = label;
	return is_number(out + label) ? "a number at the end, but not an address in its standard form" : NULL;
}

/* Whether `name` is below `parent`, and not it itself. Both canonical. */
bool name_is_under(const char *name, const char *parent)
{
	size_t n = strlen(name), p = strlen(parent);
	return n > p + 1 && name[n - p - 1] == '.' && memcmp(name + n - p, parent, p) == 0;
}

/* Whether an authority, as of a Host field, names this (canonical) host and, if any, this port. `text` may be NULL where it is empty. */
bool name_is_authority(const char *text, size_t len_bytes, const char *name, uint16_t port)
{
	char canonical[NAME_BYTES];
	size_t at, n = len_bytes;
	const char *colon = len_bytes ? memchr(text, ':', n) : NULL;
	if (colon) {
		unsigned value = 0;
		n = (size_t)(colon - text);
		for (size_t i = n + 1; i < len_bytes; i++) {
			if (text[i] < '0' || text[i] > '9' || value > UINT16_MAX)
				return false;
			value = value * 10 + (unsigned)(text[i] - '0');
		}
		if (value != port)
			return false;
	}
	return n && !name_canonical(text, n, canonical, &at) && strcmp(canonical, name) == 0;
}
