"""Pictures of a test, drawn without pyplot's global state; equal input gives equal bytes."""

from __future__ import annotations

import bisect
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from bccp.metrics import N_BINS, Bins

_INK, _SOFT, _BLUE, _ORANGE = "#1f2933", "#9aa5b1", "#1f6fb4", "#d9730d"
_LONGEST_NAME = 24
_MOST_NUMBERED = 40
"""Up to this many classes the cells of a confusion matrix carry their counts."""

_MOST_CURVES = 10
"""More curves cannot be told apart."""

_THUMBNAIL, _GAP, _LINE = 138, 10, 15
"""Of the picture of suspects, in px: a side, what is left free around it, a line of text."""
_MOST_ACROSS = 1550
"""Width of that picture in px, of which its margins are left free."""
UNWRITTEN = "; class k is the k-th of classes.csv, whose name this font lacks"
"""What a headline says where a class has such a name."""

CURVES = ("train_loss", "val_loss", "val_accuracy")
"""The columns of a history that are drawn."""


def confusion_matrix(confusion: npt.NDArray[np.int64], classes: Sequence[str], path: Path, *, title: str, note: str = "") -> None:
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
    _save(figure, path)


def _write_counts(axes: Axes, confusion: npt.NDArray[np.int64], darkness: npt.NDArray[np.float64], *, size: float) -> None:
    for row, column in np.argwhere(confusion > 0):
        light = darkness[row, column] > 0.55
        text = str(confusion[row, column])
        fitting = size if len(text) <= 3 else size * 3 / len(text)
        axes.text(column, row, text, ha="center", va="center", fontsize=fitting, color="white" if light else _INK, in_layout=False)


