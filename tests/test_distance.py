"""The benchmarks' distances: what they hold back and lose, seen by packets that go there and back."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.common import NotHere
from benchmarks.suite.distance import route

ECHO = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 7000))
print("ready", flush=True)
while True:
    sock.sendto(*sock.recvfrom(100))
"""

ASK = """
import json, socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(1)
sent = {}
for number in range(200):
    sent[number] = time.perf_counter()
    sock.sendto(b"%d" % number, (sys.argv[1], 7000))
seconds = []
try:
    while len(seconds) < 200:
        seconds.append(time.perf_counter() - sent[int(sock.recv(100))])
except TimeoutError:
    pass
print(json.dumps(seconds))
"""


def test_a_way_holds_packets_back_and_loses_some() -> None:
    try:
        with route(30, 0.2) as way:
            namespaces = [Path(f"/proc/{command[-1]}/ns/net") for command in (way.client, way.server)]
            assert len({Path("/proc/self/ns/net").readlink(), *(path.readlink() for path in namespaces)}) == 3
            echo = [*way.server, sys.executable, "-c", ECHO, way.host]
            with subprocess.Popen(echo, stdout=subprocess.PIPE, text=True) as server:
                try:
                    assert server.stdout is not None
                    server.stdout.readline()
                    ask = [*way.client, sys.executable, "-c", ASK, way.host]
                    seconds = json.loads(subprocess.run(ask, capture_output=True, text=True, check=True).stdout)
                finally:
                    server.kill()
    except NotHere as reason:
        pytest.skip(str(reason))
    assert statistics.median(seconds) >= 0.030
    # 0.8 x 0.8 x 200 = 128, and a standard deviation of 7.
    assert 95 <= len(seconds) <= 160
    assert not any(path.exists() for path in namespaces)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotHere, match="the commands ip, nsenter, unshare"), route(30, 0.2):
        pass
