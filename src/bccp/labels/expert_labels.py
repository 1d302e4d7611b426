"""What a few checked labels are worth: they calibrate P(wrong) of all the others.

N images, K classes; M of the images have been checked by an expert. The label posterior of :mod:`bccp.labels.posterior` assumes that p(z |
x) is calibrated and that users err without looking at the image. Neither holds for people: what is hard for the model is hard for them as
well. The checked images say by how much. A logistic judge of "the given label is wrong" is fitted to them,

    logit P(wrong | x, y) = l + a + b·l + w·f + c[y],

l the log odds of the label posterior, f what else p(z | x) says of the label, and c a constant for each given class. The prior of a, b, w
and c is Gaussian around 0, where the judge repeats the posterior: a few checked labels correct its level and slope (Platt's scaling), many
correct all of it. How firmly the prior holds is not chosen but averaged over: each combination of penalties counts by how well it
predicts each checked label from the others.

The checked images need not be drawn at random, as long as nobody chose them by their true label: given the score, a suspect and an image
drawn at random say the same of a label with that score, and the judge is fitted to both unweighted. But the worst suspects say nothing of
images that hardly anybody doubts. So P(wrong) stays as it was at scores for which no image was checked (:func:`looked_at`), and

    share of wrong labels = (wrong ones among the checked + Σ P(wrong) of the others) / N

is then a lower bound: what the worst suspects reveal is in it, what hides among the others only as far as the posterior knows. The mean
over checked images is never taken for the share. A random sample looks at all scores.

References
----------
J. Platt: "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood Methods", 1999.
K. Rahnama Rad, A. Maleki: "A Scalable Estimate of the Out-of-Sample Prediction Error via Approximate Leave-One-Out Cross-Validation",
Journal of the Royal Statistical Society B 82, 2020.
Y. Yao, A. Vehtari, D. Simpson, A. Gelman: "Using Stacking to Average Bayesian Predictive Distributions", Bayesian Analysis 13, 2018
(the average is their pseudo-BMA).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from bccp.core.errors import BCCPError
from bccp.data.array_types import Float, Index, Mask
from bccp.data.label_tables import grids
from bccp.data.label_tables.columns import Columns
from bccp.data.label_tables.reading import Answer
from bccp.data.layout import KnownNames
from bccp.labels import feedback
from bccp.labels.posterior import expected_f1_cutoff

LEVEL_PENALTIES = (0.1, 1.0, 10.0)
"""Of level and slope: what the prior takes a standard deviation's worth of deviation for, in checked labels."""

FEATURE_PENALTIES = (1.0, 10.0, 100.0, 1e4)
"""Of what else p(z | x) says of the label; the last one leaves it out."""

CLASS_PENALTIES = (3.0, 30.0, 1e5)
"""Of the given classes' constants; the last one leaves them out."""

CLIPPED_PROBABILITY = 1e-9
"""Smaller ones count as this."""

NO_CLASS = -1
"""In place of a checked label: the image is of none of the classes, and its given label wrong."""

SUSPECT, RANDOM, UNKNOWN = "suspect", "random", "unknown"
"""How a checked image was chosen: by its score, at random, or nobody knows (which is treated as by its score)."""

LABELLED, UNSURE, OF_NO_CLASS = "label", "unsure", "none"
"""Verdicts on an image that somebody looked at: its label stands in the row; no answer, so that it counts as not checked; it is of none of
the classes, so that its given label is wrong."""

MAX_HOLE = 0.2
"""A stretch of the scores that holds a greater share of the images, and no checked one, counts as not looked at."""

MIN_RANDOM = 10
"""So many images drawn at random look at all scores."""

MIN_FILLED = 0.9
"""Share of the random rows of a report that have to be filled in: those left blank may have been left for what they show."""

_MAX_Z = 3.5
"""Of the mean rank of images said to be drawn at random, in standard deviations: beyond it they were not."""


