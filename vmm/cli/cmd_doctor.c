/* caplock doctor: looks at everything a run needs on this host, and says what to do about what is missing. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "vmm/caplock.h"
#include "vmm/cli/cli.h"
#include "vmm/image/image.h"
#include "vmm/jail/jail.h"
#include "vmm/machine/kvm.h"
#include "vmm/machine/machine.h"
#include "vmm/sandbox/kernel.h"
#include "vmm/util/buf.h"
#include "vmm/util/io.h"
#include "vmm/util/json.h"

enum { SLOW_CREATE_MS = 20 };

/* One thing looked at. */
struct finding {
	const char *name;
	bool ok;
	bool optional; /* without it, sandboxes run all the same */
	struct err text;
};

static const char *const kvm_kinds[] = {
	[KVM_USABLE] = "usable",   [KVM_ABSENT] = "absent",     [KVM_FORBIDDEN] = "forbidden",
	[KVM_TOO_OLD] = "too-old", [KVM_EMULATED] = "emulated", [KVM_BROKEN] = "broken",
};

static enum kvm_kind check_kvm(struct finding *f, int *kvm_fd)
{
	enum kvm_kind kind;
	f->name = "kvm";
	f->ok = kvm_open(kvm_fd, &kind, &f->text) == 0 && kvm_probe(*kvm_fd, &kind, &f->text) == 0;
	if (f->ok)
		err_set(&f->text, 0, "/dev/kvm runs guests, up to %d vCPUs",
			ioctl(*kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS));
	return kind;
}

/* In a cgroup, KVM_CREATE_VM can take a tenth of a second (kvm.nx_huge_pages starts a thread). */
static void check_create_time(struct finding *f, int kvm_fd)
{
	struct timespec before, after;
	clock_gettime(CLOCK_MONOTONIC, &before);
	int vm = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	clock_gettime(CLOCK_MONOTONIC, &after);
	double ms = (double)(after.tv_sec - before.tv_sec) * 1e3 + (double)(after.tv_nsec - before.tv_nsec) / 1e6;
	f->name = "kvm-create";
	f->optional = true;
	f->ok = vm >= 0 && ms < SLOW_CREATE_MS;
	if (vm < 0)
		err_sys(&f->text, -errno, "KVM_CREATE_VM");
	else
		err_set(&f->text, 0, "KVM_CREATE_VM takes %.1f ms%s", ms,
			f->ok ? "" : "; the parameter kvm.nx_huge_pages=never makes it fast, on CPUs that itlb_multihit does not concern");
	io_close(&vm);
}

static void check_guest_kernel(struct finding *f)
{
	char path[PATH_MAX];
	int fd = -1;
	f->name = "guest-kernel";
	f->ok = kernel_open(NULL, &fd, path, &f->text) == 0;
	if (f->ok)
		err_set(&f->text, 0, "%s", path);
	io_close(&fd);
}

static void check_store(struct finding *f)
{
	struct store *store = NULL;
	int fd = -1;
	f->name = "store";
	f->ok = store_open(&store, &f->text) == 0 && store_scratch(store, 64 << 20, &fd, &f->text) == 0;
	if (f->ok)
		err_set(&f->text, 0, "images and disks can be written");
	io_close(&fd);
	store_close(store);
}

static void check_host(struct finding *f)
{
	struct utsname u;
	uname(&u);
	f->name = "host";
	f->ok = true;
	err_set(&f->text, 0, "%s %s, %ld CPUs, %llu MB of memory", u.sysname, u.release, sysconf(_SC_NPROCESSORS_ONLN),
		(unsigned long long)sysconf(_SC_PHYS_PAGES) * (unsigned long long)sysconf(_SC_PAGESIZE) >> 20);
}

