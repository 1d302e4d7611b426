"""All that a folder hides beside wrong labels: images of no class, cues that give a class away, copies, bad pictures.

``folder_checks.json`` holds a verdict in words for each check, ``folder_checks.csv`` the images (``check, group, rank, image, label,
value``): of each check the worst first; images of one group are copies of each other, or show one cue. ``cues`` are of the class that a
cue gives away, ``cues_others`` of the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.data import tables
from bccp.data.array_types import Images, Index
from bccp.data.duplicates import is_nearly_constant
from bccp.data.image_statistics import BLURRED, BRIGHT, DARK, MOST_PIXELS
from bccp.data.outliers import EXPECTED, Features, Outliers, measure_outliers
from bccp.data.preprocessing import EXTREME_ASPECT, TINY_PX
from bccp.data.spurious_cues import CUES, LEAST_PICTURES, Cue, find_cues, measure_cues

FOLDER_CHECKS, IMAGES_CHECKED = "folder_checks.json", "folder_checks.csv"
"""Files that :meth:`FolderChecks.write` makes."""

FARTHEST = "farthest"
"""Name in the table of images that are the farthest from all others without standing out."""

SHOWN = 6
"""Such images, and images of a class and of the others by which a cue is shown."""

_COLUMNS = ("check", "group", "rank", "image", "label", "value")


@dataclass(frozen=True)
class FolderCheck:
    """Verdict of one check.

    Attributes
    ----------
    check : str
        ``outliers, cues, contradictions, copies, near_copies, dark, bright, flat, blurred, tiny`` or ``long``.
    found : int
        Images, or groups of copies, or cues.
    verdict : str
        The same in words: a sentence without its full stop.
    cues : tuple of str
        In words, one a cue, for the check of cues.
    """

    check: str
    found: int
    verdict: str
    cues: tuple[str, ...] = ()


@dataclass(frozen=True)
class FolderChecks:
    """What a folder hides.

    Attributes
    ----------
    n_images, n_pictures : int
        All images, and the different ones among them.
    checks : tuple of FolderCheck
    images : DataFrame
        ``check, group, rank, image, label, value``: of outliers (and of the farthest images where none stands out) how many are expected as
        far by chance; of a cue its value; of a dark, bright or blurred image what it was measured by.
    """

    n_images: int
    n_pictures: int
    checks: tuple[FolderCheck, ...]
    images: pd.DataFrame

    def write(self, folder: Path) -> None:
        """Write verdicts and table."""
        checks = [{"check": one.check, "found": one.found, "verdict": one.verdict, "cues": list(one.cues)} for one in self.checks]
        about = {"n_images": self.n_images, "n_pictures": self.n_pictures, "checks": checks}
        (folder / FOLDER_CHECKS).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        tables.write(self.images, folder / IMAGES_CHECKED)

    @classmethod
    def read(cls, folder: Path) -> FolderChecks:
        """Read what :meth:`write` has left."""
        about = json.loads((folder / FOLDER_CHECKS).read_text(encoding="utf-8"))
        checks = tuple(FolderCheck(one["check"], one["found"], one["verdict"], tuple(one["cues"])) for one in about["checks"])
        images = tables.read(folder / IMAGES_CHECKED, dtypes={"group": int, "rank": int})
        return cls(about["n_images"], about["n_pictures"], checks, images.sort_values(["check", "group", "rank"], ignore_index=True))


def find_folder_checks(
    manifest: pd.DataFrame,
    images: Images,
    given: Index,
    groups: Index,
    classes: Sequence[str],
    *,
    resize: str,
    features: Features | None,
    file_bytes: Mapping[str, int] | None = None,
) -> FolderChecks:
    """Look for everything beside wrong labels.

    Parameters
    ----------
    manifest : DataFrame
        ``image, row, sha256, phash, width, height, mode, format`` of N images, sorted by image.
    images : ndarray of uint8, shape (any, S, S, 3), or a view of such
        Pictures by ``row``; read in chunks.
    given : ndarray of int64, shape (N,)
        The given labels.
    groups : ndarray of int64, shape (N,)
        Images of one group are copies.
    classes : sequence of str, length K
    resize : str
        How pictures were brought to S px.
    features : array-like of float, shape (N, D), or None
        By which images of no class are found; without, they are not looked for.
    file_bytes : mapping of str to int, optional
        Sizes of the files.

    Returns
    -------
    FolderChecks
    """
    manifest = manifest.reset_index(drop=True)
    names, labels = manifest["image"].to_numpy(object), np.asarray(classes, object)[given]
    measured = measure_cues(images, manifest, resize=resize, file_bytes=file_bytes)
    far = None if features is None else measure_outliers(features, given, groups)
    cues = find_cues(measured, given, groups, n_classes=len(classes))
    rows: list[tuple[Any, ...]] = []

    def listed(check: str, places: Index, values: npt.ArrayLike = "", group: int = 0) -> int:
        told = np.broadcast_to(np.asarray(values, object), len(places)).tolist()
        rows.extend(
            (check, group, n, names[i], labels[i], value) for n, (i, value) in enumerate(zip(places.tolist(), told, strict=True), 1)
        )
        return len(places)

    checks = [
        _outliers(far, groups, listed),
        _cues(cues, measured, manifest, given, groups, classes, listed),
        *_copies(manifest, given, groups, listed),
    ]
    checks += _pictures(manifest, measured, listed)
    return FolderChecks(len(names), len(np.unique(groups)), tuple(checks), pd.DataFrame(rows, columns=list(_COLUMNS)))


def _outliers(far: Outliers | None, groups: Index, listed: Any) -> FolderCheck:
    if far is None:
        return FolderCheck("outliers", 0, "images of no class were not looked for, as there are no features")
    if not far.n_judged:
        return FolderCheck("outliers", 0, "images of no class were not looked for: there are too few different pictures")
    order = np.lexsort((-np.nan_to_num(far.distance), np.nan_to_num(far.expected, nan=np.inf)))
    n_found = int(far.found.sum())
    once = order[np.sort(np.unique(groups[order], return_index=True)[1])]
    shown = order[:n_found] if n_found else once[: min(SHOWN, far.n_judged)]
    listed("outliers" if n_found else FARTHEST, shown, [float(f"{value:.3g}") for value in far.expected[shown]])
    left = len(far.expected) - far.n_judged
    unjudged = f"; {_many(left, 'image')} of the smallest classes were not judged" if left else ""
    if not n_found:
        return FolderCheck("outliers", 0, f"no image stands out as of no class{unjudged}")
    said = f"{_many(n_found, 'image')} {'stands' if n_found == 1 else 'stand'} out as of no class"
    why = f"chance would bring at most {EXPECTED:g} images of such a folder as far from all others"
    return FolderCheck("outliers", n_found, f"{said}: {why}{unjudged}")


def _cues(
    cues: Sequence[Cue], measured: pd.DataFrame, manifest: pd.DataFrame, given: Index, groups: Index, classes: Sequence[str], listed: Any
) -> FolderCheck:
    _, first = np.unique(groups, return_index=True)
    if (np.bincount(given[first], minlength=len(classes)) >= LEAST_PICTURES).sum() == 0:
        return FolderCheck("cues", 0, f"no class has {LEAST_PICTURES} different pictures, too few to tell whether a cue gives it away")
    for number, cue in enumerate(cues, 1):
        inside = given[first] == cue.label
        values = measured[cue.cue].to_numpy(object)[first]
        for check, side in (("cues", inside), ("cues_others", ~inside)):
            order = _typical(values[side], cue, is_own=check == "cues")
            places = first[side][order]
            listed(check, places, [_value(cue, measured, manifest, place) for place in places.tolist()], group=number)
    looked = [name for name in CUES if measured[name].notna().any()]
    if not cues:
        return FolderCheck("cues", 0, f"no class is given away by one of these alone: {', '.join(looked)}")
    told = tuple(cue_sentence(cue, classes) for cue in cues)
    return FolderCheck("cues", len(cues), told[0] if len(told) == 1 else f"{len(told)} cues give classes away", told)


def cue_sentence(cue: Cue, classes: Sequence[str]) -> str:
    """Put a cue into words.

    Examples
    --------
    >>> cue_sentence(Cue("format", 0, 1.0, 0.005, "PNG", 34, 0, 34, 90), ["cat", "dog"])
    "the format alone gives 'cat' away: all 34 different pictures of it are PNG, and no other (it tells 100% of pairs apart)"
    """
    inside = f"all {cue.n_inside}" if cue.inside == cue.n_inside else f"{cue.inside} of {cue.n_inside}"
    outside = "no other" if not cue.outside else f"{cue.outside} of {cue.n_outside} others"
    less, _ = CUES[cue.cue]
    kind = cue.words if less or cue.cue == "format" else f"of mode {cue.words}" if cue.cue == "mode" else f"with {_a(cue.words)}"
    counted = f"{inside} different pictures of it are {kind}, and {outside}"
    return f"the {cue.cue} alone gives {classes[cue.label]!r} away: {counted} (it tells {cue.auc:.0%} of pairs apart)"


def _a(words: str) -> str:
    return words if words.startswith(("bars", "no ")) else f"a {words}"


def _typical(values: npt.NDArray[Any], cue: Cue, *, is_own: bool) -> Index:
    """Positions of some pictures that show a cue: of the class those that have it most, of the others those that have it least."""
    less, more = CUES[cue.cue]
    if not less:
        has = values == cue.words
        return np.argsort(has != is_own, kind="stable")[:SHOWN]
    numbers = np.asarray(values, np.float64)
    sign = 1 if (cue.words == more) == is_own else -1
    return np.argsort(-sign * np.nan_to_num(numbers), kind="stable")[:SHOWN]


def _value(cue: Cue, measured: pd.DataFrame, manifest: pd.DataFrame, place: int) -> str:
    """A picture's value of a cue in words: sides for sizes and shapes."""
    if cue.cue in ("size", "shape"):
        return f"{manifest['width'].iat[place]} x {manifest['height'].iat[place]} px"
    value: Any = measured[cue.cue].iat[place]
    return value if isinstance(value, str) else f"{float(value):.4g}"


