"""Trains a classifier on hard, weighted or soft labels; Lightning's Trainer runs the epochs.

N training images, K classes, D features. The same seed gives the same weights, to the bit on one machine for equal numeric threads, and
the caller's random state and settings of torch are left as they were.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
import math
import os
import re
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException

from bccp import augmentation as augmentations
from bccp import bars, checkpoints, range_test, step_log, torchvision_compat
from bccp.architectures import ImageClassifier
from bccp.array_types import Float32, Images, UInt8
from bccp.errors import BCCPError
from bccp.images import FeatureView
from bccp.losses import LOSSES, Loss
from bccp.models import embed
from bccp.transforms import blend, changes
from bccp.weights import State

import lightning.pytorch as pl  # isort: skip
from lightning.fabric.plugins.environments.lightning import LightningEnvironment  # isort: skip

WEIGHT_DECAY = 0.01
"""AdamW's."""

WARM_UP = 0.2
"""Share of the steps in which the learning rate rises to its peak; then it falls along a cosine."""

MEMORY_MAPPED_BYTES = 256 * 2**20
"""Features of a frozen backbone that take more than this are kept on disk."""

PROGRESS_LINES = 5
"""How many epochs are told of where no bar can be drawn."""

PRECISIONS: dict[str, Any] = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}
"""What Lightning calls them."""

