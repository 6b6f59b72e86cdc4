# Published ports, and changes, records and questions of a sandbox that runs.
# shellcheck shell=bash disable=SC2016 # commands are for the sandbox

# background [OPTION...] -- COMMAND...: a sandbox that runs beside the test, its output in out and err; its process in $sandbox.
background() {
	local input
	exec {input}<&0 # a command in the background has none otherwise
	"$caplock" run --memory 256 --timeout 200 "$@" <&"$input" >out 2>err &
	sandbox=$!
	exec {input}<&-
	trap 'kill $sandbox ${server:-} "${servers[@]}" 2>/dev/null || true' EXIT
}

# wait_for FILE TEXT: until a line of the sandbox's says so.
wait_for() {
	until grep -qF -- "$2" "$1"; do
		kill -0 "$sandbox" || { cat out err >&2; fail "the sandbox ended before: $2"; return 1; }
		sleep 0.1
	done
}

# ended STATUS: waits for the sandbox, and expects this.
ended() {
	status=0
	wait "$sandbox" || status=$?
	expect "$1"
}

# ask_control REQUEST...: writes requests to ./control, prints the answers.
ask_control() {
	python3 - "$@" <<'PY'
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect("control")
f = s.makefile("rw")
for request in sys.argv[1:]:
    print(request, file=f, flush=True)
    print(f.readline(), end="")
PY
}

# A server in the guest that answers each connection with what it got, after its end; on the address it is given.
echo_server='
import socket, sys, threading
s = socket.create_server((sys.argv[1], 7000), backlog=128, family=socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
print("listening", flush=True)
def serve(c):
    data = b""
    while part := c.recv(1 << 16):
        data += part
    c.sendall(data[::-1])
    c.close()
while True:
    threading.Thread(target=serve, args=(s.accept()[0],)).start()
'

test_published_ports() {
	images
	local address
	for address in 127.0.0.1 0.0.0.0 198.19.0.2 fd0c:a910:c10c::2; do
		background --image debian -p 0:7000 -- python3 -c "$echo_server" "$address"
		wait_for out listening
		wait_for err "-> sandbox:7000"
		port=$(sed -n 's/^Forwarding 127.0.0.1:\([0-9]*\) .*/\1/p' err)
		python3 - "$port" <<'PY' || return 1
import os, socket, sys, threading
def ask(n):
    data = os.urandom(n)
    s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60)
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
    got = b""
    while part := s.recv(1 << 16):
        got += part
    assert got == data[::-1], (n, len(got))
    done.append(n)
done = []
threads = [threading.Thread(target=ask, args=(n,)) for n in [0, 1, 1000, 2000000] + [50000] * 20]
for t in threads: t.start()
for t in threads: t.join()
assert len(done) == len(threads), done
PY
		kill "$sandbox"
		ended 143
	done
}

test_published_port_that_nobody_serves() {
	images
	background --image debian -p "0:7001" -- sh -c 'echo up; read line' < <(sleep infinity)
	wait_for out up
	port=$(sed -n 's/^Forwarding 127.0.0.1:\([0-9]*\) .*/\1/p' err)
	python3 -c "
import socket
s = socket.create_connection(('127.0.0.1', $port), 30)
try:
    print(s.recv(1))
except ConnectionResetError:
    print('reset')" >client.out
	[ "$(cat client.out)" = reset ] || { cat client.out; fail "not reset"; }
	kill "$sandbox"
	ended 143
}

test_published_ports_that_cannot_be() {
	cap run -p 70000 -- true
	expect_error 1 "-p '70000'"
	cap run -p x:80 -- true
	expect_error 1 "'x' is no port of this host"
	cap run -p 300.1.1.1:80:80 -- true
	expect_error 1 "'300.1.1.1' is not an IP address"
	cap run -p 8.8.8.8:0:80 -- true
	expect_error 1 "cannot listen"
	cap run --no-network -p 80 -- true
	expect_error 1 "--no-network"
}

