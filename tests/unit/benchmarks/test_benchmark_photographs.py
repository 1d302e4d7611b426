"""The benchmark of photographs: copies stay on one side, the pipeline's days are paired by seed, and made-up photographs are read."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import bccp
from bccp.core.errors import BCCPError
from benchmarks import pairs, photographs


def test_copies_leak_into_a_random_split_alone() -> None:
    rng = np.random.default_rng(0)
    features, copies = np.repeat(rng.normal(size=(40, 64)), 3, axis=0).astype(np.float32), np.repeat(np.arange(40), 3)
    label_idx = np.repeat(rng.integers(0, 2, 40), 3)  # of no connection with the features
    together, apart = (
        np.mean([photographs.held_out_scores(features, label_idx, groups, copies, seed)["accuracy"] for seed in range(2)])
        for groups in (copies, np.arange(120))
    )
    assert together < 0.6 < 0.7 < apart


def test_classes_that_the_features_tell_apart_are_found() -> None:
    label_idx = np.arange(60) % 3
    found = photographs.held_out_scores(np.eye(3, dtype=np.float32)[label_idx], label_idx, np.arange(60), np.arange(60), 1)
    assert found == {"accuracy": 1.0, "macro-F1": 1.0}


def test_what_the_pipeline_has_told_apart_is_one_group_by_the_hash_alone() -> None:
    manifest = pd.DataFrame({"sha256": ["a", "b", "c", "c"], "phash": ["1", "1+1", "2", "2"]})
    found = photographs.groupings(manifest)
    assert found[photographs.TOGETHER].tolist() == [0, 1, 2, 2]
    assert found[photographs.BY_HASH].tolist() == [0, 0, 1, 1]
    assert len(set(found[photographs.RANDOM])) == 4


def test_days_are_told_by_what_cleansed_labels_lack_of_true_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(options: list[str]) -> dict[str, Any]:
        asked.append(options)
        worse = 0.03 * ("noisy_labels.label=ground_truth" not in options) + 0.1 * ("bayes_cutoff.enabled=false" in options)
        return {"metrics": dict.fromkeys(photographs.DAY_METRICS, 0.8 - worse)}

    monkeypatch.setattr(bccp, "run", run)
    lines = photographs.days(["data.source=folder"], range(1, 3)).splitlines()
    assert len(asked) == 6
    assert all({"data.source=folder", "noisy_labels.source=simulated"} <= set(options) for options in asked)
    assert lines[-2].startswith(f"| {photographs.FULL} minus true labels, same replay | -0.0300 ± 0.0000")
    assert lines[-1].startswith(f"| {photographs.FULL} minus labels as given, same replay | 0.1000 ± 0.0000")


def test_made_up_photographs_differ_and_each_part_is_timed(tmp_path: Path) -> None:
    photographs.make_photographs(tmp_path / "some.zip", 5, size=(80, 60))
    photographs.make_photographs(tmp_path / "again.zip", 5, size=(80, 60))
    with zipfile.ZipFile(tmp_path / "some.zip") as some, zipfile.ZipFile(tmp_path / "again.zip") as again:
        assert some.namelist() == [f"class{number % 3}/{number:05d}.jpg" for number in range(5)]
        assert [some.read(name) for name in some.namelist()] == [again.read(name) for name in some.namelist()]
        assert len({some.read(name) for name in some.namelist()}) == 5
    told = photographs.time_parts(tmp_path / "some.zip", 1)
    assert list(told["parts"]) == ["decode", "digest", "resize", "pHash"]
    assert all(seconds > 0 for seconds in told["parts"].values())
    assert told["began"] < told["ended"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_that_of_a_process_and_its_children() -> None:
    code = "import subprocess, sys; held = bytes(40_000_000).replace(b'\\0', b'x'); print(flush=True)"
    parent = f"{code}; subprocess.run([sys.executable, '-c', {code + '; input()'!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(2):
            process.stdout.readline()
        assert photographs.memory_of(process.pid) > 80_000_000
        process.communicate(b"\n")
    assert photographs.memory_of(process.pid) == 0


def test_classes_are_wanted_where_images_are_compared() -> None:
    with pytest.raises(BCCPError, match="need --data: give a folder"):
        photographs.main(["--only", "splits"])
    assert pairs.images(None) == []
