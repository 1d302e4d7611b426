"""The shape of every classifier, and the networks that it can be made of: two small ones that are defined here, and torchvision's.

A classifier is a backbone that turns an image into D features, and a head: a dropout layer before the last linear layer, which gives K
logits. It takes pixels as they are and normalises them itself, so that its preprocessing travels with its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from bccp.core.errors import BCCPError
from bccp.core.registries import BACKBONES
from bccp.models.torchvision_compat import networks

AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""Side classifiers that exist only for training from scratch, by the start of their names; they are left out."""


class ImageClassifier(nn.Module):
    """A backbone and a head.

    Parameters
    ----------
    backbone : Module
        From float images (n, 3, S, S) to features (n, D).
    n_features, n_classes : int
        D and K.
    architecture : str
        A name that :func:`bccp.models.classifier.build_classifier` knows.
    image_size : int
        S, the side in px of the images that it is made for.
    dropout : float
        In [0, 1), before the last linear layer.
    mean, std : sequence of 3 floats
        Of red, green and blue in [0, 1].
    input_size : int, optional
        The side in px that the backbone sees images at; S by default.

    Attributes
    ----------
    head : Sequential
        Dropout and Linear: from features (n, D) to logits (n, K).
    frozen : bool
        Whether the backbone neither learns nor changes its batch statistics.
    mirrored : bool
        Whether an image's features are, in evaluation mode, the mean of its own and its mirror image's.
    note : str
        What a user should know about the weights that it started from, or an empty string.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_classes: int,
        *,
        architecture: str,
        image_size: int,
        dropout: float,
        mean: Sequence[float],
        std: Sequence[float],
        input_size: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(n_features, n_classes))
        self.architecture, self.image_size, self.dropout = architecture, image_size, dropout
        self.input_size = input_size or image_size
        self.n_features, self.n_classes = n_features, n_classes
        self.frozen, self.mirrored, self.note = False, False, ""
        self._at_rest: list[nn.Module] = []  # parts that do not learn
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(3, 1, 1))

    def normalised(self, pixels: Tensor) -> Tensor:
        """Images as the backbone takes them, (n, 3, side, side): uint8 of shape (n, S, S, 3), or float in [0, 1] of shape (n, 3, S, S)."""
        if pixels.dtype == torch.uint8:
            pixels = pixels.permute(0, 3, 1, 2) / 255
        if self.input_size != self.image_size:
            pixels = resized(pixels, self.input_size)
        return (pixels - self.mean) / self.std

    def embed(self, pixels: Tensor) -> Tensor:
        """Features (n, D) of images, as for :meth:`normalised`."""
        normal = self.normalised(pixels)
        features: Tensor = self.backbone(normal)
        return (features + self.backbone(normal.flip(-1))) / 2 if self.mirrored and not self.training else features

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, K) of images, as for :meth:`embed`."""
        logits: Tensor = self.head(self.embed(pixels))
        return logits

    def freeze_backbone(self) -> None:
        """Let only the head learn from now on."""
        self.frozen = True
        self._freeze([self.backbone])

    def freeze_all_but(self, n_blocks: int) -> None:
        """Let only the head and the last blocks of the backbone (see :func:`blocks_of`) learn from now on.

        Raises
        ------
        BCCPError
            If the backbone has fewer.
        """
        blocks = blocks_of(self.backbone)
        if n_blocks > len(blocks):
            raise BCCPError(
                f"train.trainable_blocks={n_blocks}, but the backbone of {self.architecture} has {len(blocks)} blocks: "
                "give at most so many, or null to let the whole network learn"
            )
        if n_blocks < len(blocks):
            learning = {id(parameter) for block in blocks[-n_blocks:] for part in block for parameter in part.parameters()}
            for parameter in self.backbone.parameters():
                parameter.requires_grad_(id(parameter) in learning)
            self._freeze([part for block in blocks[:-n_blocks] for part in block])

    def _freeze(self, parts: list[nn.Module]) -> None:
        self._at_rest = parts
        for part in parts:
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> ImageClassifier:
        """Switch between training and evaluation; what is frozen stays in evaluation, so that its batch norms do not change."""
        super().train(mode)
        for part in self._at_rest:
            part.eval()
        return self


def resized(pixels: Tensor, side: int) -> Tensor:
    """Float images (n, 3, h, w) as (n, 3, side, side): bilinear, and smoothed before they are shrunk, so that no pixel is lost."""
    shrinks = side < max(pixels.shape[2:])
    return F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False, antialias=shrinks)


def blocks_of(backbone: nn.Module) -> list[list[nn.Module]]:
    """The blocks of a network, in the order in which an image passes through them; each is the modules that belong to it.

    A block is a child of the network that has weights: a layer, or what its author made a module of several layers (a residual block, an
    encoder layer). Two kinds of modules are no blocks but stand for their children: sequences and other collections, and what holds more
    than half of the network's parameters, in modules of its own. What has no weight matrix (a norm) belongs to the block before it.
    Parameters beside the children (a class token) belong to none.
    """
    n_parameters = sum(parameter.numel() for parameter in backbone.parameters())
    blocks: list[list[nn.Module]] = []

    def visit(module: nn.Module) -> None:
        weights = list(module.parameters())
        if not weights:
            return
        large = any(module.children()) and 2 * sum(parameter.numel() for parameter in weights) > n_parameters
        if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict) or large:
            for child in module.children():
                visit(child)
        elif blocks and all(parameter.ndim < 2 for parameter in weights):
            blocks[-1].append(module)
        else:
            blocks.append([module])

    for child in backbone.children():
        visit(child)
    return blocks


