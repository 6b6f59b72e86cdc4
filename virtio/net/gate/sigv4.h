/* AWS Signature Version 4: requests that the guest signed with a key that is none are signed with the real one. */
#ifndef CAPLOCK_GATE_SIGV4_H
#define CAPLOCK_GATE_SIGV4_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "virtio/net/gate/vault.h"
#include "virtio/net/policy.h"

struct buf;
struct err;
struct http_head;
struct secret_target;

enum {
	SIGV4_GUEST_ID_BYTES = 20 + 1,  /* "AKIA" and 16 letters and digits */
	SIGV4_GUEST_KEY_BYTES = 40 + 1,
	SIGV4_HASH_BYTES = 64 + 1,      /* SHA-256, hexadecimal */
	SIGV4_BODY_MAX_BYTES = 1 << 20, /* that is worth keeping to make the hash of it */
	SIGV4_SCOPE_BYTES = 64,
};

/* A part of a text; NULL: none. */
struct sigv4_text {
	const char *at;
	size_t bytes;
};

/* What a file of credentials says of a profile. */
struct sigv4_credentials {
	struct sigv4_text id, key, token;
};

/* Keys, and the hosts that they are for. Zero-initialise to start; sigv4_close() to end. */
struct sigv4 {
	char guest_id[SIGV4_GUEST_ID_BYTES]; /* what the guest has for an access key's id */
	struct policy hosts;
	struct vault vault;
	const char *id, *key, *token; /* in the vault; token: NULL where there is none */
};

enum sigv4_outcome {
	SIGV4_NOT_OURS,  /* the guest's key did not sign it: the request is as it was */
	SIGV4_SIGNED,
	SIGV4_NEEDS_HASH, /* the request is as it was: call again with the hash of its body */
	SIGV4_REFUSED,   /* `reason`, static: the request must not be sent */
};

struct sigv4_result {
	enum sigv4_outcome outcome;
	const char *reason;
};

/* Who signs, for which service, and what of the request is signed: a guest's Authorization field. */
struct sigv4_scope {
	char region[SIGV4_SCOPE_BYTES], service[SIGV4_SCOPE_BYTES];
	struct sigv4_text fields; /* names with ';' between them */
};

/* sigv4.c */
int sigv4_guest_keys_make(char id[SIGV4_GUEST_ID_BYTES], char key[SIGV4_GUEST_KEY_BYTES]);
int sigv4_open(struct sigv4 *s, const char *profile, const char *guest_id, const char *const *hosts, char *text,
	       size_t bytes, struct err *e);
void sigv4_close(struct sigv4 *s);
bool sigv4_belongs(const struct sigv4 *s, const struct secret_target *t);
void sigv4_hash(const void *body, size_t bytes, char out[SIGV4_HASH_BYTES]);
int sigv4_sign(const struct sigv4 *s, const struct secret_target *t, time_t now, const char *body_hash, struct http_head *h,
	       struct sigv4_result *r);

/* sigv4_parse.c */
int sigv4_parse_credentials(const char *text, size_t bytes, const char *profile, struct sigv4_credentials *out, struct err *e);
bool sigv4_parse_authorization(const char *value, const char *id, struct sigv4_scope *out);

/* sigv4_canonical.c */
int sigv4_canonical(const struct http_head *h, const struct sigv4_scope *scope, const char *payload_hash, struct buf *request,
		    struct buf *names);

#endif
