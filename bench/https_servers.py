"""https_servers: what bench/https measures against: nginx, and mitmproxy before it, in a Debian of their own, so that this
machine runs neither otherwise; and a caplock-gate without a sandbox, which the load asks for flows as a network device does."""

import json
import os
import shutil
import socket
import subprocess
import time

HOST = "bench.test"
PLACEHOLDER = "SANDBOX_SECRET_00000000000000000000"
START_SECONDS = 300  # of a server, also in the lab
CACHE = os.environ.get("CAPLOCK_CACHE") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "caplock")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
WORLD = os.path.join(CACHE, "bench-https")


def prepare():
    """Makes the servers' Debian, once, outside the tree."""
    if os.path.exists(WORLD):
        return
    print("Making a Debian with nginx and mitmproxy, once", flush=True)
    sites = subprocess.run(["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"], text=True,
                           stdout=subprocess.PIPE, check=True).stdout.split()
    mirror = next(site for site in sites if site.rstrip("/").endswith("/debian"))
    root = WORLD + ".new"
    shutil.rmtree(root, ignore_errors=True)
    os.makedirs(CACHE, exist_ok=True)
    subprocess.run(["debootstrap", "--variant=minbase", "bookworm", root, mirror], stdout=subprocess.DEVNULL, check=True)
    for path, text in (("etc/hosts", f"127.0.0.1 localhost {HOST}\n"), ("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n"),
                       ("etc/dpkg/dpkg.cfg.d/small", "path-exclude /usr/share/doc/*\npath-exclude /usr/share/man/*\n")):
        with open(os.path.join(root, path), "w") as file:
            file.write(text)
    os.chmod(os.path.join(root, "usr/sbin/policy-rc.d"), 0o755)
    shutil.copyfile("/etc/resolv.conf", os.path.join(root, "etc/resolv.conf"))
    environment = {"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    install = ["chroot", root, "apt-get", "-q", "-y", "--no-install-recommends", "install", "nginx-light", "mitmproxy"]
    subprocess.run(install, stdout=subprocess.DEVNULL, env=environment, check=True)
    subprocess.run(["chroot", root, "apt-get", "clean"], env=environment, check=True)
    os.rename(root, WORLD)


def in_world(directory, *command):
    """Starts a program in that Debian, with directory at /srv. Its mounts end with it."""
    script = ('mount --bind /dev "$0/dev" && mount -t proc proc "$0/proc" && mount --bind "$1" "$0/srv" && '
              'mount -t tmpfs run "$0/run" && shift && exec chroot "$0" "$@"')
    return subprocess.Popen(["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script, WORLD, directory, *command],
                            stdin=subprocess.DEVNULL, env={"PATH": PATH, "HOME": "/srv", "LC_ALL": "C.UTF-8"})


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def await_port(process, port):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"{process.args[-1]}: no server on port {port}")


def make_authority(directory):
    """ca.pem, and key.pem with cert.pem for HOST and the names under it."""
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, stderr=subprocess.DEVNULL)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=bench", "-days", "7")
    openssl("req", *key, "-keyout", "key.pem", "-out", "request.pem", "-subj", f"/CN={HOST}")
    with open(os.path.join(directory, "names"), "w") as file:
        file.write(f"subjectAltName=DNS:{HOST},DNS:*.{HOST}\n")
    openssl("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "cert.pem",
            "-days", "7", "-extfile", "names")


def start_nginx(directory, mib):
    """(process, port): / is a few bytes, /MIB is so many of them."""
    port = free_port()
    os.makedirs(os.path.join(directory, "www"), exist_ok=True)
    with open(os.path.join(directory, "www", str(mib)), "wb") as file:
        for _ in range(mib):
            file.write(bytes(1 << 20))  # not only its length: all ways are to find it in memory
    with open(os.path.join(directory, "nginx.conf"), "w") as file:
        file.write(f"""daemon off; user root; pid /run/nginx.pid; error_log stderr; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 1000000000; keepalive_timeout 3600; default_type text/plain;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate /srv/cert.pem; ssl_certificate_key /srv/key.pem;
        root /srv/www;
        location = / {{ return 200 "hello\\n"; }}
    }}
}}
""")
    process = in_world(directory, "nginx", "-c", "/srv/nginx.conf")
    await_port(process, port)
    return process, port


def start_mitmproxy(directory, nginx_port):
    """(process, port). Its authority is in directory/mitm."""
    port = free_port()
    process = in_world(directory, "mitmdump", "--quiet", "--mode", f"reverse:https://{HOST}:{nginx_port}", "--listen-host",
                       "127.0.0.1", "--listen-port", str(port), "--set", "confdir=/srv/mitm", "--set", "stream_large_bodies=1m",
                       "--set", "ssl_verify_upstream_trusted_ca=/srv/ca.pem")
    await_port(process, port)
    return process, port


def sealed(data):
    fd = os.memfd_create("bench", 0)
    os.write(fd, data)
    return fd


class Gate:
    """A gate that reads the flows of HOST and the names under it, as if a sandbox had it: flows come from self.vmm."""

    def __init__(self, program, directory, names):
        self.vmm, vmm = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.supervisor, supervisor = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with open(os.path.join(directory, "ca.pem"), "rb") as file:
            authority = sealed(file.read())
        secret, end = os.pipe()
        os.write(end, b"the value of the secret")
        os.close(end)
        os.lseek(authority, 0, os.SEEK_SET)
        allowed = [f"{HOST}:1-65535", f"*.{HOST}:1-65535"]
        config = {"vmm_fd": vmm.fileno(), "supervisor_fd": supervisor.fileno(), "upstream_ca_fd": authority, "limit_ms": 0,
                  "record_all": False, "allow_public": False, "intercept_all": True, "intercept_plain": True, "own_dns": False,
                  "dns_servers": [], "policy": {"version": 1, "allow": allowed, "hosts": {name: "127.0.0.1" for name in names}},
                  "secrets": [{"value_fd": secret, "name": "API_KEY", "placeholder": PLACEHOLDER, "hosts": allowed,
                               "in_path": False, "in_body": False, "plain_http": False, "aws": False}]}
        fds = [vmm.fileno(), supervisor.fileno(), authority, secret, sealed(json.dumps(config).encode())]
        self.process = subprocess.Popen([program, str(fds[-1])], pass_fds=fds)
        for fd in fds[2:]:
            os.close(fd)
        vmm.close()
        supervisor.close()
        certificate = self.supervisor.recv(65536)
        if certificate[:1] != b"\1":
            raise RuntimeError(f"the gate did not start: {certificate[1:].decode(errors='replace')}")
        self.authority = os.path.join(directory, "gate.pem")
        with open(self.authority, "wb") as file:
            file.write(certificate[1:])

    def close(self):
        self.vmm.close()
        self.supervisor.close()
        self.process.wait(30)
