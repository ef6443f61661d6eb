"""The API key goes to the API's own origin, and can be read nowhere else: whatever happens, and whoever asks.

Each run here has all loggers of both processes at DEBUG, and its errors are shown in every way there is.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from rich.console import Console
from rich.pretty import pretty_repr
from rich.traceback import Traceback

import datago_gpu
from datago_gpu import ConfigError, DatagoError, FeederError, Loader, LoaderConfig, SourceError, TooManyErrors
from datago_gpu.config import DataroomSource, HttpConfig
from datago_gpu.doctor import source_trial
from datago_gpu.feeder.wire import Resume, Start
from datago_gpu.server import DataroomServer
from tests.support.images import add_picture
from tests.support.proxies import ForwardProxy
from tests.support.servers import Answer, MisbehavingServer, Request, json_answer

KEY = "5ec2e7" * 6 + "5ec2"
PART = "5ec2e75ec2"
"""Of the key; an error that shows the half of it shows too much."""
WAIT_S = 20

CHATTY = """
import logging, os, sys
logging.basicConfig(level=logging.DEBUG, filename={log!r})
logging.debug("%s has begun to log", os.path.basename(sys.argv[0]) or "a process")
if "datago_gpu.feeder" in sys.orig_argv:
    print(os.environ.get("LAST_WORDS", "")[::-1], file=sys.stderr, flush=True)
"""
"""What every Python process started from here does first."""


@dataclass
class Evidence:
    """What can be read of a run: the logs of all processes, and what `add` was given."""

    log: Path
    caplog: pytest.LogCaptureFixture
    texts: list[str] = field(repr=False)

    def add(self, *texts: str) -> None:
        self.texts += texts

    def everything(self) -> str:
        return "\n".join([self.log.read_text() if self.log.exists() else "", self.caplog.text, *self.texts])


@pytest.fixture
def evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Evidence]:
    """Fails the test where the key, or a part of it, is in anything that was gathered."""
    folder = tmp_path / "sitecustomize"
    folder.mkdir()
    log = folder / "processes.log"
    (folder / "sitecustomize.py").write_text(CHATTY.format(log=str(log)))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(Path(datago_gpu.__file__).parent.parent)]))
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    caplog.set_level(logging.DEBUG)
    gathered = Evidence(log, caplog, [])
    yield gathered
    assert "has begun to log" in log.read_text()
    found = [line for line in gathered.everything().splitlines() if PART in line.lower()]
    assert not found, found


@pytest.fixture
def api() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as server:
        yield server


@pytest.fixture
def elsewhere() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as server:
        yield server


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return add_picture(tmp_path_factory.mktemp("picture") / "a.jpg").read_bytes()


def settings(address: str, **source: Any) -> LoaderConfig:
    """Of a run that gives up soon. The key is in a record from here on, not in a dict, which anyone may print."""
    return LoaderConfig(
        source_config=DataroomSource(**{"api_url": address, "api_key": KEY, **source}),
        http_config=HttpConfig(max_tries=2, max_backoff_s=0.01, stall_timeout_s=5.0, download_processes=1),
        batch_size=2,
    )


def listing(api: MisbehavingServer, *urls: str, following: str | None = None) -> None:
    """A listing of images that are at these addresses."""
    results = [{"id": f"im-{number}", "source": "s", "image_direct_url": url} for number, url in enumerate(urls)]

    def page(request: Request) -> Answer:
        if "cursor" in request.parameters:
            return json_answer({"next": None, "results": []})
        return json_answer({"next": following or f"{api.url}/api/images/?cursor=im-9", "results": results})

    api.route("/api/images/", page)
    api.route("/api/images/count/", lambda _request: json_answer({"count": len(urls)}))


def shown(error: BaseException) -> list[str]:
    """An error in every way in which it is shown: also with its causes, and with the values of all locals."""
    console = Console(file=io.StringIO(), width=400)
    rich = Traceback.from_exception(
        type(error), error, error.__traceback__, show_locals=True, locals_max_length=None, locals_max_string=None,
        locals_hide_dunder=False, locals_hide_sunder=False, max_frames=0,
    )  # fmt: skip
    console.print(rich)
    assert isinstance(console.file, io.StringIO)
    return [str(error), repr(error), *traceback.format_exception(error), console.file.getvalue()]


def run(
    config: LoaderConfig,
    evidence: Evidence,
    error: type[DatagoError] | None = None,
    meanwhile: Callable[[Loader], None] = lambda _: None,
) -> str:
    """Loads everything and gathers what can be read of it. Returns the error's text."""
    text = ""
    with Loader(config, device="cpu", backend="pillow") as loader:
        for name in ("cmdline", "environ"):
            evidence.add((Path("/proc") / str(loader.feeder_pid) / name).read_text(errors="replace"))
        with pytest.raises(error) if error else nullcontext() as caught:
            meanwhile(loader)
            for batch in loader:
                evidence.add(repr(batch), repr(batch.attributes), pretty_repr(batch))
        if caught is not None:
            text = str(caught.value)
            evidence.add(*shown(caught.value))
        evidence.add(json.dumps(loader.state_dict()), repr(loader.stats()))
        for thing in (loader, loader.config, loader.config.source_config, loader.backend, vars(loader)):
            evidence.add(repr(thing), str(thing), pretty_repr(thing))
    return text


