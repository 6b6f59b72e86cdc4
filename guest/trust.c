/*
 * Theory of operation
 * -------------------
 * Purpose: programs in the sandbox trust the gate's certificate, which is only there where the gate opens TLS. It goes to where the
 * image's distribution has the authorities that it trusts: at the end of each bundle (PEM), into Java's trust stores, and as a
 * file of its own where the tools that make bundles look. TRUST_BUNDLE, which the variables of commands name, is a link to the
 * first of the bundles, so that it stays what they are.
 *
 * Trust boundary: all of these files are the image's. Symbolic links are followed, as distributions have them there, but only
 * inside the root and on its own filesystem. Only plain files are opened, of bounded size, and nothing is waited for. What cannot
 * be written is not worth more than a line in the log. No command runs yet, so that nothing changes meanwhile.
 *
 * The image itself is untouched: writes go to the layer over it.
 */
#include "guest/trust.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guest/jks.h"
#include "guest/log.h"
#include "guest/trust_paths.h"

enum {
	FILE_MAX_BYTES = 16 << 20,
	PKCS12_BYTE = 0x30, /* the first: a sequence in DER */
};

struct certificate {
	const char *pem;
	size_t len_bytes;
};

/* Made where there is none. */
#define DEFAULT_BUNDLE "/etc/ssl/certs/ca-certificates.crt"

static const char *const bundles[] = {
	DEFAULT_BUNDLE,                                      /* Debian, Ubuntu, Alpine, Arch */
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", /* Fedora, Red Hat */
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/var/lib/ca-certificates/ca-bundle.pem",            /* SUSE */
	"/etc/ssl/ca-bundle.pem",
	"/etc/ssl/certs/ca-bundle.crt",                      /* Nix */
	"/etc/ssl/cert.pem",
	"/etc/pki/tls/cert.pem",
};

/* Where tools that make bundles look for more; only the first is made where it is missing. */
static const char *const anchors[] = {
	"/usr/local/share/ca-certificates",  /* Debian, Alpine: update-ca-certificates */
	"/etc/pki/ca-trust/source/anchors",  /* Fedora: update-ca-trust */
	"/etc/pki/trust/anchors",            /* SUSE */
	"/etc/ca-certificates/trust-source/anchors", /* Arch */
};

static const char *const java_stores[] = {
	"/etc/ssl/certs/java/cacerts",             /* Debian, Alpine */
	"/etc/pki/ca-trust/extracted/java/cacerts", /* Fedora */
	"/etc/pki/java/cacerts",
	"/opt/java/openjdk/lib/security/cacerts",  /* Temurin */
};

/* ---- Files of the image ---- */

static int open_inside(int root_fd, const char *path, uint64_t flags)
{
	struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS};
	return (int)syscall(SYS_openat2, root_fd, path, &how, sizeof how);
}

