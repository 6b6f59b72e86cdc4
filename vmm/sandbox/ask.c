/*
 * Questions on the terminal, one after the other, while the flows that they are about wait. The terminal is opened anew, so
 * that it is ours also where the streams are redirected; while a question waits for its answer, the command gets none of
 * what is typed. A terminal that is gone denies.
 */
#include "vmm/sandbox/ask.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <termios.h>
#include <unistd.h>

#include "virtio/net/record.h"
#include "vmm/sandbox/network.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"

enum {
	QUESTIONS_MAX = 256, /* that wait; more are denied */
	RULE_BYTES = NAME_BYTES + 32,
};

struct ask {
	struct network *network;
	struct loop *loop;
	struct loop_source tty;
	struct net_target question[QUESTIONS_MAX]; /* the first is being asked */
	unsigned count;
};

/* Opens the terminal. Returns 0, or -errno where there is none. */
int ask_create(struct network *n, struct ask **out, struct err *e)
{
	struct ask *a = calloc(1, sizeof *a);
	if (!a)
		return err_sys(e, -ENOMEM, "--ask");
	a->network = n;
	a->tty.fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	*out = a;
	return a->tty.fd < 0 ? err_set(e, -ENOTTY, "--ask needs a terminal to ask on") : 0;
}

static void say(struct ask *a, const char *text)
{
	(void)!write(a->tty.fd, text, strlen(text));
}

static void put_question(struct ask *a)
{
	const struct net_target *t = &a->question[0];
	char text[NAME_BYTES + 128], address[ADDR_TEXT_BYTES];
	snprintf(text, sizeof text, "caplock: the sandbox wants %s port %u. Allow it? [o]nce, for this [r]un, [d]eny: ",
		 t->name[0] ? t->name : addr_text(&t->addr, address), t->port);
	tcflush(a->tty.fd, TCIFLUSH); /* what was typed before is no answer */
	say(a, text);
}

static bool same_target(const struct net_target *a, const struct net_target *b)
{
	return a->proto == b->proto && a->port == b->port && strcmp(a->name, b->name) == 0 &&
	       (a->name[0] || addr_equal(&a->addr, &b->addr));
}

static const char *rule_for(const struct net_target *t, enum policy_op op, char text[RULE_BYTES])
{
	char address[ADDR_TEXT_BYTES];
	const char *host = t->name[0] ? t->name : addr_text(&t->addr, address);
	bool bracket = strchr(host, ':');
	struct policy_request r = target_request(t);
	bool raw = op == POLICY_ADD_ALLOW && policy_once(&r) == POLICY_ALLOW_RAW;
	snprintf(text, RULE_BYTES, "%s%s%s%s:%u", raw ? "tcp:" : "", bracket ? "[" : "", host, bracket ? "]" : "", t->port);
	return text;
}

/* Carries out an answer for what is being asked, and goes on to the next question. */
static void answered(struct ask *a, enum order_answer answer)
{
	struct net_target t = a->question[0];
	char rule[RULE_BYTES];
	struct err e;
	memmove(a->question, a->question + 1, --a->count * sizeof t);
	if (answer == ANSWER_DECIDE && network_change(a->network, POLICY_ADD_ALLOW, rule_for(&t, POLICY_ADD_ALLOW, rule), &e))
		answer = ANSWER_DENY;
	if (answer == ANSWER_DENY)
		network_change(a->network, POLICY_ADD_DENY, rule_for(&t, POLICY_ADD_DENY, rule), &e);
	network_answer(a->network, &t, answer);
	if (a->count)
		put_question(a);
	else
		a->network->events->terminal(a->network->events->context, false);
}

static void lost_terminal(struct ask *a)
{
	loop_remove(a->loop, &a->tty);
	io_close(&a->tty.fd);
	while (a->count)
		answered(a, ANSWER_DENY);
}

static void tty_ready(void *context, uint32_t events)
{
	static const struct {
		const char *word;
		enum order_answer answer;
	} words[] = {{"o", ANSWER_ONCE}, {"once", ANSWER_ONCE}, {"r", ANSWER_DECIDE}, {"run", ANSWER_DECIDE}, {"d", ANSWER_DENY}, {"deny", ANSWER_DENY}};
	struct ask *a = context;
	char line[256] = "";
	if (events & (EPOLLHUP | EPOLLERR)) {
		lost_terminal(a);
		return;
	}
	if (a->count == 0) {
		loop_change(a->loop, &a->tty, 0);
		return;
	}
	ssize_t n = read(a->tty.fd, line, sizeof line - 1);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		lost_terminal(a);
		return;
	}
	line[strcspn(line, "\r\n")] = 0;
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		if (strcasecmp(line, words[i].word) == 0) {
			answered(a, words[i].answer);
			return;
		}
	put_question(a);
}

/* Has `loop` watch the terminal. Returns 0 or -errno. */
int ask_start(struct ask *a, struct loop *loop, struct err *e)
{
	a->loop = loop;
	a->tty.ready = tty_ready;
	a->tty.context = a;
	int rc = loop_add(loop, &a->tty, 0);
	return rc ? err_sys(e, rc, "cannot watch the terminal") : 0;
}

/* Asks about a flow that waits (RECORD_ASK). */
void ask_about(struct ask *a, const struct net_record *r)
{
	struct net_target t = {.proto = r->proto, .port = r->port, .addr = r->addr};
	strcpy(t.name, r->name);
	for (unsigned i = 0; i < a->count; i++)
		if (same_target(&a->question[i], &t))
			return; /* the answer is for both */
	if (a->tty.fd < 0 || a->count == QUESTIONS_MAX) {
		network_answer(a->network, &t, ANSWER_DENY);
		return;
	}
	a->question[a->count++] = t;
	if (a->count > 1)
		return;
	a->network->events->terminal(a->network->events->context, true);
	loop_change(a->loop, &a->tty, EPOLLIN);
	put_question(a);
}

/* Accepts NULL. */
void ask_destroy(struct ask *a)
{
	if (!a)
		return;
	io_close(&a->tty.fd);
	free(a);
}