def test_a_run_sends_the_key_to_the_api_alone(
    api: MisbehavingServer, elsewhere: MisbehavingServer, evidence: Evidence, picture: bytes
) -> None:
    elsewhere.script("/a.jpg", Answer(200, picture))
    elsewhere.script("/hop", Answer(302, headers={"Location": f"{api.url}/back.jpg"}))
    elsewhere.script("/stale", Answer(403, b"Request has expired"))
    api.script("/back.jpg", Answer(200, picture))
    api.script("/api/images/im-2/", json_answer({"image_direct_url": f"{elsewhere.url}/a.jpg"}))
    behind_a_proxy = f"{elsewhere.url}/api/images/?cursor=im-9"  # names another host than it is asked at
    urls = [f"{elsewhere.url}/{name}" for name in ("a.jpg", "hop", "stale")]
    listing(api, *urls, f"{api.url}/back.jpg", following=behind_a_proxy)
    run(settings(f"{api.url}/api/"), evidence)
    for origin, request in [(server, request) for server in (api, elsewhere) for request in server.requests]:
        is_api = origin is api and request.path.startswith("/api/")
        assert request.headers.get("authorization") == (f"Token {KEY}" if is_api else None), request.path
        assert KEY not in repr((request.path, request.query, {**request.headers, "authorization": ""}))
    assert {request.path for request in elsewhere.requests} == {"/a.jpg", "/hop", "/stale"}
    assert api.count("/back.jpg") == 2
    assert api.count("/api/images/im-2/") == 1


@pytest.mark.parametrize("in_environment", [False, True])
def test_the_embedded_server_and_its_client(
    tmp_path: Path, evidence: Evidence, monkeypatch: pytest.MonkeyPatch, in_environment: bool
) -> None:
    for number in range(5):
        add_picture(tmp_path / f"photos/{number}.jpg", color=number)
    config = settings("")
    with DataroomServer(tmp_path / "photos", key=KEY, payload_port=0) as server:
        config = config.with_source(api_url=server.url)
        if in_environment:
            monkeypatch.setenv("DATAROOM_API_KEY", KEY)
            config = config.with_source(api_key="")
            with Loader(config, device="cpu", backend="pillow") as loader:  # /proc would show it: the user put it there
                assert sum(map(len, loader)) == 5
                evidence.add(json.dumps(loader.state_dict()), pretty_repr(vars(loader)))
        else:
            run(config, evidence)
        with socket.create_connection(server._sockets[0].getsockname(), timeout=WAIT_S) as connection:
            connection.sendall(
                f"GET /api/images/ HTTP/1.1\r\nHost: h\r\nAuthorization: Token {KEY}\x01\r\n\r\n".encode()
            )
            evidence.add(connection.recv(1 << 16).decode())
        evidence.add(repr(server), pretty_repr(server))


