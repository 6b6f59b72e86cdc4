/* The public API (vmm/caplock.h). */
#include <stdlib.h>
#include <time.h>

#include "vmm/caplock.h"
#include "vmm/sandbox/sandbox.h"
#include "vmm/util/strv.h"

void caplock_spec_init(struct caplock_spec *spec)
{
	*spec = (struct caplock_spec){
		.cpus = 1,
		.memory_mb = 512,
		.disk_mb = 5120,
		.mtu = 1500,
		.audit_fd = -1,
		.learn_fd = -1,
		.console_fd = -1,
		.stdin_fd = -1,
		.stdout_fd = -1,
		.stderr_fd = -1,
	};
}

int caplock_run(const struct caplock_spec *spec, struct caplock_result *result)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	sandbox_destroy(sandbox_run(spec, now_ns, now_ns, result));
	return result->status;
}

void caplock_result_free(struct caplock_result *result)
{
	free(result->kernel_log);
	result->kernel_log = NULL;
	strv_free(result->denied);
	result->denied = NULL;
}
