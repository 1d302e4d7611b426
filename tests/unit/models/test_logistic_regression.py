"""Logistic regression: its optimum, its weights and soft targets, the choice of its penalty, and the scaling of features."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression as ReferenceRegression

from bccp.data.array_types import Float, Index
from bccp.models import logistic_regression
from bccp.models.logistic_regression import (
    FeatureScaling,
    LogisticRegression,
    fit,
    fit_by_folds,
    fit_by_validation,
    fit_scaling,
    fit_under_noise,
)


def clusters(n: int = 120, n_features: int = 6, n_classes: int = 3, *, spread: float = 1.5, seed: int = 0) -> tuple[Float, Index]:
    """Rows around one centre a class, which overlap."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n)
    return rng.normal(size=(n_classes, n_features))[labels] + rng.normal(0, spread, (n, n_features)), labels


def soft(labels: Index, n_classes: int = 3, *, seed: int = 1) -> Float:
    """P(class) that mostly, but not wholly, says what the labels say."""
    return np.random.default_rng(seed).dirichlet(np.ones(n_classes), len(labels)) * 0.4 + 0.6 * np.eye(n_classes)[labels]


def exactly(features: Float, targets: Float, **options: object) -> LogisticRegression:
    return fit(features, targets, **{"tolerance": 1e-13, "max_iterations": 5000} | options)  # type: ignore[arg-type]


def reference(features: Float, labels: Index, weights: Float, strength: float) -> Float:
    """Logits of scikit-learn's optimum, whose penalty counts beside a sum, each less the row's mean."""
    found = ReferenceRegression(C=1 / (strength * weights.sum()), tol=1e-10, max_iter=10_000)
    return centred(found.fit(features, labels, sample_weight=weights).decision_function(features))


def centred(scores: Float) -> Float:
    return scores - scores.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("strength", [1.0, 1e-2, 1e-3])
def test_hard_labels_give_scikit_learns_optimum(strength: float) -> None:
    features, labels = clusters()
    weights = np.random.default_rng(2).uniform(0.1, 3, len(labels))
    found = exactly(features, np.eye(3)[labels], strength=strength, weights=weights)
    np.testing.assert_allclose(centred(found.scores(features)), reference(features, labels, weights, strength), atol=1e-4)


def test_soft_labels_are_each_class_with_its_share_of_the_weight() -> None:
    features, labels = clusters()
    targets = soft(labels)
    found = exactly(features, targets, strength=0.01)
    every = np.repeat(features, 3, axis=0)
    expected = reference(every, np.tile(np.arange(3), len(labels)), targets.ravel(), 0.01)
    np.testing.assert_allclose(centred(found.scores(every)), expected, atol=1e-4)


def test_a_row_of_weight_two_counts_as_two_rows_and_one_of_weight_zero_as_none() -> None:
    features, labels = clusters()
    targets, times = soft(labels), np.arange(len(labels)) % 3
    weighted = exactly(features, targets, strength=0.01, weights=times)
    repeated = exactly(np.repeat(features, times, axis=0), np.repeat(targets, times, axis=0), strength=0.01)
    np.testing.assert_allclose(weighted.coefficients, repeated.coefficients, atol=1e-5)
    assert weighted.loss == pytest.approx(repeated.loss)


def test_shuffled_rows_and_another_start_give_the_same_model() -> None:
    features, labels = clusters()
    targets, order = soft(labels), np.random.default_rng(3).permutation(len(labels))
    found = exactly(features, targets, strength=0.01)
    shuffled = exactly(features[order], targets[order], strength=0.01, start=exactly(features, targets, strength=1.0))
    np.testing.assert_allclose(centred(shuffled.scores(features)), centred(found.scores(features)), atol=1e-5)
    again = fit(features, targets, strength=0.01)
    assert again.coefficients.tobytes() == fit(features, targets, strength=0.01).coefficients.tobytes()
    assert np.abs(fit(features[order], targets[order], strength=0.01).coefficients - again.coefficients).max() < 1e-9


