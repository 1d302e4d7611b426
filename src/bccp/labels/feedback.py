"""What users say about images: reads a feedback file, sorts its rows into votes and problems, settles votes by majority.

A feedback file is a CSV with the columns ``image,label[,user]``, or a table as annotation tools export it
(:mod:`bccp.data.label_tables.reading`). Every row either becomes a vote or is counted as a problem of one kind; none is dropped in silence.
"""

from __future__ import annotations

import json
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bccp.core.errors import BCCPError, nearest
from bccp.core.paths import where_relative
from bccp.data import tables
from bccp.data.label_tables import reading
from bccp.data.label_tables.columns import Columns
from bccp.data.label_tables.image_names import AMBIGUOUS, find_images
from bccp.data.label_tables.reading import Answer
from bccp.data.label_tables.votes import VOTES, cast_votes, load_votes, majority, problems_sentence, votes_table
from bccp.data.layout import KnownNames, day_name

if TYPE_CHECKING:
    from bccp.core.config_schema import Segregation

_COLUMNS = "image,label[,user]"
"""Of a feedback file, as messages name them."""

PROBLEMS = reading.PROBLEMS | {
    "unknown_image": "rows that name no image of the data",
    "ambiguous_image": "rows that name images of which the data has several",
    "unknown_class": "rows whose label is no class",
    "repeated": "rows that repeat another",
    "conflicting": "rows that contradict another about the same image",
}
"""The kinds of rows that become no vote of their own, in the order in which a row is tested for them."""

_N_EXAMPLES = 5


@dataclass(frozen=True)
class FeedbackFile:
    """A feedback file as it stands.

    Attributes
    ----------
    name : str
        What it is called in messages.
    rows : sequence of Answer
        In the file's order.
    has_users : bool
        Whether it tells users apart.
    kind, wanted : str
        What messages call such a file, and the columns that it should have.
    described : str
        How it was read, where it is no plain file of the columns that are wanted; else empty.
    """

    name: str
    rows: Sequence[Answer]
    has_users: bool
    kind: str = "feedback file"
    wanted: str = _COLUMNS
    described: str = ""


@dataclass(frozen=True)
class Feedback:
    """The votes of a feedback file, and what was wrong with its other rows.

    Attributes
    ----------
    votes : dict of (str, str) to str
        The label that a user (empty without users) gives to an image, by (image, user), sorted.
    named : frozenset of str
        Every image of the data that the file names, also where no vote came of it.
    n_rows : int
        Rows of the file.
    problems : dict of str to list of str
        For each of ``PROBLEMS`` a description of every such row.
    has_users : bool
        Whether the file tells users apart.
    """

    votes: Mapping[tuple[str, str], str]
    named: frozenset[str]
    n_rows: int
    problems: Mapping[str, list[str]]
    has_users: bool


