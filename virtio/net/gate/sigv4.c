/*
 * AWS Signature Version 4.
 *
 * Theory of operation
 * -------------------
 * Purpose: AWS never gets a key, only signatures made with it: there is no placeholder to replace. So the guest has a key that
 * is none, and signs with that. A request to the key's hosts that names it is signed anew, with the same region, service and
 * fields. Its own signature is not looked at.
 *
 * Trust boundary: the head is the guest's. What it says decides what is signed, but not for whom: the host is always signed,
 * so that no server can use a signature that it gets at another; nor when: the date is now.
 *
 * What cannot be signed anew is refused: a URL that was signed before (somebody else may be given it), and a body whose every
 * chunk is signed. A body's hash is the guest's word, where it gives it; otherwise the caller makes it.
 */
#include "virtio/net/gate/sigv4.h"

#include <errno.h>
#include <nettle/hmac.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "virtio/net/gate/http.h"
#include "virtio/net/gate/secret.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"

#define EMPTY_HASH "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" /* of no bytes */

/* ---- Keys ---- */

/* Writes a key that looks like one and is none. Returns 0, or -errno. */
int sigv4_guest_keys_make(char id[SIGV4_GUEST_ID_BYTES], char key[SIGV4_GUEST_KEY_BYTES])
{
	uint8_t random[SIGV4_GUEST_ID_BYTES + SIGV4_GUEST_KEY_BYTES];
	if (getrandom(random, sizeof random, 0) != sizeof random)
		return errno ? -errno : -EIO;
	for (size_t i = 0; i < SIGV4_GUEST_ID_BYTES - 1; i++)
		id[i] = i < 4 ? "AKIA"[i] : "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[random[i] & 31];
	for (size_t i = 0; i < SIGV4_GUEST_KEY_BYTES - 1; i++)
		key[i] = "abcdefghijklmnopqrstuvwxyz234567"[random[SIGV4_GUEST_ID_BYTES + i] & 31];
	id[SIGV4_GUEST_ID_BYTES - 1] = key[SIGV4_GUEST_KEY_BYTES - 1] = 0;
	return 0;
}

/* A copy in the vault, with a NUL; NULL of what is none. */
static const char *keep(struct vault *v, struct sigv4_text t)
{
	char *at = t.at ? (char *)vault_take(v, t.bytes + 1) : NULL;
	if (at)
		memcpy(at, t.at, t.bytes); /* the NUL is there */
	return at;
}

static int open_keys(struct sigv4 *s, const char *profile, const char *text, size_t bytes, struct err *e)
{
	struct sigv4_credentials c;
	int rc = sigv4_parse_credentials(text, bytes, profile, &c, e);
	if (rc)
		return rc;
	rc = vault_open(&s->vault, c.id.bytes + c.key.bytes + c.token.bytes + 3);
	if (rc)
		return err_sys(e, rc, "cannot set memory aside for secrets");
	s->id = keep(&s->vault, c.id);
	s->key = keep(&s->vault, c.key);
	s->token = keep(&s->vault, c.token);
	return 0;
}

/*
 * Takes the keys of a profile out of the text of ~/.aws/credentials, which is wiped whatever comes of it, for requests to these
 * hosts (as those of secrets; ends with NULL) that are signed with `guest_id`. Returns 0, or -errno with what is wrong.
 */
int sigv4_open(struct sigv4 *s, const char *profile, const char *guest_id, const char *const *hosts, char *text, size_t bytes,
	       struct err *e)
{
	char name[SECRET_NAME_BYTES];
	snprintf(name, sizeof name, "aws:%s", profile);
	snprintf(s->guest_id, sizeof s->guest_id, "%s", guest_id);
	int rc = secret_add_hosts(&s->hosts, name, hosts, e);
	if (rc == 0 && strlen(guest_id) != SIGV4_GUEST_ID_BYTES - 1)
		rc = err_set(e, -EINVAL, "secret %s: '%.64s' is no id of a key: it has %d characters", name, guest_id,
			     SIGV4_GUEST_ID_BYTES - 1);
	rc = rc ? rc : open_keys(s, profile, text, bytes, e);
	explicit_bzero(text, bytes);
	if (rc)
		sigv4_close(s);
	return rc;
}

