"""What the columns of a table mean, by the names and values that are in use.

Nothing is guessed where they leave a choice: the error names the columns, and the option that says what they are.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bccp.core.errors import few, nearest
from bccp.data.label_tables.grids import Grid, UnreadTableError
from bccp.data.label_tables.image_names import has_image_suffix

MOST_LOST = 0.5
"""A table of one column a class is refused where more than this share of its rows names several classes or none."""

YES, NO = frozenset({"1", "1.0", "true", "yes"}), frozenset({"0", "0.0", "false", "no"})

_IMAGE_NAMES = (
    "image", "filename", "file", "filepath", "path", "imagepath", "imagefilepath", "imagefile", "imagefilename", "imagename", "imageid",
    "imageurl", "imagerelpath", "relpath", "img", "imgpath", "imgname", "imgid", "imgfile", "imgurl", "photo", "photourl", "photoid",
    "picture", "pic", "url", "uri", "fname", "name", "idcode", "id", "uuid", "key", "sample", "sampleid", "objectid", "externalid",
)  # fmt: skip

_LABEL_NAMES = (
    "label", "labels", "labelname", "class", "classes", "classname", "classlabel", "category", "categories", "categoryname",
    "categorylabel", "target", "choice", "choices", "answer", "diagnosis", "dx", "breed", "species", "tag", "annotation",
    "classification", "taskanswers", "classid", "labelid", "categoryid", "targetid",
)  # fmt: skip

_USER_NAMES = (
    "user", "username", "userid", "useremail", "email", "annotator", "annotatorid", "annotatorname", "annotatoremail", "annotatedby",
    "completedby", "createdby", "createdusername", "labeler", "labelerid", "labelername", "labeller", "labellerid", "labeledby",
    "labelledby", "rater", "raterid", "ratername", "worker", "workerid", "workername", "coder", "coderid", "grader", "graderid",
    "judge", "judgeid", "expert", "expertid", "reader", "readerid", "contributor", "contributorid", "participant", "participantid",
    "respondent", "respondentid", "crowdworker", "crowdworkerid", "voter", "voterid", "person",
)  # fmt: skip

_ABOUT_ROWS = frozenset(
    (
        "annotationid", "createdat", "updatedat", "createdago", "leadtime", "agreement", "history", "wascancelled", "groundtruth",
        "draftid",
        "width", "height", "size", "depth", "channels", "format", "split", "subset", "set", "dataset", "fold", "phase", "usage", "istrain",
        "istest", "time", "timestamp", "date", "datetime", "duration", "confidence", "score", "comment", "comments", "note", "notes",
        "source", "license", "caption", "text", "description", "title", "sha256", "md5", "hash", "hitid", "hittypeid", "assignmentid",
        "assignmentstatus", "batch", "batchid", "x", "y", "w", "h",
    )
)  # fmt: skip
"""Columns that tell neither a class nor a person."""

_SURE_PERSONS = "annotator|rater|labell?er|worker|user|expert|coder|reader|grader|judge|doctor|radiologist|reviewer|voter"
_NUMBERED = r"s?[ _.-]*(\d+|[a-z])"
_PERSON = re.compile(f"({_SURE_PERSONS}){_NUMBERED}")
_PERSON_OR_CLASS = re.compile(f"(label|class|vote|answer|opinion|{_SURE_PERSONS}){_NUMBERED}")
"""Names of annotators' columns where these have none of their own; ``class_1`` may be one of classes too."""

_SETTLED = re.compile(r"true|truth|gold|correct|clean|predict|majority|consensus|aggre|final|adjudicat|average|mean", re.IGNORECASE)
"""In the name of a column that is no annotator's."""

_TOLD_APART, _ROWS_EACH = 0.95, 1.5
"""Of a column that looks like the annotators': share of rows with a value that no other row of the image has, and rows of a value."""

_WHO = re.compile(r"annotator|labell?er|rater|worker|turk|user|author|review|coder|person|member|email|who\b|by\b|by_", re.IGNORECASE)
"""In names of columns of people."""

