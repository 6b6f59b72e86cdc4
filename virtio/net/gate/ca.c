/*
 * Theory of operation
 * -------------------
 * Purpose: the guest trusts one authority that exists only in its gate, for as long as the sandbox. Certificates (RFC 5280) are
 * made when a host is first met; the last CA_LEAVES_MAX are kept. All of them have one key: whoever had one key of this process
 * would have them all. P-256, because making a key or a signature takes microseconds.
 *
 * They are valid from two days ago, as the guest's clock may be behind ours.
 */
#define OPENSSL_API_COMPAT 10101 /* make_key() */
#include "virtio/net/gate/ca.h"

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/name.h"

enum {
	DAY_S = 24 * 3600,
	EARLIER_DAYS = 2,
	CA_DAYS = 3650,
	LEAF_DAYS = 365, /* clients refuse more than 398 */
	CN_MAX = 64,
};

struct leaf {
	char name[NAME_BYTES];
	X509 *certificate;
	uint64_t used;
};

struct ca {
	EVP_PKEY *key, *leaf_key;
	X509 *certificate;
	struct leaf leaf[CA_LEAVES_MAX];
	uint64_t clock; /* counts uses */
};

static bool add_extension(X509 *x, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX context;
	X509V3_set_ctx(&context, issuer, x, NULL, NULL, 0);
	X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
	bool ok = extension && X509_add_ext(x, extension, -1) == 1;
	X509_EXTENSION_free(extension);
	return ok;
}

/* A serial number that nobody has: 127 random bits. */
static bool set_serial(X509 *x)
{
	uint8_t bytes[16];
	if (RAND_bytes(bytes, sizeof bytes) != 1)
		return false;
	bytes[0] = (uint8_t)((bytes[0] & 0x7f) | 0x40);
	BIGNUM *number = BN_bin2bn(bytes, sizeof bytes, NULL);
	bool ok = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(x));
	BN_free(number);
	return ok;
}

/* A certificate of `key` for `common_name`, without extensions or a signature, or NULL. */
static X509 *make(EVP_PKEY *key, const char *common_name, X509 *issuer, int days)
{
	X509 *x = X509_new();
	X509_NAME *subject = X509_NAME_new();
	bool ok = x && subject && X509_set_version(x, X509_VERSION_3) == 1 && set_serial(x);
	ok = ok && X509_gmtime_adj(X509_getm_notBefore(x), -EARLIER_DAYS * DAY_S) &&
	     X509_gmtime_adj(X509_getm_notAfter(x), (long)days * DAY_S);
	ok = ok && X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const uint8_t *)common_name, -1, -1, 0) == 1;
	ok = ok && X509_set_subject_name(x, subject) == 1 && X509_set_pubkey(x, key) == 1;
	ok = ok && X509_set_issuer_name(x, issuer ? X509_get_subject_name(issuer) : subject) == 1;
	X509_NAME_free(subject);
	if (ok)
		return x;
	X509_free(x);
	return NULL;
}

static X509 *make_authority(EVP_PKEY *key)
{
	uint8_t id[4];
	char name[CN_MAX];
	RAND_bytes(id, sizeof id);
	snprintf(name, sizeof name, "Caplock sandbox %02x%02x%02x%02x", id[0], id[1], id[2], id[3]);
	X509 *x = make(key, name, NULL, CA_DAYS);
	if (x && add_extension(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
	    add_extension(x, x, NID_key_usage, "critical,keyCertSign,cRLSign") &&
	    add_extension(x, x, NID_subject_key_identifier, "hash") && X509_sign(x, key, EVP_sha256()))
		return x;
	X509_free(x);
	return NULL;
}

static X509 *make_leaf(struct ca *ca, const char *name)
{
	char alternative[NAME_BYTES + 8];
	snprintf(alternative, sizeof alternative, "DNS:%s", name);
	X509 *x = make(ca->leaf_key, strlen(name) < CN_MAX ? name : "a long name", ca->certificate, LEAF_DAYS);
	if (x && add_extension(x, ca->certificate, NID_basic_constraints, "critical,CA:FALSE") &&
	    add_extension(x, ca->certificate, NID_key_usage, "critical,digitalSignature") &&
	    add_extension(x, ca->certificate, NID_ext_key_usage, "serverAuth") &&
	    add_extension(x, ca->certificate, NID_subject_key_identifier, "hash") &&
	    add_extension(x, ca->certificate, NID_authority_key_identifier, "keyid") &&
	    add_extension(x, ca->certificate, NID_subject_alt_name, alternative) && X509_sign(x, ca->key, EVP_sha256()))
		return x;
	X509_free(x);
	return NULL;
}

/*
 * A key in OpenSSL's old form: one in the new is encoded and decoded for each certificate that gets it, which takes longer than all
 * the rest of making the certificate.
 */
static EVP_PKEY *make_key(void)
{
	EC_KEY *ec = EC_KEY_new_by_curve_name(NID_X9_62_prime256v1);
	EVP_PKEY *key = EVP_PKEY_new();
	if (ec && key && EC_KEY_generate_key(ec) == 1 && EVP_PKEY_assign_EC_KEY(key, ec) == 1)
		return key;
	EC_KEY_free(ec);
	EVP_PKEY_free(key);
	return NULL;
}

/* Makes an authority with keys of its own, or NULL. ca_destroy() to end. */
struct ca *ca_create(void)
{
	struct ca *ca = calloc(1, sizeof *ca);
	if (!ca)
		return NULL;
	ca->key = make_key();
	ca->leaf_key = make_key();
	ca->certificate = ca->key && ca->leaf_key ? make_authority(ca->key) : NULL;
	if (ca->certificate)
		return ca;
	ca_destroy(ca);
	return NULL;
}

/* Accepts NULL. */
void ca_destroy(struct ca *ca)
{
	if (!ca)
		return;
	for (unsigned i = 0; i < CA_LEAVES_MAX; i++)
		X509_free(ca->leaf[i].certificate);
	X509_free(ca->certificate);
	EVP_PKEY_free(ca->key);
	EVP_PKEY_free(ca->leaf_key);
	free(ca);
}

/* Appends the certificate that the guest is to trust, as PEM. Returns 0 or -ENOMEM. */
int ca_certificate(const struct ca *ca, struct buf *pem)
{
	BIO *bio = BIO_new(BIO_s_mem());
	char *text = NULL;
	int rc = -ENOMEM;
	if (bio && PEM_write_bio_X509(bio, ca->certificate) == 1) {
		size_t bytes = (size_t)BIO_get_mem_data(bio, &text);
		rc = buf_add(pem, text, bytes);
	}
	BIO_free(bio);
	return rc;
}

/* The certificate for a canonical name: kept, or made now. It stays the authority's, until its next call. NULL: out of memory. */
X509 *ca_leaf(struct ca *ca, const char *name)
{
	struct leaf *oldest = &ca->leaf[0];
	for (unsigned i = 0; i < CA_LEAVES_MAX; i++) {
		struct leaf *l = &ca->leaf[i];
		if (l->certificate && strcmp(l->name, name) == 0) {
			l->used = ++ca->clock;
			return l->certificate;
		}
		oldest = l->used < oldest->used ? l : oldest;
	}
	X509_free(oldest->certificate);
	oldest->certificate = make_leaf(ca, name);
	oldest->used = oldest->certificate ? ++ca->clock : 0;
	snprintf(oldest->name, sizeof oldest->name, "%s", name);
	return oldest->certificate;
}

/* The key of every certificate; it stays the authority's. */
EVP_PKEY *ca_leaf_key(struct ca *ca)
{
	return ca->leaf_key;
}
