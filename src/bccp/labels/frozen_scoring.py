"""Features, folds and trusted labels of a step for the judge on frozen features (:mod:`bccp.labels.frozen_judge`).

The judgement depends on nothing that is decided afterwards, and is an artifact of its own: another action, cut-off or file of checked
labels takes it as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bccp.core.errors import BCCPError
from bccp.core.runtime.requirements import installed_version
from bccp.core.step_context import Step
from bccp.data.array_types import Float, Index
from bccp.data.dataset import Days
from bccp.data.duplicates import assign_folds
from bccp.labels.frozen_judge import FrozenJudgement, judge_given_labels
from bccp.labels.stored_arrays import columns_digest, read_record, rows_digest, write_record
from bccp.labels.untrusted_scoring import judge_views_of
from bccp.models.logistic_regression import fit_scaling
from bccp.models.training_set import copies

FOLDS = 5
"""Held-out folds, where there are as many different trusted images."""


@dataclass(frozen=True)
class StackJudgement:
    """What a step takes from a :class:`bccp.labels.frozen_judge.FrozenJudgement` of N given labels.

    Attributes
    ----------
    probs, posterior, noise_matrix, offsets
        As there, and as its noise has them.
    groups : ndarray of int64, shape (N,)
        Judged images of one group are copies.
    noise_model : str
    temperature, guess_share : float
    softness : float or None
    accepted : bool
    n_judges : int
    separability, anchor_worth : float
    numbers : dict
        For ``cutoff.json``.
    """

    probs: Float
    posterior: Float
    noise_matrix: Float
    offsets: Float
    groups: Index
    noise_model: str
    temperature: float
    guess_share: float
    softness: float | None
    accepted: bool
    n_judges: int
    separability: float
    anchor_worth: float
    numbers: dict[str, Any]

    @classmethod
    def of(cls, found: FrozenJudgement, groups: Index) -> StackJudgement:
        """Take what counts from a judgement."""
        estimate = found.noise.estimate
        return cls(
            probs=found.probs,
            posterior=found.posterior,
            noise_matrix=estimate.noise_matrix,
            offsets=found.noise.offsets,
            groups=groups,
            noise_model=estimate.model,
            temperature=estimate.temperature,
            guess_share=estimate.guess_share,
            softness=estimate.softness,
            accepted=found.accepted,
            n_judges=len(found.settings),
            separability=found.separability,
            anchor_worth=found.anchor_worth,
            numbers=found.numbers(),
        )


def judge_on_features(step: Step, days: Days, ids: list[str], given: Index, *, seed: int) -> StackJudgement:
    """Judge given labels by a frozen backbone's features, beside Monday's training and validation images, or take the judgement from the
    ledger where it has been made before.

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
    StackJudgement

    Raises
    ------
    BCCPError
        If there are not two different trusted images.
    """
    trusted = sorted(days.ids("monday", "train") + days.ids("monday", "val"))
    true = days.labels(trusted)
    views = judge_views_of(step, days, trusted + ids)

    def compute(folder: Path) -> None:
        groups = copies(step.input("clean_data"), trusted + ids, views[0][:])
        fold = _folds(groups, true, given, seed=seed)
        known: list[Float] = []
        new: list[Float] = []
        for features in views:
            scaled = fit_scaling(features).apply(features)
            known.append(scaled[: len(trusted)])
            new.append(scaled[len(trusted) :])
        found = judge_given_labels(
            known,
            true,
            new,
            given,
            n_classes=len(days.classes),
            trusted_folds=fold[: len(trusted)],
            new_folds=fold[len(trusted) :],
        )
        write_record(folder, StackJudgement.of(found, groups[len(trusted) :]))

    key = {
        "views": [rows_digest(features) for features in views],
        "trusted": columns_digest(trusted, true),
        "labels": columns_digest(ids, given),
        "classes": len(days.classes),
        "copies": step.inputs["clean_data"],
        "seed": seed,
        "scipy": installed_version("scipy"),
    }
    return read_record(step.shared("stack_judgement", key, compute), StackJudgement)


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
