"""The cleaned data set as files: what becomes of each image, names, a folder that is whole or not there, and which run is meant."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bccp.cli.app import call
from bccp.core.errors import BCCPError
from bccp.core.processes import process_start
from bccp.data import label_files, preprocessing, tables
from bccp.pipeline import export_dataset
from bccp.pipeline.exports.label_changes import Rule, label_changes
from bccp.pipeline.exports.targets import find
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from support.exported_artifacts import FILES, REPORT, make_artifacts, parts_of, record, write_about, write_report


def write(out: Path, folders: dict[str, Path]) -> pd.DataFrame:
    return export_dataset.export(find(str(out)), **parts_of(folders)).table


def suffix(image: str) -> str:
    return hashlib.sha256(image.encode()).hexdigest()[:8]


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_classes_that_differ_in_case_get_folders_that_no_system_takes_for_one() -> None:
    images = ["1.png", "2.png", "3.png"]
    names = export_dataset.file_names(images, ["bee", "Bee", "ant"])
    assert names == export_dataset.file_names(images[::-1], ["ant", "Bee", "bee"])
    assert (names["2.png"], names["3.png"]) == ("Bee/2.png", "ant/3.png")  # the first in the order of names keeps its own
    assert re.fullmatch(r"bee-[0-9a-f]{8}/1\.png", names["1.png"])


def test_originals_lie_in_folders_by_final_label_and_every_image_is_listed_the_worst_first(tmp_path: Path) -> None:
    folders = make_artifacts(tmp_path / "home")
    before = (folders["raw_data"] / "images.zip").read_bytes()
    write(tmp_path / "new" / "out", folders)
    out = tmp_path / "new" / "out"
    one, three = f"cat/1-{suffix('cat/1.png')}.png", f"cat/1-{suffix('dog/1.png')}.png"
    assert (out / "labels.csv").read_text(encoding="utf-8").splitlines() == [
        "rank,image,given_label,p_wrong,suggested_label,p_suggested,action,final_label,reason,file",
        f"1,dog/1.png,dog,0.9600,cat,0.9500,relabel,cat,,{three}",
        "2,cat/2.png,dog,0.7500,cat,0.7000,keep,dog,,dog/2.png",  # the run drops it; it is not sure enough for that
        f"3,cat/1.png,cat,0.1250,cat,0.8750,keep,cat,,{one}",
        ",mon/dog/5.png,dog,,,,trusted,dog,,dog/5.png",
        ",test/6.png,cat,,,,trusted,cat,,cat/6.png",
        ",dog/7.jpg,,,,,left_out,,no label,",
        ",dog/notes.txt,,,,,left_out,,no image,",
    ]
    found = files_below(out)
    del found["labels.csv"]
    assert found == {one: b"one", "dog/2.png": b"two", three: b"three", "dog/5.png": b"five", "cat/6.png": b"six"}
    assert (folders["raw_data"] / "images.zip").read_bytes() == before
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


@pytest.mark.parametrize("trusted", [True, False])
def test_only_what_is_surely_wrong_is_changed_or_dropped_whether_anything_is_trusted_or_not(tmp_path: Path, trusted: bool) -> None:
    folders = make_artifacts(tmp_path / "home", trusted=trusted)
    rules = {
        Rule(): (["cat", "dog", "cat"], "1 changed (of which 0.1 are expected to be wrong), 0 dropped, 2 left as given"),
        Rule(min_confidence=0.99): (["cat", "dog", "dog"], "0 changed, 0 dropped, 3 left as given (--action=relabel"),
        Rule(min_confidence=0): (["cat", "cat", "cat"], "2 changed (of which 0.4 are expected to be wrong), 0 dropped, 1 left as given"),
        Rule("drop"): (["cat", "dog", ""], "0 changed, 1 dropped (of which 0.0 are expected to be right), 2 left as given"),
        Rule("drop", 0.7): (["cat", "", ""], "0 changed, 2 dropped (of which 0.3 are expected to be right), 1 left as given"),
        Rule("keep", 0.0): (["cat", "dog", "dog"], "0 changed, 0 dropped, 3 left as given (--action=keep)"),
    }
    for number, (rule, (final, said)) in enumerate(rules.items()):
        exported = export_dataset.export(find(str(tmp_path / str(number))), **parts_of(folders), rule=rule)
        listed = tables.read(tmp_path / str(number) / "labels.csv").set_index("image")
        assert listed.loc[["cat/1.png", "cat/2.png", "dog/1.png"], "final_label"].tolist() == final
        assert said in exported.changes.sentence()
        trusted_ones = ["trusted", "dog"] if trusted else ["left_out", ""]
        assert listed.loc["mon/dog/5.png", ["action", "final_label"]].tolist() == trusted_ones


def test_what_somebody_has_checked_is_applied_and_images_of_no_class_are_dropped(tmp_path: Path) -> None:
    folders = make_artifacts(tmp_path / "home")
    rows = [[image, "dog" if image == "cat/1.png" else "", *rest] for image, _, *rest in REPORT]
    write_report(folders["cleansed_labels"], rows, verdict=["label", "none", "unsure"])
    exported = export_dataset.export(find(str(tmp_path / "out")), **parts_of(folders), rule=Rule("keep"))
    listed = exported.table.set_index("image")
    assert listed.loc[["cat/1.png", "cat/2.png", "dog/1.png"], ["action", "final_label", "reason"]].to_numpy().tolist() == [
        ["relabel", "dog", "checked"],
        ["drop", "", "checked: of no class"],
        ["keep", "dog", ""],
    ]
    said = "labels: 1 changed, 1 dropped, 1 left as given, 2 of that because somebody has checked them (--action=keep)"
    assert exported.changes.sentence() == said
    moved = label_changes(folders["cleansed_labels"], Rule()).sentence()
    assert moved.startswith("labels: 2 changed (of which 0.1 are expected to be wrong), 1 dropped, 0 left as given, 2 of that because")
    assert not (tmp_path / "out" / "cat" / "2.png").exists()


@pytest.mark.parametrize(("verdict", "said"), [("blind", "cannot tell its classes apart"), ("nothing", "no label of this run stands out")])
def test_a_judge_that_has_found_nothing_changes_nothing_unseen_whatever_the_rule(tmp_path: Path, verdict: str, said: str) -> None:
    folders = make_artifacts(tmp_path / "home")
    write_about(folders["cleansed_labels"], method="label_posterior", finding={"verdict": verdict})
    exported = export_dataset.export(find(str(tmp_path / "out")), **parts_of(folders), rule=Rule("relabel", 0.0))
    assert said in exported.changes.note
    assert set(exported.table["action"]) == {"keep", "trusted", "left_out"}


def test_without_p_wrong_no_label_is_changed_and_one_sentence_says_so(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = make_artifacts(tmp_path / "home")
    judged = label_files.read_cleansed_labels(folders["cleansed_labels"])
    label_files.write_cleansed_labels(folders["cleansed_labels"], judged.table.assign(p_wrong=""), np.array(judged.targets))
    write_report(folders["cleansed_labels"], [[image, "", "", "", rank] for image, *_, rank in REPORT])
    write_about(folders["cleansed_labels"], method="cleanlab")
    exported = export_dataset.export(find(str(tmp_path / "one")), **parts_of(folders), rule=Rule("drop", 0.1))
    assert exported.changes.note == (
        "bayes_cutoff.method=cleanlab knows no P(wrong), so no label is changed that nobody has checked; the list names its 2 suspects "
        "(bayes_cutoff.method=label_posterior gives P(wrong))"
    )
    listed = exported.table.set_index("image")
    assert listed.loc["dog/1.png", ["p_wrong", "action", "reason"]].tolist() == ["", "keep", "suspect by cleanlab, which knows no P(wrong)"]
    (folders["cleansed_labels"] / "label_report.csv").unlink()  # a run that has judged nothing writes none
    write_about(folders["cleansed_labels"], method="none")
    passed = export_dataset.export(find(str(tmp_path / "two")), **parts_of(folders))
    assert passed.changes.note == "this run has judged no label, so all stay as they were given"
    assert passed.table["rank"].tolist()[:3] == ["1", "2", "3"]


def test_a_class_that_loses_its_last_image_is_named(tmp_path: Path) -> None:
    folders = make_artifacts(tmp_path / "home", trusted=False)
    table = export_dataset.export(find(str(tmp_path / "out")), **parts_of(folders), rule=Rule("drop", 0.5)).table
    assert export_dataset.emptied_sentence(table) == "warning: no image is left of 'dog'"
    assert export_dataset.emptied_sentence(write(tmp_path / "other", folders)) == ""


def test_a_rule_that_is_none_and_the_option_that_is_gone_are_refused_before_anything_is_written(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(Ledger(ledger_uri(None)[0]), tmp_path / "made")
    refused = {
        ("--apply",): (2, "--apply is gone: surely wrong labels are changed without it; --min-confidence 0 gives every image its"),
        ("--action", "soft"): (2, "'soft' is not one of 'relabel', 'drop', 'keep'"),
        ("--min-confidence", "80"): (2, "80.0 is not in the range 0<=x<=1"),
        ("--min-confidence", "nan"): (1, "--min-confidence=nan is no probability: give a number from 0 to 1, such as 0.8"),
        ("--action", "drop", "--min-confidence", "0"): (1, "would drop every image: give a confidence above 0, such as 0.5"),
    }
    for words, (status, said) in refused.items():
        assert call(["export-data", "--out", str(tmp_path / "out"), *words]) == status
        told = capsys.readouterr().err
        assert said in told
        assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_exported_folder_is_a_data_set_again(tmp_path: Path) -> None:
    """The list beside the class folders is no image that cannot be read, and no second opinion on the labels."""
    folders = make_artifacts(tmp_path / "home")
    with zipfile.ZipFile(folders["raw_data"] / "images.zip", "w") as archive:
        for number, name in enumerate(FILES):
            picture = io.BytesIO()
            Image.effect_noise((40, 40), 20 + 10 * number).save(picture, "PNG")
            archive.writestr(name, picture.getvalue())
    write(tmp_path / "out", folders)
    with zipfile.ZipFile(tmp_path / "again.zip", "w") as archive:
        for name, content in files_below(tmp_path / "out").items():
            archive.writestr(name, content)
    (tmp_path / "clean").mkdir()
    options = {"image_size": 16, "resize": "stretch", "max_rejected_rate": 0.0, "max_pixels": 10_000, "threads": 1, "table": "auto"}
    report = preprocessing.clean(tmp_path / "again.zip", tmp_path / "clean", **options)  # type: ignore[arg-type]
    assert (report["images"], report["rejected"], report["classes"]) == (5, 0, {"cat": 3, "dog": 2})


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


@pytest.mark.parametrize("label", ["..", ".", "../../etc", "/etc", "a/b", "a\\b", "\0", "   ", "labels.csv", "Labels.CSV", "x" * 400])
def test_no_class_name_leads_out_of_the_folder_or_onto_the_list(label: str) -> None:
    names = export_dataset.file_names(["a/1.png", "b/1.png"], [label, "_"])
    folder, _, file = names["a/1.png"].partition("/")
    assert file == "1.png"
    assert folder.strip(". ")
    assert not set(folder) & set("/\\\0")
    assert folder.casefold() not in ("labels.csv", "_")
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
    assert call(["export-data", "--out", str(tmp_path / "out"), "--min-confidence", "0.9"]) == 0
    said = capsys.readouterr().out
    assert "5 of 7 images in 2 class folders (2 keep, 2 left_out, 1 relabel, 2 trusted)" in said
    assert "labels: 1 changed (of which 0.1 are expected to be wrong), 0 dropped, 2 left as given (--action=relabel --min-conf" in said
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
    with pytest.raises(BCCPError, match="has no clean_data"):
        export_dataset.versions_of(str(summary), ledger)
    summary.write_text("[]", encoding="utf-8")
    with pytest.raises(BCCPError, match="is no summary of a run"):
        export_dataset.versions_of(str(summary), ledger)


def test_a_step_that_was_left_out_is_found_through_what_was_made_of_it(home: Path, tmp_path: Path) -> None:
    ledger = Ledger(ledger_uri(None)[0])
    run_id, versions = record(ledger, tmp_path / "one", with_raw=False)
    tags = {"bccp.output.clean_data": versions["clean_data"], "bccp.input.raw_data": versions["raw_data"]}
    maker = ledger.start("preprocessing", tags=tags)
    ledger.end(maker, "FINISHED")
    assert export_dataset.versions_of(run_id, ledger)[1] == versions


def test_a_place_is_asked_for(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["export-data"]) == 2
    assert capsys.readouterr().err == "error: missing option '--out': see bccp export-data --help\n"
