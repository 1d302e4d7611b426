"""Joining a batch with its reference: what was trusted, and where each image goes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from bccp.core.errors import BCCPError
from bccp.data import tables
from bccp.pipeline import joined_batch
from bccp.pipeline.joined_batch import KnownLabels, join, labels_of_run, no_audits, no_votes
from bccp.tracking.finished_runs import Pipeline


def run_of(
    place: Path, images: dict[str, tuple[str, str]], *, source: str, target_day: str, votes: list[tuple[str, str, str]] | None = None
) -> KnownLabels:
    """What a run with these images (label and day by name) is found to have known."""
    folders = {name: place / name for name in ("clean_data", "segregated_data", "given_labels", "cleansed_labels", "feedback")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    rows = [(image, label, day) for image, (label, day) in sorted(images.items())]
    tables.write(pd.DataFrame(rows, columns=["image", "label", "day"]), folders["clean_data"] / "manifest.csv")
    (folders["segregated_data"] / "clean_data.json").write_text(json.dumps({"target_day": target_day}))
    (folders["given_labels"] / "report.json").write_text(json.dumps({"source": source}))
    tables.write(pd.DataFrame(votes or [], columns=["image", "user", "label"], dtype=str), folders["feedback"] / "votes.csv")
    (folders["feedback"] / "feedback.json").write_text(json.dumps({"named": sorted({image for image, _, _ in votes or []})}))
    report = pd.DataFrame({"image": [rows[0][0], rows[1][0]], "label": ["b", ""], "chosen": ["random", "suspect"]})
    tables.write(report, folders["cleansed_labels"] / "label_report.csv")
    used = {name: "0" for name in folders if name != "feedback" or votes is not None}
    return labels_of_run(
        Pipeline("run x", used, {}, {"noisy_labels.source": source}),
        SimpleNamespace(fetch=lambda version: folders[version.partition(":")[0]]),
    )


FLAT = {"a/1.png": ("a", ""), "a/2.png": ("a", ""), "b/1.png": ("b", "")}
DAYS = {
    "monday/a/1.png": ("a", "monday"),
    "monday/b/1.png": ("b", "monday"),
    "tuesday/a/1.png": ("a", "tuesday"),
    "tuesday/2.png": ("", "tuesday"),
}


@pytest.mark.parametrize(
    ("images", "source", "target_day", "trusted"),
    [
        (FLAT, "folder", "monday", []),
        (FLAT, "folder", "tuesday", []),  # half of the doubted names were called Monday
        (FLAT, "simulated", "tuesday", list(FLAT)),
        (FLAT, "ground_truth", "monday", list(FLAT)),
        (FLAT, "file", "tuesday", ["a/2.png", "b/1.png"]),
        (FLAT, "file", "monday", []),
        (DAYS, "folder", "tuesday", ["monday/a/1.png", "monday/b/1.png"]),
        (DAYS, "file", "tuesday", ["monday/a/1.png", "monday/b/1.png"]),
        (DAYS, "folder", "monday", []),
        (DAYS, "simulated", "tuesday", ["monday/a/1.png", "monday/b/1.png"]),
    ],
)
def test_labels_are_trusted_that_the_run_trusted(
    tmp_path: Path, images: dict[str, tuple[str, str]], source: str, target_day: str, trusted: list[str]
) -> None:
    votes = [(sorted(images)[0] if images is FLAT else "tuesday/2.png", "ann", "b")] if source == "file" else None
    known = run_of(tmp_path, images, source=source, target_day=target_day, votes=votes)
    assert known.images.loc[known.images["trusted"], "image"].tolist() == sorted(trusted)
    assert len(known.votes) == (source == "file")
    assert known.audits.to_numpy().tolist() == [[sorted(images)[0], "b", "random"]]


def test_checked_images_of_no_class_go_along(tmp_path: Path) -> None:
    run_of(tmp_path / "first", FLAT, source="folder", target_day="monday")
    path = tmp_path / "first" / "cleansed_labels" / "label_report.csv"
    tables.write(tables.read(path).assign(verdict=["label", "none"]), path)
    known = joined_batch.audits_of(path.parent)
    assert known.to_dict("list") == {
        "image": ["a/1.png", "a/2.png"],
        "label": ["b", ""],
        "chosen": ["random", "suspect"],
        "verdict": ["label", "none"],
    }


def known_labels(rows: list[tuple[str, str, str, bool]], **others: pd.DataFrame) -> KnownLabels:
    images = pd.DataFrame(rows, columns=["image", "label", "day", "trusted"])
    return KnownLabels(images, others.get("votes", no_votes()), others.get("audits", no_audits()))


def batch_of(*rows: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["image", "label"])


def test_where_nothing_is_trusted_days_go_and_names_stay_as_they_were_given() -> None:
    known = known_labels([("monday/a/1.png", "a", "monday", False), ("tuesday/a/1.png", "a", "tuesday", False)])
    joined = join(known, batch_of(("tuesday/a/1.png", "a"), ("tuesday/b/2.png", "b")), batch="0123")
    assert (joined.has_days, joined.source, len(joined.votes)) == (False, "folder", 0)
    assert joined.reference["monday/a/1.png"] == "a/1.png"
    assert joined.reference["tuesday/a/1.png"].startswith("a/1-")  # the two are told apart
    assert joined.batch == {"tuesday/a/1.png": "a/1-0123.png", "tuesday/b/2.png": "b/2.png"}
    with pytest.raises(BCCPError, match=r"1 images of the batch 0123 have no label \(such as '3.png'\)"):
        join(known, batch_of(("tuesday/3.png", "")), batch="0123")


def test_labels_of_a_table_beside_flat_images_become_votes() -> None:
    known = known_labels([("1.png", "a", "", False), ("2.png", "b", "", False)])
    joined = join(known, batch_of(("tuesday/a/1.png", "a"), ("tuesday/9.png", "")), batch="0123")
    assert (joined.has_days, joined.source) == (False, "file")
    assert joined.batch == {"tuesday/a/1.png": "1-0123.png", "tuesday/9.png": "9.png"}
    assert joined.votes[["image", "label"]].to_numpy().tolist() == [["1-0123.png", "a"], ["1.png", "a"], ["2.png", "b"]]
    assert joined.unlabelled == ["9.png"]


def test_doubtful_folder_names_stay_doubtful_beside_a_feedback_file() -> None:
    votes = pd.DataFrame([("a/2.png", "b", "ann")], columns=["image", "label", "user"])
    audits = pd.DataFrame([("a/2.png", "b", "random")], columns=["image", "label", "chosen"])
    rows = [("a/1.png", "a", "", True), ("a/2.png", "a", "", False), ("b/9.png", "b", "", False)]
    joined = join(known_labels(rows, votes=votes, audits=audits), batch_of(("tuesday/a/2.png", "a"), ("tuesday/7.png", "")), batch="0123")
    assert (joined.has_days, joined.source) == (True, "file")
    # in a class folder of Tuesday, beside a feedback file, a name would be the truth
    assert joined.reference == {"a/1.png": "monday/a/1.png", "a/2.png": "tuesday/a/2.png", "b/9.png": "tuesday/9.png"}
    assert joined.batch == {"tuesday/a/2.png": "tuesday/2.png", "tuesday/7.png": "tuesday/7.png"}
    said = joined.votes[["image", "label", "user"]].to_numpy().tolist()
    assert said == [["tuesday/2.png", "a", ""], ["tuesday/9.png", "b", ""], ["tuesday/a/2.png", "b", "ann"]]
    assert joined.audits.to_numpy().tolist() == [["tuesday/a/2.png", "b", "random"]]
    assert joined.unlabelled == ["tuesday/7.png"]


def test_the_options_carry_what_the_reference_was_trained_with_and_nothing_of_its_data(tmp_path: Path) -> None:
    settings = {
        "main.random_seed": "7", "main.execute_steps": "[fetch_data]", "main.target_day": "tuesday",
        "data.path": "/old", "data.source": "folder",
        "preprocessing.image_size": "64", "train.model": "resnet_small", "bayes_cutoff.model": "resnet_small", "train.epochs": "30",
        "segregation.corruption": "mixed", "noisy_labels.source": "simulated", "noisy_labels.user_accuracy": "0.6",
        "test.registered_model_name": "my pets", "test.promote": "never", "tracking.wandb": "offline", "tracking.mlflow_uri": "http://x",
        "bayes_cutoff.audit_file": "/old.csv",
    }  # fmt: skip
    known = known_labels([("a/1.png", "a", "", True)])
    joined = join(known, batch_of(("tuesday/a/1.png", "a")), batch="0123")
    options = joined_batch.options(tmp_path, joined, settings, size=(48, "stretch"))
    assert sorted(word for option in options for word in shlex.split(option)) == sorted(
        [
            "data.source=archive", f"data.path={tmp_path / 'data.zip'}", "main.target_day=tuesday", "noisy_labels.source=folder",
            "main.random_seed=7", "preprocessing.image_size=48", "preprocessing.resize=stretch", "train.model=resnet_small",
                "test.registered_model_name='my pets'",
            "test.promote=never", "tracking.wandb=offline",
        ]
    )  # fmt: skip
