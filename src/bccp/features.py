"""Embeddings of images, computed once and shared: where closest pair sampling measures its distances.

The backbone is Monday's model, a torchvision model with its published weights, or a TorchScript file. N is the number of images, D the
size of an embedding.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from bccp import models, tables
from bccp.architectures import names
from bccp.config import MondayModel
from bccp.errors import BCCPError, nearest
from bccp.frozen_features import frozen_features
from bccp.images import Days
from bccp.monday_model import open_monday_model, shared_monday_model
from bccp.step import Step
from bccp.tracking import file_digest, folder_digest

Float32 = npt.NDArray[np.float32]

_BATCH_SIZE = 64


def shared_features(step: Step, days: Days, ids: Sequence[str], *, embedding: str, recipe: MondayModel) -> Float32:
    """Embeddings of trusted images, from the ledger where they have been computed before.

    Parameters
    ----------
    step : Step
        Reads ``segregated_data``.
    days : Days
    ids : sequence of str
        Image ids of Monday, whose pixels are those of ``clean_data``.
    embedding : str
        ``monday_model``, a torchvision model's name, or a TorchScript file.
    recipe : MondayModel
        How ``monday_model`` is trained, where it is wanted.

    Returns
    -------
    ndarray of float32, shape (N, D)
        Memory-mapped, finite; row i belongs to ``ids[i]``.

    Raises
    ------
    BCCPError
        If the embedding is unknown, cannot be read, or gives no finite vectors.
    """
    if embedding == "monday_model" and recipe.freeze_backbone:
        found = frozen_features(step, days, open_monday_model(step, days, recipe), ids)
        _check(found, embedding)
        return found
    about = json.loads((step.input("segregated_data") / "clean_data.json").read_text(encoding="utf-8"))
    key = {"clean_data": about["clean_data"], "images": hashlib.sha256("\n".join(ids).encode()).hexdigest()}
    monday_folder: Path | None = None
    if embedding == "monday_model":
        monday_folder = shared_monday_model(step, days, recipe)
        key["backbone"] = f"monday_model:{folder_digest(monday_folder)}"
    elif Path(embedding).is_file():
        key["backbone"] = f"torchscript:{file_digest(Path(embedding))}"
    elif embedding in names():
        key["backbone"] = f"{embedding}:DEFAULT"
    else:
        raise BCCPError(
            f"cp_sampling.embedding={embedding!r} is neither a file nor a torchvision model: use monday_model, a torchvision model's name "
            "or a TorchScript file" + nearest(embedding, ["monday_model", *names()])
        )

    def compute(folder: Path) -> None:
        path, images = folder / "features.npy", days.view(ids)
        tables.write(pd.DataFrame({"image": ids}), folder / "images.csv")
        if monday_folder is None and Path(embedding).is_file():
            script_features(Path(embedding), images, path, device=step.device)
            return
        if monday_folder is not None:
            model, _ = models.load(monday_folder)
        else:
            model = models.build(embedding, len(days.classes), image_size=days.image_size, dropout=0, seed=0, weights="DEFAULT")
        _check(models.embed(model, images, batch_size=_BATCH_SIZE, device=step.device, path=path), embedding)

    features: Float32 = np.load(step.shared("features", key, compute) / "features.npy", mmap_mode="r")
    return features


def script_features(script: Path, images: models.Images, path: Path, *, device: str = "cpu") -> None:
    """Embed images by a TorchScript module, which is code: open only files whose origin is known.

    Parameters
    ----------
    script : Path
        A module, saved by ``torch.jit.save``, that takes float32 of shape (n, 3, S, S), RGB in 0 to 1, resizes and normalises them itself
        where it needs to, and returns a floating-point tensor (n, D), or one that is flattened to it.
    images : array-like of uint8, shape (N, S, S, 3)
        Read batch by batch; at least one.
    path : Path
        The ``.npy`` file to write: float32, shape (N, D).
    device : str

    Raises
    ------
    BCCPError
        If the file is no TorchScript, does not take such images, or gives no finite vectors of one size.
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
    features: Float32 | None = None
    for start, batch in _script_batches(module, script, images, device):
        if features is None:
            features = models.new_rows(path, (len(images), batch.shape[1]))
        features[start : start + len(batch)] = batch
        _check(batch, str(script))


def _script_batches(module: torch.jit.ScriptModule, script: Path, images: models.Images, device: str) -> Iterator[tuple[int, Float32]]:
    for start in range(0, len(images), _BATCH_SIZE):
        rows = np.arange(start, min(start + _BATCH_SIZE, len(images)))
        pixels = torch.from_numpy(images[rows]).to(device).permute(0, 3, 1, 2).float() / 255
        try:
            with torch.inference_mode():
                found = module(pixels)
        except (RuntimeError, torch.jit.Error) as error:
            raise BCCPError(
                f"cp_sampling.embedding={script} does not take float images of shape {tuple(pixels.shape)} ({_first_line(error)}): "
                "let it take (n, 3, S, S) in 0 to 1"
            ) from error
        if not isinstance(found, torch.Tensor) or found.ndim < 2 or len(found) != len(rows):
            shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise BCCPError(f"cp_sampling.embedding={script} returns {shape} for {len(rows)} images: let it return one tensor (n, D)")
        yield start, found.flatten(1).float().cpu().numpy()


def _check(features: Float32, embedding: str) -> None:
    """Refuse embeddings among which no image is the nearest."""
    for start in range(0, len(features), 4096):
        if not np.isfinite(features[start : start + 4096]).all():
            raise BCCPError(f"cp_sampling.embedding={embedding} gives embeddings that are infinite or no numbers: choose another")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:160] if lines else type(error).__name__
