/*
 * Most programs use the system's bundle, which has the certificate, too (guest/trust.c). These are for those that bring their own,
 * or that run where the image has none.
 */
#include "vmm/sandbox/trust_env.h"

#include <stddef.h>

#include "guest/trust_paths.h"

const char *const trust_env[] = {
	"SSL_CERT_FILE=" TRUST_BUNDLE,                    /* OpenSSL, Go, Rust, Ruby, httpx, uv */
	"REQUESTS_CA_BUNDLE=" TRUST_BUNDLE,               /* Python requests */
	"CURL_CA_BUNDLE=" TRUST_BUNDLE,                   /* curl */
	"GIT_SSL_CAINFO=" TRUST_BUNDLE,                   /* git */
	"PIP_CERT=" TRUST_BUNDLE,                         /* pip */
	"AWS_CA_BUNDLE=" TRUST_BUNDLE,                    /* AWS command line and SDKs */
	"CARGO_HTTP_CAINFO=" TRUST_BUNDLE,                /* cargo */
	"HTTPLIB2_CA_CERTS=" TRUST_BUNDLE,                /* Python httplib2, gcloud */
	"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=" TRUST_BUNDLE, /* gRPC for C++, Python, Ruby, PHP */
	"PERL_LWP_SSL_CA_FILE=" TRUST_BUNDLE,             /* Perl LWP */
	"NIX_SSL_CERT_FILE=" TRUST_BUNDLE,                /* Nix */
	"NODE_EXTRA_CA_CERTS=" TRUST_CERTIFICATE,         /* Node.js, Bun: in addition to their own */
	"DENO_CERT=" TRUST_CERTIFICATE,                   /* Deno: likewise */
	NULL,
};
