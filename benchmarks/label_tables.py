"""The tables of :mod:`benchmarks.labels`: means with 95% intervals over seeds (Student's t), differences paired by seed, figures to reach.

Positive = the given label is wrong. Every figure is over the target day's training images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.labels.bayes_cutoff import auroc
from benchmarks.measures import Estimate, calibration, estimate, f1, gap_closed, paired, right_dropped

OURS, AUDITED, CLEANLAB = "label_posterior", "label_posterior, audited", "cleanlab"
GIVEN, TRUE = "labels as given", "true labels"
BEST, BEST_OWN = "best filter", "best filter, own probabilities"
RIVALS = {BEST: CLEANLAB, BEST_OWN: OURS}
"""The best of cleanlab's filters, and on whose probabilities."""

LEAST_DROPPED = 200
LEAST_GAP = 0.02
WITHOUT = "without audited"
"""The subset of images that nobody audited."""


class Judged(NamedTuple):
    """N labels as they were judged; K classes.

    Attributes
    ----------
    images : ndarray of str, shape (N,)
        Sorted.
    classes : ndarray of str, shape (K,)
    given, true : ndarray of int64, shape (N,)
    score : ndarray of float64, shape (N,)
    stated : ndarray of float64, shape (N,) or (0,)
        Stated P(given label wrong), where the method states one.
    above : ndarray of bool, shape (N,)
    filters : ndarray of bool, shape (7, N) or (0, N)
        What each of cleanlab's filters flags on the same probabilities.
    estimated : ndarray of float64, shape ()
        The method's own estimate of the share of right labels, where it is not that of ``stated`` or of ``above``; else nan.
    """

    images: npt.NDArray[np.str_]
    classes: npt.NDArray[np.str_]
    given: npt.NDArray[np.int64]
    true: npt.NDArray[np.int64]
    score: npt.NDArray[np.float64]
    stated: npt.NDArray[np.float64]
    above: npt.NDArray[np.bool_]
    filters: npt.NDArray[np.bool_]
    estimated: npt.NDArray[np.float64]


class Result(NamedTuple):
    """What came of one run.

    Attributes
    ----------
    metrics : dict of str to float
        Of the run's summary.
    seconds : float or None
        Of the step ``bayes_cutoff``, with all training that it rests on.
    trainings : float or None
        The same as a multiple of ten plain epochs on all training images.
    judged : Judged or None
        None where labels pass through.
    """

    metrics: dict[str, float]
    seconds: float | None
    trainings: float | None
    judged: Judged | None


Found = dict[tuple[str, str], dict[int, Result]]
"""Result by seed, by (cell, variant)."""


def figures(judged: Judged, keep: npt.NDArray[np.bool_], *, has_posterior: bool) -> dict[str, float]:
    """Figures of detection.

    Parameters
    ----------
    judged : Judged
    keep : ndarray of bool, shape (N,)
        The images that count.
    has_posterior : bool
        Whether the share of right labels is estimated by ``stated``, or else by what is not above the cut-off.

    Returns
    -------
    dict of str to float
        ``auroc``, ``f1``, ``accuracy_error`` and ``own_accuracy_error`` (of the estimated share of right labels), ``best_filter`` (F1).
        What cannot be said is left out.
    """
    wrong = judged.given != judged.true
    bad, cut = wrong[keep], judged.above[keep]
    found: dict[str, float] = {}
    if not keep.any():
        return found
    if 0 < bad.sum() < len(bad):
        found["auroc"] = auroc(judged.score[keep], bad)
    found["f1"] = f1(cut, bad)
    if len(judged.stated):
        said = 1 - judged.stated[keep].mean() if has_posterior else 1 - cut.mean()
        found["accuracy_error"] = abs(float(said) - (1 - float(bad.mean())))
    if not math.isnan(float(judged.estimated)):
        found["own_accuracy_error"] = abs(float(judged.estimated) - (1 - float(wrong.mean())))
    if len(judged.filters):
        found["best_filter"] = max(f1(flags[keep], bad) for flags in judged.filters)
    return found


class Goal(NamedTuple):
    """A row of the table of figures to reach; ``reached`` is ``yes``, ``**no**``, ``one seed only`` or ``not measured``."""

    what: str
    reference: str
    reach: str
    measured: str
    reached: str


