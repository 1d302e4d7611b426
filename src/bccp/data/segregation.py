"""Cuts the images into days and splits, stratified and seeded, with duplicates kept on one side.

N images, K classes. Monday has the splits train, val and test, Tuesday train and test. Images are drawn in groups of
duplicates; a group with images of several classes counts as the most frequent one. Nothing depends on the order of the
images: a draw orders groups by a hash of the seed, the draw's name and the group's smallest id.

Tuesday is cut from one set here, or the data brings its days (folders, or a feedback file over plain class folders). A
group that the data puts on both days stays there, but in one split: what Monday tests is tested on Tuesday, what Monday
trains on is trained on, and Tuesday's copies of Monday's validation images are left out. So that these are few, groups on
both days are the last to be drawn for validation.

A split that the data gives (folders, or a table) is kept: a part that it lacks is cut from its training images, and of each group of
duplicates that lies across it all images go to training. Tuesday has no validation of its own: what is given as that is trained on.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.core.automatic import untrusted_rest
from bccp.core.errors import BCCPError, few, nearest
from bccp.data.array_types import Index, Mask
from bccp.data.corruption import draw_kinds
from bccp.data.layout import SPLITS, KnownNames, split_name

LEAST = {"monday": 3, "tuesday": 2}
"""Different images that a class needs on a day: one for each of its splits."""

_NEEDED = {
    "both": "5 different images (train, val and test on Monday, train and test on Tuesday): add images, remove the class, or "
    "set main.target_day=monday, for which 3 will do",
    "alone": "3 different images (train, val and test): add images or remove the class",
    "monday": "3 different images on Monday (train, val and test): add images or remove the class",
    "tuesday": "2 different images on Tuesday (train and test) that are no copies of Monday's validation images, or none at "
    "all: add images or leave the class out of Tuesday",
}

_N_EXAMPLES = 10


@dataclass(frozen=True)
class Shares:
    """How much goes where.

    Attributes
    ----------
    tuesday_fraction : float
        Share of the images that become Tuesday, where it is cut here; in (0, 1).
    test_size : float
        Share of each day held out for the test, in (0, 1).
    val_size : float
        Share of Monday's remainder held out for validation, in (0, 1).
    monday_images, tuesday_images : int or None
        Caps on a day's images before its split.
    """

    tuesday_fraction: float
    test_size: float
    val_size: float
    monday_images: int | None = None
    tuesday_images: int | None = None


@dataclass(frozen=True)
class Segregated:
    """Days and splits.

    Attributes
    ----------
    splits : DataFrame
        ``image, row, day, split, label``, sorted by image; ``label`` is empty where it is not to be trusted: for the target
        day's training images, and for all of its images whose truth is unknown.
    true_labels : DataFrame
        ``image, label`` of the target day's images whose truth is known.
    classes : list of str
        The K class names, sorted.
    truth_known : bool
        Whether all of the target day's images are in ``true_labels``.
    cut_here : bool
        Whether Tuesday was cut from one set here.
    left_out : dict of str to int
        Images in no split, by reason: ``no_label``, ``monday_cap``, ``tuesday_cap``, ``copies_of_val``; with a split file ``in_no_split``.
    n_duplicates : int
        Images that have a duplicate.
    given : dict of str to int
        Images that a given split has in each of its parts, before copies across it were moved; empty: all was cut here.
    moved_to_train : int
        Images that were moved out of a given validation or test, as copies of them lie in another part.
    """

    splits: pd.DataFrame
    true_labels: pd.DataFrame
    classes: list[str]
    truth_known: bool
    cut_here: bool
    left_out: dict[str, int]
    n_duplicates: int
    given: dict[str, int]
    moved_to_train: int


class GivenSplit(NamedTuple):
    """A split that the data brings.

    Attributes
    ----------
    part : dict of str to str
        For each image one of :data:`bccp.data.layout.SPLITS`; an empty string where its day has no given split and is to be cut; None where
        it is in no part.
    unknown : list of str
        Rows of the split file that name no image.
    """

    part: Mapping[str, str | None]
    unknown: Sequence[str] = ()


def find_given_split(manifest: pd.DataFrame, file: Path | None) -> GivenSplit | None:
    """Find the split that the data brings.

    Parameters
    ----------
    manifest : DataFrame
        ``image, day``, and ``given_split`` where folders give one.
    file : Path or None
        A split file, a CSV ``image,split``, which wins over the folders. An image that it does not name keeps the part that its folder
        gives; else it is trained on where no row says ``train``, and is in no part where one does.

    Returns
    -------
    GivenSplit or None
        None where there is none. A day of which no image has a part is to be cut.

    Raises
    ------
    BCCPError
        If the file cannot be read, names no image or one twice, or a word in it stands for no part.
    """
    images, days = manifest["image"].tolist(), manifest["day"].tolist()
    folders = dict(zip(images, manifest["given_split"], strict=True)) if "given_split" in manifest else {}
    said, unknown = _parts_by_file(file, images) if file else ({}, [])
    if not said and not folders:
        return None
    by_day = set(zip((said.get(image) or folders.get(image, "") for image in images), days, strict=True))
    given_on = {day for part, day in by_day if part}
    rest = None if "train" in said.values() else "train"
    part = {
        image: (said.get(image) or folders.get(image) or ("train" if folders and not said else rest)) if day in given_on else ""
        for image, day in zip(images, days, strict=True)
    }
    return GivenSplit(part, unknown)


def read_split_file(path: Path) -> list[tuple[str, str]]:
    """Read the rows of a split file: the image as it stands there, and one of :data:`bccp.data.layout.SPLITS`.

    Raises
    ------
    BCCPError
        If it cannot be read, lacks a column, or says a word that stands for no part.
    """
    accepted = "give a CSV file in UTF-8 with the columns image,split, the latter one of train, val and test"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, strict=True) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text in UTF-8" if isinstance(error, UnicodeError) else str(error)
        raise BCCPError(f"the split file {path} cannot be read ({reason}): {accepted}") from error
    header = [name.strip().casefold() for name in rows[0]] if rows else []
    if header.count("image") != 1 or header.count("split") != 1:
        raise BCCPError(f"the split file {path} {'has no' if rows else 'is empty: it has no'} columns image and split: {accepted}")
    columns = header.index("image"), header.index("split")
    said = []
    for row in rows[1:]:
        image, word = (row[column] if column < len(row) else "" for column in columns)
        part = split_name(word)
        if not part:
            raise BCCPError(f"the split file {path} says {word!r} for {image!r}, which is no split{nearest(word, SPLITS)}: {accepted}")
        said.append((image, part))
    return said


def _parts_by_file(path: Path, images: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """The part of each image that a split file names, and its rows' names that are no image's."""
    rows = read_split_file(path)
    known, said, unknown = KnownNames(images), dict[str, str](), list[str]()
    for name, part in rows:
        image = known.find(name)
        if image is None:
            unknown.append(name)
        elif said.setdefault(image, part) != part:
            raise BCCPError(f"the split file {path} says both {said[image]!r} and {part!r} for {image!r}: leave one of the rows out")
    if not said:
        alike = known.describe_similar(unknown[0]) if unknown else ""
        like = f": an image is called {unknown[0]!r} there{alike} and {min(images)!r} in the data" if unknown and images else ""
        raise BCCPError(f"none of the {len(rows)} rows of the split file {path} names an image{like}; give paths below the data's root")
    return said, unknown


def class_names(manifest: pd.DataFrame, *, target_day: str) -> list[str]:
    """Name the classes that can be learnt: the folders, but for those that only the data's own Tuesday has.

    Parameters
    ----------
    manifest : DataFrame
        With the columns ``label`` and ``day``.
    target_day : str
        With ``monday`` all images are Monday.

    Returns
    -------
    list of str
        Sorted.
    """
    of_monday = manifest if target_day == "monday" else manifest[manifest["day"] != "tuesday"]
    return sorted(set(of_monday["label"]) - {""})


def segregate(
    manifest: pd.DataFrame,
    groups: npt.ArrayLike,
    shares: Shares,
    *,
    target_day: str,
    seed: int,
    folder_is_truth: bool = True,
    named: Collection[str] | None = None,
    given: Mapping[str, str] | None = None,
    split: GivenSplit | None = None,
) -> Segregated:
    """Put each image on a day and in a split.

    Parameters
    ----------
    manifest : DataFrame
        ``image, row, label, day`` of the N images, in any order; ``label`` is a folder's name or empty, ``day`` is ``monday``
        or ``tuesday`` for all images or empty for all.
    groups : array-like of int, shape (N,)
        Images with equal numbers are duplicates.
    shares : Shares
    target_day : str
        The day whose labels are new. With ``monday`` all images are Monday.
    seed : int
        From 0 up.
    folder_is_truth : bool, default True
        Otherwise the target day's folders are given labels that may be wrong, and its truth is unknown; where users gave labels,
        those alone count.
    named : collection of str, optional
        Images that a feedback file names: where the data brings no days, these are Tuesday.
    given : mapping of str to str, optional
        Labels that users gave: they stratify images without a folder, whose truth is unknown.
    split : GivenSplit, optional
        The split to keep; by default all is cut here.

    Returns
    -------
    Segregated
        A class's share of a split is exact to less than one image or one group of duplicates, but for classes so small
        that each split gets only the one group that it needs.

    Raises
    ------
    BCCPError
        If a day has no images, a class is too small or on Tuesday alone, a cap is too low, or Tuesday would be cut from class folders
        whose names are not the truth, so that the rest would be trusted.
    """
    table = manifest[["image", "row", "label", "day"]].assign(group=np.asarray(groups))
    n_duplicates = int(table["group"].duplicated(keep=False).sum())
    table["day"] = _find_days(table, target_day, named)
    own = table["label"] if folder_is_truth or not given else [""] * len(table)
    table["stratum"] = [label or (given or {}).get(image, "") for image, label in zip(table["image"], own, strict=True)]
    left_out = {"no_label": int((table["stratum"] == "").sum())}
    table = table[table["stratum"] != ""]
    table["part"] = [split.part.get(image) for image in table["image"]] if split else ""
    if split and (in_no_part := table["part"].isna()).any():
        left_out["in_no_split"] = int(in_no_part.sum())
        table = table[~in_no_part]
    given_on = set(table.loc[table["part"] != "", "day"])
    table["part"] = table["part"].mask((table["part"] == "") & table["day"].isin(given_on), "train")
    counts = {part: n for part in SPLITS if (n := int((table["part"] == part).sum()))}
    table, moved = _keep_copies_together(table)
    cut_here = bool((table["day"] == "").any())
    if cut_here and not folder_is_truth:
        raise BCCPError(untrusted_rest(target_day))
    if cut_here:
        table["day"] = _cut_days(table, shares.tuesday_fraction, seed=seed)
    classes = _check_days(table, target_day)
    splits, reasons = _split_days(table, shares, seed=seed)
    on_target = splits["day"] == target_day
    known = (splits["label"] != "") & (folder_is_truth | ~on_target)
    true_labels = splits.loc[on_target & known, ["image", "label"]].reset_index(drop=True)
    trusted = known & ~(on_target & (splits["split"] == "train"))
    return Segregated(
        splits=splits.assign(label=splits["label"].where(trusted, ""))[["image", "row", "day", "split", "label"]],
        true_labels=true_labels,
        classes=classes,
        truth_known=bool(known[on_target].all()),
        cut_here=cut_here,
        left_out=left_out | reasons,
        n_duplicates=n_duplicates,
        given=counts,
        moved_to_train=moved,
    )


def mark_corrupted(cut: Segregated, *, corruption: str, simulated: bool, seed: int) -> pd.DataFrame:
    """Choose the corruption of each of Tuesday's images.

    Parameters
    ----------
    cut : Segregated
    corruption : str
        A value of ``segregation.corruption``. ``auto`` is mixed where Tuesday was cut from one set here and its labels are
        simulated, else none.
    simulated : bool
        Whether Tuesday's labels are simulated.
    seed : int
        From 0 up.

    Returns
    -------
    DataFrame
        ``cut.splits`` with the columns ``corruption`` (empty for none) and ``corrupted_row`` (0 up in the table's order, or
        -1).
    """
    if corruption == "auto":
        corruption = "mixed" if cut.cut_here and simulated else "none"
    splits = cut.splits.assign(corruption="", corrupted_row=-1)
    tuesday = splits["day"] == "tuesday"
    splits.loc[tuesday, "corruption"] = draw_kinds(splits.loc[tuesday, "image"].tolist(), corruption=corruption, seed=seed)
    changed = splits["corruption"] != ""
    splits.loc[changed, "corrupted_row"] = np.arange(changed.sum())
    return splits


def _draw(
    table: pd.DataFrame,
    share: float,
    *,
    seed: int,
    purpose: str,
    least: int,
    least_left: int,
    forced: Mapping[int, bool] | None = None,
    last: Collection[int] = (),
) -> Mask:
    """Draw a share of the images, stratified, by whole groups of duplicates.

    Parameters
    ----------
    table : DataFrame
        ``image, stratum, group`` of n images.
    share : float
        In (0, 1).
    seed : int
    purpose : str
        Makes this draw independent of others with the same seed.
    least, least_left : int
        How many groups of each class must be drawn, and must be left.
    forced : mapping of int to bool, optional
        Groups that are drawn (True) or left (False) in any case.
    last : collection of int, optional
        Groups that are drawn only where the others do not suffice.

    Returns
    -------
    ndarray of bool, shape (n,)
        Which images are drawn. Each class's quota is its exact share rounded up or down, such that all quotas sum to the
        rounded share of the n images; groups are taken in the drawn order as long as they fit in.

    Raises
    ------
    BCCPError
        If a class has not as many groups as needed.
    """
    units = _units(table, seed=seed, purpose=purpose, last=last)
    sizes = units.groupby("stratum")["size"].sum()  # sorted by class
    quotas = apportion(sizes.to_numpy(np.int64), share, low=least, left=least_left)
    drawn: set[int] = set()
    for (name, members), quota in zip(units.groupby("stratum"), quotas.tolist(), strict=True):
        size_of = dict(zip(members.index.tolist(), members["size"].tolist(), strict=True))
        chosen = _fill(size_of, quota, forced or {}, least=least, least_left=least_left)
        if len(chosen) < least or len(size_of) - len(chosen) < least_left:
            raise BCCPError(
                f"class {name!r} cannot be split for the {purpose}: too many of its {sum(size_of.values())} images are copies of "
                "images on the other day: add different images, or leave the class out of that day"
            )
        drawn |= chosen
    return table["group"].isin(drawn).to_numpy()


def apportion(sizes: Index, share: float, *, low: int, left: int) -> Index:
    """Give each class a whole number of images near its exact share, by largest remainders.

    Parameters
    ----------
    sizes : ndarray of int, shape (K,)
        Images of each class, at least ``low + left``.
    share : float
        In (0, 1).
    low, left : int
        Each class gives at least ``low`` images and keeps at least ``left``.

    Returns
    -------
    ndarray of int, shape (K,)
        Sums to the rounded share of all images, as far as ``low`` and ``left`` allow.

    Examples
    --------
    >>> apportion(np.array([3, 3, 3]), 0.5, low=0, left=0)
    array([2, 2, 1])
    """
    total = int(np.floor(share * sizes.sum() + 0.5))
    exact, high = share * sizes, sizes - left
    quotas: Index = np.clip(np.floor(exact + 1e-9).astype(np.int64), low, high)
    while quotas.sum() < total and (quotas < high).any():
        quotas[np.argmax(np.where(quotas < high, exact - quotas, -np.inf))] += 1
    while quotas.sum() > total and (quotas > low).any():
        quotas[np.argmax(np.where(quotas > low, quotas - exact, -np.inf))] -= 1
    return quotas


def _find_days(table: pd.DataFrame, target_day: str, named: Collection[str] | None) -> list[str]:
    """The day of each image as the data has it; empty where it has none."""
    days = table["day"].tolist()
    if target_day == "monday":
        return ["monday"] * len(days)
    if any(days):
        if stray := table.loc[table["day"] == "", "image"].tolist():
            raise BCCPError(
                f"{len(stray)} images lie neither under monday/ nor under tuesday/ (such as {min(stray)!r}): "
                "put all images under the two, or use neither"
            )
        if loose := table.loc[(table["day"] == "monday") & (table["label"] == ""), "image"].tolist():
            raise BCCPError(f"the image {min(loose)!r} has no class: put Monday's images into monday/<class>/")
        return days
    if named is not None:
        return ["tuesday" if image in named else "monday" for image in table["image"]]
    return days


def _keep_copies_together(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Put groups of duplicates that lie in several parts of a given split into training; and how many images that moved."""
    # what is given as Tuesday's validation is trained on
    part = table["part"].mask((table["day"] == "tuesday") & (table["part"] == "val"), "train")
    given = part[part != ""]
    across = given.groupby(table.loc[given.index, "group"]).transform("nunique") > 1
    moved = across & (given != "train")
    part[moved[moved].index] = "train"
    return table.assign(part=part), int(moved.sum())


