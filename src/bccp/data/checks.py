"""What may be wrong with images before anything is learnt from them, and how far new images have drifted from known ones.

N images of S x S px. Each check gives one figure, of which more is worse, and may have a limit (``preprocessing.checks``). No trained
model takes part: what an image looks like is told by a few plain figures, brightness and the like, of the picture that a model would see,
made smaller where it is larger than 64 px. Nothing here holds an image set in memory.

Drift is the energy distance between two sets of such figures, and a permutation test says how often chance alone would give as much.

References
----------
G. J. Székely, M. L. Rizzo, "Energy statistics: A class of statistics based on distances", Journal of Statistical Planning and Inference
143, 2013.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.core.errors import BCCPError, few
from bccp.data import tables
from bccp.data.array_types import Images
from bccp.data.dataset import Days
from bccp.data.drift import SURE, Drift, drifted, once_each
from bccp.data.duplicates import duplicate_groups, is_nearly_constant
from bccp.data.image_statistics import BLURRED, BRIGHT, DARK, MOST_PIXELS, quality

MANIFEST_DTYPES = {"row": int, "width": int, "height": int}
"""The numbers of a manifest."""


_EXAMPLES = 20


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes
    ----------
    check : str
        Its name, a key of ``preprocessing.checks``.
    value : float
        More is worse; NaN where it cannot be told.
    said : str
        The same in words, without the limit.
    images : list of str
        The images that it is about, or the first of them.
    limit : float or None
    sure : bool
        False where the value may well be chance, which no limit stops.
    """

    check: str
    value: float
    said: str
    images: list[str] = dataclasses.field(default_factory=list)
    limit: float | None = None
    sure: bool = True

    @property
    def verdict(self) -> str:
        """``over`` the limit, ``within`` it, ``no limit``, or ``unknown``."""
        if np.isnan(self.value):
            return "unknown"
        if self.limit is None:
            return "no limit"
        return "over" if self.value > self.limit and self.sure else "within"


def of_images(manifest: pd.DataFrame, report: Mapping[str, Any], told: pd.DataFrame) -> list[Finding]:
    """Check images by themselves.

    Parameters
    ----------
    manifest : DataFrame
        ``image, row, label, sha256, phash, width, height, mode``; one row an image.
    report : mapping
        What :func:`bccp.data.preprocessing.describe` says of them, with ``image_size`` and ``resize``.
    told : DataFrame
        From :func:`quality`, in the order of the manifest.

    Returns
    -------
    list of Finding
        One for each of ``config.IMAGE_CHECKS``, in that order.
    """
    images, n = manifest["image"].to_numpy(object), len(manifest)

    def share(check: str, mask: npt.ArrayLike, said: str) -> Finding:
        culprits = images[np.asarray(mask, bool)].tolist()
        return Finding(check, len(culprits) / n, f"{len(culprits)} of {n} images {said}", culprits)

    odd = report["anomalies"]
    exact = manifest["sha256"].duplicated()
    near = (manifest["phash"] != "") & manifest["phash"].duplicated() & ~exact
    groups = duplicate_groups(manifest["sha256"].tolist(), manifest["phash"].tolist())
    labelled = manifest["label"].where(manifest["label"] != "")
    sides, padded = manifest[["width", "height"]], report.get("resize") == "pad"  # between borders the longer side gets the size
    small = (sides.max(axis=1) if padded else sides.min(axis=1)) < report["image_size"]
    flat = is_nearly_constant(manifest, lambda rows: told["contrast"].to_numpy()[manifest.index.get_indexer(rows.index)])
    return [
        _imbalance(report["classes"]),
        share("dark", told["dark"] >= MOST_PIXELS, f"are dark ({MOST_PIXELS:.0%} of their pixels below {DARK} of 255)"),
        share("bright", told["bright"] >= MOST_PIXELS, f"are bright ({MOST_PIXELS:.0%} of their pixels above {BRIGHT} of 255)"),
        share("flat", flat, "are nearly of one colour, or plain stripes"),
        share("blurred", (told["sharpness"].to_numpy() < BLURRED) & ~flat, "are blurred, at the size that a model sees"),
        _odd("tiny", odd["tiny"], n, "have a side of only a few px"),
        _odd("long", odd["extreme_aspect_ratio"], n, "are much longer than wide"),
        share("enlarged", small, f"have {'no side of' if padded else 'a side below'} {report['image_size']} px, and are enlarged"),
        share("copies", exact, "are equal to another"),
        share("near_copies", near, "are nearly equal to another"),
        share("contradictions", labelled.groupby(groups).transform("nunique") > 1, "have a copy with another label"),
    ]


def _imbalance(counts: Mapping[str, int]) -> Finding:
    largest, smallest = max(counts, key=counts.__getitem__, default=""), min(counts, key=counts.__getitem__, default="")
    if not counts:
        return Finding("imbalance", float("nan"), "no image has a label")
    said = f"the class {largest!r} has {counts[largest]} images, {smallest!r} {counts[smallest]}"
    return Finding("imbalance", counts[largest] / counts[smallest], said)


