/*
 * One JSON document. Descriptors are numbers: the program inherits them. Both sides are of one build; what the text lacks or has
 * beyond that is an error all the same.
 */
#include "virtio/net/gate/config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/gate.h"
#include "virtio/net/policy_file.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/json.h"
#include "vmm/util/strv.h"

/* ---- Writing ---- */

static int put_bool(struct buf *out, const char *key, bool value)
{
	return buf_addf(out, ",\"%s\":%s", key, value ? "true" : "false");
}

static int put_texts(struct buf *out, const char *key, const char *const *texts)
{
	int rc = buf_addf(out, ",\"%s\":[", key);
	for (size_t i = 0; rc == 0 && texts && texts[i]; i++) {
		rc = i ? buf_addf(out, ",") : 0;
		rc = rc ? rc : json_put_string(out, texts[i]);
	}
	return rc ? rc : buf_addf(out, "]");
}

static int put_secret(struct buf *out, const struct gate_secret *s)
{
	int rc = buf_addf(out, "{\"value_fd\":%d,\"name\":", s->value_fd);
	rc = rc ? rc : json_put_string(out, s->name);
	rc = rc ? rc : buf_addf(out, ",\"placeholder\":");
	rc = rc ? rc : json_put_string(out, s->placeholder);
	rc = rc ? rc : put_texts(out, "hosts", (const char *const *)s->hosts);
	rc = rc ? rc : put_bool(out, "in_path", s->in_path);
	rc = rc ? rc : put_bool(out, "in_body", s->in_body);
	rc = rc ? rc : put_bool(out, "plain_http", s->plain_http);
	rc = rc ? rc : put_bool(out, "aws", s->aws);
	return rc ? rc : buf_addf(out, "}");
}

/* Appends the text of a configuration; interceptor and confine() are not part of it. Returns 0 or -ENOMEM. */
int gate_config_write(const struct gate_config *c, struct buf *out)
{
	int rc = buf_addf(out, "{\"vmm_fd\":%d,\"supervisor_fd\":%d,\"upstream_ca_fd\":%d,\"limit_ms\":%u", c->vmm_fd, c->supervisor_fd,
			  c->upstream_ca_fd, c->limit_ms);
	rc = rc ? rc : put_bool(out, "record_all", c->record_all);
	rc = rc ? rc : put_bool(out, "allow_public", c->policy.allow_public);
	rc = rc ? rc : put_bool(out, "intercept_all", c->policy.intercept_all);
	rc = rc ? rc : put_bool(out, "intercept_plain", c->policy.intercept_plain);
	rc = rc ? rc : put_bool(out, "own_dns", c->dns_servers != NULL);
	rc = rc ? rc : put_texts(out, "dns_servers", c->dns_servers);
	rc = rc ? rc : buf_addf(out, ",\"secrets\":[");
	for (size_t i = 0; rc == 0 && i < c->secret_count; i++) {
		rc = i ? buf_addf(out, ",") : 0;
		rc = rc ? rc : put_secret(out, &c->secrets[i]);
	}
	rc = rc ? rc : buf_addf(out, "],\"policy\":");
	rc = rc ? rc : policy_file_write(&c->policy, out);
	return rc ? rc : buf_addf(out, "}");
}

/* ---- Reading ---- */

static int take_int(struct json_value o, const char *key, int *out, struct err *e)
{
	int64_t number = 0;
	int rc = json_int64(json_get(o, key), &number, e);
	*out = (int)number;
	return rc;
}

static int take_bool(struct json_value o, const char *key, bool *out, struct err *e)
{
	return json_bool(json_get(o, key), out, e);
}

static int take_texts(struct json_value list, char ***out, struct err *e)
{
	struct strv texts = {0};
	struct json_iter it = JSON_ITER(list);
	int rc = json_expect(list, JSON_ARRAY, e);
	while (rc == 0 && json_next(&it)) {
		char *text;
		rc = json_string(it.value, &text, e);
		if (rc)
			break;
		rc = strv_add(&texts, text);
		free(text);
	}
	*out = texts.item;
	return rc;
}

static int take_secret(struct json_value v, struct gate_secret *s, struct err *e)
{
	int rc = take_int(v, "value_fd", &s->value_fd, e);
	rc = rc ? rc : json_string(json_get(v, "name"), &s->name, e);
	rc = rc ? rc : json_string(json_get(v, "placeholder"), &s->placeholder, e);
	rc = rc ? rc : take_texts(json_get(v, "hosts"), &s->hosts, e);
	rc = rc ? rc : take_bool(v, "in_path", &s->in_path, e);
	rc = rc ? rc : take_bool(v, "in_body", &s->in_body, e);
	rc = rc ? rc : take_bool(v, "plain_http", &s->plain_http, e);
	return rc ? rc : take_bool(v, "aws", &s->aws, e);
}

static int take_secrets(struct json_value list, struct gate_config *c, struct err *e)
{
	struct json_iter it = JSON_ITER(list);
	int rc = json_expect(list, JSON_ARRAY, e);
	if (rc)
		return rc;
	c->secrets = calloc(json_count(list) + 1, sizeof *c->secrets);
	if (!c->secrets)
		return err_sys(e, -ENOMEM, "configuration");
	while (rc == 0 && json_next(&it))
		rc = take_secret(it.value, &c->secrets[c->secret_count++], e);
	return rc;
}

static int take_document(struct json_value o, struct gate_config *c, struct err *e)
{
	int limit_ms = 0;
	bool own_dns = false;
	char **dns_servers = NULL;
	int rc = take_int(o, "vmm_fd", &c->vmm_fd, e);
	rc = rc ? rc : take_int(o, "supervisor_fd", &c->supervisor_fd, e);
	rc = rc ? rc : take_int(o, "upstream_ca_fd", &c->upstream_ca_fd, e);
	rc = rc ? rc : take_int(o, "limit_ms", &limit_ms, e);
	rc = rc ? rc : take_bool(o, "record_all", &c->record_all, e);
	rc = rc ? rc : take_bool(o, "allow_public", &c->policy.allow_public, e);
	rc = rc ? rc : take_bool(o, "intercept_all", &c->policy.intercept_all, e);
	rc = rc ? rc : take_bool(o, "intercept_plain", &c->policy.intercept_plain, e);
	rc = rc ? rc : take_bool(o, "own_dns", &own_dns, e);
	rc = rc ? rc : take_texts(json_get(o, "dns_servers"), &dns_servers, e);
	rc = rc ? rc : take_secrets(json_get(o, "secrets"), c, e);
	rc = rc ? rc : policy_file_take(&c->policy, json_get(o, "policy"), e);
	c->limit_ms = (unsigned)limit_ms;
	c->dns_servers = own_dns ? (const char *const *)dns_servers : NULL;
	return rc;
}

/*
 * Reads what gate_config_write() wrote into an empty *c. What it allocates lives as long as the process. Returns 0 or -errno with
 * what is wrong.
 */
int gate_config_parse(const char *text, size_t len_bytes, struct gate_config *c, struct err *e)
{
	static const struct json_limits limits = {.max_bytes = 16 << 20};
	struct json *doc;
	int rc = json_parse(text, len_bytes, &limits, &doc, e);
	if (rc)
		return rc;
	rc = take_document(json_root(doc), c, e);
	json_free(doc);
	return rc;
}
