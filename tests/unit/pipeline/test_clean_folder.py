"""What ``bccp clean`` says at its end, and which calls it refuses before anything is run."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any, cast

import pytest

from bccp.core.errors import BCCPError
from bccp.labels.findings import Finding, finding_sentence
from bccp.pipeline import clean_folder
from bccp.pipeline.clean_folder import Cleaned, CleanRequest, clean_place
from bccp.pipeline.exports.label_changes import Rule

FOUND = Finding("found", 0.26, 0.49, 900, 234)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCCP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(clean_folder, "shell_command", str)


def said(finding: Finding | None, *, n_random: int = 50, n_suspects: int = 441, out: Path | None = None, **request: Any) -> dict[str, str]:
    """The five lines by their names."""
    asked = CleanRequest(**{"place": "photos", "out": str(out) if out else None, **request})
    places = {"page": Path("/run/p.html"), "checks": None, "labels": Path("/run/labels.csv"), "folder": Path("/run"), "out": out}
    cleaned = Cleaned(asked, finding, cast(Any, None), **places, n_random=n_random, n_suspects=n_suspects)
    lines = cleaned.lines()
    assert [line.partition(":")[0] for line in lines] == ["found", "sure", "page", "next", "cost"]
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}


def test_five_lines_say_what_was_found_how_sure_that_is_and_what_to_do() -> None:
    told = said(FOUND)
    assert told == {
        "found": finding_sentence(FOUND),
        "sure": "no image is trusted and no label was checked, so the share lies between two ends, and only checking can tell where",
        "page": "/run/p.html",
        "next": "check images on the page, press its button for checked.csv, then: bccp clean photos --audit checked.csv --out cleaned",
        "cost": "about 41 minutes to check the 491 images, 5 seconds each; the 50 at random alone: 5 minutes",
    }


def test_the_command_is_that_which_was_given_quoted_for_a_shell() -> None:
    rule, words = Rule("drop", 0.5), ("data.layout=classes",)
    told = said(FOUND, place="it's here/a b", feedback="f.csv", audit="my checks.csv", out=Path("/c d"), rule=rule, words=words)
    command = shlex.split(told["next"].partition("then: ")[2])
    assert command[:2] == ["bccp", "clean"]
    assert command[2:7] == ["it's here/a b", "--feedback", "f.csv", "--audit", "my checks.csv"]
    assert command[7:] == ["--out", "/c d", "--action", "drop", "--min-confidence", "0.5", "--", "data.layout=classes"]


def test_a_blind_judge_asks_for_trusted_images_and_claims_nothing() -> None:
    told = said(Finding("blind", 0.0, None, 900, 0), n_suspects=0)
    assert told["found"] == "this judge cannot tell these classes apart; nothing was changed"
    assert "no figure of it means anything" in told["sure"]
    assert told["next"].endswith("bccp clean photos --trusted FOLDER")
    assert told["cost"] == "about 5 minutes to pick out 50 such images, 5 seconds each; more are better"


def test_where_no_label_stands_out_the_lines_speak_of_single_ones_and_of_no_share() -> None:
    nothing = Finding("nothing", 0.004, 0.144, 486, 0)
    assert said(nothing, n_suspects=70) == {
        "found": "no label stands out as wrong",
        "sure": "no image is trusted and no label was checked, so single wrong labels may be among them: "
        "the judge would have given 14% of them otherwise",
        "page": "/run/p.html",
        "next": "nothing has to be done; to be surer, check images on the page, press its button for checked.csv, then: "
        "bccp clean photos --audit checked.csv --out cleaned",
        "cost": "about 10 minutes to check the 120 images, 5 seconds each; the 50 at random alone: 5 minutes",
    }
    checked = said(dataclasses.replace(nothing, at_most=None, n_audited=50))
    assert checked["found"] == "no label stands out as wrong, as far as 50 checked ones tell"
    assert checked["sure"] == "no image is trusted and 50 labels were checked, so single wrong labels may be among them"
    assert checked["next"].startswith("write the cleaned folder: ")


def test_after_an_audit_the_folder_is_written_and_then_trained_on(tmp_path: Path) -> None:
    checked = dataclasses.replace(FOUND, at_most=None, n_audited=50, n_unsure=2)
    assert said(checked)["sure"] == "no image is trusted and 50 labels were checked, of 2 more nobody was sure, so it is an estimate"
    assert "1 label was checked, so" in said(dataclasses.replace(FOUND, n_audited=1))["sure"]
    assert said(checked, audit="checked.csv")["next"] == "write the cleaned folder: bccp clean photos --audit checked.csv --out cleaned"
    out = tmp_path / "c d"
    option = shlex.quote(f"data.path='{out}/images'")
    assert said(checked, out=out)["next"] == f"train on it: bccp run data.source=folder {option}"


def test_a_method_without_probabilities_says_so() -> None:
    assert said(None)["found"].startswith("441 labels are suspects; this method")
    assert said(None, n_random=0, n_suspects=0)["cost"] == "nothing is left to be checked"


def test_a_place_with_a_key_in_its_address_is_shown_without_it() -> None:
    assert "secret" not in said(FOUND, place="https://user:secret@host/photos.zip")["next"]


def refusal(place: Path, **options: Any) -> str:
    with pytest.raises(BCCPError) as refused:
        clean_place(CleanRequest(str(place), **options))
    return str(refused.value)


def test_folders_within_each_other_are_refused_before_anything_is_run(tmp_path: Path) -> None:
    photos = tmp_path / "all" / "photos"
    for name in ("cat/1.png", "dog/1.png"):
        (photos / name).parent.mkdir(parents=True)
        (photos / name).write_text(name)
    (tmp_path / "link").symlink_to(photos)
    (photos / "checked.csv").write_text("image,label\n")
    assert "is PATH itself, which is never changed" in refusal(photos, out=str(photos))
    assert "is PATH itself" in refusal(photos, out=str(tmp_path / "link"))
    assert "lies in PATH=" in refusal(photos, out=str(photos / "cleaned"))
    assert "holds PATH=" in refusal(photos, out=str(photos.parent))
    assert "holds --audit=" in refusal(tmp_path / "link", out=str(tmp_path / "c"), audit=str(made(tmp_path / "c" / "checked.csv")))
    assert "bccp clean did not write it" in refusal(photos, out=str(made(tmp_path / "mine" / "thesis.txt").parent))
    assert not (tmp_path / "home" / "outputs").exists()


def made(file: Path) -> Path:
    file.parent.mkdir()
    file.write_text("image,label\n")
    return file


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"words": ("-m",)}, "bccp clean runs once and takes no -m"),
        ({"words": ("main.execute_steps=[train]",)}, "does not take main.execute_steps: the steps up to bayes_cutoff are run"),
        ({"words": ("bayes_cutoff.audit_file=a.csv",)}, "does not take bayes_cutoff.audit_file: give --audit"),
        ({"out": ""}, "--out is empty: give a path, or leave the option out"),
        ({"audit": " "}, "--audit is empty"),
        ({"audit": "nowhere.csv"}, "--audit=nowhere.csv is no file: give the checked.csv that the page"),
    ],
)
def test_wrong_calls_name_what_to_do_instead(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(tmp_path, **options)
