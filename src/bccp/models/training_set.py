"""What the new model is trained and validated on: the cleansed target day and the replay.

N images, K classes. Nothing here trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.core.config_schema import Train
from bccp.core.errors import BCCPError, nearest
from bccp.data import label_files, tables
from bccp.data.array_types import Float32
from bccp.data.dataset import Days
from bccp.data.duplicates import duplicate_groups, joined_by_features
from bccp.data.flip_symmetry import mirror_symmetric
from bccp.models.fitting.training_options import TrainingOptions

HELD_OUT = 4
"""Of so many images one judges whether to mirror, where there are none with trusted labels."""


class LabelledImages(NamedTuple):
    """Images and what is believed of them.

    Attributes
    ----------
    ids : list of str, length N
        Sorted, each once.
    targets : ndarray of float32, shape (N, K)
        P(class); rows sum to 1.
    weights : ndarray of float32, shape (N,)
        Above 0.
    """

    ids: list[str]
    targets: Float32
    weights: Float32


def options(config: Train, *, mirror: bool, device: str) -> TrainingOptions:
    """The options of the section, but that what has been augmented already is not augmented again.

    Parameters
    ----------
    config : Train
    mirror : bool
        From :func:`mirrors`.
    device : str
    """
    changes = {"augmentation": "none"} if config.augment_to else {}
    return TrainingOptions.of(config, mirror=mirror and not config.augment_to, device=device, **changes)


def training_set(days: Days, cleansed: pd.DataFrame, posterior: npt.ArrayLike, replay_ids: Sequence[str]) -> LabelledImages:
    """Put the target day's cleansed training images and the replayed ones together.

    Parameters
    ----------
    days : Days
    cleansed : DataFrame
        Columns ``image`` and ``weight``, in [0, 1]; images of other splits are passed over.
    posterior : array-like, shape (len(cleansed), K)
        Training target of each of its rows.
    replay_ids : sequence of str
        Monday's training images with trusted labels; not looked at where Monday is the target day.

    Returns
    -------
    LabelledImages
        The target day's images with a weight above 0, and the replayed ones, with one-hot targets and the weight 1.

    Raises
    ------
    BCCPError
        If images are unknown or come twice, or none is left.
    """
    judged = _judged(days, cleansed, posterior, split="train")
    trusted_ids = list(replay_ids) if days.target_day == "tuesday" else []
    _check_ids(days, trusted_ids, "replay_sample")
    return _sorted(judged, _trusted(days, trusted_ids))


def validation_set(days: Days, cleansed: pd.DataFrame, posterior: npt.ArrayLike) -> LabelledImages:
    """Monday's validation images, with trusted labels or, where nothing is trusted, with what the cut-off believes.

    Parameters
    ----------
    days, cleansed, posterior
        As for :func:`training_set`.

    Returns
    -------
    LabelledImages
        Of Monday's validation split; may be none.
    """
    if is_validation_trusted(days):
        return _trusted(days, days.ids("monday", "val"))
    return _judged(days, cleansed, posterior, split="val")


def is_validation_trusted(days: Days) -> bool:
    """Return True where the labels of Monday's validation images are known to be true."""
    return bool((days.splits.loc[days.ids("monday", "val"), "label"] != "").all())


def copies(clean: Path, ids: Sequence[str], features: npt.NDArray[np.floating] | None = None) -> npt.NDArray[np.int64]:
    """Group images that are the same or nearly the same picture.

    Parameters
    ----------
    clean : Path
        Folder of ``clean_data``.
    ids : sequence of str, length N
        May name an image more than once.
    features : ndarray of float, shape (N, D), optional
        Of a frozen backbone, row by row; with them nearly equal hashes count, too, where features agree.

    Returns
    -------
    ndarray of int64, shape (N,)
        As :func:`bccp.data.duplicates.duplicate_groups` gives it, or :func:`bccp.data.duplicates.joined_by_features`.
    """
    manifest = tables.read(clean / "manifest.csv")[["image", "sha256", "phash"]].set_index("image").loc[list(ids)]
    groups, phash = duplicate_groups(manifest["sha256"].tolist(), manifest["phash"].tolist()), manifest["phash"].tolist()
    return groups if features is None else joined_by_features(groups, phash, features)


