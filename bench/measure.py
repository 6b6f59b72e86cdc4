"""measure: what the benchmarks share. Their measuring halves run on this machine's KVM, or in the lab where that cannot run
Linux guests; pairs of runs alternate, so that what the machine does meanwhile hits all alike."""

import json
import mmap
import os
import statistics
import subprocess
import sys

TREE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
OUT = os.path.join(TREE, "build", "bench")
CAPLOCK = os.path.join(TREE, "build", "caplock")
VMLINUX = os.path.join(TREE, "build", "vmlinux")
CMDLINE = ("reboot=k panic=-1 loglevel=1 noreplace-smp tsc=reliable rcupdate.rcu_expedited=1 swiotlb=noforce "
           "random.trust_cpu=on initcall_blacklist=slab_late_init,param_sysfs_builtin_init")


# --- On the machine that measures --------------------------------------------------------------------------------


def qemu_microvm(vmlinux, initrd, memory_mb, arguments=""):
    """A command that boots a kernel in QEMU's microvm; arguments are added to the kernel's."""
    return ["qemu-system-x86_64", "-M", "microvm,acpi=off,pit=off,pic=off,rtc=off,isa-serial=off,x-option-roms=off",
            "-enable-kvm", "-cpu", "host", "-smp", "1", "-m", str(memory_mb), "-nodefaults", "-no-user-config",
            "-display", "none", "-no-reboot", "-kernel", vmlinux, "-initrd", initrd, "-append", CMDLINE + arguments,
            "-chardev", "stdio,id=out", "-device", "isa-debugcon,iobase=0x402,chardev=out"]


def stopwatch(program, how, command):
    """Milliseconds (program: stopwatch.c) from before fork() to the end or to PID 1's sign."""
    run = subprocess.run([program, how, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, timeout=120)
    if run.returncode:
        raise RuntimeError(f"{command[0]} did not boot: {run.stderr.decode(errors='replace').strip()[-400:]}")
    return int(run.stdout.split()[0]) / 1e6


def mappings(pid):
    """[(start, end, Pss in KiB)] of a process."""
    result = []
    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            word = line.split()
            if "-" in word[0] and not word[0].endswith(":"):
                start, end = (int(x, 16) for x in word[0].split("-"))
            elif word[0] == "Pss:":
                result.append((start, end, int(word[1])))
    return result


def overhead_kib(pid, memory_mb):
    """Pss of a process without guest memory: adjacent mappings that together have its size."""
    maps = mappings(pid)
    total = sum(pss for _, _, pss in maps)
    for first in range(len(maps)):
        size = pss = 0
        end = maps[first][0]
        for start, stop, one in maps[first:]:
            if start != end or size >= memory_mb << 20:
                break
            size, pss, end = size + stop - start, pss + one, stop
        if size == memory_mb << 20:
            return total - pss
    return total


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def scrub():
    """In the lab, writes the memory that the run before has freed. An emulated CPU is slow at the first write to a page that
    held code it ran, and that would count for whoever runs next."""
    if os.environ.get("CAPLOCK_IN_LAB"):
        for advice in (mmap.MADV_HUGEPAGE, mmap.MADV_NOHUGEPAGE):
            with mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
                memory.madvise(advice)
                for offset in range(0, len(memory), 4096):
                    memory[offset] = 1


def scrubbed(run, *args):
    scrub()
    return run(*args)


# --- On this machine -----------------------------------------------------------------------------------------------


def compile_static(name, compiler="gcc", libraries=()):
    """Builds bench/NAME.c, which may run anywhere. Returns its path."""
    os.makedirs(OUT, exist_ok=True)
    out = os.path.join(OUT, name)
    headers = ["-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"]
    subprocess.run([compiler, "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O2", "-static", "-s", "-o", out,
                    os.path.join(TREE, "bench", name + ".c"), "-I" + TREE, *libraries, "-Wl,--no-warnings",
                    *(headers if compiler == "musl-gcc" else [])], check=True)
    return out


def make_initrd(init, name):
    """An initrd whose only program is PID 1. Returns its path."""
    out = os.path.join(OUT, name)
    subprocess.run([os.path.join(TREE, "guest/mkinitramfs"), init, out], check=True)
    return out


def native_kvm():
    run = subprocess.run([CAPLOCK, "doctor", "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        return json.loads(run.stdout)["kvm"]
    except ValueError:
        return "unknown"


def inside(script, arguments, lab, pass_env=()):
    """Runs a script's measuring half, in the lab (a list of its options) or here (None); returns what it measured."""
    out = os.path.join(OUT, "inside.json")
    command = [sys.executable, os.path.realpath(script), "--inside", out, *arguments]
    if lab is not None:
        passed = [f"--env={name}" for name in pass_env if os.environ.get(name)]
        command = [os.path.join(TREE, "tests/lab/lab"), *lab, *passed, "--", *command]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    with open(out) as file:
        return json.load(file)


def percentile(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, round(part * (len(values) - 1)))]


def spread(values):
    return {"p50": statistics.median(values), "p90": percentile(values, 0.9), "p99": percentile(values, 0.99)}


class Drawing:
    """An SVG picture, drawn from the top."""

    def __init__(self, title):
        self.title, self.body = title, []

    def text(self, x, y, words, anchor="start"):
        self.body.append(f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{words}</text>')

    def bar(self, x, y, width, height, color, hint=""):
        self.body.append(f'<rect x="{x:.1f}" y="{y}" width="{max(width, 0.5):.1f}" height="{height}" fill="{color}">'
                         f'<title>{hint}</title></rect>')

    def save(self, path, height):
        with open(path, "w") as file:
            file.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="900" height="{height}" font-family="sans-serif" '
                       f'font-size="13"><rect width="100%" height="100%" fill="white"/>'
                       f'<text x="10" y="22" font-size="15">{self.title}</text>{"".join(self.body)}</svg>\n')
