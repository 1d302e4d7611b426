"""Where a classifier errs, beside which training images, and what to fix first.

N test images, E of them errors, M training images whose label is in hand, K classes, D features, k neighbours. Nothing here reads the truth
of a training image.

What to fix, in this order (:func:`what_to_fix`):

* **drop**: the image is nearly constant, or one of its nearest training images is, or has a copy in training with another given label.
* **relabel**: one of its nearest training images whose given label is doubted was given the wrongly predicted class, or is taken for it.
* **collect**: fewer than :data:`FEW` of its nearest training images are taken for its own class.
* **none**: its own class lies near, and no label there that is doubted speaks for the wrong one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.data.array_types import Float, Float32, Index, Mask

NEIGHBOURS = 5
FEW = 2
LEAST_IMAGES = 5
"""A smaller slice is not looked at."""

MOST_SLICES = 20
SIGNIFICANCE = 0.05
"""Of all slices together: the chance to name any where errors are spread by chance."""

MOST_NAMED = 20
"""Images named in one cell of a table."""

_FACETS = ("day", "true_label", "corruption", "size")
_Z = 1.959964  # of a 95% interval


class Neighbours(NamedTuple):
    """The training images nearest to some images.

    Attributes
    ----------
    position : ndarray of int64, shape (n, k)
        The nearest first; of equally near ones the first.
    cosine : ndarray of float32, shape (n, k)
        Of the angle between their features.
    """

    position: Index
    cosine: Float32


def confused_pairs(predictions: pd.DataFrame) -> pd.DataFrame:
    """Which classes are taken for which.

    Parameters
    ----------
    predictions : DataFrame
        ``true_label, predicted_label, correct, verified``, from :func:`bccp.evaluation.scores.predictions_table`.

    Returns
    -------
    DataFrame
        ``true_label, predicted_label, errors, images, rate, share, verified``, most errors first, then the higher rate: of the ``images``
        of the label the ``rate`` that is taken for the other class, and their ``share`` of all errors.
    """
    wrong = predictions[predictions["correct"] == "false"]
    pairs = wrong.groupby(["true_label", "predicted_label"], sort=True)
    table = pairs.size().rename("errors").reset_index()
    table["images"] = table["true_label"].map(predictions["true_label"].value_counts()).astype(int)
    table["rate"] = table["errors"] / table["images"]
    table["share"] = table["errors"] / max(len(wrong), 1)
    table["verified"] = ["true" if all(flags == "true") else "false" for _, flags in pairs["verified"]]
    return table.sort_values(["errors", "rate"], ascending=False, kind="stable").reset_index(drop=True)


def error_slices(predictions: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series[str]]:
    """Find the slices of day, class, corruption and size that have more errors than chance explains.

    Parameters
    ----------
    predictions : DataFrame
        ``day, true_label, predicted_label, corruption, size, correct``, from :func:`bccp.evaluation.scores.predictions_table`.

    Returns
    -------
    slices : DataFrame
        ``slice, errors, n, rate, low, overall_rate, p_adjusted``. A slice's name holds its values and, behind the class, the prediction
        that most of its errors share where one does. ``low`` is the lower end of the rate's 95% interval (Wilson's).
    of_image : Series of str
        The slice of each error, by the index of ``predictions``; empty where it is in none.

    Notes
    -----
    All combinations of values that at least :data:`LEAST_IMAGES` images share are compared with all images by the hypergeometric test, and
    their number corrects each p-value (Bonferroni). Of those that pass, the one with the highest ``low`` is taken, without the values that
    its errors do not depend on by the same test. Its images are then left out and the rest is judged anew among what is left, so that
    slices do not overlap and no error counts twice.
    """
    wrong = (predictions["correct"] == "false").to_numpy()
    left = np.ones(len(wrong), np.bool_)
    candidates = _candidates(predictions)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, len(wrong) + 1)))])
    rows: list[tuple[str, int, int, float, float, float, float]] = []
    of_image = pd.Series("", index=predictions.index)
    while len(rows) < MOST_SLICES:
        search = _Search(candidates, wrong, left, log_factorial)
        if (best := search.sharpest()) is None:
            break
        facets, part, p_adjusted = best
        name = _name(predictions[part], facets, wrong[part])
        errors, n_images = int(wrong[part].sum()), int(part.sum())
        rows.append((name, errors, n_images, errors / n_images, search.low(part), float(wrong.mean()), p_adjusted))
        of_image[part & wrong] = name
        left = left & ~part
    return pd.DataFrame(rows, columns=["slice", "errors", "n", "rate", "low", "overall_rate", "p_adjusted"]), of_image


def nearest_training(queries: Float32, blocks: Iterable[Float32], *, k: int = NEIGHBOURS) -> Neighbours:
    """Find the training images at the smallest angles.

    Parameters
    ----------
    queries : ndarray of float32, shape (n, D)
        Features of the images that are asked about.
    blocks : iterable of ndarray of float32, shape (any, D)
        Features of the M training images, a block at a time; only one is held.
    k : int

    Returns
    -------
    Neighbours
        Of shape (n, min(k, M)).
    """
    known = _directions(queries)
    position, cosine = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    first = 0
    for block in blocks:
        # rounded, so that copies of an image tie whatever the order of the sums
        found = np.round(known @ _directions(block).T, 5)
        places = np.broadcast_to(np.arange(first, first + len(block)), found.shape)
        cosine, position = np.concatenate([cosine, found], axis=1), np.concatenate([position, places], axis=1)
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        cosine, position = np.take_along_axis(cosine, order, axis=1), np.take_along_axis(position, order, axis=1)
        first += len(block)
    return Neighbours(position, cosine)


def what_to_fix(errors: pd.DataFrame, training: pd.DataFrame, neighbours: Index, constant: Mask) -> list[str]:
    """What would help against each error; the rules are those of the module's text.

    Parameters
    ----------
    errors : DataFrame
        E rows: ``true_label, predicted_label``.
    training : DataFrame
        M rows: ``given`` and ``believed`` (class names), ``doubted`` and ``bad`` (bool; see :func:`bad_images`).
    neighbours : ndarray of int64, shape (E, k)
        Positions in ``training``.
    constant : ndarray of bool, shape (E,)
        Whether the image is nearly constant.

    Returns
    -------
    list of str
        ``drop``, ``relabel``, ``collect`` or ``none``.
    """
    given, believed = (training[column].to_numpy(object)[neighbours] for column in ("given", "believed"))  # (E, k)
    doubted, bad = (training[column].to_numpy(np.bool_)[neighbours] for column in ("doubted", "bad"))
    true, predicted = (errors[column].to_numpy(object)[:, np.newaxis] for column in ("true_label", "predicted_label"))
    misleading = (doubted & ((given == predicted) | (believed == predicted))).any(axis=1)
    lonely = (believed == true).sum(axis=1) < FEW if neighbours.shape[1] else np.zeros(len(errors), np.bool_)
    rules = [("drop", constant | bad.any(axis=1)), ("relabel", misleading), ("collect", lonely)]
    found = np.full(len(errors), "none", dtype=object)
    for action, holds in reversed(rules):
        found[holds] = action
    return [str(action) for action in found]


def bad_images(given: Sequence[str], sha256: Sequence[str], phash: Sequence[str]) -> Mask:
    """Which training images teach nothing: nearly constant ones, and copies of each other with different given labels.

    Parameters
    ----------
    given, sha256, phash : sequence of str, length M
        Given labels, and what the manifest says: an empty ``phash`` is a nearly constant image, an equal one nearly a copy.

    Returns
    -------
    ndarray of bool, shape (M,)
    """
    table = pd.DataFrame({"given": list(given), "sha256": list(sha256), "phash": list(phash)})
    constant = (table["phash"] == "").to_numpy()
    contradicted = [(table.groupby(name)["given"].transform("nunique") > 1).to_numpy() for name in ("sha256", "phash")]
    bad: Mask = constant | contradicted[0] | contradicted[1]
    return bad


def fix_first(errors: pd.DataFrame, training: pd.DataFrame, neighbours: Index) -> pd.DataFrame:
    """Gather errors that the same work would help against, the costliest first.

    Parameters
    ----------
    errors : DataFrame
        E rows: ``image, day, true_label, predicted_label, corruption, loss, action`` (from :func:`what_to_fix`).
    training : DataFrame
        M rows: ``image, given, believed, doubted, bad``.
    neighbours : ndarray of int64, shape (E, k)
        Positions in ``training``.

    Returns
    -------
    DataFrame
        ``action, what, errors, loss, share, training_images, test_images``: ``loss`` is the errors' sum and ``share`` its part of that of
        all; the training images to relabel or to drop, those near most errors first, and the costliest errors, both separated by
        semicolons. What nothing here would help against (``none``) comes last.
    """
    about = ["action", "day", "true_label", "predicted_label", "corruption"]
    named = pd.DataFrame([_work(*row) for row in errors[about].itertuples(index=False)], columns=["action", "what"])
    total, rows = float(errors["loss"].sum()), []
    for key, places in named.groupby(["action", "what"]).indices.items() if len(named) else ():
        action, what = cast("tuple[str, str]", key)
        some, near = errors.iloc[places], training.iloc[neighbours[places].ravel()]
        speaks = near["doubted"] & (near["given"].isin(some["predicted_label"]) | near["believed"].isin(some["predicted_label"]))
        near = near[{"relabel": speaks, "drop": near["bad"]}.get(action, np.zeros(len(near), np.bool_))]
        counts = near.groupby("image").size().sort_values(ascending=False, kind="stable")
        worst = some.sort_values(["loss", "image"], ascending=[False, True])["image"]
        loss = float(some["loss"].sum())
        share = loss / total if total else 0.0
        rows.append((action, what, len(some), loss, share, ";".join(counts.index[:MOST_NAMED]), ";".join(worst[:MOST_NAMED])))
    table = pd.DataFrame(rows, columns=["action", "what", "errors", "loss", "share", "training_images", "test_images"])
    order = table.assign(last=table["action"] == "none").sort_values(["last", "loss", "what"], ascending=[True, False, True]).index
    return table.loc[order].reset_index(drop=True)


def _work(action: str, day: str, label: str, predicted: str, corruption: str) -> tuple[str, str]:
    what = {
        "drop": "training images that are nearly constant or contradict their copies, and test images that are nearly constant",
        "relabel": f"doubted labels near class {label} that speak for {predicted}",
        "collect": ", ".join(part for part in (f"images of class {label}", day, corruption) if part),
        "none": "hard images, whose class lies near in training",
    }
    return action, what[action]


def _candidates(predictions: pd.DataFrame) -> dict[tuple[str, ...], tuple[Index, Mask]]:
    """By facets: the slice of each image by number (N,), and which slices are tested: large enough, and no other one's images again."""
    facets = [name for name in _FACETS if predictions[name].nunique() > 1]
    sizes: dict[tuple[str, ...], Index] = {(): np.full(len(predictions), len(predictions))}  # of each image's slice
    found = {}
    for count in range(1, len(facets) + 1):
        for some in combinations(facets, count):
            code: Index = predictions.groupby(list(some)).ngroup().to_numpy().astype(np.int64)
            n_images = np.bincount(code).astype(np.int64)
            sizes[some] = n_images[code]
            # a slice of as many images as one with a value less is the same slice
            again = np.any([sizes[fewer] == sizes[some] for fewer in _fewer(some)], axis=0)
            known: Mask = (n_images >= LEAST_IMAGES) & (np.bincount(code, weights=again) == 0)
            found[some] = (code, known)
    return found


