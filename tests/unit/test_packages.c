/* vmm/image/package_sources.c and packages.c: where an image's packages come from. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/archive_maker.h"
#include "vmm/image/image.h"
#include "vmm/image/package_sources.h"
#include "vmm/util/err.h"
#include "vmm/util/strv.h"

/* The rules, separated by spaces. */
static const char *joined(const struct strv *rules, char *out, size_t size)
{
	size_t at = 0;
	out[0] = 0;
	for (size_t i = 0; i < rules->count && at < size; i++)
		at += (size_t)snprintf(out + at, size - at, "%s%s", i ? " " : "", rules->item[i]);
	return out;
}

Test(package_sources, table)
{
	static const struct {
		enum package_config kind;
		const char *text, *rules;
	} rows[] = {
		{PACKAGE_APT_LIST, "deb http://deb.example.com/debian bookworm main\n", "deb.example.com"},
		{PACKAGE_APT_LIST, "deb [arch=amd64 signed-by=/x.gpg] https://a.example.com:8443/x y z\n", "a.example.com:8443"},
		{PACKAGE_APT_LIST, "deb-src\thttp://A.Example.COM./debian sid main", "a.example.com"},
		{PACKAGE_APT_LIST, "# deb http://no.example.com/ x\n\n  deb http://yes.example.com/ x # http://no.example.com/\r\n", "yes.example.com"},
		{PACKAGE_APT_LIST, "deb cdrom:[Debian]/ x\ndeb file:/srv x\ndeb copy:///x y\ndeb ftp://f.example.com/ x\nrpm http://r.example.com/ x", ""},
		{PACKAGE_APT_LIST, "deb http://user:pa:ss@a.example.com:80/ x\n", "a.example.com:80"},
		{PACKAGE_APT_LIST, "deb http://a.example.com@evil.example.com/ x\n", "evil.example.com"},
		{PACKAGE_APT_LIST, "deb http://evil.example.com\\@a.example.com/ x\n", "evil.example.com"},
		{PACKAGE_APT_LIST, "deb http://127.0.0.1/ x\ndeb http://169.254.169.254/ x\ndeb http://[::1]:80/ x\ndeb http://127.1/ x\ndeb http://localhost/ x\n", ""},
		{PACKAGE_APT_LIST, "deb http://*/ x\ndeb http://*.com/ x\ndeb http:/// x\ndeb http://a:0/ x\ndeb http://a:99999/ x\ndeb http://a:x/ x\n", ""},
		{PACKAGE_APT_LIST, "deb\ndeb \ndeb [\ndeb [] \n", ""},
		{PACKAGE_APT_LIST, "deb http://a.example.com/ x\ndeb http://a.example.com/ y\n", "a.example.com"},
		{PACKAGE_APT_SOURCES,
		 "Types: deb deb-src\nURIs: http://a.example.com/debian https://b.example.com/\nSuites: x\n\n# a comment\nTypes: deb\n"
		 "uris:\n http://c.example.com/\n\thttp://d.example.com/\n# URIs: http://no.example.com/\nSuites: http://no.example.com/\n",
		 "a.example.com b.example.com c.example.com d.example.com"},
		{PACKAGE_APT_SOURCES, "Enabled: no\nURIs: http://a.example.com/\n\nURIs: http://b.example.com/\nEnabled: yes\n", "b.example.com"},
		{PACKAGE_APT_SOURCES, "URIs: http://a.example.com/\nEnabled: NO", ""},
		{PACKAGE_APT_SOURCES, "\n\n\nURIs: mirror+file:/etc/x\n", ""},
		{PACKAGE_APK, "https://a.example.com/alpine/v3.20/main\n#https://no.example.com/\n@edge http://b.example.com/edge\n/media/cdrom\n",
		 "a.example.com b.example.com"},
		{PACKAGE_PIP, "[global]\nindex-url = https://a.example.com/simple\nextra-index-url =\n    https://b.example.com/simple\n    https://c.example.com:8080/\n",
		 "a.example.com b.example.com c.example.com:8080"},
		{PACKAGE_PIP, "[install]\ntrusted-host = d.example.com:81\n  e.example.com\ntimeout = 5\n  http://no.example.com/\n; index-url = http://no.example.com\n",
		 "d.example.com:81 e.example.com"},
		{PACKAGE_NPM, "registry=https://a.example.com/\n@corp:registry = https://b.example.com:4873/\n;registry=https://no.example.com/\n"
			      "//b.example.com/:_authToken=x\n", "a.example.com b.example.com:4873"},
		{PACKAGE_NPM, "registry=\"https://a.example.com/\"\nproxy=http://no.example.com/\nregistry=${X}\n", "a.example.com"},
		{PACKAGE_CARGO, "[source.crates-io]\nreplace-with = \"m\"\n[source.m]\nregistry = \"sparse+https://a.example.com/index/\"\n"
				"[registries]\nx = { index = \"https://no.example.com/\" }\n[registries.y]\nindex = 'https://b.example.com/'\n",
		 "a.example.com b.example.com"},
		{PACKAGE_CARGO, "", ""},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct package_sources s = {0};
		char got[1024];
		cr_expect_eq(package_sources_parse(&s, rows[i].kind, rows[i].text, strlen(rows[i].text)), 0);
		cr_expect_str_eq(joined(&s.rules, got, sizeof got), rows[i].rules, "%s: %s", rows[i].text, got);
		strv_free(s.rules.item);
	}
}

