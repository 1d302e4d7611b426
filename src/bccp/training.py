"""Trains a classifier on hard, weighted or soft labels; Lightning's Trainer runs the epochs.

N training images, K classes, D features. The same seed gives the same weights, to the bit on one machine for equal numeric threads, and
the caller's random state and settings of torch are left as they were.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from bccp import augmentation as augmentations
from bccp import (
    bars,
    step_log,
    torchvision_compat,  # noqa: F401 - lightning imports only after torchvision_compat
)
from bccp.architectures import ImageClassifier
from bccp.errors import BCCPError
from bccp.images import FeatureView, UInt8
from bccp.losses import LOSSES, Loss
from bccp.models import Float32, Images, embed
from bccp.transforms import blend, changes
from bccp.weights import State

import lightning.pytorch as pl  # isort: skip
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint  # isort: skip
from lightning.fabric.plugins.environments.lightning import LightningEnvironment  # isort: skip

WEIGHT_DECAY = 0.01
"""AdamW's."""

WARM_UP = 0.2
"""Share of the steps in which the learning rate rises to its peak; then it falls along a cosine."""

MEMORY_MAPPED_BYTES = 256 * 2**20
"""Features of a frozen backbone that take more than this are kept on disk."""

PROGRESS_LINES = 5
"""How many epochs are told of where no bar can be drawn."""

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (n, S, S, 3) or features (n, D), targets (n, K), weights (n,)."""


@dataclass
class History:
    """What happened, one item an epoch.

    Attributes
    ----------
    train_loss : list of float
        Weighted, of the augmented images while they were trained on; without the L1 norm that some losses add.
    val_loss, val_accuracy : list of float
        Cross-entropy and share of right answers; empty without a validation set. Of the averaged weights, where they are averaged.
    learning_rate : list of float
        At the epoch's end.
    seconds : list of float
        Not in :meth:`table`, as it differs between equal runs.
    best_epoch : int
        From 1 up: the one with the lowest validation loss, else the last. The model has its weights.
    last_state : dict of str to Tensor
        The model's (averaged) weights after the last epoch.
    """

    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best_epoch: int = 0
    last_state: State = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """One row an epoch: ``epoch``, from 1 up, and the figures that there are."""
        figures = {name: getattr(self, name) for name in ("train_loss", "val_loss", "val_accuracy", "learning_rate")}
        return pd.DataFrame({"epoch": range(1, len(self.train_loss) + 1)} | {k: v for k, v in figures.items() if v})

    def rows(self) -> list[dict[str, float]]:
        """The figures of each epoch."""
        table = self.table().drop(columns="epoch")
        return [{name: float(value) for name, value in zip(table.columns, row, strict=True)} for row in table.to_numpy()]


def fit(
    model: ImageClassifier,
    images: Images | FeatureView,
    targets: npt.ArrayLike,
    weights: npt.ArrayLike,
    val_images: Images | FeatureView | None,
    val_targets: npt.ArrayLike | None,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    augmentation: str | Sequence[Any],
    patience: int | None,
    seed: int,
    folder: Path,
    class_weights: npt.ArrayLike | None = None,
    optimizer: str = "adamw",
    schedule: str = "one_cycle",
    decay: float = 1.0,
    loss: str = "cross_entropy",
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    augment_probability: float = 1.0,
    augment_strength: float = 1.0,
    ema_decay: float = 0.0,
    mirror: bool = False,
    device: str = "cpu",
    progress: bool = False,
    show: Callable[[UInt8], None] | None = None,
) -> History:
    """Train a classifier; afterwards it has the best epoch's weights, is on the CPU and in evaluation mode.

    A frozen backbone sees each image once (with ``mirror``, also its mirror image, and the mean of both counts): the head is trained on its
    features, without augmentation; mixup mixes features.

    Parameters
    ----------
    model : ImageClassifier
        Is changed.
    images : array-like of uint8, shape (N, S, S, 3), or FeatureView
        Read batch by batch; N is at least 2. Features: what the model's frozen backbone makes of the images, ``mirrored`` as it is to be.
    targets : array-like, shape (N, K)
        P(class) of each image; rows sum to 1, one-hot where the label is hard.
    weights : array-like, shape (N,)
        How much each image counts, not negative; only their ratios matter.
    val_images, val_targets : as ``images`` for M images, and array-like, shape (M, K), or None
        Decide on the best epoch.
    epochs : int
        At most.
    learning_rate : float
        The peak of ``one_cycle``, the first epoch's of ``exponential``.
    batch_size : int
        At most; all batches of an epoch have the same size but for one image, and at least 2.
    augmentation : str or sequence
        As for :func:`bccp.transforms.changes`.
    patience : int or None
        Epochs without a better validation loss before training stops; None: never.
    seed : int
    folder : Path
        Holds ``checkpoints`` while the training goes on.
    class_weights : array-like, shape (K,), optional
        Factor of the loss of each class.
    optimizer : {"adamw", "adam"}
        Adam with decoupled weight decay (:data:`WEIGHT_DECAY`), or without any.
    schedule : {"one_cycle", "exponential"}
        Of the learning rate: see :func:`rates`.
    decay : float
        In (0, 1]; the learning rate's factor an epoch, of ``exponential``.
    loss : str
        A name in ``bccp.losses.LOSSES``. The validation loss is always the cross-entropy, so that it compares across losses.
    mixup_alpha : float
        Not negative; Beta(alpha, alpha) is the distribution of the shares of :func:`bccp.augmentation.mix`; 0: no mixup.
    cutmix_alpha : float
        The same for :func:`bccp.transforms.cut_mix`; 0: no CutMix. Of images only. With both, each has half of the batches.
    augment_probability, augment_strength : float
        ``probability`` and ``strength`` of the augmentation.
    ema_decay : float
        In [0, 1), of the exponential moving average of weights and buffers over the steps, which are what is validated and what the model
        ends with. At step t it is at most (1 + t) / (10 + t), so that the start is soon forgotten; 0: no averaging.
    mirror : bool
        Mirror each training image with probability 1/2, and let the model be ``mirrored``.
    device : str
        ``cpu``, ``cuda`` or ``mps``.
    progress : bool
        Print a few lines where no bar is drawn (:mod:`bccp.bars`).
    show : callable, optional
        Given the first batch's images as they are trained on, (n, S, S, 3), once; not called where only features are.

    Returns
    -------
    History

    Raises
    ------
    BCCPError
        Fewer than 2 images, no weight above 0, or a loss that is no longer finite.

    References
    ----------
    D. P. Kingma, J. Ba: "Adam: A Method for Stochastic Optimization", ICLR 2015.
    I. Loshchilov, F. Hutter: "Decoupled Weight Decay Regularization", ICLR 2019.
    """
    soft, importance = np.asarray(targets, np.float32), _importance(targets, weights, class_weights)
    if len(images) < 2 or not importance.any():
        raise BCCPError(f"training needs at least 2 images with a weight above 0, not {int((importance > 0).sum())} of {len(images)}")
    change = changes(augmentation, image_size=model.image_size, probability=augment_probability, strength=augment_strength)
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True)
    model.mirrored = model.mirrored or mirror
    try:
        with _reproducible(seed, device), _quiet_lightning():
            inputs, val_inputs, network = _what_learns(model, images, val_images, checkpoints, batch_size=batch_size, device=device)
            network.train()
            generator = torch.Generator().manual_seed(seed)
            training = _Batches(inputs, soft, importance, batch_size, generator)
            validation = None
            if val_inputs is not None and val_targets is not None and len(val_inputs):
                val_soft = np.asarray(val_targets, np.float32)
                validation = _Batches(val_inputs, val_soft, np.ones(len(val_soft), np.float32), max(batch_size, 256), None)
            augment = [] if model.frozen else [augmentations.mirror] * mirror + change
            task = _Task(
                network,
                augment,
                generator,
                loss=LOSSES[loss],
                mixup_alpha=mixup_alpha,
                cutmix_alpha=cutmix_alpha,
                ema_decay=ema_decay,
                optimizer=optimizer,
                learning_rate=learning_rate,
                rate=rates(schedule, epochs=epochs, epoch_steps=len(training), decay=decay),
                tell=progress and not bars.on_terminal(),
                show=show,
            )
            if model.frozen:
                with _one_thread():
                    best = _run_head(task, training, validation, epochs=epochs, patience=patience, device=device)
            else:
                best = _run(task, training, validation, checkpoints, epochs=epochs, patience=patience, device=device)
            network.to("cpu", memory_format=torch.contiguous_format)
            model.to("cpu").eval()
            if task.average is not None:
                network.load_state_dict(task.average.module.state_dict())
            task.history.last_state = {key: value.clone() for key, value in model.state_dict().items()}
            if best is not None:
                network.load_state_dict(best)
        return task.history
    finally:
        shutil.rmtree(checkpoints)


class _Batches:
    """Goes over images or features in batches of (nearly) equal size, in a new order each time if there is a generator."""

    def __init__(self, inputs: Any, targets: Float32, weights: Float32, batch_size: int, generator: torch.Generator | None) -> None:
        self.inputs, self.targets, self.weights, self.generator = inputs, targets, weights, generator
        # a batch of one image has no batch statistics
        self.n_batches = max(1, min(math.ceil(len(inputs) / batch_size), len(inputs) // 2))

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Batch]:
        n = len(self.inputs)
        order = np.arange(n) if self.generator is None else torch.randperm(n, generator=self.generator).numpy()
        for idx in np.array_split(order, self.n_batches):
            seen = self.inputs.stored(idx) if isinstance(self.inputs, FeatureView) else np.asarray(self.inputs[idx])
            inputs, targets, weights = (torch.from_numpy(rows) for rows in (seen, self.targets[idx], self.weights[idx]))
            yield inputs.float() if inputs.is_floating_point() else inputs, targets, weights


class _Task(pl.LightningModule):
    """Loss, schedule and book-keeping for Lightning; ``network`` is the model, or its head on features."""

    def __init__(
        self,
        network: nn.Module,
        augment: list[Callable[..., Tensor]],
        generator: torch.Generator,
        *,
        loss: Loss,
        mixup_alpha: float,
        cutmix_alpha: float = 0.0,
        ema_decay: float,
        optimizer: str,
        learning_rate: float,
        rate: Callable[[int], float],
        tell: bool,
        show: Callable[[UInt8], None] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.augment, self.generator, self.tell = network, augment, generator, tell
        self.show = show
        self.loss, self.mixup_alpha, self.cutmix_alpha = loss, mixup_alpha, cutmix_alpha
        self.average = MovingAverage(network, ema_decay) if ema_decay else None
        self.optimizer, self.peak, self.rate = optimizer, learning_rate, rate
        self.history = History()
        self.sums = torch.zeros(0)
        self.started = 0.0

    def configure_optimizers(self) -> Any:
        """The optimiser, and the learning rate at each of its steps."""
        kind, weight_decay = {"adamw": (torch.optim.AdamW, WEIGHT_DECAY), "adam": (torch.optim.Adam, 0.0)}[self.optimizer]
        optimizer = kind(self._learning(), lr=self.peak, weight_decay=weight_decay, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Start the sums."""
        self.started = time.perf_counter()
        self.sums = torch.zeros(2, device=self.device)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """The weighted loss of the images, and the L1 norm where the loss has one."""
        inputs, targets, weights = batch
        if inputs.dtype == torch.uint8:
            inputs = inputs.permute(0, 3, 1, 2) / 255
            for change in self.augment:
                inputs = change(inputs, generator=self.generator)
        alphas = {"mixup_alpha": self.mixup_alpha, "cutmix_alpha": self.cutmix_alpha}
        inputs, targets, weights = blend(inputs, targets, weights, **alphas, generator=self.generator)
        if inputs.ndim == 4:
            if self.show is not None:
                self.show((255 * inputs).round().byte().permute(0, 2, 3, 1).cpu().numpy())
                self.show = None
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        loss = (weights * self.loss.per_image(self.network(inputs), targets)).mean()
        self.sums += torch.stack([loss.detach() * len(inputs), torch.tensor(float(len(inputs)), device=self.device)])
        if self.loss.l1:
            loss = loss + self.loss.l1 * torch.stack([parameter.abs().sum() for parameter in self._learning()]).sum()
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Average the weights."""
        if self.average is not None:
            self.average.update()

    def on_validation_epoch_start(self) -> None:
        """Start the sums."""
        self.val_sums = torch.zeros(3, device=self.device)

    def validation_step(self, batch: Batch, _: int) -> None:
        """Soft cross-entropy, whatever the loss, and agreement with the likeliest class."""
        inputs, targets, _weights = batch
        scores = (self.network if self.average is None else self.average.module)(inputs)
        right = scores.argmax(1) == targets.argmax(1)
        loss = F.cross_entropy(scores, targets, reduction="sum")
        self.val_sums += torch.stack([loss, right.sum(), torch.tensor(float(len(inputs)), device=self.device)])

    def on_validation_epoch_end(self) -> None:
        """Note the figures, and give the loss to early stopping and to the checkpoints."""
        self.log("val_loss", self.note_validation(), logger=False)

    def note_validation(self) -> float:
        """Note the figures; gives the loss."""
        loss, right, n = self.val_sums.tolist()
        self.history.val_loss.append(loss / n)
        self.history.val_accuracy.append(right / n)
        return float(loss / n)

    def on_train_epoch_end(self) -> None:
        """Note the figures."""
        rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.note_epoch(rate, epochs=self.trainer.max_epochs or 0, last=self.trainer.should_stop)

    def note_epoch(self, learning_rate: float, *, epochs: int, last: bool) -> None:
        """Note the figures, stop a training that has gone astray, and tell of a few epochs where no bar can be drawn."""
        loss, n = self.sums.tolist()
        history = self.history
        history.train_loss.append(loss / n)
        history.learning_rate.append(learning_rate)
        history.seconds.append(time.perf_counter() - self.started)
        if not math.isfinite(loss) or not all(map(math.isfinite, history.val_loss)):
            raise BCCPError(f"the loss is no longer finite in epoch {len(history.train_loss)}: choose a learning_rate below {self.peak:g}")
        history.best_epoch = int(np.argmin(history.val_loss)) + 1 if history.val_loss else len(history.train_loss)
        epoch = len(history.train_loss)
        bars.show("epochs", epochs if last else epoch, epochs)
        if self.tell and (epoch % math.ceil(epochs / PROGRESS_LINES) == 0 or epoch == epochs or last):
            figures = ", ".join(f"{name} {value:.4g}" for name, value in history.rows()[-1].items() if name != "learning_rate")
            step_log.say(f"  epoch {epoch} of {epochs}: {figures}")

    def _learning(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]


class MovingAverage(nn.Module):
    """Exponential moving average of a network's weights and buffers over the steps, in ``module``.

    torch's AveragedModel collects them anew at each step, which is a tenth of the time that a head's training takes.

    Parameters
    ----------
    network : Module
    decay : float
        In [0, 1); at step t it is at most (1 + t) / (10 + t), so that the start is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(network)
        self._network, self._decay, self._n = [network], decay, 0  # the network is not part of its average
        self._pairs: list[tuple[list[Tensor], list[Tensor]]] = []

    def update(self) -> None:
        """Take a step's weights in."""
        if not self._pairs:  # at the first step both are on the device
            own, current = ([p.data for p in of.parameters()] + list(of.buffers()) for of in (self.module, self._network[0]))
            for floats in (True, False):
                chosen = [pair for pair in zip(own, current, strict=True) if pair[0].is_floating_point() == floats]
                self._pairs.append(([pair[0] for pair in chosen], [pair[1] for pair in chosen]))
        (averages, weights), (counters, counted) = self._pairs
        decay = min(self._decay, (1 + self._n) / (10 + self._n)) if self._n else 0.0
        torch._foreach_lerp_(averages, weights, 1 - decay)
        if counters:  # of batches
            torch._foreach_copy_(counters, counted)
        self._n += 1


