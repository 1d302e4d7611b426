"""Sides of the images that torchvision's published weights are for."""

from __future__ import annotations

import pytest

from bccp.core.automatic_models import PRETRAINED, PRETRAINED_PX
from bccp.models.architectures import names
from bccp.models.classifier import build_classifier
from bccp.models.weights import input_sides, published_weights


@pytest.mark.parametrize(
    ("name", "weights", "sides"),
    [
        ("resnet18", "DEFAULT", (224, 1)),
        ("inception_v3", "IMAGENET1K_V1", (299, 75)),
        ("vit_b_16", "IMAGENET1K_V1", (224, 224)),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", (384, 384)),
    ],
)
def test_weights_know_the_side_that_they_were_evaluated_at_and_the_smallest(name: str, weights: str, sides: tuple[int, int]) -> None:
    assert input_sides(name, published_weights(name, weights)) == sides


def test_the_default_weights_stand_in_for_those_of_a_file() -> None:
    assert input_sides("efficientnet_b2", None) == (288, 1)


@pytest.mark.parametrize("name", [name for name in names() if name.startswith(("swin_t", "regnet_y_16", "maxvit", "googlenet"))])
def test_the_smallest_side_is_at_most_the_own_one(name: str) -> None:
    own, least = input_sides(name, None)
    assert 1 <= least <= own


def test_the_backbone_that_photographs_get_sees_them_at_the_side_that_is_chosen_for_them() -> None:
    assert build_classifier(PRETRAINED, 2, image_size=32, dropout=0, seed=0).input_size == PRETRAINED_PX