def _cut_days(table: pd.DataFrame, fraction: float, *, seed: int) -> list[str]:
    """Cut Tuesday from one set; from a given split its training and its test by themselves, while its validation is Monday's."""
    given = set(table["part"]) - {""}
    if not given:
        _require(table, sum(LEAST.values()), _NEEDED["both"])
        tuesday = _draw(table, fraction, seed=seed, purpose="day", least=LEAST["tuesday"], least_left=LEAST["monday"])
        return ["tuesday" if drawn else "monday" for drawn in tuesday]
    train, test = table[table["part"] == "train"], table[table["part"] == "test"]
    least, least_left = len(_to_draw("tuesday", given)), len(_to_draw("monday", given))
    _require(train, least + least_left, _needed_of_train(least + least_left, "for both days"))
    drawn = _draw(train, fraction, seed=seed, purpose="day", least=least, least_left=least_left)
    of_test = _draw(test, fraction, seed=seed, purpose="test day", least=0, least_left=0) if len(test) else np.zeros(0, bool)
    on_tuesday = {*train.loc[drawn, "image"], *test.loc[of_test, "image"]}
    return ["tuesday" if image in on_tuesday else "monday" for image in table["image"]]


def _to_draw(day: str, given: Collection[str]) -> list[str]:
    """The parts of a day that are made of its training images: training itself, and what the given split lacks."""
    return ["train", *(part for part in (("val", "test") if day == "monday" else ("test",)) if part not in given)]


