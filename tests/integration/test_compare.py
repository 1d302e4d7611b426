"""Two pipelines of a ledger side by side."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bccp.cli.app import call
from bccp.core.errors import BCCPError
from bccp.data import tables
from bccp.tracking import finished_runs
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from support.predictions import predictions


def record(place: Path, *, images: int, wrong: int, epochs: int, status: str = "FINISHED", labels: str = "cat") -> str:
    """A pipeline as the orchestrator leaves it: a run with settings, and artifacts of its steps."""
    ledger = Ledger(ledger_uri(None)[0])
    ids = [f"cat/{i:02d}.png" for i in range(images)]
    parent = ledger.start("pipeline", tags={"bccp.pipeline": place.name, "bccp.folder": str(place)})
    settings = {"train.model": "small_cnn", "train.epochs": str(epochs), "bayes_cutoff.model": "small_cnn", "main.random_seed": str(epochs)}
    settings |= {"train.random_seed": str(epochs), "tracking.wandb": str(place), "hydra_options": str(place)}
    ledger.log_params(parent, settings)
    ledger.log_metrics(parent, {"test/accuracy": 1 - wrong / 20, "train/val_accuracy": 0.5 + epochs / 100, "preprocessing/images": images})
    manifest = pd.DataFrame({"image": ids, "sha256": [f"{i:064d}" for i in range(images)], "label": "cat"})
    truth = ["cat", "dog"] * 10
    tested = predictions(
        truth, ["dog" if i < wrong and t == "cat" else t for i, t in enumerate(truth)], names=[f"test {i}" for i in range(20)]
    )
    given = pd.DataFrame({"image": ids[:10], "label": labels})
    made = {
        "clean_data": (manifest, "manifest.csv"),
        "given_labels": (given, "given_labels.csv"),
        "evaluation": (tested, "predictions.csv"),
    }
    for step, (name, (table, file)) in zip(("preprocessing", "noisy_labels", "test"), made.items(), strict=True):
        folder = place / name
        folder.mkdir(parents=True)
        tables.write(table, folder / file)
        run_id = ledger.start(step, parent=parent, tags={"bccp.step": step})
        ledger.publish(run_id, name, folder)
        ledger.end(run_id, "FINISHED")
    ledger.end(parent, status)
    return parent


def told(a: str, b: str, *more: str) -> None:
    assert call(["compare", a, b, *more]) == 0


def test_two_runs_are_told_apart_in_settings_data_labels_and_figures(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = record(tmp_path / "2026-11-21_10-00-00-abc123", images=30, wrong=8, epochs=3)
    two = record(tmp_path / "2026-11-21_10-00-00-abc124", images=32, wrong=0, epochs=5, labels="dog")
    told(one, two[:8], "--out", str(tmp_path / "out"))
    page = (tmp_path / "out" / "compare.md").read_text()
    assert capsys.readouterr().out == f"{page}\nwritten: {tmp_path / 'out' / 'compare.md'}, compare.csv, compare_images.csv\n"
    assert re.findall(r"^\| (\S+\.\S+) +\| (\S+) +\| (\S+) +\|$", page.split("## Data")[0], re.MULTILINE) == [
        ("train.epochs", "3", "5"),
        ("main.random_seed", "3", "5"),  # the seeds that follow it are not told again, nor where runs are recorded
    ]
    assert re.search(r"\| added +\| 2 +\|\n\| given label +\| 10 +\|", page)
    assert "| cat/30.png | added" in page
    figures = tables.read(tmp_path / "out" / "compare.csv").set_index("metric")
    assert figures.loc["test/accuracy", ["a", "b", "difference", "images"]].tolist() == ["0.8", "1.0", "0.19999999999999996", "20.0"]
    assert 0 < float(figures.loc["test/accuracy", "low"]) < 0.2
    assert figures.loc["train/val_accuracy", "low"] == ""
    listed = tables.read(tmp_path / "out" / "compare_images.csv")
    assert listed["change"].value_counts().to_dict() == {"given label": 10, "added": 2}
    told("abc123", one)
    page = capsys.readouterr().out
    for said in ("Nothing differs.", "All artifacts are the same.", f"written: {home / 'compare' / f'abc123_{one}' / 'compare.md'}"):
        assert said in page


def test_data_versions_are_compared_through_the_newest_run_on_them(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path / "one", images=30, wrong=8, epochs=3)
    run = record(tmp_path / "two", images=31, wrong=4, epochs=3)
    ledger = Ledger(ledger_uri(None)[0])
    digests = [found.data.tags["bccp.output.clean_data"] for found in finished_runs.search(ledger, "tags.`bccp.step` = 'preprocessing'")][
        ::-1
    ]
    told(f"clean_data:{digests[0][:12]}", f"clean_data:{digests[1]}")
    page = capsys.readouterr().out
    assert f"B: clean_data:{digests[1][:12]} (run {run})" in page
    assert re.search(r"\| added +\| 1 +\|", page)
    assert re.search(r"\| test/accuracy +\| 0\.8000 \| 0\.9000 \| \+0\.1000 \|", page)
    unused = tmp_path / "clean_data"
    unused.mkdir()
    tables.write(pd.DataFrame({"image": ["x"], "sha256": "x", "label": "cat"}), unused / "manifest.csv")
    told(run, f"clean_data:{ledger.import_artifact('clean_data', unused)}")
    page = capsys.readouterr().out
    assert "(no finished run)" in page
    assert "B has no evaluation: nothing is paired" in page
    assert re.search(r"\| added +\| 1 +\|\n\| removed +\| 31 +\|", page)


def test_a_summary_or_its_folder_stands_for_its_run(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = record(tmp_path / "run", images=30, wrong=8, epochs=3)
    ledger = Ledger(ledger_uri(None)[0])
    pipeline = finished_runs.find(run, ledger, option="A")
    said: dict[str, Any] = {"status": "finished", "metrics": pipeline.metrics, "config": {"train": {"epochs": 4}, "tracking": {}}}
    said["steps"] = [{"name": "all", "outputs": pipeline.versions}]
    (tmp_path / "run" / "summary.json").write_text(json.dumps(said))
    told(str(tmp_path / "run"), run)
    assert re.search(r"\| train.epochs +\| 4 +\| 3 +\|", capsys.readouterr().out)


def test_runs_that_are_unknown_unfinished_or_not_told_apart_are_one_sentence(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = record(tmp_path / "one-aaaaaa", images=3, wrong=0, epochs=3)
    record(tmp_path / "two-aaaaaa", images=3, wrong=0, epochs=3)
    record(tmp_path / "run-failed", images=3, wrong=0, epochs=3, status="FAILED")
    wrong = {
        "": "A is missing: give two runs or data versions",
        "0" * 32: "A=0{32} is not in sqlite:",
        "zzzzzz": "A=zzzzzz is not in sqlite:",
        "aaaaa": "A=aaaaa is not in sqlite:",  # too short to be looked for
        "run-failed": "A=run-failed is no pipeline that finished",
        "/nowhere/summary.json": "A=/nowhere/summary.json does not exist",
        "clean_data:" + "0" * 12: "no artifact clean_data:0{12} is in",
    }
    for named, message in wrong.items():
        assert call(["compare", named, run]) == 1, named
        assert re.match(f"error: {message}", capsys.readouterr().err.splitlines()[-1]), named
    summary = tmp_path / "summary.json"
    for text in ("{", "[]", '{"steps":[],"config":[]}', '{"steps":{"a":1},"config":{},"status":"finished"}', '{"steps":[{}],"config":{}}'):
        summary.write_text(text)
        assert call(["compare", str(summary), run]) == 1, text
        assert capsys.readouterr().err.startswith(f"error: A={summary} is no summary of a run: give a summary.json"), text
    ledger = Ledger(ledger_uri(None)[0])
    assert finished_runs.find("one-aaaaaa", ledger, option="A").shown == f"run {run}"
    with pytest.raises(BCCPError, match="A=aaaaaa is the beginning or end of 2 runs' names: give more of it"):
        finished_runs.find("aaaaaa", ledger, option="A")
