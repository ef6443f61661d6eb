"""The doctor tries each source of a mix."""

from __future__ import annotations

from pathlib import Path

from datago_gpu.config import LoaderConfig
from datago_gpu.doctor.memory import MemorySum
from datago_gpu.doctor.source_trial import checks
from tests.support.images import add_pictures
from tests.support.shards import tar_bytes


def test_each_source_of_a_mix_is_tried_and_its_buffers_are_added_up(tmp_path: Path) -> None:
    add_pictures(tmp_path / "photos", [(40, 40)] * 5)
    (tmp_path / "0.tar").write_bytes(tar_bytes([("a.jpg", (tmp_path / "photos" / "0000.jpg").read_bytes())]))
    shards = {"url": str(tmp_path / "0.tar"), "buffer_mb": 7}
    sources = [
        {"name": "photos", "source_type": "file", "source_config": {"root_path": str(tmp_path / "photos")}},
        {"name": "one", "source_type": "webdataset", "source_config": shards},
        {"name": "other", "source_type": "webdataset", "source_config": shards},
    ]
    config = LoaderConfig.load({"source_type": "mix", "source_config": {"sources": sources}, "batch_size": 2})
    found = {check.name: check for check in checks(config, "cpu", "pillow", 20)}
    names = ["source of 'photos'", "source of 'one'", "source of 'other'", "first sample", "first batch"]
    assert list(found) == names
    assert {check.state for check in found.values()} == {"ok"}
    feeder = MemorySum.of(config, "pillow").feeder
    assert feeder["buffer_mb of one"] == feeder["buffer_mb of other"] == 7 << 20
    sources[1]["source_config"] = {"url": str(tmp_path / "none.tar")}
    broken = LoaderConfig.load({"source_type": "mix", "source_config": {"sources": sources}, "batch_size": 2})
    assert [check.name for check in checks(broken, "cpu", "pillow", 20) if check.state == "fail"] == ["source of 'one'"]
