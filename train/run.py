"""Trains the new model on the cleansed target day and the replay.

Reads ``clean_data``, ``segregated_data``, ``cleansed_labels`` (or the true labels in its place) and, where images are
replayed, ``replay_sample``. Writes ``model`` (``model.pt``: the best epoch's weights, ``last.pt``, ``model.json``, ``history.csv``,
``README.md``, and ``trained_on_before.npy`` where a registered model was the start).
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, json.loads(os.environ.get("BCCP_CONTEXT", "{}")).get("package") or str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np

from bccp import batch_picture, device, energy, mlflow_model, models, tables, train, training
from bccp.augmented_data import augmented_set
from bccp.frozen_features import shared_inputs
from bccp.images import open_days
from bccp.starting_point import starting_model
from bccp.step_context import Step
from bccp.step_runner import command_line
from bccp.training_options import TrainingData, TrainingHooks


def run(step: Step) -> None:
    """Load, train, save, report."""
    config, clean = step.config, step.input("clean_data")
    days = open_days(step.input("segregated_data"), clean)
    report = json.loads((clean / "report.json").read_text(encoding="utf-8"))
    table = tables.read(step.input("replay_sample") / "replay_sample.csv") if step.has_input("replay_sample") else {"image": []}
    replay = list(table["image"])
    cleansed, posterior = train.read_labels(days, step.input("cleansed_labels"))
    images = train.training_set(days, cleansed, posterior, replay)
    images = train.subset(images, days.classes, config.subset, seed=config.random_seed)
    validation = train.validation_set(days, cleansed, posterior)
    model, trained_on_before = starting_model(step, days, config)
    if model.note:
        step.say(model.note)
    mirror = train.mirrors(config.mirror, days, images)
    if config.mirror == "auto":
        step.say(f"images are {'' if mirror else 'not '}mirrored")
    model.mirrored, inputs = model.mirrored or mirror, shared_inputs(step, days)
    if config.augment_to:
        pixels, images = augmented_set(step, model, days, images, mirror=mirror)
    else:
        pixels = inputs(model, images.ids)
    with step.output("model") as folder, energy.measured(config.energy_country) as spent:
        history = training.fit(
            model,
            TrainingData(pixels, images.targets, images.weights, **train.balance(config, images)),
            TrainingData(inputs(model, validation.ids), validation.targets),
            train.options(config, mirror=mirror, device=device.training_device(config)),
            seed=config.random_seed,
            folder=folder,
            hooks=TrainingHooks(progress=True, show=lambda batch: batch_picture.log_batch(step, batch), checkpoint=step.checkpoint),
        )
        about = {"class_names": days.classes, "resize": report.get("resize")} | {k: v for k, v in report.items() if k == "cleanup"}
        models.save(model, folder, about, last_state=history.last_state, history=history.table())
        if len(trained_on_before):
            np.save(folder / mlflow_model.TRAINED_ON_BEFORE, trained_on_before)
    step.log_metrics({"images": len(images.ids)} | history.figures() | spent)
    step.log_history(history.rows())
    known = f"{config.model} on {len(images.ids)} images, {len({*replay} & {*images.ids})} of them replayed"
    step.say(f"{known}; epoch {history.best_epoch} of {len(history.train_loss)} was best")


if __name__ == "__main__":
    command_line(run)
