"""Training: what is learnt, what is repeatable, what is left behind, and the augmentation."""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bccp.core.errors import BCCPError
from bccp.core.registries import LOSSES
from bccp.data.dataset import FeatureView, ImageView
from bccp.models import batch_augmentation, classifier, torchvision_compat
from bccp.models.architectures import ImageClassifier
from bccp.models.fitting import lr_finder, schedules, training
from bccp.models.fitting.batches import Batches
from bccp.models.fitting.history import History
from bccp.models.fitting.losses.anl_ce import anl_ce
from bccp.models.fitting.schedules import one_cycle
from bccp.models.fitting.training_options import TrainingData, TrainingHooks, TrainingOptions
from bccp.models.fitting.training_task import Task

N_CLASSES, SIZE = 3, 16


pytestmark = pytest.mark.usefixtures("one_thread")


def make_data(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images of three clearly different classes, and their one-hot labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % N_CLASSES
    images = rng.integers(0, 90, (n, SIZE, SIZE, 3))
    for position, label in enumerate(labels):
        images[position, 4 * label : 4 * label + 6] += 120
    return images.astype(np.uint8), np.eye(N_CLASSES, dtype=np.float32)[labels]


def make_model(**options: Any) -> ImageClassifier:
    return classifier.build_classifier("small_cnn", N_CLASSES, **({"image_size": SIZE, "dropout": 0.3, "seed": 0} | options))


def fit(model: ImageClassifier, folder: Path, data: Any = None, val: Any = None, **changes: Any) -> History:
    """Train on some data, with changes of the options, of what is said of the data and of the hooks."""
    images, targets = make_data() if data is None else data
    own = {name: changes.pop(name) for name in ("weights", "class_weights", "shares") if name in changes}
    hooks = TrainingHooks(**{name: changes.pop(name) for name in ("progress", "show", "checkpoint") if name in changes})
    seed, validation = changes.pop("seed", 0), TrainingData(*(make_data(30, seed=1) if val is None else val))
    options = TrainingOptions(**{"epochs": 3, "learning_rate": 0.005, "batch_size": 16, "augmentation": "generic"} | changes)
    return training.fit(model, TrainingData(images, targets, **own), validation, options, seed=seed, folder=folder, hooks=hooks)


def cross_entropy(model: ImageClassifier, images: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return -(targets * np.log(classifier.probabilities(model, images))).sum(1)


class Malice:
    """Touches a file where it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return Path.touch, (self.victim,)


class Counted:
    """Images that note how often each is read, and how many at once."""

    def __init__(self, images: np.ndarray) -> None:
        self.images, self.reads, self.most = images, np.zeros(len(images), int), 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, idx: np.ndarray) -> np.ndarray:
        np.add.at(self.reads, idx, 1)
        self.most = max(self.most, len(idx))
        return self.images[idx]


def test_a_model_learns_what_can_be_learnt_and_the_history_says_so(tmp_path: Path) -> None:
    model, val = make_model(), make_data(30, seed=1)
    history = fit(model, tmp_path, val=val, epochs=12)
    assert history.val_accuracy[history.best_epoch - 1] > 0.95
    assert (classifier.probabilities(model, val[0]).argmax(1) == val[1].argmax(1)).mean() == history.val_accuracy[history.best_epoch - 1]
    assert history.train_loss[-1] < history.train_loss[0]
    assert list(history.table().columns) == ["epoch", "train_loss", "val_loss", "val_accuracy", "learning_rate"]
    assert history.table()["epoch"].tolist() == list(range(1, 13))
    assert history.rows()[2]["val_loss"] == history.val_loss[2]
    assert max(history.learning_rate) <= 0.005
    assert history.learning_rate[-1] < 1e-4


def test_the_model_keeps_the_best_epoch_and_the_history_the_last(tmp_path: Path) -> None:
    images, targets = make_data()
    # with turned labels, the validation gets worse the better the training goes
    val = (make_data(30, seed=1)[0], np.roll(make_data(30, seed=1)[1], 1, axis=1))
    model = make_model()
    history = fit(model, tmp_path, (images, targets), val, epochs=6)
    assert history.best_epoch == int(np.argmin(history.val_loss)) + 1 < 6
    assert cross_entropy(model, *val).mean() == pytest.approx(min(history.val_loss), rel=1e-4)
    model.load_state_dict(history.last_state)
    assert cross_entropy(model, *val).mean() == pytest.approx(history.val_loss[-1], rel=1e-4)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.rand(seed + 5)
        model = make_model()
        fit(model, tmp_path, seed=seed, epochs=2)
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert any(not torch.equal(value, states[2][key]) for key, value in states[0].items())


def test_nothing_of_the_caller_changes_but_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    images, targets = make_data()
    copies, random_state = (images.copy(), targets.copy()), torch.get_rng_state()
    fit(make_model(), tmp_path / "out", (images, targets), weights=np.ones(60))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    np.testing.assert_array_equal(images, copies[0])
    np.testing.assert_array_equal(targets, copies[1])
    assert list(work.iterdir()) == []
    assert list((tmp_path / "out").iterdir()) == []


def test_the_loss_is_the_weighted_cross_entropy_of_soft_targets(tmp_path: Path) -> None:
    images, _ = make_data(12)
    rng = np.random.default_rng(0)
    targets, weights = rng.dirichlet([1, 1, 1], 12).astype(np.float32), rng.random(12)
    class_weights = np.array([0.5, 1.0, 3.0])
    model = make_model(freeze_backbone=True, dropout=0.0)
    importance = weights * (targets @ class_weights)
    by_hand = (importance / importance.mean() * cross_entropy(model, images, targets)).mean()
    history = fit(model, tmp_path, (images, targets), weights=weights, class_weights=class_weights, learning_rate=1e-12, epochs=1)
    assert history.train_loss == [pytest.approx(by_hand, rel=1e-4)]


def test_images_without_weight_teach_nothing(tmp_path: Path) -> None:
    images, targets = make_data(30)
    twice = (np.concatenate([images, images]), np.concatenate([targets, np.roll(targets, 1, axis=1)]))
    model = make_model(freeze_backbone=True)
    settings = {"epochs": 25, "learning_rate": 0.1, "weights": np.repeat([1, 0], 30)}
    assert fit(model, tmp_path, twice, **settings).val_accuracy[-1] > 0.9


def test_a_frozen_backbone_sees_each_image_once(tmp_path: Path) -> None:
    images, targets = make_data()
    seen, val_seen = Counted(images), Counted(make_data(30, seed=1)[0])
    model = make_model(freeze_backbone=True)
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    head = model.head[1].weight.clone()
    fit(model, tmp_path, (seen, targets), (val_seen, make_data(30, seed=1)[1]), epochs=4)
    assert seen.reads.tolist() == [1] * 60
    assert val_seen.reads.tolist() == [1] * 30
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.state_dict().items())
    assert not torch.equal(model.head[1].weight, head)


def test_features_that_are_large_are_kept_on_disk_and_give_the_same_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory, on_disk = make_model(freeze_backbone=True), make_model(freeze_backbone=True)
    fit(in_memory, tmp_path)
    monkeypatch.setattr(training, "MEMORY_MAPPED_BYTES", 0)
    fit(on_disk, tmp_path)
    assert torch.equal(in_memory.head[1].weight, on_disk.head[1].weight)
    assert list(tmp_path.iterdir()) == []


def test_a_head_alone_is_trained_as_lightning_would_train_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, targets = make_data(30, seed=1)
    val = images, 0.7 * np.roll(targets, 1, axis=1) + 0.3 * targets  # after a while it gets worse the better the training goes
    alone, by_lightning = make_model(freeze_backbone=True), make_model(freeze_backbone=True)
    options: dict[str, Any] = {"val": val, "epochs": 9, "learning_rate": 0.05, "ema_decay": 0.9, "mixup_alpha": 0.4}
    options |= {"patience": 2, "schedule": "exponential"}
    one = fit(alone, tmp_path, **options)

    def run_head(task: Any, training_set: Any, validation: Any, **_: Any) -> None:
        training.run_task(task, training_set, validation, task.options, result=tmp_path / "result.pt")

    monkeypatch.setattr(training, "run_head_task", run_head)
    other = fit(by_lightning, tmp_path, **options)
    assert one.table().equals(other.table())
    assert one.best_epoch == other.best_epoch < len(one.table()) < 9
    for state, expected in ((alone.state_dict(), by_lightning.state_dict()), (one.last_state, other.last_state)):
        assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_a_head_is_trained_on_one_thread_whatever_the_caller_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used, run_head = [], training.run_head_task
    monkeypatch.setattr(training, "run_head_task", lambda *args, **rest: used.append(torch.get_num_threads()) or run_head(*args, **rest))
    torch.set_num_threads(2)
    model = make_model(freeze_backbone=True)
    features = FeatureView([classifier.embed(model, make_data()[0])], np.zeros(60, int), np.arange(60), model.n_features)
    fit(model, tmp_path, (features, make_data()[1]), epochs=1)
    assert (used, torch.get_num_threads()) == ([1], 2)


def test_dropout_of_features_drops_its_share_and_keeps_the_mean() -> None:
    for rate in (0.0, 0.1, 0.5, 0.9):
        drop, ones = training.CheapDropout(rate), torch.ones(301, 333)
        torch.manual_seed(0)
        found = drop(ones)
        share = (found == 0).float().mean().item()
        assert abs(share - rate) <= 5 * (rate * (1 - rate) / ones.numel()) ** 0.5 + 2**-16
        assert torch.allclose(found[found != 0], torch.tensor(1 / (1 - rate)))
        for axis in (0, 1):  # neither images nor features are alike
            assert rate == 0 or (found == 0).float().mean(axis).std() < 3 * (rate * (1 - rate) / ones.shape[axis]) ** 0.5
        assert not torch.equal(drop(ones), found) or rate == 0
        assert torch.equal(drop.eval()(ones), ones)


def test_images_are_read_in_batches_once_an_epoch(tmp_path: Path) -> None:
    images, targets = make_data()
    seen = Counted(images)
    fit(make_model(), tmp_path, (seen, targets), epochs=3, batch_size=13)
    assert seen.reads.tolist() == [3] * 60
    assert seen.most <= 13


@pytest.mark.parametrize(("n", "batch_size", "sizes"), [(65, 64, [33, 32]), (64, 64, [64]), (3, 2, [3]), (7, 3, [3, 2, 2]), (2, 64, [2])])
def test_no_batch_has_one_image_only(n: int, batch_size: int, sizes: list[int]) -> None:
    batches = Batches(np.arange(n), np.zeros((n, 2), np.float32), np.ones(n, np.float32), batch_size, torch.Generator())
    drawn = [inputs.tolist() for inputs, _, _ in batches]
    assert [len(batch) for batch in drawn] == sizes
    assert len(batches) == len(sizes)
    assert sorted(position for batch in drawn for position in batch) == list(range(n))
    if n > 3:
        assert [inputs.tolist() for inputs, _, _ in batches] != drawn


@pytest.mark.parametrize("n_steps", [1, 2, 4, 5, 360])
def test_the_learning_rate_rises_to_its_peak_once_and_falls_to_nothing(n_steps: int) -> None:
    rates = [one_cycle(step, n_steps) for step in range(n_steps + 1)]
    top = int(np.argmax(rates))
    assert rates[top] == 1
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()
    assert min(rates[:-1]) > 0
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert top < max(1, 0.3 * n_steps)


@pytest.mark.parametrize(("optimizer", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
def test_an_exponential_schedule_trains_as_a_loop_written_out_does(optimizer: str, kind: Any, tmp_path: Path) -> None:
    images, targets = make_data(24)
    options: dict[str, Any] = {"optimizer": optimizer, "schedule": "exponential", "decay": 0.5, "learning_rate": 0.01, "epochs": 4}
    options |= {"batch_size": 24, "augmentation": "none", "val": (images[:0], targets[:0])}
    history = fit(make_model(dropout=0), tmp_path, (images, targets), **options)
    by_hand = make_model(dropout=0).train()
    steps = kind(by_hand.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.ExponentialLR(steps, 0.5)
    losses = []
    for _ in range(4):
        steps.zero_grad()
        loss = torch.nn.functional.cross_entropy(by_hand(torch.from_numpy(images)), torch.from_numpy(targets))
        loss.backward()
        steps.step()
        schedule.step()
        losses.append(float(loss.detach()))
    assert history.train_loss == pytest.approx(losses, rel=2e-3)
    assert history.learning_rate == pytest.approx([0.005, 0.0025, 0.00125, 0.000625])


@pytest.mark.parametrize(
    ("name", "loss", "kind", "weight_decay"),
    [
        ("adamw", "cross_entropy", torch.optim.AdamW, 0.01),
        ("adam", "cross_entropy", torch.optim.Adam, 0),
        ("adamw", "gce", torch.optim.AdamW, 0.01),
        ("adamw", "anl_ce", torch.optim.AdamW, 0),
    ],
)
def test_only_adamw_decays_weights_and_not_where_a_loss_has_their_norm(name: str, loss: str, kind: Any, weight_decay: float) -> None:
    options = TrainingOptions(epochs=1, learning_rate=0.1, batch_size=8, augmentation="none", loss=loss, optimizer=name)
    task = Task(make_model(), [], torch.Generator(), options, epoch_steps=1)
    optimizer = task.configure_optimizers()["optimizer"]
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["weight_decay"] == weight_decay


def test_an_exponential_rate_stays_through_an_epoch() -> None:
    rate = schedules.rates("exponential", epochs=3, epoch_steps=2, decay=0.9)
    assert [rate(step) for step in range(7)] == pytest.approx([1, 1, 0.9, 0.9, 0.81, 0.81, 0.729])


def test_a_step_rate_falls_every_so_many_epochs_and_a_cosine_at_every_step_from_the_peak_to_nothing() -> None:
    rate = schedules.rates("step", epochs=5, epoch_steps=2, decay=0.1, decay_epochs=2)
    assert [rate(step) for step in range(10)] == pytest.approx([1] * 4 + [0.1] * 4 + [0.01] * 2)
    rate = schedules.rates("cosine", epochs=4, epoch_steps=2, decay=0.5)
    assert [rate(step) for step in range(9)] == pytest.approx([(1 + np.cos(np.pi * step / 8)) / 2 for step in range(9)])
    assert (rate(0), rate(4), rate(8), rate(9)) == pytest.approx((1, 0.5, 0, 0))


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_every_schedule_trains_and_its_rates_are_in_the_history(tmp_path: Path, schedule: str) -> None:
    history = fit(make_model(), tmp_path, epochs=4, schedule=schedule, decay=0.5, decay_epochs=2, learning_rate=0.01)
    rate = schedules.rates(schedule, epochs=4, epoch_steps=4, decay=0.5, decay_epochs=2)
    assert history.learning_rate == pytest.approx([0.01 * rate(step) for step in (4, 8, 12, 16)])
    assert history.train_loss[-1] < history.train_loss[0]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_range_test_finds_a_learning_rate_and_changes_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], frozen: bool
) -> None:
    found, given = make_model(freeze_backbone=frozen), make_model(freeze_backbone=frozen)
    history = fit(found, tmp_path, find_learning_rate=True, epochs=2)
    assert history.found_rate is not None
    assert 1e-4 < history.found_rate < 1
    assert history.figures()["learning_rate"] == history.found_rate
    fit(given, tmp_path, learning_rate=history.found_rate, epochs=2)
    assert all(torch.equal(value, given.state_dict()[key]) for key, value in found.state_dict().items())
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_the_steepest_fall_is_looked_for_after_the_start_and_before_the_end() -> None:
    rates = np.geomspace(1e-6, 1, 100)
    losses = 2 - 1 / (1 + np.exp(-3 * np.log(rates / 1e-2)))  # falls fastest at 0.01
    losses[:5], losses[-1] = [9, 7, 5, 3, 2], -50
    assert lr_finder.steepest(losses.tolist(), rates.tolist()) == pytest.approx(1e-2, rel=0.2)
    assert lr_finder.steepest(list(range(100)), rates.tolist()) is None
    assert lr_finder.steepest([1.0] * 12, rates[:12].tolist()) is None
    assert lr_finder.steepest([*losses.tolist()[:60], float("nan")], rates.tolist()) is not None


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_learns_with_weights_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, device: str
) -> None:
    if not {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device]:
        pytest.skip(f"no {device} here")
    if precision == "float16" and device != "cuda":
        pytest.skip("CUDA only")
    model, seen, forward = make_model(), set(), ImageClassifier.forward
    monkeypatch.setattr(ImageClassifier, "forward", lambda self, pixels: (out := forward(self, pixels), seen.add(out.dtype))[0])
    history = fit(model, tmp_path, precision=precision, device=device, epochs=12, ema_decay=0.5)
    assert seen == {torch.bfloat16 if precision == "bfloat16" else torch.float16}
    assert max(history.val_accuracy) > 0.9
    assert {value.dtype for key, value in model.state_dict().items() if not key.endswith("tracked")} == {torch.float32}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_training_on_a_gpu_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setenv("BCCP_HOME", str(tmp_path))
    options: dict[str, Any] = {"device": "cuda", "precision": precision, "epochs": 5, "ema_decay": 0.5}
    undisturbed = make_model()
    fit(undisturbed, tmp_path / "a", **options)
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, 3)
        with pytest.raises(StoppedError):
            fit(make_model(), tmp_path / "b", checkpoint=tmp_path / "c.pt", **options)
    model = make_model()
    history = fit(model, tmp_path / "b", checkpoint=tmp_path / "c.pt", **options)
    assert len(history.train_loss) == 5
    assert all(torch.equal(value, undisturbed.state_dict()[key]) for key, value in model.state_dict().items())


def test_more_devices_than_there_are_images_or_gpus_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BCCPError, match=r"train\.devices=31 are too many, 60 images need fewer: give a smaller number"):
        fit(make_model(), tmp_path, devices=31)
    if torch.cuda.is_available():
        with pytest.raises(BCCPError, match=rf"train\.devices=30 are too many, there are {torch.cuda.device_count()} here"):
            fit(make_model(), tmp_path, devices=30, device="cuda")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_spawn"])
def test_two_processes_share_each_batch_and_learn_as_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], strategy: str
) -> None:
    if strategy == "ddp_spawn" and torchvision_compat.DECLARED is not None:
        with pytest.raises(BCCPError, match=r"train\.strategy=ddp_spawn needs a torchvision that is built for this torch"):
            fit(make_model(), tmp_path, devices=2, strategy=strategy)
        return
    monkeypatch.setenv("BCCP_HOME", str(tmp_path / "home"))
    images, targets = make_data()
    np.save(tmp_path / "images.npy", images)
    view = ImageView(np.load(tmp_path / "images.npy", mmap_mode="r"), None, np.arange(60), np.full(60, -1))
    options: dict[str, Any] = {"epochs": 4, "devices": 2, "strategy": strategy, "ema_decay": 0.5, "progress": True}
    model = make_model()
    history = fit(model, tmp_path / "a", (view, targets), **options)
    out, _ = capfd.readouterr()
    assert out.count("  epoch 4 of 4") == 1
    assert len(history.val_accuracy) == 4
    val_images, val_targets = make_data(30, seed=1)
    assert (classifier.probabilities(model, val_images).argmax(1) == val_targets.argmax(1)).mean() == max(history.val_accuracy) > 0.6
    assert list((tmp_path / "a").iterdir()) == []
    if strategy == "ddp_fork":  # what is patched here is patched in the processes too
        with monkeypatch.context() as patch:
            stop_in_epoch(patch, 3)
            with pytest.raises(torch.multiprocessing.ProcessRaisedException):
                fit(make_model(), tmp_path / "b", (view, targets), checkpoint=tmp_path / "c.pt", **options)
        again = make_model()
        assert fit(again, tmp_path / "b", (view, targets), checkpoint=tmp_path / "c.pt", **options).table().equals(history.table())
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())
    with pytest.raises(BCCPError, match=r"no longer finite in epoch \d+: choose a learning_rate below 1e\+30$"):
        fit(make_model(), tmp_path / "a", (view, targets), **options | {"learning_rate": 1e30, "ema_decay": 0.0})


def test_images_are_drawn_in_proportion_to_their_shares_as_many_an_epoch_as_there_are() -> None:
    shares = np.array([0.0, 1, 2, 3, 0] * 40)
    columns = np.zeros((200, 2), np.float32), np.ones(200, np.float32)
    batches = Batches(np.arange(200), *columns, 64, torch.Generator().manual_seed(0), shares)
    epochs = [torch.cat([inputs for inputs, _, _ in batches]).numpy() for _ in range(50)]
    assert {len(epoch) for epoch in epochs} == {200}
    assert epochs[0].tolist() != epochs[1].tolist()
    found = np.bincount(np.concatenate(epochs) % 5, minlength=5) / 10_000
    np.testing.assert_allclose(found, [0, 1 / 6, 2 / 6, 3 / 6, 0], atol=4 * 0.5 / np.sqrt(10_000))
    assert (found[[0, 4]] == 0).all()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(("schedule", "stops_early"), [("step", True), ("exponential", True), ("one_cycle", False), ("cosine", False)])
def test_only_a_schedule_without_a_planned_end_stops_when_the_validation_gets_no_better(
    tmp_path: Path, schedule: str, stops_early: bool, frozen: bool
) -> None:
    val = (make_data(30, seed=1)[0], np.roll(make_data(30, seed=1)[1], 1, axis=1))  # worse from epoch to epoch
    model = make_model(freeze_backbone=frozen)
    history = fit(model, tmp_path, val=val, epochs=12, learning_rate=0.01, patience=2, schedule=schedule)
    assert history.best_epoch == int(np.argmin(history.val_loss)) + 1 < 12  # of all epochs, whichever is the last
    assert len(history.train_loss) == (history.best_epoch + 2 if stops_early else 12)
    assert cross_entropy(model, *val).mean() == pytest.approx(min(history.val_loss), rel=1e-5)
    if not stops_early:
        assert history.learning_rate[-1] == pytest.approx(0, abs=1e-4)


def test_without_validation_images_the_last_epoch_is_the_best(tmp_path: Path) -> None:
    model = make_model()
    history = fit(model, tmp_path, val=(make_data(30)[0][:0], np.zeros((0, 3))), epochs=2, patience=1)
    assert history.best_epoch == 2
    assert list(history.table().columns) == ["epoch", "train_loss", "learning_rate"]
    assert all(torch.equal(value, history.last_state[key]) for key, value in model.state_dict().items())


def test_training_that_cannot_go_on_is_refused_in_one_sentence(tmp_path: Path) -> None:
    images, targets = make_data(6)
    with pytest.raises(BCCPError, match="at least 2 images with a weight above 0, not 1 of 1"):
        fit(make_model(), tmp_path, (images[:1], targets[:1]))
    with pytest.raises(BCCPError, match="not 0 of 6"):
        fit(make_model(), tmp_path, (images, targets), weights=np.zeros(6))
    with pytest.raises(BCCPError, match=r"no longer finite in epoch \d+: choose a learning_rate below 1e\+30"):
        fit(make_model(), tmp_path, learning_rate=1e30, epochs=5)
    assert list(tmp_path.iterdir()) == []


class StoppedError(Exception):
    """Stands for whatever ends a process."""


def stop_in_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int | None) -> None:
    """Let every training end when it begins this epoch, from 1 up."""
    begin = Task.on_train_epoch_start

    def maybe(self: Any) -> None:
        if self.n_epochs + 1 == epoch:
            raise StoppedError
        begin(self)

    monkeypatch.setattr(Task, "on_train_epoch_start", maybe)


@pytest.mark.parametrize(
    ("frozen", "options"),
    [
        (False, {}),
        (False, {"ema_decay": 0.9, "mixup_alpha": 0.3, "mirror": True, "optimizer": "adam", "schedule": "exponential", "decay": 0.8}),
        (False, {"val": (np.zeros((0, SIZE, SIZE, 3), np.uint8), np.zeros((0, N_CLASSES)))}),
        (True, {"ema_decay": 0.9}),
    ],
)
def test_a_training_that_was_stopped_goes_on_and_comes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], frozen: bool, options: dict[str, Any]
) -> None:
    monkeypatch.setenv("BCCP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    options, place = {"epochs": 6, **options}, tmp_path / "home" / "train-1.pt"
    undisturbed = make_model(freeze_backbone=frozen)
    expected = fit(undisturbed, tmp_path / "a", **options)
    for epoch in (3, 5):
        with monkeypatch.context() as patch:
            stop_in_epoch(patch, epoch)
            with pytest.raises(StoppedError):
                fit(make_model(freeze_backbone=frozen), tmp_path / "b", checkpoint=place, **options)
    assert "goes on after epoch 2 of 6" in capsys.readouterr().out
    torch.rand(9)
    model = make_model(freeze_backbone=frozen)
    history = fit(model, tmp_path / "b", checkpoint=place, **options)
    assert capsys.readouterr().out == "  goes on after epoch 4 of 6, where it was stopped\n"
    assert history.table().equals(expected.table())
    assert (history.best_epoch, len(history.seconds)) == (expected.best_epoch, 6)
    for state, of in ((model.state_dict(), undisturbed.state_dict()), (history.last_state, expected.last_state)):
        assert all(torch.equal(state[key], value) for key, value in of.items())
    assert [path.name for path in place.parent.rglob("*") if path.is_file()] == ["train-1.pt"]


def test_a_process_that_is_killed_in_the_middle_of_training_loses_an_epoch_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCCP_HOME", str(tmp_path / "home"))
    place, undisturbed, model = tmp_path / "home" / "train-1.pt", make_model(), make_model()
    fit(undisturbed, tmp_path / "a", epochs=60)
    process = multiprocessing.get_context("fork").Process(
        target=fit, args=(make_model(), tmp_path / "b"), kwargs={"epochs": 60, "checkpoint": place}
    )
    process.start()
    while not place.exists() and process.is_alive():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    begun: list[int] = []
    begin = Task.on_train_epoch_start
    monkeypatch.setattr(Task, "on_train_epoch_start", lambda self: begun.append(self.n_epochs) or begin(self))
    fit(model, tmp_path / "c", epochs=60, checkpoint=place)
    assert 1 <= begun[0] < 60
    assert begun == list(range(begun[0], 60))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in undisturbed.state_dict().items())


def test_a_training_that_was_stopped_has_as_much_patience_left_as_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCCP_HOME", str(tmp_path))
    val = (make_data(30, seed=1)[0], np.roll(make_data(30, seed=1)[1], 1, axis=1))
    options: dict[str, Any] = {"val": val, "epochs": 30, "patience": 3, "schedule": "exponential"}
    expected = fit(make_model(), tmp_path / "a", **options)
    stopped_in = len(expected.train_loss)
    assert expected.best_epoch == stopped_in - 3
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, stopped_in)
        with pytest.raises(StoppedError):
            fit(make_model(), tmp_path / "b", checkpoint=tmp_path / "c.pt", **options)
    assert fit(make_model(), tmp_path / "b", checkpoint=tmp_path / "c.pt", **options).table().equals(expected.table())


def test_a_checkpoint_that_is_damaged_or_of_another_training_is_ignored_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BCCP_HOME", str(tmp_path))
    place = tmp_path / "train-1.pt"
    undisturbed = make_model()
    fit(undisturbed, tmp_path / "a")
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, 3)
        with pytest.raises(StoppedError):
            fit(make_model(), tmp_path / "b", checkpoint=place)
    whole = place.read_bytes()
    middle = len(whole) // 2
    torch.save({"weights": Malice(tmp_path / "victim")}, tmp_path / "malice.pt")
    bad = {
        "half": (place, whole[:middle], "is damaged"),
        "one byte": (place, whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], "is damaged"),
        "empty": (place, b"", "is damaged"),
        "code": (place, (tmp_path / "malice.pt").read_bytes(), "is damaged"),
        "foreign": (tmp_path / "train-2.pt", whole, r"is of another training \(train-1\.pt\)"),
    }
    for path, content, words in bad.values():
        path.write_bytes(content)
        model = make_model()
        fit(model, tmp_path / "b", checkpoint=path)
        (line,) = capsys.readouterr().out.splitlines()
        assert re.fullmatch(rf"  the checkpoint {re.escape(str(path))} {words}.*, and ignored", line)
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in undisturbed.state_dict().items())
    assert not (tmp_path / "victim").exists()


def test_a_full_disk_takes_the_checkpoint_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("BCCP_HOME", str(tmp_path))
    monkeypatch.setattr(torch, "save", full)
    history = fit(make_model(), tmp_path / "a", checkpoint=tmp_path / "c.pt")
    assert len(history.train_loss) == 3
    assert capsys.readouterr().out.count("no checkpoint of epoch") == 2
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_interrupt_stays_an_interrupt(tmp_path: Path) -> None:
    class Interrupted(Counted):
        def __getitem__(self, idx: np.ndarray) -> np.ndarray:
            raise KeyboardInterrupt

    images, targets = make_data()
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), tmp_path, (Interrupted(images), targets))
    assert signal.getsignal(signal.SIGINT) is handler
    assert list(tmp_path.iterdir()) == []


def test_progress_is_a_few_plain_lines_where_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(make_model(freeze_backbone=True), tmp_path, epochs=2)
    assert capsys.readouterr() == ("", "")
    fit(make_model(freeze_backbone=True), tmp_path, epochs=12, progress=True)
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"  epoch {epoch} of 12" for epoch in (3, 6, 9, 12)]
    assert "val_accuracy" in lines[-1]


def test_augmentation_is_drawn_from_its_generator_and_leaves_its_input_as_it_is() -> None:
    images = torch.from_numpy(make_data(8)[0]).permute(0, 3, 1, 2) / 255
    before = images.clone()
    a, b = (batch_augmentation.generic(images, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    other = batch_augmentation.generic(images, generator=torch.Generator().manual_seed(6))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    assert torch.equal(images, before)
    assert a.shape == images.shape
    assert 0 <= a.min() <= a.max() <= 1


def test_moved_images_turn_shrink_and_shift_within_their_bounds() -> None:
    # one bright point, a quarter of the side away from the centre
    n, size = 400, 64
    images = torch.zeros(n, 1, size, size)
    images[:, :, 30:34, 46:50] = 1
    moved = batch_augmentation.move(images, generator=torch.Generator().manual_seed(0))[:, 0]
    mass = moved.sum((1, 2))
    centres = (torch.arange(size) + 0.5) / size - 0.5
    x, y = (moved.sum(1) @ centres) / mass, (moved.sum(2) @ centres) / mass
    farthest = 0.25 * np.exp(batch_augmentation.LOG_SCALE) + np.sqrt(2) * batch_augmentation.SHIFT * np.exp(batch_augmentation.LOG_SCALE)
    assert torch.hypot(x, y).max() <= farthest + 0.01
    assert x.std() > 0.02
    assert y.std() > 0.02
    flat = torch.full((4, 3, 16, 16), 0.25)
    torch.testing.assert_close(batch_augmentation.move(flat, generator=torch.Generator()), flat)


def test_erased_parts_are_rectangles_of_one_grey() -> None:
    n, size = 600, 20
    images = torch.zeros(n, 3, size, size) - 1  # no grey is negative
    erased = batch_augmentation.erase(images, generator=torch.Generator().manual_seed(0))
    changed = erased[:, 0] >= 0
    assert torch.equal(erased[:, 0], erased[:, 1])
    n_greys = [len(torch.unique(image[mask])) for image, mask in zip(erased[:, 0], changed, strict=True)]
    assert max(n_greys) == batch_augmentation.RECTANGLES
    # each number from none at all up is as likely; a rectangle may also be hidden or wholly cut off, but rarely
    none = 1 / (batch_augmentation.RECTANGLES + 1)
    assert none - 0.05 < np.mean(np.array(n_greys) == 0) < none + 0.07
    single = changed[np.array(n_greys) == 1]
    rows, columns = single.any(2), single.any(1)
    assert torch.equal(single, rows[:, :, None] & columns[:, None, :])
    assert rows.sum(1).max() <= batch_augmentation.SIDE[1] * size + 1


def test_mirrored_images_are_the_image_or_its_mirror_image_half_the_time() -> None:
    images = torch.rand(400, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    before = images.clone()
    found = batch_augmentation.mirror(images, generator=torch.Generator().manual_seed(0))
    turned = np.array([torch.equal(a, b) for a, b in zip(found, images.flip(-1), strict=True)])
    kept = np.array([torch.equal(a, b) for a, b in zip(found, images, strict=True)])
    assert (turned ^ kept).all()
    assert abs(turned.mean() - 0.5) < 4 * 0.5 / np.sqrt(400)
    assert torch.equal(images, before)


def test_mixup_gives_each_image_its_share_of_both_weighted_losses() -> None:
    rng = np.random.default_rng(0)
    inputs, logits = torch.from_numpy(rng.random((6, 3, 2, 2))), torch.from_numpy(rng.normal(0, 1, (6, 4)))
    targets, weights = torch.from_numpy(rng.dirichlet(np.ones(4), 6)), torch.from_numpy(rng.random(6))
    weights[:4] = 0
    mixed, mixed_targets, mixed_weights = batch_augmentation.mix(
        inputs, targets, weights, alpha=0.5, generator=torch.Generator().manual_seed(3)
    )
    # find the share and the partners from the pixels
    draw = torch.Generator().manual_seed(3)
    share = np.random.default_rng(int(torch.randint(2**62, (1,), generator=draw))).beta(0.5, 0.5)
    other = torch.randperm(6, generator=draw)
    assert (other != torch.arange(6)).any()
    torch.testing.assert_close(mixed, share * inputs + (1 - share) * inputs[other])
    for name, loss in LOSSES.items():
        apart = share * weights * loss(logits, targets)
        apart += (1 - share) * weights[other] * loss(logits, targets[other])
        torch.testing.assert_close(mixed_weights * loss(logits, mixed_targets), apart, msg=name)
    counted = mixed_weights > 0
    torch.testing.assert_close(mixed_targets.sum(1), counted.double())
    assert not counted.all()


def test_the_share_of_mixup_has_the_beta_distribution() -> None:
    ones, alpha = torch.ones(2, 1), 0.3
    images, generator = torch.tensor([[0.0], [1.0]]), torch.Generator().manual_seed(0)
    drawn = [batch_augmentation.mix(images, ones, ones[:, 0], alpha=alpha, generator=generator)[0][0, 0].item() for _ in range(1000)]
    shares = np.array([min(value, 1 - value) for value in drawn])
    expected = np.random.default_rng(0).beta(alpha, alpha, 100_000)
    folded = np.minimum(expected, 1 - expected)
    changed = shares > 0  # where an image is its own partner nothing is seen
    assert 0.4 < changed.mean() < 0.6
    assert abs(shares[changed].mean() - folded.mean()) < 4 * folded.std() / np.sqrt(changed.sum())


@pytest.fixture(scope="module")
def plain_head(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., torch.Tensor]:
    """The head's weights after a training with nothing but an augmentation, trained once."""

    @functools.cache
    def train(frozen: bool, augmentation: str) -> torch.Tensor:
        model = make_model(freeze_backbone=frozen)
        rate = {"learning_rate": 0.05} if frozen else {}
        fit(model, tmp_path_factory.mktemp("plain"), epochs=8, augmentation=augmentation, **rate)
        return model.head[1].weight

    return train


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "anl_fl"},
        {"mixup_alpha": 0.3},
        {"ema_decay": 0.9},
        {"mirror": True, "augmentation": "none"},
        {"loss": "jal_ce", "mirror": True},
    ],
)
@pytest.mark.parametrize("frozen", [False, True])
def test_every_part_of_the_recipe_learns_and_is_repeatable(
    tmp_path: Path, plain_head: Callable[..., torch.Tensor], options: dict[str, Any], frozen: bool
) -> None:
    states, accuracies = [], []
    for _ in range(2):
        model, (val_images, val_targets) = make_model(freeze_backbone=frozen), make_data(30, seed=1)
        history = fit(model, tmp_path, epochs=8, **({"learning_rate": 0.05} if frozen else {}), **options)
        accuracies.append((classifier.probabilities(model, val_images).argmax(1) == val_targets.argmax(1)).mean())
        assert accuracies[-1] == pytest.approx(history.val_accuracy[history.best_epoch - 1])
        states.append(model.state_dict())
    assert accuracies[0] > 0.9
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert not torch.equal(plain_head(frozen, options.get("augmentation", "generic")), states[0]["head.1.weight"])


