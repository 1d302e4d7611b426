"""Checked labels where nothing else is trusted: the formula, written out slowly, and what becomes of the images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.optimize import minimize

from bccp.labels import bayes_cutoff
from bccp.labels.expert_labels import NO_CLASS
from bccp.labels.untrusted_audit import AuditedPosterior, calibrate_untrusted, conclude
from bccp.labels.untrusted_judge import UntrustedJudgement


def draw(n_images: int = 600, n_classes: int = 4, *, seed: int = 0):
    """Posteriors that find half of the wrong labels, those by a matrix some more; given and true labels."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, n_classes, n_images)
    given = np.where(rng.random(n_images) < 0.3, (true + rng.integers(1, n_classes, n_images)) % n_classes, true)
    tables = []
    for sharpness, doubt in ((2.0, 0.0), (2.0, 0.0), (2.5, 0.7)):
        scores = rng.normal(size=(n_images, n_classes)) + sharpness * np.eye(n_classes)[true]
        scores[np.arange(n_images), given] += 3.5 - doubt
        tables.append(np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True))
    tables[0] = tables[1].copy()
    return tables, given, true


def plain(tables, given, places, checked):
    """a, b and c by a general minimiser, one image at a time; P' and its mean."""

    def logit(table, i):
        p = min(max(sum(table[i, j] for j in range(table.shape[1]) if j != given[i]), 1e-6), 1 - 1e-6)
        return np.log(p / (1 - p))

    def odds(point, i):
        return point[0] + point[1] * logit(tables[0], i) + point[2] * (logit(tables[2], i) - logit(tables[1], i))

    def loss(point):
        total = (point[0] / 1.5) ** 2 / 2 + ((point[1] - 1) / 0.5) ** 2 / 2 + (point[2] / 0.5) ** 2 / 2
        for i, label in zip(places, checked, strict=True):
            total += np.log1p(np.exp(-odds(point, i) if label != given[i] else odds(point, i)))
        return total

    found = minimize(loss, [0.0, 1.0, 0.0], method="BFGS", options={"gtol": 1e-9}).x
    p_wrong = np.array([1 / (1 + np.exp(-odds(found, i))) for i in range(len(given))])
    for i, label in zip(places, checked, strict=True):
        p_wrong[i] = float(label != given[i])
    return found, p_wrong, p_wrong.mean()


@pytest.mark.parametrize("n_checked", [1, 8, 60])
def test_the_coefficients_are_those_of_a_slow_plain_version(n_checked: int) -> None:
    tables, given, true = draw(200)
    places = np.random.default_rng(1).permutation(200)[:n_checked]
    found = calibrate_untrusted(*tables, given, places, true[places])
    coefficients, p_wrong, share = plain(tables, given, places, true[places])
    np.testing.assert_allclose((found.level, found.slope, found.matrix_weight), coefficients, atol=2e-4)
    np.testing.assert_allclose(found.p_wrong, p_wrong, atol=1e-4)
    assert found.share == pytest.approx(share, abs=1e-4)


def test_fifty_at_random_correct_a_share_that_is_far_too_low_and_better_than_their_own_mean_does() -> None:
    errors = []
    for seed in range(20):
        tables, given, true = draw(2000, seed=seed)
        wrong, places = given != true, np.random.default_rng(seed).permutation(2000)[:50]
        found = calibrate_untrusted(*tables, given, places, true[places])
        guesses = bayes_cutoff.probability_wrong(tables[0], given).mean(), wrong[places].mean(), found.share
        errors.append(np.abs(np.array(guesses) - wrong.mean()))
    too_low, sample_mean, corrected = np.mean(errors, axis=0)
    assert too_low > 0.1
    assert corrected < 0.8 * sample_mean < 0.06


def test_checked_images_are_certain_and_others_keep_the_proportions_of_the_other_classes() -> None:
    tables, given, true = draw()
    places = np.arange(50)
    checked = true[:50].copy()
    checked[[3, 7]] = NO_CLASS
    found = calibrate_untrusted(*tables, given, places, checked)
    of_a_class = np.setdiff1d(places, [3, 7])
    np.testing.assert_array_equal(found.posterior[of_a_class], np.eye(4)[true[of_a_class]])
    np.testing.assert_array_equal(found.p_wrong[:50], checked != given[:50])
    np.testing.assert_array_equal(found.posterior[[3, 7], given[[3, 7]]], 0)
    np.testing.assert_allclose(found.posterior.sum(axis=1), 1)
    np.testing.assert_allclose(bayes_cutoff.probability_wrong(found.posterior, given), found.p_wrong, atol=1e-12)
    for i in (3, 50, 599):
        others = np.delete(np.arange(4), given[i])
        before, after = tables[0][i, others], found.posterior[i, others]
        np.testing.assert_allclose(after / after.sum(), before / before.sum())
    assert found.share == pytest.approx(found.p_wrong.mean())


def judged(**changed) -> tuple[UntrustedJudgement, np.ndarray, np.ndarray]:
    """A judgement that finds half of the wrong labels; given and true labels."""
    tables, given, true = draw()
    values = dict.fromkeys((field.name for field in dataclasses.fields(UntrustedJudgement)), tables[0])
    values |= {"uniform_posterior": tables[1], "matrix_posterior": tables[2], "skill": 30.0, "at_least": 0.1, "at_most": 0.5}
    return UntrustedJudgement(**values | changed), given, true