CHECKPOINT_SECONDS = 1.0
"""The epochs of a head that together take less are not kept one by one: that would take longer than they do."""

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
    found_rate : float or None
        The learning rate that a range test has chosen.
    """

    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best_epoch: int = 0
    last_state: State = field(default_factory=dict)
    found_rate: float | None = None

    def table(self) -> pd.DataFrame:
        """One row an epoch: ``epoch``, from 1 up, and the figures that there are."""
        figures = {name: getattr(self, name) for name in ("train_loss", "val_loss", "val_accuracy", "learning_rate")}
        return pd.DataFrame({"epoch": range(1, len(self.train_loss) + 1)} | {k: v for k, v in figures.items() if v})

    def rows(self) -> list[dict[str, float]]:
        """The figures of each epoch."""
        table = self.table().drop(columns="epoch")
        return [{name: float(value) for name, value in zip(table.columns, row, strict=True)} for row in table.to_numpy()]

    def figures(self) -> dict[str, float]:
        """What is reported: how many epochs there were, the best one, its figures, and as ``last_…`` those of the last."""
        rows = self.rows()
        best, last = ({k: v for k, v in row.items() if k.startswith("val_")} for row in (rows[self.best_epoch - 1], rows[-1]))
        figures = {"loss": rows[self.best_epoch - 1]["train_loss"], "epochs": len(rows), "best_epoch": self.best_epoch}
        figures |= {} if self.found_rate is None else {"learning_rate": self.found_rate}
        return figures | best | {f"last_{name}": value for name, value in last.items()}


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
    shares: npt.ArrayLike | None = None,
    find_learning_rate: bool = False,
    optimizer: str = "adamw",
    schedule: str = "one_cycle",
    decay: float = 1.0,
    decay_epochs: int = 1,
    loss: str = "cross_entropy",
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    augment_probability: float = 1.0,
    augment_strength: float = 1.0,
    ema_decay: float = 0.0,
    mirror: bool = False,
    device: str = "cpu",
    devices: int = 1,
    strategy: str = "auto",
    precision: str = "float32",
    progress: bool = False,
    show: Callable[[UInt8], None] | None = None,
    checkpoint: Path | None = None,
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
        The peak of ``one_cycle``, the first epoch's of the others.
    batch_size : int
        At most; all batches of an epoch have the same size but for one image, and at least 2.
    augmentation : str or sequence
        As for :func:`bccp.transforms.changes`.
    patience : int or None
        Epochs without a better validation loss before training stops; None: never.
    seed : int
    folder : Path
        Holds ``features`` while the training goes on.
    class_weights : array-like, shape (K,), optional
        Factor of the loss of each class.
    shares : array-like, shape (N,), optional
        An epoch draws N images with replacement, each in proportion to its share; without it, an epoch has each image once.
    find_learning_rate : bool
        Let a range test (:mod:`bccp.range_test`) on a copy of the model choose the learning rate; the given one is for where it cannot.
    optimizer : {"adamw", "adam"}
        Adam with decoupled weight decay (:data:`WEIGHT_DECAY`; none where the loss has the weights' L1 norm), or without any.
    schedule : {"one_cycle", "cosine", "step", "exponential"}
        Of the learning rate: see :func:`rates`.
    decay : float
        In (0, 1]; the learning rate's factor, of ``step`` and ``exponential``.
    decay_epochs : int
        After how many epochs ``step`` applies it; ``exponential`` does after each.
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
    devices : int
        So many devices of this kind, or processes on a CPU, share each batch; the head of a frozen backbone is trained on one.
    strategy : {"auto", "ddp_spawn", "ddp_fork"}
        How Lightning starts a process for each of several devices; auto: ddp_spawn for GPUs, else ddp_fork.
    precision : {"float32", "bfloat16", "float16"}
        What is computed in, as far as the layers can (autocast); weights stay float32, and so does the head of a frozen backbone.
    progress : bool
        Print a few lines where no bar is drawn (:mod:`bccp.bars`).
    show : callable, optional
        Given the first batch's images as they are trained on, (n, S, S, 3), once; not called where only features are.
    checkpoint : Path, optional
        A file whose name stands for all the arguments above. Where a training that was killed has left its state there, this one goes on
        from it, with the same result to the bit; a damaged or foreign file is ignored, which one line tells. The state is written at most
        once an epoch, and left to be deleted by the caller, when the result is safe.

    Returns
    -------
    History

    Raises
    ------
    BCCPError
        Fewer than 2 images a device, no weight above 0, or a loss that is no longer finite.

    References
    ----------
    D. P. Kingma, J. Ba: "Adam: A Method for Stochastic Optimization", ICLR 2015.
    I. Loshchilov, F. Hutter: "Decoupled Weight Decay Regularization", ICLR 2019.
    """
    soft, importance = np.asarray(targets, np.float32), _importance(targets, weights, class_weights)
    if len(images) < 2 or not importance.any():
        raise BCCPError(f"training needs at least 2 images with a weight above 0, not {int((importance > 0).sum())} of {len(images)}")
    change = changes(augmentation, image_size=model.image_size, probability=augment_probability, strength=augment_strength)
    n_parts = 1 if model.frozen else devices
    if len(images) < 2 * n_parts or (device == "cuda" and n_parts > torch.cuda.device_count()):
        why = f"there are {torch.cuda.device_count()} here" if len(images) >= 2 * n_parts else f"{len(images)} images need fewer"
        raise BCCPError(f"train.devices={devices} are too many, {why}: give a smaller number")
    features = folder / "features"
    features.mkdir(parents=True)
    model.mirrored = model.mirrored or mirror
    try:
        with _reproducible(seed, device), _quiet_lightning():
            inputs, val_inputs, network = _what_learns(model, images, val_images, features, batch_size=batch_size, device=device)
            network.train()
            generator = torch.Generator().manual_seed(seed)
            # several processes draw the same order, and each its own augmentation
            order = generator if n_parts == 1 else torch.Generator().manual_seed(seed)
            training = _Batches(inputs, soft, importance, batch_size, order, shares, n_parts=n_parts)
            validation = None
            if val_inputs is not None and val_targets is not None and len(val_inputs):
                val_soft = np.asarray(val_targets, np.float32)
                ones = np.ones(len(val_soft), np.float32)
                validation = _Batches(val_inputs, val_soft, ones, max(batch_size, 256), None, n_parts=n_parts)
            augment = [] if model.frozen else [augmentations.mirror] * mirror + change
            settings: dict[str, Any] = {
                "loss": LOSSES[loss],
                "mixup_alpha": mixup_alpha,
                "cutmix_alpha": cutmix_alpha,
                "ema_decay": ema_decay,
                "optimizer": optimizer,
                "rate": rates(schedule, epochs=epochs, epoch_steps=len(training), decay=decay, decay_epochs=decay_epochs),
            }
            found: float | None = None
            if find_learning_rate:
                with torch.random.fork_rng(devices=_random_devices(device)):
                    own = torch.Generator().manual_seed(seed)
                    trial = _Trial(copy.deepcopy(network), augment, own, learning_rate=learning_rate, **settings)
                    batches = _Batches(inputs, soft, importance, batch_size, own, shares)
                    found = range_test.find(trial, batches, features, device=device, precision=PRECISIONS[precision])
                if progress:
                    step_log.say("  no learning rate stands out" if found is None else f"  learning rate {found:.2g} was found")
            task = _Task(
                network,
                augment,
                generator,
                learning_rate=learning_rate if found is None else found,
                **settings,
                epochs=epochs,
                patience=patience,
                tell=progress and not bars.on_terminal(),
                show=show,
                checkpoint=checkpoint,
                order=order,
                seed=seed,
            )
            task.history.found_rate = found
            if model.frozen:
                with _one_thread():
                    _run_head(task, training, validation, device=device)
            else:
                several: dict[str, Any] = {"devices": devices, "strategy": strategy, "result": features / "result.pt"}
                _run(task, training, validation, device=device, precision=precision, **several)
            network.to("cpu", memory_format=torch.contiguous_format)
            model.to("cpu").eval()
            if task.average is not None:
                network.load_state_dict(task.average.module.state_dict())
            task.history.last_state = {key: value.clone() for key, value in model.state_dict().items()}
            if task.best is not None:
                network.load_state_dict(task.best)
        return task.history
    finally:
        shutil.rmtree(features)


