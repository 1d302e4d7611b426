"""The checks of a folder beside its labels (:mod:`bccp.data.folder_checks`), by the features that judge them, as work that is shared.

They depend on images, given labels and features alone: another action, cut-off or file of checked labels takes them as they are.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np

from bccp.core.step_context import Step
from bccp.data import tables
from bccp.data.array_types import Index
from bccp.data.checks import MANIFEST_DTYPES
from bccp.data.dataset import Days
from bccp.data.folder_checks import FOLDER_CHECKS, IMAGES_CHECKED, FolderChecks, find_folder_checks
from bccp.labels.stored_arrays import columns_digest, rows_digest
from bccp.models.logistic_regression import Rows


def check_folder(step: Step, days: Days, ids: list[str], given: Index, groups: Index, features: Rows) -> Path:
    """Look for all that judged images hide beside wrong labels, or take it from the ledger where that has been done before.

    Parameters
    ----------
    step : Step
        Of ``bayes_cutoff``, whose judges look at features or pixels.
    days : Days
    ids : list of str, length N
        Of the judged images, sorted.
    given : ndarray of int64, shape (N,)
        Their given labels.
    groups : ndarray of int64, shape (N,)
        Images of one group are copies.
    features : array-like, shape (N, D)
        The judges' first view, which finds images of no class.

    Returns
    -------
    Path
        A folder of the files that :meth:`bccp.data.folder_checks.FolderChecks.write` makes; :func:`copy_checks` copies them.
    """
    raw = step.ancestor("raw_data")

    def compute(folder: Path) -> None:
        clean = step.input("clean_data")
        manifest = tables.read(clean / "manifest.csv", dtypes=MANIFEST_DTYPES).set_index("image").loc[ids].reset_index()
        resize = json.loads((clean / "report.json").read_text(encoding="utf-8"))["resize"]
        pictures = manifest.assign(row=np.arange(len(ids)))  # of the days' view, in which some may be corrupted for a trial
        sizes = _file_bytes(raw) if raw else None
        find_folder_checks(pictures, days.view(ids), given, groups, days.classes, resize=resize, features=features, file_bytes=sizes).write(
            folder
        )

    key = {
        "features": rows_digest(features),
        "labels": columns_digest(ids, given, groups),
        "clean_data": step.inputs["clean_data"],
        "segregated_data": step.inputs["segregated_data"],
        "with_files": raw is not None,
    }
    folder = step.shared("folder_checks", key, compute)
    found = [one for one in FolderChecks.read(folder).checks if one.found and one.check in ("outliers", "cues", "contradictions")]
    if found:
        step.emit(f"beside wrong labels: {'; '.join(one.verdict for one in found)}")
    return folder


def copy_checks(checked: Path, folder: Path) -> None:
    """Copy what :func:`check_folder` has found into another folder."""
    for name in (FOLDER_CHECKS, IMAGES_CHECKED):
        shutil.copyfile(checked / name, folder / name)


def _file_bytes(raw: Path) -> dict[str, int]:
    """Sizes of the files of ``raw_data``, by image."""
    with zipfile.ZipFile(raw / "images.zip") as packed:
        return {entry.filename: entry.file_size for entry in packed.infolist()}