def test_a_wrong_key(tmp_path: Path, evidence: Evidence) -> None:
    add_picture(tmp_path / "photos/a.jpg")
    with DataroomServer(tmp_path / "photos") as server:
        assert "refused the API key (403: Invalid token.)" in run(settings(server.url), evidence, SourceError)


@pytest.mark.parametrize("refused", [False, True])
def test_the_password_of_a_proxy(
    api: MisbehavingServer, evidence: Evidence, picture: bytes, caplog: pytest.LogCaptureFixture, refused: bool
) -> None:
    api.script("/a.jpg", Answer(200, picture))
    listing(api, "http://api.invalid/a.jpg")
    header = base64.b64encode(f"me:{KEY}".encode()).decode()
    with ForwardProxy({"api.invalid": api.port}, login=f"me:{'another' if refused else KEY}") as proxy:
        given = settings("http://api.invalid/api/", api_key="")
        http = msgspec.structs.replace(given.http_config, proxy=proxy.url.replace("://", f"://me:{KEY}@"))
        config = msgspec.structs.replace(given, http_config=http)
        text = run(config, evidence, SourceError if refused else None)
        evidence.add(
            repr(config.http_config),
            pretty_repr(config.http_config),
            *map(str, source_trial.checks(config, "cpu", "pillow", 8)),
        )
    assert (f"the proxy {proxy.url} (http_config.proxy) refuses name and password" in text) == refused
    assert not any("proxy-authorization" in request.headers for request in api.requests)
    assert header[:20] not in evidence.everything()


def test_a_server_that_is_down(evidence: Evidence) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/api/"
    assert "cannot connect to the server: Connection refused (2 tries)" in run(settings(address), evidence, SourceError)


TOKEN = f"Token {KEY}"
SAYING = {
    "JSON": json_answer({"detail": f"no: {TOKEN}"}, 403),
    "JSON in other letters": Answer(403, json.dumps({"detail": f"no: {KEY}"}).replace("5", "\\u0035").encode()),
    "a list": json_answer([f"no: {TOKEN}", TOKEN], 400),
    "a name": json_answer({TOKEN: [TOKEN]}, 400),
    "HTML": Answer(500, f"<h1>Authorization: {TOKEN}</h1>".encode()),
    "a status line": Answer(raw=f"HTTP/1.1 404 {TOKEN}\r\nContent-Length: 0\r\n\r\n".encode()),
    "a header": Answer(503, headers={"Retry-After": TOKEN, "Authorization": TOKEN, "Set-Cookie": f"k={KEY}"}),
    "no HTTP": Answer(raw=f"{TOKEN}\r\n\r\n".encode()),
    "a bad header": Answer(raw=f"HTTP/1.1 200 OK\r\n{TOKEN}\x00: {TOKEN}\r\n\r\n".encode()),
    "a bad length": Answer(raw=f"HTTP/1.1 200 OK\r\nContent-Length: {TOKEN}\r\n\r\n".encode()),
    "another encoding": Answer(200, b"x", headers={"Content-Encoding": KEY}),
    "a page that is garbage": Answer(200, TOKEN.encode() + bytes(range(256))),
    "a page of another form": json_answer({"results": TOKEN, "next": TOKEN}),
    "odd entries": json_answer({"results": [{"id": 7, "source": TOKEN}, {"tags": TOKEN}], "next": None}),
    "a next that is no address": json_answer({"results": [], "next": f"ftp://{KEY}/"}),
    "a next on a host of that name": json_answer({"results": [], "next": f"http://{KEY}.example/api/images/?cursor=b"}),
    "a redirect": Answer(302, headers={"Location": f"http://{KEY}.example/{KEY}?{KEY}"}),
    "a redirect to another path": Answer(302, headers={"Location": f"/login/{KEY}?next={KEY}"}),
    "a redirect to another scheme": Answer(302, headers={"Location": f"x{KEY}:{KEY}"}),
}


