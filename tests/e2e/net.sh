# The sealed network. Servers are on this host's loopback, where no rule but a pin or --allow-host-loopback leads.
# shellcheck shell=bash disable=SC2016 # commands are for the sandbox

# serve: an HTTP server of ./www on 127.0.0.1:$port, until the test ends.
serve() {
	mkdir -p www
	echo "hello from the host" >www/index.html
	python3 -u - >server.log 2>&1 <<'PY' &
import functools, http.server, sys
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
