"""The benchmark of speed, on few images: every row is there, and what is compared is the same work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bccp.core.runtime import device
from benchmarks import speed


def test_the_table_says_what_was_reached() -> None:
    rows = [
        speed.Row("one", "two: 3 s", "≤ 2 s", "1 s", True),
        speed.Row("other", "", "≤ 2 s", "3 s", False),
    ]
    assert speed.table(rows).splitlines()[2:] == ["| one | two: 3 s | ≤ 2 s | 1 s | yes |", "| other |  | ≤ 2 s | 3 s | no |"]


def test_the_plain_loop_gives_the_features_that_the_steps_make(tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    images = speed.draw_images(tmp_path, 70, 32, 100)
    np.testing.assert_array_equal(images[70:100], images[:30])
    model = speed.backbone(32, images)
    slow = np.concatenate([speed.plain_loop(model, images[start : start + 50]) for start in (0, 50)])
    assert 0.1 < slow.std() < 10
    monkeypatch.setattr(device, "features_dtype", lambda device: "float32")
    fast = speed.looked_at(model, images, tmp_path / "features.npy")[:]
    np.testing.assert_allclose(fast, slow, rtol=0.01, atol=0.01 * slow.std())
    assert np.load(tmp_path / "features.npy", mmap_mode="r").dtype == np.float16
    # a deep network whose weights are random makes much of bfloat16's rounding
    monkeypatch.setattr(device, "features_dtype", lambda device: "bfloat16")
    rounded = speed.looked_at(model, images, tmp_path / "rounded.npy")[:]
    assert 0.8 < np.corrcoef(rounded.ravel(), slow.ravel())[0, 1] < 0.9999


@pytest.mark.parametrize(("name", "n_rows"), [("heads", 1), ("features", 1), ("sampling", 2)])
def test_each_row_names_its_rival_and_its_reach(name: str, n_rows: int, tmp_path: Path, one_thread: None) -> None:
    rows = list(speed.ROWS[name](tmp_path, speed.SMOKE))
    assert len(rows) == n_rows
    for row in rows:
        assert "32 px" in row.what
        assert re.search(r"\d", row.rival)
        assert re.match(r"≥ \d", row.reach)
        assert float(re.match(r"[\d.]+", row.measured)[0]) > 0
        assert row.reached in (True, False)


@pytest.mark.slow
def test_processes_are_measured_from_fresh_homes(tmp_path: Path, root: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.speed", "--smoke", "--only", "pipeline", "sweep", "grid", "growth"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 7
    beyond, _, again, _, sweep, grid, growth = rows
    assert "3 cold processes" in beyond[1]
    assert float(again[3].split()[0]) > 0.5
    # the two jobs share all but the last three steps
    assert "11 steps for 11 distinct" in sweep[3]
    assert "for 2 jobs" in grid[3]
    assert "100 images" in growth[1]
