"""Noise and temperature with nothing trusted: two models, as a plain loop computes them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from bccp.labels.posterior import uniform_noise
from bccp.labels.untrusted_noise import TEMPERATURES, fit_matrix_noise, fit_uniform_noise
from tests.support import plain_untrusted

PAIR = 0.7 * np.eye(3) + 0.3 * np.roll(np.eye(3), 1, axis=1)
FITS = [fit_uniform_noise, fit_matrix_noise]


def pick(probs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (probs.cumsum(axis=1) < rng.random(len(probs))[:, None]).sum(axis=1).clip(max=probs.shape[1] - 1)


def draw(n_images: int, noise: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores whose softmax is calibrated, true labels, and given labels by a matrix."""
    rng = np.random.default_rng(seed)
    scores = 2.5 * rng.normal(size=(n_images, len(noise)))
    true = pick(softmax(scores, axis=1), rng)
    return scores, true, pick(noise[true], rng)


def said(posterior: np.ndarray, given: np.ndarray) -> float:
    """The mean of P(wrong)."""
    return float(1 - posterior[np.arange(len(given)), given].mean())


@pytest.mark.parametrize(
    ("fit", "plain"), [(fit_uniform_noise, plain_untrusted.uniform_noise), (fit_matrix_noise, plain_untrusted.matrix_noise)]
)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_loop_over_images_finds_the_same(fit, plain, n_classes: int):
    scores, _, given = draw(30, uniform_noise(0.7, n_classes), seed=n_classes)
    found, slow = fit(scores, given), plain(scores, given)
    np.testing.assert_allclose(found.posterior, slow.posterior, atol=1e-5)
    np.testing.assert_allclose(found.noise_matrix, slow.matrix, atol=1e-9)
    assert found.log_likelihood == pytest.approx(slow.log_likelihood)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4])
def test_the_share_of_wrong_labels_and_the_temperature_are_found_together(fit, rate: float):
    scores, true, given = draw(3000, uniform_noise(1 - rate, 3))
    found = fit(1.5 * scores, given)
    assert said(found.posterior, given) == pytest.approx((given != true).mean(), abs=0.03)
    assert found.temperature == pytest.approx(1.5, rel=0.3)
    np.testing.assert_allclose(found.posterior.sum(axis=1), 1)
    np.testing.assert_allclose(found.noise_matrix.sum(axis=1), 1)


def test_a_matrix_is_found_where_people_confuse_classes_and_is_then_the_likelier_model():
    scores, true, given = draw(3000, PAIR)
    uniform, matrix = fit_uniform_noise(scores, given), fit_matrix_noise(scores, given)
    assert matrix.log_likelihood > uniform.log_likelihood + 30
    np.testing.assert_allclose(matrix.noise_matrix, PAIR, atol=0.1)
    assert said(matrix.posterior, given) == pytest.approx((given != true).mean(), abs=0.05)


@pytest.mark.parametrize("fit", FITS)
def test_the_order_of_the_images_does_not_matter(fit):
    scores, _, given = draw(400, PAIR)
    order = np.random.default_rng(5).permutation(400)
    one, other = fit(scores, given), fit(scores[order], given[order])
    np.testing.assert_allclose(one.posterior[order], other.posterior, atol=1e-9)
    assert one.log_likelihood == pytest.approx(other.log_likelihood)


@pytest.mark.parametrize("fit", FITS)
def test_a_class_that_no_one_names_and_certain_scores_are_no_obstacle(fit):
    scores = 1000 * np.eye(4)[np.arange(60) % 3]
    found = fit(scores, (np.arange(60) + (np.arange(60) < 5)) % 3)
    assert np.isfinite(found.posterior).all()
    assert np.isfinite(found.log_likelihood)
    assert found.temperature in TEMPERATURES
