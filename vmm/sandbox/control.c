/*
 * The control socket.
 *
 * Theory of operation
 * -------------------
 * Purpose: changes a sandbox while it runs. A Unix socket at a path that the user chose, for that user only (mode 0600).
 * Each line that a client writes is a request, a JSON object, and is answered by one line, in order:
 *
 *      {"op":"allow-add","hosts":["example.com","tcp:db.test:5432"]}     {"ok":true}
 *      {"op":"allow-remove","hosts":["example.com"]}                     {"ok":false,"error":"..."}
 *      {"op":"deny-add","hosts":[...]}  {"op":"deny-remove","hosts":[...]}
 *      {"op":"publish","ports":["8080:80"]}                              {"ok":true,"published":["127.0.0.1:8080 -> sandbox:80"]}
 *
 * Of a list, what comes before the first element that is wrong is done. Trust boundary: clients are of the same user, but
 * what they write is bounded (LINE_MAX_BYTES, CLIENTS_MAX) and a client that does not read its answers is dropped.
 */
#include "vmm/sandbox/control.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/sandbox/network.h"
#include "vmm/sandbox/publish.h"
#include "vmm/util/buf.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"
#include "vmm/util/json.h"

enum {
	CLIENTS_MAX = 16,
	BACKLOG = 16,
	LINE_MAX_BYTES = 1 << 20,
	READ_BYTES = 16 << 10,
};

struct client {
	struct control *control;
	struct loop_source source; /* fd -1: free */
	struct buf in;
	struct buf answer; /* that waits until `change` is made */
	uint64_t change;
	bool ended; /* it will say nothing more, and only waits for its answer */
};

struct control {
	struct network *network;
	struct loop *loop; /* NULL: not started */
	struct sockaddr_un address;
	bool bound;
	struct stat made; /* what is at the path then */
	struct loop_source source;
	struct client client[CLIENTS_MAX];
};

/* ---- Requests ---- */

typedef int (*each_fn)(struct network *n, const char *op, const char *text, struct err *e);

static int no_such_op(const char *op, struct err *e)
{
	return err_set(e, -EINVAL, "no op '%.32s': there are allow-add, allow-remove, deny-add, deny-remove, publish", op);
}

static const struct {
	const char *name;
	enum policy_op change;
} changes[] = {{"allow-add", POLICY_ADD_ALLOW},
	       {"allow-remove", POLICY_REMOVE_ALLOW},
	       {"deny-add", POLICY_ADD_DENY},
	       {"deny-remove", POLICY_REMOVE_DENY}};

static bool is_change(const char *op)
{
	for (size_t i = 0; i < sizeof changes / sizeof *changes; i++)
		if (strcmp(op, changes[i].name) == 0)
			return true;
	return false;
}

static int change(struct network *n, const char *op, const char *host, struct err *e)
{
	for (size_t i = 0; i < sizeof changes / sizeof *changes; i++)
		if (strcmp(op, changes[i].name) == 0)
			return network_change(n, changes[i].change, host, e);
	return no_such_op(op, e);
}

static int publish(struct network *n, const char *op, const char *port, struct err *e)
{
	(void)op;
	return n->publish ? publish_add(n->publish, port, NULL, e) : err_set(e, -ENOTCONN, "this sandbox has no network");
}

/* Does `each` for every string of an array. */
static int for_each(struct network *n, struct json_value list, const char *op, each_fn each, struct err *e)
{
	int rc = json_expect(list, JSON_ARRAY, e);
	struct json_iter it = JSON_ITER(list);
	while (rc == 0 && json_next(&it)) {
		char *text;
		rc = json_string(it.value, &text, e);
		if (rc == 0)
			rc = each(n, op, text, e);
		else
			text = NULL;
		free(text);
	}
	return rc;
}

