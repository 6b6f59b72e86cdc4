# The sealed network. Servers are on this host's loopback, where no rule but a pin or --allow-host-loopback leads.
# shellcheck shell=bash disable=SC2016 # commands are for the sandbox

# serve: an HTTP server of ./www on 127.0.0.1:$port, until the test ends.
serve() {
	mkdir -p www
	echo "hello from the host" >www/index.html
	python3 -u - >server.log 2>&1 <<'PY' &
import functools, http.server, sys
http.server.SimpleHTTPRequestHandler.protocol_version = "HTTP/1.1" # connections stay open
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="www")
with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
PY
	server=$!
	trap 'kill $server' EXIT
	until port=$(sed -n 1p server.log) && [ -n "$port" ]; do sleep 0.1; done
}

# fetch URL: the guest's way to get something, as text, with wget's complaint.
fetch='fetch() { timeout 20 wget -q -O - "$@" 2>&1; }'

test_no_network() {
	sandbox --no-network -- sh -c 'ls /sys/class/net; ping -c 1 127.0.0.1 >/dev/null && echo up'
	expect 0 $'lo\nup'
	sandbox --no-network --allow-host example.com -- true
	expect_error 1 "--no-network"
}

test_link() {
	sandbox -- sh -c 'ls /sys/class/net; ping -c 1 198.19.0.1 >/dev/null && echo four
		ping -c 1 fd0c:a910:c10c::1 >/dev/null && echo six; cat /etc/resolv.conf'
	expect 0 $'eth0\nlo\nfour\nsix\nnameserver 198.19.0.1'
	sandbox --mtu 9000 -- cat /sys/class/net/eth0/mtu
	expect 0 9000
	sandbox --mtu 100 -- true
	expect_error 1 "--mtu 100"
}

# Case 21: without a rule nothing is reached, by name or address, and that is said at once.
test_case_21_nothing_is_allowed_without_a_rule() {
	serve
	sandbox -- sh -c "$fetch; fetch http://example.com/; fetch http://127.0.0.1:$port/; fetch http://93.184.216.34/
		nslookup example.com; nc -w 5 198.19.0.1 $port </dev/null; echo \$?"
	expect 0
	! grep -q hello out || fail "reached"
	expect_in out "NXDOMAIN"
	expect_in out "refused"
	expect_in err "caplock: denied example.com: no rule allows this host"
	expect_in err "caplock: denied 93.184.216.34:80: no rule allows this address"
	sandbox --quiet -- sh -c "$fetch; fetch http://example.com/"
	[ ! -s err ] || fail "not quiet"
}

test_allowed_host() {
	serve
	sandbox --allow-host "tcp:www.test:$port" --add-host www.test:127.0.0.1 -- sh -c "$fetch
		fetch http://www.test:$port/; fetch http://WWW.Test.:$port/; fetch http://other.test:$port/"
	expect 1
	[ "$(grep -c 'hello from the host' out)" = 2 ] || { show; fail "not reached"; }
	expect_in err "caplock: denied other.test: no rule allows this host"
}

test_host_loopback() {
	serve
	sandbox --allow-host-loopback "$port" -- sh -c "$fetch; fetch http://host.caplock.internal:$port/; fetch http://127.0.0.1:$port/"
	expect_in out "hello from the host"
	expect_in out refused
	sandbox --allow-host-loopback 1 -- sh -c "$fetch; fetch http://host.caplock.internal:$port/"
	expect_in err "caplock: denied host.caplock.internal:$port: this port of the host is not open to the sandbox"
}

# Case 26: a name, whoever says so, does not lead to addresses that are not public.
test_case_26_special_addresses_need_a_rule_of_their_own() {
	serve
	sandbox --allow-host '*:*' --allow-host 0.0.0.0/0 --allow-host 'tcp:[::]/0:*' -- true
	expect_error 1 "'tcp:[::]/0:*'"
	sandbox --allow-host '*:*,0.0.0.0/0:*,::/0' -- sh -c "$fetch; fetch http://localhost.test:$port/; fetch http://169.254.169.254/
		fetch http://10.0.0.1/; fetch http://100.100.100.200/; fetch 'http://[fd00:ec2::254]/'; fetch 'http://[::ffff:169.254.169.254]/'"
	! grep -q hello out || fail "reached"
	expect_in err "denied 169.254.169.254:80: a link-local address"
	expect_in err "denied 10.0.0.1:80: a private address"
	expect_in err "denied 100.100.100.200:80: a metadata address"
	expect_in err "denied fd00:ec2::254:80: a metadata address"
	expect_in err "denied 169.254.169.254:80: a link-local address"
}

