"""What `datago-gpu doctor` finds, on this machine and in made-up ones, and that it ends and keeps the key."""

from __future__ import annotations

import json
import resource
import tarfile
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datago_gpu.config import DecodeConfig, LoaderConfig
from datago_gpu.decoders.select import choose
from datago_gpu.doctor import Check, machine, source_trial
from datago_gpu.doctor.back_ends import hardware_decoder
from datago_gpu.doctor.check import run_within
from datago_gpu.doctor.memory import MemorySum
from datago_gpu.server import DataroomServer
from tests.support.commands import run_command
from tests.support.images import add_picture, add_pictures
from tests.support.servers import Answer, MisbehavingServer, json_answer

MACHINE = ["python", "packages", "uvloop", "libjpeg-turbo", "image packages", "CPUs", "ranks", "memory",
           "shared memory", "memory lock", "open files"]  # fmt: skip
GiB = 2**30
NEEDED = MemorySum(trainer={"Python": GiB // 2}, feeder={"Python": GiB // 2}, downloading={}, shared={})


command = partial(
    run_command, "doctor", "--timeout", "50"
)  # on a busy machine, decoding an image takes longer than 20 s


def of_source(config: dict[str, Any], timeout_s: float = 20) -> dict[str, Check]:
    """By name."""
    checks = source_trial.checks(LoaderConfig.load(config), "cpu", "pillow", timeout_s)
    return {check.name: check for check in checks}


def states(checks: dict[str, Check]) -> dict[str, str]:
    return {name: check.state for name, check in checks.items()}


def test_every_check_is_one_line_and_this_machine_does() -> None:
    result = command("--device", "cpu")
    lines = result.stdout.splitlines()
    assert result.returncode == 0, result.stdout + result.stderr
    assert lines[-1].startswith("0 failed")
    assert all(line.split()[0] in ("ok", "-", "warn") for line in lines[:-1])
    assert "Traceback" not in result.stderr


def test_json_holds_the_same() -> None:
    result = command("--json", "--device", "cpu")
    found = json.loads(result.stdout)
    names = [check["name"] for check in found["checks"]]
    assert found["ok"] is True
    assert names[: len(MACHINE)] == MACHINE
    assert "decoding (pillow)" in names
    assert "decoding (dali)" in names
    assert all(check["remedy"] for check in found["checks"] if check["state"] in ("warn", "fail"))


def test_no_gpu_is_a_failure_only_where_one_is_asked_for() -> None:
    if choose().device_id is not None:
        pytest.skip("there is a GPU")
    result = command("--device", "cuda")
    assert result.returncode == 1
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert any("GPU" in line and " -> " in line for line in failed)


@pytest.mark.parametrize("arguments", [["/no/such/config.json"], ["--device", "tpu"], ["--backend", "x"]])
def test_a_usage_error_is_exit_code_2(arguments: list[str]) -> None:
    result = command(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_a_library_that_does_not_load_is_named(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('no such symbol: dot')")
    result = command("--device", "cpu", PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert any("decoding (pillow)" in line and "no such symbol: dot" in line for line in failed)


def test_a_package_that_makes_decoding_faster_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "cykooz_resizer.py").write_text("raise ImportError('no wheel here')")
    result = command("--device", "cpu", PYTHONPATH=str(tmp_path))
    assert result.returncode == 0, result.stdout
    (line,) = [line for line in result.stdout.splitlines() if "image packages" in line]
    assert line.startswith("warn")
    assert "cykooz-resizer is missing (no wheel here): Pillow resizes instead" in line
    assert "pip install cykooz-resizer" in line


def test_a_folder_is_counted_and_decoded(tmp_path: Path) -> None:
    add_pictures(tmp_path / "a" / "b", [(40, 40)] * 3)
    (tmp_path / "a" / "b" / "notes.txt").write_text("none")
    found = of_source({"source_type": "file", "source_config": {"root_path": str(tmp_path / "a")}})
    assert states(found) == dict.fromkeys(["source", "first sample", "first batch"], "ok")
    assert "3 images" in found["source"].found
    assert "40 x 40" in found["first sample"].found
    assert "3 samples" in found["first batch"].found


def test_classes_and_captions_of_a_folder_are_counted(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        add_pictures(tmp_path / name, [(40, 40)] * 2)
    (tmp_path / "cat" / "0000.txt").write_text("a cat")
    source = {"root_path": str(tmp_path), "labels": "folder", "captions": "txt"}
    found = of_source({"source_type": "file", "source_config": source})
    assert "4 images in 2 folders and 2 classes, 1 with captions, below" in found["source"].found


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"source_type": "file", "source_config": {"root_path": "/no/such/folder"}}, "/no/such/folder"),
        ({"source_type": "file", "source_config": {"root_path": "/proc/self/fdinfo"}}, "no images"),
        ({"source_config": {}}, "DATAROOM_API_URL"),
        ({"source_config": {"api_url": "http://127.0.0.1:1/api/"}}, "127.0.0.1"),
        ({"source_type": "webdataset", "source_config": {"url": "/no/such/{0..3}.tar"}}, "/no/such"),
    ],
)
def test_a_source_that_is_not_there(config: dict[str, Any], words: str) -> None:
    found = of_source(config, timeout_s=8)
    assert states(found) == {"source": "fail"}
    assert words in found["source"].found
    assert found["source"].remedy


def test_settings_that_cannot_work_are_a_failure(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"source_type": "file", "source_config": {"root_path": "x"}, "batchsize": 3}))
    result = command(str(config), "--device", "cpu")
    assert result.returncode == 1
    assert "did you mean batch_size?" in result.stdout.splitlines()[-2]


