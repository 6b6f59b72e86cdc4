# caplock run in the built-in base image.
# shellcheck shell=bash

test_exit_status_is_passed_through() {
	for code in 0 3 255; do
		sandbox -- sh -c "exit $code"
		expect $code ""
	done
}

test_death_by_signal_is_128_plus_n() {
	sandbox -- sh -c 'kill -9 $$'
	expect 137
	sandbox -- sh -c 'kill -TERM $$'
	expect 143
}

test_missing_command_is_127() {
	sandbox -- /no/such/program
	expect_error 127 "/no/such/program"
	sandbox -- no-such-program
	expect_error 127 "no-such-program"
}

test_not_executable_is_126() {
	sandbox -- /etc/passwd
	expect_error 126 "/etc/passwd"
	sandbox -- /etc
	expect_error 126 "/etc"
}

test_arguments_arrive_exactly() {
	local odd=$'a b\tc\n"quoted" \'single\' $HOME * \\ \xc3\xa9 \xff'
	sandbox -- sh -c 'for i; do printf "<%s>" "$i"; done' sh "$odd" "" "--" "-x"
	printf '<%s>' "$odd" "" "--" "-x" >want
	cmp want out || fail "arguments differ"
}

test_streams_are_separate() {
	sandbox -- sh -c 'echo to out; echo to err >&2'
	expect 0 "to out"
	[ "$(cat err)" = "to err" ]
}

test_stdin_reaches_the_command() {
	head -c 3000000 /dev/urandom >data
	sandbox -- cat <data
	expect 0
	cmp data out || fail "3 MB changed on their way"
}

test_empty_stdin_ends() {
	sandbox -- sh -c 'cat; echo end' </dev/null
	expect 0 end
}

test_closed_stdio() {
	sandbox -- sh -c 'read x; echo "no input: $?"' <&-
	expect 0 "no input: 1"
	status=0
	"$caplock" run --memory 128 --timeout 60 -- sh -c 'echo x; exit 4' >&- 2>err || status=$?
	[ "$status" != 0 ] || fail "lost output unnoticed"
}

# A reader that goes away ends the command as a pipe on one machine would.
test_broken_pipe() {
	status=0
	("$caplock" run --memory 128 --timeout 60 -- yes; echo $? >code) 2>err | head -n 1 >out
	expect 0 y
	[ "$(cat code)" != 0 ] || fail "status $(cat code)"
}

# What cannot be delivered is not lost in silence.
test_full_disk_is_an_error() {
	status=0
	"$caplock" run --memory 128 --timeout 60 -- echo x >/dev/full 2>err || status=$?
	expect_error 125 "cannot write standard output: No space left on device"
	status=0
	"$caplock" run --memory 128 --timeout 60 -- cat </ >out 2>err || status=$?
	expect_error 125 "cannot read standard input: Is a directory"
	status=0
	"$caplock" version >/dev/full 2>err || status=$?
	expect_error 1 "cannot write standard output: No space left on device"
}

