"""How good a classifier is: figures over all test images, by day, class, corruption and image size, with their intervals.

N is the number of test images, K the number of classes. All figures agree with scikit-learn's of the same names at ``zero_division=0``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.core.errors import BCCPError
from bccp.data.array_types import Float, Index, Mask
from bccp.evaluation import metrics
from bccp.evaluation.plots import ThresholdCurve

DIFFERENCES = ("accuracy_drop", "f1_macro_drop", "forgetting")
"""Figures that compare days or models, from -1 to 1; what the others are is said by :data:`bccp.evaluation.metrics.METRICS`."""

WITH_INTERVALS = (*(name for name, metric in metrics.METRICS.items() if metric.with_interval), "accuracy_drop", "forgetting")
"""Figures whose intervals are figures of the run too; those of all others are in the table alone."""


@dataclass(frozen=True)
class Scores:
    """Figures of one confusion matrix.

    Attributes
    ----------
    accuracy : float
        Share of right predictions, 0 to 1; 0 where there is no image.
    precision, recall, f1 : ndarray of float64, shape (K,)
        By class, 0 to 1; 0 where the denominator is 0.
    n_true, n_predicted : ndarray of int64, shape (K,)
        Images that are of a class, and that are predicted to be.
    """

    accuracy: float
    precision: Float
    recall: Float
    f1: Float
    n_true: Index
    n_predicted: Index

    def macro(self, values: Float) -> float:
        """Mean of a figure over the classes that occur among the labels or among the predictions; 0 where none does."""
        occurs = (self.n_true + self.n_predicted) > 0
        return float(values[occurs].mean()) if occurs.any() else 0.0


def confusion_matrix(label_idx: npt.NDArray[np.integer], predicted_idx: npt.NDArray[np.integer], *, n_classes: int) -> Index:
    """Count the images by label and prediction.

    Parameters
    ----------
    label_idx, predicted_idx : ndarray of int, shape (N,)
        Classes from 0 to K - 1.
    n_classes : int
        K.

    Returns
    -------
    ndarray of int64, shape (K, K)
        Entry (j, k): images of class j that are predicted to be of class k.
    """
    cells = np.bincount(label_idx * n_classes + predicted_idx, minlength=n_classes * n_classes)
    return cells.reshape(n_classes, n_classes).astype(np.int64)


def scores(confusion: Index) -> Scores:
    """Figures of a confusion matrix (K, K) with labels in rows and predictions in columns."""
    right = np.diag(confusion)
    n_true, n_predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    return Scores(
        accuracy=float(right.sum() / max(confusion.sum(), 1)),
        precision=_ratio(right, n_predicted),
        recall=_ratio(right, n_true),
        f1=_ratio(2 * right, n_true + n_predicted),
        n_true=n_true,
        n_predicted=n_predicted,
    )


def _ratio(numerator: Index, denominator: Index) -> Float:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


def confusion(predictions: pd.DataFrame, classes: list[str]) -> Index:
    """The confusion matrix (K, K) of a table with the columns ``true_label`` and ``predicted_label``."""
    label_idx, predicted_idx = (positions(predictions[column], classes) for column in ("true_label", "predicted_label"))
    return confusion_matrix(label_idx, predicted_idx, n_classes=len(classes))


def positions(names: pd.Series[str], classes: list[str]) -> Index:
    """Class indices of class names, shape (n,)."""
    position = {name: k for k, name in enumerate(classes)}
    found: Index = names.map(position).to_numpy().astype(np.int64)
    return found


def evaluate(predictions: pd.DataFrame, classes: list[str]) -> dict[str, float]:
    """The main figures.

    Parameters
    ----------
    predictions : DataFrame
        Columns ``day, true_label, predicted_label, correct, verified``; one row an image, from :func:`predictions_table`.
    classes : list of str
        The K class names.

    Returns
    -------
    dict of str to float
        ``images``, ``unverified_images``, ``accuracy``, ``precision_macro``, ``recall_macro`` and ``f1_macro`` of all images, and
        ``accuracy_<day>`` for each day that has any.
    """
    pooled = scores(confusion(predictions, classes))
    by_day = (predictions["correct"] == "true").groupby(predictions["day"]).mean()
    return {
        "images": len(predictions),
        "unverified_images": int((predictions["verified"] == "false").sum()),
        "accuracy": pooled.accuracy,
        **{f"accuracy_{day}": float(share) for day, share in by_day.items()},
        "precision_macro": pooled.macro(pooled.precision),
        "recall_macro": pooled.macro(pooled.recall),
        "f1_macro": pooled.macro(pooled.f1),
    }


def metrics_table(
    predictions: pd.DataFrame,
    probs: npt.NDArray[np.floating],
    former_probs: npt.NDArray[np.floating] | None,
    classes: list[str],
    *,
    top_k: int,
    n_resamples: int,
    seed: int,
    own: Sequence[str] = (),
) -> pd.DataFrame:
    """All figures, with intervals from a bootstrap over the images, which is stratified by nothing.

    Parameters
    ----------
    predictions : DataFrame
        N rows, at least one: ``day, true_label, verified, corruption, size``, from :func:`predictions_table`.
    probs : ndarray of float, shape (N, K)
        P(class | image) of the same images, rows sum to 1.
    former_probs : ndarray of float, shape (n, K), or None
        What the model of before says about Monday's images, of which there are n, in their order.
    classes : list of str
        The K class names.
    top_k : int
        For ``top_k_accuracy``, which is left out where K is no more than that.
    n_resamples : int
        0: no intervals.
    seed : int
    own : sequence of str
        Dotted names of a user's own figures (:func:`bccp.evaluation.metrics.own`).

    Returns
    -------
    DataFrame
        Columns ``metric, slice, value, low, high, n, verified``. A slice is ``all``, or ``day=``, ``corruption=`` (``none`` too) or
        ``size=`` with a value (all figures of :func:`bccp.evaluation.metrics.measure`), or ``class=`` (that class against the others, among
        all images). Besides, of all: ``accuracy_drop`` and ``f1_macro_drop``, Monday's figure minus Tuesday's; and of ``day=monday``:
        ``forgetting``, the former model's accuracy minus this one's on the same images. A slice has ``n`` images. An interval is a point
        where these do not differ, and empty for a single one. What is not defined is left out.
    """
    label_idx, parts = positions(predictions["true_label"], classes), slices(predictions)
    lost: Index | None = None
    if former_probs is not None:
        label, said = label_idx[parts["day=monday"]], probs[parts["day=monday"]].argmax(axis=1)
        lost = (former_probs.argmax(axis=1) == label).astype(np.int64) - (said == label)
    more = {name: metrics.own(name) for name in own}
    found: dict[tuple[str, str], list[Float]] = defaultdict(list)
    as_they_are, rng = np.ones((1, len(predictions)), np.int32), np.random.default_rng(seed)
    for weights in chain([as_they_are], metrics.resamples(len(predictions), n_resamples, rng)):
        for key, figures in _figures(weights, label_idx, probs, lost, parts, classes, top_k, more):
            found[key].append(figures)
    masks = parts | {f"class={label}": label_idx == k for k, label in enumerate(classes)}
    verified = (predictions["verified"] == "true").to_numpy()
    rows = []
    for (metric, name), values in found.items():
        value, resampled, mask = float(values[0][0]), np.concatenate([np.empty(0), *values[1:]]), masks[name]
        if not np.isnan(value):
            low, high = metrics.interval(value, resampled, **_bounds(metric, more)) if mask.sum() > 1 else (np.nan, np.nan)
            rows.append((metric, name, value, low, high, int(mask.sum()), _flag(bool(verified[mask].all()))))
    return pd.DataFrame(rows, columns=["metric", "slice", "value", "low", "high", "n", "verified"])


def _bounds(metric: str, more: Mapping[str, metrics.Metric]) -> dict[str, float]:
    """What a figure can be: by class all are shares."""
    if metric in DIFFERENCES:
        return {"lowest": -1.0, "highest": 1.0}
    known = (metrics.METRICS | dict(more)).get(metric)
    return {"lowest": known.lowest, "highest": known.highest} if known else {"lowest": 0.0, "highest": 1.0}


def _figures(
    weights: npt.NDArray[np.int32],
    label_idx: Index,
    probs: npt.NDArray[np.floating],
    lost: Index | None,
    parts: Mapping[str, Mask],
    classes: list[str],
    top_k: int,
    more: Mapping[str, metrics.Metric],
) -> Iterator[tuple[tuple[str, str], Float]]:
    """Metric, slice and figures (B,) for each set of weights (B, N); ``lost`` is 1 for Monday's images where the former model alone is
    right, and -1 where the new one is.
    """
    pooled = {}
    for name, mask in parts.items():
        pooled[name], by_class = metrics.measure(weights[:, mask], label_idx[mask], probs[mask], top_k=top_k, more=more)
        yield from (((metric, name), values) for metric, values in pooled[name].items())
        if name == "all":
            for metric, values in by_class.items():
                yield from (((metric, f"class={label}"), values[:, k]) for k, label in enumerate(classes))
    if "day=monday" in parts and "day=tuesday" in parts:
        for metric in ("accuracy", "f1_macro"):
            yield (f"{metric}_drop", "all"), pooled["day=monday"][metric] - pooled["day=tuesday"][metric]
    if lost is not None:
        drawn = weights[:, parts["day=monday"]]
        n_drawn = drawn.sum(axis=1)
        yield ("forgetting", "day=monday"), np.where(n_drawn > 0, drawn @ lost / np.maximum(n_drawn, 1), np.nan)


def slices(predictions: pd.DataFrame) -> dict[str, Mask]:
    """Which images are ``all``, of each day, corruption and size; the latter two only where images differ in them."""
    parts = {"all": np.ones(len(predictions), np.bool_)}
    for by in ("day", "corruption", "size"):
        values = predictions[by].replace("", "none" if by == "corruption" else "unknown")
        if by == "day" or values.nunique() > 1:
            parts |= {f"{by}={value}": (values == value).to_numpy() for value in sorted(values.unique(), key=_natural)}
    return parts


def _natural(text: str) -> tuple[int, str]:
    """Sizes by their number, all else by the alphabet."""
    first = text.partition(" ")[0]
    return (int(first) if first.isdigit() else 0, text)


def size_bands(manifest: pd.DataFrame) -> dict[str, str]:
    """The band of each image's shorter side before it was resized, between powers of two, such as ``32 to 63 px``.

    Parameters
    ----------
    manifest : DataFrame
        Columns ``image, width, height``; the latter two whole numbers of px.

    Returns
    -------
    dict of str to str
        By image.
    """
    lowest = 2 ** np.floor(np.log2(manifest[["width", "height"]].min(axis=1).to_numpy())).astype(np.int64)
    return {image: f"{low} to {2 * low - 1} px" for image, low in zip(manifest["image"], lowest.tolist(), strict=True)}


def run_figures(table: pd.DataFrame) -> dict[str, float]:
    """What of a table from :func:`metrics_table` is a figure of the run.

    Parameters
    ----------
    table : DataFrame

    Returns
    -------
    dict of str to float
        Each metric of all images by its name, ``forgetting``, and the intervals of some of them and of the days' accuracies as
        ``<name>_low`` and ``<name>_high``, where they are known.
    """
    figures: dict[str, float] = {}
    for metric, part, value, low, high in table[["metric", "slice", "value", "low", "high"]].itertuples(index=False):
        day = part.removeprefix("day=") if part.startswith("day=") and metric == "accuracy" else ""
        if part == "all" or day or metric == "forgetting":
            name = f"{metric}_{day}" if day else metric
            figures[name] = float(value)
            if metric in WITH_INTERVALS and not np.isnan(low):
                figures |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return figures


def per_class(predictions: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """Figures by class, for all images and for each day.

    Parameters
    ----------
    predictions : DataFrame
        Columns ``day, true_label, predicted_label, verified``; one row an image.
    classes : list of str
        The K class names.

    Returns
    -------
    DataFrame
        Columns ``day`` (``all`` or a day), ``label, images, predicted, precision, recall, f1, verified``; K rows for all and K a day.
        ``verified`` says whether every label among these images is known to be true.
    """
    parts = {"all": predictions} | {str(day): part for day, part in predictions.groupby("day")}
    return pd.concat([_class_rows(day, part, classes) for day, part in parts.items()], ignore_index=True)


def _class_rows(day: str, predictions: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    figures = scores(confusion(predictions, classes))
    return pd.DataFrame(
        {
            "day": day,
            "label": classes,
            "images": figures.n_true,
            "predicted": figures.n_predicted,
            "precision": figures.precision,
            "recall": figures.recall,
            "f1": figures.f1,
            "verified": _flag(bool((predictions["verified"] == "true").all())),
        }
    )


def check_classes(model_classes: list[str], classes: list[str]) -> None:
    """Refuse a model of other classes than the data's, whose probabilities would belong to other columns.

    Raises
    ------
    BCCPError
        If the names or their order differ.
    """
    if model_classes != classes:
        raise BCCPError(
            f"the model tells {len(model_classes)} classes apart ({', '.join(model_classes[:5])}, ...), but segregated_data has "
            f"{len(classes)} ({', '.join(classes[:5])}, ...): give a model that was trained on these classes"
        )


def reference_labels(
    splits: pd.DataFrame, *, target_day: str, true_labels: pd.DataFrame | None = None, given_labels: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, int]:
    """The labels that the test images are measured against.

    Parameters
    ----------
    splits : DataFrame
        Indexed by image id, with the columns ``day, split, label``; labels of the other day than the target day are trusted.
    target_day : str
        The day whose labels are new.
    true_labels : DataFrame, optional
        Columns ``image, label``: the target day's images whose truth is known.
    given_labels : DataFrame, optional
        The same columns: given labels, which stand in where the truth of a target day's image is not known.

    Returns
    -------
    references : DataFrame
        Columns ``image, day, label, verified`` (``true`` or ``false``), sorted by image.
    n_left_out : int
        Test images that have neither label and are not among them.

    Raises
    ------
    BCCPError
        If no test image has a label.
    """
    truth, given = _by_image(true_labels), _by_image(given_labels)
    tested = splits.loc[splits["split"] == "test", ["day", "label"]].sort_index()
    rows = []
    for image, day, label in tested.itertuples(name=None):
        known = truth.get(image, "") if day == target_day else label
        if known or image in given:
            rows.append((image, day, known or given[image], _flag(bool(known))))
    if not rows:
        raise BCCPError("none of the test images has a label in true_labels or given_labels: give feedback for some of them")
    return pd.DataFrame(rows, columns=["image", "day", "label", "verified"]), len(tested) - len(rows)


def without_known(references: pd.DataFrame, known: Mask) -> tuple[pd.DataFrame, int]:
    """Leave out the test images that a model already knew when its training began.

    Parameters
    ----------
    references : DataFrame
        N rows, from :func:`reference_labels`.
    known : ndarray of bool, shape (N,)
        Which of their images are such, from :func:`bccp.models.mlflow_flavor.known`.

    Returns
    -------
    references : DataFrame
    n_known : int
        Test images that are not among them any more.

    Raises
    ------
    BCCPError
        If none is left.
    """
    if known.all():
        raise BCCPError("the model that training started from (train.init) was trained on all test images: start from another")
    return references[~known].reset_index(drop=True), int(known.sum())


def _by_image(labels: pd.DataFrame | None) -> dict[str, str]:
    return {} if labels is None else dict(zip(labels["image"], labels["label"], strict=True))


def agreement(predictions: pd.DataFrame) -> dict[str, float]:
    """How often the model says what people say, where nobody has checked them: no measure of truth.

    Parameters
    ----------
    predictions : DataFrame
        Columns ``day, correct, verified``; one row an image, from :func:`predictions_table`.

    Returns
    -------
    dict of str to float
        ``agreement_<day>``, 0 to 1, of each day's unverified images; empty where all images are verified, or none is and all figures are
        of that kind.
    """
    doubtful = predictions[predictions["verified"] == "false"]
    if len(doubtful) in (0, len(predictions)):
        return {}
    shares = (doubtful["correct"] == "true").groupby(doubtful["day"]).mean()
    return {f"agreement_{day}": float(share) for day, share in shares.items()}


def remark(figures: dict[str, float]) -> str:
    """What is to be said with figures where labels of test images are ones that nobody has verified; empty where all are.

    Parameters
    ----------
    figures : dict of str to float
        From :func:`evaluate` and :func:`agreement`; ``images`` are those that the former is of.
    """
    n_doubtful = int(figures["unverified_images"])
    if not n_doubtful:
        return ""
    apart = [f"{name} {share:.1%}" for name, share in figures.items() if name.startswith("agreement_")]
    n_images = int(figures["images"]) + (n_doubtful if apart else 0)
    said = f"verified=false: the labels of {n_doubtful} of {n_images} test images are the given ones"
    return said + (f", which count in {', '.join(apart)} alone" if apart else "")


def predictions_table(
    references: pd.DataFrame,
    probs: npt.NDArray[np.floating],
    classes: list[str],
    *,
    corruptions: Mapping[str, str] | None = None,
    sizes: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """What the model says about each image.

    Parameters
    ----------
    references : DataFrame
        From :func:`reference_labels`; N rows.
    probs : ndarray of float, shape (N, K)
        P(class | image) of the same images, rows sum to 1.
    classes : list of str
        The K class names.
    corruptions : mapping of str to str, optional
        The kind of corruption of corrupted images, by image.
    sizes : mapping of str to str, optional
        From :func:`size_bands`.

    Returns
    -------
    DataFrame
        Columns ``image, day, true_label, predicted_label, probability, loss, correct, verified, corruption, size``: the label measured
        against, the most probable class and its probability, and the loss on the label, -log P(label | image); the last two empty where
        nothing is known.
    """
    predicted = np.array(classes, dtype=object)[probs.argmax(axis=1)]
    correct = references["label"].to_numpy(object) == predicted
    of_label = probs[np.arange(len(probs)), positions(references["label"], classes)]
    return pd.DataFrame(
        {
            "image": references["image"],
            "day": references["day"],
            "true_label": references["label"],
            "predicted_label": predicted,
            "probability": probs.max(axis=1).astype(np.float32),
            "loss": -np.log(np.maximum(of_label, np.finfo(np.float32).tiny)).astype(np.float32),
            "correct": [_flag(bool(flag)) for flag in correct],
            "verified": references["verified"],
            "corruption": [(corruptions or {}).get(image, "") for image in references["image"]],
            "size": [(sizes or {}).get(image, "") for image in references["image"]],
        }
    )


def worst_errors(predictions: pd.DataFrame) -> pd.DataFrame:
    """The wrong predictions of a table from :func:`predictions_table`, those with the highest loss first."""
    wrong = predictions[predictions["correct"] == "false"]
    return wrong.sort_values(["loss", "image"], ascending=[False, True])


def threshold_curve(positive: npt.NDArray[np.bool_], probs: npt.NDArray[np.floating]) -> ThresholdCurve:
    """The curve of a class from which images are of it (N,) and its probability (N,); both kinds of image must occur."""
    order = np.argsort(-probs, kind="stable")
    last = np.append(np.flatnonzero(np.diff(probs[order])), len(probs) - 1)  # equal probabilities pass together
    n_right = np.concatenate([[0], np.cumsum(positive[order])[last]])
    n_taken = np.concatenate([[0], last + 1])
    recall, false_rate = n_right / n_right[-1], (n_taken - n_right) / (n_taken - n_right)[-1]
    precision = np.divide(n_right, n_taken, out=np.ones(len(n_taken)), where=n_taken > 0)
    auroc, average = np.trapezoid(recall, false_rate), np.diff(recall) @ precision[1:]
    return ThresholdCurve(false_rate, recall, precision, float(auroc), float(average))


def threshold_curves(predictions: pd.DataFrame, probs: npt.NDArray[np.floating], classes: list[str]) -> dict[str, ThresholdCurve]:
    """The curve of each class that some test images are of and some are not, by its name; see :func:`predictions_table`."""
    labels = predictions["true_label"].to_numpy(object)
    known = {name: labels == name for name in classes}
    return {name: threshold_curve(of, probs[:, k]) for k, (name, of) in enumerate(known.items()) if 0 < of.sum() < len(of)}


def _flag(value: bool) -> str:
    return "true" if value else "false"
