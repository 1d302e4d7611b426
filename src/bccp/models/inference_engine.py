"""A frozen convolutional backbone in ONNX Runtime, which is two to three times as fast as PyTorch on processors without bfloat16.

The exported network takes images of every height and width. Its features do not depend on the other images of a batch, nor on the number of
threads. They are PyTorch's but for rounding, which is tested before they are used.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bccp.data.array_types import Float32
from bccp.models.architectures import GridPool, ImageClassifier

Look = Callable[[npt.NDArray[np.uint8]], Float32]
"""From images (n, S, S, 3) to features (n, D)."""

OPSET = 20
"""The version of ONNX's operators that is written."""

BREAK_EVEN_PIXELS = 128 * 224**2
"""Pixels of all images from which on the export pays: it takes as long as ONNX Runtime saves on 45 to 75 images of 224 px with
EfficientNet-Lite0, MobileNetV2 and ResNet-18, and twice that where the exporter is first imported (``python -m benchmarks.features``).
"""

TOLERANCE = 1e-3
"""Largest distance between the features of an image by both engines, as a share of their norm."""

_BATCH_SIZE = 8  # more would take more memory and no less time
_N_TRIED = 4


def is_convolutional(backbone: nn.Module) -> bool:
    """Return True for a network that takes images of any size: nothing but convolutions, batch norms and linear layers has weights (so no
    transformer is one), and no grid of our own small networks, which is fixed by the size of the images, pools.
    """
    parts = list(backbone.modules())
    holders = [module for module in parts if any(True for _ in module.parameters(recurse=False))]
    kinds = nn.Conv2d | nn.BatchNorm2d | nn.Linear
    return all(isinstance(module, kinds) for module in holders) and not any(isinstance(module, GridPool) for module in parts)


def exported(backbone: nn.Module, side: int) -> bytes:
    """Write a backbone as ONNX, with free numbers of images and of pixels.

    Parameters
    ----------
    backbone : Module
        From float images (n, 3, h, w) to features (n, D); on the CPU, in evaluation mode.
    side : int
        That of the images by which it is traced, in px.

    Returns
    -------
    bytes

    Raises
    ------
    Exception
        Of any kind: exporters fail in every way there is.
    """
    import onnx

    file = io.BytesIO()
    free = {"images": {0: "n", 2: "height", 3: "width"}, "features": {0: "n"}}
    with quiet_exporter():
        torch.onnx.export(
            backbone,
            (torch.zeros(2, 3, side, side),),
            file,  # type: ignore[arg-type]  # its types are those of the newer exporter
            dynamo=False,  # the newer exporter needs another package and ten times as long
            opset_version=OPSET,
            input_names=["images"],
            output_names=["features"],
            dynamic_axes=free,
        )
    model = onnx.load_from_string(file.getvalue())
    let_convolutions_pad(model.graph)
    written: bytes = model.SerializeToString()
    return written


def let_convolutions_pad(graph: Any) -> None:
    """Join each padding with the convolution after it, which then pads as TensorFlow's "same" does; a quarter of the time goes with it.

    That is what :class:`bccp.models.efficientnet_lite.SameConv2d` pads; a network that pads otherwise gives other features, and is refused.
    """
    from onnx import helper

    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        before = makers.get(node.input[0]) if node.input else None
        if node.op_type == "Conv" and before is not None and before.op_type == "Pad":
            node.input[0] = before.input[0]
            kept = [attribute for attribute in node.attribute if attribute.name != "pads"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("auto_pad", "SAME_UPPER")])
    needed, alive = {output.name for output in graph.output}, []
    for node in reversed(graph.node):  # what computed the padding is computed otherwise
        if needed & set(node.output):
            alive.append(node)
            needed |= set(node.input)
    del graph.node[:]
    graph.node.extend(reversed(alive))


def open_session(file: Path, threads: int) -> Any:
    """Open an exported backbone on the CPU.

    Parameters
    ----------
    file : Path
        As :func:`exported` wrote it.
    threads : int

    Returns
    -------
    onnxruntime.InferenceSession
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that spin while they wait slow others down
    return onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])


def session_look(model: ImageClassifier, session: Any) -> Look:
    """Embed images as a model does, by its backbone in a session.

    Parameters
    ----------
    model : ImageClassifier
        On the CPU, in evaluation mode; its mean, deviation, sizes and ``mirrored`` count.
    session : onnxruntime.InferenceSession
        From :func:`open_session`.

    Returns
    -------
    callable
        From uint8 images (n, S, S, 3) to float32 features (n, D), in which an image's row does not depend on the others.
    """

    def features(normal: torch.Tensor) -> Float32:
        found: Float32 = session.run(["features"], {"images": normal.numpy()})[0]
        return found

    def look(pixels: npt.NDArray[np.uint8]) -> Float32:
        rows = np.empty((len(pixels), model.n_features), np.float32)
        with torch.inference_mode():
            for start in range(0, len(pixels), _BATCH_SIZE):
                some = slice(start, start + _BATCH_SIZE)
                normal = model.normalised(torch.from_numpy(pixels[some])).contiguous()
                rows[some] = features(normal)
                if model.mirrored:
                    rows[some] = (rows[some] + features(normal.flip(-1).contiguous())) / 2
        return rows

    return look


def made_up_images(n_images: int, side: int, *, seed: int) -> torch.Tensor:
    """Draw images (n, 3, side, side), 0 to 1, of blots of all sizes up to an eighth of the side, as photographs have them."""
    coarse = torch.rand(n_images, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


def refusal(model: ImageClassifier, file: Path, sides: Iterable[int]) -> str:
    """Find out why a session must not stand in for a model's backbone.

    Parameters
    ----------
    model : ImageClassifier
    file : Path
        The exported backbone.
    sides : iterable of int
        Sides in px of the images that it will see.

    Returns
    -------
    str
        Empty where the features of made-up images are the same within :data:`TOLERANCE`.
    """
    session = open_session(file, 1)
    for side in sides:
        normal = (made_up_images(_N_TRIED, side, seed=side) - model.mean) / model.std
        with torch.inference_mode():
            own = model.backbone(normal).numpy()
        found = session.run(["features"], {"images": normal.numpy()})[0]
        if own.shape != found.shape:
            return f"it gives features of shape {found.shape}, not {own.shape}"
        distance = float((np.linalg.norm(found - own, axis=1) / np.maximum(np.linalg.norm(own, axis=1), 1e-12)).max())
        if not distance <= TOLERANCE:
            return f"its features differ by {distance:.2g} of their norm"
    return ""


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence PyTorch's exporters: they tell of successors and of what they take for constant, and print what they cannot write. What they
    write is tested by whoever calls them.
    """
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)
