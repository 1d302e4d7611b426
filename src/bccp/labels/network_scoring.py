"""Passes of the networks that judge given labels: Monday's model, or one a held-out fold, computed by whoever asks first.

N images, K classes. What the networks say depends on no decision that is taken afterwards, so that another method, cut-off, action or file
of checked labels trains and asks none anew.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bccp.core.config_schema import BayesCutoff
from bccp.core.home import scratch
from bccp.core.step_context import Step
from bccp.data.array_types import Float, Index
from bccp.data.dataset import Days
from bccp.labels.bayes_cutoff import McDropoutSummary
from bccp.labels.mc_dropout import held_out_passes, stochastic_passes
from bccp.labels.stored_arrays import columns_digest
from bccp.models.feature_cache import shared_inputs
from bccp.models.monday_model import open_monday_model, recipe_key
from bccp.models.training_set import one_hot


def monday_passes(step: Step, days: Days, ids: list[str], *, seed: int) -> tuple[McDropoutSummary, Float]:
    """Judge images by Monday's model.

    Parameters
    ----------
    step : Step
        Of ``bayes_cutoff``.
    days : Days
        Monday is trusted.
    ids : list of str, length N
        Of the judged images, sorted.
    seed : int
        Of the dropout masks.

    Returns
    -------
    passes : McDropoutSummary
        In the order of ``ids``.
    val_probs : ndarray of float64, shape (V, K)
        Mean probabilities of Monday's validation images, in the order of their ids.
    """
    config: BayesCutoff = step.config
    recipe = config.monday_model()

    def compute(folder: Path) -> None:
        model, inputs = open_monday_model(step, days, recipe), shared_inputs(step, days)
        for name, some in (("judged", ids), ("validation", days.ids("monday", "val"))):
            passes = stochastic_passes(model, days, some, passes=config.passes, seed=seed, device=step.device, inputs=inputs)
            _write(folder / name, passes)

    key = {
        "recipe": recipe_key(recipe),
        "data": step.inputs["segregated_data"],
        "images": columns_digest(ids),
        "passes": config.passes,
        "seed": seed,
    }
    folder = step.shared("monday_passes", key, compute)
    return _read(folder / "judged"), _read(folder / "validation").mean_probs


def fold_passes(step: Step, days: Days, ids: list[str], given: Index, fold: Index, *, seed: int) -> McDropoutSummary:
    """Judge the images of each fold by a network that is trained on the given labels of the others.

    Parameters
    ----------
    step : Step
        Of ``bayes_cutoff``.
    days : Days
    ids : list of str, length N
        Of the judged images, sorted.
    given : ndarray of int64, shape (N,)
        Their given labels.
    fold : ndarray of int64, shape (N,)
        From :func:`bccp.data.duplicates.assign_folds`.
    seed : int
        Of the dropout masks.

    Returns
    -------
    McDropoutSummary
        In the order of ``ids``.
    """
    config: BayesCutoff = step.config
    recipe = config.monday_model()

    def compute(folder: Path) -> None:
        with scratch("folds") as work:
            passes = held_out_passes(
                days,
                ids,
                one_hot(given, len(days.classes)),
                fold,
                recipe,
                trusted=[],
                passes=config.passes,
                seed=seed,
                device=step.device,
                folder=work,
                inputs=shared_inputs(step, days),
            )
        _write(folder / "judged", passes)

    key = {
        "recipe": recipe_key(recipe),
        "data": step.inputs["segregated_data"],
        "images": columns_digest(ids, given, fold),
        "passes": config.passes,
        "seed": seed,
    }
    return _read(step.shared("fold_passes", key, compute) / "judged")


def _write(folder: Path, passes: McDropoutSummary) -> None:
    folder.mkdir()
    for name, values in passes._asdict().items():
        np.save(folder / f"{name}.npy", values)


def _read(folder: Path) -> McDropoutSummary:
    return McDropoutSummary(*(np.load(folder / f"{name}.npy") for name in McDropoutSummary._fields))
