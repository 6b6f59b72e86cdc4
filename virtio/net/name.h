/* Host names in the one form that everything compares: lower case, no dot at the end (RFC 1035, 2.3; RFC 5890 for IDN). */
#ifndef CAPLOCK_NET_NAME_H
#define CAPLOCK_NET_NAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NAME_BYTES = 254 }; /* 253 and a NUL */

const char *name_canonical(const char *text, size_t len_bytes, char out[NAME_BYTES], size_t *at);
bool name_is_under(const char *name, const char *parent);

bool name_is_authority(const char *text, size_t len_bytes, const char *name, uint16_t port);

#endif
