"""Trains a classifier on hard, weighted or soft labels; Lightning's Trainer runs the epochs.

N training images, K classes, D features. The same seed gives the same weights, to the bit on one machine for equal numeric threads, and
the caller's random state and settings of torch are left as they were.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import re
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException

from bccp.core import logs
from bccp.core.errors import BCCPError
from bccp.data.array_types import Float32, Images
from bccp.data.dataset import FeatureView
from bccp.models import batch_augmentation as augmentations
from bccp.models import torchvision_compat
from bccp.models.architectures import ImageClassifier
from bccp.models.classifier import embed
from bccp.models.fitting import lr_finder
from bccp.models.fitting.batches import Batches, on_device
from bccp.models.fitting.determinism import one_thread, random_devices, reproducible
from bccp.models.fitting.distributed import child_temporary_files_in
from bccp.models.fitting.history import History
from bccp.models.fitting.training_options import TrainingData, TrainingHooks, TrainingOptions
from bccp.models.fitting.training_task import Task, Trial
from bccp.models.transforms import changes

import lightning.pytorch as pl  # isort: skip
from lightning.fabric.plugins.environments.lightning import LightningEnvironment  # isort: skip

MEMORY_MAPPED_BYTES = 256 * 2**20
"""Features of a frozen backbone that take more than this are kept on disk."""

PRECISIONS: dict[str, Any] = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}
"""What Lightning calls them."""

CHECKPOINT_SECONDS = 1.0
"""The epochs of a head that together take less are not kept one by one: that would take longer than they do."""

_NO_HOOKS = TrainingHooks()


def fit(
    model: ImageClassifier,
    data: TrainingData,
    validation: TrainingData | None,
    options: TrainingOptions,
    *,
    seed: int,
    folder: Path,
    hooks: TrainingHooks = _NO_HOOKS,
) -> History:
    """Train a classifier; afterwards it has the best epoch's weights, is on the CPU and in evaluation mode.

    A frozen backbone sees each image once (with ``mirror``, also its mirror image, and the mean of both counts): the head is trained on its
    features, without augmentation; mixup mixes features.

    Parameters
    ----------
    model : ImageClassifier
        Is changed.
    data : TrainingData
        N is at least 2.
    validation : TrainingData or None
        Decides on the best epoch; of no images, it is as None.
    options : TrainingOptions
    seed : int
    folder : Path
        Holds ``features`` while the training goes on.
    hooks : TrainingHooks

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
    n_images, device = len(data.images), options.device
    soft, importance = np.asarray(data.targets, np.float32), _importance(data)
    if n_images < 2 or not importance.any():
        raise BCCPError(f"training needs at least 2 images with a weight above 0, not {int((importance > 0).sum())} of {n_images}")
    change = _augmentation(model, options)
    n_parts = 1 if model.frozen else options.devices
    if n_images < 2 * n_parts or (device == "cuda" and n_parts > torch.cuda.device_count()):
        why = f"there are {torch.cuda.device_count()} here" if n_images >= 2 * n_parts else f"{n_images} images need fewer"
        raise BCCPError(f"train.devices={options.devices} are too many, {why}: give a smaller number")
    features = folder / "features"
    features.mkdir(parents=True)
    model.mirrored = model.mirrored or options.mirror
    try:
        with reproducible(seed, device), _quiet_lightning():
            inputs, val_inputs, network = _what_learns(model, data, validation, features, options)
            network.train()
            generator = torch.Generator().manual_seed(seed)
            # several processes draw the same order, and each its own augmentation
            order = generator if n_parts == 1 else torch.Generator().manual_seed(seed)
            batches = Batches(inputs, soft, importance, options.batch_size, order, data.shares, n_parts=n_parts)
            val_batches = None
            if val_inputs is not None and validation is not None and len(val_inputs):
                val_soft = np.asarray(validation.targets, np.float32)
                ones = np.ones(len(val_soft), np.float32)
                val_batches = Batches(val_inputs, val_soft, ones, max(options.batch_size, 256), None, n_parts=n_parts)
            found: float | None = None
            if options.find_learning_rate:
                with torch.random.fork_rng(devices=random_devices(device)):
                    own = torch.Generator().manual_seed(seed)
                    trial = Trial(copy.deepcopy(network), change, own, options, epoch_steps=len(batches))
                    some = Batches(inputs, soft, importance, options.batch_size, own, data.shares)
                    found = lr_finder.find_learning_rate(trial, some, features, device=device, precision=PRECISIONS[options.precision])
                if hooks.progress:
                    logs.emit("  no learning rate stands out" if found is None else f"  learning rate {found:.2g} was found")
            chosen = options if found is None else dataclasses.replace(options, learning_rate=found)
            task = Task(network, change, generator, chosen, epoch_steps=len(batches), hooks=hooks, order=order, seed=seed)
            task.history.found_rate = found
            if model.frozen:
                with one_thread():
                    run_head_task(task, batches, val_batches, device=device)
            else:
                run_task(task, batches, val_batches, options, result=features / "result.pt")
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


