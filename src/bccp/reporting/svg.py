"""Drawings (SVG) for a page, whose colours and letters they take: a flow of steps, bars, a histogram, curves and a matrix.

They are made of texts and numbers alone, in no time; matplotlib would take a second to import.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from bccp.reporting.html import percent, shortened

WIDTH = 340
"""Of bars, histograms and curves, in px: what a phone shows without making letters smaller."""

_MOST_NAMED = 40
"""Up to this many classes a matrix names them and numbers its cells."""

_LEAST_FILLED = 0.005  # share of a row that is seen in a cell of a few px
_LETTER = 6.6  # px, of a letter at 12 px


class Node(NamedTuple):
    """A step of the flow.

    Attributes
    ----------
    name : str
    status : str
        ``ran``, ``reused``, ``failed``, ``left out`` or ``not reached``.
    time : str
    lines : sequence of str
        What came out of it, at most two lines.
    """

    name: str
    status: str
    time: str = ""
    lines: Sequence[str] = ()


class Bar(NamedTuple):
    """A share, and its interval where there is one.

    Attributes
    ----------
    name : str
    value : float
        In [0, 1].
    low, high : float or None
    colour : str
        A variable of the page.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    colour: str = "--blue"


class Curve(NamedTuple):
    """Figures of successive epochs."""

    name: str
    values: Sequence[float]
    colour: str


_COLOURS = {"ran": "--good", "reused": "--blue", "failed": "--bad"}
_SIGNS = {"ran": "✓", "reused": "↺", "failed": "✗"}