def test_a_start_next_to_the_optimum_saves_steps() -> None:
    features, labels = clusters()
    targets = soft(labels)
    near = fit(features, targets, strength=2e-3)
    assert fit(features, targets, strength=1e-3, start=near).iterations < fit(features, targets, strength=1e-3).iterations


def test_the_loss_is_the_cross_entropy_without_the_penalty() -> None:
    features, labels = clusters()
    targets, weights = soft(labels), np.linspace(0, 1, len(labels))
    found = fit(features, targets, strength=0.1, weights=weights)
    assert found.loss == pytest.approx(logistic_regression.cross_entropy(found.scores(features), targets, weights))


def test_a_penalty_leaves_the_intercept_free() -> None:
    features, labels = clusters(n_features=2)
    found = exactly(features, np.eye(3)[labels], strength=1e6)
    log_shares = np.log(np.bincount(labels) / len(labels))
    np.testing.assert_allclose(centred(found.intercept[None]), centred(log_shares[None]), atol=1e-3)
    assert np.abs(found.coefficients).max() < 1e-5


def test_a_class_without_images_is_hardly_ever_said() -> None:
    features, labels = clusters()
    found = fit(features, np.eye(4)[labels], strength=0.01)
    scores = found.scores(features)
    assert np.isfinite(scores).all()
    assert (scores[:, 3] < scores[:, :3].max(axis=1) - 5).all()


@pytest.mark.parametrize("shape", [(50, 1), (9, 40)], ids=["one feature", "fewer rows than features"])
def test_narrow_and_wide_tables_are_fitted_too(shape: tuple[int, int]) -> None:
    features, labels = clusters(*shape)
    labels[:3] = 0, 1, 2
    found = exactly(features, np.eye(3)[labels], strength=0.05)
    np.testing.assert_allclose(centred(found.scores(features)), reference(features, labels, np.ones(len(labels)), 0.05), atol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"targets": np.ones((4, 2))},
        {"weights": np.zeros(5)},
        {"weights": np.array([1, 1, 1, 1, -1.0])},
        {"features": np.full((5, 2), np.nan)},
    ],
    ids=["fewer targets", "no weight", "a negative weight", "no numbers"],
)
def test_what_cannot_be_fitted_is_refused(wrong: dict[str, Float]) -> None:
    arguments = {"features": np.ones((5, 2)), "targets": np.ones((5, 2)) / 2, "weights": np.ones(5)} | wrong
    with pytest.raises(ValueError, match=r"go together|weight above 0|finite"):
        fit(arguments["features"], arguments["targets"], weights=arguments["weights"], strength=0.1)


def test_labels_that_a_matrix_made_wrong_are_learnt_as_if_they_were_right() -> None:
    features, labels = clusters(3000)
    noise = np.array([[0.6, 0.4, 0.0], [0.0, 0.6, 0.4], [0.4, 0.0, 0.6]])
    given = np.where(np.random.default_rng(8).random(3000) < 0.4, (labels + 1) % 3, labels)
    plain = fit(features, np.eye(3)[given], strength=1e-3)
    found = fit_under_noise(features, given, noise, strength=1e-3, start=plain)
    clean = fit(features, np.eye(3)[labels], strength=1e-3)
    assert (found.scores(features).argmax(axis=1) == clean.scores(features).argmax(axis=1)).mean() > 0.94
    said, meant = (softmax(model.scores(features), axis=1) for model in (plain, found))
    assert (meant @ noise)[np.arange(3000), given].mean() == pytest.approx(said[np.arange(3000), given].mean(), abs=0.02)
    assert meant.max(axis=1).mean() > said.max(axis=1).mean() + 0.1
    assert found.loss == pytest.approx(-np.log((meant @ noise)[np.arange(3000), given]).mean())


def test_under_no_noise_the_loss_is_the_plain_one() -> None:
    features, labels = clusters()
    start = fit(features, np.eye(3)[labels], strength=0.1)
    found = fit_under_noise(features, labels, np.eye(3), strength=0.01, start=start, tolerance=1e-12, max_iterations=1000)
    plain = exactly(features, np.eye(3)[labels], strength=0.01)
    np.testing.assert_allclose(centred(found.scores(features)), centred(plain.scores(features)), atol=1e-3)