static int carry_out(struct network *n, const char *line, size_t len_bytes, bool *published, struct err *e)
{
	static const char *const keys[] = {"op", "hosts", "ports", NULL};
	struct json *doc;
	char *op = NULL;
	int rc = json_parse(line, len_bytes, NULL, &doc, e);
	if (rc)
		return rc;
	struct json_value root = json_root(doc);
	rc = json_expect(root, JSON_OBJECT, e);
	rc = rc ? rc : json_only_keys(root, keys, e);
	rc = rc ? rc : json_string(json_get(root, "op"), &op, e);
	*published = op && strcmp(op, "publish") == 0;
	if (rc == 0 && !*published && !is_change(op))
		rc = no_such_op(op, e);
	if (rc == 0)
		rc = *published ? for_each(n, json_get(root, "ports"), op, publish, e)
				: for_each(n, json_get(root, "hosts"), op, change, e);
	free(op);
	json_free(doc);
	return rc;
}

/* The ports as a JSON array. */
static int put_published(const struct network *n, struct buf *out)
{
	struct buf lines = {0};
	int rc = publish_describe(n->publish, &lines);
	rc = rc ? rc : buf_addf(out, ",\"published\":[");
	for (size_t at = 0; rc == 0 && at < lines.len;) {
		const char *line = (const char *)lines.data + at;
		size_t bytes = (size_t)((const char *)memchr(line, '\n', lines.len - at) - line);
		rc = at ? buf_addf(out, ",") : 0;
		rc = rc ? rc : json_put_bytes(out, line, bytes);
		at += bytes + 1;
	}
	buf_free(&lines);
	return rc ? rc : buf_addf(out, "]");
}

/* Carries one request out; its answer is sent when that is done. Returns 0 or -ENOMEM. */
static int answer(struct client *c, const char *line, size_t len_bytes)
{
	struct buf out = {0};
	struct err e;
	bool published = false;
	int failed = carry_out(c->control->network, line, len_bytes, &published, &e);
	int rc = buf_addf(&out, "{\"ok\":%s", failed ? "false" : "true");
	if (rc == 0 && failed)
		rc = buf_addf(&out, ",\"error\":");
	if (rc == 0 && failed)
		rc = json_put_string(&out, e.text);
	if (rc == 0 && !failed && published)
		rc = put_published(c->control->network, &out);
	rc = rc ? rc : buf_addf(&out, "}\n");
	if (rc) {
		buf_free(&out);
		return rc;
	}
	c->answer = out;
	c->change = c->control->network->changes;
	return 0;
}

/* Sends the answer that waits, if what it says is true by now. Returns 0, or -errno where the client does not take it. */
static int send_answer(struct client *c)
{
	if (c->answer.len == 0 || c->change > c->control->network->changes_done)
		return 0;
	ssize_t sent = send(c->source.fd, c->answer.data, c->answer.len, MSG_DONTWAIT | MSG_NOSIGNAL);
	bool whole = sent == (ssize_t)c->answer.len;
	buf_free(&c->answer);
	return whole ? 0 : -EPIPE;
}

/* ---- Clients ---- */

static void drop_client(struct client *c)
{
	if (c->source.fd < 0)
		return;
	loop_remove(c->control->loop, &c->source);
	io_close(&c->source.fd);
	buf_free(&c->in);
	buf_free(&c->answer);
}

/* Answers the whole lines that are there, until an answer must wait. Returns 0 or -errno. */
static int take_lines(struct client *c)
{
	size_t done = 0;
	const uint8_t *end;
	int rc = 0;
	while (rc == 0 && c->answer.len == 0 && c->in.len > done && (end = memchr(c->in.data + done, '\n', c->in.len - done))) {
		size_t bytes = (size_t)(end - (c->in.data + done));
		rc = answer(c, (const char *)c->in.data + done, bytes);
		rc = rc ? rc : send_answer(c);
		done += bytes + 1;
	}
	buf_consume(&c->in, done);
	return rc ? rc : c->in.len > LINE_MAX_BYTES ? -EMSGSIZE : 0;
}

