/*
 * The interceptor.
 *
 * Theory of operation
 * -------------------
 * Purpose: reads the flows of hosts that have a secret or a hook, or of all hosts (--network-intercept): the guest's TLS ends here, with a
 * certificate of an authority that only this sandbox trusts (ca.c), and another TLS goes to the server, whose certificate is
 * verified (upstream.c). What is said between them is HTTP, of which each request is an exchange (exchange.c).
 *
 *      vmm  -- socket pair -->  conn.c (TLS) -> client.c | client_http2.c -> exchange.c -> upstream.c | upstream_http2.c -> conn.c (TLS)
 *
 * Trust boundary: both ends are hostile, the guest and the server. Secrets are only in this process; a server gets those that
 * belong to it, and the guest gets none.
 *
 * A flow's first byte says what it is, where its port does not: 22 begins TLS. TLS must name the flow's host.
 *
 * Life: what is destroyed while its functions may be on the stack is freed in tick().
 */
#include "virtio/net/gate/intercept.h"

#include <errno.h>
#include <openssl/err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "virtio/net/gate/clock.h"
#include "virtio/net/gate/intercept_priv.h"
#include "virtio/net/gate/upstream.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"

enum {
	PORT_HTTP = 80,
	PORT_HTTPS = 443,
	TLS_HANDSHAKE_BYTE = 22,
};

static const struct conn_ops conn_ops;

/* ---- Records ---- */

/* Tells the supervisor of a request, where it wants to know. */
void intercept_record(struct intercept *i, struct gate_record *r)
{
	if (r->denied || i->services.config->record_all)
		i->services.tell(i->services.context, r, sizeof *r);
}

/* A flow that has come to no request. */
static void record_flow_failure(struct flow_gate *f, const char *reason)
{
	struct gate_record r = {.message = GATE_RECORD, .denied = 1, .tls = 1, .port = f->port};
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	r.time_ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
	memcpy(r.name, f->name, sizeof r.name);
	snprintf(r.reason, sizeof r.reason, "%s", reason);
	intercept_record(f->all, &r);
}

/* ---- Flows ---- */

/* Ends a flow, and whatever it carries. It is freed when the loop comes round. */
void flow_end(struct flow_gate *f)
{
	struct intercept *i = f->all;
	if (f->dead)
		return;
	f->dead = true;
	struct flow_gate **at = &i->flows;
	while (*at != f)
		at = &(*at)->next;
	*at = f->next;
	if (f->first.fd >= 0) {
		loop_remove(i->services.loop, &f->first);
		io_close(&f->first.fd);
	}
	client1_end(f->http1);
	client2_end(f->http2);
	conn_destroy(f->conn);
	f->conn = NULL;
	f->next = i->dead_flows;
	i->dead_flows = f;
}

static void free_dead_flows(struct intercept *i)
{
	while (i->dead_flows) {
		struct flow_gate *f = i->dead_flows;
		i->dead_flows = f->next;
		client1_free(f->http1);
		client2_free(f->http2);
		free(f);
	}
}

/* ---- TLS with the guest ---- */

/* Sees what protocols the guest offers, and starts TLS with the server at the same time. */
static int hello(SSL *ssl, int *alert, void *context)
{
	(void)alert;
	struct flow_gate *f = SSL_get_app_data(ssl);
	const uint8_t *list;
	size_t bytes;
	bool http2 = false;
	if (SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &list, &bytes))
		for (size_t at = 2; at < bytes && at + 1 + list[at] <= bytes; at += 1 + (size_t)list[at])
			http2 |= list[at] == 2 && memcmp(list + at + 1, "h2", 2) == 0;
	upstream_expect(context, f, http2);
	return SSL_CLIENT_HELLO_SUCCESS;
}

