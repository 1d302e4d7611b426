"""What a backbone makes of images: computed once, and shared by all models, steps and jobs that have this backbone and these pixels.

Features depend on the pixels, the backbone, the view (size, and mirrored or not), the engine and what it computes in, and on nothing else,
so that heads are trained, judged and tested without a second look at the images. They are kept as float16, and as float32 where that would
lose more than a thousandth.

On a processor without instructions for bfloat16 many photographs are looked at with ONNX Runtime, all else with PyTorch: nothing is slower
than with PyTorch alone.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bccp.core import progress
from bccp.core.runtime import device
from bccp.core.runtime.requirements import installed_version
from bccp.core.step_context import Step
from bccp.data.array_types import Float32
from bccp.data.dataset import Days, FeatureView, ImageView, PixelSource
from bccp.models import classifier, inference_engine
from bccp.models.architectures import ImageClassifier
from bccp.models.inference_engine import Look

Features = npt.NDArray[np.float16 | np.float32]

Inputs = Callable[[ImageClassifier, Sequence[str]], ImageView | FeatureView]
"""What a model is given of the images with some ids."""

BATCH_SIZE = 64

_LARGE = 96
"""Side in px from which PyTorch looks at few images at once in float32 on a CPU: it takes less memory, and two thirds of the time."""

_AT_ONCE = 16

_PRECISION = 1e-3
"""Rounding that is borne, as a share of an image's largest feature."""


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
        return _both_ways(step, days, model, ids) if model.mirrored else view_features(step, days, model, ids)

    return inputs


def view_features(
    step: Step, days: Days, model: ImageClassifier, ids: Sequence[str], *, side: int | None = None, flipped: bool = False
) -> FeatureView:
    """Features of images seen once, at another size or mirrored, from the ledger where they have been computed before.

    Parameters
    ----------
    step : Step
        Reads ``segregated_data``.
    days : Days
    model : ImageClassifier
        Its backbone is frozen; ``mirrored`` does not count.
    ids : sequence of str
    side : int, optional
        The side in px to which images are brought; by default the backbone's own.
    flipped : bool
        Left and right change places.

    Returns
    -------
    FeatureView, shape (N, D)
        Row i belongs to ``ids[i]``.
    """
    if not len(ids):
        nothing = np.array([], np.int64)
        return FeatureView([np.empty((0, model.n_features), np.float16)], nothing, nothing, model.n_features)
    return _view(days, ids, lambda source: _seen(step, days, source, model, side=side, flipped=flipped))


def judge_views(model: ImageClassifier) -> list[tuple[int | None, bool]]:
    """The two views of images, as ``side`` and ``flipped`` of :func:`view_features`, that are as different as their features allow.

    A convolutional backbone sees large images a second time at five sevenths of its size, 224 and 160 px, in whole blocks of 32 px; the
    second view is mirrored always.
    """
    smaller = 32 * round(model.input_size * 5 / 7 / 32)
    free = model.input_size >= _LARGE and inference_engine.is_convolutional(model.backbone)
    return [(None, False), (smaller if free else None, True)]


def _seen(
    step: Step, days: Days, source: PixelSource, model: ImageClassifier, *, side: int | None = None, flipped: bool = False
) -> Features:
    """One view of a source's images; all of them are seen at once, so that other splits of the same images find their features too."""
    seen = copy.copy(model)
    seen.mirrored, seen.input_size = False, side or model.input_size
    engine = _engine(step, model, seen, sum(len(one.pixels) for one in days.sources))
    also = dict(engine.key)
    if flipped or seen.input_size != model.input_size:
        also["view"] = {"side": seen.input_size, "mirrored": flipped}

    def start() -> Look:
        return _mirror_look(engine.start()) if flipped else engine.start()

    return shared_array(step, "frozen_features", source.pixels, source.digest, backbone_digest(seen), start, also)


def _both_ways(step: Step, days: Days, model: ImageClassifier, ids: Sequence[str]) -> FeatureView:
    """Means of the features of images and of their mirror images, each of which is a view of its own that others may ask for too."""

    def means(source: PixelSource) -> Features:
        def compute(folder: Path) -> None:
            one, other = (_seen(step, days, source, model, flipped=flipped) for flipped in (False, True))

            def batches() -> Iterable[Float32]:
                for first in range(0, len(one), BATCH_SIZE):
                    part = slice(first, first + BATCH_SIZE)
                    both: Float32 = one[part].astype(np.float32) + other[part].astype(np.float32)
                    yield both * np.float32(0.5)

            write_features(folder / "features.npy", len(one), batches)

        engine = _engine(step, model, model, sum(len(one.pixels) for one in days.sources))
        key = {"pixels": source.digest, "backbone": backbone_digest(model), "dtype": dtype_on(step.device), **engine.key}
        features: Features = np.load(step.shared("mirrored_features", key, compute) / "features.npy", mmap_mode="r")
        return features

    return _view(days, ids, means) if len(ids) else view_features(step, days, model, ids)


def shared_view(
    step: Step,
    name: str,
    days: Days,
    ids: Sequence[str],
    backbone: str,
    start: Callable[[], Look],
) -> FeatureView:
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
    return _view(days, ids, lambda source: shared_array(step, name, source.pixels, source.digest, backbone, start))


