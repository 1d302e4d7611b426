"""Pictures of more than 8 bits from their files to a served model, and against a batch of new ones: the same range everywhere."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

import bccp
from bccp.cli.app import call
from bccp.data.decoding.grey_levels import to_8_bits
from bccp.models import classifier, predictor

QUIET = ["tracking.wandb=disabled", "main.threads=1", "preprocessing.image_size=16"]


def deep_images(folder: Path, *, low: int = 7500, n_each: int = 12) -> Path:
    """16-bit files of two classes that differ by what is bright, in 400 of the 65,536 values."""
    for number, name in enumerate(("left", "right")):
        (folder / name).mkdir(parents=True)
        for index in range(n_each):
            rng = np.random.default_rng([low, number, index])
            values = low + rng.integers(0, 100, (16, 16))
            values[:, 8 * number : 8 * number + 8] += 300
            Image.fromarray(values.astype(np.uint16)).save(folder / name / f"{index}.png")
    return folder


def test_model_and_incoming_batch_are_given_the_range_of_the_training_images(
    home: Path, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = deep_images(tmp_path / "deep")
    options = [f"data.path={data}", "data.source=folder", "preprocessing.max_pixels=200000000", "train.epochs=1", "cp_sampling.type=none"]
    options += ["noisy_labels.label=ground_truth", "main.target_day=monday"]
    summary = bccp.run([*QUIET, *options, "main.execute_steps=[fetch_data,preprocessing,segregation,train]"])
    assert "grey values of more than 8 bits" in capsys.readouterr().out
    places = {name: next(home.glob(f"**/{name}/{file}")).parent for name, file in (("model", "model.json"), ("clean_data", "images.npy"))}
    about, report = (json.loads((places[name] / f).read_text()) for name, f in (("model", "model.json"), ("clean_data", "report.json")))
    assert summary["status"] == "finished"
    assert about["range"] == report["range"]
    assert about["max_pixels"] == 200_000_000
    low, high = about["range"]["integer"]
    assert 7500 <= low < 7520
    assert 7880 < high <= 7900
    seen: list[Any] = []
    monkeypatch.setattr(
        classifier, "probabilities", lambda _model, pixels, **_: seen.append(pixels) or np.full((len(pixels), 2), 0.5, np.float32)
    )
    loaded = predictor.load_predictor(places["model"])
    assert loaded.max_pixels == 200_000_000
    loaded.answers([path.read_bytes() for path in sorted(data.glob("*/*.png"), key=lambda path: path.relative_to(data).as_posix())])
    assert (seen[0] == np.load(places["clean_data"] / "images.npy")).all()
    brighter = deep_images(tmp_path / "brighter", low=7600)
    assert call(["check-new", "--data", str(brighter)]) == 0
    (place,) = home.glob("incoming/*/clean_data")
    assert json.loads((place / "report.json").read_text())["range"] == report["range"]
    files = sorted((path for path in brighter.glob("*/*.png")), key=lambda path: path.relative_to(brighter).as_posix())
    expected = np.stack([to_8_bits(np.asarray(Image.open(path)), report["range"]) for path in files])
    assert (np.load(place / "images.npy")[..., 0] == expected).all()


def test_a_model_without_a_range_serves_files_by_the_range_of_their_type(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        classifier, "probabilities", lambda _model, pixels, **_: seen.append(pixels) or np.full((len(pixels), 2), 0.5, np.float32)
    )
    file = io.BytesIO()
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(values).save(file, "PNG")
    for scale, expected in ((None, to_8_bits(values)), ({"integer": [0, 1000]}, to_8_bits(values, {"integer": [0, 1000]}))):
        about = {"class_names": ["ant", "bee"]} | ({"range": scale} if scale else {})
        predictor.ServedModel(cast("Any", SimpleNamespace(image_size=8)), about).answers([file.getvalue()])
        assert (seen[-1][0, ..., 0] == expected).all()
    refused = predictor.ServedModel(cast("Any", SimpleNamespace(image_size=8)), {"class_names": ["a", "b"], "max_pixels": 63})
    assert refused.answers([file.getvalue()])[0].error == "decompression bomb: more than 63 pixels"
