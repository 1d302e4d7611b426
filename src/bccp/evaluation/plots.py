"""Pictures of a test, drawn without pyplot's global state; equal input gives equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from bccp.data.galleries import save_png
from bccp.evaluation.metrics import N_BINS, Bins

_INK, _SOFT, _BLUE, _ORANGE = "#1f2933", "#9aa5b1", "#1f6fb4", "#d9730d"
_LONGEST_NAME = 24
_MOST_NUMBERED = 40
"""Up to this many classes the cells of a confusion matrix carry their counts."""

_MOST_CURVES = 10
"""More curves cannot be told apart."""


CURVES = ("train_loss", "val_loss", "val_accuracy")
"""The columns of a history that are drawn."""


def plot_confusion_matrix(confusion: npt.NDArray[np.int64], classes: Sequence[str], path: Path, *, title: str, note: str = "") -> None:
    """Draw a confusion matrix: colour is the share of the label's images, numbers are images.

    Parameters
    ----------
    confusion : ndarray of int64, shape (K, K)
        Labels in rows, predictions in columns.
    classes : sequence of str
        The K class names; long ones are shortened.
    path : Path
        The PNG file to write.
    title, note : str
        A headline, and a remark under it.
    """
    n_classes = len(classes)
    cell = float(np.interp(n_classes, [2, 10, 40, 100], [0.9, 0.55, 0.3, 0.17]))  # inches
    size = float(np.interp(n_classes, [2, 10, 40, 100], [11, 10, 7, 6.5]))  # points
    names = [_short(name) for name in classes]
    longest = max(len(name) for name in names) * size * 0.6 / 72  # inches
    side = max(cell * n_classes, 2.6)
    # the picture is cropped to what is drawn when it is saved, so that these margins only have to be about right
    left, bottom, width, height = longest + 0.6, longest + 0.6, side + longest + 2.0, side + longest + 1.4
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    scale = PowerNorm(0.5, vmin=0, vmax=1)  # a few mistakes in a hundred are to be seen, also without numbers
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", norm=scale, interpolation="nearest")
    positions = np.arange(n_classes)
    axes.set_xticks(positions, names, rotation=90 if longest > cell else 0, fontsize=size, parse_math=False)
    axes.set_yticks(positions, names, fontsize=size, parse_math=False)
    axes.tick_params(length=0)
    _frame(axes, xlabel="predicted", ylabel="label")
    for draw in (axes.hlines, axes.vlines):
        draw(positions[1:] - 0.5, -0.5, n_classes - 0.5, color="#e4e7eb", linewidth=0.6)
    if n_classes <= _MOST_NUMBERED:
        _write_counts(axes, confusion, np.asarray(scale(shares)), size=size)
    bar_height = min(side, 4.5)
    bar_axes = figure.add_axes(((left + side + 0.2) / width, (bottom + side - bar_height) / height, 0.2 / width, bar_height / height))
    bar = figure.colorbar(image, cax=bar_axes, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar_axes.set_yticklabels(["0", "1%", "5%", "20%", "50%", "100%"])
    bar.set_label("share of the label's images", color=_INK, fontsize=9)
    bar_axes.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    axes.set_title(_headline(title, note), loc="left", color=_INK, fontsize=10.5, pad=10, parse_math=False)
    save_png(figure, path)


def _write_counts(axes: Axes, confusion: npt.NDArray[np.int64], darkness: npt.NDArray[np.float64], *, size: float) -> None:
    for row, column in np.argwhere(confusion > 0):
        light = darkness[row, column] > 0.55
        text = str(confusion[row, column])
        fitting = size if len(text) <= 3 else size * 3 / len(text)
        axes.text(column, row, text, ha="center", va="center", fontsize=fitting, color="white" if light else _INK, in_layout=False)


def plot_training_curves(history: pd.DataFrame, path: Path, *, title: str, note: str = "") -> None:
    """Draw loss and validation accuracy over the epochs, or over the penalties that were tried, with the best one marked.

    Parameters
    ----------
    history : DataFrame
        One row an epoch, with the columns :data:`CURVES`, without those of the validation where there was none; or a penalty, with its
        ``strength`` too.
    path : Path
        The PNG file to write.
    title, note : str
        A headline, and a remark under it.
    """
    epochs = np.arange(1, len(history) + 1)
    validated, unit = "val_loss" in history, "penalty" if "strength" in history else "epoch"
    figure = Figure(figsize=(9.5, 3.8) if validated else (5.2, 3.8), dpi=110, layout="constrained", facecolor="white")
    panels = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    lines = [(panels[0], "train_loss", "training", _ORANGE)]
    if validated:
        lines += [(panels[0], "val_loss", "validation", _BLUE), (panels[1], "val_accuracy", "validation", _BLUE)]
    for axes, column, name, colour in lines:
        axes.plot(epochs, history[column], color=colour, label=name, linewidth=1.8, marker="o", markersize=3)
    for axes, ylabel, corner in zip(panels, ("loss", "accuracy"), ("upper right", "lower right"), strict=False):
        if validated:
            best = int(history["val_loss"].to_numpy().argmin()) + 1
            axes.axvline(best, color=_SOFT, linewidth=1, linestyle="--", label=f"least validation loss ({unit} {best})")
        _frame(axes, xlabel=unit, ylabel=ylabel)
        axes.grid(color="#e4e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc=corner)
    panels[0].set_ylim(bottom=0)
    figure.suptitle(_headline(title, note), x=0.02, ha="left", color=_INK, fontsize=10.5, parse_math=False)
    save_png(figure, path)


class ThresholdCurve(NamedTuple):
    """One class against the others, at every threshold on its probability from above the highest to the lowest.

    Attributes
    ----------
    false_positive_rate, recall : ndarray of float64, shape (T,)
        Share of the other images, and of the class's, that are taken for the class; from 0 to 1, never falling.
    precision : ndarray of float64, shape (T,)
        Share of the class among those; 1 where there are none.
    auroc, average_precision : float
        The area under recall over the false positive rate, and the mean of the precision over the steps of recall.
    """

    false_positive_rate: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]
    auroc: float
    average_precision: float


def plot_threshold_curves(curves: Mapping[str, ThresholdCurve], path: Path, *, title: str, note: str = "") -> None:
    """Draw ROC and precision-recall curves, one class against the others.

    Parameters
    ----------
    curves : mapping of str to ThresholdCurve
        By class name. Of many, those with the least average precision are drawn.
    path : Path
        The PNG file to write.
    title, note : str
        A headline, and a remark under it.
    """
    drawn = sorted(curves.items(), key=lambda item: item[1].average_precision)[:_MOST_CURVES]
    figure = Figure(figsize=(9.5, 4.6), dpi=110, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    for number, (name, curve) in enumerate(drawn):
        colour = f"C{number}"
        roc, precision = (f"{_short(name)}: {area:.3f}" for area in (curve.auroc, curve.average_precision))
        left.plot(curve.false_positive_rate, curve.recall, color=colour, linewidth=1.4, label=roc)
        right.step(curve.recall, curve.precision, color=colour, linewidth=1.4, where="pre", label=precision)
    left.plot([0, 1], [0, 1], color=_SOFT, linewidth=1, linestyle="--")
    _frame(left, xlabel="false positive rate", ylabel="recall")
    _frame(right, xlabel="recall", ylabel="precision")
    for axes, heading in ((left, "area under the ROC curve"), (right, "average precision")):
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        if drawn:
            corner = "lower left" if axes is right else "lower right"
            legend = axes.legend(frameon=False, fontsize=7, loc=corner, title=heading, title_fontsize=8)
            for text in legend.get_texts():
                text.set_parse_math(False)
    figure.suptitle(_headline(title, note), x=0.02, ha="left", color=_INK, fontsize=10.5, parse_math=False)
    save_png(figure, path)


def plot_reliability(bins: Bins, path: Path, *, title: str, note: str = "") -> None:
    """Draw accuracy over confidence, by bin, and how many images each bin holds.

    Parameters
    ----------
    bins : Bins
        At least one.
    path : Path
        The PNG file to write.
    title, note : str
        A headline, and a remark under it.
    """
    figure = Figure(figsize=(5.6, 5.4), dpi=110, layout="constrained", facecolor="white")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color=_SOFT, linewidth=1, linestyle="--", label="as sure as right")
    # the binomial standard error: a bin of few images may lie anywhere
    error = np.sqrt(bins.accuracy * (1 - bins.accuracy) / bins.n_images)
    upper.errorbar(bins.confidence, bins.accuracy, error, color=_BLUE, marker="o", markersize=4, linewidth=1.4, elinewidth=1, label="model")
    upper.legend(frameon=False, fontsize=8, loc="upper left")
    ends = np.linspace(0, 1, N_BINS + 1)
    held = np.clip(np.ceil(bins.confidence * N_BINS).astype(np.int64) - 1, 0, N_BINS - 1)
    lower.bar(ends[held], bins.n_images, width=1 / N_BINS, align="edge", color=_BLUE, edgecolor="white", linewidth=0.5)
    lower.set_yscale("symlog", linthresh=1)
    lower.set_ylim(bottom=0)
    _frame(upper, xlabel="", ylabel="share right")
    _frame(lower, xlabel="probability of the predicted class", ylabel="images")
    upper.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    for axes in (upper, lower):
        axes.grid(color="#e4e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_headline(title, note), x=0.02, ha="left", color=_INK, fontsize=10.5, parse_math=False)
    save_png(figure, path)


def _frame(axes: Axes, *, xlabel: str, ylabel: str) -> None:
    axes.set_xlabel(xlabel, color=_INK, fontsize=10)
    axes.set_ylabel(ylabel, color=_INK, fontsize=10)
    for spine in axes.spines.values():
        spine.set_color(_SOFT)
    axes.tick_params(colors=_INK)


def _headline(title: str, note: str) -> str:
    return title + (f"\n{note}" if note else "")


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 9]}…{name[-8:]}"