def test_pictures_that_do_not_decode_are_a_failure(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"<html>")
    found = of_source({"source_type": "file", "source_config": {"root_path": str(tmp_path)}})
    assert states(found) == {"source": "ok", "first sample": "fail"}


def test_a_shard_is_opened(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a-0.tar", "w") as shard:
        shard.add(add_picture(tmp_path / "x" / "one.png"), "one.png")
    config = {"source_type": "webdataset", "source_config": {"url": str(tmp_path / "a-{0..0}.tar")}}
    found = of_source(config)
    assert set(states(found).values()) == {"ok"}
    assert "'one'" in found["source"].found


def test_a_dataroom_its_count_and_its_key(tmp_path: Path) -> None:
    add_pictures(tmp_path / "a", [(40, 40)] * 3)
    with DataroomServer(tmp_path / "a") as server:
        given = {"api_url": server.url, "api_key": server.key}
        found = of_source({"source_config": given})
        refused = of_source({"source_config": {**given, "api_key": "ab" * 20}})
        missing = of_source({"source_config": {"api_url": server.url}})
        filtered = of_source({"source_config": {**given, "min_short_edge": 41}})
        wrong = of_source({"source_config": {**given, "tags": "nobody"}})
    assert set(states(found).values()) == {"ok"}
    assert "3 images pass the filters" in found["source"].found
    for bad in (refused, missing):
        assert states(bad) == {"source": "ok", "API key": "fail"}
    assert "is set" in missing["API key"].found
    assert "ab" * 20 not in str(refused["API key"])
    assert states(filtered) == {"source": "fail", "API key": "ok"}
    assert "filters" in wrong["source"].remedy


def test_the_key_is_not_shown(tmp_path: Path) -> None:
    """Not even where the server says it, nor in the address."""
    key = "5ec2e7" * 6 + "5ec2"
    config = tmp_path / "config.json"
    with MisbehavingServer() as server:
        server.script("/api/images/", Answer(403, json.dumps({"detail": f"Token {key} is not known"}).encode()))
        config.write_text(json.dumps({"source_config": {"api_url": f"{server.url}/api/", "api_key": key}}))
        result = command(str(config), "--device", "cpu", "--timeout", "5")
        found = of_source({"source_config": {"api_url": f"{server.url}/api/?key={key}", "api_key": key}})
    assert result.returncode == 1
    assert "*** is not known" in result.stdout
    assert key[:12] not in result.stdout + result.stderr
    assert states(found) == {"source": "fail"}
    assert key[:12] not in str(found["source"])


def test_rows_of_a_program_are_left_to_the_program() -> None:
    config = LoaderConfig.load({"source_type": "rows", "source_config": {}})
    (check,) = source_trial.checks(config, "cpu", "auto", 1.0)
    assert (check.name, check.state) == ("source", "none")


def test_a_silent_server_is_not_waited_for(tmp_path: Path) -> None:
    with MisbehavingServer() as server:
        server.script("/api/images/", Answer(silent=True))
        found = of_source({"source_config": {"api_url": f"{server.url}/api/"}}, timeout_s=2)
        assert server.closed_by_client.wait(10)
    assert states(found) == {"source": "fail"}


def test_a_batch_that_takes_too_long_is_a_warning() -> None:
    with MisbehavingServer() as server:
        entries = [{"id": "a", "image_direct_url": f"{server.url}/a.jpg"}]
        server.route("/api/images/", lambda request: json_answer({"results": entries, "next": None}))
        server.route("/api/images/count/", lambda request: json_answer({"count": 1}))
        server.script("/a.jpg", Answer(silent=True))
        config = LoaderConfig.load({"source_config": {"api_url": f"{server.url}/api/"}})
        check = source_trial._time_first_batch("first batch", config, "cpu", "pillow", 1.0)
    assert check.state == "warn"
    assert "0 samples were loaded" in check.found
    assert "--timeout" in check.remedy


def test_work_that_hangs_is_left_behind() -> None:
    gate = threading.Event()
    with pytest.raises(TimeoutError):
        run_within(0.05, gate.wait)
    gate.set()
    assert run_within(5, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        run_within(5, lambda: 1 // 0)


@pytest.mark.parametrize(
    ("check", "state"),
    [
        (machine.open_files((20000, 20000), 64), "ok"),
        (machine.open_files((resource.RLIM_INFINITY,) * 2, 64), "ok"),
        (machine.open_files((128, 4096), 64), "warn"),
        (machine.open_files((1024, 1024), 4000), "fail"),
        (machine.memory_lock(resource.RLIM_INFINITY, on_gpu=True), "ok"),
        (machine.memory_lock(8 << 20, on_gpu=True), "warn"),
        (machine.memory_lock(8 << 20, on_gpu=False), "ok"),
        (machine.memory(NEEDED, None, Path("/proc/meminfo/none")), "ok"),
        (machine.memory(NEEDED, GiB, Path("/proc/meminfo/none")), "warn"),
        (machine.cpus(DecodeConfig(threads=1024), None), "warn"),
        (machine.cpus(DecodeConfig(), 0.5), "warn"),
        (hardware_decoder("[DEBUG] HW decoder available num_hw_engines=8"), "ok"),
        (hardware_decoder("HW decoder not supported by this platform. Skip."), "warn"),
        (hardware_decoder(""), "warn"),
    ],
)
def test_limits_are_judged(check: Check, state: str) -> None:
    assert check.state == state
    assert bool(check.remedy) == (state != "ok")


def test_limits_of_control_groups_are_found(tmp_path: Path) -> None:
    """Of both versions; a group around this one may allow less."""
    new, old = tmp_path / "new", tmp_path / "old"
    (new / "jobs/7").mkdir(parents=True)
    (new / "jobs/memory.max").write_text("1000\n")
    (new / "jobs/7/memory.max").write_text("max\n")
    (new / "jobs/7/cpu.max").write_text("150000 100000\n")
    (tmp_path / "membership").write_text("0::/jobs/7\n")
    groups = machine.control_groups(tmp_path / "membership", new)
    assert machine.memory_limit(groups) == 1000
    assert machine.cpu_quota(groups) == 1.5
    (old / "memory/docker/x").mkdir(parents=True)
    (old / "cpu").mkdir()
    (old / "memory/docker/x/memory.limit_in_bytes").write_text("5000\n")
    (old / "memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    (old / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    (old / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "membership").write_text("4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n")
    groups = machine.control_groups(tmp_path / "membership", old)
    assert machine.memory_limit(groups) == 5000
    assert machine.cpu_quota(groups) is None
    assert machine.memory_limit([tmp_path / "nowhere"]) is None


@given(st.text(), st.text(), st.text())
def test_a_check_is_always_one_line(name: str, found: str, remedy: str) -> None:
    assert len(str(Check.fail(name, found, remedy)).splitlines()) <= 1


def test_pillow_is_the_one_of_the_tests() -> None:
    assert Image.__version__ in machine.jpeg().found
