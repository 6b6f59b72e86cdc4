# Interception with what agents use: an API that streams, clients in several languages, WebSockets and gRPC. Needs servers.sh.
# shellcheck shell=bash disable=SC2016,SC2034,SC2154 # commands are for the sandbox; variables are those of servers.sh
[ "$(id -u)" = 0 ] || return 0

# programs NAME...: a key and a certificate for these names, and the servers' world is that of the image `programs`.
https_world() {
	world=$CAPLOCK_E2E/programs.root
	ports https
	openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -subj "/CN=$1" -days 2 \
		-addext "subjectAltName=$(printf 'DNS:%s,' "$@" | sed 's/,$//')" 2>/dev/null
}

# with_programs [OPTION...] -- COMMAND...: in the image with clients of HTTP in several languages.
with_programs() {
	images
	cap run --image programs --memory 384 --timeout 300 --upstream-ca cert.pem --audit audit "$@"
}

# An API as that of an LLM: it wants a key, and answers with a stream of events, each when the one before has been read by us.
llm_server() {
	https_world api.anthropic.com other.test
	cat >llm.js <<-'END'
		const fs = require('fs'), http2 = require('http2'), ws = require('ws');
		const server = http2.createSecureServer({key: fs.readFileSync('/srv/key.pem'), cert: fs.readFileSync('/srv/cert.pem'), allowHTTP1: true});
		const log = line => fs.appendFileSync('/srv/access.log', line + '\n');
		server.on('request', (request, response) => {
			let body = '';
			request.on('data', piece => body += piece);
			request.on('end', () => {
				log([request.httpVersion, request.method, request.url, request.headers['x-api-key'] || '-', body || '-'].join(' '));
				if (request.headers['x-api-key'] !== 'sk-ant-the-real-key') {
					response.writeHead(401);
					response.end('no key\n');
					return;
				}
				if (request.url === '/v1/echo') {
					response.writeHead(200);
					response.end('you said ' + request.headers['x-api-key'] + '\n');
					return;
				}
				response.writeHead(200, {'content-type': 'text/event-stream'});
				const words = ['one', 'two', 'three'];
				const next = () => {
					if (!words.length) {
						response.end('event: message_stop\ndata: {}\n\n');
						return;
					}
					response.write('event: content_block_delta\ndata: {"text":"' + words.shift() + '"}\n\n');
					setTimeout(next, 50);
				};
				next();
			});
		});
		server.on('upgrade', (request, socket, head) => {
			log('websocket ' + request.url + ' ' + (request.headers['x-api-key'] || '-'));
			const wss = new ws.Server({noServer: true});
			wss.handleUpgrade(request, socket, head, c => c.on('message', m => c.send('echo ' + m)));
		});
		server.listen(+process.argv[2], '127.0.0.1');
	END
	start "$https" node /srv/llm.js "$https"
}

# with_llm [OPTION...] -- COMMAND...: the programs, with a key for the API.
with_llm() {
	ANTHROPIC_API_KEY=sk-ant-the-real-key with_programs --add-host api.anthropic.com:127.0.0.1 \
		--secret "ANTHROPIC_API_KEY@api.anthropic.com:$https" "$@"
}

# What streams arrives in every client, over both versions of HTTP, with the key that none of them has.
test_https_streams() {
	llm_server
	cat >clients.sh <<-END
		url=https://api.anthropic.com:$https/v1/messages
		for version in --http1.1 --http2; do
			curl -sSN \$version -H "X-Api-Key: \$ANTHROPIC_API_KEY" -d '{"stream":true}' \$url | grep -c '^data'
		done
		cat >with_requests.py <<-'PY'
			import os, requests, sys
			r = requests.post(sys.argv[1], headers={"x-api-key": os.environ["ANTHROPIC_API_KEY"]}, json={"stream": True}, stream=True)
			print("requests", [l.decode() for l in r.iter_lines() if l.startswith(b"data")][1])
		PY
		python3 with_requests.py \$url
		cat >with_httpx.py <<-'PY'
			import os, sys
			import httpx
			for http2 in False, True:
			    with httpx.Client(http2=http2) as c, c.stream("POST", sys.argv[1], headers={"x-api-key": os.environ["ANTHROPIC_API_KEY"]},
			                                                  json={"stream": True}) as r:
			        print(r.http_version, [l.strip() for l in r.iter_lines() if l.startswith("data")][2])
		PY
		python3 with_httpx.py \$url
		cat >with_fetch.js <<-'JS'
			(async () => {
				const r = await fetch(process.argv[2], {method: 'POST', headers: {'x-api-key': process.env.ANTHROPIC_API_KEY}, body: '{}'});
				let pieces = 0, text = '';
				for await (const piece of r.body) {
					pieces++;
					text += Buffer.from(piece).toString();
				}
				console.log('fetch', pieces > 2, text.split('data').length - 1);
			})();
		JS
		node with_fetch.js \$url
		curl -sS -H "X-Api-Key: \$ANTHROPIC_API_KEY" https://api.anthropic.com:$https/v1/echo
	END
	with_llm -- sh -c "cd /tmp; $(cat clients.sh)"
	local placeholder
	placeholder=$(sed -n 's/^you said //p' out)
	[[ $placeholder == SANDBOX_SECRET_* ]] || fail "the value came back: $placeholder"
	expect 0 $'4\n4\nrequests data: {"text":"two"}\nHTTP/1.1 data: {"text":"three"}\nHTTP/2 data: {"text":"three"}\nfetch true 4\nyou said '"$placeholder"
	[ "$(grep -c ' sk-ant-the-real-key ' access.log)" = 7 ] || fail "$(cat access.log)"
	grep -q '^2.0 POST /v1/messages' access.log || fail "nobody spoke HTTP/2 to the server: $(cat access.log)"
	if grep -r sk-ant-the-real-key out err audit; then fail "the value is in a record"; fi
}

