"""Image classifiers: making, saving, loading and asking them.

N images of S x S px, K classes, D features, S passes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from bccp.core import progress
from bccp.core.errors import BCCPError, nearest
from bccp.core.registries import BACKBONES
from bccp.data import tables
from bccp.data.array_types import Float32, Images
from bccp.data.dataset import FeatureView
from bccp.models.architectures import ImageClassifier, names, torchvision_parts, why_not
from bccp.models.weights import State, fill_backbone, load_file, published_weights

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of natural images' red, green and blue, in [0, 1]."""

SMALLEST_SEEN = 8
"""Side in px below which enlarging gives a backbone for photographs nothing that it knows."""


def build_classifier(
    name: str,
    n_classes: int,
    *,
    image_size: int,
    dropout: float,
    seed: int,
    weights: str | None = None,
    freeze_backbone: bool = False,
    normalization: str = "auto",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> ImageClassifier:
    """Make a classifier.

    Parameters
    ----------
    name : str
        One of :data:`bccp.core.registries.BACKBONES`, or a classification model of torchvision.
    n_classes : int
        K.
    image_size : int
        S, in px.
    dropout : float
        In [0, 1).
    seed : int
        Of the weights that are drawn. The global random state is left as it is.
    weights : str, optional
        ``DEFAULT`` or another name of published weights, a file with a state dict, or the folder of a saved model. The last layer is
        not taken where it has another number of classes (``note`` says so).
    freeze_backbone : bool
        Let only the head learn.
    normalization : {"auto", "half"}
        Of pixels: as the weights want it, else by ``mean`` and ``std``; or by a mean and deviation of 0.5, whatever the weights.
    mean, std : sequence of 3 floats
        Used where the weights bring none of their own.

    Returns
    -------
    ImageClassifier
        On the CPU, in evaluation mode.

    Raises
    ------
    BCCPError
        An unknown name, images too small for it, weights that do not fit or cannot be had.
    """
    published = check_names(name, weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = BACKBONES[name](image_size) if name in BACKBONES else torchvision_parts(name, image_size, published)
        if weights is not None and parts.normalisation is not None:
            mean, std = parts.normalisation
        model = ImageClassifier(
            parts.backbone,
            parts.n_features,
            n_classes,
            architecture=name,
            image_size=image_size,
            dropout=dropout,
            mean=mean,
            std=std,
            input_size=parts.input_size,
        )
    if isinstance(published, Path):
        fill_backbone(model, published, parts)
    elif weights is not None and published is None:
        load_file(model, Path(weights), parts)
    if normalization == "half":
        model.mean.fill_(0.5)
        model.std.fill_(0.5)
    if freeze_backbone:
        model.freeze_backbone()
        if weights is None:
            model.note = f"the frozen backbone of {name} has random weights: give it weights, or do not freeze it"
    if image_size < SMALLEST_SEEN <= model.input_size:
        small = (
            f"images of {image_size} px are enlarged to {model.input_size} px for {name}, which knows edges and textures that so few "
            "pixels cannot hold: use larger images, or train.model=small_cnn"
        )
        model.note = f"{model.note}; {small}" if model.note else small
    model.eval()
    _try_out(model)
    return model


def check_names(name: str, weights: str | None) -> Any:
    """Refuse an architecture or weights that :func:`build_classifier` would not know; what it takes them for where they are neither file
    nor folder.

    Parameters
    ----------
    name : str
    weights : str, optional

    Returns
    -------
    Weights, Path or None
        A member of the model's torchvision enumeration, or the file with the published weights of one of our own.

    Raises
    ------
    BCCPError
        If there is no such architecture, or no such file and no such weights of it.
    """
    if name not in BACKBONES and name not in names():  # in this order: the names of torchvision's networks take a second to import
        raise BCCPError(
            f"model {name!r} is unknown: use {', '.join(BACKBONES)} or a torchvision classification model{nearest(name, names())}"
        )
    return None if weights is None or Path(weights).exists() else published_weights(name, weights)


def initialise(model: ImageClassifier, folder: Path, *, class_names: Sequence[str]) -> None:
    """Start from the weights of a saved model.

    Parameters
    ----------
    model : ImageClassifier
        Gets the weights, but for the last layer where the classes are others (``note`` says so), and the saved model's normalisation.
    folder : Path
        As :func:`save_classifier` made it.
    class_names : sequence of str, length K
        The classes of ``model``.

    Raises
    ------
    BCCPError
        Where the architecture or a shape differs.
    """
    about = read_about(folder)
    if about["architecture"] != model.architecture:
        raise BCCPError(
            f"the weights are of model {about['architecture']!r}, which cannot start a {model.architecture!r}: "
            "give the same model as train.model, or another train.init"
        )
    head = {key: value.clone() for key, value in model.head.state_dict().items()}
    load_file(model, folder)
    if list(about["class_names"]) != list(class_names):
        model.head.load_state_dict(head)
        model.note = (
            f"the model that training starts from knows other classes ({', '.join(about['class_names'])}): its last layer starts anew"
        )


def save_classifier(
    model: ImageClassifier,
    folder: Path,
    about: Mapping[str, Any],
    *,
    last_state: State | None = None,
    history: pd.DataFrame | None = None,
) -> None:
    """Write a model into a folder; equal models give equal bytes.

    Parameters
    ----------
    model : ImageClassifier
    folder : Path
        Gets ``model.pt`` (state dict), ``model.json`` and ``README.md``.
    about : mapping
        Goes into ``model.json``; holds at least ``class_names``, K of them in the order of the logits.
    last_state : dict of str to Tensor, optional
        The weights after the last epoch: ``last.pt``, which is left out where they are none.
    history : DataFrame, optional
        One row an epoch: ``history.csv``.
    """
    _save_state(model.state_dict(), folder / "model.pt")
    if last_state:
        _save_state(last_state, folder / "last.pt")
    if history is not None:
        tables.write(history, folder / "history.csv")
    rgb = {name: [round(float(v), 6) for v in getattr(model, name).flatten()] for name in ("mean", "std")}
    own = {
        "architecture": model.architecture,
        "image_size": model.image_size,
        "dropout": model.dropout,
        "mirrored": model.mirrored,
        "frozen": model.frozen,
        **rgb,
        **({"input_size": model.input_size} if model.input_size != model.image_size else {}),
    }
    text = json.dumps({**about, **own}, indent=2, ensure_ascii=False)
    (folder / "model.json").write_text(text + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_HOW_TO_LOAD.format(**{**about, **own, "n_classes": model.n_classes}), encoding="utf-8")


def load_classifier(folder: Path) -> tuple[ImageClassifier, dict[str, Any]]:
    """Read a saved model.

    Parameters
    ----------
    folder : Path
        As :func:`save_classifier` made it.

    Returns
    -------
    model : ImageClassifier
        On the CPU, in evaluation mode; frozen if it was.
    about : dict
        What ``model.json`` holds.

    Raises
    ------
    BCCPError
        Where the folder holds no whole model.
    """
    about = read_about(folder)
    model = build_classifier(
        about["architecture"],
        len(about["class_names"]),
        image_size=about["image_size"],
        dropout=about["dropout"],
        seed=0,
        mean=about["mean"],
        std=about["std"],
    )
    load_file(model, folder, whole=True)
    model.mirrored, model.input_size = about.get("mirrored", False), about.get("input_size", model.image_size)
    if about.get("frozen", False):
        model.freeze_backbone()
    return model, about


def embed(
    model: ImageClassifier,
    images: Images | FeatureView,
    *,
    batch_size: int = 256,
    device: str = "cpu",
    dtype: str = "float32",
    path: Path | None = None,
) -> Float32:
    """Features of images, without dropout or augmentation.

    Parameters
    ----------
    model : ImageClassifier
        Left in evaluation mode on the device.
    images : array-like of uint8, shape (N, S, S, 3), or FeatureView
        Read batch by batch; features are read as they are.
    batch_size : int
    device : str
    dtype : {"float32", "bfloat16"}
        What the backbone computes in, as far as its layers can (autocast); faster where the device has instructions for it.
    path : Path, optional
        A ``.npy`` file to write the features to; they are then memory-mapped.

    Returns
    -------
    ndarray of float32, shape (N, D)
        Row i belongs to ``images[i]``.
    """
    shape = (len(images), model.n_features)
    features: Float32 = np.empty(shape, np.float32) if path is None else new_rows(path, shape)
    model.to(device).eval()
    faster = torch.autocast(torch.device(device).type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()
    with torch.inference_mode(), faster:
        for start in range(0, len(images), batch_size):
            rows = np.arange(start, min(start + batch_size, len(images)))
            seen = images[rows]
            features[rows] = (
                seen if isinstance(images, FeatureView) else model.embed(torch.from_numpy(seen).to(device)).float().cpu().numpy()
            )
            progress.show("images looked at", start + len(rows), len(images))
    return features


def new_rows(path: Path, shape: tuple[int, int]) -> Float32:
    """Make a ``.npy`` file to be filled row by row, memory-mapped, float32.

    Raises
    ------
    OSError
        If the disk has no room for it. A write through the mapping could not say so: it would end the process (SIGBUS).
    """
    rows: Float32 = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return rows


def logits(model: ImageClassifier, images: Images | FeatureView, *, batch_size: int = 256, device: str = "cpu") -> Float32:
    """Logits of images or of features, without dropout or augmentation; see :func:`embed`.

    Returns
    -------
    ndarray of float32, shape (N, K)
    """
    scores = np.empty((len(images), model.n_classes), np.float32)
    model.to(device).eval()
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            rows = np.arange(start, min(start + batch_size, len(images)))
            seen = torch.from_numpy(images[rows]).to(device)
            scores[rows] = (model.head(seen) if isinstance(images, FeatureView) else model(seen)).float().cpu().numpy()
            progress.show("images judged", start + len(rows), len(images))
    return scores


def probabilities(model: ImageClassifier, images: Images | FeatureView, *, batch_size: int = 256, device: str = "cpu") -> Float32:
    """P(class | image), without dropout or augmentation; see :func:`embed`.

    Returns
    -------
    ndarray of float32, shape (N, K)
        In [0, 1]; rows sum to 1.
    """
    return torch.from_numpy(logits(model, images, batch_size=batch_size, device=device)).softmax(1).numpy()


def stochastic_logits(model: ImageClassifier, embeddings: Float32, *, passes: int, generator: torch.Generator) -> Float32:
    """Logits of MC dropout before the last linear layer.

    Each pass draws one mask over the features, the same for all images: it is one network drawn from the posterior. So an image's logits
    do not depend on its place or on the other images.

    Parameters
    ----------
    model : ImageClassifier
        Only its head is used, and it is left as it is.
    embeddings : ndarray of float32, shape (N, D)
        From :func:`embed`.
    passes : int
        S, at least 1.
    generator : Generator
        On the CPU.

    Returns
    -------
    ndarray of float32, shape (S, N, K)

    References
    ----------
    Y. Gal, Z. Ghahramani: "Dropout as a Bayesian Approximation", ICML 2016.
    """
    linear = cast(nn.Linear, model.head[1])
    weight, bias = linear.weight.detach().cpu(), linear.bias.detach().cpu()  # (K, D), (K,)
    kept = torch.rand(passes, model.n_features, generator=generator) >= model.dropout
    masks = kept / (1 - model.dropout)  # (S, D)
    features = torch.from_numpy(np.ascontiguousarray(embeddings))
    found = np.empty((passes, len(embeddings), model.n_classes), np.float32)
    for number, mask in enumerate(masks):
        found[number] = F.linear(features, weight * mask, bias).numpy()
    return found


_HOW_TO_LOAD = """# A {architecture} for {image_size} px images and {n_classes} classes

`model.pt` holds the weights (a torch state dict), `model.json` the class names and the preprocessing; `last.pt`, where it is there, holds
the weights after the last epoch (`model.pt`: after the best), and `history.csv` the figures of each epoch.

    from pathlib import Path
    from bccp import models

    model, about = models.load(Path("this folder"))
    probabilities = models.probabilities(model, images)

`images` is a uint8 array of shape (N, {image_size}, {image_size}, 3), RGB, resized as `model.json` says; the model itself divides by 255
and normalises with `mean` and `std`, and where `mirrored` is true averages the features of an image and of its mirror image. Column k of
`probabilities` belongs to `about["class_names"][k]`.

`torch.load("model.pt", weights_only=True)` gives the weights alone: `backbone.*` is the network without its last layer, `head.1.*` the last
linear layer.
"""


def _try_out(model: ImageClassifier) -> None:
    """Refuse a model that cannot take images of its size, before anything else is done with it."""
    try:
        with torch.inference_mode():
            model(torch.zeros(1, model.image_size, model.image_size, 3, dtype=torch.uint8))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise BCCPError(why_not(model.architecture, model.image_size, error, None)) from error


_ABOUT = {"architecture": str, "class_names": list, "image_size": int, "dropout": int | float, "mean": list, "std": list}
"""What ``model.json`` holds at least."""


def read_about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        wrong = [key for key, kind in _ABOUT.items() if not isinstance(about, dict) or not isinstance(about.get(key), kind)]
        if wrong:
            raise ValueError(f"no {wrong[0]} that could be one")
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise BCCPError(f"{folder} holds no saved model (model.json: {error}): give a folder as the step train makes it") from error
    return dict(about)


def _save_state(state: Mapping[str, Tensor], path: Path) -> None:
    torch.save({key: value.detach().cpu().contiguous().clone() for key, value in state.items()}, path)
