"""Several judges as one: a weighted sum of their log probabilities, its weights learned on trusted labels.

N images, K classes, J judges. Judges that err differently are better together, and how far each is to be heeded depends on the data: so
the weights are those under which trusted labels, judged out of fold, are likeliest. Where nothing is trusted, given labels serve if their
noise is known; else the judges count alike.

References
----------
D. H. Wolpert: "Stacked Generalization", Neural Networks 5, 1992.
G. E. Hinton: "Training Products of Experts by Minimizing Contrastive Divergence", Neural Computation 14, 2002 (sums of log probabilities).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from bccp.data.array_types import Float, Index

OFFSET_PRIOR = 10.0
"""Precision of the normal prior of a class's offset, in images."""


@dataclass(frozen=True)
class Stack:
    """A mixture of judges.

    Attributes
    ----------
    weights : ndarray of float64, shape (J,)
        Above 0; they need not sum to 1.
    offsets : ndarray of float64, shape (K,)
    """

    weights: Float
    offsets: Float

    def __call__(self, scores: Iterable[Float]) -> Float:
        """Scores (n, K) from those of the J judges, (n, K) each, which may come one by one."""
        total: Float = np.asarray(self.offsets, np.float64)
        for weight, of_judge in zip(self.weights.tolist(), scores, strict=True):
            total = total + weight * log_softmax(of_judge, axis=1)
        return total


def mean_stack(n_judges: int, n_classes: int) -> Stack:
    """The geometric mean of the judges' probabilities."""
    return Stack(np.full(n_judges, 1 / n_judges), np.zeros(n_classes))


def fit_stack(scores: Sequence[Float], labels: Index, noise: Float | None = None) -> Stack:
    """Learn the weights of judges on images that they were not fitted to.

    Parameters
    ----------
    scores : sequence of ndarray of float64, length J, shape (N, K)
    labels : ndarray of int64, shape (N,)
        True labels, or given ones of known noise.
    noise : ndarray of float64, shape (K, K), optional
        P(label = k | true = j) of given labels; rows sum to 1. Their chance under it is then what the weights are judged by.

    Returns
    -------
    Stack
        Maximum a posteriori: log weights have a standard normal prior around those of :func:`mean_stack`, offsets one of precision
        ``OFFSET_PRIOR`` around 0.
    """
    logs = np.stack([log_softmax(of_judge, axis=1) for of_judge in scores])  # (J, N, K)
    n_judges, n_images, n_classes = logs.shape
    flat = logs.reshape(n_judges, -1)
    with np.errstate(divide="ignore"):  # what cannot be is -inf
        log_likelihood = np.log(np.eye(n_classes) if noise is None else noise).T[labels]  # (N, K), log P(label | true class)

    def loss(place: Float) -> tuple[float, Float]:
        weights, far, offsets = np.exp(place[:n_judges]), place[:n_judges] + np.log(n_judges), place[n_judges:]
        mixed = (weights @ flat).reshape(n_images, n_classes) + offsets
        log_probs = log_softmax(mixed, axis=1)
        joint = log_probs + log_likelihood
        chance = logsumexp(joint, axis=1, keepdims=True)
        value = -float(chance.sum())
        surplus = np.exp(log_probs) - np.exp(joint - chance)  # gradient of the log loss with respect to the mixed scores
        slope = np.concatenate([weights * (flat @ surplus.ravel()) + far, surplus.sum(axis=0) + OFFSET_PRIOR * offsets])
        return value + 0.5 * OFFSET_PRIOR * float(offsets @ offsets) + 0.5 * float(far @ far), slope

    start = np.concatenate([np.full(n_judges, -np.log(n_judges)), np.zeros(n_classes)])
    found = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return Stack(np.exp(found[:n_judges]), found[n_judges:])