/* Wipes the keys. */
void sigv4_close(struct sigv4 *s)
{
	policy_free(&s->hosts);
	vault_close(&s->vault);
	*s = (struct sigv4){0};
}

/* Whether requests to `t` are signed. Pure, as are all below. */
bool sigv4_belongs(const struct sigv4 *s, const struct secret_target *t)
{
	struct policy_request r = {.proto = NET_TCP, .name = t->host, .port = t->port};
	return policy_intercepts(&s->hosts, &r);
}

/* ---- Signing ---- */

static void put_hex(const uint8_t digest[SHA256_DIGEST_SIZE], char out[SIGV4_HASH_BYTES])
{
	for (size_t i = 0; i < SHA256_DIGEST_SIZE; i++)
		snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

/* The hash of a body, as sigv4_sign() takes it. */
void sigv4_hash(const void *body, size_t bytes, char out[SIGV4_HASH_BYTES])
{
	struct sha256_ctx c;
	uint8_t digest[SHA256_DIGEST_SIZE];
	sha256_init(&c);
	sha256_update(&c, bytes, body);
	sha256_digest(&c, sizeof digest, digest);
	put_hex(digest, out);
}

/* One step: the key becomes the code of `text` with it. */
static void step(uint8_t *key, size_t key_bytes, const char *text, size_t bytes, uint8_t out[SHA256_DIGEST_SIZE])
{
	struct hmac_sha256_ctx c;
	hmac_sha256_set_key(&c, key_bytes, key);
	hmac_sha256_update(&c, bytes, (const uint8_t *)text);
	hmac_sha256_digest(&c, SHA256_DIGEST_SIZE, out);
	explicit_bzero(&c, sizeof c);
}

/* The signature of `text` with the key for this day, region and service. Returns 0 or -ENOMEM. */
static int sign(const char *secret, const char *day, const struct sigv4_scope *scope, const char *text, char out[SIGV4_HASH_BYTES])
{
	const char *const steps[] = {scope->region, scope->service, "aws4_request", text};
	uint8_t key[SHA256_DIGEST_SIZE];
	size_t bytes = strlen(secret) + 4;
	char *first = malloc(bytes + 1);
	if (!first)
		return -ENOMEM;
	snprintf(first, bytes + 1, "AWS4%s", secret);
	step((uint8_t *)first, bytes, day, strlen(day), key);
	for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
		step(key, sizeof key, steps[i], strlen(steps[i]), key);
	put_hex(key, out);
	explicit_bzero(first, bytes);
	explicit_bzero(key, sizeof key); /* by now, the signature */
	free(first);
	return 0;
}

/* The text that is signed is about the hash of the canonical request. */
static int make_authorization(const struct sigv4 *s, const struct http_head *h, const struct sigv4_scope *scope, const char *time,
			      const char *payload_hash, struct buf *out)
{
	struct buf canonical = {0}, names = {0};
	char text[512], hash[SIGV4_HASH_BYTES], signature[SIGV4_HASH_BYTES], day[9];
	int rc = sigv4_canonical(h, scope, payload_hash, &canonical, &names);
	if (rc == 0) {
		snprintf(day, sizeof day, "%.8s", time);
		sigv4_hash(canonical.data, canonical.len, hash);
		snprintf(text, sizeof text, "AWS4-HMAC-SHA256\n%s\n%s/%s/%s/aws4_request\n%s", time, day, scope->region,
			 scope->service, hash);
		rc = sign(s->key, day, scope, text, signature);
	}
	if (rc == 0)
		rc = buf_addf(out, "AWS4-HMAC-SHA256 Credential=%s/%s/%s/%s/aws4_request, SignedHeaders=%.*s, Signature=%s", s->id,
			      day, scope->region, scope->service, (int)names.len, (char *)names.data, signature);
	if (canonical.data)
		explicit_bzero(canonical.data, canonical.len); /* there is the token in it */
	buf_free(&canonical);
	buf_free(&names);
	return rc;
}

/*
 * Puts the fields in that are signed, and the signature. What `scope` and `payload_hash` are about may be within the head: the
 * guest's Authorization goes last.
 */
static int sign_head(const struct sigv4 *s, const struct sigv4_scope *scope, time_t now, const char *payload_hash,
		     struct http_head *h)
{
	struct buf authorization = {0};
	struct tm tm;
	char time[32];
	strftime(time, sizeof time, "%Y%m%dT%H%M%SZ", gmtime_r(&now, &tm));
	int rc = http_set(&h->fields, "X-Amz-Date", time);
	http_remove(&h->fields, "X-Amz-Security-Token");
	if (rc == 0 && s->token)
		rc = http_set(&h->fields, "X-Amz-Security-Token", s->token);
	rc = rc ? rc : make_authorization(s, h, scope, time, payload_hash, &authorization);
	rc = rc ? rc : http_set(&h->fields, "Authorization", (char *)authorization.data);
	buf_free(&authorization);
	return rc;
}

static bool is_hash(const char *text)
{
	return strlen(text) == SIGV4_HASH_BYTES - 1 && strspn(text, "0123456789abcdef") == SIGV4_HASH_BYTES - 1;
}

static const char *result(struct sigv4_result *r, enum sigv4_outcome outcome, const char *reason)
{
	*r = (struct sigv4_result){outcome, reason};
	return NULL;
}

/* What stands for the body in what is signed; NULL, with *r: there is none yet, or it cannot be. */
static const char *choose_payload(const struct http_head *h, const char *body_hash, struct sigv4_result *r)
{
	const char *given = http_get(&h->fields, "X-Amz-Content-Sha256");
	if (given && (is_hash(given) || strcmp(given, "UNSIGNED-PAYLOAD") == 0 ||
		      strcmp(given, "STREAMING-UNSIGNED-PAYLOAD-TRAILER") == 0))
		return given;
	if (given && strncmp(given, "STREAMING-AWS4-", 15) == 0)
		return result(r, SIGV4_REFUSED,
			      "the chunks of this AWS request are signed one by one, and cannot be signed anew: turn chunked "
			      "encoding off in the settings of the SDK for S3");
	if (given)
		return result(r, SIGV4_REFUSED, "a malformed X-Amz-Content-Sha256");
	if (!h->has_body || h->length_bytes == 0)
		return EMPTY_HASH;
	return body_hash ? body_hash : result(r, SIGV4_NEEDS_HASH, NULL);
}

/*
 * Signs a request to `t` that the guest signed with its key; to be called last, when nothing else changes the head. `now` is
 * the time, `body_hash` the hash of its body where the outcome was SIGV4_NEEDS_HASH before; otherwise NULL. Returns 0 with the
 * outcome in *r, or -ENOMEM or -E2BIG, with a head that must not be sent.
 */
int sigv4_sign(const struct sigv4 *s, const struct secret_target *t, time_t now, const char *body_hash, struct http_head *h,
	       struct sigv4_result *r)
{
	const char *authorization = http_get(&h->fields, "Authorization");
	struct sigv4_scope scope;
	bool in_field = authorization && strstr(authorization, s->guest_id);
	bool in_url = strstr(h->path, "Signature=") && strstr(h->path, s->guest_id);
	*r = (struct sigv4_result){SIGV4_NOT_OURS, NULL};
	if ((!in_field && !in_url) || !sigv4_belongs(s, t))
		return 0;
	if (!t->tls)
		result(r, SIGV4_REFUSED, "a request to AWS over HTTP without TLS");
	else if (in_url)
		result(r, SIGV4_REFUSED, "a presigned URL of AWS: the sandbox's key is for the Authorization field only");
	else if (!sigv4_parse_authorization(authorization, s->guest_id, &scope))
		result(r, SIGV4_REFUSED, "an AWS signature other than of AWS4-HMAC-SHA256");
	const char *payload = r->outcome == SIGV4_REFUSED ? NULL : choose_payload(h, body_hash, r);
	if (!payload)
		return 0;
	r->outcome = SIGV4_SIGNED;
	return sign_head(s, &scope, now, payload, h);
}
