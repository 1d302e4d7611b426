"""``monday_model``: the classifier that is trained on Monday's trusted images alone, and shared by the steps that need it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bccp.core.config_schema import MondayModel
from bccp.core.digests import file_digest, folder_digest
from bccp.core.errors import BCCPError
from bccp.core.step_context import Step
from bccp.data.dataset import Days
from bccp.models import classifier
from bccp.models.architectures import ImageClassifier
from bccp.models.feature_cache import Inputs, shared_inputs
from bccp.models.fitting.convex_head import fit_head
from bccp.models.fitting.history import History
from bccp.models.fitting.training_options import TrainingData, TrainingHooks, TrainingOptions
from bccp.models.training_set import may_mirror, one_hot

_CHUNK = 1024


def shared_monday_model(step: Step, days: Days, recipe: MondayModel) -> Path:
    """The folder of Monday's model, trained by whoever asks first.

    Parameters
    ----------
    step : Step
    days : Days
    recipe : MondayModel

    Returns
    -------
    Path
        For ``models.load``.

    Raises
    ------
    BCCPError
        Where Monday's labels are not trusted, or the recipe cannot be followed.
    """
    _check_trusted(days)

    def compute(folder: Path) -> None:
        train_monday_model(
            days,
            recipe,
            device=step.device,
            folder=folder,
            progress=True,
            inputs=shared_inputs(step, days),
            checkpoint=step.checkpoint,
        )

    key = {"recipe": recipe_key(recipe), "data": data_digest(days)}
    return step.shared("monday_model", key, compute)


def open_monday_model(step: Step, days: Days, recipe: MondayModel) -> ImageClassifier:
    """:func:`shared_monday_model`, loaded, and frozen where the recipe says so."""
    model, _ = classifier.load_classifier(shared_monday_model(step, days, recipe))
    if recipe.freeze_backbone:
        model.freeze_backbone()
    return model


def train_monday_model(
    days: Days,
    recipe: MondayModel,
    *,
    device: str,
    folder: Path,
    progress: bool = False,
    inputs: Inputs | None = None,
    checkpoint: Path | None = None,
) -> None:
    """Train on Monday's trusted training images and save the model; its validation images choose the best epoch, or penalty.

    Parameters
    ----------
    days : Days
    recipe : MondayModel
    device : str
    folder : Path
        Gets what ``models.save`` writes.
    progress : bool
    inputs : callable, optional
        What the model is given of images; by default their pixels.
    checkpoint : Path, optional
        As for :class:`bccp.models.fitting.training_options.TrainingHooks`.

    Raises
    ------
    BCCPError
        Where the recipe cannot be followed.
    """
    ids, val_ids = days.ids("monday", "train"), days.ids("monday", "val")
    model, history = fit_recipe(
        days,
        recipe,
        ids,
        one_hot(days.labels(ids), len(days.classes)),
        val_ids,
        device=device,
        folder=folder,
        progress=progress,
        inputs=inputs,
        checkpoint=checkpoint,
    )
    classifier.save_classifier(model, folder, {"class_names": days.classes}, last_state=history.last_state, history=history.table())


def fit_recipe(
    days: Days,
    recipe: MondayModel,
    ids: list[str],
    targets: npt.NDArray[np.float32],
    val_ids: list[str] | None = None,
    *,
    groups: npt.ArrayLike | None = None,
    device: str,
    folder: Path,
    progress: bool = False,
    inputs: Inputs | None = None,
    checkpoint: Path | None = None,
) -> tuple[ImageClassifier, History]:
    """Follow the recipe on some images; all epochs are run, where there are any.

    Parameters
    ----------
    days : Days
    recipe : MondayModel
    ids : list of str, length N
    targets : ndarray of float32, shape (N, K)
        P(class) that they are trained on; rows sum to 1.
    val_ids : list of str, optional
        Images with trusted labels that choose the best epoch, or the penalty of a logistic regression. Without them it is the last epoch,
        and the penalty is chosen by folds.
    groups : array-like of int, shape (N,), optional
        Images of one group are copies, which stay in one of these folds.
    device : str
    folder : Path
        For what training keeps in between.
    progress : bool
    inputs : callable, optional
        What the model is given of images; by default their pixels.
    checkpoint : Path, optional
        As for :class:`bccp.models.fitting.training_options.TrainingHooks`.

    Returns
    -------
    model : ImageClassifier
    history : History

    Raises
    ------
    BCCPError
        Where the recipe cannot be followed.
    """
    n_classes = len(days.classes)
    model = build_by_recipe(days, recipe)
    mirror = may_mirror(recipe.mirror, days, ids, targets.argmax(axis=1), val_ids)
    model.mirrored = mirror  # before features are asked for
    show: Inputs = inputs or (lambda _, some: days.view(some))
    validation = None if val_ids is None else TrainingData(show(model, val_ids), one_hot(days.labels(val_ids), n_classes))
    if recipe.head == "logistic_regression":
        return model, fit_head(
            model, TrainingData(show(model, ids), targets), validation, groups=groups, device=device, seed=recipe.random_seed
        )
    from bccp.models.fitting import training  # Lightning takes seconds to import

    history = training.fit(
        model,
        TrainingData(show(model, ids), targets),
        validation,
        TrainingOptions.of(recipe, mirror=mirror, device=device),
        seed=recipe.random_seed,
        folder=folder,
        hooks=TrainingHooks(progress=progress, checkpoint=checkpoint),
    )
    return model, history


def build_by_recipe(days: Days, recipe: MondayModel) -> ImageClassifier:
    """The recipe's classifier for these days as it is before training."""
    return classifier.build_classifier(
        recipe.model,
        len(days.classes),
        image_size=days.image_size,
        dropout=recipe.dropout,
        seed=recipe.random_seed,
        weights=recipe.weights,
        freeze_backbone=recipe.freeze_backbone,
        normalization=recipe.normalization,
    )


def data_digest(days: Days) -> str:
    """SHA-256 over Monday's training and validation images, in the order of their ids: pixels, labels, splits and the classes."""
    found = hashlib.sha256(json.dumps([days.classes, days.image_size]).encode())
    for split in ("train", "val"):
        ids = days.ids("monday", split)
        found.update(json.dumps([split, days.splits.loc[ids, "label"].tolist()]).encode())
        view = days.view(ids)
        for start in range(0, len(ids), _CHUNK):
            found.update(view[np.arange(start, min(start + _CHUNK, len(ids)))].tobytes())
    return found.hexdigest()


def _check_trusted(days: Days) -> None:
    if days.target_day == "monday":
        raise BCCPError(
            "monday_model needs trusted labels, and with main.target_day=monday there are none: use it with main.target_day=tuesday"
        )


def recipe_key(recipe: MondayModel) -> dict[str, Any]:
    """The part of a key that a recipe is: what it depends on, a file of weights by what it holds."""
    return recipe.relevant() | {"weights": _by_content(recipe.weights)}


def _by_content(weights: str | None) -> str | None:
    """A file or folder of weights by what it holds, a name as it is."""
    if weights is None or not Path(weights).exists():
        return weights
    return "sha256:" + (folder_digest if Path(weights).is_dir() else file_digest)(Path(weights))