@dataclass(frozen=True)
class Audit:
    """What an audit file says.

    Attributes
    ----------
    labels : dict of str to str
        The checked label by image id, sorted; judged images only.
    no_class : frozenset of str
        Judged images that are of none of the classes.
    chosen : dict of str to str
        How each of these images, labelled or of no class, was chosen: ``suspect``, ``random`` or ``unknown``.
    n_unsure : int
        Judged images of which somebody was unsure: they count as not checked.
    n_random_blank : int
        Rows said to be random that have no answer, or an unsure one.
    n_blank : int
        Rows without an answer: images that were not checked.
    problems : dict of str to list of str
        For each of ``feedback.PROBLEMS``, for ``unknown_verdict`` and for ``not_judged``, a description of every such row.
    """

    labels: Mapping[str, str]
    no_class: frozenset[str]
    chosen: Mapping[str, str]
    n_unsure: int
    n_random_blank: int
    n_blank: int
    problems: Mapping[str, list[str]]

    @property
    def answers(self) -> dict[str, str | None]:
        """The checked label by image id, None for an image of no class; sorted."""
        return dict(sorted({**self.labels, **dict.fromkeys(self.no_class)}.items()))

    def encoded(self, ids: Sequence[str], classes: Sequence[str]) -> tuple[Index, Index]:
        """Find the checked images among sorted ids (N,).

        Returns
        -------
        places, labels : ndarray of int64, shape (M,)
            Their positions, rising, and what was checked, as positions in ``classes`` or ``NO_CLASS``.
        """
        number: dict[str | None, int] = {name: k for k, name in enumerate(classes)} | {None: NO_CLASS}
        answers = self.answers
        places = [i for i, image in enumerate(ids) if image in answers]
        return np.array(places, np.int64), np.array([number[answers[ids[i]]] for i in places], np.int64)


class Calibration(NamedTuple):
    """Given labels, judged with the help of checked ones.

    Attributes
    ----------
    p_wrong : ndarray of float64, shape (N,)
        P(given label wrong), in [0, 1]; 0 or 1 where the image was checked, and as it was at scores that nobody looked at.
    posterior : ndarray of float64, shape (N, K)
        P(z = j | x, y); rows sum to 1, 1 - ``p_wrong`` at the given label; one-hot where the image was checked, and 0 at the given label
        where it is of no class.
    cutoff : float
        The highest expected F1 of ``p_wrong``; strictly above it labels are cut off.
    estimated_user_accuracy : float
        The mean of 1 - ``p_wrong``; 1 for N = 0.
    at_least : bool
        Whether there are scores that nobody looked at, so that at least the share 1 - ``estimated_user_accuracy`` is wrong.
    """

    p_wrong: Float
    posterior: Float
    cutoff: float
    estimated_user_accuracy: float
    at_least: bool


class LogisticFit(NamedTuple):
    """The likeliest logistic judge under a Gaussian prior around 0.

    Attributes
    ----------
    weights : ndarray of float64, shape (D,)
        Of the columns.
    constants : ndarray of float64, shape (K,)
        Of the groups.
    left_out : ndarray of float64, shape (M,)
        Each row's logit by the judge that is fitted to all other rows, to first order in what leaving it out changes.
    """

    weights: Float
    constants: Float
    left_out: Float


def read_file(path: Path) -> feedback.FeedbackFile:
    """The rows of an audit file, whatever is in them; raises :class:`BCCPError` where it cannot be read or lacks a column."""
    return feedback.read_feedback(path, kind="audit file", wanted="image,label", layout="rows", columns=Columns(user="", key=""))


