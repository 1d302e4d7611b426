"""The judge on frozen features as a whole: wrong labels are found, right ones left alone, and no image is judged by its own label."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from bccp.labels.frozen_judge import FrozenJudgement, judge_given_labels
from bccp.models.logistic_regression import fit_scaling

K = 3


def photographs(n_images: int, *, seed: int = 0, blur: float = 1.0, moved: float = 0.0) -> tuple[list[np.ndarray], np.ndarray]:
    """Two views of images, and their classes."""
    rng = np.random.default_rng(seed)
    true = rng.integers(K, size=n_images)
    centres = 2 * np.random.default_rng(99).normal(size=(K, 8))
    signal = centres[true] + blur * rng.normal(size=(n_images, 8))
    return [signal + 0.5 * rng.normal(size=signal.shape) + moved * np.arange(8) for _ in range(2)], true


def judge(known: list[np.ndarray], true: np.ndarray, new: list[np.ndarray], given: np.ndarray, **others: Any) -> FrozenJudgement:
    scalings = [fit_scaling(a, b) for a, b in zip(known, new, strict=True)]
    folds = {"trusted_folds": np.arange(len(true)) % 4, "new_folds": np.arange(len(given)) % 4} | others
    scaled = [[scaling.apply(view) for scaling, view in zip(scalings, views, strict=True)] for views in (known, new)]
    return judge_given_labels(scaled[0], true, scaled[1], given, n_classes=K, **folds)


def flipped(true: np.ndarray, share: float, *, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(true)) < share, (true + rng.integers(1, K, len(true))) % K, true)


@pytest.fixture(scope="module")
def days() -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray], np.ndarray]:
    known, true = photographs(120)
    new, new_true = photographs(240, seed=1)
    return known, true, new, new_true


@pytest.fixture(scope="module")
def noisy(days) -> tuple[np.ndarray, FrozenJudgement]:
    known, true, new, new_true = days
    given = flipped(new_true, 0.3)
    return given, judge(known, true, new, given)


def test_wrong_labels_are_found_and_their_share_is_known(days, noisy):
    new_true, (given, found) = days[3], noisy
    wrong = 1 - found.posterior[np.arange(240), given]
    assert wrong[given != new_true].mean() > 0.85
    assert wrong[given == new_true].mean() < 0.1
    assert wrong.mean() == pytest.approx((given != new_true).mean(), abs=0.04)
    assert (found.posterior.argmax(axis=1) == new_true).mean() > 0.92
    for table in (found.posterior, found.probs):
        np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-9)


def test_what_was_chosen_is_told_in_numbers_that_json_holds(noisy):
    numbers = json.loads(json.dumps(noisy[1].numbers()))
    assert numbers["noise_model"] == "uniform"
    assert set(numbers["log_likelihoods"]) == set(numbers["costs"])
    assert numbers["second_round"]["accepted"] == (numbers["second_round"]["gain"] >= numbers["second_round"]["needed"])
    assert len(numbers["weights"]) == len(numbers["settings"]) == 4


def test_right_labels_are_left_alone(days):
    known, true, new, new_true = days
    found = judge(known, true, new, new_true)
    wrong = 1 - found.posterior[np.arange(240), new_true]
    assert wrong.mean() < 0.01
    assert wrong.max() < 0.8


def test_an_image_is_not_judged_by_its_own_label_nor_by_that_of_a_copy(days, noisy):
    known, true, new, _ = days
    given, before = noisy
    poisoned = given.copy()
    poisoned[:4] = (given[:4] + 1) % K  # one image of each fold
    after = judge(known, true, new, poisoned)
    # p(z | x) of these moves as little as that of all others: by what four of 240 labels do to the rest
    moved = np.abs(after.probs - before.probs).max(axis=1)
    assert moved[:4].max() < max(0.05, 2 * np.quantile(moved[4:], 0.99))


def test_a_trusted_image_does_not_judge_itself_through_its_teacher(days):
    known, true, new, new_true = days
    rng = np.random.default_rng(1234)
    noise = rng.integers(K, size=len(true))  # trusted labels that say nothing: any skill on them is a leak
    found = judge(known, noise, new, new_true)
    assert min(of_round.trusted_log_loss for of_round in found.rounds) > np.log(K) - 0.08


def test_a_second_round_that_gains_nothing_does_not_count(days):
    known, true, new, new_true = days
    found = judge(known, true, new, flipped(new_true, 0.3))
    first, second = (of_round.noise.estimate.log_likelihood for of_round in found.rounds)
    assert found.accepted == (second - first >= 3)
    assert found.noise is found.rounds[found.accepted].noise


def test_the_anchor_is_loosened_where_the_new_images_look_unlike_the_trusted_ones(days, noisy):
    known, true, _, _ = days
    assert noisy[1].separability < 0.65
    assert noisy[1].anchor_worth == 120
    new, new_true = photographs(200, seed=2, moved=1.0)
    found = judge(known, true, new, flipped(new_true, 0.2))
    assert found.separability > 0.9
    assert found.anchor_worth == 100


def test_the_same_images_give_the_same_bytes(days, noisy):
    known, true, new, _ = days
    assert judge(known, true, new, noisy[0]).posterior.tobytes() == noisy[1].posterior.tobytes()


def test_the_order_of_the_images_hardly_matters(days, noisy):
    known, true, new, _ = days
    order, given = np.random.default_rng(3).permutation(240), noisy[0]
    found = judge(known, true, [view[order] for view in new], given[order], new_folds=(np.arange(240) % 4)[order])
    np.testing.assert_allclose(found.posterior, noisy[1].posterior[order], atol=0.02)


def test_one_view_is_enough(days):
    known, true, new, new_true = days
    given = flipped(new_true, 0.3)
    found = judge(known[:1], true, new[:1], given)
    assert len(found.settings) == 3
    assert (found.posterior.argmax(axis=1) == new_true).mean() > 0.9


def test_a_class_without_a_trusted_image_does_no_harm(days):
    known, true, new, new_true = days
    two = true < 2
    found = judge([view[two] for view in known], true[two], new, new_true)
    assert np.isfinite(found.posterior).all()


def test_a_fold_without_a_trusted_image_is_refused(days):
    known, true, new, new_true = days
    with pytest.raises(ValueError, match="each fold needs a trusted image"):
        judge(known, true, new, new_true, trusted_folds=np.arange(120) % 3)
