"""The Lightning module that is trained: loss, optimiser, averaged weights, history and checkpoints."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from bccp.core import logs, progress
from bccp.core.errors import BCCPError
from bccp.models import torchvision_compat  # noqa: F401 - lightning imports only after torchvision_compat
from bccp.models.fitting import checkpoints, losses
from bccp.models.fitting.batches import Batch
from bccp.models.fitting.determinism import device_random
from bccp.models.fitting.distributed import is_distributed, rank, sum_over_processes
from bccp.models.fitting.history import History
from bccp.models.fitting.moving_average import MovingAverage
from bccp.models.fitting.schedules import ANNEALING, rates
from bccp.models.fitting.training_options import TrainingHooks, TrainingOptions
from bccp.models.transforms import blend
from bccp.models.weights import State

import lightning.pytorch as pl  # isort: skip

WEIGHT_DECAY = 0.01
"""AdamW's."""

PROGRESS_LINES = 5
"""How many epochs are told of where no bar can be drawn."""


class Task(pl.LightningModule):
    """Loss, schedule and book-keeping for Lightning; ``network`` is the model, or its head on features."""

    def __init__(
        self,
        network: nn.Module,
        augment: list[Callable[..., Tensor]],
        generator: torch.Generator,
        options: TrainingOptions,
        *,
        epoch_steps: int,
        hooks: TrainingHooks | None = None,
        order: torch.Generator | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network, self.augment, self.generator, self.options = network, augment, generator, options
        self.loss = losses.find_loss(options.loss)
        self.peak = options.learning_rate  # Lightning's range test sets it
        self.rate = rates(
            options.schedule,
            epochs=options.epochs,
            epoch_steps=epoch_steps,
            decay=options.decay,
            decay_epochs=options.decay_epochs,
        )
        self.average = MovingAverage(network, options.ema_decay) if options.ema_decay else None
        hooks = hooks or TrainingHooks()
        self.tell, self.show, self.checkpoint = hooks.progress and not progress.on_terminal(), hooks.show, hooks.checkpoint
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
        kind, weight_decay = {"adamw": (torch.optim.AdamW, decay), "adam": (torch.optim.Adam, 0.0)}[self.options.optimizer]
        optimizer = kind(self._learning(), lr=self.peak, weight_decay=weight_decay, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Go on from where a training that was killed has got to."""
        self.resume(self.trainer.optimizers[0], self.lr_schedulers())
        progress.show("epochs", self.n_epochs, self.options.epochs)  # from now on, so that the first one tells how long one takes

    def on_train_epoch_start(self) -> None:
        """Start the sums."""
        self.started = time.perf_counter()
        self.sums = torch.zeros(2, device=self.device)
        if is_distributed():  # each process draws numbers of its own, in an epoch always the same
            own = int(np.random.SeedSequence([self.seed, self.n_epochs, rank()]).generate_state(1)[0])
            self.generator.manual_seed(own)
            torch.manual_seed(own)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """The weighted loss of the images, and the L1 norm where the loss has one."""
        inputs, targets, weights = batch
        if inputs.dtype == torch.uint8:
            inputs = inputs.permute(0, 3, 1, 2) / 255
            for change in self.augment:
                inputs = change(inputs, generator=self.generator)
        alphas = {"mixup_alpha": self.options.mixup_alpha, "cutmix_alpha": self.options.cutmix_alpha}
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
        loss, right, n = sum_over_processes(self.val_sums).tolist()
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
        losses, patience = self.history.val_loss, self.options.patience
        # after the high rates at its start, a schedule that anneals to 0 finds its best weights near its planned end
        if self.options.schedule in ANNEALING:
            patience = None
        patient = not losses or patience is None or len(losses) - 1 - int(np.argmin(losses)) < patience
        return not patient or self.n_epochs >= self.options.epochs

    @property
    def n_epochs(self) -> int:
        """How many epochs are done, also by a training that was killed."""
        return len(self.history.train_loss)

    def note_epoch(self, learning_rate: float) -> None:
        """Note the figures, stop a training that has gone astray, and tell of a few epochs where no bar can be drawn."""
        loss, n = sum_over_processes(self.sums).tolist()
        history = self.history
        history.train_loss.append(loss / n)
        history.learning_rate.append(learning_rate)
        history.seconds.append(time.perf_counter() - self.started)
        if not math.isfinite(loss) or not all(map(math.isfinite, history.val_loss)):
            raise BCCPError(f"the loss is no longer finite in epoch {self.n_epochs}: choose a learning_rate below {self.peak:g}")
        history.best_epoch = int(np.argmin(history.val_loss)) + 1 if history.val_loss else self.n_epochs
        progress.show("epochs", self.options.epochs if self.stops() else self.n_epochs, self.options.epochs)
        if self.tell and not rank() and (self.n_epochs % math.ceil(self.options.epochs / PROGRESS_LINES) == 0 or self.stops()):
            figures = ", ".join(f"{name} {value:.4g}" for name, value in history.rows()[-1].items() if name != "learning_rate")
            logs.emit(f"  epoch {self.n_epochs} of {self.options.epochs}: {figures}")

    def keep(self, optimizer: Any, schedule: Any) -> None:
        """Write what the training has come to, for :meth:`resume`; a full disk does not end it."""
        if self.checkpoint is None or rank():
            return
        state = self.come_to() | {
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "precision": self.trainer.precision_plugin.state_dict() if self._trainer else {},
            "random": [of.get_state() for of in (self.generator, self.order)],
            "random of torch": [torch.get_rng_state(), *(get() for get, _ in device_random(self.device.type))],
        }
        try:
            checkpoints.write_checkpoint(self.checkpoint, state)
        except (OSError, RuntimeError) as error:
            logs.emit(f"  no checkpoint of epoch {self.n_epochs} could be written ({str(error).splitlines()[0]})")

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
        if self.result is not None and not rank():
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
        for (_, put), value in zip(device_random(self.device.type), of_device, strict=True):
            put(value)

    def _left_behind(self) -> dict[str, Any] | None:
        """Read what :meth:`keep` has written, and take up all that does not need the optimiser."""
        try:
            state = None if self.checkpoint is None else checkpoints.read_checkpoint(self.checkpoint)
        except BCCPError as error:
            logs.emit(f"  {error}, and ignored")
            return None
        if state is None:
            return None
        self.take(state)
        logs.emit(f"  goes on after epoch {self.n_epochs} of {self.options.epochs}, where it was stopped")
        return state

    def _learning(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]


class Trial(Task):
    """Steps alone: nothing is noted, kept or stopped at an epoch's end."""

    def on_train_epoch_end(self) -> None:
        """Go on."""
