"""Arguments of :func:`bccp.models.fitting.training.fit`: the options of a training, its data, and the hooks of its run.

N images, K classes, D features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

if TYPE_CHECKING:
    from bccp.data.array_types import Images, UInt8
    from bccp.data.dataset import FeatureView


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of a training. A new one is a field here, a key in ``config.yaml`` and its section's schema, and its use.

    Attributes
    ----------
    epochs : int
        At most; exactly, where ``patience`` does not end the training.
    learning_rate : float
        The peak of ``one_cycle``, the first epoch's of the other schedules.
    batch_size : int
        At most; all batches of an epoch have the same size but for one image, and at least 2.
    augmentation : str or sequence
        As for :func:`bccp.models.transforms.changes`.
    patience : int or None
        Epochs without a better validation loss before training stops; None: never. Not looked at with the schedules ``one_cycle`` and
        ``cosine``, which lower the learning rate up to the last epoch and are meant to be run to it.
    find_learning_rate : bool
        Let a range test (:mod:`bccp.models.fitting.lr_finder`) on a copy of the model choose the learning rate; the given one is for where
        it cannot.
    optimizer : {"adamw", "adam"}
        Adam with decoupled weight decay (none where the loss has the weights' L1 norm), or without any.
    schedule : {"one_cycle", "cosine", "step", "exponential"}
        Of the learning rate: see :func:`bccp.models.fitting.schedules.rates`.
    decay : float
        In (0, 1]; the learning rate's factor, of ``step`` and ``exponential``.
    decay_epochs : int
        After how many epochs ``step`` applies it; ``exponential`` does after each.
    loss : str
        A name in ``bccp.core.registries.LOSSES``. The validation loss is always the cross-entropy, so that it compares across losses.
    mixup_alpha : float
        Not negative; Beta(alpha, alpha) is the distribution of the shares of :func:`bccp.models.batch_augmentation.mix`; 0: no mixup.
    cutmix_alpha : float
        The same for :func:`bccp.models.transforms.cut_mix`; 0: no CutMix. Of images only. With both, each has half of the batches.
    augment_probability, augment_strength : float
        ``probability`` and ``strength`` of the augmentation.
    ema_decay : float
        In [0, 1), of the exponential moving average of weights and buffers over the steps, which are what is validated and what the model
        ends with. At step t it is at most (1 + t) / (10 + t), so that the start is soon forgotten; 0: no averaging.
    mirror : bool
        Mirror each training image with probability 1/2, and let the model be ``mirrored``.
    device : str
        ``cpu``, ``cuda`` or ``mps``.
    devices : int
        So many devices of this kind, or processes on a CPU, share each batch; the head of a frozen backbone is trained on one.
    strategy : {"auto", "ddp_spawn", "ddp_fork"}
        How Lightning starts a process for each of several devices; auto: ddp_spawn for GPUs, else ddp_fork.
    precision : {"float32", "bfloat16", "float16"}
        What is computed in, as far as the layers can (autocast); weights stay float32, and so does the head of a frozen backbone.
    """

    epochs: int
    learning_rate: float
    batch_size: int
    augmentation: str | Sequence[Any]
    patience: int | None = None
    find_learning_rate: bool = False
    optimizer: str = "adamw"
    schedule: str = "one_cycle"
    decay: float = 1.0
    decay_epochs: int = 1
    loss: str = "cross_entropy"
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    augment_probability: float = 1.0
    augment_strength: float = 1.0
    ema_decay: float = 0.0
    mirror: bool = False
    device: str = "cpu"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "float32"

    @classmethod
    def of(cls, section: Any, *, mirror: bool, device: str, **changes: Any) -> TrainingOptions:
        """Take the options that a section of the configuration has keys for.

        Parameters
        ----------
        section : object with a key an attribute
            Keys that are no options of a training are passed over.
        mirror : bool
            What the section's ``mirror``, which may be ``auto``, comes to.
        device : str
        **changes
            Options that are not to be what the section says.
        """
        taken = {item.name: getattr(section, item.name) for item in dataclasses.fields(cls) if hasattr(section, item.name)}
        return cls(**taken | {"mirror": mirror, "device": device} | changes)


@dataclass(frozen=True)
class TrainingData:
    """Images to train or to validate on.

    Attributes
    ----------
    images : array-like of uint8, shape (N, S, S, 3), or FeatureView
        Read batch by batch. Features: what the model's frozen backbone makes of the images, ``mirrored`` as it is to be.
    targets : array-like, shape (N, K)
        P(class) of each image; rows sum to 1, one-hot where the label is hard.
    weights : array-like, shape (N,), optional
        How much each image counts in training, not negative; only their ratios matter. Without it, all count alike.
    class_weights : array-like, shape (K,), optional
        Factor of the training loss of each class.
    shares : array-like, shape (N,), optional
        An epoch of the training draws N images with replacement, each in proportion to its share; without it, it has each image once.
    """

    images: Images | FeatureView
    targets: npt.ArrayLike
    weights: npt.ArrayLike | None = None
    class_weights: npt.ArrayLike | None = None
    shares: npt.ArrayLike | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingHooks:
    """What ties a training to the run that it is part of; its result does not depend on them.

    Attributes
    ----------
    progress : bool
        Print a few lines where no bar is drawn (:mod:`bccp.core.progress`).
    show : callable, optional
        Given the first batch's images as they are trained on, (n, S, S, 3), once; not called where only features are.
    checkpoint : Path, optional
        A file whose name stands for all the training's arguments. Where a training that was killed has left its state there, this one goes
        on from it, with the same result to the bit; a damaged or foreign file is ignored, which one line tells. The state is written at
        most once an epoch, and left to be deleted by the caller, when the result is safe.
    """

    progress: bool = False
    show: Callable[[UInt8], None] | None = None
    checkpoint: Path | None = None
