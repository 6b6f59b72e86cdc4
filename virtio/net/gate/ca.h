/* The certificate authority of one sandbox, and the certificates that it makes. */
#ifndef CAPLOCK_GATE_CA_H
#define CAPLOCK_GATE_CA_H

#include <openssl/ssl.h>

#include "vmm/util/buf.h"

enum { CA_LEAVES_MAX = 64 }; /* certificates that are kept */

struct ca;

struct ca *ca_create(void);
void ca_destroy(struct ca *ca);
int ca_certificate(const struct ca *ca, struct buf *pem);
X509 *ca_leaf(struct ca *ca, const char *name);
EVP_PKEY *ca_leaf_key(struct ca *ca);

#endif
