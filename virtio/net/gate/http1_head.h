/* The lines of a head of HTTP/1.1, for http1.c. */
#ifndef CAPLOCK_GATE_HTTP1_HEAD_H
#define CAPLOCK_GATE_HTTP1_HEAD_H

#include "virtio/net/gate/http1.h"

/* What is wrong with a message. */
struct http1_wrong {
	unsigned status; /* 0: nothing */
	const char *reason;
};

/* A piece of a message's text. */
struct http1_text {
	const char *at;
	size_t bytes;
};

bool http1_wrong(struct http1_wrong *wrong, unsigned status, const char *reason);
bool http1_added(int rc, struct http1_wrong *wrong);
bool http1_check_start(enum http1_role role, const uint8_t *data, size_t len_bytes, struct http1_wrong *wrong);
bool http1_request_line(struct http1_in *in, struct http1_text line, struct http1_wrong *wrong);
bool http1_status_line(struct http1_in *in, struct http1_text line, struct http1_wrong *wrong);
bool http1_split_field(struct http1_text line, struct http1_text *name, struct http1_text *value, struct http1_wrong *wrong);
bool http1_field(struct http1_in *in, struct http1_text line, struct http1_wrong *wrong);
bool http1_end_head(struct http1_in *in, struct http1_wrong *wrong);

#endif
