"""The report that the step ``bayes_cutoff`` writes for a person to fill in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bccp.core import config_schema
from bccp.data import tables
from support.fake_step import FakeStep, load_run

CLASSES = ["ant", "bee", "cow"]


SECTION = {
    "method": "label_posterior",
    "action": "soft",
    "passes": 3,
    "judge": "network",
    "folds": 2,
    "epochs": 6,
    "learning_rate": 0.005,
    "batch_size": 16,
    "augmentation": "none",
    "dropout": 0.2,
    "random_seed": 7,
}


def make_data(place: Path, *, target_day: str = "tuesday") -> dict[str, Path]:
    """Artifacts of 54 images of Monday and 36 of Tuesday, three colours, every fourth given label wrong, two users."""
    rng = np.random.default_rng(4)
    n_images, size = 90, 16
    true = np.arange(n_images) % 3
    pixels = np.clip(60 + 140 * np.eye(3)[true][:, None, None, :] + rng.normal(0, 25, (n_images, size, size, 3)), 0, 255).astype(np.uint8)
    names = [f"{i:03d}.png" for i in range(n_images)]
    late = np.arange(n_images) >= 54
    day = np.where(late & (target_day == "tuesday"), "tuesday", "monday")
    split = np.where(~late & (np.arange(n_images) % 6 == 5), "val", "train")
    given = np.where(np.arange(n_images) % 4 == 0, (true + 1) % 3, true)
    doubtful = (day == target_day) & (split == "train")
    folders = {name: place / name for name in ("clean_data", "segregated_data", "given_labels")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    np.save(folders["clean_data"] / "images.npy", pixels)
    hashes = pd.DataFrame({"image": names, "sha256": [str(i) for i in range(n_images)], "phash": ""})
    tables.write(hashes, folders["clean_data"] / "manifest.csv")
    label = np.where(doubtful, "", np.array(CLASSES)[true])
    splits = pd.DataFrame({"image": names, "row": range(n_images), "day": day, "split": split, "label": label})
    tables.write(splits.assign(corruption="", corrupted_row=-1), folders["segregated_data"] / "splits.csv")
    tables.write(pd.DataFrame({"label": CLASSES}), folders["segregated_data"] / "classes.csv")
    about = {"clean_data": "0" * 64, "truth_known": False, "target_day": target_day}
    (folders["segregated_data"] / "clean_data.json").write_text(json.dumps(about), encoding="utf-8")
    labels = pd.DataFrame({"image": names, "label": np.array(CLASSES)[given]})[doubtful]
    tables.write(labels, folders["given_labels"] / "given_labels.csv")
    users = np.array(["amy", "bob"])[np.arange(len(labels)) % 2]
    tables.write(labels.assign(user=users)[["image", "user", "label"]], folders["given_labels"] / "votes.csv")
    return folders


class ReportingStep(FakeStep):
    """Has what this step needs besides, and keeps the pictures and the names of shared work."""

    device = "cpu"

    def __init__(self, name: str, place: Path, inputs: Mapping[str, Path], **changed: Any) -> None:
        super().__init__(name, place, inputs, **changed)
        kind = config_schema.BayesCutoff
        self.config = kind(**{key: value for key, value in vars(self.config).items() if key in kind.__dataclass_fields__})
        self.pictures: dict[str, tuple[bytes, bool]] = {}
        self.computed: list[str] = []
        self.outputs = {"cleansed_labels": "f" * 64}
        self.ledger = SimpleNamespace(fetch=lambda version: self.folders[version.partition(":")[0]])

    def has_input(self, name: str) -> bool:
        return name in self.inputs

    def shared(self, name: str, key: Mapping[str, Any], compute: Callable[[Path], None]) -> Path:
        folder = self.place / name
        if name not in self.computed:
            folder.mkdir(parents=True)
            compute(folder)
            self.computed.append(name)
        return folder

    def log_picture(self, path: Path, *, pixels: bool = False) -> None:
        self.pictures[path.name] = (path.read_bytes(), pixels)

    def log_table(self, name: str, rows: list[dict[str, Any]], pictures: Iterable[np.ndarray]) -> None:
        self.table = (name, rows, list(pictures))


@pytest.fixture
def run_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Callable[..., ReportingStep]:
    """Run the step and give it back."""
    monkeypatch.setenv("BCCP_HOME", str(tmp_path / "home"))

    def run(name: str = "out", *, target_day: str = "tuesday", **changed: Any) -> ReportingStep:
        data = make_data(tmp_path / f"data-{name}", target_day=target_day)
        step = ReportingStep("bayes_cutoff", tmp_path / name, data, **SECTION | {"target_day": target_day} | changed)
        load_run("bayes_cutoff")(step)
        return step

    return run


def report_of(step: ReportingStep) -> pd.DataFrame:
    return tables.read(step.folders["cleansed_labels"] / "label_report.csv").set_index("image")


def test_the_step_writes_a_report_and_shows_the_worst_suspects(run_step: Callable[..., ReportingStep]) -> None:
    step = run_step()
    report = report_of(step)
    table = tables.read(step.folders["cleansed_labels"] / "cleansed_labels.csv").set_index("image")
    assert report.index.tolist() == table.index.tolist()
    assert sorted(report["rank"].astype(int)) == list(range(1, 37))
    worst = table["score"].astype(float).sort_values(ascending=False, kind="stable").index[0]
    assert report.at[worst, "rank"] == "1"
    suspect = table["above_cutoff"] == "True"
    assert 0 < suspect.sum() < 36
    assert (report.loc[~suspect, "nearest_trusted"] == "").all()
    splits = tables.read(step.folders["segregated_data"] / "splits.csv").set_index("image").loc[report.loc[suspect, "nearest_trusted"]]
    assert set(splits["day"]) == {"monday"}
    assert set(splits["split"]) == {"train"}
    # the colours are easy: what is suggested is true, and so is the nearest trusted image's label
    assert splits["label"].tolist() == report.loc[suspect, "suggested_label"].tolist()
    assert set(report["user"]) == {"amy", "bob"}
    assert set(report["label"]) == {""}
    assert {path.suffix for path in step.folders["cleansed_labels"].iterdir()} == {".csv", ".json", ".npy"}  # no pixels
    ((name, (_, pixels)),) = step.pictures.items()
    assert (name, pixels) == ("worst_suspects.png", True)
    name, rows, thumbnails = step.table
    assert (name, rows[0]["image"], len(thumbnails)) == ("most_suspect_labels", worst, len(rows))
    assert sorted(step.computed) == ["features", "monday_model", "monday_passes", "student"]
    assert sum(str(step.folders["cleansed_labels"] / "label_report.csv") in line for line in step.said) == 1


def test_equal_runs_give_equal_reports_and_pictures(run_step: Callable[..., ReportingStep]) -> None:
    one, other = run_step("one"), run_step("other")
    assert one.pictures == other.pictures
    assert report_of(one).equals(report_of(other))


def test_a_filled_in_report_is_an_audit_file_and_its_labels_are_kept(run_step: Callable[..., ReportingStep], tmp_path: Path) -> None:
    report = report_of(run_step("first"))
    checked = report.index[[0, 3, 8]].tolist()
    report.loc[checked, "label"] = "bee"
    filled = tmp_path / "checked.csv"
    tables.write(report.reset_index(), filled)
    again = report_of(run_step("second", audit_file=str(filled)))
    assert again.index[again["label"] != ""].tolist() == checked
    assert set(again.loc[checked, "label"]) == set(again.loc[checked, "suggested_label"]) == {"bee"}
    assert sorted(again.loc[checked, "rank"].astype(int)) == [34, 35, 36]


def test_where_monday_is_not_trusted_nothing_is_the_nearest(run_step: Callable[..., ReportingStep]) -> None:
    step = run_step(target_day="monday")
    assert set(report_of(step)["nearest_trusted"]) == {""}
    assert "worst_suspects.png" in step.pictures
    assert step.computed == ["fold_passes", "student"]


def test_methods_without_a_posterior_are_reported_by_score(run_step: Callable[..., ReportingStep]) -> None:
    report = report_of(run_step(method="predictive_entropy", cutoff="percentile"))
    assert set(report["p_wrong"]) == set(report["suggested_label"]) == {""}
    assert (report["nearest_trusted"] != "").sum() == 4  # 36 images, the 90th percentile


def test_labels_that_pass_through_are_not_reported(run_step: Callable[..., ReportingStep]) -> None:
    step = run_step(enabled=False)
    assert not (step.folders["cleansed_labels"] / "label_report.csv").exists()
    assert step.pictures == {}
