"""What the processes of a run import, and when: that is most of the time to the first sample."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.images import add_pictures

HOOK = """
import os, sys

def note(event, arguments):
    if event == "import":
        line = arguments[0]
    elif event == "subprocess.Popen":
        line = "starts a process"
    else:
        return
    with open(os.path.join(os.environ["NOTES"], str(os.getpid())), "a") as file:
        file.write(line + "\\n")

sys.addaudithook(note)
"""
TRAINER = {
    "Loader": """
from datago_gpu import Loader
with Loader(CONFIG, device="cpu", backend="pillow") as loader:
    print(len(next(loader).ids), loader.feeder_pid)
""",
    "DatagoClient": """
import json
from datago_gpu.compat import DatagoClient
client = DatagoClient(json.dumps(CONFIG), device="cpu")
print(int(client.get_sample() is not None), client._stream._loader.feeder_pid)
client.stop()
""",
}
NEVER_IN_A_FEEDER_OF_FILES = {
    *("aiohttp", "obstore", "yarl", "rich", "click", "multiprocessing", "numpy", "PIL", "simplejpeg", "cykooz_resizer"),
    *(
        "torch",
        "cupy",
        "nvidia",
        "pyarrow",
        "braceexpand",
        "difflib",
        "datago_gpu.config.proxies",
        "datago_gpu.loader.loader",
        "datago_gpu.server",
    ),
}
NEVER_IN_A_TRAINER_WITHOUT_ROWS_AND_LOCKSTEP = {
    *("datago_gpu.loader.given_rows", "datago_gpu.loader.row_thread", "datago_gpu.loader.gray"),
    *("datago_gpu.plan.of_rows", "datago_gpu.plan.stream_planner"),
}
ONLY_ONCE_THE_FEEDER_STARTS = {"numpy", "PIL", "simplejpeg", "cykooz_resizer", "asyncio", "aiohttp", "rich", "click"}


@pytest.mark.parametrize("kind", TRAINER)
def test_a_feeder_of_files_imports_little_and_starts_before_the_trainer_imports_much(kind: str, tmp_path: Path) -> None:
    """The two processes import at the same time then."""
    pictures, notes = tmp_path / "pictures", tmp_path / "notes"
    add_pictures(pictures, [(40, 40)] * 3)
    notes.mkdir()
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    config = {
        "source_type": "file",
        "source_config": {"root_path": str(pictures)},
        "limit": 3,
        "samples_buffer_size": 3,
        **({"batch_size": 1} if kind == "Loader" else {}),
    }
    script = TRAINER[kind].replace("CONFIG", repr(config))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NOTES": str(notes)}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True
    ) as trainer:
        output, _ = trainer.communicate(timeout=50)
    taken, feeder = map(int, output.split())
    assert (trainer.returncode, taken) == (0, 1)
    of_feeder = set((notes / str(feeder)).read_text().split("\n"))
    assert "datago_gpu.sources.listed_images" in of_feeder
    assert of_feeder & NEVER_IN_A_FEEDER_OF_FILES == set()
    of_trainer = (notes / str(trainer.pid)).read_text().split("\n")
    before = set(of_trainer[: of_trainer.index("starts a process")])
    assert "datago_gpu.feeder.spawn" in before
    assert before & ONLY_ONCE_THE_FEEDER_STARTS == set()
    assert set(of_trainer) & NEVER_IN_A_TRAINER_WITHOUT_ROWS_AND_LOCKSTEP == set()


def test_a_trainer_whose_decode_processes_decode_imports_no_pillow(tmp_path: Path) -> None:
    add_pictures(tmp_path, [(40, 40)] * 3)
    config = {"source_config": {"root_path": str(tmp_path)}, "source_type": "file", "decode_config": {"processes": 1}}
    script = f"""
import sys
from datago_gpu import Loader
with Loader({config!r}, device="cpu", backend="pillow") as loader:
    print(sum(len(batch) for batch in loader), loader.stats().decode_processes, "PIL" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout == "3 1 False\n"


def test_the_names_of_compat_are_imported_when_they_are_asked_for() -> None:
    script = """
import sys
from datago_gpu import compat
print(sorted({"numpy", "PIL", "msgspec"} & set(sys.modules)), sorted(set(compat.__all__) - set(dir(compat))))
from datago_gpu.compat import *
from datago_gpu.compat import datago as first
print(DatagoClient.__name__, ImagePayload.__name__, first.GetClient.__name__)
print(compat.datago is first, hasattr(compat, "x"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[] []\nDatagoClient ImagePayload GetClient\nTrue False\n"


def test_rows_of_a_program_import_a_client_for_http_only_when_one_has_an_address() -> None:
    script = """
import asyncio, sys
from datago_gpu.config import LoaderConfig
from datago_gpu.feeder.payload_client import remote_of
from datago_gpu.sources.http.failure import HttpFailure

async def ask():
    async with remote_of(LoaderConfig.load_for_rows({"http_config": {"max_tries": 1}}), None, []) as remote:
        print("aiohttp" in sys.modules)
        answers = [remote.get("http://127.0.0.1:1/", 9) for _ in range(3)]
        print([type(answer).__name__ for answer in await asyncio.gather(*answers, return_exceptions=True)])
    print("aiohttp" in sys.modules)

asyncio.run(ask())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == f"False\n{['HttpFailure'] * 3}\nTrue\n"


def test_metrics_import_no_exporter_and_no_framework_before_one_is_used() -> None:
    script = """
import sys
import datago_gpu
print("datago_gpu.metrics" in sys.modules)
import datago_gpu.metrics
print(sorted({"prometheus_client", "opentelemetry", "torch", "lightning", "transformers", "rich"} & set(sys.modules)))
print(hasattr(datago_gpu.metrics, "nothing"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "False\n[]\nFalse\n"


def test_an_index_of_a_bucket_imports_no_client_for_http() -> None:
    script = """
import asyncio, sys
from datago_gpu.config import LoaderConfig
from datago_gpu.index.open_survey import open_survey

async def ask():
    source = {"root_path": "s3://photos/", "storage_options": {"region": "x"}}
    async with open_survey(LoaderConfig.load({"source_type": "file", "source_config": source}), 0) as survey:
        print(type(survey).__name__, "aiohttp" in sys.modules)

asyncio.run(ask())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "BucketSurvey False\n"
