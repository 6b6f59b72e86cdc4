/* Secrets: the values that the gate puts into requests where the guest has only placeholders for them. */
#ifndef CAPLOCK_GATE_SECRET_H
#define CAPLOCK_GATE_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio/net/gate/vault.h"
#include "virtio/net/policy.h"

struct err;
struct http_fields;
struct http_head;

#define SECRET_PLACEHOLDER_PREFIX "SANDBOX_SECRET_" /* of those that the user did not choose; 32 hexadecimal digits follow */

enum {
	SECRETS_MAX = 64, /* each is a bit of a uint64_t */
	SECRET_NAME_BYTES = 128,
	SECRET_VALUE_MAX_BYTES = 64 << 10,
	SECRET_PLACEHOLDER_MIN_BYTES = 8,
	SECRET_PLACEHOLDER_BYTES = 257, /* with the NUL */
	SECRET_RANDOM_PLACEHOLDER_BYTES = sizeof SECRET_PLACEHOLDER_PREFIX + 32,
};

/* What the user says of a secret, without its value. */
struct secret_spec {
	const char *name;        /* the environment variable */
	const char *placeholder; /* what the guest has in it */
	const char *const *hosts; /* that it belongs to: NAME[:PORTS] or *.NAME[:PORTS], as rules that allow; ends with NULL */
	bool in_path;    /* it may be put into the path of a URL, too */
	bool in_body;    /* and into the body */
	bool plain_http; /* it may be sent without TLS */
};

struct secret {
	char name[SECRET_NAME_BYTES];
	char placeholder[SECRET_PLACEHOLDER_BYTES];
	struct policy hosts; /* that it belongs to: those that are intercepted */
	const char *value;   /* in the vault; not NUL-terminated */
	size_t value_bytes;
	bool in_path, in_body, plain_http;
};

/* Zero-initialise to start; secrets_free() to end. A secret keeps its number. */
struct secrets {
	struct secret *item[SECRETS_MAX];
	size_t count;
	struct vault vault;
	bool begins[256]; /* a placeholder in some form, by its first byte */
};

/* Where a request goes. */
struct secret_target {
	const char *host; /* canonical; NULL: an address, to which no secret belongs */
	uint16_t port;
	bool tls;
};

struct secret_result {
	uint64_t used;               /* bit n: secret number n is in the request now */
	const char *blocked;         /* static: why the request must not be sent, in which nothing was replaced; NULL: it may be */
	const struct secret *secret; /* with `blocked`: the one it is about; NULL: all of them */
};

/* secret.c */
int secrets_add(struct secrets *s, const struct secret_spec *spec, char *value, size_t value_bytes, struct err *e);
int secrets_declare(struct secrets *s, const struct secret_spec *spec, struct err *e);
int secret_check_value(const char *name, const char *value, size_t bytes, struct err *e);
void secrets_free(struct secrets *s);
int secret_add_hosts(struct policy *to, const char *name, const char *const *hosts, struct err *e);
int secret_placeholder_make(char out[SECRET_RANDOM_PLACEHOLDER_BYTES]);
bool secret_belongs(const struct secret *s, const struct secret_target *t);
const char *secret_refusal(const struct secret *s, const struct secret_target *t);
bool secrets_any_for(const struct secrets *s, const struct secret_target *t);
bool secrets_any_in_body(const struct secrets *s, const struct secret_target *t);

/* secret_apply.c */
int secrets_apply(const struct secrets *s, const struct secret_target *t, struct http_head *request, struct secret_result *r);
void secrets_check_trailers(const struct secrets *s, const struct secret_target *t, const struct http_fields *trailers,
			    struct secret_result *r);

#endif