# Every request on a connection must be for the host that the connection was allowed to; what is wrong gets a page.
test_case_22_http_is_for_the_host_that_was_allowed() {
	images
	serve
	cat >client.py <<PY
import http.client, socket
def ask(headers, target="/index.html", method="GET", times=1):
    c = http.client.HTTPConnection("www.test", $port, timeout=20)
    for _ in range(times):
        for host in headers:
            c.putrequest(method, target, skip_host=True)
            for h in host:
                c.putheader("Host", h)
            c.endheaders()
            r = c.getresponse()
            print(r.status, r.read().decode().splitlines()[0])
ask([["www.test:$port"]])
ask([["WWW.test"]], times=1) if $port == 80 else None
ask([["www.test:$port"], ["other.test"]])
ask([["www.test:1"]])
ask([[]])
ask([["www.test:$port", "www.test:$port"]])
ask([["www.test:$port"]], target="http://www.test/")
ask([["www.test:$port"]], method="CONNECT", target="www.test:443")
ask([["www.test:$port"]], method="TRACE")
def raw(data):
    s = socket.create_connection(("www.test", $port), 20)
    s.sendall(data)
    got = b""
    try:
        while part := s.recv(1000): got += part
    except ConnectionResetError:
        got += b"RST"
    print(got.split(b"\r\n")[0].decode())
raw(b"GET / HTTP/1.1\nHost: www.test\n\n")
raw(b"POST / HTTP/1.1\r\nHost: www.test:$port\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
raw(b"SSH-2.0-OpenSSH_9.2\r\n")
PY
	sandbox --image debian --allow-host "www.test:$port" --add-host www.test:127.0.0.1 -- python3 -c "$(cat client.py)"
	expect 0 "200 hello from the host
200 hello from the host
421 caplock denied this request to www.test:$port: an HTTP request for another host.
421 caplock denied this request to www.test:$port: an HTTP request for another host.
400 caplock denied this request to www.test:$port: an HTTP request without a Host field.
400 caplock denied this request to www.test:$port: two HTTP Host fields.
421 caplock denied this request to www.test:$port: an HTTP request as to a proxy.
405 caplock denied this request to www.test:$port: an HTTP method that is not allowed (CONNECT, TRACE).
405 caplock denied this request to www.test:$port: an HTTP method that is not allowed (CONNECT, TRACE).
HTTP/1.1 400 Bad Request
HTTP/1.1 400 Bad Request
HTTP/1.1 400 Bad Request"
}

# An HTTP request to what is denied is answered with the option that would allow it.
test_denied_http_says_what_would_allow_it() {
	images
	sandbox -- sh -c "$fetch; fetch -S http://93.184.216.34/; echo 'GET / HTTP/1.0
' | timeout 10 nc 10.0.0.1 80"
	expect_in out "HTTP/1.1 403 Forbidden"
	expect_in out "caplock denied this request to 10.0.0.1: an HTTP line that does not end with CR LF"
	sandbox --image debian -- python3 -c 'import http.client; c = http.client.HTTPConnection("93.184.216.34", timeout=20)
c.request("GET", "/"); print(c.getresponse().read().decode(), end="")'
	expect 0 "caplock denied this request to 93.184.216.34: no rule allows this address.
To allow this host, start the sandbox with --allow-host 93.184.216.34"
	expect_in err "caplock: denied 93.184.216.34:80: no rule allows this address"
}

# TLS, without being opened: the name in the ClientHello, and in the second one where the server asks for it.
test_case_31_tls_is_for_the_host_that_was_allowed() {
	images
	openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=www.test -days 2 2>/dev/null
	python3 -u - >server.log 2>&1 <<'PY' &
import socket, ssl, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
context.set_ecdh_curve("secp384r1")
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
def serve(c):
    try:
        t = context.wrap_socket(c, server_side=True)
        t.sendall(t.recv(1000) + b" of " + t.version().encode())
        t.close()
    except OSError:
        pass
while True:
    threading.Thread(target=serve, args=(s.accept()[0],)).start()
PY
	server=$!
	trap 'kill $server' EXIT
	until port=$(sed -n 1p server.log) && [ -n "$port" ]; do sleep 0.1; done
	cat >client.py <<PY
import socket, ssl
def ask(name, last=ssl.TLSVersion.TLSv1_3, first=b""):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = last
    s = socket.create_connection(("www.test", $port), 20)
    try:
        s.sendall(first)
        t = context.wrap_socket(s, server_hostname=name)
        t.sendall(b"echo")
        print(t.recv(1000).decode())
    except ConnectionResetError:
        print("reset")
ask("www.test")
ask("WWW.test")
ask("www.test", ssl.TLSVersion.TLSv1_2)
ask("other.test")
ask(None)
ask("www.test", first=b"\x15\x03\x03\x00\x02\x01\x00")
PY
	sandbox --image debian --allow-host "www.test:$port" --add-host www.test:127.0.0.1 -- python3 -c "$(cat client.py)"
	expect 0 $'echo of TLSv1.3\necho of TLSv1.3\necho of TLSv1.2\nreset\nreset\nreset'
	expect_in err "caplock: denied www.test:$port: TLS for another host (SNI)"
	expect_in err "caplock: denied www.test:$port: no TLS server name (SNI)"
	expect_in err "caplock: denied www.test:$port: TLS that does not begin with a ClientHello"
}

# Case 27: names are answered here, over UDP and TCP, whatever resolver is asked; nothing is asked upstream.
test_case_27_every_resolver_is_ours() {
	images
	sandbox --image debian --allow-host www.test -- python3 -c '
import socket, struct
def query(name, kind):
    return struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + struct.pack(">BHH", 0, kind, 1)
def udp(server, q):
    s = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(20)
    s.connect((server, 53))
    s.send(q)
    return s.recv(1500)
def tcp(server, qs):
    s = socket.create_connection((server, 53), 20)
    f = s.makefile("rwb")
    for q in qs:
        f.write(struct.pack(">H", len(q)) + q)
    f.flush()
    s.shutdown(socket.SHUT_WR)
    got = f.read()
    while got:
        n, = struct.unpack(">H", got[:2])
        yield got[2:2 + n]
        got = got[2 + n:]
def show(a):
    print("rcode", a[3] & 15, "answers", a[7])
for server in "198.19.0.1", "8.8.8.8", "2001:4860:4860::8888":
    show(udp(server, query("www.test", 1)))
    show(udp(server, query("evil.test", 1)))
    show(udp(server, query("www.test", 16)))
    show(udp(server, query("www.test", 65)))
for a in tcp("9.9.9.9", [query("www.test", 28), query("x" * 63 + ".evil.test", 16)]):
    show(a)
for port in 853, 5353:
    try:
        socket.create_connection(("8.8.8.8", port), 20)
    except ConnectionRefusedError:
        print("refused")
'
	local each=$'rcode 0 answers 1\nrcode 3 answers 0\nrcode 0 answers 0\nrcode 0 answers 0\n'
	expect 0 "$each$each$each"$'rcode 0 answers 1\nrcode 3 answers 0\nrefused\nrefused'
}

# 20 MB each way, and the ends of both directions one after the other.
test_data_both_ways() {
	head -c 20000000 /dev/urandom >data
	python3 -u - >server.log 2>&1 <<'PY' &
import socket
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
c, _ = s.accept()
got = b"".join(iter(lambda: c.recv(1 << 16), b""))
c.sendall(got[::-1])
c.close()
PY
	until port=$(sed -n 1p server.log) && [ -n "$port" ]; do sleep 0.1; done
	sandbox --allow-host-loopback "$port" -- nc -w 60 host.caplock.internal "$port" <data
	expect 0
	python3 -c 'import sys; sys.exit(open("out", "rb").read()[::-1] != open("data", "rb").read())' || fail "20 MB changed on their way"
}

test_refused_and_closed_servers_are_seen_at_once() {
	sandbox --allow-host-loopback 1 -- sh -c 'nc -w 20 host.caplock.internal 1 </dev/null; echo $?'
	expect_in out 1
	expect_in err refused
}

# A server that is killed is seen by who has a connection to it, and by who wants one.
test_killed_server() {
	images
	serve
	background --image debian --allow-host-loopback "$port" -- python3 -u -c "
import http.client
kept = http.client.HTTPConnection('host.caplock.internal', $port, timeout=60)
kept.request('GET', '/')
print(kept.getresponse().read().decode(), end='')
print(kept.sock.recv(1))
try: http.client.HTTPConnection('host.caplock.internal', $port, timeout=60).connect()
except OSError as e: print(type(e).__name__)"
	wait_for out hello
	kill -KILL "$server"
	ended 0
	expect 0 $'hello from the host\nb\'\'\nConnectionRefusedError'
}

test_bad_rules() {
	local rule
	for rule in '' ',' 'a,,b' 'foo..bar' 'x:0' 'x:70000' 'x:9-2' 'a*b.com' '*.*.com' 'tcp:x' '1.2.3' '127.1' '0x7f000001' '10.0.0.1/8' \
		'[::1' 'exa mple.com' 'bücher.de' '-x.com' "$(printf 'x%.0s' $(seq 64)).com"; do
		cap run --allow-host "$rule" -- true
		expect_error 1 "--allow-host"
	done
	cap run --add-host nonsense -- true
	expect_error 1 "NAME:ADDRESS"
	cap run --add-host a:b -- true
	expect_error 1 "is not an IP address"
	cap run --dns-servers dns.example -- true
	expect_error 1 "is not an IP address"
	cap run --allow-host-loopback x -- true
	expect_error 1 "'x' is no port"
}
