"""Features, folds and trusted labels of a step for the judge on frozen features (:mod:`bccp.labels.frozen_judge`)."""

from __future__ import annotations

import numpy as np

from bccp.core.config_schema import BayesCutoff
from bccp.core.errors import BCCPError
from bccp.core.step_context import Step
from bccp.data.array_types import Float, Index
from bccp.data.dataset import Days
from bccp.data.duplicates import assign_folds
from bccp.labels.frozen_judge import FrozenJudgement, judge_given_labels
from bccp.models.feature_cache import judge_views, view_features
from bccp.models.logistic_regression import fit_scaling
from bccp.models.monday_model import build_by_recipe
from bccp.models.training_set import copies

FOLDS = 5
"""Held-out folds, where there are as many different trusted images."""


def judge_on_features(step: Step, days: Days, ids: list[str], given: Index, *, seed: int) -> FrozenJudgement:
    """Judge given labels by a frozen backbone's features, beside Monday's training and validation images.

    Parameters
    ----------
    step : Step
        Of ``bayes_cutoff``; its section's backbone is frozen.
    days : Days
        Monday is trusted.
    ids : list of str, length N
        Of the judged images, sorted.
    given : ndarray of int64, shape (N,)
        Their given labels.
    seed : int
        Of the folds.

    Returns
    -------
    FrozenJudgement

    Raises
    ------
    BCCPError
        If there are not two different trusted images.
    """
    config: BayesCutoff = step.config
    trusted = sorted(days.ids("monday", "train") + days.ids("monday", "val"))
    true = days.labels(trusted)
    model = build_by_recipe(days, config.monday_model())
    views = [view_features(step, days, model, trusted + ids, side=side, flipped=flipped) for side, flipped in judge_views(model)]
    fold = _folds(copies(step.input("clean_data"), trusted + ids, views[0][:]), true, given, seed=seed)
    known: list[Float] = []
    new: list[Float] = []
    for features in views:
        scaled = fit_scaling(features).apply(features)
        known.append(scaled[: len(trusted)])
        new.append(scaled[len(trusted) :])
    return judge_given_labels(
        known,
        true,
        new,
        given,
        n_classes=len(days.classes),
        trusted_folds=fold[: len(trusted)],
        new_folds=fold[len(trusted) :],
    )


def _folds(groups: Index, true: Index, given: Index, *, seed: int) -> Index:
    """Folds of trusted and new images, shape (A + N,), with duplicates together, trusted labels dealt evenly first, then given ones."""
    n_different = len(np.unique(groups[: len(true)]))
    if n_different < 2:
        raise BCCPError(
            f"bayes_cutoff.refine=stack judges beside trusted images, and Monday's training and validation images show {n_different} "
            "different picture(s): give more of them, or set bayes_cutoff.refine=student"
        )
    after_trusted = true.max(initial=0) + 1 + given
    rng = np.random.default_rng(seed)
    return assign_folds(groups, np.concatenate([true, after_trusted]), folds=min(FOLDS, n_different), rng=rng)
