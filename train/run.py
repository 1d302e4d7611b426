"""Trains the new model on the cleansed target day and the replay.

Reads ``clean_data``, ``segregated_data``, ``cleansed_labels`` (or the true labels in its place) and, where images are
replayed, ``replay_sample``. Writes ``model`` (``model.pt``: the best epoch's weights, ``last.pt`` where there are epochs, ``model.json``,
``history.csv``, ``README.md``, and ``trained_on_before.npy`` where a registered model was the start).
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, json.loads(os.environ.get("BCCP_CONTEXT", "{}")).get("package") or str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np

from bccp.core.runtime import device
from bccp.core.step_context import Step
from bccp.data import tables
from bccp.data.dataset import FeatureView, open_days
from bccp.models import batch_preview, classifier, mlflow_flavor, training_set
from bccp.models.feature_cache import shared_inputs
from bccp.models.fitting import energy
from bccp.models.fitting.convex_head import fit_head
from bccp.models.fitting.training_options import TrainingData, TrainingHooks
from bccp.models.initialization import starting_model
from bccp.models.offline_augmentation import augmented_set
from bccp.pipeline.step_runner import command_line

_KEPT = ("cleanup", "range", "max_pixels")
"""What preprocessing reports, where it differs from the default, that the model's own pictures need too."""


def run(step: Step) -> None:
    """Load, train, save, report."""
    config, clean = step.config, step.input("clean_data")
    days = open_days(step.input("segregated_data"), clean)
    report = json.loads((clean / "report.json").read_text(encoding="utf-8"))
    table = tables.read(step.input("replay_sample") / "replay_sample.csv") if step.has_input("replay_sample") else {"image": []}
    replay = list(table["image"])
    cleansed, posterior = training_set.read_labels(days, step.input("cleansed_labels"))
    images = training_set.training_set(days, cleansed, posterior, replay)
    images = training_set.subset(images, days.classes, config.subset, seed=config.random_seed)
    validation = training_set.validation_set(days, cleansed, posterior)
    model, trained_on_before = starting_model(step, days, config)
    if model.note:
        step.emit(model.note)
    mirror = training_set.mirrors(config.mirror, days, images)
    if config.mirror == "auto":
        step.emit(f"images are {'' if mirror else 'not '}mirrored")
    model.mirrored, inputs = model.mirrored or mirror, shared_inputs(step, days)
    if config.augment_to:
        pixels, images = augmented_set(step, model, days, images, mirror=mirror)
    else:
        pixels = inputs(model, images.ids)
    with step.output("model") as folder, energy.measured(config.energy_country) as spent:
        data = TrainingData(pixels, images.targets, images.weights, **training_set.balance(config, images))
        held_out = TrainingData(inputs(model, validation.ids), validation.targets)
        trusted = bool(validation.ids) and training_set.is_validation_trusted(days)
        if config.head == "logistic_regression":
            history = fit_head(
                model,
                data,
                held_out,
                trusted=trusted,
                groups=None if trusted else training_set.copies(clean, [*images.ids, *validation.ids], _features(data, held_out)),
                device=device.training_device(config),
                seed=config.random_seed,
            )
        else:
            from bccp.models.fitting import training  # Lightning takes seconds to import

            history = training.fit(
                model,
                data,
                held_out,
                training_set.options(config, mirror=mirror, device=device.training_device(config)),
                seed=config.random_seed,
                folder=folder,
                hooks=TrainingHooks(progress=True, show=lambda batch: batch_preview.log_batch(step, batch), checkpoint=step.checkpoint),
            )
        about = {"class_names": days.classes, "resize": report.get("resize")} | {k: v for k, v in report.items() if k in _KEPT}
        classifier.save_classifier(model, folder, about, last_state=history.last_state, history=history.table())
        if len(trained_on_before):
            np.save(folder / mlflow_flavor.TRAINED_ON_BEFORE, trained_on_before)
    step.log_metrics({"images": len(images.ids)} | history.figures() | spent)
    step.log_history(history.rows())
    known = f"{config.model} on {len(images.ids)} images, {len({*replay} & {*images.ids})} of them replayed"
    step.emit(f"{known}; {history.sentence()}")


def _features(*parts: TrainingData) -> np.ndarray | None:
    """The features of all images, row by row, where they are all that is looked at."""
    views = [part.images for part in parts]
    return np.concatenate([view[:] for view in views]) if all(isinstance(view, FeatureView) for view in views) else None


if __name__ == "__main__":
    command_line(run)
