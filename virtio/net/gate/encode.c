#include "virtio/net/gate/encode.h"

#include <stdint.h>
#include <string.h>

static bool is_alnum(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* What a hexadecimal digit stands for, or -1. */
int encode_hex_value(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/*
 * Writes `from` to `out` (NULL: nowhere) with %XX for all but letters, digits and what is in `keep`; where that has a '+', a
 * blank becomes one, as in forms. Returns the length, at most three times as much.
 */
size_t encode_percent(const char *from, size_t len_bytes, const char *keep, bool lower, char *out)
{
	const char *digits = lower ? "0123456789abcdef" : "0123456789ABCDEF";
	bool form = strchr(keep, '+') != NULL;
	size_t n = 0;
	for (size_t i = 0; i < len_bytes; i++) {
		char c = form && from[i] == ' ' ? '+' : from[i];
		bool as_it_is = is_alnum(c) || (c && strchr(keep, c) && (c != '+' || from[i] == ' '));
		if (out && as_it_is)
			out[n] = c;
		else if (out)
			memcpy(out + n, (char[]){'%', digits[(uint8_t)c >> 4], digits[c & 15]}, 3);
		n += as_it_is ? 1 : 3;
	}
	return n;
}

/* Writes `from` to `out` with what %XX stands for; '%' without two digits is itself. Returns the length, no more than it was. */
size_t encode_percent_decode(const char *from, size_t len_bytes, char *out)
{
	size_t n = 0;
	for (size_t i = 0; i < len_bytes; i++) {
		int high = i + 2 < len_bytes ? encode_hex_value(from[i + 1]) : -1;
		int low = i + 2 < len_bytes ? encode_hex_value(from[i + 2]) : -1;
		bool code = from[i] == '%' && high >= 0 && low >= 0;
		out[n++] = code ? (char)(high << 4 | low) : from[i];
		i += code ? 2 : 0;
	}
	return n;
}

static const char base64_letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/* Writes `from` in base64, without the '=' at the end, to `out`. Returns the length: four for three, and a part of four. */
size_t encode_base64(const char *from, size_t len_bytes, bool url, char *out)
{
	size_t n = 0;
	for (size_t i = 0; i < len_bytes; i += 3) {
		size_t left = len_bytes - i < 3 ? len_bytes - i : 3;
		uint32_t group = 0;
		for (size_t j = 0; j < 3; j++)
			group = group << 8 | (j < left ? (uint8_t)from[i + j] : 0);
		for (size_t j = 0; j <= left; j++) {
			unsigned v = group >> (18 - 6 * j) & 63;
			out[n++] = v < 62 ? base64_letters[v] : v == 62 ? (url ? '-' : '+') : (url ? '_' : '/');
		}
	}
	return n;
}

static int base64_value(char c)
{
	const char *at = c ? strchr(base64_letters, c) : NULL;
	return at ? (int)(at - base64_letters) : c == '+' || c == '-' ? 62 : c == '/' || c == '_' ? 63 : -1;
}

/* Reads base64 of either alphabet, with or without '=' at the end. Returns the length of what is in `out`, or -1: it is none. */
ssize_t encode_base64_decode(const char *from, size_t len_bytes, char *out)
{
	uint32_t held = 0;
	unsigned bits = 0;
	size_t n = 0;
	while (len_bytes && from[len_bytes - 1] == '=')
		len_bytes--;
	for (size_t i = 0; i < len_bytes; i++) {
		int v = base64_value(from[i]);
		if (v < 0)
			return -1;
		held = held << 6 | (uint32_t)v;
		bits += 6;
		if (bits < 8)
			continue;
		bits -= 8;
		out[n++] = (char)(held >> bits);
	}
	return (ssize_t)n;
}
