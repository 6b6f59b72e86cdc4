# UDP by explicit rule.
# shellcheck shell=bash disable=SC2016 # commands are for the sandbox

# echo_udp: sends datagrams back, from 127.0.0.1:$port, until the test ends.
echo_udp() {
	python3 -u - >server.log 2>&1 <<'PY' &
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
while True:
    data, peer = s.recvfrom(65536)
    s.sendto(data, peer)
PY
	server=$!
	trap 'kill $server' EXIT
	until port=$(sed -n 1p server.log) && [ -n "$port" ]; do sleep 0.1; done
}

client='import socket, sys
def ask(host, port, data):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(20)
    s.connect((host, port))
    try:
        for _ in range(3):
            s.send(data)
            assert s.recv(65536) == data
        print("echo", len(data))
    except OSError as e:
        print(type(e).__name__)
'

test_udp_by_rule() {
	images
	echo_udp
	sandbox --image debian --allow-host "udp:echo.test:$port,udp:closed.test:1" --add-host echo.test:127.0.0.1 --add-host closed.test:127.0.0.1 -- \
		python3 -c "$client
ask('echo.test', $port, b'hello')
ask('echo.test', $port, b'x' * 1472)
ask('echo.test', $port + 1, b'no rule')
ask('closed.test', 1, b'nobody')
ask('192.0.2.1', 123, b'no rule')"
	expect 0 $'echo 5\necho 1472\nConnectionRefusedError\nConnectionRefusedError\nConnectionRefusedError'
	expect_in err "caplock: denied"
}
