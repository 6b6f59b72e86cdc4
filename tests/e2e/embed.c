/* A program that embeds libcaplock.a: two sandboxes at the same time, from two threads. */
#include <caplock.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *run(void *arg)
{
	const char *code = arg;
	struct caplock_spec spec;
	struct caplock_result *result = malloc(sizeof *result);
	caplock_spec_init(&spec);
	spec.memory_mb = 128;
	spec.timeout_ms = 100000;
	spec.command = (const char *const[]){"sh", "-c", code, NULL};
	spec.stdout_fd = STDOUT_FILENO;
	caplock_run(&spec, result);
	return result;
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	static char *commands[] = {"echo one; exit 1", "echo two; kill -9 $$"};
	pthread_t thread[2];
	for (int i = 0; i < 2; i++)
		pthread_create(&thread[i], NULL, run, commands[i]);
	for (int i = 0; i < 2; i++) {
		void *p;
		pthread_join(thread[i], &p);
		struct caplock_result *r = p;
		fprintf(stderr, "outcome %d status %d %s\n", r->outcome, r->status, r->message);
		caplock_result_free(r);
		free(r);
	}
	return 0;
}
