# Real servers on this host's loopback and real clients in the sandbox (the image `clients`). The servers run as root in a
# Debian of their own, from tests/e2e/prepare: without root, none of these tests.
# shellcheck shell=bash disable=SC2016,SC2154 # commands are for the sandbox; ports() sets variables
[ "$(id -u)" = 0 ] || return 0

world=$CAPLOCK_E2E/clients.root

# in_world COMMAND...: runs it in the servers' Debian, with this test's directory at /srv; ends with it. Leaves no mounts.
in_world() {
	exec unshare --mount --propagation private -- sh -c 'mount --bind /dev "$0/dev" && mount -t proc proc "$0/proc" &&
		mount --bind "$1" "$0/srv" && mount -t tmpfs run "$0/run" && shift && exec chroot "$0" "$@"' "$world" "$PWD" "$@"
}

# start [ADDRESS:]PORT COMMAND...: starts a server in the world, until the test ends, and waits for its port (on 127.0.0.1).
servers=()
start() {
	local address=127.0.0.1 port=${1##*:}
	[[ $1 != *:* ]] || address=${1%:*}
	shift
	(in_world "$@") >>servers.log 2>&1 &
	servers+=($!)
	trap 'kill "${servers[@]}" 2>/dev/null' EXIT
	until (: <>"/dev/tcp/$address/$port") 2>/dev/null; do
		kill -0 "${servers[-1]}" 2>/dev/null || { cat servers.log >&2; fail "no server: $*"; return 1; }
		sleep 0.1
	done
}

# ports NAME...: sets each to a port that is free now.
ports() {
	local free
	read -ra free < <(python3 -c 'import socket, sys
s = [socket.create_server(("127.0.0.1", 0)) for _ in sys.argv[1:]]
print(*(x.getsockname()[1] for x in s))' "$@")
	for name; do
		printf -v "$name" %s "${free[0]}"
		free=("${free[@]:1}")
	done
}

# certificate: cert.pem of www.test, with key.pem.
certificate() {
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -subj /CN=www.test -days 2 \
		-addext subjectAltName=DNS:www.test 2>/dev/null
}

# web: nginx with /, with /slow, which does not end, and redirects to another host and to a private address; $http on 127.0.0.1 and ::1, $https with cert.pem.
web() {
	ports http https
	mkdir -p www
	echo "hello from nginx" >www/index.html
	truncate -s 1G www/slow
	certificate
	cat >nginx.conf <<-END
		daemon off; user root; pid /run/nginx.pid; error_log stderr; worker_processes 1;
		events {}
		http {
			access_log /srv/access.log;
			server {
				listen 127.0.0.1:$http; listen [::1]:$http;
				listen 127.0.0.1:$https ssl http2; listen [::1]:$https ssl http2;
				ssl_certificate /srv/cert.pem; ssl_certificate_key /srv/key.pem;
				root /srv/www;
				location = /slow { limit_rate 20k; }
				location = /other { return 302 http://other.test:$http/; }
				location = /private { return 302 http://10.0.0.1/; }
			}
		}
	END
	start "$http" nginx -c /srv/nginx.conf
}

# with_clients [OPTION...] -- COMMAND...: in the image with the clients.
with_clients() {
	images
	cap run --image clients --memory 256 --timeout 240 "$@"
}

# Every client gets what is allowed, by HTTP and HTTPS, and is told no at once where it is not.
test_web_clients() {
	web
	cat >clients.sh <<-END
		printf '%s' "\$CERT" >/ca.pem
		curl -sS http://www.test:$http/
		curl -sS --cacert /ca.pem https://www.test:$https/
		wget -q -O - --ca-certificate=/ca.pem https://www.test:$https/
		python3 -c 'import requests; print(requests.get("https://www.test:$https/", verify="/ca.pem").text, end="")'
		NODE_EXTRA_CA_CERTS=/ca.pem node -e 'fetch("https://www.test:$https/").then(r => r.text()).then(t => process.stdout.write(t))'
		for url in http://other.test:$http/ https://other.test:$https/; do
			curl -sS -m 20 \$url; echo "curl \$?"
			wget -q -T 20 -t 1 -O - \$url; echo "wget \$?"
		done
		python3 -c 'import requests
		try: requests.get("https://other.test:$https/", timeout=20)
		except requests.exceptions.ConnectionError as e: print("requests", "Name or service not known" in str(e))'
		node -e 'fetch("https://other.test:$https/").catch(e => console.log("fetch", e.cause.code))'
		curl -sS -m 20 --cacert /ca.pem --connect-to other.test:$https:www.test:$https https://other.test:$https/; echo "curl \$?"
	END
	with_clients --allow-host "www.test:$http,www.test:$https" --add-host www.test:127.0.0.1 -e CERT="$(cat cert.pem)" \
		-- sh -c "$(cat clients.sh)"
	local hello=$'hello from nginx\n'
	expect 0 "$hello$hello$hello$hello$hello"$'curl 6\nwget 4\ncurl 6\nwget 4\nrequests True\nfetch ENOTFOUND\ncurl 35'
	expect_in err "caplock: denied other.test: no rule allows this host"
	expect_in err "caplock: denied www.test:$https: TLS for another host (SNI)"
	[ "$(wc -l <access.log)" = 5 ] || fail "the server was asked for something else: $(cat access.log)"
}

# TLS of both versions passes unopened, if its server name is the one that was allowed.
test_case_31_openssl() {
	ports tls
	certificate
	start "$tls" openssl s_server -accept "127.0.0.1:$tls" -cert /srv/cert.pem -key /srv/key.pem -www
	with_clients --allow-host "www.test:$tls" --add-host www.test:127.0.0.1 -- sh -c '
		for options in "-tls1_2" "-tls1_3" "-tls1_3 -curves P-384:X25519" "-noservername" "-servername other.test" "-servername www.test.other.test"; do
			printf "GET / HTTP/1.0\r\n\r\n" | timeout 30 openssl s_client -quiet -connect www.test:'"$tls"' $options 2>/dev/null |
				grep -o "HTTP/1.0 200 ok" || echo no
		done'
	expect 0 $'HTTP/1.0 200 ok\nHTTP/1.0 200 ok\nHTTP/1.0 200 ok\nno\nno\nno'
}

# Case 28: what is neither TCP nor DNS goes nowhere, whatever the rules for TCP, and harms nothing.
test_case_28_other_protocols() {
	web
	cat >client.py <<-END
		import http.client, socket, struct
		def udp(host, port):
		    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
		    s = socket.socket(family, socket.SOCK_DGRAM)
		    s.settimeout(20)
		    s.connect(address)
		    try:
		        s.send(b"\xc0" + bytes(1199))
		        s.recv(1)
		    except ConnectionRefusedError:
		        print("refused", host, port)
		def raw(family, proto, to, data):
		    s = socket.socket(family, socket.SOCK_RAW, proto)
		    s.sendto(data, (to, 0))
		udp("www.test", $http)
		udp("93.184.216.34", 443)
		udp("2001:db8::1", 443)
		address = socket.gethostbyname("www.test")
		for proto in 132, 47, 41, 50, 253:
		    for data in b"", bytes(8), bytes(1400):
		        raw(socket.AF_INET, proto, address, data)
		raw(socket.AF_INET, 17, "224.0.0.251", struct.pack(">HHHH", 5353, 5353, 8, 0))
		raw(socket.AF_INET6, 58, "ff02::1", struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0))
		for proto in 43, 44, 60, 132:
		    raw(socket.AF_INET6, proto, "2001:db8::1", bytes(48))
		c = http.client.HTTPConnection("www.test", $http, timeout=60)
		c.request("GET", "/")
		print(c.getresponse().read().decode(), end="")
	END
	with_clients --allow-host "www.test:$http,93.184.216.34" --add-host www.test:127.0.0.1 -- python3 -c "$(cat client.py)"
	expect 0 "refused www.test $http"$'\nrefused 93.184.216.34 443\nrefused 2001:db8::1 443\nhello from nginx'
	expect_in err "caplock: denied www.test:$http/udp: "
}

# HTTP by IPv6, on both sides.
test_ipv6() {
	web
	with_clients --allow-host "www.test:$http" --add-host www.test:::1 -- sh -c "curl -sS -6 http://www.test:$http/
		curl -sS -4 http://www.test:$http/; curl -sS -g -m 20 -o /dev/null 'http://[2001:db8::1]:$http/'; echo \$?"
	expect 0 $'hello from nginx\nhello from nginx\n7'
	grep -c '^::1 ' access.log | grep -qx 2 || fail "not by IPv6: $(cat access.log)"
	expect_in err "caplock: denied 2001:db8::1:$http: "
}

# Case 29: what an allowed host is asked for as a proxy.
test_case_29_allowed_hosts_are_no_proxies() {
	web
	with_clients --allow-host "www.test:$http" --add-host www.test:127.0.0.1 -- sh -c "
		curl -sS -m 20 -x http://www.test:$http https://evil.test/ 2>&1 | grep -o 'response 405'
		curl -sS -m 20 -o /dev/null -w '%{http_code}\n' -x http://www.test:$http http://evil.test/
		curl -sS -m 20 --socks5 www.test:$http http://93.184.216.34/ || echo no socks"
	expect_in out "response 405"
	expect_in out "421"
	expect_in out "no socks"
	[ ! -s access.log ] || fail "the server was asked: $(cat access.log)"
}

# Case 32: where a redirect leads to is decided like anything else.
test_case_32_redirects_are_decided_again() {
	web
	with_clients --allow-host "www.test:$http" --add-host www.test:127.0.0.1 -- sh -c "
		curl -sS -m 20 -L http://www.test:$http/other; echo \$?; curl -sS -m 20 -L http://www.test:$http/private"
	expect_in out 6
	expect_in out "caplock denied this request to 10.0.0.1: "
	expect_in err "caplock: denied other.test: no rule allows this host"
	expect_in err "caplock: denied 10.0.0.1:80: a private address"
}

# Case 24: a rule for a name is none for addresses, also not with the right name in the request.
test_case_24_addresses_are_not_names() {
	web
	with_clients --allow-host "www.test:$http" --add-host www.test:127.0.0.1 -- sh -c "
		curl -sS -m 20 --resolve www.test:$http:93.184.216.34 http://www.test:$http/; echo \$?
		curl -sS -m 20 http://93.184.216.34/ -H 'Host: www.test:$http'"
	expect_in out 7
	expect_in out "caplock denied this request to 93.184.216.34: no rule allows this address"
	expect_in err "caplock: denied 93.184.216.34:$http: no rule allows this address"
	[ ! -s access.log ] || fail "the server was asked: $(cat access.log)"
}

# sshd that lets the key ./key in as root, on $ssh; a repository at /srv/repo.git.
git_server() {
	ports ssh
	ssh-keygen -q -t ed25519 -N '' -f key
	ssh-keygen -q -t ed25519 -N '' -f host_key
	(in_world sh -ec 'cd /srv; git init -q work; cd work; echo precious >file; git add file
		git -c user.name=a -c user.email=a@a.test commit -qm first; git clone -q --bare . ../repo.git')
	cat >start_sshd <<-END
		mkdir -p /run/sshd
		exec /usr/sbin/sshd -D -e -f /dev/null -p $ssh -o ListenAddress=127.0.0.1 -o HostKey=/srv/host_key -o PermitRootLogin=yes \
			-o AuthorizedKeysFile=/srv/key.pub -o StrictModes=no -o UsePAM=no -o PidFile=none
	END
	start "$ssh" sh /srv/start_sshd
}

test_ssh_and_git() {
	git_server
	local client='printf "%s\n" "$KEY" >/key; chmod 600 /key
		export GIT_SSH_COMMAND="ssh -i /key -o StrictHostKeyChecking=no -o LogLevel=ERROR -o ConnectTimeout=20 -p $PORT"
		git clone -q root@git.test:/srv/repo.git /r && cat /r/file && $GIT_SSH_COMMAND root@git.test echo by ssh'
	with_clients --allow-host "tcp:git.test:$ssh" --add-host git.test:127.0.0.1 -e KEY="$(cat key)" -e PORT="$ssh" -- sh -c "$client"
	expect 0 $'precious\nby ssh'
	with_clients --allow-host "git.test:$ssh" --add-host git.test:127.0.0.1 -e KEY="$(cat key)" -e PORT="$ssh" -- sh -c "$client"
	expect 128
	expect_in err "caplock: denied git.test:$ssh: "
}

# postgres on $db, without passwords.
postgres() {
	ports db
	in_copy='cp -a /var/lib/postgresql/15/main /srv/db; chown -R postgres /srv/db; chmod 700 /srv/db; mkdir -m 777 /run/postgresql
		echo "host all all 127.0.0.1/32 trust" >/srv/hba
		exec setpriv --reuid=postgres --regid=postgres --clear-groups /usr/lib/postgresql/15/bin/postgres -D /srv/db -p '$db' \
			-c config_file=/etc/postgresql/15/main/postgresql.conf -c data_directory=/srv/db -c hba_file=/srv/hba -c ssl=off \
			-c listen_addresses=127.0.0.1 -c external_pid_file='
	chmod 711 .
	start "$db" sh -c "$in_copy"
}

test_postgres() {
	postgres
	local client="psql -h db.test -p $db -U postgres -Atc 'select sum(x) from generate_series(1, 100000) x'"
	with_clients --allow-host "tcp:db.test:$db" --add-host db.test:127.0.0.1 -- sh -c "$client"
	expect 0 5000050000
	with_clients --allow-host "tcp:db.test:1" --add-host db.test:127.0.0.1 -- sh -c "$client"
	expect 2
	expect_in err "Connection refused"
	expect_in err "caplock: denied db.test:$db: no rule allows this port of the host"
}

# iperf3 ends a test with what is under way then, so the server may have received less than was sent.
test_iperf3() {
	ports speed
	start "$speed" iperf3 -s -p "$speed" --forceflush
	with_clients --allow-host "tcp:speed.test:$speed" --add-host speed.test:127.0.0.1 -- sh -c "
		for way in '' -R; do iperf3 -c speed.test -p $speed -n 16M -P 4 \$way -J | python3 -c '
import json, sys
end = json.load(sys.stdin)[\"end\"]
print(end[\"sum_sent\"][\"bytes\"] >= 16 << 20, end[\"sum_received\"][\"bytes\"] > 0)'; done"
	expect 0 $'True True\nTrue True'
}

# Case 37, with each server: see revoked().
revoked_client='
use() { # HOST NUMBER COMMAND: its output in a file
	HOST=$1 timeout 120 bash -o pipefail -c "$3" </dev/null >"/$1.$2.out" 2>"/$1.$2.err"
}
must_fail() { # STATUS WHAT: it has failed, and not because it hung
	case $1 in 0 | 124) echo "$2: status $1"; cat /*.err; exit 1 ;; esac
}
for ((i = 1; i <= $#; i++)); do
	use gone.test $i "${!i}" & gone[i]=$!
	use keep.test $i "${!i}" & keep[i]=$!
done
for ((i = 1; i <= $#; i++)); do
	until [ -s /gone.test.$i.out ] && [ -s /keep.test.$i.out ]; do
		kill -0 ${gone[i]} ${keep[i]} || { echo "not in use: ${!i}"; cat /*.err; exit 1; }
		sleep 0.1
	done
done
echo in use
read -r line
for ((i = 1; i <= $#; i++)); do
	wait ${gone[i]}
	must_fail $? "ended: ${!i}"
	use gone.test again "${!i}"
	must_fail $? "opened again: ${!i}"
	bytes=$(stat -c %s /keep.test.$i.out)
	until [ "$(stat -c %s /keep.test.$i.out)" -gt "$bytes" ]; do
		kill -0 ${keep[i]} || { echo "did not go on: ${!i}"; exit 1; }
		sleep 0.1
	done
done
echo ended'

# revoked KIND PORT [OPTION...] -- CLIENT...: clients, each twice at once, that use a connection to $HOST at $PORT for ever and write
# what they get: when the rule (KIND gone.test:PORT) is taken back, those to gone.test end, and are refused when they are
# started again, and those to keep.test go on. keep.test is at $keep_at, where a server has one client at a time.
revoked() {
	local kind=$1 port=$2 options=()
	shift 2
	while [ "$1" != -- ]; do
		options+=("$1")
		shift
	done
	images
	background --image clients --memory 512 --control control --allow-host "${kind}gone.test:$port,${kind}keep.test:$port,tcp:gone.test:1" \
		--add-host "gone.test:127.0.0.1,keep.test:${keep_at:-127.0.0.1}" -e PORT="$port" "${options[@]}" -- bash -c "$revoked_client" "$@" < <(
		until grep -qs "in use" out; do sleep 0.1; done
		ask_control '{"op":"allow-remove","hosts":["'"${kind}gone.test:$port"'"]}' >control.out
		echo
		sleep infinity
	)
	ended 0
	expect 0 $'in use\nended'
	[ "$(cat control.out)" = '{"ok":true}' ] || { cat control.out; fail "not taken back"; }
	expect_in err "caplock: denied gone.test:$port: the rule was taken back"
	expect_in err "caplock: denied gone.test:$port: no rule allows this port of the host"
}

test_case_37_revoked_http() {
	web
	revoked "" "$http" -- 'curl -sSN http://$HOST:$PORT/slow' 'wget -q -t 1 -O - http://$HOST:$PORT/slow'
}

# Python's ssl takes a reset for an end, and requests takes less than was announced for the whole.
test_case_37_revoked_https() {
	web
	revoked "" "$https" -e NODE_TLS_REJECT_UNAUTHORIZED=0 -- 'curl -sSNk https://$HOST:$PORT/slow' \
		'python3 -W ignore -c "import os, requests
for part in requests.get(\"https://{HOST}:{PORT}/slow\".format(**os.environ), stream=True, verify=False).iter_content(1000):
    print(len(part), flush=True)
raise SystemExit(\"it ended\")"' \
		'node -e "fetch(\"https://\" + process.env.HOST + \":\" + process.env.PORT + \"/slow\").then(async r => { for await (const part of r.body) console.log(part.length) })"'
}

# The server's lines are the client's, reversed.
test_case_37_revoked_openssl() {
	ports tls
	certificate
	for address in 127.0.0.1 127.0.0.2; do
		start "$address:$tls" openssl s_server -accept "$address:$tls" -cert /srv/cert.pem -key /srv/key.pem -rev
	done
	keep_at=127.0.0.2 revoked "" "$tls" -- 'while echo line; do sleep 0.1; done | openssl s_client -quiet -connect $HOST:$PORT'
}

# git is told for ever what the repository has.
test_case_37_revoked_ssh_and_git() {
	git_server
	printf '#!/bin/sh\nwhile printf "003d%%040d refs/heads/line\\n" 1; do sleep 0.1; done\n' >endless-pack
	chmod 755 endless-pack
	revoked tcp: "$ssh" -e KEY="$(cat key)" -- '
		(umask 077; echo "$KEY" >/key.ssh)
		ssh -i /key.ssh -o StrictHostKeyChecking=no -o LogLevel=ERROR -p $PORT root@$HOST "while echo line; do sleep 0.1; done"' '
		(umask 077; echo "$KEY" >/key.git)
		export GIT_TRACE_PACKET=1 GIT_SSH_COMMAND="ssh -i /key.git -o StrictHostKeyChecking=no -o LogLevel=ERROR -p $PORT"
		git clone -u /srv/endless-pack root@$HOST:/srv/repo.git /$HOST 2>&1'
}

test_case_37_revoked_postgres() {
	postgres
	revoked tcp: "$db" -- 'psql -h $HOST -p $PORT -U postgres -At -v FETCH_COUNT=1 -c "select x, pg_sleep(0.1) from generate_series(1, 100000) x"'
}

test_case_37_revoked_iperf3() {
	ports speed
	for address in 127.0.0.1 127.0.0.2; do start "$address:$speed" iperf3 -s -p "$speed" -B "$address"; done
	keep_at=127.0.0.2 revoked tcp: "$speed" -- 'iperf3 -c $HOST -p $PORT -t 1000 -b 1M --forceflush | grep --line-buffered sec'
}

# resolver RECORD...: dnsmasq on 127.0.0.99 that knows these records and no others; asked.log has what it was asked.
resolver() {
	printf '%s\n' "$@" >dns.conf
	start_dns='exec dnsmasq --no-daemon --no-resolv --no-hosts --user=root --conf-file=/srv/dns.conf --bind-interfaces \
		--listen-address=127.0.0.99 --local=/test/ --local-ttl=0 --log-queries --log-facility=/srv/asked.log --addn-hosts=/srv/hosts'
	(in_world sh -c "$start_dns") >>servers.log 2>&1 &
	servers+=($!)
	trap 'kill "${servers[@]}" 2>/dev/null' EXIT
	until (: <>/dev/tcp/127.0.0.99/53) 2>/dev/null; do
		kill -0 "${servers[-1]}" || { cat servers.log; return 1; }
		sleep 0.1
	done
}

# Two HTTP servers that say which they are, on one port of 127.0.0.1 and 127.0.0.2.
two_servers() {
	ports two
	mkdir -p one.www two.www
	echo one >one.www/index.html
	echo two >two.www/index.html
	for server in "one 127.0.0.1" "two 127.0.0.2"; do
		python3 -m http.server -d "${server% *}.www" -b "${server#* }" "$two" >/dev/null 2>&1 &
		servers+=($!)
		trap 'kill "${servers[@]}" 2>/dev/null' EXIT
		until (: <>"/dev/tcp/${server#* }/$two") 2>/dev/null; do sleep 0.1; done
	done
}

# Case 25: of the addresses that a name has, only those that are allowed are dialled, each time.
test_case_25_mixed_answers_and_rebinding() {
	: >hosts
	resolver host-record=mixed.test,127.0.0.1 host-record=mixed.test,10.0.0.1 host-record=mixed.test,127.0.0.2 host-record=private.test,127.0.0.1
	two_servers
	echo 127.0.0.2 moving.test >hosts
	kill -HUP "${servers[0]}"
	mkfifo go
	exec 8<>go
	images
	(
		sandbox --dns-servers 127.0.0.99 --allow-host "mixed.test:$two,private.test:$two,moving.test:$two,127.0.0.2/32:$two" -- sh -c "
			for i in 1 2 3; do wget -q -O - http://mixed.test:$two/; done; wget -q -O - http://private.test:$two/ 2>&1
			wget -q -O - http://moving.test:$two/; echo moved; read x; wget -q -O - http://moving.test:$two/ 2>&1; true"
		exit "$status"
	) <&8 &
	until grep -qs moved out; do sleep 0.1; done
	echo 127.0.0.1 moving.test >hosts
	kill -HUP "${servers[0]}"
	until [ "$(grep -c 'read /srv/hosts' asked.log)" -ge 3 ]; do sleep 0.1; done
	echo go >&8
	status=0
	wait $! || status=$?
	expect 0
	[ "$(grep -c two out)" = 4 ] || { show; fail "not reached"; }
	! grep -q one out || { show; fail "reached 127.0.0.1"; }
	expect_in err "caplock: denied private.test:$two: a loopback address"
	expect_in err "caplock: denied moving.test:$two: a loopback address"
}

# Only what is allowed, and dialled, is asked: a resolver is no way out.
test_case_27_only_allowed_names_are_asked() {
	: >hosts
	resolver host-record=www.test,127.0.0.2
	two_servers
	sandbox --dns-servers 127.0.0.99 --allow-host "www.test:$two,127.0.0.2/32:$two" -- sh -c "
		for name in evil.test secret.evil.test secret.www.test www.test.evil.test; do nslookup \$name; nslookup -type=txt \$name; done
		nslookup www.test; nslookup -type=txt www.test; wget -q -O - http://www.test:$two/" >/dev/null
	expect 0
	expect_in out two
	! sed -n 's/.*query\[[A-Z]*\] \([^ ]*\) .*/\1/p' asked.log | grep -vx www.test || fail "asked upstream"
	grep -q 'query\[A\] www.test' asked.log || fail "www.test was not asked for"
	! grep -q 'query\[TXT\]' asked.log || fail "TXT was asked"
}

# A resolver that is not there, or does not know, is an error at once.
test_dead_resolver() {
	: >hosts
	resolver host-record=www.test,127.0.0.2
	sandbox --dns-servers 127.0.0.98 --allow-host www.test -- sh -c 'timeout 60 wget -O - http://www.test/; echo $?'
	expect 0 1
	expect_in err "Connection refused"
	sandbox --dns-servers 127.0.0.99 --allow-host unknown.test -- sh -c 'timeout 60 wget -O - http://unknown.test/; echo $?'
	expect 0 1
}

# silence: a port of 127.0.0.1 that has no place for one more connection, and answers nothing: $silent; and a resolver on 127.0.0.97
# that answers nothing.
silence() {
	python3 -u - >silence.log 2>&1 <<-'PY' &
		import signal, socket
		resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
		resolver.bind(("127.0.0.97", 53))
		full = socket.socket()
		full.bind(("127.0.0.1", 0))
		full.listen(0)
		waiting = []
		try:
		    while True:
		        waiting.append(socket.create_connection(full.getsockname(), 1))
		except TimeoutError:
		    print(full.getsockname()[1], flush=True)
		signal.pause()
	PY
	servers+=($!)
	trap 'kill "${servers[@]}" 2>/dev/null' EXIT
	until silent=$(sed -n 1p silence.log) && [ -n "$silent" ]; do
		kill -0 "${servers[-1]}" || { cat silence.log; return 1; }
		sleep 0.1
	done
}

# descriptors: how many the machine's process and the gate have.
descriptors() {
	local name
	for name in caplock-vmm caplock-gate; do
		find "/proc/$(pgrep -n -x $name)/fd" -type l | wc -l
	done
}

# Nothing that does not answer makes the guest wait for ever, and nothing is kept of it: the gate gives up (gate.h), and the
# guest, whose own patience is longer, is told. Dead ones, beside those, are told at once.
test_silent_hosts_and_resolvers() {
	silence
	cat >client.py <<-END
		import socket, sys, threading
		def dial(host, port):
		    try:
		        socket.create_connection((host, port), 100)
		    except OSError as e:
		        said[host] = type(e).__name__
		def dial_all():
		    threads = [threading.Thread(target=dial, args=a) for a in (("silent.test", $silent), ("dead.test", 1), ("unknown.test", 80)) * 3]
		    for t in threads: t.start()
		    for t in threads: t.join()
		said = {}
		dial_all()
		print(said, flush=True)
		sys.stdin.readline()
		dial_all()
		print(said, flush=True)
		sys.stdin.readline()
	END
	images
	background --image debian --audit audit --dns-servers 127.0.0.97 --allow-host "silent.test:$silent,dead.test:1,unknown.test" \
		--add-host silent.test:127.0.0.1,dead.test:127.0.0.1 -- python3 -c "$(cat client.py)" < <(
			for round in 1 2; do
				until [ "$(grep -cs silent out)" = $round ]; do sleep 0.1; done
				descriptors >descriptors.$round
				echo
			done
			sleep infinity
		)
	ended 0
	local refused="'ConnectionRefusedError'" said
	said="{'dead.test': $refused, 'silent.test': $refused, 'unknown.test': $refused}"
	python3 -c 'import ast, sys; [print(dict(sorted(ast.literal_eval(line).items()))) for line in sys.stdin]' <out >sorted
	[ "$(cat sorted)" = "$said"$'\n'"$said" ] || { show; fail "not refused"; }
	cmp descriptors.1 descriptors.2 || fail "descriptors are left open: $(paste descriptors.?)"
	# Three each, by IPv6 and then by IPv4, twice.
	for reason in 'silent.test.*timed out' 'dead.test.*connection refused' 'unknown.test.*no resolver answers'; do
		[ "$(grep -c "\"flow\",\"verdict\":\"failed\".*$reason" audit)" = 12 ] || { cat audit; fail "in the record: $reason"; }
	done
}

# A gate that gets no more descriptors refuses what is new, pinned or to be resolved, and opens it when it gets some.
test_gate_out_of_descriptors() {
	: >hosts
	resolver host-record=resolved.test,127.0.0.1
	web
	cat >client.py <<-END
		import socket, sys
		def dial(host):
		    try:
		        socket.create_connection((host, $http), 60)
		        return "connected"
		    except OSError as e:
		        return type(e).__name__
		print("up", flush=True)
		for line in sys.stdin:
		    print(dial("pinned.test"), dial("resolved.test"), flush=True)
	END
	images
	background --image debian --audit audit --dns-servers 127.0.0.99 \
		--allow-host "pinned.test:$http,resolved.test:$http,127.0.0.1/32:$http" --add-host pinned.test:127.0.0.1 -- \
		python3 -c "$(cat client.py)" < <(
			lines=1
			for most in 0 1024 0 1024; do
				until [ "$(wc -l <out)" = $lines ]; do sleep 0.1; done
				prlimit --pid "$(pgrep -n -x caplock-gate)" --nofile=$most:
				echo
				((lines += 1))
			done
		)
	ended 0
	local refused="ConnectionRefusedError ConnectionRefusedError" connected="connected connected"
	expect 0 "up"$'\n'"$refused"$'\n'"$connected"$'\n'"$refused"$'\n'"$connected"
	[ "$(grep -c '"pinned.test".*"out of descriptors"' audit)" = 4 ] || { cat audit; fail "the record"; }
}

# What has a connection keeps it without the gate; what was being opened is refused, nothing new is opened, and that is said at once.
test_killed_gate() {
	web
	silence
	cat >client.py <<-END
		import http.client, socket, sys, threading
		kept = http.client.HTTPConnection("www.test", $http, timeout=60)
		def ask(connection):
		    try:
		        connection.request("GET", "/")
		        print(connection.getresponse().read().decode(), end="", flush=True)
		    except OSError as e:
		        print(e, flush=True)
		def dial():
		    try:
		        socket.create_connection(("silent.test", $silent), 100)
		    except OSError as e:
		        print(e, flush=True)
		opening = threading.Thread(target=dial)
		opening.start()
		ask(kept)
		sys.stdin.readline()
		opening.join()
		ask(kept)
		ask(http.client.HTTPConnection("www.test", $http, timeout=60))
		ask(http.client.HTTPConnection("other.test", $http, timeout=60))
	END
	mkfifo go
	exec 8<>go
	(
		with_clients --audit audit --allow-host "www.test:$http,silent.test:$silent" --add-host www.test:127.0.0.1,silent.test:127.0.0.1 -- \
			python3 -c "$(cat client.py)"
		exit "$status"
	) <&8 &
	until grep -qs hello out; do sleep 0.1; done
	kill -KILL "$(pgrep -n -x caplock-gate)"
	echo go >&8
	status=0
	wait $! || status=$?
	local refused='[Errno 111] Connection refused'
	expect 0 "hello from nginx"$'\n'"$refused"$'\n'"hello from nginx"$'\n'"$refused"$'\n[Errno -2] Name or service not known'
	grep -q '"silent.test".*"the gate is gone"' audit || { cat audit; fail "silent.test was not refused when the gate was killed"; }
}

# More connections than the host has descriptors for: the rest is refused, and there are new ones once some are closed.
test_out_of_descriptors() {
	web
	cat >client.py <<-END
		import http.client
		held, refused = [], 0
		def ask(connection):
		    connection.request("GET", "/")
		    return connection.getresponse().read().decode()
		for i in range(150):
		    try:
		        c = http.client.HTTPConnection("www.test", $http, timeout=60)
		        ask(c)
		        held.append(c)
		    except OSError:
		        refused += 1
		print(len(held) > 10, refused > 10, len(held) + refused)
		for c in held: c.close()
		for i in range(50):
		    try:
		        print(ask(http.client.HTTPConnection("www.test", $http, timeout=60)), end="")
		        break
		    except OSError:
		        pass
	END
	(
		ulimit -n 100
		with_clients --allow-host "www.test:$http" --add-host www.test:127.0.0.1 -- python3 -c "$(cat client.py)"
		expect 0 $'True True 150\nhello from nginx'
	)
}

# Case 37: names without end do not take memory without end, nor do they make the first one useless.
test_case_37_ten_thousand_names() {
	web
	cat >client.py <<-END
		import socket, http.client
		def query(name):
		    q = b"\0\7\1\0\0\1\0\0\0\0\0\0" + b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0\0\1\0\1"
		    s.send(q)
		    return s.recv(1500)[3] & 15
		s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
		s.settimeout(60)
		s.connect(("198.19.0.1", 53))
		def ask():
		    c = http.client.HTTPConnection("www.test", $http, timeout=60)
		    c.request("GET", "/")
		    print(c.getresponse().read().decode(), end="")
		ask()
		codes = {query(f"n{i}.www.test") for i in range(10000)}
		print(codes <= {0, 2})
		ask()
	END
	with_clients --allow-host "www.test:$http,*.www.test:$http" --add-host www.test:127.0.0.1 -- python3 -c "$(cat client.py)"
	expect 0 $'hello from nginx\nTrue\nhello from nginx'
}

# network_memory: KiB of the machine's process, of 256 MiB, and of the gate, without the guest's memory.
network_memory() {
	PYTHONPATH=$tree/bench python3 -c 'import measure, sys
print(sum(measure.overhead_kib(int(pid), 256) for pid in sys.argv[1:]))' "$(pgrep -n -x caplock-vmm)" "$(pgrep -n -x caplock-gate)"
}

# Case 37: TLS connections to 10,000 hosts below one that is allowed, each with its own name in a ClientHello that is OpenSSL's but for
# that name. What the network's processes keep of them is bounded: the names (names.h).
test_case_37_ten_thousand_server_names() {
	: >hosts
	resolver address=/example.test/127.0.0.1
	web
	cat >client.py <<-END
		import socket, ssl, sys
		port = int(sys.argv[1])
		context = ssl.create_default_context()
		context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
		def client_hello(name):
		    out = ssl.MemoryBIO()
		    try:
		        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
		    except ssl.SSLWantReadError:
		        return out.read()
		hello = client_hello("n00000.example.test")
		assert hello.count(b"n00000") == 1
		dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
		dns.settimeout(60)
		dns.connect(("198.19.0.1", 53))
		def resolve(label):
		    dns.send(b"\\0\\7\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\6" + label + b"\\7example\\4test\\0\\0\\1\\0\\1")
		    return socket.inet_ntoa(dns.recv(1500)[-4:])
		def greeted(labels):
		    sockets = [socket.socket() for _ in labels]
		    for s, label in zip(sockets, labels): # they connect beside each other
		        s.setblocking(False)
		        s.connect_ex((resolve(label), port))
		    for s, label in zip(sockets, labels):
		        s.settimeout(60)
		        s.sendall(hello.replace(b"n00000", label))
		    answers = [s.recv(6) for s in sockets]
		    for s in sockets: s.close()
		    return sum(a[:1] == b"\\x16" and a[5:] == b"\\2" for a in answers)
		def connect(first, last):
		    labels = [b"n%05d" % i for i in range(first, last)]
		    print("server hellos:", sum(greeted(labels[i:i + 20]) for i in range(0, len(labels), 20)), flush=True)
		    sys.stdin.readline()
		connect(0, 100)
		connect(100, 10000)
		s = context.wrap_socket(socket.create_connection(("last.example.test", port), 60), server_hostname="last.example.test")
		s.sendall(b"GET / HTTP/1.1\\r\\nHost: last.example.test\\r\\nConnection: close\\r\\n\\r\\n")
		print(s.makefile().read().splitlines()[-1])
	END
	images
	background --image clients --timeout 900 --dns-servers 127.0.0.99 --allow-host "*.example.test:$https,127.0.0.1/32:$https" -- \
		python3 -c "$(cat client.py)" "$https" < <(
			for hellos in 100 9900; do
				until grep -qsx "server hellos: $hellos" out; do sleep 0.1; done
				network_memory >>memory
				echo
			done
			sleep infinity
		)
	ended 0
	expect 0 $'server hellos: 100\nserver hellos: 9900\nhello from nginx'
	local kib=()
	mapfile -t kib <memory
	[ ${#kib[@]} = 2 ] && [ $((kib[1] - kib[0])) -le 8192 ] || fail "KiB after 100 names, and after 10,000: ${kib[*]}"
	[ "$(sed -n 's/.*query\[A\] \(n[0-9]*\).example.test .*/\1/p' asked.log | sort -u | wc -l)" = 10000 ] || fail "names were not asked for"
}

# A package from the mirror that this machine uses, with nothing else allowed. The mirror's name is in the image's apt sources;
# its address is pinned, since it may be a private one.
test_apt() {
	local mirror address
	mirror=$(sed -n 's,^deb http://\([^/ ]*\)/.*,\1,p' "$world/etc/apt/sources.list" | head -n 1)
	read -r address _ < <(getent ahostsv4 "$mirror") || fail "this host does not find its Debian mirror"
	with_clients --timeout 600 --allow-host "$mirror" --add-host "$mirror:$address" -- \
		sh -c 'apt-get -q update 2>&1 && apt-get -q install -y hello 2>&1 && hello'
	expect 0
	[ "$(tail -n 1 out)" = "Hello, world!" ] || { show; tail -n 20 out; fail "no hello"; }
	! grep -v '_http._tcp' err || { show; fail "something else was asked for"; }
}
