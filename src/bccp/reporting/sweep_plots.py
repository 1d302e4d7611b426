"""Pictures of a sweep: heat maps, curves with bands, points and a ranking, as files and as drawings that follow a page's colours.

What is drawn follows from what was swept. Where it is ``cp_sampling.type`` and ``ratio``, heat maps show accuracy over both, a panel for
each ``user_accuracy``; else over the two axes with most values. Axes that find no place in a picture get one for each of their values.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bccp.reporting.html import percent, shortened
from bccp.reporting.sweep_data import Axis, SweepData, aggregate, describe_sweep

Cells = npt.NDArray[np.float64]

INK, SOFT, _GRID, _PAGE, _BEST = "#1f2933", "#7b8794", "#e4e7eb", "#fffffe", "#d9730d"
_THEME = {INK: "var(--ink)", SOFT: "var(--soft)", _GRID: "var(--line)", _PAGE: "var(--page)", _BEST: "var(--accent)"}
"""Colours that a page in the dark has others for."""

_COLOURS = ("#2f7fc1", "#d9730d", "#2a9d6e", "#b5428e", "#c9a227", "#6a5acd", "#c0392b", "#3aa6b9", "#7f8c8d", "#8a6d3b")
_MAP = LinearSegmentedColormap.from_list("sweep", ["#f3ead7", "#bcdcc0", "#5fb3a8", "#2b7a99", "#1d3f6e"])

MOST_VALUES = 24
"""Rows or columns of a heat map."""

MOST_PANELS, _MOST_PICTURES, MOST_RANKED = 8, 6, 25
_GRID_FROM = 0.4  # the share of its cells that a sweep needs to have tried to be a grid, and no search


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes
    ----------
    name : str
        Of its file.
    title : str
    figure : Figure
    """

    name: str
    title: str
    figure: Figure

    def save(self, folder: Path) -> Path:
        """Write a PNG file; equal pictures are equal bytes."""
        path = folder / f"{self.name}.png"
        self._write(path, format="png", dpi=144, facecolor="white", metadata={"Software": None})
        return path

    def _write(self, place: Path | io.StringIO, **how: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a script that the bundled font lacks, names that leave little room
            self.figure.savefig(place, bbox_inches="tight", **how)

    def svg(self) -> str:
        """A drawing for a page, whose colours and letters it takes."""
        stream = io.StringIO()
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            self._write(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = stream.getvalue()
        text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], count=1, flags=re.DOTALL)
        text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
        text = re.sub(r'(\b(?:id|clip-path|xlink:href)=")(url\()?(#?)', rf"\1\2\3{self.name}-", text)  # ids are the page's
        for colour, variable in _THEME.items():
            text = text.replace(colour, variable)
        width = re.search(r'width="([\d.]+)pt"', text)
        least = 1.1 * float(width[1]) if width else 0  # px: of what a phone cannot show at a legible size it shows a part
        return text.replace("<svg", f"<svg style='min-width: {least:.0f}px'", 1)


def draw_sweep(sweep: SweepData, figure: str) -> list[Picture]:
    """Draw what a sweep lends itself to.

    Parameters
    ----------
    sweep : Sweep
    figure : str
        One of ``sweep.figures``.

    Returns
    -------
    list of Picture
        Names begin with the figure's.
    """
    axes = [axis for axis in sweep.axes if len(axis.values) > 1]
    means = aggregate(sweep.table, sweep.keys, sweep.seeds, figure)
    n_cells = math.prod(len(axis.values) for axis in axes)
    numeric = [axis for axis in axes if axis.numeric]
    pictures: list[Picture] = []
    if len(means) > 1 and len(sweep.table[sweep.keys].drop_duplicates()) < _GRID_FROM * n_cells:
        pictures += [_points(axis, means, figure) for axis in numeric[:_MOST_PICTURES]] + [_ranking(sweep, means, figure)]
    elif len(means) > 1:
        pictures += list(_heat_maps(sweep, axes, means, figure))
        for axis in numeric[:3]:
            pictures += list(_curves(axis, axes, means, figure))
        if not pictures:
            pictures.append(_ranking(sweep, means, figure))
    return pictures


