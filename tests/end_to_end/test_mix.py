"""Whole Loaders on a mix of a folder, a table, shards, a Dataroom and rows of the program's own."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datago_gpu import Batch, ConfigError, Loader, LoaderConfig, Row, SourceError, TooManyErrors
from datago_gpu.index.build import build_index
from datago_gpu.loader.stats import Stats
from datago_gpu.server import DataroomServer
from tests.support.images import SHAPES, add_picture, add_pictures
from tests.support.needs import needs
from tests.support.servers import Answer, MisbehavingServer
from tests.support.shards import tar_bytes
from tests.support.shares import assert_shares
from tests.support.tables import write_table

IMAGES = {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16}
Seen = tuple[str, int | None, str]


def mix_config(*sources: dict[str, Any], stop: str = "all", **more: Any) -> dict[str, Any]:
    source = {"sources": list(sources), "stop": stop, **more.pop("source", {})}
    return {
        "source_type": "mix",
        "source_config": source,
        "image_config": IMAGES,
        "decode_config": {"processes": 0},
        "batch_size": 4,
        "seed": 5,
        **more,
    }


def folder_of(root: Path, weight: float = 1, name: str = "photos", **more: Any) -> dict[str, Any]:
    return {"name": name, "source_type": "file", "weight": weight, "source_config": {"root_path": str(root), **more}}


def load(config: dict[str, Any], **arguments: Any) -> list[Batch]:
    with Loader(config, device="cpu", backend="pillow", **arguments) as loader:
        return list(loader)


def seen(batches: list[Batch]) -> list[Seen]:
    return [(sample.mix, sample.pass_number, sample.id) for batch in batches for sample in batch if sample.real]


def run_with_states(config: dict[str, Any]) -> tuple[list[Seen], list[dict[str, Any]], Stats]:
    """Returns what a run in batches of one sample delivers, the state behind each sample, and the figures."""
    whole, states = list[Seen](), list[dict[str, Any]]()
    with Loader(config, device="cpu", backend="pillow") as loader:
        for batch in loader:
            whole += seen([batch])
            states.append(loader.state_dict())
        return whole, states, loader.stats()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, DataroomServer]]:
    """A folder of 13, a table of 7, shards of 9, a Dataroom of 5."""
    root = tmp_path_factory.mktemp("mix")
    add_pictures(root / "photos", [(40, 40)] * 13)
    names = add_pictures(root / "rows", (SHAPES * 3)[:7])
    sizes = {"width": [width for _, width in (SHAPES * 3)[:7]], "height": [height for height, _ in (SHAPES * 3)[:7]]}
    write_table(root / "rows.parquet", {"path": names, "id": [f"row{at}" for at in range(7)], **sizes})
    (root / "shards").mkdir()
    for shard in range(3):
        pictures = [
            (f"{shard}{at}.jpg", add_picture(root / "made" / f"{shard}{at}.jpg").read_bytes()) for at in range(3)
        ]
        (root / "shards" / f"{shard}.tar").write_bytes(tar_bytes(pictures))
    add_pictures(root / "room", [(40, 40)] * 5)
    with DataroomServer(root / "room", watch_interval_s=None) as room:
        yield root, room


WEIGHTS = {"photos": 3, "rows": 1.5, "shards": 2, "room": 0.5}


def all_kinds(data: tuple[Path, DataroomServer], weights: dict[str, float], **more: Any) -> dict[str, Any]:
    root, room = data
    return mix_config(
        folder_of(root / "photos", weights["photos"], random_sampling=True),
        {
            "name": "rows",
            "source_type": "table",
            "weight": weights["rows"],
            "source_config": {"path": str(root / "rows.parquet"), "root": str(root / "rows"), "random_sampling": True},
        },
        {
            "name": "shards",
            "source_type": "webdataset",
            "weight": weights["shards"],
            "source_config": {"url": str(root / "shards"), "random_sampling": True, "shuffle_buffer": 3},
        },
        {
            "name": "room",
            "source_type": "db",
            "weight": weights["room"],
            "source_config": {"api_url": room.url, "api_key": room.key},
        },
        **more,
    )


def test_a_mix_of_all_kinds_resumes_at_every_batch(data: tuple[Path, DataroomServer]) -> None:
    """Each source is shuffled anew in each of its passes, and the shares hold whatever bucket a sample goes to."""
    config = all_kinds(data, WEIGHTS, epochs=2, image_config={**IMAGES, "mixed_buckets": True})
    whole, states = [], []
    with Loader(config, device="cpu", backend="pillow") as loader:
        for batch in loader:
            whole.append(seen([batch]))
            states.append(json.loads(json.dumps(loader.state_dict())))
            assert batch.mix == [name for name, _, _ in whole[-1]]
        stats = loader.stats()
    for epoch in (0, 1):
        assert_shares([name for batch in whole for name, number, _ in batch if (number or 0) % 2**32 == epoch], WEIGHTS)
    counts = Counter(name for batch in whole for name, _, _ in batch)
    assert {name: each.delivered for name, each in stats.mix.items()} == dict(counts)
    assert stats.mix["rows"].passes == max(number >> 32 for _, number, _ in whole[-1] + whole[-2] if number is not None)
    assert "source photos: " in str(stats)
    for name, count in {"photos": 13, "rows": 7, "shards": 9, "room": 5}.items():
        first = [each for batch in whole for source, number, each in batch if (source, number) == (name, 0)]
        assert len(first) == len(set(first)) == count
    for at in (0, 3, len(states) // 2, len(states) - 2):
        assert [seen([batch]) for batch in load(config, state=states[at])] == whole[at + 1 :]


def test_other_weights_hold_from_the_resume_on_and_other_sources_are_refused(data: tuple[Path, DataroomServer]) -> None:
    with Loader(all_kinds(data, WEIGHTS), device="cpu", backend="pillow") as loader:
        before = seen([next(loader), next(loader)])
        state = loader.state_dict()
    weights = {"photos": 1, "rows": 4, "shards": 0, "room": 4}
    rest = seen(load(all_kinds(data, weights), state=state))
    photos = [each for name, number, each in before + rest if name == "photos" and number == 0]
    assert len(photos) == len(set(photos))
    done = state["resume"]["position"]["index"] + len(state["resume"]["done"])
    assert "shards" not in [name for name, _, _ in rest[max(0, done - len(before)) + 8 :]]
    config = all_kinds(data, WEIGHTS)
    fewer = {**config, "source_config": {**config["source_config"], "sources": config["source_config"]["sources"][:3]}}
    with pytest.raises(ConfigError, match="sources of the mix are 'photos', 'rows', 'shards', 'room' in the state"):
        Loader(fewer, device="cpu", state=state)
    with pytest.raises(ConfigError, match="stop is 'all' in the state, 'first' here"):
        Loader({**config, "source_config": {**config["source_config"], "stop": "first"}}, device="cpu", state=state)
    config["source_config"]["sources"][0]["source_config"]["random_sampling"] = False
    with pytest.raises(ConfigError, match=r"source 'photos' of the mix: source_config\.random_sampling is True in"):
        Loader(config, device="cpu", state=state)
    assert data[1].key not in json.dumps(state)


def test_a_source_that_dies_ends_the_run_and_is_named(tmp_path: Path) -> None:
    """All samples before it are delivered. The other source goes on to the end, which hides no failure."""
    add_pictures(tmp_path / "photos", [(40, 40)] * 40)
    picture = add_picture(tmp_path / "picture.jpg").read_bytes()
    shards = [tar_bytes([(f"{shard}{at}.jpg", picture) for at in range(4)]) for shard in range(2)]
    with MisbehavingServer() as server:
        addresses = [server.script(f"/{at}.tar", Answer(200, body)) for at, body in enumerate(shards)]
        addresses += [server.script(f"/{at}.tar", Answer(403)) for at in range(2, 7)]
        web = {"url": "::".join(addresses), "concurrent_downloads": 1}
        config = mix_config(
            folder_of(tmp_path / "photos", 1),
            {"name": "web", "source_type": "webdataset", "weight": 1, "source_config": web},
            max_refused_in_a_row=9,
            prefetch_buffer_size=4,
        )
        found: list[Batch] = []
        with (
            Loader(config, device="cpu", backend="pillow") as loader,
            pytest.raises(SourceError, match=r"3 shards of source 'web' of the mix in a row could not be loaded"),
        ):
            found.extend(loader)
    assert Counter(name for name, _, _ in seen(found))["web"] == 8


def test_a_missing_source_and_too_many_bad_samples_are_named(tmp_path: Path) -> None:
    add_pictures(tmp_path / "photos", [(40, 40)] * 12)
    nowhere = folder_of(tmp_path / "nowhere", name="other")
    with pytest.raises(SourceError, match=r"source 'other' of the mix: .*nowhere"):
        load(mix_config(folder_of(tmp_path / "photos"), nowhere))
    add_pictures(tmp_path / "bad", [(40, 40)] * 12)
    for path in sorted((tmp_path / "bad").iterdir())[:6]:
        path.write_bytes(b"no picture")
    listed = tmp_path / "skipped.jsonl"
    config = mix_config(folder_of(tmp_path / "photos"), folder_of(tmp_path / "bad", name="other"))
    with pytest.raises(TooManyErrors, match=r"6 of \d+ samples were bad \(6 unknown-format; 6 of source 'other'\)"):
        load({**config, "max_failures": 3, "skipped_file": str(listed)})
    assert {json.loads(line)["mix"] for line in listed.read_text().splitlines()} == {"other"}


def test_a_feeder_that_is_killed_changes_nothing(data: tuple[Path, DataroomServer]) -> None:
    config = all_kinds(data, WEIGHTS)
    wanted = seen(load(config))
    with Loader(config, device="cpu", backend="pillow") as loader:
        found = [next(loader)]
        os.kill(loader.feeder_pid, signal.SIGKILL)
        found += list(loader)
    assert seen(found) == wanted


def test_repeat_is_so_many_passes_spread_over_the_epoch(data: tuple[Path, DataroomServer]) -> None:
    root, _ = data
    table = {"path": str(root / "rows.parquet"), "root": str(root / "rows"), "random_sampling": True}
    config = mix_config(
        {"name": "photos", "source_type": "file", "source_config": {"root_path": str(root / "photos")}},
        {"name": "rows", "source_type": "table", "repeat": 3, "source_config": table},
        image_config={**IMAGES, "mixed_buckets": True},
        batch_size=1,
    )
    whole, states, _ = run_with_states(config)
    assert_shares([name for name, _, _ in whole], {"photos": 13, "rows": 21})
    assert Counter(name for name, _, _ in whole) == {"photos": 13, "rows": 21}
    orders = [[each for _, number, each in whole if number == before << 32 and each[0] == "r"] for before in range(3)]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    for at in (5, 20):
        assert seen(load(config, state=states[at])) == whole[at + 1 :]


def test_what_a_source_leaves_out_takes_no_turn(data: tuple[Path, DataroomServer]) -> None:
    root, _ = data
    config = mix_config(
        folder_of(root / "photos", 1, where='id != "0000.jpg" and id != "0001.jpg" and id != "0002.jpg"'),
        folder_of(root / "room", 1, name="room"),
        batch_size=1,
    )
    whole, states, stats = run_with_states(config)
    assert stats.filtered == stats.mix["photos"].filtered == 3
    assert_shares([name for name, _, _ in whole], {"photos": 1, "room": 1})
    assert Counter(name for name, _, _ in whole) == {"photos": 10, "room": 10}
    for at in (0, 1, 7):
        assert seen(load(config, state=states[at])) == whole[at + 1 :]
    other = mix_config(folder_of(root / "photos", 1, where='id != "x"'), folder_of(root / "room", 1, name="room"))
    with pytest.raises(ConfigError, match=r"source 'photos' of the mix: where is .* in the state, .* here"):
        Loader(other, device="cpu", state=states[0])


def test_a_part_that_one_source_has_is_absent_in_samples_of_the_others(data: tuple[Path, DataroomServer]) -> None:
    root, _ = data
    names = sorted(path.name for path in (root / "rows").iterdir())
    write_table(root / "masked.parquet", {"path": names, "mask": names})
    masked = {"path": str(root / "masked.parquet"), "root": str(root / "rows"), "masks": "mask"}
    config = mix_config(
        folder_of(root / "photos", 1),
        {"name": "masked", "source_type": "table", "weight": 1, "source_config": masked},
        stop="first",
    )
    batches = load(config)
    assert {name for batch in batches for name in batch.mix} == {"photos", "masked"}
    assert any(batch.masks["mask"] is not None for batch in batches)
    for batch in batches:
        assert batch.present["mask"].tolist() == [name == "masked" for name in batch.mix]
        if batch.masks["mask"] is not None:
            assert batch.masks["mask"].shape[:1] == batch.image.shape[:1]


def test_each_source_may_have_a_crop_of_its_own_and_each_pass_crops_anew(data: tuple[Path, DataroomServer]) -> None:
    root, _ = data
    config = mix_config(
        {**folder_of(root / "photos", 1), "image_config": {"crop": "random_resized", "flip": 0.5}},
        {**folder_of(root / "photos", 1, name="plain")},
        folder_of(root / "room", 6, name="room"),
        limit=90,
        batch_size=1,
    )
    crops: dict[tuple[str, int | None], set[tuple[float, ...]]] = {}
    with Loader(config, device="cpu", backend="pillow") as loader:
        for batch in loader:
            (name, number, _), crop = seen([batch])[0], tuple(batch.crops[0].tolist())
            crops.setdefault((name, number), set()).add(crop)
            assert name == "photos" or (crop == (0, 0, 40, 40) and not batch.flipped[0])
    assert len(crops["photos", 0]) > 5
    one = mix_config({**folder_of(root / "room", 1, name="room"), "image_config": {"crop": "random_resized"}},
                     folder_of(root / "photos", 1))  # fmt: skip
    found: dict[str, list[tuple[float, ...]]] = {}
    for batch in load(one):
        for sample in batch:
            if sample.mix == "room":
                found.setdefault(sample.id, []).append(sample.crop)
    assert all(len(set(each)) == len(each) > 1 for each in found.values())


def lockstep_config(
    root: Path, rank: int, world_size: int, batch_size: int, weights: tuple[float, float] = (3, 1)
) -> dict[str, Any]:
    names = ["photos", "rows"]
    return mix_config(
        *(
            {
                "name": name,
                "source_type": "table",
                "weight": weight,
                "source_config": {"path": str(root / f"{name}.arrow"), "random_sampling": True},
            }
            for name, weight in zip(names, weights, strict=True)
        ),
        source={"rank": rank, "world_size": world_size},
        batch_size=batch_size,
        lockstep=True,
        epochs=2,
    )


@pytest.fixture(scope="module")
def tables(data: tuple[Path, DataroomServer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tables")
    for name in ("photos", "rows"):
        rows = []
        for path in sorted((data[0] / name).iterdir()):
            at = int(path.stem)
            height, width = (40, 40) if name == "photos" else (SHAPES * 3)[at]
            rows.append({"path": str(path), "id": f"{name}{at}", "width": width, "height": height})
        write_table(root / f"{name}.arrow", rows)
    return root


@pytest.fixture(scope="module")
def alone(tables: Path) -> tuple[list[Batch], dict[str, Any]]:
    """The batches of one rank, and the state behind the second one."""
    with Loader(lockstep_config(tables, 0, 1, 4), device="cpu", backend="pillow") as loader:
        before = [next(loader), next(loader)]
        state = json.loads(json.dumps(loader.state_dict()))
        return [*before, *loader], state


def lockstep_ids(batches: list[Batch]) -> list[list[Seen]]:
    return [seen([batch]) for batch in batches]


def test_in_lockstep_the_global_batches_are_those_of_any_number_of_ranks(
    tables: Path, alone: tuple[list[Batch], dict[str, Any]]
) -> None:
    all_batches, _ = alone
    ranks = [load(lockstep_config(tables, rank, 2, 2)) for rank in range(2)]
    assert [len(ranks[0]), len(ranks[1])] == [len(all_batches)] * 2
    for whole, *parts in zip(all_batches, *ranks, strict=True):
        assert {batch.bucket for batch in parts} == {whole.bucket}
        assert sorted(seen(parts)) == sorted(seen([whole]))
    first = [each for batch in all_batches if batch.epoch == 0 for each in seen([batch])]
    counts = Counter(name for name, _, _ in first)
    assert counts["photos"] >= 13
    assert counts["rows"] >= 7
    assert len(set(first)) == len(first)
    assert abs(counts["photos"] - 3 * counts["rows"]) < 4
    with Loader(lockstep_config(tables, 0, 1, 4), device="cpu", backend="pillow") as loader:
        assert len(loader) == len(loader.plan(0)) == sum(batch.epoch == 0 for batch in all_batches)
        assert {(4, *batch.bucket) for batch in all_batches if batch.bucket} <= set(loader.shapes())


def test_lockstep_resumes_on_another_number_of_ranks_with_no_sample_twice(
    tables: Path, alone: tuple[list[Batch], dict[str, Any]]
) -> None:
    whole, state = alone
    same = load(lockstep_config(tables, 0, 1, 4), state=state)
    assert lockstep_ids(same) == lockstep_ids(whole[2:])
    assert np.array_equal(same[0].image, whole[2].image)
    rest = [batch for rank in range(3) for batch in load(lockstep_config(tables, rank, 3, 1), state=state)]
    in_epoch = seen(whole[:2] + [batch for batch in rest if batch.epoch == 0])
    assert sorted(in_epoch) == sorted(seen([batch for batch in whole if batch.epoch == 0]))


def test_in_lockstep_new_weights_hold_for_the_rest_of_the_epoch(
    tables: Path, alone: tuple[list[Batch], dict[str, Any]]
) -> None:
    """On any number of ranks, after a further resume too; the plan tells of it, and later epochs have them alone."""
    before, state = alone[0][:2], alone[1]
    other = (1, 2)
    with Loader(lockstep_config(tables, 0, 1, 4, other), device="cpu", backend="pillow", state=state) as loader:
        plan, rest = loader.plan(0), [next(loader)]
        again = json.loads(json.dumps(loader.state_dict()))
        rest += list(loader)
    epoch = seen(before + [batch for batch in rest if batch.epoch == 0])
    assert len(set(epoch)) == len(epoch)
    assert len(plan) == 2 + sum(batch.epoch == 0 for batch in rest)
    assert plan.buckets[2:].tolist() == [list(batch.bucket or ()) for batch in rest if batch.epoch == 0]
    counts = Counter(name for name, _, _ in epoch)
    assert counts["rows"] > counts["photos"] / 3 + 4
    assert {name for name, number, _ in epoch if number == 0} == {"photos", "rows"}
    fresh = [batch for batch in load(lockstep_config(tables, 0, 1, 4, other)) if batch.epoch == 1]
    assert lockstep_ids([batch for batch in rest if batch.epoch == 1]) == lockstep_ids(fresh)
    assert lockstep_ids(load(lockstep_config(tables, 0, 1, 4, other), state=again)) == lockstep_ids(rest[1:])
    ranks = [load(lockstep_config(tables, rank, 2, 2, other), state=state) for rank in range(2)]
    assert [sorted(seen(list(parts))) for parts in zip(*ranks, strict=True)] == [sorted(seen([each])) for each in rest]
    third = load(lockstep_config(tables, 0, 1, 4, (5, 1)), state=again)
    whole = seen(before + rest[:1] + [batch for batch in third if batch.epoch == 0])
    assert len(set(whole)) == len(whole)


def test_rows_of_the_program_are_a_source_with_lockstep_and_without(
    data: tuple[Path, DataroomServer], tables: Path
) -> None:
    rows = [
        Row(f"own{at}", path.read_bytes(), width=40, height=40)
        for at, path in enumerate(sorted((data[0] / "room").iterdir()))
    ]
    own = {"name": "own", "source_type": "rows", "weight": 1, "source_config": {"random_sampling": True}}
    table = {"path": str(tables / "photos.arrow"), "random_sampling": True}
    config = mix_config({"name": "photos", "source_type": "table", "weight": 2, "source_config": table}, own)
    plain = seen(load(config, source=rows))
    lockstep = seen(load({**config, "lockstep": True}, source=rows))
    assert sorted(plain) == sorted(lockstep)
    assert_shares([name for name, _, _ in plain], {"photos": 2, "own": 1})
    with pytest.raises(ConfigError, match="source_type 'rows' needs rows"):
        Loader(config, device="cpu")
    with pytest.raises(ConfigError, match="the mix may begin a further pass"):
        Loader(mix_config({**own, "source_config": {}}), device="cpu", source=iter(rows))
    function = mix_config(folder_of(data[0] / "photos", 2), {**own, "source_config": {}}, stop="first")
    assert {name for name, _, _ in seen(load(function, source=lambda epoch: iter(rows)))} == {"photos", "own"}

    def broken(epoch: int) -> Iterator[Row]:
        yield from rows
        raise RuntimeError("no more")

    with pytest.raises(SourceError, match=r"source 'own' of the mix: row 5 of the source cannot be read") as found:
        load(function, source=broken)
    assert isinstance(found.value.__cause__, RuntimeError)


@pytest.mark.timeout(120)
def test_a_dataset_of_torch_passes_through_a_mix(data: tuple[Path, DataroomServer]) -> None:
    dataset = needs("datago_gpu.torch").LoaderDataset(all_kinds(data, WEIGHTS), device="cpu", backend="pillow")
    wanted = seen(load(all_kinds(data, WEIGHTS, epochs=2)))
    found = [each for _ in range(2) for batch in dataset
             for each in zip(batch["mix"], batch["pass_numbers"], batch["ids"], strict=True)]  # fmt: skip
    assert sorted(found) == sorted(wanted)


def test_a_mix_cannot_be_indexed(tmp_path: Path) -> None:
    add_pictures(tmp_path / "photos", [(40, 40)])
    with pytest.raises(ConfigError, match="make an index of each of its sources"):
        build_index(LoaderConfig.load(mix_config(folder_of(tmp_path / "photos"))), tmp_path / "index.arrow")


def test_labels_of_all_sources_and_classes_where_they_agree(tmp_path: Path) -> None:
    for name, classes in {"one": ("cat", "dog"), "two": ("dog", "eel")}.items():
        for at, folder in enumerate(classes):
            add_picture(tmp_path / name / folder / f"{name}{at}.jpg")
    add_picture(tmp_path / "none" / "x.jpg")
    labelled = [folder_of(tmp_path / name, 1, name=name, labels="folder", classes=["cat", "dog", "eel"])
                for name in ("one", "two")]  # fmt: skip
    config = mix_config(*labelled, folder_of(tmp_path / "none", 1, name="none"))
    with Loader(config, device="cpu", backend="pillow") as loader:
        found = {name: label for batch in loader for name, label in zip(batch.ids, batch.labels.tolist(), strict=True)}
        assert loader.classes == ["cat", "dog", "eel"]
    assert found == {"cat/one0.jpg": 0, "dog/one1.jpg": 1, "dog/two0.jpg": 1, "eel/two1.jpg": 2, "x.jpg": -1}
    own = [folder_of(tmp_path / name, 1, name=name, labels="folder") for name in ("one", "two")]
    said = "sources 'one' and 'two' of the mix have different classes"
    with Loader(mix_config(*own), device="cpu") as loader:
        with pytest.raises(ConfigError, match=said):
            _ = loader.classes
        with pytest.raises(ConfigError, match=said):
            next(loader)


def test_tables_in_lockstep_have_the_same_classes(tmp_path: Path) -> None:
    for name, kind in {"one": "cat", "two": "dog"}.items():
        add_picture(tmp_path / f"{name}.jpg")
        rows = [{"path": f"{name}.jpg", "width": 40, "height": 40, "label": kind}]
        write_table(tmp_path / f"{name}.arrow", rows)

    def config(**more: Any) -> dict[str, Any]:
        sources = [
            {
                "name": name,
                "source_type": "table",
                "source_config": {"path": str(tmp_path / f"{name}.arrow"), "label": "label", **more},
            }
            for name in ("one", "two")
        ]
        return mix_config(*sources, lockstep=True, batch_size=2)

    with (
        Loader(config(), device="cpu") as loader,
        pytest.raises(ConfigError, match="'one' and 'two' of the mix have different classes"),
    ):
        next(loader)
    with Loader(config(classes=["cat", "dog"], where="label is not null"), device="cpu") as loader:
        labels = {name: label for batch in loader for name, label in zip(batch.ids, batch.labels.tolist(), strict=True)}
    assert labels == {"one.jpg": 0, "two.jpg": 1}
