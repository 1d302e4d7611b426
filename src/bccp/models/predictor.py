"""A trained model as it answers: image files in, classes out; nothing but PyTorch, Pillow and pandas is needed for it.

MLflow loads it by :func:`_load_pyfunc` from a folder with the files of the step train: weights (a state dict) and text, so nothing in them
is run, but for a user's own scan filters, which are packed as code beside them. Files are decoded and resized by the code that did it for
training.

n files, S px, K classes.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from bccp.core import user_code
from bccp.data import array_types
from bccp.data.decoding.image_files import MAX_PIXELS, UnreadableImageError, decode, pillow_limits
from bccp.data.preprocessing import fit_to_square
from bccp.data.scan_filters import clean_up
from bccp.models import classifier
from bccp.models.architectures import ImageClassifier
from bccp.models.served_inputs import UnusableInputError, image_file

N_TOP = 3
"""How many of the likeliest classes an answer lists."""

_BATCH = 64


class Answer(NamedTuple):
    """What the model says of one file.

    Attributes
    ----------
    label : str or None
        The likeliest class; None where the file is no readable image.
    probability : float or None
        Its probability, 0 to 1.
    top : dict of str to float, or None
        The :data:`N_TOP` likeliest classes (all, where there are fewer) with their probabilities, the likeliest first.
    error : str or None
        Why there is no answer.
    """

    label: str | None
    probability: float | None
    top: dict[str, float] | None
    error: str | None


class ServedModel:
    """A model with its class names and preprocessing.

    Parameters
    ----------
    model : ImageClassifier
    about : mapping
        ``model.json``: ``class_names``, K of them, ``resize``, and where they differ from the default ``cleanup``, ``range`` (of grey
        values of more than 8 bits) and ``max_pixels``.
    """

    def __init__(self, model: ImageClassifier, about: dict[str, Any]) -> None:
        self.model, self.classes, self.resize = model, list(about["class_names"]), about.get("resize") or "stretch"
        self.cleanup = about.get("cleanup", ())
        self.range, self.max_pixels = about.get("range"), int(about.get("max_pixels", MAX_PIXELS))
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._lock = threading.Lock()  # Pillow's limits are the whole process's, and a server answers in threads

    def answers(self, files: Sequence[bytes]) -> list[Answer]:
        """Answer for whole files, in their order; one that is no image gets a reason, and the others their answers all the same."""
        found: list[Answer] = []
        with self._lock, pillow_limits(self.max_pixels):
            for start in range(0, len(files), _BATCH):
                found += self._batch(files[start : start + _BATCH])
        return found

    def _batch(self, files: Sequence[bytes]) -> list[Answer]:
        size = self.model.image_size
        pictures: list[npt.NDArray[np.uint8]] = []
        errors: list[str] = []
        for data in files:
            try:
                pictures.append(np.asarray(fit_to_square(clean_up(decode(data).rgb(self.range), self.cleanup), size, self.resize)))
                errors.append("")
            except UnreadableImageError as error:
                errors.append(str(error).replace("preprocessing.max_pixels=", ""))
        pixels = np.stack(pictures) if pictures else np.empty((0, size, size, 3), np.uint8)
        probs = iter(classifier.probabilities(self.model, pixels, batch_size=_BATCH, device=self.device))
        return [Answer(None, None, None, error) if error else self._answer(next(probs)) for error in errors]

    def _answer(self, probs: array_types.Float32) -> Answer:
        order = np.argsort(-probs, kind="stable")[:N_TOP]
        top = {self.classes[k]: float(probs[k]) for k in order}
        label = next(iter(top))
        return Answer(label, top[label], top, None)

    def predict(self, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Answer as MLflow asks.

        Parameters
        ----------
        model_input : DataFrame
            Image files in its first column, n rows, as :func:`bccp.models.served_inputs.image_file` takes them.
        params : None
            There are none.

        Returns
        -------
        DataFrame
            Columns ``class, probability, top_3, error``, n rows.
        """
        files: list[bytes] = []
        refused: dict[int, str] = {}
        for i, value in enumerate(model_input.iloc[:, 0]):
            try:
                files.append(image_file(value))
            except UnusableInputError as error:
                files.append(b"")
                refused[i] = str(error)
        found = [Answer(None, None, None, refused[i]) if i in refused else answer for i, answer in enumerate(self.answers(files))]
        # plain objects: JSON knows None, but no NaN
        return pd.DataFrame(found, columns=["class", "probability", "top_3", "error"], index=model_input.index, dtype=object)


def load_predictor(folder: Path) -> ServedModel:
    """Read a model that the step train made, or that is packed for MLflow with its files.

    Raises
    ------
    BCCPError
        Where the folder holds no whole model.
    """
    model, about = classifier.load_classifier(folder)
    packed = folder.resolve().parent.parent  # as MLflow lays a model out
    if (packed / "MLmodel").is_file() and any(user_code.is_dotted_name(name) for step in about.get("cleanup", ()) for name in step):
        sys.path.append(str(packed / "code"))  # last, so that it hides nothing
    return ServedModel(model, about)


def _load_pyfunc(path: str) -> ServedModel:
    """What MLflow calls with the folder of the model's files."""
    return load_predictor(Path(path))