def training_curves(history: pd.DataFrame, path: Path, *, title: str, note: str = "") -> None:
    """Draw loss and validation accuracy over the epochs, with the best epoch marked.

    Parameters
    ----------
    history : DataFrame
        One row an epoch, with the columns :data:`CURVES`; without those of the validation where there was none.
    path : Path
        The PNG file to write.
    title, note : str
        A headline, and a remark under it.
    """
    epochs = np.arange(1, len(history) + 1)
    validated = "val_loss" in history
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
            axes.axvline(best, color=_SOFT, linewidth=1, linestyle="--", label=f"least validation loss (epoch {best})")
        _frame(axes, xlabel="epoch", ylabel=ylabel)
        axes.grid(color="#e4e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc=corner)
    panels[0].set_ylim(bottom=0)
    figure.suptitle(_headline(title, note), x=0.02, ha="left", color=_INK, fontsize=10.5, parse_math=False)
    _save(figure, path)


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


def threshold_curves(curves: Mapping[str, ThresholdCurve], path: Path, *, title: str, note: str = "") -> None:
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
    _save(figure, path)


def reliability(bins: Bins, path: Path, *, title: str, note: str = "") -> None:
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
    _save(figure, path)


class Suspect(NamedTuple):
    """An image whose label is doubted.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (S, S, 3)
    given, suggested : str
        Class names; ``suggested`` is empty where nothing is.
    p_wrong : float or None
        P(given label wrong), in [0, 1], where it is known.
    trusted : ndarray of uint8, shape (S, S, 3), or None
        The trusted image that looks most like it.
    trusted_label : str
        Its class name.
    """

    pixels: npt.NDArray[np.uint8]
    given: str
    suggested: str
    p_wrong: float | None
    trusted: npt.NDArray[np.uint8] | None = None
    trusted_label: str = ""


def suspects(worst: Sequence[Suspect], classes: Sequence[str], path: Path, *, title: str) -> None:
    """Draw images whose labels are doubted, the worst first, each beside its nearest trusted image where it has one.

    Parameters
    ----------
    worst : sequence of Suspect
        At least one, row by row.
    classes : sequence of str, length K
        The class names. One that the bundled font cannot write becomes "class k" (from 1 on, in this order), as boxes look all the same.
    path : Path
        The PNG file to write, at most 1600 px wide. What is too long for its place is shortened in the middle.
    title : str
        A headline.
    """
    written = writable(classes)
    rows = []
    for one in worst:
        doubt = "" if one.p_wrong is None else f"P(wrong) {one.p_wrong:.1%}"
        lines = [f"given: {written[one.given]}", f"likely: {written[one.suggested]}" if one.suggested else "", doubt]
        tiles = [Tile(one.pixels, [line for line in lines if line])]
        if one.trusted is not None:
            tiles.append(Tile(one.trusted, ["nearest trusted:", written[one.trusted_label]]))
        rows.append(tiles)
    gallery(rows, path, title=title + ("" if all(written[name] == name for name in classes) else UNWRITTEN))


def writable(classes: Sequence[str]) -> dict[str, str]:
    """What is drawn for each class name (and for none): one that the bundled font cannot write becomes "class k"."""
    known = get_font(findfont(FontProperties())).get_charmap()
    return {"": ""} | {name: name if known.keys() >= set(map(ord, name)) else f"class {k}" for k, name in enumerate(classes, start=1)}


class Tile(NamedTuple):
    """An image of a gallery.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (S, S, 3)
    lines : sequence of str
        At most three, drawn under it.
    """

    pixels: npt.NDArray[np.uint8]
    lines: Sequence[str]


def gallery(groups: Sequence[Sequence[Tile]], path: Path, *, title: str) -> None:
    """Draw groups of images, the first of each in another colour than those beside it.

    Parameters
    ----------
    groups : sequence of sequence of Tile
        At least one, row by row; each of at least one image.
    path : Path
        The PNG file to write, at most 1600 px wide. What is too long for its place is shortened in the middle.
    title : str
        A headline.
    """
    cell = max(map(len, groups)) * (_THUMBNAIL + _GAP) + _GAP
    across = max(1, min(_MOST_ACROSS // cell, len(groups)))
    height = _THUMBNAIL + 3 * _LINE + 2 * _GAP
    n_rows = -(-len(groups) // across)
    title = _fitting(title, _MOST_ACROSS - 2 * _GAP, 10.5)
    width = max(across * cell, _width(title, 10.5) + 2 * _GAP)
    figure = Figure(figsize=(width / 100, (n_rows * height + 2 * _LINE) / 100), dpi=100, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.text(_GAP, _LINE + 3, title, va="center", fontsize=10.5, color=_INK, parse_math=False)
    canvas = np.full((n_rows * height + 2 * _LINE, width, 3), 255, np.uint8)
    for number, tiles in enumerate(groups):
        left, top = number % across * cell + _GAP, number // across * height + 2 * _LINE
        for place, (pixels, lines) in enumerate(tiles):
            _paste(canvas, pixels, left + place * (_THUMBNAIL + _GAP), top, colour=_BLUE if place else _ORANGE)
            for row, line in enumerate(lines):
                at = (left + place * (_THUMBNAIL + _GAP), top + _THUMBNAIL + (row + 0.7) * _LINE)
                text = _fitting(line, _THUMBNAIL + _GAP // 2, 8)
                axes.text(*at, text, va="center", fontsize=8, color=_INK, in_layout=False, parse_math=False)
    # one picture of them all: a hundred pictures of their own take seconds
    # pixel by pixel: a resampled one would differ with the threads of the linear algebra that places it
    figure.figimage(canvas, zorder=-1)
    axes.set(xlim=(0, width), ylim=(len(canvas), 0))
    axes.set_axis_off()
    _save(figure, path, crop=False)


def _paste(canvas: npt.NDArray[np.uint8], pixels: npt.NDArray[np.uint8], left: int, top: int, *, colour: str) -> None:
    """Put one image with a frame in its place."""
    rows, columns = (np.arange(_THUMBNAIL) * side // _THUMBNAIL for side in pixels.shape[:2])
    frame = np.round(255 * np.array(to_rgb(colour))).astype(np.uint8)
    canvas[top - 2 : top + _THUMBNAIL + 2, left - 2 : left + _THUMBNAIL + 2] = frame
    canvas[top : top + _THUMBNAIL, left : left + _THUMBNAIL] = pixels[rows][:, columns]


def _fitting(text: str, width: float, size: float) -> str:
    """Shorten a text in the middle until it is at most so many px wide, at 100 px an inch."""
    if _width(text, size) <= width:
        return text

    def kept(n: int) -> str:
        return f"{text[: n - n // 3]}…{text[len(text) - n // 3 :]}"

    return kept(max(bisect.bisect_right(range(len(text)), width, key=lambda n: _width(kept(n), size)) - 1, 0))


def _width(text: str, size: float) -> int:
    """Of a text in px, at 100 px an inch, by its characters: laying out a whole text takes a hundred times as long."""
    return int(sum(_advance(character, size) for character in text)) + 1


@cache
def _advance(character: str, size: float) -> float:
    font = get_font(findfont(FontProperties()))
    font.set_size(size, 100)
    return float(font.load_char(ord(character)).horiAdvance / 64)


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


def _save(figure: Figure, path: Path, *, crop: bool = True) -> None:
    """Write a PNG without the program's version, which would be in it; cropped to what is drawn, which takes a drawing of its own."""
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A class name in a script that the bundled font lacks is drawn as boxes; the tables have it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(path, format="png", metadata={"Software": None}, bbox_inches="tight" if crop else None, pad_inches=0.15)