def _heat_maps(sweep: SweepData, axes: Sequence[Axis], means: pd.DataFrame, figure: str) -> Iterator[Picture]:
    """A heat map for each combination of what rows, columns and panels leave over."""
    known = {axis.key: axis for axis in axes if len(axis.values) <= MOST_VALUES}
    by_size = sorted(known.values(), key=lambda axis: -len(axis.values))
    pair = ("cp_sampling.type", "cp_sampling.ratio")
    chosen = [known[key] for key in pair] if set(pair) <= known.keys() else by_size[:2]
    if len(chosen) < 2:
        return
    rows, columns = sorted(chosen, key=lambda axis: axis.numeric)
    panels = _panel_axis([axis for axis in axes if axis not in chosen])
    rest = [axis.key for axis in axes if axis not in (*chosen, panels)]
    lost = sweep.table[sweep.table["status"] != "finished"]
    shared = Normalize(*axis_limits(means["mean"]))
    for number, (left, named) in enumerate(_left_over(means, rest, axes), start=1):
        of_it = _with(means, left)
        shown = _panel_values(panels, of_it)
        grids = [heat_map_cells(_of_panel(of_it, panels, value), rows, columns) for value in shown]
        failed = [_lost(_of_panel(_with(lost, left), panels, value), rows, columns) for value in shown]
        titles = [f"{panels.name} {value}" if panels and value else "" for value in shown]
        title = f"{figure}, %: {rows.name} × {columns.name}" + named  # noqa: RUF001
        yield Picture(f"{_file(figure)}-heat-map-{number}", title, _heat_map(rows, columns, grids, failed, titles, shared))


def heat_map_cells(means: pd.DataFrame, rows: Axis, columns: Axis) -> Cells:
    """Mean, half width and whether it is the whole row's, shape (R, C, 3); NaN where nothing was measured.

    A setting that ignores an axis counts in all of its cells.
    """
    cells = np.full((len(rows.values), len(columns.values), 3), np.nan)
    for one in sorted(means.to_dict("records"), key=lambda one: bool(one[rows.key]) + bool(one[columns.key])):
        r = [rows.values.index(one[rows.key])] if one[rows.key] else range(len(rows.values))
        c = [columns.values.index(one[columns.key])] if one[columns.key] else range(len(columns.values))
        cells[np.ix_(r, c)] = one["mean"], one["half"], not one[columns.key]
    return cells


def _lost(jobs: pd.DataFrame, rows: Axis, columns: Axis) -> set[tuple[int, int]]:
    """The cells of jobs that did not finish."""
    found = set()
    for one in jobs.to_dict("records"):
        r = [rows.values.index(one[rows.key])] if one[rows.key] else range(len(rows.values))
        c = [columns.values.index(one[columns.key])] if one[columns.key] else range(len(columns.values))
        found |= set(product(r, c))
    return found