def read_audit(path: Path, *, images: Collection[str], judged: Collection[str], classes: Collection[str]) -> Audit:
    """Read an audit file: a CSV ``image,label`` of images that an expert has checked.

    It may have further columns, so that a ``label_report.csv`` with filled-in labels will do. A column ``user`` says who gave the label
    that was checked, and is not looked at. A column ``chosen`` says how the image was chosen (``suspect`` or ``random``; anything else, and
    a file without it: unknown). A column ``verdict`` says what came of a look at the image: ``label`` or nothing, where the label stands in
    the row; ``unsure``; ``none``, of none of the classes. Rows without label and verdict are images that were not checked. All else is as
    in feedback files (:func:`bccp.labels.feedback.sort_out`): equal rows count once, contradicting ones not at all.

    Parameters
    ----------
    path : Path
    images : collection of str
        The ids of all of the data's images.
    judged : collection of str
        The ids of those whose given labels are judged.
    classes : collection of str
        The names of the classes.

    Returns
    -------
    Audit
        At least one image that is labelled or of no class.

    Raises
    ------
    BCCPError
        If the file cannot be read, or no row of it is of any use.
    """
    file, further = read_file(path), _further_columns(path)
    unsure, of_no_class = (_word_apart(f"({word})", classes) for word in (UNSURE, "of no class"))
    answers: list[Answer] = []
    origins: dict[str, str] = {}
    n_blank = n_random_blank = 0
    unknown_verdicts: list[str] = []
    contradictions: list[str] = []
    for row in file.rows:
        origin, verdict = further.get(row.place, (UNKNOWN, LABELLED))
        if verdict not in (LABELLED, UNSURE, OF_NO_CLASS):
            unknown_verdicts.append(f"{verdict!r} for {row.image}: {LABELLED}, {UNSURE} and {OF_NO_CLASS} are accepted")
        elif verdict == OF_NO_CLASS and row.label.strip():
            contradictions.append(f"{row.place}: {row.image} as {row.label.strip()!r} and of no class")
        elif verdict == LABELLED and not row.label.strip() and row.image.strip():
            n_blank, n_random_blank = n_blank + 1, n_random_blank + (origin == RANDOM)
        else:
            n_random_blank += verdict == UNSURE and origin == RANDOM
            if verdict != LABELLED and row.image.strip():  # without a label it is no answer to the reader
                row = replace(row, label=unsure if verdict == UNSURE else of_no_class, problem="")
            answers.append(replace(row, user=""))
            origins[row.place] = origin
    if file.rows and not answers:
        _refuse_without_answers(path, len(file.rows), unknown_verdicts + contradictions)
    apart = [unsure, of_no_class]
    said = feedback.sort_out(replace(file, rows=answers, has_users=False), images=images, classes=classes, beside=apart)
    of_use = frozenset(judged)
    votes = {image: label for (image, _), label in said.votes.items() if image in of_use}
    labels = {image: label for image, label in votes.items() if label not in apart}
    no_class = frozenset(image for image, label in votes.items() if label == of_no_class)
    chosen: dict[str, str] = {}
    known = KnownNames(of_use)
    for answer in answers:
        image, origin = known.find(answer.image) or answer.image, origins[answer.place]
        chosen[image] = origin if chosen.get(image, origin) == origin else UNKNOWN
    not_judged = [image for image, _ in said.votes if image not in of_use]
    if not votes:
        raise BCCPError(
            f"none of the {len(not_judged)} images in the audit file {path} is among the {len(of_use)} whose labels are judged "
            f"(e.g. {not_judged[0]!r} is not): check some of those, e.g. {min(of_use, default='')!r}"
        )
    if not labels and not no_class:
        raise BCCPError(
            f"the audit file {path} has no label: its {len(votes)} answer(s) are {UNSURE}, which counts as not checked; "
            "give at least one label"
        )
    problems = {**said.problems, "unknown_verdict": unknown_verdicts, "not_judged": not_judged}
    problems["conflicting"] = contradictions + problems["conflicting"]
    checked = {image: chosen[image] for image in votes if image in labels or image in no_class}
    return Audit(labels, no_class, checked, len(votes) - len(checked), n_random_blank, n_blank, problems)


def _word_apart(word: str, classes: Collection[str]) -> str:
    """The word, in as many brackets as it takes to be no class."""
    while KnownNames(classes).find(word) is not None:
        word = f"({word})"
    return word


def _refuse_without_answers(path: Path, n_rows: int, refused: Sequence[str]) -> NoReturn:
    if refused:
        raise BCCPError(f"none of the {n_rows} rows of the audit file {path} can be used: e.g. {refused[0]}")
    raise BCCPError(f"none of the {n_rows} rows of the audit file {path} has a label: fill in the column label of the checked images")


