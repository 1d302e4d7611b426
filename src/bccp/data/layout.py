"""The layout of a data set's folders: days, given splits and classes, recognised from the image ids alone; and how names are compared.

An id is a POSIX path below the data's root. Understood are, from the root down and each level optional,

* wrapper folders, which hold nothing but one other folder;
* days: ``monday`` and ``tuesday``, in any case;
* splits over class folders, ``train/<class>/…``, or below them, ``<class>/train/…``, under the names that people give them (``training``,
  ``valid``, ``seg_test``);
* classes, whatever lies below them.

Folders that may as well be classes as the parents of classes are not guessed at: the layout then bears a ``problem``, one sentence that
names the folders and the option ``data.layout``.

Names that are equal in Unicode's form NFC are one name, as systems write the same letters differently; ids keep their bytes. Names that
differ in case or blanks stay apart, and are reported.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from bccp.core.errors import describe_difference, few

DAYS = ("monday", "tuesday")
"""Folders at the root that are days and not classes."""

SPLITS = ("train", "val", "test")
"""What the names of given splits stand for."""

IMAGE_SUFFIXES = frozenset(
    {
        ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".mpo", ".ppm", ".pgm", ".pbm", ".pnm",
        ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".ico", ".qoi", ".pcx", ".tga", ".dng", ".nef", ".cr2", ".arw", ".psd", ".dcm",
    }
)  # fmt: skip
"""Endings of the names of images, readable or not, in lower case. Where no file has one, every file counts as an image."""

_SPLIT_WORDS = {
    "train": "train", "training": "train", "trainset": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "validate": "val", "valset": "val", "dev": "val", "devel": "val",
    "test": "test", "testing": "test", "testset": "test", "tst": "test",
}  # fmt: skip

_OTHER_DAYS = frozenset({"wednesday", "thursday", "friday", "saturday", "sunday"})

_AS_CLASSES = "data.layout=classes if the folders at the top are the classes"


class Place(NamedTuple):
    """Day, split and label that an image's folders give it.

    Attributes
    ----------
    day : str
        One of :data:`DAYS`, or empty.
    split : str
        One of :data:`SPLITS`, or empty: given by none.
    label : str
        The class, in Unicode's form NFC, or empty: unknown.
    """

    day: str
    split: str
    label: str


@dataclass(frozen=True)
class _Branch:
    """Reading of the folders below a day, or below the root where there are no days.

    Attributes
    ----------
    wrappers : str
        Folders of a day that wrap all others, with a slash at their end.
    parents : mapping of str to (str, str), or None
        Folders above the classes: the split that each gives, or an empty string, and the wrapper folders in it, with a slash at their end.
        None: the folders here are the classes.
    splits_below : bool
        The folders below the classes are splits.
    is_unlabelled : bool
        The folders' names mean nothing.
    """

    wrappers: str = ""
    parents: Mapping[str, tuple[str, str]] | None = None
    splits_below: bool = False
    is_unlabelled: bool = False


@dataclass(frozen=True)
class Layout:
    """The layout of a data set.

    Attributes
    ----------
    days : frozenset of str
        The days of :data:`DAYS` that the data brings; empty: none.
    splits : frozenset of str
        The splits of :data:`SPLITS` that the folders give; empty where they give none, or but one.
    classes : tuple of str
        The classes that folders name, sorted; empty: no image lies in a class folder.
    problem : str or None
        The sentence with which the layout is to be refused, unless the labels come from elsewhere.
    notes : tuple of str
        What was recognised that a user may not expect, and names of classes that look alike; a line each.
    """

    days: frozenset[str] = frozenset()
    splits: frozenset[str] = frozenset()
    classes: tuple[str, ...] = ()
    problem: str | None = None
    notes: tuple[str, ...] = ()
    _root: str = ""
    _branches: Mapping[str, _Branch] = field(default_factory=lambda: {"": _Branch()})
    _places: dict[str, Place | None] = field(default_factory=dict, compare=False, repr=False)

    def place(self, image: str) -> Place | None:
        """Place an image by its folders.

        Parameters
        ----------
        image : str
            Its id.

        Returns
        -------
        Place or None
            None: it lies in no class folder, nor where images without a label may lie: on Tuesday, and below a split.
        """
        folder = image.rpartition("/")[0]
        if folder not in self._places:
            self._places[folder] = self._place(folder)
        return self._places[folder]

    def _place(self, folder: str) -> Place | None:
        path = _normal(f"{folder}/")
        if not path.startswith(self._root):
            return None
        folders = path.removeprefix(self._root).strip("/").split("/")
        folders = [] if folders == [""] else folders
        day = ""
        if self.days:
            day = day_name(folders.pop(0)) if folders else ""
            if not day:
                return None
        branch = self._branches.get(day)
        if branch is None:  # a day without any image
            return None
        if branch.is_unlabelled:
            return Place(day, "", "")
        inside = "/".join([*folders, ""])
        folders = inside.removeprefix(branch.wrappers).split("/")[:-1] if inside.startswith(branch.wrappers) else []
        split = ""
        if branch.parents is not None:
            if not folders or folders[0] not in branch.parents:
                return Place(day, "", "") if day == "tuesday" and not folders else None
            split, wrappers = branch.parents[folders.pop(0)]
            inside = "/".join([*folders, ""])
            folders = inside.removeprefix(wrappers).split("/")[:-1] if inside.startswith(wrappers) else []
        label = folders[0] if folders else ""
        if branch.splits_below:
            split = next(filter(None, map(split_name, folders[1:])), "")
        if not label and (day == "monday" or (day == "" and branch.parents is None and self.classes)):
            return None
        return Place(day, split if split in self.splits else "", label)


@dataclass
class _Folder:
    """A folder: how many images lie in it directly, and the folders in it that hold images, by name."""

    images: int = 0
    folders: dict[str, _Folder] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Images here and below."""
        return self.images + sum(folder.total for folder in self.folders.values())

    @property
    def is_parent(self) -> bool:
        """True for a folder that has no image itself but several folders, wrappers aside."""
        inner = self.at(_wrappers(self))
        return not inner.images and len(inner.folders) > 1

    def at(self, path: str) -> _Folder:
        """The folder at a path below, which ends with a slash or is empty."""
        found = self
        for name in path.split("/")[:-1]:
            found = found.folders[name]
        return found


