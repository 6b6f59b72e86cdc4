/*
 * caplock-gate: the gate of a sandbox whose flows are to be read. A program of its own, so that TLS takes neither time nor memory
 * where it is not needed, and so that nothing of the program that started the sandbox is in a process that has secrets.
 *
 * caplock-gate FD: FD has its configuration (config.c). Started by the supervisor, never by hand.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "virtio/net/gate/config.h"
#include "virtio/net/gate/gate.h"
#include "virtio/net/gate/intercept.h"
#include "virtio/net/gate/trust.h"
#include "vmm/jail/jail.h"
#include "vmm/sandbox/process.h"
#include "vmm/util/err.h"
#include "vmm/util/io.h"

enum {
	FDS_MAX = 16384, /* two for each flow that is read, and more */
	CONFIG_MAX_BYTES = 16 << 20,
	DATA_MAX_BYTES = 512 << 20, /* each flow is bounded, but there may be thousands: then some fail */
	STATUS_CONFIG = 98,
};

static void confine(void)
{
	jail_thread(JAIL_INTERCEPTOR);
}

static bool read_config(int fd, struct gate_config *c)
{
	struct stat st;
	struct err e;
	if (fstat(fd, &st) || st.st_size <= 0 || st.st_size > CONFIG_MAX_BYTES)
		return false;
	char *text = malloc((size_t)st.st_size);
	bool ok = text && io_pread_all(fd, text, (size_t)st.st_size, 0) == 0 && gate_config_parse(text, (size_t)st.st_size, c, &e) == 0;
	free(text);
	return ok;
}

int main(int argc, char **argv)
{
	struct gate_config config = {.interceptor = &intercept_interceptor, .confine = confine};
	int fd = argc == 2 ? atoi(argv[1]) : -1;
	prctl(PR_SET_DUMPABLE, 0);
	prctl(PR_SET_NAME, "caplock-gate");
	signal(SIGPIPE, SIG_IGN);
	if (fd < 3 || !read_config(fd, &config)) {
		fprintf(stderr, "caplock-gate: a part of caplock, which starts it itself\n");
		return STATUS_CONFIG;
	}
	io_close(&fd);
	const char *readable[TRUST_PATHS_MAX];
	trust_paths(readable);
	process_enter(&(struct jail){.host_network = true, .readable = readable, .fds_max = FDS_MAX, .data_bytes_max = DATA_MAX_BYTES}, getppid());
	gate_run(&config);
	return 0;
}