def _further_columns(path: Path) -> dict[str, tuple[str, str]]:
    """Read how the image of each row was chosen, and the verdict in lower case, by the row's place in the file."""
    text = grids.decoded(path.read_bytes())
    data = grids.parsed_json(text)
    grid = grids.grid_of_csv(text) if data is None else grids.grid_of_json(data)
    names = [name.strip().casefold() for name in grid.names]

    def words(name: str) -> list[str]:
        if names.count(name) != 1:
            return [""] * len(grid.rows)
        column = names.index(name)
        return [cells[column].strip().casefold() if column < len(cells) else "" for cells in grid.rows]

    # people write "suspect 3" or "Random"
    kinds = [next((kind for kind in (SUSPECT, RANDOM) if word.startswith(kind)), UNKNOWN) for word in words("chosen")]
    verdicts = [word or LABELLED for word in words("verdict")]
    return dict(zip(grid.places, zip(kinds, verdicts, strict=True), strict=True))


def trusted_origins(chosen: Sequence[str], n_random_blank: int) -> tuple[list[str], str]:
    """Take the random rows of a report for a random sample only where nearly all of them are filled in.

    Parameters
    ----------
    chosen : sequence of str, length M
        How each checked image was chosen.
    n_random_blank : int
        Random rows without a label.

    Returns
    -------
    chosen : list of str, length M
        ``unknown`` in place of ``random`` where too many are blank.
    note : str
        One sentence on that, or an empty string.
    """
    n_random = list(chosen).count(RANDOM)
    if not n_random or n_random >= MIN_FILLED * (n_random + n_random_blank):
        return list(chosen), ""
    note = (
        f"{n_random_blank} of {n_random + n_random_blank} rows chosen at random are blank, so that the others are no random sample: "
        "fill in all of them, also where the given label is right"
    )
    return [UNKNOWN if kind == RANDOM else kind for kind in chosen], note


def audit_sentence(audit: Audit, chosen: Sequence[str]) -> str:
    """Count what an audit file says, and how its images were chosen (:func:`trusted_origins`).

    Examples
    --------
    >>> audit = Audit({"1.png": "cat", "2.png": "dog"}, frozenset({"3.png"}), {}, 2, 0, 5, {})
    >>> audit_sentence(audit, ["suspect", "random", "unknown"])
    '3 checked images (1 suspect, 1 at random, 1 chosen nobody knows how), 1 of them of no class; 2 unsure, which count as not checked'
    """
    counts = Counter(chosen)
    origins = {
        SUSPECT: f"{counts[SUSPECT]} suspect{'s' * (counts[SUSPECT] != 1)}",
        RANDOM: f"{counts[RANDOM]} at random",
        UNKNOWN: f"{counts[UNKNOWN]} chosen nobody knows how",
    }
    said = f"{len(chosen)} checked image{'s' * (len(chosen) != 1)} ({', '.join(words for kind, words in origins.items() if counts[kind])})"
    said += f", {len(audit.no_class)} of them of no class" if audit.no_class else ""
    return said + (f"; {audit.n_unsure} unsure, which count{'s' * (audit.n_unsure == 1)} as not checked" if audit.n_unsure else "")