def _needed_of_train(least: int, where: str) -> str:
    return (
        f"{least} different training images {where} in the given split: add images, remove the class, or set segregation.split=own to "
        "cut anew"
    )


def _check_days(table: pd.DataFrame, target_day: str) -> list[str]:
    """Refuse days that cannot be learnt from, else name the classes."""
    strata = {day: set(table.loc[table["day"] == day, "stratum"]) for day in LEAST}
    if not strata["monday"]:
        raise BCCPError(
            "no image is left for Monday, whose labels are to be trusted: give images under monday/<class>/ or images that the "
            "feedback file does not name, or set main.target_day=monday"
        )
    if target_day == "tuesday" and not strata["tuesday"]:
        raise BCCPError(
            "no image with a label is Tuesday: put images under tuesday/<class>/, or name them in noisy_labels.feedback_file "
            "(with noisy_labels.source=file), or set main.target_day=monday"
        )
    if alone := sorted(strata["tuesday"] - strata["monday"]):
        alike = KnownNames(strata["monday"]).describe_similar(alone[0])
        raise BCCPError(
            f"the new images (Tuesday) have classes that no trusted image (Monday) shows: {few(alone, _N_EXAMPLES)}{alike}; give trusted "
            "images of them or leave them out"
        )
    if len(strata["monday"]) == 1:
        raise BCCPError(f"there is only one class, {min(strata['monday'])!r}: give at least two class folders")
    return sorted(strata["monday"])