def may_mirror(setting: str, days: Days, ids: Sequence[str], labels: npt.NDArray[np.int64], val_ids: Sequence[str] | None = None) -> bool:
    """Whether training mirrors images.

    Parameters
    ----------
    setting : {"never", "always", "auto"}
        auto: where it does not matter to the classes (see :func:`bccp.data.flip_symmetry.mirror_symmetric`).
    days : Days
    ids : sequence of str, length N
        In any order.
    labels : ndarray of int64, shape (N,)
        Their class indices, trusted or not.
    val_ids : sequence of str, optional
        Other images, with trusted labels; without them every ``HELD_OUT``-th of ``ids``, in sorted order, takes their place.

    Returns
    -------
    bool
    """
    if setting != "auto":
        return setting == "always"
    order = np.argsort(np.array(ids, dtype=object), kind="stable")
    names, given = [ids[i] for i in order.tolist()], labels[order]
    if val_ids is not None:
        trusted = sorted(val_ids)
        return mirror_symmetric(days.view(names), given, days.view(trusted), days.labels(trusted))
    held_out = np.arange(len(names)) % HELD_OUT == 0
    view = days.view(names)
    return mirror_symmetric(view.take(np.flatnonzero(~held_out)), given[~held_out], view.take(np.flatnonzero(held_out)), given[held_out])


def mirrors(setting: str, days: Days, images: LabelledImages) -> bool:
    """Whether the new model's training mirrors images: as Monday's trusted images tell, or where nothing is trusted, its own.

    Parameters
    ----------
    setting : {"never", "always", "auto"}
    days : Days
    images : LabelledImages
        What it trains on.

    Returns
    -------
    bool
    """
    if days.target_day != "tuesday":
        return may_mirror(setting, days, images.ids, images.targets.argmax(1))
    return trusted_mirror(setting, days)


def trusted_mirror(setting: str, days: Days) -> bool:
    """:func:`may_mirror`, as Monday's trusted images tell."""
    ids = days.ids("monday", "train")
    return may_mirror(setting, days, ids, days.labels(ids), days.ids("monday", "val"))


def read_labels(days: Days, folder: Path) -> tuple[pd.DataFrame, Float32]:
    """Read ``cleansed_labels``, or ``true_labels`` in its place where labels pass through.

    Parameters
    ----------
    days : Days
    folder : Path

    Returns
    -------
    cleansed : DataFrame
        Columns ``image`` and ``weight``; true labels weigh 1.
    posterior : ndarray of float32, shape (len(cleansed), K)
        One-hot for true labels.
    """
    if (folder / "true_labels.csv").exists():
        true_labels = tables.read(folder / "true_labels.csv")
        return true_labels[["image"]].assign(weight=1.0), one_hot(days.encode(true_labels["label"].tolist()), len(days.classes))
    return label_files.read_cleansed_labels(folder)


def one_hot(labels: npt.NDArray[np.int64], n_classes: int) -> Float32:
    """Class indices as rows of zeros with a single 1, float32, shape (N, K)."""
    rows: Float32 = np.eye(n_classes, dtype=np.float32)[labels]
    return rows


def balanced_class_weights(targets: Float32, weights: Float32) -> Float32:
    """Factors that let each class count alike.

    Parameters
    ----------
    targets : ndarray of float32, shape (N, K)
    weights : ndarray of float32, shape (N,)

    Returns
    -------
    ndarray of float32, shape (K,)
        Inverse to the class's (soft, weighted) number of images, such that the mean over images is 1; 0 for a class without any.

    Examples
    --------
    >>> balanced_class_weights(np.eye(2, dtype=np.float32)[[0, 0, 0, 1]], np.ones(4, np.float32))
    array([0.6666667, 2.       ], dtype=float32)
    """
    counts = weights.astype(np.float64) @ targets.astype(np.float64)
    present = counts > 0
    inverse = np.divide(1, counts, where=present, out=np.zeros_like(counts))
    factors: Float32 = (inverse * counts.sum() / present.sum()).astype(np.float32)
    return factors