def calibrate(
    probs: npt.ArrayLike,
    posterior: npt.ArrayLike,
    given: npt.ArrayLike,
    audited: npt.ArrayLike,
    checked: npt.ArrayLike,
    *,
    at_random: npt.ArrayLike | None = None,
) -> Calibration:
    """Judge given labels by their posterior and by the labels that were checked.

    Parameters
    ----------
    probs : array-like, shape (N, K)
        p(z = j | x), at the temperature of the posterior; rows sum to 1; K at least 2.
    posterior : array-like, shape (N, K)
        P(z = j | x, y) as far as it is known without checked labels; rows sum to 1.
    given : array-like of int, shape (N,)
        The given labels, 0 to K - 1.
    audited : array-like of int, shape (M,)
        Positions of the checked images, each once. M may be 0: the posterior stands.
    checked : array-like of int, shape (M,)
        Their true labels, 0 to K - 1, or ``NO_CLASS``.
    at_random : array-like of bool, shape (M,), optional
        Whether each was drawn at random from all images, or from all but those that were chosen otherwise. None: nobody knows, as if all
        were chosen by their score.

    Returns
    -------
    Calibration
        Permuting the images, or the checked ones, permutes the result and changes nothing else, to the bit. Where the posterior has no
        mass beside the given label, the mass goes to the other classes in proportion to ``probs``, or else evenly.

    Raises
    ------
    ValueError
        For arrays that do not fit each other.
    """
    prior, before, labels, places, truth = _checked(probs, posterior, given, audited, checked)
    drawn = np.zeros(len(places), np.bool_) if at_random is None else np.asarray(at_random, np.bool_)
    if drawn.shape != places.shape:
        raise ValueError(f"at_random {drawn.shape} must be as long as audited {places.shape}")
    n_images, n_classes = prior.shape
    described = judge_features(prior, before, labels)
    state = np.zeros(n_images, np.int64)  # 0: not checked, 1: found right, 2: found wrong
    state[places] = np.where(truth == labels[places], 1, 2)
    # sums of floats depend on their order: take one that belongs to the values, not to the images' places
    order = np.lexsort([*described.T, state, labels])
    p_wrong = np.empty(n_images)
    p_wrong[order] = _judge(described[order], labels[order], state[order], n_classes)
    seen = looked_at(described[:, 0], places, at_random=drawn)
    p_wrong[~seen] = _part(before, labels)[1].sum(axis=1)[~seen]
    p_wrong[places] = state[places] == 2
    belief = np.where(seen[:, np.newaxis], consistent_posterior(prior, before, labels, p_wrong), before)
    known = truth != NO_CLASS
    belief[places[known]] = np.eye(n_classes)[truth[known]]
    accuracy = 1 - float(np.sort(p_wrong).sum()) / n_images if n_images else 1.0
    return Calibration(p_wrong, belief, expected_f1_cutoff(p_wrong), accuracy, at_least=bool(len(places)) and not seen.all())


def looked_at(scores: npt.ArrayLike, audited: npt.ArrayLike, *, at_random: npt.ArrayLike) -> Mask:
    """Say for which images' scores checked images tell how often such a label is wrong.

    Parameters
    ----------
    scores : array-like, shape (N,)
        Of distrust, without regard to what was checked.
    audited : array-like of int, shape (M,)
        Positions of the checked images.
    at_random : array-like of bool, shape (M,)
        Whether each is said to be drawn at random.

    Returns
    -------
    ndarray of bool, shape (N,)
        All, where at least ``MIN_RANDOM`` images were drawn at random, and their ranks do not speak against it. Otherwise all but those in
        stretches of the scores that hold more than ``MAX_HOLE`` of the images, and no checked one: of the 40 worst of 500 images, for
        example, only these are looked at, and an unknown choice that is spread over all scores looks at all.
    """
    values, places, drawn = np.asarray(scores, np.float64), np.asarray(audited, np.int64), np.asarray(at_random, np.bool_)
    n_images = len(values)
    if drawn.sum() >= MIN_RANDOM and _evenly_ranked(values, places, drawn):
        return np.ones(n_images, np.bool_)
    ascending, checked = np.sort(values), np.unique(values[places])
    # the stretch before each checked score, and the one after the last
    first = np.concatenate([[0], np.searchsorted(ascending, checked, side="right")])
    end = np.concatenate([np.searchsorted(ascending, checked, side="left"), [n_images]])
    narrow = end - first <= MAX_HOLE * n_images
    return np.asarray(np.isin(values, checked) | narrow[np.searchsorted(checked, values, side="left")], np.bool_)


def _evenly_ranked(scores: Float, places: Index, drawn: Mask) -> bool:
    """Return True where the mean rank of images said to be random can be chance, among all or all that were not chosen otherwise."""
    own, n_drawn = scores[places[drawn]], int(drawn.sum())
    for pool in (scores, np.delete(scores, places[~drawn])):
        n_pool, ascending = len(pool), np.sort(pool)
        middle = (np.searchsorted(ascending, own, side="left") + np.searchsorted(ascending, own, side="right")) / 2
        spread = np.sqrt(n_pool**2 / 12 / n_drawn * (n_pool - n_drawn) / max(n_pool - 1, 1))
        if abs(middle.mean() - n_pool / 2) <= _MAX_Z * spread:
            return True
    return False


