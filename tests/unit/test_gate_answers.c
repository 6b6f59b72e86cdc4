/* virtio/net/gate/answers.c: replies to a vmm that reads late, or not. */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "virtio/net/gate/answers.h"
#include "vmm/util/io.h"

enum { REPLIES = 1000 };

static struct answers answers;
static int vmm_fd;

static void set_up(void)
{
	int pair[2];
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	vmm_fd = pair[0];
	answers = (struct answers){.fd = pair[1]};
}

static void tear_down(void)
{
	answers_free(&answers);
	io_close(&answers.fd);
	io_close(&vmm_fd);
}

TestSuite(answers, .init = set_up, .fini = tear_down, .timeout = 60);

/* The id of the next reply, which has a descriptor if it is odd; -1: there is none now. */
static int receive(void)
{
	struct gate_reply r;
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {&r, sizeof r};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	if (recvmsg(vmm_fd, &m, MSG_DONTWAIT) != sizeof r)
		return -1;
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	cr_expect_eq(c != NULL, r.id % 2, "reply %lu", r.id);
	if (c) {
		int fd;
		memcpy(&fd, CMSG_DATA(c), sizeof fd);
		cr_expect_eq(close(fd), 0);
	}
	return (int)r.id;
}

Test(answers, wait_and_keep_their_order)
{
	int lowest = dup(0), next = 0, id;
	for (uint64_t i = 0; i < REPLIES; i++)
		cr_assert_eq(answers_send(&answers, &(struct gate_reply){.id = i}, i % 2 ? dup(vmm_fd) : -1), 0);
	cr_expect(answers.first, "all of it fits: nothing is tested");
	while (next < REPLIES) {
		int before = next;
		while ((id = receive()) >= 0)
			cr_assert_eq(id, next++);
		cr_assert_gt(next, before);
		cr_expect_eq(answers_flush(&answers), 0);
	}
	cr_expect_null(answers.first);
	cr_expect_eq(answers_send(&answers, &(struct gate_reply){.id = 2}, -1), 0);
	cr_expect_eq(receive(), 2);
	close(lowest);
	cr_expect_eq(dup(0), lowest, "descriptors were left open");
	close(lowest);
}

Test(answers, nobody_to_answer)
{
	for (uint64_t i = 0; i < REPLIES; i++)
		cr_assert_eq(answers_send(&answers, &(struct gate_reply){.id = i}, i % 2 ? dup(0) : -1), 0);
	io_close(&vmm_fd);
	cr_expect_lt(answers_flush(&answers), 0);
	answers_free(&answers);
	cr_expect_lt(answers_send(&answers, &(struct gate_reply){0}, dup(0)), 0);
}
