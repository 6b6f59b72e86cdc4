#include "virtio/net/gate/http_text.h"

#include <string.h>
#include <strings.h>

#include "virtio/net/addr.h"
#include "virtio/net/name.h"

enum { LENGTH_MAX_DIGITS = 18 }; /* fits in an int64_t */

/* What a character may be part of. */
enum {
	TOKEN = 1,
	VALUE = 2,
	PATH = 4,
};

/* RFC 9110, 5.5 and 5.6.2; a path is printable, and has no fragment. */
static const unsigned char allowed[256] = {
	['\t'] = VALUE,
	[' '] = VALUE,
	['!'] = VALUE | PATH | TOKEN,
	['"'] = VALUE | PATH,
	['#'] = VALUE | TOKEN,
	['$' ... '\''] = VALUE | PATH | TOKEN,
	['(' ... ')'] = VALUE | PATH,
	['*' ... '+'] = VALUE | PATH | TOKEN,
	[','] = VALUE | PATH,
	['-' ... '.'] = VALUE | PATH | TOKEN,
	['/'] = VALUE | PATH,
	['0' ... '9'] = VALUE | PATH | TOKEN,
	[':' ... '@'] = VALUE | PATH,
	['A' ... 'Z'] = VALUE | PATH | TOKEN,
	['[' ... ']'] = VALUE | PATH,
	['^' ... 'z'] = VALUE | PATH | TOKEN,
	['{'] = VALUE | PATH,
	['|'] = VALUE | PATH | TOKEN,
	['}'] = VALUE | PATH,
	['~'] = VALUE | PATH | TOKEN,
	[0x80 ... 0xff] = VALUE,
};

static bool all_are(unsigned char what, const char *text, size_t len_bytes)
{
	unsigned char all = what;
	for (size_t i = 0; i < len_bytes; i++)
		all &= allowed[(unsigned char)text[i]];
	return all;
}

/* Whether a text is a method, a field's name, or a connection option. */
bool http_is_token(const char *text, size_t len_bytes)
{
	return len_bytes && all_are(TOKEN, text, len_bytes);
}

/* Whether a text may be a field's value: no control characters, no blanks around it. It may be empty. */
bool http_is_value(const char *text, size_t len_bytes)
{
	return all_are(VALUE, text, len_bytes) &&
	       (len_bytes == 0 || ((unsigned char)text[0] > ' ' && (unsigned char)text[len_bytes - 1] > ' '));
}

/* Whether a text may be a request's path with its query: it begins with '/' and is printable ASCII without '#'. */
bool http_is_path(const char *text, size_t len_bytes)
{
	return len_bytes && text[0] == '/' && all_are(PATH, text, len_bytes);
}

/* Whether a text is `word`, without case. */
bool http_text_is(const char *text, size_t len_bytes, const char *word)
{
	return strlen(word) == len_bytes && strncasecmp(text, word, len_bytes) == 0;
}

/*
 * TRACE shows the secrets that were put in, CONNECT what is not HTTP any more. A HEAD that only some take for one would make
 * of its answer two. Returns the status that says so, with the reason, or 0: the method is allowed.
 */
unsigned http_refuses_method(const char *method, const char **reason)
{
	if (strcasecmp(method, "CONNECT") == 0 || strcasecmp(method, "TRACE") == 0) {
		*reason = "an HTTP method that is not allowed (CONNECT, TRACE)";
		return 405;
	}
	if (strcasecmp(method, "HEAD") == 0 && strcmp(method, "HEAD") != 0) {
		*reason = "an HTTP HEAD that is not in capitals";
		return 400;
	}
	return 0;
}

/* Reads the number of a Content-Length. Returns false where it is none, or too large for any body. */
bool http_parse_length(const char *text, size_t len_bytes, int64_t *out)
{
	int64_t length = 0;
	if (len_bytes == 0 || len_bytes > LENGTH_MAX_DIGITS)
		return false;
	for (size_t i = 0; i < len_bytes; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		length = length * 10 + (text[i] - '0');
	}
	*out = length;
	return true;
}

/* What kind of field a name is. */
enum http_name http_name_kind(const char *name, size_t len_bytes)
{
	static const struct {
		const char *name;
		size_t bytes;
		enum http_name kind;
	} names[] = {
		{"Te", 2, HTTP_NAME_TE},
		{"Host", 4, HTTP_NAME_HOST},
		{"Expect", 6, HTTP_NAME_EXPECT},
		{"Upgrade", 7, HTTP_NAME_UPGRADE},
		{"Connection", 10, HTTP_NAME_CONNECTION},
		{"Keep-Alive", 10, HTTP_NAME_HOP},
		{"Content-Length", 14, HTTP_NAME_CONTENT_LENGTH},
		{"HTTP2-Settings", 14, HTTP_NAME_HOP},
		{"Proxy-Connection", 16, HTTP_NAME_HOP},
		{"Transfer-Encoding", 17, HTTP_NAME_TRANSFER_ENCODING},
	};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (names[i].bytes == len_bytes && strncasecmp(name, names[i].name, len_bytes) == 0)
			return names[i].kind;
	return HTTP_NAME_ORDINARY;
}

/*
 * Whether a field may be in a trailer: not what a head must say before the body, where some merge both (RFC 9110, 6.5.1).
 */
bool http_may_trail(const char *name, size_t len_bytes)
{
	static const char *const names[] = {
		"Age", "Authorization", "Cache-Control", "Content-Encoding", "Content-Range", "Content-Type", "Cookie",
		"Date", "Expires", "Location", "Max-Forwards", "Pragma", "Proxy-Authenticate", "Proxy-Authorization",
		"Range", "Retry-After", "Set-Cookie", "Trailer", "Vary", "WWW-Authenticate",
	};
	if (http_name_kind(name, len_bytes) != HTTP_NAME_ORDINARY)
		return false;
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (http_text_is(name, len_bytes, names[i]))
			return false;
	return true;
}

/* A name as name.h takes it, an IPv4 address, or an IPv6 address in brackets. */
static bool is_host(const char *text, size_t len_bytes)
{
	char copy[NAME_BYTES];
	size_t at;
	struct ip_addr addr;
	if (!name_canonical(text, len_bytes, copy, &at))
		return true;
	bool v6 = len_bytes > 2 && text[0] == '[' && text[len_bytes - 1] == ']';
	size_t skip = v6 ? 1 : 0, n = len_bytes - 2 * skip;
	if (n >= sizeof copy || memchr(text, 0, len_bytes))
		return false;
	memcpy(copy, text + skip, n);
	copy[n] = 0;
	return !strchr(copy, ':') == !v6 && addr_parse(copy, &addr);
}

/*
 * Takes HOST[:PORT] apart, as it is in Host and :authority: how long the host is, with the brackets of an IPv6 address, and
 * the port, 0 if there is none. Returns false when it is something else (user names, an empty port).
 */
bool http_parse_authority(const char *text, size_t len_bytes, size_t *host_bytes, unsigned *port)
{
	const char *end = text + len_bytes, *bracket = memchr(text, ']', len_bytes);
	const char *from = bracket ? bracket : text, *colon = memchr(from, ':', (size_t)(end - from));
	*host_bytes = colon ? (size_t)(colon - text) : len_bytes;
	*port = 0;
	for (const char *at = colon ? colon + 1 : end; at < end; at++) {
		if (*at < '0' || *at > '9')
			return false;
		*port = *port * 10 + (unsigned)(*at - '0');
		if (*port > 0xffff)
			return false;
	}
	return (!colon || *port) && is_host(text, *host_bytes);
}
