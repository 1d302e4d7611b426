"""The labels of images that lie in no class folders: from the tables that lie beside them.

Folders come first. Where they are classes, a table that says otherwise is an error, for both may be meant; where they are none, the tables
that name the images give the labels. Of several tables those count together that are of different images (``train/_classes.csv`` and
``test/_classes.csv``); where two label the same images differently, the user has to say which counts.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bccp.core.errors import BCCPError, few, nearest
from bccp.data.label_tables import reading
from bccp.data.label_tables.columns import Columns
from bccp.data.label_tables.image_names import AMBIGUOUS, find_images, nfc
from bccp.data.label_tables.reading import LabelTable
from bccp.data.label_tables.votes import cast_votes, majority, problems_sentence
from bccp.data.layout import Layout, similar_classes

if TYPE_CHECKING:
    import pandas as pd

AUTO = "auto"

REPORTED = "label_tables"
"""In ``report.json`` of ``clean_data``: the tables that gave the labels, and whether they were named or found."""

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".json", ".jsonl", ".ndjson"})

_OTHER_TABLES = {".parquet": "is in Parquet's format", ".xlsx": "is a workbook", ".xls": "is a workbook", ".ods": "is a workbook"}
"""Endings of tables that are not read, and why."""

COMPANION_SUFFIXES = TABLE_SUFFIXES | {".txt", ".md", ".rst", ".yaml", ".yml", ".xml", ".html", ".pdf", ".ipynb", ".py", *_OTHER_TABLES}
"""Endings of files that lie beside images and are none, where a table gives the labels."""

MOST_TABLE_BYTES = 1_000_000_000

_MOST_TABLES = 50
"""More files in a folder that may be tables are those of single images."""

_SAME_NAMES, _SAME_CLASSES = 0.5, 0.8
"""From these shares of equal labels on folders and a table say the same: where their names are the same, and where they may be others."""

_EXAMPLES = 3


@dataclass(frozen=True)
class DataLabels:
    """Labels from tables among the images.

    Attributes
    ----------
    labels : dict of str to str
        The label of each image that has one; of several annotators' the most frequent one.
    votes : dict of (str, str) to str
        Where annotators are told apart: the label by (image, annotator).
    tables : tuple of str
        The tables that count.
    notes : tuple of str
        A line each: what was read, what of it is of no use, and which other tables there are.
    """

    labels: Mapping[str, str]
    votes: Mapping[tuple[str, str], str]
    tables: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Candidate:
    """A table that labels images: the image of each of its answers, and its labels by image."""

    name: str
    table: LabelTable
    images: Sequence[str | None]
    labels: Mapping[str, set[str]] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        return self.name.rpartition("/")[2]


def is_companion(name: str) -> bool:
    """Return True for a file beside the images whose name tells that it is none."""
    return PurePosixPath(name).suffix.lower() in COMPANION_SUFFIXES


def find_labels(
    files: Mapping[str, int], read: Callable[[str], bytes], layout: Layout, *, asked: str | None, columns: Columns
) -> DataLabels | None:
    """Find the labels of images that lie in no class folders.

    Parameters
    ----------
    files : mapping of str to int
        The ids of all files, with their sizes in bytes.
    read : callable
        Gives the bytes of a file.
    layout : Layout
        What the folders say.
    asked : str or None
        ``data.table``: ``auto``; None: folders only; else the table's id, or a file name that one table or several have.
    columns : Columns
        What is known of the columns.

    Returns
    -------
    DataLabels or None
        None: the folders count, or nothing does.

    Raises
    ------
    BCCPError
        If what is asked for is not there or labels no image, or it is not clear what counts.
    """
    if asked is None or (asked == AUTO and layout.days):
        return None
    images = [name for name in files if not is_companion(name)]
    names = _table_names(files, images) if asked == AUTO else _asked_for(asked, files)
    unread = {name: "a sample submission" for name in names if asked == AUTO and "submission" in name.rpartition("/")[2].lower()}
    unread |= {name: why for name in files if asked == AUTO and (why := _OTHER_TABLES.get(PurePosixPath(name).suffix.lower()))}
    found, refused = _candidates([name for name in names if name not in unread], read, images, columns)
    if asked != AUTO:
        if not found:
            raise BCCPError(next(iter(refused.values())))
        return _merged(found, images, refused={})
    if layout.problem is None and len(layout.classes) > 1:
        _check_folders_agree([candidate for candidate in found if 2 * len(candidate.labels) >= len(images)], layout)
        return None
    if not found:
        # a table that would do, if it were said what its columns mean
        if told := [why for why in refused.values() if columns.key in why]:
            raise BCCPError(told[0])
        refused |= unread
        if refused and len(layout.classes) < 2:
            alone = f"all images lie in one folder, {few(layout.classes)}"
            raise BCCPError(f"{layout.problem or alone}; the tables there tell no labels: {_reasons(refused)}")
        return None
    return _merged(_chosen(found), images, unread | refused | _superseded(found))


def own_labels(manifest: pd.DataFrame, clean: Path) -> pd.Series[str]:
    """The labels that images have where a file from elsewhere gives others: not those of a table that merely lies among the images.

    Parameters
    ----------
    manifest : DataFrame
        With the column ``label``.
    clean : Path
        Folder of the ``clean_data`` that it belongs to, whose ``report.json`` tells of tables.

    Returns
    -------
    Series of str
        Empty where an image has none; the manifest's index.
    """
    about = _reported(clean)
    return manifest["label"] if about is None or about["named"] else manifest["label"].mask(manifest["label"] != "", "")


def is_named(clean: Path) -> bool:
    """Return True where labels come from a table that the user has named, and so vouches for beside a feedback file."""
    about = _reported(clean)
    return bool(about and about["named"])


def _reported(clean: Path) -> dict[str, Any] | None:
    """The entry on tables in the report of ``clean_data``; None where no table gave its labels."""
    report: dict[str, dict[str, Any]] = json.loads((clean / "report.json").read_text(encoding="utf-8"))
    return report.get(REPORTED)


def _table_names(files: Mapping[str, int], images: Collection[str]) -> list[str]:
    """The files that may be tables, but for those of single images: named like one, or more of them in a folder than anybody has tables."""
    of_images = {_bare(image) for image in images}
    likely = [
        name
        for name, size in files.items()
        if PurePosixPath(name).suffix.lower() in TABLE_SUFFIXES and size <= MOST_TABLE_BYTES and _bare(name) not in of_images
    ]
    per_folder = Counter(name.rpartition("/")[0] for name in likely)
    return sorted(name for name in likely if per_folder[name.rpartition("/")[0]] <= _MOST_TABLES)


def _bare(name: str) -> str:
    """A file's name without folders and extension."""
    return name.rpartition("/")[2].rpartition(".")[0]


