"""`bccp export-model`, on a model with made-up answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bccp.cli.app import call
from bccp.core.errors import BCCPError
from bccp.models import classifier
from bccp.serving import export_model
from support.made_up_models import CLASSES, World


@pytest.fixture
def world(home: Path, tmp_path: Path, one_thread: None) -> World:
    return World(tmp_path / "made")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch would rather have torch.export than TorchScript
@pytest.mark.parametrize("format_name", ["torchscript", "torch_export", "onnx"])
def test_an_exported_model_answers_as_the_model_itself_whatever_the_batch(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], format_name: str
) -> None:
    if format_name == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    digest, out = world.model(seed=1), tmp_path / f"model.{format_name}"
    assert call(["export-model", "--model", f"model:{digest}", "--format", format_name, "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: {format_name}, 8 px, 3 classes; answers as the model itself does (within ")
    about = json.loads((tmp_path / f"{out.name}.json").read_text(encoding="utf-8"))
    assert (about["class_names"], about["image_size"], about["resize"]) == (CLASSES, 8, "stretch")
    ask = export_model.FORMATS[format_name][1](out)
    model, _ = classifier.load_classifier(world.ledger.fetch(f"model:{digest}"))
    for n in (1, 3, 60):
        assert np.asarray(ask(world.images[:n])) == pytest.approx(classifier.probabilities(model, world.images[:n]), abs=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "format_name"),
    [
        ("mobilenet_v2", "torchscript"),
        ("mobilenet_v2", "torch_export"),
        ("efficientnet_lite0", "torchscript"),  # it enlarges the images
        ("efficientnet_lite0", "torch_export"),
        ("efficientnet_lite0", "onnx"),
    ],
)
def test_larger_networks_are_exported_too(tmp_path: Path, one_thread: None, home: Path, name: str, format_name: str) -> None:
    if format_name == "onnx":
        pytest.importorskip("onnxscript")
    folder, out = tmp_path / "made", tmp_path / "model"
    folder.mkdir()
    model = classifier.build_classifier(name, 3, image_size=32, dropout=0.2, seed=0)
    classifier.save_classifier(model, folder, {"class_names": CLASSES})
    said = export_model.export_model(folder, format_name, out)
    assert said["largest_difference"] <= export_model.EXPORT_TOLERANCE
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    assert np.asarray(export_model.FORMATS[format_name][1](out)(images)) == pytest.approx(classifier.probabilities(model, images), abs=1e-5)


def test_a_model_that_would_answer_otherwise_is_not_exported(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = world.ledger.fetch(f"model:{world.model()}")
    write, read = export_model.FORMATS["torchscript"]

    def forgets_a_bias(module: Any, example: torch.Tensor, file: Path) -> None:
        module.model.head[1].bias.data += torch.tensor([0.0, 6.0, 0.0])
        write(module, example, file)
        module.model.head[1].bias.data -= torch.tensor([0.0, 6.0, 0.0])

    monkeypatch.setitem(export_model.FORMATS, "torchscript", (forgets_a_bias, read))
    with pytest.raises(BCCPError, match=r"small_cnn as torchscript does not answer as the model itself \(a probability differs by 0\."):
        export_model.export_model(folder, "torchscript", tmp_path / "model.pt")
    assert not list(tmp_path.glob("model.pt*"))
    with pytest.raises(BCCPError, match=r"FORMAT=onxx is unknown: use one of onnx, torchscript, torch_export \(did you mean 'onnx'\?\)"):
        export_model.export_model(folder, "onxx", tmp_path / "model.pt")


def test_what_cannot_be_written_whole_leaves_the_older_files_as_they_were(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, about = tmp_path / "model.pt", tmp_path / "model.pt.json"
    about.mkdir()
    assert call(["export-model", "--model", "none@x", "--format", "torchscript", "--out", str(out)]) == 1
    assert capsys.readouterr().err == f"error: OUT={out} needs the file {about} too, which is a folder: choose another file\n"
    about.rmdir()

    folder = world.ledger.fetch(f"model:{world.model()}")
    out.write_bytes(b"older model")
    about.write_bytes(b"about it")
    whole = Path.write_bytes

    def no_room(place: Path, content: bytes) -> int:
        if place.name.startswith(".model.pt.json"):
            raise OSError(28, "No space left on device")
        return whole(place, content)

    monkeypatch.setattr(Path, "write_bytes", no_room)
    with pytest.raises(BCCPError, match=r"model\.pt\.json cannot be written \(No space left on device\): choose another file with OUT="):
        export_model.export_model(folder, "torch_export", out)
    left = {path.name: path.read_bytes() for path in tmp_path.glob("*model.pt*")}
    assert left == {"model.pt": b"older model", "model.pt.json": b"about it"}