_FEW_NUMBERS = 10
"""As many different numbers, in a column of any name, may be classes."""

_CHOICES = ("choices", "choice", "labels", "label", "category", "categories", "class", "answer")
"""Under which an annotation tool lists labels in a cell of JSON."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Columns:
    """Meaning of a table's columns, as far as the configuration gives it.

    Attributes
    ----------
    image : str or None
    label : str, tuple of str or None
        Several: one column an annotator.
    user : str or None
        Empty: no column tells annotators apart.
    key : str
        The configuration's key that says so, for messages; empty: there is none, and columns have to be called so.
    """

    image: str | None = None
    label: str | tuple[str, ...] | None = None
    user: str | None = None
    key: str = "noisy_labels.columns"

    @classmethod
    def of(cls, said: Mapping[str, Any] | None, key: str) -> Columns:
        """Make them of a configuration's value, as :func:`bccp.core.config_schema.parse_columns` leaves it."""
        if said is None:
            return cls(key=key)
        label = said.get("label")
        user = (said["user"] or "") if "user" in said else None
        return cls(said.get("image"), tuple(label) if isinstance(label, list) else label, user, key)

    def option(self, **more: str | Sequence[str] | None) -> str:
        """The option that says this and more, ready for a shell.

        Examples
        --------
        >>> Columns(image="file").option(label=["ann", "bob"])
        '"noisy_labels.columns={image: file, label: [ann, bob]}"'
        """
        if not self.key:
            return f"a column called {next(iter(more))!r}"
        said = {"image": self.image, "label": self.label, "user": self.user} | more
        parts = [f"{name}: {_quoted(value)}" for name, value in said.items() if value is not None or name in more]
        return f'"{self.key}={{{", ".join(parts)}}}"'


def _quoted(value: str | Sequence[str] | None) -> str:
    """A value as Hydra takes it."""
    if value is None or value == "":
        return "null"
    if not isinstance(value, str):
        return f"[{', '.join(map(_quoted, value))}]"
    is_plain = re.fullmatch(r"[A-Za-z_][\w.\-]*", value) and value.casefold() not in ("null", "true", "false", "nan", "inf")
    return value if is_plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def found_columns(grid: Grid, asked: Columns) -> Columns:
    """The columns that were asked for, by their names in the table, capitals or not.

    Raises
    ------
    UnreadTableError
        If the table has not one of such a name.
    """

    def find(name: str) -> str:
        if name in grid.names:
            return name
        same = [there for there in grid.names if there.casefold() == name.casefold()]
        if len(same) != 1:
            raise UnreadTableError(f"has no column {name!r}, which {asked.key} names{nearest(name, grid.names)}: {_has(grid)}")
        return same[0]

    label = asked.label
    return Columns(
        find(asked.image) if asked.image else None,
        tuple(map(find, label)) if isinstance(label, tuple) else find(label) if label else None,
        find(asked.user) if asked.user else asked.user,
        asked.key,
    )


def tells_boxes(grid: Grid) -> bool:
    """Return True for a table of boxes."""
    return {"xmin", "xmax"} <= {key_of(name) for name in grid.names}


def key_of(name: str) -> str:
    """A column's name without capitals, blanks and signs, and without what Mechanical Turk puts before it.

    Examples
    --------
    >>> key_of("Input.image_url"), key_of("Worker ID")
    ('imageurl', 'workerid')
    """
    return re.sub(r"[\W_]+", "", re.sub(r"^(input|answer)\.", "", name.casefold()))


def columns_of(grid: Grid, key: str) -> list[str]:
    """The columns of a name, however it is written."""
    return [name for name in dict.fromkeys(grid.names) if key_of(name) == key]