test_environment() {
	printf '# file\nA=file\nB=file\n' >env
	FROM_HOST=host sandbox --env-file env -e A=option -e FROM_HOST -- sh -c 'echo "$A $B $FROM_HOST $HOME $PATH"'
	expect 0 "option file host /root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

test_workdir() {
	sandbox -w /tmp -- pwd
	expect 0 /tmp
	sandbox -w /made/for/this -- pwd
	expect 0 /made/for/this
	sandbox -w relative -- pwd
	expect_error 1 "not absolute"
}

test_user() {
	sandbox -u nobody -- id -un
	expect 0 nobody
	sandbox -u 1234 -- id -u
	expect 0 1234
	sandbox -u 1234:567 -- sh -c 'id -u; id -g'
	expect 0 $'1234\n567'
	sandbox -u no-such-user -- true
	expect_error 126 "no-such-user"
}

test_hostname() {
	sandbox --hostname box-7 -- sh -c 'hostname; cat /etc/hostname; grep -c box-7 /etc/hosts'
	expect 0 $'box-7\nbox-7\n1'
}

test_entrypoint() {
	sandbox --entrypoint echo -- one two
	expect 0 "one two"
}

test_file_systems_are_there() {
	sandbox -- sh -ec '
		for dir in /proc /sys /dev/pts /dev/shm /sys/fs/cgroup; do
			grep -q " $dir " /proc/mounts || echo "not mounted: $dir"
		done
		for node in null zero full random urandom tty ptmx fd stdin stdout stderr; do
			[ -e /dev/$node ] || echo "no /dev/$node"
		done
		echo x >/root/file; echo y >/etc/file; rm /etc/passwd
		[ "$(cat /root/file)" = x ] && [ ! -e /etc/passwd ] && echo writable'
	expect 0 writable
}

test_nothing_is_kept() {
	sandbox -- sh -c 'echo kept >/root/file; sync'
	expect 0
	sandbox -- ls /root
	expect 0 ""
}

test_disk_size_is_a_limit() {
	sandbox --disk-size 32 -- sh -c 'dd if=/dev/zero of=/big bs=1M count=100 2>/dev/null || echo full; df -m / | tail -n 1'
	expect 0
	expect_in out full
	sandbox --disk-size 300 -- sh -c 'dd if=/dev/zero of=/big bs=1M count=200 2>/dev/null && echo fits'
	expect 0 fits
}

test_clock_is_the_hosts() {
	sandbox -- date +%s
	expect 0
	local difference=$(($(date +%s) - $(cat out)))
	[ ${difference#-} -le 5 ] || fail "clocks differ by $difference s"
}

test_several_cpus() {
	[ "$(nproc)" -ge 2 ] || return 0
	sandbox --cpus 2 -- sh -c '
		nproc; grep -c ^processor /proc/cpuinfo; cat /sys/devices/system/cpu/cpu*/topology/physical_package_id | uniq -c'
	expect 0 $'2\n2\n      2 0'
}

test_fraction_of_a_cpu() {
	sandbox --cpus 0.5 -- sh -c 'cat /sys/fs/cgroup/*/cpu.max'
	expect 0
	expect_in out "50000 100000"
}

test_memory_sizes() {
	cap run --memory 64 --timeout 60 -- echo small
	expect 0 small
	cap run --memory 3500 --timeout 60 -- sh -c 'awk "/MemTotal/ { print (\$2 > 3300000) }" /proc/meminfo'
	expect 0 1
}

test_timeout() {
	cap run --memory 128 --timeout 3 -- sh -c 'echo started; sleep 100'
	expect 124 started
	expect_in err "longer than 3 s"
}

# Signals reach the command, which decides.
test_signals_reach_the_command() {
	mkfifo fifo
	# Not in the background: the shell would have it ignore SIGINT.
	for signal in INT TERM; do
		python3 - "$caplock" $signal <<-'EOF' >out 2>err
			import signal, subprocess, sys
			p = subprocess.Popen([sys.argv[1], "run", "--memory", "128", "--timeout", "60", "--", "sh", "-c",
			    'trap "echo caught; exit 7" INT TERM; echo ready; while :; do sleep 1; done'], stdout=subprocess.PIPE)
			print(p.stdout.readline().decode().strip())
			p.send_signal(getattr(signal, "SIG" + sys.argv[2]))
			print(p.stdout.read().decode().strip(), p.wait())
		EOF
		status=$?
		expect 0 $'ready\ncaught 7'
	done
}

test_an_unhandled_signal_ends_the_command() {
	python3 - "$caplock" <<-'EOF' >out 2>err
		import signal, subprocess, sys
		p = subprocess.Popen([sys.argv[1], "run", "--memory", "128", "--timeout", "60", "--", "sh", "-c",
		    'echo ready; exec sleep 100'], stdout=subprocess.PIPE)
		p.stdout.readline()
		p.send_signal(signal.SIGTERM)
		print(p.wait())
	EOF
	status=$?
	expect 0 143
}

# The supervisor is killed: the machine goes with it.
test_killed_supervisor_leaves_nothing() {
	python3 - "$caplock" <<-'EOF' >out 2>err
		import subprocess, sys
		p = subprocess.Popen([sys.argv[1], "run", "--memory", "128", "--timeout", "60", "--", "sh", "-c",
		    'echo ready; sleep 100'], stdout=subprocess.PIPE)
		p.stdout.readline()
		p.kill()
		print(p.wait())
	EOF
	status=$?
	expect 0 -9
}

# Background processes do not keep the run from ending.
test_background_processes_do_not_hold_the_run() {
	sandbox -- sh -c 'sleep 1000 & echo done'
	expect 0 done
}

test_output_is_complete() {
	sandbox -- sh -c 'i=0; while [ $i -lt 3000 ]; do echo "line $i"; i=$((i + 1)); done'
	expect 0
	[ "$(wc -l <out)" = 3000 ] && [ "$(tail -n 1 out)" = "line 2999" ]
}

# Much output in little memory, past a reader that is slow to start.
test_large_output_flows_in_bounded_memory() {
	python3 - "$caplock" <<-'EOF' >out 2>err
		import resource, subprocess, sys
		p = subprocess.Popen([sys.argv[1], "run", "--memory", "128", "--timeout", "100", "--",
		    "dd", "if=/dev/zero", "bs=1M", "count=64", "status=none"], stdout=subprocess.PIPE)
		peak = total = 0
		while data := p.stdout.read(1 << 20):
		    total += len(data)
		    for line in open(f"/proc/{p.pid}/status"):
		        if line.startswith("VmHWM"):
		            peak = int(line.split()[1])
		print(total, p.wait(), peak < 20000 or peak)
	EOF
	status=$?
	expect 0 "67108864 0 True"
}

test_a_stalled_stdout_does_not_stall_stderr() {
	python3 - "$caplock" <<-'EOF' >out 2>err
		import subprocess, sys
		p = subprocess.Popen([sys.argv[1], "run", "--memory", "128", "--timeout", "60", "--", "sh", "-c",
		    "dd if=/dev/zero bs=1M count=8 status=none & sleep 1; echo still here >&2; wait"],
		    stdout=subprocess.PIPE, stderr=subprocess.PIPE)
		print(p.stderr.readline().decode().strip())
		print(len(p.stdout.read()), p.wait())
	EOF
	status=$?
	expect 0 $'still here\n8388608 0'
}

test_sandboxes_run_side_by_side() {
	for i in 1 2 3 4; do
		"$caplock" run --memory 128 --timeout 100 -- sh -c "echo $i; exit $i" >out.$i 2>err.$i &
	done
	for i in 1 2 3 4; do
		status=0
		wait -n || status=$?
	done
	cat out.? >out
	cat err.? >err
	status=0
	expect 0 $'1\n2\n3\n4'
}

# What had arrived when the guest crashed reaches the reader, however late it reads: 64 kB are in the pipe, the rest with us.
test_output_before_a_crash_arrives() {
	{
		"$caplock" run --memory 128 --timeout 100 -- sh -c '
			head -c 200000 /dev/zero; sleep 1
			echo 2 >/proc/sys/vm/panic_on_oom; tail /dev/zero' 2>err || echo $? >status
	} | {
		until pgrep -r R,S,D caplock-vmm >/dev/null; do sleep 0.1; done
		while pgrep -r R,S,D caplock-vmm >/dev/null; do sleep 0.1; done
		wc -c >out
	}
	status=$(cat status)
	expect 125 200000
}

# The session is lost while the guest lives and talks: that must not put off the end.
test_case_18_a_chatting_guest_does_not_put_off_the_end() {
	status=0
	timeout -s KILL 60 "$caplock" run --memory 128 --timeout 100 --console -- sh -c '
		echo on >/proc/sys/kernel/printk_devkmsg
		(while :; do echo tick >/dev/kmsg; sleep 0.2; done) &
		cd /sys/bus/virtio/drivers/vmw_vsock_virtio_transport
		basename virtio* >unbind; sleep 90' >out 2>err || status=$?
	expect 125
	expect_in err "the guest ended before the command did"
}

# Nobody reads the console: the timeout ends the sandbox all the same.
test_case_18_a_stalled_console_does_not_stall_the_timeout() {
	local reader sandbox
	mkfifo console
	sleep 100 <console &
	reader=$!
	"$caplock" run --memory 128 --timeout 6 --console -- sh -c '
		echo on >/proc/sys/kernel/printk_devkmsg
		while :; do dmesg | head -c 900 >/dev/kmsg; done' >out 2>console &
	sandbox=$!
	until pgrep -r R,S,D -P $sandbox caplock-vmm >/dev/null; do sleep 0.1; done
	for _ in $(seq 40); do
		sleep 0.5
		pgrep -r R,S,D -P $sandbox caplock-vmm >/dev/null || break
	done
	! pgrep -r R,S,D -P $sandbox caplock-vmm >/dev/null || fail "the sandbox still runs"
	kill $reader
	wait $sandbox || true
}

test_panic_of_a_real_kernel() {
	sandbox -- sh -c 'echo 2 >/proc/sys/vm/panic_on_oom; tail /dev/zero'
	expect 125
	expect_in err "the guest kernel panicked: Out of memory"
	expect_in err "Linux version"
	expect_in err "Call Trace"
}

test_reset_of_a_real_kernel() {
	sandbox -- sh -c 'reboot -f; sleep 60'
	expect_error 125 "the guest reset itself"
}

test_halt_of_a_real_kernel() {
	sandbox -- sh -c 'halt -f; sleep 60'
	expect_error 125 "the guest halted"
}

# PID 1 cannot be killed, so all that is killed is the command.
test_killing_everything_ends_the_command() {
	sandbox -- sh -c 'kill -9 -1; kill -9 $$'
	expect 137
}

# Drivers that are taken away and come back.
test_devices_survive_reprobe() {
	sandbox -- sh -ec '
		cd /sys/bus/virtio/drivers/virtio_blk
		device=$(basename "$(readlink -f /sys/block/vda/device)")
		before=$(dd if=/dev/vda bs=1M count=1 2>/dev/null | md5sum)
		umount /does-not-matter 2>/dev/null || true
		echo $device >unbind
		[ ! -e /sys/block/vda ]
		echo $device >bind
		new=$(ls /sys/bus/virtio/devices/$device/block)
		after=$(dd if=/dev/$new bs=1M count=1 2>/dev/null | md5sum)
		[ "$before" = "$after" ] && echo same'
	expect 0 same
}

test_console_shows_the_kernels_messages() {
	sandbox --console -- true
	expect 0 ""
	expect_in err "Linux version"
}

test_timing() {
	sandbox --timing -- true
	expect 0 ""
	for moment in T0 T1 T2 T3 T4 T5 T6; do
		expect_in err "caplock: $moment "
	done
	sandbox --timing=json -- true
	expect 0 ""
	python3 -c '
import json, sys
t = json.load(open("err"))
order = [t[k + "_ns"] for k in ("start", "main", "run", "kernel", "init", "agent", "output")]
assert order == sorted(order) and order[0] == 0 and t["cpu_before_run_ns"] > 0, t'
}
