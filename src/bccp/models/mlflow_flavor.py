"""Packs a trained model in MLflow's format, so that ``mlflow models serve`` can answer with it.

The folder holds the weights as a state dict, class names and preprocessing as text, this package's code, a signature and an example of two
image files. Nothing in it is pickled, but for what ``torch.load(weights_only=True)`` takes.
"""

from __future__ import annotations

import io
import json
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from bccp.core import user_code
from bccp.core.paths import PACKAGE, ROOT
from bccp.core.runtime.requirements import pins

TRAINED_ON = "trained_on.npy"
"""In the model's data: fingerprints of the images that it has seen in training (:func:`fingerprints`)."""

TRAINED_ON_BEFORE = "trained_on_before.npy"
"""In an artifact ``model`` that started from a registered one: the fingerprints of that one's images, and of those before it."""

_CLEANS_UP = "opencv-python-headless"

_NEEDED = ("numpy", "pandas", "pillow", "torch", "torchvision")
"""Beside MLflow, what :mod:`bccp.models.predictor` imports, directly or not."""


def write_model(folder: Path, model: Path, *, seen: npt.NDArray[np.uint64]) -> None:
    """Pack a model.

    Parameters
    ----------
    folder : Path
        To be made.
    model : Path
        As the step train made it.
    seen : ndarray of uint64, shape (n,)
        Fingerprints of its training images; those that it was trained on before are added.
    """
    data = folder.with_name(f"{folder.name}-data")
    data.mkdir()
    for name in ("model.pt", "model.json", "README.md"):
        (data / name).symlink_to(model / name)  # MLflow copies what they mean
    np.save(data / TRAINED_ON, np.union1d(seen, trained_on(model, TRAINED_ON_BEFORE)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow, about its own types
        _save(folder, data)


def _save(folder: Path, data: Path) -> None:
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import Map

    versions = {name: metadata.version(name).partition("+")[0] for name in ("mlflow-skinny", *_NEEDED)}
    needed = [f"mlflow=={versions['mlflow-skinny']}", *(f"{name}=={versions[name]}" for name in _NEEDED)]
    cleanup = json.loads((data / "model.json").read_text(encoding="utf-8")).get("cleanup", [])
    own = [user_code.source_location(name, "preprocessing.cleanup") for step in cleanup for name in step if user_code.is_dotted_name(name)]
    if cleanup:  # the step test itself cleans nothing up
        needed.append(f"{_CLEANS_UP}=={pins(ROOT / 'preprocessing' / 'conda.yml')[_CLEANS_UP]}")
    answer = [ColSpec("string", "class"), ColSpec("double", "probability"), ColSpec(Map("double"), "top_3"), ColSpec("string", "error")]
    mlflow.pyfunc.save_model(
        path=str(folder),
        loader_module="bccp.models.predictor",
        data_path=str(data),
        code_paths=[str(PACKAGE), *sorted({str(path) for path in own if path is not None})],
        # a column without a name takes one of any name
        signature=ModelSignature(inputs=Schema([ColSpec("binary")]), outputs=Schema([*answer])),
        input_example=pd.DataFrame({"image": [_example(0), _example(255)]}),
        pip_requirements=needed,
    )


def fingerprints(digests: pd.Series[str]) -> npt.NDArray[np.uint64]:
    """The first 64 bits of images' digests (hexadecimal, of their decoded pixels): enough to know an image again."""
    return np.array([int(digest[:16], 16) for digest in digests], dtype=np.uint64)


def trained_on(folder: Path, name: str = TRAINED_ON) -> npt.NDArray[np.uint64]:
    """The fingerprints that a model's folder holds under a name; none where it has no such file."""
    path = folder / name
    return np.load(path, allow_pickle=False) if path.is_file() else np.array([], np.uint64)


def known(digests: pd.Series[str], trained_on: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Whether each of some images, by their digests, is among those of the fingerprints."""
    return np.isin(fingerprints(digests), trained_on)


def _example(level: int) -> bytes:
    """A PNG file that shows nothing of anybody's images."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(file, "PNG")
    return file.getvalue()
