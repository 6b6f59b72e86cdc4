/* A message of HTTP, without its body: what both versions of the protocol, and all that looks at messages, have in common. */
#ifndef CAPLOCK_GATE_HTTP_H
#define CAPLOCK_GATE_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	HTTP_FIELDS_MAX = 256,               /* of a message */
	HTTP_FIELDS_MAX_BYTES = 64 << 10,    /* names and values, with the request line: as a whole */
	HTTP_LENGTH_UNKNOWN = -1,
};

/* A header or trailer field. The value has no CR, LF or NUL, and no blanks around it. */
struct http_field {
	char *name; /* as it came; HTTP/2 has it in lower case. Compared without case */
	char *value;
};

/* Fields in their order. Zero-initialise to start; http_fields_free() to end. The texts are its own. */
struct http_fields {
	struct http_field *item;
	size_t count;
	size_t bytes; /* of all names and values */
};

/*
 * A request's or a response's head. Fields that belong to one connection or that say where the body ends (Connection, TE,
 * Transfer-Encoding, Content-Length, Host, ...) are not among the fields: they are written anew. Zero-initialise to start;
 * http_head_free() to end. The texts are its own.
 */
struct http_head {
	char *method;    /* of a request; NULL: a response */
	char *authority; /* of a request: Host or :authority, as it came, checked to be a host and a port */
	char *path;      /* of a request: begins with '/', with the query; or "*" */
	unsigned status; /* of a response: 100 to 599 */
	struct http_fields fields;
	int64_t length_bytes; /* that was declared of the body; HTTP_LENGTH_UNKNOWN: none */
	bool has_body;        /* something may follow the head, were it nothing */
	bool upgrade;         /* of a request: to WebSocket, and of a response: 101 */
	bool expects_continue; /* of a request */
	bool close;           /* the connection ends after this message (HTTP/1) */
	bool trailers;        /* of a request: TE had "trailers" */
};

/* http.c. What can fail returns 0, -ENOMEM, or -E2BIG beyond the limits above. */
const char *http_get(const struct http_fields *f, const char *name);
int http_add(struct http_fields *f, const char *name, size_t name_bytes, const char *value, size_t value_bytes);
int http_set(struct http_fields *f, const char *name, const char *value);
void http_remove(struct http_fields *f, const char *name);
void http_remove_at(struct http_fields *f, size_t at);
int http_replace_text(char **text, const char *value);
void http_fields_free(struct http_fields *f);
int http_head_copy(struct http_head *to, const struct http_head *from);
void http_head_free(struct http_head *h);

#endif
