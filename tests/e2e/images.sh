# Real images, made and imported by tests/e2e/prepare.
# shellcheck shell=bash

python() {
	images
	cap run --memory 256 --timeout 200 --image debian -- python3 -c "$1"
}

test_image_list() {
	images
	cap image ls
	expect 0
	for name in busybox scratch debian; do
		expect_in out "$name"
	done
}

test_image_configuration_is_honoured() {
	images
	sandbox --image busybox
	expect 0 "from the image"
	sandbox --image busybox -- an argument
	expect 0 "an argument"
	sandbox --image busybox --entrypoint /bin/sh -- -c 'echo $GREETING; pwd; id -un; echo $HOME'
	expect 0 $'hello\n/srv\nweb\n/srv'
	sandbox --image busybox --entrypoint /bin/sh -e GREETING=bye -w / -u 0 -- -c 'echo $GREETING; pwd; id -u'
	expect 0 $'bye\n/\n0'
	sandbox --image busybox --entrypoint "" -- /bin/sh -c 'echo plain'
	expect 0 plain
}

test_image_without_a_shell() {
	images
	sandbox --image scratch -- '$HOME `x`'
	expect 42 '2 $HOME `x`'
	sandbox --image scratch --entrypoint sh -- -c true
	expect_error 127 "sh"
}

test_debian() {
	images
	cap run --memory 256 --timeout 200 --image debian -- sh -c '. /etc/os-release; echo $ID; dpkg -s libc6 | grep Status; ls -ld /tmp | cut -c 1-10'
	expect 0 $'debian\nStatus: install ok installed\ndrwxrwxrwt'
}

test_python() {
	python 'import sys, os; print(sum(range(1000)), os.getuid()); sys.exit(5)'
	expect 5 "499500 0"
}

# What agents' programs use: threads, subprocesses, pipes, epoll, pseudo-terminals, sockets, locks, shared memory.
test_python_uses_the_kernel() {
	python '
import concurrent.futures, fcntl, mmap, multiprocessing, os, pty, select, signal, socket, subprocess, tempfile, threading, time
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert sum(pool.map(lambda n: n * n, range(100))) == 328350
assert subprocess.run(["sh", "-c", "cat; exit 3"], input=b"x", stdout=subprocess.PIPE).stdout == b"x"
with multiprocessing.Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
r, w = os.pipe(); poll = select.epoll(); poll.register(r, select.EPOLLIN); os.write(w, b"y"); assert poll.poll(1)
pid, fd = pty.fork()
if pid == 0:
    os.execvp("tty", ["tty"])
assert os.read(fd, 100).startswith(b"/dev/pts/")
for family in (socket.AF_INET, socket.AF_INET6):
    s = socket.socket(family); s.bind(("localhost", 0)); s.listen()
    c = socket.create_connection(s.getsockname()[:2]); a, _ = s.accept(); c.sendall(b"z"); assert a.recv(1) == b"z"
with tempfile.TemporaryFile() as f:
    fcntl.flock(f, fcntl.LOCK_EX); f.truncate(8192); m = mmap.mmap(f.fileno(), 8192); m[5000] = 7; m.flush()
os.setxattr("/tmp", b"user.a", b"b") if hasattr(os, "setxattr") else None
assert os.memfd_create("m") > 0 and os.eventfd(0) > 0
signal.signal(signal.SIGALRM, lambda *a: None); signal.setitimer(signal.ITIMER_REAL, 0.01); signal.pause()
assert len(os.urandom(32)) == 32
print("all good")'
	expect 0 "all good"
}

test_embedded_library() {
	status=0
	CAPLOCK_KERNEL=$bin/vmlinux "$CAPLOCK_E2E/embed" >out 2>err || status=$?
	expect 0
	[ "$(sort out)" = $'one\ntwo' ] || fail "output"
	expect_in err "outcome 0 status 1"
	expect_in err "outcome 1 status 137"
}

# The installed program finds its kernel beside itself.
test_installed_program() {
	"$CAPLOCK_E2E/root/usr/local/bin/caplock" run --memory 128 --timeout 60 -- echo installed >out 2>err
	status=$?
	expect 0 installed
}

test_import_in_an_unprivileged_store() {
	export XDG_DATA_HOME=$PWD/data
	status=0
	"$caplock" image import mine:1 <"$CAPLOCK_E2E/busybox.tar" >out 2>err || status=$?
	expect 0
	sandbox --image mine:1 -- x
	expect 0 x
	"$caplock" image import other:1 <"$CAPLOCK_E2E/busybox.tar" >out 2>err
	cap image rm missing:1 mine:1 other:1
	expect_error 1 "no image missing:1"
	cap image ls
	expect_in out NAME
	! grep -q ':1' out || fail "rm stopped at the first that is missing"
	sandbox --image mine:1 -- x
	expect_error 1 "mine:1"
}

# A store on a file system that forgets an unlinked file: scratch disks go elsewhere.
test_store_on_a_share() {
	[ -n "${CAPLOCK_IN_LAB:-}" ] || return 0 # where the tree is a 9p share, and nothing but root may write to it
	[ "$(id -u)" = 0 ] || return 0
	export XDG_DATA_HOME=$tree/build/e2e-store
	rm -rf "$XDG_DATA_HOME"
	sandbox -- echo works
	rm -rf "$XDG_DATA_HOME"
	expect 0 works
}