@pytest.mark.parametrize("answer", SAYING.values(), ids=SAYING)
def test_a_server_that_repeats_what_it_was_sent(api: MisbehavingServer, evidence: Evidence, answer: Answer) -> None:
    api.script("/api/images/", answer)
    api.script("/api/images/count/", answer)
    api.script(f"/login/{KEY}", Answer(200, TOKEN.encode()))
    if answer is SAYING["odd entries"]:
        run(settings(f"{api.url}/api/"), evidence, TooManyErrors)
    else:
        assert run(settings(f"{api.url}/api/", check_count=False), evidence, SourceError)


def test_a_redirect_to_another_origin_is_not_followed(
    api: MisbehavingServer, elsewhere: MisbehavingServer, evidence: Evidence
) -> None:
    for status in (302, 308):
        api.script("/api/images/", Answer(status, headers={"Location": f"{elsewhere.url}/api/images/"}))
        assert f"the key is sent only to {api.url}" in run(settings(f"{api.url}/api/"), evidence, SourceError)
    assert elsewhere.requests == []


def test_a_renewed_address_that_is_refused(
    api: MisbehavingServer, elsewhere: MisbehavingServer, evidence: Evidence
) -> None:
    """Skips have texts too: of the failure of a request that has the key."""
    elsewhere.script("/stale", Answer(403))
    listing(api, f"{elsewhere.url}/stale")
    api.script("/api/images/im-0/", SAYING["a status line"])
    assert "http-404: Token ***" in run(settings(f"{api.url}/api/"), evidence, TooManyErrors)


def test_the_last_words_of_a_feeder_that_is_killed(
    api: MisbehavingServer, evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAST_WORDS", f"words with {KEY}"[::-1])  # backwards, as the environment is evidence too
    hold = Answer(silent=True)
    for path in ("/api/images/", "/api/images/count/"):
        api.script(path, hold)

    def kill(loader: Loader) -> None:
        assert api.asked.wait(WAIT_S)
        killed: list[int] = []
        while len(killed) < 2:  # the first is replaced
            if loader.feeder_pid not in killed and psutil.pid_exists(loader.feeder_pid):
                killed.append(loader.feeder_pid)
                os.kill(loader.feeder_pid, signal.SIGKILL)

    text = run(settings(f"{api.url}/api/"), evidence, FeederError, kill)
    assert "by signal 9 (SIGKILL); its last output: words with ***" in text


ADDRESSES = {
    "password": f"https://user:{KEY}@h/api/",
    "user": f"https://{KEY}@h/api/",
    "query": f"https://h/api/?token={KEY}",
    "fragment": f"https://h/api/#{KEY}",
    "path": f"https://h/{KEY}/api/",
    "host": f"https://{KEY}.h/api/",
}
WRONG_ADDRESSES = {"scheme": f"ftp://{KEY}/api/", "swapped": KEY, "blanks": f" {KEY} "}


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)
def test_an_address_with_the_key_in_it(evidence: Evidence, address: str) -> None:
    assert "address" in run(settings(address), evidence, ConfigError)
    for key in ("another", ""):
        evidence.add(pretty_repr(settings(address, api_key=key)), repr(settings(address, api_key=key)))


@pytest.mark.parametrize("address", WRONG_ADDRESSES.values(), ids=WRONG_ADDRESSES)
@pytest.mark.parametrize("key", [KEY, "another", ""], ids=["key", "another", "none"])
def test_an_address_that_is_none_and_has_the_key_in_it(address: str, key: str) -> None:
    with pytest.raises(ConfigError, match=r"api_url must begin with http") as caught:
        settings(address, api_key=key)
    assert PART not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("address", [ADDRESSES["query"], WRONG_ADDRESSES["swapped"]], ids=["query", "swapped"])
