"""The cleaned data set as files: what becomes of each image, names, a folder that is whole or not there, and which run is meant."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from bccp.cli.app import call
from bccp.core.errors import BCCPError
from bccp.core.processes import process_start
from bccp.data import tables
from bccp.pipeline import export_dataset
from bccp.pipeline.exports.targets import find
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from support.exported_artifacts import make_artifacts, record


def write(out: Path, folders: dict[str, Path]) -> pd.DataFrame:
    parts = {"raw": folders["raw_data"], "segregated": folders["segregated_data"], "cleansed": folders["cleansed_labels"]}
    return export_dataset.export(find(str(out)), **parts).table


def suffix(image: str) -> str:
    return hashlib.sha256(image.encode()).hexdigest()[:8]


def test_originals_lie_in_folders_by_final_label_and_every_file_is_listed(tmp_path: Path) -> None:
    folders = make_artifacts(tmp_path / "home")
    before = (folders["raw_data"] / "images.zip").read_bytes()
    write(tmp_path / "new" / "out", folders)
    listed = tables.read(tmp_path / "new" / "out" / "cleansed.csv")
    assert listed.columns.tolist() == ["image", "given", "final", "p_wrong", "action", "file"]
    one, three = f"cat/1-{suffix('cat/1.png')}.png", f"cat/1-{suffix('dog/1.png')}.png"
    assert listed.to_numpy().tolist() == [
        ["cat/1.png", "cat", "cat", "0.125", "keep", one],
        ["cat/2.png", "dog", "", "0.75", "drop", ""],
        ["dog/1.png", "dog", "cat", "0.5", "relabel", three],
        ["dog/7.jpg", "", "", "", "left_out", ""],
        ["dog/notes.txt", "", "", "", "left_out", ""],
        ["mon/dog/5.png", "dog", "dog", "", "trusted", "dog/5.png"],
        ["test/6.png", "cat", "cat", "", "trusted", "cat/6.png"],
    ]
    out = tmp_path / "new" / "out"
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    del found["cleansed.csv"]
    assert found == {one: b"one", three: b"three", "dog/5.png": b"five", "cat/6.png": b"six"}
    assert (folders["raw_data"] / "images.zip").read_bytes() == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


def test_where_no_label_is_trusted_files_keep_their_labels_and_suspects_are_listed_unless_it_is_told_to_apply(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "made"
    ledger = Ledger(ledger_uri(None)[0])
    run_id, _ = record(ledger, place, trusted=False)
    assert call(["export-data", "--run", run_id, "--out", str(tmp_path / "as-given")]) == 0
    said = capsys.readouterr().out
    assert "no label of this run is trusted, so files lie under the labels that they came with; 2 of them are suspects" in said
    assert "--apply" in said
    listed = tables.read(tmp_path / "as-given" / "cleansed.csv")
    assert listed[["image", "given", "final", "suggested", "action"]].to_numpy().tolist() == [
        ["cat/1.png", "cat", "cat", "cat", "keep"],
        ["cat/2.png", "dog", "dog", "", "suspect"],
        ["dog/1.png", "dog", "dog", "cat", "suspect"],
        *[[image, "", "", "", "left_out"] for image in ("dog/7.jpg", "dog/notes.txt", "mon/dog/5.png", "test/6.png")],
    ]
    assert (tmp_path / "as-given" / "dog" / "2.png").read_bytes() == b"two"

    assert call(["export-data", "--run", run_id, "--out", str(tmp_path / "applied"), "--apply"]) == 0
    assert "suspects" not in capsys.readouterr().out
    assert tables.read(tmp_path / "applied" / "cleansed.csv")["final"].tolist()[:3] == ["cat", "", "cat"]


def test_names_are_distinct_whatever_the_order_and_the_case() -> None:
    taken = f"x/a-{suffix('1/a.png')}.png"  # a file that is called as another would be with its suffix
    images = ["1/a.png", "2/A.png", "3/b.png", taken, "4/" + "ü" * 150 + ".png", "5/noending", "6/.hidden"]
    names = export_dataset.file_names(images, ["k"] * len(images))
    assert names == export_dataset.file_names(images[::-1], ["k"] * len(images))
    assert len({name.casefold() for name in names.values()}) == len(images)
    forms = ["1/\u00e9.png", "2/e\u0301.png"]  # one name on a Mac
    assert export_dataset.file_names(forms, ["k"] * 2)[forms[0]] == f"k/\u00e9-{suffix(forms[0])}.png"
    assert names["3/b.png"] == "k/b.png"
    assert names["5/noending"] == "k/noending"
    assert names["6/.hidden"] == "k/.hidden"
    assert names["2/A.png"] == f"k/A-{suffix('2/A.png')}.png"
    assert max(len(name.encode()) for name in names.values()) < 240
    assert names["4/" + "ü" * 150 + ".png"].endswith(".png")


@pytest.mark.parametrize("label", ["..", ".", "../../etc", "/etc", "a/b", "a\\b", "\0", "   ", "cleansed.csv", "Cleansed.CSV", "x" * 400])
def test_no_class_name_leads_out_of_the_folder_or_onto_the_list(label: str) -> None:
    names = export_dataset.file_names(["a/1.png", "b/1.png"], [label, "_"])
    folder, _, file = names["a/1.png"].partition("/")
    assert file == "1.png"
    assert folder.strip(". ")
    assert not set(folder) & set("/\\\0")
    assert folder.casefold() not in ("cleansed.csv", "_")
    assert len(folder.encode()) < 255
    assert names["b/1.png"] == "_/1.png"


def test_ordinary_class_names_stay_what_they_are() -> None:
    for label in ("cat", "Full  Water level", "0012", "日本語", "a.b", ".cat", "é"):
        assert export_dataset.file_names(["1.png"], [label]) == {"1.png": f"{label}/1.png"}


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path: Path) -> None:
    folders = make_artifacts(tmp_path / "home")
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", folders)  # an empty folder will do
    (tmp_path / "out" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(BCCPError, match="is not an empty folder, and nothing is overwritten"):
        write(tmp_path / "out", folders)
    assert (tmp_path / "out" / "mine.txt").exists()
    with pytest.raises(BCCPError, match="is not an empty folder"):
        write(tmp_path / "out" / "mine.txt", folders)
    for below in ("sub", "sub/deeper"):
        with pytest.raises(BCCPError, match=r"cannot be made, as .*mine\.txt is a file and no folder: choose another folder"):
            write(tmp_path / "out" / "mine.txt" / below, folders)
    assert (tmp_path / "out" / "mine.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device", "x.png"), KeyboardInterrupt()])
def test_what_ends_an_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    folders, copied = make_artifacts(tmp_path / "home"), []

    def copy(source: object, target: object) -> None:
        copied.append(target)
        if len(copied) == 2:
            raise error

    monkeypatch.setattr(shutil, "copyfileobj", copy)
    with pytest.raises((BCCPError, KeyboardInterrupt), match="No space left" if isinstance(error, OSError) else None):
        write(tmp_path / "new" / "out", folders)
    assert list((tmp_path / "new").iterdir()) == []


def test_what_a_killed_export_left_goes_with_the_next_one(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = socket.gethostname()
    owners = [f"{host}@{dead.pid}.1", f"{host}@{os.getpid()}.1", f"{host}@1.{process_start(1)}", f"far-{host}@{dead.pid}.1"]
    left = [tmp_path / f".o[u]t.{owner}.partial" for owner in owners]  # of one that ended, a reused id, a living one, another host's
    for folder in left:
        (folder / "cat").mkdir(parents=True)
    write(tmp_path / "o[u]t", make_artifacts(tmp_path / "home"))
    assert [folder.exists() for folder in left] == [False, False, True, True]


def test_the_newest_finished_run_with_labels_is_exported(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["export-data", "--out", str(tmp_path / "out")]) == 1
    assert "has no finished run with cleansed labels: run the pipeline first" in capsys.readouterr().err.splitlines()[-1]
    ledger = Ledger(ledger_uri(None)[0])
    wanted, versions = record(ledger, tmp_path / "one")
    record(ledger, tmp_path / "two", status="FAILED")
    fetched_only = ledger.start("pipeline", tags={"bccp.pipeline": "q", "bccp.folder": "q"})
    ledger.end(fetched_only, "FINISHED")
    assert export_dataset.versions_of(None, ledger) == (f"run {wanted}", versions)
    assert call(["export-data", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "4 of 7 files in 2 class folders (1 drop, 1 keep, 2 left_out, 1 relabel, 2 trusted)" in said
    assert (tmp_path / "out" / "dog" / "5.png").read_bytes() == b"five"


def test_a_run_is_named_by_its_id_or_its_summary(home: Path, tmp_path: Path) -> None:
    ledger = Ledger(ledger_uri(None)[0])
    run_id, versions = record(ledger, tmp_path / "one")
    failed, _ = record(ledger, tmp_path / "two", status="FAILED")
    assert export_dataset.versions_of(run_id, ledger)[1] == versions
    summary = tmp_path / "run" / "summary.json"
    summary.parent.mkdir()
    steps = [{"name": name, "outputs": {name: version}} for name, version in versions.items()]
    said = {"status": "finished", "steps": steps, "config": {"tracking": {"mlflow_uri": None}}}
    summary.write_text(json.dumps(said), encoding="utf-8")
    for run in (str(summary), str(summary.parent)):
        assert export_dataset.versions_of(run, ledger) == (str(summary), versions)
    summary.write_text(json.dumps(said | {"status": "failed"}), encoding="utf-8")
    wrong = {
        str(summary): "is of a run that did not finish",
        failed: "is no pipeline that finished",
        "0" * 32: "is not in sqlite:",
        str(tmp_path / "none" / "summary.json"): "does not exist",
    }
    for run, message in wrong.items():
        with pytest.raises(BCCPError, match=message):
            export_dataset.versions_of(run, ledger)
    summary.write_text(json.dumps(said | {"steps": steps[:1]}), encoding="utf-8")
    with pytest.raises(BCCPError, match="has no segregated_data"):
        export_dataset.versions_of(str(summary), ledger)
    summary.write_text("[]", encoding="utf-8")
    with pytest.raises(BCCPError, match="is no summary of a run"):
        export_dataset.versions_of(str(summary), ledger)


def test_a_step_that_was_left_out_is_found_through_what_was_made_of_it(home: Path, tmp_path: Path) -> None:
    ledger = Ledger(ledger_uri(None)[0])
    run_id, versions = record(ledger, tmp_path / "one", with_raw=False)
    maker = ledger.start("preprocessing", tags={"bccp.output.clean_data": "c" * 64, "bccp.input.raw_data": versions["raw_data"]})
    ledger.end(maker, "FINISHED")
    assert export_dataset.versions_of(run_id, ledger)[1] == versions


def test_a_place_is_asked_for(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["export-data"]) == 2
    assert capsys.readouterr().err == "error: missing option '--out': see bccp export-data --help\n"