# Case 37: rules are added and taken back while the sandbox runs; what they no longer allow ends, and nothing else does.
test_case_37_revoked_rules_end_flows() {
	images
	serve
	background --image debian --control control --allow-host "tcp:keep.test:$port" --add-host "keep.test:127.0.0.1,late.test:127.0.0.1" -- \
		python3 -u -c '
import socket, sys
port = int(sys.argv[1])
def get(s):
    s.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
    got = b""
    while b"\r\n\r\n" not in got:
        part = s.recv(1000)
        if not part: return "end"
        got += part
    return got.split()[1].decode()
def dial(name):
    try:
        return socket.create_connection((name, port), 30)
    except OSError as e:
        return type(e).__name__
keep = dial("keep.test")
print(get(keep), dial("late.test"), flush=True)
sys.stdin.readline()
late = dial("late.test")
print(get(late), flush=True)
sys.stdin.readline()
try:
    print(late.recv(1), flush=True)
except ConnectionResetError:
    print("reset", flush=True)
print(dial("late.test"), flush=True)
print(get(dial("keep.test")), flush=True)
' "$port" < <(
		until grep -q '200 gaierror' out; do sleep 0.1; done
		ask_control '{"op":"allow-add","hosts":["tcp:late.test:'"$port"'"]}' '{"op":"allow-add","hosts":["late.test:x"]}' \
			'{"op":"nonsense","hosts":["a.test"]}' nonsense '{"op":"allow-remove","hosts":["other.test"]}' >control.out
		echo
		until [ "$(grep -c 200 out)" = 2 ]; do sleep 0.1; done
		ask_control '{"op":"allow-remove","hosts":["tcp:late.test:'"$port"'"]}' >>control.out
		echo
		sleep infinity
	)
	ended 0
	expect 0 $'200 gaierror\n200\nreset\ngaierror\n200'
	[ "$(grep -c '^{"ok":true}$' control.out)" = 2 ] || { cat control.out; fail "answers"; }
	expect_in control.out "'x' is no port"
	expect_in control.out "no op 'nonsense'"
	expect_in control.out "'other.test': there is no such rule"
	expect_in err "denied late.test:$port: the rule was taken back"
	[ ! -e control ] || fail "the socket is left behind"
}

# A sandbox that was started without any rule has no gate; one comes with the first rule.
test_rules_for_a_sandbox_without_any() {
	images
	serve
	background --control control --add-host www.test:127.0.0.1 -- sh -c "$fetch; fetch http://www.test:$port/; echo first; read line
		fetch http://www.test:$port/" < <(
		until grep -q first out; do sleep 0.1; done
		ask_control '{"op":"allow-add","hosts":["www.test:'"$port"'"]}' >control.out
		echo
	)
	ended 0
	expect_in out "hello from the host"
}

test_audit() {
	images
	serve
	sandbox --image debian --audit audit --allow-host "www.test:$port" --add-host www.test:127.0.0.1 -- python3 -c "
import http.client, socket
def get(host):
    c = http.client.HTTPConnection('www.test', $port, timeout=20)
    c.request('GET', '/index.html', headers={'Host': host})
    return c.getresponse().status
print(get('www.test'), get('evil.test'))
for to in ('evil.test', $port), ('10.0.0.1', 443), ('www.test', $((port + 1))):
    try: socket.create_connection(to, 20)
    except OSError: pass
kept = socket.create_connection(('www.test', $port), 20)
"
	expect 0 "200 421"
	python3 - audit "$port" <<'PY'
import json, sys
lines = [json.loads(l) for l in open(sys.argv[1])]
port = int(sys.argv[2])
def find(**want):
    got = [l for l in lines if all(l.get(k) == v for k, v in want.items())]
    assert got, (want, lines)
    return got
for l in lines:
    assert l["time"].endswith("Z"), l
find(event="dns", verdict="allow", name="www.test")
find(event="dns", verdict="deny", name="evil.test", reason="no rule allows this host")
assert len(find(event="flow", verdict="allow", name="www.test", address="127.0.0.1", port=port, proto="tcp")) == 3
find(event="flow", verdict="deny", name="www.test", port=port, reason="an HTTP request for another host")
find(event="flow", verdict="deny", address="10.0.0.1", port=443, reason="a private address")
find(event="flow", verdict="deny", name="www.test", port=port + 1, reason="no rule allows this port of the host")
closes = find(event="close", name="www.test", port=port, direction="out")
assert len(closes) == 3, closes
assert any(l["bytes_sent"] > 50 and l["bytes_received"] > 100 and "duration_ms" in l for l in closes), closes
assert [l["event"] for l in lines].count("totals") == 1 and lines[-1]["event"] == "totals" and lines[-1]["flows"] >= 3, lines[-1]
PY
	sandbox --audit /nowhere/audit -- true
	expect_error 1 "--audit /nowhere/audit"
	# A record that cannot be written ends the sandbox.
	sandbox --audit /dev/full -- sh -c "$fetch; fetch http://evil.test; sleep 60"
	expect 125
	expect_in err "the audit record cannot be written: No space left on device"
}

