"""Classifiers: architectures, training sets, training, inference, embeddings, and the packed model that MLflow serves.

``load`` and ``probabilities`` are offered here because the README of every trained model names them.
"""

from __future__ import annotations

import importlib
from typing import Any

_OFFERED = {"load": "load_classifier", "probabilities": "probabilities"}


def __getattr__(name: str) -> Any:
    """Import what this package offers only when it is asked for, as it brings PyTorch."""
    if name in _OFFERED:
        return getattr(importlib.import_module("bccp.models.classifier"), _OFFERED[name])
    raise AttributeError(f"module 'bccp.models' has no attribute {name!r}")
