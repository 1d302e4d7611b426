"""Augmentation by name, or by what Hydra makes: torchvision's transforms, drawn anew for each image; and CutMix.

Strength 1 is what the constants say, and scales them. Each image has a seed of its own, drawn from the training's generator, so that its
transforms do not depend on how often others draw, and torch's, NumPy's and Python's own random states stay as they were. n images of
S x S px, K classes.
"""

from __future__ import annotations

import functools
import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bccp.core import paths
from bccp.core.errors import BCCPError
from bccp.models import batch_augmentation as augmentations

ROTATION = 15.0
"""Degrees, at most, either way."""

ZOOM = 0.25
"""An image grows or shrinks by a factor of at most 1 + ZOOM."""

CLIPPED = 0.4
"""Share of an image that is cut off at most, before the rest is brought to its size."""

BRIGHTNESS, CONTRAST = 0.3, 0.4
"""Factors are drawn from 1 minus to 1 plus this."""

PERSPECTIVE = 0.25
"""A corner moves by at most this share of half a side, along each axis."""

BLUR = 0.025
"""Standard deviation at most, in sides of the image."""

RANDAUGMENT_OPERATIONS, RANDAUGMENT_MAGNITUDE = 2, 9
"""Of RandAugment, whose magnitudes go from 0 to 30."""

Change = Callable[..., Tensor]
"""From images (n, 3, S, S), float in [0, 1], and ``generator=`` (on the CPU) to changed ones."""

ImageChange = Callable[[Tensor], Tensor]
"""From one image (3, S, S), float in [0, 1], to another one."""


def changes(augmentation: str | Sequence[Any], *, image_size: int, probability: float = 1.0, strength: float = 1.0) -> list[Change]:
    """What training does to a batch of images.

    Parameters
    ----------
    augmentation : str or sequence
        A name of ``bccp.core.config_schema.AUGMENTATIONS``, or names and mappings with ``_target_``, in order. What Hydra makes of a
        mapping is called with one image at a time; what it returns is cut to [0, 1].
    image_size : int
        S.
    probability : float
        In [0, 1], that an image is changed at all.
    strength : float
        In (0, 2], of what has a name.

    Returns
    -------
    list of callable
        To be applied in order; none where nothing is changed.

    Raises
    ------
    BCCPError
        If a target cannot be made, or does not give an image of the same shape.
    """
    nodes = [augmentation] if isinstance(augmentation, str) else list(augmentation)
    parts = [_change(node, image_size, strength) for node in nodes if node != "none"]
    return parts if not parts or probability == 1 else [functools.partial(_some, parts, probability)]


