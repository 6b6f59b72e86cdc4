/* The texts that messages of HTTP are made of, in both versions of the protocol: which there may be, and what they say. */
#ifndef CAPLOCK_GATE_HTTP_TEXT_H
#define CAPLOCK_GATE_HTTP_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Names of fields that are never among a head's: what they say is in its members, or of no use beyond one connection. */
enum http_name {
	HTTP_NAME_ORDINARY, /* all others */
	HTTP_NAME_HOST,
	HTTP_NAME_CONTENT_LENGTH,
	HTTP_NAME_TRANSFER_ENCODING,
	HTTP_NAME_CONNECTION,
	HTTP_NAME_TE,
	HTTP_NAME_UPGRADE,
	HTTP_NAME_EXPECT,
	HTTP_NAME_HOP, /* Keep-Alive and the like */
};

enum http_name http_name_kind(const char *name, size_t len_bytes);
bool http_may_trail(const char *name, size_t len_bytes);
bool http_is_token(const char *text, size_t len_bytes);
bool http_is_value(const char *text, size_t len_bytes);
bool http_is_path(const char *text, size_t len_bytes);
bool http_parse_authority(const char *text, size_t len_bytes, size_t *host_bytes, unsigned *port);
unsigned http_refuses_method(const char *method, const char **reason);
bool http_parse_length(const char *text, size_t len_bytes, int64_t *out);
bool http_text_is(const char *text, size_t len_bytes, const char *word);

#endif