def recognize(ids: Iterable[str], asked: str = "auto") -> Layout:
    """Recognise the layout of a data set.

    Parameters
    ----------
    ids : iterable of str
        The ids of all files, images or not, in any order.
    asked : {"auto", "classes", "subfolders", "monday"}
        ``data.layout``. ``classes``: the folders at the top are the classes, whatever they are called. ``subfolders``: those in them are;
        the ones at the top are days, splits or mere parents. ``monday``: folders name classes below ``monday/`` only, and elsewhere
        nothing, for labels that come from a feedback file.

    Returns
    -------
    Layout

    Examples
    --------
    >>> found = recognize(["Train/cat/1.png", "Train/dog/2.png", "valid/cat/3.png", "valid/dog/4.png"])
    >>> sorted(found.splits), found.classes, found.place("valid/dog/4.png")
    (['train', 'val'], ('cat', 'dog'), Place(day='', split='val', label='dog'))
    """
    ids = list(ids)
    top = _tree(ids)
    if not top.folders:
        return Layout(
            problem=f"no image lies in a class folder ({few(sorted(ids)) or 'there are no files'}): put them as <class>/<image>, or with "
            "days of their own as monday/<class>/<image> and tuesday/<class>/<image> (tuesday/<image> where the label is unknown)"
        )
    wrappers = _wrappers(top)
    top = top.at(wrappers)
    days = {name: day for name in top.folders if (day := day_name(name))} if asked != "classes" else {}
    others = sorted(set(top.folders) - set(days))
    if days and others:
        days_are_classes = all(top.folders[name].images for name in days) and any(name.strip().casefold() in _OTHER_DAYS for name in others)
        if not days_are_classes:
            return Layout(problem=_stray_beside_days(days, others), _root=wrappers)
        days = {}
    if days:  # several spellings of a day are one folder
        merged = {day: _merged([top.folders[name] for name in sorted(days) if days[name] == day]) for day in sorted(set(days.values()))}
        named = {day: folder for day, folder in merged.items() if day == "monday" or asked != "monday"}
        reads = {**dict.fromkeys(merged, _UNLABELLED), **_read_days(named, asked)}
    elif asked == "monday":
        reads = {"": _UNLABELLED}
    else:
        reads = {"": _read_branch(top, asked)}
    classes = sorted({name for read in reads.values() for name in read.classes})
    return Layout(
        days=frozenset(day for day in reads if day),
        splits=frozenset().union(*(read.splits for read in reads.values())),
        classes=tuple(classes),
        problem=next((read.problem for read in reads.values() if read.problem), None),
        notes=(*(read.note for read in reads.values() if read.note), *similar_classes(classes)),
        _root=wrappers,
        _branches={day: read.branch for day, read in reads.items()},
    )


