"""``augmented_data``: a training set of a stated size, augmented once and for all, for studies that fix the model or what it sees.

N training images become M: each as it is, and augmented copies, as many of each but for one. It is made by the step ``train``, as only
there is known which images are trained on: none of them is for validation or test.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bccp.core import user_code
from bccp.core.config_schema import Train
from bccp.core.errors import BCCPError
from bccp.core.step_context import Step
from bccp.data import tables
from bccp.data.array_types import Index
from bccp.data.dataset import Days, FeatureView, ImageView
from bccp.models import batch_augmentation as augmentations
from bccp.models.architectures import ImageClassifier
from bccp.models.feature_cache import backbone_digest, look_by, shared_array
from bccp.models.training_set import LabelledImages
from bccp.models.transforms import Change, changes

CHUNK_IMAGES = 256


def augmented_set(
    step: Step, model: ImageClassifier, days: Days, images: LabelledImages, *, mirror: bool
) -> tuple[ImageView | FeatureView, LabelledImages]:
    """The augmented training set, made by whoever asks first; copies have their source's target and weight.

    Parameters
    ----------
    step : Step
        Of ``train``.
    model : ImageClassifier
        With ``mirrored`` as it is to be.
    days : Days
    images : LabelledImages
        The N training images.
    mirror : bool
        Mirror half of the copies.

    Returns
    -------
    inputs : ImageView or FeatureView
        What the model is given of the M images: their pixels, or features where its backbone is frozen.
    images : LabelledImages
        Of the M images; ``ids`` are those of their sources.

    Raises
    ------
    BCCPError
        If M is less than N, or the augmentation cannot be made.
    """
    config: Train = step.config
    n, size = len(images.ids), int(config.augment_to or 0)
    if size < n:
        raise BCCPError(f"train.augment_to={size} is less than the {n} images to train on: give {n} or more")

    def compute(folder: Path) -> None:
        own: list[Change] = [augmentations.mirror] if mirror else []
        own += changes(config.augmentation, image_size=days.image_size, strength=config.augment_strength)
        write_augmented(folder, days.view(images.ids), images.ids, size, own, generator=torch.Generator().manual_seed(config.random_seed))

    recipe = {name: getattr(config, name) for name in ("augment_to", "augmentation", "augment_strength", "random_seed")}
    key: dict[str, Any] = recipe | {
        "mirror": mirror,
        "augmentation_code": user_code.source_digest(user_code.targets(config.augmentation)),
        "data": step.inputs["segregated_data"],
        "images": hashlib.sha256(json.dumps(images.ids).encode()).hexdigest(),
    }
    folder = step.shared("augmented_data", key, compute)
    step.emit(f"{n} images and {size - n} augmented copies of them: {folder}")
    ids = tables.read(folder / "augmented_data.csv", dtypes={"row": int}).sort_values("row")["image"].tolist()
    source = pd.Index(images.ids).get_indexer(pd.Index(ids))
    every = np.arange(size)
    view = ImageView(np.load(folder / "images.npy", mmap_mode="r"), None, every, np.full(size, -1))
    labelled = LabelledImages(ids, images.targets[source], images.weights[source])
    if not model.frozen:
        return view, labelled
    start = functools.partial(look_by, model, step.device)
    features = shared_array(step, "frozen_features", view, view.digest(), backbone_digest(model), start)
    return FeatureView([features], np.zeros(size, np.int64), every, model.n_features), labelled


def write_augmented(
    folder: Path, images: ImageView, ids: list[str], size: int, change: list[Change], *, generator: torch.Generator
) -> None:
    """Write ``images.npy``, uint8 (M, S, S, 3), and ``augmented_data.csv``: ``row, image`` (the source's id) and ``copy``, 0 for itself.

    Parameters
    ----------
    folder : Path
    images : ImageView
        The N images.
    ids : list of str, length N
    size : int
        M, at least N.
    change : list of callable
        In order, as :func:`bccp.models.transforms.changes` gives them.
    generator : Generator
        Says which images have a copy more than others, and how copies are changed.
    """
    n = len(ids)
    once_more = torch.randperm(n, generator=generator)[: size % n].sort().values.numpy()
    source = np.concatenate([np.tile(np.arange(n), size // n), once_more])
    with (folder / "images.npy").open("wb") as file:  # as it goes: a memory map's pages would count as this process's memory
        header = {"descr": "|u1", "fortran_order": False, "shape": (size, *images.shape[1:])}
        np.lib.format.write_array_header_1_0(file, header)
        for rows in _chunks(source[:n]):
            file.write(images[rows].tobytes())
        for rows in _chunks(source[n:]):
            batch = torch.from_numpy(images[rows]).permute(0, 3, 1, 2) / 255
            for one in change:
                batch = one(batch, generator=generator)
            file.write((255 * batch).round().byte().permute(0, 2, 3, 1).numpy().tobytes())
    table = {"row": np.arange(size), "image": [ids[i] for i in source.tolist()], "copy": np.arange(size) // n}
    tables.write(pd.DataFrame(table), folder / "augmented_data.csv")


def _chunks(rows: Index) -> Iterator[Index]:
    """A bounded number of images at once."""
    return (rows[start : start + CHUNK_IMAGES] for start in range(0, len(rows), CHUNK_IMAGES))
