/* guest/trust.c, jks.c and sha1.c: what an image's files become, and what hostile ones do not. The image is a directory. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/jks.h"
#include "guest/sha1.h"
#include "guest/trust.h"
#include "guest/trust_paths.h"

#define PEM(body) "-----BEGIN CERTIFICATE-----\n" body "\n-----END CERTIFICATE-----\n"

static const char ours[] = PEM("b3Vycw=="); /* "ours" */
static const char theirs[] = "# A comment\n" PEM("dGhlaXJz") PEM("b3RoZXJz"); /* "theirs", "others" */
static char outside[64], root[80];
static int root_fd;

/* An empty image in a directory of its own, with something beside it that nobody may touch. */
static void set_up(void)
{
	strcpy(outside, "/tmp/caplock-trust-XXXXXX");
	cr_assert_not_null(mkdtemp(outside));
	snprintf(root, sizeof root, "%s/root", outside);
	cr_assert_eq(mkdir(root, 0755), 0);
	root_fd = open(root, O_PATH | O_DIRECTORY);
}

static void tear_down(void)
{
	char command[128];
	close(root_fd);
	snprintf(command, sizeof command, "rm -rf %s", outside);
	cr_assert_eq(system(command), 0);
}

static void make_parents(const char *path)
{
	char partial[256];
	for (const char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		snprintf(partial, sizeof partial, "%.*s", (int)(slash - path - 1), path + 1);
		mkdirat(root_fd, partial, 0755);
	}
}