def _split_days(table: pd.DataFrame, shares: Shares, *, seed: int) -> tuple[pd.DataFrame, dict[str, int]]:
    """The images that are in a split, with that, sorted by image; and how many were left out, by reason."""
    caps = {"monday": shares.monday_images, "tuesday": shares.tuesday_images}
    kept, left_out = {}, {}
    for day in LEAST:
        images = table[table["day"] == day]
        _require_parts(images, day, alone=len(images) == len(table))
        kept[day] = _cap(images, caps[day], day=day, seed=seed)
        left_out[f"{day}_cap"] = len(images) - len(kept[day])
    monday, tuesday = kept["monday"], kept["tuesday"]
    given_on_tuesday = tuesday[tuesday["part"] != ""]
    forced = dict(zip(given_on_tuesday["group"].tolist(), (given_on_tuesday["part"] == "test").tolist(), strict=True))
    monday = _split_monday(monday, shares, on_both=set(tuesday["group"]), forced=forced, seed=seed)
    split_of = dict(zip(monday["group"].tolist(), monday["split"].tolist(), strict=True))
    copies_of_val = tuesday["group"].map(split_of) == "val"
    tuesday = _split_tuesday(tuesday[~copies_of_val], shares.test_size, split_of, seed=seed)
    left_out["copies_of_val"] = int(copies_of_val.sum())
    return pd.concat([monday, tuesday]).sort_values("image", ignore_index=True), left_out


