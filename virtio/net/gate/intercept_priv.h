/* What the parts of the interceptor share. */
#ifndef CAPLOCK_GATE_INTERCEPT_PRIV_H
#define CAPLOCK_GATE_INTERCEPT_PRIV_H

#include <openssl/ssl.h>

#include "virtio/net/gate/ca.h"
#include "virtio/net/gate/callback.h"
#include "virtio/net/gate/conn.h"
#include "virtio/net/gate/exchange.h"
#include "virtio/net/gate/hooks.h"
#include "virtio/net/gate/interceptor.h"
#include "virtio/net/gate/proto.h"
#include "virtio/net/gate/secret.h"
#include "virtio/net/gate/secret_scan.h"
#include "virtio/net/gate/sigv4.h"

struct server;
struct spare;
struct upstream;

struct intercept {
	struct gate_services services;
	struct conn_set conns;
	struct ca *ca;
	SSL_CTX *guest_tls, *server_tls; /* server_tls: NULL until it is needed */
	struct hooks hooks;
	struct secrets secrets;
	struct sigv4 *aws; /* keys of AWS */
	size_t aws_count;
	struct secret_patterns patterns; /* their forms in bodies */
	struct callbacks callbacks;
	struct flow_gate *flows, *dead_flows;
	struct server *servers; /* upstream.c */
	struct spare *spares;   /* connected sockets that nobody has used yet */
	struct upstream *dead_upstreams;
	struct exchange *dead_exchanges;
	unsigned server_count, idle_count;
	uint64_t check_ms; /* when something will have been idle for too long; 0: nothing is */
};

/* A flow of the guest that is read. */
struct flow_gate {
	struct intercept *all;
	struct flow_gate *next;
	char name[NAME_BYTES];
	uint16_t port;
	bool tls;
	bool granted; /* by the user, where no rule says anything */
	bool refused; /* and that was told */
	struct loop_source first; /* until its first byte is there; then fd is -1 */
	struct conn *conn;        /* then */
	struct client1 *http1; /* client.c; NULL: not (yet) */
	struct client2 *http2; /* client_http2.c; NULL: not */
	bool dead;
};

/* intercept.c */
void flow_end(struct flow_gate *f); /* and whatever it carries */
void intercept_record(struct intercept *i, struct gate_record *r);

/* exchange.c */
void exchange_free_dead(struct intercept *i);

/* client.c: HTTP/1.1 with the guest */
int client1_start(struct flow_gate *f);
void client1_end(struct client1 *c); /* and what it carries; accepts NULL */
void client1_free(struct client1 *c);

/* client_http2.c */
int client2_start(struct flow_gate *f);
void client2_end(struct client2 *c);
void client2_free(struct client2 *c);

#endif
