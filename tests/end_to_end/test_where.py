"""`where` leaves out samples by what is known before their images are loaded, and counts them as filtered."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datago_gpu import ConfigError, Loader, LoaderConfig, Row, SourceError
from datago_gpu.server import DataroomServer
from tests.support.images import add_picture
from tests.support.indexes import make
from tests.support.shards import tar_bytes
from tests.support.tables import write_table

COUNT = 12
NAMES = [f"p{number:02}" for number in range(COUNT)]
WHERE = '(k >= 3 and k != 5 or name == "p01") and not k in (7, 8)'
PASSING = ["p01", "p03", "p04", "p06", "p09", "p10", "p11"]
FILTERED = COUNT - len(PASSING)
KINDS = ["db", "webdataset", "rows", "table", "index", "walk"]


class World:
    """The same pictures as every source. The attributes of each are its number `k` and its `name`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for number, name in enumerate(NAMES):
            add_picture(root / "files" / f"{name}.jpg", 40, 40 + number)
            sidecar = {"attributes": attributes(number), "tags": ["even"] if number % 2 == 0 else []}
            (root / "files" / f"{name}.json").write_text(json.dumps(sidecar))
        files = [(root / "files" / f"{name}.jpg").read_bytes() for name in NAMES]
        members = [
            member
            for number, name in enumerate(NAMES)
            for member in ((f"{name}.json", json.dumps(attributes(number)).encode()), (f"{name}.jpg", files[number]))
        ]
        (root / "shards.tar").write_bytes(tar_bytes(members))
        rows = [
            {"path": f"{name}.jpg", "id": name, "width": 40 + at, "height": 40, **attributes(at)}
            for at, name in enumerate(NAMES)
        ]
        write_table(root / "table.jsonl", rows)
        self.room = DataroomServer(root / "files", watch_interval_s=None)
        self.room.start()
        make(self.config("webdataset"), root / "index.arrow")

    def rows(self) -> list[Row]:
        return [
            Row(name, self.root / "files" / f"{name}.jpg", 40 + number, 40, attributes(number))
            for number, name in enumerate(NAMES)
        ]

    def config(self, kind: str, where: str = "", **more: Any) -> dict[str, Any]:
        source: dict[str, dict[str, Any]] = {
            "db": {"api_url": self.room.url, "api_key": self.room.key},
            "webdataset": {"url": str(self.root / "shards.tar")},
            "table": {"path": str(self.root / "table.jsonl"), "root": str(self.root / "files")},
            "index": {"path": str(self.root / "index.arrow")},
        }
        names = {"index": "table", "walk": "rows"}
        return {
            "source_type": names.get(kind, kind),
            "source_config": {**source.get(kind, {}), "where": where, **more.pop("source", {})},
            "image_config": {"crop_and_resize": True, "default_image_size": 32, "downsampling_ratio": 32},
            "decode_config": {"processes": 0},
            "batch_size": 4,
            **more,
        }

    def loader(self, kind: str, where: str = "", state: Any = None, **more: Any) -> Loader:
        source = {"rows": self.rows(), "walk": iter_rows(self.rows())}.get(kind)
        config = self.config(kind, where, **more)
        return Loader(config, device="cpu", backend="pillow", source=source, state=state)


def attributes(number: int) -> dict[str, Any]:
    return {"k": number, "name": NAMES[number]}


def iter_rows(rows: list[Row]) -> Any:
    return lambda epoch: iter(rows)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("where"))
    yield made
    made.room.close()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_left_out_is_counted_apart(world: World, kind: str) -> None:
    with world.loader(kind, WHERE, epochs=2, max_failures=0, max_refused_in_a_row=1) as loader:
        ids = [sample.id for sample in loader.samples()]
        stats = loader.stats()
    assert ids == PASSING * 2
    assert (stats.filtered, stats.filtered_by_epoch) == (2 * FILTERED, {0: FILTERED, 1: FILTERED})
    assert stats.skipped == {}
    assert f"filtered: {2 * FILTERED}" in str(stats)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_brings_and_counts_each_sample_once(world: World, kind: str) -> None:
    taken, stopped = list[str](), list[tuple[list[str], Any, int]]()
    with world.loader(kind, WHERE, epochs=2, batch_size=3) as loader:
        for _ in range(4):
            stopped.append((list(taken), loader.state_dict(), loader.stats().filtered))
            taken += next(loader).ids
    for first, state, before in stopped:
        with world.loader(kind, WHERE, state=json.loads(json.dumps(state)), epochs=2, batch_size=3) as loader:
            rest = [sample.id for sample in loader.samples()]
            after = loader.stats().filtered
        assert first + rest == PASSING * 2
        assert before + after == 2 * FILTERED