def image_column(grid: Grid, asked: Columns) -> str:
    """The column that names images: by its name and by cells that end as names of image files do.

    Raises
    ------
    UnreadTableError
        If there is none, or several.
    """
    names = [name for name in dict.fromkeys(grid.names) if name]
    if "image" in names:
        return "image"
    if any(map(has_image_suffix, names)):
        raise UnreadTableError("has an image's name in its first line, which is to name the columns: put image,label there")
    paths = [name for name in names if (cells := grid.sample(name)) and sum(map(has_image_suffix, cells)) > len(cells) / 2]
    if named := _ranked(paths or names, _IMAGE_NAMES):
        return named[0]
    if len(paths) == 1:
        return paths[0]
    if paths:
        raise UnreadTableError(f"has several columns that name images, {few(paths, 10)}: say which, as in {asked.option(image=paths[0])}")
    likely = next((name for name in names if len(set(grid.sample(name))) == len(grid.rows)), names[0] if names else "name")
    raise UnreadTableError(f"has no column that names images ({_has(grid)}): say which it is, as in {asked.option(image=likely)}")


def label_columns(grid: Grid, image: str, asked: Columns) -> tuple[str, list[str]]:
    """Find out how a table is laid out.

    Parameters
    ----------
    grid : Grid
    image : str
        The column that names images.
    asked : Columns
        What is known, by the table's own names.

    Returns
    -------
    layout : str
        ``rows``, ``wide`` or ``one_hot``.
    labels : list of str
        The columns that hold the labels.

    Raises
    ------
    UnreadTableError
        If there is none, or the columns leave a choice.
    """
    if isinstance(asked.label, tuple):
        return "wide", list(asked.label)
    if asked.label:
        return "rows", [asked.label]
    rest = _others(grid, image, asked)
    named = _ranked(rest, _LABEL_NAMES)
    sure, perhaps = ([c for c in rest if pattern.fullmatch(c.casefold())] for pattern in (_PERSON, _PERSON_OR_CLASS))
    persons = sure if len(sure) > 1 else perhaps
    persons = persons if len(persons) > 1 and _alike(grid, persons, numbers=True) == persons else []
    binary = _binary(grid, rest)
    is_one_hot = len(binary) > 1 and share_of_one(grid, binary) > MOST_LOST
    if named and persons:
        raise UnreadTableError(
            f"has {named[0]!r} and the annotators' columns {few(persons, 10)}: say which count, as in {asked.option(label=named[0])} or "
            f"{asked.option(label=persons)}"
        )
    if named:
        return "rows", [label_column(grid, image, asked)]
    if persons and not (is_one_hot and persons == perhaps):
        return "wide", persons
    if is_one_hot:
        return "one_hot", binary
    if not is_label_studio(grid) and (alike := _alike(grid, rest)):
        if settled := [column for column in alike if _SETTLED.search(column)]:
            raters = [column for column in alike if column not in settled]
            raise UnreadTableError(
                f"has the columns {few(alike, 10)}, of which {few(settled)} may be no annotator's: say what counts, as in "
                f"{asked.option(label=settled[0])} or {asked.option(label=raters)}"
            )
        return "wide", alike
    return "rows", [label_column(grid, image, asked)]


def labels_of(cell: str) -> list[str]:
    """The labels in a cell: itself, or what the JSON in it lists; none where this is an object that tells none.

    Examples
    --------
    >>> labels_of("cat"), labels_of('{"choices": ["cat", "dog"]}'), labels_of('{"bbox": [1, 2]}')
    (['cat'], ['cat', 'dog'], [])
    """
    if cell.lstrip()[:1] not in ("{", "["):
        return [cell]
    try:
        return list(dict.fromkeys(_listed(json.loads(cell))))
    except (ValueError, RecursionError):
        return [cell]  # a name with brackets


def is_label_studio(grid: Grid) -> bool:
    """Return True for columns that Label Studio always writes."""
    return all(columns_of(grid, key) for key in ("annotator", "annotationid", "leadtime"))