def _fewer(facets: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [tuple(name for name in facets if name != left_out) for left_out in facets]


@dataclass(frozen=True)
class _Search:
    """One round: the errors among the images that are left.

    Attributes
    ----------
    candidates : dict
        From :func:`_candidates`.
    wrong, left : ndarray of bool, shape (N,)
    log_factorial : ndarray of float64, shape (N + 1,)
    """

    candidates: dict[tuple[str, ...], tuple[Index, Mask]]
    wrong: Mask
    left: Mask
    log_factorial: Float

    def chance(self, part: Mask, whole: Mask) -> float:
        """P-value of the errors of a part among those of a whole that holds it, corrected."""
        n_tests = sum(int(known.sum()) for _, known in self.candidates.values())
        of_part, of_whole = int(self.wrong[part].sum()), int(self.wrong[whole].sum())
        return min(1.0, n_tests * hypergeometric_tail(of_part, int(part.sum()), of_whole, int(whole.sum()), self.log_factorial))

    def low(self, part: Mask) -> float:
        """The lower end of the interval of a part's error rate."""
        return float(wilson_lower_bound(np.array([self.wrong[part].sum()]), np.array([part.sum()]))[0])

    def sharpest(self) -> tuple[tuple[str, ...], Mask, float] | None:
        """Facets, images and p-value: of the slices with more errors than chance explains the one with the highest rate for sure, widened
        as long as that loses nothing.
        """
        n_left, n_wrong = int(self.left.sum()), int(self.wrong[self.left].sum())
        ranked = []
        for facets, (code, known) in self.candidates.items():
            n_images = np.bincount(code[self.left], minlength=len(known)).astype(np.int64)
            errors = np.bincount(code[self.left], weights=self.wrong[self.left], minlength=len(known)).astype(np.int64)
            low = wilson_lower_bound(errors, n_images)
            tested = known & (n_images >= LEAST_IMAGES) & (errors * n_left > n_wrong * n_images)
            ranked += [(-float(low[group]), facets, int(group)) for group in np.flatnonzero(tested)]
        for _, facets, group in sorted(ranked):
            part = self.left & (self.candidates[facets][0] == group)
            p = self.chance(part, self.left)
            if p <= SIGNIFICANCE:
                return self.widened(facets, part, p)
        return None

    def widened(self, facets: tuple[str, ...], part: Mask, p: float) -> tuple[tuple[str, ...], Mask, float]:
        """Leave out values of a slice that its errors do not depend on for sure, where what remains passes too."""
        while len(facets) > 1:
            wider = []
            for fewer in _fewer(facets):
                code = self.candidates[fewer][0]
                whole = self.left & (code == code[part][0])
                p_whole = self.chance(whole, self.left)
                if p_whole <= SIGNIFICANCE < self.chance(part, whole):
                    wider.append((self.low(whole), fewer, whole, p_whole))
            if not wider:
                break
            _, facets, part, p = max(wider, key=lambda found: found[:2])
        return facets, part, p


def hypergeometric_tail(errors: int, n_images: int, n_wrong: int, n_left: int, log_factorial: Float) -> float:
    """P(at least so many errors) in a slice that is drawn at random from what is left: the hypergeometric distribution."""

    def log_choose(n: int, k: npt.NDArray[np.int64]) -> Float:
        chosen: Float = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
        return chosen

    count = np.arange(errors, min(n_images, n_wrong) + 1)
    count = count[n_images - count <= n_left - n_wrong]
    total = log_choose(n_left, np.array([n_images]))
    return float(np.exp(log_choose(n_wrong, count) + log_choose(n_left - n_wrong, n_images - count) - total).sum())


def wilson_lower_bound(errors: Index, n_images: Index) -> Float:
    """The lower end of a rate's interval; 0 where there is no image."""
    n = np.maximum(n_images, 1).astype(np.float64)
    rate = errors / n
    centre, half = rate + _Z**2 / (2 * n), _Z * np.sqrt(rate * (1 - rate) / n + _Z**2 / (4 * n**2))
    low: Float = np.maximum((centre - half) / (1 + _Z**2 / n), 0)
    return low


def _name(part: pd.DataFrame, facets: tuple[str, ...], wrong: Mask) -> str:
    """Such as ``tuesday, class 3 → 8, mosaic``."""
    return ", ".join(_words(part, facets, part["predicted_label"][wrong].value_counts()))


def _words(part: pd.DataFrame, facets: tuple[str, ...], predicted: pd.Series[int]) -> Iterator[str]:
    shared = str(predicted.index[0]) if predicted.iloc[0] * 2 > predicted.sum() else ""
    for name in facets:
        value = str(part[name].iloc[0])
        if name == "true_label":
            yield f"class {value}" + (f" → {shared}" if shared else "")
        else:
            yield value or ("uncorrupted" if name == "corruption" else "size unknown")
    if shared and "true_label" not in facets:
        yield f"→ {shared}"


def _directions(vectors: Float32) -> Float32:
    """Vectors (n, D) of length 1; a zero vector stays what it is."""
    lengths = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    scaled: Float32 = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return scaled