def _copies(manifest: pd.DataFrame, given: Index, groups: Index, listed: Any) -> list[FolderCheck]:
    """Groups of copies: with labels that differ, else of equal pictures, else of nearly equal ones; each group is in one of them."""
    digests = np.unique(manifest["sha256"].astype(str), return_inverse=True)[1]
    by_group = pd.DataFrame({"group": groups, "given": given, "digest": digests}).groupby("group")
    table = by_group.agg(size=("given", "size"), labels=("given", "nunique"), pictures=("digest", "nunique"))
    table = table[table["size"] > 1]
    kind = np.select([table["labels"] > 1, table["pictures"] == 1], ["contradictions", "copies"], "near_copies")
    order = np.argsort(groups, kind="stable")
    starts = dict(zip(*(part.tolist() for part in np.unique(groups[order], return_index=True)), strict=True))
    words = {
        "contradictions": ("are copies of each other with labels that differ", "no image has a copy with another label"),
        "copies": ("are equal pictures with one label", "no image is equal to another"),
        "near_copies": ("are nearly equal pictures with one label", "no image is nearly equal to another"),
    }
    found = []
    for check, (said, none) in words.items():
        chosen = table[kind == check].sort_values("size", ascending=False, kind="stable")
        n_images = 0
        for number, (group, size) in enumerate(zip(chosen.index.tolist(), chosen["size"].tolist(), strict=True), 1):
            n_images += listed(check, order[starts[group] : starts[group] + size], group=number)
        verdict = f"{_many(n_images, 'image')} in {_many(len(chosen), 'group')} {said}" if n_images else none
        found.append(FolderCheck(check, len(chosen), verdict))
    return found


