"""The local socket, its text, and `datago-gpu top` at it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu import ConfigError, SourceError
from datago_gpu.cli.top import top
from datago_gpu.cli.top_source import _read_all, open_scrapes
from datago_gpu.loader.stats import Stage
from datago_gpu.metrics import listen, prometheus
from datago_gpu.metrics.catalog import METRICS, Metric
from datago_gpu.metrics.text_format import Line, parse_text, render_text
from datago_gpu.metrics.watched import Reading
from tests.metrics.fakes import FULL, Fake, durations
from tests.support.needs import needs

LATER = replace(
    FULL,
    delivered=500,
    seconds=20.0,
    stages=tuple(Stage(stage.name, 500, 25.0, stage.waited_input, 0.1) for stage in FULL.stages),
    data_wait=durations(0.002, 0.002, 0.2, *[0.2] * 9),
    epoch_done=100,
)


class Running(Fake):
    """Goes on after the first look."""

    def stats(self) -> object:  # type: ignore[override]
        found, self.now = self.now, LATER
        return found


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "datago_gpu"


@given(st.lists(st.tuples(st.text(), st.floats(allow_nan=False)), max_size=4, unique_by=lambda each: each[0]))
def test_a_text_reads_as_it_was_written(values: list[tuple[str, float]]) -> None:
    metric = Metric("test", "gauge", "1", ("reason",), "A test.")
    written = render_text(Reading(metric, {"reason": name}, value) for name, value in values)
    assert list(parse_text(written)) == [
        Line("datago_gpu_test_ratio", {"reason": name}, value) for name, value in values
    ]


def test_the_socket_says_what_prometheus_says(tmp_path: Path) -> None:
    needs("prometheus_client")
    loader = Fake()
    with listen(loader, tmp_path / "here", name="train"), prometheus(loader, 0, name="train") as served:
        (local,) = open_scrapes(str(tmp_path / "here"))
        (remote,) = open_scrapes(f"127.0.0.1:{served.port}")
        texts = [sorted((line.name, sorted(line.labels.items()), line.value) for line in each().lines)
                 for each in (local, remote)]  # fmt: skip
    assert texts[0] == texts[1]
    assert len(texts[0]) > len(METRICS)
    assert not (tmp_path / "here").exists()


def test_loaders_of_a_process_share_a_socket_in_a_folder_of_the_user(runtime: Path) -> None:
    with listen(first := Fake(), name="train") as train, listen(second := Fake(), name="val"):
        assert train.path == str(runtime / f"{os.getpid()}.sock")
        assert runtime.stat().st_mode & 0o077 == 0
        (scrape,) = open_scrapes("")
        assert {line.labels["name"] for line in scrape().lines} == {"train", "val"}
    assert not list(runtime.iterdir())
    assert first.stats() == second.stats()


def test_a_socket_that_was_left_behind_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    dead = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(dead))
    with pytest.raises(SourceError, match="no metrics at the socket"):
        open_scrapes(str(dead))[0]()
    loader = Fake()
    with listen(loader, dead):
        assert open_scrapes(str(dead))[0]().lines
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ConfigError, match="cannot be made"):
        listen(Fake(), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_folder_of_another_user_is_refused(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ConfigError, match="belongs to another user"):
        listen(Fake())


def test_top_prints_what_happened_between_two_looks(tmp_path: Path) -> None:
    with listen(loader := Running(), tmp_path / "here", name="train"):
        done = CliRunner().invoke(top, [str(tmp_path / "here"), "--once", "--interval", "0.1"])
    assert loader.now is LATER
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].startswith("train, rank 3: ")
    (trainer,) = [line for line in lines if " trainer" in line]
    assert "2 batches, 25% full" in trainer
    (waits,) = [line for line in lines if line.startswith("data wait")]
    assert "p50 175 ms" in waits
    assert any(line.startswith("epoch 1: 50%") for line in lines)
    assert any("skipped: 4" in line for line in lines)


def test_top_prints_plainly_where_the_output_is_no_terminal(runtime: Path) -> None:
    loader = Fake()
    with listen(loader, name="train"):
        done = CliRunner().invoke(top, ["--interval", "0.1"])
    assert (done.exit_code, "\x1b" in done.output, "train, rank 3" in done.output) == (0, False, True)


@pytest.mark.usefixtures("runtime")
def test_top_says_what_it_needs() -> None:
    for where, words in (("", "no loader listens in"), ("nonsense", "is neither HOST:PORT"), (":1", "no metrics at")):
        done = CliRunner().invoke(top, [where, "--once"])
        assert words in str(done.exception)


@contextmanager
def silent_server() -> Iterator[str]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(b"no http\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def test_a_server_that_is_none_of_ours_is_an_error_of_ours() -> None:
    with silent_server() as where, pytest.raises(SourceError, match="no metrics at http://127"):
        open_scrapes(where)[0]()


def test_a_fork_neither_ends_the_server_nor_takes_its_place(tmp_path: Path) -> None:
    needs("prometheus_client")
    path, port = tmp_path / "here", 0
    loader, of_fork = Fake(), Fake()
    with listen(loader, path) as local, prometheus(loader, port) as served:
        child = os.fork()
        if not child:
            local.close()
            refused = 0
            for register in (lambda: listen(of_fork, path), lambda: prometheus(of_fork, served.port)):
                try:
                    register()
                except ConfigError:
                    refused += 1
            os._exit(refused)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
        assert open_scrapes(str(path))[0]().lines


def test_no_name_and_no_loader_ends_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loader, path = Fake(replace(FULL, source="\udc80")), tmp_path / "here"
    with pytest.raises(ConfigError, match="name must be a text, got 5"):
        listen(loader, "here", name=5)  # type: ignore[arg-type]
    before = os.umask(0)
    with listen(loader, "here", name="\udc80"):
        os.umask(before)
        assert path.stat().st_mode & 0o777 == 0o600
        monkeypatch.chdir("/")
        assert {line.labels["name"] for line in open_scrapes(str(path))[0]().lines} == {"?"}
        with monkeypatch.context() as patch:
            patch.setattr(loader, "stats", lambda: 1 / 0)
            assert not open_scrapes(str(path))[0]().lines
        assert open_scrapes(str(path))[0]().lines
    assert not path.exists()


def test_top_draws_whatever_a_server_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'foo bar\ndatago_gpu_samples_total{name="[/x]\x1b[2J"} NaN\n'
    text += "".join(f"datago_gpu_data_wait_seconds_bucket{{{label}}} 5\n" for label in ("", 'le="zz"'))
    monkeypatch.setattr("datago_gpu.metrics.local_socket.render_text", lambda _: text)
    loader = Fake()
    with listen(loader, tmp_path / "here"):
        done = CliRunner().invoke(top, [str(tmp_path / "here"), "--once", "--interval", "0.1"])
    assert done.exit_code == 0, done.exception
    assert "[/x]?[2J" in done.output


def test_an_answer_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datago_gpu.cli.top_source.TIMEOUT_S", 0.0)
    with pytest.raises(TimeoutError, match="longer than"):
        _read_all(lambda _: b"x")