def day_name(name: str) -> str:
    """The day that a folder's name stands for, in any case; empty: none."""
    plain = name.strip().casefold()
    return plain if plain in DAYS else ""


def split_name(name: str) -> str:
    """The split that a folder's name or a word in a file stands for; empty: none, or several.

    Examples
    --------
    >>> split_name("seg_Train"), split_name("valid"), split_name("Testing "), split_name("trainval"), split_name("train_test")
    ('train', 'val', 'test', '', '')
    """
    found = {_SPLIT_WORDS[word] for word in re.split(r"[\W\d_]+", name.casefold()) if word in _SPLIT_WORDS}
    return found.pop() if len(found) == 1 else ""


class KnownNames:
    """Names of images or classes, found as people write them in tables of their own.

    Parameters
    ----------
    names : iterable of str
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)

    def find(self, text: str) -> str | None:
        """Find the name that a cell means.

        Blanks around it, a leading ``./``, backslashes for slashes and another Unicode form do not count, unless a name has just them.
        Upper and lower case do.

        Returns
        -------
        str or None
            None: no name is meant, or several are.
        """
        plain = text.strip()
        posix = plain.replace("\\", "/")
        while posix.startswith("./"):
            posix = posix[2:].lstrip("/")
        spellings = (text, plain, posix)
        exact = next((name for name in spellings if name in self.names), None)
        return exact or next(filter(None, (self._normal.get(_normal(name)) for name in spellings)), None)

    def describe_similar(self, text: str) -> str:
        """Suggest the name that differs in case, in blanks or in another way that hardly shows, for the end of a message; empty: none."""
        similar = self._similar.get(_folded(text))
        return f" (did you mean {similar!r}? they {describe_difference(text, similar) or 'differ'})" if similar else ""

    @cached_property
    def _similar(self) -> dict[str, str]:
        """The first name of those that look alike."""
        return {_folded(name): name for name in sorted(self.names, reverse=True)}

    @cached_property
    def _normal(self) -> dict[str, str | None]:
        """The names by their form NFC; None where several have the same one."""
        found: dict[str, str | None] = {}
        for name in self.names:
            key = _normal(name)
            found[key] = None if key in found else name
        return found


def similar_names(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ in case or in blanks only, sorted; each name stands with the first that is like it."""
    first: dict[str, str] = {}
    pairs = []
    for name in sorted(names):
        if first.setdefault(_folded(name), name) != name:
            pairs.append((first[_folded(name)], name))
    return sorted(pairs)


def similar_classes(classes: Collection[str]) -> list[str]:
    """Report each pair of classes whose names look alike (:func:`similar_names`), with what differs; a line each."""
    return [f"the classes {a!r} and {b!r} {describe_difference(a, b)}, and stay two" for a, b in similar_names(classes)]


class _Read(NamedTuple):
    """Result of reading the folders below a day, or below the root."""

    branch: _Branch
    splits: frozenset[str]
    classes: tuple[str, ...]
    problem: str | None = None
    note: str = ""


_UNLABELLED = _Read(_Branch(is_unlabelled=True), frozenset(), ())


def _read_days(days: Mapping[str, _Folder], asked: str) -> dict[str, _Read]:
    """Read the folders below each day. Wrappers are told from a day's only class by the names on the other day."""
    wrappers = {day: _wrappers(folder) for day, folder in days.items()}
    inside = {day: set(folder.at(wrappers[day]).folders) for day, folder in days.items()}
    reads = {}
    for day, folder in days.items():
        known = {name for other in days if other != day for name in (*days[other].folders, *inside[other])}
        stripped = wrappers[day] if inside[day] and (not known or known & inside[day]) else ""
        read = _read_branch(folder.at(stripped), asked, day=day, known=known)
        reads[day] = read._replace(branch=replace(read.branch, wrappers=stripped))
    return reads


