# What the command line refuses, and how: one line, exit status 1, nothing left behind.
# shellcheck shell=bash

refuses() {
	local text=$1
	shift
	cap "$@"
	expect_error 1 "$text"
}

test_help() {
	cap help
	expect 0
	for command in run image doctor version help; do
		expect_in out "  $command "
		"$caplock" help $command >help.out
		grep -q "^Usage\|^caplock $command" help.out || fail "help $command"
	done
	cap --help
	expect 0
	cap run --help
	expect 0
	expect_in out "--image NAME"
	refuses "no command 'nonsense'" help nonsense
}

test_version() {
	cap version
	expect 0
	grep -Eq '^caplock [0-9]+\.[0-9]+\.[0-9]+$' out
}

test_doctor() {
	cap doctor
	expect 0
	expect_in out "/dev/kvm runs guests"
	cap doctor --json
	expect 0
	python3 -c '
import json
d = json.load(open("out"))
assert d["usable"] is True and d["kvm"] == "usable" and len(d["checks"]) >= 5, d'
	refuses "no argument" doctor --xml
}

test_bad_commands() {
	refuses "no command 'frobnicate'" frobnicate
	refuses "caplock help" run --frobnicate -- true
	refuses "-x" run -x -- true
	refuses "needs a value" run --memory
	refuses "takes no arguments" version now
}

test_bad_numbers() {
	for value in x "" -1 1.5 99999999999999999999 0x10 " 5"; do
		refuses "--memory" run --memory "$value" -- true
	done
	refuses "64 or more" run --memory 63 -- true
	refuses "this host has" run --memory 9999999 -- true
	for value in 0 -1 x nan inf 1e3 ""; do
		refuses "give a number" run --cpus="$value" -- true
	done
	refuses "from 0 to 64" run --cpus 65 -- true
	refuses "disk" run --disk-size 1 -- true
	refuses "--timeout" run --timeout 0 -- true
	refuses "--timeout" run --timeout soon -- true
	refuses "--timing" run --timing=xml -- true
}

test_bad_environment() {
	refuses "not set on this host" run -e SURELY_NOT_SET -- true
	refuses "NAME=VALUE" run -e =x -- true
	refuses "cannot read env file" run --env-file missing -- true
	printf 'A=1\n=2\n' >env
	refuses "line 2" run --env-file env -- true
	head -c 100 /dev/zero >zeros
	refuses "NUL" run --env-file zeros -- true
	refuses "env file" run --env-file /dev/zero -- true
}

test_bad_hostname() {
	refuses "hostname" run --hostname "a b" -- true
	refuses "hostname" run --hostname "$(printf 'x%.0s' $(seq 64))" -- true
}

test_bad_kernel() {
	local vmlinux=$tree/build/vmlinux
	refuses "cannot open kernel missing" run --kernel missing -- true
	refuses "not a regular file" run --kernel / -- true
	refuses "not a regular file" run --kernel /dev/null -- true
	mkfifo fifo
	refuses "not a regular file" run --kernel fifo -- true
	: >empty
	refuses "not an ELF file" run --kernel empty -- true
	head -c 1000000 /dev/urandom >random
	refuses "not an ELF file" run --kernel random -- true
	head -c 1000000 "$vmlinux" >truncated
	refuses "truncated" run --kernel truncated -- true
	head -c 50 "$vmlinux" >truncated
	refuses "truncated" run --kernel truncated -- true
	cp "$vmlinux" arm
	printf '\267\000' | dd of=arm bs=1 seek=18 conv=notrunc status=none
	refuses "another machine" run --kernel arm -- true
	gzip -c truncated >compressed
	refuses "gzip" run --kernel compressed -- true
	head -c 65536 "$vmlinux" | cat - /dev/urandom 2>/dev/null | head -c 16107600 >hostile
	cap run --memory 128 --timeout 20 --kernel hostile -- true
	[ "$status" = 1 ] || [ "$status" = 125 ] || [ "$status" = 124 ] || fail "status $status"
	[ -s err ]
}

test_absent_image() {
	refuses "no image" run --image not-there:1 -- true
}

