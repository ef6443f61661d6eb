"""`datago-gpu serve` as its user meets it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.conftest import Client, add_image, request

COMMAND = [sys.executable, "-c", "from datago_gpu.cli.serve import serve; serve()"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_where_it_serves_and_ends_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    add_image(tmp_path / "a.jpg")
    environment = {name: value for name, value in os.environ.items() if name != "DATAROOM_API_KEY"}
    with subprocess.Popen(
        [*COMMAND, str(tmp_path), "--port", "0", "--payload-port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        first = process.stdout.readline()
        lines = [first]
        while "API_KEY=" not in lines[-1]:
            lines.append(process.stdout.readline())
        url, key = first.split()[-1], lines[-1].strip().rpartition("=")[2]
        assert first == f"Serving 1 images of {tmp_path} at {url}\n"
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/api/", url)
        assert re.fullmatch(r"[0-9a-f]{40}", key)
        assert request(f"{url}images/count/", headers={"Authorization": f"Token {key}"}).json == {"count": 1}
        process.send_signal(number)
        _, err = process.communicate(timeout=5)
        assert (process.returncode, err) == (0, "")


def test_the_key_may_come_from_the_environment(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, str(tmp_path), "--port", "0"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "DATAROOM_API_KEY": "mine"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        assert request(f"{url}images/count/", headers={"Authorization": "Token mine"}).status == 200
        process.terminate()
        assert "mine" not in process.stdout.read()  # who set it knows it, and who reads a service's log need not


def test_an_expected_error_is_one_line_and_exit_code_2(client: Client, tmp_path: Path) -> None:
    port = client.server.url.split(":")[2].split("/")[0]
    for arguments, names in [
        ([str(tmp_path / "missing")], "missing"),
        ([str(tmp_path), "--port", port], port),
        ([str(tmp_path), "--port", "70000"], "70000"),
    ]:
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert names in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_key_of_the_command_line_is_taken_off_it(tmp_path: Path) -> None:
    add_image(tmp_path / ".trash/a.jpg")
    with subprocess.Popen(
        [*COMMAND, str(tmp_path), "--port", "0", "--hidden", "--key", "sesame-9f3"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        assert request(f"{url}images/count/", headers={"Authorization": "Token sesame-9f3"}).json == {"count": 1}
        assert b"sesame-9f3" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.terminate()
        assert "sesame-9f3" not in process.stdout.read()


def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAROOM_API_KEY", "in two words")
    for more in ((), ("--key", "in two other words")):
        done = run(str(tmp_path), "--port", "0", *more)
        assert (done.returncode, done.stderr) == (2, "Error: key must be one word of printable ASCII characters\n")


def test_help_says_what_it_serves() -> None:
    done = run("--help")
    assert done.returncode == 0
    for word in ("ROOT", "--port", "--payload-port", "--url-ttl", "--key", "DATAROOM_API_KEY", "NAME.json"):
        assert word in done.stdout
