#include "vmm/sandbox/audit.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "virtio/net/gate/proto.h"
#include "virtio/net/policy.h"
#include "virtio/net/record.h"
#include "vmm/util/buf.h"
#include "vmm/util/json.h"

enum { PORT_HTTP = 80, PORT_HTTPS = 443 };

static const char *const kinds[] = {
	[RECORD_DNS] = "dns", [RECORD_FLOW] = "flow", [RECORD_CLOSE] = "close", [RECORD_ASK] = "ask", [RECORD_TOTALS] = "totals"};
static const char *const verdicts[] = {[VERDICT_DENY] = "deny", [VERDICT_ALLOW] = "allow", [VERDICT_FAILED] = "failed"};

/* RFC 3339, UTC, milliseconds. */
static int put_time(struct buf *out, uint64_t time_ns)
{
	time_t seconds = (time_t)(time_ns / 1000000000u);
	struct tm t;
	char text[32];
	if (!gmtime_r(&seconds, &t) || !strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &t))
		text[0] = 0;
	return buf_addf(out, "{\"time\":\"%s.%03uZ\"", text, (unsigned)(time_ns / 1000000 % 1000));
}

static int put_text(struct buf *out, const char *key, const char *text)
{
	int rc = buf_addf(out, ",\"%s\":", key);
	return rc ? rc : json_put_string(out, text);
}

static int put_target(struct buf *out, const struct net_record *r)
{
	char address[ADDR_TEXT_BYTES];
	int rc = r->kind == RECORD_DNS ? 0 : put_text(out, "proto", r->proto == NET_UDP ? "udp" : "tcp");
	if (rc == 0 && r->name[0])
		rc = put_text(out, "name", r->name);
	if (rc == 0 && r->has_addr)
		rc = put_text(out, "address", addr_text(&r->addr, address));
	return rc || !r->port ? rc : buf_addf(out, ",\"port\":%u", r->port);
}

static int put_totals(struct buf *out, const struct net_counters *c)
{
	return buf_addf(out,
			",\"frames_in\":%" PRIu64 ",\"frames_out\":%" PRIu64 ",\"malformed\":%" PRIu64 ",\"fragments\":%" PRIu64
			",\"unsupported\":%" PRIu64 ",\"unsent\":%" PRIu64 ",\"oversized\":%" PRIu64 ",\"reordered\":%" PRIu64
			",\"flows\":%" PRIu64 ",\"denied\":%" PRIu64 ",\"over_limit\":%" PRIu64,
			c->frames_in, c->frames_out, c->malformed, c->fragments, c->unsupported, c->unsent, c->oversized, c->reordered,
			c->flows, c->denied, c->over_limit);
}

/* Appends the line of a record, whose texts end with NUL. Returns 0 or -ENOMEM. */
int audit_line(struct buf *out, const struct net_record *r)
{
	bool known = r->kind < sizeof kinds / sizeof *kinds && kinds[r->kind] && r->verdict < sizeof verdicts / sizeof *verdicts;
	int rc = put_time(out, r->time_ns);
	rc = rc ? rc : put_text(out, "event", known ? kinds[r->kind] : "unknown");
	if (rc == 0 && r->kind == RECORD_TOTALS)
		rc = put_totals(out, &r->count);
	if (rc == 0 && known && (r->kind == RECORD_DNS || r->kind == RECORD_FLOW))
		rc = put_text(out, "verdict", verdicts[r->verdict]);
	rc = rc || r->kind == RECORD_TOTALS ? rc : put_target(out, r);
	if (rc == 0 && r->reason[0])
		rc = put_text(out, "reason", r->reason);
	if (rc == 0 && r->kind == RECORD_CLOSE)
		rc = put_text(out, "direction", r->published ? "in" : "out");
	if (rc == 0 && r->kind == RECORD_CLOSE)
		rc = buf_addf(out, ",\"bytes_sent\":%" PRIu64 ",\"bytes_received\":%" PRIu64 ",\"duration_ms\":%" PRIu64,
			      r->from_guest_bytes, r->to_guest_bytes, r->duration_ms);
	return rc ? rc : buf_addf(out, "}\n");
}

/* Appends the URL of a request; the port only where it is not the scheme's. Returns 0 or -ENOMEM. */
int audit_url(struct buf *out, const struct gate_record *r)
{
	int rc = buf_addf(out, "%s://%s", r->tls ? "https" : "http", r->name);
	if (rc == 0 && r->port != (r->tls ? PORT_HTTPS : PORT_HTTP))
		rc = buf_addf(out, ":%u", r->port);
	return rc ? rc : buf_addf(out, "%s", r->path);
}

static int put_url(struct buf *out, const struct gate_record *r)
{
	struct buf url = {0};
	int rc = audit_url(&url, r);
	rc = rc ? rc : buf_add(&url, "", 1);
	rc = rc ? rc : put_text(out, "url", (const char *)url.data);
	buf_free(&url);
	return rc;
}

/* The names in a comma list, as an array. */
static int put_names(struct buf *out, const char *key, const char *list)
{
	int rc = buf_addf(out, ",\"%s\":[", key);
	for (const char *sep = ""; rc == 0 && *list; sep = ",") {
		int n = (int)strcspn(list, ",");
		char name[256];
		snprintf(name, sizeof name, "%.*s", n, list);
		rc = buf_addf(out, "%s", sep);
		rc = rc ? rc : json_put_string(out, name);
		list += n + (list[n] == ',');
	}
	return rc ? rc : buf_addf(out, "]");
}

/* Appends the line of a request that was read, whose texts end with NUL. Returns 0 or -ENOMEM. */
int audit_request(struct buf *out, const struct gate_record *r)
{
	int rc = put_time(out, r->time_ns);
	rc = rc ? rc : put_text(out, "event", "request");
	rc = rc ? rc : put_text(out, "verdict", r->denied ? "deny" : r->reason[0] ? "failed" : "allow");
	rc = rc || !r->method[0] ? rc : put_text(out, "method", r->method); /* none: the flow came to no request */
	rc = rc ? rc : put_url(out, r);
	rc = rc ? rc : put_text(out, "http", r->http2 ? "2" : "1.1");
	if (rc == 0 && r->status)
		rc = buf_addf(out, ",\"status\":%u", r->status);
	if (rc == 0 && r->secrets[0])
		rc = put_names(out, "secrets", r->secrets);
	if (rc == 0 && r->redacted)
		rc = buf_addf(out, ",\"redacted\":%" PRIu32, r->redacted);
	if (rc == 0 && r->reason[0])
		rc = put_text(out, "reason", r->reason);
	return rc ? rc : buf_addf(out, ",\"bytes_sent\":%" PRIu64 ",\"bytes_received\":%" PRIu64 ",\"duration_ms\":%" PRIu64 "}\n",
				 r->request_bytes, r->response_bytes, r->duration_ms);
}
