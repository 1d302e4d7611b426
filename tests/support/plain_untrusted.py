"""The judge of given labels where nothing is trusted, image by image and cell by cell: what the quick one is compared with.

Written from the description alone, with loops, and with scikit-learn where the package has its own code. Regressions are minimised until
nothing is gained, which the package does not wait for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

TEMPERATURES = [0.2 * 30 ** (i / 23) for i in range(24)]
RATES = [0.001, 0.002, 0.005] + [i / 100 for i in range(1, 80)]


class PlainNoise(NamedTuple):
    posterior: np.ndarray
    log_likelihood: float
    matrix: np.ndarray


class PlainJudgement(NamedTuple):
    scores: np.ndarray
    uniform: PlainNoise
    matrix: PlainNoise
    z: float
    gain: float
    accepted: bool
    skill: float
    settings: list[float]


def uniform_noise(scores: np.ndarray, given: np.ndarray) -> PlainNoise:
    """Average over all temperatures and shares of wrong labels."""
    n_images, n_classes = scores.shape
    last = len(RATES) - 1
    widths = [(RATES[min(j + 1, last)] - RATES[max(j - 1, 0)]) / (2 if 0 < j < last else 1) for j in range(len(RATES))]
    cells = []
    for t in TEMPERATURES:
        probs = softmax(scores / t, axis=1)
        for rate, width in zip(RATES, widths, strict=True):
            posterior, value = np.empty((n_images, n_classes)), 5 * math.log(1 - rate)
            for i in range(n_images):
                joint = [probs[i, j] * (1 - rate if given[i] == j else rate / (n_classes - 1)) for j in range(n_classes)]
                value += math.log(sum(joint))
                posterior[i] = np.array(joint) / sum(joint)
            cells.append((value, value + math.log(width), posterior, rate))
    top = max(weight for _, weight, _, _ in cells)
    total = sum(math.exp(weight - top) for _, weight, _, _ in cells)
    mean = sum(math.exp(weight - top) / total * posterior for _, weight, posterior, _ in cells)
    rate = max(cells, key=lambda cell: cell[1])[3]
    return PlainNoise(np.asarray(mean), max(value for value, _, _, _ in cells), _mixed(rate, n_classes))


def matrix_noise(scores: np.ndarray, given: np.ndarray) -> PlainNoise:
    """EM at each temperature, and the average by the likelihood of each label under the matrix without it."""
    found = [_em(softmax(scores / t, axis=1), given) for t in TEMPERATURES]
    best = max(found, key=lambda one: one.log_likelihood)
    weights = [math.exp(one.log_likelihood - best.log_likelihood) for one in found]
    mean = sum(weight * one.posterior for weight, one in zip(weights, found, strict=True)) / sum(weights)
    return PlainNoise(np.asarray(mean), best.log_likelihood, best.matrix)


def _em(probs: np.ndarray, given: np.ndarray) -> PlainNoise:
    n_images, n_classes = probs.shape
    matrix, before = _mixed(0.1, n_classes), -math.inf
    for done in range(1, 151):
        counts, value = np.zeros((n_classes, n_classes)), 0.0
        for i, label in enumerate(given):
            joint = [probs[i, j] * matrix[j, label] for j in range(n_classes)]
            value += math.log(sum(joint))
            for j in range(n_classes):
                counts[j, label] += joint[j] / sum(joint)
        off = sum(counts[j, k] for j in range(n_classes) for k in range(n_classes) if j != k)
        rate = min(max(off / (n_images + 5), 1e-4), 0.95)
        pseudo = 20 * _mixed(rate, n_classes)
        matrix = np.array([(counts[j] + pseudo[j]) / (counts[j].sum() + 20) for j in range(n_classes)])
        if done > 6 and value - before < 1e-6 * n_images:
            break
        before = value
    posterior, left_out = np.empty((n_images, n_classes)), 5 * math.log(1 - rate)
    for i, label in enumerate(given):
        joint = np.array([probs[i, j] * matrix[j, label] for j in range(n_classes)])
        posterior[i] = joint / joint.sum()
        chance = 0.0
        for j in range(n_classes):
            row = counts[j] + pseudo[j]
            chance += probs[i, j] * max(row[label] - posterior[i, j], 1e-12) / (row.sum() - posterior[i, j])
        left_out += math.log(chance)
    return PlainNoise(posterior, left_out, matrix)


def regression(features: np.ndarray, given: np.ndarray, noise: np.ndarray, strength: float, start: np.ndarray | None = None) -> np.ndarray:
    """Coefficients (D + 1, K), the intercepts last."""
    n_images, n_classes = len(given), len(noise)
    columns = np.column_stack([features, np.ones(n_images)])

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        table = flat.reshape(-1, n_classes)
        value, slope = 0.0, np.zeros(table.shape)
        for label in range(n_classes):
            rows = columns[given == label]
            probs = softmax(rows @ table, axis=1)
            joint = probs * noise[:, label]
            value -= np.log(joint.sum(axis=1)).sum() / n_images
            slope += rows.T @ (probs - joint / joint.sum(axis=1, keepdims=True)) / n_images
        slope[:-1] += strength * table[:-1]
        return value + strength / 2 * float((table[:-1] ** 2).sum()), slope.ravel()

    begin = np.zeros((columns.shape[1], n_classes)) if start is None else start
    found = minimize(loss, begin.ravel(), jac=True, method="L-BFGS-B", options={"ftol": 1e-12, "gtol": 1e-8, "maxiter": 2000})
    return np.asarray(found.x).reshape(begin.shape)


def scores_of(table: np.ndarray, features: np.ndarray) -> np.ndarray:
    return np.asarray(features @ table[:-1] + table[-1])


def judge(views: list[np.ndarray], given: np.ndarray, n_classes: int, folds: np.ndarray, strengths: list[float]) -> PlainJudgement:
    """The whole of it, with fewer strengths of the penalty, as this takes long."""
    n_folds, identity = int(folds.max()) + 1, np.eye(n_classes)
    plain, retrained, settings, tables = [], [], [], []
    for view in views:
        tried = []
        for strength in strengths:
            of_fold = [regression(view[folds != k], given[folds != k], identity, strength) for k in range(n_folds)]
            scores = _placed(lambda k, rows, view=view, of_fold=of_fold: scores_of(of_fold[k], view[rows]), folds, n_classes)
            tried.append((_loss(scores, given), strength, scores, of_fold))
        best = min(tried, key=lambda one: one[0])
        settings.append(best[1])
        plain.append(best[2])
        tables.append(best[3])
    others = []
    for candidates in (_discriminants(views[0], given, n_classes, folds), _neighbours(views[0], given, n_classes, folds)):
        tempered = [(_loss(scores / t, given), setting, scores / t) for setting, scores in candidates for t in np.geomspace(0.3, 12, 25)]
        best_of = min(tempered, key=lambda one: one[0])
        settings.append(best_of[1])
        others.append(best_of[2])
    pooled = _pool(plain + others)
    uniform, first = uniform_noise(pooled, given), matrix_noise(pooled, given)
    gains = []
    for view, strength, scores, starts in zip(views, settings, plain, tables, strict=False):
        of_fold = [regression(view[folds != k], given[folds != k], first.matrix, strength, starts[k]) for k in range(n_folds)]
        again = _placed(lambda k, rows, view=view, of_fold=of_fold: scores_of(of_fold[k], view[rows]), folds, n_classes)
        retrained.append(again)
        gains.append(_best_chances(again, first.matrix, given) - _best_chances(scores, first.matrix, given))
    gain = np.mean(gains, axis=0)
    z = gain.sum() / (gain.std() * math.sqrt(len(given)))
    tempered_pool = min((pooled / t for t in np.geomspace(0.3, 12, 25)), key=lambda scores: _loss(scores, given))
    shares = np.bincount(given, minlength=n_classes) / len(given)
    chances = softmax(tempered_pool, axis=1)[np.arange(len(given)), given]
    known = np.log(np.maximum(chances, 1e-12) / shares[given])
    accepted = bool(first.log_likelihood > uniform.log_likelihood and z >= 4 and gain.sum() >= 10)
    second = matrix_noise(_pool(retrained + others), given)
    skill = float(known.mean() / (known.std() / math.sqrt(len(given))))
    return PlainJudgement(pooled, uniform, second, float(z), float(gain.sum()), accepted, skill, settings)


def _discriminants(view: np.ndarray, given: np.ndarray, n_classes: int, folds: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Scores by shrinkage; every class has to be in all folds' complements."""

    def scores(k: int, rows: np.ndarray, shrinkage: float) -> np.ndarray:
        judge = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(view[folds != k], given[folds != k])
        return np.asarray(judge.predict_log_proba(view[rows]))

    shrinkages = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
    return [(g, _placed(lambda k, rows, g=g: scores(k, rows, g), folds, n_classes)) for g in shrinkages]