def _require_parts(table: pd.DataFrame, day: str, *, alone: bool = False) -> None:
    """Refuse a day with classes too small for what has to be cut, or Monday with classes that its given split does not train on.

    Where all images are of one day, as with nothing trusted, nobody has heard of days.
    """
    given = set(table["part"]) - {""}
    if not given:
        _require(table, LEAST[day], _NEEDED["alone" if alone and day == "monday" else day])
        return
    train = table[table["part"] == "train"]
    untrained = sorted(set(table["stratum"]) - set(train["stratum"]))
    if untrained and (day == "monday" or train.empty):  # what Tuesday only tests is trained on Monday
        raise BCCPError(
            f"the given split has no training images of {few(untrained)} on {day.capitalize()}: add some, remove the class, or set "
            "segregation.split=own to cut anew"
        )
    least = len(_to_draw(day, given))
    _require(train, least, _needed_of_train(least, f"on {day.capitalize()}"))


def _cap(table: pd.DataFrame, cap: int | None, *, day: str, seed: int) -> pd.DataFrame:
    if cap is None or len(table) <= cap:
        return table
    given = set(table["part"]) - {""}
    if given:  # as many of each part
        shrunk = [table[table["part"] == part] for part in SPLITS if part in given]
        sizes = apportion(np.array([len(images) for images in shrunk]), cap / len(table), low=1, left=0)
        least = {"train": len(_to_draw(day, given))}
        drawn = [
            images[
                _draw(images, n / len(images), seed=seed, purpose=f"{day} cap", least=least.get(images["part"].iloc[0], 0), least_left=0)
            ]
            for images, n in zip(shrunk, sizes.tolist(), strict=True)
        ]
        kept = pd.concat(drawn)
    else:
        kept = table[_draw(table, cap / len(table), seed=seed, purpose=f"{day} cap", least=LEAST[day], least_left=0)]
    if len(kept) > cap:
        raise BCCPError(
            f"segregation.{day}_images={cap} is too low: each of {table['stratum'].nunique()} classes needs at least "
            f"{len(_to_draw(day, given)) if given else LEAST[day]} different images with their duplicates; give {len(kept)} or more"
        )
    return kept