# Nothing is lost where there is much: 2000 decisions, and two records for each of 500 flows.
test_audit_is_complete_under_load() {
	images
	serve
	sandbox --image debian --audit audit --allow-host "tcp:www.test:$port" --add-host www.test:127.0.0.1 -- python3 -c "
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('198.19.0.1', 53))
for i in range(2000):
    name = b'x%d' % i
    s.send(struct.pack('>HHHHHH', i, 0x100, 1, 0, 0, 0) + bytes([len(name)]) + name + b'\4test\0\0\1\0\1')
    s.recv(600)
for i in range(500):
    socket.create_connection(('www.test', $port), 20).close()
"
	expect 0
	[ "$(grep -c '"event":"dns","verdict":"deny","name":"x[0-9]*.test"' audit)" = 2000 ] || fail "decisions"
	[ "$(grep -c '"event":"flow","verdict":"allow"' audit)" = 500 ] || fail "flows: $(grep -c '"event":"flow"' audit)"
	[ "$(grep -c '"event":"close"' audit)" = 500 ] || fail "ends: $(grep -c '"event":"close"' audit)"
}

# What a run did becomes a policy, and with that policy the same run works again.
test_learn() {
	images
	serve
	local program="
import http.client, socket
c = http.client.HTTPConnection('www.test', $port, timeout=20)
c.request('GET', '/index.html')
print(c.getresponse().status)
s = socket.create_connection(('raw.test', $port), 20)
s.sendall(b'nonsense\r\n\r\n')
print(len(s.recv(1000)) > 0)
"
	sandbox --image debian --learn learned --add-host www.test:127.0.0.1,raw.test:127.0.0.1 -- python3 -c "$program"
	expect 0 $'200\nTrue'
	python3 -c "
import json
p = json.load(open('learned'))
assert p['allow'] == ['tcp:raw.test:$port', 'www.test:$port'], p"
	sandbox --image debian --policy learned -- python3 -c "$program"
	expect 0 $'200\nTrue'
	sandbox --image debian -- python3 -c "$program"
	expect 1
	# Everything public is not everything.
	sandbox --learn learned -- sh -c "$fetch; fetch http://10.0.0.1/"
	expect_in err "denied 10.0.0.1:80: a private address"
	sandbox --learn learned --ask -- true
	expect_error 1 "--ask"
}

# asking ANSWER OPTION... -- COMMAND...: a sandbox with --ask on a terminal of its own, where each question gets ANSWER.
asking() {
	python3 - "$caplock" "$@" >out 2>err <<'PY'
import os, pty, sys
caplock, answers, arguments = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
pid, fd = pty.fork()
if pid == 0:
    os.execv(caplock, [caplock, "run", "--memory", "256", "--timeout", "200", "--ask"] + arguments)
seen = b""
while True:
    try:
        part = os.read(fd, 1000)
    except OSError:
        break
    if not part:
        break
    seen += part
    if seen.endswith(b"[d]eny: "):
        os.write(fd, answers.pop(0).encode() + b"\n")
print(seen.decode().replace("\r", ""))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
PY
	status=$?
}

