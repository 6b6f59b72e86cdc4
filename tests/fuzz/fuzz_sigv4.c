/*
 * Any text as a file of credentials, whose errors have no value in them; and requests that a guest has signed: the secret key
 * is in none, what is signed names the real key, the host and the date, once and in order, and what is not is unchanged.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/http.h"
#include "virtio/net/gate/secret.h"
#include "virtio/net/gate/sigv4.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"

#define GUEST_ID "AKIAGUESTGUESTGUEST1"

static struct sigv4 keys;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const char *const hosts[] = {"a.com", NULL};
	char text[] = "[p]\naws_access_key_id=REALID\naws_secret_access_key=THEREALKEY\naws_session_token=TOKEN";
	struct err e;
	(void)argc, (void)argv;
	if (sigv4_open(&keys, "p", GUEST_ID, hosts, text, sizeof text - 1, &e))
		abort();
	return 0;
}

static bool within(struct sigv4_text part, const uint8_t *data, size_t size)
{
	const uint8_t *at = (const uint8_t *)part.at;
	return !at || (at >= data && at <= data + size && part.bytes <= (size_t)(data + size - at));
}

static void credentials(const uint8_t *data, size_t size)
{
	struct sigv4_credentials c;
	struct err e;
	if (sigv4_parse_credentials((const char *)data, size, "p", &c, &e) == 0 && (!c.id.bytes || !c.key.bytes))
		abort();
	if (!within(c.id, data, size) || !within(c.key, data, size) || !within(c.token, data, size))
		abort();
}

/* Lines: the method, the path, and fields. */
static bool make_head(struct http_head *h, char *text)
{
	char *method = strsep(&text, "\n"), *path = strsep(&text, "\n"), *line;
	*h = (struct http_head){.method = strdup(method), .authority = strdup("a.com"), .path = strdup(path ? path : "/")};
	while ((line = strsep(&text, "\n"))) {
		char *value = strchr(line, ':');
		size_t name = value ? (size_t)(value - line) : strlen(line);
		value = value ? value + 1 : "";
		if (name && http_add(&h->fields, line, name, value, strlen(value)))
			return false;
	}
	return true;
}

static void join(const struct http_head *h, struct buf *out)
{
	buf_addf(out, "%s %s\n", h->method, h->path);
	for (size_t i = 0; i < h->fields.count; i++)
		buf_addf(out, "%s: %s\n", h->fields.item[i].name, h->fields.item[i].value);
	buf_add(out, "", 1);
}

/* Names are lower-case, sorted, and once there; those that must be there are. */
static void check_signed(const struct http_head *h)
{
	const char *value = http_get(&h->fields, "authorization"), *names = strstr(value, "SignedHeaders=");
	bool host = false, date = false;
	if (strncmp(value, "AWS4-HMAC-SHA256 Credential=REALID/", 35) != 0 || !names || !strstr(names, ", Signature="))
		abort();
	if (strcmp(http_get(&h->fields, "x-amz-security-token"), "TOKEN") != 0)
		abort();
	char *copy = strndup(names + 14, strcspn(names + 14, ",")), *rest = copy, *last = NULL;
	for (char *name; (name = strsep(&rest, ";")); last = name) {
		if (last && strcmp(last, name) >= 0)
			abort();
		host |= strcmp(name, "host") == 0;
		date |= strcmp(name, "x-amz-date") == 0;
	}
	if (!host || !date)
		abort();
	free(copy);
}

static void request(const struct secret_target *t, const uint8_t *data, size_t size)
{
	char *text = strndup((const char *)data, size), hash[SIGV4_HASH_BYTES];
	struct http_head h;
	struct sigv4_result r;
	struct buf before = {0}, after = {0};
	sigv4_hash(data, size, hash);
	if (make_head(&h, text)) {
		h.has_body = size & 1;
		h.length_bytes = (int64_t)(size % 3) - 1;
		join(&h, &before);
		int rc = sigv4_sign(&keys, t, 1440938160, NULL, &h, &r);
		if (rc == 0 && r.outcome == SIGV4_NEEDS_HASH)
			rc = sigv4_sign(&keys, t, 1440938160, hash, &h, &r);
		join(&h, &after);
		if (rc == 0 && (r.outcome == SIGV4_NEEDS_HASH || (r.outcome == SIGV4_REFUSED) != (r.reason != NULL)))
			abort();
		if (rc == 0 && r.outcome == SIGV4_SIGNED)
			check_signed(&h);
		else if (rc == 0 && strcmp((char *)before.data, (char *)after.data) != 0)
			abort();
		if (strstr((char *)after.data, "THEREALKEY") && !strstr((char *)before.data, "THEREALKEY"))
			abort();
		if (rc == 0 && r.outcome == SIGV4_SIGNED && (!t->tls || strcmp(t->host, "a.com") != 0))
			abort();
	}
	http_head_free(&h);
	buf_free(&before);
	buf_free(&after);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct secret_target targets[] = {{"a.com", 443, true}, {"a.com", 80, false}, {"b.com", 443, true}};
	if (size == 0)
		return 0;
	if (data[0] % 4 == 3)
		credentials(data + 1, size - 1);
	else
		request(&targets[data[0] % 4], data + 1, size - 1);
	return 0;
}