# A redirect to another host takes the client there, not the key.
test_case_32_redirect_keeps_the_secret_at_home() {
	https_world www.test other.test
	cat >nginx.conf <<-END
		daemon off; user root; pid /run/nginx.pid; error_log stderr; worker_processes 1;
		events {}
		http {
			log_format key '\$host \$request_uri \$http_x_key';
			access_log /srv/access.log key;
			server {
				listen 127.0.0.1:$https ssl http2;
				ssl_certificate /srv/cert.pem; ssl_certificate_key /srv/key.pem;
				location = /away { return 302 https://other.test:$https/there; }
				location / { return 200 "ok\n"; }
			}
		}
	END
	start "$https" nginx -c /srv/nginx.conf
	KEY=the-real-value with_programs --add-host www.test:127.0.0.1,other.test:127.0.0.1 --allow-host "other.test:$https" --network-intercept \
		--secret "KEY@www.test:$https" -- sh -c '
		curl -sSL -o /dev/null -w "%{http_code}\n" -H "X-Key: $KEY" https://www.test:'"$https"'/away
		curl -sSL https://www.test:'"$https"'/away'
	expect 0 $'403\nok'
	[ "$(cat access.log)" = $'www.test /away the-real-value\nwww.test /away -\nother.test /there -' ] || fail "$(cat access.log)"
	expect_in err "caplock: denied GET https://other.test:$https/there"
}

# A WebSocket needs a rule; what is said in it is left alone.
test_case_33_websocket() {
	llm_server
	cat >websocket.py <<-END
		import asyncio, os, websockets
		async def main():
		    key = os.environ["ANTHROPIC_API_KEY"]
		    try:
		        async with websockets.connect("wss://api.anthropic.com:$https/ws", extra_headers={"x-api-key": key}) as c:
		            await c.send("hello " + key[:15])
		            print(await c.recv())
		    except websockets.exceptions.InvalidStatusCode as e:
		        print("status", e.status_code)
		asyncio.run(main())
	END
	with_llm -- python3 -c "$(cat websocket.py)"
	expect 0 "status 403"
	expect_in err "/ws: a WebSocket, which no rule allows"
	with_llm --allow-websocket "api.anthropic.com:$https" -- python3 -c "$(cat websocket.py)"
	expect 0 "echo hello SANDBOX_SECRET_"
	expect_in access.log "websocket /ws sk-ant-the-real-key"
}

# gRPC: streams both ways, and a status behind the body.
test_https_grpc() {
	https_world www.test
	cat >server.py <<-END
		import grpc, sys
		from concurrent import futures
		class Echo(grpc.GenericRpcHandler):
		    def service(self, details):
		        key = dict(details.invocation_metadata).get("x-key", "-")
		        def each(requests, context):
		            context.set_trailing_metadata((("x-count", "3"),))
		            for r in requests:
		                yield (key[:8].encode() if r == b"key" else r)
		        def fail(request, context):
		            context.abort(grpc.StatusCode.NOT_FOUND, "nothing here")
		        if details.method.endswith("Each"):
		            return grpc.stream_stream_rpc_method_handler(each)
		        return grpc.unary_unary_rpc_method_handler(fail)
		s = grpc.server(futures.ThreadPoolExecutor(4), handlers=(Echo(),))
		pair = (open("/srv/key.pem", "rb").read(), open("/srv/cert.pem", "rb").read())
		s.add_secure_port("127.0.0.1:$https", grpc.ssl_server_credentials([pair]))
		s.start()
		s.wait_for_termination()
	END
	start "$https" python3 /srv/server.py
	cat >client.py <<-END
		import grpc, os
		channel = grpc.secure_channel("www.test:$https", grpc.ssl_channel_credentials())
		call = channel.stream_stream("/test.Echo/Each")(iter([b"a", b"key", b"c"]), metadata=(("x-key", os.environ["KEY"]),), timeout=60)
		print([r.decode() for r in call], dict(call.trailing_metadata())["x-count"])
		try:
		    channel.unary_unary("/test.Echo/Fail")(b"", timeout=60)
		except grpc.RpcError as e:
		    print(e.code().name, e.details())
	END
	KEY=the-real-value with_programs --add-host www.test:127.0.0.1 --secret "KEY@www.test:$https" -- python3 -c "$(cat client.py)"
	expect 0 $'[\'a\', \'the-real\', \'c\'] 3\nNOT_FOUND nothing here'
}

# A repository is cloned over HTTPS, with a token that git never has.
test_https_git() {
	https_world git.test
	git init -q --bare repository.git
	git init -q work && git -C work -c user.name=a -c user.email=a@b commit -q --allow-empty -m "The first of all" &&
		git -C work push -q ../repository.git HEAD:refs/heads/main && git -C repository.git symbolic-ref HEAD refs/heads/main &&
		git -C repository.git update-server-info
	cat >nginx.conf <<-END
		daemon off; user root; pid /run/nginx.pid; error_log stderr; worker_processes 1;
		events {}
		http {
			server {
				listen 127.0.0.1:$https ssl;
				ssl_certificate /srv/cert.pem; ssl_certificate_key /srv/key.pem;
				root /srv;
				add_header WWW-Authenticate 'Basic realm="git"' always;
				if (\$http_authorization != "Basic $(printf 'token:the-real-value' | base64)") { return 401; }
			}
		}
	END
	start "$https" nginx -c /srv/nginx.conf
	TOKEN=the-real-value with_programs --add-host git.test:127.0.0.1 --secret "TOKEN@git.test:$https" -- sh -c '
		git clone -q "https://token:$TOKEN@git.test:'"$https"'/repository.git" /tmp/clone && git -C /tmp/clone log --format=%s'
	expect 0 "The first of all"
}

# What the server's certificate says is believed no more than outside.
test_https_bad_certificates() {
	https_world wrong.test
	start "$https" openssl s_server -quiet -accept "127.0.0.1:$https" -cert /srv/cert.pem -key /srv/key.pem -www
	with_programs --add-host www.test:127.0.0.1 --allow-host "www.test:$https" --network-intercept -- \
		curl -sS -w '%{http_code}\n' "https://www.test:$https/"
	expect 0 $'caplock could not pass this request on to www.test: hostname mismatch.\n502'
	grep -q '"reason":"hostname mismatch"' audit
	: >audit
	images
	cap run --image programs --memory 384 --timeout 300 --audit audit --add-host wrong.test:127.0.0.1 --allow-host "wrong.test:$https" \
		--network-intercept -- curl -sS -w '%{http_code}\n' "https://wrong.test:$https/"
	expect 0 $'caplock could not pass this request on to wrong.test: self-signed certificate.\n502'
}

# A hook stops a request, changes one, and a program is asked about another.
test_https_hooks() {
	llm_server
	cat >policy.json <<-END
		{"version": 1, "hooks": [
			{"name": "no echo", "phase": "before", "action": "block", "hosts": ["api.anthropic.com:$https"], "path": "/v1/echo"},
			{"name": "ask", "phase": "before", "hosts": ["api.anthropic.com:$https"], "path": "/v1/ask", "callback_id": "a"},
			{"name": "words", "phase": "after", "action": "mutate", "hosts": ["api.anthropic.com:$https"],
			 "body_replacements": [{"find": "two", "replace": "2"}]}
		]}
	END
	cat >callback.py <<-'END'
		import json, socket
		s = socket.socket(socket.AF_UNIX)
		s.bind("callback")
		s.listen()
		while True:
		    c, _ = s.accept()
		    asked = json.loads(c.makefile().readline())
		    print(asked["callback_id"], asked["phase"], asked["method"], asked["path"], flush=True)
		    c.sendall(b'{"action":"mutate","request":{"path":"/v1/messages"}}\n')
		    c.close()
	END
	python3 callback.py >asked 2>&1 &
	local program=$!
	until [ -S callback ]; do sleep 0.1; done
	with_llm --policy policy.json --hook-socket callback -- sh -c '
		u=https://api.anthropic.com:'"$https"'/v1
		curl -sS -o /dev/null -w "%{http_code}\n" -H "X-Api-Key: $ANTHROPIC_API_KEY" $u/echo
		curl -sS -H "X-Api-Key: $ANTHROPIC_API_KEY" $u/ask | grep two
		curl -sS -H "X-Api-Key: $ANTHROPIC_API_KEY" $u/messages | sed -n "s/^data: .*:\"\(.\)\"}/\1/p"'
	kill $program
	expect 0 $'403\n2'
	expect_in asked "a before GET /v1/ask"
	if grep -q sk-ant asked; then fail "the program was told the key"; fi
}