def _asked_for(asked: str, files: Iterable[str]) -> list[str]:
    names = sorted(files)
    found = [asked] if asked in names else [name for name in names if name.rpartition("/")[2] == asked]
    if not found:
        there = [name for name in names if PurePosixPath(name).suffix.lower() in TABLE_SUFFIXES]
        shown = f"the tables there are {few(there, 5)}" if there else "there is no table"
        raise BCCPError(f"data.table={asked} is no file of the data{nearest(asked, there)}: {shown}; or set data.table=auto")
    return found


def _candidates(
    names: Iterable[str], read: Callable[[str], bytes], images: Sequence[str], columns: Columns
) -> tuple[list[_Candidate], dict[str, str]]:
    """The tables that label images, and why the others do not."""
    found, refused = [], {}
    for name in names:
        try:
            table = reading.read(read(name), f"table {name!r} in the data", columns=columns)
        except BCCPError as error:
            refused[name] = str(error)
            continue
        named = find_images([answer.image for answer in table.answers], images, table=name)
        labels = defaultdict(set)
        for answer, image in zip(table.answers, named, strict=True):
            if image and not answer.problem:
                labels[image].add(answer.label)
        if not labels and any(named):
            counts = Counter(answer.problem for answer, image in zip(table.answers, named, strict=True) if image)
            said = ", ".join(f"{n} {problem.replace('_', ' ')}" for problem, n in counts.items())
            refused[name] = (
                f"the table {name!r} in the data gives no label ({said}): {columns.option(label='column')} may say which column does"
            )
        elif not labels:
            first = next((answer.image for answer in table.answers if answer.image.strip()), "")
            like = f" (one is called {first!r} there and {min(images)!r} in the data)" if first and images else ""
            refused[name] = (
                f"the table {name!r} in the data labels none of its images{like}: {columns.option(image='column')} may say which"
            )
        elif why := _no_classes(table, labels, columns):
            refused[name] = f"the table {name!r} in the data {why}"
        else:
            found.append(_Candidate(name, table, named, dict(labels)))
    return found, refused


