/*
 * Policy files.
 *
 * An object with "version": 1 and lists whose elements are the texts of the options: "allow", "deny", "hosts" (an object:
 * a name's address, or an array of them), "loopback_ports" (numbers), "intercept", "websockets"; and "hooks", whose elements are rules of
 * virtio/net/gate/hooks.h, kept as texts. A key or a version that is not known is refused: a
 * rule that is not understood must not be left out in silence. Reading adds to a policy, so files and options add up.
 */
#include "virtio/net/policy_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/net/gate/hooks.h"
#include "virtio/net/policy.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/json.h"

enum {
	VERSION = 1,
	FILE_MAX_BYTES = 4 << 20,
	DEPTH_MAX = 8,
};

/* ---- Reading ---- */

typedef int (*add_fn)(struct policy *p, const char *text, struct err *e);

/* Adds one text; what is wrong with it is said with its place in the file. */
static int add_text(struct policy *p, struct json_value v, const char *text, add_fn add, struct err *e)
{
	struct err why;
	int rc = add(p, text, &why);
	return rc ? json_error(v, rc, e, "%s", why.text) : 0;
}

static int add_strings(struct policy *p, struct json_value list, add_fn add, struct err *e)
{
	if (json_type(list) == JSON_NONE)
		return 0;
	int rc = json_expect(list, JSON_ARRAY, e);
	struct json_iter it = JSON_ITER(list);
	while (rc == 0 && json_next(&it)) {
		char *text;
		rc = json_string(it.value, &text, e);
		if (rc)
			break;
		rc = add_text(p, it.value, text, add, e);
		free(text);
	}
	return rc;
}

/* One address of "hosts". */
static int add_pin(struct policy *p, const char *name, struct json_value address, struct err *e)
{
	char *text, *both;
	int rc = json_string(address, &text, e);
	if (rc)
		return rc;
	if (asprintf(&both, "%s:%s", name, text) < 0) {
		free(text);
		return err_sys(e, -ENOMEM, "policy");
	}
	rc = add_text(p, address, both, policy_add_pin, e);
	free(both);
	free(text);
	return rc;
}

static int add_pins(struct policy *p, struct json_value hosts, struct err *e)
{
	if (json_type(hosts) == JSON_NONE)
		return 0;
	int rc = json_expect(hosts, JSON_OBJECT, e);
	struct json_iter it = JSON_ITER(hosts);
	while (rc == 0 && json_next(&it)) {
		char *name;
		rc = json_string(it.key, &name, e);
		if (rc)
			break;
		struct json_iter each = JSON_ITER(it.value);
		if (json_type(it.value) != JSON_ARRAY)
			rc = add_pin(p, name, it.value, e);
		else
			while (rc == 0 && json_next(&each))
				rc = add_pin(p, name, each.value, e);
		free(name);
	}
	return rc;
}

static int add_ports(struct policy *p, struct json_value ports, struct err *e)
{
	if (json_type(ports) == JSON_NONE)
		return 0;
	int rc = json_expect(ports, JSON_ARRAY, e);
	struct json_iter it = JSON_ITER(ports);
	while (rc == 0 && json_next(&it)) {
		uint64_t port;
		char text[24];
		rc = json_uint64(it.value, &port, e);
		if (rc)
			break;
		snprintf(text, sizeof text, "%llu", (unsigned long long)port);
		rc = add_text(p, it.value, text, policy_add_loopback, e);
	}
	return rc;
}

/* The hosts of a hook are read; without any, all are. */
static int add_hook_hosts(struct policy *p, struct json_value hosts, struct err *e)
{
	if (json_is_absent(hosts) || json_count(hosts) == 0)
		return policy_add_intercept(p, "*:*", e);
	return add_strings(p, hosts, policy_add_intercept, e);
}

