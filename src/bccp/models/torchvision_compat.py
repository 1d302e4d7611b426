"""Makes torchvision importable beside a CPU-only torch.

On Linux torchvision's wheel is built against CUDA. Beside a CPU-only torch its operator library does not load, and ``import torchvision``
ends with ``operator torchvision::nms does not exist``, as do torchmetrics and Lightning, which import it. Classification needs none of
these operators: where the library does not load, importing this module declares those that torchvision registers derivatives or shapes
for, without a body. It has to be imported before any of the three.
"""

from __future__ import annotations

import importlib
import importlib.util
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _operators_load() -> bool:
    """Whether torchvision's own operator library loads; loading it a second time, as torchvision will, does no harm."""
    operators: Any = torch.ops  # torch has no types for it
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for suffix in EXTENSION_SUFFIXES:
        library = Path(spec.origin).parent / f"_C{suffix}"
        if library.is_file():
            try:
                operators.load_library(str(library))
            except OSError:
                return False
            return True
    return False


def _declare_operators() -> Any:
    make: Any = torch.library.Library
    library = make("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}{_SCHEMA}")
    return library


# the declarations live as long as this object
DECLARED: Any = None if _operators_load() else _declare_operators()
"""The declared operators, or None where torchvision's own are there."""


def networks() -> ModuleType:
    """``torchvision.models``, imported when one of its networks is asked for: it brings torch's compiler, which takes over a second."""
    return importlib.import_module("torchvision.models")
