/*
 * stopwatch exit COMMAND...: runs a command and prints the nanoseconds from before fork() to its end, and its status.
 * stopwatch byte COMMAND...: ... to the first 'P' on its standard output; then kills it.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

int main(int argc, char **argv)
{
	int fds[2], status = 0;
	if (argc < 3 || pipe(fds))
		return 2;
	int byte = strcmp(argv[1], "byte") == 0;
	long long start = now_ns(), end = 0;
	pid_t pid = fork();
	if (pid == 0) {
		if (byte)
			dup2(fds[1], 1);
		close(fds[0]);
		close(fds[1]);
		execvp(argv[2], argv + 2);
		_exit(127);
	}
	close(fds[1]);
	char c;
	while (byte && read(fds[0], &c, 1) == 1)
		if (c == 'P') {
			end = now_ns();
			kill(pid, SIGKILL);
			break;
		}
	waitpid(pid, &status, 0);
	if (!byte)
		end = now_ns();
	if (end == 0)
		return 1;
	printf("%lld %d\n", end - start, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	return 0;
}
