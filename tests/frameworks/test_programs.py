"""The programs of docs/frameworks.md, killed and started again, see what a run without a stop would have seen."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from datago_gpu import Loader, LoaderConfig
from datago_gpu.index.build import build_index
from datago_gpu.loader.flat import FLAT_NAMES
from datago_gpu.loader.planning import Planner
from tests.frameworks.pictures import COUNT, add_numbered, red_of
from tests.frameworks.programs import HEADINGS, PAGE, jobs_in
from tests.support.images import file_config
from tests.support.needs import needs_installed

KILLED_AT, SAVED_AT = 7, 4
Batches = list[list[int]]


class Results:
    """What the ranks of all jobs have had."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def seen(self, job: str, rank: int) -> Batches:
        """Returns the pictures of each batch that a rank has trained on, sorted."""
        self.raised(job, rank)
        file = self._of(job, rank, "jsonl")
        return [sorted(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []

    def noted(self, job: str, rank: int = 0) -> Any:
        self.raised(job, rank)
        return json.loads(self._of(job, rank, "json").read_text())

    def raised(self, job: str, rank: int) -> None:
        """Fails if a rank has raised, unless it was to be killed: then the other rank may miss it."""
        file = self._of(job, rank, "error")
        if file.exists() and not job.endswith("-killed"):
            pytest.fail(file.read_text(), pytrace=False)

    def _of(self, job: str, rank: int, ending: str) -> Path:
        return self._folder / job.removesuffix("-killed").removesuffix("-resumed") / f"{job}-{rank}.{ending}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three buckets, and their index."""
    folder = tmp_path_factory.mktemp("frameworks")
    add_numbered(folder / "photos")
    build_index(file_config(folder / "photos"), folder / "index.arrow", readers=0)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    """Runs all jobs, in processes that share the imports of the frameworks."""
    needs_installed("torch", "lightning", "accelerate", "transformers")
    jobs = folder / "jobs.json"
    jobs.write_text(json.dumps(jobs_in(folder)))
    command = [sys.executable, "-m", "tests.frameworks.ranks", str(jobs)]
    done = subprocess.run(
        command,
        cwd=PAGE.parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    (folder / "said.txt").write_text(done.stdout)
    return Results(folder)


def planned(folder: Path, ranks: int) -> list[list[Batches]]:
    """Returns the pictures of each batch of two passes in lockstep, for each rank."""
    source = {"path": str(folder / "index.arrow"), "random_sampling": True, "rank": 0, "world_size": ranks}
    config = msgspec.to_builtins(file_config(folder / "photos", batch_size=2))
    planner = Planner(LoaderConfig.load(config | {"source_type": "table", "source_config": source, "lockstep": True}))
    plans = [planner.plan(epoch) for epoch in range(2)]
    return [[[sorted(step[rank::ranks].tolist()) for step in plan.rows] for plan in plans] for rank in range(ranks)]


@pytest.fixture(scope="module")
def of_plan(folder: Path) -> list[list[Batches]]:
    """Two passes of each of two ranks."""
    return planned(folder, 2)


@pytest.fixture(scope="module")
def in_order(folder: Path) -> list[Batches]:
    """Two passes of one rank."""
    return planned(folder, 1)[0]


@pytest.fixture(scope="module")
def of_stream(folder: Path) -> list[Batches]:
    """The pictures of each batch of three passes without lockstep, for each of two ranks."""
    streams = []
    for rank in range(2):
        source = {"random_sampling": True, "rank": rank, "world_size": 2}
        config = file_config(folder / "photos", source=source, batch_size=2, epochs=3, decode_config={"processes": 0})
        with Loader(config, device="cpu") as loader:
            streams.append([sorted(int(name[:2]) for name in batch.ids) for batch in loader])
    return streams


def pictures_of(nested: Any) -> set[int]:
    """Returns the numbers that are in lists, however deep."""
    return {nested} if isinstance(nested, int) else set().union(*map(pictures_of, nested))


def check(results: Results, name: str, plain: list[Batches], saved_at: int = SAVED_AT) -> None:
    """Compares the killed and the resumed run of each rank with a plain run."""
    for rank, batches in enumerate(plain):
        assert results.seen(f"{name}-killed", rank) == batches[: KILLED_AT - 1]
        assert results.seen(f"{name}-resumed", rank) == batches[saved_at:]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "saved_at"), [("lightning", SAVED_AT), ("huggingface", 6)])
def test_it_goes_on_in_lockstep(results: Results, of_plan: list[list[Batches]], name: str, saved_at: int) -> None:
    """The second one accumulates gradients over three batches, and evaluates in between."""
    plain = [[batch for batches in rank for batch in batches] for rank in of_plan]
    assert len(of_plan[0][0]) == len(of_plan[1][0]) > KILLED_AT
    assert pictures_of(rank[0] for rank in of_plan) == set(range(COUNT))
    check(results, name, plain, saved_at)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "steps"), [("lightning-stream", 15), ("huggingface-stream", 12), ("accelerate", 10), ("torchtitan", 10)]
)
def test_it_goes_on_in_a_stream_without_end(results: Results, of_stream: list[Batches], name: str, steps: int) -> None:
    assert min(map(len, of_stream)) >= steps
    check(results, name, [batches[:steps] for batches in of_stream])


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "saved_at"), [("lightning-ahead", 4), ("lightning-at-end", 5)])
def test_what_lightning_has_taken_ahead_comes_again(results: Results, folder: Path, name: str, saved_at: int) -> None:
    """The second checkpoint is saved after the last batch of a pass."""
    config = file_config(folder / "photos", source={"random_sampling": True}, batch_size=8, epochs=2)
    with Loader(config, device="cpu") as loader:
        passes = [(batch.epoch, sorted(int(name[:2]) for name in batch.ids)) for batch in loader]
    assert [epoch for epoch, _ in passes] == [0] * 5 + [1] * 5
    check(results, name, [[numbers for _, numbers in passes]], saved_at)


