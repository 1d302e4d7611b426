"""Views, folds and the stored judgement of a step for the judge where nothing is trusted (:mod:`bccp.labels.untrusted_judge`).

What the judge says depends on what the images look like, on the given labels and on the folds, and on nothing that is decided afterwards.
So it is an artifact of its own, which another action, cut-off or file of checked labels takes as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bccp.core.config_schema import BayesCutoff
from bccp.core.runtime.requirements import installed_version
from bccp.core.step_context import Step
from bccp.data.array_types import Index
from bccp.data.dataset import Days, ImageView
from bccp.data.duplicates import assign_folds
from bccp.labels.stored_arrays import blocks, columns_digest, read_record, rows_digest, write_record
from bccp.labels.untrusted_judge import UntrustedJudgement, judge_untrusted, nothing_taught
from bccp.models.feature_cache import judge_views, view_features
from bccp.models.logistic_regression import Rows, fit_scaling
from bccp.models.monday_model import build_by_recipe
from bccp.models.training_set import copies


@dataclass(frozen=True)
class HeldOut:
    """How N images were held out.

    Attributes
    ----------
    groups : ndarray of int64, shape (N,)
        Images of one group are copies.
    n_folds : int
        0 where nothing could be held out.
    """

    groups: Index
    n_folds: int


class PixelRows:
    """Pixels of small images as features: one channel of grey pictures, else all three.

    Parameters
    ----------
    images : ImageView
        N images of S px.
    """

    def __init__(self, images: ImageView) -> None:
        self._images = images
        self._channels = 1 if all((block == block[..., :1]).all() for block in blocks(images)) else 3

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, positions: Any, /) -> npt.NDArray[np.uint8]:
        """Values of some images, (n, S · S) or (n, S · S · 3)."""
        pixels = self._images[positions][..., : self._channels]
        return pixels.reshape(len(pixels), -1)


def judge_views_of(step: Step, days: Days, ids: Sequence[str], *, most: int | None = None) -> list[Rows]:
    """The views of images that convex judges look at: two of a frozen backbone's features, or the pixels.

    Parameters
    ----------
    step : Step
        Of ``bayes_cutoff``.
    days : Days
    ids : sequence of str, length N
    most : int, optional
        Views that are wanted; by default all.

    Returns
    -------
    list of array-like, shape (N, D_v)
        Row i belongs to ``ids[i]``.
    """
    config: BayesCutoff = step.config
    if not config.freeze_backbone:
        return [PixelRows(days.view(list(ids)))]
    model = build_by_recipe(days, config.monday_model())
    return [view_features(step, days, model, ids, side=side, flipped=flipped) for side, flipped in judge_views(model)[:most]]


def judge_without_trust(step: Step, days: Days, ids: list[str], given: Index, *, seed: int) -> tuple[UntrustedJudgement, HeldOut]:
    """Judge given labels where no label is trusted, or take the judgement from the ledger where it has been made before.

    Parameters
    ----------
    step : Step
        Of ``bayes_cutoff``, with ``judge=features``.
    days : Days
    ids : list of str, length N
        Of the judged images, sorted.
    given : ndarray of int64, shape (N,)
        Their given labels.
    seed : int
        Of the folds.

    Returns
    -------
    judgement : UntrustedJudgement
        With fewer than two classes, or fewer than two different pictures, that of a judge who knows nothing.
    held_out : HeldOut
    """
    config: BayesCutoff = step.config
    n_classes = len(days.classes)
    views = judge_views_of(step, days, ids) if len(ids) else []

    def compute(folder: Path) -> None:
        features = np.asarray(views[0][:]) if views and config.freeze_backbone else None
        groups = copies(step.input("clean_data"), ids, features)
        n_folds = min(config.folds, len(np.unique(groups)))
        if n_folds < 2 or n_classes < 2:
            n_folds, judgement = 0, nothing_taught(given, n_classes)
        else:
            fold = assign_folds(groups, given, folds=n_folds, rng=np.random.default_rng(seed))
            scaled = [fit_scaling(view).apply(view) for view in views]
            judgement = judge_untrusted(scaled, given, n_classes=n_classes, folds=fold)
        for name, record in (("judgement", judgement), ("held_out", HeldOut(groups, n_folds))):
            (folder / name).mkdir()
            write_record(folder / name, record)

    key = {
        "views": [rows_digest(view) for view in views],
        "labels": columns_digest(ids, given),
        "classes": n_classes,
        "copies": step.inputs["clean_data"],
        "folds": config.folds,
        "seed": seed,
        "scipy": installed_version("scipy"),
    }
    folder = step.shared("untrusted_judgement", key, compute)
    return read_record(folder / "judgement", UntrustedJudgement), read_record(folder / "held_out", HeldOut)
