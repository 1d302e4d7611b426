"""The model as somebody would hold it in a server of a framework: PyTorch on one thread, pictures made by the code of training.

Imported in the rivals' own environments. Pillow's limits are entered once, so that a call does not pay for them.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bccp.data.decoding.image_files import MAX_PIXELS, decode, pillow_limits
from bccp.data.preprocessing import fit_to_square
from bccp.models import classifier

FOLDER = "BENCHMARK_MODEL"
"""Environment variable with the folder of ``model.json``."""


class RivalModel:
    """The model of :data:`FOLDER`."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.model, about = classifier.load_classifier(Path(os.environ[FOLDER]))
        self.classes = about["class_names"]
        self._limits = pillow_limits(MAX_PIXELS)
        self._limits.__enter__()

    def pixels(self, picture: bytes | str) -> npt.NDArray[np.uint8]:
        """(S, S, 3) of an image file, or of its base64 text."""
        data = base64.b64decode(picture) if isinstance(picture, str) else picture
        return np.asarray(fit_to_square(decode(data).rgb(None), self.model.image_size, "stretch"))

    def answers(self, pixels: Sequence[npt.NDArray[np.uint8]]) -> list[dict[str, Any]]:
        """Class, probability and the three likeliest classes of each picture."""
        probs = classifier.probabilities(self.model, np.stack(pixels), device="cpu")
        found = []
        for row in probs:
            top = {self.classes[k]: float(row[k]) for k in np.argsort(-row, kind="stable")[:3]}
            label = next(iter(top))
            found.append({"class": label, "probability": top[label], "top_3": top})
        return found