@pytest.mark.timeout(600)
def test_a_checkpoint_of_two_ranks_is_loaded_by_one(results: Results, of_plan: list[list[Batches]]) -> None:
    for rank in range(2):
        assert results.seen("dcp-killed", rank) == of_plan[rank][0][: KILLED_AT - 1]
    rest = pictures_of(rank[0][SAVED_AT:] for rank in of_plan)
    assert pictures_of(results.seen("dcp-resumed", 0)) == rest


@pytest.mark.timeout(600)
def test_a_trainer_of_transformers_evaluates(results: Results, of_plan: list[list[Batches]]) -> None:
    """The loss and the counts are those of all ranks, of the first pass each time."""
    numbers = [number for rank in of_plan for batch in rank[0] for number in batch]
    for rank in range(2):
        found = [each for each in results.noted("huggingface-resumed", rank) if "eval_loss" in each]
        assert [each["step"] for each in found] == [4, 6]
        for each in found:
            assert each["eval_loss"] == pytest.approx(red_of(sum(numbers) / len(numbers)))
            assert each["eval_samples_per_second"] * each["eval_runtime"] == pytest.approx(len(numbers), rel=0.05)


@pytest.mark.timeout(600)
def test_lightning_has_its_limits_tests_and_predictions(results: Results, in_order: list[Batches]) -> None:
    """The files are in the order of the table."""
    noted = results.noted("limits")
    found, first = noted["found"], in_order[0]
    validated = [[0, first[0]], [1, first[0]]]  # in two data sets, before the training and after it
    assert found["share"] == [*validated, *first[: int(0.3 * len(first))], *validated]
    assert found["overfit"] == 2 * first[:2]
    assert found["test"] == [[0, batch] for batch in first[:2]]
    assert pictures_of(found["predict"]) == set(range(COUNT))
    for name in ("limit_train_batches", "overfit_batches", "limit_val_batches"):
        assert re.match(rf"{name} is 0\.\d, a share of a length that is not known: .*lockstep", noted["said"][name])
    assert "no end, since epochs is None: leave epochs out" in noted["said"]["no end"]


