/* The network policy: what a sandbox may reach. Default-deny; no state but the rules. */
#ifndef CAPLOCK_NET_POLICY_H
#define CAPLOCK_NET_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio/net/addr.h"
#include "virtio/net/name.h"
#include "vmm/util/strv.h"

struct buf;
struct err;

#define POLICY_PACKAGES "@packages" /* the hosts that the image's packages come from */
#define POLICY_HOST_NAME "host.caplock.internal" /* the host's loopback, where a rule opens a port of it */

enum {
	POLICY_RULES_MAX = 4096, /* of a kind */
	POLICY_RULE_TEXT_BYTES = 512, /* more than any has */
};

enum net_proto {
	NET_TCP,
	NET_UDP,
};

enum policy_match {
	MATCH_ANY,   /* every name */
	MATCH_NAME,  /* this name */
	MATCH_UNDER, /* every name below this one */
	MATCH_NET,   /* addresses */
};

struct policy_rule {
	enum policy_match match;
	enum net_proto proto;
	bool any_proto; /* of a deny rule without "tcp:" or "udp:" */
	bool raw;       /* "tcp:", "udp:": what flows is not looked at */
	bool web;       /* ports 80 and 443; otherwise the range */
	uint16_t port_first, port_last;
	char name[NAME_BYTES];
	struct ip_net net;
};

/* NAME:IP of --add-host: where a name is, whatever a resolver says. */
struct policy_pin {
	char name[NAME_BYTES];
	struct ip_addr addr;
};

/* Zero-initialise it to start: it denies everything. policy_free() to end. */
struct policy {
	struct policy_rule *allow, *deny;
	size_t allow_count, deny_count;
	struct policy_pin *pin;
	size_t pin_count;
	uint16_t *loopback_port;
	size_t loopback_port_count;
	struct policy_rule *intercept; /* what is allowed is read by the gate: names; ports as in rules that allow */
	size_t intercept_count;
	struct strv hooks;    /* JSON texts of rules for the gate: hooks_add_text() */
	struct policy_rule *websocket; /* hosts that may have WebSockets, where flows are read */
	size_t websocket_count;
	bool intercept_all;   /* --network-intercept */
	bool intercept_plain; /* HTTP without TLS, whatever the host: there are secrets */
	bool allow_packages; /* "@packages" is asked for: whoever has the image adds its rules */
	bool allow_public; /* every public name and address: --learn */
	bool ask;          /* the user, about what no rule is about: --ask */
};

enum policy_op {
	POLICY_ADD_ALLOW,
	POLICY_REMOVE_ALLOW,
	POLICY_ADD_DENY,
	POLICY_REMOVE_DENY,
};

/* A change of the rules of a running sandbox, as it is sent to the processes that decide. */
struct policy_change {
	uint8_t op;                        /* enum policy_op */
	char rule[POLICY_RULE_TEXT_BYTES]; /* as policy_add_allow() takes it */
};

enum policy_verdict {
	POLICY_DENY,
	POLICY_ALLOW,     /* and names in TLS and HTTP must be the flow's */
	POLICY_ALLOW_RAW, /* whatever flows */
	POLICY_ASK,       /* the user decides; the flow waits */
};

/* A flow that the guest wants, to a name or, where that is NULL, to an address. */
struct policy_request {
	enum net_proto proto;
	const char *name; /* canonical */
	struct ip_addr addr;
	uint16_t port;
};

struct policy_decision {
	enum policy_verdict verdict;
	const char *reason; /* static; of a denial */
	const struct policy_rule *rule; /* that decided; NULL: none, or it was a pin or a port of the loopback */
};

/* policy_rule.c */
int policy_add_allow(struct policy *p, const char *text, struct err *e);
int policy_add_deny(struct policy *p, const char *text, struct err *e);
int policy_add_pin(struct policy *p, const char *text, struct err *e);
int policy_add_intercept(struct policy *p, const char *text, struct err *e);
int policy_add_websocket(struct policy *p, const char *text, struct err *e);
int policy_add_loopback(struct policy *p, const char *text, struct err *e);
int policy_apply(struct policy *p, const struct policy_change *c, struct err *e);
const char *policy_rule_text(const struct policy_rule *r, char out[POLICY_RULE_TEXT_BYTES]);
int policy_copy(struct policy *to, const struct policy *from);
void policy_free(struct policy *p);

/* policy.c */
struct policy_decision policy_decide(const struct policy *p, const struct policy_request *r);
struct policy_decision policy_decide_address(const struct policy *p, const struct policy_request *r, const struct ip_addr *addr,
					     bool own);
enum policy_verdict policy_once(const struct policy_request *r);
bool policy_intercepts(const struct policy *p, const struct policy_request *r);
bool policy_allows_websocket(const struct policy *p, const char *name, uint16_t port);
bool policy_resolves(const struct policy *p, const char *name);
bool policy_pinned(const struct policy *p, const char *name, size_t *from, struct ip_addr *out);

#endif