static void client_ready(void *context, uint32_t events)
{
	(void)events;
	struct client *c = context;
	char data[READ_BYTES];
	ssize_t n = recv(c->source.fd, data, sizeof data, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n == 0 && c->answer.len) { /* it waits for its answer */
		loop_remove(c->control->loop, &c->source);
		c->ended = true;
		return;
	}
	if (n <= 0 || buf_add(&c->in, data, (size_t)n) || take_lines(c))
		drop_client(c);
}

static void listener_ready(void *context, uint32_t events)
{
	(void)events;
	struct control *c = context;
	struct client *client = NULL;
	int fd = accept4(c->source.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	for (unsigned i = 0; i < CLIENTS_MAX && !client; i++)
		if (c->client[i].source.fd < 0)
			client = &c->client[i];
	if (!client) {
		close(fd);
		return;
	}
	*client = (struct client){.control = c, .source = {.fd = fd, .ready = client_ready, .context = client}};
	if (loop_add(c->loop, &client->source, EPOLLIN))
		io_close(&client->source.fd);
}

/* A change of the rules may be made by now. */
void control_changed(struct control *c)
{
	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		struct client *client = &c->client[i];
		if (client->source.fd < 0 || client->answer.len == 0)
			continue;
		int rc = send_answer(client);
		if (rc || take_lines(client) || (client->ended && client->answer.len == 0))
			drop_client(client);
	}
}

/* ---- Life ---- */

/* Binds the path; a socket there that nobody listens on any more, of a killed sandbox, is replaced. */
static int bind_path(struct control *c)
{
	const struct sockaddr *to = (const struct sockaddr *)&c->address;
	int rc = fchmod(c->source.fd, 0600) || bind(c->source.fd, to, sizeof c->address) ? -errno : 0; /* unix(7): the mode first */
	if (rc == -EADDRINUSE) {
		struct stat st;
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		bool stale = fd >= 0 && lstat(c->address.sun_path, &st) == 0 && S_ISSOCK(st.st_mode) && connect(fd, to, sizeof c->address) && errno == ECONNREFUSED;
		io_close(&fd);
		if (stale && unlink(c->address.sun_path) == 0)
			rc = bind(c->source.fd, to, sizeof c->address) ? -errno : 0;
	}
	c->bound = rc == 0 && lstat(c->address.sun_path, &c->made) == 0;
	return rc;
}

/* Makes the socket at `path`. Returns 0, or -errno with *out to be destroyed. */
int control_create(struct network *n, const char *path, struct control **out, struct err *e)
{
	struct control *c = calloc(1, sizeof *c);
	if (!c)
		return err_sys(e, -ENOMEM, "--control");
	*out = c;
	c->network = n;
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		c->client[i].source.fd = -1;
	c->address.sun_family = AF_UNIX;
	c->source = (struct loop_source){
		.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), .ready = listener_ready, .context = c};
	if (c->source.fd < 0)
		return err_sys(e, -errno, "--control: cannot make a socket");
	if (!path[0])
		return err_set(e, -EINVAL, "--control: give a path");
	if (strlen(path) >= sizeof c->address.sun_path)
		return err_set(e, -ENAMETOOLONG, "--control %s: a socket's path has at most %zu bytes", path,
			       sizeof c->address.sun_path - 1);
	strcpy(c->address.sun_path, path);
	int rc = bind_path(c);
	if (rc == 0 && listen(c->source.fd, BACKLOG))
		rc = -errno;
	return rc ? err_sys(e, rc, "--control %s", path) : 0;
}

/* Has `loop` answer. Returns 0 or -errno. */
int control_start(struct control *c, struct loop *loop, struct err *e)
{
	c->loop = loop;
	int rc = loop_add(loop, &c->source, EPOLLIN);
	return rc ? err_sys(e, rc, "cannot watch the control socket") : 0;
}

/* Removes the socket. Accepts NULL. */
void control_destroy(struct control *c)
{
	if (!c)
		return;
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		drop_client(&c->client[i]);
	io_close(&c->source.fd);
	struct stat now;
	if (c->bound && lstat(c->address.sun_path, &now) == 0 && now.st_dev == c->made.st_dev && now.st_ino == c->made.st_ino)
		unlink(c->address.sun_path);
	free(c);
}
