"""The stack of judges: sums by hand, weights that calibrate, and judges of noise that are not heeded."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax

from bccp.labels.feature_judges import mean_log_loss
from bccp.labels.judge_stack import Stack, fit_stack, mean_stack


def draw(n_images: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log probabilities, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet([0.5, 0.5, 0.5], n_images)
    return np.log(probs), (probs.cumsum(axis=1) < rng.random(n_images)[:, None]).sum(axis=1).clip(max=2)


def test_scores_are_the_weighted_sum_of_log_probabilities():
    one, two = np.array([[1.0, 2.0, 0.0]]), np.array([[0.0, 0.0, 3.0]])
    stack = Stack(np.array([0.5, 2.0]), np.array([0.1, 0.0, -0.1]))
    expected = 0.5 * log_softmax(one, axis=1) + 2 * log_softmax(two, axis=1) + [[0.1, 0.0, -0.1]]
    np.testing.assert_allclose(stack(scores for scores in (one, two)), expected)


def test_the_mean_of_equal_judges_is_any_of_them():
    scores, _ = draw(5)
    np.testing.assert_allclose(mean_stack(3, 3)([scores] * 3), log_softmax(scores, axis=1), atol=1e-12)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_one_judge_is_calibrated(sharpness: float):
    scores, labels = draw(4000)
    stack = fit_stack([sharpness * scores], labels)
    assert stack.weights[0] == pytest.approx(1 / sharpness, rel=0.1)
    assert np.abs(stack.offsets).max() < 0.15


def test_given_labels_of_known_noise_calibrate_as_true_ones_do():
    scores, labels = draw(6000)
    noise = np.array([[0.7, 0.3, 0.0], [0.0, 0.7, 0.3], [0.3, 0.0, 0.7]])
    given = np.where(np.random.default_rng(2).random(6000) < 0.3, (labels + 1) % 3, labels)
    assert fit_stack([2 * scores], given, noise).weights[0] == pytest.approx(0.5, rel=0.1)
    assert fit_stack([2 * scores], given).weights[0] < 0.35
    plain = fit_stack([2 * scores], labels)
    np.testing.assert_allclose(fit_stack([2 * scores], labels, np.eye(3)).weights, plain.weights)


def test_a_judge_of_noise_is_hardly_heeded():
    scores, labels = draw(2000)
    noise = np.random.default_rng(1).normal(size=scores.shape)
    stack = fit_stack([scores, noise], labels)
    assert stack.weights[1] < 0.1 * stack.weights[0]
    assert mean_log_loss(stack([scores, noise]), labels) < mean_log_loss(mean_stack(2, 3)([scores, noise]), labels)


def test_a_class_that_judges_slight_is_raised():
    scores, labels = draw(2000)
    slighting = scores - [[2.0, 0.0, 0.0]]
    offsets = fit_stack([slighting], labels).offsets
    assert offsets[0] - offsets[1] == pytest.approx(2, abs=0.3)


def test_few_images_change_little():
    scores, labels = draw(3)
    np.testing.assert_allclose(fit_stack([scores, scores], labels).weights, 0.5, rtol=0.9)


def test_the_order_of_the_images_does_not_matter():
    scores, labels = draw(300)
    order = np.random.default_rng(2).permutation(300)
    np.testing.assert_allclose(fit_stack([scores], labels).weights, fit_stack([scores[order]], labels[order]).weights, rtol=1e-6)
