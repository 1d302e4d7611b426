"""What models say of images after training on the posteriors of these images' labels.

N images, K classes. The trusted model knows only Monday; the posteriors know Tuesday too, and are right more often than the given labels.
So a model that is trained on Monday and on the posteriors is the better judge of the same images. (One that is trained on the given labels
themselves is none: it agrees with them.)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bccp.core.config_schema import MondayModel
from bccp.core.home import scratch
from bccp.core.step_context import Step
from bccp.data.array_types import Float
from bccp.data.dataset import Days
from bccp.labels.mc_dropout import held_out_passes, stochastic_passes
from bccp.models.feature_cache import shared_inputs
from bccp.models.monday_model import fit_recipe
from bccp.models.training_set import one_hot, trusted_mirror


def student_probabilities(
    step: Step, days: Days, ids: list[str], posterior: Float, recipe: MondayModel, *, fold: npt.ArrayLike | None, passes: int, seed: int
) -> Float:
    """p(z | x) by a model that is trained on the posteriors, computed by whoever asks first.

    Parameters
    ----------
    step : Step
        Of ``bayes_cutoff``.
    days : Days
    ids : list of str, length N
        Of the judged images, sorted.
    posterior : ndarray of float64, shape (N, K)
        P(z = j | x, y); rows sum to 1.
    recipe : MondayModel
        Architecture and training; all epochs are run. Monday's training images join in where they are trusted.
    fold : array-like of int, shape (N,), optional
        Each image is judged by a model that is trained on the other folds; without it, by one that is trained on all.
    passes, seed
        As for :func:`bccp.labels.mc_dropout.stochastic_passes`.

    Returns
    -------
    ndarray of float64, shape (N, K)
        Rows sum to 1.
    """
    trusted = [] if days.target_day == "monday" else days.ids("monday", "train")
    known, soft = one_hot(days.labels(trusted), len(days.classes)), posterior.astype(np.float32)
    if trusted:  # they know better than doubtful labels whether mirroring matters
        recipe = dataclasses.replace(recipe, mirror="always" if trusted_mirror(recipe.mirror, days) else "never")

    def compute(folder: Path) -> None:
        inputs = shared_inputs(step, days)
        with scratch("student") as work:
            if fold is None:
                targets = np.concatenate([known, soft])
                model, _ = fit_recipe(
                    days,
                    recipe,
                    trusted + ids,
                    targets,
                    device=step.device,
                    folder=work,
                    inputs=inputs,
                    checkpoint=step.checkpoint,
                )
                found = stochastic_passes(model, days, ids, passes=passes, seed=seed, device=step.device, inputs=inputs)
            else:
                found = held_out_passes(
                    days,
                    ids,
                    soft,
                    fold,
                    recipe,
                    trusted=trusted,
                    passes=passes,
                    seed=seed,
                    device=step.device,
                    folder=work,
                    inputs=inputs,
                )
        np.save(folder / "probabilities.npy", found.mean_probs)

    learned = hashlib.sha256(json.dumps(ids).encode() + soft.tobytes() + (b"" if fold is None else np.asarray(fold, np.int64).tobytes()))
    key = {
        "recipe": recipe.relevant(),
        "data": step.inputs["segregated_data"],
        "targets": learned.hexdigest(),
        "passes": passes,
        "seed": seed,
    }
    probs: Float = np.load(step.shared("student", key, compute) / "probabilities.npy")
    return probs