def _augmentation(model: ImageClassifier, options: TrainingOptions) -> list[Callable[..., Tensor]]:
    """The changes of a batch's images, in order; a head on features has none."""
    strength, probability = options.augment_strength, options.augment_probability
    change = changes(options.augmentation, image_size=model.image_size, probability=probability, strength=strength)
    return [] if model.frozen else [augmentations.mirror] * options.mirror + change


class CheapDropout(nn.Module):
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


def _importance(data: TrainingData) -> Float32:
    """Factor of each image's loss, mean 1, shape (N,)."""
    importance = np.ones(len(data.images)) if data.weights is None else np.array(data.weights, np.float64)
    if data.class_weights is not None:
        importance *= np.asarray(data.targets, np.float64) @ np.asarray(data.class_weights, np.float64)
    total = importance.sum()
    return (importance * len(importance) / total if total > 0 else importance).astype(np.float32)


def _what_learns(
    model: ImageClassifier, data: TrainingData, validation: TrainingData | None, folder: Path, options: TrainingOptions
) -> tuple[Any, Any, Any]:
    """Training and validation inputs, and the network that they go into: the model, or the head of a frozen one on its features."""
    val_images = None if validation is None else validation.images
    if not model.frozen:
        network: Any = model  # torch's own types lack memory_format
        return data.images, val_images, network.to(memory_format=torch.channels_last)

    def features(of: Images | FeatureView, name: str) -> Float32 | FeatureView:
        if isinstance(of, FeatureView):
            return of
        large = 4 * len(of) * model.n_features > MEMORY_MAPPED_BYTES
        return embed(model, of, batch_size=options.batch_size, device=options.device, path=folder / name if large else None)

    head = nn.Sequential(CheapDropout(model.dropout), model.head[1]) if options.device == "cpu" else model.head
    return features(data.images, "train.npy"), None if val_images is None else features(val_images, "val.npy"), head


def run_task(task: Task, training: Batches, validation: Batches | None, options: TrainingOptions, *, result: Path) -> None:
    """Train, on several devices in processes of their own."""
    device, devices, strategy = options.device, options.devices, options.strategy
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
        precision=PRECISIONS[options.precision],
        max_epochs=options.epochs,
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
    with child_temporary_files_in(result.parent):
        try:
            trainer.fit(task, training, validation)
        except ProcessRaisedException as error:
            told = re.search(rf"\b{re.escape(BCCPError.__module__)}\.BCCPError: (.*)", str(error))
            if told:
                raise BCCPError(told[1]) from error
            raise
        except BaseException:
            launcher: Any = trainer.strategy.launcher
            launcher.kill(signal.SIGKILL)
            raise
    task.take(torch.load(result, map_location="cpu", weights_only=True))


def run_head_task(task: Task, training: Batches, validation: Batches | None, *, device: str) -> None:
    """:func:`run_task` for a head on features: its steps take less time than what a Trainer does around them, or than sharing them out."""
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
