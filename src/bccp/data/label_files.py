"""Files of the artifacts ``given_labels`` and ``cleansed_labels``: written and read here alone.

Tables are sorted by image; columns without a type here are text, as they stand in the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from bccp.data import tables
from bccp.data.array_types import Float32
from bccp.data.label_tables.votes import VOTES

REPORT = "report.json"
"""Of ``given_labels``: the source of the labels, and counts."""

_GIVEN, _CLEANSED, _TARGETS = "given_labels.csv", "cleansed_labels.csv", "posterior.npy"


class CleansedLabels(NamedTuple):
    """Judged labels of N images, K classes.

    Attributes
    ----------
    table : DataFrame
        N rows, as :class:`bccp.labels.bayes_cutoff.Decision` describes them; ``weight`` is a float, ``above_cutoff`` a bool.
    targets : ndarray of float32, shape (N, K)
        What each image is trained on: P(class), rows sum to 1.
    """

    table: pd.DataFrame
    targets: Float32


def write_given_labels(folder: Path, labels: Mapping[str, str], votes: pd.DataFrame | None = None) -> None:
    """Write the label of each image, and each user's votes (``image, user, label``) where users are told apart."""
    tables.write(pd.DataFrame({"image": list(labels), "label": list(labels.values())}), folder / _GIVEN)
    if votes is not None:
        tables.write(votes, folder / VOTES)


def read_given_labels(folder: Path) -> pd.DataFrame:
    """Read the labels: ``image, label``."""
    return tables.read(folder / _GIVEN)


def given_source(folder: Path) -> str:
    """Read where given labels come from: a value of ``noisy_labels.source``, or ``ground_truth``; empty where it is not recorded."""
    report = folder / REPORT
    return str(json.loads(report.read_text(encoding="utf-8"))["source"]) if report.exists() else ""


def simulated_in(splits: pd.DataFrame, given_labels: Path | None) -> tuple[str, ...]:
    """Name what is simulated in a data set.

    Parameters
    ----------
    splits : DataFrame
        Of ``segregated_data``, with the column ``corruption``.
    given_labels : Path or None
        Folder of ``given_labels``.

    Returns
    -------
    tuple of str
        ``labels`` where the given ones were drawn from the true ones, ``images`` where some are corrupted.
    """
    parts = ["labels"] if given_labels and given_source(given_labels) == "simulated" else []
    return tuple(parts + (["images"] if (splits["corruption"] != "").any() else []))


def read_votes(folder: Path) -> pd.DataFrame | None:
    """Read the votes: ``image, user, label``; None where users are not told apart."""
    return tables.read(folder / VOTES) if (folder / VOTES).exists() else None


def write_cleansed_labels(folder: Path, table: pd.DataFrame, targets: Float32) -> None:
    """Write judged labels; ``table`` is sorted by image already, as its rows belong to those of ``targets``."""
    tables.write(table, folder / _CLEANSED)
    np.save(folder / _TARGETS, targets)


def read_cleansed_labels(folder: Path) -> CleansedLabels:
    """Read judged labels; the targets are memory-mapped."""
    return CleansedLabels(read_cleansed_table(folder), read_targets(folder))


def read_cleansed_table(folder: Path) -> pd.DataFrame:
    """Read the table of judged labels, without the targets."""
    table = tables.read(folder / _CLEANSED, dtypes={"weight": float})
    return table.assign(above_cutoff=table["above_cutoff"] == "True")


def read_targets(folder: Path) -> Float32:
    """Map the targets of judged labels, float32 of shape (N, K), without the table."""
    targets: Float32 = np.load(folder / _TARGETS, mmap_mode="r")
    return targets