@pytest.mark.parametrize("kind", ["db", "rows", "table"])
def test_the_limit_counts_what_is_delivered(world: World, kind: str) -> None:
    with world.loader(kind, WHERE, limit=9, epochs=None) as loader:
        assert [sample.id for sample in loader.samples()] == (PASSING * 2)[:9]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("where", "error", "words"),
    [
        ("k > 100", SourceError, "leaves out all of the 12"),
        ("nmae == 'p01'", ConfigError, r"names( the column)? 'nmae'.*name"),
    ],
)
def test_a_run_without_end_of_which_nothing_passes_is_an_error(
    world: World, kind: str, where: str, error: type[Exception], words: str
) -> None:
    with world.loader(kind, where, epochs=None) as loader, pytest.raises(error, match=words):
        next(loader)


@pytest.mark.parametrize("kind", ["db", "rows", "table", "index"])
@pytest.mark.parametrize("drop_last", [True, False])
def test_lockstep_plans_only_what_passes(world: World, kind: str, drop_last: bool) -> None:
    ids: list[list[str]] = []
    filtered = 0
    for rank in (0, 1):
        more = {"lockstep": True, "batch_size": 2, "drop_last": drop_last, "source": {"rank": rank, "world_size": 2}}
        with world.loader(kind, WHERE, **more) as loader:
            if kind != "db":
                assert len(loader) == (1 if drop_last else 2)
            assert len(loader.plan(0)) == (1 if drop_last else 2)
            batches = list(loader)
            filtered += loader.stats().filtered
        ids.append([sample.id for batch in batches for sample in batch if sample.real])
        assert all(len(batch) == 2 for batch in batches)
    found = sorted(ids[0] + ids[1])
    assert found == (PASSING[:4] if drop_last else PASSING)
    assert filtered == FILTERED


def test_lockstep_refuses_a_state_of_another_where(world: World) -> None:
    with world.loader("table", WHERE, lockstep=True, batch_size=2) as loader:
        next(loader)
        state = loader.state_dict()
    with pytest.raises(ConfigError, match=r"source_config\.where is .* in the state"):
        world.loader("table", "k > 3", lockstep=True, batch_size=2, state=state)


def test_without_lockstep_where_may_change_when_a_run_resumes(world: World) -> None:
    with world.loader("table", "k < 6") as loader:
        assert next(loader).ids == NAMES[:4]
        state = loader.state_dict()
    with world.loader("table", "k > 8 or k == 5 or k == 1", state=state) as loader:
        assert [sample.id for sample in loader.samples()] == ["p05", *NAMES[9:]]


@pytest.mark.parametrize(
    ("kind", "where", "passing"),
    [
        ("db", "width >= 48 and height == 40", NAMES[8:]),
        ("db", '"even" in tags and k > 5', ["p06", "p08", "p10"]),
        ("db", '"even" not in tags and k > 8', ["p09", "p11"]),
        ("rows", "width < 42", NAMES[:2]),
        ("walk", "width < 42", NAMES[:2]),
        ("table", "width < 42", NAMES[:2]),
        ("index", "width < 42", NAMES[:2]),
        ("webdataset", 'id >= "p10"', NAMES[10:]),
    ],
)
def test_names_that_are_no_attributes(world: World, kind: str, where: str, passing: list[str]) -> None:
    with world.loader(kind, where) as loader:
        assert [sample.id for sample in loader.samples()] == passing


def test_a_folder_is_filtered_by_its_names(world: World) -> None:
    config = world.config("file", '"p1" in id', source={"root_path": str(world.root / "files")})
    with Loader(config, device="cpu", backend="pillow") as loader:
        assert [Path(sample.id).stem for sample in loader.samples()] == NAMES[10:]