def _heat_map(
    rows: Axis, columns: Axis, grids: Sequence[Cells], failed: Sequence[set[tuple[int, int]]], titles: Sequence[str], shared: Normalize
) -> Figure:
    n_rows, n_columns = len(rows.values), len(columns.values)
    cell_width, cell_height = (0.78, 0.5) if n_columns <= 12 else (0.6, 0.42)
    left = 0.35 + 0.085 * max(len(shortened(value, 24)) for value in rows.values)
    across = max(1, min(len(grids), int(9 // (n_columns * cell_width + 0.3))))
    down = -(-len(grids) // across)
    width, height = n_columns * cell_width, n_rows * cell_height
    top, bottom, gap = (0.4 if any(titles) else 0.12), 0.62, 0.25
    figure = Figure(figsize=(left + across * (width + gap) + 0.1, down * (height + top + bottom)))
    total_width, total_height = figure.get_size_inches()
    for number, (cells, lost, title) in enumerate(zip(grids, failed, titles, strict=True)):
        x = left + number % across * (width + gap)
        y = total_height - (number // across + 1) * (height + top + bottom) + bottom
        axes = figure.add_axes((x / total_width, y / total_height, width / total_width, height / total_height))
        _fill(axes, cells, lost, shared)
        first = number % across == 0
        axes.set_yticks(range(n_rows), [shortened(value, 24) if first else "" for value in rows.values], parse_math=False)
        axes.set_xticks(range(n_columns), [shortened(value, 24) for value in columns.values], parse_math=False)
        longest = max(len(shortened(value, 24)) for value in columns.values)
        axes.tick_params(length=0, labelsize=9.5, colors=INK)
        axes.tick_params(axis="x", rotation=0 if longest * 0.08 < cell_width else 30)
        axes.set_xlabel(columns.name, color=SOFT, fontsize=9.5, parse_math=False)
        if first:
            axes.set_ylabel(rows.name, color=SOFT, fontsize=9.5, parse_math=False)
        axes.set_title(title, loc="left", color=INK, fontsize=10.5, parse_math=False)
    return figure


def _fill(axes: Axes, cells: Cells, lost: set[tuple[int, int]], shared: Normalize) -> None:
    """Draw the cells of a heat map, with their figures."""
    n_rows, n_columns = cells.shape[:2]
    best = np.nanmax(cells[..., 0]) if not np.isnan(cells[..., 0]).all() else None
    for r in range(n_rows):
        whole = bool((cells[r, :, 2] == 1).all())
        for c in range(1 if whole else n_columns):
            mean, half = cells[r, c, :2]
            span = n_columns if whole else 1
            colour = "none" if np.isnan(mean) else _MAP(shared(mean))
            box = FancyBboxPatch(
                (c - 0.46, r - 0.44),
                span - 0.08,
                0.88,
                boxstyle="round,pad=0,rounding_size=0.08",
                facecolor=colour,
                edgecolor=_BEST if mean == best else _GRID if np.isnan(mean) else "none",
                linewidth=2.2 if mean == best else 0.8,
            )
            axes.add_patch(box)
            middle = c + (span - 1) / 2
            if np.isnan(mean):
                axes.text(middle, r, "failed" if (r, c) in lost else "–", ha="center", va="center", color=SOFT, fontsize=8.5)  # noqa: RUF001
                continue
            ink = "#ffffff" if shared(mean) > 0.5 else "#102a43"
            has_interval = not np.isnan(half)
            axes.text(middle, r - (0.13 if has_interval else 0), percent(mean), ha="center", va="center", color=ink, fontsize=10)
            if has_interval:
                axes.text(middle, r + 0.22, f"± {percent(half)}", ha="center", va="center", color=ink, fontsize=7)
    axes.set(xlim=(-0.5, n_columns - 0.5), ylim=(n_rows - 0.5, -0.5))
    axes.spines[:].set_visible(False)
    axes.patch.set_visible(False)


def _curves(x: Axis, axes: Sequence[Axis], means: pd.DataFrame, figure: str) -> Iterator[Picture]:
    """Curves over a numeric axis, a line for each value of another, and a picture for each combination of what is left over."""
    others = [axis for axis in axes if axis is not x]
    lines = max(
        (axis for axis in others if len(axis.values) <= len(_COLOURS)), key=lambda axis: (not axis.numeric, len(axis.values)), default=None
    )
    panels = _panel_axis([axis for axis in others if axis is not lines])
    rest = [axis.key for axis in others if axis not in (lines, panels)]
    low, high = axis_limits(means["mean"], means["half"])
    for number, (left, named) in enumerate(_left_over(means, rest, axes), start=1):
        of_it = _with(means, left)
        shown = _panel_values(panels, of_it)
        across = min(len(shown), 3)
        down = -(-len(shown) // across)
        drawing = Figure(figsize=(1.2 + (6.2 if across == 1 else 3.1 * across), 0.4 + 3.1 * down), layout="constrained")
        frames = drawing.subplots(down, across, squeeze=False, sharey=True).ravel()
        for place, (frame, value) in enumerate(zip(frames, shown, strict=False)):
            of_panel = _of_panel(of_it, panels, value)
            for colour, name in enumerate(lines.values if lines else [""]):
                own = of_panel[of_panel[lines.key] == name] if lines else of_panel
                _line(frame, own, x, colour=_COLOURS[colour], label=shortened(name, 24))
            _frame(frame, x, ylabel=f"{figure}, %" if place % across == 0 else "", limits=(low, high))
            title = f"{panels.name} {value}" if panels and value else ""
            frame.set_title(title, loc="left", color=INK, fontsize=10, parse_math=False)
        for frame in frames[len(shown) :]:
            frame.set_axis_off()
        if lines:
            _legend(drawing, list(frames), lines.name)
        name = f"{_file(figure)}-over-{_file(x.name)}-{number}"
        yield Picture(name, f"{figure}, %, over {x.name}" + (f", a line for each {lines.name}" if lines else "") + named, drawing)


def _line(frame: Axes, means: pd.DataFrame, x: Axis, *, colour: str, label: str) -> None:
    """A curve with its band; dashed and level for a setting that ignores ``x``."""
    on = means[means[x.key] != ""].assign(x=lambda table: table[x.key].astype(float)).sort_values("x")
    style: dict[str, Any] = {"color": colour, "label": label or "_"}
    if len(on):
        place, mean, half = (on[column].to_numpy(float) for column in ("x", "mean", "half"))
        frame.plot(place, 100 * mean, linewidth=1.9, marker="o", markersize=4, **style)
        frame.fill_between(place, 100 * (mean - half), 100 * (mean + half), color=colour, alpha=0.13, linewidth=0)
    for one in means[means[x.key] == ""].to_dict("records"):
        ends = [float(x.values[0]), float(x.values[-1])]
        frame.plot(ends, [100 * one["mean"]] * 2, linewidth=1.6, linestyle="--", **style)
        frame.fill_between(ends, 100 * (one["mean"] - one["half"]), 100 * (one["mean"] + one["half"]), color=colour, alpha=0.1, linewidth=0)


def _legend(drawing: Figure, frames: Sequence[Axes], title: str) -> None:
    handles: dict[str, Any] = {}
    for frame in frames:
        for handle, label in zip(*frame.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    legend = drawing.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=9, title=title)
    legend.get_title().set(color=SOFT, fontsize=9, parse_math=False)
    for text in legend.get_texts():
        text.set(color=INK, parse_math=False)


def _points(x: Axis, means: pd.DataFrame, figure: str) -> Picture:
    """Every setting as a point, for a search that is no grid."""
    drawing = Figure(figsize=(7.2, 3.4), layout="constrained")
    frame = drawing.subplots()
    tried = means[means[x.key] != ""]
    place, mean, half = tried[x.key].to_numpy(float), 100 * tried["mean"].to_numpy(float), 100 * tried["half"].to_numpy(float)
    known = ~np.isnan(half)
    frame.errorbar(place[known], mean[known], yerr=half[known], fmt="none", ecolor=_COLOURS[0], elinewidth=1, alpha=0.5)
    frame.scatter(place, mean, s=26, color=_COLOURS[0], alpha=0.8, linewidths=0)
    if len(mean):
        frame.scatter(place[mean.argmax()], mean.max(), s=90, facecolor="none", edgecolor=_BEST, linewidths=2)
    _frame(frame, x, ylabel=f"{figure}, %", limits=axis_limits(means["mean"], means["half"]))
    return Picture(f"{_file(figure)}-over-{_file(x.name)}", f"{figure}, %, of every setting over {x.name}", drawing)


def _ranking(sweep: SweepData, means: pd.DataFrame, figure: str) -> Picture:
    """The settings one under the other, the best first, with their intervals."""
    top = means.sort_values("mean", ascending=False, kind="stable")[:MOST_RANKED]
    names = [describe_sweep(sweep.axes, row) for row in top.to_dict("records")]
    drawing = Figure(figsize=(7.6, 0.75 + 0.3 * len(top)), layout="constrained")
    frame = drawing.subplots()
    places, mean, half = np.arange(len(top)), 100 * top["mean"].to_numpy(float), 100 * top["half"].to_numpy(float)
    known = ~np.isnan(half)
    frame.errorbar(mean[known], places[known], xerr=half[known], fmt="none", ecolor=_COLOURS[0], elinewidth=2.4, alpha=0.4)
    frame.scatter(mean, places, s=34, color=[_BEST if place == 0 else _COLOURS[0] for place in places], zorder=3, linewidths=0)
    frame.set_yticks(places, [shortened(name, 60) for name in names], parse_math=False)
    frame.set_ylim(len(top) - 0.4, -0.6)
    frame.set_xlabel(f"{figure}, %", color=SOFT, fontsize=9.5)
    frame.grid(axis="x", color=_GRID, linewidth=0.8)
    _bare(frame)
    more = f", the best {len(top)} of {len(means)}" if len(top) < len(means) else ""
    return Picture(f"{_file(figure)}-ranking", f"{figure}, %, by setting{more}", drawing)


def _frame(frame: Axes, x: Axis, *, ylabel: str, limits: tuple[float, float]) -> None:
    numbers = [float(value) for value in x.values]
    if min(numbers) > 0 and max(numbers) / min(numbers) >= 50:
        frame.set_xscale("log")
    elif len(numbers) <= 8:
        frame.set_xticks(numbers, x.values)
    frame.set_ylim(100 * limits[0], 100 * limits[1])
    frame.yaxis.set_major_locator(MaxNLocator(6))
    frame.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    frame.set_xlabel(x.name, color=SOFT, fontsize=9.5, parse_math=False)
    frame.set_ylabel(ylabel, color=SOFT, fontsize=9.5)
    frame.grid(color=_GRID, linewidth=0.8)
    _bare(frame)


def _bare(frame: Axes) -> None:
    frame.set_axisbelow(True)
    frame.spines[["top", "right", "left"]].set_visible(False)
    frame.spines["bottom"].set_color(SOFT)
    frame.tick_params(which="both", length=0, labelsize=9.5, colors=INK)
    frame.patch.set_visible(False)


def axis_limits(mean: pd.Series[float], half: pd.Series[float] | None = None) -> tuple[float, float]:
    """From below the least to above the largest, within the shares that there are.

    Of an interval so wide that it would leave the means no room (two seeds) only a part is shown.
    """
    most = max(float(mean.max() - mean.min()), 0.04)
    reach = half.fillna(0).clip(upper=most) if half is not None else 0.0
    low, high = float((mean - reach).min()), float((mean + reach).max())
    margin = max(0.04 * (high - low), 0.002)
    return max(low - margin, -0.01), min(high + margin, 1.01)


def _panel_axis(axes: Sequence[Axis]) -> Axis | None:
    """The axis that makes panels: the user's accuracy, else the one with most values that are not too many."""
    fitting = [axis for axis in axes if len(axis.values) <= MOST_PANELS]
    return max(fitting, key=lambda axis: (axis.key == "noisy_labels.user_accuracy", len(axis.values)), default=None)


def _panel_values(panels: Axis | None, means: pd.DataFrame) -> list[str]:
    there = set(means[panels.key]) if panels else set()
    return [value for value in panels.values if value in there] or [""] if panels else [""]


def _of_panel(table: pd.DataFrame, panels: Axis | None, value: str) -> pd.DataFrame:
    """What belongs to a panel; a setting that ignores its axis belongs to all."""
    return table[table[panels.key].isin([value, ""])] if panels else table


def _left_over(means: pd.DataFrame, keys: list[str], axes: Sequence[Axis]) -> Iterator[tuple[dict[str, str], str]]:
    """The first combinations of the values of some axes, each with its words for a title."""
    combinations = list(dict.fromkeys(means[keys].itertuples(index=False, name=None))) if keys else [()]
    names = {axis.key: axis.name for axis in axes}
    for values in combinations[:_MOST_PICTURES]:
        left = dict(zip(keys, values, strict=True))
        yield left, "".join(f", {names[key]} {value}" for key, value in left.items() if value)


def _with(table: pd.DataFrame, values: Mapping[str, str]) -> pd.DataFrame:
    for key, value in values.items():
        table = table[table[key] == value]
    return table


def _file(name: str) -> str:
    return re.sub(r"\W+", "-", name).strip("-").lower()