def _split_monday(table: pd.DataFrame, shares: Shares, *, on_both: Collection[int], forced: Mapping[int, bool], seed: int) -> pd.DataFrame:
    """Split Monday, where ``forced`` says of the groups that Tuesday has by a given split whether they are tested."""
    parts = {}
    rest = table
    if given := set(table["part"]) - {""}:
        parts = {part: table[table["part"] == part] for part in ("test", "val") if part in given}
        rest = table[table["part"] == "train"]
    if "test" not in parts:
        of_rest = {group: tested for group, tested in forced.items() if group in set(rest["group"])}
        left = 2 if "val" not in parts else 1
        test = _draw(rest, shares.test_size, seed=seed, purpose="monday test", least=1, least_left=left, forced=of_rest)
        parts["test"], rest = rest[test], rest[~test]
    if "val" not in parts:
        val = _draw(rest, shares.val_size, seed=seed, purpose="monday val", least=1, least_left=1, last=on_both)
        parts["val"], rest = rest[val], rest[~val]
    return pd.concat([*(images.assign(split=part) for part, images in parts.items()), rest.assign(split="train")])


def _split_tuesday(table: pd.DataFrame, test_size: float, monday: Mapping[int, str], *, seed: int) -> pd.DataFrame:
    """Split Tuesday, where ``monday`` is the split of the groups that Monday has."""
    if table.empty:
        return table.assign(split="")
    _require_parts(table, "tuesday")
    if "test" in set(table["part"]):
        return table.assign(split=table["part"])
    forced = {group: monday[group] == "test" for group in set(table["group"]) & set(monday)}
    test = _draw(table, test_size, seed=seed, purpose="tuesday test", least=1, least_left=1, forced=forced)
    return table.assign(split=np.where(test, "test", "train"))


