"""What a backbone makes of images: computed once, and shared by all models, steps and jobs that have this backbone and these pixels.

Features depend on the pixels, the backbone and what it computes in, and on nothing else, so that heads are trained, judged and tested
without a second look at the images. They are kept as float16, and as float32 where that would lose more than a thousandth.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bccp.core.runtime import device
from bccp.core.step_context import Step
from bccp.data.array_types import Float32
from bccp.data.dataset import Days, FeatureView, ImageView
from bccp.models import classifier
from bccp.models.architectures import ImageClassifier

Features = npt.NDArray[np.float16 | np.float32]

Inputs = Callable[[ImageClassifier, Sequence[str]], ImageView | FeatureView]
"""What a model is given of the images with some ids."""

Look = Callable[[npt.NDArray[np.uint8]], Float32]
"""From images (n, S, S, 3) to features (n, D)."""

BATCH_SIZE = 64

_PRECISION = 1e-3
"""Rounding that is borne, as a share of an image's largest feature."""


def shared_inputs(step: Step, days: Days) -> Inputs:
    """Features where a model's backbone is frozen, computed by whoever asks first, and pixels where it is not.

    A frozen backbone sees all images of both days at once, so that other splits of the same images find their features too.

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
        if not len(ids):
            nothing = np.array([], np.int64)
            return FeatureView([np.empty((0, model.n_features), np.float16)], nothing, nothing, model.n_features)
        return shared_view(step, "frozen_features", days, ids, backbone_digest(model), lambda: look_by(model, step.device))

    return inputs


def shared_view(step: Step, name: str, days: Days, ids: Sequence[str], backbone: str, start: Callable[[], Look]) -> FeatureView:
    """Features of some images, for which all images of both days are looked at: see :func:`shared_array`.

    Parameters
    ----------
    ids : sequence of str
        At least one.

    Returns
    -------
    FeatureView, shape (N, D)
        Row i belongs to ``ids[i]``.
    """
    sources = days.sources
    changed = (days.splits.loc[list(ids), "corrupted_row"].to_numpy() >= 0).astype(np.int64)
    row = np.choose(changed, [source.ids.get_indexer(pd.Index(ids)) for source in sources])
    found = {n: shared_array(step, name, sources[n].pixels, sources[n].digest, backbone, start) for n in np.unique(changed).tolist()}
    n_features = next(iter(found.values())).shape[1]
    empty = np.empty((0, n_features), np.float16)
    return FeatureView([found.get(n, empty) for n in range(len(sources))], changed, row, n_features)


def shared_array(step: Step, name: str, images: ImageView, pixels: str, backbone: str, start: Callable[[], Look]) -> Features:
    """Features of images, from the ledger where they have been computed before.

    Parameters
    ----------
    step : Step
    name : str
        Of the artifact.
    images : ImageView
        At least one.
    pixels : str
        Their digest.
    backbone : str
        What tells it from all others.
    start : callable
        Gives what looks at the images, where they have to be looked at.

    Returns
    -------
    ndarray of float16 or float32, shape (N, D)
        Memory-mapped; row i belongs to ``images[i]``.
    """

    def compute(folder: Path) -> None:
        look = start()
        starts = range(0, len(images), BATCH_SIZE)
        write_features(folder / "features.npy", len(images), lambda: (look(images[first : first + BATCH_SIZE]) for first in starts))

    key = {"pixels": pixels, "backbone": backbone, "dtype": dtype_on(step.device)}
    features: Features = np.load(step.shared(name, key, compute) / "features.npy", mmap_mode="r")
    return features


def look_by(model: ImageClassifier, device: str) -> Look:
    """A copy of a model as its backbone is fastest on the device; the model itself stays as it is."""
    fast: Any = fold_norms(copy.deepcopy(model).eval())  # torch's own types lack memory_format
    fast.to(memory_format=torch.channels_last)
    dtype = dtype_on(device)
    return lambda pixels: classifier.embed(fast, pixels, device=device, dtype=dtype)


def fold_norms(model: nn.Module) -> nn.Module:
    """Let convolutions do the work of the batch norms after them in a ``Sequential``; changes the model, which is in evaluation mode."""
    for layers in list(model.modules()):
        if isinstance(layers, nn.Sequential):
            for i, (layer, following) in enumerate(itertools.pairwise(list(layers))):
                if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                    layers[i], layers[i + 1] = fuse_conv_bn_eval(layer, following), nn.Identity()
    return model


def dtype_on(device_type: str) -> str:
    """What a frozen backbone computes in: :func:`bccp.core.runtime.device.features_dtype`, but float32 on a GPU that only imitates
    bfloat16.
    """
    dtype = device.features_dtype(device_type)
    if device_type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float32"
    return dtype


def write_features(path: Path, n_images: int, batches: Callable[[], Iterable[Float32]]) -> None:
    """Write features batch by batch into a ``.npy`` file: float16 where that loses no more than a thousandth, else float32.

    Parameters
    ----------
    path : Path
    n_images : int
        N, at least 1.
    batches : callable
        Gives the features of all images in order, in arrays (n, D); called once more where float16 will not do.

    Raises
    ------
    ValueError
        If the batches do not make up (N, D).
    """
    for dtype in (np.dtype("<f2"), np.dtype("<f4")):
        shapes: list[tuple[int, ...]] = []
        # written, not mapped: a full disk is then an error that is told, and not a crash
        with path.open("wb") as file:
            for batch in batches():
                with np.errstate(over="ignore", invalid="ignore"):
                    kept = batch.astype(dtype)
                    loss, largest = np.abs(kept.astype(np.float32) - batch).max(axis=1), np.abs(batch).max(axis=1)
                if dtype.itemsize == 2 and not (loss <= _PRECISION * largest).all():
                    break
                if not shapes:
                    header = {"descr": dtype.str, "fortran_order": False, "shape": (n_images, batch.shape[1])}
                    np.lib.format.write_array_header_1_0(file, header)
                shapes.append(batch.shape)
                file.write(kept.tobytes())
            else:
                if sum(shape[0] for shape in shapes) != n_images or len({shape[1:] for shape in shapes}) != 1:
                    raise ValueError(f"features of {n_images} images came as {shapes}")
                return


def backbone_digest(model: ImageClassifier) -> str:
    """SHA-256 of what a model's features depend on beside the pixels and what it computes in."""
    found = hashlib.sha256(json.dumps([model.architecture, model.image_size, model.mirrored]).encode())
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith("head."):
            found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode() + value.cpu().numpy().tobytes())
    return found.hexdigest()
