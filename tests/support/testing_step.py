"""The step ``test`` on made-up artifacts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from bccp.data import tables
from bccp.models import classifier
from support.fake_step import FakeStep, load_run


def picture(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


class TestingStep(FakeStep):
    """Remembers the pictures."""

    __test__ = False
    device = "cpu"

    def __init__(self, *args: Any, **changed: Any) -> None:
        super().__init__(*args, **changed)
        self.pictures: list[str] = []
        self.tables: dict[str, Any] = {}

    def has_input(self, name: str) -> bool:
        return name in self.folders

    @contextmanager
    def output(self, name: str) -> Iterator[Path]:
        with super().output(name) as folder:
            yield folder
            assert sorted(self.pictures) == sorted(path.name for path in folder.glob("*.png"))

    def log_picture(self, path: Path, *, pixels: bool = False) -> None:
        assert path.is_file()
        assert pixels is (path.name == "error_gallery.png"), "the gallery alone shows images"
        self.pictures.append(path.name)

    def log_table(self, name: str, rows: list[dict[str, Any]], pictures: Iterable[np.ndarray]) -> None:
        self.tables[name] = (rows, list(pictures))


def make_data(place: Path, *, truth_known: bool = True) -> dict[str, Path]:
    """Artifacts of 30 test images, 12 of them Monday's, and of a model that has learnt nothing."""
    rng = np.random.default_rng(0)
    folders = {name: place / name for name in ("clean_data", "segregated_data", "true_labels", "given_labels", "model")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    np.save(folders["clean_data"] / "images.npy", rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8))
    (folders["clean_data"] / "report.json").write_text(json.dumps({"images": 40}), encoding="utf-8")
    images = pd.DataFrame({"image": [f"{i:02d}.png" for i in range(40)], "row": rng.permutation(40)})
    sha256 = [f"{i:016x}{'0' * 48}" for i in range(40)]
    about = {"sha256": sha256, "phash": images["image"], "width": 8, "height": 8, "mode": "RGB"}
    tables.write(images[["image"]].assign(**about), folders["clean_data"] / "manifest.csv")
    images["day"] = np.where(images.index < 12, "monday", "tuesday")
    images["split"] = np.where(images.index < 30, "test", "train")
    images["label"] = rng.choice(["ant", "bee"], 40)
    tuesday = images[images["day"] == "tuesday"]
    known = tuesday if truth_known else tuesday.iloc[:0]
    tables.write(known[["image", "label"]], folders["true_labels"] / "true_labels.csv")
    tables.write(tuesday[["image", "label"]].iloc[1:].assign(label="bee"), folders["given_labels"] / "given_labels.csv")
    labels = images["label"].where(truth_known | (images["day"] == "monday"), "")
    tables.write(images.assign(label=labels, corruption="", corrupted_row=-1), folders["segregated_data"] / "splits.csv")
    tables.write(pd.DataFrame({"label": ["ant", "bee"]}), folders["segregated_data"] / "classes.csv")
    about = {"clean_data": "c" * 64, "truth_known": truth_known, "target_day": "tuesday"}
    (folders["segregated_data"] / "clean_data.json").write_text(json.dumps(about), encoding="utf-8")
    history = pd.DataFrame({"epoch": [1, 2], "train_loss": [1.0, 0.5], "val_loss": [1.0, 0.75], "val_accuracy": [0.5, 0.75]})
    model = classifier.build_classifier("small_cnn", 2, image_size=8, dropout=0.2, seed=0)
    classifier.save_classifier(model, folders["model"], {"class_names": ["ant", "bee"]}, history=history)
    return folders


def cleansed(data: dict[str, Path], place: Path) -> dict[str, Path]:
    """With ``cleansed_labels`` that take every given label for ant."""
    place.mkdir()
    given = tables.read(data["given_labels"] / "given_labels.csv")
    table = given.rename(columns={"label": "given_label"}).assign(above_cutoff=False)
    tables.write(table, place / "cleansed_labels.csv")
    np.save(place / "posterior.npy", np.tile(np.array([0.9, 0.1], np.float32), (len(table), 1)))
    return data | {"cleansed_labels": place}


def run_step(data: Mapping[str, Path], place: Path, **changed: Any) -> TestingStep:
    step = TestingStep("test", place, data, **changed)
    load_run("test")(step)
    return step