def test_an_address_of_the_environment_with_the_key_in_it(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("DATAROOM_API_URL", address)
    script = "from tests.end_to_end.test_secrets import *; list(Loader(settings('', api_key='another')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=WAIT_S, check=False)
    evidence.add(done.stdout, done.stderr)
    assert "ConfigError: the Dataroom's address must" in done.stderr


UNFIT = {"blanks": f"{KEY} {KEY}", "lines": f"{KEY}\r\nX: y", "NUL": f"{KEY}\0", "letters": f"{KEY}\u00e9"}


@pytest.mark.parametrize("key", UNFIT.values(), ids=UNFIT)
def test_a_key_that_cannot_be_sent(evidence: Evidence, key: str) -> None:
    text = run(settings("http://127.0.0.1:9/api/", api_key=key), evidence, ConfigError)
    assert "source_config.api_key (or DATAROOM_API_KEY) contains spaces" in text


@pytest.mark.parametrize("ending", ["well", "refused", "down"])
def test_the_command_bench(tmp_path: Path, evidence: Evidence, ending: str) -> None:
    add_picture(tmp_path / "photos/a.jpg")
    with DataroomServer(tmp_path / "photos", key=None if ending == "refused" else KEY) as server:
        file = tmp_path / "config.json"
        file.write_bytes(msgspec.json.encode(settings(server.url)))
        if ending == "down":
            server.close()
        done = subprocess.run(
            [sys.executable, "-m", "datago_gpu.cli", "bench", str(file), "--json", "--backend", "pillow"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    evidence.add(done.stdout, done.stderr)
    assert done.returncode == (0 if ending == "well" else 2), done.stderr
    if ending == "well":
        assert json.loads(done.stdout.splitlines()[-1])["samples"] == 1


def test_the_process_list_while_a_command_runs(tmp_path: Path, api: MisbehavingServer, evidence: Evidence) -> None:
    for path in ("/api/images/", "/api/images/count/"):
        api.script(path, Answer(silent=True))
    file = tmp_path / "config.json"
    file.write_bytes(msgspec.json.encode(settings(f"{api.url}/api/")))
    with subprocess.Popen(
        [sys.executable, "-m", "datago_gpu.cli", "bench", str(file)], stderr=subprocess.PIPE
    ) as bench:
        assert bench.stderr is not None
        assert api.asked.wait(WAIT_S)
        processes = [psutil.Process(bench.pid), *psutil.Process(bench.pid).children(recursive=True)]
        assert any("datago_gpu.feeder" in process.cmdline() for process in processes)
        for process in processes:
            evidence.add(repr(process.cmdline()), repr(process.environ()))
        bench.send_signal(signal.SIGINT)
        evidence.add(bench.stderr.read().decode())


def test_the_command_serve(tmp_path: Path, evidence: Evidence) -> None:
    add_picture(tmp_path / "photos/a.jpg")
    with subprocess.Popen(
        [sys.executable, "-m", "datago_gpu.cli", "serve", str(tmp_path / "photos"), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "DATAROOM_API_KEY": KEY},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        first = process.stdout.readline()
        evidence.add(first, repr(psutil.Process(process.pid).cmdline()))
        port = int(first.rpartition(":")[2].partition("/")[0])
        for end in ("\r\n\r\n", "\x00\r\n\r\n", "\r\nX\r\n\r\n", "0\r\n\r\n", f" {KEY}\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as connection:
                head = "GET /api/images/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: "
                connection.sendall(f"{head}{TOKEN}{end}".encode())
                while block := connection.recv(1 << 16):
                    evidence.add(block.decode())
        process.terminate()
        evidence.add(process.stdout.read())


def test_what_is_sent_to_the_feeder_does_not_show_itself() -> None:
    start = Start(msgspec.json.encode(settings("http://h/api/")), Resume())
    assert KEY.encode() in start.config
    for text in (repr(start), str(start), pretty_repr(start)):
        assert PART not in text


UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def test_nothing_is_unpickled() -> None:
    """Neither by name nor through numpy or torch."""
    root = Path(datago_gpu.__file__).parent
    folders = ("benchmarks", "tools", "tests/long")
    files = [file for folder in (root, *folders) for file in (root.parent / folder).rglob("*.py")]
    assert len(files) > 50
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                assert not {name.partition(".")[0] for name in names} & UNSAFE, file
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
                assert ("allow_pickle", "False") in {(key.arg, ast.unparse(key.value)) for key in node.keywords}, file
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert ("weights_only", "True") in {(key.arg, ast.unparse(key.value)) for key in node.keywords}, file
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("eval", "exec"), file