class _Dropout(nn.Module):
    """Dropout on a CPU with 16 random bits a feature: torch's own takes longer than all else in a step of a head."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, features: Tensor) -> Tensor:
        """(n, D) to (n, D); the rate is exact to 1/65536."""
        if not self.training or not self.rate:
            return features
        words = torch.empty(-(-features.numel() // 4), dtype=torch.int64, device=features.device).random_(-(2**63), None)
        uniform = words.view(torch.int16)[: features.numel()].view(features.shape)
        least = min(round(self.rate * 2**16), 2**16 - 1) - 2**15
        kept = torch.ge(uniform, least, out=torch.empty_like(features))  # as floats, which multiply faster
        return features * kept.div_(1 - self.rate)


def rates(schedule: str, *, epochs: int, epoch_steps: int, decay: float) -> Callable[[int], float]:
    """The learning rate of a step, counted from 0 up, as a share of what is set.

    Parameters
    ----------
    schedule : {"one_cycle", "exponential"}
        :func:`one_cycle` over all steps, or the same through an epoch and in the next one times ``decay``.
    epochs, epoch_steps : int
        How many epochs there are at most, and steps in each.
    decay : float
        In (0, 1].

    Returns
    -------
    callable
        From the number of a step to its share.
    """
    if schedule == "exponential":
        return lambda step: float(decay ** (step // epoch_steps))
    return lambda step: one_cycle(step, epochs * epoch_steps)


def one_cycle(step: int, n_steps: int) -> float:
    """Learning rate of a step (from 0 up) as a share of the peak: up along a line, then down along a cosine; 0 from ``n_steps`` on.

    References
    ----------
    L. N. Smith, N. Topin: "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates", 2019.
    """
    n_rising = max(1, round(WARM_UP * n_steps))
    if step < n_rising:
        return (step + 1) / n_rising
    return (1 + math.cos(math.pi * min(1.0, (step - n_rising + 1) / max(1, n_steps - n_rising + 1)))) / 2


def _importance(targets: npt.ArrayLike, weights: npt.ArrayLike, class_weights: npt.ArrayLike | None) -> Float32:
    """Factor of each image's loss, mean 1, shape (N,)."""
    importance = np.array(weights, np.float64)
    if class_weights is not None:
        importance *= np.asarray(targets, np.float64) @ np.asarray(class_weights, np.float64)
    total = importance.sum()
    return (importance * len(importance) / total if total > 0 else importance).astype(np.float32)


