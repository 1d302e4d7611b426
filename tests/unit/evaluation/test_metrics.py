"""Figures with weights against scikit-learn's, by a slow loop, and at their edges; the bootstrap's intervals."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest
from sklearn import metrics as sklearn_metrics
from sklearn.exceptions import UndefinedMetricWarning

from bccp.evaluation import metrics

Index, Float = npt.NDArray[np.int64], npt.NDArray[np.float64]

POOLED = {
    *("accuracy", "top_k_accuracy", "mcc", "auroc_macro", "average_precision_macro", "calibration_error"),
    *(f"{name}_{kind}" for name in ("precision", "recall", "f1") for kind in ("macro", "weighted")),
}


def made_up(
    n_images: int, n_classes: int, *, seed: int, levels: int | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Labels, and probabilities that lean towards them; with ``levels`` many of them tie."""
    rng = np.random.default_rng(seed)
    label_idx = rng.integers(0, n_classes, n_images)
    probs = rng.dirichlet(np.ones(n_classes), n_images) + 0.5 * np.eye(n_classes)[label_idx] * rng.random((n_images, 1))
    probs /= probs.sum(axis=1, keepdims=True)
    return label_idx, np.round(probs * levels) / levels if levels else probs


def weights_for(kind: str, n_images: int, *, seed: int) -> npt.NDArray[np.number]:
    rng = np.random.default_rng(seed)
    if kind == "ones":
        return np.ones((1, n_images), np.int32)
    return rng.random((3, n_images)) if kind == "real" else next(metrics.resamples(n_images, 3, rng))


@pytest.mark.parametrize("kind", ["ones", "real", "counts"])
@pytest.mark.parametrize(("n_classes", "levels"), [(2, None), (5, None), (5, 4), (12, None)])
def test_figures_are_those_of_scikit_learn_with_weights_and_with_ties(kind: str, n_classes: int, levels: int | None) -> None:
    label_idx, probs = made_up(150, n_classes, seed=n_classes, levels=levels)
    all_weights = weights_for(kind, 150, seed=1)
    found = metrics.measure(all_weights, label_idx, probs, top_k=3)
    assert set(found.pooled) == POOLED - ({"top_k_accuracy"} if n_classes == 2 else set())
    predicted = probs.argmax(axis=1)
    for row, weights in enumerate(all_weights):
        known = {"sample_weight": weights}
        expected = {
            "accuracy": sklearn_metrics.accuracy_score(label_idx, predicted, **known),
            "mcc": sklearn_metrics.matthews_corrcoef(label_idx, predicted, **known),
        }
        seen = (weights > 0) if kind == "counts" else np.ones(150, bool)
        for average in ("macro", "weighted", None):
            parts = sklearn_metrics.precision_recall_fscore_support(
                label_idx[seen], predicted[seen], average=average, zero_division=0, sample_weight=weights[seen]
            )
            for name, value in zip(("precision", "recall", "f1"), parts, strict=False):
                if average:
                    expected[f"{name}_{average}"] = value
                else:
                    np.testing.assert_allclose(found.by_class[name][row], value, atol=1e-12)
        for name, one in (("auroc", sklearn_metrics.roc_auc_score), ("average_precision", sklearn_metrics.average_precision_score)):
            each = [one(label_idx == k, probs[:, k], **known) for k in range(n_classes)]
            np.testing.assert_allclose(found.by_class[name][row], each, atol=1e-12)
            expected[f"{name}_macro"] = np.mean(each)
        if n_classes > 3 and levels is None:
            expected["top_k_accuracy"] = sklearn_metrics.top_k_accuracy_score(label_idx, probs, k=3, **known)
        for name, value in expected.items():
            assert found.pooled[name][row] == pytest.approx(value, abs=1e-12), name


def test_the_calibration_error_is_that_of_a_slow_loop() -> None:
    label_idx, probs = made_up(200, 4, seed=0)
    probs[:4] = [[1, 0, 0, 0], [0.2, 0.8, 0, 0], [0.25, 0.25, 0.25, 0.25], [0, 0, 0.4, 0.6]]  # on the ends of bins
    weights = np.random.default_rng(1).integers(0, 4, (2, 200))
    for row in weights:
        error = 0.0
        for number in range(15):
            chosen = [i for i in range(200) if number / 15 < probs[i].max() <= (number + 1) / 15]
            right = sum(row[i] * (probs[i].argmax() == label_idx[i]) for i in chosen)
            error += abs(right - sum(row[i] * probs[i].max() for i in chosen))
        found = metrics.measure(row[np.newaxis], label_idx, probs, top_k=1)
        assert found.pooled["calibration_error"][0] == pytest.approx(error / row.sum(), abs=1e-12)
    bins = metrics.reliability(label_idx, probs)
    assert bins.n_images.sum() == 200
    pooled = metrics.measure(np.ones((1, 200)), label_idx, probs, top_k=1).pooled
    off = (bins.n_images * abs(bins.accuracy - bins.confidence)).sum() / 200
    assert off == pytest.approx(pooled["calibration_error"][0], abs=1e-12)


