"""Two pipelines, or two versions of the data, side by side: what differs, and what it did to the figures.

``bccp compare A B``. A side is a pipeline (its run id or the first digits of
it, its run folder or ``summary.json``) or ``clean_data:<digest>``, for which the newest finished pipeline on that data stands. Differences
are B minus A. Where both have predictions of the same test images the difference has an interval, by a paired bootstrap: each draw takes
images with replacement, and both models are measured on them. It tells how far the choice of test images matters, and not what another seed
of the training would have given.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bccp.core.errors import BCCPError
from bccp.core.home import home, keep_within_home
from bccp.core.paths import expanded
from bccp.core.step_graph import MAKER
from bccp.data import tables
from bccp.evaluation.scores import scores
from bccp.reporting.sweep_data import source_of
from bccp.tracking import finished_runs
from bccp.tracking.backends import ledger_uri
from bccp.tracking.finished_runs import Pipeline
from bccp.tracking.store import Ledger

COMPARISON_PAGE, FIGURES, IMAGES = "compare.md", "compare.csv", "compare_images.csv"
"""What is written: all in words; ``metric, a, b, difference, low, high, images``; and ``image, change, a, b``."""

DRAWS, _CONFIDENCE = 2000, 0.95

_MOST_LINES, _LONGEST = 40, 60
_LABELS = {
    "given_labels": ("given label", "label"),
    "true_labels": ("true label", "label"),
    "cleansed_labels": ("final label", "final_label"),
}
"""Artifacts that say something of single images: what it is called, and its column."""


@dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    Attributes
    ----------
    shown : str
    pipeline : Pipeline
        Of data that no finished pipeline has used: one without anything but that version.
    ledger : Ledger
    """

    shown: str
    pipeline: Pipeline
    ledger: Ledger

    def table(self, artifact: str, file: str) -> pd.DataFrame | None:
        """A table of an artifact, as text; None where the pipeline has no such artifact, or it is gone."""
        if artifact not in self.pipeline.versions:
            return None
        path = self.ledger.fetch(f"{artifact}:{self.pipeline.versions[artifact]}") / file
        return tables.read(path) if path.is_file() else None


@dataclass(frozen=True)
class RunComparison:
    """What differs.

    Attributes
    ----------
    a, b : str
        The sides.
    settings : DataFrame or None
        ``key, a, b``; None where a side is data alone.
    versions : DataFrame
        ``artifact, a, b``: those that differ, 12 digits each.
    images : DataFrame
        ``image, change, a, b``.
    figures : DataFrame
        ``metric, a, b, difference, low, high, images``: paired ones first; the others have no interval and no number of images.
    notes : list of str
    """

    a: str
    b: str
    settings: pd.DataFrame | None
    versions: pd.DataFrame
    images: pd.DataFrame
    figures: pd.DataFrame
    notes: list[str]


def _find(named: str, *, option: str) -> Side:
    """Find one of the two sides.

    Parameters
    ----------
    named : str
        See the module's text.
    option : str
        How errors call it: ``A`` or ``B``.

    Raises
    ------
    BCCPError
        If there is none, or it did not finish.
    """
    if not named:
        raise BCCPError(f"{option} is missing: give two runs or data versions: bccp compare A B")
    is_data = re.match(r"clean_data:", named) is not None
    uri, note = ledger_uri(None if is_data else finished_runs.configured_uri(named, option=option))
    if note:
        print(note, flush=True)
    ledger = Ledger(uri)
    if not is_data:
        pipeline = finished_runs.find(named, ledger, option=option)
        return Side(pipeline.shown, pipeline, ledger)
    digest = ledger.full_digest(named)
    ledger.fetch(f"clean_data:{digest}")
    using = finished_runs.newest(ledger, with_artifact="clean_data", digest=digest)
    if using is None:
        return Side(f"clean_data:{digest[:12]} (no finished run)", Pipeline(named, {"clean_data": digest}, {}, {}), ledger)
    return Side(f"clean_data:{digest[:12]} ({using.shown})", using, ledger)