def judge_features(probs: npt.ArrayLike, posterior: npt.ArrayLike, given: npt.ArrayLike) -> Float:
    """What the judge looks at.

    Parameters
    ----------
    probs, posterior, given
        As for :func:`calibrate`.

    Returns
    -------
    ndarray of float64, shape (N, 5)
        The posterior's log odds of a wrong label; log p(given); log p of the likeliest other class; the difference of the two
        probabilities; the entropy of p in nats.
    """
    prior, before, labels = np.asarray(probs, np.float64), np.asarray(posterior, np.float64), np.asarray(given, np.int64)
    own, others = _part(prior, labels)
    right, wrong = _part(before, labels)
    best = others.max(axis=1)
    entropy = -(prior * np.log(prior, out=np.zeros_like(prior), where=prior > 0)).sum(axis=1)  # 0·log 0 = 0
    return np.column_stack([_log(wrong.sum(axis=1)) - _log(right), _log(own), _log(best), own - best, entropy])


def fit_logistic(
    columns: Float, groups: Index, target: Mask, *, offset: Float, penalties: Float, group_penalty: float, n_groups: int
) -> LogisticFit:
    """Fit logit P(target) = offset + columns·weights + constants[group], by Newton's method.

    Parameters
    ----------
    columns : ndarray of float64, shape (M, D)
    groups : ndarray of int64, shape (M,)
        0 to ``n_groups`` - 1.
    target : ndarray of bool, shape (M,)
    offset : ndarray of float64, shape (M,)
        What the logit is where all weights are 0.
    penalties : ndarray of float64, shape (D,)
        The prior's precisions of the weights, above 0.
    group_penalty : float
        That of the constants, above 0.
    n_groups : int

    Returns
    -------
    LogisticFit
    """
    weights, constants = np.zeros(columns.shape[1]), np.zeros(n_groups)

    def logit(by_column: Float, by_group: Float) -> Float:
        return offset + columns @ by_column + by_group[groups]

    def loss(by_column: Float, by_group: Float) -> float:
        prior = (penalties * by_column**2).sum() + group_penalty * (by_group**2).sum()
        return float(log_loss(logit(by_column, by_group), target).sum() + prior / 2)

    reached = loss(weights, constants)
    for _ in range(_MOST_ROUNDS):
        odds = logit(weights, constants)
        p = sigmoid(odds)
        slope, curve = p - target, p * (1 - p)
        # the constants' block of the Hessian is diagonal: solve for the weights first (Schur complement)
        own = np.bincount(groups, curve, n_groups) + group_penalty
        each = np.stack([np.bincount(groups, curve * column, n_groups) for column in columns.T], axis=1)  # (K, D)
        shared = (columns.T * curve) @ columns + np.diag(penalties) - (each.T / own) @ each
        by_column = columns.T @ slope + penalties * weights
        by_group = np.bincount(groups, slope, n_groups) + group_penalty * constants
        step = np.linalg.solve(shared, by_column - (each.T / own) @ by_group)
        group_step = (by_group - each @ step) / own
        gain = float(by_column @ step + by_group @ group_step)
        if gain < _ROUGH:
            break
        size = 1.0
        while (after := loss(weights - size * step, constants - size * group_step)) > reached - 1e-4 * size * gain and size > _ROUGH:
            size /= 2
        weights, constants, reached = weights - size * step, constants - size * group_step, after
    rest = columns - (each / own[:, np.newaxis])[groups]
    leverage = 1 / own[groups] + (rest * np.linalg.solve(shared, rest.T).T).sum(axis=1)
    return LogisticFit(weights, constants, odds + leverage * slope / (1 - leverage * curve))


def sigmoid(logits: Float) -> Float:
    """1 / (1 + exp(-logits)), without overflow."""
    return np.asarray((1 + np.tanh(logits / 2)) / 2)


def log_loss(logits: Float, target: Mask) -> Float:
    """-log P(target), in nats, for each row."""
    return np.asarray(np.logaddexp(0.0, np.where(target, -logits, logits)))