/* Opens a plain file; what else has its name is not opened at all, as that could have an effect. Returns -1 where it is none. */
static int open_plain(int root_fd, const char *path, int flags)
{
	char again[32];
	struct stat st;
	int fd = -1, path_fd = open_inside(root_fd, path, O_PATH);
	if (path_fd < 0)
		return -1;
	if (fstat(path_fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= FILE_MAX_BYTES) {
		snprintf(again, sizeof again, "/proc/self/fd/%d", path_fd);
		fd = open(again, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	}
	close(path_fd);
	return fd;
}

static bool write_all(int fd, const void *data, size_t len_bytes)
{
	for (const char *p = data; len_bytes;) {
		ssize_t n = write(fd, p, len_bytes);
		if (n <= 0)
			return false;
		p += n;
		len_bytes -= (size_t)n;
	}
	return true;
}

/* Reads a plain file into `q`. */
static bool read_file(int root_fd, const char *path, struct queue *q)
{
	int fd = open_plain(root_fd, path, O_RDONLY);
	ssize_t n = -1;
	while (fd >= 0 && queue_len(q) <= FILE_MAX_BYTES) {
		uint8_t *room = queue_reserve(q, 64 << 10);
		n = room ? read(fd, room, 64 << 10) : -1;
		if (n <= 0)
			break;
		q->end += (size_t)n;
	}
	if (fd >= 0)
		close(fd);
	return n == 0;
}

/* Opens a directory, and makes those that are missing on the way to it. Returns -1 where something else is there. */
static int open_directory(int root_fd, const char *path)
{
	char partial[PATH_MAX];
	int fd = open_inside(root_fd, "/", O_PATH | O_DIRECTORY);
	for (const char *at = path; fd >= 0 && *at;) {
		at += strspn(at, "/");
		size_t n = strcspn(at, "/");
		snprintf(partial, sizeof partial, "%.*s", (int)(at + n - path), path);
		int next = open_inside(root_fd, partial, O_PATH | O_DIRECTORY);
		if (next < 0 && errno == ENOENT) {
			const char *name = strrchr(partial, '/') + 1;
			next = mkdirat(fd, name, 0755) ? -1 : open_inside(root_fd, partial, O_PATH | O_DIRECTORY);
		}
		close(fd);
		fd = next;
		at += n;
	}
	return fd;
}

/* Opens the directory that `path` is in. */
static int open_parent(int root_fd, const char *path)
{
	char parent[PATH_MAX];
	snprintf(parent, sizeof parent, "%.*s", (int)(strrchr(path, '/') - path), path);
	return open_directory(root_fd, parent);
}

static void remove_name(int dir_fd, const char *name)
{
	if (unlinkat(dir_fd, name, 0))
		unlinkat(dir_fd, name, AT_REMOVEDIR);
}

static void not_written(const char *path)
{
	log_error("cannot write %s: %s", path, strerror(errno));
}

/* Makes a new plain file, in the place of what had its name. */
static void put_file(int root_fd, const char *path, const void *data, size_t len_bytes)
{
	const char *name = strrchr(path, '/') + 1;
	int dir_fd = open_parent(root_fd, path), fd = -1;
	if (dir_fd >= 0) {
		remove_name(dir_fd, name);
		fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
		close(dir_fd);
	}
	if (fd < 0 || !write_all(fd, data, len_bytes))
		not_written(path);
	if (fd >= 0)
		close(fd);
}

static void put_link(int root_fd, const char *path, const char *target)
{
	const char *name = strrchr(path, '/') + 1;
	int dir_fd = open_parent(root_fd, path);
	if (dir_fd >= 0)
		remove_name(dir_fd, name);
	if (dir_fd < 0 || symlinkat(target, dir_fd, name))
		not_written(path);
	if (dir_fd >= 0)
		close(dir_fd);
}

/* ---- Bundles ---- */

/* Whether the file ends with the certificate: another name of the bundle has led to it. */
static bool ends_with(int fd, off_t size, const struct certificate *c)
{
	char *tail = size >= (off_t)c->len_bytes ? malloc(c->len_bytes) : NULL;
	bool same = tail && pread(fd, tail, c->len_bytes, size - (off_t)c->len_bytes) == (ssize_t)c->len_bytes &&
		    memcmp(tail, c->pem, c->len_bytes) == 0;
	free(tail);
	return same;
}

/* Appends the certificate to a bundle. Returns whether there is one. */
static bool append(int root_fd, const char *path, const struct certificate *c)
{
	struct stat st;
	char last = '\n';
	int fd = open_plain(root_fd, path, O_RDWR | O_APPEND);
	if (fd < 0)
		return false;
	bool ok = fstat(fd, &st) == 0;
	if (ok && !ends_with(fd, st.st_size, c)) {
		ok = st.st_size == 0 || pread(fd, &last, 1, st.st_size - 1) == 1;
		ok = ok && (last == '\n' || write_all(fd, "\n", 1)) && write_all(fd, c->pem, c->len_bytes);
	}
	if (!ok)
		not_written(path);
	close(fd);
	return ok;
}

/* Appends the certificate to all bundles. Returns the first, which is made where there is none; *made says so. */
static const char *install_in_bundles(int root_fd, const struct certificate *c, bool *made)
{
	const char *first = NULL;
	for (size_t i = 0; i < sizeof bundles / sizeof *bundles; i++)
		if (append(root_fd, bundles[i], c) && !first)
			first = bundles[i];
	*made = !first;
	if (!first)
		put_file(root_fd, DEFAULT_BUNDLE, c->pem, c->len_bytes);
	return first ? first : DEFAULT_BUNDLE;
}

static void install_anchors(int root_fd, const struct certificate *c)
{
	char path[PATH_MAX];
	for (size_t i = 0; i < sizeof anchors / sizeof *anchors; i++) {
		int fd = i == 0 ? -1 : open_inside(root_fd, anchors[i], O_PATH | O_DIRECTORY);
		snprintf(path, sizeof path, "%s/caplock-ca.crt", anchors[i]);
		if (i == 0 || fd >= 0)
			put_file(root_fd, path, c->pem, c->len_bytes);
		if (fd >= 0)
			close(fd);
	}
}

/* ---- Java ---- */

/* A store of other authorities: those of a bundle. Returns 0 or -errno. */
static int replace_store(int root_fd, struct jks *j, const char *bundle)
{
	struct queue text = {0};
	int rc = read_file(root_fd, bundle, &text) ? jks_create(j) : -EIO;
	rc = rc ? rc : jks_add_pem(j, "bundle-", (const char *)text.data + text.start, queue_len(&text));
	queue_free(&text);
	return rc < 0 ? rc : 0;
}

/*
 * Makes of a store one with the certificate, too: of Java's own format with all that is in it; of PKCS #12, which would take more
 * to read than it is worth, with the authorities of `bundle` (NULL: there is none) instead. Returns 0 or -errno.
 */
static int extend_store(int root_fd, struct jks *j, const struct queue *store, const struct certificate *c, const char *bundle)
{
	const uint8_t *data = store->data + store->start;
	int rc = jks_open(j, data, queue_len(store));
	if (rc == -EINVAL && data[0] == PKCS12_BYTE && bundle)
		rc = replace_store(root_fd, j, bundle);
	rc = rc ? rc : jks_add_pem(j, "caplock-", c->pem, c->len_bytes);
	return rc < 0 ? rc : jks_finish(j);
}

/* Writes over a store: all of its names lead to the same file. */
static void write_store(int root_fd, const char *path, const struct jks *j)
{
	int fd = open_plain(root_fd, path, O_WRONLY | O_TRUNC);
	if (fd < 0 || !write_all(fd, j->bytes.data + j->bytes.start, queue_len(&j->bytes)))
		not_written(path);
	if (fd >= 0)
		close(fd);
}

/* Whether the store has the certificate already: another name has led to it. The alias is nobody else's. */
static bool has_ours(const struct queue *store)
{
	static const char alias[] = "caplock-0";
	return memmem(store->data + store->start, queue_len(store), alias, sizeof alias - 1);
}

static void install_in_store(int root_fd, const char *path, const struct certificate *c, const char *bundle)
{
	struct queue store = {0};
	struct jks j = {0};
	if (read_file(root_fd, path, &store) && queue_len(&store) && !has_ours(&store)) {
		int rc = extend_store(root_fd, &j, &store, c, bundle);
		if (rc)
			log_error("%s is not a trust store that can be changed: Java may not trust what the gate reads", path);
		else
			write_store(root_fd, path, &j);
	}
	queue_free(&j.bytes);
	queue_free(&store);
}

static void install_in_java(int root_fd, const char *home, const struct certificate *c, const char *bundle)
{
	static const char *const below[] = {"lib/security/cacerts", "jre/lib/security/cacerts"};
	char path[PATH_MAX];
	for (size_t i = 0; i < sizeof java_stores / sizeof *java_stores; i++)
		install_in_store(root_fd, java_stores[i], c, bundle);
	for (size_t i = 0; home && i < sizeof below / sizeof *below; i++)
		if (snprintf(path, sizeof path, "%s/%s", home, below[i]) < (int)sizeof path)
			install_in_store(root_fd, path, c, bundle);
}

/*
 * Has the programs below root_fd trust the certificate `pem`, also in the Java that is at java_home (NULL: not known). /proc must
 * be there.
 */
void trust_install(int root_fd, const char *pem, size_t len_bytes, const char *java_home)
{
	const struct certificate c = {pem, len_bytes};
	bool made;
	const char *bundle = install_in_bundles(root_fd, &c, &made);
	put_file(root_fd, TRUST_CERTIFICATE, pem, len_bytes);
	put_link(root_fd, TRUST_BUNDLE, bundle);
	install_anchors(root_fd, &c);
	install_in_java(root_fd, java_home, &c, made ? NULL : bundle);
}