def compare_runs(a: Side, b: Side, *, seed: int = 0) -> RunComparison:
    """Put two sides beside each other.

    Parameters
    ----------
    a, b : Side
    seed : int
        Of the bootstrap.

    Returns
    -------
    Comparison
    """
    versions = [(name, *(side.pipeline.versions.get(name, "")[:12] for side in (a, b))) for name in MAKER]
    different = [row for row in versions if row[1] != row[2]]
    of_a, of_b = (side.table("evaluation", "predictions.csv") for side in (a, b))
    paired, notes = pd.DataFrame(columns=DIFFERENCE_COLUMNS), list[str]()
    if of_a is not None and of_b is not None:
        paired, notes = pair(*_verified(of_a, of_b), rng=np.random.default_rng(seed))
        if len(paired) and any(name == "segregated_data" for name, _, _ in different):
            notes.append("segregated_data differs: an image may be corrupted otherwise in A than in B")
    elif of_a is not None or of_b is not None:
        notes = [f"{'A' if of_a is None else 'B'} has no evaluation: nothing is paired"]
    for name, side in (("A", a), ("B", b)):
        if parts := side.pipeline.simulated:
            notes.append(f"{' and '.join(parts)} of {name} were simulated".capitalize())
    return RunComparison(
        a.shown,
        b.shown,
        _settings(a.pipeline.config, b.pipeline.config),
        pd.DataFrame(different, columns=["artifact", "a", "b"]),
        changed_images(a, b),
        pd.concat([paired, _plain(a.pipeline.metrics, b.pipeline.metrics, set(paired["metric"]))], ignore_index=True),
        notes,
    )


