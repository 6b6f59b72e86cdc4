# The jail, from outside and from inside: what the processes of a sandbox have, and what becomes of them when they try more.
# shellcheck shell=bash

# jailed OPTION...: a sandbox whose command says "up" and then does what it reads. Its processes: $supervisor, $vmm, $gate.
jailed() {
	mkfifo in
	"$caplock" run --memory 128 --timeout 120 "$@" -- sh -c 'echo up; exec sh' <in >out 2>err &
	supervisor=$!
	exec 9>in
	trap 'kill $supervisor 2>/dev/null || true; rm -f in' EXIT
	until grep -q up out; do
		kill -0 $supervisor || { status=0; wait $supervisor || status=$?; show; return 1; }
		sleep 0.1
	done
	vmm=$(pgrep -P $supervisor -x caplock-vmm) gate=$(pgrep -P $supervisor -x caplock-gate || true)
}

# sandbox_ended: waits for the sandbox, whose command reads no more. Sets $status.
sandbox_ended() {
	exec 9>&-
	status=0
	wait $supervisor || status=$?
	rm in
}

# field FILE NAME: a line of a process' status
field() {
	sed -n "s/^$2:[[:space:]]*//p" "$1"
}

test_jail_status() {
	jailed --allow-host example.com
	[ -n "$gate" ]
	for pid in $vmm $gate; do
		for task in /proc/$pid/task/*; do
			case $(cat "$task/comm") in kvm-*) continue ;; esac # a worker of the host kernel's
			what="$(cat "$task/comm") of $(cat /proc/$pid/comm)"
			[ "$(field "$task/status" Seccomp)" = 2 ] || fail "$what has no filter"
			[ "$(field "$task/status" NoNewPrivs)" = 1 ] || fail "$what may get privileges"
			for set in CapInh CapPrm CapEff CapAmb; do
				[ "$(field "$task/status" $set)" = 0000000000000000 ] || fail "$what has capabilities: $set"
			done
			[ "$(id -u)" != 0 ] || [ "$(field "$task/status" Uid | cut -f 1)" -ge 1000 ] || fail "$what is root"
		done
	done
	for thread in caplock-vmm disk network vcpu; do
		cat /proc/$vmm/task/*/comm | grep -qx $thread || fail "no thread $thread"
	done
	sandbox_ended
	expect 0
}

test_jail_has_no_files_and_no_network() {
	[ "$(id -u)" = 0 ] || return 0 # nobody else may look
	jailed --allow-host example.com
	[ -z "$(ls -A /proc/$vmm/root/ 2>/dev/null)" ] || fail "the root is not empty"
	[ "$(sed -n '3,$s/:.*//p' /proc/$vmm/net/dev | tr -d ' ')" = lo ] || fail "the network is not empty"
	[ "$(readlink /proc/$vmm/ns/net)" != "$(readlink /proc/self/ns/net)" ] || fail "the network is the host's"
	[ "$(readlink /proc/$gate/ns/net)" = "$(readlink /proc/self/ns/net)" ] || fail "the gate has no network"
	# 0..2, KVM, the kernel, the program with the base image, the scratch disk; what has no name is its own.
	readlink /proc/$vmm/fd/* | grep -Ev '^(socket|anon_inode):|^/dev/(null|kvm)$|/vmlinux$|/caplock$|\(deleted\)$' >unknown || true
	readlink /proc/$gate/fd/* | grep -Ev '^(socket|anon_inode):|^/dev/null$' >>unknown || true
	[ ! -s unknown ] || fail "descriptors: $(cat unknown)"
	[ "$(readlink /proc/$vmm/fd/* | grep -c deleted)" = 1 ] || fail "more than one file without a name"
	sandbox_ended
	expect 0
}

# Signals of the terminal are for the supervisor, which passes them to the command.
test_jail_has_no_terminal() {
	jailed --allow-host example.com
	for pid in $vmm $gate; do
		[ "$(ps -o sid= -p "$pid" | tr -d ' ')" = "$pid" ] || fail "$pid is in the caller's session"
	done
	sandbox_ended
	expect 0
}

# escape THREAD CALL: a thread of the vmm tries it, and the sandbox has ended, with its reason.
escape() {
	jailed
	"$tree/build/inject" "$vmm" "$1" "$2"
	sandbox_ended
	expect_error 125 "the machine's process was stopped by its seccomp filter; please report this"
}

# From inside the vmm, whichever thread the guest took over.
test_jail_vmm_makes_no_socket() {
	[ "$(id -u)" = 0 ] || return 0
	for thread in caplock-vmm disk network vcpu; do
		escape $thread socket
	done
}

test_jail_vmm_does_nothing_else_either() {
	[ "$(id -u)" = 0 ] || return 0
	escape network connect
	escape caplock-vmm openat
	escape disk execve
	escape vcpu clone
	escape caplock-vmm mprotect-exec
}

# That what is allowed goes through shows that the way in works. The gate's end is the end of new connections, and of nothing else.
test_jail_gate() {
	[ "$(id -u)" = 0 ] || return 0
	for call in openat-write execve bind; do
		jailed --allow-host-loopback 9
		[ "$("$tree/build/inject" "$vmm" network clock_gettime)" = "returned -22" ] || fail "nothing was injected"
		"$tree/build/inject" "$gate" caplock-gate $call
		echo 'timeout 20 wget -q -O - http://host.caplock.internal:9/ 2>&1; echo still here' >&9
		sandbox_ended
		expect 0
		expect_in out "still here"
		expect_in err "the gate was stopped by its seccomp filter; please report this"
	done
}

# Each system call that is allowed is there because something needs it.
test_jail_allows_what_is_needed() {
	[ "$(id -u)" = 0 ] || return 0
	serve
	head -c 3000000 /dev/urandom >www/big
	traced() { strace -f -Y -qq -o "trace.$1" "$caplock" run --memory 128 --timeout 300 "${@:2}" >/dev/null; }
	head -c 1000000 /dev/zero | traced 1 --disk-size 64 --allow-host-loopback "$port" --allow-host nosuch.example -- sh -c "$fetch
		fetch http://host.caplock.internal:$port/big | wc -c; fetch http://nosuch.example/
		head -c 1000000 /dev/urandom | timeout 20 nc host.caplock.internal $port >/dev/null
		cat >x; cat x; sync; rm x; fstrim /; sync" || true
	traced 2 --no-network -- reboot -f || true
	! grep -ah -B 3 'killed by SIGSYS' trace.* | grep -E '<(vcpu|disk|network|caplock-)' || return 1
	"$tree/tests/escape/needed" "$tree/build/mkfilters" trace.* >needed.out || { cat needed.out; return 1; }
}