Test(package_sources, what_replaces_the_default)
{
	static const struct {
		enum package_config kind;
		const char *text;
		bool replaces;
	} rows[] = {
		{PACKAGE_PIP, "index-url = https://a.example.com/\n", true},
		{PACKAGE_PIP, "extra-index-url = https://a.example.com/\n", false},
		{PACKAGE_NPM, "registry = https://a.example.com/\n", true},
		{PACKAGE_NPM, "@x:registry = https://a.example.com/\n", false},
		{PACKAGE_CARGO, "[source.crates-io]\nreplace-with = 'x'\n", true},
		{PACKAGE_CARGO, "[registries.x]\nindex = 'https://a.example.com/'\n", false},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct package_sources s = {0};
		cr_expect_eq(package_sources_parse(&s, rows[i].kind, rows[i].text, strlen(rows[i].text)), 0);
		cr_expect_eq(s.replaces_default[rows[i].kind], rows[i].replaces, "%s", rows[i].text);
		strv_free(s.rules.item);
	}
}

Test(package_sources, are_bounded)
{
	struct package_sources s = {0};
	char line[64];
	int rc = 0;
	for (int i = 0; i < PACKAGE_SOURCES_MAX; i++) {
		snprintf(line, sizeof line, "https://h%d.example.com/\n", i);
		rc = rc ? rc : package_sources_parse(&s, PACKAGE_APK, line, strlen(line));
	}
	cr_expect_eq(rc, 0);
	cr_expect_eq(package_sources_parse(&s, PACKAGE_APK, line, strlen(line)), 0, "one that is there");
	cr_expect_eq(package_sources_parse(&s, PACKAGE_APK, "https://more.com", 16), -E2BIG);
	strv_free(s.rules.item);
}

/* ---- From images ---- */

static char home[] = "/tmp/caplock-packages-XXXXXX";
static struct store *store;
static struct err e;

static void set_up(void)
{
	store = make_store(home);
}

static void tear_down(void)
{
	remove_store(store, home);
}

TestSuite(packages, .init = set_up, .fini = tear_down, .timeout = 120);

/* Imports the tree of `t` and reads its sources into `got`. Returns what image_packages() does. */
static int packages_of(struct tar *t, char *got, size_t size)
{
	struct image image = {0};
	struct strv rules = {0};
	struct bytes layer = tar_end(t), archive = make_docker(&(struct image_parts){.packed = &layer, .unpacked = &layer, .count = 1});
	int fd = file_of(&archive), root_fd = -1;
	cr_assert_eq(image_import(store, "x", fd, &image, &e), 0, "%s", e.text);
	close(fd);
	image_free(&image);
	cr_assert_eq(image_open(store, "x", &image, &root_fd, &e), 0, "%s", e.text);
	int rc = image_packages(root_fd, 0, &rules, &e);
	joined(&rules, got, size);
	close(root_fd);
	image_free(&image);
	strv_free(rules.item);
	bytes_free(&layer);
	bytes_free(&archive);
	return rc;
}