def _verified(old: pd.DataFrame, new: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions on images whose labels are verified, as the figures of both are; all where one side has none."""
    parts = [table[table["verified"] == "true"] if "verified" in table else table for table in (old, new)]
    return (parts[0], parts[1]) if len(parts[0]) and len(parts[1]) else (old, new)


def _settings(old: Mapping[str, str], new: Mapping[str, str]) -> pd.DataFrame | None:
    """Keys whose values differ, but for those that only follow another key; what a side does not know is empty there."""
    if not old or not new:
        return None
    different = {key: (old.get(key, ""), new.get(key, "")) for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)}
    own = [key for key, values in different.items() if source_of(key) == key or different.get(source_of(key)) != values]
    return pd.DataFrame([(key, *different[key]) for key in own], columns=["key", "a", "b"])


def changed_images(a: Side, b: Side) -> pd.DataFrame:
    """What became of single images from A to B.

    Returns
    -------
    DataFrame
        ``image, change, a, b``, sorted by change and image. ``change`` is ``added``, ``removed``, ``relabelled`` (the same picture in
        another class folder), ``renamed``, ``other pixels``, ``given label``, ``true label``, ``final label``, or ``day and split``.
    """
    rows: list[tuple[str, str, str, str]] = []
    if a.pipeline.versions.get("clean_data") != b.pipeline.versions.get("clean_data"):
        old, new = a.table("clean_data", "manifest.csv"), b.table("clean_data", "manifest.csv")
        if old is not None and new is not None:
            rows += changed_data(old, new)
    for artifact, (change, column) in _LABELS.items():
        if a.pipeline.versions.get(artifact) != b.pipeline.versions.get(artifact):
            rows += _changed(a.table(artifact, f"{artifact}.csv"), b.table(artifact, f"{artifact}.csv"), column, change)
    if a.pipeline.versions.get("segregated_data") != b.pipeline.versions.get("segregated_data"):
        places = [side.table("segregated_data", "splits.csv") for side in (a, b)]
        told_of = [table.assign(place=table["day"] + " " + table["split"]) if table is not None else None for table in places]
        rows += _changed(told_of[0], told_of[1], "place", "day and split")
    table = pd.DataFrame(rows, columns=["image", "change", "a", "b"])
    return table.sort_values(["change", "image"], ignore_index=True)


def changed_data(old: pd.DataFrame, new: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    """Compare two manifests (``image, sha256, label``); rows of :func:`changed_images`."""
    before, after = (dict(zip(table["image"], table["sha256"], strict=True)) for table in (old, new))
    labels = [dict(zip(table["image"], table["label"], strict=True)) for table in (old, new)]
    rows = [(image, "other pixels", "", "") for image in before if image in after and before[image] != after[image]]
    rows += [
        (image, "relabelled", labels[0][image], labels[1][image])
        for image in before
        if image in after and labels[0][image] != labels[1][image]
    ]
    gone = {image: before[image] for image in sorted(before.keys() - after.keys())}
    by_picture: dict[str, list[str]] = {}
    for image, picture in gone.items():
        by_picture.setdefault(picture, []).append(image)
    for image in sorted(after.keys() - before.keys()):
        if origins := by_picture.get(after[image]):  # the picture was there, under another name
            origin = origins.pop(0)
            del gone[origin]
            if labels[0][origin] != labels[1][image]:
                rows.append((image, "relabelled", labels[0][origin], labels[1][image]))
            else:
                rows.append((image, "renamed", origin, image))
        else:
            rows.append((image, "added", "", labels[1][image]))
    return rows + [(image, "removed", labels[0][image], "") for image in gone]


def _changed(old: pd.DataFrame | None, new: pd.DataFrame | None, column: str, change: str) -> list[tuple[str, str, str, str]]:
    """Images that both tables have with another value."""
    if old is None or new is None:
        return []
    both = old[["image", column]].merge(new[["image", column]], on="image", suffixes=("_a", "_b"))
    other = both[both[f"{column}_a"] != both[f"{column}_b"]]
    return [(image, change, before, after) for image, before, after in other.itertuples(index=False, name=None)]


DIFFERENCE_COLUMNS = ["metric", "a", "b", "difference", "low", "high", "images"]


def pair(old: pd.DataFrame, new: pd.DataFrame, *, rng: np.random.Generator, draws: int = DRAWS) -> tuple[pd.DataFrame, list[str]]:
    """Compare two models on the test images that both were measured on.

    Parameters
    ----------
    old, new : DataFrame
        ``image, day, true_label, predicted_label``, all text; an image counts where both have it on one day with one true label.
    rng : Generator
    draws : int
        Of the bootstrap.

    Returns
    -------
    figures : DataFrame
        ``metric, a, b, difference, low, high, images`` for ``test/accuracy``, ``test/accuracy_<day>`` and ``test/f1_macro``, on these
        images; empty where there is none. ``low`` and ``high`` are the ends of a 95% percentile interval of the difference.
    notes : list of str
        What is to be said of the images.
    """
    columns = ["image", "day", "true_label", "predicted_label"]
    both = old[columns].merge(new[columns], on="image", suffixes=("_a", "_b"))
    same = both[(both["day_a"] == both["day_b"]) & (both["true_label_a"] == both["true_label_b"])]
    notes = []
    if len(same) < max(len(old), len(new)):
        notes.append(
            f"measured on the {len(same)} test images that both have with one day and true label, of A's {len(old)} and B's {len(new)}"
        )
    if same.empty:
        return pd.DataFrame(columns=DIFFERENCE_COLUMNS), notes
    labels = sorted({*same["true_label_a"], *same["predicted_label_a"], *same["predicted_label_b"]})
    days = sorted(set(same["day_a"]))
    position = {label: k for k, label in enumerate(labels)}
    truth = same["true_label_a"].map(position).to_numpy(np.int64)
    day = same["day_a"].map({name: d for d, name in enumerate(days)}).to_numpy(np.int64)
    k = len(labels)
    cells = [(day * k + truth) * k + same[f"predicted_label_{side}"].map(position).to_numpy(np.int64) for side in ("a", "b")]

    def figures(chosen: np.ndarray) -> tuple[list[float], list[float]]:
        first, second = (_figures(np.bincount(cell[chosen], minlength=len(days) * k * k).reshape(-1, k, k)) for cell in cells)
        return first, second

    everything = np.arange(len(same))
    measured = np.array(figures(everything))  # (2, number of figures)
    drawn = np.array([np.subtract(*figures(rng.choice(everything, len(everything)))) for _ in range(draws)])
    tail = 100 * (1 - _CONFIDENCE) / 2
    low, high = np.nanpercentile(-drawn, [tail, 100 - tail], axis=0) + 0.0  # B minus A, and no negative zeros
    names = ["test/accuracy", *(f"test/accuracy_{name}" for name in days), "test/f1_macro"]
    sizes = [len(same), *np.bincount(day, minlength=len(days)).tolist(), len(same)]
    table = {"metric": names, "a": measured[0], "b": measured[1], "difference": measured[1] - measured[0]}
    return pd.DataFrame({**table, "low": low, "high": high, "images": sizes}), notes


def _figures(by_day: np.ndarray) -> list[float]:
    """Accuracy of all, accuracy of each day (NaN for a day without images), and macro F1, of confusion matrices (days, K, K)."""
    pooled = scores(by_day.sum(axis=0))
    accuracies = [float(np.trace(one) / one.sum()) if one.any() else float("nan") for one in by_day]
    return [pooled.accuracy, *accuracies, pooled.macro(pooled.f1)]


def _plain(old: Mapping[str, float], new: Mapping[str, float], without: set[str]) -> pd.DataFrame:
    """Figures as the runs have them, those of the test first; of epochs none."""
    names = [name for name in {**old, **new} if "/epoch_" not in name and name not in without]
    ordered = sorted(names, key=lambda name: (not name.startswith("test/"), name))
    nan = float("nan")
    rows = [(name, a := old.get(name, nan), b := new.get(name, nan), b - a, nan, nan, nan) for name in ordered]
    return pd.DataFrame(rows, columns=DIFFERENCE_COLUMNS)


def comparison_page(found: RunComparison) -> str:
    """The comparison in words and tables, as Markdown that reads well as it is."""
    parts = ["# Comparison", f"* A: {found.a}\n* B: {found.b}"]
    if found.settings is None:
        parts += ["## Configuration", "Not known of both."]
    elif found.settings.empty:
        parts += ["## Configuration", "Nothing differs."]
    else:
        parts += ["## Configuration", *_table(("key", "A", "B"), found.settings.itertuples(index=False, name=None))]
    parts += ["## Data and labels", *_images(found)]
    parts += ["## Figures", *_figure_tables(found), *found.notes]
    return "\n\n".join(parts) + "\n"


def _images(found: RunComparison) -> list[str]:
    if found.versions.empty:
        return ["All artifacts are the same."]
    differ = ", ".join(found.versions["artifact"])
    if found.images.empty:
        return [f"No image or label differs. Of other versions: {differ}."]
    counts = Counter(found.images["change"].tolist())
    lines = _table(("change from A to B", "images"), ((change, str(n)) for change, n in sorted(counts.items())))
    shown = found.images[found.images["change"] != "day and split"]
    few = shown.groupby("change").head(5)
    more = f"The first of each; {IMAGES} has all." if len(few) < len(found.images) else ""
    examples = _table(("image", "change", "A", "B"), few.itertuples(index=False, name=None)) if len(few) else []
    return [*lines, *examples, *filter(None, [more]), f"Artifacts of other versions: {differ}."]


def _figure_tables(found: RunComparison) -> list[str]:
    paired = found.figures[found.figures["images"].notna()]
    others = found.figures[found.figures["images"].isna() & (found.figures["a"] != found.figures["b"])]
    parts = []
    if len(paired):
        rows = (
            (metric, _number(a), _number(b), f"{difference:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{n:.0f}")
            for metric, a, b, difference, low, high, n in paired[DIFFERENCE_COLUMNS].to_numpy(object)
        )
        parts += _table(("paired", "A", "B", "B - A", "95% interval", "images"), rows)
    tested = [name for name in found.figures["metric"] if name.startswith("test/")]
    ends = [f"{name}{end}" for name in tested for end in ("_low", "_high")]  # of the intervals of each run: the file has them
    others = others[~others["metric"].isin(ends)]
    if len(others):
        rows_of_others = (
            (metric, _number(a), _number(b), "" if np.isnan(difference) else f"{difference:+.4g}")
            for metric, a, b, difference in others[DIFFERENCE_COLUMNS[:4]].to_numpy(object)
        )
        parts += _table(("each run's own", "A", "B", "B - A"), rows_of_others)
    return parts or ["No figure differs."]


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.4f}" if abs(value) < 100 else f"{value:.6g}"


def _table(headings: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A Markdown table whose columns are lined up."""
    texts = [[_cell(cell) for cell in row] for row in rows]
    hidden = len(texts) - _MOST_LINES
    texts = texts[:_MOST_LINES] if hidden > 0 else texts
    widths = [max(len(row[column]) for row in [list(headings), *texts]) for column in range(len(headings))]
    lines = [list(headings), ["-" * width for width in widths], *texts]
    drawn = "\n".join("| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) + " |" for line in lines)
    return [drawn, f"and {hidden} more"] if hidden > 0 else [drawn]


def _cell(text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _write(found: RunComparison, out: Path) -> None:
    """Write :data:`COMPARISON_PAGE`, :data:`FIGURES` and :data:`IMAGES`; what is there of a former comparison is replaced."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tables.write(found.figures, out / FIGURES)
        tables.write(found.images, out / IMAGES)
        (out / COMPARISON_PAGE).write_text(comparison_page(found), encoding="utf-8")
    except OSError as error:
        raise BCCPError(f"{error.filename or out} cannot be written ({error.strerror}): choose another folder with OUT=") from error


def _default_place(named: Sequence[str]) -> Path:
    names = [Path(text).parent.name if Path(text).name == "summary.json" else Path(text).name for text in named]
    return home() / "compare" / "_".join(re.sub(r"[^\w.-]+", "-", name)[:40] for name in names)


def compare_named(a: str, b: str, out: Path | None) -> tuple[RunComparison, Path]:
    """Compare two sides and write what differs.

    Parameters
    ----------
    a, b : str
        See the module's text.
    out : Path or None
        The folder to write to; None: ``compare/<A>_<B>`` in the home.

    Returns
    -------
    found : Comparison
    place : Path
        The folder.
    """
    keep_within_home()
    found = compare_runs(_find(a, option="A"), _find(b, option="B"))
    place = expanded(out, option="OUT").resolve() if out else _default_place([a, b])
    _write(found, place)
    return found, place
