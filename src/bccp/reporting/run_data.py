"""What a pipeline came to, read from its summary and from the artifacts of its steps, for a page to tell.

Whatever is missing (a step that was left out or failed, an artifact that has gone) leaves its part empty.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.core.errors import BCCPError
from bccp.core.provenance import Difference, command, differences
from bccp.data import label_files, tables
from bccp.data.dataset import Days, open_days
from bccp.tracking.store import Ledger

_N_BINS = 20
"""Of the histogram of P(wrong)."""

MOST_PICTURES = 24
"""Suspects, and errors, that are shown."""

_MOST_PIXELS = 112
"""Side of a picture on the page, in px; larger images are made smaller."""

MOST_LISTED = 300
"""Lines of a table."""

_Z = 1.959964  # of a 95% interval


class Figure(NamedTuple):
    """A measured share.

    Attributes
    ----------
    metric, part : str
        What was measured, and on which part of the test images (``all``, ``monday``, …).
    value : float
    low, high : float or None
        Of its 95% interval.
    n : int
        Images.
    """

    metric: str
    part: str
    value: float
    low: float | None
    high: float | None
    n: int


class Shown(NamedTuple):
    """An image with what is to be said of it.

    Attributes
    ----------
    lines : sequence of str
    note : str
        Its id.
    picture : str
        A data URI; empty where no pixels are to be seen.
    beside : str
        The picture of the trusted image that looks most like it, or empty.
    """

    lines: Sequence[str]
    note: str
    picture: str
    beside: str = ""


@dataclass(frozen=True)
class StepTold:
    """A step: its name, what became of it (as in ``summary.json``) and of its time."""

    name: str
    status: str
    reason: str
    seconds: float
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class DataFacts:
    """The images: counts by class and by day, what was rejected, what is odd."""

    by_class: Mapping[str, Mapping[str, int]]
    splits: Mapping[str, Mapping[str, int]]
    report: Mapping[str, Any]
    rejected: Sequence[tuple[str, str]]
    corruption: Mapping[str, int]


@dataclass(frozen=True)
class LabelFacts:
    """The given labels and what became of them.

    Attributes
    ----------
    about : mapping
        ``cutoff.json``.
    n, n_above, n_changed, n_dropped : int
        Labels, those doubted (above the cut-off), those whose (likeliest) label is another one now, and those without any.
    histogram : sequence of (str, sequence of int)
        Labels in each bin of P(wrong), by kind; empty without a posterior.
    by_class : sequence of (str, int, int, int or None)
        Given label, labels, doubted ones, and how many of these are right; None where that is not known.
    suspects : sequence of Shown
    users : DataFrame or None
    """

    about: Mapping[str, Any]
    n: int
    n_above: int
    n_changed: int
    n_dropped: int
    histogram: Sequence[tuple[str, Sequence[int]]]
    by_class: Sequence[tuple[str, int, int, int | None]]
    suspects: Sequence[Shown]
    users: pd.DataFrame | None


@dataclass(frozen=True)
class Evaluation:
    """How good the new model is.

    Attributes
    ----------
    figures : sequence of Figure
        Accuracy, of all images and by day, comes first.
    bootstrap : bool
        Whether the intervals come from the evaluation itself; else they are Wilson's.
    verified : bool
        Whether all labels measured against are known to be true.
    per_class : DataFrame
        Of all images.
    classes : sequence of str
    confusion : ndarray of int64, shape (K, K)
        Labels in rows.
    confused : sequence of (str, str, int)
        Label, prediction, images: the most frequent errors.
    n_errors : int
    errors : sequence of Shown
        The surest ones.
    """

    figures: Sequence[Figure]
    bootstrap: bool
    verified: bool
    per_class: pd.DataFrame
    classes: Sequence[str]
    confusion: npt.NDArray[np.int64]
    confused: Sequence[tuple[str, str, int]]
    n_errors: int
    errors: Sequence[Shown]


@dataclass(frozen=True)
class Story:
    """A pipeline's; see the module's text.

    Attributes
    ----------
    name, folder : str
        Its id, and where its summary lies.
    status : str
        ``finished`` or ``failed``.
    error : str
    steps : sequence of StepTold
    metrics : mapping of str to float
    config : mapping
        By section.
    differences : sequence of Difference
    command : str
    environment : mapping
        From :func:`bccp.core.provenance.environment`.
    verdict : tuple of str
        What was decided on the model and why; empty where nothing was.
    data, labels, history, evaluation
        None where there is nothing to tell.
    """

    name: str
    folder: str
    status: str
    error: str
    steps: Sequence[StepTold]
    metrics: Mapping[str, float]
    config: Mapping[str, Any]
    differences: Sequence[Difference]
    command: str
    environment: Mapping[str, Any]
    verdict: tuple[str, str] = ("", "")
    data: DataFacts | None = None
    labels: LabelFacts | None = None
    history: pd.DataFrame | None = None
    evaluation: Evaluation | None = field(default=None)


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95% interval of a share, of which 0 and 1 are no exceptions.

    Parameters
    ----------
    right, n : int
        ``0 <= right <= n``, and n is at least 1.

    Returns
    -------
    low, high : float

    References
    ----------
    E. B. Wilson: "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.
    """
    share, square = right / n, _Z * _Z / n
    middle = (share + square / 2) / (1 + square)
    half = _Z * math.sqrt(share * (1 - share) / n + square / (4 * n)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def read_story(summary: Mapping[str, Any], folder: Path, ledger: Ledger | None, *, pixels: bool = True) -> Story:
    """Read what there is to tell of a pipeline.

    Parameters
    ----------
    summary : mapping
        What ``summary.json`` holds.
    folder : Path
        Where it lies.
    ledger : Ledger or None
        That has the artifacts; None: only the summary is told.
    pixels : bool
        Whether images may be seen.

    Returns
    -------
    Story
    """
    config = summary.get("config") or {}
    steps = [
        StepTold(one["name"], one["status"], one["reason"], float(one["seconds"]), one.get("outputs") or {}) for one in summary["steps"]
    ]
    places = _places(ledger, steps)
    days = None
    if {"segregated_data", "clean_data"} <= places.keys():
        with suppress(OSError, ValueError, KeyError):
            days = open_days(places["segregated_data"], places["clean_data"])
    view = _View(days if pixels else None)
    known = "tracking" in config  # else the configuration was refused before it was resolved
    return Story(
        name=folder.name,
        folder=str(folder),
        status=str(summary["status"]),
        error=str(summary.get("error") or ""),
        steps=steps,
        metrics=summary.get("metrics") or {},
        config=config,
        differences=differences(config) if known else [],
        command=command(config) if known else "",
        environment=summary.get("environment") or {},
        verdict=_verdict(summary, ledger),
        data=_told(_data, places, days),
        labels=_told(_labels, places, view),
        history=_told(_history, places),
        evaluation=_told(_evaluation, places, view),
    )


def _places(ledger: Ledger | None, steps: Sequence[StepTold]) -> dict[str, Path]:
    """The folder of each artifact that is still there; the fetched files themselves are not needed."""
    found = {}
    for name, version in [(name, version) for step in steps for name, version in step.outputs.items() if name != "raw_data"]:
        with suppress(BCCPError):
            found[name] = ledger.fetch(f"{name}:{version}") if ledger else None
    return {name: place for name, place in found.items() if place is not None}


def _told(read: Any, places: Mapping[str, Path], *more: Any) -> Any:
    """A part of the story, or None where what it is made of is not there or not what is expected."""
    try:
        return read(places, *more)
    except (OSError, ValueError, KeyError):
        return None


class _View:
    """Pictures of images, as data URIs; empty ones where no pixels are to be seen."""

    def __init__(self, days: Days | None) -> None:
        self._days = days

    def __call__(self, images: Sequence[str]) -> list[str]:
        if self._days is None:
            return [""] * len(images)
        known = [image for image in dict.fromkeys(images) if image in self._days.splits.index]
        pictures = {image: _picture(pixels) for image, pixels in zip(known, self._days.view(known)[:], strict=True)}
        return [pictures.get(image, "") for image in images]


def _picture(pixels: npt.NDArray[np.uint8]) -> str:
    """A data URI: PNG of a small image, which is shown enlarged, JPEG of a large one, which is made smaller."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    small = max(picture.size) <= _MOST_PIXELS // 2
    picture.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    stream = io.BytesIO()
    picture.save(stream, **({"format": "PNG"} if small else {"format": "JPEG", "quality": 80}))
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def _verdict(summary: Mapping[str, Any], ledger: Ledger | None) -> tuple[str, str]:
    """What a comparison with the champion has left: in the summary, or as tags of the step's run."""
    said = dict(summary)
    test: Mapping[str, Any] = next((step for step in summary["steps"] if step["name"] == "test"), {})
    if ledger is not None and "verdict" not in said and test.get("run_id"):
        tags = ledger.client.get_run(test["run_id"]).data.tags
        said = {name.removeprefix("bccp."): value for name, value in tags.items()}
    return str(said.get("verdict") or ""), str(said.get("verdict_reason") or "")


def _data(places: Mapping[str, Path], days: Days | None) -> DataFacts:
    clean = places["clean_data"]
    report = json.loads((clean / "report.json").read_text(encoding="utf-8"))
    quarantine = tables.read(clean / "quarantine.csv")[["image", "reason"]]
    by_class: dict[str, dict[str, int]] = {name: {} for name in report["classes"]}
    splits: dict[str, dict[str, int]] = {}
    corruption: dict[str, int] = {}
    if days is not None:
        cut = days.splits
        label = tables.read(clean / "manifest.csv").set_index("image")["label"].reindex(cut.index)
        for (name, day), n in sorted(Counter(zip(label, cut["day"], strict=True)).items()):
            by_class.setdefault(str(name) or "(no folder)", {})[str(day)] = n
        for (day, split), n in sorted(Counter(zip(cut["day"], cut["split"], strict=True)).items()):
            splits.setdefault(str(day), {})[str(split)] = n
        corruption = dict(Counter(kind for kind in cut["corruption"] if kind))
    else:
        by_class = {name: {"images": int(n)} for name, n in report["classes"].items()}
    rejected = list(quarantine[:MOST_LISTED].itertuples(index=False, name=None))
    return DataFacts(by_class, splits, report, rejected, corruption)


def _labels(places: Mapping[str, Path], view: _View) -> LabelFacts:
    folder = places["cleansed_labels"]
    about = json.loads((folder / "cutoff.json").read_text(encoding="utf-8"))
    table = label_files.read_cleansed_table(folder)
    above = table["above_cutoff"].to_numpy()
    right = None
    known = places.get("true_labels", folder) / "true_labels.csv"
    if known.exists():
        truth = tables.read(known).set_index("image")["label"].reindex(table["image"])
        right = (truth.to_numpy() == table["given_label"].to_numpy()) if len(table) and truth.notna().all() else None
    kinds = {"labels": np.ones(len(table), np.bool_)} if right is None else {"right in truth": right, "wrong in truth": ~right}
    histogram: list[tuple[str, Sequence[int]]] = []
    if len(table) and (table["p_wrong"] != "").all():
        p_wrong = table["p_wrong"].to_numpy(np.float64)
        histogram = [(name, np.histogram(p_wrong[kind], _N_BINS, (0, 1))[0].tolist()) for name, kind in kinds.items()]
    by_class = []
    for name, rows in table.groupby("given_label").indices.items():
        gone = above[rows]
        by_class.append((str(name), len(rows), int(gone.sum()), None if right is None else int((gone & right[rows]).sum())))
    users = folder / "users.csv"
    return LabelFacts(
        about=about,
        n=len(table),
        n_above=int(above.sum()),
        n_changed=int(((table["final_label"] != table["given_label"]) & (table["final_label"] != "")).sum()),
        n_dropped=int((table["final_label"] == "").sum()),
        histogram=histogram,
        by_class=by_class,
        suspects=_suspects(folder / "label_report.csv", set(table["image"][above]), view),
        users=tables.read(users) if users.exists() else None,
    )


def _suspects(path: Path, above: set[str], view: _View) -> list[Shown]:
    """The worst labels that nobody has checked, each beside the trusted image that looks most like it."""
    if not path.exists():
        return []
    report = tables.read(path, dtypes={"rank": int})
    report = report[report["image"].isin(above) & (report["label"] == "")].sort_values("rank")[:MOST_PICTURES]
    shown, pictures, beside = [], view(report["image"].tolist()), view(report["nearest_trusted"].tolist())
    for row, picture, trusted in zip(report.to_dict("records"), pictures, beside, strict=True):
        lines = [f"given {row['given_label']}"] + ([f"likely {row['suggested_label']}"] if row["suggested_label"] else [])
        lines += [f"P(wrong) {float(row['p_wrong']):.1%}"] if row["p_wrong"] else []
        shown.append(Shown(lines, row["image"], picture, trusted))
    return shown


def _history(places: Mapping[str, Path]) -> pd.DataFrame:
    return tables.read(places["model"] / "history.csv").astype(float)


def _evaluation(places: Mapping[str, Path], view: _View) -> Evaluation:
    folder = places["evaluation"]
    predictions = tables.read(folder / "predictions.csv", dtypes={"probability": float})
    figures = _measured(folder / "metrics.csv")
    bootstrap = bool(figures)
    of_truth = predictions[predictions["verified"] == "true"]
    if bootstrap and figures[0].n == len(of_truth):  # those of earlier versions are of all images
        predictions = of_truth
    right = (predictions["correct"] == "true").to_numpy()
    if not figures:
        parts = {"all": np.ones(len(right), np.bool_)}
        parts |= {str(day): (predictions["day"] == day).to_numpy() for day in sorted(predictions["day"].unique())}
        counts = {name: (int(right[part].sum()), int(part.sum())) for name, part in parts.items()}
        figures = [Figure("accuracy", name, hits / n, *wilson(hits, n), n) for name, (hits, n) in counts.items()]
    per_class = tables.read(folder / "per_class.csv")
    per_class = per_class[per_class["day"] == "all"].drop(columns="day")
    classes = per_class["label"].tolist()
    position = {name: k for k, name in enumerate(classes)}
    rows, columns = (predictions[name].map(position).to_numpy(np.int64) for name in ("true_label", "predicted_label"))
    confusion = np.bincount(rows * len(classes) + columns, minlength=len(classes) ** 2).reshape(len(classes), -1)
    off = confusion.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:10]
    confused = [(classes[k // len(classes)], classes[k % len(classes)], int(off.flat[k])) for k in order.tolist() if off.flat[k]]
    wrong = predictions[~right].sort_values(["probability", "image"], ascending=[False, True])
    surest = wrong[:MOST_PICTURES]
    errors = [
        Shown((f"is {row['true_label']}", f"taken for {row['predicted_label']}, {row['probability']:.1%}"), row["image"], picture)
        for row, picture in zip(surest.to_dict("records"), view(surest["image"].tolist()), strict=True)
    ]
    verified = bool((predictions["verified"] == "true").all())
    return Evaluation(figures, bootstrap, verified, per_class, classes, confusion.astype(np.int64), confused, len(wrong), errors)


def _measured(path: Path) -> list[Figure]:
    """The evaluation's own figures with intervals, accuracy first; none where it has left none."""
    if not path.exists():
        return []
    rows = tables.read(path)

    def number(text: str) -> float | None:
        return float(text) if text else None

    figures = [
        Figure(row["metric"], _part(row["slice"]), float(row["value"]), number(row["low"]), number(row["high"]), int(float(row["n"] or 0)))
        for row in rows.to_dict("records")
        if row["value"]
    ]
    return sorted(figures, key=lambda one: one.metric != "accuracy")


def _part(text: str) -> str:
    """A slice in one spelling: ``day=monday`` is ``monday``, and no slice is ``all``."""
    for mark in ("=", ":"):
        text = text.removeprefix(f"day{mark}")
    return "all" if text in ("", "overall") else text
