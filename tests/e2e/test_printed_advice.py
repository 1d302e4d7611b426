"""What a run advises is followed to the letter."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bccp.cli.app import call
from bccp.core.home import home as the_home
from bccp.data import tables

QUICK = [
    "tracking.wandb=disabled", "main.threads=1", "preprocessing.image_size=16", "noisy_labels.source=folder", "main.target_day=monday",
    "bayes_cutoff.epochs=4", "bayes_cutoff.passes=2", "bayes_cutoff.folds=2", "bayes_cutoff.rounds=0", "train.epochs=1", "test.bootstrap=0",
]  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    """Run the pipeline; what it prints."""
    assert call(["run", *QUICK, *options]) == 0, capsys.readouterr().err
    return capsys.readouterr().out.splitlines()


def test_every_sentence_of_a_run_can_be_followed(
    home: Path, image_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    images = image_folder({"cat": 18, "dog": 18})
    for name in ("000", "001", "002"):
        (images / "dog" / f"{name}.png").rename(images / "cat" / f"stray-{name}.png")
    data = ["data.source=folder", f"data.path={images}"]
    to_labels = "main.execute_steps=[fetch_data,preprocessing,segregation,noisy_labels,bayes_cutoff]"
    said = run(capsys, *data, "bayes_cutoff.method=cleanlab", to_labels)
    (advice,) = [line for line in said if "to check labels: copy " in line]
    report, key = re.search(r"copy (\S+), .* give the copy as (bayes_cutoff\.audit_file)$", advice).groups()
    folder = Path(report).parent
    assert folder.parent == the_home() / "outputs"
    assert (folder / "summary.json").exists()  # the run's own folder, and below no digest
    table = tables.read(Path(report))
    asked = table["chosen"].isin(["suspect", "random"])
    assert f"the {(table['chosen'] == 'suspect').sum()} rows with chosen=suspect" in advice
    assert f"all {(table['chosen'] == 'random').sum()} with chosen=random" in advice
    truth = ["dog" if "stray" in image or image.startswith("dog/") else "cat" for image in table["image"]]
    filled = [label if wanted else "" for label, wanted in zip(truth, asked, strict=True)]
    tables.write(table.assign(label=filled), tmp_path / "checked.csv")
    again = run(capsys, *data, "bayes_cutoff.method=cleanlab", f"{key}={tmp_path / 'checked.csv'}")
    assert any("of the labels are wrong, as far as" in line and "at least" not in line for line in again)
    look = again[again.index("look next:") + 1 :]
    places = dict(line.split(maxsplit=1) for line in look)
    assert Path(places["summary"]).is_file()
    assert Path(places["report"]).is_file()
    command = shlex.split(places["every"].removeprefix("run"))
    assert shutil.which(command[0])
    assert command[-1].startswith("sqlite:///")
    # what was exported is data again
    out = tmp_path / "cleaned"
    assert call(["export-data", "--out", str(out)]) == 0
    assert call(["predict", "--model", places["summary"], "--images", str(out), "--out", str(tmp_path / "predictions.csv")]) == 0
    assert "36 of 36 files have an answer" in capsys.readouterr().out
    steps = "main.execute_steps=[fetch_data,preprocessing]"
    run(capsys, steps, "data.source=folder", f"data.path={out}", "preprocessing.max_rejected_rate=0")
