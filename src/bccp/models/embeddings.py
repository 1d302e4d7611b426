"""Embeddings of images, computed once and shared: where closest pair sampling measures its distances.

The backbone is Monday's model, a torchvision model with its published weights, or a TorchScript file. N is the number of images, D the
size of an embedding.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from bccp.core.config_schema import MondayModel
from bccp.core.digests import file_digest
from bccp.core.errors import BCCPError, nearest
from bccp.core.step_context import Step
from bccp.data.array_types import Float32
from bccp.data.dataset import Days, FeatureView
from bccp.models import classifier
from bccp.models.architectures import ImageClassifier, names
from bccp.models.feature_cache import backbone_digest, look_by, shared_array, shared_inputs, shared_view
from bccp.models.inference_engine import Look
from bccp.models.monday_model import open_monday_model


def shared_features(step: Step, days: Days, ids: Sequence[str], *, embedding: str, recipe: MondayModel) -> FeatureView:
    """Embeddings of trusted images, from the ledger where they have been computed before.

    Parameters
    ----------
    step : Step
        Reads ``segregated_data``.
    days : Days
    ids : sequence of str
        Image ids of Monday, at least one.
    embedding : str
        ``monday_model``, a torchvision model's name, or a TorchScript file.
    recipe : MondayModel
        How ``monday_model`` is trained, where it is wanted.

    Returns
    -------
    FeatureView, shape (N, D)
        Finite; row i belongs to ``ids[i]``.

    Raises
    ------
    BCCPError
        If the embedding is unknown, cannot be read, or gives no finite vectors.
    """
    if embedding == "monday_model":
        model = open_monday_model(step, days, recipe)
    elif Path(embedding).is_file():
        backbone = f"torchscript:{file_digest(Path(embedding))}"
        return shared_view(step, "features", days, ids, backbone, lambda: _checked(script_look(Path(embedding), step.device), embedding))
    else:
        check_embedding(embedding)
        model = _published(embedding, days)
    if model.frozen:
        found = cast(FeatureView, shared_inputs(step, days)(model, ids))
        _check(found, embedding)
        return found
    images = days.view(ids)  # of a model that no other split has, no more than is wanted
    array = shared_array(
        step, "features", images, images.digest(), backbone_digest(model), lambda: _checked(look_by(model, step.device), embedding)
    )
    return FeatureView([array], np.zeros(len(array), np.int64), np.arange(len(array)), array.shape[1])


def check_embedding(embedding: str) -> None:
    """Raise :class:`BCCPError` for an embedding that is neither ``monday_model``, a file, nor a model's name."""
    if embedding != "monday_model" and not Path(embedding).is_file() and embedding not in names():
        raise BCCPError(
            f"cp_sampling.embedding={embedding!r} is neither a file nor a torchvision model: use monday_model, a torchvision model's name "
            "or a TorchScript file" + nearest(embedding, ["monday_model", *names()])
        )


def _published(name: str, days: Days) -> ImageClassifier:
    model = classifier.build_classifier(name, len(days.classes), image_size=days.image_size, dropout=0, seed=0, weights="DEFAULT")
    model.freeze_backbone()
    return model


def _checked(look: Look, embedding: str) -> Look:
    def look_and_check(pixels: npt.NDArray[np.uint8]) -> Float32:
        features = look(pixels)
        _check(features, embedding)
        return features

    return look_and_check


def script_look(script: Path, device: str = "cpu") -> Look:
    """Open a TorchScript module, which is code, to embed images: only files whose origin is known.

    Parameters
    ----------
    script : Path
        A module, saved by ``torch.jit.save``, that takes float32 of shape (n, 3, S, S), RGB in 0 to 1, resizes and normalises them itself
        where it needs to, and returns a floating-point tensor (n, D), or one that is flattened to it.
    device : str

    Returns
    -------
    callable
        From uint8 images (n, S, S, 3) to float32 features (n, D).

    Raises
    ------
    BCCPError
        If the file is no TorchScript; when it is called: if it does not take such images, or gives no vectors of one size.
    """
    try:
        with warnings.catch_warnings():
            # Its successor, torch.export, fixes the batch size unless told otherwise; TorchScript files are what is around.
            warnings.filterwarnings("ignore", message=".*torch.jit.load. is deprecated", category=DeprecationWarning)
            module = torch.jit.load(str(script), map_location=device).eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise BCCPError(
            f"cp_sampling.embedding={script} is no TorchScript file ({_first_line(error)}): save one by torch.jit.save"
        ) from error
    sizes: set[int] = set()

    def look(images: npt.NDArray[np.uint8]) -> Float32:
        pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255
        try:
            with torch.inference_mode():
                found = module(pixels)
        except (RuntimeError, torch.jit.Error) as error:
            raise BCCPError(
                f"cp_sampling.embedding={script} does not take float images of shape {tuple(pixels.shape)} ({_first_line(error)}): "
                "let it take (n, 3, S, S) in 0 to 1"
            ) from error
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        if isinstance(found, torch.Tensor) and found.ndim >= 2 and len(found) == len(images):
            features: Float32 = found.flatten(1).float().cpu().numpy()
            sizes.add(features.shape[1])
            if len(sizes) == 1:
                return features
        raise BCCPError(f"cp_sampling.embedding={script} returns {shape} for {len(images)} images: let it return one tensor (n, D)")

    return look


def _check(features: Float32 | FeatureView, embedding: str) -> None:
    """Refuse embeddings among which no image is the nearest."""
    for start in range(0, len(features), 4096):
        if not np.isfinite(features[start : start + 4096]).all():
            raise BCCPError(f"cp_sampling.embedding={embedding} gives embeddings that are infinite or no numbers: choose another")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:160] if lines else type(error).__name__
