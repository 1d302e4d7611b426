"""Augmentation by name and by Hydra's ``_target_``: what it does to images, and that a seed says all of it; CutMix."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bccp.core import config_schema, paths, user_code
from bccp.core.errors import BCCPError
from bccp.core.registries import LOSSES
from bccp.models import batch_augmentation, classifier, transforms
from bccp.models.fitting import training
from bccp.models.fitting.training_options import TrainingData, TrainingOptions
from bccp.pipeline.step_runner import resolve_external_refs

SIZE = 24
NAMES = [name for name in config_schema.AUGMENTATIONS if name != "none"]
PER_IMAGE = [name for name in NAMES if name != "generic"]
WRONG = {
    "Missing": "no class of its own",
    "Picky": "cannot be made (TypeError: ",
    "Grown": r"makes torch.float32 (3, 24, 48) of torch.float32 (3, 24, 24): give a class whose objects turn one image",
    "Listed": "makes list of torch.float32 (3, 24, 24)",
    "Whole": "makes torch.uint8 (3, 24, 24) of torch.float32",
    "Broken": "fails on an image (ZeroDivisionError: ",
    "Number": "gives a int, which cannot be called",
}

pytestmark = pytest.mark.usefixtures("one_thread")

OWN_CLASSES = '''
import random
import numpy as np
import torch

class Stains:
    """Draws from each of the three random states."""
    def __init__(self, most):
        self.most = most
    def __call__(self, image):
        return image + self.most * (torch.rand(1) + np.random.rand() + random.random()).float() / 3

class Picky(Stains):
    pass

class Grown:
    def __call__(self, image):
        return torch.cat([image, image], 2)

class Listed:
    def __call__(self, image):
        return image.tolist()

class Whole:
    def __call__(self, image):
        return (255 * image).to(torch.uint8)

class Broken:
    def __call__(self, image):
        return image * (1 / 0)

Number = len
'''


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's module on Python's path."""
    path = tmp_path / "own_stains.py"
    path.write_text(OWN_CLASSES)
    monkeypatch.syspath_prepend(tmp_path)
    user_code.module_digest.cache_clear()
    yield path
    user_code.module_digest.cache_clear()
    sys.modules.pop("own_stains", None)