def _view(days: Days, ids: Sequence[str], features_of: Callable[[PixelSource], Features]) -> FeatureView:
    sources = days.sources
    changed = (days.splits.loc[list(ids), "corrupted_row"].to_numpy() >= 0).astype(np.int64)
    row = np.choose(changed, [source.ids.get_indexer(pd.Index(ids)) for source in sources])
    found = {n: features_of(sources[n]) for n in np.unique(changed).tolist()}
    n_features = next(iter(found.values())).shape[1]
    empty = np.empty((0, n_features), np.float16)
    return FeatureView([found.get(n, empty) for n in range(len(sources))], changed, row, n_features)


def shared_array(
    step: Step,
    name: str,
    images: ImageView,
    pixels: str,
    backbone: str,
    start: Callable[[], Look],
    also: Mapping[str, Any] | None = None,
) -> Features:
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
    also : mapping, optional
        What else the features depend on, such as the view.

    Returns
    -------
    ndarray of float16 or float32, shape (N, D)
        Memory-mapped; row i belongs to ``images[i]``.
    """

    def compute(folder: Path) -> None:
        look = start()

        def batches() -> Iterable[Float32]:
            for first in range(0, len(images), BATCH_SIZE):
                yield look(images[first : first + BATCH_SIZE])
                progress.show("images embedded", min(first + BATCH_SIZE, len(images)), len(images))

        write_features(folder / "features.npy", len(images), batches)

    key = {"pixels": pixels, "backbone": backbone, "dtype": dtype_on(step.device), **(also or {})}
    features: Features = np.load(step.shared(name, key, compute) / "features.npy", mmap_mode="r")
    return features


class Engine(NamedTuple):
    """What computes features: its part of their key, and what gives a function that looks at images."""

    key: Mapping[str, Any]
    start: Callable[[], Look]


def _engine(step: Step, model: ImageClassifier, seen: ImageClassifier, n_images: int) -> Engine:
    """ONNX Runtime where it is faster, and equal; else PyTorch."""
    by_torch = Engine({}, lambda: look_by(seen, step.device))
    large = n_images * seen.input_size**2 >= inference_engine.BREAK_EVEN_PIXELS
    if not large or step.device != "cpu" or dtype_on("cpu") != "float32" or not inference_engine.is_convolutional(model.backbone):
        return by_torch
    file = exported_backbone(step, model)
    if file is None:
        return by_torch

    def start() -> Look:
        try:
            look = inference_engine.session_look(copy.deepcopy(seen).eval(), inference_engine.open_session(file, step.threads))
            look(np.zeros((1, model.image_size, model.image_size, 3), np.uint8))
        except Exception as error:  # of a native library, for which there is no list
            step.emit(_by_torch(model, error))
            return by_torch.start()
        return look

    return Engine({"engine": f"onnxruntime {installed_version('onnxruntime')}"}, start)


def exported_backbone(step: Step, model: ImageClassifier) -> Path | None:
    """A backbone as ONNX, from the ledger where it has been exported before.

    Parameters
    ----------
    step : Step
    model : ImageClassifier
        On the CPU.

    Returns
    -------
    Path or None
        None where it cannot be exported, or gives other features; a line says so when that is found out.
    """
    plain = copy.deepcopy(model).eval()
    plain.mirrored = False
    own = plain.input_size
    sides = sorted({own, *(side or own for side, _ in judge_views(plain))}, reverse=True)

    def export(folder: Path) -> None:
        file = folder / "backbone.onnx"
        try:
            file.write_bytes(inference_engine.exported(plain.backbone, own))
            refused: str | Exception = inference_engine.refusal(plain, file, sides)
        except Exception as error:  # exporters fail in every way there is
            refused = error
        if refused:
            step.emit(_by_torch(model, refused))
            file.unlink(missing_ok=True)
            (folder / "refused.txt").write_text(f"{refused}\n", encoding="utf-8")

    versions = {name: installed_version(name) for name in ("onnx", "onnxruntime")}
    key = {"backbone": backbone_digest(plain), "sides": sides, "opset": inference_engine.OPSET, **versions}
    file = step.shared("exported_backbone", key, export) / "backbone.onnx"
    return file if file.is_file() else None


def _by_torch(model: ImageClassifier, reason: str | Exception) -> str:
    first = (str(reason).strip() or type(reason).__name__).splitlines()[0]
    return f"images are looked at with PyTorch, as ONNX Runtime cannot stand in for it with {model.architecture} ({first[:160]})"


def _mirror_look(look: Look) -> Look:
    return lambda pixels: look(np.ascontiguousarray(pixels[:, :, ::-1]))


def look_by(model: ImageClassifier, device: str) -> Look:
    """A copy of a model as its backbone is fastest on the device with PyTorch; the model itself stays as it is."""
    fast: Any = fold_norms(copy.deepcopy(model).eval())  # torch's own types lack memory_format
    fast.to(memory_format=torch.channels_last)
    dtype = dtype_on(device)
    at_once = _AT_ONCE if (device, dtype) == ("cpu", "float32") and model.input_size >= _LARGE else BATCH_SIZE
    return lambda pixels: classifier.embed(fast, pixels, batch_size=at_once, device=device, dtype=dtype)


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
    sizes = [model.image_size] if model.input_size == model.image_size else [model.image_size, model.input_size]
    found = hashlib.sha256(json.dumps([model.architecture, *sizes, model.mirrored]).encode())
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith("head."):
            found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode() + value.cpu().numpy().tobytes())
    return found.hexdigest()
