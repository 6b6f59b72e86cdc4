#include "vmm/cli/timing.h"

#include "vmm/caplock.h"

static const struct {
	const char *key, *text;
} moments[CAPLOCK_MOMENTS] = {
	{"start", "process start"},     {"main", "main()"},       {"run", "first KVM_RUN"},       {"kernel", "kernel entry"},
	{"init", "PID 1 in the guest"}, {"agent", "agent ready"}, {"output", "command's output"},
};

static void print_text(FILE *out, const struct caplock_result *r)
{
	uint64_t start = r->timeline_ns[CAPLOCK_T0_START], previous = start;
	fprintf(out, "caplock: timeline                ms      step\n");
	for (int i = 0; i < CAPLOCK_MOMENTS; i++) {
		uint64_t at = r->timeline_ns[i];
		if (at == 0) {
			fprintf(out, "caplock: T%d %-20s    never\n", i, moments[i].text);
			continue;
		}
		fprintf(out, "caplock: T%d %-20s %8.3f %+9.3f\n", i, moments[i].text, (double)(int64_t)(at - start) / 1e6,
			(double)(int64_t)(at - previous) / 1e6);
		previous = at;
	}
	fprintf(out, "caplock: CPU time until T2       %8.3f\n", (double)r->cpu_before_run_ns / 1e6);
}

/* One object on one line: nanoseconds from T0, null where a moment was not reached. */
static void print_json(FILE *out, const struct caplock_result *r)
{
	fprintf(out, "{");
	for (int i = 0; i < CAPLOCK_MOMENTS; i++) {
		fprintf(out, "\"%s_ns\":", moments[i].key);
		if (r->timeline_ns[i])
			fprintf(out, "%lld,", (long long)(r->timeline_ns[i] - r->timeline_ns[CAPLOCK_T0_START]));
		else
			fprintf(out, "null,");
	}
	fprintf(out, "\"cpu_before_run_ns\":%llu}\n", (unsigned long long)r->cpu_before_run_ns);
}

/* Prints the timeline of a run. */
void timing_print(FILE *out, enum timing_format format, const struct caplock_result *r)
{
	if (format == TIMING_JSON)
		print_json(out, r);
	else
		print_text(out, r);
}