/* The one-name rule, for TLS. Called also where the guest names nobody. */
static int check_name(SSL *ssl, int *alert, void *context)
{
	(void)context;
	struct flow_gate *f = SSL_get_app_data(ssl);
	const char *text = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
	char name[NAME_BYTES];
	size_t at;
	if (text && !name_canonical(text, strlen(text), name, &at) && strcmp(name, f->name) == 0)
		return SSL_TLSEXT_ERR_OK;
	f->refused = true;
	record_flow_failure(f, text ? "TLS for another host (SNI)" : "TLS that names no host (SNI)");
	*alert = SSL_AD_UNRECOGNIZED_NAME;
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static int choose_certificate(SSL *ssl, void *context)
{
	struct intercept *i = context;
	struct flow_gate *f = SSL_get_app_data(ssl);
	X509 *leaf = ca_leaf(i->ca, f->name);
	return leaf && SSL_use_certificate(ssl, leaf) == 1 && SSL_use_PrivateKey(ssl, ca_leaf_key(i->ca)) == 1;
}

static int choose_protocol(SSL *ssl, const uint8_t **out, uint8_t *out_bytes, const uint8_t *in, unsigned in_bytes, void *context)
{
	static const uint8_t ours[] = "\x02h2\x08http/1.1";
	(void)ssl;
	(void)context;
	int rc = SSL_select_next_proto((uint8_t **)out, out_bytes, ours, sizeof ours - 1, in, in_bytes);
	return rc == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

static SSL_CTX *guest_context(struct intercept *i)
{
	SSL_CTX *c = SSL_CTX_new(TLS_server_method());
	if (!c)
		return NULL;
	SSL_CTX_set_min_proto_version(c, TLS1_2_VERSION);
	SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_options(c, SSL_OP_CIPHER_SERVER_PREFERENCE);
	SSL_CTX_set_ciphersuites(c, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"); /* the fastest first */
	SSL_CTX_set_session_id_context(c, (const uint8_t *)"caplock", 7);
	SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF); /* tickets do */
	SSL_CTX_set_num_tickets(c, 1);
	SSL_CTX_set_client_hello_cb(c, hello, i);
	SSL_CTX_set_tlsext_servername_callback(c, check_name);
	SSL_CTX_set_cert_cb(c, choose_certificate, i);
	SSL_CTX_set_alpn_select_cb(c, choose_protocol, NULL);
	return c;
}

static void start_tls(struct flow_gate *f)
{
	struct intercept *i = f->all;
	i->guest_tls = i->guest_tls ? i->guest_tls : guest_context(i); /* not before it is needed: the guest waits for our start */
	SSL *ssl = i->guest_tls ? SSL_new(i->guest_tls) : NULL;
	if (!ssl) {
		flow_end(f);
		return;
	}
	f->tls = true;
	SSL_set_app_data(ssl, f);
	SSL_set_accept_state(ssl);
	conn_start_tls(f->conn, ssl);
}

/* TLS is there. */
static void opened(void *context)
{
	struct flow_gate *f = context;
	const uint8_t *protocol = NULL;
	unsigned bytes = 0;
	SSL_get0_alpn_selected(conn_tls(f->conn), &protocol, &bytes);
	if (bytes == 2 && memcmp(protocol, "h2", 2) == 0 ? client2_start(f) : client1_start(f))
		flow_end(f);
}

static void failed(void *context, const char *reason)
{
	struct flow_gate *f = context;
	if (f->tls && !f->refused)
		record_flow_failure(f, reason);
	flow_end(f);
}

static void ended(void *context, bool clean)
{
	(void)clean;
	flow_end(context);
}

static const struct conn_ops conn_ops = {.opened = opened, .ended = ended, .failed = failed};

/* ---- The first byte ---- */

/* Something can be read from the flow's socket: it says what the flow is. */
static void first_ready(void *context, uint32_t events)
{
	(void)events;
	struct flow_gate *f = context;
	uint8_t first;
	ssize_t n = recv(f->first.fd, &first, 1, MSG_PEEK | MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	loop_remove(f->all->services.loop, &f->first);
	int fd = f->first.fd;
	f->first.fd = -1;
	f->conn = conn_create(&f->all->conns, fd, &conn_ops, f);
	bool tls = n == 1 && (f->port == PORT_HTTPS || (f->port != PORT_HTTP && first == TLS_HANDSHAKE_BYTE));
	if (n <= 0 || !f->conn)
		flow_end(f);
	else if (tls)
		start_tls(f);
	else if (client1_start(f))
		flow_end(f);
}

/* ---- For the gate ---- */

static bool has_connection(struct intercept *i, const struct gate_request *r, struct dial_result *where)
{
	return upstream_reaches(i, r->name, r->port, where);
}

/*
 * Begins to read a flow; the vmm gets *guest_fd. `connection` is a socket to the server, which is ours from now on, where it has one.
 * Returns 0 or -errno.
 */
static int open_flow(struct intercept *i, const struct gate_request *r, const struct dial_result *connection, int *guest_fd)
{
	int pair[2];
	if (connection->fd >= 0)
		upstream_add_spare(i, r->name, r->port, connection);
	struct flow_gate *f = calloc(1, sizeof *f);
	if (!f)
		return -ENOMEM;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair)) {
		int error = errno;
		free(f);
		return -error;
	}
	*f = (struct flow_gate){.all = i, .port = r->port, .granted = connection->granted};
	memcpy(f->name, r->name, sizeof f->name);
	f->first = (struct loop_source){.fd = pair[0], .ready = first_ready, .context = f};
	if (loop_add(i->services.loop, &f->first, EPOLLIN)) {
		close(pair[0]);
		close(pair[1]);
		free(f);
		return -ENOMEM;
	}
	f->next = i->flows;
	i->flows = f;
	*guest_fd = pair[1];
	return 0;
}

static void connected(struct intercept *i, uint64_t callback, int fd)
{
	callback_connected(&i->callbacks, callback, fd);
}

static int earlier(int a_ms, int b_ms)
{
	return a_ms < 0 ? b_ms : b_ms < 0 ? a_ms : a_ms < b_ms ? a_ms : b_ms;
}

static int tick(struct intercept *i)
{
	int conns_ms = conn_set_tick(&i->conns);
	int calls_ms = callbacks_tick(&i->callbacks);
	int idle_ms = upstream_tick(i);
	if (i->conns.work)
		conns_ms = 0;
	exchange_free_dead(i);
	upstream_free_dead(i);
	free_dead_flows(i);
	return earlier(conns_ms, earlier(calls_ms, idle_ms));
}

static void destroy(struct intercept *i)
{
	while (i->flows)
		flow_end(i->flows);
	exchange_free_dead(i);
	upstream_free_all(i);
	free_dead_flows(i);
	conn_set_free(&i->conns);
	SSL_CTX_free(i->guest_tls);
	ca_destroy(i->ca);
	secret_patterns_free(&i->patterns);
	secrets_free(&i->secrets);
	while (i->aws_count)
		sigv4_close(&i->aws[--i->aws_count]);
	free(i->aws);
	hooks_free(&i->hooks);
	free(i);
}

/* ---- Start ---- */

/* Has the store take a secret's value. A line end at its end is not part of it. */
static int take_value(struct intercept *i, struct gate_secret *s, char *value, size_t len, struct err *e)
{
	const struct secret_spec spec = {.name = s->name, .placeholder = s->placeholder, .hosts = (const char *const *)s->hosts,
					 .in_path = s->in_path, .in_body = s->in_body, .plain_http = s->plain_http};
	if (s->aws) /* its name is the profile's, and its placeholder the id of the key that the guest has */
		return sigv4_open(&i->aws[i->aws_count++], s->name, s->placeholder, spec.hosts, value, len, e);
	if (len && value[len - 1] == '\n')
		len--;
	if (len && value[len - 1] == '\r')
		len--;
	return secrets_add(&i->secrets, &spec, value, len, e);
}

/* Reads a secret's value, to the end of its descriptor. */
static int take_secret(struct intercept *i, struct gate_secret *s, struct err *e)
{
	char *value = malloc(SECRET_VALUE_MAX_BYTES + 2);
	size_t len = 0;
	ssize_t n = 1;
	int rc = value ? 0 : -ENOMEM;
	while (rc == 0 && len < SECRET_VALUE_MAX_BYTES + 2 && (n = read(s->value_fd, value + len, SECRET_VALUE_MAX_BYTES + 2 - len)) > 0)
		len += (size_t)n;
	rc = rc ? rc : n < 0 ? -errno : 0;
	rc = rc ? err_sys(e, rc, "the value of secret %s cannot be read", s->name) : take_value(i, s, value, len, e);
	io_close(&s->value_fd);
	if (value)
		explicit_bzero(value, SECRET_VALUE_MAX_BYTES + 2);
	free(value);
	return rc;
}

static int take_config(struct intercept *i, struct err *e)
{
	struct gate_config *c = i->services.config;
	i->aws = calloc(c->secret_count + 1, sizeof *i->aws);
	int rc = i->aws ? 0 : err_sys(e, -ENOMEM, "secrets");
	for (size_t n = 0; rc == 0 && n < c->secret_count; n++)
		rc = take_secret(i, &c->secrets[n], e);
	for (char **hook = c->policy.hooks.item; rc == 0 && hook && *hook; hook++)
		rc = hooks_add_text(&i->hooks, *hook, e);
	rc = rc ? rc : secret_patterns_make(&i->patterns, &i->secrets);
	return rc;
}

/* Gives the supervisor the certificate that the guest is to trust; or says why there will be none. */
static int tell_certificate(struct intercept *i)
{
	struct buf message = {0};
	uint8_t kind = GATE_CERTIFICATE;
	int rc = buf_add(&message, &kind, 1);
	rc = rc ? rc : ca_certificate(i->ca, &message);
	if (rc == 0)
		i->services.tell(i->services.context, message.data, message.len);
	buf_free(&message);
	return rc;
}

static void tell_failure(const struct gate_services *s, const char *reason)
{
	char message[256] = {GATE_FAILED};
	int n = snprintf(message + 1, sizeof message - 1, "%s", reason);
	s->tell(s->context, message, 1 + (n < (int)sizeof message - 2 ? (size_t)n : sizeof message - 2));
}

static int create(const struct gate_services *s, struct intercept **out)
{
	struct err e = {"out of memory"};
	struct intercept *i = calloc(1, sizeof *i);
	if (!i)
		return -ENOMEM;
	i->services = *s;
	i->conns.loop = s->loop;
	OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, NULL);
	int rc = take_config(i, &e);
	i->ca = rc ? NULL : ca_create();
	rc = rc ? rc : i->ca ? tell_certificate(i) : -ENOMEM;
	if (rc) {
		tell_failure(s, e.text);
		destroy(i);
		return rc;
	}
	*out = i;
	return 0;
}

/* Whether the rules still allow a flow that they, or the user, once allowed. */
static bool is_allowed(const struct flow_gate *f)
{
	struct policy_request r = {.proto = NET_TCP, .name = f->name, .port = f->port};
	struct policy_decision d = policy_decide(&f->all->services.config->policy, &r);
	return d.verdict != POLICY_DENY || (f->granted && !d.rule);
}

/* Flows that are no longer allowed end, whatever the vmm does about them. */
static void policy_changed(struct intercept *i)
{
	for (struct flow_gate *f = i->flows, *next; f; f = next) {
		next = f->next;
		if (!is_allowed(f))
			flow_end(f);
	}
	upstream_policy_changed(i);
}

const struct gate_interceptor intercept_interceptor = {.create = create,
						       .destroy = destroy,
						       .has_connection = has_connection,
						       .open = open_flow,
						       .connected = connected,
						       .policy_changed = policy_changed,
						       .tick = tick};
