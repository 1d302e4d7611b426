"""Scores of distrust, the cut-off, and what becomes of the labels above it.

N images, K classes, S stochastic passes of MC dropout. A score says how little a given label is to be believed; what lies strictly above
the cut-off is cut off. ``label_posterior`` scores P(given label wrong), from :mod:`bccp.labels.posterior`. The others are there for
comparison: ``cleanlab`` (confident learning) and three that look at the image's uncertainty alone, and never at its label.

References
----------
S. Lee, N. Jeong, J. Je, S.-Y. Lee: "BCCP: An MLOps Framework for Self-cleansing Real-Time Data Noise via Bayesian Cut-off-based Closest
Pair Sampling", IEEE AIxDKE 2024 (``logit_variance``).
Y. Gal, R. Islam, Z. Ghahramani: "Deep Bayesian Active Learning with Image Data", ICML 2017 (``mutual_information``).
C. Northcutt, L. Jiang, I. Chuang: "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, 2021 (``cleanlab``).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.core.errors import BCCPError
from bccp.data.array_types import Float, Float32, Index, Mask
from bccp.labels.posterior import expected_f1_cutoff

UNCERTAINTIES = ("logit_variance", "predictive_entropy", "mutual_information")
"""Methods that score an image and not its label."""

GUARD_COST = 0.01
"""Expected F1 that the guardrail may cost at most."""

GUARD_SLACK = 1.0
"""Labels that a class may lose beyond what the guardrail allows."""

RELABEL_LEAST = 0.5
"""A label is replaced only by a class that is at least as probable as all others together."""


class McDropoutSummary(NamedTuple):
    """What the stochastic passes say of each image.

    Attributes
    ----------
    mean_probs : ndarray of float64, shape (N, K)
        Softmax averaged over the passes: p(z = j | x). Rows sum to 1.
    logit_variance : ndarray of float64, shape (N,)
        Variance over the passes of the sum of the logits, the paper's score.
    predictive_entropy : ndarray of float64, shape (N,)
        Of the mean probabilities, in nats: 0 to log K.
    mutual_information : ndarray of float64, shape (N,)
        Between label and network (BALD), in nats: the predictive entropy less the passes' mean entropy, not negative.
    """

    mean_probs: Float
    logit_variance: Float
    predictive_entropy: Float
    mutual_information: Float


class CutoffPlan(NamedTuple):
    """What a method does where it cannot do what was asked for.

    Attributes
    ----------
    cutoff, action : str
    note : str
        One line that says what was replaced, or an empty string.
    """

    cutoff: str
    action: str
    note: str


class GuardrailResult(NamedTuple):
    """What the guardrail leaves above the cut-off.

    Attributes
    ----------
    above : ndarray of bool, shape (N,)
        Whether the label is still cut off.
    given_back : ndarray of int64, shape (K,)
        Number of labels that each class gets back.
    cost : float
        Expected F1 lost, in [0, 1].
    """

    above: Mask
    given_back: Index
    cost: float


class Decision(NamedTuple):
    """What becomes of the given labels.

    Attributes
    ----------
    table : DataFrame
        N rows; ``image, given_label, score, p_wrong, above_cutoff, action, final_label, weight``. ``p_wrong`` is empty without a posterior,
        ``final_label`` where the image is dropped; weight 0 or 1.
    targets : ndarray of float32, shape (N, K)
        The training target of each row; rows sum to 1. One-hot, of the given label where the image is dropped, or the posterior.
    posterior : ndarray of float64, shape (N, K), or None
        P(z = j | x, y), whatever was decided; None without one.
    """

    table: pd.DataFrame
    targets: Float32
    posterior: Float | None


def summarise(logits: npt.ArrayLike) -> McDropoutSummary:
    """Average stochastic passes and measure how they differ.

    Parameters
    ----------
    logits : array-like, shape (S, N, K)
        S at least 1.

    Returns
    -------
    Passes
    """
    passes = np.asarray(logits, np.float64)
    shifted = passes - passes.max(axis=2, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True))
    probs = np.exp(log_probs)  # (S, N, K)
    mean = probs.mean(axis=0)
    log_mean = np.log(mean, out=np.zeros_like(mean), where=mean > 0)  # 0·log 0 = 0
    entropy = -(mean * log_mean).sum(axis=1)
    expected_entropy = -(probs * log_probs).sum(axis=2).mean(axis=0)
    return McDropoutSummary(mean, passes.sum(axis=2).var(axis=0), entropy, np.maximum(entropy - expected_entropy, 0.0))


def plan_cutoff(method: str, cutoff: str, action: str) -> CutoffPlan:
    """Say which cut-off and action a method uses.

    Parameters
    ----------
    method : str
        ``label_posterior``, ``cleanlab``, or one of ``UNCERTAINTIES``.
    cutoff : {"auto", "percentile", "threshold"}
    action : {"soft", "relabel", "drop"}

    Returns
    -------
    Plan
        As asked for with ``label_posterior``. Otherwise ``soft`` becomes ``drop`` and, but for ``cleanlab``, ``auto`` becomes
        ``percentile``.

    Raises
    ------
    BCCPError
        For ``threshold`` or ``relabel`` with a method that has no posterior.
    """
    if method == "label_posterior":
        return CutoffPlan(cutoff, action, "")
    for key, value in (("cutoff", cutoff), ("action", action)):
        if value in ("threshold", "relabel"):
            raise BCCPError(
                f"bayes_cutoff.{key}={value} needs a posterior, and bayes_cutoff.method={method} has none: "
                "use bayes_cutoff.method=label_posterior"
            )
    resolved = (cutoff if method == "cleanlab" else "percentile", "drop")
    changed = [f"{asked} becomes {used}" for asked, used in zip((cutoff, action), resolved, strict=True) if asked != used]
    return CutoffPlan(*resolved, f"{method} has no posterior: {' and '.join(changed)}" if changed else "")


def cut_off(scores: npt.ArrayLike, kind: str, *, percentile: float, threshold: float) -> float:
    """The score above which labels are cut off.

    Parameters
    ----------
    scores : array-like, shape (N,)
        P(given label wrong) for ``auto`` and ``threshold``; any score for ``percentile``.
    kind : {"auto", "percentile", "threshold"}
        ``auto``: the highest expected F1, :func:`bccp.labels.posterior.expected_f1_cutoff`.
    percentile : float
        0 to 100, interpolated linearly.
    threshold : float
        Returned as it is.

    Returns
    -------
    float
        Labels *strictly* above it are cut off. 0 where there are no scores to look at.
    """
    values = np.asarray(scores, np.float64)
    if kind == "threshold":
        return float(threshold)
    if kind == "auto":
        return expected_f1_cutoff(values)
    return float(np.percentile(values, percentile)) if len(values) else 0.0


def hold_back(
    p_wrong: npt.ArrayLike,
    given: npt.ArrayLike,
    above: npt.ArrayLike,
    n_classes: int,
    *,
    max_ratio: float,
    max_cost: float = GUARD_COST,
    slack: float = GUARD_SLACK,
) -> GuardrailResult:
    """Keep the cut-off from falling on a few classes: give back labels of those that lose too many probably right ones.

    A class loses Σ (1 - P(wrong)) over its given labels above the cut-off, out of Σ (1 - P(wrong)) over all of them; so do all classes
    together. If a class loses a greater share than ``max_ratio`` times the overall one, and more than ``slack`` labels beyond it, it gets
    back those most probably right until it no longer does (the overall share falls with them).

    Parameters
    ----------
    p_wrong : array-like, shape (N,)
        P(given label wrong), in [0, 1].
    given : array-like of int, shape (N,)
        The given labels.
    above : array-like of bool, shape (N,)
        Whether a label lies above the cut-off.
    n_classes : int
        K.
    max_ratio : float
        At least 1.
    max_cost : float
        By how much expected F1 may change at most, either way: it rises where somebody has set a cut-off that the posterior would not have
        chosen, and that one stands.
    slack : float
        Labels that a class may lose beyond its limit: where hardly any right label is lost, chance alone makes classes unequal.

    Returns
    -------
    Held
        In each round, of the classes beyond their limit the one with the greatest share gets one label back, of equal ones all. Rounds end
        when no class is beyond it, or the next one would change too much. The order of the images does not matter.
    """
    wrong, labels = np.asarray(p_wrong, np.float64), np.asarray(given, np.int64)
    cut = np.array(above, np.bool_)
    if not cut.any():
        return GuardrailResult(cut, np.zeros(n_classes, np.int64), 0.0)
    right = 1 - wrong
    n_right = np.array([np.sort(right[labels == k]).sum() for k in range(n_classes)])
    # of each class what is above, by P(wrong) rising: the first to be given back come first; equal ones go together
    waiting = []
    for k in range(n_classes):
        values, counts = np.unique(wrong[cut & (labels == k)], return_counts=True)
        waiting.append(list(zip(values.tolist(), counts.tolist(), strict=True))[::-1])
    lost = np.array([sum((1 - value) * count for value, count in rows) for rows in waiting])
    n_cut, found, total = int(cut.sum()), float(np.sort(wrong[cut]).sum()), float(np.sort(wrong).sum())
    before = _f1(found, n_cut, total)
    floor = np.full(n_classes, -np.inf)  # labels up to this P(wrong) are given back
    while True:
        share = np.divide(lost, n_right, out=np.zeros(n_classes), where=n_right > 0)
        overall = lost.sum() / n_right.sum() if n_right.sum() > 0 else 0.0
        beyond = lost - max_ratio * overall * n_right - slack
        worst = int(np.argmax(np.where(beyond > 1e-9, share, -1.0)))
        if beyond[worst] <= 1e-9 or not waiting[worst]:
            break
        value, count = waiting[worst][-1]
        if abs(before - _f1(found - value * count, n_cut - count, total)) > max_cost:
            break
        waiting[worst].pop()
        n_cut, found, floor[worst] = n_cut - count, found - value * count, value
        lost[worst] = sum((1 - value) * count for value, count in waiting[worst])
    kept = cut & (wrong > floor[labels])
    return GuardrailResult(kept, np.bincount(labels[cut & ~kept], minlength=n_classes), max(0.0, before - _f1(found, n_cut, total)))


def confident_learning(probs: npt.ArrayLike, given: npt.ArrayLike) -> tuple[Float, Mask]:
    """Wrong labels by the package cleanlab, with its own default filter.

    Parameters
    ----------
    probs : array-like, shape (N, K)
        p(z = j | x), out of sample; rows sum to 1.
    given : array-like of int, shape (N,)
        The given labels.

    Returns
    -------
    score : ndarray of float64, shape (N,)
        1 - self-confidence, the probability of all other classes than the given one; in [0, 1].
    above : ndarray of bool, shape (N,)
        What the filter (``prune_by_noise_rate``) finds wrong. It never prunes a class to less than one image.
    """
    from cleanlab.filter import find_label_issues  # it brings scikit-learn, which no other method needs

    mean, labels = np.asarray(probs, np.float64), np.asarray(given, np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "May not flag all label issues", UserWarning)  # of classes with one image or none
        above = find_label_issues(labels, mean, n_jobs=1)
    return probability_wrong(mean, labels), np.asarray(above, np.bool_)


def decide(
    images: Sequence[str],
    given: npt.ArrayLike,
    classes: Sequence[str],
    *,
    score: npt.ArrayLike,
    above: npt.ArrayLike,
    action: str,
    posterior: npt.ArrayLike | None = None,
    audited: npt.ArrayLike | None = None,
    no_class: npt.ArrayLike | None = None,
) -> Decision:
    """Say what becomes of each given label.

    Parameters
    ----------
    images : sequence of str, length N
        Ids, sorted.
    given : array-like of int, shape (N,)
        The given labels, as positions in ``classes``.
    classes : sequence of str, length K
    score : array-like, shape (N,)
        Of distrust.
    above : array-like of bool, shape (N,)
        Whether the label is cut off.
    action : {"soft", "relabel", "drop"}
        ``soft``: every image, above or not, is trained on its posterior (``soften``; the final label is the likeliest class).
        ``relabel``: a label above the cut-off gives way to the likeliest class if that has at least ``RELABEL_LEAST`` (``relabel``, or
        ``keep`` where it is the given one), else the image is dropped. ``drop``: labels above the cut-off are dropped. All others are
        kept.
    posterior : array-like, shape (N, K), optional
        P(z = j | x, y); needed by ``soft`` and ``relabel``.
    audited : array-like of bool, shape (N,), optional
        Images whose true label is known: a wrong one gives way to it under any action.
    no_class : array-like of bool, shape (N,), optional
        Images known to be of none of the classes: they are dropped under any action.

    Returns
    -------
    Decision

    Raises
    ------
    ValueError
        For ``soft`` or ``relabel`` without a posterior.
    """
    labels, cut = np.asarray(given, np.int64), np.asarray(above, np.bool_)
    own = np.eye(len(classes), dtype=np.float32)[labels]  # (N, K)
    if posterior is None:
        if action != "drop":
            raise ValueError(f"action={action} needs a posterior")
        believed, final, targets, actions, p_wrong = None, labels, own, np.where(cut, "drop", "keep"), None
    else:
        believed = np.asarray(posterior, np.float64)
        p_wrong, best = probability_wrong(believed, labels), believed.argmax(axis=1)
        if action == "soft":
            final, targets, actions = best, believed.astype(np.float32), np.full(len(labels), "soften")
        else:
            known = np.zeros(len(labels), np.bool_) if audited is None else np.asarray(audited, np.bool_)
            replaced = cut & (known | (action == "relabel")) & (believed.max(axis=1, initial=0.0) >= RELABEL_LEAST)
            final = np.where(replaced, best, labels)
            actions = np.where(cut & ~replaced, "drop", np.where(final != labels, "relabel", "keep"))
            targets = np.eye(len(classes), dtype=np.float32)[final]
    if no_class is not None and np.any(no_class):
        foreign = np.asarray(no_class, np.bool_)
        cut, actions, targets = cut | foreign, np.where(foreign, "drop", actions), np.where(foreign[:, np.newaxis], own, targets)
    dropped = actions == "drop"
    return Decision(_table(images, labels, classes, score, p_wrong, cut, actions, final, dropped), targets, believed)


def pass_through(images: Sequence[str], given: npt.ArrayLike, classes: Sequence[str]) -> Decision:
    """Keep every label as it was given.

    Parameters
    ----------
    images : sequence of str, length N
    given : array-like of int, shape (N,)
        The given labels, as positions in ``classes``.
    classes : sequence of str, length K

    Returns
    -------
    Decision
        Scores 0, targets one-hot.
    """
    nothing = np.zeros(len(images))
    return decide(images, given, classes, score=nothing, above=nothing, action="drop")


def probability_wrong(posterior: npt.ArrayLike, given: npt.ArrayLike) -> Float:
    """P(z ≠ y), shape (N,), in [0, 1]: summed over the other classes, so that it is exact also where it is tiny."""
    others = np.array(posterior, np.float64)
    np.put_along_axis(others, np.asarray(given, np.int64)[:, np.newaxis], 0.0, axis=1)
    return np.asarray(np.clip(others.sum(axis=1), 0.0, 1.0), np.float64)


def detection_metrics(
    above: npt.ArrayLike, score: npt.ArrayLike, given: npt.ArrayLike, true: npt.ArrayLike, classes: Sequence[str]
) -> dict[str, float]:
    """How well the wrong labels were found; positive = the given label is wrong, predicted positive = above the cut-off.

    Parameters
    ----------
    above : array-like of bool, shape (N,)
    score : array-like, shape (N,)
        Of distrust.
    given, true : array-like of int, shape (N,)
        Given and true labels.
    classes : sequence of str, length K

    Returns
    -------
    dict of str to float
        ``auroc``, ``precision``, ``recall``, ``f1``, ``true_user_accuracy``, and for each class ``right_dropped_<class>``, the share of its
        right labels that lie above the cut-off. Undefined ones (such as the recall where no label is wrong) are left out. Characters
        of a class name that a metric's name may not have become ``_``, and the class's number is added where two names would be one.
    """
    cut, labels = np.asarray(above, np.bool_), np.asarray(given, np.int64)
    wrong = labels != np.asarray(true, np.int64)
    hits, n_cut, n_wrong = int((cut & wrong).sum()), int(cut.sum()), int(wrong.sum())
    ratios = {
        "precision": (hits, n_cut),
        "recall": (hits, n_wrong),
        "f1": (2 * hits, n_cut + n_wrong),
        "true_user_accuracy": (len(labels) - n_wrong, len(labels)),
    }
    names = [re.sub(r"[^\w.\- ]", "_", name) for name in classes]
    names = [f"{name}_{k}" if names.count(name) > 1 else name for k, name in enumerate(names)]
    for k, name in enumerate(names):
        right = ~wrong & (labels == k)
        ratios[f"right_dropped_{name}"] = (int((cut & right).sum()), int(right.sum()))
    area = {"auroc": auroc(score, wrong)} if 0 < n_wrong < len(labels) else {}
    return area | {name: part / whole for name, (part, whole) in ratios.items() if whole}


def auroc(score: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """The chance that a positive scores above a negative, ties counting half.

    Parameters
    ----------
    score : array-like, shape (N,)
    positive : array-like of bool, shape (N,)
        At least one of each kind.

    Returns
    -------
    float
        In [0, 1].
    """
    is_positive = np.asarray(positive, np.bool_)
    _, place, count = np.unique(np.asarray(score, np.float64), return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2  # from 1; tied scores share theirs
    n_positive = int(is_positive.sum())
    above = mean_rank[place[is_positive]].sum() - n_positive * (n_positive + 1) / 2
    return float(above / (n_positive * (len(is_positive) - n_positive)))


def _f1(found: float, n_cut: int, total: float) -> float:
    """Expected F1 of ``n_cut`` labels above the cut-off, of which ``found`` are wrong in expectation, as ``total`` of all are."""
    return 2 * found / (n_cut + total) if n_cut + total > 0 else 0.0


def _table(
    images: Sequence[str],
    labels: Index,
    classes: Sequence[str],
    score: npt.ArrayLike,
    p_wrong: Float | None,
    cut: Mask,
    actions: npt.NDArray[np.str_],
    final: npt.NDArray[np.integer],
    dropped: Mask,
) -> pd.DataFrame:
    names = np.array([*classes, ""], dtype=object)
    columns = {
        "image": list(images),
        "given_label": names[labels],
        "score": np.asarray(score, np.float64),
        "p_wrong": "" if p_wrong is None else p_wrong,
        "above_cutoff": cut,
        "action": actions,
        "final_label": names[np.where(dropped, len(classes), final)],
        "weight": np.where(dropped, 0.0, 1.0),
    }
    return pd.DataFrame(columns)