def _judge(described: Float, labels: Index, state: Index, n_classes: int) -> Float:
    """P(wrong) by the penalties' average, shape (N,)."""
    offset, seen = described[:, 0], state > 0
    if not seen.any():
        return sigmoid(offset)
    spread = described.std(axis=0)
    columns = np.column_stack([np.ones(len(described)), (described - described.mean(axis=0)) / np.where(spread > _ROUGH, spread, np.inf)])
    target = state[seen] == 2
    losses, judged = [], []
    for level, feature, by_class in itertools.product(LEVEL_PENALTIES, FEATURE_PENALTIES, CLASS_PENALTIES):
        fit = fit_logistic(
            columns[seen],
            labels[seen],
            target,
            offset=offset[seen],
            penalties=np.array([level, level] + [feature] * (described.shape[1] - 1)),
            group_penalty=by_class,
            n_groups=n_classes,
        )
        losses.append(float(log_loss(fit.left_out, target).sum()))
        judged.append(sigmoid(offset + columns @ fit.weights + fit.constants[labels]))
    trust = np.exp(min(losses) - np.array(losses))
    return np.asarray((trust / trust.sum()) @ np.array(judged))


def consistent_posterior(prior: Float, before: Float, labels: Index, p_wrong: Float) -> Float:
    """Move mass between the given label and the other classes of each row.

    Parameters
    ----------
    prior, before : ndarray of float64, shape (N, K)
        Rows sum to 1.
    labels : ndarray of int64, shape (N,)
        The given labels.
    p_wrong : ndarray of float64, shape (N,)
        The mass of all other classes than the given one, in [0, 1].

    Returns
    -------
    ndarray of float64, shape (N, K)
        1 - ``p_wrong`` at the given label; the other classes in the proportions of ``before``, or of ``prior`` where that has none of it,
        or else evenly.
    """
    belief = np.full(prior.shape, 1 / (prior.shape[1] - 1))
    np.put_along_axis(belief, labels[:, np.newaxis], 0.0, axis=1)
    for source in (prior, before):
        _, others = _part(source, labels)
        mass = others.sum(axis=1, keepdims=True)
        np.divide(others, mass, out=belief, where=mass > np.finfo(np.float64).tiny)
    belief *= p_wrong[:, np.newaxis]
    np.put_along_axis(belief, labels[:, np.newaxis], 1 - p_wrong[:, np.newaxis], axis=1)
    return belief


def _part(probs: Float, labels: Index) -> tuple[Float, Float]:
    """The labels' own probabilities, shape (N,), and a copy without them, shape (N, K)."""
    own = np.take_along_axis(probs, labels[:, np.newaxis], axis=1)[:, 0]
    others = np.array(probs, order="C")
    np.put_along_axis(others, labels[:, np.newaxis], 0.0, axis=1)
    return own, others


def _log(probs: Float) -> Float:
    return np.asarray(np.log(np.clip(probs, CLIPPED_PROBABILITY, 1.0)))


def _checked(
    probs: npt.ArrayLike, posterior: npt.ArrayLike, given: npt.ArrayLike, audited: npt.ArrayLike, checked: npt.ArrayLike
) -> tuple[Float, Float, Index, Index, Index]:
    prior, before = np.ascontiguousarray(probs, np.float64), np.ascontiguousarray(posterior, np.float64)
    labels, places, truth = (np.asarray(values, np.int64) for values in (given, audited, checked))
    if prior.ndim != 2 or prior.shape[1] < 2 or before.shape != prior.shape or labels.shape != prior.shape[:1]:
        raise ValueError(f"probs {prior.shape} and posterior {before.shape} must be (N, K), K at least 2, and given {labels.shape} (N,)")
    if places.ndim != 1 or truth.shape != places.shape or len(np.unique(places)) != len(places):
        raise ValueError(f"audited {places.shape} must be (M,), each position once, and checked {truth.shape} as long")
    n_images, n_classes = prior.shape
    for name, values, least, limit in (
        ("given", labels, 0, n_classes),
        ("checked", truth, NO_CLASS, n_classes),
        ("audited", places, 0, n_images),
    ):
        if len(values) and not least <= values.min() <= values.max() < limit:
            raise ValueError(f"{name} runs from {values.min()} to {values.max()}: {least} to {limit - 1} are accepted")
    return prior, before, labels, places, truth


_MOST_ROUNDS = 100
"""Of Newton's method; a dozen are usual."""

_ROUGH = 1e-9
"""What is too little to be told from 0: a gain of Newton's method in nats, a step, a column's spread."""