static int add_hook(struct policy *p, struct json_value hook, struct hooks *checked, struct err *e)
{
	size_t len;
	int rc = hooks_add(checked, hook, e);
	rc = rc ? rc : add_hook_hosts(p, json_get(hook, "hosts"), e);
	if (rc)
		return rc;
	const char *at = json_text(hook, &len);
	char *text = strndup(at, len);
	if (!text || strv_add(&p->hooks, text))
		rc = err_sys(e, -ENOMEM, "policy");
	free(text);
	return rc;
}

/* Adds hooks, which are checked together with those that there are: how many there may be counts them all. */
static int add_hooks(struct policy *p, struct json_value list, struct err *e)
{
	struct hooks checked = {0};
	int rc = json_type(list) == JSON_NONE ? 0 : json_expect(list, JSON_ARRAY, e);
	for (size_t i = 0; i < p->hooks.count && rc == 0; i++)
		rc = hooks_add_text(&checked, p->hooks.item[i], e);
	struct json_iter it = JSON_ITER(list);
	while (rc == 0 && json_next(&it))
		rc = add_hook(p, it.value, &checked, e);
	hooks_free(&checked);
	return rc;
}

/* The same for a policy that is a value of another document. Returns as policy_file_parse(). */
int policy_file_take(struct policy *p, struct json_value root, struct err *e)
{
	static const char *const keys[] = {"version", "allow", "deny", "hosts", "loopback_ports", "intercept", "websockets", "hooks", NULL};
	struct json_value version = json_get(root, "version");
	uint64_t number;
	int rc = json_expect(root, JSON_OBJECT, e);
	if (rc == 0 && json_type(version) == JSON_NONE)
		return err_set(e, -EINVAL, "not a policy: it has no \"version\": %d", VERSION);
	rc = rc ? rc : json_uint64(version, &number, e);
	if (rc == 0 && number != VERSION)
		return json_error(version, -EINVAL, e, "a policy of version %llu; this caplock knows version %d",
				  (unsigned long long)number, VERSION);
	rc = rc ? rc : json_only_keys(root, keys, e);
	rc = rc ? rc : add_strings(p, json_get(root, "allow"), policy_add_allow, e);
	rc = rc ? rc : add_strings(p, json_get(root, "deny"), policy_add_deny, e);
	rc = rc ? rc : add_pins(p, json_get(root, "hosts"), e);
	rc = rc ? rc : add_ports(p, json_get(root, "loopback_ports"), e);
	rc = rc ? rc : add_strings(p, json_get(root, "intercept"), policy_add_intercept, e);
	rc = rc ? rc : add_strings(p, json_get(root, "websockets"), policy_add_websocket, e);
	return rc ? rc : add_hooks(p, json_get(root, "hooks"), e);
}

/*
 * Adds the rules of a policy file's text to `p`. Pure. Returns 0; or -EINVAL, -EFBIG or -E2BIG with what is wrong, and where:
 * then some of them are added.
 */
int policy_file_parse(const char *text, size_t len_bytes, struct policy *p, struct err *e)
{
	struct json *doc;
	int rc = json_parse(text, len_bytes, &(struct json_limits){.max_bytes = FILE_MAX_BYTES, .max_depth = DEPTH_MAX}, &doc, e);
	if (rc)
		return rc;
	rc = policy_file_take(p, json_root(doc), e);
	json_free(doc);
	return rc;
}

/* Adds the rules of file `path` to `p`. Returns as policy_file_parse(), or -errno; the error names the file. */
int policy_file_add(struct policy *p, const char *path, struct err *e)
{
	struct buf text = {0};
	struct err why;
	int rc = io_read_file(AT_FDCWD, path, FILE_MAX_BYTES, &text);
	if (rc)
		rc = err_sys(e, rc, "cannot read %.300s", path);
	else if ((rc = policy_file_parse((const char *)text.data, text.len, p, &why)))
		err_set(e, rc, "%.300s: %s", path, why.text);
	buf_free(&text);
	return rc;
}

