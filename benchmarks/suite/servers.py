"""Where the payloads come from: nginx and a Dataroom."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common import NotHere
from benchmarks.suite.distance import HERE, Route

__all__ = ["dataroom", "nginx"]

# The temporary paths, of which none is used, are root's unless named.
NGINX = """
{user} worker_processes 1; pid {root}/nginx.pid; error_log {root}/error.log; daemon off;
events {{ worker_connections 1024; }}
http {{ access_log off; sendfile on; keepalive_requests 1000000;
  client_body_temp_path {root}/temp; proxy_temp_path {root}/temp; fastcgi_temp_path {root}/temp;
  uwsgi_temp_path {root}/temp; scgi_temp_path {root}/temp;
  types {{ image/jpeg jpg; application/json json; application/x-tar tar; }}
  server {{ listen {host}:{port}; root {root};
    location = /api/images/ {{ rewrite ^ /pages/page$arg_cursor.json last; }}
    location /pages/ {{ try_files $uri /pages/end.json; }}
    location / {{ }} }} }}
"""


@contextmanager
def nginx(root: Path, way: Route = HERE) -> Iterator[str]:
    """A server of its own for `root`, for as long as the block runs, at the end of a way; its address."""
    port = free_port()
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(program).exists():
        raise NotHere("nginx is not installed")
    # Else its worker is nobody, who may not read private folders. In a user namespace, too, the user is root.
    user = "user root;" if os.geteuid() == 0 or way.server else ""
    root.mkdir(parents=True, exist_ok=True)
    (root / "nginx.conf").write_text(NGINX.format(root=root, host=way.host, port=port, user=user))
    process = subprocess.Popen([*way.server, program, "-c", str(root / "nginx.conf"), "-e", str(root / "error.log")])
    try:
        _wait_for(process, root / "nginx.pid")
        yield f"http://{way.host}:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], pid_file: Path) -> None:
    """nginx writes the file once it listens; a port cannot be probed from outside a network namespace."""
    deadline = time.monotonic() + 10
    while not (pid_file.exists() and pid_file.read_text().strip() == str(process.pid)):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"nginx did not start: see {pid_file.with_name('error.log')}")


# Not by the command line, whose packages a machine for the GPU report may lack.
DATAROOM = """
import sys
from datago_gpu.server import DataroomServer
server = DataroomServer(sys.argv[1], payload_port=0, watch_interval_s=None)
server.serve_forever(lambda: print(server.url, server.key, flush=True))
"""


@contextmanager
def dataroom(root: Path, way: Route = HERE) -> Iterator[dict[str, str]]:
    """The embedded server in another process, payloads from a port of their own; where it is and its key."""
    command = [*way.server, sys.executable, "-c", DATAROOM, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            api_url, api_key = process.stdout.readline().split() or ("", "")
            if not api_url:
                raise RuntimeError("the Dataroom server did not start")
            yield {"api_url": api_url, "api_key": api_key}
        finally:
            process.terminate()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