# /dev/kvm that is absent or forbidden: in a mount namespace, where we may make one.
test_absent_kvm() {
	[ "$(id -u)" = 0 ] || return 0
	cat >without <<-'EOF'
		mount -t tmpfs none /dev || exit 99
		mknod /dev/null c 1 3 && chmod 666 /dev/null
		exec "$@"
	EOF
	status=0
	unshare -m sh without "$caplock" run -- true >out 2>err || status=$?
	expect_error 1 "/dev/kvm"
	status=0
	unshare -m sh without "$caplock" doctor >out 2>err || status=$?
	expect 1
	expect_in out "/dev/kvm"
}

test_forbidden_kvm() {
	[ "$(id -u)" = 0 ] || return 0
	mkdir -m 777 home
	chmod 755 .
	cat >without <<-'EOF'
		mount -t tmpfs none /dev || exit 99
		mknod /dev/null c 1 3 && chmod 666 /dev/null
		mknod /dev/kvm c 10 232 && chmod 600 /dev/kvm
		HOME=$PWD/home exec setpriv --reuid=1234 --regid=1234 --clear-groups "$@"
	EOF
	status=0
	unshare -m sh without "$caplock" run -- true >out 2>err || status=$?
	expect_error 1 "/dev/kvm"
	expect_in err "group"
}

test_no_writable_home() {
	status=0
	env -u XDG_DATA_HOME HOME=/proc/nowhere "$caplock" run -- true >out 2>err || status=$?
	expect_error 1 "/proc/nowhere"
}

test_bad_secrets() {
	export EMPTY='' SET=s3cret
	unset NONE
	mkdir dir
	: >empty
	while IFS='|' read -r text options; do
		# shellcheck disable=SC2086 # words
		refuses "$text" run $options -- true
		if grep -q s3cret err; then fail "a value is shown: $options"; fi
	done <<-'END'
		give NAME@HOST|--secret s3cret
		give NAME@HOST|--secret A=s3cret
		no variable of the environment|--secret s3cret@a.test
		...@a.test: no variable|--secret NONE@a.test
		or it is empty|--secret EMPTY@a.test
		there is no value|--secret A=@a.test
		host number 1|--secret A=x@s3cret..y
		host number 1: 'a..test'|--secret SET@a..test
		there are two secrets SET|--secret SET@a.test --secret SET=s3cret@b.test
		every host|--secret SET@*
		SET is given by --secret and by -e|--secret SET@a.test -e SET=s3cret
		SET is given by --secret and by -e|-e SET --secret SET@a.test
		cannot open its file|--secret-file A=none@a.test
		its file is empty|--secret-file A=empty@a.test
		is a directory|--secret-file A=dir@a.test
		there is no such --secret|--secret-placeholder A=0123456789
		cannot be a placeholder|--secret SET@a.test --secret-placeholder SET=short
		must not contain|--secret SET@a.test --secret-placeholder SET=0123456789 --secret B=v@a.test --secret-placeholder B=123456789
		none of path, body and http|--secret SET@a.test --secret-in SET=header
		one or the other|--secret SET@a.test --no-network
		one or the other|--network-intercept --no-network
		--upstream-ca none.pem: No such file|--secret SET@a.test --upstream-ca none.pem
		no option --secrte|--secrte=A=s3cret@a.test
	END
}

# While it waits for a file, which has a writer once it is opened, the arguments and the environment can be looked at.
test_secrets_are_wiped() {
	mkfifo wait.pem
	KEY=s3cret-one "$caplock" run --secret KEY@a.test --secret 'ARG=s3cret-two,@@b.test' --upstream-ca wait.pem -- true 2>err &
	local run=$!
	timeout 60 sh -c 'exec 3>wait.pem; tr "\0" " " </proc/$1/cmdline >cmdline; tr "\0" " " </proc/$1/environ >environ; kill -KILL $1' - $run
	wait $run || true
	expect_in cmdline "--secret KEY@a.test"
	expect_in cmdline "@b.test"
	if grep -q s3cret cmdline environ; then fail "it is still there"; fi
	expect_in environ "PATH="
}
