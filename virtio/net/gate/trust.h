/* The certificate authorities that this host trusts. */
#ifndef CAPLOCK_GATE_TRUST_H
#define CAPLOCK_GATE_TRUST_H

#include <openssl/ssl.h>

enum { TRUST_PATHS_MAX = 32 };

void trust_paths(const char *paths[TRUST_PATHS_MAX]);
int trust_load(SSL_CTX *ctx, int more_fd);

#endif
