"""The command `plan`: how many steps of which shapes, and the arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from datago_gpu.cli.plan import plan
from datago_gpu.errors import ConfigError

FLAGS = ["--crop-and-resize", "--default-image-size", "64", "--downsampling-ratio", "16"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [f"{number}.jpg,{60 if number % 3 else 30},{60}" for number in range(10)]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(["path,width,height", *rows, "no-size.jpg,,"]) + "\n")
    return path


def test_a_plan_is_printed_and_saved(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.npz"
    source = ["--source-type", "table", "--path", str(table), "--world-size", "2", "--rank", "0", "--batch-size", "2"]
    result = CliRunner().invoke(plan, [*FLAGS, *source, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "2 x 80 x 48" in result.output
    assert "2 ranks, 4 samples in each step" in result.output
    with np.load(out) as arrays:
        assert arrays["rows"].tolist() == [[1, 2, 4, 5], [0, 3, 6, 9], [7, 8, 7, 8]]
        assert arrays["real"].tolist()[2] == [True, True, False, False]
        assert arrays["buckets"].tolist() == [[64, 64], [80, 48], [64, 64]]
        assert arrays["left_out"].tolist() == []


def test_a_plan_of_batches_by_pixels_is_as_wide_as_its_largest_batch(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.npz"
    source = ["--source-type", "table", "--path", str(table), "--world-size", "2", "--batch-pixels", "8000"]
    result = CliRunner().invoke(plan, [*FLAGS, *source, "--out", str(out)], catch_exceptions=False)
    assert "1 x 64 x 64" in result.output
    assert "2 x 80 x 48" in result.output
    assert "2 ranks, up to 4 samples in each step" in result.output
    with np.load(out) as arrays:
        assert arrays["counts"].tolist() == [2, 2, 2, 4]
        assert arrays["rows"].tolist() == [[1, 2, -1, -1], [4, 5, -1, -1], [7, 8, -1, -1], [0, 3, 6, 9]]
        assert arrays["real"].tolist()[0] == [True, True, False, False]


def test_sources_that_lockstep_cannot_plan_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="datago-gpu index CONFIG"):
        CliRunner().invoke(plan, ["--root-path", str(tmp_path)], catch_exceptions=False)
