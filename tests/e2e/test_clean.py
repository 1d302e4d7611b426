"""``bccp clean``: a folder with wrong labels becomes a list, a page and a cleaned folder, and again after somebody has checked some."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import bccp
from bccp.cli.app import call
from bccp.core.errors import BCCPError
from bccp.core.home import home as the_home
from bccp.core.paths import ROOT
from bccp.data import sources, tables
from bccp.pipeline.exports.own_folder import OwnFolder
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger

QUIET = ["main.threads=1"]
COLUMNS = ["rank", "image", "given_label", "p_wrong", "suggested_label", "p_suggested", "action", "final_label", "reason"]
MOVED = {
    f"{wrong}/from_{right}_{number:03d}.png": right
    for right, wrongs in (("Bee", ("bee", "wasp")), ("bee", ("wasp", "Bee")), ("wasp", ("Bee", "bee")))
    for number in range(5)
    for wrong in [wrongs[number % 2]]
}
"""The class that each image in the wrong folder is of: those of a class lie in both of the others."""
JARGON = r"(?i)cut[ -]off\b|given back|soften|\btier"
"""Words of the pipeline's own, which nobody needs who only cleans."""


@pytest.fixture
def photos(home: Path, image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three classes of small images, two of which differ in case only; 15 of 150 lie in the wrong folder, and a file is no image."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = image_folder({"Bee": 50, "bee": 50, "wasp": 50})
    for wrong, right in MOVED.items():
        (folder / right / wrong[-7:]).rename(folder / wrong)
    (folder / "wasp" / "broken.png").write_bytes(b"no image")
    return folder


def clean(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> list[str]:
    """The lines that the command prints, or those of its error."""
    assert call(["clean", *words]) == status
    said = capsys.readouterr()
    return (said.err if status else said.out).splitlines()


def seen(page: Path) -> str:
    """The text of a page that a person sees: without scripts, styles, tags, and the configuration at its end."""
    text = re.sub(r"<(script|style|pre)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"<[^>]*>", " ", text.partition("Reproduce")[0])


def listed(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, dtype=str, keep_default_na=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_folder_is_cleaned_and_cleaned_again_with_what_somebody_has_checked(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, out = contents(photos), tmp_path / "cleaned"
    lines = clean(capsys, str(photos), "--out", str(out), "--", *QUIET)
    assert [line.partition(":")[0] for line in lines[-5:]] == ["found", "sure", "page", "next", "cost"]
    assert lines[-5].startswith("found: at least ")
    assert str(out / "suspects.html") in lines[-3]
    assert f"bccp clean {photos} --audit checked.csv --out {out} -- main.threads=1" in lines[-2]
    assert "images, 5 seconds each" in lines[-1]
    assert not [line for line in lines if re.search(JARGON, line)]
    assert not [line for line in lines if "to check labels: copy" in line or "/artifacts/" in line]  # the last lines say what to do
    report = next(iter((the_home() / "outputs").iterdir())) / "report.html"
    for page in (report, out / "suspects.html", out / "checks.html"):
        assert not page.exists() or not re.search(JARGON, seen(page))
    assert "At least " in seen(report)
    assert "At least " in seen(out / "suspects.html")
    assert not re.search("monday|tuesday", " ".join(lines[lines.index("segregation: runs") :][:2]), re.IGNORECASE)
    assert contents(photos) == before

    table = listed(out / "labels.csv")
    assert list(table.columns) == [*COLUMNS, "file"]
    assert (len(table), table["image"].iloc[-1], table["reason"].iloc[-1] != "") == (151, "wasp/broken.png", True)
    assert table["rank"][:150].tolist() == [str(rank) for rank in range(1, 151)]
    assert set(table["image"][: len(MOVED)]) == MOVED.keys()
    changed = table[table["action"] == "relabel"].set_index("image")["final_label"]
    assert changed.to_dict().items() <= MOVED.items()
    written = table[table["file"] != ""]
    assert len(written) == 150
    for image, file in zip(written["image"], written["file"], strict=True):
        assert (out / file).read_bytes() == before[image]
    assert {folder.name.casefold() for folder in (out / "images").iterdir()} > {"bee", "wasp"}
    assert len({folder.name.casefold() for folder in (out / "images").iterdir()}) == 3
    first = contents(out)

    looked_at = table["image"][: len(MOVED) + 2]
    checked = pd.DataFrame({"image": looked_at, "label": looked_at.map(MOVED), "verdict": "label", "chosen": "suspect"})
    checked.loc[len(MOVED), ["label", "verdict"]] = ["", "none"]
    checked.loc[len(MOVED) + 1, ["label", "verdict"]] = ["", "unsure"]
    checked.to_csv(tmp_path / "my checks.csv", index=False)
    lines = clean(capsys, str(photos), "--audit", str(tmp_path / "my checks.csv"), "--out", str(out), "--", *QUIET)
    assert sum(": reused (" in line for line in lines) == 4
    assert "bayes_cutoff: runs" in lines
    again = listed(out / "labels.csv").set_index("image")
    assert again.loc[list(MOVED), "final_label"].to_dict() == MOVED
    assert (again.loc[looked_at.iloc[-2], ["action", "final_label", "file"]] == ["drop", "", ""]).all()
    assert len([name for name in contents(out) if name.startswith("images/")]) == 149

    assert clean(capsys, str(photos), "--out", str(out), "--", *QUIET)[-5].startswith("found: at least ")
    assert {name: text for name, text in contents(out).items() if name != "suspects.html"}.keys() == first.keys() - {"suspects.html"}
    assert (out / "labels.csv").read_bytes() == first["labels.csv"]

    (out / "notes.txt").write_text("mine")
    runs = len(list((the_home() / "outputs").iterdir()))
    (line,) = clean(capsys, str(photos), "--out", str(out), status=1)
    assert "was changed since bccp clean wrote it ('notes.txt' is new): choose another folder, or move this one away first" in line
    assert len(list((the_home() / "outputs").iterdir())) == runs
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()


@pytest.mark.slow
def test_a_killed_cleaning_leaves_nothing_half_written_and_the_next_one_clears_up(photos: Path, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "cleaned"
    command = [sys.executable, "-m", "bccp", "clean", str(photos), "--out", str(out), "--", *QUIET]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    for sent, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)):
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None and not list(tmp_path.glob(".cleaned.*.partial/images")):
                time.sleep(0.001)
            process.send_signal(sent)
            assert process.wait(60) == status
        assert not out.exists()
        assert len(list(tmp_path.glob(".cleaned.*"))) == (sent == signal.SIGKILL)
    assert subprocess.run(command, env=environment, capture_output=True, check=True)
    OwnFolder(out).check()
    assert not list(tmp_path.glob(".cleaned.*"))


def test_without_a_folder_to_write_list_and_page_lie_in_the_run_folder(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = json.loads("\n".join(clean(capsys, str(photos), "--json", *QUIET)))
    folder = Path(said["run"])
    assert folder.parent == the_home() / "outputs"
    assert (said["page"], said["labels"]) == (str(folder / "suspects.html"), str(folder / "labels.csv"))
    assert listed(folder / "labels.csv").columns.tolist() == COLUMNS
    assert listed(folder / "label_report.csv")["image"].tolist() == sorted(listed(folder / "labels.csv")["image"][:150])
    assert {page.name for page in folder.glob("*/data_checks.html")} == {"data_checks.html"}
    assert said["finding"]["verdict"] == "found"
    assert not list(the_home().glob("wandb/offline-run-*"))  # nobody has asked for them


def test_trusted_images_beside_it_are_kept_and_never_judged(
    photos: Path, image_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = photos / "right"
    for label in ("Bee", "bee", "wasp"):
        (right / label).mkdir(parents=True)
        for file in sorted((photos / label).glob("0*.png"))[-15:]:
            file.rename(right / label / file.name)
    quick = ["bayes_cutoff.epochs=1", "bayes_cutoff.rounds=0"]
    lines = clean(capsys, str(photos), "--trusted", str(right), "--out", str(tmp_path / "out"), "--", *QUIET, *quick)
    table = listed(tmp_path / "out" / "labels.csv").set_index("image")
    trusted = table[table["action"] == "trusted"]
    assert len(trusted) == 45
    assert not [line for line in lines if re.search(JARGON, line)]
    (said,) = [line for line in lines if "for training" in line]
    assert re.match(r" *segregation: trusted images \(Monday\): \d+ for training, .*; new images \(Tuesday\): \d+ for training", said)
    report = seen(next(iter((the_home() / "outputs").iterdir())) / "report.html")
    assert not re.search(JARGON, report)
    assert "trusted images (Monday)" in report
    assert "new images (Tuesday)" in report
    assert trusted.index.str.startswith("monday/").all()
    assert "tuesday/bee/from_Bee_000.png" in table.index


PREFIXES = {
    "flat": ("a", "b", "c"),
    "months": ("2024/May/", "2024/June/", "2025/May/"),
    "classes": ("bee/", "wasp/", "ant/"),
    "--trusted": ("bee/", "wasp/", "ant/"),
    "tuesday": ("bee/", "wasp/", "ant/"),
}
"""How the names of ants, bees and wasps begin where folders mean nothing, or never the class of what lies in them."""


@pytest.mark.parametrize(
    "place", ["months", "--trusted", *(pytest.param(place, marks=pytest.mark.slow) for place in ("flat", "classes", "tuesday"))]
)
def test_answers_are_judged_and_no_folder_is_believed_that_images_lie_in(
    place: str, home: Path, image_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, photos = image_folder({"ant": 45, "bee": 45, "wasp": 45}), tmp_path / "photos"
    right, new = (photos / "monday", photos / "tuesday") if place == "tuesday" else (tmp_path / "right", photos)
    n_trusted = 15 if place in ("--trusted", "tuesday") else 0
    truth = {}
    for label, prefix in zip(("ant", "bee", "wasp"), PREFIXES[place], strict=True):
        files = sorted((made / label).iterdir())
        placed = [right / label / file.name for file in files[:n_trusted]]
        for number, _ in enumerate(files[n_trusted:]):  # trusted images have names of new ones
            truth[f"{prefix}{number:03d}.png"] = label
            placed.append(new / f"{prefix}{number:03d}.png")
        for file, to in zip(files, placed, strict=True):
            to.parent.mkdir(parents=True, exist_ok=True)
            file.rename(to)
    answered = sorted(truth)[1:]
    said = truth | {name: {"ant": "bee", "bee": "wasp", "wasp": "ant"}[truth[name]] for name in answered[::12]}
    (tmp_path / "answers.csv").write_text("".join(["image,label\n", *(f"{name},{said[name]}\n" for name in answered)]))

    options = ["--trusted", str(right)] if place == "--trusted" else []
    quick = ["bayes_cutoff.epochs=1", "bayes_cutoff.rounds=0"] if n_trusted else []
    words = [str(photos), "--feedback", str(tmp_path / "answers.csv"), *options, "--json", "--", *QUIET, *quick]
    found = json.loads("\n".join(clean(capsys, *words)))
    table = listed(Path(found["labels"]))
    table["image"] = table["image"].str.removeprefix("tuesday/")
    judged = table[table["rank"] != ""]
    assert dict(zip(judged["image"], judged["given_label"], strict=True)) == {name: said[name] for name in answered}
    assert found["finding"]["trusted"] == bool(n_trusted)
    assert (table["action"] == "trusted").sum() == 3 * n_trusted
    assert len(table) == 135
    summary = json.loads((Path(found["run"]) / "summary.json").read_text())
    versions = {name: version for step in summary["steps"] for name, version in step["outputs"].items()}
    known = Ledger(ledger_uri(None)[0]).fetch(f"true_labels:{versions['true_labels']}")
    assert tables.read(known / "true_labels.csv").empty
    if not n_trusted:
        assert set(judged["image"][:10]) <= set(answered[::12])


def test_images_that_change_while_they_are_read_are_refused(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = sources.pack

    def packed(*given: object, **options: object) -> pd.DataFrame:
        (photos / "bee" / "late.png").write_bytes(b"a copy that is still going on")
        return pack(*given, **options)  # type: ignore[arg-type]

    options = ["main.execute_steps=[fetch_data]", "data.source=folder", f"data.path={photos}", "tracking.wandb=disabled"]
    told = r"data\.path=.* was changed while it was read: run again once nothing writes to it any more"
    with monkeypatch.context() as while_read:
        while_read.setattr(sources, "pack", packed)
        with pytest.raises(BCCPError, match=told):
            bccp.run(options)
    summary = bccp.run(options)
    assert summary["steps"][0]["status"] == "ran"  # what was read before is not taken for what lies there now
    raw = Ledger(ledger_uri(None)[0]).fetch(f"raw_data:{summary['steps'][0]['outputs']['raw_data']}")
    assert "bee/late.png" in set(tables.read(raw / "files.csv")["image"])
