"""Noise and temperature, fitted together: noise that was drawn is found, and by the model that it was drawn from."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from bccp.labels import anchored_noise
from bccp.labels.anchored_noise import (
    GUESS_COST,
    MATRIX_SMOOTHING,
    NO_ANCHOR,
    TEMPERATURES,
    UNIFORM_SMOOTHING,
    LabelNoise,
    anchor,
    choose_noise,
    choose_noise_and_offsets,
    fit_guesses,
    fit_matrix,
    fit_uniform,
    matrix_cost,
)
from bccp.labels.posterior import label_posterior, uniform_noise

PAIR = 0.7 * np.eye(3) + 0.3 * np.roll(np.eye(3), 1, axis=1)


def pick(probs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (probs.cumsum(axis=1) < rng.random(len(probs))[:, None]).sum(axis=1).clip(max=probs.shape[1] - 1)


def draw(n_images: int, noise: np.ndarray, *, seed: int = 0, guesses: float = 0.0, shares: list[float] | None = None):
    """Scores whose softmax is calibrated, true labels, and given labels by a matrix, a share of them guessed at a temperature of 2."""
    rng = np.random.default_rng(seed)
    scores = 2.5 * rng.normal(size=(n_images, len(noise)))
    probs = softmax(scores, axis=1) if shares is None else softmax(scores + np.log(shares), axis=1)
    true = pick(probs, rng)
    given = pick(noise[true], rng)
    guessed = rng.random(n_images) < guesses
    given[guessed] = pick(softmax(scores / 2, axis=1), rng)[guessed]
    return scores, true, given


def said(estimate: anchored_noise.NoiseEstimate, scores: np.ndarray, given: np.ndarray) -> float:
    """The mean of P(wrong)."""
    return float(1 - estimate.posterior(scores, given)[np.arange(len(given)), given].mean())


def test_posterior_of_one_noise_is_bayes_rule():
    scores, _, given = draw(20, PAIR)
    noise = LabelNoise(2.0, PAIR)
    np.testing.assert_allclose(noise.posterior(scores, given), label_posterior(softmax(scores / 2, axis=1), given, PAIR), atol=1e-12)


def test_a_guess_says_nothing_of_the_true_class():
    scores, _, given = draw(20, PAIR)
    noise = LabelNoise(1.0, PAIR, guess_share=1.0, softness=2.0)
    np.testing.assert_allclose(noise.posterior(scores, given), softmax(scores, axis=1), atol=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4])
def test_uniform_noise_is_found_with_its_share_and_temperature(rate: float):
    scores, true, given = draw(3000, uniform_noise(1 - rate, 3))
    estimate = fit_uniform(1.5 * scores, given)
    assert said(estimate, 1.5 * scores, given) == pytest.approx((given != true).mean(), abs=0.03)
    assert estimate.temperature == pytest.approx(1.5, rel=0.25)
    assert sum(weight for weight, _ in estimate.weighted) == pytest.approx(1)
    np.testing.assert_allclose(estimate.posterior(scores, given).sum(axis=1), 1, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_judge_that_knows_little_does_not_doubt_right_labels(seed: int):
    scores, true, _ = draw(500, np.eye(3), seed=seed)
    trusted_scores, trusted, _ = draw(400, np.eye(3), seed=seed + 10)
    rng = np.random.default_rng(7)
    weak, trusted_weak = (0.2 * rows + rng.normal(size=rows.shape) for rows in (scores, trusted_scores))
    assert said(fit_uniform(weak, true, anchor(trusted_weak, trusted)), weak, true) < 0.01


def test_uniform_likelihood_is_the_loop_s_at_its_maximum():
    scores, _, given = draw(50, uniform_noise(0.7, 3))
    best = -np.inf
    for t in TEMPERATURES:
        own = softmax(scores / t, axis=1)[np.arange(50), given]
        for e in anchored_noise.ERROR_RATES:
            best = max(best, np.log((1 - e) * own + e * (1 - own) / 2).sum() + 5 * np.log(1 - e))
    assert fit_uniform(scores, given).log_likelihood == pytest.approx(best)


def test_an_overconfident_judge_is_not_taken_for_careless_people_where_trusted_images_know_it():
    scores, true, _ = draw(400, np.eye(3))
    trusted_scores, trusted, _ = draw(2000, np.eye(3), seed=1)
    sharp, trusted_sharp = 3 * scores, 3 * trusted_scores  # right labels, and a judge that is too sure of itself
    alone = fit_matrix(sharp, true, np.where(TEMPERATURES < 1.1, 0.0, -1000.0))  # a temperature of 1, and no other
    anchored = fit_matrix(sharp, true, anchor(trusted_sharp, trusted))
    assert said(alone, sharp, true) > 0.08
    assert said(anchored, sharp, true) < 0.03
    assert anchored.temperature == pytest.approx(3, rel=0.15)


def test_an_anchor_is_worth_as_many_images_as_it_is_said_to_be():
    scores, true, _ = draw(200, np.eye(3))
    np.testing.assert_allclose(anchor(scores, true, worth=50), anchor(scores, true) / 4)
    np.testing.assert_allclose(anchor(scores, true, worth=500), anchor(scores, true))
    assert TEMPERATURES[anchor(2 * scores, true).argmax()] == pytest.approx(2, rel=0.25)


def test_a_matrix_is_found_where_classes_are_confused():
    scores, true, given = draw(3000, PAIR)
    estimate = fit_matrix(scores, given, anchor(*draw(1000, np.eye(3), seed=1)[:2]))
    np.testing.assert_allclose(estimate.noise_matrix, PAIR, atol=0.1)
    assert said(estimate, scores, given) == pytest.approx((given != true).mean(), abs=0.05)


def test_guesses_are_found_where_labels_follow_the_judges_own_doubt():
    scores, true, given = draw(4000, uniform_noise(0.95, 3), guesses=0.6)
    trusted_scores, trusted, _ = draw(2000, np.eye(3), seed=1)
    anchored = anchor(trusted_scores, trusted)
    estimate = fit_guesses(scores, given, anchored, smoothing=UNIFORM_SMOOTHING)
    assert estimate.guess_share == pytest.approx(0.6, abs=0.25)
    assert estimate.softness in anchored_noise.SOFTNESSES
    assert estimate.log_likelihood > fit_uniform(scores, given, anchored).log_likelihood + GUESS_COST
    assert said(estimate, scores, given) == pytest.approx((given != true).mean(), abs=0.04)


@pytest.mark.parametrize(
    ("noise", "guesses", "model"),
    [
        (uniform_noise(1.0, 3), 0.0, "uniform"),
        (uniform_noise(0.7, 3), 0.0, "uniform"),
        (PAIR, 0.0, "matrix"),
        (uniform_noise(0.95, 3), 0.5, "uniform with guesses"),
        (PAIR, 0.5, "matrix with guesses"),
    ],
)
def test_the_model_that_labels_were_drawn_from_is_chosen(noise: np.ndarray, guesses: float, model: str):
    scores, true, given = draw(4000, noise, guesses=guesses)
    trusted_scores, trusted, _ = draw(1000, np.eye(3), seed=1)
    found = choose_noise(scores, given, anchor(trusted_scores, trusted), cost_of_matrix=matrix_cost(4000, 3, 1000))
    assert found.estimate.model == model
    assert said(found.estimate, scores, given) == pytest.approx((given != true).mean(), abs=0.05)
    assert found.value == pytest.approx(found.log_likelihoods[model] - found.costs[model])


def test_a_matrix_with_guesses_is_averaged_with_guesses_alone():
    scores, _, given = draw(4000, PAIR, guesses=0.5)
    anchored = anchor(*draw(1000, np.eye(3), seed=1)[:2])
    estimate = choose_noise(scores, given, anchored, cost_of_matrix=10).estimate
    parts = [fit_guesses(scores, given, anchored, smoothing=smoothing) for smoothing in (UNIFORM_SMOOTHING, MATRIX_SMOOTHING)]
    halves = sum(part.posterior(scores, given) for part in parts) / 2
    np.testing.assert_allclose(estimate.posterior(scores, given), halves, atol=1e-12)
    assert len(estimate.best) == 2


def test_other_class_shares_are_found_and_equal_ones_left_alone():
    trusted_scores, trusted, _ = draw(1000, np.eye(3), seed=1)
    anchored = anchor(trusted_scores, trusted)
    even, _, given = draw(2000, uniform_noise(0.7, 3))
    assert not choose_noise_and_offsets(even, given, anchored, cost=10).offsets.any()
    scores, true, given = draw(2000, uniform_noise(0.7, 3), shares=[0.8, 0.15, 0.05])
    found = choose_noise_and_offsets(scores, given, anchored, cost=10)
    assert found.offsets[0] - found.offsets[2] == pytest.approx(np.log(16), abs=1.3)
    assert found.offsets_gain >= 10
    wrong = 1 - found.estimate.posterior(scores + found.offsets, given)[np.arange(2000), given]
    assert wrong.mean() == pytest.approx((given != true).mean(), abs=0.03)


def test_a_matrix_costs_most_where_little_is_trusted():
    assert matrix_cost(100, 3, 1000) == 10
    assert matrix_cost(10_000, 3, 3000) == 50
    assert matrix_cost(10_000, 10, 300) == pytest.approx(5 * 10_000 / 300)


def test_the_order_of_the_images_does_not_matter():
    scores, _, given = draw(500, PAIR, guesses=0.3)
    order = np.random.default_rng(5).permutation(500)
    one, other = (
        choose_noise(rows, labels, NO_ANCHOR, cost_of_matrix=10).estimate.posterior(rows, labels)
        for rows, labels in ((scores, given), (scores[order], given[order]))
    )
    np.testing.assert_allclose(one[order], other, atol=1e-9)