def read_feedback(
    path: Path,
    *,
    kind: str = "feedback file",
    wanted: str = _COLUMNS,
    layout: str = "auto",
    columns: Columns | None = None,
) -> FeedbackFile:
    """Read a feedback file.

    A byte-order mark, Windows line ends, other separators, further columns, blanks around column names and empty lines are fine.

    Parameters
    ----------
    path : Path
    kind, wanted : str
        What messages call such a file, and the columns that they ask for.
    layout, columns
        See :func:`bccp.data.label_tables.reading.read`.

    Returns
    -------
    FeedbackFile

    Raises
    ------
    BCCPError
        If there is no such file, or it is no such table, is empty, or has columns that leave a choice.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BCCPError(f"the {kind} {path} cannot be read ({error.strerror}){where_relative(path)}: give {_accepted(wanted)}") from error
    table = reading.read(content, f"{kind} {path}", layout=layout, columns=columns)
    is_plain = (table.image, table.labels, table.user or "user") == ("image", ("label",), "user")
    return FeedbackFile(str(path), table.answers, table.has_users, kind, wanted, "" if is_plain else table.described)


def read_configured(section: Segregation) -> FeedbackFile:
    """Read the feedback file of a section ``segregation`` as :func:`read_feedback` does, by the format and the columns that it names."""
    columns = Columns.of(section.feedback_columns, "noisy_labels.columns")
    return read_feedback(Path(str(section.feedback_file)), layout=section.feedback_format, columns=columns)


def sort_out(
    file: FeedbackFile,
    *,
    images: Collection[str],
    classes: Collection[str] | None,
    unreadable: Collection[str] = (),
    beside: Collection[str] = (),
    new: Collection[str] = (),
) -> Feedback:
    """Turn rows into votes.

    Which image a cell means is said by :func:`bccp.data.label_tables.image_names.find_images`. Blanks around a label do not count, unless
    the data has just such a class. Of rows with the same image and user (the same image, where there are no users) equal labels count
    once, and different labels not at all; rows with unknown classes have been put aside by then. Rows with an empty user are one user's.

    Parameters
    ----------
    file : FeedbackFile
    images : collection of str
        The ids of the data's images.
    classes : collection of str or None
        The names of the classes; None: the file says which there are.
    unreadable : collection of str, optional
        The ids of files that were put aside: rows that name them name no other image.
    beside : collection of str, optional
        Labels that are votes, too, and no classes; messages do not offer them.
    new : collection of str, optional
        The images that the data puts into ``tuesday/``: rows may leave that folder out, for whoever wrote them may not know it.

    Returns
    -------
    Feedback

    Raises
    ------
    BCCPError
        If no row is of any use.
    """
    known_images = frozenset(images)
    found = _find_images([row.image for row in file.rows], [*images, *unreadable], new)
    found = [image if image in known_images or image == AMBIGUOUS else None for image in found]
    if classes is None:
        classes = _classes_of(file, found)
    known, accepted, known_names = KnownNames(classes), KnownNames([*classes, *beside]), KnownNames(images)
    problems: dict[str, list[str]] = {kind: [] for kind in PROBLEMS}
    ballots: defaultdict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for row, image in zip(file.rows, found, strict=True):
        label = accepted.find(row.label)
        if row.problem:
            several = f": {row.label or 'no class'} for {row.image}" if row.problem == "several_classes" else ""
            problems[row.problem].append(row.place + several)
        elif not image:
            similar = known_names.describe_similar(row.image)
            problems["ambiguous_image" if image == AMBIGUOUS else "unknown_image"].append(row.image + similar)
        elif label is None:
            problems["unknown_class"].append(f"{row.label!r} for {image}" + nearest(row.label, classes))
        else:
            ballots[image, unicodedata.normalize("NFC", row.user)].append((row.place, label))
    votes, double = cast_votes(ballots)
    problems |= double
    if not votes:
        raise BCCPError(_useless(file, problems, known_names, known))
    return Feedback(votes, frozenset(image for image in found if image), len(file.rows), problems, file.has_users)


def knows_any(file: FeedbackFile, classes: Collection[str]) -> bool:
    """Return True where some row of a feedback file says one of the classes."""
    known = KnownNames(classes)
    return any(known.find(row.label) for row in file.rows)


def save_feedback(feedback: Feedback, folder: Path) -> None:
    """Write the artifact ``feedback``: ``votes.csv`` (``image, user, label``) and ``feedback.json`` (the rest)."""
    tables.write(votes_table(feedback.votes), folder / VOTES)
    about = {
        "rows": feedback.n_rows,
        "has_users": feedback.has_users,
        "named": sorted(feedback.named),
        "problems": {kind: list(cases) for kind, cases in feedback.problems.items()},
    }
    (folder / "feedback.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_feedback(folder: Path) -> Feedback:
    """Read what :func:`save_feedback` has written."""
    about = json.loads((folder / "feedback.json").read_text(encoding="utf-8"))
    return Feedback(
        votes=load_votes(folder / VOTES),
        named=frozenset(about["named"]),
        n_rows=about["rows"],
        problems=about["problems"],
        has_users=about["has_users"],
    )


def problem_counts(problems: Mapping[str, Sequence[str]]) -> dict[str, dict[str, object]]:
    """Count each kind of problem and give its first examples.

    Parameters
    ----------
    problems : mapping of str to sequence of str

    Returns
    -------
    dict
        ``{kind: {"count": int, "examples": list of at most 5 str}}``.
    """
    return {kind: {"count": len(cases), "examples": list(cases[:_N_EXAMPLES])} for kind, cases in problems.items()}


def _accepted(wanted: str) -> str:
    return f"a CSV file in UTF-8, separated by commas, whose first line names the columns {wanted}"


def _find_images(cells: Sequence[str], ids: Sequence[str], new: Collection[str]) -> list[str | None]:
    """Find images as :func:`find_images` does; where that leaves none or several, by the paths that new ones have below their day.

    A cell that begins with a day says where its image lies, and means no other.
    """
    found = find_images(cells, ids)
    below = {image.partition("/")[2]: image for image in new}
    if not below or all(found):
        return found
    again = find_images(cells, below)
    return [
        image or (below[other] if other and not day_name(cell.strip().partition("/")[0]) else image)
        for cell, image, other in zip(cells, found, again, strict=True)
    ]


def _classes_of(file: FeedbackFile, found: Sequence[str | None]) -> set[str]:
    """The labels that most votes on some image give it: others would be classes without an image."""
    ballots: defaultdict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for row, image in zip(file.rows, found, strict=True):
        if image and not row.problem:
            ballots[image, row.user].append((row.place, row.label.strip()))
    return set(majority(cast_votes(ballots)[0], seed=0)[0].values())


def _useless(file: FeedbackFile, problems: Mapping[str, Sequence[str]], images: KnownNames, classes: KnownNames) -> str:
    """Why a file without a single vote has none."""
    start = f"none of the {len(file.rows)} rows of the {file.kind} {file.name} can be used"
    if not file.rows:
        return f"the {file.kind} {file.name} has no rows: give one line {file.wanted} for each label"
    if problems["unknown_class"]:
        some = ", ".join(repr(name) for name in sorted(classes.names)[:10])
        return f"{start}: the label {problems['unknown_class'][0]} is no class; the classes are {some}"
    if problems["unknown_image"]:
        unknown = next(row.image for row in file.rows if not row.problem and not images.find(row.image))
        return (
            f"{start}: an image is called {unknown!r} there{images.describe_similar(unknown)} and {min(images.names)!r} in the data; "
            "give paths relative to the data's top folder"
        )
    return f"{start}: {problems_sentence(problems)}; give {_accepted(file.wanted)}"