Test(packages, of_a_debian_with_pip_and_npm)
{
	struct tar t;
	char got[1024];
	tar_begin(&t, PACK_NONE);
	tar_file(&t, "etc/apt/sources.list", 0644, "deb http://main.example.com/debian x main\n");
	tar_file(&t, "etc/apt/sources.list.d/b.list", 0644, "deb https://list.example.com:8080/ x main\n");
	tar_file(&t, "etc/apt/sources.list.d/a.sources", 0644, "Types: deb\nURIs: https://deb822.example.com/\nSuites: x\n");
	tar_file(&t, "etc/apt/sources.list.d/c.list.bak", 0644, "deb https://no.example.com/ x main\n");
	tar_symlink(&t, "usr/local/bin/pip3", "pip3.12");
	tar_file(&t, "usr/local/bin/pip3.12", 0755, "x");
	tar_file(&t, "usr/bin/npm", 0755, "x");
	tar_file(&t, "root/.npmrc", 0600, "registry=https://npm.example.com/\n");
	cr_expect_eq(packages_of(&t, got, sizeof got), 0, "%s", e.text);
	cr_expect_str_eq(got, "main.example.com list.example.com:8080 deb822.example.com npm.example.com @pypi");
}

Test(packages, of_an_alpine_through_links)
{
	struct tar t;
	char got[1024];
	tar_begin(&t, PACK_NONE);
	tar_file(&t, "data/repos", 0644, "https://alpine.example.com/v3/main\nhttps://alpine.example.com/v3/community\n");
	tar_symlink(&t, "etc/apk/repositories", "../../data/repos");
	tar_symlink(&t, "etc/pip.conf", "/data/pip.conf");
	tar_file(&t, "data/pip.conf", 0644, "[global]\nindex-url = https://pypi.example.com/simple\n");
	tar_file(&t, "usr/bin/pip", 0755, "x");
	tar_symlink(&t, "root/.npmrc", ".npmrc");
	tar_symlink(&t, "etc/npmrc", "/../../../../../../etc/hostname");
	cr_expect_eq(packages_of(&t, got, sizeof got), 0, "%s", e.text);
	cr_expect_str_eq(got, "alpine.example.com pypi.example.com");
}

Test(packages, of_an_image_with_none)
{
	struct tar t;
	char got[64];
	tar_begin(&t, PACK_NONE);
	tar_dir(&t, "etc/apt/sources.list", 0755);
	tar_file(&t, "etc/apt/sources.list.d", 0644, "deb http://no.example.com/ x y\n");
	cr_expect_eq(packages_of(&t, got, sizeof got), 0, "%s", e.text);
	cr_expect_str_eq(got, "");
}

Test(packages, that_are_too_much_are_refused)
{
	struct tar t;
	char got[64], path[64];
	char *huge = calloc(1, (300 << 10) + 1);
	memset(huge, '#', 300 << 10);
	tar_begin(&t, PACK_NONE);
	tar_file(&t, "etc/apk/repositories", 0644, huge);
	free(huge);
	cr_expect_lt(packages_of(&t, got, sizeof got), 0);
	cr_expect(strstr(e.text, "/etc/apk/repositories"), "%s", e.text);
	tar_begin(&t, PACK_NONE);
	for (int i = 0; i < 65; i++) {
		snprintf(path, sizeof path, "etc/apt/sources.list.d/%d.list", i);
		tar_file(&t, path, 0644, "");
	}
	cr_expect_lt(packages_of(&t, got, sizeof got), 0);
	cr_expect(strstr(e.text, "sources.list.d has more than 64 files"), "%s", e.text);
	struct bytes many = {0};
	for (int i = 0; i < 300; i++) {
		char line[64];
		int n = snprintf(line, sizeof line, "https://h%d.example.com/\n", i);
		many.data = realloc(many.data, many.len + (size_t)n + 1);
		memcpy(many.data + many.len, line, (size_t)n + 1);
		many.len += (size_t)n;
	}
	tar_begin(&t, PACK_NONE);
	tar_file(&t, "etc/apk/repositories", 0644, (char *)many.data);
	free(many.data);
	cr_expect_lt(packages_of(&t, got, sizeof got), 0);
	cr_expect(strstr(e.text, "more than 256 hosts"), "%s", e.text);
}

Test(packages, of_what_is_no_file_system)
{
	struct strv rules = {0};
	char path[] = "/tmp/caplock-test-XXXXXX";
	int fd = mkstemp(path);
	cr_expect_eq(ftruncate(fd, 1 << 20), 0);
	cr_expect_lt(image_packages(fd, 0, &rules, &e), 0);
	cr_expect(strstr(e.text, "file system"), "%s", e.text);
	close(fd);
	unlink(path);
}