def _odd(check: str, found: Mapping[str, Any], n: int, said: str) -> Finding:
    return Finding(check, found["images"] / n, f"{found['images']} of {n} images {said}", list(found["examples"]))


def of_days(known: pd.DataFrame, new: pd.DataFrame, drifted: Drift | None, *, names: tuple[str, str]) -> list[Finding]:
    """Check new images against known ones.

    Parameters
    ----------
    known, new : DataFrame
        ``image, label, sha256, phash, width, height, mode, format``; a label may be empty.
    drifted : Drift or None
        None where there are too few images to tell.
    names : two str
        What both are called, such as ``Monday`` and ``Tuesday``.

    Returns
    -------
    list of Finding
        ``known``, ``new_formats``, ``new_sizes``, ``class_shift``, ``drift``.
    """
    old, images, n = names[0], new["image"].to_numpy(object), len(new)

    def share(check: str, mask: npt.ArrayLike, said: str) -> Finding:
        culprits = images[np.asarray(mask, bool)].tolist()
        return Finding(check, len(culprits) / n, f"{len(culprits)} of {n} images of {names[1]} {said}", culprits)

    pictures = set(known["sha256"]) | (set(known["phash"]) - {""})
    kinds = set(zip(known["format"], known["mode"], strict=True))
    strange = [kind not in kinds for kind in zip(new["format"], new["mode"], strict=True)]
    outside = pd.Series(False, index=new.index)
    for side in ("width", "height"):
        outside |= ~new[side].between(known[side].min(), known[side].max())
    return [
        share("known", new["sha256"].isin(pictures) | new["phash"].isin(pictures), f"are copies of images of {old}"),
        share("new_formats", strange, f"have a format or mode that no image of {old} has"),
        share("new_sizes", outside, f"are smaller or larger than all images of {old}"),
        _class_shift(known["label"], new["label"], names),
        _drifted(drifted, names),
    ]


def _class_shift(known: pd.Series[str], new: pd.Series[str], names: tuple[str, str]) -> Finding:
    known, new = known[known != ""], new[new != ""]
    if not len(known) or not len(new):
        return Finding("class_shift", float("nan"), f"{names[int(len(known) > 0)]} has no labels to compare")
    shares = pd.DataFrame({"known": known.value_counts(normalize=True), "new": new.value_counts(normalize=True)}).fillna(0).sort_index()
    gap = shares["new"] - shares["known"]
    most = str(gap.abs().idxmax())
    said = (
        f"the classes' shares differ most in {most!r}: {shares['known'][most]:.1%} of {names[0]}, {shares['new'][most]:.1%} of {names[1]}"
    )
    old, fresh, gone = (shares.index[mask].tolist() for mask in (shares["known"] > 0, shares["known"] == 0, shares["new"] == 0))
    n_new = len(shares) - len(gone)
    strangers = f"{len(fresh)} of {n_new} classes of {names[1]} are not among {names[0]}'s {len(old)}: {few(fresh)}" if fresh else ""
    missing = f"{names[1]} has no image of {len(gone)} of {names[0]}'s {len(old)} classes: {few(gone)}" if gone else ""
    return Finding("class_shift", float(gap.abs().sum() / 2), "; ".join(filter(None, [strangers, missing, said])))


def _drifted(found: Drift | None, names: tuple[str, str]) -> Finding:
    if found is None:
        return Finding("drift", float("nan"), "too few images to tell")
    sure = found.p_value <= SURE
    how = f" ({found.words})" if found.words and sure else ""
    said = f"{names[1]} looks {'different from' if sure else 'like'} {names[0]}{how}; p = {found.p_value:.3f}"
    return Finding("drift", found.distance, said, sure=sure)


def leakage(manifest: pd.DataFrame, splits: pd.DataFrame) -> Finding:
    """Check that no image that a model is tested or validated on has a copy among those that it is trained on.

    Parameters
    ----------
    manifest : DataFrame
        ``image, sha256, phash``.
    splits : DataFrame
        ``image, split``: ``train``, ``val`` or ``test``.
    """
    of_split = manifest.set_index("image").loc[splits["image"]]
    trained = (splits["split"] == "train").to_numpy()
    copied = of_split["sha256"].isin(set(of_split["sha256"][trained])) | of_split["phash"].isin(set(of_split["phash"][trained]) - {""})
    leaked = splits["image"].to_numpy(object)[copied.to_numpy() & ~trained].tolist()
    n_held_out = int((~trained).sum())
    said = f"{len(leaked)} of {n_held_out} held-out images have a copy among the training images"
    return Finding("leakage", len(leaked) / max(n_held_out, 1), said, leaked)


class ImageChecks(NamedTuple):
    """Findings on images by themselves, and the quality measures behind them.

    Attributes
    ----------
    findings : list of Finding
    quality : DataFrame
        From :func:`quality`, one row an image.
    """

    findings: list[Finding]
    quality: pd.DataFrame


