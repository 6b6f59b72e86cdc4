/* Forms that a text has on its way: percent-encoding (RFC 3986, 2.1) and base64 (RFC 4648). All pure. */
#ifndef CAPLOCK_GATE_ENCODE_H
#define CAPLOCK_GATE_ENCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define ENCODE_UNRESERVED "-._~" /* with letters and digits: what no URL encodes (RFC 3986, 2.3) */

int encode_hex_value(char c);
size_t encode_percent(const char *from, size_t len_bytes, const char *keep, bool lower, char *out);
size_t encode_percent_decode(const char *from, size_t len_bytes, char *out);
size_t encode_base64(const char *from, size_t len_bytes, bool url, char *out);
ssize_t encode_base64_decode(const char *from, size_t len_bytes, char *out);

#endif
