"""The report that a person fills in: nearest neighbours, the table, the picture, and the step that writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bccp.core import config_schema
from bccp.data import galleries, tables
from bccp.labels import bayes_cutoff, label_report
from bccp.labels.label_report import Suspect
from support.fake_step import FakeStep, load_run

CLASSES = ["ant", "bee", "cow"]
POSTERIOR = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.05, 0.15, 0.8], [0.5, 0.25, 0.25]])


def cosine_by_loop(vectors: np.ndarray, references: np.ndarray) -> list[int]:
    found = []
    for vector in vectors.astype(float):
        best, place = -2.0, -1
        for k, reference in enumerate(references.astype(float)):
            lengths = np.linalg.norm(vector) * np.linalg.norm(reference)
            cosine = vector @ reference / lengths if lengths else 0.0
            if cosine > best + 1e-6:
                best, place = cosine, k
        found.append(place)
    return found


def test_the_nearest_is_the_one_that_a_loop_finds_in_blocks_of_any_size() -> None:
    rng = np.random.default_rng(1)
    references = rng.normal(size=(60, 7)).astype(np.float32)
    references[20] = 3 * references[5]  # a copy at another length: the first is taken
    references[33] = 0
    vectors = np.concatenate([rng.normal(size=(40, 7)), 0.1 * references[[20, 5, 33]], -references[:4]]).astype(np.float32)
    before = vectors.copy(), references.copy()
    found = label_report.nearest_by_cosine(vectors, references)
    assert found.tolist() == cosine_by_loop(vectors, references)
    assert found[40:43].tolist() == [5, 5, 0]  # a zero vector is equally far from everything
    for rows_at_once in (1, 7):
        assert label_report.nearest_by_cosine(vectors, references, rows_at_once=rows_at_once).tolist() == found.tolist()
    np.testing.assert_array_equal(before[0], vectors)
    np.testing.assert_array_equal(before[1], references)
    assert label_report.nearest_by_cosine(vectors[:0], references).shape == (0,)


def test_many_copies_of_one_reference_tie_to_the_first() -> None:
    rng = np.random.default_rng(2)
    references = np.repeat(rng.normal(size=(3, 129)), 50, axis=0).astype(np.float32) * rng.uniform(0.1, 9, (150, 1)).astype(np.float32)
    assert label_report.nearest_by_cosine(references, references).tolist() == np.repeat([0, 50, 100], 50).tolist()


def decided(posterior: np.ndarray | None = POSTERIOR, action: str = "soft") -> bayes_cutoff.Decision:
    """Four images, all given as ant; the third is the worst, the second next."""
    score = [0.1, 0.8, 0.95, 0.5]
    above = [False, True, True, False]
    return bayes_cutoff.decide(list("wxyz"), [0, 0, 0, 0], CLASSES, score=score, above=above, action=action, posterior=posterior)


def test_the_table_says_for_each_image_what_a_person_needs() -> None:
    votes = pd.DataFrame(
        [("x", "zoe", "ant"), ("x", "bob", "ant"), ("x", "eve", "bee"), ("w", "eve", "bee")], columns=["image", "user", "label"]
    )
    shuffled = decided().table.iloc[[2, 0, 3, 1]]
    report = label_report.report_table(
        shuffled, CLASSES, posterior=POSTERIOR[[2, 0, 3, 1]], votes=votes, nearest_trusted={"y": "mon/1.png"}, audited={"x": "cow"}
    )
    assert tuple(report.columns) == label_report.REPORT_COLUMNS
    assert report.to_numpy().tolist() == [
        ["w", "", "ant", "0.100000", "ant", "0.900000", "", "", 3],
        ["x", "cow", "ant", "0.800000", "bee", "0.700000", "bob;zoe", "", 4],
        ["y", "", "ant", "0.950000", "cow", "0.800000", "", "mon/1.png", 1],
        ["z", "", "ant", "0.500000", "ant", "0.500000", "", "", 2],
    ]


def test_without_a_posterior_nothing_is_suggested_and_equal_scores_rank_by_image() -> None:
    table = decided(None, "drop").table.assign(score=[1.0, 2.0, 2.0, 1.0])
    report = label_report.report_table(table, CLASSES)
    assert set(report["p_wrong"]) == set(report["suggested_label"]) == set(report["posterior"]) == {""}
    assert report["rank"].tolist() == [3, 1, 2, 4]
    assert len(label_report.report_table(table[:0], CLASSES, posterior=POSTERIOR[:0])) == 0


def some_suspects(names: list[str], n_images: int = 40, *, paired: bool = True) -> list[Suspect]:
    pixels = np.random.default_rng(3).integers(0, 256, (2 * n_images, 8, 8, 3), dtype=np.uint8)
    return [
        Suspect(pixels[i], names[i % len(names)], names[-1 - i % len(names)], 1 - i / 50, pixels[-1 - i] if paired else None, names[0])
        for i in range(n_images)
    ]


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("n_images", [1, 40])
def test_the_picture_is_bounded_and_equal_input_gives_equal_bytes(tmp_path: Path, n_images: int, paired: bool) -> None:
    names = ["W" * 300, "a class $name$ of\nmany words, far too long", "日本語", "Ωμέγα", "x"]
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for path in paths:
        label_report.draw_suspects(some_suspects(names, n_images, paired=paired), names, path, title="a title " * 60)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with Image.open(paths[0]) as image:
        assert image.width <= 1600
        assert image.height <= 2000


def test_the_picture_shows_the_images_as_they_are(tmp_path: Path) -> None:
    red, blue = np.zeros((2, 8, 8, 3), np.uint8)
    red[..., 0], blue[..., 2] = 200, 210
    label_report.draw_suspects([Suspect(red, "a", "b", 0.9, blue, "b")], ["a", "b"], tmp_path / "one.png", title="one")
    with Image.open(tmp_path / "one.png") as image:
        colours = {colour[:3]: count for count, colour in image.getcolors(1 << 20)}
    assert colours[200, 0, 0] > 130**2
    assert colours[0, 0, 210] > 130**2


def test_names_that_the_font_cannot_write_are_told_apart_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    fitting = galleries.fit_text

    def spy(text: str, width: float, size: float) -> str:
        written.append(text)
        return fitting(text, width, size)

    monkeypatch.setattr(galleries, "fit_text", spy)
    names = ["猫", "犬", "кот"]
    label_report.draw_suspects([Suspect(np.zeros((8, 8, 3), np.uint8), "犬", "кот", 0.5)], names, tmp_path / "one.png", title="one")
    assert written[0].startswith("one; class k is the k-th of classes.csv")
    assert written[1:] == ["given: class 2", "likely: кот", "P(wrong) 50.0%"]


SECTION = {
    "method": "label_posterior",
    "action": "soft",
    "passes": 3,
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
    assert sorted(step.computed) == ["features", "monday_model", "student"]
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
    assert step.computed == ["student"]


def test_methods_without_a_posterior_are_reported_by_score(run_step: Callable[..., ReportingStep]) -> None:
    report = report_of(run_step(method="predictive_entropy", cutoff="percentile"))
    assert set(report["p_wrong"]) == set(report["suggested_label"]) == {""}
    assert (report["nearest_trusted"] != "").sum() == 4  # 36 images, the 90th percentile


def test_labels_that_pass_through_are_not_reported(run_step: Callable[..., ReportingStep]) -> None:
    step = run_step(enabled=False)
    assert not (step.folders["cleansed_labels"] / "label_report.csv").exists()
    assert step.pictures == {}
