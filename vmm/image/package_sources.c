/*
 * What package managers are configured to fetch from.
 *
 * Only http and https count: the host, and its port where one is given. Other kinds (file:, cdrom:, ssh) and what is not
 * understood are left out, and so are hosts given as addresses or by a single label: an image cannot open those, which
 * might be of this host's network. Nothing is allowed by this but what a rule for that name allows.
 */
#include "vmm/image/package_sources.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "virtio/net/name.h"

/* A piece of the text. */
struct piece {
	const char *at, *end;
};

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

static struct piece trim(struct piece p)
{
	while (p.at < p.end && is_space(*p.at))
		p.at++;
	while (p.end > p.at && is_space(p.end[-1]))
		p.end--;
	return p;
}

/* Takes the text until `stop`, or all of it, off *p. */
static struct piece take_until(struct piece *p, char stop)
{
	const char *end = memchr(p->at, stop, (size_t)(p->end - p->at));
	struct piece taken = {p->at, end ? end : p->end};
	p->at = end ? end + 1 : p->end;
	return taken;
}

/* Takes the next word off *p. Returns whether there is one; otherwise it is empty. */
static bool next_word(struct piece *p, struct piece *word)
{
	*p = trim(*p);
	*word = (struct piece){p->at, p->at};
	while (word->end < p->end && !is_space(*word->end))
		word->end++;
	p->at = word->end;
	return word->at < word->end;
}

static bool piece_is(struct piece p, const char *word)
{
	return (size_t)(p.end - p.at) == strlen(word) && strncasecmp(p.at, word, strlen(word)) == 0;
}

static bool drop_prefix(struct piece *p, const char *prefix)
{
	size_t n = strlen(prefix);
	if ((size_t)(p->end - p->at) < n || strncasecmp(p->at, prefix, n) != 0)
		return false;
	p->at += n;
	return true;
}

/* Adds a rule, unless it is there. Returns 0, -E2BIG where there are too many, or -ENOMEM. */
int package_sources_add(struct package_sources *s, const char *rule)
{
	for (size_t i = 0; i < s->rules.count; i++)
		if (strcmp(s->rules.item[i], rule) == 0)
			return 0;
	return s->rules.count == PACKAGE_SOURCES_MAX ? -E2BIG : strv_add(&s->rules, rule) ? -ENOMEM : 0;
}

/* The number of a port; 0: it is none. */
static unsigned parse_port(struct piece port)
{
	unsigned value = 0;
	for (const char *c = port.at; c < port.end; c++) {
		if (*c < '0' || *c > '9' || value > 65535)
			return 0;
		value = value * 10 + (unsigned)(*c - '0');
	}
	return value <= 65535 ? value : 0;
}

/* HOST[:PORT] */
static int add_host(struct package_sources *s, struct piece authority)
{
	struct piece port = authority, host = take_until(&port, ':');
	char name[NAME_BYTES], rule[NAME_BYTES + 8];
	size_t at;
	unsigned number = parse_port(port);
	if (name_canonical(host.at, (size_t)(host.end - host.at), name, &at) || !strchr(name, '.') || (port.at < port.end && number == 0))
		return 0;
	snprintf(rule, sizeof rule, number ? "%s:%u" : "%s", name, number);
	return package_sources_add(s, rule);
}

/* http[s]://[USER[:PASSWORD]@]HOST[:PORT][/...], with what some put in front. */
static int add_url(struct package_sources *s, struct piece url)
{
	if (!drop_prefix(&url, "sparse+"))
		drop_prefix(&url, "registry+");
	if (!drop_prefix(&url, "http://") && !drop_prefix(&url, "https://"))
		return 0;
	struct piece authority = {url.at, url.at};
	while (authority.end < url.end && !strchr("/?#\\", *authority.end))
		authority.end++;
	const char *user = memrchr(authority.at, '@', (size_t)(authority.end - authority.at));
	if (user)
		authority.at = user + 1;
	return add_host(s, authority);
}

static int add_urls(struct package_sources *s, struct piece words)
{
	struct piece word;
	int rc = 0;
	while (rc == 0 && next_word(&words, &word))
		rc = add_url(s, word);
	return rc;
}

/* ---- apt and apk ---- */

/* deb [OPTIONS] URI SUITE... */
static int parse_apt_line(struct package_sources *s, struct piece line)
{
	struct piece text = take_until(&line, '#'), type, uri;
	next_word(&text, &type);
	if (!piece_is(type, "deb") && !piece_is(type, "deb-src"))
		return 0;
	text = trim(text);
	if (text.at < text.end && *text.at == '[')
		take_until(&text, ']');
	next_word(&text, &uri);
	return add_url(s, uri);
}

/* [@TAG] URL */
static int parse_apk_line(struct package_sources *s, struct piece line)
{
	return add_urls(s, take_until(&line, '#'));
}

