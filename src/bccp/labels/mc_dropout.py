"""What a model says of images in stochastic passes of MC dropout: one model, or one a held-out fold.

N images, K classes, S passes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from bccp.core import progress
from bccp.core.config_schema import MondayModel
from bccp.data.dataset import Days
from bccp.labels.bayes_cutoff import McDropoutSummary, summarise
from bccp.models import classifier
from bccp.models.architectures import ImageClassifier
from bccp.models.feature_cache import Inputs
from bccp.models.monday_model import fit_recipe
from bccp.models.training_set import one_hot

CHUNK = 2048
"""Images whose passes are held at once."""


def stochastic_passes(
    model: ImageClassifier,
    days: Days,
    ids: list[str],
    *,
    passes: int,
    seed: int,
    device: str,
    inputs: Inputs | None = None,
    chunk: int = CHUNK,
) -> McDropoutSummary:
    """Judge images by one model, a chunk at a time.

    Parameters
    ----------
    model : ImageClassifier
    days : Days
    ids : list of str, length N
        Sorted, so that the order of the data set cannot matter.
    passes : int
        S, at least 1.
    seed : int
        Of the dropout masks. Each pass has one mask for all images.
    device : str
        ``cpu``, ``cuda`` or ``mps``.
    inputs : callable, optional
        What the model is given of images; by default their pixels.
    chunk : int
        Images at once.

    Returns
    -------
    Passes
        In the order of ``ids``.
    """
    found, images = [], days.view(ids) if inputs is None else inputs(model, ids)
    for start in range(0, max(len(ids), 1), chunk):
        features = classifier.embed(model, images.take(np.arange(start, min(start + chunk, len(ids)))), device=device)
        # the same seed gives the same masks in each chunk
        found.append(summarise(classifier.stochastic_logits(model, features, passes=passes, generator=torch.Generator().manual_seed(seed))))
    return McDropoutSummary(*(np.concatenate(part) for part in zip(*found, strict=True)))


def held_out_passes(
    days: Days,
    ids: list[str],
    targets: npt.ArrayLike,
    fold: npt.ArrayLike,
    recipe: MondayModel,
    *,
    trusted: list[str],
    passes: int,
    seed: int,
    device: str,
    folder: Path,
    inputs: Inputs | None = None,
) -> McDropoutSummary:
    """Judge the images of each fold by a model that is fitted to the labels of all other folds.

    Parameters
    ----------
    days : Days
    ids : list of str, length N
        Sorted.
    targets : array-like, shape (N, K)
        What the models are trained on: the given labels (one-hot) or their posteriors; rows sum to 1.
    fold : array-like of int, shape (N,)
        From :func:`bccp.data.duplicates.assign_folds`.
    recipe : MondayModel
        Architecture and training of each model; all epochs are run.
    trusted : list of str
        Further images, with trusted labels, that each model is fitted to; may be none.
    passes, seed, device, inputs
        As for :func:`stochastic_passes`.
    folder : Path
        An existing folder for what training keeps in between.

    Returns
    -------
    Passes
        In the order of ``ids``; ``mean_probs`` are p(y | x) if the targets are given labels.

    Raises
    ------
    BCCPError
        Where the other folds hold fewer than two images, or the recipe cannot be followed.
    """
    soft, folds = np.asarray(targets, np.float32), np.asarray(fold, np.int64)
    known = one_hot(days.labels(trusted), len(days.classes))
    parts, order = [], []
    for number in progress.each("fold", np.unique(folds).tolist()):
        others, own = np.flatnonzero(folds != number), np.flatnonzero(folds == number)
        model, _ = fit_recipe(
            days,
            recipe,
            trusted + [ids[i] for i in others.tolist()],
            np.concatenate([known, soft[others]]),
            groups=np.concatenate([np.arange(len(trusted)), len(trusted) + folds[others]]),
            device=device,
            folder=folder / f"fold_{number}",
            inputs=inputs,
        )
        order.append(own)
        judged = [ids[i] for i in own.tolist()]
        parts.append(stochastic_passes(model, days, judged, passes=passes, seed=seed, device=device, inputs=inputs))
    back = np.argsort(np.concatenate(order))
    return McDropoutSummary(*(np.concatenate(part)[back] for part in zip(*parts, strict=True)))