def _no_classes(table: LabelTable, labels: Mapping[str, set[str]], columns: Columns) -> str | None:
    """Explain why a table's labels are no classes; None where they may be, or the configuration says that they are."""
    values = {label for given in labels.values() for label in given}
    if columns.label is not None or len(labels) < 10:
        return None
    measured = all(re.fullmatch(r"[+-]?\d*\.\d+(e[+-]?\d+)?", value.strip(), re.IGNORECASE) for value in values) and any(
        not value.strip().endswith(".0") for value in values
    )
    if measured or 2 * len(values) > len(labels):
        kind = "numbers with fractions" if measured else f"{len(values)} different labels of {len(labels)} images"
        return (
            f"has {kind} in {few(table.labels)}, which are no classes: say which column holds them, as in "
            f"{columns.option(label='column')}, or put images into class folders"
        )
    return None


def _check_folders_agree(found: Iterable[_Candidate], layout: Layout) -> None:
    """Refuse tables that label the images in class folders otherwise than these."""
    for candidate in found:
        pairs = Counter(
            (place.label, next(iter(labels)))
            for image, labels in candidate.labels.items()
            if len(labels) == 1 and (place := layout.place(image)) is not None and place.label
        )
        folders = {folder for folder, _ in pairs}
        if len(folders) == len({label for _, label in pairs}) == 1 or not pairs:
            continue
        of_folder = {folder: max((n, label) for (f, label), n in pairs.items() if f == folder)[1] for folder in folders}
        of_label = {label: max((n, folder) for (folder, k), n in pairs.items() if k == label)[1] for _, label in pairs}
        agree = {(folder, label) for folder, label in of_folder.items() if of_label[label] == folder}
        same = 2 * len({nfc(label.strip().casefold()) for _, label in pairs} & {folder.casefold() for folder in folders}) >= len(folders)
        share = sum(pairs[pair] for pair in agree) / pairs.total()
        if len(folders) == 1 or len(agree) < len(folders) or share < (_SAME_NAMES if same else _SAME_CLASSES):
            raise BCCPError(
                f"images lie in the folders {few(sorted(folders))}, and the table {candidate.name!r} labels them otherwise "
                f"({few(sorted(of_label))}): set data.table={candidate.name} to take its labels, or data.table=null to take the folders "
                "for the classes"
            )


def _chosen(found: Sequence[_Candidate]) -> list[_Candidate]:
    """The tables that count together; those of most images come first."""
    ranked = sorted(found, key=lambda candidate: (-len(candidate.labels), candidate.name))
    chosen = [ranked[0]]
    for other in ranked[1:]:
        if _superseded([*chosen, other]).get(other.name):
            continue
        for one in chosen:
            clash = next((i for i in sorted(other.labels) if i in one.labels and one.labels[i] != other.labels[i]), None)
            if clash is not None:
                said = " and ".join(repr(", ".join(sorted(c.labels[clash]))) for c in (one, other))
                raise BCCPError(
                    f"the tables {one.name!r} and {other.name!r} in the data label the same images differently (such as {clash!r}: "
                    f"{said}): say which counts, as in data.table={one.name}"
                )
            strangers = not (_values(one) & _values(other)) and one.file_name != other.file_name
            if strangers:
                raise BCCPError(
                    f"the tables {one.name!r} and {other.name!r} in the data have no label in common ({few(sorted(_values(one)))}; "
                    f"{few(sorted(_values(other)))}): say which counts, as in data.table={one.name}"
                )
        if any(image not in one.labels for one in chosen for image in other.labels):
            chosen.append(other)
    return chosen


