"""Fits the head of a frozen backbone at once, as a logistic regression on its features: no seed, schedule or epoch decides on it.

N training images, K classes, D features.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bccp.core.errors import BCCPError
from bccp.data.array_types import Float
from bccp.data.dataset import FeatureView
from bccp.data.duplicates import assign_folds
from bccp.models.architectures import ImageClassifier
from bccp.models.classifier import embed
from bccp.models.fitting.history import History
from bccp.models.fitting.training_options import TrainingData
from bccp.models.logistic_regression import LogisticRegression, Rows, Selection, fit, fit_by_folds, fit_by_validation, fit_scaling

FOLDS = 5
"""Parts of the images of which each is judged by models of the others, where no validation image is trusted."""

LEAST_COLUMNS, MOST_COLUMNS, IMAGES_A_COLUMN = 256, 512, 16
"""Principal components of the features that are kept: one for so many images, between two bounds. On 8,000 photographs the last 256 of 512
are worth half a point of accuracy, on 2,000 and fewer nothing."""

UNCHOSEN = 1e-3
"""Strength of the penalty where a single image, or copies of one, leave nothing to choose it by."""


def fit_head(
    model: ImageClassifier,
    data: TrainingData,
    validation: TrainingData | None,
    *,
    trusted: bool = True,
    groups: npt.ArrayLike | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> History:
    """Fit the head of a model with a frozen backbone; afterwards the model is on the CPU and in evaluation mode.

    The features are scaled (:class:`bccp.models.logistic_regression.FeatureScaling`), and the scaling becomes a part of the linear layer.
    The strength of the penalty is the one with the lowest loss on trusted validation images or, where there are none, on held-out folds of
    all images; the head is fitted to all images with it.

    Parameters
    ----------
    model : ImageClassifier
        Its head is changed.
    data : TrainingData
        Its ``class_weights`` hold for the validation images too; ``shares`` are not looked at.
    validation : TrainingData or None
        Of no images, it is as None.
    trusted : bool
        The validation images' targets are true. If not, they are images like all others.
    groups : array-like of int, shape (N,) or (N + n,), optional
        Images of one group are copies, which stay in one fold: of the training images and, where they are not trusted, of the validation
        images after them. Without it no image is a copy.
    device : str
        For images that have yet to be embedded.
    seed : int
        Of the folds.

    Returns
    -------
    History
        One item a strength that was tried; its validation figures are of images that the models had not seen.

    Raises
    ------
    BCCPError
        If fewer than 2 images have a weight above 0.
    """
    weights = _importance(data, data.class_weights)
    if (weights > 0).sum() < 2:
        raise BCCPError(f"training needs at least 2 images with a weight above 0, not {int((weights > 0).sum())} of {len(weights)}")
    parts, targets = [_features(model, data, device)], np.asarray(data.targets, np.float64)
    held = validation if validation is not None and len(validation.images) else None
    if held is not None:
        parts.append(_features(model, held, device))
    n_columns = int(np.clip(sum(map(len, parts)) // IMAGES_A_COLUMN, LEAST_COLUMNS, MOST_COLUMNS))
    scaling = fit_scaling(*parts, columns=n_columns)
    scaled = [scaling.apply(part) for part in parts]
    if held is None:
        found = _by_folds(scaled[0], targets, weights, groups, seed)
    else:
        held_targets, held_weights = np.asarray(held.targets, np.float64), _importance(held, data.class_weights)
        if trusted and held_weights.any():
            found = fit_by_validation(scaled[0], targets, scaled[1], held_targets, weights=weights, held_weights=held_weights)
        else:
            targets, weights = np.concatenate([targets, held_targets]), np.concatenate([weights, held_weights])
            found = _by_folds(np.concatenate(scaled), targets, weights, groups, seed)
    _write(model, scaling.fold_in(found.model))
    return _history(found)


def _importance(data: TrainingData, class_weights: npt.ArrayLike | None) -> Float:
    """Factor of each image's loss, shape (N,)."""
    importance = np.ones(len(data.images)) if data.weights is None else np.array(data.weights, np.float64)
    if class_weights is not None:
        importance *= np.asarray(data.targets, np.float64) @ np.asarray(class_weights, np.float64)
    return importance


def _features(model: ImageClassifier, data: TrainingData, device: str) -> Rows:
    return data.images if isinstance(data.images, FeatureView) else embed(model, data.images, device=device)


def _by_folds(features: Float, targets: Float, weights: Float, groups: npt.ArrayLike | None, seed: int) -> Selection:
    counting = np.flatnonzero(weights > 0)
    features, targets, weights = features[counting], targets[counting], weights[counting]
    group = np.arange(len(counting)) if groups is None else np.asarray(groups, np.int64)[counting]
    n_folds = min(FOLDS, len(np.unique(group)))
    if n_folds < 2:
        model = fit(features, targets, strength=UNCHOSEN, weights=weights)
        return Selection(model, UNCHOSEN, (), np.empty((0, targets.shape[1])), ())
    fold = assign_folds(group, targets.argmax(axis=1), folds=n_folds, rng=np.random.default_rng(seed))
    return fit_by_folds(features, targets, fold, weights=weights)


def _write(model: ImageClassifier, fitted: LogisticRegression) -> None:
    """Make a fitted model the head's last layer."""
    model.to("cpu").eval()
    last = cast(nn.Linear, model.head[1])
    with torch.no_grad():
        last.weight.copy_(torch.from_numpy(fitted.coefficients.T))
        last.bias.copy_(torch.from_numpy(fitted.intercept))


def _history(found: Selection) -> History:
    history = History()
    if not found.trials:
        history.strength, history.train_loss, history.best_epoch = [found.strength], [found.model.loss], 1
        return history
    history.strength, history.train_loss, history.val_loss, history.val_accuracy = (
        [getattr(trial, name) for trial in found.trials] for name in ("strength", "train_loss", "loss", "accuracy")
    )
    history.best_epoch = 1 + history.strength.index(found.strength)
    return history
