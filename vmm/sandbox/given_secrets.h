/* The secrets that a spec gives: for the gate, for the policy, and as placeholders for the guest. */
#ifndef CAPLOCK_SANDBOX_GIVEN_SECRETS_H
#define CAPLOCK_SANDBOX_GIVEN_SECRETS_H

struct caplock_spec;
struct err;
struct gate_config;
struct policy;
struct strv;

int given_secrets_take(const struct caplock_spec *spec, struct gate_config *gate, struct strv *env, struct err *e);
int given_secrets_allow(const struct caplock_spec *spec, struct policy *p, struct err *e);
void given_secrets_close(struct gate_config *gate);
void given_secrets_free(struct gate_config *gate);

#endif
