"""docs/metrics.md and the board for Grafana name the metrics that there are, and the examples run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from datago_gpu.loader.flat import FLAT_NAMES
from datago_gpu.metrics.catalog import METRICS
from tests.support.images import SHAPES, add_pictures
from tests.support.needs import needs

DOCS = Path(__file__).parent.parent.parent / "docs"
TEXT = (DOCS / "metrics.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
UNITS = {
    "s": "seconds",
    "By": "bytes",
    "1": "0 to 1",
    "{sample}": "samples",
    "{batch}": "batches",
    "{item}": "items",
    "": "",
}


def rows(heading: str) -> list[list[str]]:
    """The rows of the table that follows a heading."""
    part = re.split(r"^#+ ", TEXT.partition(f"# {heading}\n")[2], flags=re.MULTILINE)[0]
    found = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in found[2:]]


def test_the_page_lists_every_metric_with_its_unit_and_meaning() -> None:
    listed = [[cell.replace("`", "") if at < 5 else cell for at, cell in enumerate(row)] for row in rows("Names")]
    assert listed == [
        [each.prometheus_name, each.otel_name, each.kind, UNITS[each.unit], ", ".join(each.labels), each.meaning]
        for each in METRICS
    ]


def test_the_page_lists_every_flat_name() -> None:
    assert rows("Flat names") == [[f"`{name}`", meaning] for name, meaning in FLAT_NAMES.items()]


def test_names_follow_the_conventions_of_prometheus() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"datago_gpu_[a-z_]+", metric.prometheus_name)
        assert metric.prometheus_name.endswith("_total") == (metric.kind == "counter")
        assert metric.meaning.endswith(".")
        assert not {"name", "rank"} & set(metric.labels)


def test_the_board_queries_metrics_and_labels_that_there_are() -> None:
    board = json.loads((DOCS / "grafana.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    expressions += [each["query"]["query"] for each in board["templating"]["list"][1:]]
    named = {name for text in expressions for name in re.findall(r"\bdatago_gpu_\w+", text)}
    metrics = {metric.prometheus_name: metric for metric in METRICS}
    metrics |= {f"{metric.prometheus_name}_bucket": metric for metric in METRICS if metric.kind == "histogram"}
    assert named <= metrics.keys()
    for text in expressions:
        used = [metrics[name] for name in re.findall(r"\bdatago_gpu_\w+", text)]
        labels = {"name", "rank", "le", *(label for metric in used for label in metric.labels)}
        grouped = [each.strip() for group in re.findall(r"by \(([^)]*)\)", text) for each in group.split(",")]
        assert {*grouped, *re.findall(r'(\w+)=~?"', text)} <= labels, text
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    ids = {panel["datasource"]["uid"] for panel in board["panels"]}
    assert ids == {"${datasource}"}


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("torch")
    for package in ("prometheus_client", "opentelemetry.sdk"):
        needs(package)
    (tmp_path / "photos").mkdir()
    add_pictures(tmp_path / "photos", [SHAPES[0]] * 8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    small = '"batch_size": 2, "decode_config": {"processes": 0}'
    found: dict[str, Any] = {}
    for block in BLOCKS:
        if "Callback" not in block:  # tests/frameworks runs these
            exec(block.replace("port=9400", "port=0").replace('"batch_size": 32', small).replace("512", "64"), found)
    assert found["scalars"].keys() >= {"data/samples_per_second", "data/data_wait_p99_seconds"}
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    found["batches"].close()
