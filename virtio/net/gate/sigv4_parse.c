/* What is read for AWS Signature Version 4: a user's file of credentials, and a guest's Authorization field. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "virtio/net/gate/sigv4.h"
#include "vmm/util/err.h"

enum { CREDENTIAL_MAX_BYTES = 8 << 10 }; /* a session token has about a thousand */

static struct sigv4_text trimmed(struct sigv4_text t)
{
	for (; t.bytes && strchr(" \t\r", t.at[0]); t.at++)
		t.bytes--;
	while (t.bytes && strchr(" \t\r", t.at[t.bytes - 1]))
		t.bytes--;
	return t;
}

static bool is(struct sigv4_text t, const char *word)
{
	return t.bytes == strlen(word) && memcmp(t.at, word, t.bytes) == 0;
}

/* Takes what is before the next `c` from *rest, and `c`; all of it where there is none. */
static struct sigv4_text take_until(struct sigv4_text *rest, char c)
{
	const char *end = rest->bytes ? memchr(rest->at, c, rest->bytes) : NULL;
	struct sigv4_text taken = {rest->at, end ? (size_t)(end - rest->at) : rest->bytes};
	size_t with = taken.bytes + (end ? 1 : 0);
	*rest = (struct sigv4_text){rest->at + with, rest->bytes - with};
	return taken;
}

/* A line of the profile: NAME = VALUE. */
static void take_setting(struct sigv4_text line, struct sigv4_credentials *out)
{
	struct sigv4_text name = trimmed(take_until(&line, '=')), value = trimmed(line);
	if (is(name, "aws_access_key_id"))
		out->id = value;
	else if (is(name, "aws_secret_access_key"))
		out->key = value;
	else if (is(name, "aws_session_token"))
		out->token = value;
}

/* Whether it can be written into a field, and signed with. */
static bool is_credential(struct sigv4_text t)
{
	for (size_t i = 0; i < t.bytes; i++)
		if (t.at[i] <= ' ' || t.at[i] > '~')
			return false;
	return t.bytes > 0 && t.bytes <= CREDENTIAL_MAX_BYTES;
}

/*
 * Finds a profile in the text of ~/.aws/credentials; what it gives is inside `text`. Returns 0, or -EINVAL or -ENOENT with what
 * is wrong, in which no value is. Pure.
 */
int sigv4_parse_credentials(const char *text, size_t bytes, const char *profile, struct sigv4_credentials *out, struct err *e)
{
	struct sigv4_text rest = {text, bytes};
	bool ours = false, found = false;
	*out = (struct sigv4_credentials){0};
	while (rest.bytes) {
		struct sigv4_text line = trimmed(take_until(&rest, '\n'));
		if (line.bytes == 0 || line.at[0] == '#' || line.at[0] == ';')
			continue;
		bool section = line.at[0] == '[' && line.at[line.bytes - 1] == ']';
		if (section) {
			ours = is(trimmed((struct sigv4_text){line.at + 1, line.bytes - 2}), profile);
			found |= ours;
		} else if (ours) {
			take_setting(line, out);
		}
	}
	if (!found)
		return err_set(e, -ENOENT, "there is no profile '%.200s' in the AWS credentials", profile);
	if (!out->id.at || !out->key.at)
		return err_set(e, -EINVAL, "profile '%.200s' of the AWS credentials has no %s: only profiles with keys can be used",
			       profile, out->id.at ? "aws_secret_access_key" : "aws_access_key_id");
	if (!is_credential(out->id) || !is_credential(out->key) || (out->token.at && !is_credential(out->token)))
		return err_set(e, -EINVAL, "profile '%.200s' of the AWS credentials has a key that is none", profile);
	return 0;
}

static bool is_scope(struct sigv4_text t, char out[SIGV4_SCOPE_BYTES])
{
	for (size_t i = 0; i < t.bytes; i++)
		if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", t.at[i]) || !t.at[i])
			return false;
	if (t.bytes == 0 || t.bytes >= SIGV4_SCOPE_BYTES)
		return false;
	snprintf(out, SIGV4_SCOPE_BYTES, "%.*s", (int)t.bytes, t.at);
	return true;
}

/* ID/DATE/REGION/SERVICE/aws4_request */
static bool parse_credential(struct sigv4_text t, const char *id, struct sigv4_scope *out)
{
	struct sigv4_text who = take_until(&t, '/');
	take_until(&t, '/'); /* the date: it is written anew */
	struct sigv4_text region = take_until(&t, '/'), service = take_until(&t, '/');
	return is(who, id) && is_scope(region, out->region) && is_scope(service, out->service) && is(t, "aws4_request");
}

/*
 * Reads "AWS4-HMAC-SHA256 Credential=..., SignedHeaders=..., Signature=..." of the key `id`; what it gives is inside `value`.
 * Returns whether it is one. Pure.
 */
bool sigv4_parse_authorization(const char *value, const char *id, struct sigv4_scope *out)
{
	static const char scheme[] = "AWS4-HMAC-SHA256 ";
	bool credential = false;
	*out = (struct sigv4_scope){0};
	if (strncmp(value, scheme, sizeof scheme - 1) != 0)
		return false;
	struct sigv4_text rest = {value + sizeof scheme - 1, strlen(value + sizeof scheme - 1)};
	while (rest.bytes) {
		struct sigv4_text part = take_until(&rest, ','), name = trimmed(take_until(&part, '='));
		if (is(name, "Credential"))
			credential = parse_credential(trimmed(part), id, out);
		else if (is(name, "SignedHeaders"))
			out->fields = trimmed(part);
	}
	return credential && out->fields.bytes;
}