def _what_learns(
    model: ImageClassifier,
    images: Images | FeatureView,
    val_images: Images | FeatureView | None,
    folder: Path,
    *,
    batch_size: int,
    device: str,
) -> tuple[Any, Any, Any]:
    """Training and validation inputs, and the network that they go into: the model, or the head of a frozen one on its features."""
    if not model.frozen:
        network: Any = model  # torch's own types lack memory_format
        return images, val_images, network.to(memory_format=torch.channels_last)

    def features(of: Images | FeatureView, name: str) -> Float32 | FeatureView:
        if isinstance(of, FeatureView):
            return of
        large = 4 * len(of) * model.n_features > MEMORY_MAPPED_BYTES
        return embed(model, of, batch_size=batch_size, device=device, path=folder / name if large else None)

    head = nn.Sequential(_Dropout(model.dropout), model.head[1]) if device == "cpu" else model.head
    return features(images, "train.npy"), None if val_images is None else features(val_images, "val.npy"), head


def _run(
    task: _Task,
    training: _Batches,
    validation: _Batches | None,
    folder: Path,
    *,
    epochs: int,
    patience: int | None,
    device: str,
) -> State | None:
    """Train, and give the network's (averaged) weights of the best epoch, or None where there is no validation set to tell it."""
    callbacks: list[Callback] = []
    keep = ModelCheckpoint(folder / "best", "best", monitor="val_loss", save_weights_only=True, enable_version_counter=False)
    if validation is not None:
        callbacks += [keep] if patience is None else [keep, EarlyStopping("val_loss", patience=patience)]
    trainer = pl.Trainer(
        accelerator={"cuda": "gpu"}.get(device, device),
        devices=1,
        max_epochs=epochs,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=validation is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        # one process, also where a cluster's job manager has set its variables
        plugins=[LightningEnvironment()],
    )
    trainer.fit(task, training, validation)
    if not keep.best_model_path:
        return None
    state = torch.load(keep.best_model_path, weights_only=True, map_location="cpu")["state_dict"]
    prefix = "network." if task.average is None else "average.module."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _run_head(
    task: _Task, training: _Batches, validation: _Batches | None, *, epochs: int, patience: int | None, device: str
) -> State | None:
    """:func:`_run` for a head on features, whose steps take less time than what a Trainer does around them, or sharing them out does."""
    settings = task.to(device).configure_optimizers()
    optimizer, schedule, best = settings["optimizer"], settings["lr_scheduler"]["scheduler"], None
    losses = task.history.val_loss
    for _ in range(epochs):
        task.train().on_train_epoch_start()
        for batch in training:
            task.network.zero_grad()  # the optimiser's own takes longer, for the profiler's sake
            task.training_step(_on(device, batch), 0).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            task.on_train_batch_end()
        if validation is not None:
            task.eval().on_validation_epoch_start()
            with torch.no_grad():
                for batch in validation:
                    task.validation_step(_on(device, batch), 0)
            task.note_validation()
            if np.argmin(losses) == len(losses) - 1:
                network = task.network if task.average is None else task.average.module
                best = {key: value.cpu().clone() for key, value in network.state_dict().items()}
        stop = bool(losses) and patience is not None and len(losses) - 1 - int(np.argmin(losses)) >= patience
        task.note_epoch(float(optimizer.param_groups[0]["lr"]), epochs=epochs, last=stop)
        if stop:
            break
    return best


def _on(device: str, batch: Batch) -> Batch:
    inputs, targets, weights = batch
    return inputs.to(device), targets.to(device), weights.to(device)


@contextmanager
def _reproducible(seed: int, device: str) -> Iterator[None]:
    """Seeded torch with deterministic algorithms; afterwards its random state and settings are what they were."""
    before, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    guard: Any = torch.utils.deterministic  # torch's own types lack its one setting
    fills = guard.fill_uninitialized_memory
    if device == "cuda":  # cuBLAS reads it when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
        torch.manual_seed(seed)
        # some layers of torchvision have no deterministic gradient off the CPU; torch warns of them
        torch.use_deterministic_algorithms(True, warn_only=device != "cpu")
        # it guards against reading what was never written, which no layer here does, for a quarter of the time on a CPU
        guard.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn_only)
            guard.fill_uninitialized_memory = fills


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without Lightning's remarks on the hardware; and an interrupt stays one, where Lightning would end the process."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Lightning's use of torch's trees is older than this torch
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            # where there is nothing to validate on
            warnings.filterwarnings("ignore", message="You defined a `validation_step` but have no `val_dataloader`")
            yield
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt from end
    finally:
        logger.setLevel(level)
