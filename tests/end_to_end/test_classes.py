"""Labels in batches: those of every source, in batches, samples, slices and tensors, whatever is bad or resumed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datago_gpu import ConfigError, Loader, Row, SourceError, decode
from datago_gpu.server import DataroomServer
from tests.support.gpus import usable
from tests.support.images import add_picture, small_jpeg
from tests.support.needs import needs
from tests.support.pictures import on_host
from tests.support.shards import tar_bytes
from tests.support.tables import write_table

CONFIG: dict[str, Any] = {
    "image_config": {"crop_and_resize": True, "default_image_size": 64, "downsampling_ratio": 16},
    "decode_config": {"processes": 0},
    "http_config": {"max_payload_mb": 1},
    "arena_mb": 4,
    "batch_size": 3,
}
Found = dict[str, int | None]


def config_of(kind: str, **source: Any) -> dict[str, Any]:
    return {**CONFIG, "source_type": kind, "source_config": source}


def load(config: dict[str, Any], **more: Any) -> tuple[Found, list[str] | None, dict[str, int]]:
    """id -> label, None without labels; the classes; and the flaws."""
    found: Found = {}
    with Loader(config, device="cpu", backend="pillow", **more) as loader:
        for batch in loader:
            if batch.labels is None:
                assert batch[0].label is None
                found |= dict.fromkeys(batch.ids)
                continue
            assert (batch.labels.dtype, batch.labels.shape) == (np.int64, (len(batch),))
            labels = batch.labels.tolist()
            assert [sample.label for sample in batch] == batch[:99].labels.tolist() == labels
            assert pickle.loads(pickle.dumps(batch))[-1].label == labels[-1]
            found |= dict(zip(batch.ids, labels, strict=True))
        return found, loader.classes, loader.stats().flawed


def test_a_folder_of_classes(tmp_path: Path) -> None:
    for at, name in enumerate(["dog/1.jpg", "dog/2.jpg", "cat/x/3.jpg", "bird/4.jpg", "dog/5.jpg"]):
        add_picture(tmp_path / name, color=at)
    (tmp_path / "cat" / "bad.jpg").write_bytes(b"no picture")
    config = config_of("file", root_path=str(tmp_path), labels="folder", random_sampling=True)
    wanted = {"dog/1.jpg": 2, "dog/2.jpg": 2, "cat/x/3.jpg": 1, "bird/4.jpg": 0, "dog/5.jpg": 2}
    assert load(config) == (wanted, ["bird", "cat", "dog"], {})
    ranks = [load(config_of("file", **config["source_config"], rank=rank, world_size=2))[0] for rank in range(2)]
    assert ranks[0] | ranks[1] == wanted
    with Loader(config | {"batch_size": 1}, device="cpu", backend="pillow") as loader:
        first = next(loader)
        state = loader.state_dict()
        rest = {batch.ids[0]: int(batch.labels[0]) for batch in loader}
        loader.load_state_dict(state)
        assert {batch.ids[0]: int(batch.labels[0]) for batch in loader} == rest
    assert rest | {first.ids[0]: int(first.labels[0])} == wanted


def test_without_labels_nothing_is_delivered(tmp_path: Path) -> None:
    add_picture(tmp_path / "a" / "1.jpg")
    assert load(config_of("file", root_path=str(tmp_path))) == ({"a/1.jpg": None}, None, {})
    batch = decode([small_jpeg()], CONFIG["image_config"], device="cpu")
    assert batch.labels is batch[0].label is None


SHARD = [
    ("0", b"1", b'{"name": "cat"}'),
    ("1", b" 0\n", b'{"name": "dog"}'),
    ("2", None, b'{"name": "cow"}'),
    ("3", b"cat", b"{}"),
    ("4", b"7", b'{"name": 1.0}'),
]
"""Key, .cls, .json."""


@pytest.mark.parametrize(
    ("source", "labels", "flaws"),
    [
        ({}, [1, 0, -1, None, 7], {}),
        ({"classes": ["dog", "cat"]}, [1, 0, -1, 1, -1], {"no-label": 1, "bad-label": 1}),
        ({"label": "name", "classes": ["dog", "cat"]}, [1, 0, -1, -1, 1], {"bad-label": 1, "no-label": 1}),
        ({"label": "name"}, [-1, -1, -1, -1, 1], {"bad-label": 3, "no-label": 1}),
        ({"classes": "dog\ncat", "datago_form": True}, [1, 0, -1, 1, -1], {"no-label": 1, "bad-label": 1}),
    ],
)
def test_shards(tmp_path: Path, source: dict[str, Any], labels: list[int], flaws: dict[str, int]) -> None:
    files = []
    for key, cls, attributes in SHARD:
        files += [
            (f"{key}.jpg", small_jpeg()),
            (f"{key}.json", attributes),
            *([(f"{key}.cls", cls)] if cls else []),
        ]
    (tmp_path / "a.tar").write_bytes(tar_bytes(files))
    found, classes, told = load(config_of("webdataset", url=str(tmp_path / "a.tar"), **source))
    wanted = dict(zip("01234", labels, strict=True))
    if not source:  # in a batch with others, a sample without a label has -1
        wanted["3"] = -1
    assert (found, told) == (wanted, flaws)
    assert classes == (["dog", "cat"] if "classes" in source else None)


def test_a_dataroom(tmp_path: Path) -> None:
    for name, attributes in [("a", {"kind": "x"}), ("b", {"kind": 1}), ("c", {}), ("d", {"kind": "?"})]:
        add_picture(tmp_path / f"{name}.jpg").with_suffix(".json").write_text(json.dumps({"attributes": attributes}))
    with DataroomServer(tmp_path, payload_port=0) as server:
        source = {"api_url": server.url, "api_key": server.key}
        config = config_of("db", **source, label="kind", classes=["x", "y"])
        found, classes, flaws = load(config)
        assert sorted(found.values()) == [-1, -1, 0, 1]
        assert (classes, flaws) == (["x", "y"], {"no-label": 1, "bad-label": 1})
        assert set(load(config_of("db", **source))[0].values()) == {None}
    with pytest.raises(ConfigError, match="classes is set, but label is not: set label to an attribute"):
        Loader(config_of("db", **source, classes=["x"]), device="cpu")


LABELS = ["dog", None, "cat", "", "ape", "cat"]


def table(root: Path, values: Any, name: str = "t.parquet", column: str = "label", **options: Any) -> Path:
    rows = pa.table({"image": [small_jpeg(at) for at in range(len(values))], column: values})
    return write_table(root / name, rows.replace_schema_metadata(options) if options else rows)


@pytest.mark.parametrize(
    ("values", "source", "labels", "classes", "flaws"),
    [
        (pa.array([3, None, -1, 0]), {}, [3, -1, -1, 0], None, {}),
        (pa.array([3, None, -1, 0]), {"label": "label"}, [3, -1, -1, 0], None, {"no-label": 2}),
        (pa.array([3, None, -1, 0]), {"classes": ["a"]}, [-1, -1, -1, 0], ["a"], {"no-label": 2, "bad-label": 1}),
        (pa.array([3.0, None, 0.5, 0]), {"label": "label"}, [3, -1, -1, 0], None, {"no-label": 1, "bad-label": 1}),
        (pa.array([True, False]), {}, [1, 0], None, {}),
        (pa.array(LABELS), {}, [None] * 6, None, {}),
        (pa.array(LABELS), {"label": "label"}, [2, -1, 1, -1, 0, 1], ["ape", "cat", "dog"], {"no-label": 2}),
        (
            pa.array(LABELS).dictionary_encode(),
            {"label": "label", "filter": "label == 'dog'"},
            [2],
            ["ape", "cat", "dog"],
            {},
        ),
        (
            pa.array(LABELS),
            {"classes": ["cat", "dog"]},
            [1, -1, 0, -1, -1, 0],
            ["cat", "dog"],
            {"no-label": 2, "bad-label": 1},
        ),
        (pa.array([[1], [2]]), {}, [None, None], None, {}),
    ],
)
def test_a_column_of_a_table(
    tmp_path: Path, values: Any, source: dict[str, Any], labels: Any, classes: Any, flaws: dict[str, int]
) -> None:
    path = table(tmp_path, values)
    found, names, told = load(config_of("table", path=str(path), **source))
    assert (list(found.values()), names, told) == (labels, classes, flaws)


def test_hugging_face_class_labels_have_their_names(tmp_path: Path) -> None:
    datasets = needs("datasets")
    features = datasets.Features({"image": datasets.Value("binary"), "kind": datasets.ClassLabel(names=["z", "a"])})
    data = datasets.Dataset.from_dict({"image": [small_jpeg()] * 3, "kind": ["a", "z", "a"]}, features)
    data.to_parquet(str(tmp_path / "t.parquet"))
    found, classes, _ = load(config_of("table", path=str(tmp_path / "t.parquet"), label="kind"))
    assert (list(found.values()), classes) == ([1, 0, 1], ["z", "a"])


def test_tables_of_different_classes_and_columns_of_none_are_refused(tmp_path: Path) -> None:
    def named(names: list[str]) -> str:
        return json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}})

    table(tmp_path / "two", pa.array([0]), "a.parquet", huggingface=named(["x"]))
    table(tmp_path / "two", pa.array([0]), "b.parquet", huggingface=named(["y"]))
    with pytest.raises(ConfigError, match=r"b.parquet has other classes than .*a.parquet, so that their labels differ"):
        load(config_of("table", path=str(tmp_path / "two")))
    assert load(config_of("table", path=str(tmp_path / "two"), classes=["x", "y"]))[1] == ["x", "y"]
    lists = table(tmp_path, pa.array([[0]]), column="kinds")
    with pytest.raises(
        ConfigError, match=r"the column 'kinds' \(label\) of .* has the type list<.*: set source_config"
    ):
        load(config_of("table", path=str(lists), label="kinds"))
    with pytest.raises(ConfigError, match=r"has no column 'label': set source_config.label to a column"):
        load(config_of("table", path=str(lists), classes="x"))


def rows_of(*labels: Any) -> list[Row]:
    return [Row(f"r{at}", small_jpeg(at), label=label, width=40, height=40) for at, label in enumerate(labels)]


def test_rows_of_the_program(tmp_path: Path) -> None:
    found, classes, flaws = load(CONFIG, source=rows_of(2, None, np.int32(-1), None, None, None, True))
    assert (list(found.values()), classes, flaws) == ([2, -1, -1, None, None, None, 1], None, {})
    config = {**CONFIG, "source_config": {"classes": ["a", "b"]}}
    found, classes, flaws = load(config, source=rows_of(1, None, 2, 0, None))
    assert (list(found.values()), classes) == ([1, -1, -1, 0, -1], ["a", "b"])
    assert flaws == {"no-label": 2, "bad-label": 1}
    for wrong in ("cat", 1.5, 2**63):
        with pytest.raises(SourceError, match="row 0 of the source: label must be a"):
            load(CONFIG, source=rows_of(wrong))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_labels_lie_where_the_images_lie(device: str) -> None:
    with Loader(CONFIG, device=usable(device), source=rows_of(4, 0, 2**40)) as loader:
        batch = next(loader)
    assert batch.labels.__dlpack_device__() == batch.image.__dlpack_device__()
    assert (batch.labels.dtype, on_host(batch.labels).tolist()) == (np.int64, [4, 0, 2**40])
    assert [sample.label for sample in batch] == [4, 0, 2**40]
    assert on_host(batch[1:].labels).tolist() == [0, 2**40]


def test_in_lockstep_labels_stay_with_their_samples_and_fills(tmp_path: Path) -> None:
    """Row 1 is bad, so that another row fills its place; in the batch of rows 3 to 5 no sample is good."""
    rows = rows_of(5, 6, 7, 8, 9, 10)
    for at in (1, 3, 4, 5):
        rows[at].image = b"no picture"
    config = {**CONFIG, "lockstep": True, "source_config": {"classes": [str(at) for at in range(20)]}}
    with Loader(config, device="cpu", backend="pillow", source=rows) as loader:
        first, second = loader
    assert set(zip(first.ids, first.labels.tolist(), strict=True)) == {("r0", 5), ("r2", 7)}
    assert (len(first), first.real.sum()) == (3, 2)
    assert (second.labels.dtype, second.labels.tolist(), second.real.any()) == (np.int64, [-1, -1, -1], False)


def test_a_dataset_yields_tensors_and_names_the_classes_before_the_first_pass(tmp_path: Path) -> None:
    torch = needs("torch")
    from datago_gpu.torch import LoaderDataset

    for name in ("b/1.jpg", "a/2.jpg", "a/3.jpg"):
        add_picture(tmp_path / name)
    dataset = LoaderDataset(config_of("file", root_path=str(tmp_path), labels="folder"), device="cpu")
    assert pickle.loads(pickle.dumps(dataset)).classes == dataset.classes == ["a", "b"]
    (batch,) = dataset
    assert batch["labels"].dtype == torch.int64
    assert torch.equal(batch["labels"], torch.tensor([0, 0, 1]))
    torch.nn.functional.cross_entropy(torch.zeros(3, 2), batch["labels"], ignore_index=-1)