def _require(table: pd.DataFrame, least: int, needed: str) -> None:
    """Refuse classes of fewer than ``least`` groups of duplicates."""
    n_images = table["stratum"].value_counts()
    n_groups = majority_labels(table).value_counts().reindex(n_images.index, fill_value=0)
    if small := sorted(n_groups.index[n_groups < least]):
        counts = [f"{name!r} ({_number(n_images[name])}, {n_groups[name]} different)" for name in small[:_N_EXAMPLES]]
        more = f" and {len(small) - _N_EXAMPLES} more" if len(small) > _N_EXAMPLES else ""
        more += KnownNames(set(n_images.index) - set(small)).describe_similar(small[0])
        told = "; copies and near copies count as one image (preprocessing.near_copy_tolerance says what is near)"
        copies = told if any(n_groups[name] < n_images[name] for name in small) else ""
        raise BCCPError(f"too few images of the classes {', '.join(counts)}{more}: each class needs at least {needed}{copies}")


def _number(n_images: int) -> str:
    return "1 image" if n_images == 1 else f"{n_images} images"


def majority_labels(table: pd.DataFrame) -> pd.Series[str]:
    """The most frequent class of each group of duplicates (of equally frequent ones the first), indexed by group."""
    counts = table.groupby(["group", "stratum"]).size().reset_index(name="size")
    counts = counts.sort_values(["group", "size", "stratum"], ascending=[True, False, True])
    return counts.drop_duplicates("group").set_index("group")["stratum"]


def _units(table: pd.DataFrame, *, seed: int, purpose: str, last: Collection[int]) -> pd.DataFrame:
    """``size`` and ``stratum`` of each group of duplicates, indexed by group, in the drawn order."""
    first = table.groupby("group")["image"].min()
    keys = [
        (group in last, hashlib.sha256(f"{seed}:{purpose}:{image}".encode()).hexdigest())
        for group, image in zip(first.index.tolist(), first.tolist(), strict=True)
    ]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    units = pd.DataFrame({"size": table.groupby("group").size(), "stratum": majority_labels(table)})
    return units.loc[first.index[order]]


def _fill(size_of: Mapping[int, int], quota: int, forced: Mapping[int, bool], *, least: int, least_left: int) -> set[int]:
    """Choose groups of one class, whose images (``size_of``, in the drawn order) fit in the quota."""
    chosen = {group for group in size_of if forced.get(group, False)}
    room = quota - sum(size_of[group] for group in chosen)
    free = [group for group in size_of if group not in forced]
    for group in free:
        if size_of[group] <= room:
            chosen.add(group)
            room -= size_of[group]
    # too few groups chosen or left: smallest first, so that the shares stay as exact as they can
    by_size = sorted(free, key=size_of.__getitem__)
    missing = least - len(chosen)
    chosen |= set([group for group in by_size if group not in chosen][: max(missing, 0)])
    surplus = min(least_left - (len(size_of) - len(chosen)), len(chosen) - least)
    return chosen - set([group for group in by_size if group in chosen][: max(surplus, 0)])