class _Batches:
    """Goes over images or features in batches of (nearly) equal size, in a new order each time if there is a generator.

    With ``shares`` it draws them with replacement, each in proportion to its share. Of ``n_parts`` processes each gets its part of a batch.
    """

    def __init__(
        self,
        inputs: Any,
        targets: Float32,
        weights: Float32,
        batch_size: int,
        generator: torch.Generator | None,
        shares: npt.ArrayLike | None = None,
        *,
        n_parts: int = 1,
    ) -> None:
        self.n_parts = n_parts
        self.inputs, self.targets, self.weights, self.generator = inputs, targets, weights, generator
        self.cumulated = None if shares is None else torch.from_numpy(np.cumsum(np.asarray(shares, np.float64)))
        # a batch of one image has no batch statistics
        self.n_batches = max(1, min(math.ceil(len(inputs) / batch_size), len(inputs) // (2 * n_parts)))

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Batch]:
        for whole in np.array_split(self._order(), self.n_batches):
            idx = np.array_split(whole, self.n_parts)[_rank()]
            seen = self.inputs.stored(idx) if isinstance(self.inputs, FeatureView) else np.asarray(self.inputs[idx])
            inputs, targets, weights = (torch.from_numpy(rows) for rows in (seen, self.targets[idx], self.weights[idx]))
            yield inputs.float() if inputs.is_floating_point() else inputs, targets, weights

    def _order(self) -> npt.NDArray[np.int64]:
        n = len(self.inputs)
        if self.generator is None:
            return np.arange(n)
        if self.cumulated is None:
            return torch.randperm(n, generator=self.generator).numpy()
        draws = torch.rand(n, generator=self.generator, dtype=torch.float64) * self.cumulated[-1]
        return torch.searchsorted(self.cumulated, draws, right=True).clamp_(max=n - 1).numpy()


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
        epochs: int = 1,
        patience: int | None = None,
        tell: bool = False,
        show: Callable[[UInt8], None] | None = None,
        checkpoint: Path | None = None,
        order: torch.Generator | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network, self.augment, self.generator, self.tell = network, augment, generator, tell
        self.show = show
        self.loss, self.mixup_alpha, self.cutmix_alpha = loss, mixup_alpha, cutmix_alpha
        self.average = MovingAverage(network, ema_decay) if ema_decay else None
        self.optimizer, self.peak, self.rate = optimizer, learning_rate, rate
        self.epochs, self.patience, self.checkpoint = epochs, patience, checkpoint
        self.order, self.seed = order or generator, seed
        self.result: Path | None = None  # where one of several processes leaves what all have come to
        self.history = History()
        self.best: State | None = None  # the (averaged) weights of the best epoch, where a validation set tells it
        self.sums = torch.zeros(0)
        self.started = 0.0
        self._before = self._left_behind()

    def configure_optimizers(self) -> Any:
        """The optimiser, and the learning rate at each of its steps."""
        decay = 0.0 if self.loss.l1 else WEIGHT_DECAY  # the L1 norm stands in its place
        kind, weight_decay = {"adamw": (torch.optim.AdamW, decay), "adam": (torch.optim.Adam, 0.0)}[self.optimizer]
        optimizer = kind(self._learning(), lr=self.peak, weight_decay=weight_decay, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Go on from where a training that was killed has got to."""
        self.resume(self.trainer.optimizers[0], self.lr_schedulers())

    def on_train_epoch_start(self) -> None:
        """Start the sums."""
        self.started = time.perf_counter()
        self.sums = torch.zeros(2, device=self.device)
        if _distributed():  # each process draws numbers of its own, in an epoch always the same
            own = int(np.random.SeedSequence([self.seed, self.n_epochs, _rank()]).generate_state(1)[0])
            self.generator.manual_seed(own)
            torch.manual_seed(own)

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
        loss = (weights * self.loss.per_image(self.network(inputs).float(), targets)).mean()
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
        scores = (self.network if self.average is None else self.average.module)(inputs).float()
        right = scores.argmax(1) == targets.argmax(1)
        loss = F.cross_entropy(scores, targets, reduction="sum")
        self.val_sums += torch.stack([loss, right.sum(), torch.tensor(float(len(inputs)), device=self.device)])

    def on_validation_epoch_end(self) -> None:
        """Note the figures, and keep the weights where they are the best so far."""
        loss, right, n = _over_processes(self.val_sums).tolist()
        losses = self.history.val_loss
        losses.append(loss / n)
        self.history.val_accuracy.append(right / n)
        if int(np.argmin(losses)) == len(losses) - 1:
            network = self.network if self.average is None else self.average.module
            self.best = {key: value.cpu().clone() for key, value in network.state_dict().items()}

    def on_train_epoch_end(self) -> None:
        """Note the figures, and stop or keep what the training has come to."""
        optimizer = self.trainer.optimizers[0]
        self.note_epoch(float(optimizer.param_groups[0]["lr"]))
        if self.stops():
            self.trainer.should_stop = True
        else:
            self.keep(optimizer, self.lr_schedulers())

    def stops(self) -> bool:
        """Whether this epoch is the last."""
        losses = self.history.val_loss
        patient = not losses or self.patience is None or len(losses) - 1 - int(np.argmin(losses)) < self.patience
        return not patient or self.n_epochs >= self.epochs

    @property
    def n_epochs(self) -> int:
        """How many epochs are done, also by a training that was killed."""
        return len(self.history.train_loss)

    def note_epoch(self, learning_rate: float) -> None:
        """Note the figures, stop a training that has gone astray, and tell of a few epochs where no bar can be drawn."""
        loss, n = _over_processes(self.sums).tolist()
        history = self.history
        history.train_loss.append(loss / n)
        history.learning_rate.append(learning_rate)
        history.seconds.append(time.perf_counter() - self.started)
        if not math.isfinite(loss) or not all(map(math.isfinite, history.val_loss)):
            raise BCCPError(f"the loss is no longer finite in epoch {self.n_epochs}: choose a learning_rate below {self.peak:g}")
        history.best_epoch = int(np.argmin(history.val_loss)) + 1 if history.val_loss else self.n_epochs
        bars.show("epochs", self.epochs if self.stops() else self.n_epochs, self.epochs)
        if self.tell and not _rank() and (self.n_epochs % math.ceil(self.epochs / PROGRESS_LINES) == 0 or self.stops()):
            figures = ", ".join(f"{name} {value:.4g}" for name, value in history.rows()[-1].items() if name != "learning_rate")
            step_log.say(f"  epoch {self.n_epochs} of {self.epochs}: {figures}")

    def keep(self, optimizer: Any, schedule: Any) -> None:
        """Write what the training has come to, for :meth:`resume`; a full disk does not end it."""
        if self.checkpoint is None or _rank():
            return
        state = self.come_to() | {
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "precision": self.trainer.precision_plugin.state_dict() if self._trainer else {},
            "random": [of.get_state() for of in (self.generator, self.order)],
            "random of torch": [torch.get_rng_state(), *(get() for get, _ in _device_random(self.device.type))],
        }
        try:
            checkpoints.write(self.checkpoint, state)
        except (OSError, RuntimeError) as error:
            step_log.say(f"  no checkpoint of epoch {self.n_epochs} could be written ({str(error).splitlines()[0]})")

    def come_to(self) -> dict[str, Any]:
        """What the training has come to, without what only its next epoch needs."""
        noted = {f.name: getattr(self.history, f.name) for f in dataclasses.fields(History) if f.name != "last_state"}
        averaged = 0 if self.average is None else self.average.n_steps
        return {"weights": self.state_dict(), "averaged": averaged, "best": self.best, "history": noted}

    def take(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`come_to` has given."""
        self.load_state_dict(state["weights"])
        if self.average is not None:
            self.average.n_steps = state["averaged"]
        self.best, self.history = state["best"], History(**state["history"])

    def on_train_end(self) -> None:
        """Leave what several processes have come to for the one that has started them."""
        if self.result is not None and not _rank():
            torch.save(self.come_to(), self.result)

    def resume(self, optimizer: Any, schedule: Any) -> None:
        """Take up what :meth:`keep` has written: the optimiser's, the schedule's and the random numbers' part of it."""
        state, self._before = self._before, None
        if state is None:
            return
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        if state["precision"]:
            self.trainer.precision_plugin.load_state_dict(state["precision"])
        for generator, value in zip((self.generator, self.order), state["random"], strict=True):
            generator.set_state(value)
        of_cpu, *of_device = state["random of torch"]
        torch.set_rng_state(of_cpu)
        for (_, put), value in zip(_device_random(self.device.type), of_device, strict=True):
            put(value)

    def _left_behind(self) -> dict[str, Any] | None:
        """Read what :meth:`keep` has written, and take up all that does not need the optimiser."""
        try:
            state = None if self.checkpoint is None else checkpoints.read(self.checkpoint)
        except BCCPError as error:
            step_log.say(f"  {error}, and ignored")
            return None
        if state is None:
            return None
        self.take(state)
        step_log.say(f"  goes on after epoch {self.n_epochs} of {self.epochs}, where it was stopped")
        return state

    def _learning(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]


class _Trial(_Task):
    """Steps alone: nothing is noted, kept or stopped at an epoch's end."""

    def on_train_epoch_end(self) -> None:
        """Go on."""


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
        self.module = copy.deepcopy(network).requires_grad_(False)
        self._network, self._decay, self.n_steps = [network], decay, 0  # the network is not part of its average
        self._pairs: list[tuple[list[Tensor], list[Tensor]]] = []

    def update(self) -> None:
        """Take a step's weights in."""
        if not self._pairs:  # at the first step both are on the device
            own, current = ([p.data for p in of.parameters()] + list(of.buffers()) for of in (self.module, self._network[0]))
            for floats in (True, False):
                chosen = [pair for pair in zip(own, current, strict=True) if pair[0].is_floating_point() == floats]
                self._pairs.append(([pair[0] for pair in chosen], [pair[1] for pair in chosen]))
        (averages, weights), (counters, counted) = self._pairs
        decay = min(self._decay, (1 + self.n_steps) / (10 + self.n_steps)) if self.n_steps else 0.0
        torch._foreach_lerp_(averages, weights, 1 - decay)
        if counters:  # of batches
            torch._foreach_copy_(counters, counted)
        self.n_steps += 1


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


def rates(schedule: str, *, epochs: int, epoch_steps: int, decay: float, decay_epochs: int = 1) -> Callable[[int], float]:
    """The learning rate of a step, counted from 0 up, as a share of what is set.

    Parameters
    ----------
    schedule : {"one_cycle", "cosine", "step", "exponential"}
        :func:`one_cycle` over all steps; from 1 to 0 along half a cosine over all steps; or the same through ``decay_epochs`` epochs
        (``exponential``: through one) and in the next ones times ``decay``.
    epochs, epoch_steps : int
        How many epochs there are at most, and steps in each.
    decay : float
        In (0, 1].
    decay_epochs : int
        At least 1.

    Returns
    -------
    callable
        From the number of a step to its share.

    References
    ----------
    I. Loshchilov, F. Hutter: "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017 (``cosine``, without restarts).
    """
    n_steps = epochs * epoch_steps
    # functions that can be sent to another process
    if schedule in ("step", "exponential"):
        return functools.partial(_stairs, n_steps=epoch_steps * (decay_epochs if schedule == "step" else 1), decay=decay)
    return functools.partial({"one_cycle": one_cycle, "cosine": _cosine}[schedule], n_steps=n_steps)


def _stairs(step: int, n_steps: int, decay: float) -> float:
    return float(decay ** (step // n_steps))


def _cosine(step: int, n_steps: int) -> float:
    return (1 + math.cos(math.pi * min(1.0, step / n_steps))) / 2


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
    *,
    device: str,
    result: Path,
    devices: int = 1,
    strategy: str = "auto",
    precision: str = "float32",
) -> None:
    """Train, on several devices in processes of their own."""
    several = devices > 1
    if several and strategy == "auto":
        strategy = "ddp_spawn" if device == "cuda" else "ddp_fork"
    if several and strategy == "ddp_spawn" and torchvision_compat.DECLARED is not None:
        raise BCCPError(
            "train.strategy=ddp_spawn needs a torchvision that is built for this torch, which others are imported with: use ddp_fork"
        )
    trainer: Any = pl.Trainer(
        accelerator={"cuda": "gpu"}.get(device, device),
        devices=devices,
        # Lightning's other ways start the whole command again for each device
        strategy=strategy if several else "auto",
        sync_batchnorm=several and device == "cuda",
        precision=PRECISIONS[precision],
        max_epochs=task.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        # as many processes as there are devices, also where a cluster's job manager has set its variables
        plugins=[LightningEnvironment()],
    )
    progress: Any = trainer.fit_loop.epoch_progress.current
    progress.processed = task.n_epochs
    if not several:
        trainer.fit(task, training, validation)
        return
    task.result, task.show = result, None  # what shows is a function of this process
    with _temporary_files_in(result.parent):
        try:
            trainer.fit(task, training, validation)
        except ProcessRaisedException as error:
            told = re.search(r"bccp\.errors\.BCCPError: (.*)", str(error))
            if told:
                raise BCCPError(told[1]) from error
            raise
        except BaseException:
            launcher: Any = trainer.strategy.launcher
            launcher.kill(signal.SIGKILL)
            raise
    task.take(torch.load(result, map_location="cpu", weights_only=True))


def _run_head(task: _Task, training: _Batches, validation: _Batches | None, *, device: str) -> None:
    """:func:`_run` for a head on features, whose steps take less time than what a Trainer does around them, or sharing them out does."""
    settings = task.to(device).configure_optimizers()
    optimizer, schedule = settings["optimizer"], settings["lr_scheduler"]["scheduler"]
    task.resume(optimizer, schedule)
    kept = time.perf_counter()
    while True:
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
            task.on_validation_epoch_end()
        task.note_epoch(float(optimizer.param_groups[0]["lr"]))
        if task.stops():
            return
        if time.perf_counter() - kept >= CHECKPOINT_SECONDS:
            task.keep(optimizer, schedule)
            kept = time.perf_counter()


def _generator(state: bytes) -> torch.Generator:
    made = torch.Generator()
    made.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    return made


# torch sends it with a tensor that is gone, and its file with it, before the other process has it
ForkingPickler.register(torch.Generator, lambda generator: (_generator, (generator.get_state().numpy().tobytes(),)))


def _distributed() -> bool:
    """Whether this is one of several processes that train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _rank() -> int:
    return torch.distributed.get_rank() if _distributed() else 0


def _over_processes(sums: Tensor) -> Tensor:
    """The sums of all processes."""
    if _distributed():
        torch.distributed.all_reduce(sums)
    return sums


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let processes that are started put their temporary files there."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


def _on(device: str, batch: Batch) -> Batch:
    inputs, targets, weights = batch
    return inputs.to(device), targets.to(device), weights.to(device)


def _device_random(device: str) -> list[tuple[Callable[[], Tensor], Callable[[Tensor], None]]]:
    """How the state of a device's own random numbers, where it has any, is read and set."""
    library: Any = {"cuda": torch.cuda, "mps": torch.mps}.get(device)
    return [] if library is None else [(library.get_rng_state, library.set_rng_state)]


def _random_devices(device: str) -> list[int]:
    return [torch.cuda.current_device()] if device == "cuda" else []


@contextmanager
def _reproducible(seed: int, device: str) -> Iterator[None]:
    """Seeded torch with deterministic algorithms; afterwards its random state and settings are what they were."""
    before, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    guard: Any = torch.utils.deterministic  # torch's own types lack its one setting
    fills = guard.fill_uninitialized_memory
    if device == "cuda":  # cuBLAS reads it when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with torch.random.fork_rng(devices=_random_devices(device)):
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
            # the frozen ones
            warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
            # where there is nothing to validate on
            warnings.filterwarnings("ignore", message="You defined a `validation_step` but have no `val_dataloader`")
            yield
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt from end
    finally:
        logger.setLevel(level)
