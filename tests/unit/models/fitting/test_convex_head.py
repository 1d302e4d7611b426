"""Heads that are fitted at once: what they learn from, how their penalty is chosen, and that any reader of models can use them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bccp.core.errors import BCCPError
from bccp.data.array_types import Float, Index
from bccp.data.dataset import FeatureView
from bccp.models import classifier, logistic_regression
from bccp.models.architectures import ImageClassifier
from bccp.models.fitting import convex_head
from bccp.models.fitting.convex_head import fit_head
from bccp.models.fitting.training_options import TrainingData

pytestmark = pytest.mark.usefixtures("one_thread")

N_FEATURES, N_CLASSES = 12, 3


def make_model(n_features: int = N_FEATURES) -> ImageClassifier:
    """Its features are given, and its head is as yet drawn at random."""
    parts = {"architecture": "none", "image_size": 8, "dropout": 0.5, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ImageClassifier(nn.Identity(), n_features, N_CLASSES, **parts)
    model.freeze_backbone()
    return model.eval()


def clusters(n: int, seed: int = 0, *, spread: float = 6.0) -> tuple[Float, Index]:
    """Features far from 0 around a centre a class, and the classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % N_CLASSES
    centres = np.random.default_rng(99).normal(0, 3, (N_CLASSES, N_FEATURES))
    return 20 + centres[labels] + rng.normal(0, spread, (n, N_FEATURES)), labels


def data(features: Float, labels: Index, **more: Any) -> TrainingData:
    view = FeatureView([features.astype(np.float32)], np.zeros(len(features), np.int64), np.arange(len(features)), features.shape[1])
    return TrainingData(view, np.eye(N_CLASSES, dtype=np.float32)[labels], **more)


def weights_of(model: ImageClassifier) -> bytes:
    return b"".join(value.numpy().tobytes() for value in model.head.state_dict().values())


def test_the_head_is_the_logistic_regression_of_scaled_features_with_the_penalty_that_validation_chose() -> None:
    (features, labels), (held, truth) = clusters(90), clusters(60, seed=1)
    model = make_model()
    history = fit_head(model, data(features, labels), data(held, truth))
    scaling = logistic_regression.fit_scaling(features, held)
    expected = logistic_regression.fit_by_validation(scaling.apply(features), np.eye(3)[labels], scaling.apply(held), np.eye(3)[truth])
    new = clusters(30, seed=2)[0]
    found = classifier.logits(model, data(new, np.zeros(30, int)).images)
    np.testing.assert_allclose(found, expected.model.scores(scaling.apply(new)), atol=1e-4)
    assert history.strength == [trial.strength for trial in expected.trials]
    assert history.strength[history.best_epoch - 1] == expected.strength
    assert not model.training


def test_the_history_tells_what_was_tried_and_chosen() -> None:
    history = fit_head(make_model(), data(*clusters(90)), data(*clusters(60, seed=1)))
    table, figures = history.table(), history.figures()
    assert table.columns.tolist() == ["epoch", "strength", "train_loss", "val_loss", "val_accuracy"]
    best = table["val_loss"].argmin()
    assert figures == {"loss": table["train_loss"][best]} | {name: table[name][best] for name in ("strength", "val_loss", "val_accuracy")}
    assert set(figures) == {"loss", "strength", "val_loss", "val_accuracy"}
    assert history.sentence() == f"logistic regression, of {len(table)} penalties tried {figures['strength']:g} was best"


def test_the_same_images_give_the_same_bytes_whatever_the_head_was_before() -> None:
    one, other = make_model(), make_model()
    nn.init.ones_(other.head[1].weight)
    for model in (one, other):
        fit_head(model, data(*clusters(90)), data(*clusters(60, seed=1)), seed=5)
    assert weights_of(one) == weights_of(other)


def test_validation_images_are_learnt_from_once_they_have_chosen() -> None:
    features, labels = clusters(12)
    held, truth = clusters(240, seed=1)
    with_them, without = make_model(), make_model()
    fit_head(with_them, data(features, labels), data(held, truth))
    fit_head(without, data(features, labels), None)
    new, kinds = clusters(600, seed=2)
    right = [(classifier.logits(model, data(new, kinds).images).argmax(axis=1) == kinds).mean() for model in (with_them, without)]
    assert right[0] > right[1] + 0.05