/* One stanza: "URIs: URL...", also in lines after it, unless there is an "Enabled: no". */
static int parse_apt_stanza(struct package_sources *s, struct piece stanza)
{
	bool uris = false;
	int rc = 0;
	for (struct piece left = stanza; left.at < left.end;) {
		struct piece value = take_until(&left, '\n'), key = take_until(&value, ':');
		if (piece_is(key, "Enabled") && piece_is(trim(value), "no"))
			return 0;
	}
	while (rc == 0 && stanza.at < stanza.end) {
		struct piece line = take_until(&stanza, '\n');
		if (line.at < line.end && *line.at == '#')
			continue;
		if (line.at == line.end || !is_space(*line.at))
			uris = piece_is(take_until(&line, ':'), "URIs");
		if (uris)
			rc = add_urls(s, line);
	}
	return rc;
}

static int parse_apt_sources(struct package_sources *s, struct piece text)
{
	int rc = 0;
	while (rc == 0 && text.at < text.end) {
		struct piece stanza = {text.at, text.at}, line;
		do {
			line = take_until(&text, '\n');
			stanza.end = line.end;
			line = trim(line);
		} while (line.at < line.end && text.at < text.end);
		rc = parse_apt_stanza(s, stanza);
	}
	return rc;
}

/* ---- pip, npm, cargo: KEY = VALUE ---- */

struct setting {
	struct piece key, value;
};

/* Without a comment, quotes, and the spaces around. */
static struct setting parse_setting(struct piece line)
{
	struct setting s = {.value = line};
	s.key = trim(take_until(&s.value, '='));
	s.value = trim(s.value);
	if (s.value.at < s.value.end && (*s.value.at == '"' || *s.value.at == '\'')) {
		char quote = *s.value.at++;
		s.value = take_until(&s.value, quote);
	}
	return s;
}

/* A value may go on in lines that begin with spaces, so `key` is the one before. */
static int parse_pip_line(struct package_sources *s, struct piece line, struct piece *key)
{
	if (line.at < line.end && strchr("#;", *line.at))
		return 0;
	struct piece value = line;
	if (line.at == line.end || !is_space(*line.at)) {
		struct setting set = parse_setting(line);
		*key = set.key;
		value = set.value;
	}
	if (piece_is(*key, "trusted-host") || piece_is(*key, "trusted_host")) {
		struct piece host;
		int rc = 0;
		while (rc == 0 && next_word(&value, &host))
			rc = add_host(s, host);
		return rc;
	}
	bool index = piece_is(*key, "index-url") || piece_is(*key, "index_url");
	s->replaces_default[PACKAGE_PIP] |= index;
	if (index || piece_is(*key, "extra-index-url") || piece_is(*key, "extra_index_url") || piece_is(*key, "find-links") ||
	    piece_is(*key, "find_links"))
		return add_urls(s, value);
	return 0;
}

/* registry=URL, @SCOPE:registry=URL */
static int parse_npm_line(struct package_sources *s, struct piece line)
{
	struct setting set = parse_setting(trim(line));
	bool scoped = set.key.at < set.key.end && *set.key.at == '@';
	if (scoped)
		take_until(&set.key, ':');
	if (!piece_is(set.key, "registry"))
		return 0;
	s->replaces_default[PACKAGE_NPM] |= !scoped;
	return add_url(s, set.value);
}

/* The keys that have URLs, in whatever table; a source that replaces another replaces the built-in one. */
static int parse_cargo_line(struct package_sources *s, struct piece line)
{
	struct setting set = parse_setting(trim(line));
	s->replaces_default[PACKAGE_CARGO] |= piece_is(set.key, "replace-with");
	return piece_is(set.key, "registry") || piece_is(set.key, "index") ? add_url(s, set.value) : 0;
}

/*
 * Adds what a configuration of `kind` names. Pure. Returns 0; -E2BIG where it is more than PACKAGE_SOURCES_MAX hosts with
 * those before; or -ENOMEM.
 */
int package_sources_parse(struct package_sources *s, enum package_config kind, const char *text, size_t len_bytes)
{
	struct piece all = {text, text + len_bytes}, key = {text, text};
	int rc = 0;
	if (kind == PACKAGE_APT_SOURCES)
		return parse_apt_sources(s, all);
	while (rc == 0 && all.at < all.end) {
		struct piece line = take_until(&all, '\n');
		rc = kind == PACKAGE_APT_LIST ? parse_apt_line(s, line)
		     : kind == PACKAGE_APK    ? parse_apk_line(s, line)
		     : kind == PACKAGE_PIP    ? parse_pip_line(s, line, &key)
		     : kind == PACKAGE_NPM    ? parse_npm_line(s, line)
					      : parse_cargo_line(s, line);
	}
	return rc;
}
