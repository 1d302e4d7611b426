"""A trained model for other runtimes: ONNX, TorchScript or ``torch.export``.

``bccp export-model --model MODEL --format onnx|torchscript|torch_export --out FILE``. What is written takes n images at once, whatever n,
as uint8 of shape (n, S, S, 3), RGB, resized as the table beside it says, and gives P(class | image), (n, K). It is read back and asked
about random images before it is called done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bccp.core.errors import BCCPError, nearest
from bccp.core.home import scratch, scratch_owner
from bccp.core.paths import expanded
from bccp.core.runtime import extras
from bccp.models import classifier
from bccp.models.architectures import ImageClassifier
from bccp.models.inference_engine import quiet_exporter
from bccp.serving.engine.onnx_network import Probabilities
from bccp.serving.named_models import find_named
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger

EXPORT_TOLERANCE = 1e-4
"""Largest difference of a probability from the model's own that rounding in another order explains."""

BATCHES = (1, 2, 5)
"""Numbers of images that an exported model is asked about at once."""

Ask = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.floating[Any]]]


def export_model(folder: Path, format_name: str, out: Path) -> dict[str, Any]:
    """Write a model in another format, with ``<out>.json`` about it, and check it; what does not pass is not left.

    Parameters
    ----------
    folder : Path
        The model, as the step train made it.
    format_name : str
        One of :data:`FORMATS`.
    out : Path
        The file to make.

    Returns
    -------
    dict
        What ``<out>.json`` holds: ``format, class_names, image_size, resize, cleanup, input, output, largest_difference``, and ``range``
        where the model has one.

    Raises
    ------
    BCCPError
        An unknown format, a model that cannot be written in it or does not answer the same, or a file that cannot be written.
    """
    if format_name not in FORMATS:
        raise BCCPError(f"FORMAT={format_name} is unknown: use one of {', '.join(FORMATS)}{nearest(format_name, FORMATS)}")
    model, about = classifier.load_classifier(folder)
    write, read = FORMATS[format_name]
    size = model.image_size
    with scratch("export") as place, quiet_exporter():
        file = place / "model"
        try:
            write(Probabilities(model).eval(), torch.zeros((2, size, size, 3), dtype=torch.uint8), file)
        except BCCPError:
            raise
        except Exception as error:  # exporters fail in every way there is
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BCCPError(f"{model.architecture} cannot be written as {format_name} ({reason}): use another format") from error
        difference = largest_difference(read(file), model)
        if not difference <= EXPORT_TOLERANCE:
            raise BCCPError(
                f"{model.architecture} as {format_name} does not answer as the model itself (a probability differs by {difference:.2g}): "
                "use another format"
            )
        said = {
            "format": format_name,
            "class_names": about["class_names"],
            "image_size": size,
            "resize": about.get("resize") or "stretch",
            "cleanup": about.get("cleanup", []),
            **({"range": about["range"]} if "range" in about else {}),
            "input": f"images: uint8 (n, {size}, {size}, 3), RGB, 0 to 255",
            "output": f"probabilities: float32 (n, {model.n_classes}), in the order of class_names",
            "largest_difference": difference,
        }
        _put({_about_file(out): (json.dumps(said, indent=2, ensure_ascii=False) + "\n").encode(), out: file.read_bytes()})
    return said


def largest_difference(ask: Ask, model: ImageClassifier) -> float:
    """How far probabilities differ from a model's own, over random images, asked about in :data:`BATCHES`."""
    rng, found = np.random.default_rng(0), list[float]()
    for n in BATCHES:
        images = rng.integers(0, 256, (n, model.image_size, model.image_size, 3), dtype=np.uint8)
        own, other = classifier.probabilities(model, images), np.asarray(ask(images))
        found.append(float(np.abs(own - other).max()) if own.shape == other.shape else np.inf)
    return max(found)


def _write_onnx(module: nn.Module, example: Tensor, file: Path) -> None:
    with extras.needed_by("FORMAT=onnx"):
        import onnx  # noqa: F401 - the exporter needs it
        import onnxruntime  # noqa: F401 - the check needs it
        import onnxscript  # noqa: F401 - the exporter needs it
    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes=_dynamic(),
        verbose=False,
    )
    if program is None:
        raise BCCPError("PyTorch's exporter gave no ONNX model: use another format")
    program.save(str(file), external_data=False)


def _read_onnx(file: Path) -> Ask:
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])

    def ask(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.floating[Any]]:
        return np.asarray(session.run(["probabilities"], {"images": images})[0])

    return ask


def _write_torchscript(module: nn.Module, example: Tensor, file: Path) -> None:
    with torch.inference_mode():
        traced = cast(Any, torch.jit.trace)(module, example, check_trace=False)  # torch has no types for it
    traced.save(str(file))


def _read_torchscript(file: Path) -> Ask:
    return _asking(cast(Any, torch.jit.load)(str(file)))


def _write_torch_export(module: nn.Module, example: Tensor, file: Path) -> None:
    program = torch.export.export(module, (example,), dynamic_shapes=_dynamic())
    with file.open("wb") as stream:
        torch.export.save(program, stream)


def _read_torch_export(file: Path) -> Ask:
    with file.open("rb") as stream:
        return _asking(torch.export.load(stream).module())


FORMATS: dict[str, tuple[Callable[[nn.Module, Tensor, Path], None], Callable[[Path], Ask]]] = {
    "onnx": (_write_onnx, _read_onnx),
    "torchscript": (_write_torchscript, _read_torchscript),
    "torch_export": (_write_torch_export, _read_torch_export),
}
"""How each format is written and read back."""


def _dynamic() -> dict[str, Any]:
    return {"images": {0: torch.export.Dim("n", min=1)}}


def _asking(module: Any) -> Ask:
    def ask(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.floating[Any]]:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(images)))

    return ask


def _about_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


def _put(contents: Mapping[Path, bytes]) -> None:
    """Write files, none of which takes its place before all are written."""
    partials = {place: place.with_name(f".{place.name}.{scratch_owner()}.partial") for place in contents}
    place = next(iter(contents))
    try:
        for place, content in contents.items():
            partials[place].write_bytes(content)
        for place, partial in partials.items():
            partial.replace(place)
    except OSError as error:
        raise BCCPError(f"{place} cannot be written ({error.strerror}): choose another file with OUT=") from error
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def export_named(model: str, format_name: str, place: str) -> tuple[dict[str, Any], Path]:
    """Export a model that is named as for :func:`bccp.serving.named_models.find_named`.

    Returns
    -------
    said : dict
        As of :func:`export_model`.
    out : Path
        The file.
    """
    if not place:
        raise BCCPError("where to? give OUT=a file, such as model.onnx")
    out = expanded(place, option="OUT")
    if out.is_dir() or not out.resolve().parent.is_dir() or not os.access(out.resolve().parent, os.W_OK):
        raise BCCPError(f"OUT={out} cannot be written: give a file in a folder that exists")
    if _about_file(out).is_dir():
        raise BCCPError(f"OUT={out} needs the file {_about_file(out)} too, which is a folder: choose another file")
    uri, note = ledger_uri(None)
    if note:
        print(note, flush=True)
    with scratch("model") as folder:
        return export_model(find_named(Ledger(uri), model, folder).folder, format_name, out), out.resolve()
