#!/bin/sh
# build.sh: build the guest kernel and print the path of its vmlinux.
#
# The result is cached under a key made of everything that goes into it; when it is there, nothing is built.
# stdout carries the path and nothing else, progress goes to stderr.
#
#   KERNEL_SRC      a kernel source tree or tarball (default: the tarball of Debian's linux-source package)
#   CAPLOCK_CACHE   where caches live (default: ${XDG_CACHE_HOME:-$HOME/.cache}/caplock)

set -eu
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES ARCH CROSS_COMPILE O
export LC_ALL=C

package=linux-source-6.12
skipped=
here=$(cd "$(dirname "$0")" && pwd)
fragment=$here/x86_64.config
cache=${CAPLOCK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/caplock}/kernel

say() { echo "kernel: $*" >&2; }
die() { say "$*"; exit 1; }

# Set src (a tree or a tarball) and source_id (text that changes when the source does).
find_source() {
	src=${KERNEL_SRC:-}
	if [ -z "$src" ]; then
		src=$(dpkg -L $package 2>/dev/null | grep '\.tar\.[a-z0-9]*$') ||
			die "no kernel source: install $package, or set KERNEL_SRC to a source tree or tarball"
		source_id=$(dpkg-query -W $package)
	elif [ -f "$src/Kbuild" ]; then
		src=$(cd "$src" && pwd)
		source_id=$(head -n 5 "$src/Makefile"; git -C "$src" describe --always --abbrev=40 --dirty 2>/dev/null) || true
	elif [ -f "$src" ]; then
		source_id=$(stat -L -c '%n %s %Y' "$src")
	else
		die "KERNEL_SRC=$src is neither a kernel source tree nor a tarball"
	fi
}

# The key: configuration (not its comments), recipe, patches, source, compiler.
cache_key() {
	{
		grep -E '^(# )?CONFIG_' "$fragment"
		cat "$here/build.sh" "$here/boot-order" "$here"/patches/*.patch
		echo "$source_id"
		${CC:-gcc} --version
		ld --version
	} | sha256sum | cut -c 1-16
}

# Fill $work/tree with the source, which is not changed itself, and patch it. A patch is worth boot time, not function: where
# one does not fit another version, the kernel is built without it.
unpack() {
	mkdir "$work/tree"
	if [ -f "$src" ]; then
		tar -x -f "$src" -C "$work/tree" --strip-components=1 || return 1
	else
		tar -c -C "$src" --exclude=./.git . | tar -x -C "$work/tree" || return 1
	fi
	for patch in "$here"/patches/*.patch; do
		if patch --dry-run -d "$work/tree" -p1 -N -f -F 0 -i "$patch"; then
			patch -d "$work/tree" -p1 -N -f -F 0 -i "$patch" || return 1
		else
			skipped="$skipped ${patch##*/}"
		fi
	done
	sed -e 's/..*/*(.text.&)/' -e 's/^$/. = ALIGN(4096);/' "$here/boot-order" >"$work/tree/arch/x86/kernel/boot_order.lds.h"
}

# Build in $work, which holds log, tree/ and obj/; leave vmlinux, System.map and config in $work/out.
build() {
	mkdir -p "$work/obj" "$work/out"
	unpack || return 1
	# Everything in vmlinux that could differ between two builds of the same source.
	export KBUILD_BUILD_TIMESTAMP='1970-01-01 00:00:00 UTC' KBUILD_BUILD_VERSION=1
	export KBUILD_BUILD_USER=caplock KBUILD_BUILD_HOST=caplock
	kmake() { make -C "$work/tree" O="$work/obj" ARCH=x86 CC="${CC:-gcc}" "$@"; }

	# allnoconfig with a fragment is how tinyconfig itself is made: what the fragment does not name is off.
	kmake KCONFIG_ALLCONFIG="$fragment" allnoconfig &&
		"$here/check.sh" "$fragment" "$work/obj/.config" &&
		kmake -j"$(nproc)" vmlinux &&
		# Symbols go; allocated sections stay, and with them the PVH note and kallsyms.
		strip --strip-all --remove-section=.comment -o "$work/out/vmlinux" "$work/obj/vmlinux" &&
		cp "$work/obj/System.map" "$work/out" &&
		cp "$work/obj/.config" "$work/out/config"
}

find_source
key=$(cache_key)
if [ ! -f "$cache/$key/vmlinux" ]; then
	mkdir -p "$cache"
	# One builder per key; whoever waited finds the result.
	exec 9>"$cache/$key.lock"
	flock -n 9 || { say "waiting for another build of $key"; flock 9; }
fi
if [ ! -f "$cache/$key/vmlinux" ]; then
	work=$cache/$key.tmp
	log=$cache/$key.log
	rm -rf "$work"
	trap 'rm -rf "$work"' EXIT
	trap 'exit 130' INT TERM HUP
	mkdir "$work"
	say "building the guest kernel (once; about 5 minutes on 2 cores), log in $log"
	if ! build >"$log" 2>&1 9>&-; then
		tail -n 30 "$log" >&2
		die "build failed; the whole log is $log"
	fi
	[ -z "$skipped" ] || say "built without patches that do not fit this source:$skipped"
	mv "$work/out" "$cache/$key"
	say "done, $(stat -c %s "$cache/$key/vmlinux") bytes"
fi
echo "$cache/$key/vmlinux"
