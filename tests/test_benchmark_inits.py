"""The benchmark of where retraining starts: the cells are trained alike, and differences are paired by seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import bccp
from bccp.errors import BCCPError
from benchmarks import inits


def test_starts_are_compared_at_equal_steps_and_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(options: list[str]) -> dict[str, Any]:
        asked.append(options)
        seed = int(next(word for word in options if word.startswith("main.random_seed")).partition("=")[2])
        value = 0.1 * seed + 0.01 * ("train.init=monday_model" in options)
        return {"metrics": dict.fromkeys(inits.METRICS, value)}

    monkeypatch.setattr(bccp, "run", run)
    table = inits.report(inits.measure(3, [4], ["train.batch_size=32"])).splitlines()
    assert len(asked) == 6
    assert all({"train.epochs=4", "train.patience=null", "train.batch_size=32"} <= set(options) for options in asked)
    assert table[4].startswith("| 4 | scratch | 0.2000 ± 0.24")
    assert table[5].startswith("| 4 | monday_model minus scratch | 0.0100 ± 0.0000")


def test_the_images_may_be_ones_own(tmp_path: Path) -> None:
    assert inits.images(None) == []
    assert inits.images(tmp_path) == ["data.source=folder", f"data.path='{tmp_path}'"]
    with pytest.raises(BCCPError, match="does not exist: give a folder or an archive"):
        inits.images(tmp_path / "none")