def _read_branch(top: _Folder, asked: str, *, day: str = "", known: Collection[str] = ()) -> _Read:
    """Read the folders below a day, or below the root where ``day`` is empty; ``known`` are names of classes."""
    if not top.folders:
        loose = None if day == "tuesday" else f"no image in {day}/ lies in a class folder: put them as {day}/<class>/<image>"
        return _Read(_Branch(), frozenset(), (), loose)
    splits = {name: split for split in SPLITS for name in sorted(top.folders) if split_name(name) == split} if asked != "classes" else {}
    strays = sorted(set(top.folders) - set(splits))
    if splits and (not strays or asked == "subfolders"):
        return _read_splits(top, splits, strays, asked, day=day)
    if asked == "subfolders":
        return _read_splits(top, {}, strays, asked, day=day)
    as_classes = _Read(_Branch(), frozenset(), tuple(sorted(top.folders)))
    if asked == "classes":
        return as_classes
    if any(top.folders[name].is_parent for name in splits):
        where = f"{day}/" if day else ""
        problem = (
            f"beside the split folders {_list(splits)} {where and f'in {where} '}lie others with images, {_list(strays)}: move them away, "
            "name the folder that holds the splits in data.subfolder, or set data.layout=subfolders to train on their class folders, too, "
            f"and leave out what lies in none, or {_AS_CLASSES}"
        )
        return as_classes._replace(problem=problem)
    inner = {name: folder.at(_wrappers(folder)) for name, folder in top.folders.items()}
    if all(not folder.images and all(map(split_name, folder.folders)) for folder in inner.values()):
        return _read_splits_below(inner, as_classes)
    return as_classes._replace(problem=_parents_problem(top.folders, known))


def _read_splits(top: _Folder, splits: Mapping[str, str], strays: Sequence[str], asked: str, *, day: str) -> _Read:
    """Read split folders, and other parents, over class folders."""
    several = {name for folder in top.folders.values() if len(folder.folders) > 1 for name in folder.folders}
    parents, inner = {}, {}
    for name in (*splits, *strays):
        wrappers = _wrappers(top.folders[name], own=name, classes=several)
        parents[name], inner[name] = (splits.get(name, ""), wrappers), top.folders[name].at(wrappers)
    names_in = {name: set(folder.folders) for name, folder in inner.items() if folder.folders}
    classes = tuple(sorted(set().union(*names_in.values())))
    given = frozenset(splits.values())
    read = _Read(_Branch(parents=parents), given if len(given) > 1 else frozenset(), classes)
    where = f"{day}/" if day else ""
    if len(classes) < 2 and len(splits) == len(parents) and not day:  # one folder such as images/ in each split is no class
        deeper = {name: "".join(f"{inside}/" for inside in folder.folders) for name, folder in inner.items()}
        return read._replace(
            branch=_Branch(parents={name: (split, wrappers + deeper[name]) for name, (split, wrappers) in parents.items()}),
            classes=(),
            problem=f"the folders {_list(splits)} hold images but no class folders: put them as <split>/<class>/<image>, or give a table "
            f"of labels, or set {_AS_CLASSES}",
        )
    if nested := [name for name in strays if inner[name].folders and all(map(split_name, inner[name].folders))]:
        return read._replace(problem=_nested_splits(nested))
    if given and "train" not in given and not strays:
        return read._replace(
            problem=f"of the split folders {_list(splits)} {where and f'in {where} '}none holds training images: add one named train, "
            f"or set {_AS_CLASSES}"
        )
    if asked == "auto" and len(set(map(frozenset, names_in.values()))) > 1:
        return read._replace(problem=_unequal_classes(names_in, splits))
    if problem := _parents_problem(_merged(list(inner.values())).folders) if asked == "auto" else None:
        return read._replace(problem=problem)
    unlabelled = [name for name in splits if name not in names_in]
    without = f"; {_list(unlabelled)} has no class folders: its images have no label" if unlabelled else ""
    note = f"the folders {_list(splits)} {where and f'in {where} '}are the splits of {len(classes)} classes{without}" if splits else ""
    return read._replace(note=note)


def _read_splits_below(inner: Mapping[str, _Folder], as_classes: _Read) -> _Read:
    """Read classes whose folders are splits."""
    given = frozenset(split_name(name) for folder in inner.values() for name in folder.folders)
    if nested := [name for name, folder in sorted(inner.items()) if any(split.is_parent for split in folder.folders.values())]:
        return as_classes._replace(problem=_nested_splits(nested))
    if len(given) < 2:
        return as_classes
    found = sorted({name for folder in inner.values() for name in folder.folders}, key=lambda name: (SPLITS.index(split_name(name)), name))
    return as_classes._replace(
        branch=_Branch(splits_below=True), splits=given, note=f"the folders {_list(found)} in those of the classes are splits"
    )