def flow(nodes: Sequence[Node], *, columns: int) -> str:
    """Draw steps as boxes, row by row, with an arrow from each to the next.

    Parameters
    ----------
    nodes : sequence of Node
    columns : int
        Boxes in a row.

    Returns
    -------
    str
        An SVG element.
    """
    box, height, gap, row_gap = (236, 84, 32, 30) if columns > 1 else (WIDTH, 78, 0, 22)
    width = columns * box + (columns - 1) * gap
    rows = -(-len(nodes) // columns)
    parts = []
    for number, node in enumerate(nodes):
        left, top = number % columns * (box + gap), number // columns * (height + row_gap)
        colour = f"var({_COLOURS.get(node.status, '--soft')})"
        on = "" if node.status in _COLOURS else " stroke-dasharray='4 4'"
        frame = f"stroke='{'var(--line)' if node.status != 'failed' else colour}' stroke-width='{1.5 if node.status != 'failed' else 2.5}'"
        parts.append(f"<rect x='{left + 1}' y='{top + 1}' width='{box - 2}' height='{height - 2}' rx='10' fill='var(--card)' {frame}{on}/>")
        sign = _SIGNS.get(node.status, "·")
        parts.append(_text(left + 14, top + 25, node.name, size=14, weight=600))
        parts.append(_text(left + box - 14, top + 25, f"{sign} {node.time or node.status}", size=12, colour=colour, anchor="end"))
        for place, line in enumerate(node.lines[:2]):
            parts.append(_text(left + 14, top + 47 + 18 * place, shortened(line, int((box - 22) / _LETTER)), size=12, colour="var(--soft)"))
        if number + 1 < len(nodes):
            parts.append(_arrow(left, top, box, height, gap, row_gap, columns, last=number % columns == columns - 1))
    told = "; ".join(f"{node.name}: {node.status}" for node in nodes)
    return _svg(width, rows * height + (rows - 1) * row_gap, "".join(parts), told)


def _arrow(left: float, top: float, box: int, height: int, gap: int, row_gap: int, columns: int, *, last: bool) -> str:
    """To the next box: to the right, or down, in the last column to the first one of the next row."""
    if not last:
        y = top + height / 2
        return _path([(left + box + 4, y), (left + box + gap - 5, y)])
    bottom, middle = top + height + 2, top + height + row_gap / 2
    target = box / 2
    return _path([(left + box / 2, bottom), (left + box / 2, middle), (target, middle), (target, top + height + row_gap - 4)])


def _path(points: Sequence[tuple[float, float]]) -> str:
    """A line through points that ends with an arrow's head."""
    line = " ".join(f"{x:g},{y:g}" for x, y in points)
    (x0, y0), (x, y) = points[-2:]
    angle = math.atan2(y - y0, x - x0)
    head = [(x - 7 * math.cos(angle + turn), y - 7 * math.sin(angle + turn)) for turn in (0.5, 0, -0.5)]
    head[1] = (x, y)
    ends = " ".join(f"{a:.1f},{b:.1f}" for a, b in head)
    style = "fill='none' stroke='var(--soft)' stroke-width='1.5'"
    return f"<polyline points='{line}' {style}/><polyline points='{ends}' {style}/>"


def bars(drawn: Sequence[Bar], *, title: str) -> str:
    """Draw shares as bars from 0 to 100%, with their intervals as lines on them."""
    left = min(130.0, max(len(bar.name) for bar in drawn) * _LETTER + 10)
    space, row = WIDTH - left - 54, 30
    parts = []
    for number, bar in enumerate(drawn):
        y = number * row + 15
        parts.append(_text(0, y + 4, shortened(bar.name, int((left - 8) / _LETTER)), size=12))
        parts.append(f"<rect x='{left:.1f}' y='{y - 8}' width='{space:.1f}' height='16' rx='3' fill='var(--line)'/>")
        length = space * min(max(bar.value, 0), 1)
        parts.append(f"<rect x='{left:.1f}' y='{y - 8}' width='{length:.1f}' height='16' rx='3' fill='var({bar.colour})'/>")
        if bar.low is not None and bar.high is not None:
            a, b = (left + space * min(max(end, 0), 1) for end in (bar.low, bar.high))
            ends = f"M{a:.1f} {y - 5}V{y + 5}M{b:.1f} {y - 5}V{y + 5}M{a:.1f} {y}H{b:.1f}"
            parts.append(
                f"<path d='{ends}' stroke='var(--page)' stroke-width='4'/><path d='{ends}' stroke='var(--ink)' stroke-width='1.5'/>"
            )
        parts.append(_text(WIDTH, y + 4, f"{percent(bar.value)}%", size=12, weight=600, anchor="end"))
    return _svg(WIDTH, len(drawn) * row, "".join(parts), title)


def histogram(stacks: Sequence[tuple[str, Sequence[int], str]], *, mark: float | None, title: str) -> str:
    """Draw how many labels have which probability.

    Parameters
    ----------
    stacks : sequence of (str, sequence of int, str)
        Name, count in each of equally wide bins of [0, 1], and colour of each kind, which stand on one another.
    mark : float, optional
        Where the cut-off is.
    title : str

    Returns
    -------
    str
        An SVG element. Heights are square roots of the counts, as the outermost bins hold nearly all.
    """
    n_bins, height, base, left = len(stacks[0][1]), 120, 150, 34
    totals = [sum(counts[k] for _, counts, _ in stacks) for k in range(n_bins)]
    most = max(1, *totals)
    step = (WIDTH - left) / n_bins
    parts = []
    for tick in sorted({most, round(most / 4), round(most / 16)} - {0}):
        y = base - height * math.sqrt(tick / most)
        parts.append(f"<path d='M{left} {y:.1f}H{WIDTH}' stroke='var(--line)'/>")
        parts.append(_text(left - 5, y + 4, f"{tick:,}", size=11, colour="var(--soft)", anchor="end"))
    for k in range(n_bins):
        below = 0
        for _, counts, colour in stacks:
            bottom, top = (height * math.sqrt(count / most) for count in (below, below + counts[k]))
            below += counts[k]
            if counts[k]:
                x, y = left + k * step + 0.75, base - top
                parts.append(f"<rect x='{x:.1f}' y='{y:.1f}' width='{step - 1.5:.1f}' height='{top - bottom:.1f}' fill='var({colour})'/>")
    if mark is not None:
        x = left + (WIDTH - left) * min(max(mark, 0), 1)
        parts.append(f"<path d='M{x:.1f} 24V{base}' stroke='var(--ink)' stroke-width='1.5' stroke-dasharray='4 3'/>")
        parts.append(
            _text(x + (5 if mark < 0.6 else -5), 34, f"doubted above {mark:.2f}", size=11, anchor="start" if mark < 0.6 else "end")
        )
    parts.append(f"<path d='M{left} {base}H{WIDTH}' stroke='var(--soft)'/>")
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        parts.append(_text(left + (WIDTH - left) * share, base + 16, f"{share:g}", size=11, colour="var(--soft)", anchor=anchor))
    parts.append(_legend([(name, colour) for name, _, colour in stacks], base + 36))
    return _svg(WIDTH, base + 42, "".join(parts), title)


def curves(drawn: Sequence[Curve], *, title: str, best: int | None = None, from_zero: bool = True, unit: str = "epoch") -> str:
    """Draw figures over epochs, or what else ``unit`` names, counted from 1; ``best`` is the one to mark."""
    known = [value for curve in drawn for value in curve.values if math.isfinite(value)]
    low, high = (0.0 if from_zero else min(known, default=0.0)), max(known, default=1.0)
    high = high if high > low else low + 1
    left, top, base = 40, 10, 150
    n = max(len(curve.values) for curve in drawn)

    def x(epoch: int) -> float:
        return left + (WIDTH - left - 6) * ((epoch - 1) / max(n - 1, 1))

    def y(value: float) -> float:
        return base - (base - top) * (value - low) / (high - low)

    parts = []
    for value in (low, (low + high) / 2, high):
        parts.append(f"<path d='M{left} {y(value):.1f}H{WIDTH}' stroke='var(--line)'/>")
        parts.append(_text(left - 5, y(value) + 4, f"{value:.3g}", size=11, colour="var(--soft)", anchor="end"))
    if best:
        parts.append(f"<path d='M{x(best):.1f} {top}V{base}' stroke='var(--soft)' stroke-dasharray='4 3'/>")
    for curve in drawn:
        points = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in enumerate(curve.values, start=1) if math.isfinite(value))
        parts.append(f"<polyline points='{points}' fill='none' stroke='var({curve.colour})' stroke-width='2'/>")
        if len(curve.values) == 1 and math.isfinite(curve.values[0]):
            parts.append(f"<circle cx='{x(1):.1f}' cy='{y(curve.values[0]):.1f}' r='3' fill='var({curve.colour})'/>")
    parts.append(_text(left, base + 16, f"{unit} 1", size=11, colour="var(--soft)"))
    parts.append(_text(WIDTH, base + 16, f"{n}", size=11, colour="var(--soft)", anchor="end"))
    parts.append(_legend([(curve.name, curve.colour) for curve in drawn], base + 36))
    return _svg(WIDTH, base + 42, "".join(parts), title)