def test_the_worst_alone_say_nothing_of_labels_that_hardly_anybody_doubts() -> None:
    judgement, given, true = judged()
    before = bayes_cutoff.probability_wrong(judgement.posterior, given)
    worst = np.argsort(-before)[:40]
    found = conclude(judgement, given, worst, true[worst], at_random=np.zeros(40, bool))
    rest = np.setdiff1d(np.arange(600), worst)
    np.testing.assert_array_equal(found.p_wrong[rest], before[rest])
    assert found.at_least == pytest.approx(((given != true)[worst].sum() + before[rest].sum()) / 600)
    assert found.at_most == 0.5
    drawn = np.random.default_rng(0).permutation(rest)[:60]
    both = np.append(worst, drawn)
    at_random = np.repeat([False, True], [40, 60])
    estimated = conclude(judgement, given, both, true[both], at_random=at_random)
    assert (estimated.at_most, estimated.is_bound, found.is_bound) == (None, False, True)
    assert abs(estimated.at_least - (given != true).mean()) < 0.06 < abs(found.at_least - (given != true).mean())
    np.testing.assert_array_equal(estimated.posterior, estimated.audited.posterior)


def test_what_was_checked_may_show_that_labels_are_wrong_after_all_or_that_none_is() -> None:
    judgement, given, true = judged(at_least=0.001)
    places = np.random.default_rng(2).permutation(600)[:60]
    assert conclude(judgement, given, [], [], at_random=np.zeros(0, bool)).verdict == "found"  # by the posterior itself
    sure = 0.999 * np.eye(4)[given] + 0.00025
    blank = dataclasses.replace(judgement, posterior=sure, uniform_posterior=sure, matrix_posterior=sure)
    nothing = conclude(blank, given, [], [], at_random=np.zeros(0, bool))
    assert (nothing.verdict, nothing.at_most) == ("nothing", 0.5)
    np.testing.assert_array_equal(nothing.posterior, np.eye(4)[given])
    after = conclude(blank, given, places, true[places], at_random=np.ones(60, bool))
    assert after.verdict == "found"
    assert after.at_least > 0.1
    right = conclude(judgement, true, places, true[places], at_random=np.ones(60, bool))
    assert right.at_least < conclude(judgement, true, [], [], at_random=np.zeros(0, bool)).at_least


def test_a_blind_judge_changes_what_was_checked_alone() -> None:
    judgement, given, true = judged(skill=2.0)
    checked = true[:30].copy()
    checked[4] = NO_CLASS
    found = conclude(judgement, given, np.arange(30), checked, at_random=np.ones(30, bool))
    assert (found.verdict, found.at_least, found.at_most, found.is_bound) == ("blind", 0.0, None, True)
    np.testing.assert_array_equal(found.posterior[30:], np.eye(4)[given[30:]])
    np.testing.assert_array_equal(np.delete(found.posterior[:30], 4, axis=0), np.eye(4)[np.delete(true[:30], 4)])
    assert found.posterior[4, given[4]] == 0


def test_nothing_checked_changes_nothing() -> None:
    tables, given, _ = draw()
    found = calibrate_untrusted(*tables, given, [], [])
    np.testing.assert_array_equal(found.posterior, tables[0])
    assert (found.level, found.slope, found.matrix_weight) == (0, 1, 0)
    assert found.share == pytest.approx(bayes_cutoff.probability_wrong(tables[0], given).mean())


def test_neither_the_order_of_images_nor_that_of_checks_changes_a_bit() -> None:
    tables, given, true = draw()
    places = np.arange(0, 600, 9)
    found = calibrate_untrusted(*tables, given, places, true[places])
    order = np.random.default_rng(3).permutation(600)
    new_place = np.argsort(order)[places][::-1]
    again = calibrate_untrusted(*(table[order] for table in tables), given[order], new_place, true[places][::-1])
    np.testing.assert_array_equal(again.p_wrong, found.p_wrong[order])
    np.testing.assert_array_equal(again.posterior, found.posterior[order])
    assert again.share == found.share


def test_certain_posteriors_stay_finite() -> None:
    certain = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    found = calibrate_untrusted(certain, certain, certain, [0, 1, 2, 1, 2, 0], [0, 3], [1, 1])
    assert isinstance(found, AuditedPosterior)
    assert np.isfinite(found.posterior).all()
    np.testing.assert_allclose(found.posterior.sum(axis=1), 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"places": [0, 0], "checked": [1, 1]}, "each position once"),
        ({"places": [9]}, "places runs from 9 to 9: 0 to 1"),
        ({"checked": [2]}, "checked runs from 2 to 2: -1 to 1"),
        ({"given": [0, 5]}, "given runs from 0 to 5"),
        ({"matrix_posterior": [[0.5, 0.5]]}, r"\(1, 2\) must be"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, list[int]], words: str) -> None:
    even = [[0.5, 0.5]] * 2
    arrays = {"posterior": even, "uniform_posterior": even, "matrix_posterior": even, "given": [0, 1], "places": [0], "checked": [1]}
    with pytest.raises(ValueError, match=words):
        calibrate_untrusted(**arrays | change)