class Report:
    """All tables of what was found.

    Parameters
    ----------
    found : dict
    cells, variants : sequence of str
        In the order to show them.
    audited_idx : callable
        Positions of the audited images, by their number and the seed.
    digits : bool
        Whether the figures to reach are those for digits, or those for harder images.
    """

    def __init__(
        self,
        found: Found,
        cells: Sequence[str],
        variants: Sequence[str],
        audited_idx: Callable[[int, int], npt.NDArray[np.int64]],
        *,
        digits: bool,
    ) -> None:
        self.found = found
        self.cells = [cell for cell in cells if any((cell, variant) in found for variant in variants)]
        self.variants = [variant for variant in variants if any((cell, variant) in found for cell in cells)]
        self.judges = [v for v in self.variants if any(r.judged is not None for c in self.cells for r in found.get((c, v), {}).values())]
        self._rivals = [rival for rival, variant in RIVALS.items() if variant in self.judges]
        self.audited_idx = audited_idx
        self.digits = digits
        self._figures: dict[tuple[str, str, str], dict[int, dict[str, float]]] = {}
        self._pooled: dict[tuple[str, str], dict[str, float]] = {}

    def keep(self, judged: Judged, seed: int, subset: str) -> npt.NDArray[np.bool_]:
        """The images that count, shape (N,)."""
        mask = np.ones(len(judged.images), np.bool_)
        if subset == WITHOUT:
            mask[self.audited_idx(len(mask), seed)] = False
        return mask

    def detection(self, cell: str, variant: str, subset: str) -> dict[int, dict[str, float]]:
        """Figures of detection by seed."""
        key = cell, variant, subset
        if key not in self._figures:
            self._figures[key] = {
                seed: figures(r.judged, self.keep(r.judged, seed, subset), has_posterior=variant.startswith(OURS))
                for seed, r in self.found.get((cell, variant), {}).items()
                if r.judged is not None
            }
        return self._figures[key]

    def series(self, cell: str, who: str, figure: str, subset: str = "") -> dict[int, float]:
        """One figure by seed: of a variant or of a rival, and with ``accuracy`` that of the model trained on what it leaves."""
        if figure in ("accuracy", "seconds", "trainings"):
            rows = self.found.get((cell, who), {})
            values = {s: r.metrics.get("test/accuracy") if figure == "accuracy" else getattr(r, figure) for s, r in rows.items()}
            return {seed: value for seed, value in values.items() if value is not None}
        if who in RIVALS:
            if figure != "f1":
                return {}
            who, figure = RIVALS[who], "best_filter"
        rows_found = self.detection(cell, who, subset or (WITHOUT if who == AUDITED else ""))
        return {seed: row[figure] for seed, row in rows_found.items() if figure in row}

    def difference(self, cell: str, ours: str, theirs: str, figure: str) -> Estimate:
        """Ours minus theirs; where one is audited, without the audited images."""
        subset = WITHOUT if AUDITED in (ours, theirs) else ""
        return estimate(paired(self.series(cell, ours, figure, subset), self.series(cell, theirs, figure, subset)))

    def pooled(self, cell: str, variant: str) -> dict[str, float]:
        """Figures over all seeds' images at once: calibration and what the worst class loses."""
        if (cell, variant) in self._pooled:
            return self._pooled[cell, variant]
        stated, wrong, above, given = [], [], [], []
        for seed, result in sorted(self.found.get((cell, variant), {}).items()):
            judged = result.judged
            if judged is None:
                continue
            mask = self.keep(judged, seed, WITHOUT if variant == AUDITED else "")
            stated.append(judged.stated[mask] if len(judged.stated) else judged.stated)
            wrong.append((judged.given != judged.true)[mask])
            above.append(judged.above[mask])
            given.append(judged.given[mask])
        out: dict[str, float] = {}
        if wrong and sum(map(len, wrong)):
            bad = np.concatenate(wrong)
            if sum(map(len, stated)):
                error = calibration(np.concatenate(stated), bad, rng=np.random.default_rng(0))
                out |= {"ece_raw": error.raw, "ece_perfect": error.perfect, "ece": error.debiased}
            ratio, n_dropped = right_dropped(np.concatenate(above), np.concatenate(given), bad)
            out["n_right_dropped"] = n_dropped
            if n_dropped >= LEAST_DROPPED:
                out["class_ratio"] = ratio
        self._pooled[cell, variant] = out
        return out

    def gap(self, variant: str) -> tuple[Estimate, int]:
        """Share of the accuracy gap closed, its interval over the seeds, and the number of cells that count."""
        names = (GIVEN, variant, TRUE)
        curves = {cell: [self.series(cell, name, "accuracy") for name in names] for cell in self.cells}
        seeds = {cell: sorted(set(a) & set(b) & set(c)) for cell, (a, b, c) in curves.items()}
        cells = [cell for cell in self.cells if seeds[cell]]
        if not cells:
            return Estimate(math.nan, math.nan), 0
        means = np.array([[np.mean([values[s] for s in seeds[cell]]) for values in curves[cell]] for cell in cells]).T
        share, counts = gap_closed(*means, least=LEAST_GAP)
        counting = [cell for cell, counted in zip(cells, counts, strict=True) if counted]
        common = sorted(set.intersection(*(set(seeds[cell]) for cell in counting))) if counting else []
        by_seed = []
        for seed in common:
            rows = np.array([[values[seed] for values in curves[cell]] for cell in counting]).T
            gap = float((rows[2] - rows[0]).sum())
            by_seed += [float((rows[1] - rows[0]).sum()) / gap] if gap > 0 else []
        return Estimate(share, estimate(by_seed).half), len(counting)

    def over_cells(self, who: str, figure: str) -> Estimate:
        """The mean over all cells, with its interval over the seeds."""
        rows = [self.series(cell, who, figure) for cell in self.cells]
        rows = [row for row in rows if row]
        common = sorted(set.intersection(*map(set, rows))) if rows else []
        return estimate([float(np.mean([row[seed] for row in rows])) for seed in common])

    def text(self, name: str, about: Sequence[str], problems: Sequence[str]) -> str:
        """All tables as markdown."""
        n_seeds = len({seed for by_seed in self.found.values() for seed in by_seed})
        lines = [f"# Finding wrong labels: {name}", "", *about, ""]
        lines.append(f"Cells (corruption, noise, user accuracy; or a file of given labels): {len(self.cells)}; seeds: {n_seeds}.")
        lines.append(
            "Means ± 95% intervals over the seeds, in % but for ratios, seconds and trainings. Positive = the given label is wrong."
        )
        if BEST in self._rivals:
            lines.append(f"`{BEST}`: of cleanlab's seven, chosen in hindsight for each seed, on the probabilities of the run `{CLEANLAB}`;")
            lines.append(f"`{BEST_OWN}`: on the last ones of `{OURS}`.")
        if AUDITED in self.variants:
            lines.append(f"Rows and differences of `{AUDITED}` leave the audited images out, for whatever stands beside it as well.")
        for title, table in (
            ("All cells", self._methods_table()),
            ("F1", self._by_cell("f1", [*self.judges, *self._rivals])),
            ("AUROC", self._by_cell("auroc", self.judges)),
            ("Differences, paired by seed", self._differences_table()),
            ("Test accuracy of the model trained on what is left", self._by_cell("accuracy", self.variants)),
            ("Figures to reach", _table(["what", "reference", "reach", "measured", "reached?"], self.goals())),
        ):
            lines += ["", f"## {title}", "", *(table or ["nothing measured"])]
        if problems:
            lines += ["", "## Failed", "", *(f"* {problem}" for problem in problems)]
        return "\n".join(lines)

    def _methods_table(self) -> list[str]:
        header = ["method", "AUROC", "F1", "error of estimated user accuracy", "ECE raw", "ECE debiased, mean (worst cell)"]
        header += ["worst class / overall right labels dropped, mean (worst cell)", "gap closed", "seconds", "trainings"]
        rows = []
        for who in [*self.variants, *self._rivals]:
            pooled = [self.pooled(cell, who) for cell in self.cells]
            gap, n_cells = self.gap(who) if who not in (GIVEN, TRUE) else (Estimate(math.nan, math.nan), 0)
            row = [who] + [_percent(self.over_cells(who, figure)) for figure in ("auroc", "f1", "accuracy_error")]
            row += [_mean_and_worst(pooled, "ece_raw", 100, mean_only=True), _mean_and_worst(pooled, "ece", 100)]
            row += [_mean_and_worst(pooled, "class_ratio", 1), _percent(gap) + (f" ({n_cells} cells)" if n_cells else "")]
            seconds, cost = self.over_cells(who, "seconds").mean, self.over_cells(who, "trainings").mean
            row += ["" if math.isnan(seconds) else f"{seconds:.1f}", "" if math.isnan(cost) else f"{cost:.1f}"]
            rows.append(row)
            own = self.over_cells(who, "own_accuracy_error")
            if not math.isnan(own.mean):
                rows.append([f"{who}, its own estimate of the noise", "", "", _percent(own), *[""] * 6])
        return _table(header, rows)

    def _by_cell(self, figure: str, names: Sequence[str]) -> list[str]:
        rows = [[cell, *(_percent(estimate(list(self.series(cell, who, figure).values()))) for who in names)] for cell in self.cells]
        return _table(["cell", *names], rows) if any(any(row[1:]) for row in rows) else []

    def contrasts(self) -> list[tuple[str, str, str]]:
        """What is compared: ours, theirs, figure."""
        others = [v for v in self.judges if v.startswith(OURS) and v not in (OURS, AUDITED)]
        pairs = [(OURS, rival, "f1") for rival in (BEST, BEST_OWN, CLEANLAB, *others)] + [(OURS, CLEANLAB, "auroc")]
        pairs += [(AUDITED, rival, "f1") for rival in (BEST, BEST_OWN, CLEANLAB, OURS)]
        pairs += [(ours, GIVEN, "accuracy") for ours in (OURS, AUDITED, *others, CLEANLAB)] + [(OURS, CLEANLAB, "accuracy")]
        pairs += [(v, GIVEN, "accuracy") for v in self.variants if v.startswith(f"{GIVEN}, ")]
        return [(a, b, figure) for a, b, figure in pairs if any(not math.isnan(self.difference(c, a, b, figure).mean) for c in self.cells)]

    def _differences_table(self) -> list[str]:
        compared = self.contrasts()
        names = {"f1": "F1", "auroc": "AUROC", "accuracy": "test accuracy"}
        header = ["cell", *(f"{names[figure]}: {ours} - {theirs}" for ours, theirs, figure in compared)]
        rows = [[cell, *(_percent(self.difference(cell, *contrast), sign=True) for contrast in compared)] for cell in self.cells]
        return _table(header, rows) if compared else []

    def goals(self) -> list[Goal]:
        """The figures to reach that these runs can answer."""
        goals = []
        if self.digits:
            goals.append(self._goal_unaided_f1())
        else:
            goals += [self._goal_audited_f1(), *self._goals_people()]
        if self.digits:
            goals.append(self._goal_corrupted_f1())
        for who, most, name in ((OURS, 0.02, "unaided"), (AUDITED, 0.01, "audited")):
            errors = self._means(who, "accuracy_error")
            what, reference = f"error of estimated user accuracy, {name}", "cleanlab up to 11 points"
            goals.append(_at_most(what, reference, errors, most, "points", several=self._several(who, errors)))
        for who, most, name in ((AUDITED, 0.01, "audited"), (OURS, 0.03, "unaided")):
            eces = self._pooled_by_cell(who, "ece")
            what, reference = f"ECE of P(wrong), debiased, pooled, {name}", "13 to 24% for 1 - self-confidence"
            goals.append(_at_most(what, reference, eces, most, "%", several=self._several(who, eces)))
        ratios = self._pooled_by_cell(OURS, "class_ratio")
        what, several = "worst class / overall right labels dropped, pooled", self._several(OURS, ratios)
        goals.append(_at_most(what, "cleanlab 2.5", ratios, 1.5, "", several=several))
        goals += [self._goal_gap(), self._goal_not_below()]
        return goals

    def _means(self, who: str, figure: str) -> dict[str, float]:
        found = {cell: estimate(list(self.series(cell, who, figure).values())).mean for cell in self.cells}
        return {cell: value for cell, value in found.items() if not math.isnan(value)}

    def _pooled_by_cell(self, who: str, figure: str) -> dict[str, float]:
        found = {cell: self.pooled(cell, who) for cell in self.cells}
        return {cell: row[figure] for cell, row in found.items() if figure in row}

    def _several(self, who: str, cells: Iterable[str]) -> bool:
        """Whether each cell has more than one seed."""
        return all(len(self.detection(cell, who, "")) > 1 for cell in cells)

    def _differences(self, ours: str, theirs: str, figure: str, cells: Iterable[str] | None = None) -> dict[str, Estimate]:
        found = {cell: self.difference(cell, ours, theirs, figure) for cell in (self.cells if cells is None else cells)}
        return {cell: value for cell, value in found.items() if not math.isnan(value.mean)}

    def _goal_unaided_f1(self) -> Goal:
        said, reached = [], "not measured"
        for rival in (BEST, BEST_OWN):
            by_cell = self._differences(OURS, rival, "f1")
            if not by_cell:
                continue
            easy = self._means(rival, "f1")
            hard = [value.mean for cell, value in by_cell.items() if easy[cell] < 0.95]
            below = [cell for cell, value in by_cell.items() if value.high < 0]
            mean = f"{100 * np.mean(hard):+.1f} over {len(hard)} cells under 95" if hard else "no cell under 95"
            said.append(f"{rival}: {_count(below, by_cell, 'below')}; mean {mean}")
            if rival == BEST:
                reached = _decided(by_cell.values(), not below and (not hard or float(np.mean(hard)) > 0))
        what = "detection F1 minus the best of cleanlab's filters chosen in hindsight, same model, digits"
        return Goal(what, "0", "not below in any cell (paired interval), mean > 0 over cells under 95", "; ".join(said), reached)

    def _goal_audited_f1(self) -> Goal:
        by_cell = self._differences(AUDITED, BEST, "f1")
        what, reach = "the same with audited images, harder images, people's labels included", "> 0 in every cell, mean ≥ +2.5 points"
        if not by_cell:
            return Goal(what, "+2.1", reach, "", "not measured")
        mean = float(np.mean([value.mean for value in by_cell.values()]))
        below = [cell for cell, value in by_cell.items() if value.mean <= 0]
        own = self._differences(AUDITED, BEST_OWN, "f1")
        harder = f"; {BEST_OWN}: mean {100 * np.mean([v.mean for v in own.values()]):+.1f}" if own else ""
        said = f"{_count(below, by_cell, 'not above 0')}; mean {100 * mean:+.1f}{harder}"
        return Goal(what, "+2.1", reach, said, _decided(by_cell.values(), not below and mean >= 0.025))

    def _goals_people(self) -> list[Goal]:
        goals = []
        for cell in self.cells:
            if ", " in cell or not self.series(cell, OURS, "f1"):
                continue  # a simulated cell
            area, found, cost = (estimate(list(self.series(cell, OURS, figure).values())) for figure in ("auroc", "f1", "trainings"))
            reached = area.mean >= 0.96 and found.mean >= 0.845 and cost.mean <= 6
            said = f"AUROC {_percent(area)}, F1 {_percent(found)}, {cost.mean:.1f} trainings"
            what, reach = f"people's own labels ({cell}), no audit", "AUROC ≥ 96, F1 ≥ 84.5, ≤ 6"
            goals.append(Goal(what, "AUROC 95.5, F1 83.1 after 2.8", reach, said, _decided([area, found], reached)))
        return goals

    def _goal_corrupted_f1(self) -> Goal:
        what, reach = (
            "F1, `user_accuracy` 0.7, corrupted Tuesday, digits",
            "+5 points over cleanlab's default, interval above 0; AUROC ≥ 98",
        )
        cells = [cell for cell in self.cells if cell.startswith("mixed, ") and cell.endswith(", 0.7")]
        by_cell = self._differences(OURS, CLEANLAB, "f1", cells)
        said, good = [], True
        for cell, value in by_cell.items():
            area = estimate(list(self.series(cell, OURS, "auroc").values()))
            said.append(f"{cell.split(', ')[1]}: {_percent(value, sign=True)}, AUROC {_percent(area)}")
            good &= value.mean >= 0.05 and not value.low <= 0 and area.mean >= 0.98  # one seed has no lower end
        return Goal(what, "cleanlab default", reach, "; ".join(said), _decided(by_cell.values(), good))

    def _goal_gap(self) -> Goal:
        least = 0.75 if self.digits else 0.5
        what, reach = "accuracy gap closed, cells with a gap ≥ 2 points", f"≥ {least:.0%}"
        (share, n_cells), (audited, n_audited) = self.gap(OURS), self.gap(AUDITED)
        more = f"; audited {_percent(audited)}" if n_audited else ""
        said = f"{_percent(share)} over {n_cells} cells{more}" if n_cells else ""
        return Goal(what, "31 to 37% (matched)", reach, said, _decided([share] if n_cells else [], share.mean >= least))

    def _goal_not_below(self) -> Goal:
        by_cell = self._differences(OURS, GIVEN, "accuracy")
        below = [cell for cell, value in by_cell.items() if value.high < 0]
        said = _count(below, by_cell, "below") if by_cell else ""
        return Goal(
            "test accuracy minus that of no cleaning",
            "0",
            "not below in any cell (paired interval)",
            said,
            _decided(by_cell.values(), not below),
        )

    def cells_table(self) -> pd.DataFrame:
        """Every cell, variant, seed and figure; pooled figures have no seed."""
        rows: list[dict[str, Any]] = []
        for cell in self.cells:
            for variant in self.variants:
                for seed, result in sorted(self.found.get((cell, variant), {}).items()):
                    values: dict[str, float] = dict(self.detection(cell, variant, "").get(seed, {}))
                    for name, value in self.detection(cell, variant, WITHOUT).get(seed, {}).items():
                        values[f"{name}, {WITHOUT}"] = value
                    values |= {n: v for n, v in (("seconds", result.seconds), ("trainings", result.trainings)) if v is not None}
                    values |= {n: v for n, v in result.metrics.items() if n.startswith("test/")}
                    rows += [{"cell": cell, "method": variant, "seed": str(seed), "figure": n, "value": v} for n, v in values.items()]
                for name, value in self.pooled(cell, variant).items():
                    rows.append({"cell": cell, "method": variant, "seed": "", "figure": name, "value": value})
        return pd.DataFrame(rows, columns=["cell", "method", "seed", "figure", "value"])