def pictures(n: int = 6, seed: int = 0) -> Tensor:
    """Smooth colour patterns in [0, 1]."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear")


def change(images: Tensor, wanted: str | Sequence[Any], *, seed: int = 0, **options: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    for part in transforms.changes(wanted, image_size=images.shape[-1], **options):
        images = part(images, generator=generator)
    return images


@pytest.mark.parametrize("name", NAMES)
def test_each_name_changes_every_image_in_its_own_way_and_a_seed_says_how(name: str) -> None:
    images = pictures(1).expand(8, -1, -1, -1)
    before = images.clone()
    found = change(images, name)
    assert torch.equal(images, before)
    assert found.shape == images.shape
    assert 0 <= found.min() <= found.max() <= 1
    assert len(torch.unique(found, dim=0)) >= 6  # of RandAugment's operations one does nothing
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    assert torch.equal(change(images, name), found)
    assert not torch.equal(change(images, name, seed=1), found)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [4, 7, 33])
def test_each_name_takes_images_of_any_size_at_any_strength(name: str, size: int) -> None:
    for strength in (0.01, 2.0):
        found = change(torch.rand(2, 3, size, size), name, strength=strength)
        assert found.shape == (2, 3, size, size)
        assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "randaugment"])
def test_strength_says_how_far_it_goes(name: str) -> None:
    images = pictures(20)
    far = [(change(images, name, strength=strength) - images).abs().mean().item() for strength in (0.05, 0.5, 2.0)]
    assert far[0] < far[1] < far[2]
    assert far[0] < 0.1 * far[2] or name == "generic"  # whose rectangles are fewer pixels, but as grey


def test_strong_is_stronger_than_light_and_both_than_their_parts() -> None:
    images = pictures(30)
    far = {name: (change(images, name) - images).abs().mean().item() for name in ("brightness", "blur", "light", "strong")}
    assert max(far["brightness"] / 2, far["blur"]) < far["light"] < far["strong"]


@pytest.mark.parametrize("name", ["rotate", "zoom", "clip", "perspective", "blur"])
def test_what_moves_pixels_brings_no_new_colours_in(name: str) -> None:
    flat = torch.full((20, 3, SIZE, SIZE), 0.7)
    for strength in (1.0, 2.0):
        torch.testing.assert_close(change(flat, name, strength=strength), flat)


def test_the_single_ones_do_what_they_are_called() -> None:
    images = pictures(80)
    ratio = (change(0.5 * images, "brightness") / (0.5 * images)).mean((1, 2, 3))
    assert 1 - transforms.BRIGHTNESS <= ratio.min() < 0.8 < 1.2 < ratio.max() <= 1 + transforms.BRIGHTNESS
    dull = 0.4 + 0.2 * images
    spread = change(dull, "contrast").std((1, 2, 3)) / dull.std((1, 2, 3))
    assert 1 - transforms.CONTRAST - 0.01 <= spread.min() < 0.8 < 1.2 < spread.max() <= 1 + transforms.CONTRAST + 0.01
    noise = torch.rand(80, 3, SIZE, SIZE)
    smoothed = change(noise, "blur").std((1, 2, 3)) / noise.std((1, 2, 3))
    assert smoothed.max() < 1.001
    assert smoothed.min() < 0.8
    spot = torch.zeros(80, 3, SIZE, SIZE)
    spot[:, :, 10:14, 18:22] = 1  # to the right of the centre
    centres = (torch.arange(SIZE) + 0.5) / SIZE - 0.5

    def place(found: Tensor) -> tuple[Tensor, Tensor]:
        mass = found[:, 0].sum((1, 2))
        return (found[:, 0].sum(1) @ centres) / mass, (found[:, 0].sum(2) @ centres) / mass

    right, down = place(change(spot, "rotate"))
    angle = torch.rad2deg(torch.atan2(down, right)).abs()
    assert 10 < angle.max() <= transforms.ROTATION + 1
    right, down = place(change(spot, "zoom"))
    torch.testing.assert_close(down, torch.zeros(80), atol=0.02, rtol=0)
    assert right.min() < 0.9 / 3 < 1.1 / 3 < right.max() <= (1 + transforms.ZOOM) / 3 + 0.01


def test_none_is_nothing_and_generic_what_it_was() -> None:
    images = pictures()
    assert transforms.changes("none", image_size=SIZE) == []
    torch.testing.assert_close(
        change(images, "generic", seed=4), batch_augmentation.generic(images, generator=torch.Generator().manual_seed(4)), rtol=0, atol=0
    )


@pytest.mark.parametrize("name", ["generic", "rotate"])
def test_a_share_of_the_images_is_changed_and_the_others_are_as_they_were(name: str) -> None:
    images = pictures(300)
    found = change(images, name, probability=0.3)
    share = 1 - np.mean([torch.equal(a, b) for a, b in zip(found, images, strict=True)])
    least = 0.75 if name == "generic" else 1  # it may shift an image by next to nothing, but erases nothing in one of four
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 300) ** 0.5 + (1 - least) * 0.3
    assert torch.equal(change(images, name, probability=0.3), found)
    assert torch.equal(change(images, name, probability=0), images)


def test_a_list_is_followed_in_its_order() -> None:
    images = pictures()
    invert = {"_target_": "torchvision.transforms.v2.RandomInvert", "p": 1.0}
    dark = {"_target_": "torchvision.transforms.v2.ColorJitter", "brightness": [0.5, 0.5]}
    torch.testing.assert_close(change(images, [invert, dark]), 0.5 * (1 - images))
    torch.testing.assert_close(change(images, [dark, invert]), 1 - 0.5 * images)
    torch.testing.assert_close(change(images, ["rotate", invert]), 1 - change(images, "rotate"))


def test_a_users_own_class_is_drawn_anew_for_each_image_and_repeated_by_a_seed(own_module: Path) -> None:
    images, wanted = 0.3 * pictures(5), [{"_target_": "own_stains.Stains", "most": 0.4}]
    found = change(images, wanted)
    added = (found - images).mean((1, 2, 3))
    assert len(added.unique()) == 5
    torch.rand(3), np.random.rand(3), random.random()
    assert torch.equal(change(images, wanted), found)
    assert change(images, [{"_target_": "own_stains.Stains", "most": 9}]).max() == 1


def test_a_users_own_class_beside_the_configuration_needs_no_path(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "own_beside.py").write_text(OWN_CLASSES)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(transforms.sys, "path", [*transforms.sys.path])
    assert user_code.source_location("own_beside.Stains") == tmp_path / "own_beside.py"
    assert not torch.equal(change(pictures(), [{"_target_": "own_beside.Stains", "most": 0.4}]), pictures())


@pytest.mark.parametrize("name", WRONG)
def test_a_target_that_will_not_do_is_refused_in_one_sentence_before_training(own_module: Path, name: str) -> None:
    node: dict[str, Any] = {"_target_": f"own_stains.{name}"} | ({"_args_": [[1, 2]]} if name == "Number" else {})
    with pytest.raises(BCCPError) as refused:
        transforms.changes([node], image_size=SIZE)
    sentence = str(refused.value)
    assert sentence.startswith(f"train.augmentation: own_stains.{name} ")
    assert "\n" not in sentence
    assert WRONG[name] in sentence or name == "Missing"
    if name == "Missing":
        assert "cannot be made" in sentence


def test_the_source_of_own_classes_counts_and_that_of_installed_ones_does_not(own_module: Path) -> None:
    own = ["rotate", {"_target_": "torchvision.transforms.v2.Compose", "transforms": [{"_target_": "own_stains.Stains", "most": 1}]}]
    assert user_code.targets(own) == ["torchvision.transforms.v2.Compose", "own_stains.Stains"]
    assert user_code.targets("generic") == []
    section: Any = SimpleNamespace(init="scratch", augmentation=own)
    ledger: Any = None
    before = resolve_external_refs("train", section, ledger)
    assert list(before) == ["augmentation_code"]
    own_module.write_text(OWN_CLASSES.replace("/ 3", "/ 4"))
    assert resolve_external_refs("train", section, ledger) == before  # this process has imported it
    user_code.module_digest.cache_clear()
    assert resolve_external_refs("train", section, ledger) != before
    section.augmentation = ["rotate", {"_target_": "torchvision.transforms.v2.RandomInvert"}, {"_target_": "math.sqrt"}]
    assert resolve_external_refs("train", section, ledger) == {}


def test_a_package_of_ones_own_counts_with_all_its_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("__init__", "inner"):
        (tmp_path / "own_package").mkdir(exist_ok=True)
        (tmp_path / "own_package" / f"{name}.py").write_text("")
    before = user_code.source_digest(["own_package.inner.Stains"])
    (tmp_path / "own_package" / "inner.py").write_text("x = 1")
    user_code.module_digest.cache_clear()
    assert user_code.source_digest(["own_package.inner.Stains"]) != before


def test_cutmix_puts_a_part_of_one_image_into_another_and_mixes_the_weighted_losses_by_its_area() -> None:
    rng = np.random.default_rng(0)
    n = 6
    inputs = torch.arange(n, dtype=torch.float64)[:, None, None, None].expand(n, 3, 10, 10).clone()
    targets, weights = torch.from_numpy(rng.dirichlet(np.ones(4), n)), torch.from_numpy(rng.random(n))
    logits = torch.from_numpy(rng.normal(0, 1, (n, 4)))
    weights[:2] = 0
    before = inputs.clone(), targets.clone(), weights.clone()
    shares = set()
    for seed in range(20):
        mixed, mixed_targets, mixed_weights = transforms.cut_mix(
            inputs, targets, weights, alpha=1.0, generator=torch.Generator().manual_seed(seed)
        )
        foreign = mixed[:, 0] != inputs[:, 0]
        assert (foreign == foreign[0]).all()  # the same rectangle in all
        rows, columns = foreign[0].any(1), foreign[0].any(0)
        assert torch.equal(foreign[0], rows[:, None] & columns[None, :])
        share = 1 - foreign[0].double().mean()
        shares.add(round(float(share), 2))
        if not foreign.any():
            continue
        other = [int(image[inside][0]) for image, inside in zip(mixed[:, 0], foreign, strict=True)]
        assert sorted(other) == list(range(n))
        for name, loss in LOSSES.items():
            apart = share * weights * loss(logits, targets)
            apart += (1 - share) * weights[other] * loss(logits, targets[other])
            torch.testing.assert_close(mixed_weights * loss(logits, mixed_targets), apart, msg=name)
        torch.testing.assert_close(mixed_targets.sum(1), (mixed_weights > 0).double())
    assert len(shares) > 10
    assert all(torch.equal(a, b) for a, b in zip((inputs, targets, weights), before, strict=True))


def test_mixup_and_cutmix_share_the_batches_and_mixup_alone_is_what_it_was() -> None:
    images, targets, weights = pictures(4), torch.eye(4), torch.ones(4)
    kinds = []
    for seed in range(60):
        found, _, _ = transforms.blend(
            images, targets, weights, mixup_alpha=0.4, cutmix_alpha=0.4, generator=torch.Generator().manual_seed(seed)
        )
        kinds.append(bool(((found[:, None] == images[None]).all(2).any(1)).all()))  # each pixel is that of one image
    assert 15 < sum(kinds) < 45
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    alone = transforms.blend(images, targets, weights, mixup_alpha=0.4, cutmix_alpha=0.0, generator=generators[0])
    was = batch_augmentation.mix(images, targets, weights, alpha=0.4, generator=generators[1])
    assert all(torch.equal(a, b) for a, b in zip(alone, was, strict=True))
    assert transforms.blend(images, targets, weights, mixup_alpha=0.0, cutmix_alpha=0.0, generator=generators[0])[0] is images


def test_training_with_all_of_it_is_repeatable_whatever_else_draws(tmp_path: Path, own_module: Path) -> None:
    images = (255 * pictures(24).permute(0, 2, 3, 1)).to(torch.uint8).numpy()
    targets = np.eye(3, dtype=np.float32)[np.arange(24) % 3]
    settings: dict[str, Any] = {"epochs": 2, "learning_rate": 0.01, "batch_size": 8, "mixup_alpha": 0.3, "cutmix_alpha": 1.0}
    settings |= {"augmentation": ["light", {"_target_": "own_stains.Stains", "most": 0.1}], "augment_probability": 0.7}
    states = []
    for change_of_strength in ({}, {}, {"augment_strength": 0.5}):
        random.random(), np.random.rand(), torch.rand(1)
        model = classifier.build_classifier("small_cnn", 3, image_size=SIZE, dropout=0.2, seed=0)
        options = TrainingOptions(**settings, **change_of_strength)
        training.fit(model, TrainingData(images, targets), None, options, seed=1, folder=tmp_path)
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert any(not torch.equal(value, states[2][key]) for key, value in states[0].items())