def test_the_averaged_weights_are_the_moving_average_of_the_steps_and_are_what_is_validated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[torch.Tensor] = []
    update = Task.on_train_batch_end

    def noting(self: Any, *others: Any) -> None:
        steps.append(self.network.backbone[0].weight.detach().clone())
        update(self, *others)

    monkeypatch.setattr(Task, "on_train_batch_end", noting)
    model, val = make_model(), make_data(30, seed=1)
    history = fit(model, tmp_path, val=val, epochs=3, ema_decay=0.5)
    assert len(steps) == 3 * 4
    average = steps[0]
    for number, weight in enumerate(steps[1:], 1):
        decay = min(0.5, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(history.last_state["backbone.0.weight"], average)
    assert cross_entropy(model, *val).mean() == pytest.approx(min(history.val_loss), rel=1e-4)
    model.load_state_dict(history.last_state)
    assert cross_entropy(model, *val).mean() == pytest.approx(history.val_loss[-1], rel=1e-4)
    assert int(model.backbone[1].num_batches_tracked) == len(steps)


def test_the_l1_norm_of_what_learns_is_added_to_the_loss_but_not_to_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    images, targets = (torch.from_numpy(part) for part in make_data(8))
    model = make_model(dropout=0.0).train()
    model.backbone[0].weight.requires_grad_(False)
    norm = sum(float(parameter.detach().abs().sum()) for parameter in model.parameters() if parameter.requires_grad)
    weights = torch.linspace(0.5, 1.5, 8)
    by_hand = float((weights * LOSSES["anl_ce"](model(images), targets)).mean().detach())
    monkeypatch.setattr(anl_ce, "l1", 0.01)
    options = TrainingOptions(epochs=1, learning_rate=0.1, batch_size=8, augmentation="none", loss="anl_ce")
    task = Task(model, [], torch.Generator(), options, epoch_steps=1)
    task.on_train_epoch_start()
    loss = float(task.training_step((images, targets, weights), 0).detach())
    assert loss == pytest.approx(by_hand + 0.01 * norm, rel=1e-5)
    assert task.sums.tolist() == pytest.approx([8 * by_hand, 8], rel=1e-5)


def test_a_mirrored_model_is_blind_to_mirroring_and_says_so(tmp_path: Path) -> None:
    model, images = make_model(), make_data(20)[0]
    images[:, :, :5] = 0
    fit(model, tmp_path, mirror=True, epochs=2)
    assert model.mirrored
    np.testing.assert_allclose(classifier.logits(model, images), classifier.logits(model, images[:, :, ::-1].copy()), atol=1e-5)
    plain = make_model()
    fit(plain, tmp_path, epochs=2)
    assert not plain.mirrored
