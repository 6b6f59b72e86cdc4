# Secrets: what the user gives is where it should be, and nowhere else. Needs servers.sh.
# shellcheck shell=bash disable=SC2016,SC2154 # commands are for the sandbox; ports() sets variables
[ "$(id -u)" = 0 ] || return 0

# tls_server: nginx at www.test:$https and other.test:$https, with cert.pem. /echo answers with what it got.
tls_server() {
	ports https
	openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj /CN=www.test -days 2 \
		-addext subjectAltName=DNS:www.test,DNS:other.test 2>/dev/null
	cat >nginx.conf <<-END
		daemon off; user root; pid /run/nginx.pid; error_log stderr; worker_processes 1;
		events {}
		http {
			log_format key '\$host \$request_uri \$http_authorization \$http_x_key';
			access_log /srv/access.log key;
			server {
				listen 127.0.0.1:$https ssl http2;
				ssl_certificate /srv/cert.pem; ssl_certificate_key /srv/key.pem;
				location = /echo { return 200 "\$http_x_key\n"; }
				location / { return 200 "ok\n"; }
			}
		}
	END
	start "$https" nginx -c /srv/nginx.conf
}

# with_secret [OPTION...] -- COMMAND...: the clients, with the secret KEY of www.test.
with_secret() {
	KEY=the-real-value with_clients --add-host www.test:127.0.0.1,other.test:127.0.0.1 --upstream-ca cert.pem \
		--secret "KEY@www.test:$https" --audit audit "$@"
}

# Every client trusts the gate without being told, and its placeholder becomes the value outside.
test_secret_of_every_client() {
	tls_server
	with_secret --allow-host "other.test:$https" -- sh -c '
		u=https://www.test:'"$https"'
		case $KEY in SANDBOX_SECRET_????????????????????????????????) echo placeholder ;; esac
		curl -sS -H "Authorization: Bearer $KEY" $u/curl1
		curl -sS --http2 -u "user:$KEY" $u/curl2
		wget -q -O - --header "X-Key: $KEY" $u/wget
		python3 -c "import os, requests; print(requests.get(\"$u/requests\", headers={\"X-Key\": os.environ[\"KEY\"]}).text, end=\"\")"
		python3 -c "import os, urllib.request as u; print(u.urlopen(u.Request(\"$u/urllib\", headers={\"X-Key\": os.environ[\"KEY\"]})).read().decode(), end=\"\")"
		node -e "fetch(\"$u/fetch\", {headers: {\"X-Key\": process.env.KEY}}).then(r => r.text()).then(t => process.stdout.write(t))"
		git ls-remote $u/git 2>&1 | grep -o "not valid"
		curl -sS -H "X-Key: $KEY" $u/echo
		openssl s_client -connect www.test:'"$https"' -servername www.test </dev/null 2>/dev/null | grep -m 1 "^Verify return"'
	expect 0 $'placeholder\nok\nok\nok\nok\nok\nok\nnot valid\nSANDBOX_SECRET\nVerify return code: 0 (ok)'
	local basic
	basic=$(printf 'user:the-real-value' | base64)
	expect_in access.log "www.test /curl1 Bearer the-real-value -"
	expect_in access.log "www.test /curl2 Basic $basic -"
	for path in wget requests urllib fetch echo; do
		expect_in access.log "www.test /$path - the-real-value"
	done
	python3 - <<-END
		import json
		lines = [json.loads(l) for l in open("audit")]
		requests = {r["url"]: r for r in lines if r["event"] == "request"}
		r = requests["https://www.test:$https/curl1"]
		assert r["verdict"] == "allow" and r["method"] == "GET" and r["status"] == 200 and r["secrets"] == ["KEY"], r
		assert r["bytes_received"] == 3, r
		assert requests["https://www.test:$https/echo"]["redacted"] == 1
		assert "the-real-value" not in open("audit").read()
	END
}