@pytest.mark.parametrize("trusted", [True, False])
def test_without_trusted_validation_images_folds_choose_that_keep_copies_together(monkeypatch: pytest.MonkeyPatch, trusted: bool) -> None:
    (features, labels), (held, truth) = clusters(90), clusters(30, seed=1)
    groups = np.concatenate([np.arange(90) // 2, np.arange(30)])  # the validation's images are copies of the first groups'
    seen: list[Index] = []
    fit_by_folds = convex_head.fit_by_folds
    monkeypatch.setattr(convex_head, "fit_by_folds", lambda *given, **more: seen.append(given[2]) or fit_by_folds(*given, **more))
    history = fit_head(make_model(), data(features, labels), data(held, truth), trusted=trusted, groups=groups)
    assert len(seen) == (not trusted)
    assert len(history.val_loss) == len(history.strength)
    if seen:
        assert len(seen[0]) == 120
        assert set(seen[0].tolist()) == set(range(convex_head.FOLDS))
        for group in range(45):
            assert len(set(seen[0][groups == group].tolist())) == 1


def test_images_and_classes_count_as_their_weights_say() -> None:
    features, labels = clusters(90)
    again, each = np.flatnonzero(labels == 0), np.arange(90)
    repeated = data(np.concatenate([features, features[again]]), np.concatenate([labels, labels[again]]))
    plain, weighted, balanced, twice = (make_model() for _ in range(4))
    fit_head(plain, data(features, labels), None)
    fit_head(weighted, data(features, labels, weights=1 + (labels == 0)), None)
    fit_head(balanced, data(features, labels, class_weights=np.array([2.0, 1.0, 1.0])), None)
    fit_head(twice, repeated, None, groups=np.concatenate([each, again]))
    assert weights_of(balanced) == weights_of(weighted)
    new = data(clusters(300, seed=2)[0], np.zeros(300, int)).images
    share = [(classifier.logits(model, new).argmax(axis=1) == 0).mean() for model in (plain, weighted, twice)]
    assert share[1] > share[0] + 0.02
    assert share[1] == pytest.approx(share[2], abs=0.03)


def test_classes_count_alike_in_the_validation_images_too() -> None:
    (features, labels), (held, truth) = clusters(90), clusters(60, seed=1)
    factors, model = np.array([4.0, 1.0, 1.0]), make_model()
    fit_head(model, data(features, labels, class_weights=factors), data(held, truth))
    scaling = logistic_regression.fit_scaling(features, held)
    known = scaling.apply(features), np.eye(3)[labels], scaling.apply(held), np.eye(3)[truth]
    expected = logistic_regression.fit_by_validation(*known, weights=factors[labels], held_weights=factors[truth])
    found = classifier.logits(model, data(held, truth).images)
    np.testing.assert_allclose(found, expected.model.scores(known[2]), atol=1e-3)


def test_images_without_weight_are_in_no_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Float] = []
    fit_by_folds = convex_head.fit_by_folds
    monkeypatch.setattr(convex_head, "fit_by_folds", lambda *given, **more: seen.append(more["weights"]) or fit_by_folds(*given, **more))
    fit_head(make_model(), data(*clusters(90), weights=np.arange(90) % 3), None)
    assert len(seen[0]) == 60
    assert seen[0].min() > 0


def test_images_without_weight_do_not_count() -> None:
    features, labels = clusters(90)
    spoilt = np.concatenate([features, 1 - features]), np.concatenate([labels, labels])
    clean, told = make_model(), make_model()
    fit_head(clean, data(features, labels), data(*clusters(60, seed=1)))
    fit_head(told, data(*spoilt, weights=np.repeat([1, 0], 90)), data(*clusters(60, seed=1)))
    new = data(*clusters(60, seed=2))
    agree = classifier.logits(clean, new.images).argmax(axis=1) == classifier.logits(told, new.images).argmax(axis=1)
    assert agree.mean() > 0.95


def test_copies_of_a_single_image_have_nothing_to_choose_a_penalty_by() -> None:
    features, labels = clusters(4)
    history = fit_head(make_model(), data(features, labels), None, groups=np.zeros(4, int))
    assert history.strength == [convex_head.UNCHOSEN]
    assert history.val_loss == []
    assert set(history.figures()) == {"loss", "strength"}


def test_fewer_than_two_images_are_refused() -> None:
    with pytest.raises(BCCPError, match="training needs at least 2 images with a weight above 0, not 1 of 3"):
        fit_head(make_model(), data(*clusters(3), weights=[0, 1, 0]), None)


def test_pixels_are_embedded_first() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    images[::2, :, :, 0] //= 4
    model = classifier.build_classifier("small_cnn", 2, image_size=16, dropout=0.2, seed=0, freeze_backbone=True)
    fit_head(model, TrainingData(images, np.eye(2, dtype=np.float32)[np.arange(40) % 2]), None)
    assert (classifier.probabilities(model, images).argmax(axis=1) == np.arange(40) % 2).mean() > 0.9


def test_more_columns_are_kept_of_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convex_head, "LEAST_COLUMNS", 3)
    monkeypatch.setattr(convex_head, "MOST_COLUMNS", 8)
    kept: list[int] = []
    scaling = convex_head.fit_scaling
    monkeypatch.setattr(convex_head, "fit_scaling", lambda *given, columns: kept.append(columns) or scaling(*given, columns=columns))
    for n in (30, 90, 300):
        fit_head(make_model(), data(*clusters(n)), None)
    assert kept == [3, 5, 8]