def label_column(grid: Grid, image: str, asked: Columns) -> str:
    """The one column that holds labels, a class's name before its number.

    Raises
    ------
    UnreadTableError
        If there is none, or several that differ.
    """
    rest = _others(grid, image, asked)
    named = _ranked(rest, _LABEL_NAMES)
    if "label" in named and not (_is_numeric(grid.sample("label")) and len(named) > 1):
        return "label"
    if named and all(_say_the_same(grid, named[0], column) for column in named):
        return next((column for column in named if not _is_numeric(grid.sample(column))), named[0])
    if "label" in named:
        return "label"
    if named:
        raise UnreadTableError(
            f"has several columns that may hold the label, {few(named, 10)}: say which, as in {asked.option(label=named[0])}"
        )
    no_class = (*_ABOUT_ROWS, *_USER_NAMES, *(("id",) if len(rest) > 1 else ()))
    others = [column for column in rest if key_of(column) not in no_class and _labels(grid.sample(column))]
    if len(others) == 1 and (len(rest) == 1 or is_label_studio(grid)):
        values = set(grid.sample(others[0]))
        if not _is_numeric(list(values)) or len(values) <= _FEW_NUMBERS:
            return others[0]
    if len(binary := _binary(grid, rest)) > 1:
        lost = round((1 - share_of_one(grid, binary)) * len(grid.rows))
        raise UnreadTableError(
            f"has the columns {few(binary, 10)} of 0 and 1, of which {lost} of {len(grid.rows)} rows have several 1 or none: one class an "
            f"image is understood; export single labels, or where each is an annotator's say {asked.option(label=binary[:3])}"
        )
    likely = [column for column in others if _may_be_classes(grid.sample(column))] or others
    if not likely:
        raise UnreadTableError(f"has no column 'label' ({_has(grid)}): add one")
    several = f", or {asked.option(label=likely[:3])} where each is an annotator's" if len(likely) > 1 and asked.key else ""
    raise UnreadTableError(
        f"has no column 'label' ({_has(grid)}): say which holds the labels, as in {asked.option(label=likely[0])}{several}"
    )


def wide_columns(grid: Grid, image: str, asked: Columns) -> list[str]:
    """The columns of annotators, in a table that is said to have one for each."""
    return list(asked.label) if isinstance(asked.label, tuple) else _alike(grid, _others(grid, image, asked), numbers=True)


def class_columns(grid: Grid, image: str, asked: Columns) -> list[str]:
    """The columns of classes, in a table that is said to have one for each."""
    return _binary(grid, _others(grid, image, asked))


def share_of_one(grid: Grid, columns: Sequence[str]) -> float:
    """The share of rows in which just one of the columns is 1."""
    positions = [grid.names.index(column) for column in columns]
    counts = [sum(position < len(row) and row[position].strip().casefold() in YES for position in positions) for row in grid.rows]
    return sum(count == 1 for count in counts) / len(counts) if counts else 0.0


def user_column(grid: Grid, image: str, label: str, asked: Columns) -> str:
    """The column that tells annotators apart, or an empty string.

    Raises
    ------
    UnreadTableError
        If several may, or one looks like it under another name: without it, answers that differ would contradict each other.
    """
    if asked.user is not None:
        return asked.user
    others = [column for column in dict.fromkeys(grid.names) if column and column not in (image, label)]
    if "user" in others:
        return "user"
    ranked = _ranked(others, _USER_NAMES)
    named = [column for column in ranked if grid.sample(column)]
    if named and all(_say_the_same(grid, named[0], column) for column in named):
        return named[0]
    if named:
        raise UnreadTableError(
            f"has several columns that may tell annotators apart, {few(named, 10)}: say which, as in {asked.option(user=named[0])}"
        )
    if not ranked and (looks := _looks_like_users(grid, image, label, others)):
        raise UnreadTableError(
            f"has different labels for the same image, and its column {looks!r} looks like the annotator's: say so by "
            f"{asked.option(user=looks)}, or that it is not by {asked.option(user=None)}"
        )
    return next(iter(ranked), "")


