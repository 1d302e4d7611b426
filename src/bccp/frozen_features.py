"""What a frozen backbone makes of images: computed once, and shared by all models and steps that have this backbone.

Such features depend on the pixels and the backbone alone, so training, judging and comparing images need no second look at them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp import models, tables
from bccp.architectures import ImageClassifier
from bccp.images import Days, FeatureView, ImageView
from bccp.step import Step

Float32 = npt.NDArray[np.float32]

Inputs = Callable[[ImageClassifier, Sequence[str]], ImageView | FeatureView]
"""What a model is given of the images with some ids."""

_BATCH_SIZE = 64


def shared_inputs(step: Step, days: Days) -> Inputs:
    """Features where a model's backbone is frozen, computed by whoever asks first, and pixels where it is not.

    Parameters
    ----------
    step : Step
        Reads ``segregated_data``.
    days : Days

    Returns
    -------
    callable
        Takes a model, with ``mirrored`` as it is to be, and image ids; gives a view in the order of the ids.
    """

    def inputs(model: ImageClassifier, ids: Sequence[str]) -> ImageView | FeatureView:
        if not model.frozen:
            return days.view(ids)
        table = days.splits.loc[list(ids), ["day", "split"]]
        arrays: list[Float32] = []
        array, row = np.zeros(len(table), np.int64), np.zeros(len(table), np.int64)
        for day, split in table.drop_duplicates().itertuples(index=False):
            place = np.flatnonzero((table["day"] == day) & (table["split"] == split))
            known = days.ids(day, split)
            array[place], row[place] = len(arrays), pd.Index(known).get_indexer(table.index[place])
            arrays.append(frozen_features(step, days, model, known))
        return FeatureView(arrays, array, row, model.n_features)

    return inputs


def frozen_features(step: Step, days: Days, model: ImageClassifier, ids: Sequence[str]) -> Float32:
    """Features of images, from the ledger where they have been computed before.

    Parameters
    ----------
    step : Step
        Reads ``segregated_data``.
    days : Days
    model : ImageClassifier
        Its backbone is frozen. The head does not matter.
    ids : sequence of str, length N

    Returns
    -------
    ndarray of float32, shape (N, D)
        Memory-mapped; row i belongs to ``ids[i]``.
    """

    def compute(folder: Path) -> None:
        tables.write(pd.DataFrame({"image": ids}), folder / "images.csv")
        view = days.view(ids)
        # written, not mapped: a full disk is then an error that is told, and not a crash
        with (folder / "features.npy").open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(ids), model.n_features)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(ids), _BATCH_SIZE):
                batch = view.take(np.arange(start, min(start + _BATCH_SIZE, len(ids))))
                file.write(models.embed(model, batch, device=step.device).tobytes())

    about = json.loads((step.input("segregated_data") / "clean_data.json").read_text(encoding="utf-8"))
    corrupted = bool((days.splits.loc[list(ids), "corrupted_row"] >= 0).any())
    key = {
        "images": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
        "clean_data": about["clean_data"],
        "segregated_data": step.inputs["segregated_data"] if corrupted else None,
        "backbone": _backbone_digest(model),
    }
    features: Float32 = np.load(step.shared("frozen_features", key, compute) / "features.npy", mmap_mode="r")
    return features


def _backbone_digest(model: ImageClassifier) -> str:
    """SHA-256 of what a model's features depend on beside the pixels."""
    found = hashlib.sha256(json.dumps([model.architecture, model.image_size, model.mirrored]).encode())
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith("head."):
            found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode() + value.cpu().numpy().tobytes())
    return found.hexdigest()