@pytest.mark.timeout(600)
def test_the_older_package_of_lightning_trains_resumes_and_logs(results: Results, in_order: list[Batches]) -> None:
    noted = results.noted("older-package")
    assert noted["found"] == {"whole": in_order[0], "resumed": in_order[0][5:]}
    assert noted["logged"] == [[5, 10], [10, 10]]
    assert "import pytorch_lightning before datago_gpu.lightning" in noted["said"]["the newer one was imported"]


@pytest.mark.timeout(600)
def test_the_metrics_of_each_rank_name_it(results: Results, of_stream: list[Batches]) -> None:
    for rank in range(2):
        noted = results.noted("accelerate-resumed", rank)
        assert noted["ranks"] == 2 * [[str(rank)]]
        assert noted["samples"] == 2 * [sum(map(len, of_stream[rank][SAVED_AT:10]))]


@pytest.mark.timeout(600)
def test_nothing_is_compiled_after_all_shapes_are(results: Results) -> None:
    noted = results.noted("compiled")
    assert len(noted["shapes"]) == 3
    assert set(noted["counts"]) == {3}
    assert len(noted["counts"]) > 3


@pytest.mark.timeout(600)
def test_what_would_be_wrong_is_refused(results: Results) -> None:
    for rank in range(2):
        said = results.noted("refused", rank)
        for name in ("accelerate None", "accelerate False"):
            assert re.search(rf"here {rank} of 2.*Pass the LoaderDataset itself to accelerator.prepare", said[name])
        assert "set lockstep to true in the config; or epochs to None, and max_steps" in said["trainer"]
        assert "set lockstep to true in the config of the evaluation" in said["evaluation"]
        assert f"nowhere/datago_{rank}.json does not exist" in said["no position"]
        assert "resume from an earlier checkpoint" in said["cut position"]
        assert "not the state of a DataModule" in said["other state"]
        assert "2 ranks may have different numbers of batches" in said["lightning"]
        assert "DataModule(val=config)" in said["validation"]
        assert "trains in 1 process(es), but by torch.distributed there are 2" in said["alone"]
        assert "leave taken_ahead out" in said["taken ahead"]


@pytest.mark.timeout(600)
def test_callbacks_log_the_statistics_of_the_last_steps(results: Results) -> None:
    noted = results.noted("callbacks")
    names = {f"data/{name}" for name in FLAT_NAMES if "STAGE" not in name and "REASON" not in name}
    # Since the start, then since the log before, over the end of a pass. Lightning looks one batch ahead.
    for trainer, samples in (("lightning", [16, 12]), ("transformers", [12, 12])):
        logged = [(step, values) for step, values in noted[trainer] if "data/samples" in values]
        assert [step for step, _ in logged] == [3, 6]
        assert [values["data/samples"] for _, values in logged] == samples
        assert all(names - {"data/epoch_eta_seconds"} <= values.keys() for _, values in logged)
    assert noted["refused"] == "every_n_steps must be at least 1, got 0"


@pytest.mark.timeout(600)
def test_a_trainer_of_lightning_that_trains_on_begins_with_its_next_pass(results: Results) -> None:
    epochs = results.noted("callbacks")["epochs"]
    assert epochs == sorted(epochs)
    assert set(epochs) == {0, 1}


def test_the_page_has_a_section_for_each_framework_and_its_links_lead_somewhere() -> None:
    text = PAGE.read_text()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        page, _, heading = link.partition("#")
        target = (PAGE.parent / page).read_text() if page else text
        titles = re.findall(r"^#+ (.*)$", target, re.MULTILINE)
        assert not heading or heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    assert {"Lightning", "accelerate", "Hugging Face Trainer", "torchtitan", "torch.compile"} < set(HEADINGS)
