"""Cards of a run: what the model is and how good (``model_card.md``), and what it was made from (``data_card.md``), in its own figures.

References
----------
M. Mitchell et al.: "Model Cards for Model Reporting", FAT* 2019. T. Gebru et al.: "Datasheets for Datasets", CACM 64, 2021.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bccp.data import tables
from bccp.data.dataset import Days

MODEL_CARD, DATA_CARD = "model_card.md", "data_card.md"

_SIMULATED = {
    ("labels",): "wrong labels of the new day",
    ("images",): "corruption of the new day's images",
    ("labels", "images"): "wrong labels of the new day, and corruption of its images",
}

_MOST_CLASSES = 50
"""Rows of a table of classes; of more, those with the lowest F1 are shown."""


def write_cards(folder: Path, *, model: Path, clean: Path, days: Days, simulated: Sequence[str] = ()) -> None:
    """Write both cards into an evaluation; equal runs give equal bytes.

    Parameters
    ----------
    folder : Path
        Holds ``metrics.json`` and ``per_class.csv``.
    model, clean : Path
        Folders of ``model`` and ``clean_data``.
    days : Days
    simulated : sequence of str
        What was simulated (:func:`bccp.data.label_files.simulated_in`).
    """
    about, metrics, report = (_read(place) for place in (model / "model.json", folder / "metrics.json", clean / "report.json"))
    history = tables.read(model / "history.csv") if (model / "history.csv").exists() else pd.DataFrame()
    classes = tables.read(folder / "per_class.csv")
    (folder / MODEL_CARD).write_text(model_card(about, metrics, classes, history, simulated), encoding="utf-8")
    (folder / DATA_CARD).write_text(data_card(report, days), encoding="utf-8")


def model_card(
    about: Mapping[str, Any], metrics: Mapping[str, Any], classes: pd.DataFrame, history: pd.DataFrame, simulated: Sequence[str] = ()
) -> str:
    """The model's card, in Markdown.

    Parameters
    ----------
    about : mapping
        ``model.json``.
    metrics : mapping
        ``metrics.json``: ``verified``, and figures by name.
    classes : DataFrame
        ``per_class.csv``, all text.
    history : DataFrame
        One row an epoch, or a strength of the penalty, all text; may be empty.
    simulated : sequence of str
        ``labels`` or ``images`` of the new day that were simulated.

    Returns
    -------
    str
    """
    names = about["class_names"]
    facts = {
        "architecture": about["architecture"],
        "input": f"RGB images of {about['image_size']} px, brought to that size by `{about.get('resize') or 'stretch'}`",
        "normalisation": f"mean {about['mean']}, standard deviation {about['std']}",
        "backbone": "frozen: only the last layer was trained" if about.get("frozen") else "trained",
        "mirrored": "the features of an image and its mirror image are averaged" if about.get("mirrored") else "no",
        **_training_facts(history),
        "classes": f"{len(names)}: {', '.join(names[:_MOST_CLASSES])}{', ...' if len(names) > _MOST_CLASSES else ''}",
    }
    pooled = classes[classes["day"] == "all"]
    shown = (
        pooled.loc[pooled["f1"].astype(float).sort_values(kind="stable").index[:_MOST_CLASSES]] if len(pooled) > _MOST_CLASSES else pooled
    )
    doubtful = int(metrics.get("unverified_images", 0))
    labels = "All test labels are known to be true."
    if not metrics["verified"]:
        labels = f"**The true labels of {doubtful} test images are not known: the given ones stand in for them.**"
    elif doubtful:
        labels = f"All test labels are known to be true, but those of {doubtful} further images, which count in `agreement_*` alone."
    parts = [
        f"# Model card: {about['architecture']} for {len(names)} classes",
        *([f"**Simulated on purpose: {_SIMULATED[tuple(simulated)]}.**"] if simulated else []),
        _table(("", ""), facts.items()),
        "## Intended use",
        "To tell these classes apart in images like those that it was trained on. An image of anything else gets one of the classes too: "
        "the model does not say that it does not know.",
        "## How good it is",
        f"Measured on held-out images that took no part in training. {labels}",
        _table(("figure", "value"), ((name, _number(value)) for name, value in metrics.items() if name != "verified")),
        "## By class" + (f" (the {_MOST_CLASSES} with the lowest F1)" if len(shown) < len(pooled) else ""),
        _table(
            ("class", "images", "precision", "recall", "F1"),
            (
                (label, images, *(_number(float(value)) for value in figures))
                for label, images, *figures in shown[["label", "images", "precision", "recall", "f1"]].astype(str).to_numpy().tolist()
            ),
        ),
        "## To keep in mind",
        "Part of the training labels may have been wrong and corrected or weighted by a model; see the run's `cleansed_labels`. Figures by "
        "class rest on as many images as the table says. The data is described in `data_card.md`.",
    ]
    return "\n\n".join(parts) + "\n"


def _training_facts(history: pd.DataFrame) -> dict[str, Any]:
    """How many epochs there were, or which penalty was chosen."""
    if "strength" not in history:
        return {"epochs": len(history) or "not recorded"}
    best = int(history["val_loss"].astype(float).to_numpy().argmin()) if "val_loss" in history else 0
    return {"head": f"logistic regression with a penalty of {float(history['strength'].iloc[best]):g}, fitted at once"}


def data_card(report: Mapping[str, Any], days: Days) -> str:
    """The data's card, in Markdown.

    Parameters
    ----------
    report : mapping
        ``report.json`` of ``clean_data``.
    days : Days

    Returns
    -------
    str
    """
    splits = days.splits
    facts = {
        "images": report.get("images", len(splits)),
        "unusable files": ", ".join(f"{n} {reason}" for reason, n in report.get("rejected_by_reason", {}).items()) or "none",
        "further copies of a picture": report.get("exact_duplicates", {}).get("copies", "not recorded"),
        "nearly equal pictures": report.get("near_duplicates", {}).get("copies", "not recorded"),
        "formats": ", ".join(f"{n} {kind}" for kind, n in report.get("formats", {}).items()) or "not recorded",
        "sizes": _sizes(report.get("size_px", {})),
        "used at": f"{days.image_size} px, brought to that size by `{report.get('resize') or 'stretch'}`",
        "artificial corruption": _corruption(splits),
        "true labels of the new day": "known to whoever measures, not to training" if days.truth_known else "not known",
    }
    counts = Counter(splits["day"] + "/" + splits["split"])
    trusted = splits[splits["label"] != ""].groupby("label").size()
    parts = [
        "# Data card",
        _table(("", ""), facts.items()),
        "## Days and splits",
        f"Labels of {days.target_day} are new and may be wrong; those of the other day, where there is one, are trusted. Equal and nearly "
        "equal pictures never lie in two splits.",
        _table(("day", "split", "images"), ((*place.split("/"), n) for place, n in sorted(counts.items()))),
        "## Images with a trusted label, by class",
        _table(("class", "images"), ((name, int(trusted.get(name, 0))) for name in days.classes)),
    ]
    return "\n\n".join(parts) + "\n"


def _read(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    return found


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [_row(header), "|" + "---|" * len(header), *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"


def _number(value: Any) -> str:
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4f}"
    return f"{value:.0f}" if isinstance(value, int | float) and abs(value) > 1 else str(value)


def _sizes(spread: Mapping[str, Mapping[str, float]]) -> str:
    return "; ".join(f"{side} {s['min']} to {s['max']} px (median {s['median']:g})" for side, s in spread.items() if s) or "not recorded"


def _corruption(splits: pd.DataFrame) -> str:
    counts = splits.loc[splits["corruption"] != "", "corruption"].value_counts().sort_index()
    return ", ".join(f"{n} {name}" for name, n in counts.items()) or "none"
