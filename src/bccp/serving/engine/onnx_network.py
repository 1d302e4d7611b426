"""Whole classifiers in ONNX Runtime, from pixels to probabilities: on CPUs faster than PyTorch, most of all for few images at once.

Exporting takes seconds, but depends on the network's structure alone. So the exported file holds no weights and is kept; each model of the
structure opens it with its own weights, in milliseconds. Its answers are compared with PyTorch's before they are used.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import subprocess  # nosec B404
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bccp.core import processes
from bccp.core.home import home, scratch, scratch_owner
from bccp.core.redaction import first_line
from bccp.core.runtime.requirements import installed_version
from bccp.data.array_types import Float32
from bccp.models import classifier
from bccp.models.architectures import ImageClassifier
from bccp.models.inference_engine import OPSET, let_convolutions_pad, made_up_images, quiet_exporter
from bccp.models.predictor import Ask

TOLERANCE = 1e-5
"""Largest difference of a probability from PyTorch's that is borne."""

EXPORT_SECONDS = 300
"""After which an export by another process is given up."""

LARGE_SECONDS = 0.005
"""For an image on one thread, from which several threads are worth their waiting for each other."""

_BATCHES = (1, 3)


class Probabilities(nn.Module):
    """A classifier that gives probabilities instead of logits."""

    def __init__(self, model: ImageClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """P(class | image) (n, K) of uint8 images (n, S, S, 3)."""
        return cast(Tensor, self.model(images)).softmax(1)


def onnx_ask(model: ImageClassifier, *, threads: int, beside: bool, emit: Callable[[str], object]) -> Ask | None:
    """Open a classifier in ONNX Runtime, as a function to ask.

    Parameters
    ----------
    model : ImageClassifier
        On the CPU, in evaluation mode.
    threads : int
        Of each question to a network for which one thread needs over :data:`LARGE_SECONDS` an image; else one. No answer depends on it.
    beside : bool
        Another model answers meanwhile: an export is another process's work, as it would hold Python's lock.
    emit : callable
        Gets a line where the network cannot be exported, once, or answers otherwise.

    Returns
    -------
    callable or None
        None where PyTorch has to do it.
    """
    file = home() / "cache" / "engines" / f"{_structure_key(model)}.onnx"
    refused = file.with_suffix(".txt")
    if refused.is_file():
        return None
    with suppress(Exception):  # one that was kept may be damaged: it is made anew
        return _checked(file.read_bytes(), model, threads)
    try:
        structure = _export(model, beside=beside)
        ask = _checked(structure, model, threads)
    except Exception as error:  # exporters and native libraries fail in every way there is
        if not isinstance(error, OSError | subprocess.SubprocessError | DifferentAnswersError):  # which may pass, or are this model's alone
            _keep(refused, f"{first_line(error)}\n".encode())
        emit(f"PyTorch answers, as ONNX Runtime cannot stand in for it with {model.architecture} ({first_line(error)[:160]})")
        return None
    _keep(file, structure)
    return ask


class DifferentAnswersError(Exception):
    """ONNX Runtime does not answer as PyTorch does."""


def _checked(structure: bytes, model: ImageClassifier, threads: int) -> Ask:
    """Open a structure with a model's weights, and compare its answers with PyTorch's.

    Raises
    ------
    DifferentAnswersError
    """
    ask = _open(structure, model, 1)
    difference = largest_difference(ask, model)
    if not difference <= TOLERANCE:
        raise DifferentAnswersError(f"a probability differs by {difference:.2g}")
    return _open(structure, model, threads) if threads > 1 and _seconds(ask, model) > LARGE_SECONDS else ask


def _keep(file: Path, content: bytes) -> None:
    """Write a file whole or not at all; where it cannot be written, the next start does the work again."""
    partial = file.with_name(f".{file.name}.{scratch_owner()}.partial")
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)


def _structure(model: ImageClassifier) -> dict[str, Any]:
    return {
        "architecture": model.architecture,
        "n_classes": model.n_classes,
        "image_size": model.image_size,
        "input_size": model.input_size,
        "mirrored": model.mirrored,
    }


def _structure_key(model: ImageClassifier) -> str:
    shapes = {name: [str(value.dtype), *value.shape] for name, value in model.state_dict().items()}
    versions = [installed_version(name) for name in ("torch", "onnx", "onnxruntime")]
    return hashlib.sha256(json.dumps([_structure(model), shapes, versions, OPSET], sort_keys=True).encode()).hexdigest()[:32]