/* ---- Writing ---- */

/* `"key": [` before the first element, a comma before others; each on a line of its own. */
static int put_element(struct buf *b, const char *key, bool first)
{
	return first ? buf_addf(b, ",\n  \"%s\": [\n    ", key) : buf_addf(b, ",\n    ");
}

static int put_rules(struct buf *b, const char *key, const struct policy_rule *rule, size_t count)
{
	int rc = 0;
	for (size_t i = 0; i < count && rc == 0; i++) {
		char text[POLICY_RULE_TEXT_BYTES];
		rc = put_element(b, key, i == 0);
		rc = rc ? rc : json_put_string(b, policy_rule_text(&rule[i], text));
	}
	return rc || count == 0 ? rc : buf_addf(b, "\n  ]");
}

static bool pinned_before(const struct policy *p, size_t pin)
{
	for (size_t i = 0; i < pin; i++)
		if (strcmp(p->pin[i].name, p->pin[pin].name) == 0)
			return true;
	return false;
}

/* All addresses of a name, as an array. */
static int put_pin(struct buf *b, const struct policy *p, const char *name)
{
	struct ip_addr addr;
	size_t from = 0;
	int rc = json_put_string(b, name);
	const char *before = ": [";
	while (rc == 0 && policy_pinned(p, name, &from, &addr)) {
		char text[ADDR_TEXT_BYTES];
		rc = buf_addf(b, "%s\"%s\"", before, addr_text(&addr, text));
		before = ", ";
	}
	return rc ? rc : buf_addf(b, "]");
}

static int put_pins(struct buf *b, const struct policy *p)
{
	int rc = 0;
	for (size_t i = 0; i < p->pin_count && rc == 0; i++) {
		if (pinned_before(p, i))
			continue;
		rc = buf_addf(b, "%s    ", i == 0 ? ",\n  \"hosts\": {\n" : ",\n");
		rc = rc ? rc : put_pin(b, p, p->pin[i].name);
	}
	return rc || p->pin_count == 0 ? rc : buf_addf(b, "\n  }");
}

static int put_ports(struct buf *b, const struct policy *p)
{
	int rc = 0;
	for (size_t i = 0; i < p->loopback_port_count && rc == 0; i++) {
		rc = put_element(b, "loopback_ports", i == 0);
		rc = rc ? rc : buf_addf(b, "%u", p->loopback_port[i]);
	}
	return rc || p->loopback_port_count == 0 ? rc : buf_addf(b, "\n  ]");
}

static int put_hooks(struct buf *b, const struct policy *p)
{
	int rc = 0;
	for (size_t i = 0; i < p->hooks.count && rc == 0; i++) {
		rc = put_element(b, "hooks", i == 0);
		rc = rc ? rc : buf_add(b, p->hooks.item[i], strlen(p->hooks.item[i]));
	}
	return rc || p->hooks.count == 0 ? rc : buf_addf(b, "\n  ]");
}

/*
 * Appends the text of a policy file with the rules of `p`, from which policy_file_parse() makes the same rules. What only
 * options can say (allow_public, intercept_all) is not in it. Returns 0 or -ENOMEM.
 */
int policy_file_write(const struct policy *p, struct buf *out)
{
	int rc = buf_addf(out, "{\n  \"version\": %d", VERSION);
	rc = rc ? rc : put_rules(out, "allow", p->allow, p->allow_count);
	rc = rc ? rc : put_rules(out, "deny", p->deny, p->deny_count);
	rc = rc ? rc : put_pins(out, p);
	rc = rc ? rc : put_ports(out, p);
	rc = rc ? rc : put_rules(out, "intercept", p->intercept, p->intercept_count);
	rc = rc ? rc : put_rules(out, "websockets", p->websocket, p->websocket_count);
	rc = rc ? rc : put_hooks(out, p);
	return rc ? rc : buf_addf(out, "\n}\n");
}
