"""Pictures that show many images side by side, drawn without pyplot's global state; equal input gives equal bytes."""

from __future__ import annotations

import bisect
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

_INK, _BLUE, _ORANGE = "#1f2933", "#1f6fb4", "#d9730d"

_THUMBNAIL, _GAP, _LINE = 138, 10, 15
"""Of the picture of suspects, in px: a side, what is left free around it, a line of text."""
_MOST_ACROSS = 1550
"""Width of that picture in px, of which its margins are left free."""
UNWRITTEN = "; class k is the k-th of classes.csv, whose name this font lacks"
"""What a headline says where a class has such a name."""


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
    title = fit_text(title, _MOST_ACROSS - 2 * _GAP, 10.5)
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
                text = fit_text(line, _THUMBNAIL + _GAP // 2, 8)
                axes.text(*at, text, va="center", fontsize=8, color=_INK, in_layout=False, parse_math=False)
    # one picture of them all: a hundred pictures of their own take seconds
    # pixel by pixel: a resampled one would differ with the threads of the linear algebra that places it
    figure.figimage(canvas, zorder=-1)
    axes.set(xlim=(0, width), ylim=(len(canvas), 0))
    axes.set_axis_off()
    save_png(figure, path, crop=False)


def _paste(canvas: npt.NDArray[np.uint8], pixels: npt.NDArray[np.uint8], left: int, top: int, *, colour: str) -> None:
    """Put one image with a frame in its place."""
    rows, columns = (np.arange(_THUMBNAIL) * side // _THUMBNAIL for side in pixels.shape[:2])
    frame = np.round(255 * np.array(to_rgb(colour))).astype(np.uint8)
    canvas[top - 2 : top + _THUMBNAIL + 2, left - 2 : left + _THUMBNAIL + 2] = frame
    canvas[top : top + _THUMBNAIL, left : left + _THUMBNAIL] = pixels[rows][:, columns]


def fit_text(text: str, width: float, size: float) -> str:
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


def save_png(figure: Figure, path: Path, *, crop: bool = True) -> None:
    """Write a PNG without the program's version, which would be in it; cropped to what is drawn, which takes a drawing of its own."""
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A class name in a script that the bundled font lacks is drawn as boxes; the tables have it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(path, format="png", metadata={"Software": None}, bbox_inches="tight" if crop else None, pad_inches=0.15)