def subset(images: LabelledImages, classes: Sequence[str], wanted: Mapping[str, Any] | None, *, seed: int) -> LabelledImages:
    """Some of the images, for quick experiments.

    Parameters
    ----------
    images : LabelledImages
    classes : sequence of str, length K
        Names.
    wanted : mapping or None
        ``classes``, the names of those whose images are taken, each image counting for its likeliest class, and ``images_per_class``, how
        many of each, at random; without one of them, all.
    seed : int

    Returns
    -------
    LabelledImages
        With all K columns of targets.

    Raises
    ------
    BCCPError
        If a class is unknown, or no image is left.
    """
    if wanted is None:
        return images
    names = wanted.get("classes", classes)
    unknown = next((name for name in names if name not in classes), None)
    if unknown is not None:
        raise BCCPError(f"train.subset names the unknown class {unknown!r}: use {', '.join(classes)}{nearest(unknown, classes)}")
    likeliest, rng, taken = images.targets.argmax(1), np.random.default_rng(seed), []
    for k, name in enumerate(classes):
        own = np.flatnonzero(likeliest == k)
        taken.append(rng.permutation(own)[: wanted.get("images_per_class")] if name in names else own[:0])
    chosen = np.sort(np.concatenate(taken))
    if not len(chosen):
        raise BCCPError(f"train.subset leaves no image to train on: none is of the classes {', '.join(names)}")
    return LabelledImages([images.ids[i] for i in chosen], images.targets[chosen], images.weights[chosen])


def balance(setting: Train, images: LabelledImages) -> dict[str, Float32]:
    """The fields of :class:`bccp.models.fitting.training_options.TrainingData` that let each class count alike; none where the section asks
    for none. A head that is fitted at once has no epoch to draw images for: weights come to the same.
    """
    factors = balanced_class_weights(images.targets, images.weights)
    if setting.class_weights or (setting.balanced_sampling and setting.head == "logistic_regression"):
        return {"class_weights": factors}
    return {"shares": images.targets @ factors} if setting.balanced_sampling else {}


def _judged(days: Days, cleansed: pd.DataFrame, posterior: npt.ArrayLike, *, split: str) -> LabelledImages:
    soft, weights = np.asarray(posterior, np.float32), cleansed["weight"].to_numpy(np.float32)
    ids = cleansed["image"].tolist()
    if soft.shape != (len(ids), len(days.classes)):
        raise BCCPError(
            f"cleansed_labels has a posterior of shape {soft.shape}, not ({len(ids)}, {len(days.classes)}): give versions of "
            "cleansed_labels and segregated_data that belong together"
        )
    _check_ids(days, ids, "cleansed_labels")
    rows = days.splits.loc[ids]
    chosen = (rows["day"] == days.target_day).to_numpy() & (rows["split"] == split).to_numpy() & (weights > 0)
    return LabelledImages([image for image, take in zip(ids, chosen, strict=True) if take], soft[chosen], weights[chosen])


def _trusted(days: Days, ids: list[str]) -> LabelledImages:
    return LabelledImages(ids, one_hot(days.labels(ids), len(days.classes)), np.ones(len(ids), np.float32))


def _check_ids(days: Days, ids: Sequence[str], artifact: str) -> None:
    unknown = next((image for image in ids if image not in days.splits.index), None)
    if unknown is not None:
        raise BCCPError(f"{artifact} names the image {unknown!r}, which segregated_data lacks: give versions that belong together")


def _sorted(*parts: LabelledImages) -> LabelledImages:
    ids = np.array([image for part in parts for image in part.ids], dtype=object)
    order = np.argsort(ids, kind="stable")
    twice = next((str(a) for a, b in zip(ids[order], ids[order[1:]], strict=False) if a == b), None)
    if twice is not None:
        raise BCCPError(f"the image {twice!r} is in the training set twice: cleansed_labels and replay_sample may name an image once")
    if not len(ids):
        raise BCCPError("no image is left to train on: every given label was cut off, so choose a milder bayes_cutoff.action or cutoff")
    targets, weights = np.concatenate([part.targets for part in parts]), np.concatenate([part.weights for part in parts])
    return LabelledImages(ids[order].tolist(), targets[order], weights[order])
