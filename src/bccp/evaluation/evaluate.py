"""What a model makes of the test images, and the files and pictures that are made of it.

N test images, K classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.core.step_context import Step
from bccp.data import galleries, label_files, tables
from bccp.data.array_types import Float32
from bccp.data.dataset import Days
from bccp.data.duplicates import telling_hashes
from bccp.evaluation import error_analysis, metrics, plots, scores
from bccp.models import classifier
from bccp.models.architectures import ImageClassifier
from bccp.models.feature_cache import Inputs, shared_inputs

MOST_EXPLAINED = 1000
"""Errors that get nearest training images, the costliest: more than anybody looks at."""

_MOST_COMPARED = 20_000
"""Training images that they are looked for among."""

_MOST_DRAWN, MOST_BESIDE = 12, 3
"""Errors in the gallery, and training images beside each."""

_AT_ONCE = 4096
"""Training images whose features are held at once."""


class Judged(NamedTuple):
    """Test images and what the model says about them.

    Attributes
    ----------
    predictions : DataFrame
        N rows, from :func:`bccp.evaluation.scores.predictions_table`.
    probs : ndarray of float32, shape (N, K)
        P(class | image); rows sum to 1.
    former_probs : ndarray of float32, shape (n, K), or None
        The same of Monday's images, in their order, by the ``monday_model`` that the model's labels or replay were chosen with; None where
        there was none.
    """

    predictions: pd.DataFrame
    probs: Float32
    former_probs: Float32 | None

    def measured(self) -> Judged:
        """The images that figures are of: the verified ones, or all where none is."""
        verified = (self.predictions["verified"] == "true").to_numpy()
        if verified.all() or not verified.any():
            return self
        former = self.former_probs
        if former is not None:
            former = former[verified[(self.predictions["day"] == "monday").to_numpy()]]
        return Judged(self.predictions[verified].reset_index(drop=True), self.probs[verified], former)


def evaluate_model(step: Step, days: Days, model: ImageClassifier, references: pd.DataFrame, manifest: pd.DataFrame) -> Judged:
    """Ask the model, and the one before it.

    Parameters
    ----------
    step : Step
        Of ``test``.
    days : Days
    model : ImageClassifier
    references : DataFrame
        From :func:`bccp.evaluation.scores.reference_labels`.
    manifest : DataFrame
        Of ``clean_data``.

    Returns
    -------
    Judged
    """
    inputs: Inputs = shared_inputs(step, days)

    def ask(some: ImageClassifier, ids: pd.Series[str]) -> Float32:
        return classifier.probabilities(some, inputs(some, ids.tolist()), batch_size=step.config.batch_size, device=step.device)

    probs = ask(model, references["image"])
    former, on_monday = step.ancestor("monday_model"), references.loc[references["day"] == "monday", "image"]
    sizes, corruptions = scores.size_bands(manifest), dict(zip(days.splits.index, days.splits["corruption"], strict=True))
    return Judged(
        predictions=scores.predictions_table(references, probs, days.classes, corruptions=corruptions, sizes=sizes),
        probs=probs,
        former_probs=ask(classifier.load_classifier(former)[0], on_monday) if former and len(on_monday) else None,
    )


class Explained(NamedTuple):
    """The errors, and what there is to say about them.

    Attributes
    ----------
    errors : DataFrame
        ``rank, image, day, true_label, predicted_label, probability, loss, verified, corruption, size, slice, action, nearest``, the
        costliest first: the slice that it is one of, what would help, and the training images that look most like it to the model, the
        nearest first, separated by semicolons.
    tables : dict of str to DataFrame
        ``confused_pairs``, ``error_slices`` and ``fix_first``, by name; see :mod:`bccp.evaluation.error_analysis`.
    gallery : list of list of Tile
        The costliest errors, each beside training images.
    """

    errors: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    gallery: list[list[galleries.Tile]]


def explain_errors(step: Step, days: Days, model: ImageClassifier, judged: Judged, manifest: pd.DataFrame) -> Explained:
    """Gather the errors, beside the training images that are nearest in the model's own features.

    Parameters
    ----------
    step : Step
        Of ``test``.
    days : Days
    model : ImageClassifier
    judged : Judged
    manifest : DataFrame
        Of ``clean_data``.

    Returns
    -------
    Explained
    """
    slices, of_image = error_analysis.error_slices(judged.predictions)
    columns = ["image", "day", "true_label", "predicted_label", "probability", "loss", "verified", "corruption", "size"]
    errors = scores.worst_errors(judged.predictions)[columns][:MOST_EXPLAINED]
    errors.insert(0, "rank", range(1, len(errors) + 1))
    training, known = training_images(step, days, manifest), manifest.set_index("image")
    inputs: Inputs = shared_inputs(step, days)

    def features(ids: list[str]) -> Float32:
        return classifier.embed(model, inputs(model, ids), batch_size=step.config.batch_size, device=step.device)

    ids = training["image"].tolist() if len(errors) else []
    blocks = (features(ids[first : first + _AT_ONCE]) for first in range(0, len(ids), _AT_ONCE))
    near = error_analysis.nearest_training(features(errors["image"].tolist()), blocks).position
    constant = (telling_hashes(known.loc[errors["image"]]) == "").to_numpy()
    errors["slice"] = of_image.reindex(errors.index)  # an empty table would take all of its rows
    errors["action"] = error_analysis.what_to_fix(errors, training, near, constant)
    errors["nearest"] = [";".join(training["image"].iloc[places]) for places in near]
    found = {"confused_pairs": error_analysis.confused_pairs(judged.predictions), "error_slices": slices}
    return Explained(
        errors, found | {"fix_first": error_analysis.fix_first(errors, training, near)}, _gallery(days, errors, training, near)
    )


def training_images(step: Step, days: Days, manifest: pd.DataFrame) -> pd.DataFrame:
    """The training images whose label is in hand: Monday's trusted ones, and the target day's with given labels.

    Parameters
    ----------
    step : Step
        Of ``test``; the truth is not looked at.
    days : Days
    manifest : DataFrame
        ``image, sha256, phash, mode``.

    Returns
    -------
    DataFrame
        ``image, given, believed, doubted, bad``, sorted by image; :data:`_MOST_COMPARED` of them, evenly spread, where there are more.
        ``believed`` is the likeliest label by ``cleansed_labels``, and ``doubted`` says that it is another than the given one, or that
        the given one lies above the cut-off.
    """
    rows = days.splits[days.splits["split"] == "train"].sort_index()
    given = rows["label"].where(rows["day"] != days.target_day, "")
    if step.has_input("given_labels"):
        told = label_files.read_given_labels(step.input("given_labels")).set_index("image")["label"]
        given = given.where(given != "", told.reindex(given.index).fillna(""))
    given = given[given != ""]
    given = given.iloc[np.unique(np.linspace(0, len(given) - 1, min(len(given), _MOST_COMPARED)).astype(np.int64))]
    # lists: without pyarrow two columns of one array would be one memory, and what is believed would overwrite what was given
    table = pd.DataFrame({"image": given.index, "given": given.tolist(), "believed": given.tolist(), "doubted": False})
    if step.has_input("cleansed_labels"):
        judged, targets = label_files.read_cleansed_labels(step.input("cleansed_labels"))
        judged = judged.set_index("image").assign(believed=np.array(days.classes, object)[targets.argmax(axis=1)])
        here = table["image"].isin(judged.index)
        judged = judged.loc[table.loc[here, "image"]]
        table.loc[here, "believed"] = judged["believed"].to_numpy(object)
        doubted = judged["above_cutoff"] | (judged["believed"] != judged["given_label"])
        table.loc[here, "doubted"] = doubted.to_numpy()
    known = manifest.set_index("image").loc[table["image"]]
    return table.assign(bad=error_analysis.bad_images(*(of.tolist() for of in (table["given"], known["sha256"], telling_hashes(known)))))


def _gallery(days: Days, errors: pd.DataFrame, training: pd.DataFrame, near: npt.NDArray[np.int64]) -> list[list[galleries.Tile]]:
    written, groups = galleries.writable(days.classes), []
    for error, places in zip(errors[:_MOST_DRAWN].to_dict("records"), near, strict=False):
        measured = "true" if error["verified"] == "true" else "given"
        lines = [
            f"{measured}: {written[error['true_label']]}",
            f"predicted: {written[error['predicted_label']]} ({error['probability']:.0%})",
            ", ".join(part for part in (error["day"], error["corruption"]) if part),
        ]
        tiles = [galleries.Tile(days.view([error["image"]])[0], lines)]
        for image, given, believed, doubted in training.iloc[places[:MOST_BESIDE], :4].itertuples(index=False):
            doubt = f"likely: {written[believed]}" if believed != given else "doubted"
            about = [f"given: {written[given]}", *([doubt] if doubted else []), str(days.splits.at[image, "day"])]
            tiles.append(galleries.Tile(days.view([image])[0], about))
        groups.append(tiles)
    return groups


def draw_evaluation(folder: Path, judged: Judged, classes: list[str], history: Path, note: str) -> list[Path]:
    """Draw ``confusion_matrix.png``, ``threshold_curves.png`` (ROC, precision and recall), ``reliability.png`` and ``training_curves.png``.

    Parameters
    ----------
    folder : Path
        Gets them.
    judged : Judged
    classes : list of str
        The K class names.
    history : Path
        The table of the model's training.
    note : str
        A remark under each headline, from :func:`bccp.evaluation.scores.remark`.

    Returns
    -------
    list of Path
    """
    predictions, probs, _ = judged
    matrix, thresholds, calibration, training = (
        folder / f"{name}.png" for name in ("confusion_matrix", "threshold_curves", "reliability", "training_curves")
    )
    counts, label_idx = scores.confusion(predictions, classes), scores.positions(predictions["true_label"], classes)
    title = f"{len(predictions)} test images, {np.diag(counts).sum() / len(predictions):.1%} right"
    plots.plot_confusion_matrix(counts, classes, matrix, title=title, note=note)
    plots.plot_threshold_curves(
        scores.threshold_curves(predictions, probs, classes), thresholds, title="Each class against the others", note=note
    )
    bins = metrics.reliability(label_idx, probs)
    off = np.abs(bins.n_images * (bins.accuracy - bins.confidence)).sum() / len(predictions)
    plots.plot_reliability(bins, calibration, title=f"Sure and right: calibration error {off:.3f}", note=note)
    rows = tables.read(history, dtypes=dict.fromkeys(plots.CURVES, float))
    plots.plot_training_curves(rows, training, title="Training", note=note)
    return [matrix, thresholds, calibration, training]


def draw_errors(folder: Path, explained: Explained, classes: list[str], note: str) -> Path:
    """Draw ``error_gallery.png``: the costliest errors, each beside the training images that look most like it to the model.

    Parameters
    ----------
    folder : Path
        Gets it.
    explained : Explained
        With at least one error.
    classes : list of str
        The K class names.
    note : str
        From :func:`bccp.evaluation.scores.remark`.

    Returns
    -------
    Path
    """
    n_errors = explained.tables["confused_pairs"]["errors"].sum()
    title = f"The {len(explained.gallery)} costliest of {n_errors} errors, each beside its nearest training images"
    written = galleries.writable(classes)
    title += "" if all(written[name] == name for name in classes) else galleries.UNWRITTEN
    galleries.gallery(explained.gallery, folder / "error_gallery.png", title=title + (f"; {note}" if note else ""))
    return folder / "error_gallery.png"
