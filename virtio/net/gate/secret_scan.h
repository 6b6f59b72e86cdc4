/* Secrets in bodies: placeholders in requests, values in answers. */
#ifndef CAPLOCK_GATE_SECRET_SCAN_H
#define CAPLOCK_GATE_SECRET_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio/net/gate/matcher.h"
#include "virtio/net/gate/vault.h"
#include "vmm/util/buf.h"

struct http_fields;
struct secret;
struct secret_target;
struct secrets;

enum {
	SECRET_RAW_MIN_BYTES = 4,     /* a shorter value is in most answers anyway: it is not taken out */
	SECRET_ENCODED_MIN_BYTES = 8, /* nor are encoded forms of shorter ones */
};

/* What is looked for. Zero-initialise to start; secret_patterns_free() to end. */
struct secret_patterns {
	const struct secrets *secrets;
	struct matcher placeholders; /* id: the number of the secret */
	struct matcher values;       /* id: twice the number, and one more where the value is encoded */
	struct vault vault;          /* the encoded values */
};

/* One body on its way. secret_scan_request() or _answer() to start; secret_scan_free() to end. */
struct secret_scan {
	const struct secrets *secrets;
	const struct matcher *matcher;
	bool answer;
	bool keep_length;  /* what is put in is cut or filled to the length of what it replaces */
	uint64_t put_in;   /* bit n: the value of secret n is put in */
	uint64_t stopped;  /* bit n: the body is stopped at a placeholder of secret n */
	struct buf held;   /* what may be the beginning of something */
	uint64_t found;    /* bit n: secret n was put in, or taken out */
	uint64_t count;    /* how often any was */
	const struct secret *blocked; /* at whose placeholder the request was stopped, or NULL */
};

int secret_patterns_make(struct secret_patterns *p, const struct secrets *s);
void secret_patterns_free(struct secret_patterns *p);
void secret_scan_request(struct secret_scan *scan, const struct secret_patterns *p, const struct secret_target *t);
void secret_scan_answer(struct secret_scan *scan, const struct secret_patterns *p, bool keep_length);
int secret_scan_feed(struct secret_scan *scan, const void *data, size_t bytes, size_t *pass_bytes, struct buf *out);
int secret_scan_end(struct secret_scan *scan, struct buf *out);
void secret_scan_free(struct secret_scan *scan);
int secret_redact_fields(const struct secret_patterns *p, struct http_fields *fields, uint64_t *found);

#endif
