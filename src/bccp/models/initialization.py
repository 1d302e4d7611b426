"""Where retraining starts: a new network, Monday's model, or a model of the registry."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bccp.core.config_schema import Train
from bccp.core.errors import BCCPError
from bccp.core.home import scratch
from bccp.core.step_context import Step
from bccp.data.dataset import Days
from bccp.models import classifier, mlflow_flavor
from bccp.models.architectures import ImageClassifier
from bccp.models.monday_model import shared_monday_model
from bccp.tracking import registry


def starting_model(step: Step, days: Days, config: Train) -> tuple[ImageClassifier, npt.NDArray[np.uint64]]:
    """The model that retraining starts with.

    Parameters
    ----------
    step : Step
    days : Days
    config : Train

    Returns
    -------
    model : ImageClassifier
    trained_on : ndarray of uint64, shape (n,)
        Fingerprints of what a registered model was trained on, from :func:`bccp.models.mlflow_flavor.fingerprints`; empty where training
        starts from no such model.

    Raises
    ------
    BCCPError
        If the model, the weights or the registered model cannot be had or do not fit each other.
    """
    if config.init != "scratch" and config.weights is not None:
        raise BCCPError(
            f"train.weights={config.weights} and train.init={config.init} are both given, but training has one start: leave one out"
        )
    model = classifier.build_classifier(
        config.model,
        len(days.classes),
        image_size=days.image_size,
        dropout=config.dropout,
        seed=config.random_seed,
        weights=config.weights,
        normalization=config.normalization,
    )
    trained_on = np.array([], np.uint64)
    if config.init == "monday_model":
        classifier.initialise(model, shared_monday_model(step, days, config.monday_model), class_names=days.classes)
    elif config.init != "scratch":
        with scratch("registered") as folder:
            place = registry.fetch_model(step.ledger, registry.find_version(step.ledger, config.init), folder)
            classifier.initialise(model, place, class_names=days.classes)
            trained_on = mlflow_flavor.trained_on(place)
        if not len(trained_on):
            step.emit(f"which images {config.init} was trained on is not recorded: test images may be among them")
    if config.freeze_backbone:
        model.freeze_backbone()
    elif config.trainable_blocks is not None:
        model.freeze_all_but(config.trainable_blocks)
    if (config.freeze_backbone or config.trainable_blocks is not None) and config.init == "scratch" and config.weights is None:
        remedy = "train.freeze_backbone=false" if config.freeze_backbone else "train.trainable_blocks=null"
        model.note = f"what is frozen of the backbone has random weights: give train.weights or train.init, or set {remedy}"
    return model, trained_on
