/* Requests of HTTP/1.1 as a stream (RFC 9110, RFC 9112): strict enough that every server sees the same requests in it. */
#ifndef CAPLOCK_NET_HTTP_REQUEST_H
#define CAPLOCK_NET_HTTP_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HTTP_HEAD_MAX_BYTES = 64 << 10 };

/* A piece of somebody's text. */
struct text {
	const char *at;
	size_t bytes;
};

/* What a request is about; the texts are within the bytes that were parsed. */
struct http_request {
	struct text method, target, host;
};

enum http_state {
	HTTP_HEAD,
	HTTP_BODY,       /* `left` bytes of it */
	HTTP_CHUNK_SIZE, /* its line */
	HTTP_CHUNK,      /* `left` bytes of it */
	HTTP_CHUNK_END,  /* its CRLF */
	HTTP_TRAILER,    /* until an empty line */
};

/* Where we are in a stream of requests. Zero-initialise it to start. */
struct http_stream {
	enum http_state state;
	uint64_t left;
	size_t scanned, line_start; /* of an unfinished head or trailer */
	bool method_ended;          /* of an unfinished head */
};

/* What is wrong with a request, and the status code that says so. */
struct http_denial {
	unsigned status; /* 0: nothing */
	const char *reason;
};

enum http_event {
	HTTP_MORE,    /* all that is here was taken, or more is needed */
	HTTP_DATA,    /* a request ended, its body was taken */
	HTTP_REQUEST, /* a request begins, its head was taken */
	HTTP_BAD,
};

enum http_event http_next(struct http_stream *s, const uint8_t *data, size_t len_bytes, size_t *taken, struct http_request *request,
			  struct http_denial *wrong);

#endif