def _neighbours(view: np.ndarray, given: np.ndarray, n_classes: int, folds: np.ndarray) -> list[tuple[float, np.ndarray]]:
    def scores(k: int, rows: np.ndarray, count: int) -> np.ndarray:
        known, labels = view[folds != k], given[folds != k]
        shares = np.bincount(labels, minlength=n_classes) / len(labels)
        found = []
        for image in view[rows]:
            cosine = known @ image / np.linalg.norm(known, axis=1)
            votes = np.bincount(labels[np.argsort(-cosine)[:count]], minlength=n_classes)
            found.append(np.log((votes + 2 * shares) / (min(count, len(labels)) + 2)))
        return np.array(found)

    return [(count, _placed(lambda k, rows, count=count: scores(k, rows, count), folds, n_classes)) for count in (5, 10, 20, 40)]


def _placed(of_fold: Callable[[int, np.ndarray], np.ndarray], folds: np.ndarray, n_classes: int) -> np.ndarray:
    scores = np.empty((len(folds), n_classes))
    for k in range(int(folds.max()) + 1):
        rows = np.flatnonzero(folds == k)
        scores[rows] = of_fold(k, rows)
    return scores


def _best_chances(scores: np.ndarray, noise: np.ndarray, given: np.ndarray) -> np.ndarray:
    found = [np.log((softmax(scores / t, axis=1) @ noise)[np.arange(len(given)), given]) for t in TEMPERATURES]
    return max(found, key=lambda logs: logs.sum())


def _pool(scores: list[np.ndarray]) -> np.ndarray:
    return np.asarray(sum(log_softmax(one, axis=1) for one in scores) / len(scores))


def _loss(scores: np.ndarray, given: np.ndarray) -> float:
    return -float(log_softmax(scores, axis=1)[np.arange(len(given)), given].mean())


def _mixed(rate: float, n_classes: int) -> np.ndarray:
    return np.array([[1 - rate if j == k else rate / (n_classes - 1) for k in range(n_classes)] for j in range(n_classes)])
