#include "virtio/net/report.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "virtio/net/net_priv.h"

/* Tells the supervisor of a denial. Where it does not read, that is lost: it is a courtesy to the user, not the record. */
void report_denied(struct net *n, const struct policy_request *r, const char *reason)
{
	struct net_report report = {.proto = (uint8_t)r->proto, .port = r->port};
	char text[ADDR_TEXT_BYTES];
	if (n->config.report_fd < 0)
		return;
	snprintf(report.host, sizeof report.host, "%s", r->name ? r->name : addr_text(&r->addr, text));
	snprintf(report.reason, sizeof report.reason, "%s", reason);
	(void)!send(n->config.report_fd, &report, sizeof report, MSG_DONTWAIT | MSG_NOSIGNAL);
}