def check_images(clean: Path, limits: Any) -> ImageChecks:
    """Check images by themselves.

    Parameters
    ----------
    clean : Path
        A folder of ``clean_data``.
    limits : config.Checks

    Returns
    -------
    ImageChecks
    """
    manifest = tables.read(clean / "manifest.csv", dtypes=MANIFEST_DTYPES)
    report = json.loads((clean / "report.json").read_text(encoding="utf-8"))
    measured = quality(np.load(clean / "images.npy", mmap_mode="r"))
    return ImageChecks(limited(of_images(manifest, report, measured), limits), measured)


class DayChecks(NamedTuple):
    """Findings on Tuesday against Monday and on what is held out, and the drift behind them.

    Attributes
    ----------
    findings : list of Finding
        Where there is no Tuesday, only on what is held out.
    drift : Drift or None
        None where a day has too few images.
    views : list of (str, Images)
        Name and images of each day, copies left out; empty where there is no Tuesday.
    """

    findings: list[Finding]
    drift: Drift | None
    views: list[tuple[str, Images]]


def check_days(days: Days, manifest: pd.DataFrame, limits: Any, *, with_labels: bool, seed: int) -> DayChecks:
    """Check Tuesday against Monday, and what is held out against what is trained on.

    Parameters
    ----------
    days : Days
    manifest : DataFrame
        Of the ``clean_data`` that they index, with :data:`MANIFEST_DTYPES`.
    limits : config.Checks
    with_labels : bool
        The manifest's labels are true: looks are compared class by class.
    seed : int
        Of the test for drift.

    Returns
    -------
    DayChecks
    """
    table = manifest.merge(days.splits.reset_index()[["image", "day", "split"]].rename(columns={"day": "on"}), on="image")
    monday, tuesday = (table[table["on"] == day] for day in ("monday", "tuesday"))
    findings = [leakage(manifest, table[["image", "split"]])]
    found, views = None, list[tuple[str, Images]]()
    if len(tuesday):
        names = ("Monday", "Tuesday")
        once = [once_each(of) for of in (monday, tuesday)]
        views = [(name, days.view(of["image"].tolist())) for name, of in zip(names, once, strict=True)]
        strata = (once[0]["label"].tolist(), once[1]["label"].tolist()) if with_labels else None
        found = drifted(views[0][1], views[1][1], rng=np.random.default_rng(seed), strata=strata)
        findings = [*of_days(monday, tuesday, found, names=names), *findings]
    return DayChecks(limited(findings, limits), found, views)


def limited(findings: Sequence[Finding], limits: Any) -> list[Finding]:
    """Findings with their limits, which are attributes of ``limits`` (a ``config.Checks``)."""
    return [dataclasses.replace(found, limit=getattr(limits, found.check)) for found in findings]


def gate(findings: Sequence[Finding], page: str) -> None:
    """Refuse data that is over a limit.

    Parameters
    ----------
    findings : sequence of Finding
    page : str
        Where they can be looked at.

    Raises
    ------
    BCCPError
        Names the first check that is over its limit, its value and the limit, and the other checks.
    """
    over = [found for found in findings if found.verdict == "over"]
    if not over:
        return
    first, *others = over
    example = f", such as {first.images[0]!r}" if first.images else ""
    more = f"; over their limits too: {', '.join(found.check for found in others)}" if others else ""
    raise BCCPError(
        f"the data check {first.check} has found {first.value:.4g}, more than preprocessing.checks.{first.check}={first.limit:g}: "
        f"{first.said}{example}{more}; see {page}, then mend the data or raise the limit"
    )


def findings_sentence(findings: Sequence[Finding], page: str) -> str:
    """What the checks have found, in one line."""
    seen = [one for one in findings if one.value > 0 and one.sure and one.check != "imbalance"]
    found = [f"{one.check} {one.value:.3f}" if one.check == "drift" else f"{one.check} {one.value:.1%}" for one in seen]
    return f"{len(findings)} data checks: {', '.join(found) or 'nothing found'}; see {page}"


def figures(findings: Sequence[Finding]) -> dict[str, float]:
    """The values of the checks, as metrics ``check_<name>``."""
    return {f"check_{found.check}": found.value for found in findings if not np.isnan(found.value)}


def findings_table(findings: Sequence[Finding]) -> pd.DataFrame:
    """The findings as a table: ``check, value, limit, verdict, said``."""
    rows = [(f.check, f.value, "" if f.limit is None else f.limit, f.verdict, f.said) for f in findings]
    return pd.DataFrame(rows, columns=["check", "value", "limit", "verdict", "said"])


def flagged(findings: Sequence[Finding]) -> pd.DataFrame:
    """The images that checks have named: ``image, check``."""
    rows = [(image, found.check) for found in findings for image in found.images]
    return pd.DataFrame(rows, columns=["image", "check"])