test_ask() {
	images
	serve
	local get="import http.client
def get(name):
    try:
        c = http.client.HTTPConnection(name, $port, timeout=60)
        c.request('GET', '/index.html')
        print(name, c.getresponse().status)
    except OSError as e:
        print(name, type(e).__name__)
"
	local hosts="a.test:127.0.0.1,b.test:127.0.0.1,c.test:127.0.0.1"
	asking once,run,deny --image debian --add-host "$hosts" -- python3 -c "$get
get('a.test'); get('b.test'); get('b.test'); get('c.test'); get('c.test')
"
	expect 0
	expect_in out "the sandbox wants a.test port $port."
	[ "$(grep -c '^a.test 200\|^b.test 200' out)" = 3 ] || { cat out; fail "not allowed"; }
	[ "$(grep -c 'c.test ConnectionRefusedError' out)" = 2 ] || { cat out; fail "not denied"; }
	[ "$(grep -o 'sandbox wants' out | wc -l)" = 3 ] || { cat out; fail "questions"; }
	setsid -w "$caplock" run --ask -- true >out 2>err </dev/null || status=$?
	expect_error 1 "--ask needs a terminal"
}

# A record that nobody reads stalls the sandbox's network, and nothing of ours: it goes on when it is read, and can be ended.
test_audit_waits_for_its_reader() {
	images
	local many="
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('198.19.0.1', 53))
for i in range(3000):
    name = b'x%d' % i
    s.send(struct.pack('>HHHHHH', i, 0x100, 1, 0, 0, 0) + bytes([len(name)]) + name + b'\4test\0\0\1\0\1')
    s.recv(600)
    if i in (0, 2999): print(i, flush=True)
"
	mkfifo record stalled
	exec 5<>record 6<>stalled
	background --image debian --audit record -- python3 -c "$many"
	wait_for out 0
	cat <&5 >lines &
	server=$!
	ended 0
	until grep -q '"event":"totals"' lines; do sleep 0.1; done
	[ "$(grep -c '"event":"dns"' lines)" = 3000 ] || fail "$(grep -c '"event":"dns"' lines) of 3000 decisions"
	sandbox --image debian --audit stalled --timeout 30 -- python3 -c "$many"
	expect 125 0
	expect_in err "the audit record cannot be written: Connection timed out"
}

# More changes at once than a socket holds: each is made, in order, before the answer comes.
test_many_changes_at_once() {
	images
	serve
	local hosts
	hosts=$(for i in $(seq 1000); do echo "\"h$i.test:$port\""; done | paste -sd,)
	background --image debian --control control --add-host h1.test:127.0.0.1,h1000.test:127.0.0.1 -- python3 -u -c '
import socket, sys
for line in sys.stdin:
    for name in "h1.test", "h1000.test":
        try: socket.create_connection((name, int(sys.argv[1])), 30); print("open")
        except OSError as e: print(type(e).__name__)
' "$port" < <(
		until [ -e control ]; do sleep 0.1; done
		ask_control "{\"op\":\"allow-add\",\"hosts\":[$hosts]}" >control.out
		echo
		until [ "$(grep -c open out)" = 2 ]; do sleep 0.1; done
		ask_control "{\"op\":\"allow-remove\",\"hosts\":[$hosts]}" >>control.out
		echo
	)
	ended 0
	expect 0 $'open\nopen\ngaierror\ngaierror'
	[ "$(cat control.out)" = $'{"ok":true}\n{"ok":true}' ] || { cat control.out; fail "answers"; }
}

test_control_socket_paths() {
	echo precious >notes.txt
	sandbox --control notes.txt -- true
	expect_error 1 "--control notes.txt: Address already in use"
	[ "$(cat notes.txt)" = precious ] || fail "the file is gone"
	sandbox --control "" -- true
	expect_error 1 "--control: give a path"
	python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("stale")'
	sandbox --control stale -- true
	expect 0
	[ ! -e stale ] || fail "left behind"
}