def matrix(cells: Sequence[Sequence[float]], names: Sequence[str], *, rows: str, columns: str, shares: bool) -> str:
    """Draw a square matrix: the fuller a cell, the larger its share of its row.

    Parameters
    ----------
    cells : sequence of K sequences of K numbers
        Not negative.
    names : sequence of str, length K
    rows, columns : str
        What rows and columns are.
    shares : bool
        Numbers are shares, to be shown in %; else counts.

    Returns
    -------
    str
        An SVG element that a narrow screen scrolls; names and numbers are left out where there are many.
    """
    n = len(names)
    named = n <= _MOST_NAMED
    size = 34 if n <= 12 else 24 if named else max(3.0, 640 / n)
    longest = 16
    margin = 22 + (min(longest, max(map(len, names))) * _LETTER + 8 if named else 4)
    side, whole = n * size, margin + n * size + 4
    parts = [f"<rect x='{margin:.1f}' y='{margin:.1f}' width='{side:.1f}' height='{side:.1f}' fill='none' stroke='var(--line)'/>"]
    shares_of_row = [[value / max(sum(row), 1e-12) for value in row] for row in cells]
    filled = [(j, k) for j in range(n) for k in range(n) if cells[j][k] > 0]
    if not named:
        parts += _filled(filled, shares_of_row, size, margin)
    for j, k in filled if named else []:
        share, colour = shares_of_row[j][k], "--blue" if j == k else "--accent"
        x, y = margin + k * size, margin + j * size
        told = f"{percent(cells[j][k])}%" if shares else f"{cells[j][k]:.0f}"
        cell = f"<rect x='{x:.1f}' y='{y:.1f}' width='{size}' height='{size}' fill='var({colour})' fill-opacity='{_opacity(share):.2f}'>"
        parts.append(f"{cell}<title>{rows} {escape(names[j])}, {columns} {escape(names[k])}: {told}</title></rect>")
        if not shares or share >= 0.01:
            number = f"{100 * cells[j][k]:.0f}" if shares else told
            parts.append(_text(x + size / 2, y + size / 2 + 4, number, size=11 if n <= 12 else 9, anchor="middle", behind=True))
    for k, name in enumerate(names if named else []):
        text, middle = shortened(name, longest), margin + (k + 0.5) * size + 4
        parts.append(_text(margin - 6, middle, text, size=11, anchor="end"))
        turn = f" transform='rotate(-90 {middle:.1f} {margin - 6:.1f})'"
        parts.append(_text(middle, margin - 6, text, size=11, more=turn))
    parts.append(_text(margin, 12, f"{columns} →", size=11, colour="var(--soft)"))
    turn = f" transform='rotate(-90 12 {whole - 6:.1f})'"
    parts.append(_text(12, whole - 6, f"← {rows}", size=11, colour="var(--soft)", more=turn))
    least = f" style='min-width: {min(whole, 0.8 * whole + 60):.0f}px'"
    return _svg(whole, whole, "".join(parts), f"{rows} and {columns}", more=least)