def _export(model: ImageClassifier, *, beside: bool) -> bytes:
    """Export a structure, here or in another process.

    Raises
    ------
    OSError, subprocess.SubprocessError
        The other process could not do its work; another time it may.
    Exception
        Of any other kind: the structure cannot be exported.
    """
    if not beside:
        return exported(model)
    with scratch("export") as folder:
        command = [sys.executable, "-m", __name__, json.dumps(_structure(model)), str(folder / "structure.onnx")]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=EXPORT_SECONDS, check=False)  # nosec B603
        if done.returncode < 0:
            raise subprocess.SubprocessError(f"the exporting process ended by signal {-done.returncode}")
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1])
        return (folder / "structure.onnx").read_bytes()


def exported(model: ImageClassifier) -> bytes:
    """Write a classifier's structure as ONNX, with a free number of images and without its weights, which are taken by their names.

    Raises
    ------
    Exception
        Of any kind: exporters fail in every way there is.
    """
    import onnx
    from onnx.external_data_helper import set_external_data

    plain, draws = Probabilities(copy.deepcopy(model).cpu()).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in plain.state_dict().values():  # drawn, as the exporter joins weights that are equal
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=draws) + 0.5)
    size, file = model.image_size, io.BytesIO()
    with quiet_exporter():
        torch.onnx.export(
            plain,
            (torch.zeros((2, size, size, 3), dtype=torch.uint8),),
            file,  # type: ignore[arg-type]  # its types are those of the newer exporter
            dynamo=False,  # the newer exporter needs another package and ten times as long
            opset_version=OPSET,
            do_constant_folding=False,  # ONNX Runtime folds, when it knows the weights
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_axes={"images": {0: "n"}, "probabilities": {0: "n"}},
        )
    written = onnx.load_from_string(file.getvalue())
    let_convolutions_pad(written.graph)
    known = set(plain.state_dict())
    for weight in written.graph.initializer:
        if weight.name in known:
            set_external_data(weight, location="weights", offset=0, length=len(weight.raw_data))
            weight.ClearField("raw_data")
    text: bytes = written.SerializeToString()
    return text


def _open(structure: bytes, model: ImageClassifier, threads: int) -> Ask:
    """Open a structure with a model's weights."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that spin while they wait slow others down
    weights = {name: value.numpy() for name, value in Probabilities(model).state_dict().items() if value.is_floating_point()}
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)) for value in weights.values()]
    options.add_external_initializers(list(weights), values)
    session = onnxruntime.InferenceSession(structure, options, providers=["CPUExecutionProvider"])

    def ask(pixels: npt.NDArray[np.uint8]) -> Float32:
        found: Float32 = session.run(["probabilities"], {"images": pixels})[0]
        return found

    return ask


def _seconds(ask: Ask, model: ImageClassifier) -> float:
    """Seconds for one image, the least of three."""
    image, spent = np.zeros((1, model.image_size, model.image_size, 3), np.uint8), list[float]()
    for _ in range(3):
        begun = time.perf_counter()
        ask(image)
        spent.append(time.perf_counter() - begun)
    return min(spent)


def torch_ask(model: ImageClassifier, device: str, *, threads: int = 1) -> Ask:
    """Put a classifier onto a device, and return a function to ask it through PyTorch. For ``threads`` see :func:`onnx_ask`."""
    model.to(device).eval()

    def ask(pixels: npt.NDArray[np.uint8]) -> Float32:
        # by rounded products (TF32) an answer would depend on the batch that it is in
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if device == "cuda" else nullcontext():
            found: Float32 = model(torch.from_numpy(pixels).to(device)).softmax(1).float().cpu().numpy()
        return found

    if threads > 1 and device == "cpu":
        torch.set_num_threads(1)
        torch.set_num_threads(threads if _seconds(ask, model) > LARGE_SECONDS else 1)
    return ask


def largest_difference(ask: Ask, model: ImageClassifier) -> float:
    """Largest difference of probabilities from PyTorch's, over made-up images, one at a time and several at once."""
    own, found = torch_ask(model, "cpu"), list[float]()
    for n in _BATCHES:
        images = made_up_images(n, model.image_size, seed=n)
        pixels = (images * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        one, other = own(pixels), ask(pixels)
        found.append(float(np.abs(one - other).max()) if one.shape == other.shape else np.inf)
    return max(found) if all(np.isfinite(found)) else np.inf


def main(structure: str, place: str) -> None:
    """Export a structure, in a process that ends with the one that wants it."""
    processes.end_with(processes.callers())
    os.nice(10)  # others are being answered
    about = json.loads(structure)
    mirrored, input_size = about.pop("mirrored"), about.pop("input_size")
    model = classifier.build_classifier(about.pop("architecture"), about.pop("n_classes"), dropout=0.0, seed=0, **about)
    model.mirrored, model.input_size = mirrored, input_size
    Path(place).write_bytes(exported(model))


if __name__ == "__main__":
    main(*sys.argv[1:])
