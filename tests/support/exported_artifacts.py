"""Made-up artifacts of a run whose data set is exported."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bccp.data import label_files, tables
from bccp.pipeline import export_dataset
from bccp.tracking.store import Ledger

COLUMNS = ["image", "given_label", "score", "p_wrong", "above_cutoff", "action", "final_label", "weight"]

REPORT = [
    ["cat/1.png", "", "cat", "0.875000", 3],
    ["cat/2.png", "", "cat", "0.700000", 2],
    ["dog/1.png", "", "cat", "0.950000", 1],
]
"""``image, label, suggested_label, posterior, rank`` of the report that a person works with."""

FILES = {
    "cat/1.png": b"one",
    "cat/2.png": b"two",
    "dog/1.png": b"three",
    "dog/7.jpg": b"seven",
    "dog/notes.txt": b"no image",
    "mon/dog/5.png": b"five",
    "test/6.png": b"six",
}


def make_artifacts(place: Path, *, trusted: bool = True) -> dict[str, Path]:
    """A cat, a doubtful dog and a surely wrong one that are judged; a trusted dog, a trusted test image, and two files left out.

    The run itself trains without the doubtful one, and on the wrong one as a cat.
    """
    folders = {name: place / name for name in export_dataset.NEEDED}
    for folder in folders.values():
        folder.mkdir(parents=True)
    with zipfile.ZipFile(folders["raw_data"] / "images.zip", "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    tables.write(pd.DataFrame({"image": list(FILES), "bytes": "1", "sha256": ""}), folders["raw_data"] / "files.csv")
    read = [name for name in FILES if name != "dog/notes.txt"]
    manifest = pd.DataFrame({"image": read, "row": range(len(read)), "label": "cat"})
    tables.write(manifest, folders["clean_data"] / "manifest.csv")
    unread = pd.DataFrame({"image": ["dog/notes.txt"], "reason": ["no image"]})
    tables.write(unread, folders["clean_data"] / "quarantine.csv")
    labels = {"cat/1.png": "", "cat/2.png": "", "dog/1.png": "", "dog/7.jpg": "", "mon/dog/5.png": "dog", "test/6.png": "cat"}
    splits = pd.DataFrame({"image": list(labels), "day": "tuesday", "split": "train", "label": list(labels.values())})
    splits.loc[splits["image"] == "mon/dog/5.png", "day"] = "monday"
    splits.loc[splits["image"] == "test/6.png", "split"] = "test"
    splits = splits if trusted else splits.assign(label="", day="monday")
    tables.write(splits, folders["segregated_data"] / "splits.csv")
    tables.write(pd.DataFrame({"label": ["cat", "dog"]}), folders["segregated_data"] / "classes.csv")
    rows = [
        ["cat/1.png", "cat", 0.1, 0.125, False, "keep", "cat", 1.0],
        ["cat/2.png", "dog", 0.9, 0.75, True, "drop", "", 0.0],
        ["dog/1.png", "dog", 0.95, 0.96, True, "relabel", "cat", 1.0],
    ]
    targets = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    label_files.write_cleansed_labels(folders["cleansed_labels"], pd.DataFrame(rows, columns=COLUMNS), targets)
    write_report(folders["cleansed_labels"], REPORT)
    write_about(folders["cleansed_labels"], method="label_posterior")
    return folders


def parts_of(folders: dict[str, Path]) -> dict[str, Path]:
    """The folders as :func:`bccp.pipeline.export_dataset.export` takes them."""
    return {name.partition("_")[0]: folder for name, folder in folders.items()}


def write_report(cleansed: Path, rows: list[list[Any]], **columns: list[str]) -> None:
    """Write the report of a run, with further columns such as ``verdict``."""
    report = pd.DataFrame(rows, columns=["image", "label", "suggested_label", "posterior", "rank"]).assign(**columns)
    tables.write(report, cleansed / "label_report.csv")


def write_about(cleansed: Path, **about: Any) -> None:
    """Write what a run says of its judge."""
    (cleansed / "cutoff.json").write_text(json.dumps(about), encoding="utf-8")


def record(
    ledger: Ledger, place: Path, *, status: str = "FINISHED", with_raw: bool = True, trusted: bool = True
) -> tuple[str, dict[str, str]]:
    """A pipeline's run and those of its steps, as the orchestrator leaves them."""
    folders = make_artifacts(place, trusted=trusted)
    parent = ledger.start("pipeline", tags={"bccp.pipeline": "p", "bccp.folder": str(place)})
    versions: dict[str, str] = {}
    for step, name in zip(("fetch_data", "preprocessing", "segregation", "bayes_cutoff"), export_dataset.NEEDED, strict=True):
        of_this = parent if with_raw or name not in ("raw_data", "clean_data") else None
        run_id = ledger.start(step, parent=of_this, tags={"bccp.step": step, "bccp.pipeline": "p"})
        versions[name], _ = ledger.publish(run_id, name, folders[name])
        ledger.end(run_id, "FINISHED")
        if name == "clean_data":
            (folders["segregated_data"] / "clean_data.json").write_text(json.dumps({name: versions[name]}), encoding="utf-8")
    ledger.end(parent, status)
    return parent, versions