def test_a_loss_under_noise_falls_from_where_it_starts_and_to_a_level_place() -> None:
    features, labels = clusters()
    noise = np.array([[0.8, 0.1, 0.1], [0.3, 0.7, 0.0], [0.1, 0.2, 0.7]])
    start = fit(features, np.eye(3)[labels], strength=0.01)
    found = fit_under_noise(features, labels, noise, strength=0.01, start=start, tolerance=1e-12, max_iterations=1000)

    def loss(coefficients: Float, intercept: Float) -> float:
        chances = (softmax(features @ coefficients + intercept, axis=1) @ noise)[np.arange(len(labels)), labels]
        return float(-np.log(chances).mean() + 0.005 * (coefficients**2).sum())

    here = loss(found.coefficients, found.intercept)
    assert here < loss(start.coefficients, start.intercept)
    for step in 1e-3 * np.eye(found.coefficients.size).reshape(-1, *found.coefficients.shape):
        assert loss(found.coefficients + step, found.intercept) > here - 1e-9
        assert loss(found.coefficients - step, found.intercept) > here - 1e-9


def test_a_matrix_of_other_classes_is_refused() -> None:
    features, labels = clusters()
    start = fit(features, np.eye(3)[labels], strength=0.01)
    with pytest.raises(ValueError, match="3 classes do not go together"):
        fit_under_noise(features, labels, np.eye(4), strength=0.01, start=start)


def test_validation_rows_choose_the_penalty_and_are_learnt_from_afterwards() -> None:
    features, labels = clusters(80, 30, spread=4)
    more, truth = clusters(400, 30, spread=4, seed=5)
    features, more = (fit_scaling(features, more).apply(rows) for rows in (features, more))
    found = fit_by_validation(features, np.eye(3)[labels], more, np.eye(3)[truth])
    losses = [trial.loss for trial in found.trials]
    assert found.strength == min(found.trials, key=lambda trial: trial.loss).strength
    assert losses[-1] > min(losses) + logistic_regression.SLACK  # and weaker ones were not tried
    assert len(losses) < len(logistic_regression.STRENGTHS)
    np.testing.assert_array_equal(found.scores, found.parts[0].scores(more))
    assert found.trials[losses.index(min(losses))].loss == pytest.approx(logistic_regression.cross_entropy(found.scores, np.eye(3)[truth]))
    both = exactly(np.concatenate([features, more]), np.eye(3)[np.concatenate([labels, truth])], strength=found.strength)
    np.testing.assert_allclose(centred(found.model.scores(more)), centred(both.scores(more)), atol=0.02)


def test_rows_and_validation_rows_keep_their_weights_in_the_model_of_both() -> None:
    features, labels = clusters(60)
    more, truth = clusters(30, seed=5)
    weights, held_weights = np.arange(1, 61) % 3, np.arange(30) % 4
    found = fit_by_validation(
        features, np.eye(3)[labels], more, np.eye(3)[truth], weights=weights, held_weights=held_weights, strengths=[0.1]
    )
    rows, targets = np.repeat(features, weights, axis=0), np.repeat(np.eye(3)[labels], weights, axis=0)
    held_rows, held_targets = np.repeat(more, held_weights, axis=0), np.repeat(np.eye(3)[truth], held_weights, axis=0)
    expected = fit_by_validation(rows, targets, held_rows, held_targets, strengths=[0.1])
    np.testing.assert_allclose(found.model.coefficients, expected.model.coefficients, atol=1e-3)
    assert found.trials[0].loss == pytest.approx(expected.trials[0].loss, rel=1e-4)