def _pictures(manifest: pd.DataFrame, measured: pd.DataFrame, listed: Any) -> list[FolderCheck]:
    """Dark, bright, flat, blurred, tiny and long pictures; a flat one is not blurred."""
    contrast = measured["contrast"].to_numpy()
    flat = is_nearly_constant(manifest, lambda rows: contrast[rows.index]).to_numpy(bool)
    shorter, longer = manifest[["width", "height"]].min(axis=1).to_numpy(), manifest[["width", "height"]].max(axis=1).to_numpy()
    sharpness = measured["sharpness"].to_numpy()
    looked = {
        "dark": (measured["dark"] >= MOST_PIXELS, -measured["dark"], f"dark ({MOST_PIXELS:.0%} of the pixels below {DARK} of 255)"),
        "bright": (
            measured["bright"] >= MOST_PIXELS,
            -measured["bright"],
            f"bright ({MOST_PIXELS:.0%} of the pixels above {BRIGHT} of 255)",
        ),
        "flat": (flat, contrast, "nearly of one colour, or plain stripes"),
        "blurred": ((sharpness < BLURRED) & ~flat, sharpness, "blurred, at the size that a model sees"),
        "tiny": (shorter < TINY_PX, shorter, f"tiny (a side below {TINY_PX} px)"),
        "long": (
            longer >= EXTREME_ASPECT * shorter,
            -longer / shorter,
            f"at least {EXTREME_ASPECT:g} times as long as wide, or as wide as long",
        ),
    }
    found = []
    for check, (mask, badness, words) in looked.items():
        places, value = np.flatnonzero(np.asarray(mask, bool)), np.asarray(badness, np.float64)
        places = places[np.argsort(value[places], kind="stable")]
        n_found = listed(check, places, [float(f"{abs(value[i]):.4g}") for i in places.tolist()])
        verdict = f"{_many(n_found, 'image')} {'is' if n_found == 1 else 'are'} {words}" if n_found else f"no image is {words}"
        found.append(FolderCheck(check, n_found, verdict))
    return found


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}" + "s" * (n != 1)