def _listed(value: Any) -> Iterator[str]:
    """The choices in what an annotation tool has written."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _listed(part)
    elif isinstance(value, Mapping) and (key := next((key for key in value if key_of(key) in _CHOICES), None)):
        yield from _listed(value[key])


def _labels(cells: Sequence[str]) -> bool:
    """Return True where most cells tell a label."""
    return 2 * sum(bool(labels_of(cell)) for cell in cells) > len(cells)


def _has(grid: Grid) -> str:
    return f"its columns are {few([name for name in grid.names if name], 10)}"


def _others(grid: Grid, image: str, asked: Columns) -> list[str]:
    return [column for column in dict.fromkeys(grid.names) if column and column not in (image, asked.user)]


def _ranked(columns: Iterable[str], known: Sequence[str]) -> list[str]:
    """The columns that have one of the known names, in their order."""
    ranks = {name: number for number, name in enumerate(known)}
    return sorted((column for column in columns if key_of(column) in ranks), key=lambda column: ranks[key_of(column)])


def _say_the_same(grid: Grid, one: str, other: str) -> bool:
    """Return True where each value of one column stands beside one value of the other only, and the other way round."""
    pairs = set(zip(grid.column(one), grid.column(other), strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def _is_numeric(cells: Sequence[str]) -> bool:
    return bool(cells) and all(_NUMBER.fullmatch(cell) for cell in cells)


def _may_be_classes(cells: Sequence[str]) -> bool:
    """Return True for cells that repeat themselves as classes do, and are no measurements."""
    values = set(cells)
    measured = _is_numeric(cells) and any("." in cell and not cell.endswith(".0") for cell in values)
    return 1 < len(values) <= len(cells) / 2 and not measured


def _binary(grid: Grid, columns: Iterable[str]) -> list[str]:
    """The columns of 0 and 1; those of 1 alone only where each row then has a single 1, or too few have a 0."""
    values = {column: {cell.casefold() for cell in grid.sample(column)} for column in columns if key_of(column) not in _ABOUT_ROWS}
    either = [column for column, found in values.items() if found and found <= YES | NO]
    both = [column for column in either if values[column] & NO]
    return either if both and (len(both) == 1 or share_of_one(grid, either) == 1) else both


def _alike(grid: Grid, columns: Sequence[str], *, numbers: bool = False) -> list[str]:
    """The columns whose values are those of one another, as annotators' answers are; at least two, or none."""
    counts = {}
    for column in columns:
        cells = grid.sample(column)
        if cells and key_of(column) not in (*_ABOUT_ROWS, *_USER_NAMES) and (numbers or not _is_numeric(cells)):
            counts[column] = Counter(cells)
    shared = Counter(value for found in counts.values() for value in found)
    common = {value for value, n_columns in shared.items() if n_columns > 1}
    alike = [c for c, found in counts.items() if sum(found[value] for value in common & found.keys()) >= 0.8 * found.total()]
    return alike if len(alike) > 1 and (numbers or len(common) <= max(2, len(grid.rows) / 2)) else []


def _looks_like_users(grid: Grid, image: str, label: str, others: Sequence[str]) -> str | None:
    """The first column that tells the rows of each image apart, and has values that stand beside several images, or a telling name."""
    images = [cell.strip() for cell in grid.column(image)]
    said = defaultdict(set)
    for name, answer in zip(images, grid.column(label), strict=True):
        said[name].add(answer.strip())
    if all(len(answers) == 1 for answers in said.values()):
        return None  # nobody contradicts anybody
    repeated = {name for name, n_rows in Counter(images).items() if n_rows > 1}
    for column in others:
        values = [cell.strip() for cell in grid.column(column)]
        rows = [(name, value) for name, value in zip(images, values, strict=True) if name in repeated]
        pairs = [(name, value) for name, value in rows if value]
        beside = {value for _, value in pairs}
        tells = len(set(pairs)) >= _TOLD_APART * len(rows) and len(beside) > 1
        if tells and (len(pairs) >= _ROWS_EACH * len(beside) or _WHO.search(column)):
            return column
    return None