/* The stages of the jail: what the host lacks is left out, what fails refuses the run. */
static unsigned check_jail(struct finding *f)
{
	static const struct {
		const char *name, *text;
	} stages[JAIL_STAGES] = {
		[JAIL_NAMESPACES] = {"jail-namespaces", "an empty network, IPC and host name for the vmm"},
		[JAIL_ROOT] = {"jail-root", "an empty root directory for the vmm"},
		[JAIL_LIMITS] = {"jail-limits", "descriptors, file size, no core dump"},
		[JAIL_PRIVILEGES] = {"jail-privileges", "no capabilities, no new ones, a user of its own in place of root"},
		[JAIL_LANDLOCK] = {"jail-landlock", "no files for the vmm, a few to read for the gate"},
		[JAIL_SECCOMP] = {"jail-seccomp", "few system calls for each thread"},
	};
	int missing[JAIL_STAGES];
	enum jail_stage failed;
	int rc = jail_probe(missing, &failed);
	if (rc) {
		*f = (struct finding){.name = "jail"};
		err_sys(&f->text, rc, "cannot try the jail");
		return 1;
	}
	for (enum jail_stage s = 0; s < JAIL_STAGES; s++) {
		f[s] = (struct finding){.name = stages[s].name, .ok = s < failed && !missing[s], .optional = s != failed};
		if (s > failed)
			err_set(&f[s].text, 0, "not tried");
		else if (missing[s])
			err_sys(&f[s].text, -missing[s], "%s: this host %s", stages[s].text, s == failed ? "fails" : "does not permit it");
		else
			err_set(&f[s].text, 0, "%s", stages[s].text);
	}
	return JAIL_STAGES;
}

static void print_text(const struct finding *f, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		printf("%-4s %-15s %s\n", f[i].ok ? "ok" : f[i].optional ? "lack" : "FAIL", f[i].name, f[i].text.text);
}

static int print_json(const struct finding *f, unsigned count, bool ok, enum kvm_kind kind)
{
	struct buf b = {0};
	int rc = buf_addf(&b, "{\"usable\":%s,\"kvm\":\"%s\",\"checks\":[", ok ? "true" : "false", kvm_kinds[kind]);
	for (unsigned i = 0; i < count && rc == 0; i++) {
		rc = buf_addf(&b, "%s{\"name\":\"%s\",\"ok\":%s,\"text\":", i ? "," : "", f[i].name, f[i].ok ? "true" : "false");
		rc = rc ? rc : json_put_string(&b, f[i].text.text);
		rc = rc ? rc : buf_add(&b, "}", 1);
	}
	rc = rc ? rc : buf_addf(&b, "]}\n");
	rc = rc ? rc : io_write_all(STDOUT_FILENO, b.data, b.len);
	buf_free(&b);
	return rc;
}

static int run(int argc, char **argv)
{
	bool json = argc == 2 && strcmp(argv[1], "--json") == 0;
	if (argc > 1 && !json)
		return cli_usage(&cmd_doctor, "no argument '%s'", argv[1]);
	struct finding f[6 + JAIL_STAGES] = {0};
	unsigned count = 0;
	int kvm_fd = -1;
	check_host(&f[count++]);
	enum kvm_kind kind = check_kvm(&f[count++], &kvm_fd);
	if (kind == KVM_USABLE)
		check_create_time(&f[count++], kvm_fd);
	check_guest_kernel(&f[count++]);
	check_store(&f[count++]);
	count += check_jail(&f[count]);
	io_close(&kvm_fd);
	bool ok = true;
	for (unsigned i = 0; i < count; i++)
		ok = ok && (f[i].ok || f[i].optional);
	if (json)
		return print_json(f, count, ok, kind) || !ok ? EXIT_REFUSED : 0;
	print_text(f, count);
	return ok ? 0 : EXIT_REFUSED;
}

const struct command cmd_doctor = {
	.name = "doctor",
	.synopsis = "caplock doctor [--json]",
	.summary = "Check whether this host can run sandboxes",
	.run = run,
};
