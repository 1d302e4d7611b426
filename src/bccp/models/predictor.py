"""A trained model as it answers: image files in, classes out; nothing but PyTorch, Pillow and pandas is needed for it.

MLflow loads it by :func:`_load_pyfunc` from a folder with the files of the step train: weights (a state dict) and text, so nothing in them
is run, but for a user's own scan filters, which are packed as code beside them. Files are decoded and resized by the code that did it for
training.

n files, S px, K classes.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
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


class Prepared(NamedTuple):
    """One image as the model takes it, and what its file was.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (S, S, 3)
    format : str
        Pillow's name for what the file held.
    width, height : int
        Full size in px, upright.
    """

    pixels: npt.NDArray[np.uint8]
    format: str
    width: int
    height: int


Ask = Callable[[npt.NDArray[np.uint8]], array_types.Float32]
"""From images (n, S, S, 3) to P(class | image), (n, K)."""


class ServedModel:
    """A model with its class names and preprocessing.

    Parameters
    ----------
    model : ImageClassifier
    about : mapping
        ``model.json``: ``class_names``, K of them, ``resize``, and where they differ from the default ``cleanup``, ``range`` (of grey
        values of more than 8 bits) and ``max_pixels``.

    Attributes
    ----------
    ask : callable
        An :data:`Ask`: PyTorch's, or what a caller has put in its place because it is faster.
    """

    def __init__(self, model: ImageClassifier, about: dict[str, Any]) -> None:
        self.model, self.classes, self.resize = model, list(about["class_names"]), about.get("resize") or "stretch"
        self.cleanup = about.get("cleanup", ())
        self.range, self.max_pixels = about.get("range"), int(about.get("max_pixels", MAX_PIXELS))
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.ask: Ask = self._ask_torch
        self._lock = threading.Lock()  # Pillow's limits are the whole process's, and a server answers in threads

    def answers(self, files: Sequence[bytes]) -> list[Answer]:
        """Answer for whole files, in their order; one that is no image gets a reason, and the others their answers all the same."""
        found: list[Answer] = []
        with self._lock, pillow_limits(self.max_pixels):
            for start in range(0, len(files), _BATCH):
                found += self._batch(files[start : start + _BATCH])
        return found

    def prepare(self, data: bytes, *, max_pixels: int | None = None) -> Prepared:
        """Decode and resize a whole file as for training; call it within :func:`bccp.data.decoding.image_files.pillow_limits`.

        Parameters
        ----------
        data : bytes
        max_pixels : int, optional
            A limit below the model's own.

        Raises
        ------
        UnreadableImageError
            The file is no image, a damaged one, or one of too many pixels.
        """
        decoded = decode(data, max_pixels=self.max_pixels if max_pixels is None else min(max_pixels, self.max_pixels))
        width, height = decoded.image.size
        square = fit_to_square(clean_up(decoded.rgb(self.range), self.cleanup), self.model.image_size, self.resize)
        return Prepared(np.asarray(square), decoded.format, width, height)

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> array_types.Float32:
        """P(class | image) (n, K) of prepared images (n, S, S, 3)."""
        return self.ask(pixels)

    def name_answers(self, probs: array_types.Float32) -> list[Answer]:
        """Answers that probabilities (n, K) amount to."""
        order = np.argsort(-probs, axis=1, kind="stable")[:, :N_TOP]
        likeliest = np.take_along_axis(probs, order, axis=1).tolist()
        named = ([self.classes[k] for k in row] for row in order.tolist())
        return [
            Answer(labels[0], values[0], dict(zip(labels, values, strict=True)), None)
            for labels, values in zip(named, likeliest, strict=True)
        ]

    def _ask_torch(self, pixels: npt.NDArray[np.uint8]) -> array_types.Float32:
        return classifier.probabilities(self.model, pixels, batch_size=_BATCH, device=self.device)

    def _batch(self, files: Sequence[bytes]) -> list[Answer]:
        size = self.model.image_size
        pictures: list[npt.NDArray[np.uint8]] = []
        errors: list[str] = []
        for data in files:
            try:
                pictures.append(self.prepare(data).pixels)
                errors.append("")
            except UnreadableImageError as error:
                errors.append(reason(error))
        pixels = np.stack(pictures) if pictures else np.empty((0, size, size, 3), np.uint8)
        answers = iter(self.name_answers(self.probabilities(pixels)) if pictures else [])
        return [Answer(None, None, None, error) if error else next(answers) for error in errors]

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


def reason(error: UnreadableImageError) -> str:
    """Reason for which a file gives no picture, in words for people who know no option of the step preprocessing."""
    return str(error).replace("preprocessing.max_pixels=", "")


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