static void put(const char *path, const void *data, size_t len)
{
	make_parents(path);
	int fd = openat(root_fd, path + 1, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	cr_assert(fd >= 0 && write(fd, data, len) == (ssize_t)len, "%s", path);
	close(fd);
}

static void put_link(const char *path, const char *target)
{
	make_parents(path);
	cr_assert_eq(symlinkat(target, root_fd, path + 1), 0, "%s", path);
}

/* What a path of the image has, through links, which are all relative here; "" where there is nothing. */
static const char *content(const char *path)
{
	static char text[65536];
	int fd = openat(root_fd, path + 1, O_RDONLY | O_NONBLOCK);
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
	text[n > 0 ? n : 0] = 0;
	if (fd >= 0)
		close(fd);
	return text;
}

static unsigned count(const char *text, const char *what)
{
	unsigned n = 0;
	while ((text = strstr(text, what))) {
		n++;
		text += strlen(what);
	}
	return n;
}

static void install(void)
{
	trust_install(root_fd, ours, sizeof ours - 1, "/opt/java");
}

static void expect_link(const char *path, const char *target)
{
	char text[256] = "";
	ssize_t n = readlinkat(root_fd, path + 1, text, sizeof text - 1);
	cr_expect(n > 0 && strcmp(text, target) == 0, "%s: %s", path, text);
}

TestSuite(trust, .init = set_up, .fini = tear_down);

Test(trust, debian)
{
	char both[512];
	snprintf(both, sizeof both, "%s%s", theirs, ours);
	put("/etc/ssl/certs/ca-certificates.crt", theirs, strlen(theirs));
	install();
	cr_expect_str_eq(content("/etc/ssl/certs/ca-certificates.crt"), both);
	cr_expect_str_eq(content(TRUST_CERTIFICATE), ours);
	cr_expect_str_eq(content("/usr/local/share/ca-certificates/caplock-ca.crt"), ours);
	expect_link(TRUST_BUNDLE, "/etc/ssl/certs/ca-certificates.crt");
	cr_expect_str_eq(content("/etc/pki/ca-trust/source/anchors/caplock-ca.crt"), "", "only Fedora has that");
}

Test(trust, a_bundle_whose_last_line_does_not_end)
{
	put("/etc/ssl/certs/ca-certificates.crt", "x", 1);
	install();
	cr_expect_eq(strncmp(content("/etc/ssl/certs/ca-certificates.crt"), "x\n-----BEGIN", 12), 0);
}

/* As they are there: relative and absolute links, several names of one file. */
Test(trust, fedora)
{
	static const char bundle[] = "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem";
	put(bundle, theirs, strlen(theirs));
	put("/etc/pki/ca-trust/source/anchors/README", "x", 1);
	put_link("/etc/pki/tls/certs/ca-bundle.crt", bundle);
	put_link("/etc/pki/tls/cert.pem", "certs/ca-bundle.crt");
	put_link("/etc/ssl/certs", "../pki/tls/certs");
	put_link("/etc/ssl/cert.pem", "/etc/pki/tls/certs/ca-bundle.crt");
	install();
	cr_expect_eq(count(content(bundle), "BEGIN"), 3);
	cr_expect_str_eq(content("/etc/pki/tls/certs/caplock-ca.crt"), ours);
	cr_expect_str_eq(content("/etc/pki/ca-trust/source/anchors/caplock-ca.crt"), ours);
	expect_link("/etc/pki/tls/certs/caplock-bundle.crt", bundle);
}

Test(trust, alpine_and_suse)
{
	put("/etc/ssl/certs/ca-certificates.crt", theirs, strlen(theirs));
	put_link("/etc/ssl/cert.pem", "certs/ca-certificates.crt");
	put("/var/lib/ca-certificates/ca-bundle.pem", theirs, strlen(theirs));
	put_link("/etc/ssl/ca-bundle.pem", "../../var/lib/ca-certificates/ca-bundle.pem");
	install();
	cr_expect_eq(count(content("/etc/ssl/certs/ca-certificates.crt"), "BEGIN"), 3);
	cr_expect_eq(count(content("/etc/ssl/ca-bundle.pem"), "BEGIN"), 3);
}

Test(trust, an_image_that_trusts_nobody)
{
	install();
	cr_expect_str_eq(content("/etc/ssl/certs/ca-certificates.crt"), ours);
	cr_expect_str_eq(content(TRUST_CERTIFICATE), ours);
	expect_link(TRUST_BUNDLE, "/etc/ssl/certs/ca-certificates.crt");
}

Test(trust, twice_is_once)
{
	install();
	install();
	cr_expect_str_eq(content("/etc/ssl/certs/ca-certificates.crt"), ours);
}

/* ---- Hostile images: nothing outside is touched, nothing is waited for, and the rest is done ---- */

static void put_canary(const char *name)
{
	char path[128];
	snprintf(path, sizeof path, "%s/%s", outside, name);
	int fd = open(path, O_WRONLY | O_CREAT, 0644);
	cr_assert_eq(write(fd, "canary", 6), 6);
	close(fd);
}

static void expect_canary(const char *name)
{
	char path[128], text[32] = "";
	snprintf(path, sizeof path, "%s/%s", outside, name);
	int fd = open(path, O_RDONLY);
	cr_expect(fd >= 0 && read(fd, text, sizeof text - 1) == 6 && strcmp(text, "canary") == 0, "%s", path);
	close(fd);
}

Test(trust, links_that_lead_outside)
{
	char absolute[128];
	put_canary("a");
	put_canary("b");
	put_canary("caplock-ca.crt");
	snprintf(absolute, sizeof absolute, "%s/a", outside);
	put_link("/etc/ssl/certs/ca-certificates.crt", "../../../../a");
	put_link("/etc/ssl/cert.pem", absolute);
	put_link("/etc/ssl/ca-bundle.pem", "../../../../../../../../proc/self/cwd/../b");
	put_link(TRUST_CERTIFICATE, absolute);
	put_link("/usr/local/share/ca-certificates", "../../../../");
	put_link("/etc/ssl/certs/java", "../../../..");
	install();
	expect_canary("a");
	expect_canary("b");
	expect_canary("caplock-ca.crt");
	cr_expect_str_eq(content(TRUST_CERTIFICATE), ours, "a link makes room");
	cr_expect_str_eq(content("/caplock-ca.crt"), ours, "the root is what a link cannot leave");
}

Test(trust, what_is_no_file, .timeout = 20)
{
	make_parents("/etc/ssl/certs/x");
	make_parents("/etc/pki/tls/certs/x");
	make_parents("/etc/ssl/certs/java/x");
	cr_assert_eq(mkfifoat(root_fd, "etc/ssl/certs/ca-certificates.crt", 0666), 0);
	cr_assert_eq(mkfifoat(root_fd, "etc/ssl/certs/caplock-ca.crt", 0666), 0);
	cr_assert_eq(mkfifoat(root_fd, "etc/ssl/certs/java/cacerts", 0666), 0);
	put_link("/etc/ssl/cert.pem", "cert.pem");                  /* a loop */
	put_link("/etc/pki/tls/certs/ca-bundle.crt", "/dev/zero");  /* not of the image */
	put_link("/etc/ssl/ca-bundle.pem", "/proc/self/fd/0");
	make_parents("/var/lib/ca-certificates/ca-bundle.pem/x");  /* a directory */
	install();
	cr_expect_str_eq(content("/etc/ssl/certs/ca-certificates.crt"), ours, "a pipe makes room");
	cr_expect_str_eq(content(TRUST_CERTIFICATE), ours);
}

Test(trust, what_is_no_directory)
{
	put("/etc", "x", 1);
	put("/usr", "x", 1);
	install();
	cr_expect_str_eq(content("/etc"), "x");
}

Test(trust, a_bundle_of_a_terabyte)
{
	put("/etc/ssl/certs/ca-certificates.crt", "x", 1);
	int fd = openat(root_fd, "etc/ssl/certs/ca-certificates.crt", O_WRONLY);
	cr_assert_eq(ftruncate(fd, 1ll << 40), 0);
	close(fd);
	put("/etc/ssl/cert.pem", theirs, strlen(theirs));
	install();
	expect_link(TRUST_BUNDLE, "/etc/ssl/cert.pem");
}

/* ---- Java ---- */

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Lists the entries of a store as "alias=certificate ", where its digest is right. */
static const char *entries(const uint8_t *store, size_t len)
{
	static char text[1024];
	static const uint8_t password[] = "\0c\0h\0a\0n\0g\0e\0i\0tMighty Aphrodite";
	uint8_t digest[SHA1_BYTES];
	struct sha1 sum;
	sha1_begin(&sum);
	sha1_add(&sum, password, sizeof password - 1);
	sha1_add(&sum, store, len - SHA1_BYTES);
	sha1_end(&sum, digest);
	text[0] = 0;
	cr_assert_eq(memcmp(digest, store + len - SHA1_BYTES, SHA1_BYTES), 0);
	cr_assert(be32(store) == 0xfeedfeed && be32(store + 4) == 2);
	const uint8_t *p = store + 12;
	for (uint32_t left = be32(store + 8); left; left--) {
		cr_assert_eq(be32(p), 2);
		unsigned alias = (unsigned)p[4] << 8 | p[5];
		const uint8_t *type = p + 6 + alias + 8;
		cr_assert_eq(memcmp(type, "\0\5X.509", 7), 0);
		uint32_t n = be32(type + 7);
		snprintf(text + strlen(text), sizeof text - strlen(text), "%.*s=%.*s ", (int)alias, (const char *)p + 6, (int)n,
			 (const char *)type + 11);
		p = type + 11 + n;
	}
	cr_assert_eq(p, store + len - SHA1_BYTES);
	return text;
}

static const char *store_entries(const char *path)
{
	static uint8_t store[65536];
	int fd = openat(root_fd, path + 1, O_RDONLY);
	ssize_t n = read(fd, store, sizeof store);
	close(fd);
	cr_assert_gt(n, 32, "%s", path);
	return entries(store, (size_t)n);
}

static void put_jks(const char *path)
{
	struct jks j = {0};
	cr_assert_eq(jks_create(&j), 0);
	cr_assert_eq(jks_add(&j, "theirs", (const uint8_t *)"DER", 3), 0);
	cr_assert_eq(jks_finish(&j), 0);
	put(path, j.bytes.data + j.bytes.start, queue_len(&j.bytes));
	queue_free(&j.bytes);
}

Test(trust, java_stores)
{
	put("/etc/ssl/certs/ca-certificates.crt", theirs, strlen(theirs));
	put_jks("/etc/ssl/certs/java/cacerts");
	put("/opt/java/lib/security/cacerts", "\x30\x82PKCS 12", 9);
	put_link("/opt/java/jre/lib/security/cacerts", "/opt/java/lib/security/cacerts");
	put("/opt/java/openjdk/lib/security/cacerts", "", 0);
	install();
	cr_expect_str_eq(store_entries("/etc/ssl/certs/java/cacerts"), "theirs=DER caplock-0=ours ");
	cr_expect_str_eq(store_entries("/opt/java/lib/security/cacerts"), "bundle-0=theirs bundle-1=others bundle-2=ours caplock-0=ours ");
	cr_expect_str_eq(content("/opt/java/openjdk/lib/security/cacerts"), "");
}

Test(trust, a_java_store_that_is_not_understood_stays)
{
	static const char *const stores[] = {"\x30\x82", "\xfe\xed\xfe\xed\1\1\1\1", "\xfe\xed\xfe\xed", "text"};
	for (size_t i = 0; i < sizeof stores / sizeof *stores; i++) { /* of the first, there is no bundle to take others from */
		put("/etc/ssl/certs/java/cacerts", stores[i], strlen(stores[i]));
		install();
		cr_expect_str_eq(content("/etc/ssl/certs/java/cacerts"), stores[i], "%zu", i);
	}
}

/* FIPS 180-4, and lengths around the padding's borders against each other. */
Test(sha1, known_digests)
{
	static const struct {
		const char *text, *digest;
	} rows[] = {
		{"", "da39a3ee5e6b4b0d3255bfef95601890afd80709"},
		{"abc", "a9993e364706816aba3e25717850c26c9cd0d89d"},
		{"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "84983e441c3bd26ebaae4aa1f95129e5e54670f1"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		uint8_t digest[SHA1_BYTES];
		char text[2 * SHA1_BYTES + 1];
		struct sha1 s;
		sha1_begin(&s);
		for (const char *p = rows[i].text; *p; p++)
			sha1_add(&s, p, 1);
		sha1_end(&s, digest);
		for (int k = 0; k < SHA1_BYTES; k++)
			snprintf(text + 2 * k, 3, "%02x", digest[k]);
		cr_expect_str_eq(text, rows[i].digest);
	}
}