def _nested_splits(folders: Sequence[str]) -> str:
    return f"the folders {_list(folders)} hold splits over further folders: name the one to be used in data.subfolder, or set {_AS_CLASSES}"


def _parents_problem(folders: Mapping[str, _Folder], known: Collection[str] = ()) -> str | None:
    """The sentence that refuses class folders most of whose images lie in several folders further below, or that hold classes' names."""
    parents = {name: folder.at(_wrappers(folder)) for name, folder in sorted(folders.items()) if folder.is_parent and name not in known}
    total, below = sum(folder.total for folder in folders.values()), sum(folder.total for folder in parents.values())
    inside = sorted({name for folder in parents.values() for name in folder.folders})
    if not parents or (2 * below < total and not set(inside) & set(folders)):
        return None
    others = sorted(set(folders) - set(parents))
    beside = f" (beside {_list(others)})" if others else ""
    return (
        f"the folders {_list(parents)}{beside} hold no images themselves but folders ({few(inside)}), which may be the classes: set "
        "data.layout=subfolders if they are, data.layout=classes if the folders at the top are the classes, or name the folder that "
        "holds the class folders in data.subfolder"
    )


def _unequal_classes(names_in: Mapping[str, Collection[str]], splits: Mapping[str, str]) -> str:
    """The sentence that refuses splits of unequal classes."""
    trained = {label for name, labels in names_in.items() if splits.get(name) == "train" for label in labels}
    anew = "" if trained >= set().union(*names_in.values()) else " with segregation.split=own"
    missing = {name: sorted(set().union(*names_in.values()) - set(names)) for name, names in names_in.items()}
    lacking = "; ".join(f"{name!r} lacks {few(names)}" for name, names in missing.items() if names)
    alike = next(((a, b) for a, b in similar_names(set().union(*names_in.values()))), None)
    differs = f" ({alike[0]!r} and {alike[1]!r} {describe_difference(*alike)})" if alike else ""
    return (
        f"the split folders do not hold the same class folders: {lacking}{differs}; make them equal, set data.layout=subfolders{anew} to "
        f"take the classes of all of them, or {_AS_CLASSES}"
    )


def _stray_beside_days(days: Iterable[str], others: Sequence[str]) -> str:
    return (
        f"beside the folders of days, {_list(days)}, lie others with images, {_list(others)}: move them away or into one of the days, or "
        f"set {_AS_CLASSES}"
    )


def _list(names: Iterable[str]) -> str:
    return few(list(names), 5)


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(text: str) -> str:
    """Reduce a name to a key that names which look alike share."""
    return "".join(letter for letter in unicodedata.normalize("NFKC", text).casefold() if not letter.isspace())


def _tree(ids: Sequence[str]) -> _Folder:
    """The folders that hold images, their names in Unicode's form NFC."""
    images = [image for image in ids if f".{image.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES] or ids
    top = _Folder()
    for path, count in Counter(image.rpartition("/")[0] for image in images).items():
        folder = top
        for name in _normal(path).split("/") if path else ():
            folder = folder.folders.setdefault(name, _Folder())
        folder.images += count
    return top


def _wrappers(folder: _Folder, *, own: str = "", classes: Collection[str] = ()) -> str:
    """The folders that only wrap what lies below, with a slash after each: sole ones without images, or that repeat the folder's own name.

    Days do not wrap, nor do folders that are named like ``classes``.
    """
    path = ""
    while not folder.images and len(folder.folders) == 1:
        [(name, inside)] = folder.folders.items()
        if day_name(name) or name in classes or (inside.images and name.casefold() != own.casefold()):
            break
        path, folder = f"{path}{name}/", inside
    return path


def _merged(folders: Sequence[_Folder]) -> _Folder:
    """Several folders as one; folders in them of one name are one."""
    if len(folders) == 1:
        return folders[0]
    inside: dict[str, list[_Folder]] = {}
    for folder in folders:
        for name, below in folder.folders.items():
            inside.setdefault(name, []).append(below)
    return _Folder(sum(folder.images for folder in folders), {name: _merged(below) for name, below in inside.items()})