def cut_mix(inputs: Tensor, targets: Tensor, weights: Tensor, *, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """CutMix: put a rectangle of another image of the batch into each one, and mix their targets by its area.

    Parameters and results are those of :func:`bccp.models.batch_augmentation.mix`, for images (n, 3, S, S).

    References
    ----------
    S. Yun, D. Han, S. J. Oh, S. Chun, J. Choe, Y. Yoo: "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    Features", ICCV 2019.
    """
    from torchvision.transforms import v2

    # an image's weight is mixed as its targets are, and a target counts by its image's weight
    counted = torch.cat([weights[:, None] * targets, weights[:, None]], dim=1)
    with _own_randomness():
        _seed(_seeds(1, generator)[0])
        mixed, sums = v2.CutMix(alpha=alpha)(inputs, counted)
    return mixed, sums[:, :-1] / torch.where(sums[:, -1:] > 0, sums[:, -1:], 1), sums[:, -1]


def blend(
    inputs: Tensor, targets: Tensor, weights: Tensor, *, mixup_alpha: float, cutmix_alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mixup or CutMix, whichever has an alpha above 0; where both have one, each has half of the batches."""
    cut = cutmix_alpha > 0 and (not mixup_alpha or bool(torch.rand(1, generator=generator) < 0.5))
    if cut:
        return cut_mix(inputs, targets, weights, alpha=cutmix_alpha, generator=generator)
    if mixup_alpha:
        return augmentations.mix(inputs, targets, weights, alpha=mixup_alpha, generator=generator)
    return inputs, targets, weights


def _change(node: str | Mapping[str, Any], image_size: int, strength: float) -> Change:
    if node == "generic":
        return functools.partial(augmentations.generic, strength=strength)
    if isinstance(node, str):
        return functools.partial(_each, _named(node, image_size, strength))
    change = functools.partial(_each, [_made(node)])
    change(torch.full((1, 3, image_size, image_size), 0.5), generator=torch.Generator().manual_seed(0))  # what fails, fails at once
    return change


def _some(parts: Sequence[Change], probability: float, images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Change each image with a probability, by all parts or by none."""
    chosen = torch.nonzero(torch.rand(len(images), generator=generator) < probability)[:, 0].to(images.device)
    if not len(chosen):
        return images
    changed = images[chosen]
    for part in parts:
        changed = part(changed, generator=generator)
    return images.index_copy(0, chosen, changed)


def _each(image_changes: Sequence[ImageChange], images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Change the images one by one."""
    changed = []
    with _own_randomness():
        for image, seed in zip(images, _seeds(len(images), generator), strict=True):
            _seed(seed)
            for change in image_changes:
                image = change(image)
            changed.append(image)
    return torch.stack(changed).clamp(0, 1)


def _named(name: str, size: int, strength: float) -> list[ImageChange]:
    """The transforms behind a name."""
    from torchvision.transforms import InterpolationMode, v2

    def framed(transform: Any) -> list[ImageChange]:
        """Without black corners: beyond its edges the edge goes on."""
        return [v2.Pad((size + 1) // 2, padding_mode="edge"), transform, v2.CenterCrop(size)]

    def affine(rotation: float, zoom: float) -> list[ImageChange]:
        return framed(v2.RandomAffine(rotation, scale=(1 / (1 + zoom), 1 + zoom), interpolation=InterpolationMode.BILINEAR))

    sigma = BLUR * strength * size
    widest = 2 * min(math.ceil(3 * sigma), size - 1) + 1  # px; its reflected border must lie within the image
    narrowest = 1 - CLIPPED * strength / 2
    makers: dict[str, Callable[[], list[ImageChange]]] = {
        "rotate": lambda: affine(ROTATION * strength, 0),
        "zoom": lambda: affine(0, ZOOM * strength),
        "clip": lambda: [v2.RandomResizedCrop(size, scale=(1 - CLIPPED * strength, 1), ratio=(narrowest, 1 / narrowest))],
        "brightness": lambda: [v2.ColorJitter(brightness=BRIGHTNESS * strength)],
        "contrast": lambda: [v2.ColorJitter(contrast=CONTRAST * strength)],
        "perspective": lambda: framed(v2.RandomPerspective(PERSPECTIVE * strength, p=1)),
        "blur": lambda: [v2.GaussianBlur(widest, (sigma / 100, sigma))],
        "randaugment": lambda: [
            v2.RandAugment(
                RANDAUGMENT_OPERATIONS, max(1, round(RANDAUGMENT_MAGNITUDE * strength)), interpolation=InterpolationMode.BILINEAR, fill=0.5
            )
        ],
        "light": lambda: [
            *affine(ROTATION * strength / 2, ZOOM * strength / 2),
            v2.ColorJitter(BRIGHTNESS * strength / 2, CONTRAST * strength / 2),
        ],
        "strong": lambda: [
            *framed(v2.RandomPerspective(PERSPECTIVE * strength, p=1)),
            *affine(ROTATION * strength, ZOOM * strength),
            *makers["clip"](),
            v2.ColorJitter(BRIGHTNESS * strength, CONTRAST * strength),
            *makers["blur"](),
        ],
    }
    return makers[name]()


def _made(node: Mapping[str, Any]) -> ImageChange:
    """What Hydra makes of a mapping, wrapped so that what goes wrong in it is told of by its name."""
    from hydra.utils import instantiate

    target = str(node["_target_"])
    if str(paths.ROOT) not in sys.path:  # last, so that it hides nothing
        sys.path.append(str(paths.ROOT))
    try:
        made = instantiate(dict(node), _convert_="all")
    except Exception as error:
        raise BCCPError(
            f"train.augmentation: {target} cannot be made ({_reason(error)}): give the dotted name of a class, and its arguments"
        ) from error
    accepted = "give a class whose objects turn one image, a float tensor (3, S, S) in [0, 1], into another"
    if not callable(made):
        raise BCCPError(f"train.augmentation: {target} gives a {type(made).__name__}, which cannot be called: {accepted}")

    def change(image: Tensor) -> Tensor:
        try:
            found = made(image)
        except Exception as error:
            raise BCCPError(f"train.augmentation: {target} fails on an image ({_reason(error)}): {accepted}") from error
        if not isinstance(found, Tensor) or found.shape != image.shape or not found.is_floating_point():
            kind = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise BCCPError(f"train.augmentation: {target} makes {kind} of {image.dtype} {tuple(image.shape)}: {accepted}")
        return found

    return change


def _reason(error: BaseException) -> str:
    """The first cause, as Hydra's own words hide it; one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _seeds(n: int, generator: torch.Generator) -> list[int]:
    """As NumPy takes them, below 2**32."""
    return [int(seed) for seed in torch.randint(2**32, (n,), generator=generator).tolist()]


def _seed(seed: int) -> None:
    """Of everything on the CPU that a transform may draw from."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Afterwards the random states on the CPU are what they were."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
