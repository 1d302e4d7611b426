"""The list of all images with their labels, ``labels.csv``: the worst first, and at its end files that are no images that can be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from bccp.data import tables
from bccp.pipeline.exports.label_changes import LabelChanges

LIST = "labels.csv"
"""Its name, beside the images."""

COLUMNS = ("rank", "image", "given_label", "p_wrong", "suggested_label", "p_suggested", "action", "final_label", "reason")

TRUSTED, LEFT_OUT = "trusted", "left_out"
"""Actions of images whose labels were not judged: they are trusted, or the image takes no part."""

NO_LABEL, IN_NO_SPLIT = "no label", "in no split"
"""Reasons why a readable image takes no part."""


def labels_table(clean: Path, segregated: Path, changes: LabelChanges) -> pd.DataFrame:
    """List each image of a run with what is known of its label, and what becomes of it.

    Parameters
    ----------
    clean, segregated : Path
        Folders of ``clean_data`` and ``segregated_data``.
    changes : LabelChanges
        Of the run's ``cleansed_labels``.

    Returns
    -------
    DataFrame
        The columns :data:`COLUMNS`, all text, in the order of the list: judged images by rank, then those whose labels are trusted, then
        those that take no part, each by id. ``action`` is ``keep``, ``relabel`` or ``drop``, else ``trusted`` or ``left_out``;
        ``final_label`` is empty where the image is not written. ``reason`` tells why an image takes no part, who has decided, or why a
        suspect stays. Probabilities have four decimals, and are empty where unknown.
    """
    judged = changes.table
    rows = pd.DataFrame(
        {
            "rank": judged["rank"].astype(str),
            "p_wrong": _four_decimals(judged["p_wrong"]),
            "p_suggested": _four_decimals(judged["p_suggested"]),
        }
        | {name: judged[name] for name in ("image", "given_label", "suggested_label", "action", "final_label", "reason")}
    )
    splits = tables.read(segregated / "splits.csv")
    trusted = splits[(splits["label"] != "") & ~splits["image"].isin(judged["image"])]
    trusted = pd.DataFrame({"image": trusted["image"], "given_label": trusted["label"], "final_label": trusted["label"], "action": TRUSTED})
    worst_first = rows.iloc[np.argsort(judged["rank"].to_numpy(), kind="stable")]
    left_out = _left_out(clean, listed=set(rows["image"]) | set(trusted["image"]), in_splits=set(splits["image"]))
    parts = [part.reindex(columns=list(COLUMNS), fill_value="") for part in (worst_first, trusted.sort_values("image"), left_out)]
    return pd.concat(parts, ignore_index=True)


def write_labels_list(table: pd.DataFrame, path: Path) -> None:
    """Write a list as CSV, in its own order."""
    table.to_csv(path, index=False, encoding="utf-8", lineterminator="\n")


def _left_out(clean: Path, *, listed: set[str], in_splits: set[str]) -> pd.DataFrame:
    """Files that take no part, with the reason, sorted by id: an image in a split that is neither trusted nor judged was given no label."""
    manifest, quarantine = tables.read(clean / "manifest.csv"), tables.read(clean / "quarantine.csv")
    unused = manifest[~manifest["image"].isin(list(listed))]
    without_label = (unused["label"] == "") | unused["image"].isin(list(in_splits))
    reasons = pd.DataFrame({"image": unused["image"], "reason": np.where(without_label, NO_LABEL, IN_NO_SPLIT)})
    return pd.concat([reasons, quarantine[["image", "reason"]]]).assign(action=LEFT_OUT).sort_values("image")


def _four_decimals(probabilities: pd.Series) -> list[str]:
    return ["" if np.isnan(p) else f"{p:.4f}" for p in probabilities]