@pytest.mark.parametrize("captions", ["txt", "json", "metadata"])
def test_a_folder_is_filtered_by_its_captions(tmp_path: Path, captions: str) -> None:
    for number, name in enumerate(NAMES):
        add_picture(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.txt").write_text(f"a picture of {'cats' if number % 2 else 'dogs'}")
        (tmp_path / f"{name}.json").write_text(json.dumps({"txt": "cats" if number % 2 else "dogs"}))
    rows = [json.dumps({"file_name": f"{name}.jpg", "txt": "cats" if at % 2 else ""}) for at, name in enumerate(NAMES)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    source = {"root_path": str(tmp_path), "captions": captions, "where": '"cat" in txt'}
    config = {"source_type": "file", "source_config": source, "batch_size": 4, "epochs": 2}
    with Loader(config, device="cpu", backend="pillow") as loader:
        ids = [sample.id for sample in loader.samples()]
        assert (loader.stats().filtered, loader.stats().skipped) == (12, {})
    assert ids == [f"{name}.jpg" for name in NAMES[1::2]] * 2


def test_a_folder_of_which_no_caption_passes_is_an_error(tmp_path: Path) -> None:
    add_picture(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("a dog")
    source = {"root_path": str(tmp_path), "captions": "txt", "where": '"cat" in txt'}
    config = {"source_type": "file", "source_config": source, "epochs": None}
    with Loader(config, device="cpu") as loader, pytest.raises(SourceError, match="where left out"):
        next(loader)


def test_a_name_that_no_caption_has_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "ab":
        add_picture(tmp_path / f"{name}.jpg")
    (tmp_path / "a.txt").write_text("a dog")
    source = {"root_path": str(tmp_path), "captions": "txt", "where": "text is not null"}
    config = {"source_type": "file", "source_config": source}
    with Loader(config, device="cpu") as loader, pytest.raises(SourceError, match="where left out 2 samples"):
        next(loader)
    assert "names 'text', which none of 2 samples has; did you mean 'txt'?" in caplog.text


def test_a_folder_has_no_sizes(world: World) -> None:
    config = world.config("file", "width > 5", source={"root_path": str(world.root / "files")})
    with Loader(config, device="cpu") as loader, pytest.raises(ConfigError, match="an index has the sizes"):
        next(loader)


def test_a_name_that_no_sample_has_is_told_of_although_samples_pass(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), world.loader("webdataset", "k > 3 and nmae is null") as loader:
        assert len(list(loader.samples())) == 8
    (said,) = [record.getMessage() for record in caplog.records if "where" in record.getMessage()]
    assert "names 'nmae', which none of 12 samples has; did you mean 'name'?" in said


def test_values_of_wrong_types_count_as_none(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), world.loader("db", 'k > "3" or k == 4') as loader:
        assert [sample.id for sample in loader.samples()] == ["p04"]
    (said,) = [record.getMessage() for record in caplog.records if "where" in record.getMessage()]
    assert "'k' of sample 'p00' is 0, and it is compared with '3'" in said


def test_an_expression_that_cannot_be_read_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"source_config\.where: it cannot be read at character 3"):
        LoaderConfig.load({"source_type": "file", "source_config": {"root_path": "/a", "where": "k =3"}})


def test_an_index_holds_what_where_leaves_out(world: World, tmp_path: Path) -> None:
    summary = make(world.config("webdataset", "k > 5"), tmp_path / "x.arrow")
    assert summary.rows == COUNT


def test_a_class_is_known_by_its_number(tmp_path: Path) -> None:
    for name in ("cat", "dog", "emu"):
        add_picture(tmp_path / "photos" / name / "x.jpg")
    source = {"root_path": str(tmp_path / "photos"), "labels": "folder"}
    config = {"source_type": "file", "source_config": source, "batch_size": 4}
    make(config, tmp_path / "index.arrow")
    index = {"source_type": "table", "source_config": {"path": str(tmp_path / "index.arrow")}, "batch_size": 4}
    for each in (config, index):
        each = {**each, "source_config": {**each["source_config"], "where": "label in (0, 2)"}}
        with Loader(each, device="cpu", backend="pillow") as loader:
            (batch,) = loader
        assert batch.ids == ["cat/x.jpg", "emu/x.jpg"]
        assert batch.labels.tolist() == [0, 2]


def test_lockstep_goes_on_with_other_ranks_and_leaves_out_the_same(world: World) -> None:
    more = {"lockstep": True, "batch_size": 2, "source": {"world_size": 2, "random_sampling": True}}
    seen: list[str] = []
    for rank in (0, 1):
        more["source"]["rank"] = rank
        with world.loader("index", WHERE, **more) as loader:
            seen += next(loader).ids
            state = loader.state_dict()
    alone = {**more, "batch_size": 3, "source": {"random_sampling": True, "rank": 0, "world_size": 1}}
    with world.loader("index", WHERE, state=json.loads(json.dumps(state)), **alone) as loader:
        rest = [sample.id for sample in loader.samples() if sample.real]
        assert loader.stats().filtered == FILTERED
    assert sorted(seen + rest) == PASSING


def test_a_name_whose_value_is_null_in_all_samples_is_not_misspelt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_picture(tmp_path / "a.jpg")
    (tmp_path / "a.json").write_text('{"licence": null}')
    source = {"root_path": str(tmp_path), "captions": "json", "where": "licence is null"}
    with caplog.at_level(logging.WARNING), Loader({"source_type": "file", "source_config": source}) as loader:
        assert [sample.id for sample in loader.samples()] == ["a.jpg"]
    assert not caplog.records


def test_a_rank_of_a_small_set_may_have_nothing_that_passes(world: World) -> None:
    source = {"rank": 1, "world_size": 3}
    with world.loader("rows", 'name == "p00"', source=source) as loader:
        assert list(loader) == []
        assert loader.stats().filtered == 4
    with (
        world.loader("rows", 'name == "p00"', source=source, epochs=None) as loader,
        pytest.raises(SourceError, match="where left out"),
    ):
        next(loader)
