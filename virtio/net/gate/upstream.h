/* Connections to servers, which exchanges share one after the other (HTTP/1.1) or at once (HTTP/2). */
#ifndef CAPLOCK_GATE_UPSTREAM_H
#define CAPLOCK_GATE_UPSTREAM_H

#include "virtio/net/gate/http1.h"
#include "virtio/net/gate/intercept_priv.h"

struct upstream2;
struct want;

/* A connection to a server. */
struct upstream {
	struct server *server;
	struct upstream *next;
	struct conn *conn;     /* NULL: being dialled */
	struct dial *dial;
	struct ip_addr addr;   /* that was dialled */
	bool own, granted;
	bool stale;            /* made under rules that have changed since: it carries nothing more */
	bool ready;            /* it can carry an exchange */
	bool used;             /* it has carried one */
	bool idle;             /* it counts as one that carries none */
	bool http2_offered;
	uint64_t idle_ms;      /* since when it carries none */
	/* HTTP/1.1: upstream.c */
	struct exchange *exchange; /* that it carries; NULL: none */
	struct http1_in in;
	enum http1_body body;  /* of the request */
	bool request_ended, responded, tunnel;
	/* HTTP/2: upstream_http2.c */
	struct upstream2 *http2; /* NULL: HTTP/1.1 */
	bool dead;             /* to be freed */
};

/* A server: a name, a port, with or without TLS. */
struct server {
	struct intercept *all;
	struct server *next;
	char name[NAME_BYTES];
	uint16_t port;
	bool tls;
	bool no_http2;         /* it chose HTTP/1.1 where it could have chosen */
	struct upstream *conns;
	struct want *wants;    /* exchanges that wait, the oldest first */
	SSL_SESSION *session;  /* to resume; NULL: none */
};

/* upstream.c */
void upstream_get(struct intercept *i, struct exchange *x, const struct flow_gate *f, bool http2, struct want **out);
void upstream_forget(struct want *w);
void upstream_expect(struct intercept *i, const struct flow_gate *f, bool http2);
void upstream_add_spare(struct intercept *i, const char *name, uint16_t port, const struct dial_result *r);
bool upstream_reaches(struct intercept *i, const char *name, uint16_t port, struct dial_result *where);
void upstream_policy_changed(struct intercept *i);
int upstream_tick(struct intercept *i);
void upstream_free_dead(struct intercept *i);
void upstream_free_all(struct intercept *i);
void upstream_lost(struct upstream *u, const char *reason); /* the connection is of no more use: destroys it */
void upstream_changed(struct upstream *u);

/* upstream_http2.c: all exchanges of one connection that speaks it */
int upstream2_start(struct upstream *u);
bool upstream2_is_open(const struct upstream *u);  /* it may carry more, if not now */
bool upstream2_has_room(const struct upstream *u); /* for one more stream */
bool upstream2_is_idle(const struct upstream *u);
void upstream2_carry(struct upstream *u, struct exchange *x); /* calls exchange_upstream_ready() */
void upstream2_free(struct upstream2 *h, const char *reason); /* its exchanges are lost */

/* exchange.c, for upstream.c */
bool exchange_can_repeat(const struct exchange *x); /* nothing of it is lost when it is sent once more */
void exchange_repeat(struct exchange *x);

#endif
