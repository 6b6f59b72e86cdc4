/*
 * Distributions keep their authorities in different places: as a directory that is looked up by hash, of which only what is needed
 * is read, or as one file. SSL_CERT_FILE and SSL_CERT_DIR win, as in every program that uses OpenSSL.
 */
#include "virtio/net/gate/trust.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char certs_dir[] = "/etc/ssl/certs";

static const char *const bundles[] = {
	"/etc/pki/tls/certs/ca-bundle.crt", /* Fedora */
	"/etc/ssl/cert.pem",                /* Alpine */
	"/etc/ssl/ca-bundle.pem",           /* openSUSE */
};

/* All that is read after the gate is confined: the resolver's files, and authorities. */
static const char *const readable[] = {
	"/etc/resolv.conf", "/etc/hosts",      "/etc/nsswitch.conf", "/etc/host.conf", "/dev/urandom", "/etc/ssl", "/etc/pki",
	"/usr/lib/ssl",     "/usr/share/pki", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates",
	"/etc/ca-certificates", "/var/lib/ca-certificates",
};

/* The files and directories that a gate must be able to read for trust_load() and its resolver; ends with NULL. */
void trust_paths(const char *paths[TRUST_PATHS_MAX])
{
	size_t count = 0;
	for (size_t i = 0; i < sizeof readable / sizeof readable[0]; i++)
		paths[count++] = readable[i];
	if (getenv("SSL_CERT_FILE"))
		paths[count++] = getenv("SSL_CERT_FILE");
	if (getenv("SSL_CERT_DIR"))
		paths[count++] = getenv("SSL_CERT_DIR");
	paths[count] = NULL;
}

/* Adds the certificates in a file, which is closed. Returns 0, or -EINVAL where there is none. */
static int add_file(X509_STORE *store, int fd)
{
	FILE *file = fdopen(fd, "r");
	unsigned count = 0;
	X509 *certificate;
	if (!file) {
		close(fd);
		return -EINVAL;
	}
	while ((certificate = PEM_read_X509(file, NULL, NULL, NULL))) {
		count += X509_STORE_add_cert(store, certificate) == 1;
		X509_free(certificate);
	}
	ERR_clear_error();
	fclose(file);
	return count ? 0 : -EINVAL;
}

/*
 * Makes ctx trust what the host trusts, and the certificates in more_fd (-1: none), which is closed. Returns 0, or -EINVAL where
 * more_fd has none.
 */
int trust_load(SSL_CTX *ctx, int more_fd)
{
	const char *file = getenv("SSL_CERT_FILE"), *dir = getenv("SSL_CERT_DIR");
	X509_STORE *store = SSL_CTX_get_cert_store(ctx);
	if (file || dir) {
		SSL_CTX_load_verify_locations(ctx, file, dir);
	} else {
		SSL_CTX_load_verify_dir(ctx, certs_dir);
		for (size_t i = 0; i < sizeof bundles / sizeof bundles[0]; i++)
			if (access(bundles[i], R_OK) == 0 && SSL_CTX_load_verify_file(ctx, bundles[i]) == 1)
				break;
	}
	ERR_clear_error();
	return more_fd < 0 ? 0 : add_file(store, more_fd);
}
