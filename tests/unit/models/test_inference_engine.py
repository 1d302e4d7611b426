"""ONNX Runtime stands in for a backbone: equal features, whatever the size, the batch and the threads, and a refusal where they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bccp.models import classifier, inference_engine
from bccp.models.architectures import ImageClassifier
from bccp.models.efficientnet_lite import SameConv2d

pytestmark = pytest.mark.usefixtures("one_thread")


def make(*first: nn.Module, image_size: int = 16, input_size: int | None = None) -> ImageClassifier:
    """A model with a made-up backbone of four features."""
    torch.manual_seed(0)
    layers = [*first, SameConv2d(3, 4, 3, 2, bias=False), nn.BatchNorm2d(4), nn.ReLU6(), SameConv2d(4, 4, 5, 2, groups=4), nn.ReLU()]
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    sizes = {"image_size": image_size, "input_size": input_size}
    return ImageClassifier(backbone, 4, 2, architecture="", dropout=0, mean=[0.5] * 3, std=[0.5] * 3, **sizes).eval()


def make_images(n: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def written(model: ImageClassifier, place: Path) -> Path:
    (place / "backbone.onnx").write_bytes(inference_engine.exported(model.backbone, 16))
    return place / "backbone.onnx"


def test_features_are_torchs_at_every_size_also_of_mirrored_models(tmp_path: Path) -> None:
    session = inference_engine.open_session(written(make(), tmp_path), 1)
    for size, input_size in ((16, None), (33, None), (16, 40), (50, 21)):
        for mirrored in (False, True):
            model, images = make(image_size=size, input_size=input_size), make_images(11, size)
            model.mirrored = mirrored
            found = inference_engine.session_look(model, session)(images)
            np.testing.assert_allclose(found, classifier.embed(model, images), atol=1e-5)


def test_an_images_features_depend_neither_on_the_batch_nor_on_the_threads(tmp_path: Path) -> None:
    model, images, file = make(image_size=30), make_images(19, 30), written(make(), tmp_path)
    looks = [inference_engine.session_look(model, inference_engine.open_session(file, threads)) for threads in (1, 2)]
    together, order = looks[0](images), np.random.default_rng(1).permutation(19)
    np.testing.assert_array_equal(looks[0](images[order]), together[order])
    np.testing.assert_array_equal(np.concatenate([looks[0](one[None]) for one in images]), together)
    np.testing.assert_array_equal(looks[1](images), together)


def test_the_same_backbone_is_written_as_the_same_bytes() -> None:
    assert inference_engine.exported(make().backbone, 16) == inference_engine.exported(make().backbone, 16)


def test_a_backbone_that_would_give_other_features_is_refused(tmp_path: Path) -> None:
    file = written(make(), tmp_path)
    assert inference_engine.refusal(make(), file, (32, 24, 17)) == ""
    other = make()
    other.backbone[0].weight.data *= 1.01
    assert inference_engine.refusal(other, file, (32,)).startswith("its features differ by 0.0")
    reflected = make(nn.ReflectionPad2d(1), nn.Conv2d(3, 3, 3))  # no padding that convolutions can do
    assert inference_engine.refusal(reflected, written(reflected, tmp_path), (32,)).startswith("its features differ by ")


def test_only_networks_of_convolutions_are_taken() -> None:
    assert inference_engine.is_convolutional(make().backbone)
    assert not inference_engine.is_convolutional(nn.Sequential(nn.Conv2d(3, 4, 4), nn.LayerNorm(4)))
    assert not inference_engine.is_convolutional(nn.MultiheadAttention(4, 2))
