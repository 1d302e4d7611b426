"""Artifacts whose given labels the step ``bayes_cutoff`` judges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from bccp.data import tables

CLASSES = ["a", "b", "c"]

FILES = {"width": 20, "height": 20, "format": "PNG"}
"""What a manifest says of all files."""


def make_data(place: Path, *, target_day: str = "tuesday", permuted: bool = False) -> dict[str, Path]:
    """Artifacts of 54 images of Monday and 36 of Tuesday, three colours, every fourth given label wrong."""
    rng = np.random.default_rng(4)
    n_images, size = 90, 16
    true = np.arange(n_images) % 3
    pixels = np.clip(60 + 140 * np.eye(3)[true][:, None, None, :] + rng.normal(0, 25, (n_images, size, size, 3)), 0, 255).astype(np.uint8)
    names = [f"{i:03d}.png" for i in range(n_images)]
    on_tuesday = np.arange(n_images) >= 54
    day = np.where(on_tuesday & (target_day == "tuesday"), "tuesday", "monday")
    split = np.where(~on_tuesday & (np.arange(n_images) % 6 == 5), "val", "train")
    given = np.where(np.arange(n_images) % 4 == 0, (true + 1) % 3, true)
    doubtful = (day == target_day) & (split == "train")
    label = np.where(doubtful, "", np.array(CLASSES)[true])
    order = rng.permutation(n_images) if permuted else np.arange(n_images)
    row = np.argsort(order)
    splits = pd.DataFrame({"image": names, "row": row, "day": day, "split": split, "label": label, "corruption": "", "corrupted_row": -1})
    folders = {name: place / name for name in ("clean_data", "segregated_data", "given_labels", "true_labels")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    np.save(folders["clean_data"] / "images.npy", pixels[order])
    hashes = {"image": names, "sha256": [str(i) for i in range(n_images)], "phash": ["" for _ in names], "mode": "RGB"} | FILES
    pd.DataFrame(hashes).iloc[order].to_csv(folders["clean_data"] / "manifest.csv", index=False)
    (folders["clean_data"] / "report.json").write_text('{"resize": "stretch"}', encoding="utf-8")
    splits.iloc[order].to_csv(folders["segregated_data"] / "splits.csv", index=False)
    tables.write(pd.DataFrame({"label": CLASSES}), folders["segregated_data"] / "classes.csv")
    about = {"clean_data": "0" * 64, "truth_known": True, "target_day": target_day}
    (folders["segregated_data"] / "clean_data.json").write_text(json.dumps(about), encoding="utf-8")
    for name, values in (("given_labels", given), ("true_labels", true)):
        table = pd.DataFrame({"image": names, "label": np.array(CLASSES)[values]})
        table.iloc[order][doubtful[order]].to_csv(folders[name] / f"{name}.csv", index=False)
    return folders


def make_folder(place: Path, given: list[int], true: list[int], *, classes: int = 3, look: list[int] | None = None) -> dict[str, Path]:
    """Artifacts of small images all of which are Monday's, in colours, and none of which is trusted.

    ``look`` numbers the pictures: images of one number are copies; by default all differ.
    """
    rng, size, n_images = np.random.default_rng(5), 8, len(true)
    names = [f"{i:04d}.png" for i in range(n_images)]
    noise = rng.normal(0, 40, (n_images, size, size, 3))
    number = np.arange(n_images) if look is None else np.asarray(look)
    colours = 60 + 140 * np.eye(max(3, classes))[:, :3][np.asarray(true)]
    pixels = np.clip(colours[:, None, None, :] + noise[number], 0, 255).astype(np.uint8)
    folders = {name: place / name for name in ("clean_data", "segregated_data", "given_labels", "true_labels")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    np.save(folders["clean_data"] / "images.npy", pixels)
    hashes = {"image": names, "sha256": [str(k) for k in number.tolist()], "phash": "", "mode": "RGB"} | FILES
    tables.write(pd.DataFrame(hashes), folders["clean_data"] / "manifest.csv")
    (folders["clean_data"] / "report.json").write_text('{"resize": "stretch"}', encoding="utf-8")
    split = np.where(np.arange(n_images) % 6 == 5, "val", "train")
    about = {"image": names, "row": range(n_images), "day": "monday", "split": split, "label": "", "corruption": "", "corrupted_row": -1}
    tables.write(pd.DataFrame(about), folders["segregated_data"] / "splits.csv")
    named = [chr(ord("a") + k) for k in range(classes)]
    tables.write(pd.DataFrame({"label": named}), folders["segregated_data"] / "classes.csv")
    facts = {"clean_data": "0" * 64, "truth_known": True, "target_day": "monday"}
    (folders["segregated_data"] / "clean_data.json").write_text(json.dumps(facts), encoding="utf-8")
    for name, values in (("given_labels", given), ("true_labels", true)):
        tables.write(pd.DataFrame({"image": names, "label": [named[k] for k in values]}), folders[name] / f"{name}.csv")
    return folders
