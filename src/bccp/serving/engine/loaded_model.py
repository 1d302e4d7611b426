"""A model in use: its identity, its preprocessing, and the engine that answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bccp.core.home import scratch
from bccp.core.runtime.threads import default_threads
from bccp.data.array_types import Float32
from bccp.models.predictor import Answer, Prepared, ServedModel, load_predictor
from bccp.serving.engine.onnx_network import onnx_ask, torch_ask
from bccp.serving.named_models import find_named
from bccp.tracking.store import Ledger


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in use.

    Attributes
    ----------
    name : str
        Of the registered model; ``model`` where it is none.
    version : int or None
        Of the registered model.
    digest : str
        Version of the artifact ``model``, 64 hex digits.
    served : ServedModel
        Answers by the engine.
    engine : str
        ``onnxruntime`` or ``torch``.
    """

    name: str
    version: int | None
    digest: str
    served: ServedModel
    engine: str

    @property
    def classes(self) -> list[str]:
        """Names of the K classes, in the order of the probabilities."""
        return self.served.classes

    @property
    def image_size(self) -> int:
        """S, in px."""
        return self.served.model.image_size

    def prepare(self, data: bytes, *, max_pixels: int | None = None) -> Prepared:
        """See :meth:`bccp.models.predictor.ServedModel.prepare`."""
        return self.served.prepare(data, max_pixels=max_pixels)

    def probabilities(self, pixels: npt.NDArray[np.uint8]) -> Float32:
        """P(class | image) (n, K) of prepared images (n, S, S, 3); an image's row does not depend on the others."""
        return self.served.probabilities(pixels)

    def name_answers(self, probs: Float32) -> list[Answer]:
        """Answers that probabilities (n, K) amount to."""
        return self.served.name_answers(probs)

    def answers(self, files: Sequence[bytes]) -> list[Answer]:
        """Answers for whole files, in their order."""
        return self.served.answers(files)


def load_served(
    ledger: Ledger,
    spec: str,
    *,
    option: str = "serve.model",
    threads: int | None = None,
    max_batch: int = 1,
    beside: bool = False,
    emit: Callable[[str], object] = lambda line: print(line, flush=True),
) -> LoadedModel:
    """Load a model on the engine that is fastest for it, and warm it.

    On CPUs ONNX Runtime answers (``python -m benchmarks.engines`` measures), where the whole network can be exported and its answers are
    PyTorch's; on CUDA, and where they are not, PyTorch. No engine is chosen by the clock: the same model answers by the same engine.

    Parameters
    ----------
    ledger : Ledger
    spec : str
        As for :func:`bccp.serving.named_models.find_named`.
    option : str
        What gave the name, for messages.
    threads : int, optional
        Of each question to a large network; by default as many as there are cores.
    max_batch : int
        Number of images that it is asked about beforehand, beside one alone.
    beside : bool
        Another model answers meanwhile, and is not to be held up.
    emit : callable
        Gets a line where ONNX Runtime cannot stand in for PyTorch.

    Raises
    ------
    BCCPError
        If there is no such model, or it is not whole.
    """
    with scratch("model") as folder:
        named = find_named(ledger, spec, folder, option=option)
        served = load_predictor(named.folder)
    threads = threads or default_threads()
    ask = None if served.device == "cuda" else onnx_ask(served.model, threads=threads, beside=beside, emit=emit)
    served.ask = torch_ask(served.model, served.device, threads=threads) if ask is None else ask
    loaded = LoadedModel(named.name, named.version, named.digest, served, "torch" if ask is None else "onnxruntime")
    for n_images in sorted({1, max_batch}):
        loaded.probabilities(np.zeros((n_images, loaded.image_size, loaded.image_size, 3), np.uint8))
    return loaded