def test_of_equally_likely_classes_the_first_is_the_likelier_as_for_the_prediction() -> None:
    probs = np.full((4, 4), 0.25)
    assert metrics.among_likeliest(np.arange(4), probs, 1).tolist() == [True, False, False, False]
    assert metrics.among_likeliest(np.arange(4), probs, 3).tolist() == [True, True, True, False]


@pytest.mark.parametrize("n_images", [1, 5])
def test_where_all_images_are_of_one_class_what_needs_another_is_not_defined(n_images: int) -> None:
    label_idx, probs = np.zeros(n_images, np.int64), np.tile([0.5, 0.3, 0.2], (n_images, 1))
    probs[0] = [0.1, 0.2, 0.7]
    found = metrics.measure(np.ones((1, n_images)), label_idx, probs, top_k=2)
    assert np.isnan(found.pooled["auroc_macro"][0])
    assert np.isnan(found.pooled["average_precision_macro"][0])
    assert found.pooled["mcc"][0] == 0
    assert found.pooled["accuracy"][0] == (n_images - 1) / n_images
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        f1 = sklearn_metrics.f1_score(label_idx, probs.argmax(axis=1), average="macro", zero_division=0)
    assert found.pooled["f1_macro"][0] == pytest.approx(f1)
    assert np.isnan(found.by_class["recall"][0]).tolist() == [False, True, True]


def test_a_resample_without_any_image_of_a_slice_has_no_figures_and_no_say() -> None:
    label_idx, probs = made_up(4, 3, seed=0)
    found = metrics.measure(np.array([[0, 0, 0, 0], [1, 1, 1, 1]]), label_idx, probs, top_k=1)
    for name, values in found.pooled.items():
        assert np.isnan(values[0]), name
    low, high = metrics.interval(0.5, np.array([np.nan, 0.4, 0.6, 0.5]))
    assert (low, high) == pytest.approx((0.405, 0.595))
    assert np.isnan(metrics.interval(0.5, np.array([np.nan, np.nan, 0.5]))).all()
    assert np.isnan(metrics.interval(0.5, np.empty(0))).all()


def test_resamples_draw_as_many_images_as_there_are_and_are_the_same_for_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLED_AT_ONCE", 500)  # 7 at a time
    blocks = list(metrics.resamples(70, 40, np.random.default_rng(0)))
    assert [len(block) for block in blocks] == [7] * 5 + [5]
    counts = np.concatenate(blocks)
    assert (counts.sum(axis=1) == 70).all()
    assert counts.mean(axis=0).std() < 0.3
    assert np.array_equal(counts, np.concatenate(list(metrics.resamples(70, 40, np.random.default_rng(0)))))


def test_an_interval_holds_its_figure_and_stays_within_what_is_possible() -> None:
    low, high = metrics.interval(0.02, np.array([0.05, 0.06, 0.07, 0.08]))  # resamples are off by more than the figure
    assert 0 <= low <= 0.02 <= high
    off = np.array([0.5, 0.6, 0.7]) + 0.1
    assert metrics.interval(0.6, off) == pytest.approx((0.505, 0.695)), "moved back by the 0.1 that resamples are off"
    assert metrics.interval(1.0, np.ones(10)) == (1.0, 1.0)
    assert metrics.interval(-0.5, np.array([-1.0, 0.0]), lowest=-1)[0] == pytest.approx(-0.975)


def test_intervals_cover_the_truth_at_their_rate() -> None:
    """300 data sets of 200 images: 95% within three standard errors of a rate, and half a point for so few images."""
    n_sets, n_images, n_classes = 300, 200, 4
    figures = ("accuracy", "f1_macro", "auroc_macro", "mcc")
    label_idx, probs = made_up(100_000, n_classes, seed=1)
    everything = metrics.measure(np.ones((1, len(probs)), np.int32), label_idx, probs, top_k=1).pooled
    covered = dict.fromkeys(figures, 0)
    rng = np.random.default_rng(2)
    for _ in range(n_sets):
        some = rng.choice(len(probs), n_images, replace=False)
        found = metrics.measure(np.ones((1, n_images), np.int32), label_idx[some], probs[some], top_k=1).pooled
        again = metrics.measure(next(metrics.resamples(n_images, 200, rng)), label_idx[some], probs[some], top_k=1).pooled
        for name in figures:
            low, high = metrics.interval(found[name][0], again[name], lowest=-1)
            covered[name] += low <= everything[name][0] <= high
    tolerance = 3 * np.sqrt(0.95 * 0.05 / n_sets) + 0.005
    for name, count in covered.items():
        assert abs(count / n_sets - 0.95) < tolerance, (name, count / n_sets)


def test_a_new_metric_is_one_line_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(metrics.METRICS, "error_rate", metrics.Metric(lambda counts: 1 - metrics.accuracy(counts)))
    label_idx, probs = made_up(50, 3, seed=0)
    pooled = metrics.measure(np.ones((2, 50)), label_idx, probs, top_k=1).pooled
    np.testing.assert_allclose(pooled["error_rate"], 1 - pooled["accuracy"])
    assert list(pooled) == list(metrics.METRICS)