# Towards another host a placeholder is stopped, and the user is told.
test_case_36_secret_for_another_host() {
	tls_server
	with_secret --allow-host "other.test:$https" --network-intercept -- sh -c '
		curl -sS -o /dev/null -w "%{http_code}\n" -H "X-Key: $KEY" https://other.test:'"$https"'/header
		curl -sS https://other.test:'"$https"'/plain'
	expect 0 $'403\nok'
	[ "$(cat access.log)" = "other.test /plain - -" ] || fail "it was sent: $(cat access.log)"
	expect_in err "caplock: denied GET https://other.test:$https/header: "
	grep '"event":"request"' audit | grep -F '/header"' | grep -qF '"verdict":"deny"'
}

# The value is in no memory but the gate's, in no argument, and not in the environment.
test_secret_is_in_no_other_process() {
	tls_server
	mkfifo go
	images
	KEY=the-real-value "$caplock" run --image clients --memory 128 --timeout 240 --secret "KEY@www.test:$https" \
		--secret "ARG=another-value@www.test:$https" --add-host www.test:127.0.0.1 --upstream-ca cert.pem --network-intercept \
		-- sh -c 'curl -sS -H "X-Key: $KEY" -H "Authorization: $ARG" https://www.test:'"$https"'/; read -r _; true' <go >out 2>err &
	local run=$!
	exec 3>go
	until grep -q ok out; do
		kill -0 $run 2>/dev/null || { cat err >&2; fail "it ended"; return 1; }
		sleep 0.1
	done
	expect_in access.log "www.test / another-value the-real-value"
	# Looked for in pieces, so that this program is not what is found.
	python3 - $run <<-'END'
		import os, sys
		values = [b"the-real" + b"-value", b"another" + b"-value"]
		def processes(parent):
		    for line in open(f"/proc/{parent}/task/{parent}/children").read().split():
		        yield int(line)
		def read(pid):
		    for line in open(f"/proc/{pid}/maps"):
		        span, mode = line.split()[:2]
		        if mode[0] != "r" or "[v" in line:
		            continue
		        start, end = (int(x, 16) for x in span.split("-"))
		        with open(f"/proc/{pid}/mem", "rb") as f:
		            f.seek(start)
		            try:
		                yield f.read(end - start)
		            except OSError:
		                pass
		run = int(sys.argv[1])
		names = {}
		for pid in [run, *processes(run)]:
		    names[open(f"/proc/{pid}/comm").read().strip()] = pid
		assert {"caplock", "caplock-vmm", "caplock-gate"} <= set(names), names
		for name, pid in names.items():
		    found = sum(part.count(v) for part in read(pid) for v in values)
		    print(name, found)
		    assert (found > 0) == (name == "caplock-gate"), (name, found)
		    for file in "cmdline", "environ":
		        text = open(f"/proc/{pid}/{file}", "rb").read()
		        assert not any(v in text for v in values), (name, file)
		for fd in os.listdir(f"/proc/{names['caplock-vmm']}/fd"):
		    assert not os.readlink(f"/proc/{names['caplock-vmm']}/fd/{fd}").startswith("pipe:"), "the values' pipes"
	END
	exec 3>&-
	wait $run
}

# Without the gate's program nothing is started; nor where it refuses the value.
test_secret_refused_at_the_start() {
	mkdir alone
	cp "$caplock" "${caplock%/*}/vmlinux" alone/
	status=0
	alone/caplock run --secret A=v@a.test -- echo ran >out 2>err || status=$?
	expect_error 1 "there is no caplock-gate"
	printf 'two\nlines\n' >file
	sandbox --secret-file A=file@a.test -- echo ran
	expect_error 1 "secret A: the value has a control character or the end of a line in it"
	: >empty.pem
	sandbox --secret A=v@a.test --upstream-ca empty.pem -- echo ran
	expect_error 1 "empty.pem: there is no certificate"
	expect 1 ""
}
