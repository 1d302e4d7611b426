"""Judges on features: scikit-learn's discriminant analysis, a loop over neighbours, and no image judged by its own label."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from bccp.labels import feature_judges
from bccp.labels.feature_judges import (
    NEIGHBOURS,
    SHRINKAGES,
    best_temperature,
    discriminants_out_of_fold,
    fit_discriminant,
    fit_discriminants,
    fit_neighbours,
    mean_log_loss,
    neighbours_out_of_fold,
    regressions_out_of_fold,
    scores_out_of_fold,
)

FAMILIES = [regressions_out_of_fold, discriminants_out_of_fold, neighbours_out_of_fold]


def clouds(n_images: int, *, seed: int = 0, n_classes: int = 3, n_features: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Features that tell classes well, but not perfectly, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n_images)
    return 1.5 * rng.normal(size=(n_classes, n_features))[labels] + rng.normal(size=(n_images, n_features)), labels


def test_discriminants_are_scikit_learns_at_every_shrinkage():
    features, labels = clouds(80)
    for shrinkage, judge in zip(SHRINKAGES, fit_discriminants(features, np.eye(3)[labels], SHRINKAGES), strict=True):
        theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(features, labels)
        np.testing.assert_allclose(softmax(judge.scores(features), axis=1), theirs.predict_proba(features), atol=1e-7)


def test_an_image_of_two_half_classes_counts_for_the_discriminant_as_two_half_images():
    features, labels = clouds(40)
    soft = np.eye(3)[labels]
    soft[:10] = [0.5, 0.5, 0]
    halves = np.concatenate([np.eye(3)[labels[10:]]] * 2 + [np.eye(3)[np.zeros(10, int)], np.eye(3)[np.ones(10, int)]])
    twice = np.concatenate([features[10:], features[10:], features[:10], features[:10]])
    np.testing.assert_allclose(
        fit_discriminant(features, soft, 0.2).scores(features), fit_discriminant(twice, halves, 0.2).scores(features), atol=1e-8
    )


def test_fewer_images_than_features_are_no_obstacle_to_a_discriminant():
    features, labels = clouds(12, n_features=40)
    assert np.isfinite(fit_discriminant(features, np.eye(3)[labels], SHRINKAGES[0]).scores(features)).all()


def test_neighbours_vote_as_a_loop_counts_them(monkeypatch: pytest.MonkeyPatch):
    known, labels = clouds(50, seed=1)
    asked, _ = clouds(20, seed=2)
    targets = softmax(np.eye(3)[labels] * 2, axis=1)
    monkeypatch.setattr(feature_judges, "_BLOCK_CELLS", 150)  # three rows at a time
    found = fit_neighbours(known, targets, 40).with_counts(asked, [5, 40])
    for count, scores in zip((5, 40), found, strict=True):
        for row, image in zip(scores, asked, strict=True):
            cosine = known @ image / np.linalg.norm(known, axis=1)
            votes = targets[np.argsort(-cosine)[:count]].sum(axis=0)
            np.testing.assert_allclose(row, np.log((votes + 2 * targets.mean(axis=0)) / (count + 2)), atol=1e-4)


def test_lengths_of_features_do_not_matter_to_neighbours():
    known, labels = clouds(30)
    judge = fit_neighbours(known, np.eye(3)[labels], 5)
    np.testing.assert_allclose(judge.scores(known * 7), judge.scores(known), atol=1e-12)


def test_more_neighbours_than_images_are_all_of_them():
    known, labels = clouds(4)
    judge = fit_neighbours(known, np.eye(3)[labels], 10)
    assert judge.count == 4
    np.testing.assert_allclose(judge.scores(known), np.tile(judge.scores(known)[:1], (4, 1)))


def test_a_class_that_no_known_image_has_stays_possible():
    known, _ = clouds(10)
    assert np.isfinite(fit_neighbours(known, np.eye(3)[np.zeros(10, int)], 5).scores(known)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_no_image_is_judged_by_its_own_label(family):
    features, labels = clouds(90)
    folds = np.arange(90) % 3
    before = family(features, labels, 3, folds)
    poisoned = labels.copy()
    poisoned[folds == 1] = (labels[folds == 1] + 1) % 3
    after = family(features, poisoned, 3, folds)
    own = features[folds == 1]
    # the settings may change with the labels by which they are chosen; two folds' labels are as they were
    if before.setting == after.setting:
        np.testing.assert_allclose(before.judges[1].scores(own), after.judges[1].scores(own), atol=1e-4)
    assert (after.scores.argmax(axis=1) == labels)[folds == 1].mean() > 0.75


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_loss_are_those_of_the_judges_that_did_not_see_the_fold(family):
    features, labels = clouds(60)
    folds = np.arange(60) % 4
    found = family(features, labels, 3, folds)
    again = scores_out_of_fold(found.judges, features, folds, 3) / found.temperature
    np.testing.assert_allclose(found.scores, again, atol=1e-9)
    own = log_softmax(found.scores, axis=1)[np.arange(60), labels]
    assert found.log_loss == pytest.approx(-own.mean())
    assert found.whole.scores(features).shape == (60, 3)


def test_the_setting_is_the_one_under_which_left_out_labels_are_likeliest():
    features, labels = clouds(60)
    folds = np.arange(60) % 3
    losses = {}
    for count in NEIGHBOURS:
        judges = [fit_neighbours(features[folds != k], np.eye(3)[labels[folds != k]], count) for k in range(3)]
        scores = scores_out_of_fold(judges, features, folds, 3)
        losses[count] = mean_log_loss(scores / best_temperature(scores, labels)[0], labels)
    found = neighbours_out_of_fold(features, labels, 3, folds)
    assert found.setting == min(losses, key=lambda count: losses[count])
    assert found.log_loss == pytest.approx(min(losses.values()))


def test_an_overconfident_score_is_divided_by_its_temperature():
    rng = np.random.default_rng(3)
    probs = rng.dirichlet([1, 1, 1], 4000)
    labels = (probs.cumsum(axis=1) < rng.random(4000)[:, None]).sum(axis=1)
    temperature, loss = best_temperature(4 * np.log(probs), labels)
    assert temperature == pytest.approx(4, rel=0.2)
    assert loss < mean_log_loss(4 * np.log(probs), labels)