class GridPool(nn.Module):
    """Average over a grid of equal (where the size divides) cells, and flatten: (n, C, h, w) to (n, C * cells * cells).

    More than one cell keeps where a feature was, which a global average loses. Unlike adaptive pooling it has a deterministic gradient on
    every device.
    """

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, maps: Tensor) -> Tensor:
        """Pool and flatten."""
        if min(maps.shape[2:]) < self.cells:
            maps = F.interpolate(maps, size=(self.cells, self.cells))
        sides = [int(side) for side in maps.shape[2:]]  # an exporter takes them for constants
        strides = [side // self.cells for side in sides]
        windows = [side - stride * (self.cells - 1) for side, stride in zip(sides, strides, strict=True)]
        return F.avg_pool2d(maps, windows, strides).flatten(1)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside an identity, or beside a 1 x 1 convolution where the shape changes.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun: "Identity Mappings in Deep Residual Networks", ECCV 2016 (activation before convolution).
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(n_in), nn.BatchNorm2d(n_out)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride, bias=False) if stride > 1 or n_in != n_out else None

    def forward(self, maps: Tensor) -> Tensor:
        """(n, n_in, h, w) to (n, n_out, h / stride, w / stride)."""
        active = F.relu(self.norm1(maps))
        kept = maps if self.shortcut is None else self.shortcut(active)
        changed: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return kept + changed


def names() -> list[str]:
    """Every name that :func:`bccp.models.classifier.build_classifier` accepts."""
    return [*BACKBONES, *networks().list_models(module=networks())]


class Parts(NamedTuple):
    """The backbone of a classifier, and the terms of its published weights.

    Attributes
    ----------
    backbone : Module
    n_features : int
        D.
    last : str
        The name of the last layer in a published state dict; empty where none is published.
    normalisation : tuple of two sequences of 3 floats, or None
        Mean and deviation of the published weights, where there are any.
    input_size : int or None
        The side in px that the backbone sees images at; None: that of the images.
    our_name : callable
        What a name of a published state dict is in the backbone's own.
    """

    backbone: nn.Module
    n_features: int
    last: str = ""
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None
    input_size: int | None = None
    our_name: Callable[[str], str] = str


def small_cnn(image_size: int) -> Parts:
    """Four convolutions and a pooled grid."""
    widths, cells = (16, 32, 64, 96), 2
    layers = [
        *_convolution(3, widths[0], stride=2),
        *_convolution(widths[0], widths[1], stride=2),
        *_convolution(widths[1], widths[2]),
        nn.MaxPool2d(2, ceil_mode=True),
        *_convolution(widths[2], widths[3]),
        GridPool(cells),
    ]
    return Parts(nn.Sequential(*layers), widths[3] * cells**2)


def resnet_small(image_size: int) -> Parts:
    """Five residual blocks; larger images are shrunk first, so that the cost of an image hardly grows with its size."""
    stem: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2 if image_size >= 64 else 1, 1, bias=False)]
    stem += [nn.MaxPool2d(2)] if image_size >= 128 else []
    shapes = [(16, 16, 1), (16, 48, 2), (48, 48, 1), (48, 80, 2), (80, 80, 1)]
    blocks = [ResidualBlock(*shape) for shape in shapes]
    return Parts(nn.Sequential(*stem, *blocks, nn.BatchNorm2d(80), nn.ReLU(), GridPool(1)), 80)


def _convolution(n_in: int, n_out: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]


def torchvision_parts(name: str, image_size: int, published: Any) -> Parts:
    options: dict[str, Any] = {"image_size": image_size} if name.startswith("vit_") else {}
    if name in AUXILIARY and published is None:
        options |= {"aux_logits": False, "init_weights": True}
    try:
        network = networks().get_model(name, weights=published, progress=False, **options)
    except (ValueError, RuntimeError, OSError, AssertionError) as error:
        raise BCCPError(why_not(name, image_size, error, published)) from error
    transforms = networks().get_model_weights(name).DEFAULT.transforms() if published is None else published.transforms()
    normalisation = (transforms.mean, transforms.std)
    if name in AUXILIARY:
        network.aux_logits = False
        for prefix in AUXILIARY[name]:
            setattr(network, prefix.removesuffix("."), None)
        # their own second normalisation, folded into ours
        network.transform_input = False
        normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    leaves = [(path, module) for path, module in network.named_modules() if not any(module.children())]
    place = max(i for i, (_, module) in enumerate(leaves) if isinstance(module, nn.Linear | nn.Conv2d))
    (previous, before), (path, last) = leaves[place - 1 : place + 1]
    network.set_submodule(path, nn.Identity())
    if isinstance(before, nn.Dropout):  # it gives way to the head's
        network.set_submodule(previous, nn.Identity())
    return Parts(network, last.in_features if isinstance(last, nn.Linear) else last.in_channels, path, normalisation)


def why_not(name: str, image_size: int, error: Exception, published: Any) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if published is None:
        return f"model {name} cannot take images of {image_size} px ({reason}): choose another preprocessing.image_size or another model"
    if isinstance(error, ValueError):
        return f"the weights {published.name} of {name} need preprocessing.image_size={published.meta['min_size'][0]}, not {image_size}"
    return (
        f"the weights {published.name} of {name} could not be downloaded ({reason}): go online, let TORCH_HOME be a folder that has them, "
        "or give a local file"
    )
