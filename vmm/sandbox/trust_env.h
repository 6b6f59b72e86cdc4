/* Variables by which programs in a sandbox find what they are to trust, where the gate opens TLS. */
#ifndef CAPLOCK_SANDBOX_TRUST_ENV_H
#define CAPLOCK_SANDBOX_TRUST_ENV_H

extern const char *const trust_env[]; /* ends with NULL */

#endif