def test_held_out_folds_choose_the_penalty_by_rows_that_no_model_of_theirs_has_seen() -> None:
    features, labels = clusters(90, 20, spread=3)
    features = fit_scaling(features).apply(features)
    fold = np.arange(len(labels)) % 3
    found = fit_by_folds(features, np.eye(3)[labels], fold)
    for k, part in enumerate(found.parts):
        np.testing.assert_array_equal(found.scores[fold == k], part.scores(features[fold == k]))
        alone = exactly(features[fold != k], np.eye(3)[labels[fold != k]], strength=found.strength)
        np.testing.assert_allclose(centred(part.scores(features)), centred(alone.scores(features)), atol=0.05)
    assert min(trial.loss for trial in found.trials) == pytest.approx(logistic_regression.cross_entropy(found.scores, np.eye(3)[labels]))
    np.testing.assert_allclose(
        centred(found.model.scores(features)),
        centred(exactly(features, np.eye(3)[labels], strength=found.strength).scores(features)),
        atol=0.05,
    )


def test_copies_in_other_folds_would_be_taken_for_skill() -> None:
    features, labels = clusters(60, 40, spread=6)
    twice, both = np.concatenate([features, features]), np.concatenate([labels, labels])
    scaled = fit_scaling(twice).apply(twice)
    together = fit_by_folds(scaled, np.eye(3)[both], np.tile(np.arange(60) % 4, 2))
    apart = fit_by_folds(scaled, np.eye(3)[both], np.concatenate([np.arange(60) % 4, (np.arange(60) + 1) % 4]))
    assert max(trial.accuracy for trial in apart.trials) > max(trial.accuracy for trial in together.trials) + 0.2


def test_scaled_features_have_rows_of_mean_squared_norm_one_and_constant_columns_are_zero() -> None:
    features, _ = clusters()
    features[:, 2] = 7.0
    scaling = fit_scaling(features * 100)
    scaled = scaling.apply(features * 100)
    assert (scaled**2).sum(axis=1).mean() == pytest.approx(1)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled[:, 2], 0, atol=1e-9)
    assert np.ptp(np.delete(scaled.std(axis=0), 2)) < 1e-5
    assert np.isfinite(fit_scaling(np.ones((3, 2))).apply(np.ones((3, 2)))).all()


@pytest.mark.parametrize("n_rows", [30, 400], ids=["fewer rows than columns", "more"])
def test_many_columns_are_projected_on_their_principal_components(n_rows: int) -> None:
    features = np.random.default_rng(0).normal(size=(n_rows, 50)) @ np.random.default_rng(1).normal(size=(50, 50))
    scaling = fit_scaling(features[:10], features[10:], columns=8)
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    expected = PCA(8, svd_solver="full").fit_transform(standard)
    found = scaling.apply(features)
    np.testing.assert_allclose(np.abs(found / found.std()), np.abs(expected / expected.std()), atol=1e-4)
    assert scaling.components is not None
    assert (scaling.components[np.abs(scaling.components).argmax(axis=0), np.arange(8)] > 0).all()
    shuffled = fit_scaling(features[::-1], columns=8)
    np.testing.assert_allclose(shuffled.apply(features), found, atol=1e-9)


def test_no_more_components_are_kept_than_the_features_span() -> None:
    flat = np.random.default_rng(0).normal(size=(60, 3)) @ np.random.default_rng(1).normal(size=(3, 20))
    for rows in (flat, flat[:15]):
        assert fit_scaling(rows, columns=10).apply(rows).shape == (len(rows), 3)


def test_a_model_of_scaled_features_can_be_asked_of_the_features_themselves() -> None:
    features, labels = clusters(60, 30)
    features = 5 + 100 * features
    for columns in (8, 100):
        scaling = fit_scaling(features, columns=columns)
        model = fit(scaling.apply(features), np.eye(3)[labels], strength=0.01)
        np.testing.assert_allclose(scaling.fold_in(model).scores(features), model.scores(scaling.apply(features)), atol=1e-9)


def test_features_are_read_in_blocks_whatever_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    features = clusters(50, 12)[0].astype(np.float16)
    whole: FeatureScaling = fit_scaling(features, columns=4)
    monkeypatch.setattr(logistic_regression, "_ROWS", 7)
    for mine, theirs in zip(fit_scaling(features, columns=4), whole, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)  # type: ignore[arg-type]
