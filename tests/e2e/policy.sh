# Network policies: files, presets, and the command that explains them.
# shellcheck shell=bash disable=SC2016 # commands are for the sandbox

test_policy_presets() {
	cap policy presets
	expect 0
	expect_in out "@github"
	cap policy presets github
	expect 0
	cp out github.json
	cap policy check github.json
	expect 0
	expect_in out "github.json: good: allows"
	cap policy presets nonsense
	expect_error 1 "no preset 'nonsense'"
}

test_policy_check() {
	echo '{"version": 1, "allow": ["a.com", "foo..bar"]}' >bad.json
	echo '{"version": 1, "allow": ["a.com"]}' >good.json
	cap policy check good.json bad.json
	expect_error 1 "bad.json: JSON: .allow[1] (byte 35): 'foo..bar': not a host: an empty label, at character 5"
	cap run --policy bad.json -- true
	expect_error 1 "--policy bad.json: JSON: .allow[1]"
	cap run --policy missing.json -- true
	expect_error 1 "--policy cannot read missing.json"
}

test_policy_explain() {
	echo '{"version": 1, "allow": ["*.example.com"], "deny": ["x.example.com"], "loopback_ports": [8080]}' >p.json
	cap policy explain --policy p.json --allow-host tcp:git.example.org:22 a.example.com git.example.org:22 host.caplock.internal:8080
	expect 0 "allow a.example.com:443: TLS and HTTP that name this host (*.example.com)
allow git.example.org:22: whatever is sent (tcp:git.example.org:22)
allow host.caplock.internal:8080: whatever is sent"
	cap policy explain --policy p.json X.Example.Com. 169.254.169.254
	expect 1 "deny x.example.com:443: a rule denies this host (x.example.com)
deny 169.254.169.254:443: a link-local address"
	cap policy explain --policy p.json '*.com'
	expect_error 1 "give one host"
}

# Files and options add up; what denies wins.
test_policy_file() {
	mkdir www
	echo "hello from the host" >www/index.html
	python3 -u -m http.server -d www -b 127.0.0.1 0 >server.log 2>&1 &
	server=$!
	trap 'kill $server' EXIT
	until port=$(sed -n 's/.*port \([0-9]*\) .*/\1/p' server.log) && [ -n "$port" ]; do sleep 0.1; done
	echo '{"version": 1, "hosts": {"www.test": "127.0.0.1", "no.test": "127.0.0.1"}}' >hosts.json
	echo "{\"version\": 1, \"allow\": [\"*.test:$port\"], \"deny\": [\"no.test\"]}" >rules.json
	sandbox --policy hosts.json --policy rules.json -- sh -c "wget -q -O - http://www.test:$port/; wget -q -O - http://no.test:$port/"
	expect 1 "hello from the host"
	expect_in err "caplock: denied no.test: "
}

# The mirror that the image itself is configured with, and nothing else.
test_packages_of_the_image() {
	images
	sandbox --image debian -- cat /etc/apt/sources.list
	expect 0
	host=$(sed -n 's|^deb \(\[.*\] \)\{0,1\}https\{0,1\}://\([^:/ ]*\).*|\2|p' out | head -n 1)
	[ -n "$host" ] || { show; fail "the image has no mirror"; }
	cap policy packages debian
	expect 0
	expect_in out "$host"
	sandbox --image debian --allow-host @packages -- python3 -c "
import socket
print(socket.getaddrinfo('$host', 80)[0][4][0].startswith(('198.18.', 'fd0c:')))
try:
    socket.getaddrinfo('www.test', 80)
except socket.gaierror:
    print('no')"
	expect 0 $'True\nno'
	sandbox --allow-host @packages -- echo none # the built-in image's: there are none
	expect 0 none
}
