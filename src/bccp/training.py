"""Trains a classifier on hard, weighted or soft labels; Lightning's Trainer runs the epochs.

N training images, K classes, D features. The same seed gives the same weights, to the bit on one machine for equal numeric threads, and
the caller's random state and settings of torch are left as they were.
"""

from __future__ import annotations

import copy
import logging
import re
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException

from bccp import augmentation as augmentations
from bccp import bars, range_test, step_log, torchvision_compat
from bccp.architectures import ImageClassifier
from bccp.array_types import Float32, Images, UInt8
from bccp.batches import Batches, on_device
from bccp.determinism import one_thread, random_devices, reproducible
from bccp.distributed import temporary_files_in
from bccp.errors import BCCPError
from bccp.history import History
from bccp.images import FeatureView
from bccp.losses import LOSSES
from bccp.models import embed
from bccp.schedules import rates
from bccp.training_task import Task, Trial
from bccp.transforms import changes

import lightning.pytorch as pl  # isort: skip
from lightning.fabric.plugins.environments.lightning import LightningEnvironment  # isort: skip

MEMORY_MAPPED_BYTES = 256 * 2**20
"""Features of a frozen backbone that take more than this are kept on disk."""

PRECISIONS: dict[str, Any] = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}
"""What Lightning calls them."""

CHECKPOINT_SECONDS = 1.0
"""The epochs of a head that together take less are not kept one by one: that would take longer than they do."""


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
        with reproducible(seed, device), _quiet_lightning():
            inputs, val_inputs, network = _what_learns(model, images, val_images, features, batch_size=batch_size, device=device)
            network.train()
            generator = torch.Generator().manual_seed(seed)
            # several processes draw the same order, and each its own augmentation
            order = generator if n_parts == 1 else torch.Generator().manual_seed(seed)
            training = Batches(inputs, soft, importance, batch_size, order, shares, n_parts=n_parts)
            validation = None
            if val_inputs is not None and val_targets is not None and len(val_inputs):
                val_soft = np.asarray(val_targets, np.float32)
                ones = np.ones(len(val_soft), np.float32)
                validation = Batches(val_inputs, val_soft, ones, max(batch_size, 256), None, n_parts=n_parts)
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
                with torch.random.fork_rng(devices=random_devices(device)):
                    own = torch.Generator().manual_seed(seed)
                    trial = Trial(copy.deepcopy(network), augment, own, learning_rate=learning_rate, **settings)
                    batches = Batches(inputs, soft, importance, batch_size, own, shares)
                    found = range_test.find(trial, batches, features, device=device, precision=PRECISIONS[precision])
                if progress:
                    step_log.say("  no learning rate stands out" if found is None else f"  learning rate {found:.2g} was found")
            task = Task(
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
                with one_thread():
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
    task: Task,
    training: Batches,
    validation: Batches | None,
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
    with temporary_files_in(result.parent):
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


def _run_head(task: Task, training: Batches, validation: Batches | None, *, device: str) -> None:
    """:func:`_run` for a head on features, whose steps take less time than what a Trainer does around them, or sharing them out does."""
    settings = task.to(device).configure_optimizers()
    optimizer, schedule = settings["optimizer"], settings["lr_scheduler"]["scheduler"]
    task.resume(optimizer, schedule)
    kept = time.perf_counter()
    while True:
        task.train().on_train_epoch_start()
        for batch in training:
            task.network.zero_grad()  # the optimiser's own takes longer, for the profiler's sake
            task.training_step(on_device(device, batch), 0).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            task.on_train_batch_end()
        if validation is not None:
            task.eval().on_validation_epoch_start()
            with torch.no_grad():
                for batch in validation:
                    task.validation_step(on_device(device, batch), 0)
            task.on_validation_epoch_end()
        task.note_epoch(float(optimizer.param_groups[0]["lr"]))
        if task.stops():
            return
        if time.perf_counter() - kept >= CHECKPOINT_SECONDS:
            task.keep(optimizer, schedule)
            kept = time.perf_counter()


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