def _at_most(what: str, reference: str, by_cell: Mapping[str, float], most: float, unit: str, *, several: bool) -> Goal:
    factor = 100 if unit else 1
    reach = f"≤ {factor * most:g}{'%' if unit == '%' else f' {unit}'.rstrip()}"
    if not by_cell:
        return Goal(what, reference, reach, "", "not measured")
    worst = max(by_cell, key=lambda cell: by_cell[cell])
    over = sum(value > most for value in by_cell.values())
    mean = f"mean {factor * np.mean(list(by_cell.values())):.2f}"
    said = f"{mean}, worst {factor * by_cell[worst]:.2f} ({worst}); {over} of {len(by_cell)} cells above"
    return Goal(what, reference, reach, said, _verdict(not over, several=several))


def _decided(found: Collection[Estimate], good: bool) -> str:
    return _verdict(good, several=not any(math.isnan(value.half) for value in found)) if found else "not measured"


def _verdict(good: bool, *, several: bool) -> str:
    """One seed can fail to reach a figure, but not show that it is reached."""
    if not good:
        return "**no**"
    return "yes" if several else "one seed only"


def _count(which: Sequence[str], of: Mapping[str, Any], what: str) -> str:
    return f"{len(which)} of {len(of)} cells {what}" + (f" ({'; '.join(which[:3])}{'; …' * (len(which) > 3)})" if which else "")


def _percent(found: Estimate, *, sign: bool = False) -> str:
    if math.isnan(found.mean):
        return ""
    mean = f"{100 * found.mean:+.1f}" if sign else f"{100 * found.mean:.1f}"
    return mean if math.isnan(found.half) else f"{mean} ± {100 * found.half:.1f}"


def _mean_and_worst(rows: Sequence[Mapping[str, float]], figure: str, factor: float, *, mean_only: bool = False) -> str:
    values = [factor * row[figure] for row in rows if figure in row]
    if not values:
        return ""
    return f"{np.mean(values):.1f}" if mean_only else f"{np.mean(values):.1f} ({max(values):.1f})"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
