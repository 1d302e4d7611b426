"""What a suspect looks like: beside it the most similar images whose label is beyond doubt, and its own copies.

N judged images, D features. A person decides faster between two classes with an example of each beside the image.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.data.array_types import Float32, Index
from bccp.data.dataset import Days
from bccp.labels.bayes_cutoff import Decision
from bccp.labels.label_report import nearest_by_cosine
from bccp.models.logistic_regression import Rows

COLUMNS = ("image", "nearest_suggested", "nearest_given", "group")

MOST_DOUBT = 0.1
"""P(wrong) up to which an image is an example of its given class."""

_ROWS = 4096


def confident_neighbours(days: Days, decision: Decision, report: pd.DataFrame, groups: Index, rows: Rows) -> pd.DataFrame:
    """Find what the images that a person is asked to check look like.

    Parameters
    ----------
    days : Days
    decision : Decision
    report : DataFrame
        From :func:`bccp.labels.label_report.make_report`.
    groups : ndarray of int64, shape (N,)
        Images of one group are copies; rows as in ``decision``.
    rows : array-like, shape (N, D)
        The first view of the judges, which look at features or pixels.

    Returns
    -------
    DataFrame
        The columns :data:`COLUMNS`, a row for each image with a ``chosen`` in the report, by image. ``nearest_suggested`` and
        ``nearest_given`` are the most similar images, no copies, whose given label is the suspect's suggested or given one and probably
        right; empty where there is none. ``group`` is the smallest id among the image's copies and itself.
    """
    ids = decision.table["image"].tolist()
    listed = report[report["chosen"] != ""].sort_values("image")
    place = {image: i for i, image in enumerate(ids)}
    suspects = np.array([place[image] for image in listed["image"]], np.int64)
    numbers = {name: k for k, name in enumerate(days.classes)}
    given = np.array([numbers[name] for name in decision.table["given_label"]], np.int64)
    suggested = np.array([numbers.get(name, -1) for name in listed["suggested_label"]], np.int64)
    doubt = pd.to_numeric(decision.table["p_wrong"]).fillna(1.0).to_numpy(float)
    wanted = [suggested, given[suspects]]
    near = nearest_of_classes(rows, given, doubt <= MOST_DOUBT, groups, suspects, wanted)
    smallest: dict[int, str] = {}
    for image, group in zip(ids, groups.tolist(), strict=True):
        smallest[group] = min(smallest.get(group, image), image)
    columns = [["" if i < 0 else ids[i] for i in found.tolist()] for found in near]
    own = [smallest[group] for group in groups[suspects].tolist()]
    return pd.DataFrame(dict(zip(COLUMNS, [listed["image"].tolist(), *columns, own], strict=True)))


def nearest_of_classes(
    rows: Rows, given: Index, confident: npt.NDArray[np.bool_], groups: Index, suspects: Index, wanted: list[Index]
) -> list[Index]:
    """Find the most similar confident images of some classes.

    Parameters
    ----------
    rows : array-like, shape (N, D)
        Features; those of a class are read at a time, and compared without their mean.
    given : ndarray of int64, shape (N,)
        Given labels.
    confident : ndarray of bool, shape (N,)
        Images whose given label is beyond doubt.
    groups : ndarray of int64, shape (N,)
        Copies, which are no neighbours.
    suspects : ndarray of int64, shape (S,)
        Positions.
    wanted : list of ndarray of int64, shape (S,)
        Classes; -1 for none.

    Returns
    -------
    list of ndarray of int64, shape (S,)
        A position for each class that is wanted; -1 where there is no such image.
    """
    found = [np.full(len(suspects), -1, np.int64) for _ in wanted]
    if not len(suspects) or not confident.any():
        return found
    mean = sum(np.asarray(rows[i : i + _ROWS], np.float64).sum(axis=0) for i in range(0, len(rows), _ROWS)) / len(rows)

    def centred(positions: Index) -> Float32:
        apart: Float32 = (np.asarray(rows[positions], np.float64) - mean).astype(np.float32)
        return apart

    own = centred(suspects)
    for label in np.unique(given[confident]).tolist():
        known = np.flatnonzero(confident & (given == label))
        asked = [np.flatnonzero(classes == label) for classes in wanted]
        some = np.unique(np.concatenate(asked))
        if len(some):
            nearest = np.full(len(suspects), -1, np.int64)
            nearest[some] = nearest_by_cosine(own[some], centred(known), apart=(groups[suspects[some]], groups[known]))
            for places, mine in zip(asked, found, strict=True):
                mine[places] = np.where(nearest[places] < 0, -1, known[nearest[places]])
    return found
