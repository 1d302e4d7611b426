"""What goes wrong in the whole pipeline: one sentence, a failed summary, no run that looks finished, nothing half-made."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bccp
from bccp.core.errors import BCCPError
from bccp.data import tables
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger

QUICK = ["preprocessing.image_size=16", "train.epochs=1", "bayes_cutoff.epochs=1", "bayes_cutoff.passes=2", "main.threads=1"]
QUICK += ["tracking.wandb=disabled"]

MakeFolder = Callable[..., Path]


def refused(home: Path, *overrides: str) -> str:
    """Run, and return the sentence after checking what must hold after every error."""
    with pytest.raises(BCCPError) as caught:
        bccp.run([*QUICK, *overrides])
    sentence = str(caught.value)
    assert "\n" not in sentence
    (path,) = (home / "outputs").rglob("summary.json")
    summary = json.loads(path.read_text())
    assert summary["status"] == "failed"
    assert summary["error"] == sentence
    assert len(summary["steps"]) == 8
    ledger = Ledger(ledger_uri(None)[0])
    runs = ledger.client.search_runs([ledger.experiment_id])
    statuses = {run.info.run_name.partition("-20")[0]: run.info.status for run in runs}
    assert "RUNNING" not in statuses.values()
    for run in runs:
        if run.info.status != "FINISHED":
            assert "bccp.key" not in run.data.tags
    finished = {step["name"] for step in summary["steps"] if step["status"] == "ran"}
    shared = {
        "image_sizes",
        "monday_model",
        "monday_passes",
        "features",
        "student",
        "untrusted_judgement",
        "folder_checks",
    }  # whole, for the next run
    assert {name for name, status in statuses.items() if status == "FINISHED"} - shared == finished
    assert not list((home / "tmp").glob("*"))
    return sentence


def test_an_empty_folder(home: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused(home, "data.source=folder", f"data.path={tmp_path / 'empty'}")


def test_a_folder_that_is_not_there(home: Path, tmp_path: Path) -> None:
    assert "nowhere" in refused(home, "data.source=folder", f"data.path={tmp_path / 'nowhere'}")


def test_one_class_only(home: Path, image_folder: MakeFolder) -> None:
    assert "of one class, 'cat'" in refused(home, "data.source=folder", f"data.path={image_folder({'cat': 12})}")


def test_a_class_with_one_image(home: Path, image_folder: MakeFolder) -> None:
    sentence = refused(home, "data.source=folder", f"data.path={image_folder({'cat': 12, 'dog': 12, 'emu': 1})}")
    assert "'emu'" in sentence
    assert "only one image" in sentence


def bad_files(folder: Path) -> None:
    """One of each kind of file that cannot be read, beside a JPEG, a palette and an RGBA image that can."""
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole, "JPEG")
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(whole.getvalue()[:-400])
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    (folder / "good.jpg").write_bytes(whole.getvalue())


def test_unreadable_files_are_quarantined_with_their_reason_and_the_run_goes_on(home: Path, image_folder: MakeFolder) -> None:
    folder = image_folder({"cat": 40, "dog": 40})
    bad_files(folder / "cat")
    steps = "main.execute_steps=[fetch_data,preprocessing,segregation]"
    summary = bccp.run([*QUICK, "data.source=folder", f"data.path={folder}", steps])
    assert summary["metrics"]["preprocessing/images"] == 81
    assert summary["metrics"]["preprocessing/rejected"] == 4
    clean = Ledger(ledger_uri(None)[0]).fetch(f"clean_data:{summary['steps'][1]['outputs']['clean_data']}")
    quarantine = tables.read(clean / "quarantine.csv").set_index("image")["reason"]
    assert sorted(quarantine.index) == ["cat/bomb.png", "cat/cut.jpg", "cat/empty.png", "cat/text.jpg"]
    assert quarantine.nunique() >= 3


def test_too_many_unreadable_files(home: Path, image_folder: MakeFolder) -> None:
    folder = image_folder({"cat": 12, "dog": 12})
    bad_files(folder / "cat")
    sentence = refused(home, "data.source=folder", f"data.path={folder}")
    assert "preprocessing.max_rejected_rate" in sentence
    assert "4 of 29" in sentence


@pytest.mark.parametrize("member", ["../escape.png", "/etc/escape.png"])
def test_an_archive_that_escapes(home: Path, tmp_path: Path, member: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("cat/a.png", b"x")
        archive.writestr(member, b"x")
    assert "escape.png" in refused(home, "data.source=archive", f"data.path={tmp_path / 'bad.zip'}")
    assert not list(tmp_path.glob("**/escape.png"))


def test_a_wrong_checksum(home: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("cat/a.png", b"x")
    sentence = refused(home, "data.source=archive", f"data.path={tmp_path / 'images.zip'}", f"data.sha256={'0' * 64}")
    assert "0" * 64 in sentence


def test_a_url_that_is_down(home: Path) -> None:
    assert "127.0.0.1:9" in refused(home, "data.source=archive", "data.path=http://127.0.0.1:9/images.zip")


def test_a_feedback_file_without_its_columns(home: Path, image_folder: MakeFolder, tmp_path: Path) -> None:
    feedback = tmp_path / "feedback.csv"
    feedback.write_text("picture,colour,mood\ncat/000.png,red,good\n")
    folder = image_folder({"cat": 12, "dog": 12})
    options = ["data.source=folder", f"data.path={folder}", "noisy_labels.source=file", f"noisy_labels.feedback_file={feedback}"]
    sentence = refused(home, *options)
    assert f"the feedback file {feedback} has no column 'label' (its columns are 'picture', 'colour', 'mood')" in sentence
    assert '"noisy_labels.columns={label: colour}"' in sentence


def test_a_ratio_that_the_buffer_cannot_give(home: Path, image_folder: MakeFolder) -> None:
    folder = image_folder({"cat": 40, "dog": 14})
    sentence = refused(
        home,
        "data.source=folder",
        "noisy_labels.source=simulated",
        f"data.path={folder}",
        "cp_sampling.type=l2_norm",
        "cp_sampling.ratio=1.0",
    )
    assert "use cp_sampling.ratio=0.5 or less" in sentence


def test_steps_without_their_inputs_name_the_step_that_makes_them(home: Path) -> None:
    sentence = refused(home, "main.execute_steps=[train,test]")
    assert "add fetch_data to main.execute_steps" in sentence


def test_weights_that_do_not_fit_the_model(home: Path, image_folder: MakeFolder, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    torch.save({"first.weight": torch.zeros(3, 3)}, weights)
    folder = image_folder({"cat": 12, "dog": 12})
    sentence = refused(home, "data.source=folder", f"data.path={folder}", f"train.weights={weights}")
    assert str(weights) in sentence
    assert "small_cnn" in sentence


def test_a_write_that_the_disk_refuses_ends_with_one_sentence_and_the_next_run_starts_clean(
    home: Path, image_folder: MakeFolder, root: Path
) -> None:
    folder = image_folder({"cat": 30, "dog": 30}, size=64)
    words = [*QUICK, "preprocessing.image_size=512", "data.source=folder", f"data.path={folder}"]
    words += ["main.execute_steps=[fetch_data,preprocessing]"]

    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000_000, 8_000_000))

    command = [sys.executable, str(root / "main.py"), *words]
    failed = subprocess.run(command, capture_output=True, text=True, preexec_fn=small_files_only, env=dict(os.environ), check=False)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("error: ")
    assert "cannot be written" in failed.stderr.splitlines()[-1]
    assert "Traceback" not in failed.stderr
    assert not list((home / "tmp").glob("*"))
    summary = bccp.run(words)
    assert [step["status"] for step in summary["steps"][:2]] == ["reused", "ran"]