def _values(candidate: _Candidate) -> set[str]:
    return {label for labels in candidate.labels.values() for label in labels}


def _superseded(found: Sequence[_Candidate]) -> dict[str, str]:
    """Tables with one label for all images, as those to be filled in have, beside others with several; why they do not count."""
    several = {candidate.file_name for candidate in found if len(_values(candidate)) > 1}
    return {
        candidate.name: f"has the label {next(iter(_values(candidate)))!r} for all its images"
        for candidate in found
        if several and len(_values(candidate)) == 1 and candidate.file_name not in several
    }


def _merged(chosen: Sequence[_Candidate], images: Collection[str], refused: Mapping[str, str]) -> DataLabels:
    """The labels of several tables as one."""
    problems: dict[str, list[str]] = {kind: [] for kind in (*reading.PROBLEMS, "unknown_image", "ambiguous_image")}
    ballots: defaultdict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    spelled = _spelling(label for candidate in chosen for label in _values(candidate))
    for candidate in chosen:
        for answer, image in zip(candidate.table.answers, candidate.images, strict=True):
            if answer.problem:
                problems[answer.problem].append(answer.place)
            elif not image:
                problems["ambiguous_image" if image == AMBIGUOUS else "unknown_image"].append(repr(answer.image))
            else:
                ballots[image, answer.user].append((answer.place, spelled[answer.label]))
    votes, double = cast_votes(ballots)
    problems |= double
    labels, n_ties = majority(votes, seed=0)
    classes = set(labels.values())
    lost = [f"{label!r} for {image}" for (image, _), label in votes.items() if label not in classes]
    votes = {key: label for key, label in votes.items() if label in classes}
    return DataLabels(
        labels,
        votes if any(candidate.table.has_users for candidate in chosen) else {},
        tuple(candidate.name for candidate in chosen),
        tuple(_notes(chosen, labels, images, problems | {"outvoted_class": lost}, n_ties, refused)),
    )


def _spelling(labels: Iterable[str]) -> dict[str, str]:
    """Each label as the name of its class: on one line, in Unicode's form NFC, and whole numbers without a point where all are numbers."""
    names = {label: nfc(re.sub(r"[\x00-\x1f\x7f]+", " ", label)).strip() for label in labels}
    if all(re.fullmatch(r"-?\d+\.0+", name) for name in names.values()):
        names = {label: name.partition(".")[0] for label, name in names.items()}
    return names


def _notes(
    chosen: Sequence[_Candidate],
    labels: Mapping[str, str],
    images: Collection[str],
    problems: Mapping[str, Sequence[str]],
    n_ties: int,
    refused: Mapping[str, str],
) -> list[str]:
    classes = sorted(set(labels.values()))
    shown = few([candidate.name for candidate in chosen], 5)
    numbers = "; the classes are numbers, as their names are not told" if all(name.lstrip("-").isdigit() for name in classes) else ""
    notes = [f"labels from {shown} ({chosen[0].table.described}): {len(labels)} images of {len(classes)} classes{numbers}"]
    if unnamed := sorted(set(images) - set(labels)):
        notes.append(f"{len(unnamed)} of {len(images)} images have no label there, and are left out (such as {unnamed[0]!r})")
    if said := problems_sentence(problems):
        notes.append(f"rows of no use: {said}")
    if n_ties:
        notes.append(f"{n_ties} images have as many votes for one class as for another")
    notes += similar_classes(classes)
    named = {candidate.name for candidate in chosen}
    if others := {name: why for name, why in refused.items() if name not in named}:
        notes.append(f"tables that are not used: {_reasons(others)}; data.table names one to be used")
    return notes


def _reasons(refused: Mapping[str, str]) -> str:
    """List what is wrong with each table, without the remedy."""
    bare = {name: re.sub(r"^the table .*? in the data ", "", why) for name, why in refused.items()}
    shown = [f"{name} ({re.split(r'[:;(]', why, maxsplit=1)[0].strip()})" for name, why in bare.items()]
    return ", ".join(shown[:_EXAMPLES]) + (f" and {len(shown) - _EXAMPLES} more" if len(shown) > _EXAMPLES else "")
