"""Ranks in processes of their own that wait for each other at every step, with bad images on one rank only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datago_gpu import LoaderConfig
from datago_gpu.loader.given_rows import given_rows
from datago_gpu.loader.planning import Planner
from datago_gpu.plan.global_batches import GlobalBatches
from datago_gpu.row import Row
from datago_gpu.server import DataroomServer
from tests.support.images import SHAPES, add_pictures
from tests.support.needs import needs

COUNT = 60
EPOCHS = 3
BAD = range(7, COUNT, 20)
"""5% of the pictures are bad, for the last rank."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same pictures twice; in the second folder some are bad."""
    good, bad = tmp_path_factory.mktemp("good"), tmp_path_factory.mktemp("others") / "bad"
    add_pictures(good, [SHAPES[number * number % 3] for number in range(COUNT)])
    shutil.copytree(good, bad)
    for number in BAD:
        (bad / f"{number:04}.jpg").write_bytes(b"no image")
    return good, bad


def settings(rank: int, world_size: int, batch_size: int, **more: Any) -> dict[str, Any]:
    return {
        "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16},
        "decode_config": {"processes": 0},
        "arena_mb": 4,
        "http_config": {"max_payload_mb": 1},
        "lockstep": True,
        "batch_size": batch_size,
        "source_config": {"rank": rank, "world_size": world_size, "random_sampling": True, **more.pop("source", {})},
        **more,
    }


def rows_in(folder: Path) -> list[tuple[str, str, int, int]]:
    shapes = [SHAPES[number * number % 3] for number in range(COUNT)]
    return [(f"{at:04}", str(folder / f"{at:04}.jpg"), width, height) for at, (height, width) in enumerate(shapes)]


Job = tuple[list[dict[str, Any]], int]
"""The settings of each rank, and the number of epochs."""


def run_jobs(jobs: list[Job], folder: Path) -> list[list[dict[str, Any]]]:
    script = Path(__file__).with_name("lockstep_ranks.py")
    own = {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), str(folder), json.dumps(jobs)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, **own},
    )
    assert done.returncode == 0, done.stderr
    found: list[list[dict[str, Any]]] = json.loads(done.stdout)
    return found


def check(ranks: list[dict[str, Any]], plans: list[GlobalBatches]) -> None:
    """Compares what the ranks have had with the plan of each epoch. Row n has the id of NAMES[n]."""
    world_size, bad = len(ranks), {f"{number:04}" for number in BAD}
    assert all((rank["epoch"], rank["taken"]) == (len(plans), []) for rank in ranks)
    skips = 0
    for epoch, plan in enumerate(plans):
        seen = Counter[str]()
        assert [len(rank["seen"][epoch]) for rank in ranks] == [len(plan)] * world_size
        for step in range(len(plan)):
            for number, rank in enumerate(ranks):
                bucket, ids, real = rank["seen"][epoch][step]
                wanted = [NAMES[row] for row in plan.rows[step, number::world_size]]
                counts = plan.real[step, number::world_size].tolist()
                lost = bad if number == world_size - 1 else set()
                assert bucket == plan.buckets[step].tolist()
                assert real == [was and name not in lost for name, was in zip(wanted, counts, strict=True)]
                assert all(got == name for got, name, was in zip(ids, wanted, real, strict=True) if was)
                seen.update(name for name, was in zip(ids, real, strict=True) if was)
                skips += sum(was and name in lost for name, was in zip(wanted, counts, strict=True))
        assert max(seen.values()) == 1
        assert set(NAMES) - set(seen) <= bad
    assert sum(rank["skipped"] for rank in ranks) == skips > 0


NAMES = [f"{number:04}" for number in range(COUNT)]


def of_table(folders: tuple[Path, Path], table: Path) -> tuple[Job, Planner]:
    """Four ranks over a table of relative paths, which the last rank finds in another folder."""
    lines = [f"{at:04},{at:04}.jpg,{width},{height}" for at, (_, _, width, height) in enumerate(rows_in(folders[0]))]
    table.write_text("\n".join(["id,path,width,height", *lines]))
    configs = [
        settings(rank, 4, 3, source_type="table", source={"path": str(table), "root": str(root)})
        for rank, root in enumerate([folders[0]] * 3 + [folders[1]])
    ]
    return (configs, EPOCHS), Planner(LoaderConfig.load(configs[0]))


def of_mix(folders: tuple[Path, Path], table: Path) -> tuple[Job, Planner]:
    """Two ranks over a mix of two tables, each of whose rows comes once: the first has rows 0 to 39."""
    configs = []
    for rank, root in enumerate(folders):
        sources = []
        for name, numbers in {"first": range(40), "second": range(40, COUNT)}.items():
            lines = [f"{at:04},{at:04}.jpg,{width},{height}" for at, (_, _, width, height) in enumerate(rows_in(root))]
            path = table.with_name(f"{name}.csv")
            path.write_text("\n".join(["id,path,width,height", *(lines[at] for at in numbers)]))
            config = {"path": str(path), "root": str(root), "random_sampling": True}
            sources.append({"name": name, "source_type": "table", "repeat": 1, "source_config": config})
        config = settings(rank, 2, 4, source_type="mix", source={"sources": sources})
        del config["source_config"]["random_sampling"]
        configs.append(config)
    return (configs, 2), Planner(LoaderConfig.load(configs[0]))


def of_own_rows(folders: tuple[Path, Path]) -> tuple[Job, Planner]:
    """Two ranks over a list of rows."""
    configs, sources = [settings(rank, 2, 5) for rank in range(2)], [rows_in(folder) for folder in folders]
    rows = given_rows([Row(id_, path, width=width, height=height) for id_, path, width, height in sources[0]])
    planner = Planner(LoaderConfig.load_for_rows(configs[0]), rows)
    return ([{**config, "rows": own} for config, own in zip(configs, sources, strict=True)], 1), planner


def of_dataroom(servers: tuple[DataroomServer, DataroomServer]) -> tuple[Job, Planner]:
    """Two ranks over a Dataroom each, which list the same pictures."""
    configs = [
        settings(rank, 2, 5, source_type="db", source={
            "api_url": server.url, "api_key": server.key, "random_sampling": False
        })
        for rank, server in enumerate(servers)
    ]  # fmt: skip
    return (configs, 1), Planner(LoaderConfig.load(configs[0]))


@pytest.mark.timeout(240)
def test_ranks_step_together_whatever_is_bad_on_one_of_them(folders: tuple[Path, Path], tmp_path: Path) -> None:
    needs("datago_gpu.torch")
    changed = tmp_path / "changed"
    shutil.copytree(folders[0], changed)
    with (
        DataroomServer(folders[0], watch_interval_s=None) as good,
        DataroomServer(changed, watch_interval_s=None) as bad,
    ):
        for number in BAD:  # listed as before
            shutil.copy(folders[1] / f"{number:04}.jpg", changed)
        table = tmp_path / "rows.csv"
        runs = [of_table(folders, table), of_own_rows(folders), of_dataroom((good, bad)), of_mix(folders, table)]
        (tmp_path / "jobs").mkdir()
        found = run_jobs([job for job, _ in runs], tmp_path / "jobs")
        for ranks, ((_, epochs), planner) in zip(found, runs, strict=True):
            check(ranks, [planner.plan(epoch) for epoch in range(epochs)])
