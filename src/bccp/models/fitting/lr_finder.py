"""Which learning rate a training should have: Lightning's range test raises it step by step and looks at the loss.

References
----------
L. N. Smith: "Cyclical Learning Rates for Training Neural Networks", WACV 2017.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from bccp.models import torchvision_compat  # noqa: F401 - lightning imports only after torchvision_compat

import lightning.pytorch as pl  # isort: skip
from lightning.pytorch.tuner.tuning import Tuner  # isort: skip
from lightning.fabric.plugins.environments.lightning import LightningEnvironment  # isort: skip

LOWEST, HIGHEST, N_STEPS = 1e-6, 1.0, 100
"""The range, and how many learning rates of it, equally far apart on a logarithmic scale, are tried for a step each."""

SKIPPED = 10
"""The losses of the first steps are means of too few to say anything."""


def steepest(losses: list[float], learning_rates: list[float]) -> float | None:
    """The learning rate at which the loss falls fastest by its logarithm; None where it does not fall.

    Parameters
    ----------
    losses : list of float, length n
        A running mean; the first ``SKIPPED`` and the last, at which the test was broken off, are not looked at.
    learning_rates : list of float, length n
        Rising.
    """
    loss, rate = np.array(losses[SKIPPED:-1]), np.array(learning_rates[SKIPPED : len(losses) - 1])
    loss, rate = loss[np.isfinite(loss)], rate[np.isfinite(loss)]
    if len(loss) < 3:
        return None
    slopes = np.gradient(loss, np.log(rate))
    return float(rate[slopes.argmin()]) if slopes.min() < 0 else None


def find_learning_rate(task: pl.LightningModule, batches: Any, folder: Path, *, device: str, precision: Any) -> float | None:
    """Run the range test.

    Parameters
    ----------
    task : LightningModule
        What is to be trained; is changed.
    batches : iterable with a length
        An epoch of it.
    folder : Path
        For what Lightning keeps meanwhile.
    device : str
        ``cpu``, ``cuda`` or ``mps``.
    precision : str
        As Lightning calls it.

    Returns
    -------
    float or None
        See :func:`steepest`.
    """
    trainer: Any = pl.Trainer(
        accelerator={"cuda": "gpu"}.get(device, device),
        devices=1,
        precision=precision,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        plugins=[LightningEnvironment()],
    )
    with contextlib.redirect_stderr(io.StringIO()):  # it draws a bar of its own
        found = Tuner(trainer).lr_find(
            task, batches, min_lr=LOWEST, max_lr=HIGHEST, num_training=N_STEPS, update_attr=False, attr_name="peak"
        )
    return None if found is None else steepest(found.results["loss"], found.results["lr"])
