"""Where retraining starts: a new network, Monday's model, or a model of the registry."""

from __future__ import annotations

from pathlib import Path

from bccp import models
from bccp.architectures import ImageClassifier
from bccp.config import Train
from bccp.errors import BCCPError
from bccp.home import scratch
from bccp.images import Days
from bccp.monday_model import shared_monday_model
from bccp.registry import VERSION_TAG, fetch, find
from bccp.step import Step
from bccp.tracking import Ledger


def starting_model(step: Step, days: Days, config: Train) -> ImageClassifier:
    """The model that retraining starts with.

    Parameters
    ----------
    step : Step
    days : Days
    config : Train

    Returns
    -------
    ImageClassifier

    Raises
    ------
    BCCPError
        If the model, the weights or the registered model cannot be had or do not fit each other.
    """
    if config.init != "scratch" and config.weights is not None:
        raise BCCPError(
            f"train.weights={config.weights} and train.init={config.init} are both given, but training has one start: leave one out"
        )
    model = models.build(
        config.model,
        len(days.classes),
        image_size=days.image_size,
        dropout=config.dropout,
        seed=config.random_seed,
        weights=config.weights,
        normalization=config.normalization,
    )
    if config.init == "monday_model":
        models.initialise(model, shared_monday_model(step, days, config.monday_model), class_names=days.classes)
    elif config.init != "scratch":
        with scratch("registered") as folder:
            fetched = fetch_registered(step.ledger, config.init, folder)
            models.initialise(model, fetched, class_names=days.classes)
    if config.freeze_backbone:
        model.freeze_backbone()
    elif config.trainable_blocks is not None:
        model.freeze_all_but(config.trainable_blocks)
    if (config.freeze_backbone or config.trainable_blocks is not None) and config.init == "scratch" and config.weights is None:
        remedy = "train.freeze_backbone=false" if config.freeze_backbone else "train.trainable_blocks=null"
        model.note = f"what is frozen of the backbone has random weights: give train.weights or train.init, or set {remedy}"
    return model


def fetch_registered(ledger: Ledger, uri: str, folder: Path) -> Path:
    """Fetch a model from MLflow's registry.

    Parameters
    ----------
    ledger : Ledger
        In whose store the registry is.
    uri : str
        ``models:/name@alias`` or ``models:/name/version``.
    folder : Path
        Where to put a model that has to be copied.

    Returns
    -------
    Path
        The folder that holds ``model.json``.

    Raises
    ------
    BCCPError
        If it is not there, or is none of our models.
    """
    version = find(ledger, uri)
    digest = version.tags.get(VERSION_TAG)
    if digest is not None:
        return ledger.fetch(f"model:{digest}")
    return fetch(ledger, version, folder)
