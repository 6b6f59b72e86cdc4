/* Has the programs of a sandbox trust a certificate. */
#ifndef CAPLOCK_GUEST_TRUST_H
#define CAPLOCK_GUEST_TRUST_H

#include <stddef.h>

void trust_install(int root_fd, const char *pem, size_t len_bytes, const char *java_home);

#endif