def _opacity(share: float) -> float:
    return 0.08 + 0.82 * math.sqrt(share)


def _filled(filled: Sequence[tuple[int, int]], shares: Sequence[Sequence[float]], size: float, margin: float) -> list[str]:
    """Many cells as few paths, one for each colour and tenth of fullness; what is next to nothing is left out."""
    paths: dict[tuple[str, float], list[str]] = {}
    for j, k in filled:
        if shares[j][k] >= _LEAST_FILLED:
            at = f"M{margin + k * size:.1f} {margin + j * size:.1f}h{size:.1f}v{size:.1f}h-{size:.1f}z"
            paths.setdefault(("--blue" if j == k else "--accent", round(_opacity(shares[j][k]), 1)), []).append(at)
    return [f"<path d='{''.join(found)}' fill='var({colour})' fill-opacity='{level}'/>" for (colour, level), found in sorted(paths.items())]


def _legend(entries: Sequence[tuple[str, str]], y: float) -> str:
    parts, x = [], 0.0
    for name, colour in entries:
        parts.append(f"<rect x='{x:.1f}' y='{y - 9:.1f}' width='10' height='10' rx='2' fill='var({colour})'/>")
        parts.append(_text(x + 15, y, name, size=12, colour="var(--soft)"))
        x += 15 + len(name) * _LETTER + 14
    return "".join(parts)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int,
    colour: str = "var(--ink)",
    anchor: str = "start",
    weight: int = 400,
    behind: bool = False,
    more: str = "",
) -> str:
    """A line of text; ``behind`` gives it the page's colour as an outline, so that it can be read on any ground."""
    style = f"font-size='{size}' fill='{colour}' text-anchor='{anchor}'" + (f" font-weight='{weight}'" if weight != 400 else "")
    style += " stroke='var(--card)' stroke-width='2.5' paint-order='stroke'" if behind else ""
    return f"<text x='{x:.1f}' y='{y:.1f}' {style}{more}>{escape(text)}</text>"


def _svg(width: float, height: float, content: str, title: str, *, more: str = "") -> str:
    """An element that is as wide as what it draws, or as the page if that is narrower."""
    size = f"viewBox='0 0 {width:.0f} {height:.0f}' width='{width:.0f}' height='{height:.0f}'"
    return f"<svg role='img' aria-label='{escape(title)}' {size}{more}>{content}</svg>"
