"""Incoming images: checked against what is known, kept apart, and usable as Tuesday's once they are accepted."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bccp
from bccp.cli.app import call
from bccp.core.errors import BCCPError
from bccp.data import tables
from bccp.pipeline import incoming
from bccp.reporting import data_checks_page
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger

STEPS = "main.execute_steps=[fetch_data,preprocessing,segregation]"
QUIET = ["tracking.wandb=disabled", "main.threads=1", "preprocessing.image_size=16"]


@pytest.fixture
def known(home: Path, image_folder: Callable[..., Path]) -> Path:
    """A home in which a pipeline has finished on 60 images, 48 of them of a trusted Monday."""
    images = image_folder({"monday/cat": 24, "monday/dog": 24, "tuesday/cat": 6, "tuesday/dog": 6})
    finish(images, "main.target_day=tuesday", "noisy_labels.source=folder")
    return home


def finish(images: Path, *options: str) -> dict:
    """Run the first steps on a folder, with some settings that are not the defaults."""
    own = ["train.model=resnet_small", "test.registered_model_name=pets"]
    return bccp.run([*QUIET, *own, STEPS, "data.source=folder", f"data.path={images}", *options])


def accepted(data: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[list[str], list[str]]:
    """Check and accept a batch: what is said, and the overrides of the command that is said last."""
    assert call(["check-new", "--data", str(data), "--accept", *options]) == 0
    said = capsys.readouterr().out.splitlines()
    return said, shlex.split(said[-1])[2:]


def joined_names(home: Path) -> set[str]:
    """Files of the batch that was accepted last."""
    newest = max((home / "incoming").glob("*/data.zip"), key=lambda path: path.stat().st_mtime_ns)
    names = zipfile.ZipFile(newest).namelist()
    assert len(names) == len(set(names))
    return set(names)


def new_images(folder: Path, *, n: int = 20, darker: float = 1.0, labels: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Images of the same classes as ``image_folder`` makes; an empty label: in no class folder."""
    for number, label in enumerate(labels):
        rng = np.random.default_rng([0, number])
        prototype = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((4, 4, 1)))
        rng = np.random.default_rng([99, number, n])
        (folder / label).mkdir(parents=True, exist_ok=True)
        for index in range(n // len(labels)):
            noisy = np.clip(darker * (prototype + rng.normal(0, 40, (16, 16, 3))), 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(folder / label / f"{index:03d}.png")
    return folder


def content(folder: Path) -> dict[str, str]:
    """Every file in a home but for the incoming ones, locks and the database's own scratch files."""
    files = (path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in files}
    kept = {name: path for name, path in named.items() if not re.match(r"incoming/|.*\.lock$|mlflow\.db-", name)}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in kept.items()}


def summary_folder(summary: dict, artifact: str) -> Path:
    """Where an artifact of a run lies."""
    version = next(step["outputs"][artifact] for step in summary["steps"] if artifact in step["outputs"])
    return Ledger(ledger_uri(None)[0]).fetch(f"{artifact}:{version}")


def batches(home: Path) -> dict[str, str]:
    return {path.parent.name: json.loads(path.read_text())["status"] for path in (home / "incoming").glob("*/batch.json")}


def test_a_batch_that_has_drifted_is_refused_and_changes_nothing(known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(known)
    data = new_images(tmp_path / "new", darker=0.3)
    arguments = ["--data", str(data), "--accept"]
    assert call(["check-new", *arguments, "--", "preprocessing.checks.drift=0.05 preprocessing.checks.dark=1"]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("compared with run ")
    last = said.err.splitlines()[-1]
    assert re.match(
        r"error: the data check drift has found 0\.\d+, more than preprocessing\.checks\.drift=0\.05: the new data looks ", last
    )
    assert "darker" in last
    ((batch, status),) = batches(known).items()
    assert status == "refused"
    assert f"incoming/{batch}/data_checks/{data_checks_page.DATA_CHECKS_PAGE}" in last
    assert content(known) == before
    assert list((known / "tmp").iterdir()) == []
    assert call(["accept", batch[:6]]) == 1
    assert "was refused, as it is over the limit of drift" in capsys.readouterr().err
    assert call(["check-new", "--data", str(data)]) == 0  # without a limit it may come in
    assert batches(known) == {batch: "waiting"}


def test_an_accepted_batch_is_tuesday_for_the_printed_command_and_the_next_ones_reference(
    known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = new_images(tmp_path / "new")
    assert call(["check-new", "--data", str(data), "--", "preprocessing.checks.drift=0.2"]) == 0
    ((batch, status),) = batches(known).items()
    assert status == "waiting"
    assert f"it is kept apart until: bccp accept {batch}" in capsys.readouterr().out
    assert call(["accept", batch]) == 0
    command = capsys.readouterr().out.splitlines()[-1]
    options = shlex.split(re.fullmatch(r"bccp run (.*)", command)[1])
    # as the reference's run had it
    assert {"preprocessing.image_size=16", "train.model=resnet_small", "test.registered_model_name=pets", "tracking.wandb=disabled"} <= set(
        options
    )
    summary = bccp.run([STEPS, *options])
    days = tables.read(Path(summary_folder(summary, "segregated_data")) / "splits.csv")
    assert (days["day"] == "monday").sum() == 48
    assert (days["day"] == "tuesday").sum() == 12 + 20
    assert summary["metrics"]["segregation/corrupted"] == 0
    assert call(["check-new", "--data", str(data)]) == 1
    assert "was accepted already" in capsys.readouterr().err
    other = new_images(tmp_path / "other", n=12)
    (other / "cat" / "copy.png").write_bytes((data / "cat" / "001.png").read_bytes())
    assert call(["check-new", "--data", str(other), "--accept"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"compared with the accepted batch {batch} ")
    assert re.search("known +no limit +1 of 13 images of the new data are copies of images of the known data", said)
    (place,) = {path.parent for path in (known / "incoming").glob("*/data.zip")} - {known / "incoming" / batch}
    names = zipfile.ZipFile(place / "data.zip").namelist()
    assert len(names) == len(set(names)) == 60 + 20 + 13
    assert f"tuesday/cat/001-{place.name}.png" in names  # the first batch has tuesday/cat/001.png
    reference = incoming.find_reference("", Ledger(ledger_uri(None)[0]))
    assert [version.partition(":")[0] for version in reference.versions] == ["clean_data", "incoming", "incoming"]
    assert sum(len(tables.read(folder / "manifest.csv")) for folder in reference.clean) == 93


def test_images_without_labels_and_without_a_reference_are_checked_by_themselves(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = new_images(tmp_path / "new", labels=("",))
    assert call(["check-new", "--data", str(data), "--", *QUIET]) == 0
    said = capsys.readouterr().out
    assert said.startswith("there is nothing to compare with")
    assert re.search("imbalance +unknown +no image has a label", said)
    (batch,) = batches(home)
    listed = tables.read(home / "incoming" / batch / "clean_data" / "manifest.csv")
    assert set(zip(listed["day"], listed["label"], strict=True)) == {("tuesday", "")}


def test_unlabelled_images_ask_for_feedback_when_they_are_accepted(known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = new_images(tmp_path / "new", labels=("",))
    assert call(["check-new", "--data", str(data), "--accept"]) == 0
    *_, told, command = capsys.readouterr().out.splitlines()
    assert "images named tuesday/<file>" in told
    assert re.search(r"noisy_labels.source=file noisy_labels.feedback_file=\S+/feedback.csv", command)


def test_what_cannot_be_checked_is_one_sentence_and_nothing_is_kept(
    known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "1.png").write_bytes(b"no image")
    days = new_images(tmp_path / "days" / "monday").parent
    (days / "tuesday").mkdir()
    (days / "tuesday" / "1.png").write_bytes((days / "monday" / "cat" / "001.png").read_bytes())
    (tmp_path / "empty").mkdir()
    (tmp_path / "packed").mkdir()
    with zipfile.ZipFile(tmp_path / "packed" / "new.zip", "w") as packed:
        packed.write(broken / "1.png", "1.png")
    (tmp_path / "notes.txt").write_text("no archive")
    wrong = {
        ("--data", ""): "which images?",
        (
            "--data",
            str(tmp_path / "nowhere"),
        ): r"error: DATA=\S+/nowhere does not exist: give a folder, an archive or an ",
        ("--data", "s3://bucket/new"): r"error: DATA=s3://bucket/new does not exist: give a folder",
        ("--data", str(tmp_path / "empty")): r"error: DATA=\S+/empty holds no files: say where there are images$",
        ("--data", str(tmp_path / "packed")): r"error: DATA=\S+/packed holds nothing but the archive 'new.zip': give DATA=\S+/new.zip$",
        ("--data", str(tmp_path / "packed" / "new.zip")): r"none of the 1 files is a readable image; the first: '1.png' \(",
        ("--data", str(tmp_path / "notes.txt")): r"error: DATA=\S+/notes.txt ",
        ("--data", str(broken)): r"none of the 1 files is a readable image; the first: '\S+/broken/1.png' \(",
        ("--data", str(days)): "give new images only",
        ("--data", str(days), "--reference", "0" * 32): "REFERENCE=0+ is not in sqlite:",
        ("--data", str(days), "--", "preprocessing.checks.drfit=1"): "unknown key 'preprocessing.checks.drfit'",
    }
    for arguments, message in wrong.items():
        assert call(["check-new", *arguments]) == 1, arguments
        assert re.search(message, capsys.readouterr().err.splitlines()[-1]), arguments
    assert not batches(known)


def test_a_reference_is_found_by_its_version_and_none_is_none(known: Path) -> None:
    ledger = Ledger(ledger_uri(None)[0])
    newest = incoming.find_reference("", ledger)
    assert (newest.settings["image_size"], newest.settings["resize"]) == (16, "stretch")
    assert incoming.find_reference(newest.versions[0][:23], ledger).clean == newest.clean
    assert incoming.find_reference("none", ledger) is None
    with pytest.raises(BCCPError, match="no artifact clean_data:0"):
        incoming.find_reference("clean_data:" + "0" * 12, ledger)


def test_names_that_the_reference_doubted_become_nobodys_monday(
    home: Path, image_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(image_folder({"cat": 30, "dog": 30}), "main.target_day=monday", "noisy_labels.source=folder")
    data = new_images(tmp_path / "new")
    said, options = accepted(data, capsys)
    assert "the reference trusted no label: it and the batch are one folder without days, with the labels as they were given" in said
    assert {"main.target_day=monday", "noisy_labels.source=folder", "train.model=resnet_small"} <= set(options)
    names = joined_names(home)
    assert len(names) == 80
    assert {name.split("/")[0] for name in names} == {"cat", "dog"}
    summary = bccp.run([STEPS, *options])
    splits = tables.read(summary_folder(summary, "segregated_data") / "splits.csv")
    assert set(splits["day"]) == {"monday"}
    assert set(splits["label"]) == {""}  # nothing is trusted
    # a later batch, against the accepted one: still nothing
    later, _ = accepted(new_images(tmp_path / "later", n=6), capsys)
    assert "the reference trusted no label: it and the batch are one folder without days, with the labels as they were given" in later
    assert len(joined_names(home)) == 86
    assert {name.split("/")[0] for name in joined_names(home)} == {"cat", "dog"}


def test_a_reference_that_judged_no_label_trusts_none_and_unlabelled_images_are_refused_beside_it(
    home: Path, image_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = image_folder({"cat": 10, "dog": 10})
    bccp.run([*QUIET, "main.execute_steps=[fetch_data,preprocessing]", "data.source=folder", f"data.path={images}"])
    accepted(new_images(tmp_path / "new", n=6), capsys)
    assert {name.split("/")[0] for name in joined_names(home)} == {"cat", "dog"}
    loose = new_images(tmp_path / "loose", labels=("",))
    assert call(["check-new", "--data", str(loose), "--accept", "--reference", "none"]) == 0  # a set of its own
    capsys.readouterr()
    other = new_images(tmp_path / "other", n=4, labels=("",))
    newest = bccp.run([*QUIET, "main.execute_steps=[fetch_data,preprocessing]", "data.source=folder", f"data.path={images}"])
    assert call(["check-new", "--data", str(other), "--accept", "--reference", newest["folder"]]) == 1
    assert "put them into class folders, whose names may be wrong" in capsys.readouterr().err.splitlines()[-1]


def test_feedback_of_an_earlier_batch_is_kept_when_the_next_one_comes(
    known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said, options = accepted(new_images(tmp_path / "new", n=8, labels=("",)), capsys)
    # the reference's own Tuesday had doubtful folder names: under a feedback file they would be the truth, so that they become votes
    assert sum(name.count("/") == 1 and name.startswith("tuesday/") for name in joined_names(known)) == 12 + 8
    (place,) = (known / "incoming").iterdir()
    kept = place / "feedback.csv"
    assert f"noisy_labels.feedback_file={kept}" in options
    assert any("8 images such as tuesday/000" in line and str(kept) in line for line in said)
    table = tables.read(kept)
    assert sorted(table["label"]) == ["cat"] * 6 + ["dog"] * 6
    unlabelled = [name for name in joined_names(known) if name.startswith("tuesday/") and name not in set(table["image"])]
    rows = "".join(f"{name},{label}\n" for name, label in zip(sorted(unlabelled), ["cat", "dog"] * 4, strict=True))
    kept.write_text(kept.read_text() + rows)
    # a batch that comes before anything was trained finds the added lines too
    between, _ = accepted(new_images(tmp_path / "between", n=4, labels=("",)), capsys)
    assert any("4 images such as tuesday/000" in line for line in between)
    assert call(["check-new", "--data", str(tmp_path / "between"), "--reference", place.name]) == 1
    assert "was accepted already" in capsys.readouterr().err
    newest = max((known / "incoming").glob("*/feedback.csv"), key=lambda path: path.stat().st_mtime_ns)
    assert len(tables.read(newest)) == 12 + 8
    everything = STEPS.replace("segregation", "segregation,noisy_labels")
    summary = bccp.run([everything, *options])
    assert summary["metrics"]["segregation/left_out"] == 0
    assert summary["metrics"]["segregation/monday_test"] > 0
    assert tables.read(summary_folder(summary, "true_labels") / "true_labels.csv").empty  # nobody knows Tuesday's truth
    _, options = accepted(
        new_images(tmp_path / "next", n=6), capsys, "--reference", place.name
    )  # it comes in class folders, whose names may be wrong
    last = max((known / "incoming").glob("*/feedback.csv"), key=lambda path: path.stat().st_mtime_ns)
    assert f"noisy_labels.feedback_file={last}" in options
    assert len(tables.read(last)) == 12 + 8 + 6
    summary = bccp.run([everything, *options])
    assert summary["metrics"]["segregation/left_out"] == 0
    assert tables.read(summary_folder(summary, "true_labels") / "true_labels.csv").empty


def test_files_that_are_no_images_are_named_on_the_terminal(known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = new_images(tmp_path / "new", n=60)
    for name in ("broken.jpg", "notes.jpg"):
        (data / "cat" / name).write_bytes(b"no image")
    said, _ = accepted(data, capsys)
    assert "2 of 62 files cannot be used and are left out: 'cat/broken.jpg' (not an image), 'cat/notes.jpg' (not an image)" in said
    assert any(line.startswith("accepted: batch") and line.endswith("60 images of 62 files") for line in said)
    assert not [name for name in joined_names(known) if name.endswith(".jpg")]
