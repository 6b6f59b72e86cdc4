/*
 * One request and its response, on their way through the gate: between the guest's connection (client) and the one to the
 * server (upstream), each of which speaks HTTP/1.1 or HTTP/2 and knows nothing of the other. exchange.c has the theory of
 * operation.
 */
#ifndef CAPLOCK_GATE_EXCHANGE_H
#define CAPLOCK_GATE_EXCHANGE_H

#include "virtio/net/gate/http.h"

struct exchange;
struct flow_gate;

enum {
	CONN_QUEUE_MAX_BYTES = 128 << 10, /* that wait to be sent on a connection before its source is to wait */
	BODY_PIECE_BYTES = 16 << 10,
};

/*
 * What an exchange asks of the guest's side. Data is copied by whoever takes it. After reset() and after end() nothing more is
 * called; the exchange calls none of them after exchange_cancel().
 */
struct client_ops {
	void (*head)(void *context, const struct http_head *response); /* also 1xx, which is not the last */
	void (*data)(void *context, const uint8_t *data, size_t len_bytes);
	void (*end)(void *context, const struct http_fields *trailers);
	void (*reset)(void *context, const char *reason); /* what was sent of the response is not all of it */
	size_t (*room)(void *context);   /* how much data() should be given now at most; 0: exchange_client_drained() says when */
	void (*resume)(void *context);   /* exchange_wants_data() is true again */
};

/* What it asks of the server's side. After cancel() nothing more is called. */
struct upstream_ops {
	void (*head)(void *context, const struct http_head *request);
	void (*data)(void *context, const uint8_t *data, size_t len_bytes);
	void (*end)(void *context, const struct http_fields *trailers);
	void (*cancel)(void *context);   /* the exchange is over before the response is: nobody wants the rest */
	size_t (*room)(void *context);   /* as above; 0: exchange_upstream_drained() says when */
	void (*resume)(void *context);   /* exchange_wants_response() is true again */
};

/* ---- Called by the guest's side ---- */

struct exchange *exchange_create(struct flow_gate *flow, const struct client_ops *ops, void *context, bool http2);
struct http_head *exchange_request_head(struct exchange *x); /* to fill in, before exchange_request() */
void exchange_request(struct exchange *x);
void exchange_request_data(struct exchange *x, const uint8_t *data, size_t len_bytes);
void exchange_request_end(struct exchange *x, struct http_fields *trailers); /* takes the trailers over; NULL: none */
bool exchange_wants_data(const struct exchange *x);
void exchange_client_drained(struct exchange *x);
void exchange_cancel(struct exchange *x); /* the guest is gone, or has reset it, or all of the response is sent. Frees it */
void exchange_refuse(struct exchange *x, unsigned status, const char *reason); /* a request that could not be understood */

/* ---- Called by the server's side ---- */

void exchange_upstream_ready(struct exchange *x, const struct upstream_ops *ops, void *context);
void exchange_upstream_failed(struct exchange *x, unsigned status, const char *reason); /* before any response */
struct http_head *exchange_response_head(struct exchange *x); /* to fill in, before exchange_response() */
void exchange_response(struct exchange *x);                  /* also 1xx: then the next head follows */
void exchange_response_data(struct exchange *x, const uint8_t *data, size_t len_bytes);
void exchange_response_end(struct exchange *x, struct http_fields *trailers);
void exchange_response_lost(struct exchange *x, const char *reason); /* it will not come, or not all of it */
bool exchange_wants_response(const struct exchange *x);
void exchange_upstream_drained(struct exchange *x);

#endif
